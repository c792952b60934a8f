"""What certificates a file holds, whatever its format and however damaged it is.

This is for lists of files that other programs use. Nothing is verified and nothing is refused: each certificate, and
each part of the file that is damaged, becomes one item. No key is loaded.
"""

from __future__ import annotations

import dataclasses
import datetime
import re
from collections.abc import Iterator
from typing import Final

from cryptography import x509

from certplane.golang import asn1, pem
from certplane.x509 import certificatenames
from certplane.x509.trust import certificates

_BEGIN: Final = re.compile(rb"^-----BEGIN ([^\r\n]*?)-----", re.MULTILINE)
#: A SEQUENCE whose length takes two or three bytes: the beginning of every certificate in DER.
_DER: Final = (b"\x30\x81", b"\x30\x82", b"\x30\x83")
_ENCRYPTED_LABEL: Final = "ENCRYPTED PRIVATE KEY"
#: Of OpenSSL: certificates that Go, and so Kubernetes, does not read.
_OTHER_LABELS: Final = ("TRUSTED CERTIFICATE", "X509 CERTIFICATE")


@dataclasses.dataclass(frozen=True, slots=True)
class Item:
    """A certificate; or a problem, or a note about something that is no certificate and no problem. `subject` and
    `issuer` are common names, or the first organization of a name without one; whoever made the certificate chose
    them. `serial` is in lower-case hex.
    """

    subject: str = ""
    issuer: str = ""
    serial: str = ""
    not_before: datetime.datetime | None = None
    not_after: datetime.datetime | None = None
    is_ca: bool = False
    problem: str = ""
    note: str = ""


def inspect(content: bytes, *, needs_pem: bool) -> list[Item]:
    """The items of a file; empty if it has neither certificates nor damaged PEM. With `needs_pem`, DER is a problem,
    because the name of the file promises PEM.
    """
    labels = [match[1] for match in _BEGIN.finditer(content)]
    if labels:
        return list(_pem_items(content, labels))
    if content.startswith(_DER):
        item = _certificate_item(content)
        if item.problem:
            # A key, a request, or PKCS#12.
            return [item] if needs_pem else []
        if needs_pem:
            item = dataclasses.replace(item, problem="DER, but Kubernetes reads PEM")
        return [item]
    return []


def _pem_items(content: bytes, labels: list[bytes]) -> Iterator[Item]:
    damaged = len(labels)
    for block in pem.blocks(content):
        damaged -= 1
        if block.label == certificates.PEM_LABEL:
            yield _certificate_item(block.data)
        elif block.label in _OTHER_LABELS:
            yield Item(problem=f"a PEM block {block.label}, which Kubernetes does not read")
        elif block.label == _ENCRYPTED_LABEL or "ENCRYPTED" in block.headers.get("Proc-Type", ""):
            yield Item(note="an encrypted private key")
    if damaged > 0:
        yield Item(problem="a damaged PEM block" if damaged == 1 else f"{damaged} damaged PEM blocks")


def _certificate_item(raw: bytes) -> Item:
    try:
        certificate = x509.load_der_x509_certificate(raw)
        issuer, subject = map(_name, certificates.issuer_and_subject(certificate))
        return Item(
            subject=subject,
            issuer=issuer,
            serial=f"{certificate.serial_number:x}",
            not_before=certificate.not_valid_before_utc,
            not_after=certificate.not_valid_after_utc,
            is_ca=certificates.is_ca(certificate),
        )
    except (*certificates.PARSE_ERRORS, asn1.DERError):
        return Item(problem="a certificate that cannot be parsed")


def _name(encoded: bytes) -> str:
    subject = certificatenames.parse_name(encoded)
    return subject.common_name or next(iter((*subject.organization, *subject.organizational_unit)), "")
