"""Inputs of any size, of every kind: `test_growth` counts operations for them, and `test_fuzz_sizes` sends large ones.

A row is a name, and a function that makes a request with a number of items, members, characters or levels. The fields
of all kinds are taken from their types, so that new fields are included automatically.
"""

from __future__ import annotations

import base64
import dataclasses
import functools
import itertools
import json
import urllib.parse
from collections.abc import Callable

from certplane.meta import shapes
from certplane.wire import codec, protobuf
from tests.fuzz import documents
from tests.fuzz.documents import JSON, MERGE, PROTOBUF, STRATEGIC, YAML, Request


@dataclasses.dataclass(frozen=True)
class Growing:
    """A kind of input. `make` returns a request of a size, `unit` is the approximate size of its parts, in bytes."""

    name: str
    make: Callable[[int], Request]
    unit: int = 16

    def __str__(self):
        return self.name


_MAPS = "/api/v1/namespaces/fuzz/configmaps"
_SEED = f"{_MAPS}/seed?dryRun=All"
_JSON_FIELD = ((b"content-type", JSON.encode()),)


def send(method, target, body, media_type=JSON):
    text = body if isinstance(body, bytes) else (body if isinstance(body, str) else json.dumps(body)).encode()
    return Request(method, target, ((b"content-type", media_type.encode()),), text)


def _numbered(item, count):
    return [item.replace("#", str(number)) for number in range(count)]


def _listed(item, count):
    return "[" + ",".join(_numbered(item, count)) + "]"


# --- headers and paths, before authentication ---------------------------------------------------------------------


def _header(name, value, target="/api"):
    """An anonymous request with one long header field."""
    return lambda count: Request("GET", target, ((name, value(count).encode("latin-1")),), identified=False)


def _headers(name, value, count):
    numbers = map(str, range(count))
    return tuple((name.replace("#", number).encode(), value.replace("#", number).encode()) for number in numbers)


def _acting_as(name, value="v#"):
    return lambda count: Request("GET", f"{_MAPS}/seed", ((b"impersonate-user", b"j"), *_headers(name, value, count)))


def _target(target, text="", identified=False):
    return lambda count: Request("GET", target + "".join(_numbered(text, count)), identified=identified)


def _encoded(text, count):
    return base64.b64encode(text * count).decode()


_HEADERS = (
    Growing("accept ranges", _header(b"accept", lambda count: ",".join(f"a/b;q=0.{at:07}" for at in range(count)))),
    Growing("accept, worst first", _header(b"accept", lambda count: ",".join(["a/*"] * count + ["a/b"] * count)), 8),
    Growing("accept parameters", _header(b"accept", lambda count: "a/b" + ";a=b" * count), 4),
    Growing("accept equal signs", _header(b"accept", lambda count: "a/b;" + "=" * count), 1),
    Growing("accept blanks", _header(b"accept", lambda count: " " * count), 1),
    Growing("accept commas, resource", _header(b"accept", lambda count: "," * count, f"{_MAPS}/seed"), 1),
    Growing("accept quality", _header(b"accept", lambda count: "a/b;q=" + "1" * count), 1),
    Growing("accept quality, zeros", _header(b"accept", lambda count: "a/b;q=" + "0" * count + "@"), 1),
    Growing("accept, openapi", _header(b"accept", lambda count: "a/b;q=0.5," * count, "/openapi/v2"), 10),
    Growing("accept encodings", _header(b"accept-encoding", lambda count: "gzip;q=0," * count, "/openapi/v2"), 9),
    Growing("etags", _header(b"if-none-match", lambda count: '"a", ' * count, "/openapi/v2"), 5),
    Growing("bearer blanks", _header(b"authorization", lambda count: "Bearer" + " a" * count), 2),
    Growing("bearer token", _header(b"authorization", lambda count: "Bearer " + "a" * count), 1),
    Growing("bearer dots", _header(b"authorization", lambda count: "Bearer " + "a." * count), 2),
    Growing("bearer claims", _header(b"authorization", lambda count: "Bearer " + _token(count)), 10),
    Growing("agent", _header(b"user-agent", lambda count: "a/" * count), 2),
    Growing("agent of labels of keys", _header(b"user-agent", lambda count: "-BEGIN A " * count), 9),
    Growing("agent in base64", _header(b"user-agent", lambda count: ("TFMw" * 20 + " ") * count), 81),
    Growing("agent in base64 twice", _header(b"user-agent", lambda count: _encoded(b"TFMw" * 20 + b" ", count)), 108),
    Growing("audit id", _header(b"audit-id", lambda count: "a" * count), 1),
    Growing("forwarded for", _header(b"x-forwarded-for", lambda count: "10.0.0.1, " * count), 10),
    Growing(
        "forwarded for, many",
        lambda count: Request("GET", "/api", _headers("x-forwarded-for", "10.0.0.#", count), identified=False),
    ),
    Growing(
        "content length",
        lambda count: Request("POST", _MAPS, (*_JSON_FIELD, (b"content-length", b"1" * count)), b"{}"),
        1,
    ),
    Growing(
        "content type",
        lambda count: Request("POST", _MAPS, ((b"content-type", b"application/json" + b";a=b" * count),), b"{}"),
        4,
    ),
    Growing(
        "content type quotes",
        lambda count: Request("POST", _MAPS, ((b"content-type", b'application/json;a="' + b"\\a" * count),), b"{}"),
        2,
    ),
    Growing(
        "content type blanks",
        lambda count: Request("POST", _MAPS, ((b"content-type", b"application/json;" + b" " * count + b"a"),), b"{}"),
        1,
    ),
    Growing(
        "content type patch",
        lambda count: Request("PATCH", f"{_MAPS}/seed", ((b"content-type", MERGE.encode() + b";" * count),), b"{}"),
        1,
    ),
    Growing("many headers", lambda count: Request("GET", "/api", _headers("x-a#", "#", count), identified=False)),
    Growing("groups", _acting_as("impersonate-group")),
    Growing("equal groups", _acting_as("impersonate-group", "v")),
    Growing("extra keys", _acting_as("impersonate-extra-a.io%2f#")),
    Growing("extra values", _acting_as("impersonate-extra-a.io%2fa")),
    Growing(
        "extra key",
        lambda count: Request(
            "GET", f"{_MAPS}/seed", ((b"impersonate-user", b"j"), (b"impersonate-extra-a.io%2f" + b"%41" * count, b"a"))
        ),
        3,
    ),
    Growing("acting as", lambda count: Request("GET", f"{_MAPS}/seed", ((b"impersonate-user", b"a:" * count),)), 2),
    Growing(
        "impersonated groups without a user",
        lambda count: Request("GET", f"{_MAPS}/seed", _headers("impersonate-group", "g#", count)),
    ),
    Growing("path", _target("/", "a/"), 2),
    Growing("path of a resource", _target("/apis/a/v1/", "a/"), 2),
    Growing("path of a name", _target(f"{_MAPS}/", "a"), 1),
    Growing("path of escapes", _target(f"{_MAPS}/", "%2f", identified=True), 3),
    Growing("path of slashes", _target("/", "/"), 1),
)


def _token(count):
    parts = ({"alg": "ES256", "kid": "x"}, {"iss": "https://fuzz", "aud": [f"a{at}" for at in range(count)]})
    encoded = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in parts]
    return ".".join([*encoded, "c2ln"])


# --- queries ------------------------------------------------------------------------------------------------------


def _query(name, text, head="", tail="", path=_MAPS):
    def make(count):
        value = head + "".join(_numbered(text, count)) + tail
        return Request("GET", f"{path}?{name}={urllib.parse.quote(value)}")

    return make


def _continue(document):
    def make(count):
        token = base64.urlsafe_b64encode(document(count).encode()).rstrip(b"=").decode()
        return Request("GET", f"{_MAPS}?continue={token}")

    return make


_QUERIES = (
    Growing("parameters", _target(f"{_MAPS}?", "a#=1&")),
    Growing("equal parameters", _target(f"{_MAPS}?", "a=1&"), 4),
    Growing("parameters, anonymous", _target("/api?", "a#=%zz&")),
    Growing("semicolons", _target("/api?", ";&"), 2),
    Growing("dry runs", lambda count: send("PATCH", f"{_SEED}{'&dryRun=b' * count}", {}, MERGE), 9),
    Growing("labels", _query("labelSelector", "a#=b#,", tail="z")),
    Growing("equal labels", _query("labelSelector", "a=b,", tail="z"), 4),
    Growing("label values", _query("labelSelector", "v#,", "a in (", ")"), 6),
    Growing("label values missing", _query("labelSelector", ",", "a in (", ")"), 1),
    Growing("wrong label values", _query("labelSelector", "-#,", "a in (", ")"), 6),
    Growing("label key", _query("labelSelector", "a"), 1),
    Growing("label key parts", _query("labelSelector", "a.", tail="/b"), 2),
    Growing("label blanks", _query("labelSelector", " "), 1),
    Growing("label not", _query("labelSelector", "!"), 1),
    Growing("label digits", _query("labelSelector", "1", "a>"), 1),
    Growing("fields", _query("fieldSelector", "metadata.name=a#,", tail="metadata.name=b")),
    Growing("unknown fields", _query("fieldSelector", "a#=a#,"), 8),
    Growing("field commas", _query("fieldSelector", ","), 1),
    Growing("field escapes", _query("fieldSelector", "\\,", "metadata.name="), 2),
    Growing("field without a sign", _query("fieldSelector", "a"), 1),
    Growing("field value", _query("fieldSelector", "a", "metadata.name="), 1),
    Growing(
        "fields, anonymous", lambda count: Request("GET", f"{_MAPS}?fieldSelector={'a=b,' * count}", identified=False)
    ),
    Growing(
        "field escapes, anonymous",
        lambda count: Request("GET", f"{_MAPS}?fieldSelector=a={'%5C,' * count}", identified=False),
        4,
    ),
    Growing("limit", _query("limit", "9"), 1),
    Growing("limit zeros", _query("limit", "0"), 1),
    Growing("version", _query("resourceVersion", "9"), 1),
    Growing("version zeros", _query("resourceVersion", "0"), 1),
    Growing("version of an object", _query("resourceVersion", "9", path=f"{_MAPS}/seed"), 1),
    Growing("seconds", _query("timeoutSeconds", "9"), 1),
    Growing("seconds of a watch", _query("watch=1&timeoutSeconds", "0", tail="1"), 1),
    Growing("timeout", _query("timeout", "1h"), 2),
    Growing("timeout, anonymous", lambda count: Request("GET", f"/api?timeout={'1ns' * count}", identified=False), 3),
    Growing("timeout zeros", lambda count: Request("GET", f"/api?timeout={'0' * count}x", identified=False), 1),
    Growing("timeout digits", lambda count: Request("GET", f"/api?timeout={'1' * count}x", identified=False), 1),
    Growing("timeout sign", lambda count: Request("GET", f"/api?timeout={'-' * count}", identified=False), 1),
    Growing("continue start", _continue(lambda count: f'{{"v":"meta.k8s.io/v1","rv":1,"start":"{"a/" * count}b"}}'), 2),
    Growing("continue dots", _continue(lambda count: f'{{"v":"meta.k8s.io/v1","rv":1,"start":"{"../" * count}b"}}'), 3),
    Growing("continue members", _continue(lambda count: "{" + ",".join(_numbered('"a#":1', count)) + "}"), 8),
    Growing("continue equal members", _continue(lambda count: "{" + ",".join(_numbered('"v":1', count)) + "}"), 6),
    Growing("continue digits", _continue(lambda count: f'{{"rv":{"9" * count}}}'), 1),
    Growing("continue depth", _continue(lambda count: '{"v":' * count + "1" + "}" * count), 6),
    Growing("continue no base64", _query("continue", "*"), 1),
    Growing("manager", lambda count: send("PATCH", f"{_SEED}&fieldManager={'a' * count}", {}, MERGE), 1),
    Growing("manager, unprintable", lambda count: send("PATCH", f"{_SEED}&fieldManager={'%01' * count}", {}, MERGE), 3),
    Growing("include", _query("includeObject", "a"), 1),
    Growing("pretty", _query("pretty", "a"), 1),
)


# --- the forms of documents ---------------------------------------------------------------------------------------


def _map(text):
    return '{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"x"},' + text + "}"


def _posted(make, media_type=JSON, target=f"{_MAPS}?dryRun=All"):
    return lambda count: send("POST", target, make(count), media_type)


def _patched(make, media_type, target=_SEED):
    return lambda count: send("PATCH", target, make(count), media_type)


_REVIEW = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
_STRICT = f"{_MAPS}?dryRun=All&fieldValidation=Strict"
_PATCH_ITEM = '{"op":"test","path":"/metadata/name","value":"seed"}'


def _same(text):
    return lambda count: "[" + ",".join([text] * count) + "]"


def _json_forms(form, send):
    """Parts of a JSON document that can be large, in any encoding."""
    rows = (
        ("members", lambda count: _map('"data":{' + ",".join(_numbered('"k#":"v"', count)) + "}"), 12),
        ("equal members", lambda count: _map('"data":{' + ",".join(_numbered('"k":"v"', count)) + "}"), 8),
        ("equal objects", lambda count: _map(",".join(_numbered('"data":{"a":"b"}', count))), 16),
        ("equal distinct objects", lambda count: _map(",".join(_numbered('"data":{"k#":"b"}', count))), 20),
        ("equal metadata", lambda count: _map(",".join(_numbered('"metadata":{"labels":{"a#":"b"}}', count))), 32),
        ("equal nulls", lambda count: _map(",".join(_numbered('"data":null,"data":{"a":"b"}', count))), 26),
        ("unknown members", lambda count: _map(",".join(_numbered('"k#":"v"', count))), 10),
        ("unknown equal members", lambda count: _map(",".join(_numbered('"k":"v"', count))), 8),
        ("depth", lambda count: _map('"x":' + "[" * count + "]" * count), 2),
        ("depth of maps", lambda count: _map('"x":' + '{"a":' * count + "1" + "}" * count), 6),
        ("string", lambda count: _map('"data":{"a":"' + "a" * count + '"}'), 1),
        ("escapes", lambda count: _map('"data":{"a":"' + "\\n" * count + '"}'), 2),
        ("surrogates", lambda count: _map('"data":{"a":"' + "\\ud83d" * count + '"}'), 6),
        ("bytes", lambda count: _map('"binaryData":{"a":"' + "QUFB\\n" * count + '"}'), 6),
        ("wrong bytes", lambda count: _map('"binaryData":{"a":"' + "QUFB\\n" * count + '*"}'), 6),
        ("bytes in a list", lambda count: _map('"binaryData":{"a":[' + ",".join(["1"] * count) + "]}"), 2),
        ("number", lambda count: _map('"immutable":' + "9" * count), 1),
        ("blanks", lambda count: _map('"data":' + " " * count + "{}"), 1),
        ("broken", lambda count: _map('"data":{' + ",".join(_numbered('"k#":"v"', count)) + "}")[:-1], 12),
        ("wrong types", lambda count: _map('"data":{' + ",".join(_numbered('"k#":1', count)) + "}"), 10),
        ("kinds", lambda count: "{" + ",".join(_numbered('"kind":"#","apiVersion":"a/b"', count)) + "}", 30),
        ("api version", lambda count: '{"apiVersion":"' + "a/" * count + '","kind":"ConfigMap"}', 2),
        ("list instead", lambda count: "[" + ",".join(["1"] * count) + "]", 2),
    )
    return tuple(Growing(f"{form}, {name}", send(make), unit) for name, make, unit in rows)


_DOCUMENTS = (
    *_json_forms("json", _posted),
    *_json_forms("strict json", functools.partial(_posted, target=_STRICT)),
    *_json_forms("json as yaml", functools.partial(_posted, media_type=YAML)),
    *_json_forms("strict json as yaml", functools.partial(_posted, media_type=YAML, target=_STRICT)),
    *_json_forms("merge", functools.partial(_patched, media_type=MERGE)),
    *_json_forms("strategic", functools.partial(_patched, media_type=STRATEGIC)),
    *_json_forms(
        "apply", functools.partial(_patched, media_type=documents.APPLY, target=f"{_SEED}&fieldManager=a&force=true")
    ),
    Growing(
        "equal keys of a review",
        _posted(
            lambda count: '{"spec":{' + ",".join(_numbered('"resourceAttributes":{"name":"#"}', count)) + "}}",
            target=_REVIEW,
        ),
        32,
    ),
    Growing(
        "equal keys, nested",
        _posted(
            lambda count: (
                '{"metadata":{'
                + ",".join(_numbered('"ownerReferences":[{"name":"a","name":"b"}],"labels":{"a":"a","a":"#"}', count))
                + "}}"
            )
        ),
        60,
    ),
    Growing(
        "yaml lines",
        _posted(lambda count: "metadata: {name: x}\ndata:\n" + "".join(_numbered(" k#: v\n", count)), YAML),
        8,
    ),
    Growing("yaml equal lines", _posted(lambda count: "data:\n" + " k: v\n" * count, YAML), 6),
    Growing("yaml equal lines, strict", _posted(lambda count: "data:\n" + " k: v\n" * count, YAML, _STRICT), 6),
    Growing("yaml depth", _posted(lambda count: "- " * count, YAML), 2),
    Growing("yaml flow depth", _posted(lambda count: "[" * count, YAML), 1),
    Growing("yaml aliases", _posted(lambda count: "a: &a b\nc: [" + "*a," * count + "]", YAML), 3),
    Growing("yaml anchors", _posted(lambda count: "a: [" + ",".join(_numbered("&a# b", count)) + "]", YAML), 6),
    Growing(
        "yaml merges", _posted(lambda count: "a: &a {b: c}\n" + "".join(_numbered("d#: {<<: *a}\n", count)), YAML), 12
    ),
    Growing("yaml merged list", _posted(lambda count: "a: &a {b: c}\nd: {<<: [" + "*a," * count + "]}", YAML), 3),
    Growing(
        "yaml merge of many",
        _posted(lambda count: "a: &a {" + ",".join(_numbered("k#: v", count)) + "}\nb: {<<: *a}", YAML),
        6,
    ),
    Growing("yaml stars", _posted(lambda count: "a: '" + "*" * count + "'", YAML), 1),
    Growing("yaml decimal", _posted(lambda count: "a: " + "9" * count, YAML), 1),
    Growing("yaml hexadecimal", _posted(lambda count: "a: 0x" + "f" * count, YAML), 1),
    Growing("yaml octal", _posted(lambda count: "a: 0" + "7" * count, YAML), 1),
    Growing("yaml float", _posted(lambda count: "a: " + "9" * count + ".5", YAML), 1),
    Growing("yaml underscores", _posted(lambda count: "a: 1" + "_" * count + "x", YAML), 1),
    Growing("yaml binary", _posted(lambda count: "a: !!binary " + "QUFB" * count, YAML), 4),
    Growing("yaml tags", _posted(lambda count: "a: [" + "!a b," * count + "]", YAML), 5),
    Growing("yaml set", _posted(lambda count: "a: !!set {" + ",".join(_numbered("k#", count)) + "}", YAML), 4),
    Growing("yaml omap", _posted(lambda count: "a: !!omap [" + ",".join(_numbered("k#: v", count)) + "]", YAML), 7),
    Growing("yaml documents", _posted(lambda count: "--- {}\n" * count, YAML), 7),
    Growing("yaml comments", _posted(lambda count: "#\n" * count, YAML), 2),
    Growing("yaml block", _posted(lambda count: "a: |\n" + " b\n" * count, YAML), 3),
    Growing("yaml question marks", _posted(lambda count: "? " * count, YAML), 2),
    Growing("yaml undefined alias", _posted(lambda count: "a: 1\n" * count + "b: *c", YAML), 5),
    Growing("json patch tests", _patched(_same(_PATCH_ITEM), documents.JSON_PATCH), 50),
    Growing(
        "json patch adds",
        _patched(lambda count: _listed('{"op":"add","path":"/data/k#","value":"v"}', count), documents.JSON_PATCH),
        42,
    ),
    Growing(
        "json patch equal adds", _patched(_same('{"op":"add","path":"/data/k","value":"v"}'), documents.JSON_PATCH), 42
    ),
    Growing(
        "json patch inserts",
        _patched(
            lambda count: (
                '[{"op":"add","path":"/x","value":[]},'
                + ",".join(['{"op":"add","path":"/x/0","value":1}'] * count)
                + "]"
            ),
            documents.JSON_PATCH,
        ),
        36,
    ),
    Growing(
        "json patch appends",
        _patched(
            lambda count: (
                '[{"op":"add","path":"/x","value":[]},'
                + ",".join(['{"op":"add","path":"/x/-","value":1}'] * count)
                + "]"
            ),
            documents.JSON_PATCH,
        ),
        36,
    ),
    Growing(
        "json patch copies",
        _patched(
            lambda count: (
                '[{"op":"add","path":"/x","value":{"a":"b"}},'
                + ",".join(_numbered('{"op":"copy","from":"/x/a","path":"/x/b#"}', count))
                + "]"
            ),
            documents.JSON_PATCH,
        ),
        44,
    ),
    Growing(
        "json patch copies of all",
        _patched(
            lambda count: "[" + ",".join(_numbered('{"op":"copy","from":"/metadata","path":"/b#"}', count)) + "]",
            documents.JSON_PATCH,
        ),
        46,
    ),
    Growing(
        "json patch copies of one",
        _patched(
            lambda count: (
                '[{"op":"add","path":"/x","value":"'
                + "a" * count
                + '"},'
                + ",".join(_numbered('{"op":"copy","from":"/x","path":"/b#"}', count))
                + "]"
            ),
            documents.JSON_PATCH,
        ),
        46,
    ),
    Growing(
        "json patch tests of one",
        _patched(
            lambda count: (
                '[{"op":"add","path":"/x","value":'
                + _listed("#", count)
                + "},"
                + ",".join(['{"op":"test","path":"/x","value":1}'] * count)
                + "]"
            ),
            documents.JSON_PATCH,
        ),
        46,
    ),
    Growing(
        "json patch path",
        _patched(lambda count: f'[{{"op":"add","path":"{"/a" * count}","value":1}}]', documents.JSON_PATCH),
        2,
    ),
    Growing(
        "json patch value depth",
        _patched(
            lambda count: '[{"op":"add","path":"/x","value":' + "[" * count + "]" * count + "}]", documents.JSON_PATCH
        ),
        2,
    ),
    Growing(
        "json patch equal fields",
        _patched(lambda count: "[{" + '"op":"test",' * count + '"path":"/a"}]', documents.JSON_PATCH),
        12,
    ),
    Growing(
        "json patch unknown fields",
        _patched(lambda count: "[{" + ",".join(_numbered('"a#":1', count)) + "}]", documents.JSON_PATCH),
        8,
    ),
    Growing(
        "json patch equal members",
        _patched(
            lambda count: '[{"op":"add","path":"/x","value":{' + ",".join(_numbered('"a":1', count)) + "}}]",
            documents.JSON_PATCH,
        ),
        6,
    ),
    Growing(
        "merge deletes", _patched(lambda count: '{"data":{' + ",".join(_numbered('"k#":null', count)) + "}}", MERGE), 10
    ),
    Growing(
        "strategic retained",
        _patched(
            lambda count: (
                '{"data":{"$retainKeys":' + _listed('"k#"', count) + "," + ",".join(_numbered('"k#":"v"', count)) + "}}"
            ),
            STRATEGIC,
        ),
        18,
    ),
    Growing(
        "strategic removed finalizers",
        _patched(
            lambda count: '{"metadata":{"$deleteFromPrimitiveList/finalizers":' + _listed('"a.b/#"', count) + "}}",
            STRATEGIC,
        ),
        8,
    ),
    Growing(
        "strategic order",
        _patched(
            lambda count: (
                '{"metadata":{"$setElementOrder/finalizers":'
                + _listed('"a.b/#"', count)
                + ',"finalizers":'
                + _listed('"a.b/#"', count)
                + "}}"
            ),
            STRATEGIC,
        ),
        16,
    ),
    Growing(
        "strategic orders",
        _patched(lambda count: "{" + ",".join(_numbered('"$setElementOrder/a#":[]', count)) + "}", STRATEGIC),
        26,
    ),
    Growing(
        "strategic directives",
        _patched(
            lambda count: '{"metadata":{"ownerReferences":' + _listed('{"$patch":"delete","uid":"#"}', count) + "}}",
            STRATEGIC,
        ),
        28,
    ),
    Growing(
        "strategic mixed",
        _patched(lambda count: '{"metadata":{"finalizers":[1,' + _listed('"a.b/#"', count)[1:] + "}}", STRATEGIC),
        8,
    ),
)


# --- every field of every kind ------------------------------------------------------------------------------------


def _filler(shape, number=0, depth=0):
    """A distinct value of a type, made with a number."""
    if shape.kind == "string":
        return f"v{number}"
    if shape.kind == "struct" and depth < 3:
        return {
            name: _filler(field.shape, number, depth + 1)
            for name, field in shape.fields.items()
            if field.shape.kind in ("string", "time") or (field.required and field.shape.kind != "raw")
        }
    plain = {
        "boolean": True,
        "integer": 1,
        "bytes": "YQ==",
        "time": "2026-01-01T00:00:00Z",
        "list": [],
        "map": {},
        "microtime": "2026-01-01T00:00:00.000000Z",
        "quantity": str(number),
        "raw": {},
        "struct": {},
    }
    return plain[shape.kind]


def _enlarged(shape, style, count):
    """A large value of a type: a list or map of distinct or of equal items, or a long text."""
    if shape.kind == "list":
        return [_filler(shape.element, number if style == "distinct" else 0) for number in range(count)]
    if shape.kind == "map":
        if style == "deep":
            return {"a": _enlarged(shape.element, "distinct", count)}
        return {f"k{number}": _filler(shape.element, number) for number in range(count)}
    if shape.kind == "raw":
        return {f"f:k{number}": {} for number in range(count)}
    if shape.kind == "bytes":
        return base64.b64encode(b"A" * count).decode()
    text = {"letters": "a", "dots": "a.", "hyphens": "-", "foreign": "é", "controls": "\x01"}[style]
    return text * count


_TEXTS = ("letters", "dots", "hyphens", "foreign", "controls")
_STYLES = {
    "list": ("distinct", "equal"),
    "map": ("distinct", "deep"),
    "raw": ("distinct",),
    "bytes": ("distinct",),
    "string": _TEXTS,
    "time": ("letters",),
    "microtime": ("letters",),
    "quantity": ("letters", "dots"),
}


def _paths(shape, path=(), depth=0):
    """All fields of a type that can grow, with their paths."""
    for name, field in shape.fields.items():
        where, inner = (*path, name), field.shape
        if inner.kind in _STYLES:
            yield where, inner
        if inner.kind == "list" and inner.element.kind == "struct":
            where, inner = (*where, 0), inner.element
        if inner.kind == "struct" and depth < 4:
            yield from _paths(inner, where, depth + 1)


def _placed(document, shape, path, value):
    """Set a value in a document, at a path through its type."""
    at, shape_at = document, shape
    for step, following in zip(path, [*path[1:], None], strict=True):
        shape_at = shape_at.element if step == 0 else shape_at.fields[step].shape
        if following is None:
            at[step] = value
        elif step == 0:
            at = at[0]
        else:
            if not at.get(step):
                at[step] = [_filler(shape_at.element)] if following == 0 else {}
            at = at[step]
    return document


def _is_status(kind, path):
    return path[0] == "status" and kind.subresource("status") is not None


def _field_request(declaration, path, style, count):
    document = documents.document(declaration, "x")
    document["metadata"].pop("finalizers")
    root = shapes.shape_of(declaration.type)
    kind = root
    for step in path:
        kind = kind.element if step == 0 else kind.fields[step].shape
    _placed(document, root, path, _enlarged(kind, style, count))
    if hasattr(declaration, "parent"):
        return send("POST", documents.action_path(declaration), document)
    if _is_status(declaration, path):
        document["metadata"]["name"] = "seed"
        return send("PUT", f"{documents.collection(declaration)}/seed/status?dryRun=All", document)
    return send("POST", f"{documents.collection(declaration)}?dryRun=All", document)


def _field_rows():
    seen = set()
    turns = itertools.count()
    for kind in (*documents.KINDS, *documents.VIRTUAL):
        if kind.version != "v1" and any(
            (other.group, other.kind, other.version) == (kind.group, kind.kind, "v1") for other in documents.KINDS
        ):
            continue
        for path, shape in _paths(shapes.shape_of(kind.type)):
            # Metadata is the same for all kinds.
            if path[0] in ("metadata", "kind", "apiVersion"):
                if path in seen:
                    continue
                seen.add(path)
            name = ".".join(map(str, path)).replace(".0", "[0]")
            for style in _styles(shape, next(turns)):
                yield Growing(
                    f"{kind.kind} {name}, {style}",
                    functools.partial(_field_request, kind, path, style),
                    1 if shape.kind in ("string", "bytes") else 16,
                )


def _styles(shape, turn):
    """How a field grows. Texts use the styles in turn, because there are many of them."""
    if shape.kind == "string":
        return (_TEXTS[turn % len(_TEXTS)],)
    return tuple(style for style in _STYLES[shape.kind] if style != "deep" or shape.element.kind == "list")


FIELDS = tuple(_field_rows())


def _as_protobuf(row):
    """The same in protobuf, if the document can be decoded at all."""

    def make(count):
        sent = row.make(count)
        document = json.loads(sent.body)
        kinds = (*documents.KINDS, *documents.VIRTUAL)
        kind = next(
            candidate
            for candidate in kinds
            if (candidate.kind, candidate.api_version) == (document["kind"], document["apiVersion"])
        )
        obj = codec.decode_tree(codec.parse_json(sent.body), kind.type).object
        return dataclasses.replace(
            sent,
            body=protobuf.encode(obj, kind.api_version, kind.kind),
            headers=((b"content-type", PROTOBUF.encode()),),
        )

    return Growing(f"protobuf, {row.name}", make, row.unit)


def _is_binary(row):
    """Whether protobuf has such a field; one kind represents all."""
    kind, path, *_ = row.name.split()
    return kind == "ConfigMap" and path.startswith(("metadata", "data", "binaryData")) and "imestamp" not in path


_BINARY = tuple(_as_protobuf(row) for row in FIELDS if _is_binary(row) and not row.name.endswith("time, letters"))

GENERAL = (*_HEADERS, *_QUERIES, *_DOCUMENTS)
ALL = (*GENERAL, *FIELDS, *_BINARY)
