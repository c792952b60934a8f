"""Malformed requests: unusual values in every place, around the bodies of `documents`."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import urllib.parse

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, utils
from hypothesis import strategies as st

from certplane.golang import gojson
from certplane.wire import protobuf
from tests.fuzz.documents import (
    JSON,
    JSON_PATCH,
    KINDS,
    MERGE,
    NAMESPACE,
    PROTOBUF,
    STRATEGIC,
    TOKEN_KEY,
    YAML,
    Request,
    action_path,
    actions,
    chunks,
    collection,
    damaged,
    document,
    dump,
    field,
    item_at,
    json_bodies,
    kinds,
    messages,
    pairs,
    places,
    protobuf_bodies,
    scratched,
    values,
    words,
    yaml_bodies,
)

# --- words in the request line and the header ---------------------------------------------------------------------


def _quoted(text):
    return urllib.parse.quote(text, safe="", errors="replace")


PARAMETERS = (
    "labelSelector", "fieldSelector", "limit", "continue", "resourceVersion", "resourceVersionMatch",
    "timeoutSeconds", "timeout", "watch",
    "allowWatchBookmarks", "sendInitialEvents", "fieldManager", "fieldValidation", "force", "dryRun", "pretty",
    "includeObject",
    "gracePeriodSeconds", "orphanDependents", "propagationPolicy", "ignoreStoreReadErrorWithClusterBreakingPotential",
    "verbose", "exclude", "x",
)  # fmt: skip
_NUMBERS = (
    "0",
    "1",
    "2",
    "-1",
    "5",
    "500",
    "+3",
    "1e3",
    "9223372036854775807",
    "9223372036854775808",
    "9" * 25,
    "9" * 5000,
    "٣",
    "²",
    " 1",
    "",
)
_WORDS = (
    "true", "false", "1", "0", "TRUE", "t", "Exact", "NotOlderThan", "All", "None", "Strict", "Warn", "Ignore",
    "Foreground",
    "Background", "Orphan", "Object", "Metadata", "1s", "3m", "0", "1h1h", "-1s", "999999h", "9" * 20 + "h",
    "9" * 400 + "h", "1µs", ".s", "1e9s", "kubectl",
)  # fmt: skip

_label_parts = st.sampled_from(
    ["a", "b", "example.com/c", "!", "=", "==", "!=", " in ", " notin ", "(", ")", ",", ">", "<", " ", "in", "notin",
    "5", "-5", "", "\n",
     "A" * 64, "x/y/z", "é", "\x00", "=(", "\\", '"', "a=b", "!a", "a in (b,c)", "9" * 20, "\u00a0", "\x1c", "\x85"]
)  # fmt: skip
_field_parts = st.sampled_from(
    ["metadata.name", "metadata.namespace", "spec.signerName", "type", "status.phase", "reason", "=", "==", "!=", ",",
    "\\", "\\,", "\\=",
     "\\\\", "seed", NAMESPACE, "", "involvedObject.name", "x", "=a=b", "é", "\x00", "%", "/", "\n", "source",
     "spec.podName"]
)  # fmt: skip
label_selectors = st.one_of(st.lists(_label_parts, max_size=6).map("".join), words)
field_selectors = st.one_of(st.lists(_field_parts, max_size=6).map("".join), words)


def _token(tree):
    return base64.urlsafe_b64encode(dump(tree).encode("utf-8", "surrogatepass")).rstrip(b"=").decode()


_token_trees = damaged(
    st.builds(
        lambda revision, start: {"v": "meta.k8s.io/v1", "rv": revision, "start": start},
        st.one_of(st.integers(-2, 200), st.sampled_from([1 << 62, 1 << 70])),
        st.one_of(
            st.sampled_from(["seed\x00", f"{NAMESPACE}/seed\x00", "/", "//", "a//b", "../x", "./", "", "\x00", "a/"]),
            words,
        ),
    ),
    2,
)
tokens = st.one_of(
    _token_trees.map(_token),
    scratched(_token_trees.map(_token).map(str.encode), 1).map(lambda data: data.decode("latin-1")),
    words,
)
durations = st.lists(
    st.sampled_from(
        [
            "1",
            "0",
            ".",
            "h",
            "m",
            "s",
            "ms",
            "us",
            "µs",
            "μs",
            "ns",
            "-",
            "+",
            "9" * 20,
            "9" * 400,
            "e9",
            "٣",
            " ",
            "\n",
        ]
    ),
    max_size=6,
).map("".join)
_for_parameter = {
    "labelSelector": label_selectors, "fieldSelector": field_selectors, "continue": tokens, "timeout": durations,
}  # fmt: skip
_any_value = st.one_of(st.sampled_from(_NUMBERS), st.sampled_from(_WORDS), words)
_parameters = st.sampled_from(PARAMETERS).flatmap(
    lambda name: st.tuples(st.just(name), st.one_of(_for_parameter.get(name, _any_value), _any_value))
)
_raw_parameters = st.sampled_from(
    [
        "&",
        "=",
        "&&",
        "a",
        "a=%",
        "limit=%zz",
        "limit",
        "%FF=%ff",
        ";",
        "watch=1;limit=2",
        "é",
        "\xff",
        "limit=1&limit=x",
        "+",
    ]
)
queries = st.one_of(
    st.just(""),
    st.lists(
        st.one_of(*[_parameters.map(lambda pair: f"{pair[0]}={_quoted(pair[1])}")] * 4, _raw_parameters), max_size=4
    ).map("&".join),
)

_MEDIA = (
    "application/json", "application/yaml", "application/vnd.kubernetes.protobuf", "*/*", "*", "application/*",
    "text/html", "text/plain", "",
    "APPLICATION/JSON", "application", "a/b/c", "application/apply-patch+yaml", "application/json-patch+json",
    "application/xml", "é/ü",
    "application/merge-patch+json", "application/strategic-merge-patch+json", "application/json;stream=watch",
    "application/cbor",
    "application/openapi-v3+json", "application/com.github.proto-openapi.spec.v2@v1.0+protobuf",
    "application/com.github.proto-openapi.spec.v3@v1.0+protobuf",
)  # fmt: skip
_MEDIA_PARAMETERS = (
    ";as=Table", ";as=PartialObjectMetadata", ";as=PartialObjectMetadataList", ";as=APIGroupDiscoveryList", ";v=v1",
    ";v=v1beta1", ";v=v2", ";v=", ";g=meta.k8s.io",
    ";g=apidiscovery.k8s.io", ";as=Table;v=v1;g=meta.k8s.io", ";as=PartialObjectMetadataList;v=v1;g=meta.k8s.io",
    ";as=PartialObjectMetadata;v=v1beta1;g=meta.k8s.io", ";as=APIGroupDiscoveryList;v=v2;g=apidiscovery.k8s.io",
    ";q=0", ";q=1.5", ";q=nan", ";q=-inf", ";q=x", ";q=1e400", ";",
    ";=", ";;", ';v="', ";pretty=1", ";pretty=true", ";charset=utf-8", "; as = Table", ";profile=nopeer",
)  # fmt: skip
media_types = st.builds(
    lambda media, parameters: media + "".join(parameters),
    st.sampled_from(_MEDIA),
    st.lists(st.sampled_from(_MEDIA_PARAMETERS), max_size=3),
)
accepts = st.one_of(st.lists(media_types, min_size=1, max_size=3).map(",".join), words)
_good_accepts = st.sampled_from([JSON, YAML, PROTOBUF, "application/json;as=Table;v=v1;g=meta.k8s.io"])

_jwt_parts = st.sampled_from(
    ["", "e30", "bnVsbA", "W10", "eyJhbGciOiJub25lIn0", "eyJhbGciOiJSUzI1NiIsImtpZCI6ImEifQ",
    "eyJhbGciOiJSUzI1NiIsImtpZCI6WzFdfQ",
     "eyJhbGciOjF9", "W1tb" * 5000 + "W10" + "XV1d" * 5000, "eyJpc3MiOiJodHRwczovL2Z1enoifQ", "eyJpc3MiOjF9", "_",
     "=", "é", "a" * 5000,
     "eyJjcml0IjpbImEiXSwiYWxnIjoiRWREU0EifQ"]
)  # fmt: skip
_claims = damaged(
    st.just(
        {
            "iss": "https://fuzz", "aud": ["https://fuzz"], "exp": 4102444800, "iat": 1, "nbf": 1,
            "sub": "system:serviceaccount:fuzz:seed",
            "kubernetes.io": {"namespace": NAMESPACE, "serviceaccount": {"name": "seed", "uid": "u"},
            "secret": {"name": "seed", "uid": "u"}},
        }
    )
)  # fmt: skip
_KID = base64.urlsafe_b64encode(
    hashlib.sha256(
        TOKEN_KEY.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    ).digest()
)
_headers_of_tokens = damaged(st.just({"alg": "ES256", "typ": "JWT", "kid": _KID.rstrip(b"=").decode()}), 2)


def _jose(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def signed(header, claims):
    """A signed token with any content."""
    content = ".".join(_jose(dump(part).encode("utf-8", "surrogatepass")) for part in (header, claims))
    signature = TOKEN_KEY.sign(content.encode(), ec.ECDSA(hashes.SHA256(), deterministic_signing=True))
    return f"{content}.{_jose(b''.join(part.to_bytes(32, 'big') for part in utils.decode_dss_signature(signature)))}"


bearer_tokens = st.one_of(
    st.sampled_from(["fuzz-token", "abcdef.0123456789abcdef", "nobody"]),
    st.lists(_jwt_parts, min_size=1, max_size=5).map(".".join),
    st.builds(signed, _headers_of_tokens, _claims),
    words,
)
authorizations = st.one_of(
    st.builds("{} {}".format, st.sampled_from(["Bearer", "bearer", "Basic", "", "Bearer ", "Bearer\t"]), bearer_tokens),
    words,
)


def _field_value(text):
    """Header values that an HTTP server accepts."""
    return _line(text.encode("utf-8", "replace"))


def _line(raw):
    return bytes(byte for byte in raw if byte not in b"\r\n\x00").strip()


_IMPERSONATE = (
    b"impersonate-user", b"impersonate-group", b"impersonate-uid", b"impersonate-extra-a", b"impersonate-extra-",
    b"impersonate-extra-%61%2f%ff",
    b"impersonate-extra-example.com%2fa", b"impersonate-x", b"impersonate-extra-%zz",
)  # fmt: skip
_impersonated = st.one_of(
    st.sampled_from(
        ["jane", "system:anonymous", "system:serviceaccount:fuzz:seed", "system:serviceaccount:a:b:c",
        "system:serviceaccount::", "system:node:a",
         "system:node:", "system:masters", "system:authenticated", "system:unauthenticated", ""]
    ),
    words,
)  # fmt: skip
#: Header fields are bytes, and not always UTF-8.
_raw_fields = st.sampled_from([b"\xff", b"a\xed\xa0\x80", b"\x80\xc3", b"\xc3\xa9", b"\x01\x7f\t", b"a" * 5000]).map(
    _line
)
impersonations = st.lists(
    st.tuples(st.sampled_from(_IMPERSONATE), st.one_of(*[_impersonated.map(_field_value)] * 5, _raw_fields)),
    min_size=1,
    max_size=5,
)
_OTHER_FIELDS = (
    b"user-agent",
    b"audit-id",
    b"if-none-match",
    b"x-forwarded-for",
    b"content-encoding",
    b"x-remote-user",
    b"expect",
    b"connection",
)
_other_headers = st.lists(
    st.tuples(
        st.sampled_from(_OTHER_FIELDS),
        st.one_of(
            words, st.sampled_from(["curl/8", "kubectl/v1", "Mozilla/5", "*", "9" * 20, "9" * 5000, "-1", "²", "gzip"])
        ).map(_field_value)
        | _raw_fields,
    ),
    max_size=2,
)
#: Lengths that an HTTP server accepts, although none of them is the real one.
_lengths = st.sampled_from([b"0", b"1", b"007", str(3 << 20).encode(), str((3 << 20) + 1).encode(), b"9" * 18]).map(
    lambda value: [(b"content-length", value)]
)
headers = st.builds(
    lambda accept, others: (*accept, *others),
    st.one_of(
        st.just(()),
        _good_accepts.map(lambda text: ((b"accept", text.encode()),)),
        st.lists(accepts.map(lambda text: (b"accept", _field_value(text))), min_size=1, max_size=2),
    ),
    st.one_of(st.just(()), _other_headers, _other_headers, _lengths),
)

# --- paths --------------------------------------------------------------------------------------------------------

_SEGMENTS = (
    "api", "apis", "v1", "namespaces", NAMESPACE, "seed", "watch", "status", "approval", "finalize", "token",
    "configmaps", "secrets", "events", "nodes",
    "certificates.k8s.io", "certificatesigningrequests", "rbac.authorization.k8s.io", "clusterroles",
    "serviceaccounts", "v1beta1", "v2", "proxy", "log",
    "", ".", "..", "%2e%2e", "%2F", "%00", "%", "%zz", "%ff", "%C3%A9", "%f0%9f%98%80", "a%20b", "*", ":", "~", "a;b",
    "é", "%E2%80%A8", "%0d%0a", "A" * 300,
    "healthz", "livez", "readyz", "metrics", "openapi", "v3", "version", ".well-known", "openid-configuration",
    "jwks", "ping", "etcd", "exclude",
)  # fmt: skip
segments = st.one_of(st.sampled_from(_SEGMENTS), words.map(_quoted))
_PLACES = (
    "/api", "/apis", "/api/v1", "/apis/certificates.k8s.io", "/apis/certificates.k8s.io/v1", "/version", "/healthz",
    "/livez", "/readyz", "/readyz/etcd",
    "/metrics", "/openapi/v2", "/openapi/v3", "/openapi/v3/apis/certificates.k8s.io/v1", "/openapi/v3/api/v1",
    "/.well-known/openid-configuration",
    "/openid/v1/jwks", "/", "",
)  # fmt: skip


@st.composite
def _paths(draw):
    if draw(st.booleans()):
        path = draw(st.sampled_from(_PLACES))
    else:
        kind = draw(kinds)
        path = collection(kind) + draw(
            st.sampled_from(["", "/seed", "/none", "/seed/status", "/seed/approval", "/seed/token", "/seed/finalize"])
        )
    parts = path.split("/")
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(parts)))
        parts[at : at + draw(st.integers(0, 1))] = [draw(segments)]
    return "/".join(parts)


paths = _paths()
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "CONNECT", "TRACE", "get", "X" * 100)

# --- whole requests -----------------------------------------------------------------------------------------------


def _request(method, path, query, fields, body, *, content_type="", identified=True):
    target = f"{path}?{query}" if query else path
    names = tuple(fields)
    if content_type:
        names = ((b"content-type", content_type.encode("utf-8")), *names)
    return Request(method, target, names, body, identified)


_door_names = st.sampled_from(["", "", "", "status", "approval", "finalize"])


def _writing(kind, name, draw):
    """How a document is sent: method and path."""
    door = draw(_door_names)
    if name == "new" and not door:
        return "POST", collection(kind)
    return "PUT", f"{collection(kind)}/seed{'/' + door if door else ''}"


@st.composite
def writes(draw, form):
    """POST and PUT of malformed documents; `form` is the media type."""
    if draw(st.integers(0, 4)) == 0:
        kind = draw(actions)
        name, method, path = "new", "POST", action_path(kind)
    else:
        kind = draw(kinds)
        name = draw(st.sampled_from(["new", "seed"]))
        method, path = _writing(kind, name, draw)
    source = st.just(document(kind, name))
    if form == PROTOBUF:
        body = draw(protobuf_bodies(kind, name))
    else:
        body = draw(json_bodies(source) if form == JSON else yaml_bodies(source))
    return _request(method, path, draw(queries), draw(headers), body, content_type=form)


POINTERS = (
    "", "/", "//", "/metadata", "/metadata/labels", "/metadata/labels/a", "/metadata/labels/example.com~1c",
    "/metadata/labels/~", "/metadata/labels/~2",
    "/metadata/finalizers/-", "/metadata/finalizers/0", "/metadata/finalizers/00", "/metadata/finalizers/-1",
    "/metadata/finalizers/9999999999", "/metadata/finalizers/1e0",
    "/metadata/finalizers/٠", "/metadata/ownerReferences/0/uid", "/metadata/managedFields",
    "/metadata/managedFields/0/fieldsV1", "/metadata/name", "/spec", "/spec/x/y",
    "/status/conditions/0", "/status/conditions/-", "/data/a", "/kind", "/apiVersion", "a", "#/a", "/~0~1",
    "/metadata/resourceVersion", "/metadata/creationTimestamp",
    "/rules/0/verbs/-", "/subjects/0",
)  # fmt: skip
_pointers = st.one_of(st.sampled_from(POINTERS), st.sampled_from(POINTERS), words)
_operations = st.lists(
    st.fixed_dictionaries(
        {
            "op": st.sampled_from(["add", "add", "remove", "replace", "move", "copy", "test", "Add", ""]),
            "path": _pointers,
        },
        optional={"value": values, "from": _pointers},
    ).map(lambda operation: gojson.Pairs(operation.items())),
    max_size=5,
)
_doubling = st.integers(1, 40).map(
    lambda times: [
        gojson.Pairs([("op", "copy"), ("from", "/metadata"), ("path", f"/metadata/annotations/x{number}")])
        for number in range(times)
    ]
)
_shallow_operations = st.one_of(*[_operations] * 8, _doubling)

_directives = st.sampled_from(
    [
        ("$patch", "replace"), ("$patch", "delete"), ("$patch", "merge"), ("$patch", "x"), ("$patch", None),
        ("$patch", {}), ("$retainKeys", ["a"]), ("$retainKeys", "a"),
        ("$retainKeys", [{}]), ("$retainKeys", None), ("$deleteFromPrimitiveList/finalizers", ["example.com/wait"]),
        ("$deleteFromPrimitiveList/finalizers", "x"),
        ("$deleteFromPrimitiveList/ownerReferences", [{}]), ("$setElementOrder/finalizers", ["b",
        "example.com/wait"]), ("$setElementOrder/finalizers", [[], {}, None]),
        ("$setElementOrder/ownerReferences", [{"uid": "u"}, {"uid": None}, 1]), ("$setElementOrder/conditions",
        [{"type": []}]), ("$setElementOrder/", []),
        ("$deleteFromPrimitiveList/", []), ("$setElementOrder/secrets", [{"name": "a"}]), ("$patch/x", 1), ("$x", 1),
        ("$deleteFromPrimitiveList/labels", {}),
        ("ownerReferences", [{"uid": "u", "$patch": "delete"}]), ("ownerReferences", [{"$patch": "replace"},
        {"uid": "x"}]), ("ownerReferences", [1]),
        ("ownerReferences", [{"uid": {}}]), ("ownerReferences", [{"uid": []}, {"uid": 1}]), ("finalizers",
        [{"$patch": "delete"}]), ("finalizers", ["a", "a", None]),
        ("secrets", [{"name": None}]), ("conditions", [{"type": "Approved", "$patch": "delete"}]), ("conditions",
        {"$patch": "replace"}), ("finalizers", {"a": 1}),
    ]
)  # fmt: skip


@st.composite
def _strategic(draw, kind):
    tree = draw(damaged(st.just(document(kind)), 3))
    for _ in range(draw(st.integers(0, 4))):
        maps = [tree, *(item for place in (places(tree, [])) if isinstance(item := item_at(place), gojson.Pairs))]
        maps = [item for item in maps if isinstance(item, gojson.Pairs)]
        name, value = draw(_directives)
        into = maps[draw(st.integers(0, len(maps) - 1))]
        into.insert(draw(st.integers(0, len(into))), (name, pairs(value)))
    return tree


FIELDS = (
    {}, {"f:metadata": {"f:labels": {".": {}, "f:a": {}}}}, {"f:data": {"f:a": {}}},
    {"f:metadata": {"f:finalizers": {'v:"example.com/wait"': {}}}},
    {"f:metadata": {"f:ownerReferences": {'k:{"uid":"u"}': {".": {}, "f:name": {}}}}}, {"k:": {}}, {"k:{": {}},
    {"k:[]": {}}, {"k:1": {}}, {"v:": {}}, {"v:{": {}},
    {"i:0": {}}, {"i:x": {}}, {".": {}}, {".": 1}, {"x:a": {}}, {"f:": {}}, {"": {}}, {"f:a": None}, {"f:a": []},
    {"f:metadata": {".": {}, "k:{}": {}}}, 1, "x", [], None,
    {"f:status": {"f:conditions": {'k:{"type":"Approved"}': {}}}}, {"f:metadata": {"f:name": {},
    "f:labels": {'k:{"a":1}': {}}}}, {"f:kind": {}}, {"f:data": {"f:a": {"f:b": {}}}},
    {"f:metadata": {"f:finalizers": {"f:x": {}}}}, {"f:metadata": {"f:labels": {'v:"a"': {}}}},
    {"f:metadata": {"f:ownerReferences": {"k:3": {}, "k:null": {}, 'k:"x"': {}}}},
)  # fmt: skip
_entries = st.builds(
    lambda manager, operation, version, time, fields, more: {
        "manager": manager, "operation": operation, "apiVersion": version, "time": time, "fieldsType": "FieldsV1",
        "fieldsV1": fields, **more,
    },
    st.one_of(st.sampled_from(["a", "fuzz", "before-first-apply", "ancient-changes"]), words),
    st.sampled_from(["Apply", "Update", "Update", "apply", ""]),
    st.sampled_from(["v1", "certificates.k8s.io/v1", "", "x/y/z"]),
    st.sampled_from(["2026-01-01T00:00:00Z", "0001-01-01T00:00:00Z", None]),
    st.sampled_from(FIELDS),
    st.sampled_from([{}, {}, {"subresource": "status"}, {"subresource": "x"}, {"fieldsType": "FieldsV2"}]),
)  # fmt: skip


@st.composite
def owned(draw):
    """The number of a kind, and a document of it with unusual managedFields."""
    number = draw(st.integers(0, len(KINDS) - 1))
    kind = KINDS[number]
    seed = document(kind)
    seed["metadata"]["managedFields"] = draw(st.lists(_entries, max_size=14 if draw(st.booleans()) else 3))
    tree = draw(damaged(st.just(seed), 2))
    path = f"{collection(kind)}/seed"
    return number, _request("PUT", path, "", (), dump(tree).encode("utf-8", "surrogatepass"), content_type=JSON)


@st.composite
def patches(draw, patch_type, kind=None):
    """PATCH, of any kind, of the type given."""
    kind = kind or draw(kinds)
    name, door = draw(st.sampled_from(["seed", "seed", "seed", "new"])), draw(_door_names)
    path = f"{collection(kind)}/{name}{'/' + door if door else ''}"
    source = st.just(document(kind, name))
    query = draw(queries)
    if patch_type == JSON_PATCH:
        body = dump(draw(_shallow_operations)).encode("utf-8", "surrogatepass")
        if draw(st.integers(0, 9)) == 0:
            body = draw(scratched(st.just(body)))
    elif patch_type == STRATEGIC:
        body = dump(draw(_strategic(kind))).encode("utf-8", "surrogatepass")
    elif patch_type == MERGE:
        body = draw(json_bodies(source))
    else:
        body = draw(st.one_of(json_bodies(source), yaml_bodies(source)))
        if draw(st.integers(0, 9)):
            extra = draw(
                st.sampled_from(["fieldManager=fuzz", "fieldManager=fuzz&force=true", "fieldManager=a&force=1"])
            )
            query = f"{extra}&{query}" if query else extra
    return _request("PATCH", path, query, draw(headers), body, content_type=patch_type)


@st.composite
def reads(draw):
    """GET of collections and objects, and watches, with unusual parameters."""
    kind = draw(kinds)
    path = collection(kind) + draw(st.sampled_from(["", "", "", "/seed"]))
    if kind.namespaced and draw(st.booleans()):
        path = path.replace(f"/namespaces/{NAMESPACE}", "")
    query = draw(queries)
    if draw(st.integers(0, 3)) == 0:
        query = f"watch=true&{query}"
    return _request("GET", path, query, draw(headers), b"")


_OPTIONS = {
    "kind": "DeleteOptions", "apiVersion": "v1", "gracePeriodSeconds": 0, "preconditions": {"uid": "u",
    "resourceVersion": "1"}, "orphanDependents": False,
    "propagationPolicy": "Background", "dryRun": ["All"],
}  # fmt: skip


@st.composite
def deletions(draw):
    """DELETE of objects and collections, with options in body and query."""
    kind = draw(kinds)
    path = collection(kind) + draw(st.sampled_from(["", "/seed", "/seed", "/seed/status"]))
    source = st.just(_OPTIONS)
    body = draw(
        st.one_of(
            st.just(b""),
            json_bodies(source),
            yaml_bodies(source),
            messages.map(lambda data: protobuf.PREFIX + field(2, data)),
        )
    )
    content_type = draw(st.sampled_from(["", JSON, YAML, PROTOBUF]))
    return _request("DELETE", path, draw(queries), draw(headers), body, content_type=content_type)


@st.composite
def anonymous_requests(draw):
    """Any method on any path, by any user."""
    fields = list(draw(headers))
    if draw(st.booleans()):
        fields += [(b"authorization", _field_value(value)) for value in draw(st.lists(authorizations, max_size=2))]
    if draw(st.booleans()):
        fields += draw(impersonations)
    content_type = draw(st.one_of(st.just(""), media_types))
    body = draw(st.one_of(st.just(b""), chunks, st.just(b"{}"), json_bodies(st.just(document(KINDS[0])))))
    request = _request(
        draw(st.sampled_from(METHODS)), draw(paths), draw(queries), fields, body, identified=draw(st.booleans())
    )
    if content_type:
        request = dataclasses.replace(
            request, headers=((b"content-type", _field_value(content_type)), *request.headers)
        )
    return request


@st.composite
def identities(draw):
    """A simple request with unusual credentials and impersonation."""
    fields = [(b"authorization", _field_value(value)) for value in draw(st.lists(authorizations, max_size=2))]
    fields += draw(st.one_of(st.just([]), impersonations))
    kind = draw(kinds)
    return _request("GET", collection(kind), "", fields, b"", identified=draw(st.booleans()))
