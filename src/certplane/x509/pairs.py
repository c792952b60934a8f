"""A certificate and the key that belongs to it: what a TLS server would say if it were given the two.

Source: Go `crypto/tls` (X509KeyPair), whose words these are; of what is inside a key, only the outline is told.
"""

from __future__ import annotations

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from certplane.x509 import certificates, der, pem

_KINDS = (rsa.RSAPublicKey, ec.EllipticCurvePublicKey, ed25519.Ed25519PublicKey)


class PairProblem(ValueError):
    """No pair that a TLS server could use. The text is Go's, and quotes nothing of the key."""


def check(certificate: bytes, key: bytes) -> None:
    """Check that the first certificate of one PEM text is for the first private key of another. Raises PairProblem."""
    chosen, secret = check_blocks(certificate, key)
    try:
        public = certificates.parse(chosen.data).public_key()
    except certificates.CertificateError as error:
        raise PairProblem(str(error)) from error
    own = _public(secret.data)
    if not isinstance(public, _KINDS):
        raise PairProblem("tls: unknown public key algorithm")
    if not any(isinstance(public, kind) and isinstance(own, kind) for kind in _KINDS):
        raise PairProblem("tls: private key type does not match public key type")
    if own != public:
        raise PairProblem("tls: private key does not match public key")


def check_blocks(certificate: bytes, key: bytes) -> tuple[pem.Block, pem.Block]:
    """The blocks that count, of two PEM texts. Raises PairProblem for what a Go server misses first."""
    blocks = list(pem.blocks(certificate))
    chosen = next((each for each in blocks if each.label == "CERTIFICATE"), None)
    if chosen is None:
        raise _missing_certificate([each.label for each in blocks])
    skipped: list[str] = []
    for each in pem.blocks(key):
        if each.label == "PRIVATE KEY" or each.label.endswith(" PRIVATE KEY"):
            return chosen, each
        skipped.append(each.label)
    raise _missing_key(skipped)


def _missing_certificate(skipped: list[str]) -> PairProblem:
    if not skipped:
        return PairProblem("tls: failed to find any PEM data in certificate input")
    if len(skipped) == 1 and skipped[0].endswith("PRIVATE KEY"):
        return PairProblem(
            "tls: failed to find certificate PEM data in certificate input, but did find a private key; PEM inputs may "
            "have been switched"
        )
    return PairProblem(f'tls: failed to find "CERTIFICATE" PEM block in certificate input {_after(skipped)}')


def _missing_key(skipped: list[str]) -> PairProblem:
    if not skipped:
        return PairProblem("tls: failed to find any PEM data in key input")
    if skipped == ["CERTIFICATE"]:
        return PairProblem("tls: found a certificate rather than a key in the PEM for the private key")
    return PairProblem(
        f'tls: failed to find PEM block with type ending in "PRIVATE KEY" in key input {_after(skipped)}'
    )


def _after(skipped: list[str]) -> str:
    return f"after skipping PEM blocks of the following types: [{' '.join(skipped)}]"


def _public(data: bytes) -> object:
    """The public half of a private key in DER: PKCS#8, PKCS#1 or SEC 1. Raises PairProblem."""
    try:
        key = serialization.load_der_private_key(data, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise PairProblem(f"tls: failed to parse private key{_outline(data)}") from None
    public = key.public_key()
    if not isinstance(public, _KINDS):
        raise PairProblem(f"tls: failed to parse private key{_outline(data)}")
    return public


def _outline(data: bytes) -> str:
    """What is wrong with a key as PKCS#8, which is how it is read first."""
    try:
        inside = der.Reader(der.Reader(data).read(der.SEQUENCE, "pkcs8").content)
        inside.read(der.INTEGER, "int")
        algorithm = der.Reader(inside.read(der.SEQUENCE, "AlgorithmIdentifier").content)
        found = der.oid(algorithm.read(der.OID, "ObjectIdentifier"))
    except der.DERProblem as problem:
        return f": {problem}"
    return f": x509: PKCS#8 wrapping contained private key with unknown algorithm: {found}"
