"""Large requests: the response takes reasonable time, and is not much larger than the request."""

from __future__ import annotations

import itertools
import json

import pytest

from tests.fuzz import documents, growing, growing_pki

_MAPS = "/api/v1/namespaces/fuzz/configmaps"
_MAP = '{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"x"}'
_KEY = "k" * 290
#: Bytes of an input of which there are many kinds.
_LARGE = 60_000
_APPLY = f"{_MAPS}/seed?fieldManager=a&force=true"
_DRY = f"{_MAPS}/seed?dryRun=All"
_OWNER = '{"apiVersion":"v1","kind":"Node","name":"n","uid":"#"}'


def _list(item, times):
    return "[" + ",".join(item.replace("#", str(number)) for number in range(times)) + "]"


def _members(member, times):
    return "{" + ",".join(member.replace("#", str(number)) for number in range(times)) + "}"


def _aliases(lines):
    letters = "abcdefghi"
    more = [
        f"{next_letter}: &{next_letter} " + lines.replace("#", f"*{old}")
        for old, next_letter in itertools.pairwise(letters)
    ]
    return "a: &a {x: 1}\n" + "\n".join(more)


def _operations(item, times):
    return f'[{{"op":"add","path":"/x","value":{{}}}},{_list(item, times)[1:]}'


_WRAPPING = (
    '{"op":"add","path":"/t","value":{}},{"op":"move","from":"/x","path":"/t/a"},{"op":"move","from":"/t","path":"/x"}'
)
#: What is sent: name, method, target, media type, body.
CASES = (
    ("members", "POST", _MAPS, documents.JSON, _MAP + ',"data":' + _members('"k#":"v"', 20_000) + "}"),
    ("yaml", "POST", _MAPS, documents.YAML,
    "metadata: {name: x}\ndata:\n" + "".join(f" k{at}: v\n" for at in range(5_000))),
    ("depth, long keys", "POST", _MAPS, documents.JSON,
     '{"metadata":{"managedFields":[{"fieldsV1":' + f'{{"{_KEY}":' * 9_500 + "1" + "}" * 9_500 + "}]}}"),
    ("depth, unknown", "POST", _MAPS, documents.JSON, '{"x":' + "[" * 9_900 + "]" * 9_900 + "}"),
    ("depth, yaml", "POST", _MAPS, documents.YAML, "- " * 100_000),
    ("depth, merge", "PATCH", f"{_MAPS}/seed", documents.MERGE, f'{{"{_KEY}":' * 9_500 + "1" + "}" * 9_500),
    ("depth, apply", "PATCH", _APPLY, documents.APPLY, '{"data":' * 9_500 + "1" + "}" * 9_500),
    ("aliases", "POST", _MAPS, documents.YAML, _aliases("[#,#,#,#,#,#,#,#]")),
    ("merge keys", "POST", _MAPS, documents.YAML, _aliases("{<<: [#,#,#,#,#,#,#,#]}")),
    ("long number", "POST", _MAPS, documents.JSON, '{"data":' + "9" * 2_000_000 + "}"),
    ("long number, yaml", "POST", _MAPS, documents.YAML, "a: " + "9" * 200_000),
    ("long number, hexadecimal", "POST", _MAPS, documents.YAML, "a: 0x" + "f" * 200_000),
    ("long number, merge", "PATCH", f"{_MAPS}/seed", documents.MERGE, '{"data":{"a":' + "9" * 4_301 + "}}"),
    ("long text", "POST", _MAPS, documents.JSON, _MAP + ',"data":{"a":"' + "<" * 2_000_000 + '"}}'),
    ("operations", "PATCH", f"{_MAPS}/seed", documents.JSON_PATCH,
     _list('{"op":"test","path":"/metadata/name","value":"seed"}', 10_000)),
    ("too many operations", "PATCH", f"{_MAPS}/seed", documents.JSON_PATCH, _list('{"op":"remove","path":"/x"}',
    10_001)),
    ("copies of copies", "PATCH", f"{_MAPS}/seed", documents.JSON_PATCH,
     _operations('{"op":"copy","from":"/x","path":"/x/#"}', 40)),
    ("moves", "PATCH", f"{_MAPS}/seed", documents.JSON_PATCH,
     _operations(_WRAPPING, 2_500)),
    ("moves in a long list", "PATCH", f"{_MAPS}/seed", documents.JSON_PATCH,
     '[{"op":"add","path":"/x","value":[' + "1," * 500_000 + "1]},"
     + _list('{"op":"move","from":"/x/0","path":"/x/0"}', 9_000)[1:]),
    ("apply", "PATCH", _APPLY, documents.APPLY, _MAP.replace('"x"', '"seed"') + ',"data":' + _members('"k#":"v"',
    2_000) + "}"),
    ("finalizers", "PATCH", _DRY, documents.STRATEGIC, '{"metadata":{"finalizers":' + _list('"a.b/#"', 100_000) + "}}"),
    ("owners", "PATCH", _DRY, documents.STRATEGIC, '{"metadata":{"ownerReferences":' + _list(_OWNER, 25_000) + "}}"),
    ("controllers", "POST", _MAPS, documents.JSON, _MAP[:-1] + ',"ownerReferences":'
     + _list(_OWNER.replace("{", '{"controller":true,'), 5_000) + "}}"),
    ("removed owners", "PATCH", _DRY, documents.STRATEGIC,
     '{"metadata":{"ownerReferences":' + _list('{"$patch":"delete","uid":"#"}', 60_000) + "}}"),
    ("retained", "PATCH", _DRY, documents.STRATEGIC, '{"data":{"$retainKeys":' + _list('"k#"', 60_000) + ","
     + _members('"k#":"v"', 60_000)[1:] + "}"),
    ("version", "PUT", f"{_MAPS}/seed", documents.JSON,
     _MAP.replace('"x"', f'"seed","resourceVersion":"{"9" * 5_000}"') + "}"),
    ("version, merge", "PATCH", _DRY, documents.MERGE, f'{{"metadata":{{"resourceVersion":"{"9" * 5_000}"}}}}'),
    ("delete options", "DELETE", f"{_MAPS}/seed", documents.JSON, '{"dryRun":' + _list('"All"', 100_000) + "}"),
    ("too large", "POST", _MAPS, documents.JSON, " " * (3 * 1024 * 1024 + 1)),
    ("label selector", "GET", f"{_MAPS}?labelSelector=a%20in%20({'v,' * 20_000})", "", ""),
    ("field selector", "GET", f"{_MAPS}?fieldSelector={',' * 60_000}", "", ""),
    ("limit", "GET", f"{_MAPS}?limit={'9' * 5_000}", "", ""),
    ("parameters", "GET", f"{_MAPS}?{'a=1&' * 15_000}", "", ""),
    ("path", "GET", "/api/v1" + "/a" * 20_000, "", ""),
)  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0])
def test_sizes(world, case):
    """Large and crafted requests follow the same rules."""
    _, method, target, media_type, body = case
    fields = ((b"content-type", media_type.encode()),) if media_type else ()
    world.ask(documents.Request(method, target, fields, body.encode()))


@pytest.mark.parametrize("row", [*growing.GENERAL, *growing_pki.ALL], ids=str)
def test_growing_inputs(world, row):
    """So do those of every kind that `tests/properties/test_growth.py` counts the operations of."""
    world.ask(row.make(_LARGE // row.unit))


def test_metrics_stay_bounded_for_many_paths(world):
    """Metrics stay small, whatever paths are requested."""
    for number in range(3_000):
        world.ask(documents.Request("GET", f"/apis/g{number}/v1/namespaces/n{number}/r{number}/a"))
    (reply,) = world.ask(documents.Request("GET", "/metrics"))
    assert reply.status == 200


def test_caches_stay_bounded_for_many_accept_headers(world):
    """Caches of header fields stay bounded."""
    for number in range(3_000):
        fields = ((b"accept", f"application/json;x={number}".encode()),)
        (reply,) = world.ask(documents.Request("GET", f"{_MAPS}/seed", fields))
        assert json.loads(reply.body)["kind"] == "ConfigMap"
