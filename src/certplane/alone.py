"""certplane alone: a control plane in one process, with what `certplane serve` was told."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import datetime
import gc
import logging
import pathlib
import signal
import socket
from typing import Final

from certplane import app, errors, manager, notify, resources, telemetry
from certplane import clock as clocks
from certplane.access import authn, tokens
from certplane.config import serve, signing
from certplane.controllers import publisher
from certplane.kubeadm import kubeconfig, pki
from certplane.server import audit, auditlog, auditpolicy, manners
from certplane.server.connection import listener as listeners
from certplane.server.connection import tls
from certplane.store import sqlite
from certplane.x509 import certificates, keys, reserved

_log = logging.getLogger("certplane")

_DRAIN_SECONDS: Final = 8.0


def _prepare(settings: serve.Settings, clock: clocks.Clock) -> pki.PKI:
    """The data directory, completed. Raises SetupError, having written nothing, for what cannot be used."""
    host_names = ("localhost", "127.0.0.1", "::1", socket.gethostname())
    bound = () if settings.host in ("0.0.0.0", "::") else (settings.host,)  # noqa: S104 - compared, not bound
    names = tuple(name for name in (*host_names, *bound, *settings.tls_san) if name)
    if not settings.data_dir.exists():
        settings.data_dir.mkdir(mode=0o700, parents=True)
    own = pki.ensure(settings.data_dir / "pki", pki.Options(names, settings.key_algorithm), clock.now())
    host = "127.0.0.1" if settings.host in ("0.0.0.0", "::") else settings.host  # noqa: S104 - as above
    server = f"https://[{host}]:{settings.port}" if ":" in host else f"https://{host}:{settings.port}"
    for path in kubeconfig.ensure(settings.data_dir, own, server, settings.key_algorithm, clock.now()):
        _log.info("kubeconfig written", extra={"path": path})
    return own


def _how(settings: serve.Settings, own: pki.PKI, clock: clocks.Clock) -> app.How:
    ca_file = settings.client_ca_file or own.ca_certificate
    try:
        verifier = certificates.ClientVerifier(ca_file.read_bytes())
    except (OSError, certificates.CertificateError) as error:
        raise errors.SetupError(
            f"the client CA file {ca_file} cannot be used: {error}", ("--client-ca-file names CA certificates, in PEM",)
        ) from error
    serving = settings.serving.certificate or own.certificate
    reservations = reserved.Reservations(clock.now, verifier, reserved.names_of(serving.read_bytes()))
    static = (authn.read_tokens(settings.token_auth_file),) if settings.token_auth_file is not None else ()
    return app.How(
        signers=manager.signers(settings.signing, signing.Pair(own.ca_certificate, own.ca_key), reservations),
        kinds=resources.served(settings.runtime_config),
        controllers=settings.controllers,
        client_ca=verifier,
        static_tokens=static,
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
        address=f"{settings.host}:{settings.port}",
    )


def _audit_policy(path: pathlib.Path | None) -> auditpolicy.Policy:
    if path is None:
        return auditpolicy.DEFAULT
    try:
        return auditpolicy.parse(path.read_bytes())
    except (OSError, auditpolicy.PolicyProblem) as error:
        raise errors.SetupError(
            f"the audit policy {path} cannot be used: {error}", ("it is a Policy of audit.k8s.io/v1, in YAML",)
        ) from error


def _root_ca(path: pathlib.Path) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise errors.SetupError(
            f"the root CA file {path} cannot be read: {error.strerror}", ("--root-ca-file names certificates, in PEM",)
        ) from error
    return publisher.bundle_of(content)


def _issuer(of: serve.Accounts, own: pki.PKI) -> tokens.Issuer:
    further: list[keys.PublicKey] = []
    if of.further_keys is not None:
        try:
            further = keys.public_from_pem(of.further_keys.read_bytes())
        except (OSError, keys.KeyProblem) as error:
            raise errors.SetupError(
                f"the public keys in {of.further_keys} cannot be used: {error}",
                ("--service-account-key-file names public keys, in PEM",),
            ) from error
    key = pki.load_account_key(of.signing_key or own.account_key)
    return tokens.Issuer(of.issuer, key, of.audiences, further, int(of.longest.total_seconds()))


def _gap(count: int, since: datetime.datetime, until: datetime.datetime) -> bytes:
    return audit.notice("records-lost", count, since, until)


async def _run(settings: serve.Settings, clock: clocks.Clock, progress: notify.Progress) -> None:
    """Serve until SIGTERM or SIGINT. Raises SetupError for what a person must mend."""
    own = _prepare(settings, clock)
    certificate, key = settings.serving.certificate or own.certificate, settings.serving.key or own.key
    if settings.serving.certificate is not None:
        pki.check_pair(certificate, key)
    how = _how(settings, own, clock)
    context = _tls(certificate, key, settings.client_ca_file or own.ca_certificate)
    rotation = auditlog.Rotation(*settings.audit_rotation)
    log = auditlog.LogFile(settings.audit_log, rotation, clock, _gap)
    approvals = auditlog.LogFile(settings.audit_approvals, rotation, clock, _gap)
    if settings.records:
        kept = approvals.write if settings.keeps_approvals else None
        how = dataclasses.replace(
            how, audit_sink=log.write, audit_approvals=kept, audit_problem=lambda: log.problem or approvals.problem
        )
    store = sqlite.open_store(settings.store)
    try:
        bound = listeners.bind(settings.host, settings.port)
        with contextlib.closing(bound):
            plane = app.Plane(store, clock, how)
            plane.telemetry.audit.lost = lambda: log.lost + approvals.lost
            listener = listeners.Listener(plane.handler, bound, context, clock, plane.telemetry.refused_connection)
            await _serve(plane, listener, settings.data_dir, progress)
    finally:
        await store.close()
        log.close()
        approvals.close()


def _tls(certificate: pathlib.Path, key: pathlib.Path, client_ca: pathlib.Path) -> tls.ServingContext:
    try:
        return tls.ServingContext(certificate.read_bytes(), key.read_bytes(), client_ca.read_bytes())
    except (OSError, ValueError) as error:
        raise errors.SetupError(
            f"the serving certificate cannot be used: {error}",
            (f"check that {certificate} and {key} belong together and that {client_ca} holds certificates",),
        ) from error


async def _serve(
    plane: app.Plane, listener: listeners.Listener, data_dir: pathlib.Path, progress: notify.Progress
) -> None:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    await plane.start()
    try:
        serving = asyncio.ensure_future(listener.serve())
        # What was made until now stays: the collector need not look at it again and again.
        gc.collect()
        gc.freeze()
        progress.ready(f"https://{listener.address}")
        _log.info("serving", extra={"address": listener.address, "data_dir": data_dir})
        waiting = asyncio.ensure_future(stopping.wait())
        await asyncio.wait({serving, waiting}, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        _log.info("stopping")
        progress.stopping()
        plane.drain()
        listener.stop()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(serving, _DRAIN_SECONDS)
    finally:
        await plane.stop()
    _log.info("stopped")


def run(settings: serve.Settings) -> None:
    """`certplane serve`: the whole process. Raises SetupError."""
    with telemetry.logging_to(level=settings.log_level), notify.progress(settings.ready_file) as progress:
        listeners.run(_run(settings, clocks.SystemClock(), progress))
