"""A certificate authority: a certificate, and a key that makes signatures. The one place where CA signatures are made:
those of clients' certificates (`issue`), and those of the control plane's own (`selfsigned`).

The interface of `Authority` is narrow on purpose: it takes and returns bytes, and the key cannot be read. A key in an
HSM, or in another process behind a socket, can take its place.
"""

from __future__ import annotations

import datetime
import functools
import hmac
import pathlib
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from certplane.golang import pem
from certplane.x509 import keys
from certplane.x509.tbs import signing
from certplane.x509.trust import certificates

#: The length of a MAC of `Authority.mac`, in bytes.
MAC_SIZE: Final = 32
#: HKDF's info: the MAC key serves nothing but records of what is to be signed (RFC 5869 section 3.2).
_MAC_KEY_INFO: Final = b"certplane.io signing record v1"


class AuthorityError(ValueError):
    """A certificate and key that cannot be used as a CA; the text says which file and why, and nothing of the key."""


class Authority:
    """A CA. Safe to use from several threads."""

    __slots__ = (
        "_key", "_mac_key", "algorithm", "certificate", "key_id", "not_after", "not_before", "raw", "spki", "subject"
    )  # fmt: skip

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
        _issuer, self.subject = certificates.issuer_and_subject(parsed)
        self.spki = spki
        self.not_before: datetime.datetime = parsed.not_valid_before_utc
        self.not_after: datetime.datetime = parsed.not_valid_after_utc
        self.key_id = subject_key_id(parsed)
        try:
            self.algorithm = signing.algorithm_identifier(key)
        except keys.InvalidKeyError as error:
            raise AuthorityError(str(error)) from error
        self._key = key
        # Once for each authority: a MAC is made for every certificate.
        self._mac_key = _mac_key(key)

    def __repr__(self) -> str:
        return f"<Authority {self.certificate.subject.rfc4514_string()!r}>"

    @property
    def is_ca(self) -> bool:
        """Whether the certificate may sign others: RFC 5280 sections 4.2.1.3 and 4.2.1.9."""
        return certificates.is_ca(self.certificate)

    @property
    def path_length(self) -> int | None:
        """How many CAs may be below this one; None for any number. RFC 5280 section 4.2.1.9."""
        try:
            return self.certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length
        except x509.ExtensionNotFound:
            return None

    def sign(self, data: bytes) -> bytes:
        """Sign bytes. The signature has the algorithm `algorithm`."""
        return signing.sign(self._key, data)

    def mac(self, context: str, data: bytes) -> bytes:
        """The HMAC-SHA256 of bytes and the context that they are for, `MAC_SIZE` bytes. Only a holder of the CA key can
        make it: its key is derived from the CA key with HKDF-SHA256.
        """
        encoded = context.encode("utf-8")
        # With its length, so that no other pair of context and bytes is the same input.
        return hmac.digest(self._mac_key, len(encoded).to_bytes(8, "big") + encoded + data, "sha256")


def _mac_key(key: keys.PrivateKey) -> bytes:
    encoded = key.private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return HKDF(hashes.SHA256(), MAC_SIZE, salt=None, info=_MAC_KEY_INFO).derive(encoded)


def subject_key_id(certificate: x509.Certificate) -> bytes | None:
    """The subject key identifier of a certificate, None if it has none."""
    try:
        return certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    except (x509.ExtensionNotFound, ValueError):
        return None


class LintKey:
    """A temporary key that signs under an authority's algorithm, for certificates that are only linted. Safe to use
    from several threads.

    The signed bytes describe the signing key by its AlgorithmIdentifier only. For RSA that names the hash, not the size
    of the key, for ECDSA the hash, not the curve (RFC 8017 appendix A.2.4, RFC 5758 section 3.2). So this is the
    cheapest key of its kind: an RSA signature with 1024 bits takes a third of the time of one with 2048, and a
    fifteenth of one with 4096. The key protects nothing and never leaves the memory.
    """

    def __init__(self, authority: Authority) -> None:
        public = authority.certificate.public_key()
        self._is_rsa = isinstance(public, rsa.RSAPublicKey)
        self._hash = signing.curve_hash(public.curve) if isinstance(public, ec.EllipticCurvePublicKey) else None

    @functools.cached_property
    def _key(self) -> keys.PrivateKey:
        # Two threads may each generate one; either can be used.
        if self._is_rsa:
            return rsa.generate_private_key(65537, _LINT_RSA_BITS)
        return ed25519.Ed25519PrivateKey.generate() if self._hash is None else ec.generate_private_key(ec.SECP256R1())

    def sign(self, data: bytes) -> bytes:
        """Sign bytes under the authority's algorithm. The signature does not verify with the authority's key."""
        key = self._key
        if isinstance(key, ec.EllipticCurvePrivateKey) and self._hash is not None:
            return key.sign(data, ec.ECDSA(self._hash))
        return signing.sign(key, data)


_LINT_RSA_BITS: Final = 1024


def from_pem(certificate: bytes, key: bytes) -> Authority:
    """An authority from the PEM of one certificate and of its key. Raises AuthorityError; keys.InvalidKeyError if the
    key cannot be parsed.
    """
    blocks = [block for block in pem.blocks(certificate) if block.label == "CERTIFICATE"]
    if len(blocks) != 1:
        raise AuthorityError(f"expected 1 certificate, found {len(blocks)}")
    authority = Authority(blocks[0].data, keys.from_pem(key))
    if not authority.is_ca:
        raise AuthorityError("the certificate is not a CA certificate")
    return authority


def load(certificate: pathlib.Path, key: pathlib.Path) -> Authority:
    """An authority from two PEM files. Raises AuthorityError, naming the file."""
    try:
        text = read_file(certificate)
    except AuthorityError as error:
        raise AuthorityError(f'error reading CA cert file "{certificate}": {error}') from error
    try:
        return from_pem(text, read_file(key))
    except keys.InvalidKeyError as error:
        raise AuthorityError(f'error reading CA key file "{key}": {error}') from error
    except AuthorityError as error:
        raise AuthorityError(f'error reading CA cert file "{certificate}": {error}') from error


def read_file(path: pathlib.Path) -> bytes:
    """The content of a file. Raises AuthorityError, with the text of a Go program."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise AuthorityError(f"open {path}: {(error.strerror or str(error)).lower()}") from error
