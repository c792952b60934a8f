"""Certificates issued elsewhere are refused for syntax errors only, with the error texts of Go."""

from __future__ import annotations

import functools

import pytest

from certplane.golang import asn1, dertags
from certplane.x509 import oids
from certplane.x509.tbs import template
from certplane.x509.trust import certificatesyntax
from tests.unit.x509 import material

COMMON_NAME = template.encode_oid(oids.COMMON_NAME)


@functools.cache
def valid_certificate():
    return material.ca_certificate(material.key())


def split():
    """The DER of the fields of a valid certificate, and that of its signature algorithm and signature."""
    tbs, *rest = asn1.Reader(asn1.Reader(valid_certificate()).read_any().content)
    return [field.raw for field in asn1.Reader(tbs.content)], b"".join(element.raw for element in rest)


def with_field(index, raw):
    """A certificate with one field replaced: 0 version, 1 serial, 2 algorithm, 3 issuer, 4 validity, 5 subject, 6 key,
    7 extensions.
    """
    fields, rest = split()
    fields[index] = raw
    return asn1.encode(dertags.SEQUENCE, asn1.encode(dertags.SEQUENCE, b"".join(fields)) + rest)


def with_extensions(*extensions, critical=False):
    flag = b"\x01\x01\xff" if critical else b""
    encoded = b"".join(
        asn1.encode(dertags.SEQUENCE, template.encode_oid(oid) + flag + asn1.encode(dertags.OCTET_STRING, value))
        for oid, value in extensions
    )
    return with_field(7, asn1.encode(certificatesyntax.EXTENSIONS, asn1.encode(dertags.SEQUENCE, encoded)))


def name(value, oid=COMMON_NAME):
    attribute = asn1.encode(dertags.SEQUENCE, oid + value)
    return asn1.encode(dertags.SEQUENCE, asn1.encode(dertags.SET, attribute))


def validity(not_before):
    return asn1.encode(dertags.SEQUENCE, not_before + b"\x17\x0d300102030405Z")


def problem(data):
    with pytest.raises(certificatesyntax.CertificateSyntaxError) as caught:
        certificatesyntax.check(data)
    return str(caught.value)


def test_certificates_are_counted():
    """Several may follow each other; an empty input has none."""
    assert [certificatesyntax.check(valid_certificate() * count) for count in range(3)] == [0, 1, 2]


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: b"abc", "malformed certificate"),
        (lambda: valid_certificate() + b"\0", "malformed certificate"),
        (lambda: valid_certificate()[:-1], "malformed certificate"),
        (lambda: b"\x30\x00", "malformed tbs certificate"),
        (lambda: b"\x30\x02\x30\x00", "malformed serial number"),
        (lambda: with_field(0, b"\xa0\x03\x02\x01\x03"), "invalid version"),
        (lambda: with_field(0, b"\xa0\x03\x02\x01\xff"), "malformed version"),
        (lambda: with_field(0, b"\xa0\x06\x02\x01\x02\x02\x01\x02"), "malformed version"),
        (lambda: with_field(1, b"\x02\x01\xff"), "negative serial number"),
        (lambda: with_field(1, b"\x02\x02\x00\x01"), "malformed serial number"),
        (lambda: with_field(2, b"\x30\x00"), "inner and outer signature algorithm identifiers don't match"),
        (lambda: with_field(2, b"\x05\x00"), "malformed signature algorithm identifier"),
        (lambda: with_field(3, b"\x05\x00"), "malformed issuer"),
        (lambda: with_field(5, b"\x30\x02\x05\x00"), "invalid RDNSequence"),
        (lambda: with_field(5, name(b"", oid=b"\x05\x00")), "invalid RDNSequence: invalid attribute type"),
        (lambda: with_field(5, name(b"")), "invalid RDNSequence: invalid attribute value"),
        (
            lambda: with_field(5, name(b"\x0c\x01\xff")),
            "invalid RDNSequence: invalid attribute value: invalid UTF-8 string",
        ),
        (
            lambda: with_field(5, name(b"\x13\x01@")),
            "invalid RDNSequence: invalid attribute value: invalid PrintableString",
        ),
        (
            lambda: with_field(5, name(b"\x02\x01\x05")),
            "invalid RDNSequence: invalid attribute value: unsupported string type: 2",
        ),
        (lambda: with_field(4, b"\x05\x00"), "malformed validity"),
        (lambda: with_field(4, validity(b"\x05\x00")), "unsupported time format"),
        (lambda: with_field(4, validity(b"\x17\x0d301302030405Z")), "malformed UTCTime"),
        (lambda: with_field(4, validity(b"\x18\x1120301202030405.5Z")), "malformed GeneralizedTime"),
        (lambda: with_field(6, b"\x05\x00"), "malformed spki"),
        (lambda: with_field(6, b"\x30\x02\x05\x00"), "malformed public key algorithm identifier"),
        (lambda: with_field(6, b"\x30\x02\x30\x00"), "malformed OID"),
        (lambda: with_field(6, material.public_der(material.key())[:-67] + b"\x05\x00"), "malformed spki"),
        (lambda: with_field(7, b"\xa3\x02\x05\x00"), "malformed extensions"),
        (lambda: with_field(7, b"\xa3\x04\x30\x02\x05\x00"), "malformed extension"),
        (lambda: with_field(7, b"\xa3\x04\x30\x02\x30\x00"), "malformed extension OID field"),
    ],
)
def test_malformed_certificates_are_refused(make, expected):
    """The first error in the order of the fields is reported."""
    assert problem(make()) == f"x509: {expected}"


@pytest.mark.parametrize(
    ("oid", "value", "expected"),
    [
        (oids.KEY_USAGE, b"\x03\x00", "invalid key usage"),
        (oids.BASIC_CONSTRAINTS, b"\x05\x00", "invalid basic constraints"),
        (oids.BASIC_CONSTRAINTS, b"\x30\x03\x02\x01\xff", "invalid basic constraints"),
        (oids.SUBJECT_ALT_NAME, b"\x05\x00", "invalid subject alternative names"),
        (oids.SUBJECT_ALT_NAME, b"\x30\x03\x82\x01\xff", "SAN dNSName is malformed"),
        (oids.SUBJECT_KEY_ID, b"\x05\x00", "invalid subject key identifier"),
        (oids.AUTHORITY_KEY_ID, b"\x05\x00", "invalid authority key identifier"),
        (oids.EXTENDED_KEY_USAGE, b"\x30\x02\x05\x00", "invalid extended key usages"),
        (oids.NAME_CONSTRAINTS, b"\x30\x00", "empty name constraints extension"),
        (oids.NAME_CONSTRAINTS, b"\x30\x07\xa0\x05\x30\x03\x82\x01.", 'failed to parse dnsName constraint "."'),
        (oids.NAME_CONSTRAINTS, b"\x30\x08\xa0\x06\x30\x04\x81\x02@a", 'failed to parse rfc822Name constraint "@a"'),
        (oids.NAME_CONSTRAINTS, b"\x30\x07\xa0\x05\x30\x03\x87\x01a", "IP constraint contained value of length 1"),
        (
            oids.NAME_CONSTRAINTS,
            b"\x30\x0e\xa0\x0c\x30\x0a\x87\x08\x0a\0\0\0\xff\0\xff\0",
            "IP constraint contained invalid mask ff00ff00",
        ),
        (oids.CERTIFICATE_POLICIES, b"\x30\x0a" + b"\x30\x03\x06\x01\x2a" * 2, "invalid certificate policies"),
        (oids.AUTHORITY_INFORMATION_ACCESS, b"\x30\x02\x05\x00", "invalid authority info access"),
    ],
)
def test_malformed_extensions_are_refused(oid, value, expected):
    """Only in extensions that Go parses: the value of others is not checked."""
    assert problem(with_extensions((oid, value))) == f"x509: {expected}"
    assert certificatesyntax.check(with_extensions(("1.2.3", value))) == 1


def test_duplicate_extensions_are_refused():
    """The error names the OID."""
    extension = (oids.BASIC_CONSTRAINTS, b"\x30\x00")
    expected = 'x509: certificate contains duplicate extension with OID "2.5.29.19"'
    assert problem(with_extensions(extension, extension)) == expected


@pytest.mark.parametrize(
    ("oid", "value", "expected"),
    [
        (oids.SUBJECT_KEY_ID, b"\x04\x01a", "subject key identifier"),
        (oids.AUTHORITY_KEY_ID, b"\x30\x00", "authority key identifier"),
        (oids.AUTHORITY_INFORMATION_ACCESS, b"\x30\x00", "authority info access"),
    ],
)
def test_some_extensions_are_never_critical(oid, value, expected):
    """RFC 5280 forbids it, and Go checks it."""
    data = with_extensions((oid, value), critical=True)
    assert problem(data) == f"x509: {expected} incorrectly marked critical"


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: with_field(5, name(b"\x14\x01\xe4")), id="a TeletexString"),
        pytest.param(lambda: with_field(4, validity(b"\x17\x0b3001020304Z")), id="a time without seconds"),
        pytest.param(lambda: with_field(4, validity(b"\x17\x11300102030405+0100")), id="a time of another zone"),
        pytest.param(lambda: with_extensions((oids.KEY_USAGE, b"\x03\x01\x00")), id="a key usage of nothing"),
        pytest.param(lambda: with_extensions(("1.2.3.4", b"junk"), critical=True), id="an unknown critical extension"),
    ],
)
def test_unusual_certificates_are_accepted(make):
    """Other libraries refuse them, but Go does not."""
    assert certificatesyntax.check(make()) == 1
