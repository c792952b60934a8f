"""`certplane explain`: why a request has no certificate, and what to do, at any server of the Certificates API."""

from __future__ import annotations

import datetime
import json
import pathlib
import textwrap
from collections.abc import Iterator, Sequence
from typing import Final

import click

from certplane import files, timestamps
from certplane.cli import connection, newrequests, options, plaintext
from certplane.cli.connection import Connection
from certplane.client.api import Client
from certplane.clock import SystemClock
from certplane.errors import SetupError
from certplane.explain import approval, diagnosis, document, explanation, gathering, outlook, requestfile
from certplane.explain.approval import Holder
from certplane.explain.diagnosis import Answer
from certplane.explain.explanation import Findings
from certplane.explain.facts import Facts, Unread
from certplane.golang import formatting
from certplane.resources import certificatesigningrequests as csrs
from certplane.resources.certificatesigningrequests import CertificateSigningRequest

_NOT_FOUND: Final = 404
_FORBIDDEN: Final = 403
_READ_RULE: Final = "- {apiGroups: ['certificates.k8s.io'], resources: [certificatesigningrequests], verbs: [get]}"
_WIDTH: Final = 120
#: Items of a list, and characters of a text, that people read.
_MAX_ITEMS: Final = 12
_MAX_TEXT: Final = 500


@click.group(cls=options.Group)
def explain() -> None:
    """Explain why a request has no certificate, and what to do."""


@explain.command(epilog="certplane explain csr jane-csr")
@click.argument("name")
@click.option(
    "-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True, help="Output format."
)
@connection.with_connection
def csr(server: Connection, /, name: str, output: str) -> None:
    """Explain a CertificateSigningRequest.

    The first line is the answer; lines with "fix:" say what to do. Then follow what the request asks for, what was
    checked, who may approve it, and what the signer would do. Nothing is changed. The server may be certplane or a
    Kubernetes cluster; what you may not read there is left out, and said.
    """
    newrequests.check_name(name)

    async def operation(client: Client) -> Facts:
        return await gathering.gather(client, name, SystemClock(), server.flags())

    hints = {
        _NOT_FOUND: (
            f"list the requests with kubectl {server.flags()}get csr; decided ones are deleted after an hour, pending "
            "ones after a day"
        ),
        _FORBIDDEN: f"a ClusterRole with this rule permits it: {_READ_RULE}",
    }
    findings = explanation.find(connection.call(server, operation, hints))
    answer = diagnosis.diagnose(findings)
    if output == "json":
        click.echo(json.dumps(document.build(findings, answer), indent=2))
        return
    click.echo("".join(f"{line}\n" for line in render(findings, answer)), nl=False)


@explain.command("file", epilog="certplane explain file jane-csr.yaml")
@click.argument("name", metavar="FILE")
def file_(name: str) -> None:
    """Explain a manifest or a PKCS#10 in a file, before it is sent.

    Whatever is not a PKCS#10 is named, with the fix. No server is asked.
    """
    path = pathlib.Path(name)
    shown = _escape(name)
    with files.as_setup_error(f"{shown} cannot be read", "name a manifest of a request, or a PKCS#10"):
        data = files.read_regular(path, requestfile.MAX_SIZE)
    try:
        csr = requestfile.read(data)
    except requestfile.RequestFileError as error:
        hint = "docs/troubleshooting.md has examples"
        if error.reason:
            hint = f"a server would say: {_escape(error.reason)}"
        raise SetupError(f"{shown}: {_escape(str(error))}", (hint,)) from error
    click.echo("".join(f"{line}\n" for line in _file_text(shown, csr)), nl=False)


def _file_text(shown: str, csr: CertificateSigningRequest) -> Iterator[str]:
    requested = explanation.requested(csr)
    names = ", ".join(requested.names[:_MAX_ITEMS]) + _more(len(requested.names))
    yield f"{shown}: a request for {_escape(requested.subject or 'an empty subject')}, key {requested.key}"
    if names:
        yield f"names: {_escape(names)}"
    if not requested.signer:
        return
    status = outlook.estimate(outlook.question(csr))
    if status is None:
        yield f"signer: {_escape(requested.signer)}, whose rules its server knows"
    elif status.messages:
        yield f"signer: {requested.signer} will refuse it: {'; '.join(map(_escape, status.messages))}"
        if status.remedy:
            yield f"fix: {_escape(status.remedy)}"
    else:
        yield f"signer: {requested.signer} permits it"


# --- text ---------------------------------------------------------------------------------------------------------


def render(findings: Findings, answer: Answer) -> Iterator[str]:
    """The lines for people. Texts of the server are printed without its control characters."""
    obj = findings.csr
    state = csrs.condition_text(obj)
    yield _escape(f"csr/{obj.metadata.name} is {state}: {answer.text}", 2 * _MAX_TEXT)
    for fix in answer.fixes:
        yield f"fix: {_escape(fix, 2 * _MAX_TEXT)}"
    yield from _section("Requested", _requested_rows(findings))
    yield from _section("Checks", [(check.result.value, f"{check.name}: {check.message}") for check in findings.checks])
    yield from _section("Approval", _approval_rows(findings))
    yield from _section("Signer", _signer_rows(findings))
    yield from _section("Events", _event_rows(findings))


def _section(title: str, rows: Sequence[tuple[str, str]]) -> Iterator[str]:
    """A title and rows of a label and a text; texts that are longer than a line continue under themselves."""
    yield ""
    yield title
    if not rows:
        yield "  none"
        return
    shown = [(_escape(label), _escape(text)) for label, text in rows[:_MAX_ITEMS]]
    if len(rows) > _MAX_ITEMS:
        shown.append(("", f"and {len(rows) - _MAX_ITEMS} more: -o json lists all"))
    width = max(len(label) for label, _ in shown)
    for label, text in shown:
        lines = textwrap.wrap(text, _WIDTH - width - 4, break_on_hyphens=False) or [""]
        yield f"  {label.ljust(width)}  {lines[0]}".rstrip()
        for line in lines[1:]:
            yield f"  {' ' * width}  {line}"


def _escape(text: str, limit: int = _MAX_TEXT) -> str:
    return plaintext.escape(text, limit)


def _requested_rows(findings: Findings) -> list[tuple[str, str]]:
    requested, now = findings.requested, findings.facts.now
    lifetime = requested.lifetime_seconds
    rows = [
        ("subject", requested.subject or ("unreadable" if findings.pkcs10 is None else "empty")),
        ("names", ", ".join(requested.names[:_MAX_ITEMS]) + _more(len(requested.names)) or "none"),
        ("key", requested.key or "unreadable"),
        ("usages", ", ".join(requested.usages)),
        ("lifetime", formatting.human_duration(lifetime) if lifetime is not None else "chosen by the signer"),
        ("signer", requested.signer),
        ("requested by", f"{requested.username}, {_ago(requested.created, now)}"),
    ]
    if requested.is_ca:
        rows.append(("CA", "it asks for a CA certificate"))
    return rows


def _more(count: int) -> str:
    return f" and {count - _MAX_ITEMS} more" if count > _MAX_ITEMS else ""


def _approval_rows(findings: Findings) -> list[tuple[str, str]]:
    asked = findings.approval
    rows = [("may approve", f"Group {approval.MASTERS}, which every server allows everything")]
    rows += [("may approve", _holder_text(holder)) for holder in asked.holders if holder.is_complete]
    if asked.problem:
        rows.append(("may approve", f"others unknown: the roles were not read: {asked.problem}"))
    rows += [("only half", _holder_text(holder)) for holder in asked.holders if not holder.is_complete]
    status = findings.outlook.status
    for rule in status.automatic_approvals if status is not None else ():
        requestors = (*rule.users, *(f"group {name}" for name in rule.groups))
        rows.append(("automatic", f"requests of {', '.join(requestors)}"))
    if asked.own is None:
        rows.append(("you", f"unknown: {asked.own_problem}"))
        return rows
    who = f"you ({asked.own.user})" if asked.own.user else "you"
    if not asked.missing_rules:
        rows.append((who, "may approve it"))
    rows += [(who, f"may not, without this rule in a ClusterRole: {rule}") for rule in asked.missing_rules]
    return rows


def _holder_text(holder: Holder) -> str:
    if holder.subresource is not None and holder.signer is not None:
        grants = {f"{grant.role} (binding {grant.binding})": None for grant in (holder.subresource, holder.signer)}
        return f"{holder.kind} {holder.name}, by ClusterRole {' and '.join(grants)}"
    grant = holder.subresource or holder.signer
    lacks = "the signer" if holder.signer is None else "the subresource"
    has = f", by ClusterRole {grant.role} (binding {grant.binding})" if grant is not None else ""
    return f"{holder.kind} {holder.name}{has}, lacks the permission for {lacks}"


def _signer_rows(findings: Findings) -> list[tuple[str, str]]:
    look = findings.outlook
    status = look.status
    if status is None:
        rows = [("would issue", f"unknown: {look.source}")]
    elif findings.csr.status.certificate:
        rows = []
    else:
        rows = [_outlook_row(findings)]
        rows += [("instead", name) for name in status.suitable_signers if name != findings.requested.signer]
    if status is not None and status.max_lifetime_seconds is not None:
        rows.append(("at most", formatting.human_duration(status.max_lifetime_seconds)))
    rows += [("may sign", _holder_text(holder)) for holder in findings.signers if holder.is_complete]
    retry = findings.next_retry
    if retry is not None and retry > findings.facts.now:
        rows.append(("next retry", timestamps.rfc3339(retry)))
    return rows


def _outlook_row(findings: Findings) -> tuple[str, str]:
    status = findings.outlook.status
    assert status is not None  # noqa: S101 - the caller has checked it
    source = f"say {findings.outlook.source}" if findings.outlook.source.startswith("the rules") else "asked the server"
    if status.messages:
        return "would issue", f"nothing: {'; '.join(status.messages)} ({source})"
    seconds = status.lifetime_seconds
    lifetime = f"valid for {formatting.human_duration(seconds)}" if seconds is not None else "valid as long as it sets"
    ends = f" until {status.not_after}" if status.not_after else ""
    subject = findings.requested.subject or "an empty subject"
    return "would issue", f"a certificate for {subject}, {lifetime}{ends} ({source})"


def _event_rows(findings: Findings) -> list[tuple[str, str]]:
    events = findings.facts.events
    if isinstance(events, Unread):
        return [("unknown", f"the Events were not read: {events.reason}")]
    return [
        (_ago(report.time, findings.facts.now), f"{report.type} {report.reason}: {report.message}")
        for report in findings.reports
    ]


def _ago(text: str, now: datetime.datetime) -> str:
    try:
        seconds = (now - timestamps.parse_rfc3339(text)).total_seconds()
    except (ValueError, OverflowError):
        return "at an unknown time"
    return f"{formatting.human_duration(max(seconds, 0))} ago"
