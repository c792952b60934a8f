"""Issues what was approved: the one controller that reaches the CA key.

`decide` says what is to be done with a request, and is pure; the reconciler prepares the certificate, has it signed in
a thread (RSA takes long, and OpenSSL lets go of the interpreter meanwhile), and writes it into the status. A request
that its signer does not permit gets a Failed condition and is never looked at again; whatever may pass (an expired CA,
a lost write) is tried again. A signer without an authority leaves its requests alone, and says why.

What is to be signed is recorded before the key is used (`records`). After a crash the same bytes are signed again: at
most one certificate comes out for a request, whatever happens.

Source: kubernetes, `pkg/controller/certificates/signer/signer.go`.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import copy
import dataclasses
import datetime
import enum
import logging
from collections.abc import Callable, Mapping
from typing import Final

from certplane import clock as clocks
from certplane import errors, gotext, telemetry
from certplane.client import api
from certplane.controllers import decisions, records, runtime
from certplane.resources import certificatesigningrequests as csrs
from certplane.x509 import cafiles, csr, issue, profiles, weak

_log = logging.getLogger("certplane.controllers")

NAME: Final = "certificatesigningrequest-signing-controller"
ALIAS: Final = "csrsigning"
QUEUE: Final = "certificate"
WORKERS: Final = 40
INVALID: Final = "SignerValidationFailure"
SIGNED: Final = "Signed"
#: Nobody told this signer what to sign with, or it cannot be used.
NOT_CONFIGURED: Final = "SignerNotConfigured"
#: The authority cannot sign this now: it is over, or the usages mean nothing.
NOT_SIGNED: Final = "SigningFailed"
#: What is to be signed cannot be recorded, so it is not signed.
NOT_RECORDED: Final = "JournalFailed"
UNREADABLE: Final = "UnreadableRequest"
#: Reasons of decisions; the condition says INVALID for these, too.
WEAK: Final = "WeakKey"
LINTED: Final = "LintFailed"


@dataclasses.dataclass(frozen=True, slots=True)
class Signer:
    """A signer as it is configured: with files that may change, or with an issuer, or with a problem, which says why
    there is none. `check` says why it may not sign with what is in the files, whatever is asked for; empty if it may.
    """

    profile: profiles.Profile
    issuer: issue.Issuer | None = None
    problem: str = ""
    files: cafiles.CAFiles | None = None
    check: Callable[[issue.Issuer], str] = lambda _: ""

    def current(self, now: datetime.datetime) -> cafiles.State:
        """What there is to sign with now, and what is wrong with it."""
        if self.files is None:
            return cafiles.State(self.issuer, self.problem)
        state = self.files.current(now)
        problem = self.check(state.issuer) if state.issuer is not None else ""
        return cafiles.State(None, problem) if problem else state


class Kind(enum.Enum):
    """What is to be done with a request."""

    NOTHING = "nothing"
    FAIL = "fail"
    ISSUE = "issue"


@dataclasses.dataclass(frozen=True, slots=True)
class Action:
    """What is to be done, and of a failure the message."""

    kind: Kind
    message: str = ""


_NOTHING: Final = Action(Kind.NOTHING)


def asked(of: csrs.CertificateSigningRequest) -> profiles.Asked:
    """What a request is judged by. Raises csr.RequestError."""
    spec = of.spec
    return profiles.Asked(csr.parse(spec.request or b""), spec.usages, spec.username, spec.expiration_seconds)


def decide(of: csrs.CertificateSigningRequest, profile: profiles.Profile) -> Action:
    """What a signer has to do with a request. Raises runtime.Retry if it cannot be parsed."""
    conditions = of.status.conditions
    types = {each.type for each in conditions}
    if of.status.certificate or csrs.APPROVED not in types or csrs.DENIED in types:
        return _NOTHING
    if any(each.type == csrs.FAILED and each.status in ("True", "") for each in conditions):
        return _NOTHING
    if of.spec.signer_name != profile.signer:
        return _NOTHING
    try:
        profiles.verify(profile, asked(of))
    except csr.RequestError as error:
        raise runtime.Retry(f'unable to parse csr "{of.metadata.name}": {error}', reason=UNREADABLE) from error
    except profiles.ProfileViolation as error:
        return Action(Kind.FAIL, str(error))
    return Action(Kind.ISSUE)


@dataclasses.dataclass(frozen=True, slots=True)
class Tools:
    """What signing works with; `records` write to the requests. RSA is done in `threads`."""

    clock: clocks.Clock
    records: records.Records
    threads: concurrent.futures.Executor
    note: decisions.Note


class Signing:
    """The reconciler around `decide`, for all signers of a plane."""

    def __init__(
        self,
        signers: Callable[[], Mapping[str, Signer]],
        tools: Tools,
        figures: telemetry.Telemetry,
    ) -> None:
        self._signers = signers
        self._tools = tools
        self._figures = figures
        self._problems: dict[str, str] = {}
        #: Requests whose certificate is written, though what is followed need not show it yet.
        self._written: set[str] = set()
        for signer in signers().values():
            self._look(signer)

    def _look(self, signer: Signer) -> cafiles.State:
        """What a signer has to sign with now; told, if it is another problem than before."""
        state, name = signer.current(self._tools.clock.now()), signer.profile.signer
        if self._problems.get(name) != state.problem:
            self._figures.signer(name, state.problem)
            if state.problem:
                what = "signer does not sign" if state.issuer is None else "signer goes on with the authority it had"
                _log.warning(what, extra={"signer": name, "problem": state.problem})
            elif name in self._problems:
                _log.info("signer signs again", extra={"signer": name})
        self._problems[name] = state.problem
        return state

    def observe(
        self, before: csrs.CertificateSigningRequest | None, after: csrs.CertificateSigningRequest | None
    ) -> None:
        """A request has changed."""
        of = after or before
        if of is not None and (after is None or after.status.certificate):
            self._written.discard(of.metadata.uid)

    async def handle(self, of: csrs.CertificateSigningRequest) -> None:
        signer = self._signers().get(of.spec.signer_name)
        if signer is None or of.metadata.uid in self._written:
            return
        action = decide(of, signer.profile)
        if action.kind is Kind.FAIL:
            await self._fail(of, action.message)
        elif action.kind is Kind.ISSUE:
            await self._sign(of, signer)

    async def _sign(self, of: csrs.CertificateSigningRequest, signer: Signer) -> None:
        state = self._look(signer)
        if state.issuer is None:
            why = f"the signer does not sign: {state.problem}"
            if signer.files is not None:
                raise runtime.Retry(why, reason=NOT_CONFIGURED)
            # Nothing can change that while this process runs.
            self._tools.note(of, decisions.NOT_ISSUED, NOT_CONFIGURED, why)
            return
        try:
            await self._issue(of, state.issuer, _seconds(of, signer.profile))
        except weak.WeakKey as error:
            await self._fail(of, str(error), WEAK)
        except issue.LintError as error:
            await self._fail(of, str(error), LINTED)
        except issue.IssueError as error:
            raise runtime.Retry(f"error auto signing csr: {error}", reason=NOT_SIGNED) from error

    async def _fail(self, of: csrs.CertificateSigningRequest, message: str, reason: str = INVALID) -> None:
        # What is wrong with a thousand names is told of a few.
        message = gotext.shortened(message, errors.LONGEST_VALUE)
        failed = csrs.with_condition(of, csrs.FAILED, INVALID, message, clocks.rfc3339(self._tools.clock.now()))
        try:
            await self._tools.records.publish(failed)
        except (errors.APIError, api.Unreachable) as error:
            raise runtime.Retry(f"error adding failure condition for csr: {error}") from error
        self._tools.note(of, decisions.FAILED, reason, message)

    async def _issue(self, of: csrs.CertificateSigningRequest, issuer: issue.Issuer, seconds: int | None) -> None:
        of, prepared = await self._prepared(of, issuer, seconds)
        certificate = await asyncio.get_running_loop().run_in_executor(self._tools.threads, issuer.issue, prepared)
        new = copy.copy(of)
        new.status = copy.copy(of.status)
        new.status.certificate = certificate
        try:
            await self._tools.records.publish(new)
        except (errors.APIError, api.Unreachable) as error:
            raise runtime.Retry(f"error updating signature for csr: {error}") from error
        self._written.add(of.metadata.uid)
        serial, end = f"{prepared.template.serial:x}", clocks.rfc3339(prepared.template.not_after)
        self._tools.note(of, decisions.ISSUED, SIGNED, f"certificate {serial} is good until {end}")

    async def _prepared(
        self, of: csrs.CertificateSigningRequest, issuer: issue.Issuer, seconds: int | None
    ) -> tuple[csrs.CertificateSigningRequest, issue.Prepared]:
        """What to sign, recorded, and the request to go on with: what was recorded before, as long as it can be
        signed.
        """
        usages, now = of.spec.usages, self._tools.clock.now()
        request = csr.parse(of.spec.request or b"")
        prepared = issuer.prepare(request, usages, seconds, now)
        try:
            kept = await self._tools.records.keep(of, prepared.to_be_signed)
            if kept.to_be_signed == prepared.to_be_signed:
                return kept.request, prepared
            try:
                return kept.request, issuer.resume(kept.to_be_signed, request, usages, seconds, now)
            except issue.IssueError as error:
                _log.info("prepared anew", extra={"csr": of.metadata.name, "why": str(error)})
            return (await self._tools.records.replace(of, prepared.to_be_signed)).request, prepared
        except errors.Conflict:
            # Another copy, or somebody who approves: the newer object is on its way here already.
            raise
        except errors.CertplaneError as error:
            raise runtime.Retry(f"what is to be signed cannot be recorded: {error}", reason=NOT_RECORDED) from error


def _seconds(of: csrs.CertificateSigningRequest, profile: profiles.Profile) -> int | None:
    """The lifetime that a request asks for, or that its signer gives to those that ask for none."""
    if of.spec.expiration_seconds is None and profile.default is not None:
        return int(profile.default.total_seconds())
    return of.spec.expiration_seconds
