"""A control plane for malformed requests, and the rules for its responses.

No exception escapes, and no 500 without a message is returned; an error is a well-formed Status; a response comes
within a bounded number of turns of the event loop and is not larger than the request explains; no header field
contains a line break; and every stored object can be read in every representation. After each request the store is
restored, so that the next one finds the same world.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import logging
import os
import re
import time
import urllib.parse

import hypothesis
from google.protobuf import descriptor_pool, message_factory

from certplane import testing
from certplane.access import authn, tokens
from certplane.config.servesettings import DEFAULTS, ServiceAccountSettings
from certplane.golang import goyaml
from certplane.meta import context, responses
from certplane.server import auditpolicy, exchange
from certplane.store import memory
from certplane.wire import codec, protobuf
from tests.fuzz import documents

ADMIN = context.User("admin", groups=("system:masters", "system:authenticated"))
#: Number of examples: few with a fixed seed, or many at random.
SIZE = os.environ.get("CERTPLANE_FUZZ", "")
_FACTOR = {"": 1, "minutes": 30, "hours": 1500}[SIZE]
#: Maximum turns of the event loop for a response, and the number of turns after which the clock is advanced.
_TURNS, _MOVE = 4_000, 100
#: CPU seconds that a response may take: far more than any needs, far less than with quadratic cost.
_SECONDS = 8.0
#: Seconds that a thread may take on a busy machine.
_WAIT = 120.0
#: Requests after which a plane is replaced, because its history grows.
_LIFETIME = 1_000
_MEGABYTE = 1 << 20
_FIRST = 10_000
#: Requests that a real server answers with 500 and a message: contradictory patches and revisions.
_UNREASONED = re.compile(
    r"failed to (create typed (patch|live) object|convert new object)|resourceVersion should not be set"
    r"|strconv.ParseUint: parsing|resourceVersion: Invalid value: \"\d{4}|unknown patch type: "
    r"|merging lists cannot yet be specified|merging an object in json"
    r"|expected a (\[\]|map\[string\])interface|expected slice or array type|value for key \d+ is not a map"
    r"|does not contain declared merge key|The order in patch list|list element types are not identical"
    r"|no elements in any of the given slices|unable to find api field in struct",
)
#: Everything is recorded, with bodies.
_POLICY = b"apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: RequestResponse}]\n"
_OPAQUE = "see the server's log"


def examples(count):
    """Settings of a test, with the number of examples of the small size."""
    return hypothesis.settings(
        max_examples=count * _FACTOR,
        deadline=None,
        derandomize=not SIZE,
        report_multiple_bugs=True,
        suppress_health_check=list(hypothesis.HealthCheck),
    )


class Faults(logging.Handler):
    """Log records about internal errors."""

    def __init__(self):
        super().__init__(logging.ERROR)
        self.records = []

    def emit(self, record):
        self.records.append(record)

    def raise_first(self):
        """Raise the logged exception again, so that a test shows its origin."""
        records, self.records = self.records, []
        for record in records:
            if record.exc_info and record.exc_info[1] is not None:
                raise record.exc_info[1]
        assert not records, records[0].getMessage()


class World:
    """A plane with one object of each kind, replaced when it is broken or old."""

    def __init__(self, **settings):
        self._settings = settings
        self._runner = None
        self._wanted = {}
        self._asked = 0
        self._stray = []
        self.faults = Faults()
        self.records = []
        self.plane = None

    # --- life -----------------------------------------------------------------------------------------------------

    def __enter__(self):
        logging.getLogger("certplane").addHandler(self.faults)
        return self

    def __exit__(self, *_):
        self._end()
        logging.getLogger("certplane").removeHandler(self.faults)

    def _keep(self, record, *, may_wait):
        """Keep an audit record."""
        del may_wait
        self.records.append(record)

    def run(self, coroutine):
        if self._runner is None:
            self._runner = asyncio.Runner()
            self._runner.get_loop().set_exception_handler(lambda _, problem: self._stray.append(problem))
            self._runner.run(self._begin())
        return self._runner.run(coroutine)

    async def _begin(self):
        store = memory.MemoryStore()
        # All revisions have five digits, as their placeholder has.
        store._revision = _FIRST
        for key, value in self._wanted.items():
            await store.create(key, value)
        self.plane = testing.Plane(
            store=store,
            kinds=documents.KINDS,
            static_tokens=(authn.StaticTokens({"fuzz-token": context.User("fuzz", groups=("system:authenticated",))}),),
            audit_policy=auditpolicy.parse(_POLICY),
            audit_sink=self._keep,
            audit_settings=dataclasses.replace(DEFAULTS.audit, anonymous_rate=0),
            issuer=tokens.Issuer(ServiceAccountSettings("https://fuzz", ("https://fuzz",)), documents.TOKEN_KEY),
            **{"signers": {}, "controllers": frozenset(), **self._settings},
        )
        await self.plane.start()
        if not self._wanted:
            await self._seed()
            self._wanted = {item.key: item.value for item in (await store.list("/registry/")).items}

    async def _seed(self):
        await self._plant("/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "fuzz"}})
        for kind in documents.KINDS:
            # The versions of a kind share their objects.
            if kind.hub is not None:
                continue
            created, changed = documents.document(kind), documents.document(kind)
            del created["metadata"]["resourceVersion"]
            await self._plant(documents.collection(kind), created)
            for door in ("approval", "status"):
                if kind.subresource(door) is not None:
                    await self._plant(f"{documents.collection(kind)}/seed/{door}", changed, "PUT")

    async def _plant(self, path, sent, method="POST"):
        fields = ((b"content-type", documents.JSON.encode()),)
        reply = await self._answer(documents.Request(method, path, fields, json.dumps(sent).encode()))
        assert reply.status in (200, 201), (path, reply.body)

    def _end(self):
        if self._runner is None:
            return
        with contextlib.suppress(Exception):
            self._runner.run(self.plane.stop())
        self._runner.close()
        self._runner = None
        self._asked = 0
        self._stray.clear()

    # --- requests ------------------------------------------------------------------------------------------------

    def ask(self, *requests):
        """Send requests in order; check each response, and the state afterwards."""
        try:
            return self.run(self._ask(requests))
        except BaseException:
            self._end()
            raise
        finally:
            self._asked += 1
            if self._asked >= _LIFETIME:
                self._end()

    async def _ask(self, requests):
        replies = [await self._judged(request) for request in requests]
        await self._check_store()
        await self._restore()
        return replies

    async def _judged(self, request):
        self.faults.records.clear()
        self.records.clear()
        begun = time.process_time()
        reply = await self._answer(request)
        spent = time.process_time() - begun
        self.faults.raise_first()
        assert not self._stray, self._stray
        check(request, reply)
        for record in self.records:
            assert _strict(record)["auditID"]
        assert spent < _SECONDS, f"an answer took {spent:.1f} seconds"
        return reply

    async def _answer(self, request):
        body = await self._dated(request)

        async def chunks():
            half = len(body) // 2
            yield body[:half]
            yield body[half:]

        task = asyncio.ensure_future(
            self.plane.handler(
                exchange.Request(
                    method=request.method,
                    path=request.path,
                    raw_query=request.raw_query.encode("utf-8", "replace").decode("latin-1"),
                    headers=exchange.Headers(request.headers),
                    chunks=chunks,
                    identity=ADMIN if request.identified else None,
                )
            )
        )
        reply = await self._bounded(task)
        if reply.stream is not None:
            stream, reply.stream = reply.stream, None
            with contextlib.suppress(StopAsyncIteration):
                reply.body = await self._bounded(asyncio.ensure_future(anext(stream)))
            await stream.aclose()
            assert not len(self.plane.watches)
        return reply

    async def _dated(self, request):
        """The body, with the revision of the object that the request is about."""
        for kind in documents.KINDS:
            if request.path.startswith(f"{documents.collection(kind)}/seed"):
                stored = await self.plane.store.get(kind.key(documents.NAMESPACE, "seed"))
                revision = str(stored.mod_revision) if stored is not None else str(_FIRST)
                return request.body.replace(documents.REVISION.encode(), revision.encode())
        return request.body

    async def _bounded(self, task):
        for turn in range(_TURNS):
            if task.done():
                return task.result()
            await asyncio.sleep(0)
            if turn % _MOVE == _MOVE - 1:
                await self.plane.clock.advance(1)
        # Large bodies are processed in a thread, which does not count turns.
        await asyncio.wait((task,), timeout=_WAIT)
        if task.done():
            return task.result()
        task.cancel()
        raise AssertionError("no answer comes")

    # --- the state afterwards --------------------------------------------------------------------------------------

    async def _changed(self):
        stored = {item.key: item.value for item in (await self.plane.store.list("/registry/")).items}
        return {key for key in stored.keys() | self._wanted.keys() if stored.get(key) != self._wanted.get(key)}, stored

    async def _check_store(self):
        changed, stored = await self._changed()
        for kind in documents.KINDS:
            mine = sorted(key for key in changed if key.startswith(kind.prefix))
            if mine:
                await self.check_lists(kind)
            for key in mine[:3]:
                if key in stored:
                    await self._check_object(kind, key.removeprefix(kind.prefix))

    async def check_lists(self, kind):
        """All objects of a kind can be read, in each representation of a list."""
        path = documents.collection(kind).replace("/namespaces/fuzz", "")
        for accept in (documents.JSON, documents.PROTOBUF, f"{documents.JSON};as=Table;v=v1;g=meta.k8s.io"):
            assert (await self._read(path, accept)).status == 200

    async def _check_object(self, kind, rest):
        namespace, _, name = rest.rpartition("/")
        path = f"{documents.collection(kind, namespace)}/{urllib.parse.quote(name, safe='')}"
        as_json, as_yaml, as_protobuf = [
            await self._read(path, accept) for accept in (documents.JSON, documents.YAML, documents.PROTOBUF)
        ]
        assert (as_json.status, as_yaml.status, as_protobuf.status) == (200, 200, 200)
        assert goyaml.load(as_yaml.body) == json.loads(as_json.body)
        decoded = protobuf.decode(as_protobuf.body, kind.type, kind.api_version).object
        assert (
            codec.decode(codec.encode(decoded), kind.type).metadata.name == json.loads(as_json.body)["metadata"]["name"]
        )

    async def _read(self, path, accept):
        return await self._judged(documents.Request("GET", path, ((b"accept", accept.encode()),)))

    async def _restore(self):
        store = self.plane.store
        changed, stored = await self._changed()
        for key in sorted(changed):
            current = await store.get(key)
            if key not in self._wanted:
                await store.delete(key, current.mod_revision)
            elif current is None:
                await store.create(key, self._wanted[key])
            elif stored[key] != self._wanted[key]:
                await store.update(key, self._wanted[key], current.mod_revision)
        if changed:
            await self.plane.cache.fresh()


# --- the rules ----------------------------------------------------------------------------------------------------


def check(request, reply):
    """The parts of a response that are checked."""
    assert 200 <= reply.status < 600
    assert reply.content_type.isascii()
    assert reply.content_type.isprintable()
    for name, value in reply.headers:
        assert re.fullmatch(rb"[a-z0-9-]+", name), name
        assert not re.search(rb"[\r\n\x00]", value), value
    assert len(reply.body) <= _largest(request), f"{request.size} bytes were answered with {len(reply.body)}"
    assert sum(len(value) for _, value in reply.headers) <= _MEGABYTE // 4 + 40 * request.size
    shown = _document(reply)
    if reply.status >= 400 and shown is not None:
        check_status(shown, reply.status)


def _largest(request):
    # A patch may copy a value until it has three megabytes, and the error quotes the result twice.
    copies = 24 * _MEGABYTE if b'"copy"' in request.body else 0
    return 2 * _MEGABYTE + 40 * request.size + copies


def check_status(shown, code):
    """An error is a consistent Status."""
    assert (shown["kind"], shown["apiVersion"], shown["status"]) == ("Status", "v1", "Failure")
    assert shown["code"] == code
    message = shown.get("message", "")
    assert isinstance(message, str)
    assert message
    assert _OPAQUE not in message
    if code == 500:
        assert not shown.get("reason"), message
        assert _UNREASONED.search(message), message
    else:
        assert re.fullmatch(r"[A-Z][A-Za-z]+", shown["reason"])
    details = shown.get("details") or {}
    assert isinstance(details, dict)
    for cause in details.get("causes", ()):
        assert all(isinstance(value, str) for value in cause.values())


def _document(reply):
    """The document of a response, parsed strictly; None if its media type is unknown."""
    media = reply.content_type.partition(";")[0]
    if ";stream=watch" in reply.content_type or (media == documents.JSON and reply.body.startswith(b'{"type":')):
        for line in reply.body.splitlines() if media == documents.JSON else ():
            _strict(line)
        return None
    if media == documents.JSON and reply.body:
        return _strict(reply.body)
    if media == documents.YAML and reply.body:
        return goyaml.load(reply.body)
    if media == documents.PROTOBUF:
        return _from_protobuf(reply.body)
    return None


def _refuse(name):
    raise AssertionError(f"{name} is no JSON")


def _strict(body):
    return json.loads(body.decode("utf-8"), parse_constant=_refuse)


def _from_protobuf(body):
    opened = protobuf.decode(body, responses.Status)
    if opened.kind == "Status":
        return {**codec.to_builtins(opened.object), "kind": opened.kind, "apiVersion": opened.api_version}
    name = protobuf.message_name(opened.kind, opened.api_version)
    message_factory.GetMessageClass(descriptor_pool.Default().FindMessageTypeByName(name)).FromString(opened.raw)
    return None
