"""A running server renews its own certificates: the serving certificate, and those in the kubeconfigs beside it.

`renewal_time` says when a certificate is due: at 70 to 90 per cent of its lifetime, as the kubelet's. Where in this
range is derived from the certificate, so that many servers of the same age do not renew at once, and a restart changes
nothing. The certificates are read from the files each time, because `certplane certs renew` may have renewed them.

What cannot be renewed here is left alone, and `expirations` announces its end: without the CA key, or if the CA ends as
early as the certificate. Failures are retried with exponential back-off, at intervals of at most a twentieth of what is
left of the lifetime. A certificate that fails never keeps the others from being renewed.

Source: client-go, `util/certificate/certificate_manager.go`.
"""

from __future__ import annotations

import asyncio
import dataclasses
import datetime
import logging
import os
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from certplane import timestamps
from certplane.clock import Clock
from certplane.errors import SetupError
from certplane.kubeadm import renewal
from certplane.kubeadm.layout import Entry
from certplane.kubeadm.renewal import Existing, Options, Renewed
from certplane.reload import Wakeup
from certplane.telemetry import Telemetry
from certplane.x509.issuance import reservednames

_log = logging.getLogger("certplane")

#: The part of its lifetime after which a certificate is due: at least, and how much more at most.
_EARLIEST: Final = 0.7
_SPREAD: Final = 0.2
#: How often the files are read, in seconds; more often if a certificate is due sooner.
_INTERVAL_SECONDS: Final = 60.0
_FIRST_RETRY: Final = datetime.timedelta(seconds=1)
_LONGEST_RETRY: Final = datetime.timedelta(hours=1)
#: Names in a serving certificate to which others are still added: host names may change at each start.
_MAX_NAMES: Final = 100


def renewal_time(existing: Existing) -> datetime.datetime:
    """When a certificate is due."""
    position = int.from_bytes(existing.parsed.digest[:4], "big") / 2**32
    return existing.not_before + (existing.not_after - existing.not_before) * (_EARLIEST + _SPREAD * position)


def retry_delay(failures: int, left: datetime.timedelta) -> datetime.timedelta:
    """How long to wait after a number of failures, if a certificate has so much time left. Not negative."""
    # An expired certificate is tried as often as the files are read.
    longest = left / 20 if left > datetime.timedelta() else datetime.timedelta(seconds=_INTERVAL_SECONDS)
    delay: datetime.timedelta = _FIRST_RETRY * 2 ** min(failures - 1, 20)
    return min(delay, max(longest, _FIRST_RETRY), _LONGEST_RETRY)


@dataclasses.dataclass(slots=True)
class _State:
    """What happened to one certificate. `retry_at` is None unless the last attempt failed; `obstacle` is why it cannot
    be renewed, if that is no failure.
    """

    failures: int = 0
    retry_at: datetime.datetime | None = None
    problem: str = ""
    obstacle: str = ""


class OwnCertificates:
    """Renews certificates, which are those of one certificate directory. New keys have the `key_algorithm`. After each
    renewal `on_renewed` is called, and puts the new certificate to use.
    """

    def __init__(
        self,
        entries: Sequence[Entry],
        key_algorithm: str,
        clock: Clock,
        telemetry: Telemetry,
        on_renewed: Callable[[Entry], Awaitable[None]],
    ) -> None:
        self._entries = entries
        self._options = Options(key_algorithm=key_algorithm)
        self._clock = clock
        self._telemetry = telemetry
        self._on_renewed = on_renewed
        self._states = {entry.name: _State() for entry in entries}

    async def run(self, wakeup: Wakeup) -> None:
        """Renew what is due until cancelled."""
        while True:
            seconds = await self.check()
            await wakeup.sleep(self._clock, seconds)

    async def check(self) -> float:
        """Renew what is due now. Returns after how many seconds to check again."""
        times = [await self._check(entry) for entry in self._entries]
        now = self._clock.now()
        waits = [(time - now).total_seconds() for time in times if time is not None]
        # At least a little: a deadline may be less than a tick of the clock away.
        return max(min([_INTERVAL_SECONDS, *waits]), 0.1)

    def problem(self) -> str | None:
        """Which renewals fail, for a health check; None if none does."""
        problems = {name: state.problem for name, state in self._states.items() if state.problem}
        return "; ".join(f"renewal of {name} fails: {problem}" for name, problem in problems.items()) or None

    async def add_names(self, entry: Entry, names: Sequence[str]) -> None:
        """Renew a serving certificate that lacks some DNS names or IP addresses: they are added to those that it has.
        A failure is logged: the certificate is still good for its other names.
        """
        try:
            existing = await asyncio.to_thread(renewal.load, entry)
            if existing is None:
                return
            present = reservednames.certificate_names(existing.certificate)
            missing = tuple(name for name in dict.fromkeys(map(str.lower, names)) if name not in present)
            if not missing:
                return
            extra = {"certificate": entry.name, "missing": ",".join(missing)}
            obstacle = await asyncio.to_thread(self._find_obstacle, entry, None)
            if not obstacle and len(present) > _MAX_NAMES:
                obstacle = "it has too many names"
            if obstacle:
                _log.warning("certificate lacks names of this server", extra={**extra, "error": obstacle})
                return
            _log.info("certificate lacks names of this server; renewing it", extra=extra)
            await self._renew(entry, dataclasses.replace(self._options, names=missing))
        except SetupError as error:
            _log.error("certificate renewal failed", extra={"certificate": entry.name, "error": str(error)})
            self._telemetry.count_renewal(entry.name, False)

    async def _check(self, entry: Entry) -> datetime.datetime | None:
        """Renew a certificate if it is due. Returns when to look at it again, None for at the next interval."""
        state, now = self._states[entry.name], self._clock.now()
        try:
            existing = await asyncio.to_thread(renewal.load, entry)
        except SetupError as error:
            self._note_obstacle(entry, str(error))
            return None
        due = renewal_time(existing) if existing is not None else None
        if existing is None or due is None or now < due:
            self._states[entry.name] = _State()
            return due
        # A clock that was set back must not delay the next attempt.
        if state.retry_at is not None and now < state.retry_at <= now + _LONGEST_RETRY:
            return state.retry_at
        try:
            obstacle = await asyncio.to_thread(self._find_obstacle, entry, existing)
            if obstacle:
                self._note_obstacle(entry, obstacle)
                return None
            await self._renew(entry, self._options)
        except SetupError as error:
            return self._note_failure(entry, str(error), existing.not_after - now)
        self._states[entry.name] = _State()
        return None

    def _find_obstacle(self, entry: Entry, existing: Existing | None) -> str:
        """Why a certificate cannot be renewed; empty if it can be. Raises SetupError for a problem with the CA."""
        if not os.path.lexists(entry.ca.key):
            return f"the CA key {entry.ca.key} is not here"
        ca = renewal.load_ca(entry.ca, self._clock.now())
        if existing is not None and ca.authority.not_after <= existing.not_after:
            return f"the CA ends as early, at {timestamps.rfc3339(ca.authority.not_after)}"
        return ""

    async def _renew(self, entry: Entry, options: Options) -> None:
        """Renew a certificate, and put it to use. Raises SetupError."""
        async with renewal.locked(entry.ca.directory, self._clock):
            # In a thread: generating an RSA key takes up to a second.
            renewed = await asyncio.to_thread(self._renew_now, entry, options)
        self._telemetry.count_renewal(entry.name, True)
        extra = {"certificate": entry.name, "path": entry.certificate, "serial": renewed.serial}
        _log.info("certificate renewed", extra={**extra, "not_after": timestamps.rfc3339(renewed.not_after)})
        await self._on_renewed(entry)

    def _renew_now(self, entry: Entry, options: Options) -> Renewed:
        now = self._clock.now()
        return renewal.renew(entry, renewal.load_ca(entry.ca, now), options, now)

    def _note_obstacle(self, entry: Entry, obstacle: str) -> None:
        if self._states[entry.name].obstacle != obstacle:
            _log.warning("certificate cannot be renewed", extra={"certificate": entry.name, "error": obstacle})
        self._states[entry.name] = _State(obstacle=obstacle)

    def _note_failure(self, entry: Entry, problem: str, left: datetime.timedelta) -> datetime.datetime:
        """Count and log a failure. Returns when to try again."""
        before = self._states[entry.name]
        failures = before.failures + 1
        delay = retry_delay(failures, left)
        retry_at = self._clock.now() + delay
        self._states[entry.name] = _State(failures, retry_at, problem)
        self._telemetry.count_renewal(entry.name, False)
        if problem != before.problem or failures & (failures - 1) == 0:
            # Only failures 1, 2, 4, 8...: one that lasts for days must not fill the log.
            extra = {"certificate": entry.name, "error": problem, "retry_in": f"{delay.total_seconds():g}s"}
            _log.error("certificate renewal failed", extra={**extra, "failures": failures})
        return retry_at
