"""Untrusted PKCS#10: parsed fields are those that another library reads, and damaged requests are refused."""

from __future__ import annotations

import contextlib
import ipaddress

import hypothesis
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import NameOID
from hypothesis import strategies as st

from certplane.x509.pkcs10 import certificaterequest

KEYS = {
    "RSA-2048": rsa.generate_private_key(65537, 2048),
    "P-224": ec.generate_private_key(ec.SECP224R1()),
    "P-256": ec.generate_private_key(ec.SECP256R1()),
    "P-384": ec.generate_private_key(ec.SECP384R1()),
    "P-521": ec.generate_private_key(ec.SECP521R1()),
    "Ed25519": ed25519.Ed25519PrivateKey.generate(),
}
TEXTS = st.text(st.characters(min_codepoint=32, max_codepoint=0x2FF), min_size=1, max_size=20)
HOSTS = st.from_regex(r"[a-z][a-z0-9-]{0,10}[a-z0-9](\.[a-z]{2,5})?", fullmatch=True)


def make(key, common_name="jane", organizations=(), dns=(), addresses=()):
    attributes = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization) for organization in organizations]
    attributes.append(x509.NameAttribute(NameOID.COMMON_NAME, common_name))
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(attributes))
    names = [*map(x509.DNSName, dns), *(x509.IPAddress(ipaddress.ip_address(address)) for address in addresses)]
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(key, None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256())


def pem(request):
    return request.public_bytes(serialization.Encoding.PEM)


@pytest.mark.parametrize("name", KEYS)
def test_valid_requests_verify(name):
    """All key types that Go supports are accepted."""
    pkcs10 = make(KEYS[name])
    request = certificaterequest.parse(pem(pkcs10))
    certificaterequest.verify(request)
    assert request.public_key == pkcs10.public_key()


@hypothesis.settings(max_examples=50, deadline=None)
@hypothesis.given(
    TEXTS,
    st.lists(TEXTS, max_size=3),
    st.lists(HOSTS, max_size=3),
    st.lists(st.ip_addresses().map(str), max_size=3),
)
def test_parsed_fields_are_those_of_the_request(common_name, organizations, dns, addresses):
    """Subject and names are parsed as they were written."""
    request = certificaterequest.parse(pem(make(KEYS["P-256"], common_name, organizations, dns, addresses)))
    assert request.common_name == common_name
    # The attributes of a name are in the order of the request.
    assert list(request.organizations) == organizations
    assert list(request.dns_names) == dns
    assert [str(address) for address in request.ip_addresses] == [
        str(ipaddress.ip_address(address)) for address in addresses
    ]


VALID = make(KEYS["P-256"], "jane", ["dev"], ["a.example"], ["10.0.0.1"]).public_bytes(serialization.Encoding.DER)


@hypothesis.settings(max_examples=500, deadline=None)
@hypothesis.given(st.integers(0, len(VALID) - 1), st.integers(0, 255))
def test_damaged_requests_are_refused(at, byte):
    """A request in which one byte was changed is refused, by the parser or by its signature."""
    damaged = bytearray(VALID)
    hypothesis.assume(damaged[at] != byte)
    damaged[at] = byte
    with pytest.raises(certificaterequest.RequestError):
        certificaterequest.verify(certificaterequest.parse_der(bytes(damaged)))


@hypothesis.settings(max_examples=300, deadline=None)
@hypothesis.given(st.one_of(st.binary(max_size=80), st.integers(0, len(VALID)).map(lambda size: VALID[:size])))
def test_any_bytes_are_a_request_or_refused(data):
    """The parser raises only RequestError."""
    with contextlib.suppress(certificaterequest.RequestError):
        certificaterequest.parse_der(data)


@pytest.mark.parametrize(
    "text",
    [b"", b"not PEM", pem(make(KEYS["P-256"])).replace(b"CERTIFICATE REQUEST", b"CERTIFICATE"), b"-----BEGIN"],
)
def test_other_pem_is_refused(text):
    """The error has the text of Kubernetes."""
    with pytest.raises(certificaterequest.RequestError, match="PEM block type must be CERTIFICATE REQUEST"):
        certificaterequest.parse(text)
