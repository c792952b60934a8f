"""The one sentence: why a request has no certificate, and what to do. Pure.

The order matters: what makes everything else pointless comes first. Each trouble has a code for programs; the codes are
listed in docs/troubleshooting.md, with an example of each.
"""

from __future__ import annotations

import dataclasses
import datetime
import re
import shlex
from collections.abc import Sequence
from typing import Final

from certplane import signernames, timestamps
from certplane.access import csrwarnings
from certplane.client import permissions
from certplane.config import signing as signingflags
from certplane.explain import approval
from certplane.explain.explanation import Findings, Result
from certplane.explain.facts import Unread
from certplane.golang import formatting
from certplane.resources import certificatesigningrequests as csrs
from certplane.resources import signingpreviews
from certplane.resources.certificatesigningrequests import CertificateSigningRequest, CertificateSigningRequestCondition
from certplane.x509.trust import certificates

#: Seconds that a signer may take: its controller may be busy, or another one may have the leadership next.
_PATIENCE: Final = 15.0
#: Seconds from which on it is said how long something takes.
_NOTABLE: Final = 60.0
#: Names in a sentence.
_MAX_NAMES: Final = 4
_COMMON_FLAGS: Final = "--cluster-signing-cert-file and --cluster-signing-key-file"


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """A code, a sentence, and what to do, best first."""

    code: str
    text: str
    fixes: Sequence[str] = ()


def diagnose(findings: Findings) -> Answer:
    """The answer for a request."""
    csr = findings.csr
    if findings.has_other_key:
        return _other_key(findings)
    if csr.status.certificate:
        return _issued(findings)
    if csrs.has_condition(csr, csrs.DENIED):
        reason = _reason(csr, csrs.DENIED)
        return Answer("Denied", f"it was denied{reason}", ("ask who denied it", *_anew(findings)))
    if csrs.has_condition(csr, csrs.FAILED):
        return _failed(findings)
    if findings.pkcs10 is None:
        problem = next(check.message for check in findings.checks if check.result is Result.PROBLEM)
        return Answer("UnreadableRequest", problem, _anew(findings))
    return _approved(findings) if csrs.is_approved(csr) else _pending(findings)


# --- states with an end -------------------------------------------------------------------------------------------


def _other_key(findings: Findings) -> Answer:
    quoted, flags = shlex.quote(findings.csr.metadata.name), findings.facts.flags
    state = "; the certificate is for the former key" if findings.csr.status.certificate else ""
    return Answer(
        "OtherKey",
        f"unchanged request; the new key is not the one asked for{state}",
        (f"kubectl {flags}delete csr {quoted}, then apply the manifest again, or apply it under another name",),
    )


def _issued(findings: Findings) -> Answer:
    csr = findings.csr
    fetch = f"certplane csr fetch {findings.facts.flags}{shlex.quote(csr.metadata.name)}"
    not_after = certificates.first_not_after(csr.status.certificate)
    problems = (check.message for check in findings.checks if check.result is Result.PROBLEM)
    problem = next(problems, "")
    if problem and not_after is not None and not_after <= findings.facts.now:
        return Answer("Ended", f"the certificate ended at {timestamps.rfc3339(not_after)}", _anew(findings))
    if problem:
        return Answer("UnusableCertificate", f"the certificate cannot be used: {problem}", _anew(findings))
    ends = timestamps.rfc3339(not_after) if not_after is not None else "an unknown time"
    note = next((check for check in findings.checks if check.name in ("purpose", "chain")), None)
    if note is not None and note.name == "purpose":
        text = f"the certificate is issued, valid until {ends}; but no server can use it"
        return Answer("NotForServers", text, (_server_signer(findings), *_anew(findings)))
    if note is not None:
        text = f"the certificate is issued, valid until {ends}; {note.message}"
        return Answer("IssuedByIntermediate", text, (fetch,))
    return Answer("Issued", f"the certificate is issued, valid until {ends}", (fetch,))


def _failed(findings: Findings) -> Answer:
    csr = findings.csr
    remedy = findings.outlook.status.remedy if findings.outlook.status is not None else ""
    text = f"the signer {csr.spec.signer_name} refuses it{_reason(csr, csrs.FAILED)}"
    if not remedy and findings.is_for_server:
        remedy = _server_signer(findings)
    return Answer("Failed", text, (*([remedy] if remedy else []), *_anew(findings)))


def _anew(findings: Findings) -> Sequence[str]:
    """A request cannot be changed, so what is wrong with it needs a new one."""
    quoted = shlex.quote(findings.csr.metadata.name)
    return (f"create a new request: under another name, or after kubectl {findings.facts.flags}delete csr {quoted}",)


def _server_signer(findings: Findings) -> str:
    """Which signer a server needs."""
    status = findings.outlook.status
    if status is not None and status.remedy:
        return status.remedy
    name = findings.csr.spec.signer_name
    suitable = [other for other in (status.suitable_signers if status is not None else ()) if other != name]
    if suitable:
        return f"use a signer for servers: {', '.join(suitable[:_MAX_NAMES])}"
    return (
        "use a signer for servers: Kubernetes has none besides that of kubelets; define one with certplane serve "
        "--signers, see docs/signers.md"
    )


# --- approved, without a certificate ------------------------------------------------------------------------------


def _approved(findings: Findings) -> Answer:
    csr, status = findings.csr, findings.outlook.status
    forbidden = _forbidden(findings)
    if forbidden is not None:
        return forbidden
    is_server = not isinstance(findings.facts.preview, Unread)
    if status is not None and status.result == signingpreviews.UNKNOWN_SIGNER:
        return _unknown_signer(findings, f'approved, but no signer is called "{csr.spec.signer_name}"', status.remedy)
    problem = _signer_problem(findings)
    if problem:
        code, fixes = _signer_fix(csr.spec.signer_name, problem)
        return Answer(code, f"approved, but the signer cannot sign: {problem}", (*fixes, *_retry(findings)))
    if status is not None and status.result == signingpreviews.FAIL:
        text = f"approved, but the signer {csr.spec.signer_name} will refuse it: {status.messages[0]}"
        return Answer("WouldFail", text, (*([status.remedy] if status.remedy else []), *_anew(findings)))
    age = _age(findings, csrs.APPROVED)
    if age is not None and age < _PATIENCE:
        return Answer("WaitingForSigner", "approved a moment ago; the signer will issue it", _retry(findings))
    return _unsigned_here(findings, age) if is_server else _unsigned_elsewhere(findings, age)


def _unsigned_here(findings: Findings, age: float | None) -> Answer:
    """The server has the signer, and the signer could sign."""
    controller = "check that --controllers of certplane serve enables certificatesigningrequest-signing-controller"
    return Answer(
        "SigningControllerNotRunning",
        f"approved{_since(age)}; the signer could sign, but its controller has not",
        (f"{controller}, and look at its log", *_retry(findings)),
    )


def _unsigned_elsewhere(findings: Findings, age: float | None) -> Answer:
    """A server that does not say which signers it has."""
    name, siblings = findings.csr.spec.signer_name, findings.facts.siblings
    issued = [] if isinstance(siblings, Unread) else [other for other in siblings if other.status.certificate]
    if issued:
        latest = max((other.metadata.creation_timestamp or "" for other in issued), default="")
        text = f"approved{_since(age)}; the signer {name} has issued other requests, the last created at {latest}"
        return Answer("WaitingForSigner", text, ("look at the log of the controller that signs", *_retry(findings)))
    if name in signernames.BUILT_IN:
        flags = " and ".join(signingflags.file_flags(name))
        start = f"start kube-controller-manager with {_COMMON_FLAGS}, or {flags}: both of them"
        return Answer(
            "SigningControllerNotRunning",
            f"approved{_since(age)}, but nothing was ever signed for {name}",
            (
                f"{start}; without them it signs nothing, and says so only in its log",
                "check that its --controllers do not leave out csrsigning",
            ),
        )
    controllers = [holder for holder in findings.signers if not approval.is_administrator(holder)]
    if controllers:
        text = f"approved{_since(age)}, but the signer {name} has issued nothing yet"
        who = ", ".join(f"{holder.kind} {holder.name}" for holder in controllers[:_MAX_NAMES])
        return Answer("WaitingForSigner", text, (f"look at the log of the controller that may sign for it: {who}",))
    text = f"approved, but probably nobody signs for {name}: it has issued nothing"
    if not isinstance(findings.facts.roles, Unread):
        text += ", and no role names it with the verb sign"
    return _unknown_signer(findings, text, "")


def _unknown_signer(findings: Findings, text: str, remedy: str) -> Answer:
    fixes = [remedy] if remedy else []
    if not remedy.startswith(csrwarnings.DID_YOU_MEAN):
        rule = permissions.signer_rule("sign", _signer(findings))
        fixes.append(f"a controller that signs for it needs this rule in a ClusterRole: {rule}")
    return Answer("UnknownSigner", text, (*fixes, *_anew(findings)))


def _signer(findings: Findings) -> str:
    return findings.csr.spec.signer_name


def _forbidden(findings: Findings) -> Answer | None:
    """A controller that lacks a permission says so in an Event, in the words of the server."""
    for report in reversed(findings.reports):
        rule, namespace = permissions.rule_for(report.message)
        if rule:
            where = f"a Role in {namespace}" if namespace else "a ClusterRole"
            verb = "approve" if "approv" in report.message else "sign"
            return Answer(
                "Forbidden",
                f"the controller is not permitted to {verb}: {report.message}",
                (f"add this rule to {where} of its account: {rule}", *_retry(findings)),
            )
    return None


#: Reasons of Events of our signing controller that say that the signer cannot sign.
_SIGNER_REASONS: Final = ("SignerNotConfigured", "SigningFailed", "SignerStopped", "JournalFailed")
_EVENT_PREFIX: Final = re.compile(r"^(?:the signer cannot sign: |error auto signing csr: )")
_EVENT_SUFFIX: Final = re.compile(r"; retry in [0-9.e+]+s$")


def _signer_problem(findings: Findings) -> str:
    """Why the signer cannot sign, from the best source that there is."""
    status, checks = findings.outlook.status, findings.facts.checks
    if status is not None and status.result == signingpreviews.CANNOT_SIGN:
        return "; ".join(status.messages)
    if not isinstance(findings.facts.preview, Unread):
        # The server was asked, and could sign now: an Event is older than that.
        return ""
    name = _signer(findings)
    if not isinstance(checks, Unread):
        problem = checks.get(f"signer-{name.rpartition('/')[2]}") if name in signernames.BUILT_IN else None
        if problem:
            return problem
        custom = re.search(rf"(?:^|; ){re.escape(name)}: (.*)", checks.get("custom-signers", ""))
        if custom is not None:
            return custom[1]
    for report in reversed(findings.reports):
        if report.reason in _SIGNER_REASONS:
            return _EVENT_SUFFIX.sub("", _EVENT_PREFIX.sub("", report.message))
    return ""


def _signer_fix(name: str, problem: str) -> tuple[str, Sequence[str]]:
    """The code of a signer's problem, and what its operator has to do."""
    flags = signingflags.file_flags(name)
    own = f"{flags[0]} and {flags[1]}" if flags else "authority.certFile and authority.keyFile in the file of --signers"
    again = "the request is signed then without a new approval"
    if "no CA certificate and key configured" in problem:
        return "SignerNotConfigured", (f"start the server with {_COMMON_FLAGS}, or with {own}: both of them",)
    if "private key does not match public key" in problem:
        return "CAKeyMismatch", (
            f"put the key that belongs to the CA certificate into the file of {own}; {again}",
            "compare: openssl x509 -in CERT -noout -pubkey; openssl pkey -in KEY -pubout",
        )
    if "the signer has expired" in problem:
        return "CAEnded", (f"replace both files of {own} with a CA that is valid, see docs/operations.md; {again}",)
    if "not valid yet" in problem:
        return "CANotYetValid", (f"wait until the CA is valid, or correct the clock of the server; {again}",)
    if "expected 1 certificate, found" in problem:
        only = f"leave only the certificate of the CA itself in the certificate file of {own}"
        return "CABundle", (f"{only}: an intermediate without its root; {again}",)
    if "other users can read the CA key" in problem:
        return "CAKeyExposed", (f"chmod 600 the key file of {own}; {again}",)
    if "no such file" in problem or "missing content" in problem or "missing filename" in problem:
        return "CAFileMissing", (f"put the CA certificate and its key into the files of {own}: both of them; {again}",)
    if "stopped until restart" in problem:
        return "SignerStopped", ("read the server's log, and restart it when the cause is known: docs/issuing.md",)
    return "SignerUnusable", (f"the operator of the signer checks the files of {own}; {again}",)


def _retry(findings: Findings) -> Sequence[str]:
    """When a controller tries again, if one says so."""
    retry = findings.next_retry
    if retry is None:
        return ()
    seconds = (retry - findings.facts.now).total_seconds()
    return (f"the controller tries again in about {formatting.human_duration(seconds + 1)}",)


# --- pending ------------------------------------------------------------------------------------------------------


def _pending(findings: Findings) -> Answer:
    status, name = findings.outlook.status, _signer(findings)
    result = status.result if status is not None else ""
    if status is not None and result == signingpreviews.UNKNOWN_SIGNER:
        text = f'not approved, and an approval would not help: no signer is called "{name}"'
        return _unknown_signer(findings, text, status.remedy)
    if status is not None and result == signingpreviews.FAIL:
        text = f"not approved, and an approval would not help: the signer {name} will refuse it: {status.messages[0]}"
        code = "WrongSignerForServer" if findings.is_for_server and name != signernames.KUBELET_SERVING else "WouldFail"
        remedy = status.remedy or (_server_signer(findings) if code == "WrongSignerForServer" else "")
        return Answer(code, text, (*([remedy] if remedy else []), *_anew(findings)))
    forbidden = _forbidden(findings)
    if forbidden is not None:
        return forbidden
    problem = _signer_problem(findings)
    if problem:
        code, fixes = _signer_fix(name, problem)
        return Answer(code, f"not approved, and the signer cannot sign: {problem}", (*fixes, *_approve(findings)))
    decision = next((report for report in reversed(findings.reports) if report.reason in _APPROVER_REASONS), None)
    why = f": {_EVENT_SUFFIX.sub('', decision.message)}" if decision is not None else ""
    return Answer("NotApproved", f"nobody has approved it{_since(_created(findings))}{why}", _approve(findings))


#: Reasons of Events of our approving controllers that say why they did not approve.
_APPROVER_REASONS: Final = ("RequestorNotAllowed", "SignerDoesNotPermit", "UnreadableRequest")


def _approve(findings: Findings) -> Sequence[str]:
    """How the request gets approved: by this user, or by whom."""
    name = shlex.quote(findings.csr.metadata.name)
    command = f"kubectl {findings.facts.flags}certificate approve {name}"
    asked = findings.approval
    if asked.own is not None and not asked.missing_rules:
        return (f"{command}, or deny it",)
    holders = [holder for holder in asked.holders if holder.is_complete]
    who = [f"{holder.kind} {holder.name}" for holder in holders]
    more = f" and {len(who) - _MAX_NAMES} more" if len(who) > _MAX_NAMES else ""
    someone = f"one of these runs {command}: {', '.join(who[:_MAX_NAMES])}{more}" if who else ""
    if not who and not asked.problem:
        someone = f"no role permits anybody to approve it; an administrator runs {command}"
    rules = [f"to approve it yourself, you need a ClusterRole with: {' '.join(asked.missing_rules)}"]
    return (someone or f"somebody who may approve for {_signer(findings)} runs {command}", *rules[: bool(asked.own)])


# --- times and reasons --------------------------------------------------------------------------------------------


def _condition(csr: CertificateSigningRequest, type_: str) -> CertificateSigningRequestCondition | None:
    return next((condition for condition in csr.status.conditions if condition.type == type_), None)


def _reason(csr: CertificateSigningRequest, type_: str) -> str:
    """Reason and message of a condition."""
    condition = _condition(csr, type_)
    parts = (condition.reason, condition.message) if condition is not None else ()
    text = ": ".join(filter(None, parts))
    return f" ({text})" if text else ""


def _seconds_since(text: str | None, now: datetime.datetime) -> float | None:
    try:
        return (now - timestamps.parse_rfc3339(text or "")).total_seconds()
    except (ValueError, OverflowError):
        return None


def _age(findings: Findings, type_: str) -> float | None:
    """Seconds since a condition was set."""
    condition = _condition(findings.csr, type_)
    if condition is None:
        return None
    return _seconds_since(condition.last_update_time or condition.last_transition_time, findings.facts.now)


def _created(findings: Findings) -> float | None:
    return _seconds_since(findings.csr.metadata.creation_timestamp, findings.facts.now)


def _since(age: float | None) -> str:
    return f" for {formatting.human_duration(age)}" if age is not None and age >= _NOTABLE else ""
