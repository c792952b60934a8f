"""Nothing costs more than its size: each kind of input is made larger, and what is done with it is counted."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from tests.fuzz import documents, growing, growing_pki
from tests.properties import counting

app, testing = counting.load("app"), counting.load("testing")
authn, tokens = counting.load("access.authn"), counting.load("access.tokens")
context, exchange = counting.load("meta.context"), counting.load("server.exchange")
memory, resources = counting.load("store.memory"), counting.load("resources")
gotext, objects, selectors = map(counting.load, ("gotext", "meta.objects", "meta.selectors"))
escalation, aggregator = counting.load("access.escalation"), counting.load("controllers.aggregator")
rbac = counting.load("resources.rbac")

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


@pytest.mark.parametrize("row", [*growing.ALL, *growing_pki.ALL], ids=str)
def test_what_an_input_costs_grows_no_faster_than_it(plane, row):
    """Nor does it where it is larger: another way that is taken from some size on is a step, and no growth."""
    count = max(_BYTES // row.unit, _PARTS)
    assert _is_linear(plane, row, count) or _is_linear(plane, row, 4 * count)


def _rule(*parts):
    names = ("verbs", "api_groups", "resources", "resource_names", "non_resource_urls")
    return rbac.PolicyRule(**{name: list(part) for name, part in zip(names, parts, strict=False) if part})


def _numbers(letter, count):
    return [f"{letter}{at}" for at in range(count)]


def _lacking(wanted, held):
    return list(itertools.islice(escalation.missing(wanted, held), escalation.MOST_TOLD))


def _role(at, rules):
    made = rbac.ClusterRole(rules=rules)
    made.metadata.name, made.metadata.labels = f"r{at}", {"a": "b"}
    return made


_ALL = [_rule("*", "*", "*")]
_COLLECTS = rbac.ClusterRole(
    aggregation_rule=rbac.AggregationRule(cluster_role_selectors=[objects.LabelSelector(match_labels={"a": "b"})])
)
#: What is behind the rights of the one who asks above, or behind what others have stored.
DIRECT = {
    "rules, all lists": lambda count: _lacking([_rule(*[_numbers("a", count)] * 4)], _ALL),
    "rules, one after the other": lambda count: _lacking(
        [_rule(["get"], ["a"], [each]) for each in _numbers("r", count)], _ALL
    ),
    "rules, verbs that are lacking": lambda count: escalation.compact(
        _lacking([_rule(_numbers("v", count), ["a"], ["b"])], [])
    ),
    "rules, paths": lambda count: _lacking(
        [_rule(["get"], (), (), (), _numbers("/a", count))], [_rule(["get"], (), (), (), ["/a*", "/b*", "/c"])]
    ),
    "rules that are held": lambda count: _lacking(
        [_rule(["get"], ["a"], ["b"])], [_rule(["get"], ["a"], [each]) for each in _numbers("r", count)]
    ),
    "rules that are collected": lambda count: aggregator.collected(
        _COLLECTS, [_role(at, [_rule([each]) for each in _numbers("v", count)]) for at in range(2)]
    ),
    "roles that are collected": lambda count: aggregator.collected(
        _COLLECTS, [_role(at, [_rule([f"v{at}"])]) for at in range(count)]
    ),
    "labels that are matched": lambda count: [
        selectors.parse_labels(f"a in ({','.join(_numbers('v', count))})").matches({"a": each})
        for each in _numbers("v", 100)
    ],
}


class _Direct:
    """A function as `_is_linear` asks for it."""

    def __init__(self, function):
        self._function = function

    def cost(self, count):
        counting.counter.total = 0
        self._function(count)
        return counting.counter.total


@pytest.mark.parametrize("name", DIRECT)
def test_nor_does_what_is_behind(name):
    """Functions that no request of an administrator leads to."""
    row = growing.Growing(name, lambda count: count)
    assert _is_linear(_Direct(DIRECT[name]), row, 200)


def test_squares_are_seen():
    """The measure itself: what is looked up in a list is."""
    found = growing.Growing("square", lambda count: count)

    squares = _Direct(lambda count: gotext.quote_all(["a" * count] * count))
    assert not _is_linear(squares, found, 100)
