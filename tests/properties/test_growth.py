"""The cost of every kind of input is at most linear in its size: inputs are grown, and operations are counted."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from tests.fuzz import documents, growing, growing_pki
from tests.properties import counting

testing = counting.load("testing")
authn, tokens = counting.load("access.authn"), counting.load("access.tokens")
context, exchange = counting.load("meta.context"), counting.load("server.exchange")
resources, servesettings = counting.load("resources"), counting.load("config.servesettings")
formatting, objects, selectors = map(counting.load, ("golang.formatting", "meta.objects", "meta.selectors"))
escalation, rbac = counting.load("access.escalation"), counting.load("resources.rbac")
clusterroleaggregation = counting.load("controllers.cluster.clusterroleaggregation")

ADMIN = context.User("admin", groups=("system:masters", "system:authenticated"))
#: The approximate bytes of an input before it grows, and its minimum number of parts: more than any limit on the items
#: of a list that are checked one by one, so that the code behind the limit runs as well.
_BYTES, _PARTS = 1_500, 128
#: The maximum ratio of the added costs when the input is doubled twice: 2 for linear costs, 4 for quadratic ones.
_MAX_RATIO = 2.6
#: Operations that are ignored.
_NOISE = 2_000


class Plane:
    """A control plane of the instrumented copy of the package, with one object of each kind."""

    def __init__(self):
        self._runner = asyncio.Runner()
        self._plane = self._runner.run(self._begin())

    async def _begin(self):
        kinds = resources.served({"api/all": True})
        issuer = tokens.Issuer(
            servesettings.ServiceAccountSettings("https://fuzz", ("https://fuzz",)), documents.TOKEN_KEY
        )
        static = authn.StaticTokens({"fuzz-token": context.User("fuzz", groups=("system:authenticated",))})
        plane = testing.Plane(kinds=kinds, static_tokens=(static,), issuer=issuer, controllers=frozenset())
        await plane.start()
        await self._create(plane, "/api/v1/namespaces", {"metadata": {"name": documents.NAMESPACE}})
        for kind in documents.KINDS:
            if kind.hub is None:
                document = documents.document(kind)
                del document["metadata"]["resourceVersion"]
                await self._create(plane, documents.collection(kind), document)
        return plane

    async def _create(self, plane, path, document):
        response = await plane.handler(_http_request(growing.send("POST", path, document)))
        assert response.status == 201, response.body

    def cost(self, request):
        """The operations that answering a request takes."""
        return self._runner.run(self._cost(request))

    async def _cost(self, request):
        http_request = _http_request(request)
        counting.counter.total = 0
        response = await self._plane.handler(http_request)
        if response.stream is not None:
            await response.stream.aclose()
        return counting.counter.total

    def close(self):
        self._runner.run(self._plane.stop())
        self._runner.close()


def _http_request(request):
    async def chunks():
        yield request.body

    return exchange.Request(
        method=request.method,
        path=request.path,
        raw_query=request.raw_query,
        headers=exchange.Headers(request.headers),
        chunks=chunks,
        identity=ADMIN if request.identified else None,
    )


@pytest.fixture(scope="module")
def plane():
    plane = Plane()
    yield plane
    plane.close()


def _is_linear(measured, row, count):
    """Double the input twice: the added size doubles, and so may the added cost."""
    # A first call, because the cost of values that are cached for all requests is not measured.
    measured.cost(row.make(count - 1))
    once, twice, fourfold = [measured.cost(row.make(count * factor)) for factor in (1, 2, 4)]
    return fourfold - twice <= _MAX_RATIO * max(twice - once, 0) + _NOISE


@pytest.mark.parametrize("row", [*growing.ALL, *growing_pki.ALL], ids=str)
def test_the_cost_of_an_input_is_linear(plane, row):
    """It is linear at one of two sizes: a threshold between them, above which other code runs, is a step and not
    growth.
    """
    count = max(_BYTES // row.unit, _PARTS)
    assert _is_linear(plane, row, count) or _is_linear(plane, row, 4 * count)


def _rule(*parts):
    names = ("verbs", "api_groups", "resources", "resource_names", "non_resource_urls")
    return rbac.PolicyRule(**{name: list(part) for name, part in zip(names, parts, strict=False) if part})


def _numbers(letter, count):
    return [f"{letter}{number}" for number in range(count)]


def _missing(granted, held):
    return list(itertools.islice(escalation.missing(granted, held), escalation.MAX_LISTED))


def _role(number, rules):
    role = rbac.ClusterRole(rules=rules)
    role.metadata.name, role.metadata.labels = f"r{number}", {"a": "b"}
    return role


_ALL_RULES = [_rule("*", "*", "*")]
_AGGREGATED = rbac.ClusterRole(
    aggregation_rule=rbac.AggregationRule(cluster_role_selectors=[objects.LabelSelector(match_labels={"a": "b"})])
)
#: Code that the requests above do not reach, because an administrator sends them, or because it needs stored objects.
FUNCTIONS = {
    "missing permissions, all lists": lambda count: _missing([_rule(*[_numbers("a", count)] * 4)], _ALL_RULES),
    "missing permissions, many rules": lambda count: _missing(
        [_rule(["get"], ["a"], [name]) for name in _numbers("r", count)], _ALL_RULES
    ),
    "missing permissions, many verbs": lambda count: escalation.compact(
        _missing([_rule(_numbers("v", count), ["a"], ["b"])], [])
    ),
    "missing permissions, paths": lambda count: _missing(
        [_rule(["get"], (), (), (), _numbers("/a", count))], [_rule(["get"], (), (), (), ["/a*", "/b*", "/c"])]
    ),
    "held rules": lambda count: _missing(
        [_rule(["get"], ["a"], ["b"])], [_rule(["get"], ["a"], [name]) for name in _numbers("r", count)]
    ),
    "aggregated rules": lambda count: clusterroleaggregation.aggregate_rules(
        _AGGREGATED, [_role(number, [_rule([verb]) for verb in _numbers("v", count)]) for number in range(2)]
    ),
    "aggregated roles": lambda count: clusterroleaggregation.aggregate_rules(
        _AGGREGATED, [_role(number, [_rule([f"v{number}"])]) for number in range(count)]
    ),
    "matched labels": lambda count: [
        selectors.parse_labels(f"a in ({','.join(_numbers('v', count))})").matches({"a": value})
        for value in _numbers("v", 100)
    ],
}


class _Function:
    """A function whose cost is measured by `_is_linear`."""

    def __init__(self, function):
        self._function = function

    def cost(self, count):
        counting.counter.total = 0
        self._function(count)
        return counting.counter.total


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_cost_of_a_function_is_linear(name):
    """Functions that the requests above do not reach."""
    row = growing.Growing(name, lambda count: count)
    assert _is_linear(_Function(FUNCTIONS[name]), row, 200)


def test_quadratic_costs_are_detected():
    """Tests the measurement."""
    row = growing.Growing("quadratic", lambda count: count)

    quadratic = _Function(lambda count: formatting.quote_all(["a" * count] * count))
    assert not _is_linear(quadratic, row, 100)
