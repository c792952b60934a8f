"""Malformed documents, in every encoding.

Each document is a valid one with a few errors, because completely invalid input is refused early. JSON is a tree whose
objects are lists of pairs, so that members may be duplicated, and whose numbers may be literals that no Python number
can represent.
"""

from __future__ import annotations

import base64
import copy
import dataclasses
import datetime
import functools
import json
import urllib.parse

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import NameOID
from hypothesis import strategies as st

from certplane import resources
from certplane.golang import gojson
from certplane.wire import codec, protobuf

KINDS = resources.served({"api/all": True})
VIRTUAL = resources.VIRTUAL
NAMESPACE = "fuzz"
JSON, YAML, PROTOBUF = "application/json", "application/yaml", "application/vnd.kubernetes.protobuf"
JSON_PATCH, MERGE = "application/json-patch+json", "application/merge-patch+json"
STRATEGIC, APPLY = "application/strategic-merge-patch+json", "application/apply-patch+yaml"


@dataclasses.dataclass(frozen=True)
class Request:
    """A request. `target` is the path and query of the request line."""

    method: str
    target: str
    headers: tuple[tuple[bytes, bytes], ...] = ()
    body: bytes = b""
    identified: bool = True

    @property
    def path(self):
        return urllib.parse.unquote(self.target.partition("?")[0])

    @property
    def raw_query(self):
        return self.target.partition("?")[2]

    @property
    def size(self):
        return len(self.target) + len(self.body) + sum(len(name) + len(value) for name, value in self.headers)


# --- good documents -----------------------------------------------------------------------------------------------

KEY = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
#: Signs the tokens of service accounts.
TOKEN_KEY = ec.derive_private_key(20_260_101, ec.SECP256R1())
_NAME = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "dev"), x509.NameAttribute(NameOID.COMMON_NAME, "j")])
PKCS10 = (
    x509.CertificateSigningRequestBuilder()
    .subject_name(_NAME)
    .add_extension(
        x509.SubjectAlternativeName([x509.DNSName("a.example"), x509.UniformResourceIdentifier("spiffe://a/b")]),
        critical=False,
    )
    .sign(KEY, None)
)
CERTIFICATE = (
    x509.CertificateBuilder()
    .subject_name(_NAME)
    .issuer_name(_NAME)
    .public_key(KEY.public_key())
    .serial_number(1)
    .not_valid_before(datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC))
    .not_valid_after(datetime.datetime(2027, 1, 1, tzinfo=datetime.UTC))
    .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    .sign(KEY, None)
)
PKCS10_PEM = PKCS10.public_bytes(serialization.Encoding.PEM)
PKCS10_DER = PKCS10.public_bytes(serialization.Encoding.DER)
CERTIFICATE_PEM = CERTIFICATE.public_bytes(serialization.Encoding.PEM)
CERTIFICATE_DER = CERTIFICATE.public_bytes(serialization.Encoding.DER)


def _text(data):
    return base64.b64encode(data).decode()


_MOMENT = "2026-01-01T00:00:00Z"
_RULES = [{"verbs": ["get"], "apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["a"]}]
_SUBJECTS = [
    {"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": "jane"},
    {"kind": "ServiceAccount", "name": "default", "namespace": NAMESPACE},
]
_ROLE = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"}
_REGARDING = {"kind": "ConfigMap", "namespace": NAMESPACE, "name": "seed", "apiVersion": "v1", "uid": "u"}
_ATTRIBUTES = {
    "namespace": NAMESPACE,
    "verb": "get",
    "group": "",
    "version": "v1",
    "resource": "configmaps",
    "name": "seed",
    "fieldSelector": {"requirements": [{"key": "metadata.name", "operator": "In", "values": ["a"]}]},
    "labelSelector": {"rawSelector": "a=b"},
}
_NODE_ATTRIBUTES = {
    "signerName": "example.com/foo", "podName": "pod", "podUID": "pod-uid", "serviceAccountName": "account",
    "serviceAccountUID": "account-uid", "nodeName": "node", "nodeUID": "node-uid", "maxExpirationSeconds": 86400,
    "stubPKCS10Request": _text(PKCS10_DER),
}  # fmt: skip
_CONTENTS = {
    "ConfigMap": {"data": {"a": "b"}, "binaryData": {"c": _text(b"\xff\x00")}, "immutable": False},
    "Secret": {"type": "Opaque", "data": {"a": _text(b"b")}, "stringData": {"c": "d"}},
    "Namespace": {"spec": {"finalizers": ["kubernetes"]}},
    "ServiceAccount": {
        "secrets": [{"name": "a"}],
        "imagePullSecrets": [{"name": "b"}],
        "automountServiceAccountToken": True,
    },
    "Lease": {
        "spec": {
            "holderIdentity": "me",
            "leaseDurationSeconds": 15,
            "acquireTime": "2026-01-01T00:00:00.000000Z",
            "renewTime": "2026-01-01T00:00:01.123456Z",
            "leaseTransitions": 2,
        }
    },
    "Role": {"rules": _RULES},
    "ClusterRole": {
        "rules": [*_RULES, {"verbs": ["get"], "nonResourceURLs": ["/healthz*"]}],
        "aggregationRule": {
            "clusterRoleSelectors": [
                {"matchLabels": {"a": "b"}, "matchExpressions": [{"key": "c", "operator": "Exists"}]}
            ]
        },
    },
    "RoleBinding": {"subjects": _SUBJECTS, "roleRef": _ROLE},
    "ClusterRoleBinding": {"subjects": _SUBJECTS, "roleRef": _ROLE},
    "CertificateSigningRequest": {
        "spec": {
            "request": _text(PKCS10_PEM),
            "signerName": "example.com/foo",
            "usages": ["client auth", "digital signature"],
            "expirationSeconds": 86400,
            "extra": {"a": ["b"]},
        },
        "status": {
            "conditions": [
                {
                    "type": "Approved",
                    "status": "True",
                    "reason": "Test",
                    "message": "m",
                    "lastUpdateTime": _MOMENT,
                    "lastTransitionTime": _MOMENT,
                }
            ],
            "certificate": _text(CERTIFICATE_PEM),
        },
    },
    "ClusterTrustBundle": {"spec": {"signerName": "", "trustBundle": CERTIFICATE_PEM.decode()}},
    "PodCertificateRequest": {
        "spec": _NODE_ATTRIBUTES,
        "status": {
            "conditions": [
                {"type": "Denied", "status": "True", "reason": "Test", "message": "", "lastTransitionTime": _MOMENT}
            ]
        },
    },
    "SubjectAccessReview": {"spec": {"user": "jane", "groups": ["a"], "resourceAttributes": _ATTRIBUTES}},
    "LocalSubjectAccessReview": {"spec": {"user": "jane", "resourceAttributes": _ATTRIBUTES}},
    "SelfSubjectAccessReview": {"spec": {"nonResourceAttributes": {"path": "/healthz", "verb": "get"}}},
    "SelfSubjectRulesReview": {"spec": {"namespace": NAMESPACE}},
    "SelfSubjectReview": {},
    "SigningPreview": {
        "spec": {
            "request": _text(PKCS10_PEM),
            "signerName": "kubernetes.io/kube-apiserver-client",
            "usages": ["client auth"],
            "expirationSeconds": 3600,
            "username": "jane",
        },
    },
    "TokenReview": {"spec": {"token": "abcdef.0123456789abcdef", "audiences": ["a"]}},
    "TokenRequest": {
        "spec": {
            "audiences": ["a"],
            "expirationSeconds": 3600,
            "boundObjectRef": {"kind": "Secret", "apiVersion": "v1", "name": "seed", "uid": "u"},
        }
    },
}
_CORE_EVENT = {
    "involvedObject": _REGARDING, "reason": "R", "message": "m", "source": {"component": "c", "host": "h"},
    "firstTimestamp": _MOMENT, "lastTimestamp": _MOMENT, "count": 1, "type": "Normal",
    "eventTime": None, "reportingComponent": "", "reportingInstance": "",
}  # fmt: skip
_NEW_EVENT = {
    "eventTime": "2026-01-01T00:00:00.123456Z", "reportingController": "example.com/c", "reportingInstance": "i",
    "action": "a", "reason": "R", "regarding": _REGARDING, "note": "n", "type": "Normal",
    "series": {"count": 2, "lastObservedTime": "2026-01-01T00:00:00.123456Z"},
}  # fmt: skip


#: Placeholder for the revision of the existing object, of the same length.
REVISION = "@@RV@"


def document(kind, name="seed"):
    """A valid document of a kind; for the existing object, its next version."""
    meta = {
        "name": name,
        **({"resourceVersion": REVISION} if name == "seed" else {}),
        "labels": {"a": "b", "example.com/c": "d"},
        "annotations": {"e": "f"},
        "finalizers": ["example.com/wait"],
        "ownerReferences": [{"apiVersion": "v1", "kind": "ConfigMap", "name": "o", "uid": "u", "controller": True}],
    }
    if kind.namespaced:
        meta["namespace"] = NAMESPACE
    content = _CONTENTS.get(kind.kind)
    if content is None:
        content = _NEW_EVENT if kind.group else _CORE_EVENT
    return {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": meta, **json.loads(json.dumps(content))}


def as_protobuf(kind, name="seed"):
    """The valid document of a kind, as protobuf."""
    return _as_protobuf((*KINDS, *VIRTUAL).index(kind), name)


@functools.cache
def _as_protobuf(number, name):
    kind = (*KINDS, *VIRTUAL)[number]
    obj = codec.decode_tree(document(kind, name), kind.type).object
    return protobuf.encode(obj, kind.api_version, kind.kind)


def collection(kind, namespace=NAMESPACE):
    """The path of a collection."""
    root = f"/apis/{kind.group}/{kind.version}" if kind.group else f"/api/{kind.version}"
    return f"{root}/namespaces/{namespace}/{kind.plural}" if kind.namespaced else f"{root}/{kind.plural}"


def action_path(kind):
    """The path of an action."""
    if kind.parent is not None:
        return f"{collection(kind.parent)}/seed/{kind.plural}"
    return collection(kind)


kinds = st.sampled_from(KINDS)
actions = st.sampled_from(VIRTUAL)

# --- odd values ---------------------------------------------------------------------------------------------------


class Literal(str):
    """JSON that is written unchanged."""

    __slots__ = ()


TEXTS = (
    "", " ", "a", "0", "1", "-1", "true", "null", "a/b", "../..", ".", "..", "%2e%2e", "a\x00b", "\n", "a\r\nb: c",
    "\t", "\x7f", "\u0085", "\u2028", "\u202e", "\ufeff", "\ufffd", "é", "e\u0301", "😀", "\ud800", "\udc00a", "ß", "İ",
    "<&>", '"', "\\", "'", "`", "{}", "[]", "$(id)", "a" * 64, "a" * 254, "A" * 1025, "a." * 130 + "a", "é" * 200,
    "*",
    "system:masters",
    "system:admin", "kubernetes.io/kube-apiserver-client", "kubernetes.io/kubelet-serving", "example.com/foo",
    "Approved",
    "client auth", "2026-01-01T00:00:00Z", "2026-01-01T00:00:00.1Z", "2026-01-01T24:00:00Z", "2026-02-30T00:00:00Z",
    "0000-01-01T00:00:00Z", "0001-01-01T00:00:00Z", "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59",
    "2026-01-01T00:00:00+24:00", "2026-01-01T00:00:00.000000Z", "2026-01-01T00:00:60Z", "٢٠٢٦-01-01T00:00:00Z", "=",
    "====",
    "YQ==", "YQ=", "Y Q==", "YQ\n==", "YR==", "_-8=", "1e3", "0x10", "1_000", "٣", "²", "9" * 30, "9" * 5000,
    "9223372036854775807", "9223372036854775808", "18446744073709551615", "18446744073709551616", "00", "+1", "-0",
    "1.0",
    "__class__", "kubernetes.io/legacy", "v1", "certificates.k8s.io/v1", "FieldsV1", "Apply", "Update", "f:metadata",
    _text(PKCS10_PEM), CERTIFICATE_PEM.decode(), "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n",
    "-----BEGIN ",
)  # fmt: skip
LITERALS = tuple(
    map(
        Literal,
        (
            "0", "-0", "1", "-1", "1.0", "1e2", "1E+2", "1.5", "1e-7", "1e400", "-1e400", "1e999999999", "0.1e-400",
            "2147483647", "2147483648",
            "-2147483649", "9007199254740993", "9223372036854775807", "9223372036854775808", "-9223372036854775809",
            "9" * 25, "9" * 4301, "0." + "1" * 400, "01", "NaN", "-Infinity", "+1", ".5", "1.", "tru", "nil", "'a'",
            r'"\ud800"', r'"\ud83d\ude00"', r'"\x"', r'"\u00"', '"\t"', "{,}", "[,]", "",
        ),
    )
)  # fmt: skip
_words = st.one_of(st.sampled_from(TEXTS), st.text(max_size=8))
#: Text that UTF-8 can encode.
words = _words.map(lambda text: text.encode("utf-8", "replace").decode("utf-8"))
_scalars = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**64), 2**64), st.floats(allow_nan=False, allow_infinity=False), _words
)
_keys = st.one_of(
    st.sampled_from(["name", "metadata", "spec", "status", "key", "type", "a", "$patch", "$retainKeys", "f:a", "."]),
    _words,
)
values = st.recursive(
    st.one_of(_scalars, _scalars, st.sampled_from(LITERALS)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.lists(st.tuples(_keys, inner), max_size=3).map(gojson.Pairs)
    ),
    max_leaves=6,
)


def nested(kind, depth):
    """Deeply nested JSON."""
    opening, closing = {"list": ("[", "]"), "map": ('{"a":', "}"), "both": ('[{"a":', "}]")}[kind]
    return Literal(opening * depth + "1" + closing * depth)


depths = st.builds(nested, st.sampled_from(["list", "map", "both"]), st.sampled_from([40, 300, 2_000, 20_000]))


def pairs(tree):
    """Builtins as a tree that may have duplicate members."""
    if isinstance(tree, dict):
        return gojson.Pairs((key, pairs(value)) for key, value in tree.items())
    return [pairs(item) for item in tree] if isinstance(tree, list) else tree


def dump(tree):
    """A tree as JSON, or almost."""
    if isinstance(tree, Literal):
        return str(tree)
    if isinstance(tree, gojson.Pairs):
        return "{" + ",".join(f"{json.dumps(key)}:{dump(value)}" for key, value in tree) + "}"
    if isinstance(tree, list):
        return "[" + ",".join(map(dump, tree)) + "]"
    return json.dumps(tree)


def places(tree, result):
    """Every place in a tree that holds a value: the container, and the position in it."""
    for position, item in enumerate(tree):
        result.append((tree, position))
        inner = item[1] if isinstance(tree, gojson.Pairs) else item
        if isinstance(inner, list):
            places(inner, result)
    return result


def item_at(place):
    """The value at a place."""
    container, at = place
    return container[at][1] if isinstance(container, gojson.Pairs) else container[at]


def _mutate(draw, tree):
    all_places = places(tree, [])
    if not all_places:
        return
    container, at = all_places[draw(st.integers(0, len(all_places) - 1))]
    is_map = isinstance(container, gojson.Pairs)
    key, value = container[at] if is_map else ("", container[at])

    def put(replacement):
        container[at] = (key, replacement) if is_map else replacement

    act = draw(
        st.sampled_from(["odd", "odd", "odd", "drop", "twice", "wrap", "rename", "more", "deep", "null", "swap"])
    )
    if act == "odd":
        put(draw(values))
    elif act == "drop":
        del container[at]
    elif act == "twice":
        container.insert(draw(st.integers(0, len(container))), copy.deepcopy(container[at]))
    elif act == "wrap":
        put(draw(st.sampled_from([[value], gojson.Pairs([("a", value)]), [copy.deepcopy(value) for _ in range(3)]])))
    elif act == "rename" and is_map:
        container[at] = (draw(st.one_of(_keys, st.just(key.upper()))), value)
    elif act == "more":
        container.insert(at, (draw(_keys), draw(values)) if is_map else draw(values))
    elif act == "deep":
        put(draw(depths))
    elif act == "null":
        put(None)
    elif act == "swap":
        put(copy.deepcopy(item_at(all_places[draw(st.integers(0, len(all_places) - 1))])))


@st.composite
def damaged(draw, source, most=4):
    """A tree with a few errors. `source` generates builtins."""
    tree = pairs(draw(source))
    for _ in range(draw(st.integers(0, most))):
        _mutate(draw, tree)
    return tree


# --- bytes --------------------------------------------------------------------------------------------------------

CHUNKS = (
    b"", b"\x00", b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xef\xbb\xbf", b'"', b"\\", b"{", b"}",
    b"[", b"]", b":",
    b",", b"\n", b"\r", b"\t", b" ", b"-", b"0", b"9" * 40, b"e", b"null", b"/*", b"&a ", b"*a", b"!!binary ",
    b"!!int ", b"!!set ",
    b"!!omap ", b"!!timestamp ", b"!!float ", b"!!python/object:os.system ", b"!a ", b"<<: ", b"? ", b"- ", b"---\n",
    b"...\n", b"%YAML 9\n", b"|\n",
    b">+9\n", b"# ", b"@", b"`", b"~", b"1:20", b".inf", b".nan", b"0o17", b"0b1", b"2026-01-01", b"yes",
    b"\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01",
    b"\x0a\xff\xff\xff\xff\x0f", b"\x0b", b"\x0c", b"\x12\x00", b"\x1a\x7f", b"-----BEGIN X-----\n", b"-----END X-----",
)  # fmt: skip
chunks = st.one_of(st.sampled_from(CHUNKS), st.binary(max_size=4))


@st.composite
def scratched(draw, source, most=3):
    """Bytes with a few changes, losses and repetitions."""
    data = draw(source)
    for _ in range(draw(st.integers(0, most))):
        begin = draw(st.integers(0, len(data)))
        end = min(len(data), begin + draw(st.sampled_from([0, 0, 1, 2, 8, 64, 1 << 20])))
        replacement = draw(st.one_of(chunks, st.just(data[begin:end] * 2)))
        data = data[:begin] + replacement + data[end:]
    return data


def json_bodies(source):
    """JSON that is almost valid."""
    whole = damaged(source).map(lambda tree: dump(tree).encode("utf-8", "surrogatepass"))
    return st.one_of(whole, whole, scratched(whole, 2))


def _yaml(tree):
    try:
        text = yaml.dump(
            gojson.to_builtins(gojson.parse(dump(tree).encode()), numbers=True),
            Dumper=yaml.CSafeDumper,
            allow_unicode=True,
        )
    except (gojson.JSONSyntaxError, ValueError, OverflowError, RecursionError, yaml.YAMLError):
        return dump(tree).encode("utf-8", "surrogatepass")
    return text.encode("utf-8", "replace")


_YAML_SPECIALS = (
    b"a: &x [1]\nb: *x\n", b"&x [*x]", b"a: &a [z]\nb: &b [*a,*a]\nc: [*b,*b]\n", b"{<<: {kind: X}}", b"{<<: [1]}",
    b"{<<: 1}",
    b"? [a]\n: b\n", b"? {a: b}\n", b"1: 2\ntrue: 3\n~: 4\n1.5: 6\n", b"--- a\n--- b\n", b"!!set {a, b}",
    b"!!omap [a: b]", b"!!map [a]",
    b"!!int x", b"!!float x", b"!!bool x", b"!!null x", b"!!timestamp 9", b"!!binary =", b"a: 0x_\n", b"a: 0b\n",
    b"a: 1:2:3\n", b"a: 1_\n",
    b"a: -.inf\n", b"a: 1e999\n", b"a: 0o9\n", b"a: 08\n", b"a: =\n", b"a: \xef\xbf\xbe\n", b"a: \"\\x00\\ud800\"\n",
    b"%TAG ! x:\n--- !a b",
    b"!!python/name:os.system {}", b"!<tag:yaml.org,2002:int> {}", b"[" * 300, b"{a: " * 300, b"- " * 300,
    b"? " * 300, b"*x", b"a: *x",
    b"!!str [a]", b"!!seq {a: b}", b"!!pairs {a: b}", b"!!value {a: b}", b"!!merge x", b"!!yaml x", b"!!int {}",
    b"!!float []",
)  # fmt: skip


def yaml_bodies(source):
    """YAML that is almost valid."""
    whole = damaged(source).map(_yaml)
    special = st.builds(b"".join, st.lists(st.one_of(st.sampled_from(_YAML_SPECIALS), whole), min_size=1, max_size=2))
    return st.one_of(whole, scratched(whole, 3), scratched(special, 1))


# --- protobuf -----------------------------------------------------------------------------------------------------


def varint(number):
    """A varint."""
    encoded = bytearray()
    number &= (1 << 64) - 1
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def field(number, content):
    """A length-delimited field."""
    return varint(number << 3 | 2) + varint(len(content)) + content


numbers = st.one_of(st.integers(1, 20), st.sampled_from([0, 1 << 28, (1 << 29) - 1]))
integers = st.one_of(
    st.integers(0, 300), st.sampled_from([(1 << 31) - 1, 1 << 31, (1 << 63) - 1, 1 << 63, (1 << 64) - 1, 253402300800])
)


def _fields(inner):
    return st.lists(
        st.one_of(
            st.builds(field, numbers, inner),
            st.builds(lambda number, value: varint(number << 3) + varint(value), numbers, integers),
            st.builds(lambda number, data: varint(number << 3 | 1) + data, numbers, st.binary(min_size=8, max_size=8)),
            st.builds(lambda number, data: varint(number << 3 | 5) + data, numbers, st.binary(min_size=4, max_size=4)),
            st.builds(lambda number: varint(number << 3 | 3) + varint(number << 3 | 4), numbers),
        ),
        max_size=4,
    ).map(b"".join)


messages = st.recursive(
    st.one_of(
        st.binary(max_size=6), words.map(str.encode), st.sampled_from([PKCS10_PEM, b'{"f:a":{}}', b"{}", b"null"])
    ),
    _fields,
    max_leaves=8,
)


def _enveloped(kind, raw):
    meta = field(1, kind.api_version.encode()) + field(2, kind.kind.encode())
    return protobuf.PREFIX + field(1, meta) + field(2, raw)


def _deep_message(kind, number, depth):
    data = b""
    for _ in range(depth):
        data = field(number, data)
    return _enveloped(kind, data)


def _raw(kind):
    return protobuf.decode(as_protobuf(kind), kind.type, kind.api_version).raw


def protobuf_bodies(kind, name="seed"):
    """Protobuf that is almost valid."""
    good = st.just(as_protobuf(kind, name))
    inside = scratched(st.just(_raw(kind)), 3).map(lambda raw: _enveloped(kind, raw))
    # What is appended to a message is merged into it.
    meta = st.builds(lambda content: field(1, content), messages)
    more = st.one_of(messages, meta).map(lambda extra: _enveloped(kind, _raw(kind) + extra))
    deep = st.builds(_deep_message, st.just(kind), st.integers(1, 3), st.sampled_from([90, 101, 2000]))
    return st.one_of(good, scratched(good, 3), inside, more, messages.map(lambda raw: _enveloped(kind, raw)), deep)
