"""The metrics of certificates in the text format of Prometheus, rendered when a source is read and not when they are
scraped: a hundred thousand certificates are sixty megabytes.

Names and labels are those of x509-certificate-exporter by Enix, so rules and boards for it work here too. Times are
absolute: the text changes only when a certificate does, or ends.

Every text in a label is limited, and so is the number of series, because whoever made a certificate chose its names.
A value that is too long ends with a digest of the whole, so that two of them stay different.

A page has its families in one piece each, as the format requires, so the text of a source is kept by family. The
compressed page is one gzip stream (RFC 1952). It is put together from segments (RFC 1951) that each end at a byte and
refer to nothing before them, so a source that has not changed need not be compressed again.
"""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import struct
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from certplane.expiry.findings import Finding
from certplane.metricsserver import Page

_MAX_VALUE: Final = 128
_MAX_PATH: Final = 256
_MAX_SERIAL: Final = 64
_DIGEST: Final = 8
_PATHS: Final = frozenset({"filepath"})

NOT_AFTER: Final = "x509_cert_not_after"
NOT_BEFORE: Final = "x509_cert_not_before"
EXPIRED: Final = "x509_cert_expired"
ERROR: Final = "x509_cert_error"
NEXT_UPDATE: Final = "x509_crl_next_update"
STALE: Final = "x509_crl_stale"

#: The families that a source has: type and help by name, in the order of the page.
FAMILIES: Final = {
    NOT_AFTER: ("gauge", "When the certificate ends, in seconds since 1970."),
    NOT_BEFORE: ("gauge", "When the certificate begins to be valid, in seconds since 1970."),
    EXPIRED: ("gauge", "1 if the certificate has ended, else 0."),
    ERROR: ("gauge", "1 for what should be a certificate and cannot be used."),
    NEXT_UPDATE: ("gauge", "When the next certificate revocation list is due, in seconds since 1970."),
    STALE: ("gauge", "1 if the next certificate revocation list is overdue, else 0."),
}
#: Families that follow from a time in another one: 1 if it is in the past.
_DERIVED: Final = ((EXPIRED, NOT_AFTER), (STALE, NEXT_UPDATE))


@dataclasses.dataclass(frozen=True, slots=True)
class Segment:
    """A part of a page, as it is and compressed."""

    text: bytes
    compressed: bytes


@dataclasses.dataclass(frozen=True, slots=True)
class Snapshot:
    """The metrics of one source, by family. `next_change` is when the text changes although nothing is read, in POSIX
    seconds; infinity for never.
    """

    families: Mapping[str, Segment]
    next_change: float


def segment(text: bytes) -> Segment:
    """A part of a page."""
    compressor = zlib.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS)
    return Segment(text, compressor.compress(text) + compressor.flush(zlib.Z_FULL_FLUSH))


def render(source: str, findings: Iterable[Finding], now: float, former: Snapshot | None = None) -> Snapshot:
    """The metrics of a source. `now` is in POSIX seconds. Parts that are as in `former` are not compressed again."""
    families: dict[str, dict[bytes, int]] = {NOT_AFTER: {}, NOT_BEFORE: {}, ERROR: {}, NEXT_UPDATE: {}}
    prefix = (("source", source),)
    for finding in findings:
        item = finding.item
        place = (*prefix, *finding.labels)
        if item.problem:
            families[ERROR].setdefault(_labels(place), 1)
        if finding.is_revocation_list:
            if item.not_after is not None:
                _add(families[NEXT_UPDATE], _labels((*place, ("issuer_CN", item.issuer))), item.not_after)
        elif item.not_after is not None and item.not_before is not None:
            names = (("serial_number", item.serial), ("subject_CN", item.subject), ("issuer_CN", item.issuer))
            labels = _labels((*place, *names))
            _add(families[NOT_AFTER], labels, item.not_after)
            _add(families[NOT_BEFORE], labels, item.not_before)
    texts = {name: _lines(name, values) for name, values in families.items()}
    return _snapshot(texts, now, former)


def refresh(snapshot: Snapshot, now: float) -> Snapshot:
    """The same certificates at a later time."""
    if now < snapshot.next_change:
        return snapshot
    return _snapshot({name: part.text for name, part in snapshot.families.items()}, now, snapshot)


def _snapshot(texts: dict[str, bytes], now: float, former: Snapshot | None) -> Snapshot:
    next_change = float("inf")
    for derived, name in _DERIVED:
        texts[derived], change = _derive(derived, name, texts.get(name, b""), now)
        next_change = min(next_change, change)
    segments = {}
    for name, text in texts.items():
        before = former.families.get(name) if former is not None else None
        if text:
            segments[name] = before if before is not None and before.text == text else segment(text)
    return Snapshot(segments, next_change)


def _derive(name: str, base: str, text: bytes, now: float) -> tuple[bytes, float]:
    """The lines of a family that says whether a time is in the past, from the lines with the times; and when the next
    of them will be.
    """
    lines = []
    next_change = float("inf")
    head, cut = name.encode(), len(base)
    for line in text.splitlines():
        labels, _, value = line.rpartition(b" ")
        time = int(value)
        is_past = time < now
        if not is_past:
            next_change = min(next_change, time)
        lines.append(b"%b%b %d\n" % (head, labels[cut:], is_past))
    # Just after it: a certificate is valid up to and including its last second.
    return b"".join(lines), next_change + 1


def _add(values: dict[bytes, int], labels: bytes, time: datetime.datetime) -> None:
    seconds = int(time.timestamp())
    # Equal labels: one certificate in two places of a file, or one that imitates another.
    values[labels] = min(seconds, values.get(labels, seconds))


def _lines(name: str, values: Mapping[bytes, int]) -> bytes:
    head = name.encode()
    return b"".join([b"%b%b %d\n" % (head, labels, value) for labels, value in values.items()])


# --- labels -------------------------------------------------------------------------------------------------------


def _labels(labels: Iterable[tuple[str, str]]) -> bytes:
    return ("{" + ",".join([f'{name}="{label_value(name, value)}"' for name, value in labels if value]) + "}").encode()


def label_value(name: str, value: str) -> str:
    """A value that any text may be: limited, printable and escaped."""
    limit = _MAX_PATH if name in _PATHS else _MAX_SERIAL if name == "serial_number" else _MAX_VALUE
    if len(value) > limit:
        digest = hashlib.sha256(value.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGEST]
        value = f"{value[: limit - _DIGEST - 1]}~{digest}"
    if value.isascii() and value.isprintable() and '"' not in value and "\\" not in value:
        return value
    value = "".join([char if char.isprintable() else "\ufffd" for char in value])
    return value.replace("\\", r"\\").replace('"', r"\"")


# --- the page -----------------------------------------------------------------------------------------------------


def page(head: bytes, snapshots: Sequence[Snapshot]) -> Page:
    """The whole page: `head` are the lines of the watch itself."""
    parts = [segment(head)]
    for name in FAMILIES:
        members = [snapshot.families[name] for snapshot in snapshots if name in snapshot.families]
        if members:
            parts += [_TITLES[name], *members]
    texts = [part.text for part in parts]
    checksum = size = 0
    for text in texts:
        checksum = zlib.crc32(text, checksum)
        size += len(text)
    # The empty last block.
    end = b"\x03\x00" + struct.pack("<II", checksum, size & 0xFFFFFFFF)
    return Page(texts, b"".join((_GZIP_HEAD, *(part.compressed for part in parts), end)))


#: Deflate, no name, no time, the fastest method, an unknown system.
_GZIP_HEAD: Final = b"\x1f\x8b\x08\0\0\0\0\0\x04\xff"
_TITLES: Final = {
    name: segment(f"# HELP {name} {text}\n# TYPE {name} {kind}\n".encode()) for name, (kind, text) in FAMILIES.items()
}
