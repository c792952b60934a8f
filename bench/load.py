"""Load generators: separate processes with a few keep-alive connections each, and minimal client work."""

from __future__ import annotations

import asyncio
import base64
import concurrent.futures
import functools
import json
import multiprocessing
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

import server

CSRS = "/apis/certificates.k8s.io/v1/certificatesigningrequests"
NOBODY = "example.com/bench"
CLIENT = "kubernetes.io/kube-apiserver-client"

Address = tuple[int, str, str]


class Connection:
    """One connection; one request at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, address: Address, size: int = 2**16) -> Connection:
        port, ca, identity = address
        return cls(*await asyncio.open_connection("127.0.0.1", port, ssl=server.context(ca, identity), limit=size))

    async def send(self, request: bytes) -> tuple[int, bytes]:
        """Status and body of the answer."""
        self._writer.write(request)
        head = await self._reader.readuntil(b"\r\n\r\n")
        at = head.lower().index(b"content-length: ") + 16
        body = await self._reader.readexactly(int(head[at : head.index(b"\r", at)]))
        return int(head[9:12]), body

    async def watch(self, path: str, seen: Callable[[bytes], bool]) -> None:
        """Read a watch line by line, until `seen` returns true."""
        self._writer.write(request("GET", path))
        await self._reader.readuntil(b"\r\n\r\n")
        while True:
            size = int(await self._reader.readuntil(b"\r\n"), 16)
            chunk = await self._reader.readexactly(size + 2)
            if any(seen(line) for line in chunk[:-2].splitlines()):
                return

    def close(self) -> None:
        self._writer.close()


def request(method: str, path: str, body: bytes = b"") -> bytes:
    """The bytes of a request."""
    head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: bench/1\r\nAccept: application/json\r\n"
    if body:
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return head.encode() + b"\r\n" + body


def pkcs10s(count: int = 8) -> list[str]:
    """Certificate requests with P-256 keys, in base64."""
    requests = []
    for _ in range(count):
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "jane")])
        request = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, hashes.SHA256())
        requests.append(base64.b64encode(request.public_bytes(serialization.Encoding.PEM)).decode())
    return requests


def creation(name: str, pkcs10: str, signer: str) -> bytes:
    """The request that creates one CSR."""
    body = (
        '{"apiVersion":"certificates.k8s.io/v1","kind":"CertificateSigningRequest","metadata":{"name":"%s"},"spec":'
        '{"request":"%s","signerName":"%s","usages":["client auth"]}}' % (name, pkcs10, signer)
    )
    return request("POST", CSRS, body.encode())


# --- jobs of a process ---------------------------------------------------------------------------------------------


async def _in_turn(address: Address, requests: Sequence[bytes], connections: int, expected: int) -> list[float]:
    """Send all requests over some connections; the seconds for each."""
    took: list[float] = []
    waiting = iter(requests)

    async def one() -> None:
        connection = await Connection.open(address, 2**26)
        for task in waiting:
            begun = time.perf_counter()
            status, body = await connection.send(task)
            took.append(time.perf_counter() - begun)
            if status != expected:
                raise RuntimeError(f"{status}: {body[:500]!r}")
        connection.close()

    await asyncio.gather(*(one() for _ in range(connections)))
    return took


async def create(address: Address, prefix: str, count: int, connections: int, signer: str) -> list[float]:
    requests = pkcs10s()
    bodies = [creation(f"{prefix}-{number}", requests[number % 8], signer) for number in range(count)]
    return await _in_turn(address, bodies, connections, 201)


async def get(address: Address, name: str, count: int, connections: int) -> list[float]:
    return await _in_turn(address, [request("GET", f"{CSRS}/{name}")] * count, connections, 200)


async def list_all(address: Address, count: int) -> list[float]:
    return await _in_turn(address, [request("GET", CSRS)] * count, 1, 200)


async def lifecycle(address: Address, prefix: str, count: int, connections: int) -> list[float]:
    """Create, approve, and receive the certificate through one shared watch."""
    issued: dict[str, asyncio.Event] = {f"{prefix}-{number}": asyncio.Event() for number in range(count)}
    left = count

    def seen(line: bytes) -> bool:
        nonlocal left
        if b'"certificate":"' in line:
            name = json.loads(line)["object"]["metadata"]["name"]
            if name in issued and not issued[name].is_set():
                issued[name].set()
                left -= 1
        return not left

    watcher = await Connection.open(address, 2**26)
    watching = asyncio.ensure_future(watcher.watch(f"{CSRS}?watch=1&resourceVersion=0", seen))
    requests, names, took = pkcs10s(), iter(enumerate(issued)), []

    async def one() -> None:
        connection = await Connection.open(address)
        for number, name in names:
            begun = time.perf_counter()
            status, body = await connection.send(creation(name, requests[number % 8], CLIENT))
            if status != 201:
                raise RuntimeError(f"{status}: {body[:500]!r}")
            created = json.loads(body)
            created["status"] = {"conditions": [{"type": "Approved", "status": "True", "reason": "Bench"}]}
            approval = request("PUT", f"{CSRS}/{name}/approval", json.dumps(created).encode())
            status, body = await connection.send(approval)
            if status != 200:
                raise RuntimeError(f"{status}: {body[:500]!r}")
            await issued[name].wait()
            took.append(time.perf_counter() - begun)
        connection.close()

    await asyncio.gather(*(one() for _ in range(connections)))
    await watching
    watcher.close()
    return took


async def approved(
    address: Address, prefix: str, count: int, connections: int, *, wait: bool, pause: float = 0.0
) -> list[float]:
    """Make requests, then approve them all; with `wait`, the seconds from each approval to its certificate, else those
    of the approval alone. Each connection approves sequentially, after a `pause` of about that many seconds.
    """
    names = [f"{prefix}-{number}" for number in range(count)]
    issued = {name: asyncio.Event() for name in names}
    requests, took, bodies = pkcs10s(), [], {}

    def seen(line: bytes) -> bool:
        if b'"certificate":"' in line:
            name = json.loads(line)["object"]["metadata"]["name"]
            if name in issued:
                issued[name].set()
        return False

    async def on_all_connections(job: Callable[[Connection, int, str], Coroutine[Any, Any, None]]) -> None:
        waiting = iter(enumerate(names))

        async def one() -> None:
            connection = await Connection.open(address)
            for number, name in waiting:
                await job(connection, number, name)
            connection.close()

        await asyncio.gather(*(one() for _ in range(connections)))

    async def make(connection: Connection, number: int, name: str) -> None:
        _, body = await connection.send(creation(name, requests[number % 8], CLIENT))
        created = json.loads(body)
        created["status"] = {"conditions": [{"type": "Approved", "status": "True", "reason": "Bench"}]}
        bodies[name] = request("PUT", f"{CSRS}/{name}/approval", json.dumps(created).encode())

    async def approve(connection: Connection, number: int, name: str) -> None:
        await asyncio.sleep(pause * (0.5 + number % 11 / 10))
        begun = time.perf_counter()
        status, body = await connection.send(bodies.pop(name))
        if status != 200:
            raise RuntimeError(f"{status}: {body[:500]!r}")
        if wait:
            await issued[name].wait()
        took.append(time.perf_counter() - begun)

    await on_all_connections(make)
    watcher = await Connection.open(address, 2**26)
    watching = asyncio.ensure_future(watcher.watch(f"{CSRS}?watch=1&resourceVersion=0", seen)) if wait else None
    await on_all_connections(approve)
    if watching is not None:
        watching.cancel()
    watcher.close()
    return took


async def until_issued(address: Address, count: int) -> list[float]:
    """The seconds until `count` certificates are issued."""
    begun, objects = time.perf_counter(), set[str]()

    def seen(line: bytes) -> bool:
        if b'"certificate":"' in line:
            objects.add(json.loads(line)["object"]["metadata"]["name"])
        return len(objects) >= count

    watcher = await Connection.open(address, 2**26)
    await watcher.watch(f"{CSRS}?watch=1&resourceVersion=0", seen)
    watcher.close()
    return [time.perf_counter() - begun]


async def watch(address: Address, watchers: int, events: int, ready: Any) -> list[float]:
    """Watch on many connections until each has received `events` events; the times of arrival."""
    moments: list[float] = []

    async def one() -> None:
        connection = await Connection.open(address)
        left = events

        def seen(line: bytes) -> bool:
            nonlocal left
            if b'"fan-' in line:
                moments.append(time.time())
                left -= 1
            return not left

        watching = asyncio.ensure_future(
            connection.watch(f"{CSRS}?watch=1&resourceVersion=0&fieldSelector=spec.signerName%3Dexample.com/fan", seen)
        )
        ready.release()
        await watching
        connection.close()

    await asyncio.gather(*(one() for _ in range(watchers)))
    return moments


# --- processes ----------------------------------------------------------------------------------------------------


def run(job: Callable[..., Coroutine[Any, Any, list[float]]], *arguments: Any, **named: Any) -> list[float]:
    """Run a job in a separate process, and wait for it."""
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_main, functools.partial(job, **named), arguments).result(timeout=300)


def _main(job: Callable[..., Coroutine[Any, Any, list[float]]], arguments: tuple[Any, ...]) -> list[float]:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(job(*arguments))


def in_background(job: Callable[..., Coroutine[Any, Any, list[float]]], *arguments: Any) -> Any:
    """Start a job in a separate process; the process, and the queue for its result."""
    spawning = multiprocessing.get_context("spawn")
    answers = spawning.Queue()
    process = spawning.Process(target=_answer, args=(answers, job, arguments))
    process.start()
    return process, answers


def _answer(answers: Any, job: Callable[..., Coroutine[Any, Any, list[float]]], arguments: tuple[Any, ...]) -> None:
    answers.put(_main(job, arguments))
