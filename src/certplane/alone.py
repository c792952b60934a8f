"""certplane alone: a control plane in one process, with what `certplane serve` was told."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import datetime
import gc
import logging
import os
import pathlib
import socket
from collections.abc import Callable, Sequence
from typing import Final

from certplane import app, errors, files, manager, notify, reload, resources, signals, telemetry
from certplane import clock as clocks
from certplane.access import authn, tokens
from certplane.config import serve, signing
from certplane.controllers import publisher
from certplane.kubeadm import kubeconfig, pki
from certplane.server import audit, auditlog, auditpolicy, manners
from certplane.server.connection import listener as listeners
from certplane.server.connection import tls
from certplane.store import sqlite
from certplane.x509 import certificates, keys, pairs, reserved

_log = logging.getLogger("certplane")


def _prepare(settings: serve.Settings, clock: clocks.Clock) -> pki.PKI:
    """The data directory, judged, and completed but for the kubeconfigs. Raises SetupError, having written nothing,
    for what cannot be used.
    """
    host_names = ("localhost", "127.0.0.1", "::1", socket.gethostname())
    bound = () if settings.host in _ANY else (settings.host,)
    names = tuple(name for name in (*host_names, *bound, *settings.tls_san) if name)
    files.make_directory(settings.data_dir, "the data directory")
    files.check_directory(settings.data_dir, "the data directory")
    kubeconfig.check(settings.data_dir)
    if settings.store.parent.exists():
        files.check_directory(settings.store.parent, "the directory of the store")
    for suffix in ("", "-wal", "-shm", ".lock"):
        files.check_own(settings.store.with_name(settings.store.name + suffix), "the store's file")
    return pki.ensure(settings.data_dir / "pki", pki.Options(names, settings.key_algorithm), clock.now())


#: Addresses that stand for all those of the machine: nobody can be told to go there.
_ANY: Final = ("0.0.0.0", "::")  # noqa: S104 - compared, not bound


def _write_kubeconfigs(settings: serve.Settings, own: pki.PKI, port: int, now: datetime.datetime) -> None:
    host = "127.0.0.1" if settings.host in _ANY else settings.host
    server = f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"
    written = kubeconfig.ensure(settings.data_dir, own, server, settings.key_algorithm, now)
    for path in written.made:
        _log.info("kubeconfig written", extra={"path": path})
    for path in written.moved:
        _log.info("kubeconfig leads to this address now", extra={"path": path, "server": server})


def _audit_log(
    settings: serve.Settings, path: pathlib.Path, clock: clocks.Clock, name: str = "the audit log"
) -> auditlog.LogFile:
    """A log of requests, which can be written to. Raises SetupError."""
    if settings.records and str(path) not in (auditlog.STANDARD_OUTPUT, serve.NO_LOG):
        if path.is_file() and not path.is_symlink():
            files.check_own(path, name, files.LOG)
        with files.told(f"{name} {path} cannot be written", "--audit-log-path names another file, or none"):
            os.close(files.open_log(path))
    return auditlog.LogFile(path, auditlog.Rotation(*settings.audit_rotation), clock, _gap)


def _how(settings: serve.Settings, own: pki.PKI, static: authn.StaticTokens, clock: clocks.Clock) -> app.How:
    ca_file = settings.client_ca_file or own.ca_certificate
    try:
        verifier = certificates.ClientVerifier(files.read(ca_file, "the client CA file", _CLIENT_CA_HINT))
    except certificates.CertificateError as error:
        raise errors.SetupError(f"the client CA file {ca_file} cannot be used: {error}", (_CLIENT_CA_HINT,)) from error
    certificate, _ = _serving_pair(settings, own)
    own_names = reserved.names_of(files.read(certificate, "the serving certificate"))
    reservations = reserved.Reservations(clock.now, verifier, own_names)
    return app.How(
        signers=manager.signers(settings.signing, signing.Pair(own.ca_certificate, own.ca_key), reservations),
        kinds=resources.served(settings.runtime_config),
        controllers=settings.controllers,
        client_ca=verifier,
        static_tokens=(static,),
        issuer=_issuer(settings.accounts, own),
        bootstrap_tokens=settings.bootstrap_tokens,
        anonymous=settings.anonymous_auth,
        audit_policy=_audit_policy(settings.audit_policy_file),
        audit_rate=settings.audit_anonymous_rate,
        event_seconds=settings.event_ttl.total_seconds(),
        decision_events=settings.decision_events,
        creation_hints=settings.creation_hints,
        declared=manager.declared(settings.signing, reservations),
        reservations=reservations,
        serving=manager.serving_rules(settings.serving_approver),
        limits=manners.Limits(*settings.limits),
        root_ca=_root_ca(settings.root_ca_file or own.ca_certificate),
    )


_CLIENT_CA_HINT: Final = "--client-ca-file names CA certificates, in PEM"


def _static_tokens(path: pathlib.Path | None) -> authn.StaticTokens:
    if path is None:
        return authn.StaticTokens({})
    hint = "--token-auth-file names lines of token,user,uid,groups"
    try:
        return authn.StaticTokens(authn.parse_tokens(files.read(path, "the token file", hint)))
    except ValueError as error:
        raise errors.SetupError(f"the token file {path} cannot be used: {error}", (hint,)) from error


def _audit_policy(path: pathlib.Path | None) -> auditpolicy.Policy:
    if path is None:
        return auditpolicy.DEFAULT
    hint = "it is a Policy of audit.k8s.io/v1, in YAML"
    try:
        return auditpolicy.parse(files.read(path, "the audit policy", hint))
    except auditpolicy.PolicyProblem as error:
        raise errors.SetupError(f"the audit policy {path} cannot be used: {error}", (hint,)) from error


def _root_ca(path: pathlib.Path) -> str:
    return publisher.bundle_of(files.read(path, "the root CA file", "--root-ca-file names certificates, in PEM"), path)


def _issuer(accounts: serve.Accounts, own: pki.PKI) -> tokens.Issuer:
    further: list[keys.PublicKey] = []
    path = accounts.further_keys
    if path is not None:
        hint = "--service-account-key-file names public keys, in PEM"
        try:
            further = keys.public_from_pem(files.read(path, "the file of public keys", hint))
        except keys.KeyProblem as error:
            raise errors.SetupError(f"the public keys in {path} cannot be used: {error}", (hint,)) from error
    key = pki.load_account_key(accounts.signing_key or own.account_key)
    return tokens.Issuer(accounts.issuer, key, accounts.audiences, further, int(accounts.longest.total_seconds()))


# --- files that may change ----------------------------------------------------------------------------------------


class Identities:
    """Who we are to clients, and who they are to us, as files say now. The two halves of TLS come from two groups of
    files, and are loaded together.
    """

    def __init__(
        self,
        context: tls.ServingContext,
        clients: Callable[[certificates.ClientVerifier], None],
        served: Callable[[bytes], None],
    ) -> None:
        """`clients` is told whom to trust from now on, `served` with which certificate we serve."""
        self._context = context
        self._clients = clients
        self._served = served
        self._pair: tuple[bytes, bytes] | None = None
        self._client_ca = b""

    def use_pair(self, contents: Sequence[bytes]) -> None:
        """A certificate and its key. Raises ValueError if they are not."""
        certificate, key = contents
        pairs.check(certificate, key)
        self._load((certificate, key), self._client_ca)
        self._pair = certificate, key
        self._served(certificate)

    def use_client_ca(self, contents: Sequence[bytes]) -> None:
        """The CA certificates of clients. Raises ValueError if they are not."""
        verifier = certificates.ClientVerifier(contents[0])
        self._load(self._pair, contents[0])
        self._client_ca = contents[0]
        self._clients(verifier)

    def _load(self, pair: tuple[bytes, bytes] | None, client_ca: bytes) -> None:
        # At the start one of the two comes first.
        if pair is not None and client_ca:
            self._context.load(*pair, client_ca)


def _follow(reloader: reload.Reloader, settings: serve.Settings, own: pki.PKI, plane: app.Plane, used: _Used) -> None:
    """Have files read again when they change. Raises SetupError for those that are no good now."""
    identities = Identities(used.context, plane.replace_client_ca, plane.replace_serving_certificate)
    reloader.follow("serving certificate", _serving_pair(settings, own), identities.use_pair)
    reloader.follow("client CA file", [settings.client_ca_file or own.ca_certificate], identities.use_client_ca)
    if settings.token_auth_file is not None:
        reloader.follow(
            "token file",
            [settings.token_auth_file],
            lambda contents: used.tokens.replace(authn.parse_tokens(contents[0])),
        )
    for path in (settings.serving.key, settings.token_auth_file):
        files.warn_exposed(path)


# --- the process --------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class _Used:
    """What files are loaded into."""

    context: tls.ServingContext
    tokens: authn.StaticTokens


def _gap(count: int, since: datetime.datetime, until: datetime.datetime) -> bytes:
    return audit.notice("records-lost", count, since, until)


async def _run(settings: serve.Settings, clock: clocks.Clock, progress: notify.Progress) -> None:
    """Serve until SIGTERM or SIGINT. Raises SetupError for what a person must mend."""
    received = signals.Signals()
    with files.told("certplane cannot start", "check who may use the files that the settings name"):
        own = _prepare(settings, clock)
        static = _static_tokens(settings.token_auth_file)
        how = _how(settings, own, static, clock)
        certificate, key = _serving_pair(settings, own)
        pki.check_pair(certificate, key)
        context = _tls(certificate, key, settings.client_ca_file or own.ca_certificate)
        log = _audit_log(settings, settings.audit_log, clock)
        approvals = _audit_log(settings, settings.audit_approvals, clock, "the log of approvals")
    if settings.records:
        kept = approvals.write if settings.keeps_approvals else None
        how = dataclasses.replace(
            how, audit_sink=log.write, audit_approvals=kept, audit_problem=lambda: log.problem or approvals.problem
        )
    if received.is_stopping:
        return
    # The store before the port, and the port before the kubeconfigs: who has the one may have the next.
    with files.told(f"the store {settings.store} cannot be opened", "check who may use it"):
        store = sqlite.open_store(settings.store)
    try:
        bound = listeners.bind(settings.host, settings.port)
        with contextlib.closing(bound):
            port = bound.getsockname()[1]
            _write_kubeconfigs(settings, own, port, clock.now())
            plane = app.Plane(store, clock, dataclasses.replace(how, address=f"{settings.host}:{port}"))
            plane.telemetry.audit.lost = lambda: log.lost + approvals.lost
            reloader = reload.Reloader(clock, how.wakeup, plane.telemetry.reloaded)
            _follow(reloader, settings, own, plane, _Used(context, static))

            def look_again() -> None:
                _log.info("SIGHUP: files are read again")
                # The next record opens it anew: whoever turns the log over says so like this.
                log.close()
                approvals.close()
                how.wakeup.wake()

            received.on_reload(look_again)
            listener = listeners.Listener(plane.handler, bound, context, clock, plane.telemetry.refused_connection)
            plane.accepting = lambda: listener.problem
            plane.supervisor.every("connections", listeners.ROUND, listener.check_connections)
            plane.supervisor.keep("file-reloads", reloader.run)
            await _serve(plane, listener, settings.data_dir, received, progress)
    finally:
        await store.close()
        log.close()
        approvals.close()


def _serving_pair(settings: serve.Settings, own: pki.PKI) -> tuple[pathlib.Path, pathlib.Path]:
    return settings.serving.certificate or own.certificate, settings.serving.key or own.key


def _tls(certificate: pathlib.Path, key: pathlib.Path, client_ca: pathlib.Path) -> tls.ServingContext:
    try:
        return tls.ServingContext(certificate.read_bytes(), key.read_bytes(), client_ca.read_bytes())
    except (OSError, ValueError) as error:
        raise errors.SetupError(
            f"the serving certificate cannot be used: {error}",
            (f"check that {certificate} and {key} belong together and that {client_ca} holds certificates",),
        ) from error


async def _serve(
    plane: app.Plane,
    listener: listeners.Listener,
    data_dir: pathlib.Path,
    received: signals.Signals,
    progress: notify.Progress,
) -> None:
    stopped = asyncio.ensure_future(received.stopped())
    starting = asyncio.ensure_future(plane.start())
    try:
        await asyncio.wait({starting, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            _log.info("stopping before everything was started")
            return
        await starting
        serving = asyncio.ensure_future(listener.serve())
        # What was made until now stays: the collector need not look at it again and again.
        gc.collect()
        gc.freeze()
        progress.ready(f"https://{listener.address}")
        _log.info("serving", extra={"address": listener.address, "data_dir": data_dir})
        await asyncio.wait({serving, stopped}, return_when=asyncio.FIRST_COMPLETED)
        _log.info("stopping")
        progress.stopping()
        plane.drain()
        listener.stop()
        # It has a limit in time of its own.
        await serving
    finally:
        for task in (starting, stopped):
            task.cancel()
        await asyncio.gather(starting, stopped, return_exceptions=True)
        await plane.stop()
    _log.info("stopped")


def run(settings: serve.Settings) -> None:
    """`certplane serve`: the whole process. Raises SetupError."""
    # Whatever we make is for nobody else, also what a library makes for us.
    os.umask(0o077)
    with telemetry.logging_to(level=settings.log_level), notify.progress(settings.ready_file) as progress:
        listeners.run(_run(settings, clocks.SystemClock(), progress))
