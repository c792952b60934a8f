"""All checks of a data directory, of kubeadm's directory, and of a server, one after the other.

Each check is independent: one that cannot run becomes a finding that says so, and the others run.
"""

from __future__ import annotations

import datetime
import os
import pathlib
import shlex
from collections.abc import Callable, Sequence
from typing import Final

from certplane import files
from certplane.client import permissions
from certplane.config.servesettings import Settings
from certplane.doctor import (
    certificatechecks,
    clusterchecks,
    filechecks,
    findings,
    localfacts,
    permissionchecks,
    settingschecks,
    signerchecks,
    storechecks,
)
from certplane.doctor.clusterfacts import ClusterFacts
from certplane.doctor.findings import Finding, Severity
from certplane.doctor.localfacts import DataDirectory, DirectoryFacts
from certplane.errors import SetupError
from certplane.kubeadm import expiration
from certplane.kubeadm import layout as layouts

_AS_OWNER: Final = "run certplane doctor as root, or as the user that runs the server"


def _guarded(id_: str, what: str, check: Callable[[], list[Finding]]) -> list[Finding]:
    """The findings of a check, or one that says why it could not run."""
    try:
        return check()
    except SetupError as error:
        return [findings.unchecked(id_, what, error.message, *error.hints)]
    except OSError as error:
        path = f" ({error.filename})" if error.filename else ""
        return [findings.unchecked(id_, what, f"{files.error_text(error)}{path}", _AS_OWNER)]


def data_directory(settings: Settings, now: datetime.datetime) -> list[Finding]:
    """Check a data directory of certplane, and the files that its settings name."""
    directory = DataDirectory(settings)
    flags = f" --data-dir {shlex.quote(str(settings.data_dir))}"
    layout = layouts.own(settings.data_dir)

    def check_signers() -> list[Finding]:
        signers = directory.signers()
        if not signers:
            return []
        return signerchecks.check(signers, localfacts.read(directory.client_ca_file), now)

    return [
        *settingschecks.check(settings),
        *_check_files(directory.files, lambda: directory.user, now, f"certplane certs renew all{flags}"),
        *_guarded(
            "certificate-key",
            "keys",
            lambda: certificatechecks.check_pairs(expiration.collect(layout, tolerate_damage=True), flags),
        ),
        *_guarded(
            "ca-key", "CAs", lambda: certificatechecks.check_authorities(directory.authorities(), now)
        ),
        *_guarded("signers-client-ca", "custom signers", check_signers),
        *_guarded("store", "the store", lambda: storechecks.check_store(directory.store())),
        *_guarded("disk-space", "free space", lambda: storechecks.check_disks(directory.disks())),
    ]  # fmt: skip


def kubeadm_directory(root: pathlib.Path, now: datetime.datetime) -> list[Finding]:
    """Check kubeadm's directory: usually /etc/kubernetes, with the certificates in pki."""
    pki = root / "pki"
    layout = layouts.kubeadm(pki if pki.is_dir() else root, root)
    flags = f" --cert-dir {shlex.quote(str(layout.directory))} --kubeconfig-dir {shlex.quote(str(root))}"

    def look() -> DirectoryFacts:
        return localfacts.scan(root, ())

    def check_manager() -> list[Finding]:
        manifest = localfacts.controller_manager_arguments(root)
        return settingschecks.check_controller_manager(manifest[1], manifest[0]) if manifest is not None else []

    def check_authorities() -> list[Finding]:
        authorities = localfacts.kubeadm_authorities(layout)
        return certificatechecks.check_authorities(authorities, now) if authorities else []

    return [
        *_check_files(look, lambda: os.stat(root).st_uid, now, f"certplane certs renew all{flags}"),
        *_guarded("settings", "kube-controller-manager", check_manager),
        *_guarded(
            "certificate-key",
            "keys",
            lambda: certificatechecks.check_pairs(expiration.collect(layout, tolerate_damage=True), flags),
        ),
        *_guarded("ca-key", "CAs", check_authorities),
        *_guarded(
            "disk-space", "free space", lambda: storechecks.check_disks(localfacts.disks([(str(root), root)]))
        ),
    ]  # fmt: skip


def _check_files(
    look: Callable[[], DirectoryFacts], user: Callable[[], int], now: datetime.datetime, renew: str
) -> list[Finding]:
    def check() -> list[Finding]:
        facts = look()
        found = [
            *filechecks.check(facts.paths, user()),
            *certificatechecks.check_ends(facts.certificates, now, renew),
        ]
        for file in facts.problems:
            text = f"{file.path}: {file.problem}"
            found.append(Finding("file-access", Severity.WARNING, text, file.path, (_AS_OWNER,)))
        if facts.skipped:
            text = f"{facts.skipped} more files: only the first {localfacts.MAX_FILES} were examined"
            found.append(Finding("file-access", Severity.WARNING, text))
        return found

    return _guarded("file-access", "files", check)


def server(facts: ClusterFacts, flags: str, *, is_optional: bool) -> list[Finding]:
    """Check a server. `flags` are those of kubectl, with a space at the end unless empty; with `is_optional` the server
    may be stopped on purpose.
    """
    if facts.unreachable:
        severity = Severity.WARNING if is_optional else Severity.ERROR
        text = f"no server responds, so nothing of it is checked: {facts.unreachable}"
        fix = ("start the server, or read its log: certplane wait",)
        return [Finding("server", severity, text, fix=fix)]
    now = facts.received
    found = [Finding("server", Severity.OK, "the server responds"), *clusterchecks.check_clock(facts.date, now)]
    checks = clusterchecks.parse_health(facts.health.value.text) if facts.health.value is not None else []
    if facts.health.value is not None:
        found += clusterchecks.check_health(checks, facts.health.value.status, flags)
    else:
        found.append(_forbidden("server-ready", "readiness", facts.health.reason))
    if facts.leases.value is not None:
        found += clusterchecks.check_controllers(facts.leases.value, checks, now)
    else:
        found.append(_forbidden("controllers", "controllers", facts.leases.reason))
    if facts.requests.value is not None:
        found += clusterchecks.check_requests(facts.requests.value, now, flags)
    else:
        found.append(_forbidden("csr-pending", "requests", facts.requests.reason))
    if facts.rbac.value is not None:
        found += permissionchecks.check(facts.rbac.value, flags)
    else:
        found.append(_forbidden("rbac-approve", "RBAC", facts.rbac.reason))
    return found


def _forbidden(id_: str, what: str, reason: str) -> Finding:
    """The finding that the server does not answer a question, with the rule that would permit it."""
    rule, namespace = permissions.rule_for(reason)
    where = f"a Role in {namespace}" if namespace else "a ClusterRole"
    return findings.unchecked(id_, what, reason, *([f"add to {where}: {rule}"] if rule else []))


def failed_settings(error: SetupError) -> Sequence[Finding]:
    """The finding that the settings cannot be used."""
    return [Finding("settings", Severity.ERROR, error.message, fix=error.hints)]
