"""Which certificates a text holds, and until when they are valid: for warnings before they end, and for renewals."""

from __future__ import annotations

import dataclasses
import datetime

from certplane.golang import pem
from certplane.x509.trust import certificates, clientcertificates, pathcertificate


@dataclasses.dataclass(frozen=True, slots=True)
class Validity:
    """A certificate's identity and validity. `subject` is for people, at most 128 characters; `serial` and `sha256`, of
    the DER, are in lower-case hex.
    """

    subject: str
    serial: str
    sha256: str
    not_before: datetime.datetime
    not_after: datetime.datetime

    @property
    def lifetime(self) -> datetime.timedelta:
        return self.not_after - self.not_before


def from_der(raw: bytes) -> Validity:
    """Raises CertificateError."""
    try:
        certificate = pathcertificate.parse(raw)
    except pathcertificate.CertificateParseError as error:
        raise certificates.CertificateError(str(error)) from error
    return Validity(
        subject=clientcertificates.format_name(certificate.subject),
        serial=f"{certificate.serial:x}",
        sha256=certificate.digest.hex(),
        not_before=certificate.not_before,
        not_after=certificate.not_after,
    )


def from_pem(text: bytes) -> list[Validity]:
    """Those of all certificates in a text, in its order. Raises CertificateError."""
    return [from_der(block.data) for block in pem.blocks(text) if block.label == certificates.PEM_LABEL]
