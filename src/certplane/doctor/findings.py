"""What a check finds: how severe it is, what it is, why it matters, and the command that corrects it.

`CHECKS` has the id of each kind of finding and why it matters; docs/doctor.md has a section for each id. Ids are
stable: monitoring may select by them.
"""

from __future__ import annotations

import collections
import dataclasses
import enum
from collections.abc import Mapping, Sequence
from typing import Final

#: Findings of one id that are listed; the rest are counted. A directory may have thousands of files.
_MAX_ALIKE: Final = 50


class Severity(enum.IntEnum):
    """How severe a finding is. An error breaks something, or lets somebody in; a warning will, if nobody acts."""

    OK = 0
    INFO = 1
    WARNING = 2
    ERROR = 3


#: Why each kind of finding matters, by its id.
CHECKS: Final[Mapping[str, str]] = {
    # Settings.
    "settings": "A server with these settings does not start, or does not sign.",
    "audit-off": "Without an audit log nobody can say who asked for a certificate, and who approved it.",
    "long-lifetime": "A certificate cannot be taken back: a stolen key is useful until the certificate ends.",
    "static-tokens": "A static token never ends, and is in a file in plain text.",
    "anonymous-auth": "Everybody who reaches the port may try every path that is granted to system:unauthenticated.",
    # Files.
    "file-access": "What cannot be examined may be wrong without anybody seeing it.",
    "file-kind": "The owner of a link chooses what certplane reads and where it writes.",
    "file-mode": "Whoever reads a key or a token can act as its owner; with a CA key, as anybody.",
    "file-missing": "The server does not start without the file.",
    "file-owner": "The owner of a file can replace it, and so choose whom the server trusts.",
    "log-mode": "Audit records say who may do what, and should not be changed or read by everybody.",
    "directory-mode": "Whoever can write to a directory can replace the keys and certificates in it.",
    # Clock.
    "clock-skew": "Certificates are valid from and until a time: with a wrong clock they are refused.",
    # Certificates.
    "certificate-end": "A certificate that has ended is refused: clients and servers stop.",
    "certificate-not-yet-valid": "A certificate that is not valid yet is refused; usually a clock is wrong.",
    "certificate-unreadable": "A damaged certificate cannot be used, and its end is seen by nobody.",
    "certificate-key": "A certificate without its key cannot be used: an interrupted renewal leaves such a pair.",
    "ca-unreadable": "The signer has no CA, so approved requests stay without a certificate.",
    "ca-not-ca": "What is signed with a certificate that is not a CA is refused by everybody.",
    "ca-key": "The CA cannot sign: its key is missing, or is another one.",
    "ca-chain": "A client that trusts only the root cannot build a path, and OpenSSL trusts no intermediate alone.",
    "ca-path-length": "The path length of a CA above forbids this CA, or this CA forbids the CAs that it issues.",
    "ca-key-weak": "Whoever breaks the key of a CA can be anybody.",
    "signers-client-ca": "A signer with the CA of the clients can issue certificates that log in to the server.",
    # The server.
    "server": "Without a server nothing is approved, signed or renewed.",
    "server-ready": "A failed check says which part of the server does not work.",
    "controllers": "Without its controllers a server accepts requests and does nothing with them.",
    "store": "A store that cannot be written accepts no request; a damaged one loses what was acknowledged.",
    "disk-space": "On a full disk nothing is stored, and nothing is recorded.",
    "csr-pending": "Somebody waits for a certificate; undecided requests are deleted after a day.",
    "csr-not-issued": "An approved request without a certificate means that the signer does not work.",
    "csr-failed": "The signer has refused requests for good; they must be made anew.",
    # RBAC.
    "rbac-approve": "Whoever may approve for a signer can have any certificate of it, such as an administrator's.",
    "rbac-sign": "Whoever may sign for a signer can write any certificate into an approved request.",
    "rbac-secrets": "Secrets hold keys, tokens and passwords; bootstrap tokens are Secrets in kube-system.",
    "rbac-wildcard": "A role with * grants what will be added later, too: approving, signing and reading Secrets.",
    "rbac-escalate": "Whoever may bind, escalate or impersonate can take every permission.",
    "rbac-everybody": "A grant to all users, or to anonymous clients, is a grant to whoever breaks into anything.",
}


@dataclasses.dataclass(frozen=True, slots=True)
class Finding:
    """One result of a check. `id` is a key of CHECKS; `subject` is the file, object or user that it is about, empty for
    none; `fix` are commands or instructions, the first of which is to be tried first. Texts may hold untrusted
    input: whoever prints them escapes them.
    """

    id: str
    severity: Severity
    what: str
    subject: str = ""
    fix: tuple[str, ...] = ()

    @property
    def why(self) -> str:
        """Why it matters."""
        return CHECKS[self.id]

    @property
    def docs(self) -> str:
        """Where the documentation has more."""
        return f"docs/doctor.md#{self.id}"


def unchecked(id_: str, what: str, reason: str, *fix: str, severity: Severity = Severity.WARNING) -> Finding:
    """The finding that a check could not run."""
    return Finding(id_, severity, f"{what} not checked: {reason}", fix=fix)


def with_ok(id_: str, items: Sequence[Finding], summary: str) -> list[Finding]:
    """The findings of a check; if nothing is wrong, one that says what was checked."""
    if any(finding.severity >= Severity.WARNING for finding in items):
        return list(items)
    return [Finding(id_, Severity.OK, summary), *items]


def worst(items: Sequence[Finding]) -> Severity:
    """The highest severity."""
    return max((finding.severity for finding in items), default=Severity.OK)


def limited(items: Sequence[Finding]) -> list[Finding]:
    """The findings, the most severe first, with at most `_MAX_ALIKE` of one id and severity; the rest are counted."""
    counts: collections.Counter[tuple[str, Severity]] = collections.Counter()
    kept: list[Finding] = []
    for finding in sorted(items, key=lambda finding: -finding.severity):
        key = finding.id, finding.severity
        counts[key] += 1
        if counts[key] <= _MAX_ALIKE:
            kept.append(finding)
    for (id_, severity), count in counts.items():
        if count > _MAX_ALIKE:
            last = max(index for index, item in enumerate(kept) if (item.id, item.severity) == (id_, severity))
            kept.insert(last + 1, Finding(id_, severity, f"{count - _MAX_ALIKE} more findings of this kind"))
    return kept
