"""`certplane audit`: queries on the audit log. It reads the files and needs no server."""

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

from certplane import files, timestamps
from certplane.cli import tables
from certplane.clock import SystemClock
from certplane.config import options, servesettings
from certplane.errors import SetupError
from certplane.golang import formatting
from certplane.server import auditlog

_PREFIX: Final = "certplane.io/"
_LOG: Final = "audit.log"
_APPROVED: Final = "Approved"
_COLUMNS: Final = ("WHEN", "DECISION", "CSR", "BY", "FOR", "SIGNER", "SERIAL", "NOT AFTER")


@dataclasses.dataclass(slots=True)
class Approval:
    """A decision about a request, and the certificate that was issued. Times are RFC 3339; what is unknown is empty."""

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
    """The decisions in audit logs, ordered by time, each with the certificate that was issued after it. Lines that are
    no records of certplane are skipped.
    """
    decisions: list[Approval] = []
    by_uid: dict[str, Approval] = {}
    digests: set[bytes] = set()
    for event in heapq.merge(*(_events(log, digests) for log in logs), key=lambda event: str(event["stageTimestamp"])):
        annotations = {
            key.removeprefix(_PREFIX): str(value)
            for key, value in event["annotations"].items()
            if key.startswith(_PREFIX)
        }
        uid = annotations.get("csr-uid", "")
        if "csr-decision" in annotations:
            approval = _approval(event, annotations)
            decisions.append(approval)
            # A certificate belongs to an approval, also if another decision follows before it is issued.
            if uid not in by_uid or approval.decision == _APPROVED:
                by_uid[uid] = approval
        if "certificate-serial" in annotations and uid in by_uid:
            approval = by_uid[uid]
            approval.serial = annotations["certificate-serial"]
            approval.sha256 = annotations.get("certificate-sha256", "")
            approval.not_after = annotations.get("certificate-not-after", "")
    if since is None:
        return decisions
    return [approval for approval in decisions if timestamps.parse_rfc3339(approval.when) >= since]


def _events(lines: Iterable[bytes], digests: set[bytes]) -> Iterator[Mapping[str, Any]]:
    """The complete events in records of certplane. A record that is in two logs counts once. It is recognized by its
    digest, not by its auditID, which the client may choose.
    """
    for line in lines:
        if _PREFIX.encode() not in line:
            continue
        digest = hashlib.sha256(line).digest()
        if digest in digests:
            continue
        digests.add(digest)
        try:
            event = msgspec.json.decode(line)
        except (ValueError, RecursionError):
            continue  # For example, a line that was being written when the machine stopped.
        if isinstance(event, dict) and event.get("stage") == "ResponseComplete" and _is_well_formed(event):
            yield event


def _is_well_formed(event: Mapping[str, object]) -> bool:
    """Whether the fields that are read here have the expected types."""
    parts = ("annotations", "user", "impersonatedUser", "objectRef")
    if not isinstance(event.get("annotations"), dict) or not all(isinstance(event.get(key, {}), dict) for key in parts):
        return False
    try:
        timestamps.parse_rfc3339(str(event.get("stageTimestamp", "")))
    except ValueError:
        return False
    return True


def _approval(event: Mapping[str, Any], annotations: Mapping[str, str]) -> Approval:
    name = real_name = str(event.get("user", {}).get("username", ""))
    if "impersonatedUser" in event:
        name = f"{event['impersonatedUser'].get('username', '')} (impersonated by {real_name})"
    return Approval(
        when=str(event["stageTimestamp"]),
        decision=annotations["csr-decision"],
        csr=str(event.get("objectRef", {}).get("name", "")),
        uid=annotations.get("csr-uid", ""),
        by=name,
        requestor=annotations.get("csr-requestor", ""),
        signer=annotations.get("csr-signer", ""),
        reason=annotations.get("csr-reason", ""),
        audit_id=str(event.get("auditID", "")),
    )


# --- the command --------------------------------------------------------------------------------------------------


@click.group()
def audit() -> None:
    """Query the audit log."""


@audit.command("approvals", short_help="List approvals and denials, and the certificates that were issued.")
@click.option(
    "--log", "path", default=None, metavar="FILE",
    help="The current audit log; its rotated files and the approvals log beside it are read as well.  "
    "[default: DATA-DIR/audit.log]",
)  # fmt: skip
@click.option(
    "--data-dir", default="./certplane-data", show_default=True, metavar="DIR", help="Data directory of the server."
)
@click.option(
    "--since", default="", metavar="WHEN", help="How long ago, such as 24h, or a time, such as 2026-01-02T15:04:05Z."
)
@click.option("-o", "--output", type=click.Choice(("table", "json")), default="table", show_default=True)
def approvals_(path: str | None, data_dir: str, since: str, output: str) -> None:
    """List who approved or denied which request, when, and the serial number of the certificate."""
    log = pathlib.Path(path) if path is not None else pathlib.Path(data_dir, _LOG)
    decisions = approvals(*_logs(log), since=_parse_since(since))
    if output == "json":
        click.echo(json.dumps([dataclasses.asdict(approval) for approval in decisions], indent=2))
    else:
        click.echo(_table(decisions), nl=False)


def _logs(path: pathlib.Path) -> list[Iterator[bytes]]:
    """The lines of the audit log and of the approvals log beside it; one of them must exist."""
    approvals_path = servesettings.approvals_log_path(path)
    with files.as_setup_error(f"the audit log {path} cannot be read", "set --log to another file"):
        return [_lines(log) for log in (approvals_path, path) if log.exists()] or [_lines(path)]


def _lines(path: pathlib.Path) -> Iterator[bytes]:
    for file in (*auditlog.backups(path), path):
        try:
            with file.open("rb") as lines:
                yield from lines
        except OSError as error:
            raise SetupError(
                f"the audit log {file} cannot be read: {error.strerror}", ("set --log to another file",)
            ) from error


def _parse_since(text: str) -> datetime.datetime | None:
    if not text:
        return None
    try:
        ago = formatting.parse_duration(text)
        return SystemClock().now() - ago if ago is not None else timestamps.parse_rfc3339(text)
    except (ValueError, OverflowError) as error:
        raise SetupError(
            f"neither a duration nor a time: {formatting.shorten(text, options.MAX_QUOTE)}",
            ("write --since 24h or --since 2026-01-02T15:04:05Z",),
        ) from error


def _table(decisions: Iterable[Approval]) -> str:
    rows = [_COLUMNS]
    rows += [
        (
            approval.when[:19] + "Z",
            approval.decision,
            approval.csr,
            approval.by,
            approval.requestor,
            approval.signer,
            approval.serial,
            approval.not_after,
        )
        for approval in decisions
    ]
    return tables.format_table([[_cell(text) for text in row] for row in rows])


def _cell(text: str) -> str:
    """Names come from untrusted clients: none may look like a line, a column or a terminal control sequence."""
    is_plain = text.isprintable() and "  " not in text and text == text.strip()
    return (text if is_plain else formatting.quote(text)) or "-"
