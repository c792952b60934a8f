"""What a request asks for besides its names: read as it stands, whoever wrote it."""

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


def test_a_plain_request_asks_for_nothing_else():
    """Its subject, and one extension with its names."""
    requested = read()
    assert requested == requestedextensions.RequestedExtensions(
        subject=(("2.5.4.10", "system:nodes"), ("2.5.4.3", "system:node:n1")), extensions=("2.5.29.17",)
    )
    assert read(dns=(), ips=()).extensions == ()


def test_the_whole_subject_is_told():
    """With what signers drop, and every one of several common names."""
    more = [x509.NameAttribute(NameOID.COMMON_NAME, "a"), x509.NameAttribute(NameOID.DOMAIN_COMPONENT, "b")]
    assert read(attributes=more).subject[-2:] == (("2.5.4.3", "a"), ("0.9.2342.19200300.100.1.25", "b"))


def test_an_attribute_that_is_no_string_is_told_too():
    """It is there, though it says nothing."""
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
def test_names_that_no_signer_takes_over_are_told(name, kind):
    """By their kinds."""
    assert read(names=[name]).other_names == (kind,)


@pytest.mark.parametrize(("ca", "length"), [(True, None), (True, 0), (False, None)])
def test_who_wants_to_be_a_ca_is_told(ca, length):
    """With or without a path length."""
    assert read(extensions=[x509.BasicConstraints(ca=ca, path_length=length)]).is_ca is ca


def test_usages_are_told():
    """Of both kinds; what is not asked for is not empty, but missing."""
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
def test_bits_without_a_name_are_told_too(bits, expected):
    """RFC 5280 has nine; a request can have more."""
    extension = x509.UnrecognizedExtension(x509.ObjectIdentifier("2.5.29.15"), bits)
    assert read(extensions=[extension]).key_usages == expected


@pytest.mark.parametrize("oid", ["2.5.29.15", "2.5.29.19", "2.5.29.37"])
@pytest.mark.parametrize("value", [b"", b"\x00", b"\x30\x80", b"\x30\x05\x01", b"\x04\x01\x00"])
def test_extensions_that_say_nothing_sensible_are_refused(oid, value):
    """In words."""
    with pytest.raises(certificaterequest.RequestError):
        read(extensions=[x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), value)])


def test_damaged_requests_are_refused_in_words():
    """Whatever is wrong with a request that parses, nothing but RequestError comes of it."""
    extensions = [
        x509.BasicConstraints(ca=True, path_length=1),
        x509.ExtendedKeyUsage([ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE]),
    ]
    good = pem.first_block(kubelets.pkcs10(extensions=extensions)).data
    chance, parsed = random.Random(1), 0
    for _ in range(4_000):
        bad = bytearray(good)
        for _ in range(chance.randint(1, 3)):
            bad[chance.randrange(len(bad))] = chance.randrange(256)
        with contextlib.suppress(certificaterequest.RequestError):
            request = certificaterequest.parse_der(bytes(bad))
            parsed += 1
            requestedextensions.read(request)
    assert parsed > 200
