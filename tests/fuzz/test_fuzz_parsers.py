"""Parsers of untrusted input: a result, or the parser's own error."""

from __future__ import annotations

import contextlib
import datetime
import json
import time

import hypothesis
import pytest
from hypothesis import strategies as st

from certplane import errors
from certplane.golang import asn1, formatting, gojson, goyaml, pem
from certplane.meta import context, options, selectors, shapes
from certplane.patch import jsonpatch, strategic
from certplane.registry import paging
from certplane.server import auditpolicy, exchange, negotiation, requestinfo
from certplane.wire import codec, protobuf
from certplane.x509 import certificatenames
from certplane.x509.pkcs10 import certificaterequest
from certplane.x509.trust import certificatesyntax
from tests.fuzz import documents, strategies
from tests.fuzz.world import examples


@examples(750)
@hypothesis.given(data=documents.scratched(st.just(documents.PKCS10_DER), 4))
def test_pkcs10(data):
    """A manipulated PKCS#10 is parsed or refused; its signature is valid or not."""
    with contextlib.suppress(certificaterequest.RequestError):
        certificaterequest.verify(certificaterequest.parse_der(data))


@examples(300)
@hypothesis.given(data=documents.scratched(st.sampled_from([documents.PKCS10_PEM, documents.CERTIFICATE_PEM]), 5))
def test_pem(data):
    """Any text has PEM blocks or none; a request in it is parsed or refused."""
    for block in pem.blocks(data * 2):
        again = pem.first_block(pem.encode("X", block.data))
        assert again is not None
        assert again.data == block.data
    with contextlib.suppress(certificaterequest.RequestError):
        certificaterequest.parse(data)


@st.composite
def elements(draw):
    """Almost DER: nested elements, with lengths that may be wrong."""

    def element(tag, content, length_error):
        size = max(0, len(content) + length_error)
        if size < 128:
            return bytes((tag, size)) + content
        length = size.to_bytes((size.bit_length() + 7) // 8, "big")
        return bytes((tag, 0x80 | len(length))) + length + content

    tags = st.sampled_from(
        [0x02, 0x03, 0x04, 0x05, 0x06, 0x0C, 0x13, 0x16, 0x1E, 0x30, 0x31, 0xA0, 0x81, 0x86, 0x87, 0x1F, 0]
    )
    length_errors = st.sampled_from([0, 0, 0, 0, 0, 0, 1, -1, 1 << 40])
    leaves = st.one_of(
        st.binary(max_size=5),
        st.sampled_from(
            [b"\x2a\x86\x48\x86\xf7\x0d\x01\x09\x0e", b"\x55\x1d\x11", b"\x55\x04\x03", b"\x80", b"\x00" * 3]
        ),
    )
    tree = st.recursive(
        st.builds(element, tags, leaves, length_errors),
        lambda inner: st.builds(
            lambda tag, parts, error: element(tag, b"".join(parts), error),
            tags,
            st.lists(inner, max_size=4),
            length_errors,
        ),
        max_leaves=12,
    )
    return draw(tree)


@examples(500)
@hypothesis.given(inner=elements(), at=st.integers(0, 2))
def test_der(inner, at):
    """Generated elements, alone and in the place of a name or of the attributes of a request."""
    with contextlib.suppress(asn1.DERError, certificaterequest.RequestError):
        certificatenames.parse_name(inner)
    whole = asn1.Reader(documents.PKCS10_DER).read(asn1.TAG_SEQUENCE, "").content
    information, *rest = asn1.Reader(whole)
    parts = [element.raw for element in asn1.Reader(information.content)]
    parts[at + 1] = inner
    body = _sequence(_sequence(b"".join(parts)) + b"".join(element.raw for element in rest))
    with contextlib.suppress(certificaterequest.RequestError):
        certificaterequest.parse_der(body)


def _sequence(content):
    size = len(content).to_bytes(3, "big")
    return b"\x30\x83" + size + content if len(content) > 0xFFFF else b"\x30\x82" + size[1:] + content


URIS = st.lists(
    st.sampled_from(["spiffe", ":", "//", "/", "a", "[", "]", "::1", "%", "%41", "%zz", "@", "?", "#", ".", "\\", " ",
    "80", "\x01", "[v1.a]"]),
    max_size=8,
).map("".join)  # fmt: skip


@examples(300)
@hypothesis.given(uri=URIS)
def test_uris_of_requests(uri):
    """Any URI in a request is parsed or refused; a parsed one can be written into a certificate."""
    names = asn1.encode(0x30, asn1.encode(0x86, uri.encode()))
    extension = asn1.encode(0x30, b"\x06\x03\x55\x1d\x11" + asn1.encode(0x04, names))
    attribute = b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x09\x0e" + asn1.encode(0x31, asn1.encode(0x30, extension))
    information, *rest = asn1.Reader(asn1.Reader(documents.PKCS10_DER).read(asn1.TAG_SEQUENCE, "").content)
    parts = [element.raw for element in asn1.Reader(information.content)][:3]
    parts.append(asn1.encode(0xA0, asn1.encode(0x30, attribute)))
    whole = asn1.encode(0x30, asn1.encode(0x30, b"".join(parts)) + b"".join(element.raw for element in rest))
    uris, problem = ("",), ""
    try:
        uris = certificaterequest.parse_der(whole).uris
    except certificaterequest.RequestError as error:
        problem = str(error)
    assert problem.startswith("x509: cannot parse URI") or (not problem and uris[0].isascii())


@examples(500)
@hypothesis.given(data=documents.scratched(st.just(pem.first_block(documents.CERTIFICATE_PEM).data), 4))
def test_certificates(data):
    """A manipulated certificate is parsed or refused."""
    with contextlib.suppress(certificatesyntax.CertificateSyntaxError):
        assert certificatesyntax.check(data) >= 0


@examples(750)
@hypothesis.given(text=st.one_of(strategies.label_selectors, strategies.field_selectors))
def test_selectors(text):
    """A selector that parses is printed as one with the same terms; any other is a bad request. The order of field
    terms is that of their texts, as in Kubernetes: `==` and `=` are the same term in two places.
    """
    for parse in (selectors.parse_labels, selectors.parse_fields):
        with contextlib.suppress(errors.BadRequest):
            parsed = parse(text)
            if parse is selectors.parse_labels:
                parsed.matches({"a": "b", "b": "5"})
            else:
                assert sorted(map(str, parse(str(parsed)).terms)) == sorted(map(str, parsed.terms))


JSON_TEXTS = documents.scratched(
    documents.values.map(lambda tree: documents.dump(tree).encode("utf-8", "surrogatepass")), 2
)


@examples(500)
@hypothesis.given(data=JSON_TEXTS)
def test_json(data):
    """Both parsers agree, and report only syntax errors."""
    try:
        exact = gojson.parse(data)
    except gojson.JSONSyntaxError:
        with pytest.raises(gojson.JSONSyntaxError, match=r"."):
            codec.parse_json(data)
    else:
        assert codec.parse_json(data) == exact
        list(gojson.find_duplicates(exact))
        codec.encode(gojson.to_builtins(exact, numbers=False))


@examples(500)
@hypothesis.given(data=documents.yaml_bodies(documents.values.map(lambda tree: {"a": tree})))
def test_yaml(data):
    """YAML is a tree that JSON can represent, or an error with a message."""
    with contextlib.suppress(goyaml.YAMLError):
        tree = goyaml.parse(data)
        codec.encode(gojson.to_builtins(tree, numbers=False))
        if gojson.find_duplicates(tree):
            goyaml.find_duplicates(data)


@examples(400)
@hypothesis.given(value=st.recursive(st.one_of(st.none(), st.booleans(), documents.words), st.lists, max_leaves=4))
def test_yaml_round_trip(value):
    """Text survives a round trip through YAML."""
    assert goyaml.load(goyaml.dump({"a": value})) == {"a": value}


@examples(300)
@hypothesis.given(text=strategies.durations)
def test_durations(text):
    """A duration, or none."""
    duration = formatting.parse_duration(text)
    assert duration is None or isinstance(duration, datetime.timedelta)


@examples(300)
@hypothesis.given(token=strategies.tokens)
def test_continue_tokens(token):
    """A position in a list, or BadRequest."""
    with contextlib.suppress(errors.BadRequest):
        position = paging.decode(token)
        assert isinstance(position.start, str)
        assert isinstance(position.revision, int)


@examples(300)
@hypothesis.given(query=strategies.queries, path=strategies.paths, method=st.sampled_from(strategies.METHODS))
def test_request_options(query, path, method):
    """Options are parsed or refused, for any kind."""
    parameters = exchange.parse_query(query)
    requestinfo.parse(method, path, parameters)
    for parse in (
        options.list_options,
        options.create_options,
        lambda query: options.patch_options(query, is_apply=True),
        lambda query: options.delete_options(query, None),
    ):
        with contextlib.suppress(errors.APIError):
            parse(parameters)


@examples(400)
@hypothesis.given(accept=strategies.accepts)
def test_accept(accept):
    """A media type, or NotAcceptable."""
    with contextlib.suppress(errors.APIError):
        negotiation.check_media_types(accept, negotiation.MEDIA_TYPES)
        form = negotiation.negotiate(accept, negotiation.ALL_TRANSFORMS)
        assert form.media_type in negotiation.SUPPORTED
    assert negotiation.negotiate_status(accept).transform == ""


@pytest.mark.parametrize(
    "kind", [*documents.KINDS, *documents.VIRTUAL], ids=lambda kind: f"{kind.kind}, {kind.api_version}"
)
@examples(30)
@hypothesis.given(data=st.data())
def test_protobuf(kind, data):
    """Messages are objects that survive a round trip through both encodings, or BadRequest."""
    body = data.draw(documents.protobuf_bodies(kind))
    with contextlib.suppress(errors.BadRequest):
        obj = protobuf.decode(body, kind.type, kind.api_version).object
        encoded = codec.encode(obj)
        json.loads(encoded)
        assert codec.encode(codec.decode(encoded, kind.type)) == encoded
        protobuf.encode(obj, kind.api_version, kind.kind)


POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "omitManagedFields": True,
    "rules": [
        {
            "level": "Metadata", "users": ["a"], "userGroups": ["b"], "verbs": ["get"], "namespaces": ["c", ""],
            "resources": [{"group": "", "resources": ["pods", "pods/log", "*/status"], "resourceNames": ["d"]}],
        },
        {"level": "None", "nonResourceURLs": ["/healthz*", "/"], "omitStages": ["Panic"]},
    ],
}  # fmt: skip


@examples(400)
@hypothesis.given(data=documents.yaml_bodies(st.just(POLICY)))
def test_audit_policies(data):
    """A policy that evaluates any request, or an error with a message."""
    try:
        policy = auditpolicy.parse(data)
    except auditpolicy.InvalidPolicy:
        return
    for is_resource in (True, False):
        attributes = context.Attributes(
            context.User("a", groups=("b",)), "get", resource="pods", is_resource=is_resource
        )
        policy.evaluate(attributes)


@pytest.mark.parametrize("kind", ["list", "map", "both"])
@pytest.mark.parametrize("depth", [100, 5_000, 200_000])
def test_nested_input(kind, depth):
    """Every parser accepts deeply nested input in reasonable time, or refuses it."""
    text = documents.nested(kind, depth).encode()
    shape = shapes.shape_of(documents.KINDS[0].type)
    begun = time.process_time()
    with contextlib.suppress(goyaml.YAMLError):
        goyaml.parse(text)
    with contextlib.suppress(gojson.JSONSyntaxError):
        tree = codec.parse_json(text)
        list(gojson.find_duplicates(tree))
        plain = gojson.to_builtins(tree)
        with contextlib.suppress(codec.DecodeError):
            codec.decode_tree(tree, documents.KINDS[0].type)
        for change in (jsonpatch.merge_patch, lambda old, changed: strategic.merge(old, changed, shape)):
            with contextlib.suppress(errors.APIError):
                change({}, {"a": plain})
        with contextlib.suppress(errors.APIError):
            jsonpatch.json_patch({}, [{"op": "add", "path": "/a", "value": plain}])
    assert time.process_time() - begun < 10
