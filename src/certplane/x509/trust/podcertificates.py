"""PodCertificateRequests: the keys of pods with their proofs of possession, and the chains issued to pods.

Source: kubernetes, `pkg/apis/certificates/validation`, whose error texts these are; Go `crypto/x509`. The field paths
that belong to the texts are known to `certplane.resources`.
"""

from __future__ import annotations

import dataclasses
import datetime
import itertools
import re
from typing import Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from certplane.golang import asn1, pem
from certplane.x509 import certificatenames, keys, oids, publickeys
from certplane.x509.pkcs10 import certificaterequest
from certplane.x509.trust import certificates, pathcertificate
from certplane.x509.trust.pathcertificate import PathCertificate

_CURVES: Final = {"secp224r1": "P-224", "secp256r1": "P-256", "secp384r1": "P-384", "secp521r1": "P-521"}
_RSA_SIZES: Final = (3072, 4096)
_UNKNOWN_KEY: Final = "unknown public key type; supported types are Ed25519, ECDSA, and RSA"
_UNPARSABLE_KEY: Final = "must be a valid PKIX-serialized public key"
#: Key types that Go can parse but Kubernetes does not issue certificates for.
_UNSUPPORTED_KEYS: Final = frozenset({oids.X25519, oids.DSA})


# --- the keys of pods ---------------------------------------------------------------------------------------------


class PodKeyError(ValueError):
    """A key for which no certificate is issued. The text is a Go server's; `value` is the value that it reports with
    the text, None for no value.
    """

    def __init__(self, text: str, value: str | bytes | None = None) -> None:
        super().__init__(text)
        self.value = value


def check_stub_request(request: bytes) -> None:
    """Check a PKCS#10 request, in DER, of which only key and signature matter. Raises PodKeyError."""
    try:
        parsed = certificaterequest.parse_der(request)
    except certificaterequest.RequestError as error:
        raise PodKeyError("must be a valid PKCS#10 CSR") from error
    if not parsed.key.kind:
        raise PodKeyError(_UNKNOWN_KEY)
    _check_strength(parsed.key, "P256, P384, or P521")
    try:
        certificaterequest.verify(parsed)
    except certificaterequest.RequestError as error:
        raise PodKeyError("invalid signature") from error


def check_public_key(spki: bytes) -> None:
    """Check a SubjectPublicKeyInfo, in DER. Raises PodKeyError."""
    try:
        algorithm, parameters, bits = _split_spki(spki)
        key = publickeys.parse(algorithm, parameters, bits)
    except (publickeys.PublicKeyError, asn1.DERError) as error:
        raise PodKeyError(_UNPARSABLE_KEY, spki) from error
    if not key.kind:
        raise PodKeyError(_UNKNOWN_KEY if algorithm in _UNSUPPORTED_KEYS else _UNPARSABLE_KEY, spki)
    # P-521 is accepted too; its absence from the text is Kubernetes' mistake.
    _check_strength(key, "P256 or P384")


def proves_possession(spki: bytes, proof: bytes, message: bytes) -> bool:
    """Whether `proof` is a signature over `message` by a key that passed `check_public_key`: ECDSA (ASN.1) or RSA-PSS,
    both with SHA-256, or Ed25519.
    """
    key = publickeys.parse(*_split_spki(spki)).public
    if key is None:
        return False
    try:
        if isinstance(key, rsa.RSAPublicKey):
            scheme = padding.PSS(padding.MGF1(hashes.SHA256()), padding.PSS.AUTO)
            key.verify(proof, message, scheme, hashes.SHA256())
        elif isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(proof, message, ec.ECDSA(hashes.SHA256()))
        else:
            key.verify(proof, message)
    except (InvalidSignature, ValueError, UnsupportedAlgorithm):
        return False
    return True


def _split_spki(spki: bytes) -> tuple[str, bytes, bytes]:
    """The arguments of `publickeys.parse`, from a SubjectPublicKeyInfo and nothing after it. Raises DERError."""
    reader = asn1.Reader(spki)
    info = reader.read(asn1.TAG_SEQUENCE, "publicKeyInfo")
    if not reader.empty:
        raise asn1.syntax_error("trailing data")
    return publickeys.split_spki(info)


def _check_strength(key: publickeys.ParsedKey, curves: str) -> None:
    if isinstance(key.public, ec.EllipticCurvePublicKey):
        curve = _CURVES[key.public.curve.name]
        if curve == "P-224":
            raise PodKeyError(f"elliptic public keys must use curve {curves}", f"curve {curve}")
    elif key.kind == publickeys.RSA:
        # Go rounds the size of a modulus up to whole bytes.
        size = (key.size + 7) // 8 * 8
        if size not in _RSA_SIZES:
            raise PodKeyError("RSA keys must have modulus size 3072 or 4096", f"{size}-bit modulus")


# --- chains issued to pods ----------------------------------------------------------------------------------------


class ChainError(ValueError):
    """A text that is not a chain of certificates. The text is a Go server's."""


@dataclasses.dataclass(frozen=True, slots=True)
class Leaf:
    """The first certificate of a chain: its subject alternative names, its validity and its key (in DER)."""

    dns_names: tuple[str, ...]
    email_addresses: tuple[str, ...]
    not_before: datetime.datetime
    not_after: datetime.datetime
    spki: bytes


def parse_leaf(chain: bytes) -> Leaf:
    """The leaf of a chain in PEM; what follows it is not parsed. Raises ChainError."""
    block = pem.first_block(chain)
    if block is None:
        raise ChainError("issued certificate chain must contain at least one certificate")
    if block.label != certificates.PEM_LABEL:
        raise ChainError("issued certificate chain must consist entirely of CERTIFICATE PEM blocks")
    try:
        certificate = pathcertificate.parse(block.data)
        names = _alternative_names(certificate)
    except (pathcertificate.CertificateParseError, certificatenames.AlternativeNamesError) as error:
        raise ChainError("leaf certificate does not parse as valid X.509") from error
    key = certificate.key.public
    return Leaf(
        dns_names=tuple(names.dns),
        email_addresses=tuple(names.email),
        not_before=certificate.not_before,
        not_after=certificate.not_after,
        spki=certificate.spki if key is None else keys.public_der(key),
    )


def _alternative_names(certificate: PathCertificate) -> certificatenames.AlternativeNames:
    encoded = certificate.alternative_names
    return certificatenames.parse_alternative_names(encoded) if encoded else certificatenames.AlternativeNames()


def check_intermediates(chain: bytes) -> None:
    """Check what follows the leaf of a chain. Signatures are not checked. Raises ChainError."""
    for block in itertools.islice(pem.blocks(chain), 1, None):
        if block.label != certificates.PEM_LABEL:
            # Kubernetes misspells the label here.
            raise ChainError("issued certificate chain must consist entirely of CERTFICATE PEM blocks")
        try:
            pathcertificate.parse(block.data)
        except pathcertificate.CertificateParseError as error:
            raise ChainError("intermediate certificate does not parse as valid X.509") from error


def is_issued_to(certificate: Leaf, *, stub: bytes, spki: bytes) -> bool:
    """Whether a certificate is for the requested key: that of the PKCS#10 request `stub` unless empty, else `spki`."""
    try:
        key = certificaterequest.parse_der(stub).public_key if stub else publickeys.parse(*_split_spki(spki)).public
    except (certificaterequest.RequestError, publickeys.PublicKeyError, asn1.DERError):
        return False
    if key is None:
        return False
    return certificate.spki == keys.public_der(key)


# --- mail addresses -----------------------------------------------------------------------------------------------

_ATOM: Final = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_QUOTED: Final = r'"(?:[\t !#-\[\]-~]|\\[\t -~])+"'
_WORD: Final = rf"(?:[A-Za-z0-9!#$%&'*+/=?^_`{{|}}~.-]+|{_QUOTED})"
_DOT_ATOM: Final = rf"{_ATOM}(?:\.{_ATOM})*"
_ADDRESS: Final = rf"(?:{_DOT_ATOM}|{_QUOTED})[ \t]*@[ \t]*(?:{_DOT_ATOM}|\[(?:IPv6:)?[0-9A-Fa-f:.]+\])"
_MAILBOX: Final = re.compile(
    rf"[ \t]*+(?:{_ADDRESS}|(?:{_WORD}(?:[ \t]+{_WORD})*)?[ \t]*<[ \t]*{_ADDRESS}[ \t]*>)[ \t]*", re.ASCII
)


def is_mailbox(text: str) -> bool:
    """Whether Go's net/mail would parse a text as one address: bare, or in angle brackets after an optional name.
    Unlike Go, comments are not supported.
    """
    return _MAILBOX.fullmatch(text) is not None
