"""When the certificates and CAs of a layout end: collected from the files, and as the table and document of kubeadm.

Like kubeadm, `collect` fails for a certificate that cannot be read. With `tolerate_damage` such a certificate gets a
row that says so, and the others are still listed.

Source: kubernetes, `cmd/kubeadm/app/cmd/certs.go`, `.../apis/output/v1alpha3/types.go`; Go `text/tabwriter`.
"""

from __future__ import annotations

import dataclasses
import datetime
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, TypeVar

from certplane import timestamps
from certplane.errors import SetupError
from certplane.golang import formatting
from certplane.kubeadm import renewal
from certplane.kubeadm.layout import CertificateAuthority, Entry, Layout

_T = TypeVar("_T", Entry, CertificateAuthority)

_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_API_VERSION: Final = "output.kubeadm.k8s.io/v1alpha3"
#: Of Go's table writer.
_MIN_WIDTH: Final = 10
_PADDING: Final = 3


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """A certificate or a CA. `not_after` is None if it is missing, or cannot be read: `problem` says why then. `ca` is
    empty for CAs. `is_mismatched` if the key is not that of the certificate, because a renewal was interrupted.
    """

    name: str
    not_after: datetime.datetime | None = None
    ca: str = ""
    is_external: bool = False
    problem: str = ""
    is_mismatched: bool = False

    @property
    def is_missing(self) -> bool:
        return self.not_after is None and not self.problem

    def ends_within(self, period: datetime.timedelta, now: datetime.datetime) -> bool:
        """Whether it ends before the period is over. What cannot be read counts, what is missing does not."""
        return bool(self.problem) or (self.not_after is not None and self.not_after - now < period)


@dataclasses.dataclass(frozen=True, slots=True)
class Report:
    """The certificates and the CAs of a layout, each sorted by name."""

    certificates: tuple[Row, ...]
    authorities: tuple[Row, ...]

    @property
    def rows(self) -> tuple[Row, ...]:
        return self.certificates + self.authorities


def collect(layout: Layout, *, tolerate_damage: bool = False) -> Report:
    """Read the certificates of a layout. Raises SetupError for one that cannot be read, unless damage is tolerated."""
    # Several certificates have the same CA.
    find_external = functools.cache(functools.partial(renewal.find_external, layout))
    return Report(
        tuple(_row(_entry_row, entry, find_external, tolerate_damage) for entry in layout.entries),
        tuple(_row(_authority_row, ca, find_external, tolerate_damage) for ca in layout.authorities),
    )


#: Whether the key of a CA is kept elsewhere. Raises SetupError.
_FindExternal = Callable[[CertificateAuthority], bool]


def _row(
    read: Callable[[_T, _FindExternal], Row], item: _T, find_external: _FindExternal, tolerate_damage: bool
) -> Row:
    try:
        return read(item, find_external)
    except SetupError as error:
        if not tolerate_damage:
            raise
        return Row(item.name, problem=error.message)


def _entry_row(entry: Entry, find_external: _FindExternal) -> Row:
    # As in kubeadm, only the certificate decides whether there is one.
    existing = renewal.load(entry)
    if existing is None:
        return Row(entry.name)
    return Row(
        entry.name,
        existing.not_after,
        entry.ca.name,
        is_external=find_external(entry.ca),
        is_mismatched=bool(existing.key) and not existing.matches,
    )


def _authority_row(ca: CertificateAuthority, find_external: _FindExternal) -> Row:
    if not ca.certificate.exists():
        return Row(ca.name)
    is_external = find_external(ca)
    return Row(ca.name, renewal.load_ca_certificates(ca)[0].not_after, is_external=is_external)


# --- the table ----------------------------------------------------------------------------------------------------


def table(report: Report, now: datetime.datetime) -> str:
    """The two tables, byte for byte as kubeadm prints them, trailing blanks included."""
    certificates = [
        ("CERTIFICATE", "EXPIRES", "RESIDUAL TIME", "CERTIFICATE AUTHORITY", "EXTERNALLY MANAGED"),
        *(_cells(row, now, (row.ca,)) for row in report.certificates),
    ]
    authorities = [
        ("CERTIFICATE AUTHORITY", "EXPIRES", "RESIDUAL TIME", "EXTERNALLY MANAGED"),
        *(_cells(row, now, ()) for row in report.authorities),
    ]
    return "".join((*_lines(certificates), "\n", *_lines(authorities)))


def _cells(row: Row, now: datetime.datetime, ca: tuple[str, ...]) -> tuple[str, ...]:
    if row.not_after is None:
        return (f"{'!INVALID!' if row.problem else '!MISSING!'} {row.name}", "", "", *("" for _ in ca), "")
    residual = formatting.human_duration((row.not_after - now).total_seconds())
    return (row.name, format_time(row.not_after), residual, *ca, f"{'yes' if row.is_external else 'no':8}")


def format_time(time: datetime.datetime) -> str:
    """A time in UTC in the layout `Jan 02, 2006 15:04 MST`, whatever the locale is."""
    return f"{_MONTHS[time.month - 1]} {time.day:02}, {time.year:04} {time.hour:02}:{time.minute:02} UTC"


def _lines(rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    """The lines of a table: every cell but the last one is padded to the width of its column."""
    widths = [max(_MIN_WIDTH, max(map(len, column)) + _PADDING) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "".join(cell.ljust(width) for cell, width in zip(row[:-1], widths, strict=False)) + row[-1] + "\n"


# --- the document -------------------------------------------------------------------------------------------------


def document(report: Report, now: datetime.datetime) -> dict[str, Any]:
    """The CertificateExpirationInfo, with its keys in the order of kubeadm's JSON. A row that cannot be read has the
    additional key `problem`.
    """
    return {
        "kind": "CertificateExpirationInfo",
        "apiVersion": _API_VERSION,
        "certificates": [_item(row, now) for row in report.certificates],
        "certificateAuthorities": [_item(row, now) for row in report.authorities],
    }


def _item(row: Row, now: datetime.datetime) -> dict[str, Any]:
    ends = row.not_after
    return {
        "name": row.name,
        "expirationDate": timestamps.rfc3339(ends) if ends is not None else None,
        "residualTime": int((ends - now).total_seconds()) if ends is not None else 0,
        "externallyManaged": row.is_external,
        **({"caName": row.ca} if row.ca else {}),
        "missing": row.is_missing,
        **({"problem": row.problem} if row.problem else {}),
    }
