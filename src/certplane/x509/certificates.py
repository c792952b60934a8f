"""Certificates that others made: judged as status.certificate, and as the credential of a client.

Two different questions. `check_bundle` asks whether a text is a list of certificates at all, in the words of a Go
server. `ClientVerifier` asks whether a chain, as a handshake delivered it, makes its leaf a client today; the rules are
those of `pathvalidation`.
"""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import warnings
from collections.abc import Sequence
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.utils import CryptographyDeprecationWarning

from certplane import gotext
from certplane.x509 import certform, csr, der, pathcertificate, pathvalidation, pem

# Authorities that older versions of kubeadm made have serial number 0. They are good, and nobody can mend them; that
# they are read need not be remarked at every start.
warnings.filterwarnings("ignore", "Parsed a serial number which wasn't positive", CryptographyDeprecationWarning)

_UID: Final = "1.3.6.1.4.1.57683.2"


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

#: How long a refusal is good that says what time it is.
_TIME_TOLD: Final = datetime.timedelta(minutes=1)
_LONGEST_TEXT: Final = 512
_LONGEST_NAME: Final = 128

Reason = pathvalidation.Reason
Span = pathvalidation.Span


@dataclasses.dataclass(frozen=True, slots=True)
class Identifiers:
    """What tells a certificate, for people: names as Go prints them, cut, and the serial number in hex. Whoever made
    the certificate chose them.
    """

    subject: str
    issuer: str
    serial: str


@dataclasses.dataclass(frozen=True, slots=True)
class Refusal:
    """Why a chain identifies nobody; `text` is for the log. The same chain is refused as long as `span`; `identifiers`
    are None if the certificate cannot be read.
    """

    text: str
    reason: Reason
    span: Span
    identifiers: Identifiers | None = None


class VerificationError(ValueError):
    """A certificate that identifies nobody."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.text)
        self.refusal = refusal


@dataclasses.dataclass(frozen=True, slots=True)
class VerifiedClient:
    """Whom a certificate names. The same chain is good as long as `span`; `not_after` is the end of the certificate."""

    common_name: str
    organizations: tuple[str, ...]
    uid: str
    span: Span
    not_after: datetime.datetime
    sha256: str


class ClientVerifier:
    """Judges the chains of clients against a pool of authorities. Immutable."""

    def __init__(self, pool: bytes) -> None:
        """`pool` is PEM. Raises CertificateError if it holds no certificate."""
        blocks = [each for each in pem.blocks(pool) if each.label == "CERTIFICATE" and not each.headers]
        try:
            roots = [pathcertificate.parse(each.data) for each in blocks]
        except pathcertificate.CertificateProblem as error:
            raise CertificateError(str(error)) from error
        if not roots:
            raise CertificateError("data does not contain any valid RSA or ECDSA certificates")
        self._pool = pathvalidation.Pool(roots)

    def verify(self, leaf: bytes, intermediates: Sequence[bytes], now: datetime.datetime) -> VerifiedClient:
        """Whom a chain names, leaf first, in DER. Raises VerificationError."""
        try:
            certificate, *others = pathvalidation.read((leaf, *intermediates))
        except pathvalidation.PathProblem as error:
            raise VerificationError(_refusal(error, pathvalidation.ALWAYS)) from error
        try:
            path = pathvalidation.verify(certificate, others, self._pool, now)
            subject = csr.parse_name(certificate.subject)
            uid = _uid(certificate.subject) if subject.common_name else ""
        except pathvalidation.PathProblem as error:
            span = pathvalidation.span((certificate, *others, *self._pool.certificates), now)
            if error.reason in (Reason.EXPIRED, Reason.NOT_YET_VALID):
                span = dataclasses.replace(span, until=min(span.until, now + _TIME_TOLD))
            raise VerificationError(_refusal(error, span, _identifiers(certificate))) from error
        return VerifiedClient(
            common_name=subject.common_name,
            organizations=subject.organization,
            uid=uid,
            span=pathvalidation.span(path, now),
            not_after=certificate.not_after,
            sha256=certificate.digest.hex(),
        )

    def trusts(self, authority: bytes, now: datetime.datetime) -> tuple[bool, Span]:
        """Whether certificates that an authority signs, in DER, are good for clients: it has the key of one in the
        pool, or leads to the pool. The answer is the same as long as the span.
        """
        try:
            (certificate,) = pathvalidation.read((authority,))
        except pathvalidation.PathProblem:
            return False, pathvalidation.ALWAYS
        if any(each.spki == certificate.spki for each in self._pool.certificates):
            return True, pathvalidation.ALWAYS
        span = pathvalidation.span((certificate, *self._pool.certificates), now)
        try:
            pathvalidation.verify(certificate, (), self._pool, now)
        except pathvalidation.PathProblem:
            return False, span
        return True, span


def _refusal(problem: pathvalidation.PathProblem, span: Span, identifiers: Identifiers | None = None) -> Refusal:
    return Refusal(str(problem)[:_LONGEST_TEXT], problem.reason, span, identifiers)


def _identifiers(certificate: pathcertificate.PathCertificate) -> Identifiers:
    subject, issuer = (_name_text(each) for each in (certificate.subject, certificate.issuer))
    return Identifiers(subject, issuer, f"{certificate.serial:x}"[:_LONGEST_NAME])


_SHORT_TYPES: Final = {"2.5.4.3": "CN", "2.5.4.10": "O", "2.5.4.11": "OU", "2.5.4.6": "C", "2.5.4.7": "L", _UID: "UID"}


def _name_text(name: bytes) -> str:
    """A name for people, cut."""
    attributes = csr.name_attributes(der.Reader(name).any().content)
    text = ",".join(f"{_SHORT_TYPES.get(oid, oid)}={value[:_LONGEST_NAME]}" for oid, value in attributes[-8:][::-1])
    return text if len(text) <= _LONGEST_NAME else f"{text[: _LONGEST_NAME - 3]}..."


def is_authority(certificate: x509.Certificate) -> bool:
    """Whether a certificate may sign others: it has the CA bit, and the key usage, if it has one, says so, too."""
    try:
        if not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca:
            return False
    except x509.ExtensionNotFound:
        return False
    try:
        return certificate.extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign
    except x509.ExtensionNotFound:
        return True


def _uid(name: bytes) -> str:
    """The UID in a name, empty if there is none. Raises PathProblem."""
    found = [value for oid, value in csr.name_attributes(der.Reader(name).any().content) if oid == _UID]
    if len(found) > 1:
        raise pathvalidation.PathProblem(f"expected 1 UID, but found multiple: [{' '.join(found)}]")
    if found and not found[0]:
        raise pathvalidation.PathProblem("UID cannot be an empty string")
    return found[0] if found else ""
