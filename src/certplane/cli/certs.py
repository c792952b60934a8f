"""`certplane certs`: when certificates end, and their renewal. It reads and writes files and needs no server.

Like `kubeadm certs`, over kubeadm's directories or a data directory of certplane.
"""

from __future__ import annotations

import asyncio
import dataclasses
import datetime
import importlib
import json
import os
import pathlib
import secrets
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

import click

from certplane import files
from certplane.cli import certificatelist, durations, exitcodes
from certplane.clock import SystemClock
from certplane.errors import SetupError
from certplane.golang import formatting, goyaml
from certplane.kubeadm import clusterconfig, expiration, renewal
from certplane.kubeadm import layout as layouts
from certplane.kubeadm.clusterconfig import ClusterConfig
from certplane.kubeadm.expiration import Report
from certplane.kubeadm.layout import Entry, Layout
from certplane.x509 import keys

_F = TypeVar("_F", bound=Callable[..., Any])

_EXIT_ERROR: Final = 2
_OUTPUTS: Final = ("json", "text", "yaml")
_DATA_DIRECTORY: Final = pathlib.Path("certplane-data")
_KUBECONFIG: Final = layouts.KUBERNETES_DIRECTORY / "admin.conf"
_ALL: Final = "all"
_KEY_BYTES: Final = 32


@click.group()
def certs() -> None:
    """Check, renew and request the certificates of a control plane."""


# --- where the certificates are ----------------------------------------------------------------------------------


def _source_options(command: _F) -> _F:
    """The flags that say where the certificates are."""
    for option in (
        click.option("--data-dir", metavar="DIR", help="Data directory of certplane. [default: see docs/certs.md]"),
        click.option(
            "--kubeconfig-dir", metavar="DIR", help=f"Kubeconfigs of kubeadm. [default: {layouts.KUBERNETES_DIRECTORY}]"
        ),
        click.option(
            "--kubeconfig", metavar="FILE", help=f"To read the configuration of the cluster. [default: {_KUBECONFIG}]"
        ),
        click.option(
            "--cert-dir", metavar="DIR", help=f"Certificates of kubeadm. [default: {layouts.CERTIFICATES_DIRECTORY}]"
        ),
        click.option("--config", metavar="FILE", help="Configuration file of kubeadm; --cert-dir is ignored then."),
    ):
        command = option(command)
    return command


@dataclasses.dataclass(frozen=True, slots=True)
class _Flags:
    """The flags of `_source_options`; empty if they are not set."""

    config: pathlib.Path | None
    cert_dir: pathlib.Path | None
    kubeconfig: pathlib.Path | None
    kubeconfig_dir: pathlib.Path | None
    data_dir: pathlib.Path | None

    @classmethod
    def take(cls, values: dict[str, Any]) -> _Flags:
        """Take the flags out of the parameters of a command. Raises SetupError for empty and contradictory ones."""
        paths = {field.name: values.pop(field.name) for field in dataclasses.fields(cls)}
        for name, value in paths.items():
            if value is not None and (not value or "\0" in value):
                flag = f"--{name.replace('_', '-')}"
                raise SetupError(f"{flag}: not a path: {formatting.quote(value)}", (f"omit {flag} for its default",))
        flags = cls(**{name: pathlib.Path(value) if value is not None else None for name, value in paths.items()})
        if flags.data_dir is not None and flags.names_kubeadm:
            raise SetupError(
                "--data-dir cannot be combined with flags that name directories or files of kubeadm",
                ("use --data-dir for a data directory of certplane, the other flags for kubeadm",),
            )
        return flags

    @property
    def names_kubeadm(self) -> bool:
        return any((self.config, self.cert_dir, self.kubeconfig, self.kubeconfig_dir))

    def data_directory(self) -> pathlib.Path | None:
        """The data directory of certplane to use; None for kubeadm's directories."""
        if self.data_dir is not None or self.names_kubeadm:
            return self.data_dir
        if not layouts.CERTIFICATES_DIRECTORY.exists() and (_DATA_DIRECTORY / "pki").exists():
            click.echo(
                f"{layouts.CERTIFICATES_DIRECTORY} does not exist; using the data directory {_DATA_DIRECTORY}", err=True
            )
            return _DATA_DIRECTORY
        return None


@dataclasses.dataclass(frozen=True, slots=True)
class _Source:
    """The certificates, and how to renew them."""

    layout: Layout
    options: renewal.Options


def _find_source(flags: _Flags, command: str, *, is_quiet: bool = False) -> _Source:
    """The certificates that the flags mean. `command` is the prefix of messages, which `is_quiet` omits. Raises
    SetupError.
    """
    data_directory = flags.data_directory()
    if data_directory is not None:
        if not (data_directory / "pki").is_dir():
            raise SetupError(
                f"{data_directory} is not a data directory of certplane: it has no directory pki",
                ("set --data-dir to the directory of certplane serve --data-dir", "or --cert-dir to one of kubeadm"),
            )
        return _Source(layouts.own(data_directory), renewal.Options())
    config = _cluster_config(flags, command, is_quiet=is_quiet)
    for warning in config.warnings:
        _warn(warning)
    layout = layouts.kubeadm(
        config.directory,
        flags.kubeconfig_dir or layouts.KUBERNETES_DIRECTORY,
        has_external_etcd=config.has_external_etcd,
    )
    return _Source(layout, config.options)


def _cluster_config(flags: _Flags, command: str, *, is_quiet: bool) -> ClusterConfig:
    if flags.config is not None:
        return clusterconfig.load(flags.config)
    directory = flags.cert_dir or layouts.CERTIFICATES_DIRECTORY
    kubeconfig = flags.kubeconfig or _KUBECONFIG
    config = ClusterConfig()
    if os.path.exists(kubeconfig):
        lines = [f'[{command}] Reading configuration from the "kubeadm-config" ConfigMap in namespace "kube-system"...']
        try:
            # Imported only here: it takes longer than everything else.
            config = importlib.import_module("certplane.cli.kubeadmconfig").fetch(kubeconfig)
        except SetupError as error:
            _warn(error.message)
            lines.append(
                f"[{command}] Error reading configuration from the Cluster. Falling back to default configuration"
            )
        else:
            lines.append(
                f"[{command}] Use 'kubeadm init phase upload-config kubeadm --config your-config-file' to re-upload it."
            )
        if not is_quiet:
            click.echo("\n".join((*lines, "")))
    return dataclasses.replace(config, directory=directory)


def _warn(text: str) -> None:
    click.echo(f"warning: {text}", err=True)


def _report_error(error: SetupError) -> None:
    click.echo(f"error: {error.message}", err=True)
    for hint in error.hints:
        click.echo(f"hint: {hint}", err=True)


# --- check-expiration ---------------------------------------------------------------------------------------------


@certs.command("check-expiration")
@_source_options
@click.option("-o", "--output", default="text", show_default=True, metavar="FORMAT", help="text, json or yaml.")
@click.option(
    "--within",
    metavar="DURATION",
    help=f"Exit with code {exitcodes.EXPIRING} if a certificate ends within this time, such as 30d, or has ended.",
)
@click.option(
    "--directory",
    "directories",
    multiple=True,
    metavar="DIR",
    help="List all certificates in any files below this directory instead. May be repeated.",
)
@click.option("--allow-missing-template-keys", is_flag=True, default=True, hidden=True)
@click.option("--show-managed-fields", is_flag=True, hidden=True)
def check_expiration(output: str, within: str | None, directories: tuple[str, ...], **options: Any) -> int:
    """List the certificates and CAs, and when they end."""
    flags = _Flags.take(options)
    if output not in _OUTPUTS:
        raise SetupError(
            "could not construct output printer: unable to match a printer suitable for the output format "
            f"{formatting.quote(formatting.shorten(output, 100))}, allowed formats are: {','.join(_OUTPUTS)}",
            ("other programs can read -o json",),
        )
    period = durations.parse_long(within) if within is not None else None
    if directories:
        return _check_directories(flags, directories, output, period or datetime.timedelta(0))
    source = _find_source(flags, "check-expiration", is_quiet=output != "text")
    # kubeadm prints nothing if one certificate is damaged. Who asks for an exit code wants to know about the others.
    report = expiration.collect(source.layout, tolerate_damage=source.layout.is_own or period is not None)
    now = SystemClock().now()
    if output == "text":
        click.echo(expiration.table(report, now), nl=False)
    else:
        _print_document(output, expiration.document(report, now))
    return _exit_code(source.layout, report, period, now)


def _print_document(output: str, document: dict[str, Any]) -> None:
    click.echo(goyaml.dump(document) if output == "yaml" else json.dumps(document, indent=4) + "\n", nl=False)


def _check_directories(flags: _Flags, directories: tuple[str, ...], output: str, period: datetime.timedelta) -> int:
    if flags.data_dir is not None or flags.names_kubeadm:
        raise SetupError(
            "--directory cannot be combined with flags that name directories or files of kubeadm or certplane",
            ("run the command twice",),
        )
    items = certificatelist.collect(directories)
    if not items:
        raise SetupError(
            f"there are no certificates in {', '.join(directories)}", ("set --directory to another directory",)
        )
    now = SystemClock().now()
    if output == "text":
        click.echo(certificatelist.table(items, period, now), nl=False)
    else:
        _print_document(output, certificatelist.document(items, period, now))
    is_urgent = any(certificatelist.needs_attention(item, period, now) for item in items)
    return exitcodes.EXPIRING if is_urgent else 0


def _exit_code(layout: Layout, report: Report, period: datetime.timedelta | None, now: datetime.datetime) -> int:
    """Report what needs attention on standard error."""
    for row in report.rows:
        if row.problem:
            _warn(f"{row.name}: {row.problem}")
        if row.is_mismatched:
            _warn(
                f"the key of {row.name} is not that of its certificate: certplane certs renew {row.name} replaces both"
            )
    has_damage = any(row.problem for row in report.rows)
    if all(row.is_missing for row in report.rows):
        message = f"there are no certificates in {layout.directory}"
        hint = "set --cert-dir to the certificates of kubeadm, or --data-dir to a data directory of certplane"
        if period is not None:
            raise SetupError(message, (hint,))
        _warn(f"{message}; {hint}")
    if period is None:
        return exitcodes.EXPIRING if has_damage else 0
    names = [row.name for row in report.rows if row.ends_within(period, now) and not row.problem]
    if names:
        click.echo(f"ending within {formatting.human_duration(period.total_seconds())}: {', '.join(names)}", err=True)
    return exitcodes.EXPIRING if names or has_damage else 0


# --- renew --------------------------------------------------------------------------------------------------------


@certs.command()
@click.argument("name", metavar="all|NAME", type=click.Choice((_ALL, *layouts.NAMES)))
@_source_options
@click.option(
    "--key-algorithm",
    type=click.Choice(keys.KINDS),
    help="Algorithm of the new keys. [default: encryptionAlgorithm of the configuration, or RSA-2048]",
)
def renew(name: str, key_algorithm: str | None, **options: Any) -> int:
    """Renew a certificate, or all of them. CAs and kubelet.conf are never renewed.

    NAME is one of: admin.conf, apiserver, apiserver-etcd-client, apiserver-kubelet-client, controller-manager.conf,
    etcd-healthcheck-client, etcd-peer, etcd-server, front-proxy-client, scheduler.conf, super-admin.conf.
    """
    source = _find_source(_Flags.take(options), "renew")
    if key_algorithm is not None:
        source = dataclasses.replace(source, options=dataclasses.replace(source.options, key_algorithm=key_algorithm))
    entries = source.layout.entries if name == _ALL else tuple(filter(None, (source.layout.find(name),)))
    if not entries:
        raise SetupError(
            f"{name} is not a valid certificate for this cluster",
            (f"there are: {', '.join(entry.name for entry in source.layout.entries)}",),
        )
    outcome = asyncio.run(_renew_all(source, entries))
    if outcome.failures:
        return _EXIT_ERROR
    # kubeadm prints this line also if it has renewed nothing.
    if name == _ALL and (outcome.renewed or not source.layout.is_own):
        click.echo(f"\n{_done_text(source.layout)}")
    return 0


def _done_text(layout: Layout) -> str:
    if layout.is_own:
        return (
            "Done renewing certificates. A running certplane serve uses the new serving certificate within ten "
            "seconds. Copies of the kubeconfigs must be replaced before the old certificates end."
        )
    return (
        "Done renewing certificates. You must restart the kube-apiserver, kube-controller-manager, kube-scheduler and "
        "etcd, so that they can use the new certificates."
    )


@dataclasses.dataclass(slots=True)
class _Outcome:
    """How many certificates were renewed, and how many could not be because of an error."""

    renewed: int = 0
    failures: int = 0


async def _renew_all(source: _Source, entries: Sequence[Entry]) -> _Outcome:
    """Renew some certificates, one after the other; an error of one does not keep the others from being renewed."""
    outcome = _Outcome()
    async with renewal.locked(source.layout.directory, SystemClock()):
        for entry in entries:
            try:
                outcome.renewed += _renew(source, entry)
            except SetupError as error:
                _report_error(error)
                outcome.failures += 1
    return outcome


def _renew(source: _Source, entry: Entry) -> bool:
    """Renew a certificate, and print what was done. Returns whether it was renewed: it may be missing, or its CA may be
    elsewhere. Raises SetupError.
    """
    renewal.recover(entry)
    if not entry.certificate.exists():
        click.echo(f"MISSING! {entry.long_name}")
        return False
    if renewal.find_external(source.layout, entry.ca):
        click.echo(f"Detected external {entry.ca.base_name}, {entry.long_name} can't be renewed")
        return False
    # Before the CA: it says which file is damaged.
    renewal.load(entry)
    now = SystemClock().now()
    renewed = renewal.renew(entry, renewal.load_ca(entry.ca, now), source.options, now)
    if renewed.is_shortened:
        _warn(
            f"{entry.name} ends with its CA, {expiration.format_time(renewed.not_after)}, before the lifetime that was "
            f"asked for: replace {entry.ca.certificate} in time"
        )
    readers = files.readable_by_others(entry.ca.key)
    if readers is not None:
        _warn(f"other users can read the CA key {entry.ca.key}: {readers}")
    click.echo(f"{entry.long_name} renewed")
    return True


# --- generate-csr -------------------------------------------------------------------------------------------------


@certs.command("generate-csr")
@click.option("--config", metavar="FILE", help="Configuration file of kubeadm.")
@click.option(
    "--cert-dir",
    metavar="DIR",
    help=f"Where keys and requests are written. [default: certificatesDir, or {layouts.CERTIFICATES_DIRECTORY}]",
)
@click.option(
    "--kubeconfig-dir",
    metavar="DIR",
    help=f"Where kubeconfigs and their requests are written. [default: {layouts.KUBERNETES_DIRECTORY}]",
)
@click.option("--data-dir", metavar="DIR", help="Write into a data directory of certplane instead.")
@click.option("--key-algorithm", type=click.Choice(keys.KINDS), help="Algorithm of the new keys.")
def generate_csr(key_algorithm: str | None, **options: Any) -> None:
    """Write new keys and certificate requests, for a CA that is elsewhere."""
    flags = _Flags.take({"kubeconfig": None, **options})
    settings = clusterconfig.load(flags.config) if flags.config is not None else ClusterConfig()
    for warning in settings.warnings:
        _warn(warning)
    # Imported only here: it imports the names that signers must not issue, and with them all of signing.
    writer = importlib.import_module("certplane.cli.requestwriter")
    if flags.data_dir is not None:
        plan = writer.plan_own(flags.data_dir)
    else:
        directory = flags.cert_dir or settings.directory
        plan = writer.plan_kubeadm(settings, directory, flags.kubeconfig_dir or layouts.KUBERNETES_DIRECTORY)
    writer.write(plan, key_algorithm or settings.options.key_algorithm)


# --- certificate-key ----------------------------------------------------------------------------------------------


@certs.command("certificate-key")
def certificate_key() -> None:
    """Print a new random key for kubeadm's --certificate-key, which encrypts uploaded certificates."""
    click.echo(secrets.token_hex(_KEY_BYTES))
