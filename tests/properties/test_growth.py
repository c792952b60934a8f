"""Nothing costs more than its size: each kind of input is made larger, and what is done with it is counted."""

from __future__ import annotations

import asyncio

import pytest

from tests.fuzz import documents, growing
from tests.properties import counting

app, testing = counting.load("app"), counting.load("testing")
authn, tokens = counting.load("access.authn"), counting.load("access.tokens")
context, exchange = counting.load("meta.context"), counting.load("server.exchange")
memory, resources = counting.load("store.memory"), counting.load("resources")
gotext = counting.load("gotext")

ADMIN = context.User("admin", groups=("system:masters", "system:authenticated"))
#: Bytes of an input, about, before it grows; parts of it at the least: more than what is looked at of a short list, so
#: that what is behind is looked at, too, if there is something.
_BYTES, _PARTS = 1_500, 128
#: How much more the second half of the growth may cost than the first: twice as much is added. A square is four times.
_MOST = 2.6
_TRIFLE = 2_000


class Plane:
    """A control plane of the second copy, with one object of each kind."""

    def __init__(self):
        self._runner = asyncio.Runner()
        self._plane = self._runner.run(self._begin())

    async def _begin(self):
        kinds = resources.served({"api/all": True})
        issuer = tokens.Issuer("https://fuzz", documents.TOKEN_KEY, ("https://fuzz",))
        static = authn.StaticTokens({"fuzz-token": context.User("fuzz", groups=("system:authenticated",))})
        how = app.How(signers={}, kinds=kinds, static_tokens=(static,), issuer=issuer, controllers=frozenset())
        plane = app.Plane(memory.MemoryStore(), testing.FakeClock(), how)
        await plane.start()
        await self._plant(plane, "/api/v1/namespaces", {"metadata": {"name": documents.NAMESPACE}})
        for of in documents.KINDS:
            if of.hub is None:
                made = documents.document(of)
                del made["metadata"]["resourceVersion"]
                await self._plant(plane, documents.collection(of), made)
        return plane

    async def _plant(self, plane, path, document):
        reply = await plane.handler(_exchange(growing.send("POST", path, document)))
        assert reply.status == 201, reply.body

    def cost(self, request):
        """Operations that an answer takes, in the bargain of all that is done for it."""
        return self._runner.run(self._cost(request))

    async def _cost(self, request):
        sent = _exchange(request)
        counting.counter.total = 0
        reply = await self._plane.handler(sent)
        if reply.stream is not None:
            await reply.stream.aclose()
        return counting.counter.total

    def close(self):
        self._runner.run(self._plane.stop())
        self._runner.close()


def _exchange(request):
    async def chunks():
        yield request.body

    return exchange.Exchange(
        method=request.method,
        path=request.path,
        raw_query=request.raw_query,
        headers=exchange.Headers(request.headers),
        chunks=chunks,
        identity=ADMIN if request.identified else None,
    )


@pytest.fixture(scope="module")
def plane():
    made = Plane()
    yield made
    made.close()


def _is_linear(plane, row, count):
    """From one to two, and from two to four: what is added doubles, and so may what it costs."""
    # What is made once for all requests is no cost of this one.
    plane.cost(row.make(count - 1))
    once, twice, fourfold = [plane.cost(row.make(count * times)) for times in (1, 2, 4)]
    return fourfold - twice <= _MOST * max(twice - once, 0) + _TRIFLE


@pytest.mark.parametrize("row", growing.ALL, ids=str)
def test_what_an_input_costs_grows_no_faster_than_it(plane, row):
    """Nor does it where it is larger: another way that is taken from some size on is a step, and no growth."""
    count = max(_BYTES // row.unit, _PARTS)
    assert _is_linear(plane, row, count) or _is_linear(plane, row, 4 * count)


def test_squares_are_seen(plane):
    """The measure itself: what is looked up in a list is."""
    found = growing.Growing("square", lambda count: count)

    class Squares:
        def cost(self, count):
            counting.counter.total = 0
            gotext.quote_all(["a" * count] * count)
            return counting.counter.total

    assert not _is_linear(Squares(), found, 100)
