"""ClusterTrustBundle: validation, encoding and declaration."""

from __future__ import annotations

import datetime
import functools
import json

import pytest

from certplane.meta import objects
from certplane.resources import clustertrustbundles as bundles
from certplane.wire import codec, protobuf
from certplane.x509.issuance import selfsigned
from tests.unit.x509 import material

BEGINS = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
SIGNER = "example.com/foo"
LABEL = (
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with "
    "an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is "
    "'[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
)
SUBDOMAIN = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and "
    "end with an alphanumeric character (e.g. 'example.com', regex used for validation is "
    r"'[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
)


@functools.cache
def anchor(number=0):
    lifetime = datetime.timedelta(days=1)
    return selfsigned.self_signed_ca(f"ca-{number}", material.key("P-256", number), BEGINS, lifetime).decode()


def bundle(name="b", signer="", text=None, prefix=""):
    return bundles.ClusterTrustBundle(
        metadata=objects.ObjectMeta(name=name, generate_name=prefix),
        spec=bundles.ClusterTrustBundleSpec(signer_name=signer, trust_bundle=anchor() if text is None else text),
    )


def texts(problems):
    return [str(problem) for problem in problems]


def named_with_prefix(signer, prefix):
    return f"ClusterTrustBundle for signerName {signer} must be named with prefix {prefix}"


@pytest.mark.parametrize(
    ("signer", "name", "expected"),
    [
        ("", "a.b-c", []),
        ("", "a:b", ['ClusterTrustBundle without signer name must not have ":" in its name']),
        ("", "A", [SUBDOMAIN]),
        (SIGNER, "example.com:foo:bar", []),
        (SIGNER, "example.com:foo:bar:baz", [SUBDOMAIN]),
        (SIGNER, "example.com:foo:", [SUBDOMAIN]),
        (SIGNER, "example.com:foo", [named_with_prefix(SIGNER, "example.com:foo:")]),
        (SIGNER, "bar", [named_with_prefix(SIGNER, "example.com:foo:")]),
        ("kubernetes.io/legacy-unknown", "kubernetes.io:legacy-unknown:x", []),
    ],
)
def test_names_begin_with_the_signer(signer, name, expected):
    """The name of a bundle without a signer has no colon."""
    assert texts(bundles.validate(bundle(name, signer))) == [
        f'metadata.name: Invalid value: "{name}": {detail}' for detail in expected
    ]


@pytest.mark.parametrize(
    ("signer", "prefix", "expected"),
    [
        ("", "a-", []),
        ("", "a--", []),
        ("", "-", [SUBDOMAIN]),
        (SIGNER, "example.com:foo:bar-", []),
        (SIGNER, "example.com:foo:", [SUBDOMAIN]),
        (SIGNER, "example.com:foo", [named_with_prefix(SIGNER, "example.com:foo:")]),
    ],
)
def test_a_generate_name_may_end_in_a_hyphen(signer, prefix, expected):
    """Otherwise it is validated like a name."""
    assert texts(bundles.validate(bundle("", signer, prefix=prefix))) == [
        f'metadata.generateName: Invalid value: "{prefix}": {detail}' for detail in expected
    ]


@pytest.mark.parametrize(
    ("signer", "expected"),
    [
        (
            "foo",
            ["Invalid value: \"foo\": must be a fully qualified domain and path of the form 'example.com/signer-name'"],
        ),
        (
            "com/foo",
            ['Invalid value: "com": should be a domain with at least two segments separated by dots'],
        ),
        ("A.com/foo", [f'Invalid value: "A.com": validating label "A": {LABEL}']),
        ("a.com/f_o", [f'Invalid value: "f_o": validating label "f_o": {SUBDOMAIN}']),
        (f"{'a.' * 127}com/foo", ["Too long: may not be more than 253 bytes"]),
        (f"a.com/{'a.' * 290}a", ["Too long: may not be more than 571 bytes"]),
        (
            f"{'a' * 63}A.com/foo",
            [
                f'Invalid value: "{"a" * 63}A.com": validating label "{"a" * 63}A": {detail}'
                for detail in ("must be no more than 63 characters", LABEL)
            ],
        ),
    ],
)
def test_invalid_signer_names_are_refused(signer, expected):
    """A signer name has a domain and a path of limited length."""
    problems = bundles.validate(bundle(signer.replace("/", ":") + ":x", signer))
    assert texts(problems) == [f"spec.signerName: {detail}" for detail in expected]


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: anchor() + anchor(1), []),
        (lambda: "", ['Invalid value: "<value omitted>": at least one trust anchor must be provided']),
        (lambda: "x" * 1048577, ["Too long: may not be more than 1048576 bytes"]),
        (lambda: "ä" * 524289, ["Too long: may not be more than 1048576 bytes"]),
        (
            lambda: anchor() + anchor(),
            ['Invalid value: "<value omitted>": duplicate trust anchor (indices [0 1])'],
        ),
        (
            lambda: anchor().replace("CERTIFICATE", "KEY"),
            ['Invalid value: "<value omitted>": entry 0 has bad block type: KEY'],
        ),
    ],
)
def test_trust_bundles_are_validated(make, expected):
    """They have at most 1 MiB, and are not repeated in errors."""
    problems = bundles.validate(bundle(text=make()))
    assert texts(problems) == [f"spec.trustBundle: {detail}" for detail in expected]


def test_an_unchanged_bundle_is_not_validated_again():
    """A stored bundle can be updated even if today's rules refuse it; a new one is validated."""
    old = bundle(text="odd")
    assert not bundles.validate_update(bundle(text="odd"), old)
    assert bundles.validate_update(bundle(text="odder"), old)


def test_the_signer_is_immutable():
    """The name, which begins with the signer, is immutable as well."""
    problems = bundles.validate_update(bundle("b", SIGNER), bundle("b"))
    assert texts(problems) == [
        f'metadata.name: Invalid value: "b": {named_with_prefix(SIGNER, "example.com:foo:")}',
        f'spec.signerName: Invalid value: "{SIGNER}": field is immutable',
    ]


def test_encoding():
    """trustBundle is always written, signerName if it is set. An object is the same after a round trip through
    protobuf.
    """
    assert json.loads(codec.encode(bundles.ClusterTrustBundle()))["spec"] == {"trustBundle": ""}
    obj = bundle("example.com:foo:x", SIGNER)
    obj.kind, obj.api_version = "ClusterTrustBundle", "certificates.k8s.io/v1beta1"
    body = protobuf.encode(obj, obj.api_version, obj.kind)
    assert protobuf.decode(body, bundles.ClusterTrustBundle, obj.api_version).object == obj


def test_declaration():
    """Tables and selectors are the same in both versions."""
    for kind, version in ((bundles.RESOURCE, "v1beta1"), (bundles.RESOURCE_V1, "v1")):
        assert (kind.version, kind.namespaced, kind.allow_unconditional_update) == (version, False, False)
        cells = {column.name: column.cell(bundle(), BEGINS) for column in kind.columns}
        assert cells == {"Name": "b", "SignerName": "<none>"}
        assert {name: get(bundle(signer=SIGNER)) for name, get in kind.selectable.items()} == {
            "spec.signerName": SIGNER
        }
        assert kind.unknown_selector("spec.x") == "field label not supported: spec.x"
    assert bundles.RESOURCE.storage_version_hash == "v5yhuVertL4="
