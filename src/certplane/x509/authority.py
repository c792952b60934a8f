"""A certificate authority: a certificate, and a key that makes signatures. The one place where a signature is made.

`Authority` is narrow on purpose: what it signs are bytes, what it gives are bytes, and nothing else of the key gets
out. A key in an HSM, or in another process behind a socket, can take its place.
"""

from __future__ import annotations

import datetime
import functools
import pathlib
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

from certplane.x509 import certificates, der, keys, pem, template

_NULL: Final = b"\x05\x00"
_EC_ALGORITHMS: Final[dict[str, tuple[str, type[hashes.HashAlgorithm]]]] = {
    "secp224r1": ("1.2.840.10045.4.3.2", hashes.SHA256),
    "secp256r1": ("1.2.840.10045.4.3.2", hashes.SHA256),
    "secp384r1": ("1.2.840.10045.4.3.3", hashes.SHA384),
    "secp521r1": ("1.2.840.10045.4.3.4", hashes.SHA512),
}


class AuthorityError(ValueError):
    """A certificate and key that cannot be an authority; the text says which file and why, never what is in the key."""


class Authority:
    """Signs. Safe to use from several threads."""

    __slots__ = ("_key", "algorithm", "certificate", "key_id", "not_after", "not_before", "raw", "spki", "subject")

    def __init__(self, certificate: bytes, key: keys.PrivateKey) -> None:
        """`certificate` is DER. Raises AuthorityError if the key is not its key."""
        try:
            parsed = certificates.parse(certificate)
        except certificates.CertificateError as error:
            raise AuthorityError(str(error)) from error
        spki = parsed.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        if spki != keys.spki(key):
            raise AuthorityError("tls: private key does not match public key")
        self.raw = certificate
        self.certificate = parsed
        _issuer, self.subject = certificates.names(parsed)
        self.spki = spki
        self.not_before: datetime.datetime = parsed.not_valid_before_utc
        self.not_after: datetime.datetime = parsed.not_valid_after_utc
        self.key_id = subject_key_id(parsed)
        self.algorithm = signature_algorithm(key)
        self._key = key

    def __repr__(self) -> str:
        return f"<Authority {self.certificate.subject.rfc4514_string()!r}>"

    @property
    def is_authority(self) -> bool:
        """Whether the certificate says that it may sign others: RFC 5280 sections 4.2.1.3 and 4.2.1.9."""
        return certificates.is_authority(self.certificate)

    @property
    def path_length(self) -> int | None:
        """How many authorities may be below this one; None for any number. RFC 5280 section 4.2.1.9."""
        try:
            return self.certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length
        except x509.ExtensionNotFound:
            return None

    def sign(self, data: bytes) -> bytes:
        """The signature over some bytes, under `algorithm`."""
        return signature(self._key, data)


def subject_key_id(certificate: x509.Certificate) -> bytes | None:
    """The subject key identifier of a certificate, if it has one."""
    try:
        return certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    except (x509.ExtensionNotFound, ValueError):
        return None


def signature_algorithm(key: keys.PrivateKey) -> bytes:
    """The DER AlgorithmIdentifier of the signatures that a key makes."""
    if isinstance(key, rsa.RSAPrivateKey):
        return der.encode(0x30, template.oid("1.2.840.113549.1.1.11") + _NULL)
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return der.encode(0x30, template.oid("1.3.101.112"))
    found = _EC_ALGORITHMS.get(key.curve.name)
    if found is None:
        raise AuthorityError(f"x509: unsupported elliptic curve: {key.curve.name}")
    return der.encode(0x30, template.oid(found[0]))


def signature(key: keys.PrivateKey, data: bytes) -> bytes:
    """A signature: RSA with PKCS #1 v1.5 and SHA-256, ECDSA with the hash that fits the curve, Ed25519."""
    if isinstance(key, rsa.RSAPrivateKey):
        return key.sign(data, padding.PKCS1v15(), hashes.SHA256())
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return key.sign(data)
    return key.sign(data, ec.ECDSA(_EC_ALGORITHMS[key.curve.name][1]()))


class StandIn:
    """Signs as an authority does, with a key that is made here and worth nothing: for certificates that are only
    looked at. Safe to use from several threads.

    All that the signed bytes say of the key that signs is the AlgorithmIdentifier, and this is the authority's own. An
    RSA identifier names the hash and not the size of the key, one of ECDSA the hash and not the curve (RFC 8017
    appendix A.2.4, RFC 5758 section 3.2); so the key is the cheapest that there is: a signature of an RSA key of 1024
    bits costs a third of one of 2048 and a fifteenth of one of 4096. It protects nothing, and never leaves the memory.
    """

    def __init__(self, authority: Authority) -> None:
        public = authority.certificate.public_key()
        self._is_rsa = isinstance(public, rsa.RSAPublicKey)
        self._hash = _EC_ALGORITHMS[public.curve.name][1]() if isinstance(public, ec.EllipticCurvePublicKey) else None

    @functools.cached_property
    def _key(self) -> keys.PrivateKey:
        # Two threads may both make one: either will do.
        if self._is_rsa:
            return rsa.generate_private_key(65537, _STAND_IN_BITS)
        return ed25519.Ed25519PrivateKey.generate() if self._hash is None else ec.generate_private_key(ec.SECP256R1())

    def sign(self, data: bytes) -> bytes:
        """A signature under the authority's algorithm, by which nobody can be deceived."""
        key = self._key
        if isinstance(key, ec.EllipticCurvePrivateKey) and self._hash is not None:
            return key.sign(data, ec.ECDSA(self._hash))
        return signature(key, data)


_STAND_IN_BITS: Final = 1024


def from_pem(certificate: bytes, key: bytes) -> Authority:
    """An authority from a text with one certificate, and one with its key. Raises AuthorityError; keys.KeyProblem if
    it is the key that cannot be read.
    """
    blocks = [each for each in pem.blocks(certificate) if each.label == "CERTIFICATE"]
    if len(blocks) != 1:
        raise AuthorityError(f"expected 1 certificate, found {len(blocks)}")
    found = Authority(blocks[0].data, keys.from_pem(key))
    if not found.is_authority:
        raise AuthorityError("the certificate is not one of an authority")
    return found


def load(certificate: pathlib.Path, key: pathlib.Path) -> Authority:
    """An authority from two PEM files. Raises AuthorityError, naming the file."""
    try:
        text = content(certificate)
    except AuthorityError as error:
        raise AuthorityError(f'error reading CA cert file "{certificate}": {error}') from error
    try:
        return from_pem(text, content(key))
    except keys.KeyProblem as error:
        raise AuthorityError(f'error reading CA key file "{key}": {error}') from error
    except AuthorityError as error:
        raise AuthorityError(f'error reading CA cert file "{certificate}": {error}') from error


def content(path: pathlib.Path) -> bytes:
    """What is in a file. Raises AuthorityError, in the words of a Go program."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise AuthorityError(f"open {path}: {(error.strerror or str(error)).lower()}") from error
