"""Limits on what clients can write to the audit log, so that they cannot displace other events.

The size of an event does not grow with the request: texts and lists are truncated, visibly. And events of
unauthenticated requests that change nothing are limited in rate; the others are counted, and the count is an event of
its own. Without that, a loop with `curl` rotates the log until nothing else is left in it.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from typing import Any, Final

from certplane.clock import Clock
from certplane.golang import formatting
from certplane.meta import context
from certplane.tokenbucket import TokenBucket

#: Maximum bytes of an event that is not truncated: usual requests have a kilobyte.
SHORT: Final = 2048
#: In characters. The User-Agent has the limit of kube-apiserver; the others are far above what clients send.
MAX_URI_LENGTH: Final = 1024
MAX_USER_AGENT_LENGTH: Final = 1024
_MAX_TEXT_LENGTH: Final = 1024
MAX_NAME_LENGTH: Final = 512
#: Characters of a user's groups and extra, authenticated or impersonated: some hundred groups.
_MAX_USER_LENGTH: Final = 16 * 1024
_MAX_CAUSES: Final = 10
MAX_SOURCES: Final = 16


def limit_text(value: str) -> str:
    """A message or an annotation, truncated."""
    return formatting.shorten(value, _MAX_TEXT_LENGTH)


def limit_name(value: str) -> str:
    """A name of an object, a user or a group, truncated."""
    return formatting.shorten(value, MAX_NAME_LENGTH)


def limit_annotations(annotations: Mapping[str, str]) -> dict[str, str] | None:
    """Annotations with truncated values; None if there are none."""
    return {key: formatting.shorten(value, _MAX_TEXT_LENGTH) for key, value in annotations.items()} or None


def limit_status(status: Mapping[str, Any]) -> Mapping[str, Any]:
    """A Status with truncated texts and its first causes."""
    if "message" not in status and "details" not in status:
        return status
    limited: dict[str, Any] = {
        key: limit_text(value) if isinstance(value, str) else value for key, value in status.items()
    }
    details = status.get("details")
    if details:
        limited["details"] = _limit_names(details)
        causes = details.get("causes") or ()
        if causes:
            limited["details"]["causes"] = first_causes = [_limit_names(cause) for cause in causes[:_MAX_CAUSES]]
            if len(causes) > _MAX_CAUSES:
                first_causes.append({"message": f"{len(causes) - _MAX_CAUSES} more causes omitted"})
    return limited


def _limit_names(fields: Mapping[str, object]) -> dict[str, object]:
    return {key: limit_name(value) if isinstance(value, str) else value for key, value in fields.items()}


def limit_sources(addresses: Sequence[str]) -> Sequence[str]:
    """The first addresses, one of which may be the client's, and the last one, which the client cannot forge."""
    return addresses if len(addresses) <= MAX_SOURCES else [*addresses[: MAX_SOURCES - 1], addresses[-1]]


def user_info(user: context.User) -> dict[str, object]:
    """A user as UserInfo of authentication.k8s.io without empty fields, truncated."""
    document: dict[str, object] = {}
    if user.name:
        document["username"] = limit_name(user.name)
    if user.uid:
        document["uid"] = limit_name(user.uid)
    remaining = _MAX_USER_LENGTH
    groups, remaining = _take_fitting(user.groups, remaining)
    extra: dict[str, list[str]] = {}
    for key, values in user.extra.items():
        if remaining <= 0:
            break
        taken, remaining = _take_fitting(values, remaining - len(key))
        extra[limit_name(key)] = taken
    omitted = len(user.groups) - len(groups), len(user.extra) - len(extra)
    if any(omitted):
        extra["certplane.io/left-out"] = ["{} groups, {} keys".format(*omitted)]
    if groups:
        document["groups"] = groups
    if extra:
        document["extra"] = extra
    return document


def _take_fitting(values: Sequence[str], remaining: int) -> tuple[list[str], int]:
    """The first values that fit into `remaining` characters, truncated; and how many characters remain."""
    taken = []
    for value in values:
        if remaining <= 0:
            break
        taken.append(limit_name(value))
        remaining -= len(taken[-1])
    return taken, remaining


class EventRateLimiter:
    """Limits events: `rate` a second, 0 for no limit, and counts the others. The burst of a hundred is large enough to
    record a short attack completely.
    """

    _BURST: Final = 100

    def __init__(self, rate: int, clock: Clock) -> None:
        self._clock = clock
        self._bucket = TokenBucket(clock, rate, max(self._BURST, rate)) if rate else None
        self._dropped_since: datetime.datetime | None = None
        self._dropped = 0
        #: All events dropped since the start.
        self.total_dropped = 0

    def admit(self) -> bool:
        """Whether the next event is written; otherwise it is counted as dropped."""
        if self._bucket is None or self._bucket.take():
            return True
        if self._dropped_since is None:
            self._dropped_since = self._clock.now()
        self._dropped += 1
        self.total_dropped += 1
        return False

    def take_dropped(self) -> tuple[int, datetime.datetime] | None:
        """How many events were dropped since the last call, and when the first was; None if there were none."""
        if self._dropped_since is None:
            return None
        dropped = self._dropped, self._dropped_since
        self._dropped_since, self._dropped = None, 0
        return dropped
