"""The process of `certplane serve`: a control plane behind a TLS socket, with its files."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import datetime
import functools
import gc
import logging
import os
import pathlib
import socket
from collections.abc import Sequence
from typing import Final

from certplane import files, logs, reload, resources, timestamps
from certplane.access import authn, tokens
from certplane.clock import Clock, SystemClock
from certplane.config import servesettings
from certplane.config.servesettings import ServiceAccountSettings, Settings
from certplane.config.signing import PairFiles
from certplane.errors import SetupError
from certplane.kubeadm import kubeconfig, pki, renewal
from certplane.kubeadm import layout as layouts
from certplane.kubeadm.layout import Entry
from certplane.kubeadm.pki import PKI
from certplane.notify import Notifier, notifier
from certplane.plane import certificatesources, controllerconfig
from certplane.plane.assembly import AuditConfig, Plane, PlaneConfig
from certplane.plane.expirations import Expirations, Source
from certplane.plane.owncertificates import OwnCertificates
from certplane.server import audit, auditpolicy
from certplane.server.auditlog import LogFile
from certplane.server.connection import listener as listeners
from certplane.server.connection.tls import ServingContext
from certplane.signals import Signals
from certplane.store import sqlite
from certplane.x509 import keys
from certplane.x509.issuance import reservednames
from certplane.x509.issuance.reservednames import Reservations
from certplane.x509.trust import certificates, keypairs
from certplane.x509.trust.clientcertificates import ClientVerifier

_log = logging.getLogger("certplane")


#: Addresses that stand for all addresses of the machine: no client can connect to them.
_WILDCARDS: Final = ("0.0.0.0", "::")  # noqa: S104 - compared, not bound
#: The name of the serving certificate and its key in messages about reloads.
_SERVING_GROUP: Final = "serving certificate"
_CLIENT_CA_HINT: Final = "set --client-ca-file to CA certificates in PEM"


# --- files and directories ----------------------------------------------------------------------------------------


def _prepare(settings: Settings, clock: Clock) -> PKI:
    """Check the data directory and create what is missing, except the kubeconfigs. Raises SetupError before anything is
    written, if something cannot be used.
    """
    files.make_directory(settings.data_dir, "the data directory")
    files.check_directory(settings.data_dir, "the data directory")
    kubeconfig.check(settings.data_dir)
    if settings.store.parent.exists():
        files.check_directory(settings.store.parent, "the directory of the store")
    for suffix in ("", "-wal", "-shm", ".lock"):
        files.check_data_file(settings.store.with_name(settings.store.name + suffix), "the store's file")
    directory = settings.data_dir / "pki"
    pki.check_files(directory)
    if directory.exists():
        for entry in layouts.own(settings.data_dir).entries:
            if renewal.recover(entry):
                _log.info("interrupted renewal completed", extra={"certificate": entry.name})
    if (directory / "ca.crt").exists() and _uses_own_ca(settings):
        pki.check_not_expired(directory / "ca.crt", clock.now())
    return pki.ensure(directory, _server_names(settings), settings.key_algorithm, clock.now())


def _server_names(settings: Settings) -> Sequence[str]:
    """The names and addresses that a serving certificate of ours must have."""
    host_names = ("localhost", "127.0.0.1", "::1", socket.gethostname())
    listen_names = () if settings.listen.host in _WILDCARDS else (settings.listen.host,)
    return tuple(name for name in (*host_names, *listen_names, *settings.tls_san) if name)


def _uses_own_ca(settings: Settings) -> bool:
    """Whether anything but the kubeconfigs needs the CA of the data directory."""
    return (
        settings.serving.cert_file is None
        or settings.client_ca_file is None
        or (settings.controllers.signing.is_default)
    )


def _write_kubeconfigs(settings: Settings, pki_paths: PKI, port: int, now: datetime.datetime) -> None:
    host = "127.0.0.1" if settings.listen.host in _WILDCARDS else settings.listen.host
    server = f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"
    changes = kubeconfig.ensure(settings.data_dir, pki_paths, server, settings.key_algorithm, now)
    for path in changes.created:
        _log.info("kubeconfig written", extra={"path": path})
    for path in changes.updated:
        _log.info("server address in kubeconfig updated", extra={"path": path, "server": server})


def _serving_pair(settings: Settings, pki_paths: PKI) -> tuple[pathlib.Path, pathlib.Path]:
    return settings.serving.cert_file or pki_paths.certificate, settings.serving.key_file or pki_paths.key


def _client_ca_file(settings: Settings, pki_paths: PKI) -> pathlib.Path:
    return settings.client_ca_file or pki_paths.ca_certificate


def _load_client_ca(path: pathlib.Path) -> ClientVerifier:
    try:
        return ClientVerifier(files.read(path, "the client CA file", _CLIENT_CA_HINT))
    except certificates.CertificateError as error:
        raise SetupError(f"the client CA file {path} cannot be used: {error}", (_CLIENT_CA_HINT,)) from error


def _load_static_tokens(path: pathlib.Path | None) -> authn.StaticTokens:
    if path is None:
        return authn.StaticTokens({})
    hint = "set --token-auth-file to a CSV file with lines of token,user,uid,groups"
    try:
        return authn.StaticTokens(authn.parse_tokens(files.read(path, "the token file", hint)))
    except ValueError as error:
        raise SetupError(f"the token file {path} cannot be used: {error}", (hint,)) from error


def _load_audit_policy(path: pathlib.Path | None) -> auditpolicy.Policy:
    if path is None:
        return auditpolicy.DEFAULT
    hint = "set --audit-policy-file to a Policy of audit.k8s.io/v1, in YAML"
    try:
        return auditpolicy.parse(files.read(path, "the audit policy", hint))
    except auditpolicy.InvalidPolicy as error:
        raise SetupError(f"the audit policy {path} cannot be used: {error}", (hint,)) from error


def _load_token_issuer(settings: ServiceAccountSettings, pki_paths: PKI) -> tokens.Issuer:
    public_keys: list[keys.PublicKey] = []
    path = settings.key_file
    if path is not None:
        hint = "set --service-account-key-file to public keys in PEM"
        try:
            public_keys = keys.public_from_pem(files.read(path, "the service account key file", hint))
        except keys.InvalidKeyError as error:
            raise SetupError(f"the public keys in {path} cannot be used: {error}", (hint,)) from error
    key = pki.load_account_key(settings.signing_key_file or pki_paths.account_key)
    return tokens.Issuer(settings, key, public_keys)


def _new_serving_context(settings: Settings, pki_paths: PKI, now: datetime.datetime) -> ServingContext:
    certificate, key = _serving_pair(settings, pki_paths)
    client_ca = _client_ca_file(settings, pki_paths)
    pki.check_pair(certificate, key)
    if not _is_own_pair(settings, pki_paths):
        _check_serving_end(certificate, now, "replace it and its key; check the clock of this machine")
    try:
        return ServingContext(certificate.read_bytes(), key.read_bytes(), client_ca.read_bytes())
    except (OSError, ValueError) as error:
        raise SetupError(
            f"the serving certificate cannot be used: {error}",
            (f"check that {certificate} and {key} match and that {client_ca} has CA certificates",),
        ) from error


def _is_own_pair(settings: Settings, pki_paths: PKI) -> bool:
    """Whether the serving certificate is that of the data directory, which certplane renews."""
    return _serving_pair(settings, pki_paths) == (pki_paths.certificate, pki_paths.key)


def _check_serving_end(certificate: pathlib.Path, now: datetime.datetime, hint: str) -> None:
    """Raises SetupError if the serving certificate has expired: no client could connect."""
    end = certificates.first_not_after(files.read(certificate, "the serving certificate"))
    if end is not None and end <= now:
        raise SetupError(f"the serving certificate {certificate} expired at {timestamps.rfc3339(end)}", (hint,))


# --- the audit logs -----------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class _AuditLogs:
    """The audit log, and the second log for certificate requests."""

    settings: servesettings.AuditSettings
    log: LogFile
    approvals: LogFile

    def config(self, policy: auditpolicy.Policy) -> AuditConfig | None:
        if not (self.settings.has_log or self.settings.has_approvals_log):
            return None
        return AuditConfig(
            sink=self.log.write if self.settings.has_log else None,
            approvals_sink=self.approvals.write if self.settings.has_approvals_log else None,
            policy=policy,
            settings=self.settings,
            problem=lambda: self.log.problem or self.approvals.problem,
        )

    def lost(self) -> int:
        """How many records could not be written."""
        return self.log.lost + self.approvals.lost

    def close(self) -> None:
        """Close the files; the next record opens them again."""
        self.log.close()
        self.approvals.close()


def _open_audit_logs(settings: servesettings.AuditSettings, clock: Clock) -> _AuditLogs:
    """Check that the files can be written. Raises SetupError."""

    def open_log(path: pathlib.Path, name: str, flag: str) -> LogFile:
        if str(path) not in (servesettings.STANDARD_OUTPUT, servesettings.NO_LOG):
            if path.is_file() and not path.is_symlink():
                files.check_data_file(path, name, files.GROUP_READABLE)
            with files.as_setup_error(f"{name} {path} cannot be written", f"set {flag} to another file, or to none"):
                os.close(files.open_log(path))
        return LogFile(path, settings.rotation, clock, _lost_records_notice)

    return _AuditLogs(
        settings,
        open_log(settings.log_path, "the audit log", "--audit-log-path"),
        open_log(settings.approvals_log_path, "the approvals log", "--audit-approvals-log-path"),
    )


def _lost_records_notice(count: int, since: datetime.datetime, until: datetime.datetime) -> bytes:
    return audit.loss_event("records-lost", count, since, until)


# --- the configuration of the plane -------------------------------------------------------------------------------


def _load_plane_config(
    settings: Settings, pki_paths: PKI, static_tokens: authn.StaticTokens, clock: Clock
) -> PlaneConfig:
    """Read all files that the settings name. Raises SetupError."""
    client_ca = _load_client_ca(_client_ca_file(settings, pki_paths))
    certificate, _ = _serving_pair(settings, pki_paths)
    server_names = reservednames.certificate_names(files.read(certificate, "the serving certificate"))
    reservations = Reservations(clock.now, client_ca, server_names)
    controllers = controllerconfig.load_controllers(
        settings.controllers,
        root_ca=controllerconfig.load_root_ca(settings.controllers.root_ca_file or pki_paths.ca_certificate),
        reservations=reservations,
        default_ca=PairFiles(pki_paths.ca_certificate, pki_paths.ca_key),
    )
    return PlaneConfig(
        controllers=controllers,
        api=settings.api,
        kinds=resources.served(settings.runtime_config),
        client_ca=client_ca,
        static_tokens=(static_tokens,),
        issuer=_load_token_issuer(settings.service_accounts, pki_paths),
        reservations=reservations,
    )


# --- files that may change ----------------------------------------------------------------------------------------


class TLSFiles:
    """Loads changed TLS files. The serving certificate and the client CA come from different files and are loaded
    together, into one context.
    """

    def __init__(self, context: ServingContext, plane: Plane) -> None:
        self._context = context
        self._plane = plane
        self._pair: tuple[bytes, bytes] | None = None
        self._client_ca = b""

    @property
    def certificate(self) -> bytes:
        """The serving certificate in use, in PEM; empty before the first one."""
        return self._pair[0] if self._pair is not None else b""

    def replace_pair(self, contents: Sequence[bytes]) -> None:
        """Load a certificate and its key. Raises ValueError."""
        certificate, key = contents
        keypairs.check(certificate, key)
        self._load((certificate, key), self._client_ca)
        self._pair = certificate, key
        self._plane.replace_serving_certificate(certificate)

    def replace_client_ca(self, contents: Sequence[bytes]) -> None:
        """Load the CA certificates of clients. Raises ValueError."""
        verifier = ClientVerifier(contents[0])
        self._load(self._pair, contents[0])
        self._client_ca = contents[0]
        self._plane.replace_client_ca(verifier)

    def _load(self, pair: tuple[bytes, bytes] | None, client_ca: bytes) -> None:
        # At the start, one of them is read first.
        if pair is not None and client_ca:
            self._context.load(*pair, client_ca)


@dataclasses.dataclass(frozen=True, slots=True)
class _LoadedFiles:
    """What was loaded from files, and is updated when they change."""

    pki_paths: PKI
    context: ServingContext
    static_tokens: authn.StaticTokens
    audit_logs: _AuditLogs
    config: PlaneConfig


_OWN_REMEDY: Final = "certplane renews it itself, if it can: see the other messages in the log"
_SERVING_REMEDY: Final = "replace the files of --tls-cert-file and --tls-private-key-file; they are reloaded"
_CA_REMEDY: Final = "replace the CA before it ends: docs/operations.md"
_CLIENT_CA_REMEDY: Final = "replace it in the file, which is reloaded"
_ROOT_CA_REMEDY: Final = "replace it in --root-ca-file, and restart certplane"


def _certificate_sources(settings: Settings, loaded: _LoadedFiles, tls_files: TLSFiles) -> Sequence[Source]:
    """The certificates whose end is announced. The first name of a certificate counts: the CA before the signers."""
    pki_paths, is_own = loaded.pki_paths, settings.serving.cert_file is None
    certificate, _ = _serving_pair(settings, pki_paths)
    serving_remedy = _OWN_REMEDY if is_own else _SERVING_REMEDY
    named = [
        ("client-ca", settings.client_ca_file, _CLIENT_CA_REMEDY),
        ("root-ca", settings.controllers.root_ca_file, _ROOT_CA_REMEDY),
    ]
    kubeconfigs = [(settings.data_dir / user.file, user) for user in kubeconfig.USERS]
    return [
        certificatesources.from_memory("serving", certificate, lambda: tls_files.certificate, serving_remedy),
        certificatesources.from_file("ca", pki_paths.ca_certificate, _CA_REMEDY),
        *(certificatesources.from_file(name, path, remedy) for name, path, remedy in named if path is not None),
        *(certificatesources.from_kubeconfig(path, user, _OWN_REMEDY) for path, user in kubeconfigs),
        certificatesources.from_signers(loaded.config.controllers),
    ]


def _load(settings: Settings, clock: Clock) -> _LoadedFiles:
    """Create what is missing, and read all files that the settings name. Raises SetupError."""
    with files.as_setup_error("certplane cannot start", "check the permissions of the files that the settings name"):
        pki_paths = _prepare(settings, clock)
        static_tokens = _load_static_tokens(settings.token_auth_file)
        config = _load_plane_config(settings, pki_paths, static_tokens, clock)
        audit_policy = _load_audit_policy(settings.audit.policy_file)
        context = _new_serving_context(settings, pki_paths, clock.now())
        audit_logs = _open_audit_logs(settings.audit, clock)
        config = dataclasses.replace(config, audit=audit_logs.config(audit_policy))
        return _LoadedFiles(pki_paths, context, static_tokens, audit_logs, config)


async def _start_certificate_tasks(settings: Settings, loaded: _LoadedFiles, plane: Plane) -> None:
    """Renew what is due, and start the tasks that renew certificates, announce their end, and reload files. Raises
    SetupError for files that cannot be used.
    """
    clock, wakeup = plane.clock, loaded.config.wakeup
    reloader, tls_files = reload.Reloader(clock, wakeup, plane.telemetry.count_reload), TLSFiles(loaded.context, plane)
    sources = _certificate_sources(settings, loaded, tls_files)
    expirations = Expirations(sources, clock, plane.telemetry, plane.events.add)
    own = _new_own_certificates(settings, loaded, plane, reloader, expirations)
    await _renew_at_start(settings, loaded, own, clock)
    _add_reloaded_files(reloader, settings, loaded, tls_files)
    plane.certificate_problem = lambda: "; ".join(filter(None, (own.problem(), expirations.problem()))) or None
    plane.supervisor.run_forever("file-reloads", reloader.run)
    plane.supervisor.run_forever("own-certificates", functools.partial(own.run, wakeup))
    plane.supervisor.run_forever("certificate-expirations", functools.partial(expirations.run, wakeup))


def _new_own_certificates(
    settings: Settings, loaded: _LoadedFiles, plane: Plane, reloader: reload.Reloader, expirations: Expirations
) -> OwnCertificates:
    """Renews the kubeconfigs of the data directory, and the serving certificate if it is the one in there."""
    is_own_pair = _is_own_pair(settings, loaded.pki_paths)
    entries = [entry for entry in layouts.own(settings.data_dir).entries if entry.is_kubeconfig or is_own_pair]

    async def on_renewed(entry: Entry) -> None:
        if not entry.is_kubeconfig:
            await reloader.reload(_SERVING_GROUP)
        await expirations.check()

    return OwnCertificates(entries, settings.key_algorithm, plane.clock, plane.telemetry, on_renewed)


async def _renew_at_start(settings: Settings, loaded: _LoadedFiles, own: OwnCertificates, clock: Clock) -> None:
    """Renew what is due, before the first request. Raises SetupError if the serving certificate has expired."""
    await own.check()
    serving = layouts.own(settings.data_dir).find("apiserver")
    if serving is None or not _is_own_pair(settings, loaded.pki_paths):
        return
    _check_serving_end(serving.certificate, clock.now(), own.problem() or "provide ca.key, or renew the certificate")
    await own.add_names(serving, _server_names(settings))


def _add_reloaded_files(
    reloader: reload.Reloader, settings: Settings, loaded: _LoadedFiles, tls_files: TLSFiles
) -> None:
    """Have files read again when they change. Raises SetupError for those that cannot be used now."""
    reloader.add(_SERVING_GROUP, _serving_pair(settings, loaded.pki_paths), tls_files.replace_pair)
    reloader.add("client CA file", [_client_ca_file(settings, loaded.pki_paths)], tls_files.replace_client_ca)
    if settings.token_auth_file is not None:
        reloader.add(
            "token file",
            [settings.token_auth_file],
            lambda contents: loaded.static_tokens.replace(authn.parse_tokens(contents[0])),
        )
    for path in (settings.serving.key_file, settings.token_auth_file):
        files.warn_if_readable(path)


# --- the process --------------------------------------------------------------------------------------------------


async def _run(settings: Settings, clock: Clock, service_notifier: Notifier) -> None:
    """Serve until SIGTERM or SIGINT. Raises SetupError for what an operator must fix."""
    received = Signals()
    loaded = _load(settings, clock)
    if received.is_stopping:
        return
    # The lock of the store before the port, and the port before the kubeconfigs: a second process must not change
    # what the first one uses.
    with files.as_setup_error(f"the store {settings.store} cannot be opened", "check its permissions"):
        store = sqlite.open_store(settings.store)
    try:
        bound = listeners.bind(settings.listen.host, settings.listen.port)
        with contextlib.closing(bound):
            port = bound.getsockname()[1]
            _write_kubeconfigs(settings, loaded.pki_paths, port, clock.now())
            address = f"{settings.listen.host}:{port}"
            plane = Plane(store, clock, dataclasses.replace(loaded.config, address=address))
            plane.telemetry.audit.lost = loaded.audit_logs.lost
            await _start_certificate_tasks(settings, loaded, plane)

            def on_hangup() -> None:
                _log.info("SIGHUP received; reloading files")
                # Log rotation by other programs: the next record opens a new file.
                loaded.audit_logs.close()
                loaded.config.wakeup.wake()

            received.on_reload(on_hangup)
            count_refused = plane.telemetry.count_refused_connection
            listener = listeners.Listener(plane.handler, bound, loaded.context, clock, count_refused)
            plane.listener_problem = lambda: listener.problem
            plane.supervisor.run_every("connections", listeners.CHECK_INTERVAL, listener.check_connections)
            await _serve(plane, listener, settings.data_dir, received, service_notifier)
    finally:
        await store.close()
        loaded.audit_logs.close()


async def _serve(
    plane: Plane,
    listener: listeners.Listener,
    data_dir: pathlib.Path,
    received: Signals,
    service_notifier: Notifier,
) -> None:
    stopped = asyncio.ensure_future(received.stopped())
    starting = asyncio.ensure_future(plane.start())
    try:
        await asyncio.wait({starting, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            _log.info("stopping before the start was complete")
            return
        await starting
        serving = asyncio.ensure_future(listener.serve())
        # These objects live as long as the process: the garbage collector need not traverse them again.
        gc.collect()
        gc.freeze()
        service_notifier.ready(f"https://{listener.address}")
        _log.info("serving", extra={"address": listener.address, "data_dir": data_dir})
        await asyncio.wait({serving, stopped}, return_when=asyncio.FIRST_COMPLETED)
        _log.info("stopping")
        service_notifier.stopping()
        plane.drain()
        listener.stop()
        # The listener limits how long this takes.
        await serving
    finally:
        for task in (starting, stopped):
            task.cancel()
        await asyncio.gather(starting, stopped, return_exceptions=True)
        await plane.stop()
    _log.info("stopped")


def run(settings: Settings) -> None:
    """`certplane serve`: the whole process. Raises SetupError."""
    # No other user may read new files, including those that libraries create.
    os.umask(0o077)
    with logs.logging_to(level=settings.log_level), notifier(settings.ready_file) as service_notifier:
        listeners.run(_run(settings, SystemClock(), service_notifier))
