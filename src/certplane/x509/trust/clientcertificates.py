"""Client certificates: whom a chain from a TLS handshake authenticates, by the rules of `pathvalidation`."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Sequence
from typing import Final

from certplane.golang import asn1, formatting, pem
from certplane.x509 import certificatenames, oids
from certplane.x509.trust import certificates, pathcertificate, pathvalidation
from certplane.x509.trust.pathvalidation import PathValidationError, Reason, Span

#: How long a refusal is cached whose text contains the current time.
_TIMED_REFUSAL_SPAN: Final = datetime.timedelta(minutes=1)
_MAX_TEXT: Final = 512
_MAX_NAME: Final = 128


@dataclasses.dataclass(frozen=True, slots=True)
class Identifiers:
    """Subject, issuer and serial number of a certificate, for logs: names as Go prints them, truncated; the serial
    number in hex. Whoever made the certificate chose all of them.
    """

    subject: str
    issuer: str
    serial: str


@dataclasses.dataclass(frozen=True, slots=True)
class Refusal:
    """Why a chain is refused; `text` is for the log. Within `span` the same chain is refused for the same reason.
    `identifiers` are None if the certificate cannot be parsed.
    """

    text: str
    reason: Reason
    span: Span
    identifiers: Identifiers | None = None


class VerificationError(ValueError):
    """A client certificate is refused."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.text)
        self.refusal = refusal


@dataclasses.dataclass(frozen=True, slots=True)
class VerifiedClient:
    """The client that a certificate names. The same chain stays valid within `span`; `not_after` is the certificate's;
    `sha256` is the digest of its DER, in hex.
    """

    common_name: str
    organizations: tuple[str, ...]
    uid: str
    span: Span
    not_after: datetime.datetime
    sha256: str


class ClientVerifier:
    """Verifies client certificate chains against a pool of CA certificates. Immutable."""

    def __init__(self, pool: bytes) -> None:
        """`pool` is PEM. Raises CertificateError if it holds no certificate."""
        blocks = [block for block in pem.blocks(pool) if block.label == certificates.PEM_LABEL and not block.headers]
        try:
            anchors = [pathcertificate.parse(block.data) for block in blocks]
        except pathcertificate.CertificateParseError as error:
            raise certificates.CertificateError(str(error)) from error
        if not anchors:
            raise certificates.CertificateError("data does not contain any valid RSA or ECDSA certificates")
        self._pool = pathvalidation.Pool(anchors)

    def verify(self, leaf: bytes, intermediates: Sequence[bytes], now: datetime.datetime) -> VerifiedClient:
        """The client that a chain authenticates, all in DER. Raises VerificationError."""
        try:
            certificate, *others = pathvalidation.parse_chain((leaf, *intermediates))
        except PathValidationError as error:
            raise VerificationError(_refusal(error, pathvalidation.ALWAYS)) from error
        try:
            path = pathvalidation.verify(certificate, others, self._pool, now)
            subject = certificatenames.parse_name(certificate.subject)
            uid = _uid(certificate.subject) if subject.common_name else ""
        except PathValidationError as error:
            span = pathvalidation.stable_span((certificate, *others, *self._pool.certificates), now)
            if error.reason in (Reason.EXPIRED, Reason.NOT_YET_VALID):
                span = dataclasses.replace(span, until=min(span.until, now + _TIMED_REFUSAL_SPAN))
            raise VerificationError(_refusal(error, span, _identifiers(certificate))) from error
        return VerifiedClient(
            common_name=subject.common_name,
            organizations=subject.organization,
            uid=uid,
            span=pathvalidation.stable_span(path, now),
            not_after=certificate.not_after,
            sha256=certificate.digest.hex(),
        )

    def trusts(self, authority: bytes, now: datetime.datetime) -> tuple[bool, Span]:
        """Whether client certificates signed by a CA, in DER, would be accepted: it shares the key of a certificate in
        the pool, or has a path to the pool. The answer is the same within the span.
        """
        try:
            (certificate,) = pathvalidation.parse_chain((authority,))
        except PathValidationError:
            return False, pathvalidation.ALWAYS
        if any(anchor.spki == certificate.spki for anchor in self._pool.certificates):
            return True, pathvalidation.ALWAYS
        span = pathvalidation.stable_span((certificate, *self._pool.certificates), now)
        try:
            pathvalidation.verify(certificate, (), self._pool, now)
        except PathValidationError:
            return False, span
        return True, span


def _refusal(error: PathValidationError, span: Span, identifiers: Identifiers | None = None) -> Refusal:
    return Refusal(str(error)[:_MAX_TEXT], error.reason, span, identifiers)


def _identifiers(certificate: pathcertificate.PathCertificate) -> Identifiers:
    return Identifiers(
        subject=format_name(certificate.subject),
        issuer=format_name(certificate.issuer),
        serial=f"{certificate.serial:x}"[:_MAX_NAME],
    )


_SHORT_TYPES: Final = {
    oids.COMMON_NAME: "CN",
    oids.ORGANIZATION: "O",
    oids.ORGANIZATIONAL_UNIT: "OU",
    oids.COUNTRY: "C",
    oids.LOCALITY: "L",
    oids.KUBERNETES_UID: "UID",
}


def format_name(name: bytes) -> str:
    """A DER name for logs: its last eight attributes, last one first, truncated."""
    attributes = _attributes(name)[-8:][::-1]
    text = ",".join(f"{_SHORT_TYPES.get(oid, oid)}={value[:_MAX_NAME]}" for oid, value in attributes)
    return formatting.truncate(text, _MAX_NAME)


def _uid(name: bytes) -> str:
    """The Kubernetes UID in a DER name, empty if there is none. Raises PathValidationError."""
    uids = [value for oid, value in _attributes(name) if oid == oids.KUBERNETES_UID]
    if len(uids) > 1:
        raise PathValidationError(f"expected 1 UID, but found multiple: [{' '.join(uids)}]")
    if uids and not uids[0]:
        raise PathValidationError("UID cannot be an empty string")
    return uids[0] if uids else ""


def _attributes(name: bytes) -> list[tuple[str, str]]:
    return certificatenames.parse_name_attributes(asn1.Reader(name).read_any().content)
