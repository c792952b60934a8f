"""Signature algorithms and their parameters, and keys that verify nothing."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding

from certplane.golang import asn1, dertags
from certplane.x509 import oids, publickeys, signatures
from certplane.x509.tbs import template
from tests.unit.x509 import material

SIGNED = b"signed bytes"
UNIMPLEMENTED = "x509: cannot verify signature: algorithm unimplemented"
HASHES = {oids.SHA256: hashes.SHA256(), oids.SHA384: hashes.SHA384(), oids.SHA512: hashes.SHA512()}


def parsed(kind):
    element = asn1.Reader(material.public_der(material.key(kind))).read_any()
    return publickeys.parse(*publickeys.split_spki(element))


def verify(signature, kind="RSA-2048", *, allow_sha1=False):
    """The error for a signature; empty if it verifies."""
    try:
        signatures.verify(signature, SIGNED, parsed(kind), allow_sha1=allow_sha1)
    except signatures.SignatureError as error:
        return str(error)
    return ""


# --- RSASSA-PSS ---------------------------------------------------------------------------------------------------


def explicit(tag, content):
    return asn1.encode(0xA0 | tag, content)


def integer(value):
    return asn1.encode(0x02, bytes((value,)))


def algorithm(oid, parameters=dertags.ENCODED_NULL):
    return asn1.encode(0x30, template.encode_oid(oid) + parameters)


def pss_parameters(digest=oids.SHA256, mask_hash=None, salt=None, **fields):
    """RSASSA-PSS-params; `fields` replaces some of them by other DER."""
    parts = {
        "hash": explicit(0, algorithm(digest)),
        "mask": explicit(1, algorithm(oids.MGF1, mask_hash or algorithm(digest))),
        "salt": explicit(2, integer(HASHES[digest].digest_size if salt is None else salt)),
        "trailer": b"",
    }
    return asn1.encode(0x30, b"".join((parts | fields).values()))


def pss(parameters, digest=oids.SHA256, salt=None):
    scheme = padding.PSS(padding.MGF1(HASHES[digest]), HASHES[digest].digest_size if salt is None else salt)
    value = material.key("RSA-2048").sign(SIGNED, scheme, HASHES[digest])
    return signatures.Signature(oids.RSASSA_PSS, parameters, value)


@pytest.mark.parametrize("digest", HASHES)
def test_pss_with_one_hash_for_message_and_mask_is_verified(digest):
    """And a salt of the length of the hash; the parameters of the hashes may be absent."""
    assert verify(pss(pss_parameters(digest), digest)) == ""
    absent = explicit(0, algorithm(digest, b""))
    assert verify(pss(pss_parameters(digest, mask_hash=algorithm(digest, b""), hash=absent), digest)) == ""
    assert verify(pss(pss_parameters(digest, trailer=explicit(3, integer(1))), digest)) == ""


@pytest.mark.parametrize(
    "parameters",
    [
        pytest.param(b"", id="no parameters"),
        pytest.param(dertags.ENCODED_NULL, id="NULL"),
        pytest.param(pss_parameters(hash=b""), id="the default hash, SHA-1"),
        pytest.param(pss_parameters(hash=explicit(0, algorithm("1.3.14.3.2.26"))), id="SHA-1"),
        pytest.param(pss_parameters(mask_hash=algorithm(oids.SHA384)), id="another hash for the mask"),
        pytest.param(
            pss_parameters(mask_hash=algorithm(oids.SHA256, integer(1))), id="parameters of the hash of the mask"
        ),
        pytest.param(pss_parameters(hash=explicit(0, algorithm(oids.SHA256, integer(1)))), id="parameters of the hash"),
        pytest.param(pss_parameters(mask=b""), id="the default mask"),
        pytest.param(pss_parameters(mask=explicit(1, algorithm("1.2.3", algorithm(oids.SHA256)))), id="another mask"),
        pytest.param(pss_parameters(salt=31), id="a short salt"),
        pytest.param(pss_parameters(salt=0), id="no salt"),
        pytest.param(pss_parameters(trailer=explicit(3, integer(2))), id="another trailer"),
    ],
)
def test_pss_with_other_parameters_is_unimplemented(parameters):
    """As in Go, also if the signature would verify."""
    assert verify(pss(parameters)) == UNIMPLEMENTED


def test_the_salt_of_a_signature_is_that_of_its_parameters():
    """A signature with another salt does not verify."""
    assert verify(pss(pss_parameters(), salt=20)) == "crypto/rsa: verification error"


# --- other algorithms ---------------------------------------------------------------------------------------------


def ecdsa(kind="P-256", oid=oids.ECDSA_WITH_SHA256, digest=None):
    value = material.key(kind).sign(SIGNED, ec.ECDSA(digest or hashes.SHA256()))
    return signatures.Signature(oid, b"", value)


def rsa_signature(oid, digest):
    return signatures.Signature(
        oid, dertags.ENCODED_NULL, material.key("RSA-2048").sign(SIGNED, padding.PKCS1v15(), digest)
    )


@pytest.mark.parametrize(
    ("signature", "kind", "name"),
    [
        (rsa_signature(oids.SHA1_WITH_RSA, hashes.SHA1()), "RSA-2048", "SHA1-RSA"),
        (rsa_signature(oids.ISO_SHA1_WITH_RSA, hashes.SHA1()), "RSA-2048", "SHA1-RSA"),
        (ecdsa(oid=oids.ECDSA_WITH_SHA1, digest=hashes.SHA1()), "P-256", "ECDSA-SHA1"),
    ],
)
def test_sha1_is_verified_where_it_is_allowed(signature, kind, name):
    """In requests, not in certificates."""
    assert verify(signature, kind, allow_sha1=True) == ""
    assert verify(signature, kind) == f"x509: cannot verify signature: insecure algorithm {name}"


@pytest.mark.parametrize("allow_sha1", [True, False])
def test_md5_is_never_verified(allow_sha1):
    """Not even where SHA-1 is allowed."""
    signature = rsa_signature(oids.MD5_WITH_RSA, hashes.MD5())
    assert verify(signature, allow_sha1=allow_sha1) == "x509: cannot verify signature: insecure algorithm MD5-RSA"


@pytest.mark.parametrize(
    ("signature", "kind", "error"),
    [
        (ecdsa(), "P-384", "x509: ECDSA verification failure"),
        (ecdsa(oid=oids.ECDSA_WITH_SHA384), "P-256", "x509: ECDSA verification failure"),
        (
            ecdsa(),
            "RSA-2048",
            "x509: signature algorithm specifies an ECDSA public key, but have public key of type *rsa.PublicKey",
        ),
        (
            rsa_signature(oids.SHA256_WITH_RSA, hashes.SHA256()),
            "P-256",
            "x509: signature algorithm specifies an RSA public key, but have public key of type *ecdsa.PublicKey",
        ),
        (rsa_signature(oids.SHA384_WITH_RSA, hashes.SHA256()), "RSA-2048", "crypto/rsa: verification error"),
        (signatures.Signature("1.2.3", b"", b""), "RSA-2048", UNIMPLEMENTED),
        (signatures.Signature(oids.ED25519, b"", bytes(64)), "Ed25519", "x509: Ed25519 verification failure"),
        (signatures.Signature(oids.ED25519, b"", b""), "Ed25519", "x509: Ed25519 verification failure"),
        (signatures.Signature(oids.ECDSA_WITH_SHA256, b"", b""), "P-256", "x509: ECDSA verification failure"),
    ],
)
def test_a_signature_that_does_not_verify(signature, kind, error):
    """By another key, another hash, or of another kind."""
    assert verify(signature, kind) == error


def test_ed25519_has_no_parameters():
    """With NULL, as some write it, it is another algorithm."""
    value = material.key("Ed25519").sign(SIGNED)
    assert verify(signatures.Signature(oids.ED25519, b"", value), "Ed25519") == ""
    with_null = signatures.Signature(oids.ED25519, dertags.ENCODED_NULL, value)
    assert verify(with_null, "Ed25519") == UNIMPLEMENTED


def test_a_key_of_an_unknown_kind_verifies_nothing():
    """There is no result to ignore, so it is an error."""
    with pytest.raises(signatures.SignatureError, match=UNIMPLEMENTED):
        signatures.verify(ecdsa(), SIGNED, publickeys.parse("1.2.3", b"", b""), allow_sha1=True)


@pytest.mark.parametrize(
    ("parameters", "bits", "message"),
    [
        (dertags.ENCODED_NULL, bytes(32), "x509: Ed25519 key encoded with illegal parameters"),
        (b"", bytes(31), "x509: wrong Ed25519 public key size"),
        (b"", bytes(33), "x509: wrong Ed25519 public key size"),
    ],
)
def test_malformed_ed25519_keys_are_refused(parameters, bits, message):
    """RFC 8410 section 3: no parameters, and 32 bytes."""
    with pytest.raises(publickeys.PublicKeyError) as caught:
        publickeys.parse(oids.ED25519, parameters, bits)
    assert str(caught.value) == message
