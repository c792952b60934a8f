"""New PKCS#10 requests."""

import ipaddress

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from certplane.golang import pem
from certplane.x509 import keys
from certplane.x509.certificatenames import Subject
from certplane.x509.pkcs10 import certificaterequest, newrequest
from certplane.x509.tbs.template import AltNames

KEYS = {
    "RSA-2048": lambda: keys.generate("RSA-2048"),
    "ECDSA-P256": lambda: keys.generate("ECDSA-P256"),
    "ECDSA-P384": lambda: keys.generate("ECDSA-P384"),
    "P-521": lambda: ec.generate_private_key(ec.SECP521R1()),
    "Ed25519": ed25519.Ed25519PrivateKey.generate,
}
JANE = Subject(common_name="jane", organization=("dev", "ops"))
NAMES = AltNames(
    dns=("a.example", "*.b.example"),
    email=("jane@example.com",),
    ip=(ipaddress.ip_address("10.0.0.1"), ipaddress.ip_address("::1")),
    uri=("spiffe://example/jane",),
)


@pytest.mark.parametrize("kind", KEYS)
def test_a_request_verifies_and_has_the_given_contents(kind):
    """Our own parser and an independent one read the same subject, names and key, and verify the signature."""
    key = KEYS[kind]()
    text = newrequest.create(key, JANE, NAMES)
    request = certificaterequest.verified(text).request
    assert (request.subject, request.spki) == (JANE, keys.spki(key))
    assert (request.dns_names, request.email_addresses) == (NAMES.dns, NAMES.email)
    assert (request.ip_addresses, request.uris) == (NAMES.ip, NAMES.uri)
    other = x509.load_pem_x509_csr(text)
    assert other.is_signature_valid
    assert other.extensions[0].value.get_values_for_type(x509.DNSName) == ["a.example", "*.b.example"]


def test_without_names_there_are_no_attributes():
    """As in Go, the empty set of attributes is still there."""
    text = newrequest.create(keys.generate("ECDSA-P256"), JANE)
    assert list(x509.load_pem_x509_csr(text).extensions) == []
    assert b"\xa0\x00" in pem.first_block(text).data


def test_a_long_common_name_is_kept():
    """Kubernetes has no limit of 64 characters: a node's name alone may be longer."""
    name = "system:node:" + "n" * 200
    text = newrequest.create(keys.generate("ECDSA-P256"), Subject(common_name=name))
    assert certificaterequest.verified(text).request.subject.common_name == name


def test_unsupported_keys_and_names_are_refused():
    """A curve that Go does not know, and a name that is not ASCII."""
    with pytest.raises(keys.InvalidKeyError, match="unsupported elliptic curve"):
        newrequest.create(ec.generate_private_key(ec.SECP256K1()), JANE)
    with pytest.raises(UnicodeEncodeError):
        newrequest.create(keys.generate("ECDSA-P256"), JANE, AltNames(dns=("ä.example",)))
