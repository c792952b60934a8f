"""What strangers can make of the audit log: nothing that pushes out what matters.

A record has a size that does not grow with what was sent: texts are cut, lists too, and it is told where. And of
requests that nobody known sends, and that change nothing, so many a second are recorded; the others are counted, and
the count is a record of its own. Without that, a loop with `curl` turns the log over until nothing else is left in it.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from typing import Any, Final

from certplane import clock as clocks
from certplane import gotext
from certplane.meta import context

#: Bytes of a record of which nothing is cut: those of usual requests have a kilobyte.
SHORT: Final = 2048
#: Characters. A User-Agent has as many as in the log of kube-apiserver; the others are far beyond what clients send.
LONGEST_URI: Final = 1024
LONGEST_USER_AGENT: Final = 1024
_LONGEST_TEXT: Final = 1024
LONGEST_NAME: Final = 512
#: Of everything that a user's certificate or token says, or whom somebody asks to act as: some hundred groups.
_LONGEST_USER: Final = 16 * 1024
_MOST_CAUSES: Final = 10
#: Addresses that a request came over.
MOST_SOURCES: Final = 16


def text(value: str) -> str:
    """A message or an annotation."""
    return gotext.shortened(value, _LONGEST_TEXT)


def name(value: str) -> str:
    """A name that a request is about."""
    return gotext.shortened(value, LONGEST_NAME)


def noted(found: Mapping[str, str]) -> dict[str, str] | None:
    """Annotations; None if there are none."""
    return {key: gotext.shortened(value, _LONGEST_TEXT) for key, value in found.items()} or None


def status(of: Mapping[str, Any]) -> Mapping[str, Any]:
    """A Status without kind and apiVersion, with its first causes."""
    if "message" not in of and "details" not in of:
        return of
    bounded: dict[str, Any] = {key: text(value) if isinstance(value, str) else value for key, value in of.items()}
    details = of.get("details")
    if details:
        bounded["details"] = _named(details)
        causes = details.get("causes") or ()
        if causes:
            bounded["details"]["causes"] = kept = [_named(cause) for cause in causes[:_MOST_CAUSES]]
            if len(causes) > _MOST_CAUSES:
                kept.append({"message": f"{len(causes) - _MOST_CAUSES} more causes are left out"})
    return bounded


def _named(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {key: name(value) if isinstance(value, str) else value for key, value in fields.items()}


def sources(addresses: Sequence[str]) -> Sequence[str]:
    """The first addresses, which are said to be the client's, and the last one, which it cannot choose."""
    return addresses if len(addresses) <= MOST_SOURCES else [*addresses[: MOST_SOURCES - 1], addresses[-1]]


def user(of: context.User) -> dict[str, Any]:
    """A user as UserInfo of authentication.k8s.io: what is not empty, as much as there is room for."""
    document: dict[str, Any] = {}
    if of.name:
        document["username"] = name(of.name)
    if of.uid:
        document["uid"] = name(of.uid)
    room = _LONGEST_USER
    groups, room = _fitting(of.groups, room)
    extra: dict[str, list[str]] = {}
    for key, values in of.extra.items():
        if room <= 0:
            break
        kept, room = _fitting(values, room - len(key))
        extra[name(key)] = kept
    left_out = len(of.groups) - len(groups), len(of.extra) - len(extra)
    if any(left_out):
        extra["certplane.io/left-out"] = ["{} groups, {} keys".format(*left_out)]
    if groups:
        document["groups"] = groups
    if extra:
        document["extra"] = extra
    return document


def _fitting(values: Sequence[str], room: int) -> tuple[list[str], int]:
    kept = []
    for value in values:
        if room <= 0:
            break
        kept.append(name(value))
        room -= len(kept[-1])
    return kept, room


class Sampler:
    """Says which of many records of one kind are written: `rate` a second, and a hundred at once, as somebody who
    tries something is worth being seen whole. 0 is no limit.
    """

    #: Seconds after which it is told how many were left out.
    TOLD_AFTER: Final = 60.0
    _AT_ONCE: Final = 100

    def __init__(self, rate: int, clock: clocks.Clock) -> None:
        self._rate = rate
        self._clock = clock
        self._most = float(max(self._AT_ONCE, rate))
        self._left = self._most
        self._seen = clock.monotonic()
        self._since: tuple[datetime.datetime, float] | None = None
        self._skipped = 0
        #: All that were ever left out.
        self.skipped = 0

    def admits(self) -> bool:
        """Whether the next record is written; if not, it is counted."""
        now = self._clock.monotonic()
        self._left = min(self._most, self._left + (now - self._seen) * self._rate)
        self._seen = now
        if not self._rate:
            return True
        if self._left >= 1:
            self._left -= 1
            return True
        if self._since is None:
            self._since = self._clock.now(), now
        self._skipped += 1
        self.skipped += 1
        return False

    def untold(self, *, at_once: bool = False) -> tuple[int, datetime.datetime] | None:
        """How many were left out, and since when, if that is due to be told; it is told once."""
        if self._since is None or not (at_once or self._clock.monotonic() - self._since[1] >= self.TOLD_AFTER):
            return None
        told = self._skipped, self._since[0]
        self._since, self._skipped = None, 0
        return told
