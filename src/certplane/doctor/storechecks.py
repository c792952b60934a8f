"""The store and the disk, from outside: the server that holds the store must not be disturbed.

The database is not opened: SQLite would lock it, and another process that closes it may remove the log of the server
(`store/files`). A few bytes of its header are read, which disturbs nobody.
"""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Iterator, Sequence
from typing import Final

from certplane.doctor import findings
from certplane.doctor.findings import Finding, Severity

_MIB: Final = 1 << 20
_GIB: Final = 1 << 30
#: Free space of which a warning and an error are given; of a small disk, the share that counts.
_LOW: Final = _GIB
_VERY_LOW: Final = 100 * _MIB
_LOW_SHARE: Final = 0.1
#: etcd's default quota; a store of this size has objects that nobody deletes.
_LARGE: Final = 2 * _GIB
#: Source: sqlite.org, "Database File Format", section 1.3.
_MAGIC: Final = b"SQLite format 3\0"
HEADER: Final = 100


@dataclasses.dataclass(frozen=True, slots=True)
class StoreFacts:
    """A store on disk: its path, the size of its files, the first HEADER bytes of the database. It may not exist."""

    path: str
    size: int = 0
    log_size: int = 0
    header: bytes | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class DiskFacts:
    """A file system: what is on it, a path in it, its free and its whole size in bytes, its free and all inodes."""

    what: str
    path: str
    free: int
    total: int
    free_inodes: int
    inodes: int


def check_store(store: StoreFacts) -> list[Finding]:
    """Check the files of a store."""
    return list(_check_store(store))


def _check_store(store: StoreFacts) -> Iterator[Finding]:
    quoted = shlex.quote(store.path)
    if store.header is None:
        yield Finding("store", Severity.INFO, f"there is no store at {store.path} yet", store.path)
        return
    # An empty file is a new database.
    if store.size and (not store.header.startswith(_MAGIC) or _page_size(store.header) is None):
        fix = (f"mv {quoted} {quoted}.damaged, and restore a backup: docs/store.md",)
        yield Finding("store", Severity.ERROR, f"{store.path} is not a database", store.path, fix)
        return
    if store.size + store.log_size > _LARGE:
        text = f"the store {store.path} has {format_size(store.size)}, and its log {format_size(store.log_size)}"
        fix = ("kubectl get --raw /metrics | grep apiserver_resource_objects",)
        yield Finding("store", Severity.WARNING, text, store.path, fix)
        return
    text = f"the store {store.path} has {format_size(store.size)}, its log {format_size(store.log_size)}"
    yield Finding("store", Severity.OK, text, store.path)


def _page_size(header: bytes) -> int | None:
    """Bytes of a page; None if the header is damaged."""
    size = int.from_bytes(header[16:18], "big")
    size = 65536 if size == 1 else size
    return size if len(header) >= HEADER and size >= 512 and not size & (size - 1) else None


def check_disks(disks: Sequence[DiskFacts]) -> list[Finding]:
    """Check the free space of file systems."""
    found = [finding for disk in disks for finding in _check_disk(disk)]
    free = ", ".join(f"{format_size(disk.free)} for {disk.what}" for disk in disks)
    return findings.with_ok("disk-space", found, f"free space: {free}")


def _check_disk(disk: DiskFacts) -> Iterator[Finding]:
    fix = (f"df -h {shlex.quote(disk.path)}", f"du -xah {shlex.quote(disk.path)} | sort -h | tail")
    low = min(_LOW, disk.total * _LOW_SHARE)
    if disk.free < low:
        is_urgent = disk.free < min(_VERY_LOW, low / 2)
        text = f"{format_size(disk.free)} of {format_size(disk.total)} are free for {disk.what}, at {disk.path}"
        yield Finding("disk-space", Severity.ERROR if is_urgent else Severity.WARNING, text, disk.path, fix)
    if disk.inodes and disk.free_inodes < disk.inodes * 0.01:
        text = f"{disk.free_inodes} of {disk.inodes} inodes are free for {disk.what}, at {disk.path}"
        yield Finding("disk-space", Severity.WARNING, text, disk.path, (f"df -i {shlex.quote(disk.path)}",))


def format_size(count: int) -> str:
    """A size in bytes, for people."""
    for unit, name in ((_GIB, "GiB"), (_MIB, "MiB"), (1024, "KiB")):
        if count >= unit:
            return f"{count / unit:.1f} {name}"
    return f"{count} bytes"
