"""`certplane audit`: what the audit log knows. Reads the files; no server is asked."""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import heapq
import json
import pathlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

import click
import msgspec

from certplane import clock as clocks
from certplane import errors, files, gotext
from certplane.cli import tables
from certplane.config import serve
from certplane.server import auditlog

_OURS: Final = "certplane.io/"
_LOG: Final = "audit.log"
_APPROVED: Final = "Approved"
_COLUMNS: Final = ("WHEN", "DECISION", "CSR", "BY", "FOR", "SIGNER", "SERIAL", "NOT AFTER")


@dataclasses.dataclass(slots=True)
class Approval:
    """A decision about a request, and the certificate that came of it. Times are RFC 3339; the unknown is empty."""

    when: str
    decision: str
    csr: str
    uid: str
    by: str
    requestor: str
    signer: str
    reason: str = ""
    serial: str = ""
    sha256: str = ""
    not_after: str = ""
    audit_id: str = ""


def approvals(*logs: Iterable[bytes], since: datetime.datetime | None = None) -> list[Approval]:
    """The decisions in the records of audit logs, in the order of their times, each with what was issued upon it. What
    is no record of ours is passed over.
    """
    found: list[Approval] = []
    by_uid: dict[str, Approval] = {}
    seen: set[bytes] = set()
    for event in heapq.merge(*(_events(log, seen) for log in logs), key=lambda event: str(event["stageTimestamp"])):
        noted = {
            key.removeprefix(_OURS): str(value) for key, value in event["annotations"].items() if key.startswith(_OURS)
        }
        uid = noted.get("csr-uid", "")
        if "csr-decision" in noted:
            made = _approval(event, noted)
            found.append(made)
            # A certificate comes of an approval, whatever else is said about the request before it is there.
            if uid not in by_uid or made.decision == _APPROVED:
                by_uid[uid] = made
        if "certificate-serial" in noted and uid in by_uid:
            made = by_uid[uid]
            made.serial, made.sha256 = noted["certificate-serial"], noted.get("certificate-sha256", "")
            made.not_after = noted.get("certificate-not-after", "")
    if since is None:
        return found
    return [each for each in found if clocks.parse_rfc3339(each.when) >= since]


def _events(lines: Iterable[bytes], seen: set[bytes]) -> Iterator[Mapping[str, Any]]:
    """The events in records of ours. A record that stands in two logs counts once; one with the same auditID does not,
    as whoever asks may choose that.
    """
    for line in lines:
        if _OURS.encode() not in line:
            continue
        digest = hashlib.sha256(line).digest()
        if digest in seen:
            continue
        seen.add(digest)
        try:
            event = msgspec.json.decode(line)
        except (ValueError, RecursionError):
            continue  # A line that was being written when the machine stopped.
        if isinstance(event, dict) and event.get("stage") == "ResponseComplete" and _is_whole(event):
            yield event


def _is_whole(event: Mapping[str, Any]) -> bool:
    """Whether what is read of a record is of the types that it should be."""
    parts = ("annotations", "user", "impersonatedUser", "objectRef")
    if not isinstance(event.get("annotations"), dict) or not all(isinstance(event.get(key, {}), dict) for key in parts):
        return False
    try:
        clocks.parse_rfc3339(str(event.get("stageTimestamp", "")))
    except ValueError:
        return False
    return True


def _approval(event: Mapping[str, Any], noted: Mapping[str, str]) -> Approval:
    name = real = str(event.get("user", {}).get("username", ""))
    if "impersonatedUser" in event:
        name = f"{event['impersonatedUser'].get('username', '')} (really {real})"
    return Approval(
        when=str(event["stageTimestamp"]),
        decision=noted["csr-decision"],
        csr=str(event.get("objectRef", {}).get("name", "")),
        uid=noted.get("csr-uid", ""),
        by=name,
        requestor=noted.get("csr-requestor", ""),
        signer=noted.get("csr-signer", ""),
        reason=noted.get("csr-reason", ""),
        audit_id=str(event.get("auditID", "")),
    )


# --- the command --------------------------------------------------------------------------------------------------


@click.group()
def audit() -> None:
    """Look things up in the audit log."""


@audit.command("approvals", short_help="Who approved or denied what, and what came of it.")
@click.option(
    "--log", "path", default=None, metavar="FILE",
    help="The current file; its rotated files, and the approvals beside it, are read as well.  "
    "[default: DATA-DIR/audit.log]",
)  # fmt: skip
@click.option(
    "--data-dir", default="./certplane-data", show_default=True, metavar="DIR", help="Where the server keeps its files."
)
@click.option(
    "--since", default="", metavar="WHEN", help="A duration ago, as 24h, or a moment, as 2026-01-02T15:04:05Z."
)
@click.option("-o", "--output", type=click.Choice(("table", "json")), default="table", show_default=True)
def approvals_(path: str | None, data_dir: str, since: str, output: str) -> None:
    """Who approved or denied what, when, and which serial number came out."""
    log = pathlib.Path(path) if path is not None else pathlib.Path(data_dir, _LOG)
    found = approvals(*_logs(log), since=_moment(since))
    if output == "json":
        click.echo(json.dumps([dataclasses.asdict(each) for each in found], indent=2))
    else:
        click.echo(_table(found), nl=False)


def _logs(path: pathlib.Path) -> list[Iterator[bytes]]:
    """The log, and the approvals beside it; one of them is enough."""
    kept = serve.approvals_path(path)
    with files.told(f"the audit log {path} cannot be read", "--log names another file"):
        return [_lines(each) for each in (kept, path) if each.exists()] or [_lines(path)]


def _lines(path: pathlib.Path) -> Iterator[bytes]:
    for each in (*auditlog.backups(path), path):
        try:
            with each.open("rb") as source:
                yield from source
        except OSError as error:
            raise errors.SetupError(
                f"the audit log {each} cannot be read: {error.strerror}", ("--log names another file",)
            ) from error


def _moment(text: str) -> datetime.datetime | None:
    if not text:
        return None
    try:
        ago = gotext.parse_duration(text)
        return clocks.SystemClock().now() - ago if ago is not None else clocks.parse_rfc3339(text)
    except (ValueError, OverflowError) as error:
        raise errors.SetupError(f"not a duration, nor a moment: {text}", ("write --since 24h",)) from error


def _table(found: Iterable[Approval]) -> str:
    rows = [_COLUMNS]
    rows += [
        (
            each.when[:19] + "Z",
            each.decision,
            each.csr,
            each.by,
            each.requestor,
            each.signer,
            each.serial,
            each.not_after,
        )
        for each in found
    ]
    return tables.aligned([[_cell(text) for text in row] for row in rows])


def _cell(text: str) -> str:
    """Names are whatever strangers sent: none of them may look like a line, a column or a command to the terminal."""
    plain = text.isprintable() and "  " not in text and text == text.strip()
    return (text if plain else gotext.quote(text)) or "-"
