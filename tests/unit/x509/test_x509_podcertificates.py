"""The keys of pods, and the chains issued to pods."""

from __future__ import annotations

import datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

from certplane.golang import asn1, dertags, pem
from certplane.x509.trust import podcertificates
from tests.unit.x509 import material

BEGINS = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
ENDS = BEGINS + datetime.timedelta(days=1)

#: The modulus of an RSA key that no library generates; nothing is signed with it.
TINY = (1 << 511) + 1


def tiny_spki():
    modulus = asn1.encode(dertags.INTEGER, b"\0" + TINY.to_bytes(64, "big"))
    numbers = asn1.encode(dertags.SEQUENCE, modulus + asn1.encode(dertags.INTEGER, b"\x01\x00\x01"))
    oid = asn1.encode(dertags.OID, bytes.fromhex("2a864886f70d010101"))
    algorithm = asn1.encode(dertags.SEQUENCE, oid + dertags.ENCODED_NULL)
    return asn1.encode(dertags.SEQUENCE, algorithm + asn1.encode(dertags.BIT_STRING, b"\0" + numbers))


def forged(private, other):
    """A request with the key `private` and a signature of the key `other`."""
    requests = [asn1.Reader(material.stub_request(key)).read_any() for key in (private, other)]
    (information, *_), (_, algorithm, signature) = (asn1.Reader(request.content) for request in requests)
    return asn1.encode(dertags.SEQUENCE, information.raw + algorithm.raw + signature.raw)


def certificate(subject_key=None, *, is_ca=None, names=()):
    extensions = [] if is_ca is None else [(x509.BasicConstraints(is_ca, None), True)]
    extensions += [(x509.SubjectAlternativeName(names), False)] if names else []
    return material.certificate(subject_key or material.key(), material.key(), "jane", (BEGINS, ENDS), extensions)


def block(data, label="CERTIFICATE"):
    return pem.encode(label, data)


# --- the keys of pods ---------------------------------------------------------------------------------------------

RSA_SIZE = "RSA keys must have modulus size 3072 or 4096"
UNKNOWN = "unknown public key type; supported types are Ed25519, ECDSA, and RSA"
UNREADABLE_REQUEST = "must be a valid PKCS#10 CSR"
STRONG_KINDS = ("P-256", "P-384", "P-521", "Ed25519", "RSA-3072")


@pytest.mark.parametrize("kind", STRONG_KINDS)
def test_strong_keys_are_accepted_in_both_forms(kind):
    """In a stub request, and as a public key."""
    podcertificates.check_stub_request(material.stub_request(material.key(kind)))
    podcertificates.check_public_key(material.public_der(material.key(kind)))


@pytest.mark.parametrize(
    ("make", "text", "value"),
    [
        (lambda: b"", UNREADABLE_REQUEST, None),
        (lambda: b"\x30\x03abc", UNREADABLE_REQUEST, None),
        (
            lambda: block(material.stub_request(material.key()), "CERTIFICATE REQUEST"),
            UNREADABLE_REQUEST,
            None,
        ),
        (lambda: material.stub_request(material.key("secp256k1")), UNREADABLE_REQUEST, None),
        (
            lambda: material.stub_request(material.key("P-224")),
            "elliptic public keys must use curve P256, P384, or P521",
            "curve P-224",
        ),
        (
            lambda: material.stub_request(material.key("RSA-2048")),
            RSA_SIZE,
            "2048-bit modulus",
        ),
        (
            lambda: material.stub_request(material.key("RSA-1024")),
            RSA_SIZE,
            "1024-bit modulus",
        ),
        (
            lambda: material.stub_request(material.key("DSA")),
            UNKNOWN,
            None,
        ),
        (lambda: forged(material.key(), material.key("P-256", 1)), "invalid signature", None),
    ],
)
def test_invalid_stub_requests_are_refused(make, text, value):
    """The request must be well-formed, its key strong, and its signature valid."""
    with pytest.raises(podcertificates.PodKeyError) as caught:
        podcertificates.check_stub_request(make())
    assert (str(caught.value), caught.value.value) == (text, value)


UNREADABLE = "must be a valid PKIX-serialized public key"


@pytest.mark.parametrize(
    ("make", "text", "value"),
    [
        (lambda: b"x", UNREADABLE, None),
        (lambda: material.public_der(material.key()) + b"\0", UNREADABLE, None),
        (lambda: material.public_der(material.key()) + b"\xa0\x00", UNREADABLE, None),
        (lambda: material.public_der(material.key("secp256k1")), UNREADABLE, None),
        (lambda: material.public_der(material.key("X25519")), UNKNOWN, None),
        (lambda: material.public_der(material.key("DSA")), UNKNOWN, None),
        (
            lambda: material.public_der(material.key("P-224")),
            "elliptic public keys must use curve P256 or P384",
            "curve P-224",
        ),
        (
            lambda: material.public_der(material.key("RSA-2048")),
            RSA_SIZE,
            "2048-bit modulus",
        ),
        (tiny_spki, RSA_SIZE, "512-bit modulus"),
    ],
)
def test_invalid_public_keys_are_refused(make, text, value):
    """There must be exactly one key, of a supported type, and strong. The reported value is the key by default."""
    data = make()
    with pytest.raises(podcertificates.PodKeyError) as caught:
        podcertificates.check_public_key(data)
    assert (str(caught.value), caught.value.value) == (text, data if value is None else value)


def proof(private, message):
    if isinstance(private, rsa.RSAPrivateKey):
        scheme = padding.PSS(padding.MGF1(hashes.SHA256()), 20)
        return private.sign(message, scheme, hashes.SHA256())
    if isinstance(private, ed25519.Ed25519PrivateKey):
        return private.sign(message)
    return private.sign(message, ec.ECDSA(hashes.SHA256()))


@pytest.mark.parametrize("kind", STRONG_KINDS)
def test_a_proof_is_for_one_key_and_one_message(kind):
    """A signature proves possession of the key that made it, for the signed message only. RSA-PSS may have any salt."""
    private = material.key(kind)
    assert podcertificates.proves_possession(material.public_der(private), proof(private, b"uid"), b"uid")
    assert not podcertificates.proves_possession(material.public_der(private), proof(private, b"uid"), b"other")
    assert not podcertificates.proves_possession(material.public_der(private), b"", b"uid")
    assert not podcertificates.proves_possession(
        material.public_der(material.key("P-256", 1)), proof(private, b"uid"), b"uid"
    )


def test_keys_of_unsupported_types_prove_nothing():
    """They cannot sign."""
    assert not podcertificates.proves_possession(material.public_der(material.key("X25519")), b"x", b"uid")


# --- chains -------------------------------------------------------------------------------------------------------


def test_the_leaf_of_a_chain_is_parsed():
    """Names, validity and key of the first certificate; later blocks are not parsed."""
    leaf = certificate(names=[x509.DNSName("a.b"), x509.RFC822Name("a@b"), x509.DNSName("c")])
    expected = podcertificates.Leaf(("a.b", "c"), ("a@b",), BEGINS, ENDS, material.public_der(material.key()))
    assert podcertificates.parse_leaf(block(leaf) + block(b"x")) == expected


@pytest.mark.parametrize("name", material.RARE_NAMES)
def test_rare_kinds_of_names_in_a_chain_are_ignored(name):
    """As in Go, in the leaf and in what follows it."""
    rare = block(material.ca_with_rare_names(material.key(), name))
    leaf = podcertificates.parse_leaf(rare + rare)
    assert (leaf.dns_names, leaf.email_addresses, leaf.spki) == ((), (), material.public_der(material.key()))
    podcertificates.check_intermediates(rare + rare)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"", "issued certificate chain must contain at least one certificate"),
        (block(b"x", "KEY"), "issued certificate chain must consist entirely of CERTIFICATE PEM blocks"),
        (block(b"x"), "leaf certificate does not parse as valid X.509"),
    ],
)
def test_a_chain_begins_with_a_certificate(text, expected):
    """Other chains are refused with the error texts of Kubernetes."""
    with pytest.raises(podcertificates.ChainError) as caught:
        podcertificates.parse_leaf(text)
    assert str(caught.value) == expected


@pytest.mark.parametrize(
    ("rest", "expected"),
    [
        (b"", ""),
        (b"text\n", ""),
        (block(b"x", "KEY"), "issued certificate chain must consist entirely of CERTFICATE PEM blocks"),
        (block(b"x"), "intermediate certificate does not parse as valid X.509"),
    ],
)
def test_intermediates_must_be_certificates(rest, expected):
    """Kubernetes misspells the error for other blocks."""
    problem = ""
    try:
        podcertificates.check_intermediates(block(certificate()) + block(certificate(material.key("P-256", 1))) + rest)
    except podcertificates.ChainError as error:
        problem = str(error)
    assert problem == expected


@pytest.mark.parametrize("kind", STRONG_KINDS)
def test_a_certificate_is_for_the_requested_key(kind):
    """Requested by stub or by public key; and for no other key."""
    leaf = podcertificates.parse_leaf(block(certificate(material.key(kind))))
    assert podcertificates.is_issued_to(leaf, stub=material.stub_request(material.key(kind)), spki=b"")
    assert podcertificates.is_issued_to(leaf, stub=b"", spki=material.public_der(material.key(kind)))
    assert not podcertificates.is_issued_to(leaf, stub=material.stub_request(material.key("P-256", 1)), spki=b"")
    assert not podcertificates.is_issued_to(leaf, stub=b"", spki=material.public_der(material.key("P-256", 1)))


@pytest.mark.parametrize(
    "requested",
    [b"", b"x", material.public_der(material.key("X25519"))],
    ids=["nothing", "not a key", "an unsupported type"],
)
def test_no_certificate_is_for_an_invalid_key(requested):
    """Keys that cannot be parsed match no certificate."""
    assert not podcertificates.is_issued_to(podcertificates.parse_leaf(block(certificate())), stub=b"", spki=requested)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("jane@example.com", True),
        ("jane.doe+x@example", True),
        ("Jane Doe <jane@example.com>", True),
        ('"Jane, Doe" <jane@example.com>', True),
        ("<jane@example.com>", True),
        ('"jane doe"@example.com', True),
        ("jane@[192.0.2.1]", True),
        ("", False),
        ("jane", False),
        ("jane@", False),
        ("@example.com", False),
        (".jane@example.com", False),
        ("jane@example.com.", False),
        ("jane@a@b", False),
        ("jane@example.com, joe@example.com", False),
        ("jane doe@example.com", False),
        ("jane@example.com\n", False),
    ],
)
def test_mailboxes(text, expected):
    """One address, with or without a name."""
    assert podcertificates.is_mailbox(text) is expected
