"""`certplane agent`: keeps the certificates of a host or a workload current."""

from __future__ import annotations

import contextlib
import datetime
import os
import pathlib
import signal
from typing import Final

import click
import msgspec

from certplane import timestamps
from certplane.agent import checks, process, settings, settingsfile
from certplane.agent.settings import AgentSettings
from certplane.agent.status import AgentDirectory, AgentStatus, CertificateStatus
from certplane.cli import tables
from certplane.clock import SystemClock
from certplane.config.documents import ConfigurationError
from certplane.errors import SetupError
from certplane.golang import formatting

#: The exit code of `status`, if a certificate is missing, has expired, or cannot be renewed or installed, or if no
#: agent runs.
UNHEALTHY: Final = 4

_file = click.argument("path", metavar="[FILE]", default=settings.DEFAULT_FILE, type=click.Path(path_type=pathlib.Path))
_config = click.option(
    "--config", "path", default=settings.DEFAULT_FILE, show_default=True, metavar="FILE",
    type=click.Path(path_type=pathlib.Path), help="Configuration of the agent.",
)  # fmt: skip


@click.group()
def agent() -> None:
    """Request, renew and install the certificates of this host or workload."""


@agent.command()
@_config
def run(path: pathlib.Path) -> int:
    """Run until SIGTERM. SIGHUP reads the configuration again."""
    return process.run(path)


@agent.command()
@_file
def check(path: pathlib.Path) -> int:
    """Check a configuration, and the files that it names, and print all problems.

    Nothing is changed, and the API server is not contacted.
    """
    try:
        parsed = settingsfile.load(path)
        problems = checks.find_problems(parsed)
    except ConfigurationError as error:
        problems = list(error.problems)
    if problems:
        for problem in problems:
            click.echo(f"error: {path}: {problem}", err=True)
        click.echo("hint: docs/agent.md describes all fields", err=True)
        return 2
    bundles = f" and {len(parsed.trust_bundles)} trust bundles" if parsed.trust_bundles else ""
    click.echo(f"{path} is valid: {len(parsed.certificates)} certificates{bundles}")
    return 0


@agent.command()
@click.argument("name")
@click.option("--new-key", is_flag=True, help="Discard also the key of a request under way: keys were disclosed.")
@_config
def renew(name: str, new_key: bool, path: pathlib.Path) -> None:
    """Request a new certificate now. Every renewal has a new key.

    If no agent runs, the certificate is renewed when it starts.
    """
    parsed = settingsfile.load(path)
    if parsed.certificate(name) is None:
        names = ", ".join(certificate.name for certificate in parsed.certificates)
        raise SetupError(f"{path} has no certificate {formatting.quote(name)}", (f"it has: {names}",))
    directory = AgentDirectory(parsed.directory)
    directory.ask_renewal(name, new_key=new_key)
    pid = directory.running_agent()
    if pid:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGHUP)
        click.echo(f"{name}: renewal requested; certplane agent status shows the progress")
    else:
        click.echo(f"{name}: no agent is running; the certificate will be renewed when it starts")


@agent.command()
@click.option("-o", "--output", type=click.Choice(("table", "json")), default="table", show_default=True)
@_config
def status(output: str, path: pathlib.Path) -> int:
    """Show the certificates: when they expire, when they will be renewed, and what is wrong."""
    parsed = settingsfile.load(path)
    directory = AgentDirectory(parsed.directory)
    is_running = bool(directory.running_agent())
    known = directory.read_status()
    if not is_running:
        since = f" since {known.written} or later" if known is not None else ""
        click.echo(f"warning: no agent is running{since}", err=True)
    if known is None:
        return UNHEALTHY
    if output == "json":
        click.echo(msgspec.json.format(msgspec.json.encode(known), indent=2).decode())
    else:
        click.echo(_table(parsed, known), nl=False)
    has_problem = any(map(_is_unhealthy, known.certificates)) or any(item.problem for item in known.trust_bundles)
    return 0 if is_running and not has_problem else UNHEALTHY


def _table(parsed: AgentSettings, known: AgentStatus) -> str:
    rows = [["CERTIFICATE", "STATE", "EXPIRES", "RESIDUAL TIME", "RENEWAL", "SERVED"]]
    for item in known.certificates:
        has_probe = (certificate := parsed.certificate(item.name)) is not None and certificate.probe is not None
        served = {None: "-", True: "yes", False: "no"}[item.is_served] if has_probe else "-"
        residual = _residual(item.not_after)
        rows.append([item.name, item.phase, item.not_after or "<none>", residual, item.renewal or "-", served])
    lines = []
    for item in known.certificates:
        for step, problem in (
            ("", item.problem),
            ("files: ", item.outputs),
            ("hooks: ", item.hooks),
            ("", item.endpoint),
        ):
            if problem:
                lines.append(f"{item.name}: {step}{problem}\n")
        if item.csr and not item.problem:
            lines.append(f"{item.name}: waiting for the CSR {item.csr}\n")
    for bundle in known.trust_bundles:
        if bundle.problem:
            lines.append(f"{bundle.path}: {bundle.problem}\n")
        elif bundle.retained:
            lines.append(f"{bundle.path}: {bundle.retained} CA certificates are no longer published, but needed\n")
    return tables.format_table(rows) + ("\n" if lines else "") + "".join(lines)


def _residual(not_after: str) -> str:
    if not not_after:
        return "-"
    left = timestamps.parse_rfc3339(not_after) - SystemClock().now()
    return formatting.human_duration(left.total_seconds()) if left > datetime.timedelta(0) else "<expired>"


def _is_unhealthy(item: CertificateStatus) -> bool:
    is_valid = bool(item.not_after) and timestamps.parse_rfc3339(item.not_after) > SystemClock().now()
    return not is_valid or any((item.problem, item.outputs, item.hooks, item.endpoint))
