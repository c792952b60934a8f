"""`certplane status`: the state of a server on one screen."""

from __future__ import annotations

import datetime
import json
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any, Final

import click

from certplane import timestamps
from certplane.cli import connection, exitcodes, plaintext, screen
from certplane.cli.connection import Connection
from certplane.clock import SystemClock
from certplane.config import servesettings
from certplane.doctor import clusterchecks, overview, storechecks
from certplane.doctor.clusterchecks import HealthCheck
from certplane.doctor.localfacts import DataDirectory
from certplane.doctor.overview import Overview
from certplane.errors import SetupError
from certplane.golang import formatting, goyaml
from certplane.resources import certificatesigningrequests as csrs

_OUTPUTS: Final = ("text", "json", "yaml")
_API_VERSION: Final = "status.certplane.io/v1alpha1"
_KUBECONFIG: Final = "admin.conf"
#: Columns of the names of rows.
_LABEL: Final = 14
_INDENT: Final = " " * _LABEL
_URGENT: Final = datetime.timedelta(days=7)
_SOON: Final = datetime.timedelta(days=30)


@click.command(
    short_help="Show the state of a server on one screen.", epilog="certplane status --data-dir /var/lib/certplane"
)
@click.option(
    "--data-dir", default=None, metavar="DIR",
    help="Data directory of the server, for its kubeconfig and its store.  "
    "[default: ./certplane-data, if no kubeconfig is set]",
)  # fmt: skip
@click.option("-o", "--output", type=click.Choice(_OUTPUTS), default="text", show_default=True, help="Format.")
@connection.with_connection
def status(server: Connection, /, data_dir: str | None, output: str) -> int:
    """Show who answers, the signers, the requests that wait, what ends next, and the last approvals.

    It exits with code 7 if the server is not ready, 2 if it does not answer. certplane doctor says what to do.
    """
    directory = _data_directory(server, data_dir)
    if directory is not None and not server.kubeconfig:
        server = Connection(str(directory / _KUBECONFIG), server.context)
    url = server.load().host
    facts = connection.call(server, lambda client: overview.gather(client, SystemClock()))
    store = _store(directory)
    if output == "text":
        click.echo("".join(f"{line}\n" for line in _lines(facts, url, store)), nl=False, color=screen.uses_color())
    else:
        document = _document(facts, url, store)
        click.echo(goyaml.dump(document) if output == "yaml" else json.dumps(document, indent=2) + "\n", nl=False)
    return 0 if facts.is_ready else exitcodes.ERRORS


def _data_directory(server: Connection, data_dir: str | None) -> pathlib.Path | None:
    if data_dir is not None:
        if "\0" in data_dir or not os.path.isdir(data_dir):
            raise SetupError(
                f"there is no data directory {plaintext.escape(data_dir, 200)}",
                ("set --data-dir to that of certplane serve", "or set --kubeconfig"),
            )
        return pathlib.Path(data_dir)
    if server.flags() or os.environ.get("KUBECONFIG") or not connection.LOCAL.exists():
        return None
    return connection.LOCAL.parent


def _store(directory: pathlib.Path | None) -> str:
    """The size of the store of a data directory, and the free space; empty if it is not known."""
    if directory is None:
        return ""
    data = DataDirectory(servesettings.read({"data_dir": str(directory)}, {}))
    try:
        store, disks = data.store(), data.disks()
    except OSError:
        return ""
    size, log = storechecks.format_size(store.size), storechecks.format_size(store.log_size)
    return f"{size}, log {log}; {storechecks.format_size(disks[0].free)} free"


# --- text ---------------------------------------------------------------------------------------------------------


def _lines(facts: Overview, url: str, store: str) -> Iterator[str]:
    ready = click.style("ready", fg="green") if facts.is_ready else click.style("not ready", fg="red", bold=True)
    yield _row("Server", f"https://{_cell(url)}  {ready}")
    yield _row("Version", _fit(_cell(facts.git_version or "not known"), _LABEL))
    for check in facts.checks:
        if check.state != "+":
            yield _row("", click.style(_fit(f"{check.name}: {_cell(check.text)}", _LABEL), fg=_check_color(check)))
    if facts.user.value is not None:
        user = facts.user.value
        yield _row("User", _fit(f"{_cell(user.name)} ({', '.join(map(_cell, user.groups))})", _LABEL))
    else:
        yield _row("User", _fit(f"not known: {_cell(facts.user.reason)}", _LABEL))
    yield _row("Controllers", _fit(_controllers(facts), _LABEL))
    if store:
        yield _row("Store", screen.wrapped(store, _INDENT))
    yield from _request_lines(facts)
    yield from _section("Signers", [_signer_line(facts, signer) for signer in facts.signers])
    yield from _section("Ends next", [_end_line(facts, end) for end in facts.ends])
    yield from _section("Approved", [_approval_line(facts, approval) for approval in facts.approvals])


def _row(label: str, text: str) -> str:
    return f"{label.ljust(_LABEL)}{text}".rstrip()


def _section(label: str, lines: Sequence[str]) -> Iterator[str]:
    for number, line in enumerate(lines):
        yield _row("" if number else label, line)


def _check_color(check: HealthCheck) -> str:
    return "red" if check.state == "-" else "yellow"


def _controllers(facts: Overview) -> str:
    own = next((check for check in facts.checks if check.name == clusterchecks.BACKGROUND), None)
    texts = [] if own is None else ["in the server, running" if own.state == "+" else "in the server, failing"]
    for name in clusterchecks.CONTROLLER_LEASES:
        lease = (facts.leases.value or {}).get(name)
        if lease is not None:
            age = clusterchecks.lease_age(lease, facts.now)
            since = f", renewed {_ago(age)}" if age is not None else ""
            texts.append(f"{name} led by {_cell(lease.spec.holder_identity or 'nobody')}{since}")
    return "; ".join(texts) or f"not known: {_cell(facts.leases.reason or 'there is no Lease')}"


def _request_lines(facts: Overview) -> Iterator[str]:
    if facts.requests.value is None:
        yield _row("Requests", _fit(f"not known: {_cell(facts.requests.reason)}", _LABEL))
        return
    counts = facts.counts
    text = (
        f"{len(facts.pending)} pending, {counts['approvedToday']} approved and {counts['deniedToday']} denied today, "
        f"{counts['issued']} issued, {counts['failed']} failed"
    )
    yield _row("Requests", screen.wrapped(text, _INDENT))
    for csr in facts.pending[:1]:
        created = clusterchecks.created_at(csr)
        age = f" for {_duration(facts.now - created)}" if created is not None else ""
        text = f"oldest pending{age}: {_cell(csr.metadata.name)} for {_cell(csr.spec.signer_name)}"
        yield _row("", click.style(_fit(text, _LABEL), fg="yellow"))
    if facts.waiting:
        names = ", ".join(_cell(csr.metadata.name) for csr in facts.waiting[: overview.MAX_ROWS])
        text = f"{len(facts.waiting)} approved without a certificate: {names}"
        yield _row("", click.style(_fit(text, _LABEL), fg="red"))


def _signer_line(facts: Overview, signer: overview.SignerState) -> str:
    del facts
    if signer.is_ready:
        return f"{click.style('ready', fg='green')}      {_fit(_cell(signer.name), _LABEL + 11)}"
    text = _fit(f"{_cell(signer.name)}: {_cell(signer.reason)}", _LABEL + 11)
    return f"{click.style('not ready', fg='red')}  {text}"


def _end_line(facts: Overview, end: overview.End) -> str:
    left = end.not_after - facts.now
    color = "red" if left < _URGENT else "yellow" if left < _SOON else None
    when = f"in {_duration(left)}" if left > datetime.timedelta(0) else "ended"
    return f"{click.style(when.ljust(11), fg=color)}{_fit(_cell(end.name), _LABEL + 11)}"


def _approval_line(facts: Overview, approval: overview.Approval) -> str:
    ago = _ago(facts.now - approval.time).ljust(11)
    text = (
        f"{_cell(approval.name)} of {_cell(approval.requestor)} for {_cell(approval.signer)}: {_cell(approval.reason)}"
    )
    return f"{ago}{_fit(text, _LABEL + 11)}"


def _ago(age: datetime.timedelta) -> str:
    return f"{_duration(age)} ago"


def _duration(time: datetime.timedelta) -> str:
    return formatting.human_duration(max(0.0, time.total_seconds()))


def _cell(text: str) -> str:
    return plaintext.escape(text, 200)


def _fit(text: str, used: int) -> str:
    """A text that fits into the rest of a line of the terminal; whole without a terminal."""
    return formatting.truncate(text, screen.width() - used) if screen.is_terminal() else text


# --- document -----------------------------------------------------------------------------------------------------


def _document(facts: Overview, url: str, store: str) -> dict[str, Any]:
    user = facts.user.value
    return {
        "kind": "ServerStatus",
        "apiVersion": _API_VERSION,
        "time": timestamps.rfc3339(facts.now),
        "server": {"url": f"https://{url}", "version": facts.git_version, "ready": facts.is_ready},
        "failedChecks": [
            {"name": check.name, "reason": check.text, "ignored": check.state == "!"}
            for check in facts.checks
            if check.state != "+"
        ],
        "user": {"name": user.name, "groups": list(user.groups)} if user is not None else None,
        "controllers": [
            {
                "lease": name,
                "holder": lease.spec.holder_identity or "",
                "renewTime": lease.spec.renew_time or None,
            }
            for name, lease in (facts.leases.value or {}).items()
            if name in clusterchecks.CONTROLLER_LEASES
        ],
        "store": store,
        "requests": _requests_document(facts),
        "signers": [
            {"name": signer.name, "ready": signer.is_ready, "reason": signer.reason} for signer in facts.signers
        ],
        "endsNext": [{"name": end.name, "notAfter": timestamps.rfc3339(end.not_after)} for end in facts.ends],
        "approvals": [
            {
                "time": timestamps.rfc3339(approval.time),
                "name": approval.name,
                "signer": approval.signer,
                "requestor": approval.requestor,
                "reason": approval.reason,
            }
            for approval in facts.approvals
        ],
    }


def _requests_document(facts: Overview) -> dict[str, Any] | None:
    if facts.requests.value is None:
        return None
    oldest = facts.pending[0] if facts.pending else None
    return {
        "pending": len(facts.pending),
        "oldestPending": {"name": oldest.metadata.name, "creationTimestamp": oldest.metadata.creation_timestamp}
        if oldest is not None
        else None,
        "approvedWithoutCertificate": [csr.metadata.name for csr in facts.waiting],
        "failedNames": [csr.metadata.name for csr in facts.requests.value if csrs.has_condition(csr, csrs.FAILED)],
        **facts.counts,
    }
