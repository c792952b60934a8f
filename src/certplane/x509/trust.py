"""What the younger certificate kinds carry: trust anchors, the keys of pods, and chains issued to pods.

Everything here answers with the words of a Go server or with plain facts; where in an object the words belong is
known to `certplane.resources`. Source: kubernetes, `pkg/apis/certificates/validation`; Go `crypto/x509`.
"""

from __future__ import annotations

import dataclasses
import datetime
import re
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from certplane.x509 import certificates, csr, der, pem, publickeys

_CERTIFICATE: Final = "CERTIFICATE"
_CURVES: Final = {"secp224r1": "P-224", "secp256r1": "P-256", "secp384r1": "P-384", "secp521r1": "P-521"}
_MODULI: Final = (3072, 4096)
_UNKNOWN_KEY: Final = "unknown public key type; supported types are Ed25519, ECDSA, and RSA"
#: Key types that Go reads, and that nobody may ask a certificate for: X25519, DSA.
_FOREIGN_KEYS: Final = frozenset({"1.3.101.110", "1.2.840.10040.4.1"})


def _certificate(data: bytes) -> x509.Certificate:
    """The one certificate in a block. Raises ValueError."""
    certificates.check_bundle(pem.encode(_CERTIFICATE, data))
    return x509.load_der_x509_certificate(data)


# --- trust anchors ------------------------------------------------------------------------------------------------


def anchor_problems(text: bytes) -> list[str]:
    """What is wrong with a list of trust anchors, in PEM; blocks are counted from 0. Text between them is ignored."""
    problems: list[str] = []
    places: dict[bytes, list[int]] = {}
    for at, block in enumerate(pem.blocks(text)):
        problem = _anchor_problem(block)
        if problem:
            problems.append(f"entry {at} {problem}")
        places.setdefault(block.data, []).append(at)
    if problems:
        return problems
    if not places:
        return ["at least one trust anchor must be provided"]
    return [
        f"duplicate trust anchor (indices [{' '.join(map(str, indices))}])"
        for indices in places.values()
        if len(indices) > 1
    ]


def _anchor_problem(block: pem.Block) -> str:
    if block.label != _CERTIFICATE:
        return f"has bad block type: {block.label}"
    if block.headers:
        return "has PEM block headers"
    try:
        extensions = _certificate(block.data).extensions
    except ValueError:
        # Basic constraints that cannot be read end here, too: for Go they make the whole certificate unreadable, so
        # its complaint "has invalid basic constraints" is never heard.
        return "does not parse as X.509"
    try:
        authority = extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        authority = False
    return "" if authority else "does not have the CA bit set"


# --- the keys of pods ---------------------------------------------------------------------------------------------


class KeyProblem(ValueError):
    """A key that no certificate is made for. The text is a Go server's; `value` is what it prints with it, if any."""

    def __init__(self, text: str, value: str | bytes | None = None) -> None:
        super().__init__(text)
        self.value = value


def check_stub(request: bytes) -> None:
    """Check a PKCS#10 request, in DER, of which only key and signature matter. Raises KeyProblem."""
    try:
        parsed = csr.parse_der(request)
    except csr.RequestError as error:
        raise KeyProblem("must be a valid PKCS#10 CSR") from error
    if not parsed.key.kind:
        raise KeyProblem(_UNKNOWN_KEY)
    _check_strength(parsed.key, "P256, P384, or P521")
    try:
        csr.verify(parsed)
    except csr.RequestError as error:
        raise KeyProblem("invalid signature") from error


def check_public_key(spki: bytes) -> None:
    """Check a SubjectPublicKeyInfo, in DER. Raises KeyProblem."""
    try:
        parts = _key_parts(spki)
        key = publickeys.read(*parts)
    except (publickeys.KeyProblem, der.DERProblem) as error:
        raise KeyProblem("must be a valid PKIX-serialized public key", spki) from error
    if not key.kind:
        known = parts[0] in _FOREIGN_KEYS
        raise KeyProblem(_UNKNOWN_KEY if known else "must be a valid PKIX-serialized public key", spki)
    # P-521 is as good as the two; that the text does not name it is Kubernetes' slip.
    _check_strength(key, "P256 or P384")


def proves_possession(spki: bytes, proof: bytes, message: bytes) -> bool:
    """Whether `proof` is a signature over `message` by a key that passed `check_public_key`: ECDSA (ASN.1) or RSA-PSS,
    both with SHA-256, or Ed25519.
    """
    key = publickeys.read(*_key_parts(spki)).public
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


def _key_parts(spki: bytes) -> tuple[str, bytes, bytes]:
    """What a SubjectPublicKeyInfo consists of. Raises DERProblem, also if anything follows it."""
    outer = der.Reader(spki)
    info = outer.read(der.SEQUENCE, "publicKeyInfo")
    if not outer.empty:
        raise der.syntax("trailing data")
    return publickeys.parts(info)


def _check_strength(key: publickeys.Key, curves: str) -> None:
    if isinstance(key.public, ec.EllipticCurvePublicKey):
        curve = _CURVES[key.public.curve.name]
        if curve == "P-224":
            raise KeyProblem(f"elliptic public keys must use curve {curves}", f"curve {curve}")
    elif key.kind == publickeys.RSA:
        # Go counts the bytes of a modulus.
        size = (key.size + 7) // 8 * 8
        if size not in _MODULI:
            raise KeyProblem("RSA keys must have modulus size 3072 or 4096", f"{size}-bit modulus")


# --- chains issued to pods ----------------------------------------------------------------------------------------


class ChainProblem(ValueError):
    """A text that is not a chain of certificates. The text is a Go server's."""


@dataclasses.dataclass(frozen=True, slots=True)
class Leaf:
    """The first certificate of a chain: for which names and which key (in DER) it is, and for how long."""

    dns_names: tuple[str, ...]
    email_addresses: tuple[str, ...]
    not_before: datetime.datetime
    not_after: datetime.datetime
    spki: bytes


def leaf(chain: bytes) -> Leaf:
    """The leaf of a chain in PEM; the rest is not looked at. Raises ChainProblem."""
    block = pem.first(chain)
    if block is None:
        raise ChainProblem("issued certificate chain must contain at least one certificate")
    if block.label != _CERTIFICATE:
        raise ChainProblem("issued certificate chain must consist entirely of CERTIFICATE PEM blocks")
    try:
        found = _certificate(block.data)
        names = _alternative_names(found)
        spki = certificates.public_key_der(found)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ChainProblem("leaf certificate does not parse as valid X.509") from error
    return Leaf(
        dns_names=tuple(names.get_values_for_type(x509.DNSName)),
        email_addresses=tuple(names.get_values_for_type(x509.RFC822Name)),
        not_before=found.not_valid_before_utc,
        not_after=found.not_valid_after_utc,
        spki=spki,
    )


_ATOM: Final = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_QUOTED: Final = r'"(?:[\t !#-\[\]-~]|\\[\t -~])+"'
_WORD: Final = rf"(?:[A-Za-z0-9!#$%&'*+/=?^_`{{|}}~.-]+|{_QUOTED})"
_DOT_ATOM: Final = rf"{_ATOM}(?:\.{_ATOM})*"
_ADDRESS: Final = rf"(?:{_DOT_ATOM}|{_QUOTED})[ \t]*@[ \t]*(?:{_DOT_ATOM}|\[(?:IPv6:)?[0-9A-Fa-f:.]+\])"
_mailbox = re.compile(
    rf"[ \t]*+(?:{_ADDRESS}|(?:{_WORD}(?:[ \t]+{_WORD})*)?[ \t]*<[ \t]*{_ADDRESS}[ \t]*>)[ \t]*", re.ASCII
).fullmatch


def is_mailbox(text: str) -> bool:
    """Whether Go's net/mail takes a text for an address: bare, or in angle brackets, perhaps after a name. Unlike Go
    we know no comments.
    """
    return _mailbox(text) is not None


def _alternative_names(of: x509.Certificate) -> x509.SubjectAlternativeName:
    try:
        return of.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return x509.SubjectAlternativeName([])


def check_intermediates(chain: bytes) -> None:
    """Check what follows the leaf of a chain. Whether each signed the one before is not asked. Raises ChainProblem."""
    for at, block in enumerate(pem.blocks(chain)):
        if at == 0:
            continue
        if block.label != _CERTIFICATE:
            # Misspelt on the wire.
            raise ChainProblem("issued certificate chain must consist entirely of CERTFICATE PEM blocks")
        try:
            _certificate(block.data)
        except ValueError as error:
            raise ChainProblem("intermediate certificate does not parse as valid X.509") from error


def is_issued_to(certificate: Leaf, *, stub: bytes, spki: bytes) -> bool:
    """Whether a certificate is for the key that was asked for: that of `stub` if there is one, else `spki`."""
    try:
        key = csr.parse_der(stub).public_key if stub else publickeys.read(*_key_parts(spki)).public
    except (csr.RequestError, publickeys.KeyProblem, der.DERProblem):
        return False
    if key is None:
        return False
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return certificate.spki == key.public_bytes(serialization.Encoding.DER, form)
