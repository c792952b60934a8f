"""Certificates that others made are refused for their form in the words of a Go server, and for nothing else."""

from __future__ import annotations

import functools

import pytest

from certplane.x509 import certform, der, template
from tests.unit.x509 import material

COMMON_NAME = template.oid("2.5.4.3")
NAME_CONSTRAINTS, POLICIES, ACCESS = "2.5.29.30", "2.5.29.32", "1.3.6.1.5.5.7.1.1"


@functools.cache
def good():
    return material.ca_certificate(material.key())


def fields():
    """The DER of the fields of a good certificate, and what stands behind them."""
    tbs, *rest = der.Reader(der.Reader(good()).any().content)
    return [each.raw for each in der.Reader(tbs.content)], b"".join(each.raw for each in rest)


def with_field(at, raw):
    """A certificate with one field changed: 0 version, 1 serial, 2 algorithm, 3 issuer, 4 validity, 5 subject, 6 key,
    7 extensions.
    """
    found, rest = fields()
    found[at] = raw
    return der.encode(0x30, der.encode(0x30, b"".join(found)) + rest)


def with_extensions(*extensions, critical=False):
    encoded = b"".join(
        der.encode(0x30, template.oid(oid) + (b"\x01\x01\xff" if critical else b"") + der.encode(0x04, value))
        for oid, value in extensions
    )
    return with_field(7, der.encode(0xA3, der.encode(0x30, encoded)))


def name(value, oid=COMMON_NAME):
    return der.encode(0x30, der.encode(0x31, der.encode(0x30, oid + value)))


def validity(first):
    return der.encode(0x30, first + b"\x17\x0d300102030405Z")


def problem(data):
    with pytest.raises(certform.FormProblem) as caught:
        certform.check(data)
    return str(caught.value)


def test_certificates_are_counted():
    """One after the other; none is none."""
    assert [certform.check(good() * count) for count in range(3)] == [0, 1, 2]


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: b"abc", "malformed certificate"),
        (lambda: good() + b"\0", "malformed certificate"),
        (lambda: good()[:-1], "malformed certificate"),
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
def test_what_is_no_certificate(make, expected):
    """The first thing that is wrong, from the front."""
    assert problem(make()) == f"x509: {expected}"


@pytest.mark.parametrize(
    ("oid", "value", "expected"),
    [
        (template.KEY_USAGE, b"\x03\x00", "invalid key usage"),
        (template.BASIC_CONSTRAINTS, b"\x05\x00", "invalid basic constraints"),
        (template.BASIC_CONSTRAINTS, b"\x30\x03\x02\x01\xff", "invalid basic constraints"),
        (template.SUBJECT_ALT_NAME, b"\x05\x00", "invalid subject alternative names"),
        (template.SUBJECT_ALT_NAME, b"\x30\x03\x82\x01\xff", "SAN dNSName is malformed"),
        (template.SUBJECT_KEY_ID, b"\x05\x00", "invalid subject key identifier"),
        (template.AUTHORITY_KEY_ID, b"\x05\x00", "invalid authority key identifier"),
        (template.EXTENDED_KEY_USAGE, b"\x30\x02\x05\x00", "invalid extended key usages"),
        (NAME_CONSTRAINTS, b"\x30\x00", "empty name constraints extension"),
        (NAME_CONSTRAINTS, b"\x30\x07\xa0\x05\x30\x03\x82\x01.", 'failed to parse dnsName constraint "."'),
        (NAME_CONSTRAINTS, b"\x30\x08\xa0\x06\x30\x04\x81\x02@a", 'failed to parse rfc822Name constraint "@a"'),
        (NAME_CONSTRAINTS, b"\x30\x07\xa0\x05\x30\x03\x87\x01a", "IP constraint contained value of length 1"),
        (
            NAME_CONSTRAINTS,
            b"\x30\x0e\xa0\x0c\x30\x0a\x87\x08\x0a\0\0\0\xff\0\xff\0",
            "IP constraint contained invalid mask ff00ff00",
        ),
        (POLICIES, b"\x30\x0a" + b"\x30\x03\x06\x01\x2a" * 2, "invalid certificate policies"),
        (ACCESS, b"\x30\x02\x05\x00", "invalid authority info access"),
    ],
)
def test_extensions_that_are_none(oid, value, expected):
    """Those that Go reads; the names of the others are enough."""
    assert problem(with_extensions((oid, value))) == f"x509: {expected}"
    assert certform.check(with_extensions(("1.2.3", value))) == 1


def test_an_extension_is_there_once():
    """The second one is told by its OID."""
    twice = (template.BASIC_CONSTRAINTS, b"\x30\x00")
    expected = 'x509: certificate contains duplicate extension with OID "2.5.29.19"'
    assert problem(with_extensions(twice, twice)) == expected


@pytest.mark.parametrize(
    ("oid", "value", "expected"),
    [
        (template.SUBJECT_KEY_ID, b"\x04\x01a", "subject key identifier"),
        (template.AUTHORITY_KEY_ID, b"\x30\x00", "authority key identifier"),
        (ACCESS, b"\x30\x00", "authority info access"),
    ],
)
def test_some_extensions_are_never_critical(oid, value, expected):
    """RFC 5280 has it so, and Go insists."""
    data = with_extensions((oid, value), critical=True)
    assert problem(data) == f"x509: {expected} incorrectly marked critical"


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: with_field(5, name(b"\x14\x01\xe4")), id="a TeletexString"),
        pytest.param(lambda: with_field(4, validity(b"\x17\x0b3001020304Z")), id="a time without seconds"),
        pytest.param(lambda: with_field(4, validity(b"\x17\x11300102030405+0100")), id="a time of another zone"),
        pytest.param(lambda: with_extensions((template.KEY_USAGE, b"\x03\x01\x00")), id="a key usage of nothing"),
        pytest.param(lambda: with_extensions(("1.2.3.4", b"junk"), critical=True), id="an unknown critical extension"),
    ],
)
def test_what_other_libraries_refuse(make):
    """Go reads it, so it may be written."""
    assert certform.check(make()) == 1
