"""The readers of strangers' bytes and texts, each by itself: a result, or a refusal in the reader's own words."""

from __future__ import annotations

import contextlib
import datetime
import json
import time

import hypothesis
import pytest
from hypothesis import strategies as st

from certplane import errors, gotext
from certplane.meta import codec, context, gojson, goyaml, options, patches, protobuf, selectors, shape, strategic
from certplane.registry import paging
from certplane.server import auditpolicy, exchange, negotiation, requestinfo
from certplane.x509 import certform, csr, der, pem
from tests.fuzz import documents, strategies
from tests.fuzz.world import examples


@examples(750)
@hypothesis.given(data=documents.scratched(st.just(documents.PKCS10_DER), 4))
def test_pkcs10(data):
    """A request that was tampered with is read or refused, and what is read says whether its signature is good."""
    with contextlib.suppress(csr.RequestError):
        csr.verify(csr.parse_der(data))


@examples(300)
@hypothesis.given(data=documents.scratched(st.sampled_from([documents.PKCS10_PEM, documents.CERTIFICATE_PEM]), 5))
def test_pem(data):
    """Any text has blocks, or none; a request in it is read or refused."""
    for block in pem.blocks(data * 2):
        again = pem.first(pem.encode("X", block.data))
        assert again is not None
        assert again.data == block.data
    with contextlib.suppress(csr.RequestError):
        csr.parse(data)


@st.composite
def elements(draw):
    """DER, nearly: elements in elements, with lengths that do not always fit."""

    def element(tag, content, lie):
        size = max(0, len(content) + lie)
        if size < 128:
            return bytes((tag, size)) + content
        length = size.to_bytes((size.bit_length() + 7) // 8, "big")
        return bytes((tag, 0x80 | len(length))) + length + content

    tags = st.sampled_from(
        [0x02, 0x03, 0x04, 0x05, 0x06, 0x0C, 0x13, 0x16, 0x1E, 0x30, 0x31, 0xA0, 0x81, 0x86, 0x87, 0x1F, 0]
    )
    lies = st.sampled_from([0, 0, 0, 0, 0, 0, 1, -1, 1 << 40])
    leaves = st.one_of(
        st.binary(max_size=5),
        st.sampled_from(
            [b"\x2a\x86\x48\x86\xf7\x0d\x01\x09\x0e", b"\x55\x1d\x11", b"\x55\x04\x03", b"\x80", b"\x00" * 3]
        ),
    )
    tree = st.recursive(
        st.builds(element, tags, leaves, lies),
        lambda inner: st.builds(
            lambda tag, parts, lie: element(tag, b"".join(parts), lie), tags, st.lists(inner, max_size=4), lies
        ),
        max_leaves=12,
    )
    return draw(tree)


@examples(500)
@hypothesis.given(inner=elements(), at=st.integers(0, 2))
def test_der(inner, at):
    """Elements that were made up, alone and where a name or the attributes of a request should be."""
    with contextlib.suppress(der.DERProblem, csr.RequestError):
        csr.parse_name(inner)
    whole = der.Reader(documents.PKCS10_DER).read(der.SEQUENCE, "").content
    information, *rest = der.Reader(whole)
    parts = [each.raw for each in der.Reader(information.content)]
    parts[at + 1] = inner
    body = _sequence(_sequence(b"".join(parts)) + b"".join(each.raw for each in rest))
    with contextlib.suppress(csr.RequestError):
        csr.parse_der(body)


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
def test_names_of_requests(uri):
    """Any address in a request is read or refused; what is read can be written into a certificate."""
    names = der.encode(0x30, der.encode(0x86, uri.encode()))
    extension = der.encode(0x30, b"\x06\x03\x55\x1d\x11" + der.encode(0x04, names))
    asked = b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x09\x0e" + der.encode(0x31, der.encode(0x30, extension))
    information, *rest = der.Reader(der.Reader(documents.PKCS10_DER).read(der.SEQUENCE, "").content)
    parts = [each.raw for each in der.Reader(information.content)][:3]
    parts.append(der.encode(0xA0, der.encode(0x30, asked)))
    whole = der.encode(0x30, der.encode(0x30, b"".join(parts)) + b"".join(each.raw for each in rest))
    found, problem = ("",), ""
    try:
        found = csr.parse_der(whole).uris
    except csr.RequestError as error:
        problem = str(error)
    assert problem.startswith("x509: cannot parse URI") or (not problem and found[0].isascii())


@examples(500)
@hypothesis.given(data=documents.scratched(st.just(pem.first(documents.CERTIFICATE_PEM).data), 4))
def test_certificates(data):
    """A certificate that was tampered with has the form of one, or is refused."""
    with contextlib.suppress(certform.FormProblem):
        assert certform.check(data) >= 0


@examples(750)
@hypothesis.given(text=st.one_of(strategies.label_selectors, strategies.field_selectors))
def test_selectors(text):
    """What parses prints as something that parses to the same terms; the rest is a bad request. The order of field
    terms is that of their texts, as in Kubernetes: `==` and `=` are the same term in two places.
    """
    for parse in (selectors.parse_labels, selectors.parse_fields):
        with contextlib.suppress(errors.BadRequest):
            found = parse(text)
            if parse is selectors.parse_labels:
                found.matches({"a": "b", "b": "5"})
            else:
                assert sorted(map(str, parse(str(found)).terms)) == sorted(map(str, found.terms))


JSON_TEXTS = documents.scratched(
    documents.values.map(lambda tree: documents.dump(tree).encode("utf-8", "surrogatepass")), 2
)


@examples(500)
@hypothesis.given(data=JSON_TEXTS)
def test_json(data):
    """Both readers agree with each other, and say nothing but a syntax problem."""
    try:
        exact = gojson.parse(data)
    except gojson.SyntaxProblem:
        with pytest.raises(gojson.SyntaxProblem, match=r"."):
            codec.parse_json(data)
    else:
        assert codec.parse_json(data) == exact
        list(gojson.duplicates(exact))
        codec.encode(gojson.plain(exact, numbers=False))


@examples(500)
@hypothesis.given(data=documents.yaml_bodies(documents.values.map(lambda tree: {"a": tree})))
def test_yaml(data):
    """YAML is a tree that JSON can say, or a problem with words."""
    with contextlib.suppress(goyaml.Problem):
        tree = goyaml.parse(data)
        codec.encode(gojson.plain(tree, numbers=False))
        if gojson.duplicates(tree):
            goyaml.duplicates(data)


@examples(400)
@hypothesis.given(value=st.recursive(st.one_of(st.none(), st.booleans(), documents.words), st.lists, max_leaves=4))
def test_yaml_comes_back(value):
    """Text that is written as YAML is the same text when it is read."""
    assert goyaml.load(goyaml.dump({"a": value})) == {"a": value}


@examples(300)
@hypothesis.given(text=strategies.durations)
def test_durations(text):
    """A duration, or none."""
    found = gotext.parse_duration(text)
    assert found is None or isinstance(found, datetime.timedelta)


@examples(300)
@hypothesis.given(token=strategies.tokens)
def test_continue_tokens(token):
    """A place to go on from, or a bad request."""
    with contextlib.suppress(errors.BadRequest):
        found = paging.decode(token)
        assert isinstance(found.start, str)
        assert isinstance(found.revision, int)


@examples(300)
@hypothesis.given(query=strategies.queries, path=strategies.paths, method=st.sampled_from(strategies.METHODS))
def test_request_lines(query, path, method):
    """Options are read or refused, whatever they are said to be of."""
    found = exchange.parse_query(query)
    requestinfo.parse(method, path, found)
    for judge in (
        options.list_options,
        options.create_options,
        lambda given: options.patch_options(given, applies=True),
        lambda given: options.delete_options(given, None),
    ):
        with contextlib.suppress(errors.APIError):
            judge(found)


@examples(400)
@hypothesis.given(accept=strategies.accepts)
def test_accept(accept):
    """A form, or the refusal to answer in none; be it of the route or of its forms."""
    with contextlib.suppress(errors.APIError):
        negotiation.check_route(accept, negotiation.LISTED)
        form = negotiation.negotiate(accept, negotiation.ALL_TRANSFORMS)
        assert form.media_type in negotiation.ACCEPTED
    assert negotiation.status_form(accept).transform == ""


@pytest.mark.parametrize("of", [*documents.KINDS, *documents.ACTIONS], ids=lambda of: f"{of.kind}, {of.api_version}")
@examples(30)
@hypothesis.given(data=st.data())
def test_protobuf(of, data):
    """Messages are objects, which can be written in both forms and read again, or bad requests."""
    body = data.draw(documents.protobuf_bodies(of))
    with contextlib.suppress(errors.BadRequest):
        found = protobuf.decode(body, of.type, of.api_version).object
        encoded = codec.encode(found)
        json.loads(encoded)
        assert codec.encode(codec.decode(encoded, of.type)) == encoded
        protobuf.encode(found, of.api_version, of.kind)


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
    """A policy that judges any request, or a problem with words."""
    try:
        policy = auditpolicy.parse(data)
    except auditpolicy.PolicyProblem:
        return
    for is_resource in (True, False):
        asked = context.Attributes(context.User("a", groups=("b",)), "get", resource="pods", is_resource=is_resource)
        policy.judge(asked)


@pytest.mark.parametrize("kind", ["list", "map", "both"])
@pytest.mark.parametrize("depth", [100, 5_000, 200_000])
def test_depth(kind, depth):
    """What is nested deeply is read in reasonable time, or refused, by everybody who reads it."""
    text = documents.nested(kind, depth).encode()
    of = shape.of(documents.KINDS[0].type)
    begun = time.process_time()
    with contextlib.suppress(goyaml.Problem):
        goyaml.parse(text)
    with contextlib.suppress(gojson.SyntaxProblem):
        tree = codec.parse_json(text)
        list(gojson.duplicates(tree))
        plain = gojson.plain(tree)
        with contextlib.suppress(codec.ReadProblem):
            codec.read(tree, documents.KINDS[0].type)
        for change in (patches.merge_patch, lambda old, new: strategic.merge(old, new, of)):
            with contextlib.suppress(errors.APIError):
                change({}, {"a": plain})
        with contextlib.suppress(errors.APIError):
            patches.json_patch({}, [{"op": "add", "path": "/a", "value": plain}])
    assert time.process_time() - begun < 10
