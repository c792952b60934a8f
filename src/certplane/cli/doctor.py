"""`certplane doctor`: what is broken, or open to others, in an installation, and how to correct it."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import click

from certplane import timestamps
from certplane.cli import connection, exitcodes, plaintext, screen, settings
from certplane.cli.connection import Connection
from certplane.clock import SystemClock
from certplane.config import servesettings
from certplane.config.servesettings import Settings
from certplane.doctor import clusterfacts, examination, findings
from certplane.doctor.findings import Finding, Severity
from certplane.errors import SetupError
from certplane.golang import goyaml
from certplane.kubeadm import layout as layouts

_OUTPUTS: Final = ("text", "json", "yaml")
_API_VERSION: Final = "doctor.certplane.io/v1alpha1"
_SEVERITIES: Final = tuple(severity.name.lower() for severity in Severity)
_COLORS: Final = {Severity.ERROR: "red", Severity.WARNING: "yellow", Severity.INFO: "cyan", Severity.OK: "green"}
#: Settings of `serve` that `doctor --help` shows; the others are accepted as well.
_SHOWN: Final = ("config_file", "data_dir")
_INDENT: Final = " " * 9


def _with_settings(command: Callable[..., Any]) -> Callable[..., Any]:
    """The flags of `certplane serve`: those that are of no use without it are not in the help."""
    settings.with_flags(servesettings.OPTIONS)(command)
    parameters: list[click.Option] = command.__dict__["__click_params__"]
    for parameter in parameters:
        if parameter.name in {option.field for option in servesettings.OPTIONS} - {*_SHOWN}:
            parameter.hidden = True
        if parameter.name == "data_dir":
            parameter.help = "Data directory of certplane to check. All flags of certplane serve are accepted."
        if parameter.name == "config_file":
            parameter.help = "Configuration file of certplane serve."
    return command


@click.command(
    short_help="Find what is broken, or open to others, in an installation.",
    epilog="certplane doctor --data-dir /var/lib/certplane --severity warning",
)
@click.option("--directory", default=None, metavar="DIR", help="Directory of kubeadm to check: /etc/kubernetes.")
@click.option(
    "--severity", type=click.Choice(_SEVERITIES), default="ok", show_default=True,
    help="Print only findings of this severity and above. The exit code is that of all findings.",
)  # fmt: skip
@click.option("-o", "--output", type=click.Choice(_OUTPUTS), default="text", show_default=True, help="Format.")
@_with_settings
@connection.with_connection
def doctor(
    server: Connection, /, directory: str | None, severity: str, output: str, config_file: str | None, **flags: object
) -> int:
    """Check a data directory of certplane, the directory of kubeadm, and the server of a kubeconfig.

    Without flags, whatever there is: ./certplane-data, /etc/kubernetes, the server of the kubeconfig. Nothing is
    changed. Each finding has an id, which docs/doctor.md explains, and a command that corrects it.

    Exit codes: 0 nothing to do; 4 warnings; 7 errors; 2 the command could not run.
    """
    examined = _Examination(server, directory, config_file, flags)
    found = findings.limited(examined.run())
    shown = [finding for finding in found if finding.severity >= Severity[severity.upper()]]
    if output == "text":
        click.echo(_text(shown, found), nl=False, color=screen.uses_color())
    else:
        document = _document(shown, found, examined.sources)
        click.echo(goyaml.dump(document) if output == "yaml" else json.dumps(document, indent=2) + "\n", nl=False)
    worst = findings.worst(found)
    return {Severity.ERROR: exitcodes.ERRORS, Severity.WARNING: exitcodes.WARNINGS}.get(worst, 0)


class _Examination:
    """One run. `sources` says what was checked, after it."""

    def __init__(
        self, server: Connection, directory: str | None, config_file: str | None, flags: Mapping[str, object]
    ) -> None:
        self._server = server
        self._config_file = config_file
        self._flags = flags
        self._data_dir: pathlib.Path | None = None
        self._directory = pathlib.Path(directory) if directory is not None else None
        self._has_settings = config_file is not None or any(value is not None for value in flags.values())
        self.sources: list[str] = []
        self._now = SystemClock().now()

    def run(self) -> list[Finding]:
        """All findings. Raises SetupError if there is nothing to check."""
        is_default = not (self._has_settings or self._directory or self._server.flags())
        found: list[Finding] = []
        if self._has_settings or (is_default and connection.LOCAL.exists()):
            found += self._check_data_directory()
        if self._directory is None and is_default and layouts.CERTIFICATES_DIRECTORY.is_dir():
            self._directory = layouts.KUBERNETES_DIRECTORY
        if self._directory is not None:
            found += self._check_kubeadm(self._directory)
        found += self._check_server(is_required=not found)
        return found

    def _check_data_directory(self) -> list[Finding]:
        found, read = self._read_settings()
        self._data_dir = read.data_dir
        if found and not os.path.isdir(read.data_dir):
            raise SetupError(found[0].what, found[0].fix)
        if not os.path.isdir(read.data_dir):
            raise SetupError(
                f"there is no data directory {read.data_dir}",
                ("set --data-dir to that of certplane serve", "or set --kubeconfig, or --directory"),
            )
        self.sources.append(f"data directory {read.data_dir}")
        return [*found, *examination.data_directory(read, self._now)]

    def _read_settings(self) -> tuple[Sequence[Finding], Settings]:
        """The settings of the server; if they are invalid, the finding, and the default ones. Raises SetupError."""
        try:
            return (), servesettings.read(self._flags, settings.read_file(self._config_file))
        except SetupError as error:
            data_dir = self._flags.get("data_dir")
            return examination.failed_settings(error), servesettings.read({"data_dir": data_dir}, {})

    def _check_kubeadm(self, directory: pathlib.Path) -> list[Finding]:
        if "\0" in str(directory) or not directory.is_dir():
            raise SetupError(
                f"there is no directory {plaintext.escape(str(directory), 200)}",
                ("set --directory to the directory of kubeadm, such as /etc/kubernetes",),
            )
        self.sources.append(f"kubeadm directory {directory}")
        return examination.kubeadm_directory(directory, self._now)

    def _check_server(self, *, is_required: bool) -> list[Finding]:
        """Check the server of the kubeconfig, or of a directory that was checked."""
        is_optional = not (is_required or self._server.flags())
        server = self._server if not is_optional else self._local_server()
        if server is None:
            return []
        try:
            config = server.load()
        except SetupError as error:
            if is_required:
                raise
            return [findings.unchecked("server", "the server", error.message, *error.hints)]
        self.sources.append(f"server {config.host}")
        facts = connection.call(server, lambda client: clusterfacts.gather(client, SystemClock()))
        return examination.server(facts, server.flags(), is_optional=is_optional)

    def _local_server(self) -> Connection | None:
        for directory in (self._data_dir, self._directory):
            path = directory / "admin.conf" if directory is not None else None
            with contextlib.suppress(OSError):
                if path is not None and path.exists():
                    return Connection(str(path))
        return None


# --- output -------------------------------------------------------------------------------------------------------


def _text(shown: Sequence[Finding], items: Sequence[Finding]) -> str:
    return "".join(f"{line}\n" for line in _lines(shown, items))


def _lines(shown: Sequence[Finding], items: Sequence[Finding]) -> Iterator[str]:
    for finding in shown:
        severity = finding.severity
        label = click.style(severity.name.lower().ljust(len(_INDENT)), fg=_COLORS[severity], bold=severity > 1)
        yield f"{label}{screen.wrapped(f'{finding.id}: {plaintext.escape(finding.what)}', _INDENT)}"
        if severity < Severity.WARNING:
            continue
        yield f"{_INDENT}why: {screen.wrapped(finding.why, f'{_INDENT}     ')}"
        for text in finding.fix:
            # Never wrapped: it is to be copied.
            yield f"{_INDENT}fix: {plaintext.escape(text)}"
        yield f"{_INDENT}see: {finding.docs}"
    yield _summary(items)


def _summary(items: Sequence[Finding]) -> str:
    counts = _counts(items)
    return f"{counts['error']} errors, {counts['warning']} warnings, {counts['info']} notes, {counts['ok']} checks ok"


def _counts(items: Sequence[Finding]) -> dict[str, int]:
    return {severity.name.lower(): sum(item.severity is severity for item in items) for severity in reversed(Severity)}


def _document(shown: Sequence[Finding], items: Sequence[Finding], sources: Sequence[str]) -> dict[str, Any]:
    return {
        "kind": "DoctorReport",
        "apiVersion": _API_VERSION,
        "time": timestamps.rfc3339(SystemClock().now()),
        "sources": list(map(_clean, sources)),
        "summary": _counts(items),
        "findings": [
            {
                "id": finding.id,
                "severity": finding.severity.name.lower(),
                "subject": _clean(finding.subject),
                "what": _clean(finding.what),
                "why": finding.why,
                "fix": list(map(_clean, finding.fix)),
                "docs": finding.docs,
            }
            for finding in shown
        ],
    }


def _clean(text: str) -> str:
    """A text that is valid UTF-8: paths may have any bytes."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
