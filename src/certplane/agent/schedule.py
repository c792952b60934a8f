"""When to renew a certificate. Pure: times are POSIX seconds, fractions are in [0, 1).

A certificate is renewed between 70 and 90 % of its lifetime, as the kubelet does. Where in that range is derived from
its serial number, so the time is the same after a restart, and the certificates of a fleet are spread evenly.

A maintenance window moves the time, but never so that the certificate could expire: where no window is open in the
range, the first one after it or the last one before it is used, and where there is none, none is waited for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Final

import msgspec

_DAY: Final = 86400
_WEEK: Final = 7 * _DAY
#: 1 January 1970 was a Thursday; weeks here begin on Monday.
_FIRST_MONDAY: Final = 4 * _DAY
#: A renewal must not wait longer than until this part of the lifetime, and a window is not used before that part.
_LATEST: Final = 0.95
_EARLIEST: Final = 0.5


class Validity(msgspec.Struct, frozen=True):
    """What the decisions need to know about a certificate. `serial` is in hex; `obtained` is when it was stored, 0 if
    that is not known. Its lifetime is counted from then: signers let certificates begin five minutes earlier, which is
    more than the whole life of one for a test.
    """

    serial: str
    not_before: float
    not_after: float
    obtained: float = 0.0

    @property
    def start(self) -> float:
        """From when its lifetime is counted."""
        return self.obtained if self.not_before < self.obtained < self.not_after else self.not_before

    @property
    def lifetime(self) -> float:
        return self.not_after - self.start

    def contains(self, moment: float) -> bool:
        """Whether the certificate is valid at a time."""
        return self.not_before <= moment < self.not_after

    def at(self, part: float) -> float:
        """The time at which a part of the lifetime has passed."""
        return self.start + self.lifetime * part


class Window(msgspec.Struct, frozen=True):
    """A weekly maintenance window, in UTC. `days` are 0 (Monday) to 6; `start` is in seconds after midnight, `duration`
    in seconds, at most a day.
    """

    days: tuple[int, ...]
    start: int
    duration: int

    def openings(self, after: float, before: float) -> Iterator[tuple[float, float]]:
        """Begin and end of each time when the window is open between two moments, in order, cut to them."""
        week = (after - _FIRST_MONDAY) // _WEEK * _WEEK + _FIRST_MONDAY - _WEEK
        while week < before:
            for day in sorted(self.days):
                begin = week + day * _DAY + self.start
                if begin < before and begin + self.duration > after:
                    yield max(begin, after), min(begin + self.duration, before)
            week += _WEEK

    def next_opening(self, moment: float) -> float:
        """When the window is open next: now, if it is open."""
        return next(self.openings(moment, moment + 2 * _WEEK))[0]


class RenewalTimes(msgspec.Struct, frozen=True):
    """The range of a certificate's lifetime in which it is renewed, and the maintenance window, if there is one."""

    first: float = 0.7
    last: float = 0.9
    window: Window | None = None


class Notice(msgspec.Struct, frozen=True):
    """An administrator's request: certificates issued before `issued_before` are to be renewed until `renew_before`.
    `signers` limits it to some signers, given by name or as DOMAIN/*; empty: all.
    """

    issued_before: float
    renew_before: float
    signers: tuple[str, ...] = ()

    def concerns(self, validity: Validity, signer: str) -> bool:
        """Whether a certificate of a signer has to be renewed. A renewed one is not concerned any more."""
        domain = signer.partition("/")[0]
        is_named = not self.signers or signer in self.signers or f"{domain}/*" in self.signers
        return is_named and validity.not_before < self.issued_before


def fraction(serial: str, purpose: str = "") -> float:
    """A number in [0, 1) for a certificate: always the same, and evenly spread over many certificates."""
    digest = hashlib.sha256(f"{purpose}/{serial}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2.0**64


def renewal_time(validity: Validity, times: RenewalTimes) -> float:
    """When to renew a certificate."""
    share = fraction(validity.serial)
    first, last = validity.at(times.first), validity.at(times.last)
    if times.window is not None:
        ranges = ((first, last), (last, validity.at(_LATEST)), (validity.at(_EARLIEST), first))
        for number, (after, before) in enumerate(ranges):
            openings = list(times.window.openings(after, before))
            if openings:
                # After the range: as early as possible. Before it: as late as possible.
                return _within(openings if number == 0 else openings[:1] if number == 1 else openings[-1:], share)
    return first + (last - first) * share


def _within(openings: list[tuple[float, float]], share: float) -> float:
    """The moment at which a share of the total time of some openings has passed."""
    left = sum(end - begin for begin, end in openings) * share
    for begin, end in openings:
        if left < end - begin:
            return begin + left
        left -= end - begin
    return openings[-1][0]


def noticed_time(validity: Validity, notice: Notice, seen: float) -> float:
    """When to renew a certificate that a notice concerns: spread over nine tenths of the time that is left, so a fleet
    does not renew at once. `seen` is when the agent first read the notice; the rest is for the slow ones.
    """
    left = max(0.0, notice.renew_before - seen)
    return seen + left * 0.9 * fraction(validity.serial, "notice")


def wait_for_window(validity: Validity | None, window: Window | None, now: float) -> float:
    """The time from which a renewal that is due may be done: now, or when the window opens, if the certificate lasts
    until then.
    """
    if window is None or validity is None or not validity.contains(now):
        return now
    opening = window.next_opening(now)
    return opening if opening < validity.at(_LATEST) else now
