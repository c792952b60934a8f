"""`make bench`: performance of certplane. Prints a table, and writes build/bench.json.

Separate processes generate the load. The server's CPU for each item is reproducible on a busy machine; throughput and
latency depend on the machine and its load. The report contains the machine's speed of RSA and ECDSA, to compare it with
reports of other machines.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import multiprocessing
import pathlib
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tools"), str(ROOT / "bench")]

from cryptography.hazmat.primitives import hashes  # noqa: E402 - after the paths
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa  # noqa: E402 - after the paths

import load  # noqa: E402 - beside this file
import server  # noqa: E402 - beside this file

WATCHERS = 500
IDLE = 1000


@dataclasses.dataclass
class Figure:
    """One line of the report. `cpu_ms` is CPU of the server for each item; `budget` is its limit."""

    name: str
    unit: str
    value: float
    budget: float | None = None
    items: int = 0
    per_second: float | None = None
    p50_ms: float | None = None
    p99_ms: float | None = None


@dataclasses.dataclass(frozen=True)
class Size:
    """The amounts of work."""

    warm: int
    create: int
    lifecycle: int
    get: int
    listed: int
    lists: int
    events: int
    stored: int
    starts: int
    heap: int


QUICK = Size(
    warm=200, create=2000, lifecycle=500, get=5000, listed=2000, lists=3, events=20, stored=5000, starts=3, heap=1000
)
FULL = Size(
    warm=1000,
    create=20_000,
    lifecycle=5000,
    get=50_000,
    listed=10_000,
    lists=10,
    events=100,
    stored=50_000,
    starts=5,
    heap=10_000,
)


def measured(
    target: server.Server, name: str, budget: float | None, job: Callable[[], list[float]], items: int | None = None
) -> Figure:
    """The CPU of the server for each item of a job, and the times that the job measured."""
    cpu, begun = target.cpu(), time.perf_counter()
    took = job()
    # The load generator starts first; it measures its items itself.
    seconds, spent = time.perf_counter() - begun, target.cpu() - cpu
    count = items or len(took)
    ordered = sorted(took)
    return Figure(
        name,
        "CPU-ms/item",
        spent * 1000 / count,
        budget,
        count,
        count / seconds,
        ordered[len(ordered) // 2] * 1000,
        ordered[len(ordered) * 99 // 100] * 1000,
    )


def bench_writes(directory: pathlib.Path, size: Size) -> list[Figure]:
    """Create, get, lifecycle, list and fan-out, with a new server for each."""
    figures = []
    with server.running(directory) as target:
        figures.append(Figure("memory, idle", "MiB", target.memory(), 90))
        where = target.address()
        load.run(load.create, where, "warm", size.warm, 16, load.NOBODY)
        figures.append(
            measured(target, "create", 0.45, lambda: load.run(load.create, where, "c", size.create, 16, load.NOBODY))
        )
        figures.append(measured(target, "get", 0.10, lambda: load.run(load.get, where, "c-0", size.get, 16)))
        load.run(load.lifecycle, where, "w", size.warm // 4, 16)
        figures.append(
            measured(target, "lifecycle", 1.2, lambda: load.run(load.lifecycle, where, "l", size.lifecycle, 16))
        )
    return figures


def bench_list(directory: pathlib.Path, size: Size) -> list[Figure]:
    with server.running(directory) as target:
        where = target.address()
        load.run(load.create, where, "c", size.listed, 16, load.NOBODY)
        load.run(load.list_all, where, 1)
        name = f"list of {size.listed:,}"
        return [measured(target, name, 60 * size.listed / 10_000, lambda: load.run(load.list_all, where, size.lists))]


def bench_fan_out(directory: pathlib.Path, size: Size) -> list[Figure]:
    """Many watchers, one writer. The figure includes the CPU of the writes."""
    with server.running(directory) as target:
        where = target.address()
        spawning = multiprocessing.get_context("spawn")
        ready = spawning.Semaphore(0)
        process, answers = load.in_background(load.watch, where, WATCHERS, size.events, ready)
        for _ in range(WATCHERS):
            if not ready.acquire(timeout=60):
                raise SystemExit("error: the watchers did not get ready")
        load.run(load.create, where, "settle", 50, 4, load.NOBODY)
        cpu, begun = target.cpu(), time.time()
        load.run(load.create, where, "fan", size.events, 1, "example.com/fan")
        moments = answers.get(timeout=120)
        process.join(60)
        spent, seconds = target.cpu() - cpu, max(moments) - begun
    count = WATCHERS * size.events
    return [Figure(f"fan-out to {WATCHERS}", "CPU-ms/event", spent * 1000 / count, 0.03, count, count / seconds)]


def bench_idle(directory: pathlib.Path, size: Size) -> list[Figure]:
    """Idle watches: memory of each, and CPU of all of them in a second."""
    del size
    with server.running(directory) as target:
        spawning = multiprocessing.get_context("spawn")
        ready = spawning.Semaphore(0)
        before = target.memory()
        process, answers = load.in_background(load.watch, target.address(), IDLE, 1, ready)
        for _ in range(IDLE):
            if not ready.acquire(timeout=60):
                raise SystemExit("error: the watchers did not get ready")
        time.sleep(2)
        held, cpu = target.memory() - before, target.cpu()
        time.sleep(5)
        spent = target.cpu() - cpu
        process.kill()
        answers.close()
        process.join(60)
    return [
        Figure("an idle watch", "KiB", held * 1024 / IDLE),
        Figure(f"{IDLE:,} idle watches", "CPU-ms/s", spent * 1000 / 5),
    ]


#: Seconds between the approvals of one client: 16 of them approve 160 a second.
_PAUSE = 0.1


def bench_issue(directory: pathlib.Path, size: Size) -> list[Figure]:
    """From approval to certificate: sequential, 16 at once, and a backlog of approved requests."""
    figures = []
    with server.running(directory / "few") as target:
        where = target.address()
        load.run(load.approved, where, "warm", 100, 4, wait=True)
        for clients, pause in ((1, 0.0), (16, _PAUSE), (16, 0.0)):
            count = size.lifecycle // 5 * min(clients, 4)
            name = f"approved to issued, {clients}" if pause or clients == 1 else f"the same, {clients} without a pause"
            prefix = f"c{clients}-{int(pause * 1000)}"
            took = sorted(load.run(load.approved, where, prefix, count, clients, wait=True, pause=pause))
            p50, p99 = (took[len(took) * part // 100] * 1000 for part in (50, 99))
            # Without a pause the server is saturated, and the latency would be that of the queue.
            budget = 5.0 if pause or clients == 1 else None
            figures.append(Figure(name, "ms", p50, budget, count, p50_ms=p50, p99_ms=p99))
    for kind, rate in (("RSA-2048", _rsa_rate(2048)), ("RSA-4096", _rsa_rate(4096))):
        heap = (directory / kind, "--key-algorithm", kind)
        with server.running(*heap, "--controllers=*,-csrsigning") as target:
            load.run(load.approved, target.address(), "heap", size.heap, 16, wait=False)
        with server.running(*heap) as target:
            cpu = target.cpu()
            [seconds] = load.run(load.until_issued, target.address(), size.heap)
            spent = (target.cpu() - cpu) * 1000 / size.heap
        share = size.heap / seconds / rate
        figures.append(Figure(f"heap, {kind}, of bare", "share", share, None, size.heap, size.heap / seconds))
        figures.append(Figure(f"heap, {kind}", "CPU-ms/item", spent, None, size.heap))
    return figures


def _rsa_rate(bits: int) -> float:
    """Signatures per second on one core."""
    key = rsa.generate_private_key(65537, bits)
    return _rate(lambda: key.sign(b"x", padding.PKCS1v15(), hashes.SHA256()))


def bench_memory(directory: pathlib.Path, size: Size) -> list[Figure]:
    with server.running(directory) as target:
        load.run(load.create, target.address(), "c", size.stored, 16, load.NOBODY)
        return [Figure(f"memory, {size.stored:,} CSRs", "MiB", target.memory())]


def bench_start(directory: pathlib.Path, size: Size) -> list[Figure]:
    server.start_seconds(directory)
    return [Figure("start", "s", statistics.median(server.start_seconds(directory) for _ in range(size.starts)), 1.0)]


#: The program in this environment.
_CERTPLANE = pathlib.Path(sys.executable).with_name("certplane")
#: Imports of a small client: the API, a transport over HTTPS, keys and requests.
_SMALL = "certplane.client.lighttransport, certplane.x509.pkcs10.newrequest"
#: Not getrusage: its maximum begins with the memory of the process that started this one.
_RESIDENT = "import os; print(int(open('/proc/self/statm').read().split()[1]) * os.sysconf('SC_PAGE_SIZE') / 2**20)"


def bench_commands(directory: pathlib.Path, size: Size) -> list[Figure]:
    """CPU of commands, one of which asks a server, the least of several runs, and memory of small processes."""
    figures = []
    for arguments, budget in (("--help", 250.0), ("version", 250.0), ("wait --help", None), ("token --help", None)):
        spent = min(_child_cpu([str(_CERTPLANE), *arguments.split()]) for _ in range(2 * size.starts))
        figures.append(Figure(f"certplane {arguments}", "CPU-ms", spent * 1000, budget))
    with server.running(directory) as target:
        load.run(load.create, target.address(), "c", 1, 1, load.NOBODY)
        explain = [str(_CERTPLANE), "explain", "csr", "c-0", "--kubeconfig", str(target.data / "admin.conf")]
        spent = min(_child_cpu(explain) for _ in range(2 * size.starts))
        figures.append(Figure("certplane explain csr", "CPU-ms", spent * 1000, 600.0))
    for name, modules in (("a small client", _SMALL), ("the same with aiohttp", f"{_SMALL}, certplane.client.remote")):
        code = f"import {modules}\n{_RESIDENT}"
        finished = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
        figures.append(Figure(name, "MiB", float(finished.stdout)))
    return figures


def _child_cpu(command: list[str]) -> float:
    """CPU seconds of a program."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


PARTS = {
    "writes": bench_writes,
    "issue": bench_issue,
    "list": bench_list,
    "fan-out": bench_fan_out,
    "idle": bench_idle,
    "memory": bench_memory,
    "start": bench_start,
    "commands": bench_commands,
}


def crypto_speed() -> dict[str, float]:
    """Cryptographic operations per second on one core."""
    rsa_key, ec_key = rsa.generate_private_key(65537, 2048), ec.generate_private_key(ec.SECP256R1())
    signature = ec_key.sign(b"x", ec.ECDSA(hashes.SHA256()))
    public = ec_key.public_key()
    return {
        "RSA-2048 sign/s": _rate(lambda: rsa_key.sign(b"x", padding.PKCS1v15(), hashes.SHA256())),
        "P-256 verify/s": _rate(lambda: public.verify(signature, b"x", ec.ECDSA(hashes.SHA256()))),
    }


def _rate(operation: Callable[[], object]) -> float:
    begun, done = time.process_time(), 0
    while time.process_time() - begun < 0.5:
        operation()
        done += 1
    return done / (time.process_time() - begun)


def table(figures: list[Figure], machine: dict[str, object]) -> str:
    """The printed report."""
    lines = [f"{'':24}{'figure':>10} {'unit':14}{'budget':>8}{'items':>9}{'items/s':>10}{'p50 ms':>9}{'p99 ms':>9}"]
    for figure in figures:
        cells = [figure.budget, figure.items or None, figure.per_second, figure.p50_ms, figure.p99_ms]
        texts = ["" if cell is None else f"{cell:,.2f}" if cell < 100 else f"{cell:,.0f}" for cell in cells]
        mark = " !" if figure.budget is not None and figure.value > figure.budget else ""
        lines.append(
            f"{figure.name:24}{figure.value:>10,.3f} {figure.unit:14}{texts[0]:>8}{texts[1]:>9}{texts[2]:>10}"
            f"{texts[3]:>9}{texts[4]:>9}{mark}"
        )
    lines.append("")
    lines += [
        f"{name}: {value:,.0f}" if isinstance(value, float) else f"{name}: {value}" for name, value in machine.items()
    ]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small numbers: under a minute")
    parser.add_argument("--only", choices=PARTS, action="append", help="one part (repeatable)")
    arguments = parser.parse_args()
    size = QUICK if arguments.quick else FULL
    machine: dict[str, object] = {
        "python": platform.python_version(),
        "cores": multiprocessing.cpu_count(),
        **crypto_speed(),
    }
    figures: list[Figure] = []
    for name in arguments.only or PARTS:
        with tempfile.TemporaryDirectory(prefix="certplane-bench-") as directory:
            figures += PARTS[name](pathlib.Path(directory), size)
    print(table(figures, machine))
    report = ROOT / "build" / "bench.json"
    report.parent.mkdir(exist_ok=True)
    report.write_text(
        json.dumps({"machine": machine, "figures": [dataclasses.asdict(figure) for figure in figures]}, indent=1)
    )
    print(f"\n{report.relative_to(ROOT)} has the same in JSON. ! marks a figure above its budget.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
