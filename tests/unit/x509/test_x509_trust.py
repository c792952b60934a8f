"""Trust anchors, the keys of pods, and chains issued to pods."""

from __future__ import annotations

import datetime
import functools

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, padding, rsa, x25519
from cryptography.x509.oid import NameOID

from certplane.x509 import der, pem, trust

BEGINS = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
ENDS = BEGINS + datetime.timedelta(days=1)

MAKE = {
    "P-224": lambda: ec.generate_private_key(ec.SECP224R1()),
    "P-256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "P-384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "P-521": lambda: ec.generate_private_key(ec.SECP521R1()),
    "secp256k1": lambda: ec.generate_private_key(ec.SECP256K1()),
    "Ed25519": ed25519.Ed25519PrivateKey.generate,
    "X25519": x25519.X25519PrivateKey.generate,
    "DSA": lambda: dsa.generate_private_key(1024),
    "RSA-1024": lambda: rsa.generate_private_key(65537, 1024),
    "RSA-2048": lambda: rsa.generate_private_key(65537, 2048),
    "RSA-3072": lambda: rsa.generate_private_key(65537, 3072),
}
#: The modulus of the RSA key that is too small for anybody; nothing is signed with it.
TINY = (1 << 511) + 1


@functools.cache
def generate(kind, number):
    return MAKE[kind]()


def key(kind="P-256", number=0):
    """The same key for the same arguments."""
    return generate(kind, number)


def hash_for(private):
    return None if isinstance(private, ed25519.Ed25519PrivateKey) else hashes.SHA256()


def spki(private):
    return private.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def tiny_spki():
    modulus = der.encode(0x02, b"\0" + TINY.to_bytes(64, "big"))
    numbers = der.encode(0x30, modulus + der.encode(0x02, b"\x01\x00\x01"))
    algorithm = der.encode(0x30, der.encode(0x06, bytes.fromhex("2a864886f70d010101")) + b"\x05\x00")
    return der.encode(0x30, algorithm + der.encode(0x03, b"\0" + numbers))


def stub(private):
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return builder.sign(private, hash_for(private)).public_bytes(serialization.Encoding.DER)


def forged(private, other):
    """A request with the key of one and the signature of another."""
    mine, its = (list(der.Reader(der.Reader(stub(each)).any().content)) for each in (private, other))
    return der.encode(0x30, mine[0].raw + its[1].raw + its[2].raw)


def certificate(subject_key=None, authority=None, names=()):
    subject_key = subject_key or key()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "jane")])
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(subject_key.public_key())
        .serial_number(1)
        .not_valid_before(BEGINS)
        .not_valid_after(ENDS)
    )
    if authority is not None:
        builder = builder.add_extension(x509.BasicConstraints(authority, None), critical=True)
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(key(), hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def block(data, label="CERTIFICATE"):
    return pem.encode(label, data)


def with_headers(data):
    return block(data).replace(b"CERTIFICATE-----\n", b"CERTIFICATE-----\nColour: blue\n\n", 1)


# --- trust anchors ------------------------------------------------------------------------------------------------

FIRST = functools.cache(lambda: certificate(key("P-256", 1), authority=True))
SECOND = functools.cache(lambda: certificate(key("P-256", 2), authority=True))


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        pytest.param(lambda: block(FIRST()), [], id="one"),
        pytest.param(lambda: b"mine:\n" + block(FIRST()) + b"yours:\n" + block(SECOND()), [], id="text between"),
        pytest.param(lambda: b"", ["at least one trust anchor must be provided"], id="none"),
        pytest.param(
            lambda: block(FIRST(), "X509 CRL"), ["entry 0 has bad block type: X509 CRL"], id="another type of block"
        ),
        pytest.param(lambda: with_headers(FIRST()), ["entry 0 has PEM block headers"], id="headers"),
        pytest.param(lambda: block(b"\x30\x00"), ["entry 0 does not parse as X.509"], id="no certificate"),
        pytest.param(lambda: block(b""), ["entry 0 does not parse as X.509"], id="an empty block"),
        pytest.param(
            lambda: block(FIRST() + SECOND()), ["entry 0 does not parse as X.509"], id="two certificates in one block"
        ),
        pytest.param(
            lambda: block(certificate(authority=False)), ["entry 0 does not have the CA bit set"], id="no authority"
        ),
        pytest.param(lambda: block(certificate()), ["entry 0 does not have the CA bit set"], id="no basic constraints"),
        pytest.param(
            lambda: block(FIRST()) + block(b"x") + block(FIRST(), "KEY"),
            ["entry 1 does not parse as X.509", "entry 2 has bad block type: KEY"],
            id="each bad block is named",
        ),
        pytest.param(
            lambda: block(FIRST()) + block(SECOND()) + block(FIRST()),
            ["duplicate trust anchor (indices [0 2])"],
            id="twice the same",
        ),
        pytest.param(
            lambda: block(FIRST()) + block(FIRST()) + block(b"x"),
            ["entry 2 does not parse as X.509"],
            id="bad blocks come before duplicates",
        ),
    ],
)
def test_trust_anchors_are_authorities(make, expected):
    """Blocks are certificates of authorities, each once; what is wrong is said of each block."""
    assert trust.anchor_problems(make()) == expected


# --- the keys of pods ---------------------------------------------------------------------------------------------

GOOD_KINDS = ("P-256", "P-384", "P-521", "Ed25519", "RSA-3072")


@pytest.mark.parametrize("kind", GOOD_KINDS)
def test_good_keys_pass_both_ways(kind):
    """As a stub request, and as a key with a proof."""
    trust.check_stub(stub(key(kind)))
    trust.check_public_key(spki(key(kind)))


@pytest.mark.parametrize(
    ("make", "text", "value"),
    [
        (lambda: b"", "must be a valid PKCS#10 CSR", None),
        (lambda: b"\x30\x03abc", "must be a valid PKCS#10 CSR", None),
        (lambda: block(stub(key()), "CERTIFICATE REQUEST"), "must be a valid PKCS#10 CSR", None),
        (lambda: stub(key("secp256k1")), "must be a valid PKCS#10 CSR", None),
        (
            lambda: stub(key("P-224")),
            "elliptic public keys must use curve P256, P384, or P521",
            "curve P-224",
        ),
        (lambda: stub(key("RSA-2048")), "RSA keys must have modulus size 3072 or 4096", "2048-bit modulus"),
        (lambda: stub(key("RSA-1024")), "RSA keys must have modulus size 3072 or 4096", "1024-bit modulus"),
        (lambda: stub(key("DSA")), "unknown public key type; supported types are Ed25519, ECDSA, and RSA", None),
        (lambda: forged(key(), key("P-256", 1)), "invalid signature", None),
    ],
)
def test_bad_stub_requests_are_refused(make, text, value):
    """The request must be read, its key strong, and its signature that key's."""
    with pytest.raises(trust.KeyProblem) as caught:
        trust.check_stub(make())
    assert (str(caught.value), caught.value.value) == (text, value)


UNREADABLE = "must be a valid PKIX-serialized public key"
UNKNOWN = "unknown public key type; supported types are Ed25519, ECDSA, and RSA"


@pytest.mark.parametrize(
    ("make", "text", "value"),
    [
        (lambda: b"x", UNREADABLE, None),
        (lambda: spki(key()) + b"\0", UNREADABLE, None),
        (lambda: spki(key()) + b"\xa0\x00", UNREADABLE, None),
        (lambda: spki(key("secp256k1")), UNREADABLE, None),
        (lambda: spki(key("X25519")), UNKNOWN, None),
        (lambda: spki(key("DSA")), UNKNOWN, None),
        (lambda: spki(key("P-224")), "elliptic public keys must use curve P256 or P384", "curve P-224"),
        (lambda: spki(key("RSA-2048")), "RSA keys must have modulus size 3072 or 4096", "2048-bit modulus"),
        (tiny_spki, "RSA keys must have modulus size 3072 or 4096", "512-bit modulus"),
    ],
)
def test_bad_public_keys_are_refused(make, text, value):
    """Nothing but one key, of a supported type, and strong. Where nothing else is printed, the key is."""
    data = make()
    with pytest.raises(trust.KeyProblem) as caught:
        trust.check_public_key(data)
    assert (str(caught.value), caught.value.value) == (text, data if value is None else value)


def proof(private, message):
    if isinstance(private, rsa.RSAPrivateKey):
        scheme = padding.PSS(padding.MGF1(hashes.SHA256()), 20)
        return private.sign(message, scheme, hashes.SHA256())
    if isinstance(private, ed25519.Ed25519PrivateKey):
        return private.sign(message)
    return private.sign(message, ec.ECDSA(hashes.SHA256()))


@pytest.mark.parametrize("kind", GOOD_KINDS)
def test_a_proof_is_for_one_key_and_one_message(kind):
    """A signature over the message proves possession (RSA: PSS with any salt); over another, it does not."""
    private = key(kind)
    assert trust.proves_possession(spki(private), proof(private, b"uid"), b"uid")
    assert not trust.proves_possession(spki(private), proof(private, b"uid"), b"other")
    assert not trust.proves_possession(spki(private), b"", b"uid")
    assert not trust.proves_possession(spki(key("P-256", 1)), proof(private, b"uid"), b"uid")


def test_foreign_keys_prove_nothing():
    """A key that signs nothing cannot have signed."""
    assert not trust.proves_possession(spki(key("X25519")), b"x", b"uid")


# --- chains -------------------------------------------------------------------------------------------------------


def test_a_leaf_tells_its_facts():
    """Names, validity and key of the first certificate; what follows is not looked at."""
    made = certificate(names=[x509.DNSName("a.b"), x509.RFC822Name("a@b"), x509.DNSName("c")])
    expected = trust.Leaf(("a.b", "c"), ("a@b",), BEGINS, ENDS, spki(key()))
    assert trust.leaf(block(made) + block(b"x")) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"", "issued certificate chain must contain at least one certificate"),
        (block(b"x", "KEY"), "issued certificate chain must consist entirely of CERTIFICATE PEM blocks"),
        (block(b"x"), "leaf certificate does not parse as valid X.509"),
    ],
)
def test_a_chain_begins_with_a_certificate(text, expected):
    """Anything else is refused in words."""
    with pytest.raises(trust.ChainProblem) as caught:
        trust.leaf(text)
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
def test_what_follows_the_leaf_are_certificates(rest, expected):
    """Each block is a certificate; the words for other blocks are misspelt, as they are on the wire."""
    problem = ""
    try:
        trust.check_intermediates(block(certificate()) + block(FIRST()) + rest)
    except trust.ChainProblem as error:
        problem = str(error)
    assert problem == expected


@pytest.mark.parametrize("kind", GOOD_KINDS)
def test_a_certificate_is_for_the_key_that_was_asked_for(kind):
    """Whichever way it was asked for; and for no other key."""
    made = trust.leaf(block(certificate(key(kind))))
    assert trust.is_issued_to(made, stub=stub(key(kind)), spki=b"")
    assert trust.is_issued_to(made, stub=b"", spki=spki(key(kind)))
    assert not trust.is_issued_to(made, stub=stub(key("P-256", 1)), spki=b"")
    assert not trust.is_issued_to(made, stub=b"", spki=spki(key("P-256", 1)))


@pytest.mark.parametrize("asked", [b"", b"x", spki(key("X25519"))], ids=["nothing", "no key", "a foreign key"])
def test_no_certificate_is_for_what_is_no_key(asked):
    """A key that cannot be read is nobody's."""
    assert not trust.is_issued_to(trust.leaf(block(certificate())), stub=b"", spki=asked)


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
    assert trust.is_mailbox(text) is expected
