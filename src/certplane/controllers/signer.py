"""Issues what was approved: the one controller that reaches the CA key.

`decide` says what is to be done with a request, and is pure; the reconciler prepares the certificate, has it signed in
a thread (RSA takes long, and OpenSSL lets go of the interpreter meanwhile), and writes it into the status. A request
that its signer does not permit gets a Failed condition and is never looked at again; whatever may pass (an expired CA,
a lost write) is tried again. A signer without an authority leaves its requests alone, and says why.

Source: kubernetes, `pkg/controller/certificates/signer/signer.go`.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import copy
import dataclasses
import enum
import logging
from collections.abc import Mapping
from typing import Final

from certplane import clock as clocks
from certplane import errors, telemetry
from certplane.client import api
from certplane.controllers import runtime
from certplane.resources import certificatesigningrequests as csrs
from certplane.x509 import csr, issue, profiles

_log = logging.getLogger("certplane.controllers")

NAME: Final = "certificatesigningrequest-signing-controller"
ALIAS: Final = "csrsigning"
QUEUE: Final = "certificate"
WORKERS: Final = 20
INVALID: Final = "SignerValidationFailure"


@dataclasses.dataclass(frozen=True, slots=True)
class Signer:
    """A signer as it is configured. `problem` says why it has no issuer; empty if it has one."""

    profile: profiles.Profile
    issuer: issue.Issuer | None = None
    problem: str = ""


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
        profiles.verify(profile, csr.parse(of.spec.request or b""), of.spec.usages)
    except csr.RequestError as error:
        raise runtime.Retry(f'unable to parse csr "{of.metadata.name}": {error}') from error
    except profiles.ProfileViolation as error:
        return Action(Kind.FAIL, str(error))
    return Action(Kind.ISSUE)


class Signing:
    """The reconciler around `decide`, for all signers of a plane."""

    def __init__(
        self,
        client: api.Client,
        signers: Mapping[str, Signer],
        clock: clocks.Clock,
        figures: telemetry.Telemetry,
        threads: concurrent.futures.Executor,
    ) -> None:
        self._client = client
        self._signers = signers
        self._clock = clock
        self._telemetry = figures
        self._threads = threads
        for name, signer in signers.items():
            figures.signer(name, signer.problem)
            if signer.problem:
                _log.warning("signer does not sign", extra={"signer": name, "problem": signer.problem})

    async def handle(self, of: csrs.CertificateSigningRequest) -> None:
        signer = self._signers.get(of.spec.signer_name)
        if signer is None:
            return
        action = decide(of, signer.profile)
        if action.kind is Kind.FAIL:
            await self._fail(of, action.message)
        elif action.kind is Kind.ISSUE:
            if signer.issuer is None:
                _log.warning(
                    "approved, but not signed",
                    extra={"csr": of.metadata.name, "signer": of.spec.signer_name, "problem": signer.problem},
                )
                return
            await self._issue(of, signer.issuer)

    async def _fail(self, of: csrs.CertificateSigningRequest, message: str) -> None:
        failed = csrs.with_condition(of, csrs.FAILED, INVALID, message, clocks.rfc3339(self._clock.now()))
        try:
            await self._client.update(csrs.RESOURCE, failed, "status")
        except (errors.APIError, api.Unreachable) as error:
            raise runtime.Retry(f"error adding failure condition for csr: {error}") from error
        self._telemetry.decision(of.spec.signer_name, csrs.FAILED, INVALID)

    async def _issue(self, of: csrs.CertificateSigningRequest, issuer: issue.Issuer) -> None:
        spec = of.spec
        try:
            prepared = issuer.prepare(
                csr.parse(spec.request or b""), spec.usages, spec.expiration_seconds, self._clock.now()
            )
            certificate = await asyncio.get_running_loop().run_in_executor(self._threads, issuer.issue, prepared)
        except issue.IssueError as error:
            raise runtime.Retry(f"error auto signing csr: {error}") from error
        new = copy.copy(of)
        new.status = copy.copy(of.status)
        new.status.certificate = certificate
        try:
            await self._client.update(csrs.RESOURCE, new, "status")
        except (errors.APIError, api.Unreachable) as error:
            raise runtime.Retry(f"error updating signature for csr: {error}") from error
        self._telemetry.decision(spec.signer_name, "Issued", "Signed")
        _log.info(
            "certificate issued",
            extra={
                "csr": of.metadata.name,
                "uid": of.metadata.uid,
                "signer": spec.signer_name,
                "requestor": spec.username,
                "serial": f"{prepared.template.serial:x}",
                "not_after": clocks.rfc3339(prepared.template.not_after),
            },
        )
