"""The signing controller: issues certificates for approved requests. No other controller makes CA signatures.

`decide` says what is to be done with a request, and is pure. The reconciler prepares the certificate, has it signed in
a thread (RSA is slow, and OpenSSL releases the interpreter's lock), and writes it into the status. A request that its
signer does not permit gets a Failed condition and is not processed again; temporary failures (an expired CA, a lost
write) are retried. A signer without a usable CA leaves its requests pending; the reason is in the log, a metric and
/readyz?verbose.

What is to be signed is recorded before the key is used (`records`). After a crash the recorded bytes are signed, with
the same serial number, as long as the record can be used. A request gets at most one published certificate.

A certificate that fails the check after signing means that the key, the hardware or certplane is broken; nothing that a
client asks for has this effect (`issue`). That signer stops until the process is restarted. The thread that finds the
fault stops it; from then on no thread begins to sign for it, and nothing is published that was not being written
already. What other threads were signing at that moment is discarded.

Source: kubernetes, `pkg/controller/certificates/signer/signer.go`.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import copy
import dataclasses
import datetime
import enum
import logging
import threading
from collections.abc import Callable, Mapping
from typing import Final

from certplane import errors, telemetry, timestamps
from certplane.client import api
from certplane.clock import Clock
from certplane.controllers.runtime import decisions
from certplane.controllers.runtime.controller import Retry
from certplane.controllers.signing import records
from certplane.golang import formatting
from certplane.reload import Wakeup
from certplane.resources import certificatesigningrequests as csrs
from certplane.resources.certificatesigningrequests import CertificateSigningRequest
from certplane.x509.issuance import cafiles, issue, profiles
from certplane.x509.issuance.issue import Issuer
from certplane.x509.issuance.profiles import Profile
from certplane.x509.pkcs10 import certificaterequest
from certplane.x509.pkcs10.certificaterequest import RequestError
from certplane.x509.pkcs10.weakkeys import WeakKey

_log = logging.getLogger("certplane.controllers")

NAME: Final = "certificatesigningrequest-signing-controller"
QUEUE: Final = "certificate"
#: How often the CAs are looked at without a request; new files are to be in use within ten seconds.
_CHECK_SECONDS: Final = 8.0
#: Requests that are worked on at once. Most wait for a durable write, and one commit completes many of them.
WORKERS: Final = 40
INVALID: Final = "SignerValidationFailure"
SIGNED: Final = "Signed"
#: No CA is configured for the signer, or it cannot be used.
NOT_CONFIGURED: Final = "SignerNotConfigured"
#: The CA cannot sign this now: it has expired, or a usage is unknown.
NOT_SIGNED: Final = "SigningFailed"
#: The signer has stopped, as one of its certificates failed the check after signing.
STOPPED: Final = "SignerStopped"
#: The bytes to be signed could not be recorded, so they were not signed.
NOT_RECORDED: Final = "JournalFailed"
#: No signer has the name, so an approval had no effect.
UNKNOWN_SIGNER: Final = "UnknownSigner"
#: How long another controller has for a request of a signer that is unknown here, before the Event is written.
_OTHERS_SECONDS: Final = 30.0
#: Reasons of decisions; the condition says INVALID for these, too.
WEAK: Final = "WeakKey"
LINTED: Final = "LintFailed"


class FaultLatch:
    """Why a signer has stopped until a restart; empty while it has not. Shared by all configurations that a signer has
    while the process runs, and cleared by nothing but a restart. Safe to use from several threads.
    """

    __slots__ = ("_lock", "_problem")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._problem = ""

    @property
    def problem(self) -> str:
        return self._problem

    def set(self, problem: str) -> None:
        """Stop the signer. The first problem is kept."""
        with self._lock:
            self._problem = self._problem or problem


@dataclasses.dataclass(frozen=True, slots=True)
class Signer:
    """A configured signer: with CA files that may change, or with an issuer, or with a problem that says why there is
    none. `check` returns why the signer may not use the CA that is in the files now, else an empty string.
    """

    profile: Profile
    issuer: Issuer | None = None
    problem: str = ""
    files: cafiles.CAFiles | None = None
    check: Callable[[Issuer], str] = lambda _: ""
    fault: FaultLatch = dataclasses.field(default_factory=FaultLatch)

    def current(self, now: datetime.datetime) -> cafiles.IssuerState:
        """The issuer to use now, if there is one, and the problem, if there is one."""
        if self.fault.problem:
            return cafiles.IssuerState(None, self.fault.problem)
        if self.files is None:
            return cafiles.IssuerState(self.issuer, self.problem)
        state = self.files.current(now)
        problem = self.check(state.issuer) if state.issuer is not None else ""
        return cafiles.IssuerState(None, problem) if problem else state

    @property
    def ca_certificate(self) -> bytes | None:
        """The certificate of its CA, in DER, also if it has expired; None if it has no CA."""
        if self.files is not None:
            return self.files.certificate
        return self.issuer.authority.raw if self.issuer is not None else None

    def lifetime_cut(self, now: datetime.datetime) -> datetime.timedelta:
        """By how much the end of its CA shortens the longest certificates that it would issue now; zero if it does
        not.
        """
        issuer, longest = self.current(now).issuer, self.profile.max_lifetime
        if issuer is None or longest is None:
            return datetime.timedelta()
        return max(now + issue.remaining_lifetime(longest) - issuer.authority.not_after, datetime.timedelta())


class ActionKind(enum.Enum):
    """What is to be done with a request."""

    NOTHING = "nothing"
    FAIL = "fail"
    ISSUE = "issue"


@dataclasses.dataclass(frozen=True, slots=True)
class Action:
    """What is to be done with a request, and the message of a failure."""

    kind: ActionKind
    message: str = ""


_NOTHING: Final = Action(ActionKind.NOTHING)


def decide(csr: CertificateSigningRequest, profile: Profile) -> Action:
    """What a signer has to do with a request. Raises Retry if the request cannot be parsed."""
    conditions = csr.status.conditions
    types = {condition.type for condition in conditions}
    if csr.status.certificate or csrs.APPROVED not in types or csrs.DENIED in types:
        return _NOTHING
    if any(condition.type == csrs.FAILED and condition.status in ("True", "") for condition in conditions):
        return _NOTHING
    if csr.spec.signer_name != profile.signer:
        return _NOTHING
    try:
        profiles.verify(profile, csrs.requested_certificate(csr))
    except RequestError as error:
        raise Retry(
            f'unable to parse csr "{csr.metadata.name}": {error}', reason=decisions.UNREADABLE_REQUEST
        ) from error
    except profiles.ProfileViolation as error:
        return Action(ActionKind.FAIL, str(error))
    return Action(ActionKind.ISSUE)


@dataclasses.dataclass(frozen=True, slots=True)
class SigningContext:
    """What the signing controller works with. Signatures are made in `threads`. `revisit` has the request of a name
    handled again after some seconds; it is set if this is the control plane, whose users may expect that every signer
    is one of its own. In another cluster most unknown signers are those of other controllers.
    """

    clock: Clock
    records: records.Records
    threads: concurrent.futures.Executor
    record_decision: decisions.RecordDecision
    revisit: Callable[[str, float], None] | None = None


class SigningController:
    """The reconciler around `decide`, for all signers."""

    def __init__(
        self,
        signers: Callable[[], Mapping[str, Signer]],
        context: SigningContext,
        metrics: telemetry.Telemetry,
    ) -> None:
        self._signers = signers
        self._context = context
        self._metrics = metrics
        self._problems: dict[str, str] = {}
        #: The certificate of each signer's CA, in DER, and the signers whose CA ends within their longest lifetime.
        self._ca_certificates: dict[str, bytes] = {}
        self._shortening: set[str] = set()
        #: UIDs of requests whose certificate is written, though the informer may not show it yet.
        self._written: set[str] = set()
        self.check_signers()
        metrics.observe_lifetime_cuts(self._lifetime_cuts)

    async def run(self, wakeup: Wakeup) -> None:
        """Check the signers until cancelled: whether one can sign should be known before a request needs it."""
        while True:
            is_requested = await wakeup.sleep(self._context.clock, _CHECK_SECONDS)
            for signer in self._signers().values():
                if is_requested and signer.files is not None:
                    signer.files.recheck()
            self.check_signers()

    def check_signers(self) -> None:
        """Look at the CAs of all signers, and report what has changed."""
        now = self._context.clock.now()
        for name, signer in self._signers().items():
            state = self._current_state(signer)
            if state.issuer is not None:
                self._report_ca(name, state.issuer, signer.lifetime_cut(now))

    def _report_ca(self, name: str, issuer: Issuer, cut: datetime.timedelta) -> None:
        extra = {"signer": name, "ca_not_after": timestamps.rfc3339(issuer.authority.not_after)}
        certificate = issuer.authority.raw
        if self._ca_certificates.setdefault(name, certificate) != certificate:
            self._ca_certificates[name] = certificate
            self._metrics.count_reload("signer CA", True)
            _log.info("signer uses another CA: its files have changed", extra=extra)
        if not cut:
            self._shortening.discard(name)
        elif name not in self._shortening:
            self._shortening.add(name)
            _log.warning("the CA ends within the longest lifetime of its signer: it shortens certificates", extra=extra)

    def _lifetime_cuts(self) -> Mapping[str, float]:
        now = self._context.clock.now()
        return {name: signer.lifetime_cut(now).total_seconds() for name, signer in self._signers().items()}

    def _current_state(self, signer: Signer) -> cafiles.IssuerState:
        """The issuer and the problem that a signer has now. A change of the problem is logged, and set as metric."""
        state, name = signer.current(self._context.clock.now()), signer.profile.signer
        if self._problems.get(name) != state.problem:
            self._metrics.set_signer(name, state.problem)
            extra = {"signer": name, "error": state.problem}
            if signer.fault.problem:
                _log.error("signer stopped until restart: a certificate failed the check after signing", extra=extra)
            elif state.problem and state.issuer is None:
                _log.warning("signer cannot sign", extra=extra)
            elif state.problem:
                _log.warning("signer keeps using its previous CA: the CA files have a problem", extra=extra)
            elif name in self._problems:
                _log.info("signer recovered", extra={"signer": name})
        self._problems[name] = state.problem
        return state

    def observe(self, before: CertificateSigningRequest | None, after: CertificateSigningRequest | None) -> None:
        """A request has changed."""
        csr = after or before
        if csr is not None and (after is None or after.status.certificate):
            self._written.discard(csr.metadata.uid)

    async def handle(self, csr: CertificateSigningRequest) -> None:
        signer = self._signers().get(csr.spec.signer_name)
        if signer is None:
            self._report_unknown_signer(csr)
            return
        if csr.metadata.uid in self._written:
            return
        action = decide(csr, signer.profile)
        if action.kind is ActionKind.FAIL:
            await self._fail(csr, action.message)
        elif action.kind is ActionKind.ISSUE:
            await self._sign(csr, signer)

    def _report_unknown_signer(self, csr: CertificateSigningRequest) -> None:
        """Record that a request was approved for a signer that is none, as an approval is final."""
        revisit = self._context.revisit
        if revisit is None or not _waits_for_signer(csr):
            return
        remaining = _OTHERS_SECONDS - _seconds_since_approval(csr, self._context.clock.now())
        if remaining > 0:
            revisit(csr.metadata.name, remaining)
            return
        name = formatting.shorten(csr.spec.signer_name, errors.MAX_VALUE_LENGTH)
        consequence = "nothing is issued unless another controller signs for it"
        message = f'no signer of this server is called "{name}": {consequence}'
        self._context.record_decision(csr, decisions.NOT_ISSUED, UNKNOWN_SIGNER, message)

    async def _sign(self, csr: CertificateSigningRequest, signer: Signer) -> None:
        state = self._current_state(signer)
        if state.issuer is None:
            self._record_not_issued(csr, signer, state.problem)
            return
        try:
            await self._issue(csr, signer, state.issuer)
        except WeakKey as error:
            await self._fail(csr, str(error), WEAK)
        except issue.LintError as error:
            await self._fail(csr, str(error), LINTED)
        except issue.IssueError as error:
            raise Retry(f"error auto signing csr: {error}", reason=NOT_SIGNED) from error

    def _record_not_issued(self, csr: CertificateSigningRequest, signer: Signer, problem: str) -> None:
        """Record that a request gets no certificate now. Raises Retry if the signer may recover while this process
        runs.
        """
        message = f"the signer cannot sign: {problem}"
        if signer.fault.problem:
            self._context.record_decision(csr, decisions.NOT_ISSUED, STOPPED, message)
        elif signer.files is not None:
            raise Retry(message, reason=NOT_CONFIGURED)
        else:
            self._context.record_decision(csr, decisions.NOT_ISSUED, NOT_CONFIGURED, message)

    async def _fail(self, csr: CertificateSigningRequest, message: str, reason: str = INVALID) -> None:
        # A request may have thousands of names, and the message names each that is not permitted.
        message = formatting.shorten(message, errors.MAX_VALUE_LENGTH)
        now = timestamps.rfc3339(self._context.clock.now())
        try:
            await self._context.records.publish(csrs.with_condition(csr, csrs.FAILED, INVALID, message, now))
        except (errors.APIError, api.Unreachable) as error:
            raise Retry(f"error adding failure condition for csr: {error}") from error
        self._context.record_decision(csr, decisions.FAILED, reason, message)

    async def _issue(self, csr: CertificateSigningRequest, signer: Signer, issuer: Issuer) -> None:
        csr, prepared = await self._prepare(csr, issuer, signer.profile.lifetime_seconds(csr.spec.expiration_seconds))
        loop = asyncio.get_running_loop()
        certificate = await loop.run_in_executor(
            self._context.threads, _sign_unless_stopped, signer.fault, issuer, prepared
        )
        # Another thread may have found a fault since: then this certificate is not trusted either.
        if certificate is None or signer.fault.problem:
            self._record_not_issued(csr, signer, self._current_state(signer).problem)
            return
        issued = copy.copy(csr)
        issued.status = copy.copy(csr.status)
        issued.status.certificate = certificate
        try:
            await self._context.records.publish(issued)
        except (errors.APIError, api.Unreachable) as error:
            raise Retry(f"error updating signature for csr: {error}") from error
        self._written.add(csr.metadata.uid)
        self._context.record_decision(csr, decisions.ISSUED, SIGNED, _issued_message(prepared))

    async def _prepare(
        self, csr: CertificateSigningRequest, issuer: Issuer, expiration_seconds: int | None
    ) -> tuple[CertificateSigningRequest, issue.Prepared]:
        """What to sign, recorded, and the request as it is after recording. An earlier record is used as long as it can
        be signed.
        """
        usages, now = csr.spec.usages, self._context.clock.now()
        try:
            verified = certificaterequest.verified(csr.spec.request or b"")
        except RequestError as error:
            raise issue.IssueError(f"unable to verify certificate request signature: {error}") from error
        prepared = issuer.prepare(verified, usages, expiration_seconds, now)
        # Unlike its name, the UID of a request is never used again.
        uid = csr.metadata.uid
        content = issuer.record(prepared, uid)
        try:
            record = await self._context.records.record(csr, content)
            if record.content == content:
                return record.csr, prepared
            try:
                return record.csr, issuer.resume(record.content, uid, verified, usages, expiration_seconds, now)
            except issue.IssueError as error:
                extra = {"csr": csr.metadata.name, "error": str(error)}
                _log.info("replacing a signing record that cannot be used any more", extra=extra)
            return (await self._context.records.replace(csr, content)).csr, prepared
        except errors.Conflict:
            # Another replica or an approver has written; the informer will deliver the new object.
            raise
        except errors.CertplaneError as error:
            raise Retry(f"failed to record what is to be signed: {error}", reason=NOT_RECORDED) from error


def _waits_for_signer(csr: CertificateSigningRequest) -> bool:
    return csrs.is_approved(csr) and not csr.status.certificate and not csrs.has_condition(csr, csrs.FAILED)


def _seconds_since_approval(csr: CertificateSigningRequest, now: datetime.datetime) -> float:
    """Zero if the time is not known."""
    for condition in csr.status.conditions:
        if condition.type == csrs.APPROVED and condition.last_transition_time:
            with contextlib.suppress(ValueError):
                return (now - timestamps.parse_rfc3339(condition.last_transition_time)).total_seconds()
    return 0.0


def _sign_unless_stopped(fault: FaultLatch, issuer: Issuer, prepared: issue.Prepared) -> bytes | None:
    """The certificate, or None if the signer has stopped. Stops it if the certificate fails its check.

    Runs in a thread. The latch is read and set here, because further jobs wait for the same threads. Raises IssueError.
    """
    if fault.problem:
        return None
    try:
        return issuer.issue(prepared)
    except issue.CheckFailed as error:
        fault.set(f"stopped until restart: {error}")
        return None


def _issued_message(prepared: issue.Prepared) -> str:
    """Serial number and end of validity of a certificate, and the linter's warnings about it."""
    serial, not_after = f"{prepared.template.serial:x}", timestamps.rfc3339(prepared.template.not_after)
    message = f"certificate {serial} is valid until {not_after}"
    if not prepared.findings:
        return message
    warnings = "; ".join(map(str, prepared.findings))
    return formatting.shorten(f"{message}; lint warnings: {warnings}", errors.MAX_VALUE_LENGTH)
