"""Decisions about what follows a new certificate: files for other programs, hooks, and a look at what is served.

Like `rotation`, a generator without any I/O. It runs beside the rotation of its certificate: a hook that fails for days
must not keep the certificate from being renewed.

- The files are written first. At each start, and after each new certificate, those that differ are written again.
- The hooks are run in their order, once for each certificate. That they are due is stored with the certificate, so they
  are also run after the process has ended in between. One that fails is run again, together with those after it, after
  pauses of up to an hour.
- The endpoint that serves the certificate is looked at a few seconds after the hooks, and every hour. If it serves
  another certificate, it is looked at again after pauses of up to an hour.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Final

import msgspec

_FIRST_PAUSE: Final = 2.0
_LONGEST_PAUSE: Final = 3600.0
#: A program that reloads its certificate has this time before the endpoint is looked at.
_RELOAD_SECONDS: Final = 5.0
_PROBE_SECONDS: Final = 3600.0


# --- commands -----------------------------------------------------------------------------------------------------


class WriteOutputs(msgspec.Struct, frozen=True):
    """Write the files that differ. Answered by Done or Failed."""


class RunHook(msgspec.Struct, frozen=True):
    """Run one hook, by its number. Answered by Done or Failed."""

    number: int


class MarkDone(msgspec.Struct, frozen=True):
    """Store that the hooks were run. Answered by Done or Failed."""


class Probe(msgspec.Struct, frozen=True):
    """Compare what the endpoint serves with the current certificate. Answered by Done or Failed."""


class Wait(msgspec.Struct, frozen=True):
    """Wait some seconds; infinity: for a new certificate only. Answered by Woken or Changed."""

    seconds: float


Command = WriteOutputs | RunHook | MarkDone | Probe | Wait


# --- events -------------------------------------------------------------------------------------------------------


class Done(msgspec.Struct, frozen=True):
    """The command was carried out. For WriteOutputs: `hooks_due` says whether hooks are due."""

    hooks_due: bool = False


class Failed(msgspec.Struct, frozen=True):
    """It was not; `message` says why."""

    message: str


class Woken(msgspec.Struct, frozen=True):
    """The time has passed."""


class Changed(msgspec.Struct, frozen=True):
    """There is a new certificate."""


Event = Done | Failed | Woken | Changed
Steps = Generator[Command, Event, None]


class Status(msgspec.Struct):
    """Problems of each step; empty if there are none. `is_served` is None before the endpoint was looked at."""

    outputs: str = ""
    hooks: str = ""
    probe: str = ""
    is_served: bool | None = None


class _NewCertificate(Exception):
    """What is being installed is not current any more."""


class Installation:
    """The decisions for one certificate. `has_certificate` says whether there is one at the start; `random` returns
    numbers in [0, 1).
    """

    def __init__(
        self, hooks: int, random: Callable[[], float], *, has_probe: bool = False, has_certificate: bool = False
    ) -> None:
        self.status = Status()
        self._hooks = hooks
        self._random = random
        self._has_probe = has_probe
        self._has_certificate = has_certificate

    def steps(self) -> Steps:
        """The commands, without end."""
        if not self._has_certificate:
            yield Wait(float("inf"))
        while True:
            try:
                yield from self._install()
                yield from self._watch()
            except _NewCertificate:
                continue

    def _install(self) -> Steps:
        failures = 0
        while isinstance(event := (yield WriteOutputs()), Failed):
            self.status.outputs = event.message
            yield from self._back_off(failures)
            failures += 1
        self.status.outputs = ""
        if isinstance(event, Done) and event.hooks_due:
            yield from self._run_hooks()
            self.status.is_served = None
            yield from self._pause(_RELOAD_SECONDS)

    def _run_hooks(self) -> Steps:
        number, failures = 0, 0
        while number <= self._hooks:
            event = yield RunHook(number) if number < self._hooks else MarkDone()
            if isinstance(event, Failed):
                self.status.hooks = event.message
                yield from self._back_off(failures)
                failures += 1
            else:
                number += 1
        self.status.hooks = ""

    def _watch(self) -> Steps:
        """Look at the endpoint now and then, until there is a new certificate."""
        failures = 0
        while True:
            if not self._has_probe:
                yield from self._pause(float("inf"))
                continue
            event = yield Probe()
            if isinstance(event, Failed):
                self.status.probe, self.status.is_served = event.message, False
                yield from self._back_off(failures)
                failures += 1
            else:
                self.status.probe, self.status.is_served, failures = "", True, 0
                yield from self._pause(_PROBE_SECONDS * (0.9 + self._random() / 5))

    def _back_off(self, failures: int) -> Steps:
        pause = min(_FIRST_PAUSE * 2.0 ** min(failures, 20), _LONGEST_PAUSE)
        yield from self._pause(pause * (0.75 + self._random() / 2))

    def _pause(self, seconds: float) -> Steps:
        if isinstance((yield Wait(seconds)), Changed):
            raise _NewCertificate
