"""Rarer extensions of certificates that were issued elsewhere, with the error texts of Go."""

from __future__ import annotations

import pytest

from certplane.golang import asn1, dertags
from certplane.x509 import oids
from certplane.x509.tbs import template
from certplane.x509.trust import certificatesyntax
from tests.unit.x509 import material

URL = asn1.encode(0x86, b"https://a.example/x")
DNS = asn1.encode(0x82, b"a.example")


def sequence(*parts):
    return asn1.encode(0x30, b"".join(parts))


def context(tag, *parts):
    return asn1.encode(0xA0 | tag, b"".join(parts))


def certificate(*after_key, oid="", value=b""):
    """A certificate with these fields behind its key, and an extension if there is an OID."""
    outer = asn1.Reader(material.ca_certificate(material.key())).read_any()
    tbs, *rest = asn1.Reader(outer.content)
    fields = [field.raw for field in asn1.Reader(tbs.content)][:-1]
    if oid:
        extension = sequence(template.encode_oid(oid), asn1.encode(0x04, value))
        after_key = (*after_key, asn1.encode(certificatesyntax.EXTENSIONS, sequence(extension)))
    return sequence(sequence(*fields, *after_key), *(element.raw for element in rest))


def problem(data):
    """The error for a certificate; empty if it is well-formed."""
    try:
        assert certificatesyntax.check(data) == 1
    except certificatesyntax.CertificateSyntaxError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (sequence(), ""),
        (sequence(sequence()), ""),
        (sequence(sequence(context(0, context(0, URL)))), ""),
        (sequence(sequence(context(0, context(0, URL, URL))), sequence(context(0, context(0)))), ""),
        (sequence(sequence(context(0, context(0, DNS)))), ""),
        (sequence(sequence(asn1.encode(0x81, b"\x01"))), ""),
        (b"\x05\x00", "CRL distribution points"),
        (sequence(b"\x05\x00"), "CRL distribution point"),
        (sequence(sequence(context(0, URL))), "CRL distribution point"),
        (sequence(sequence(context(0))), "CRL distribution point"),
        (sequence(sequence(context(0, context(0, URL))), b"\x05\x00"), "CRL distribution point"),
    ],
)
def test_crl_distribution_points(value, expected):
    """The names of a point may be of any type; points without names are skipped."""
    assert problem(certificate(oid=oids.CRL_DISTRIBUTION_POINTS, value=value)) == (
        f"x509: invalid {expected}" if expected else ""
    )


OCSP = template.encode_oid("1.3.6.1.5.5.7.48.1")


@pytest.mark.parametrize(
    ("value", "is_valid"),
    [
        (sequence(), True),
        (sequence(sequence(OCSP, URL)), True),
        (sequence(sequence(OCSP, DNS), sequence(OCSP, URL)), True),
        (sequence(sequence(OCSP)), True),
        (sequence(sequence(URL)), False),
        (sequence(sequence(OCSP, URL), b"\x05\x00"), False),
        (sequence(sequence(b"\x06\x00", URL)), False),
    ],
)
def test_authority_information_access(value, is_valid):
    """Each access has a method, and a name of any type."""
    expected = "" if is_valid else "x509: invalid authority info access"
    assert problem(certificate(oid=oids.AUTHORITY_INFORMATION_ACCESS, value=value)) == expected


@pytest.mark.parametrize(
    ("tag", "name"), [(certificatesyntax.ISSUER_UNIQUE_ID, "issuer"), (certificatesyntax.SUBJECT_UNIQUE_ID, "subject")]
)
def test_unique_identifiers_are_skipped(tag, name):
    """RFC 5280 section 4.1.2.8 allows them for old certificates; extensions may follow."""
    identifier = asn1.encode(tag, b"\x00\x01")
    assert problem(certificate(identifier)) == ""
    assert problem(certificate(identifier, oid=oids.BASIC_CONSTRAINTS, value=b"\x05\x00")) == (
        "x509: invalid basic constraints"
    )
    assert problem(certificate(identifier[:1] + b"\x7f")) == f"x509: malformed {name}UniqueID"


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        (sequence(sequence(template.encode_oid(oids.ED25519)), b"\x03\x03\x00ab"), "wrong Ed25519 public key size"),
        (
            sequence(sequence(template.encode_oid(oids.ED25519), dertags.ENCODED_NULL), b"\x03\x21\x00" + bytes(32)),
            "Ed25519 key encoded with illegal parameters",
        ),
        (
            sequence(sequence(template.encode_oid(oids.RSA_ENCRYPTION)), b"\x03\x03\x00\x30\x00"),
            "RSA key missing NULL parameters",
        ),
        (
            sequence(sequence(template.encode_oid(oids.EC_PUBLIC_KEY), template.encode_oid("1.2.3")), b"\x03\x01\x00"),
            "unsupported elliptic curve",
        ),
    ],
)
def test_a_malformed_key_makes_a_certificate_malformed(key, expected):
    """With the error of the key."""
    outer = asn1.Reader(material.ca_certificate(material.key())).read_any()
    tbs, *rest = asn1.Reader(outer.content)
    fields = [field.raw for field in asn1.Reader(tbs.content)]
    fields[6] = key
    assert problem(sequence(sequence(*fields), *(element.raw for element in rest))) == f"x509: {expected}"


def constraints(*names, tag=0, after=b""):
    return sequence(context(tag, *(sequence(name) for name in names)), after)


@pytest.mark.parametrize("tag", [0, 1])
@pytest.mark.parametrize(
    ("kind", "text", "expected"),
    [
        (0x82, b"example.com", ""),
        (0x82, b".example.com", ""),
        (0x82, b"", ""),
        (0x82, b"*.example.com", ""),
        (0x82, b"a..b", 'failed to parse dnsName constraint "a..b"'),
        (
            0x82,
            "exämple".encode("latin-1"),
            'invalid constraint value: x509: "exämple" cannot be encoded as an IA5String',
        ),
        (0x81, b"jane@example.com", ""),
        (0x81, b"example.com", ""),
        (0x81, b"a b@example.com", 'failed to parse rfc822Name constraint "a b@example.com"'),
        (0x81, b"a..b", 'failed to parse rfc822Name constraint "a..b"'),
        (0x86, b"example.com", ""),
        (0x86, b".example.com", ""),
        (0x86, b"10.0.0.1", 'failed to parse URI constraint "10.0.0.1": cannot be IP address'),
        (0x86, b"::1", 'failed to parse URI constraint "::1": cannot be IP address'),
        (0x86, b"a..b", 'failed to parse URI constraint "a..b"'),
        (0x87, bytes.fromhex("0a000000ff000000"), ""),
        (0x87, bytes(32), ""),
        (0x87, bytes(4), "IP constraint contained value of length 4"),
        (0x87, bytes(16), "IP constraint contained value of length 16"),
        (0x87, bytes.fromhex("0a000000ff00ff00"), "IP constraint contained invalid mask ff00ff00"),
        (0x88, b"\x2a", ""),
        (0xA4, b"\x05\x00", ""),
    ],
)
def test_name_constraints(tag, kind, text, expected):
    """Of the types that Go knows; the syntax of others is not checked."""
    value = constraints(asn1.encode(kind, text), tag=tag)
    assert problem(certificate(oid=oids.NAME_CONSTRAINTS, value=value)) == (f"x509: {expected}" if expected else "")


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(constraints(DNS) + b"\x05\x00", id="bytes behind the extension"),
        pytest.param(constraints(DNS, after=b"\x05\x00"), id="another field"),
        pytest.param(sequence(context(1, sequence(DNS)), context(0, sequence(DNS))), id="the wrong order"),
        pytest.param(sequence(context(0, DNS)), id="a name without a subtree"),
        pytest.param(sequence(context(0, sequence())), id="a subtree without a name"),
    ],
)
def test_malformed_name_constraints(value):
    """They are not ignored: a constraint that is not understood would be a permission."""
    assert problem(certificate(oid=oids.NAME_CONSTRAINTS, value=value)) == "x509: invalid NameConstraints extension"


@pytest.mark.parametrize(
    ("oid", "value", "expected"),
    [
        (oids.POLICY_MAPPINGS, sequence(sequence(OCSP, OCSP)), ""),
        (oids.POLICY_MAPPINGS, sequence(sequence(OCSP)), "policy mappings extension"),
        (oids.POLICY_MAPPINGS, b"\x05\x00", "policy mappings extension"),
        (oids.POLICY_CONSTRAINTS, sequence(b"\x80\x01\x00", b"\x81\x01\x00"), ""),
        (oids.POLICY_CONSTRAINTS, sequence(b"\x80\x00"), "policy constraints extension"),
        (oids.INHIBIT_ANY_POLICY, b"\x02\x01\x00", ""),
        (oids.INHIBIT_ANY_POLICY, b"\x02\x00", "inhibit any policy extension"),
        (oids.INHIBIT_ANY_POLICY, b"\x05\x00", "inhibit any policy extension"),
    ],
)
def test_limits_on_policies(oid, value, expected):
    """Each of them must be readable."""
    assert problem(certificate(oid=oid, value=value)) == (f"x509: invalid {expected}" if expected else "")
