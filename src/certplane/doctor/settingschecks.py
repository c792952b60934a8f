"""Settings of `certplane serve` that are valid and still a risk; and those of kube-controller-manager that are missing.

Source: kubernetes, `cmd/kube-controller-manager/app/certificates.go`: without a CA the signing controller does not
start, and says so only in its log.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from certplane.config.servesettings import Settings
from certplane.doctor import findings
from certplane.doctor.findings import Finding, Severity
from certplane.golang import formatting

#: Of Kubernetes: the longest lifetime that its signers issue by default.
_MAX_LIFETIME: Final = datetime.timedelta(days=366)
_LOOPBACK: Final = ("127.0.0.1", "::1", "localhost")
#: A flag of a program: --name=value.
_FLAG: Final = "--cluster-signing"


def check(settings: Settings) -> list[Finding]:
    """Check valid settings of `certplane serve`."""
    return findings.with_ok("settings", list(_check(settings)), "the settings are valid")


def _check(settings: Settings) -> Iterator[Finding]:
    if not settings.audit.has_log and not settings.audit.has_approvals_log:
        fix = ("remove --audit-log-path=none and --audit-approvals-log-path=none",)
        yield Finding("audit-off", Severity.WARNING, "there is no audit log", "--audit-log-path", fix)
    lifetime = settings.controllers.signing.duration
    if lifetime > _MAX_LIFETIME:
        text = f"certificates may be valid for {formatting.human_duration(lifetime.total_seconds())}"
        fix = ("set --cluster-signing-duration to a year or less, such as 8760h",)
        yield Finding("long-lifetime", Severity.WARNING, text, "--cluster-signing-duration", fix)
    if settings.token_auth_file is not None:
        text = f"{settings.token_auth_file} has static tokens"
        fix = ("use client certificates, service accounts or bootstrap tokens: certplane token create --help",)
        yield Finding("static-tokens", Severity.WARNING, text, "--token-auth-file", fix)
    if settings.api.anonymous_auth and settings.listen.host not in _LOOPBACK:
        text = f"requests without credentials are accepted on {settings.listen.host}"
        fix = ("set --anonymous-auth=false, unless machines join with bootstrap tokens",)
        yield Finding("anonymous-auth", Severity.INFO, text, "--anonymous-auth", fix)


def check_controller_manager(arguments: Sequence[str], path: str) -> list[Finding]:
    """Check the arguments of kube-controller-manager in its manifest at `path`."""
    flags: Mapping[str, str] = dict(_flags(arguments))
    found = []
    for part, other in (("cert-file", "key-file"), ("key-file", "cert-file")):
        for name in flags:
            partner = f"{name.removesuffix(part)}{other}"
            if name.endswith(part) and not flags.get(partner):
                text = f"kube-controller-manager has {name}, but no {partner}: it signs nothing"
                found.append(Finding("settings", Severity.ERROR, text, path, (f"add {partner} to {path}",)))
    if not flags:
        text = f"kube-controller-manager has no {_FLAG}-cert-file and {_FLAG}-key-file: it signs nothing"
        fix = (f"add both to {path}, for example for /etc/kubernetes/pki/ca.crt and ca.key",)
        found.append(Finding("settings", Severity.ERROR, text, path, fix))
    return findings.with_ok("settings", found, "kube-controller-manager has a CA to sign with")


def _flags(arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    for argument in arguments:
        name, _, value = argument.partition("=")
        if name.startswith(_FLAG) and name.endswith(("cert-file", "key-file")):
            yield name, value
