"""What `certplane watch` does: from its flags to the watch, and the list that --once prints."""

from __future__ import annotations

import dataclasses
import datetime
import functools
import json
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import click

from certplane.cli import certificatelist, durations, exitcodes
from certplane.client import starttls
from certplane.clock import SystemClock
from certplane.config import documents
from certplane.config.documents import ConfigurationError
from certplane.errors import SetupError
from certplane.expiry import process, settings, settingsfile
from certplane.expiry.settings import EndpointSettings, Place, SourceSettings, WatchSettings
from certplane.expiry.watch import SourceState
from certplane.golang import formatting, goyaml
from certplane.kubeadm import layout
from certplane.kubeadm.certificatefiles import FileItem
from certplane.x509.trust.inventory import Item

_PORTS: Final = {"postgres": 5432, "smtp": 25, "ldap": 389}


def start(path: pathlib.Path | None, once: bool, flags: Mapping[str, Any]) -> int:
    """Read everything once and print it, or watch until SIGTERM. Returns the exit code. Raises SetupError."""
    only_once = [name for name in ("output", "within") if flags[name] not in (None, "text")]
    if only_once and not once:
        raise SetupError(f"--{only_once[0]} needs --once", ("without --once there are metrics and notifications",))
    load = functools.partial(_load, path, flags)
    if not once:
        return process.run(load)
    period = durations.parse_long(flags["within"]) if flags["within"] is not None else datetime.timedelta(0)
    states = process.read_once(load(), SystemClock())
    return _print(states, flags["output"], period)


def _load(path: pathlib.Path | None, flags: Mapping[str, Any]) -> WatchSettings:
    places = list(_places(flags))
    if path is not None and places:
        raise SetupError(
            "--config cannot be combined with flags that name what is watched", ("name it in the configuration",)
        )
    if path is not None:
        parsed = settingsfile.load(path)
    elif places:
        parsed = WatchSettings(tuple(SourceSettings(name, place) for name, place in places))
    else:
        raise SetupError(
            "there is nothing to watch",
            ("certplane watch --control-plane, or --config FILE", "certplane watch --help lists what can be watched"),
        )
    if flags["interval"] is not None:
        seconds = durations.parse_long(flags["interval"]).total_seconds()
        if not 1 <= seconds <= settings.DAY:
            raise SetupError("--interval must be from 1s to 1d", ("5m is the default",))
        parsed = dataclasses.replace(parsed, limits=dataclasses.replace(parsed.limits, interval=seconds))
    if flags["metrics_address"] is not None:
        address, problem = documents.parse_address(flags["metrics_address"])
        if address is None:
            raise SetupError(f"--metrics-address: {problem}", ("write it as 127.0.0.1:9793",))
        parsed = dataclasses.replace(parsed, metrics_address=address)
    return parsed


def _places(flags: Mapping[str, Any]) -> Iterator[tuple[str, Place]]:
    """What the flags name. The names of sources are those of the flags."""
    kubeadm = settings.ControlPlane(layout.CERTIFICATES_DIRECTORY, layout.KUBERNETES_DIRECTORY)
    if flags["control_plane"]:
        yield "control-plane", kubeadm
    for name, path in _numbered("data-dir", flags["data_dirs"]):
        yield name, dataclasses.replace(kubeadm, data_dir=pathlib.Path(path))
    for name, path in _numbered("directory", flags["directories"]):
        yield name, settings.Directory(pathlib.Path(path))
    if flags["file_patterns"]:
        password = flags["pkcs12_password_file"]
        file = pathlib.Path(password) if password is not None else None
        yield "files", settings.Files(_patterns("--files", flags["file_patterns"]), file)
    elif flags["pkcs12_password_file"] is not None:
        raise SetupError("--pkcs12-password-file needs --files", ("name the PKCS#12 files",))
    if flags["kubeconfigs"]:
        yield "kubeconfigs", settings.Kubeconfigs(_patterns("--kubeconfigs", flags["kubeconfigs"]))
    if flags["endpoints"]:
        yield "endpoints", settings.Endpoints(tuple(map(_endpoint, flags["endpoints"])))
    kubeconfig = flags["kubeconfig"]
    if flags["cluster"]:
        yield (
            "cluster",
            settings.Cluster(
                kubeconfig=pathlib.Path(kubeconfig) if kubeconfig is not None else None,
                context=flags["context"] or "",
                config_maps=("ca.crt", "*.pem"),
                trust_bundles=True,
                csrs=True,
            ),
        )
    elif kubeconfig is not None:
        raise SetupError("--kubeconfig needs --cluster", ("use --kubeconfigs to watch a kubeconfig itself",))
    if flags["context"] is not None and kubeconfig is None:
        raise SetupError("--context needs --kubeconfig", ("name the kubeconfig that has the context",))


def _numbered(name: str, values: Sequence[str]) -> Iterator[tuple[str, str]]:
    for number, value in enumerate(values, 1):
        if not value or "\0" in value:
            raise SetupError(f"--{name}: not a path: {documents.quote(value)}", ("name a directory",))
        yield f"{name}-{number}" if len(values) > 1 else name, value


def _patterns(flag: str, values: Sequence[str]) -> tuple[str, ...]:
    for value in values:
        if not value or "\0" in value:
            raise SetupError(f"{flag}: not a path: {documents.quote(value)}", ("quote patterns: '/etc/ssl/*.pem'",))
        if "**" in value:
            raise SetupError(f"{flag}: ** is not supported: {documents.quote(value)}", ("use --directory for a tree",))
    return tuple(values)


def _endpoint(text: str) -> EndpointSettings:
    protocol, separator, rest = text.rpartition("://")
    if separator and protocol not in starttls.PROTOCOLS:
        raise SetupError(
            f"--endpoint: unknown protocol in {documents.quote(text)}",
            (f"write HOST:PORT, or begin with one of {', '.join(f'{name}://' for name in starttls.PROTOCOLS)}",),
        )
    address, problem = documents.parse_address(rest)
    if address is None:
        example = f"{protocol}://db.example.com:{_PORTS[protocol]}" if separator else "web.example.com:443"
        raise SetupError(f"--endpoint: {problem}", (f"write it as {example}",))
    return EndpointSettings(address, start_tls=protocol)


# --- the list -----------------------------------------------------------------------------------------------------


def _print(states: Sequence[SourceState], output: str, period: datetime.timedelta) -> int:
    now = SystemClock().now()
    rows = list(_rows(states))
    if output == "text":
        click.echo(certificatelist.table([row for _, row in rows], period, now), nl=False)
    else:
        document = _document(states, rows, period, now)
        click.echo(goyaml.dump(document) if output == "yaml" else json.dumps(document, indent=4) + "\n", nl=False)
    for state in states:
        if state.omitted:
            click.echo(
                f"warning: {state.source.name}: {state.omitted} more certificates and problems are not listed; those "
                "that end first are",
                err=True,
            )
    is_urgent = any(certificatelist.needs_attention(row, period, now) for _, row in rows)
    return exitcodes.EXPIRING if is_urgent else 0


def _rows(states: Sequence[SourceState]) -> Iterator[tuple[str, FileItem]]:
    """The source and what was found, what ends soonest first; then the problems."""
    for state in states:
        name = state.source.name
        for finding in state.findings:
            yield name, FileItem(finding.path, finding.place, finding.item)
        if state.problem:
            yield name, FileItem(f"the source {name}", "", Item(problem=state.problem))


def _document(
    states: Sequence[SourceState],
    rows: Sequence[tuple[str, FileItem]],
    period: datetime.timedelta,
    now: datetime.datetime,
) -> dict[str, Any]:
    return {
        "kind": "WatchReport",
        "apiVersion": settings.API_VERSION,
        "sources": [
            {
                "name": state.source.name,
                "kind": state.source.kind,
                "up": not state.problem,
                "certificates": state.certificates,
                "omitted": state.omitted,
                **({"problem": state.problem} if state.problem else {}),
            }
            for state in states
        ],
        "items": [{"source": name, **certificatelist.document_item(row, period, now)} for name, row in rows],
    }


# --- check --------------------------------------------------------------------------------------------------------


def check(path: pathlib.Path) -> int:
    """Print the problems of a configuration. Returns the exit code. Raises SetupError."""
    try:
        parsed = settingsfile.load(path)
        problems = list(settingsfile.find_problems(parsed))
    except ConfigurationError as error:
        problems = list(error.problems)
    if problems:
        for problem in problems:
            click.echo(f"error: {path}: {formatting.shorten(problem, 500)}", err=True)
        click.echo("hint: docs/watch.md describes all fields", err=True)
        return 2
    webhooks = f" and {len(parsed.webhooks)} webhooks" if parsed.webhooks else ""
    click.echo(f"{path} is valid: {len(parsed.sources)} sources{webhooks}")
    return 0
