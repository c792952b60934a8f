"""Waits for the certificate of a CertificateSigningRequest.

The request is read again and again, with pauses that grow to a few seconds: that needs no permission but `get`. A
server that does not respond for a while does not end the wait.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from http import HTTPStatus
from typing import Final

from certplane import clock, errors
from certplane.cli import exitcodes, plaintext
from certplane.client import api
from certplane.client.api import Client
from certplane.clock import Clock
from certplane.golang import formatting
from certplane.resources import certificatesigningrequests as csrs
from certplane.resources.certificatesigningrequests import CertificateSigningRequest

_FIRST_PAUSE: Final = 0.25
_MAX_PAUSE: Final = 5.0
#: One response may take this long.
_RESPONSE_SECONDS: Final = 30.0


@dataclasses.dataclass(frozen=True, slots=True)
class Messages:
    """How a wait reports: `report` prints a line; `flags` are the connection's options in commands, with a space at
    the end unless empty.
    """

    report: Callable[[str], None]
    flags: str = ""


class CertificateWait:
    """Waits for one request. `uid` is known if this process created it: another request of the name does not count."""

    def __init__(self, client: Client, name: str, clock: Clock, messages: Messages, *, uid: str = "") -> None:
        self._client = client
        self._name = name
        self._clock = clock
        self._messages = messages
        self._uid = uid
        self._state = ""
        self._is_unreachable = False

    async def until_issued(self, seconds: float) -> CertificateSigningRequest:
        """The request with its certificate. Raises Failure if it is denied, has failed, is deleted, or has no
        certificate after `seconds`; NotFound if there was none; other errors.APIError that waiting does not help.
        """
        end = self._clock.monotonic() + seconds
        pause = _FIRST_PAUSE
        while True:
            left = end - self._clock.monotonic()
            csr = await self._read(min(max(left, 1.0), _RESPONSE_SECONDS))
            if csr is not None:
                check(csr)
                if csr.status.certificate:
                    return csr
                self._report_state(csr)
            left = end - self._clock.monotonic()
            if left <= 0:
                raise self._timeout(seconds)
            await self._clock.sleep(min(pause, left))
            pause = min(pause * 1.5, _MAX_PAUSE)

    async def _read(self, seconds: float) -> CertificateSigningRequest | None:
        """The request; None if the server does not respond now."""
        try:
            csr = await clock.wait_for(self._clock, self._client.get(csrs.RESOURCE, self._name), seconds)
        except (TimeoutError, api.Unreachable) as error:
            self._report_unreachable(str(error) or "the server does not respond")
            return None
        except errors.NotFound as error:
            if not self._uid:
                raise
            raise self._deleted() from error
        except errors.APIError as error:
            if error.code < HTTPStatus.INTERNAL_SERVER_ERROR and error.code != HTTPStatus.TOO_MANY_REQUESTS:
                raise
            self._report_unreachable(f"the server responds with code {error.code}: {error.message}")
            return None
        if self._is_unreachable:
            self._is_unreachable = False
            self._messages.report("the server responds again")
        if self._uid and csr.metadata.uid != self._uid:
            raise self._deleted()
        self._uid = csr.metadata.uid
        return csr

    def _report_unreachable(self, problem: str) -> None:
        if not self._is_unreachable:
            self._is_unreachable = True
            self._messages.report(f"still waiting: {plaintext.escape(problem)}")

    def _report_state(self, csr: CertificateSigningRequest) -> None:
        state = csrs.condition_text(csr)
        if state == self._state:
            return
        self._state = state
        signer = plaintext.escape(csr.spec.signer_name)
        if csrs.is_approved(csr):
            self._messages.report(f"{self._name} is approved{_reason(csr, csrs.APPROVED)}; waiting for signer {signer}")
        else:
            self._messages.report(
                f"{self._name} is waiting for approval, by somebody who may approve for signer {signer}: "
                f"kubectl {self._messages.flags}certificate approve {self._name}"
            )

    def _timeout(self, seconds: float) -> exitcodes.Failure:
        waited = formatting.human_duration(seconds)
        again = f"wait again with certplane csr wait {self._messages.flags}{self._name}"
        if self._state.startswith(csrs.APPROVED):
            message = f"{self._name} is approved, but has no certificate after {waited}"
            hints: tuple[str, ...] = (
                "check that a controller for its signer is running and has the permission sign",
                f"certplane explain csr {self._messages.flags}{self._name} says why",
                again,
            )
        elif self._state:
            message = f"{self._name} is not approved after {waited}"
            explain = f"certplane explain csr {self._messages.flags}{self._name} says who may approve it"
            hints = (f"ask for it: kubectl {self._messages.flags}certificate approve {self._name}", explain, again)
        else:
            message, hints = f"the server did not respond for {waited}", ("check that the server is running", again)
        return exitcodes.Failure(exitcodes.TIMED_OUT, message, hints)

    def _deleted(self) -> exitcodes.Failure:
        hints = ("requests are deleted some time after they were created or decided; create a new one",)
        message = f"{self._name} was deleted before it had a certificate"
        return exitcodes.Failure(exitcodes.REFUSED, message, hints)


def check(csr: CertificateSigningRequest) -> None:
    """Raises Failure for a request that will have no certificate: it is denied or has failed."""
    if csr.status.certificate:
        return
    name = csr.metadata.name
    new = f"create a request with another name, or delete this one: kubectl delete csr {name}"
    if csrs.has_condition(csr, csrs.DENIED):
        raise _refused(f"{name} was denied{_reason(csr, csrs.DENIED)}", ("ask who denied it for the reason", new))
    if csrs.has_condition(csr, csrs.FAILED):
        signer = plaintext.escape(csr.spec.signer_name)
        raise _refused(
            f"the signer {signer} refuses {name}{_reason(csr, csrs.FAILED)}",
            (f"the message says what the signer does not permit; certplane explain csr {name} says what it would", new),
        )


def _refused(message: str, hints: Sequence[str]) -> exitcodes.Failure:
    return exitcodes.Failure(exitcodes.REFUSED, message, hints)


def _reason(csr: CertificateSigningRequest, type_: str) -> str:
    """Reason and message of a condition, in parentheses; empty if it has neither."""
    for condition in csr.status.conditions:
        text = ": ".join(part for part in (condition.reason, condition.message) if part)
        if condition.type == type_ and text:
            return f" ({plaintext.escape(text)})"
    return ""
