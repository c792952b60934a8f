"""What a request contains besides its names."""

from __future__ import annotations

import contextlib
import random

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from certplane.golang import asn1, pem
from certplane.x509.pkcs10 import certificaterequest, requestedextensions
from tests import kubelets


def read(**fields):
    return requestedextensions.read(certificaterequest.parse(kubelets.pkcs10(**fields)))


def test_an_ordinary_request():
    """It has a subject, and at most one extension with its names."""
    requested = read()
    assert requested == requestedextensions.RequestedExtensions(
        subject=(("2.5.4.10", "system:nodes"), ("2.5.4.3", "system:node:n1")), extensions=("2.5.29.17",)
    )
    assert read(dns=(), ips=()).extensions == ()


def test_all_attributes_of_the_subject_are_returned():
    """Also those that signers drop, and all of several common names."""
    more = [x509.NameAttribute(NameOID.COMMON_NAME, "a"), x509.NameAttribute(NameOID.DOMAIN_COMPONENT, "b")]
    assert read(attributes=more).subject[-2:] == (("2.5.4.3", "a"), ("0.9.2342.19200300.100.1.25", "b"))


def test_an_attribute_that_is_no_string_has_no_value():
    """It is returned nevertheless."""
    name = asn1.encode(0x31, asn1.encode(0x30, asn1.encode(0x06, b"\x55\x04\x03") + asn1.encode(0x02, b"\x01")))
    assert requestedextensions._subject(name) == [("2.5.4.3", None)]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        (x509.OtherName(x509.ObjectIdentifier("1.2.3"), b"\x05\x00"), "otherName"),
        (x509.DirectoryName(x509.Name([])), "directoryName"),
        (x509.RegisteredID(x509.ObjectIdentifier("1.2.3")), "registeredID"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_other_types_of_names_are_returned(name, kind):
    """Those that signers drop, by their type."""
    assert read(names=[name]).other_names == (kind,)


@pytest.mark.parametrize(("ca", "length"), [(True, None), (True, 0), (False, None)])
def test_the_ca_flag_is_returned(ca, length):
    """With or without a path length."""
    assert read(extensions=[x509.BasicConstraints(ca=ca, path_length=length)]).is_ca is ca


def test_usages_are_returned():
    """Key usages and extended key usages. None stands for a missing extension."""
    usage = x509.KeyUsage(True, False, False, False, False, True, False, False, False)
    requested = read(extensions=[usage, x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])])
    assert requested.key_usages == {"digital_signature", "key_cert_sign"}
    assert requested.extended_usages == {"1.3.6.1.5.5.7.3.2"}
    assert (read().key_usages, read().extended_usages) == (None, None)


@pytest.mark.parametrize(
    ("bits", "expected"),
    [
        (b"\x03\x02\x07\x80", {"digital_signature"}),
        (b"\x03\x03\x07\x00\x80", {"decipher_only"}),
        (b"\x03\x03\x06\x00\x40", {"bit 9"}),
        (b"\x03\x01\x00", set()),
    ],
)
def test_unknown_key_usage_bits_are_returned(bits, expected):
    """RFC 5280 names nine bits; a request can have more."""
    extension = x509.UnrecognizedExtension(x509.ObjectIdentifier("2.5.29.15"), bits)
    assert read(extensions=[extension]).key_usages == expected


@pytest.mark.parametrize("oid", ["2.5.29.15", "2.5.29.19", "2.5.29.37"])
@pytest.mark.parametrize("value", [b"", b"\x00", b"\x30\x80", b"\x30\x05\x01", b"\x04\x01\x00"])
def test_malformed_extensions_are_refused(oid, value):
    """With a RequestError."""
    with pytest.raises(certificaterequest.RequestError):
        read(extensions=[x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), value)])


def test_damaged_requests_raise_no_other_error():
    """Only RequestError, whatever is damaged in a request that can be parsed."""
    extensions = [
        x509.BasicConstraints(ca=True, path_length=1),
        x509.ExtendedKeyUsage([ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE]),
    ]
    valid = pem.first_block(kubelets.pkcs10(extensions=extensions)).data
    chance, parsed = random.Random(1), 0
    for _ in range(4_000):
        damaged = bytearray(valid)
        for _ in range(chance.randint(1, 3)):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        with contextlib.suppress(certificaterequest.RequestError):
            request = certificaterequest.parse_der(bytes(damaged))
            parsed += 1
            requestedextensions.read(request)
    assert parsed > 200
