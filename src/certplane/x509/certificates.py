"""Certificates that others made: judged as status.certificate, and as the credential of a client.

Two different questions. `check_bundle` asks whether a text is a list of certificates at all, in the words of a Go
server. `ClientVerifier` asks whether a chain, as a handshake delivered it, makes its leaf a client today.
"""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import warnings
from collections.abc import Sequence
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.utils import CryptographyDeprecationWarning
from cryptography.x509.oid import ExtendedKeyUsageOID

from certplane import gotext
from certplane.x509 import certform, csr, der, pem

# Authorities that older versions of kubeadm made have serial number 0. They are good, and nobody can mend them; that
# they are read need not be remarked at every start.
warnings.filterwarnings("ignore", "Parsed a serial number which wasn't positive", CryptographyDeprecationWarning)

_UID: Final = "1.3.6.1.4.1.57683.2"
_LONGEST_CHAIN: Final = 8


#: A parsed certificate, for those who only pass it on.
Certificate = x509.Certificate


class CertificateError(ValueError):
    """A text that is not a list of certificates; the text is what a Go server says."""


def check_bundle(text: bytes) -> None:
    """Check that a text holds PEM certificates and no other blocks. Raises CertificateError."""
    found = False
    for block in pem.blocks(text):
        if block.label != "CERTIFICATE":
            raise CertificateError(f"only CERTIFICATE PEM blocks are allowed, found {gotext.quote(block.label)}")
        if block.headers:
            raise CertificateError("no PEM block headers are permitted")
        if not _count(block.data):
            raise CertificateError("found CERTIFICATE PEM block containing 0 certificates")
        found = True
    if not found:
        raise CertificateError("must contain at least one CERTIFICATE PEM block")


def _count(data: bytes) -> int:
    """How many certificates a block holds, one after the other. Raises CertificateError."""
    try:
        return certform.check(data)
    except certform.FormProblem as error:
        raise CertificateError(str(error)) from error


def parse(raw: bytes) -> x509.Certificate:
    """A certificate in DER, with extensions and key that can be read. Raises CertificateError."""
    _count(raw)
    try:
        parsed = x509.load_der_x509_certificate(raw)
        parsed.extensions  # noqa: B018 - parses them
        parsed.public_key()
    except (ValueError, UnsupportedAlgorithm) as error:
        # The library is stricter than Go here and there.
        raise CertificateError("x509: malformed certificate") from error
    return parsed


@dataclasses.dataclass(frozen=True, slots=True)
class Facts:
    """What identifies a certificate: serial number and SHA-256 of its DER, both in lower-case hex, and its end."""

    serial: str
    sha256: str
    not_after: datetime.datetime


def facts(text: bytes) -> Facts | None:
    """Of the first certificate of a bundle; None if there is none that can be read."""
    found = first(text)
    if found is None:
        return None
    digest = hashlib.sha256(found.public_bytes(serialization.Encoding.DER)).hexdigest()
    return Facts(f"{found.serial_number:x}", digest, found.not_valid_after_utc)


def first_not_after(text: bytes) -> datetime.datetime | None:
    """When the first certificate of a bundle ends; None if there is none that can be read."""
    found = first(text)
    return found.not_valid_after_utc if found is not None else None


def first(text: bytes) -> x509.Certificate | None:
    """The first certificate of a bundle; None if there is none that can be read."""
    block = pem.first(text)
    if block is None or block.label != "CERTIFICATE":
        return None
    try:
        # A block may hold several, one after the other.
        return x509.load_der_x509_certificate(der.Reader(block.data).any().raw)
    except (ValueError, x509.InvalidVersion):
        return None


def lifetime(text: bytes) -> datetime.timedelta | None:
    """How long the first certificate of a bundle is valid."""
    found = first(text)
    return found.not_valid_after_utc - found.not_valid_before_utc if found is not None else None


def names(of: x509.Certificate) -> tuple[bytes, bytes]:
    """Issuer and subject, in DER, as they stand: an issuer has to be the same bytes as the subject above it. What the
    library makes of names is not used, as it remarks on those that are longer than X.520 has it.
    """
    fields = list(der.Reader(der.Reader(of.tbs_certificate_bytes).any().content))
    first = 1 if (fields[0].class_, fields[0].tag) == (der.CONTEXT, 0) else 0
    return fields[first + 2].raw, fields[first + 4].raw


def public_key_der(of: x509.Certificate) -> bytes:
    """The SubjectPublicKeyInfo of a certificate."""
    return of.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


# --- clients ------------------------------------------------------------------------------------------------------


class VerificationError(ValueError):
    """A certificate that identifies nobody; the text is for the log."""


@dataclasses.dataclass(frozen=True, slots=True)
class VerifiedClient:
    """Whom a certificate names. Good while `not_before <= now <= not_after`, which cover the whole chain."""

    common_name: str
    organizations: tuple[str, ...]
    uid: str
    not_before: datetime.datetime
    not_after: datetime.datetime
    sha256: str


class ClientVerifier:
    """Judges the chains of clients against a pool of authorities. Immutable."""

    def __init__(self, pool: bytes) -> None:
        """`pool` is PEM. Raises CertificateError if it holds no certificate."""
        roots = [parse(block.data) for block in pem.blocks(pool) if block.label == "CERTIFICATE"]
        if not roots:
            raise CertificateError("data does not contain any valid RSA or ECDSA certificates")
        self._roots = _by_subject(roots)
        self._root_prints = frozenset(_print(each) for each in roots)

    def verify(self, leaf: bytes, intermediates: Sequence[bytes], now: datetime.datetime) -> VerifiedClient:
        """Whom a chain names, leaf first, in DER. Raises VerificationError.

        The chain must lead to the pool over authorities that sign one another, be valid as a whole now, and the leaf
        must be good for client authentication: by its extended key usage, or by having none.
        """
        try:
            parsed = x509.load_der_x509_certificate(leaf)
            others = [x509.load_der_x509_certificate(each) for each in intermediates]
            chain = self._chain(parsed, _by_subject(others))
            _check_purpose(parsed)
            name = names(parsed)[1]
            subject = csr.parse_name(name)
        except (ValueError, UnsupportedAlgorithm) as error:
            raise VerificationError(f"x509: {error}") from error
        begins = max(each.not_valid_before_utc for each in chain)
        ends = min(each.not_valid_after_utc for each in chain)
        check_time(begins, ends, now)
        return VerifiedClient(
            common_name=subject.common_name,
            organizations=subject.organization,
            uid=_uid(name),
            not_before=begins,
            not_after=ends,
            sha256=hashlib.sha256(leaf).hexdigest(),
        )

    def _chain(
        self, leaf: x509.Certificate, intermediates: dict[bytes, list[x509.Certificate]]
    ) -> list[x509.Certificate]:
        chain = [leaf]
        while _print(chain[-1]) not in self._root_prints:
            if len(chain) == _LONGEST_CHAIN:
                raise ValueError("the certificate chain is too long")
            issuer = self._issuer(chain[-1], intermediates)
            if issuer in chain:
                raise ValueError("the certificate chain leads back to itself")
            chain.append(issuer)
        return chain

    def _issuer(self, of: x509.Certificate, intermediates: dict[bytes, list[x509.Certificate]]) -> x509.Certificate:
        name = names(of)[0]
        candidate: x509.Certificate
        for candidate in (*self._roots.get(name, ()), *intermediates.get(name, ())):
            if is_authority(candidate) and _signed(candidate, of):
                return candidate
        raise ValueError("certificate signed by unknown authority")


def _by_subject(certificates: Sequence[x509.Certificate]) -> dict[bytes, list[x509.Certificate]]:
    found: dict[bytes, list[x509.Certificate]] = {}
    for each in certificates:
        found.setdefault(names(each)[1], []).append(each)
    return found


def _print(of: x509.Certificate) -> bytes:
    return hashlib.sha256(of.tbs_certificate_bytes + of.signature).digest()


def is_authority(of: x509.Certificate) -> bool:
    """Whether a certificate may sign others: it has the CA bit, and the key usage, if it has one, says so, too."""
    try:
        if not of.extensions.get_extension_for_class(x509.BasicConstraints).value.ca:
            return False
    except x509.ExtensionNotFound:
        return False
    try:
        return of.extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign
    except x509.ExtensionNotFound:
        return True


def _signed(issuer: x509.Certificate, of: x509.Certificate) -> bool:
    try:
        of.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _check_purpose(of: x509.Certificate) -> None:
    try:
        usages = of.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return
    if ExtendedKeyUsageOID.CLIENT_AUTH not in usages and ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE not in usages:
        raise ValueError("certificate specifies an incompatible key usage")


def check_time(begins: datetime.datetime, ends: datetime.datetime, now: datetime.datetime) -> None:
    """Raises VerificationError if `now` is not within the two."""
    if begins <= now <= ends:
        return
    before = now < begins
    text = "is before" if before else "is after"
    bound = begins if before else ends
    raise VerificationError(
        "x509: certificate has expired or is not yet valid: current time "
        f"{now.strftime('%Y-%m-%dT%H:%M:%SZ')} {text} {bound.strftime('%Y-%m-%dT%H:%M:%SZ')}"
    )


def _uid(name: bytes) -> str:
    found = [value for oid, value in csr.name_attributes(der.Reader(name).any().content) if oid == _UID]
    if len(found) > 1:
        raise VerificationError(f"expected 1 UID, but found multiple: [{' '.join(found)}]")
    if found and not found[0]:
        raise VerificationError("UID cannot be an empty string")
    return found[0] if found else ""
