"""Facts about a certificate: what status and log show, and what the configuration is compared with."""

from __future__ import annotations

import dataclasses
import datetime
from typing import Final

from certplane.golang import asn1, formatting, pem
from certplane.x509 import certificatenames, keys
from certplane.x509.certificatenames import AlternativeNamesError
from certplane.x509.keys import InvalidKeyError
from certplane.x509.trust import pathcertificate
from certplane.x509.trust.pathcertificate import CertificateParseError

#: The label of a PEM block that holds a certificate.
PEM_LABEL: Final = "CERTIFICATE"
#: Characters of a name in a text.
_MAX_NAME: Final = 200


@dataclasses.dataclass(frozen=True, slots=True)
class Facts:
    """`serial` and `sha256`, the digest of the DER, are in lower-case hex. `subject` and `issuer` are texts for people,
    truncated; the other names are complete. IP addresses are in their usual text form.
    """

    serial: str
    sha256: str
    subject: str
    issuer: str
    not_before: datetime.datetime
    not_after: datetime.datetime
    common_name: str
    organizations: tuple[str, ...]
    dns_names: tuple[str, ...]
    ip_addresses: tuple[str, ...]


class PairError(ValueError):
    """A certificate and a key that do not belong together, or that cannot be used. The text quotes nothing of a key."""


def check_pair(certificate: bytes, key: bytes) -> None:
    """Check that the first certificate of a PEM text has the first private key of another one. Raises PairError.

    `x509.trust.keypairs` does the same with the texts of Go, and with a part of the library that is not needed here.
    """
    block = next((block for block in pem.blocks(certificate) if block.label == PEM_LABEL), None)
    if block is None:
        raise PairError("it holds no certificate in PEM")
    try:
        certified, private = pathcertificate.parse(block.data), keys.from_pem(key)
    except (CertificateParseError, InvalidKeyError) as error:
        raise PairError(str(error)) from error
    if certified.spki != keys.spki(private) and certified.key.public != private.public_key():
        raise PairError("private key does not match public key")


def read(certificate: bytes) -> Facts:
    """The facts of a certificate in DER. Raises CertificateParseError."""
    parsed = pathcertificate.parse(certificate)
    try:
        subject, issuer = certificatenames.parse_name(parsed.subject), certificatenames.parse_name(parsed.issuer)
        names = certificatenames.AlternativeNames()
        if parsed.alternative_names is not None:
            names = certificatenames.parse_alternative_names(parsed.alternative_names)
    except (asn1.DERError, AlternativeNamesError) as error:
        raise CertificateParseError(str(error)) from error
    return Facts(
        serial=f"{parsed.serial:x}",
        sha256=parsed.digest.hex(),
        subject=_name_text(subject),
        issuer=_name_text(issuer),
        not_before=parsed.not_before,
        not_after=parsed.not_after,
        common_name=subject.common_name,
        organizations=subject.organization,
        dns_names=tuple(names.dns),
        ip_addresses=tuple(map(str, names.ip)),
    )


def _name_text(name: certificatenames.Subject) -> str:
    parts = [f"CN={name.common_name}"] if name.common_name else []
    parts += [f"O={organization}" for organization in name.organization]
    return formatting.truncate(",".join(parts), _MAX_NAME)
