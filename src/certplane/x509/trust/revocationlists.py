"""Certificate revocation lists in a file: whose they are, and when the next one is due.

As in `inventory`, nothing is verified and nothing is refused: a damaged list becomes an item that says so.
"""

from __future__ import annotations

import dataclasses
import datetime
from typing import Final

from cryptography import x509

from certplane.golang import asn1, pem
from certplane.x509 import certificatenames
from certplane.x509.trust import certificates

_PEM_LABEL: Final = "X509 CRL"
_BEGIN: Final = b"-----BEGIN X509 CRL-----"


@dataclasses.dataclass(frozen=True, slots=True)
class RevocationList:
    """A list, or a problem. `issuer` is a common name, or the first organization; whoever made the list chose it.
    `next_update` is None for a list that does not say.
    """

    issuer: str = ""
    this_update: datetime.datetime | None = None
    next_update: datetime.datetime | None = None
    problem: str = ""


def inspect(content: bytes) -> list[RevocationList]:
    """The lists in a PEM file; empty if there are none."""
    if _BEGIN not in content:
        return []
    lists = [_read(block.data) for block in pem.blocks(content) if block.label == _PEM_LABEL]
    return lists or [RevocationList(problem="a damaged revocation list")]


def inspect_der(content: bytes) -> list[RevocationList]:
    """The list in a DER file; empty if it is no list."""
    found = _read(content)
    return [] if found.problem else [found]


def _read(raw: bytes) -> RevocationList:
    try:
        revoked = x509.load_der_x509_crl(raw)
        issuer = certificatenames.parse_name(revoked.issuer.public_bytes())
        return RevocationList(
            issuer=issuer.common_name or next(iter((*issuer.organization, *issuer.organizational_unit)), ""),
            this_update=revoked.last_update_utc,
            next_update=revoked.next_update_utc,
        )
    except (*certificates.PARSE_ERRORS, asn1.DERError):
        return RevocationList(problem="a revocation list that cannot be parsed")
