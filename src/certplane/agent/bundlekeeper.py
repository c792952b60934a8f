"""Reads trust bundles again and again, writes their files, and knows what is wrong with them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from certplane import clock, errors
from certplane.agent import requests, trustbundles
from certplane.agent.access import Access
from certplane.agent.rotation import Credentials
from certplane.agent.settings import TrustBundle
from certplane.agent.status import BundleStatus
from certplane.agent.trustbundles import BundleProblem
from certplane.client import api
from certplane.client.credentials import CredentialProblem
from certplane.clock import Clock
from certplane.errors import SetupError

_log = logging.getLogger("certplane")

#: Between two reads. A fleet of 6,000 hosts then reads twenty times a second.
_SECONDS: Final = 300.0
#: After a failure: the first pause, which is doubled up to the usual one.
_RETRY_SECONDS: Final = 2.0
_REQUEST_SECONDS: Final = 90.0
#: Pauses are between 75 and 125 % of these, so that a fleet does not read at once.
_JITTER: Final = (0.75, 0.5)


class BundleKeeper:
    """Keeps the file of one trust bundle current. `in_use` returns the certificates in use, with their chains, in PEM;
    `random` numbers in [0, 1). `changed` is called when the status has changed.
    """

    def __init__(
        self,
        bundle: TrustBundle,
        access: Access,
        timer: Clock,
        random: Callable[[], float],
        in_use: Callable[[], Sequence[bytes]],
        changed: Callable[[], None],
    ) -> None:
        self._bundle = bundle
        self._access = access
        self._clock = timer
        self._random = random
        self._in_use = in_use
        self._changed = changed
        self._status = BundleStatus(path=str(bundle.path))

    def status(self) -> BundleStatus:
        """The status, for people and for Prometheus."""
        return msgspec.structs.replace(self._status)

    async def run(self) -> None:
        """Run until cancelled."""
        failures = 0
        while True:
            problem = await self._update()
            failures = failures + 1 if problem else 0
            self._report(problem)
            pause = min(_SECONDS, _RETRY_SECONDS * 2 ** min(failures - 1, 10)) if failures else _SECONDS
            least, more = _JITTER
            await self._clock.sleep(pause * (least + more * self._random()))

    async def _update(self) -> str:
        """Returns the problem; empty if there is none."""
        try:
            updated = await clock.wait_for(self._clock, self._fetch_and_write(), _REQUEST_SECONDS)
        except TimeoutError:
            return f"the API server did not answer within {_REQUEST_SECONDS:g} s"
        except (BundleProblem, errors.APIError, api.Unreachable, CredentialProblem, SetupError) as error:
            return requests.printable(str(error))
        former = self.status()
        self._status.certificates = updated.bundle.certificates
        self._status.retained = updated.bundle.retained
        if updated.is_changed:
            fields = {"certificates": updated.bundle.certificates, "retained": updated.bundle.retained}
            _log.info("trust bundle written", extra={"path": self._bundle.path, **fields})
        if self._status != former:
            # Also after a restart, which finds the file as it has to be.
            self._changed()
        if updated.bundle.unparsable:
            return f"{updated.bundle.unparsable} published certificates cannot be parsed; nothing is removed meanwhile"
        return ""

    async def _fetch_and_write(self) -> trustbundles.Updated:
        async with self._access.client(Credentials.IDENTITY) as client:
            return await trustbundles.update(client, self._bundle, self._in_use())

    def _report(self, problem: str) -> None:
        former, self._status.problem = self._status.problem, problem
        if problem == former:
            return
        fields = {"path": self._bundle.path}
        if problem:
            _log.warning("trust bundle problem", extra={**fields, "error": problem})
        else:
            _log.info("trust bundle problem solved", extra={**fields, "former": former})
        self._changed()
