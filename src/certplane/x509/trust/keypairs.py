"""TLS key pairs: whether a certificate and a private key belong together, as Go's TLS server checks it.

Source: Go `crypto/tls`, `X509KeyPair`, whose error texts these are. Errors about keys name at most an algorithm.
"""

from __future__ import annotations

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from certplane.golang import asn1, pem
from certplane.x509.trust import certificates

_KINDS = (rsa.RSAPublicKey, ec.EllipticCurvePublicKey, ed25519.Ed25519PublicKey)


class KeyPairError(ValueError):
    """A certificate and a key that a TLS server cannot use. The text is Go's and quotes nothing of the key."""


def check(certificate: bytes, key: bytes) -> None:
    """Check that the first certificate of a PEM text has the first private key of another one. Raises KeyPairError."""
    certificate_block, key_block = find_blocks(certificate, key)
    try:
        certified_key = certificates.parse_without_extensions(certificate_block.data).public_key()
    except certificates.CertificateError as error:
        raise KeyPairError(str(error)) from error
    public_key = _load_public_key(key_block.data)
    if not isinstance(certified_key, _KINDS):
        raise KeyPairError("tls: unknown public key algorithm")
    if not any(isinstance(certified_key, kind) and isinstance(public_key, kind) for kind in _KINDS):
        raise KeyPairError("tls: private key type does not match public key type")
    if public_key != certified_key:
        raise KeyPairError("tls: private key does not match public key")


def matches(certificate: bytes, key: bytes) -> bool:
    """Whether the first certificate of a PEM text has the first private key of another one. The key is compared and not
    validated, which takes fifty milliseconds for RSA.
    """
    try:
        certificate_block, key_block = find_blocks(certificate, key)
        certified_key = certificates.parse_without_extensions(certificate_block.data).public_key()
    except ValueError:
        # KeyPairError and CertificateError are.
        return False
    return _public_half(key_block.data) == certified_key


def is_key(key: bytes) -> bool:
    """Whether a PEM text has a private key. It is not validated."""
    block = next((block for block in pem.blocks(key) if block.label.endswith("PRIVATE KEY")), None)
    return block is not None and _public_half(block.data) is not None


def _public_half(data: bytes) -> object:
    """The public half of a private key in DER, None if it cannot be loaded."""
    try:
        return serialization.load_der_private_key(data, None, unsafe_skip_rsa_key_validation=True).public_key()
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return None


def find_blocks(certificate: bytes, key: bytes) -> tuple[pem.Block, pem.Block]:
    """The first certificate of a PEM text and the first private key of another one. Raises KeyPairError if one is
    missing.
    """
    blocks = list(pem.blocks(certificate))
    certificate_block = next((block for block in blocks if block.label == certificates.PEM_LABEL), None)
    if certificate_block is None:
        raise _missing_certificate_error([block.label for block in blocks])
    skipped: list[str] = []
    for block in pem.blocks(key):
        if block.label == "PRIVATE KEY" or block.label.endswith(" PRIVATE KEY"):
            return certificate_block, block
        skipped.append(block.label)
    raise _missing_key_error(skipped)


def _missing_certificate_error(skipped: list[str]) -> KeyPairError:
    if not skipped:
        return KeyPairError("tls: failed to find any PEM data in certificate input")
    if len(skipped) == 1 and skipped[0].endswith("PRIVATE KEY"):
        return KeyPairError(
            "tls: failed to find certificate PEM data in certificate input, but did find a private key; PEM inputs may "
            "have been switched"
        )
    return KeyPairError(f'tls: failed to find "CERTIFICATE" PEM block in certificate input {_list_skipped(skipped)}')


def _missing_key_error(skipped: list[str]) -> KeyPairError:
    if not skipped:
        return KeyPairError("tls: failed to find any PEM data in key input")
    if skipped == ["CERTIFICATE"]:
        return KeyPairError("tls: found a certificate rather than a key in the PEM for the private key")
    return KeyPairError(
        f'tls: failed to find PEM block with type ending in "PRIVATE KEY" in key input {_list_skipped(skipped)}'
    )


def _list_skipped(skipped: list[str]) -> str:
    return f"after skipping PEM blocks of the following types: [{' '.join(skipped)}]"


def _load_public_key(data: bytes) -> object:
    """The public half of a private key in DER: PKCS#8, PKCS#1 or SEC1. Raises KeyPairError."""
    try:
        key = serialization.load_der_private_key(data, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise KeyPairError(f"tls: failed to parse private key{_parse_problem(data)}") from None
    public = key.public_key()
    if not isinstance(public, _KINDS):
        raise KeyPairError(f"tls: failed to parse private key{_parse_problem(data)}")
    return public


def _parse_problem(data: bytes) -> str:
    """Why a key cannot be parsed as PKCS#8, the format that Go tries first; appended to the error text."""
    try:
        fields = asn1.Reader(asn1.Reader(data).read(asn1.TAG_SEQUENCE, "pkcs8").content)
        fields.read(asn1.TAG_INTEGER, "int")
        algorithm = asn1.Reader(fields.read(asn1.TAG_SEQUENCE, "AlgorithmIdentifier").content)
        oid = asn1.decode_oid(algorithm.read(asn1.TAG_OID, "ObjectIdentifier"))
    except asn1.DERError as error:
        return f": {error}"
    return f": x509: PKCS#8 wrapping contained private key with unknown algorithm: {oid}"
