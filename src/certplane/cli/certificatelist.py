"""The list that `certplane certs check-expiration --directory` prints: certificates in any files, and problems."""

from __future__ import annotations

import datetime
import os
import pathlib
import sys
from collections.abc import Sequence
from typing import Any, Final

import click

from certplane import timestamps
from certplane.cli import tables
from certplane.errors import SetupError
from certplane.golang import formatting
from certplane.kubeadm import certificatefiles, expiration
from certplane.kubeadm.certificatefiles import FileItem, ListedFile

_COLUMNS: Final = ("CERTIFICATE", "SUBJECT", "EXPIRES", "RESIDUAL TIME", "ISSUER", "STATUS")
#: Characters of a name that are printed: whoever made the certificate chose it.
_MAX_NAME: Final = 64
#: From how many files on progress is shown.
_MANY_FILES: Final = 500


def collect(directories: Sequence[str]) -> list[FileItem]:
    """The certificates and problems in some directories. Raises SetupError if one does not exist or cannot be read."""
    listed: list[ListedFile] = []
    for directory in directories:
        try:
            listed += certificatefiles.list_files(pathlib.Path(directory))
        except (OSError, ValueError) as error:
            reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
            shown = _printable(formatting.shorten(directory, 200))
            raise SetupError(
                f"the directory {shown} cannot be read: {reason}", ("set --directory to a directory or a file",)
            ) from error
    is_hidden = len(listed) < _MANY_FILES or not sys.stderr.isatty()
    items: list[FileItem] = []
    with click.progressbar(listed, label="Reading certificates", file=sys.stderr, hidden=is_hidden) as progress:
        for file in progress:
            items += certificatefiles.inspect(file)
    return items


def needs_attention(item: FileItem, period: datetime.timedelta, now: datetime.datetime) -> bool:
    """Whether a certificate has a problem, is not valid now, or ends before the period is over."""
    details = item.item
    if details.problem:
        return True
    if details.not_before is None or details.not_after is None:
        return False
    return now < details.not_before or details.not_after - now < period


def _status(item: FileItem, period: datetime.timedelta, now: datetime.datetime) -> str:
    details = item.item
    if details.not_before is None or details.not_after is None:
        return details.problem or f"{details.note}: not checked"
    states = [details.problem] if details.problem else []
    if now > details.not_after:
        states.append("expired")
    elif now < details.not_before:
        states.append(f"not valid before {expiration.format_time(details.not_before)}")
    elif details.not_after - now < period:
        states.append(f"ends within {formatting.human_duration(period.total_seconds())}")
    return "; ".join(states) or "ok"


def table(items: Sequence[FileItem], period: datetime.timedelta, now: datetime.datetime) -> str:
    """One line for each certificate and problem."""
    rows = [list(_COLUMNS)]
    for item in items:
        details = item.item
        ends = details.not_after
        rows.append(
            [
                _printable(" ".join(filter(None, (item.path, item.place)))),
                _name(details.subject),
                expiration.format_time(ends) if ends is not None else "",
                formatting.human_duration((ends - now).total_seconds()) if ends is not None else "",
                _name(details.issuer),
                _status(item, period, now),
            ]
        )
    return tables.format_table(rows)


def _name(text: str) -> str:
    return formatting.truncate(_printable(text), _MAX_NAME)


def _printable(text: str) -> str:
    """A text without characters that control a terminal or cannot be encoded."""
    return "".join(char if char.isprintable() else "?" for char in text)


def document(items: Sequence[FileItem], period: datetime.timedelta, now: datetime.datetime) -> dict[str, Any]:
    """The same for programs. Paths that are not UTF-8 have replacement characters."""
    return {
        "kind": "CertificateList",
        "apiVersion": "certs.certplane.io/v1alpha1",
        "items": [document_item(item, period, now) for item in items],
    }


def document_item(item: FileItem, period: datetime.timedelta, now: datetime.datetime) -> dict[str, Any]:
    """One certificate or problem for programs."""
    details = item.item
    begins, ends = details.not_before, details.not_after
    return {
        "path": os.fsencode(item.path).decode("utf-8", "replace"),
        "place": item.place,
        "subject": details.subject,
        "issuer": details.issuer,
        "serialNumber": details.serial,
        "isCA": details.is_ca,
        "notBefore": timestamps.rfc3339(begins) if begins is not None else None,
        "expirationDate": timestamps.rfc3339(ends) if ends is not None else None,
        "residualTime": int((ends - now).total_seconds()) if ends is not None else 0,
        "status": _status(item, period, now),
        "needsAttention": needs_attention(item, period, now),
    }
