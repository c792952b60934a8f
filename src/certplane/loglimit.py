"""Rate limiting of log lines that unauthenticated clients can cause.

The same event (for example, the same reason from the same address) is logged once per interval, and at most `MAX_LINES`
different events are. Suppressed lines are counted: the next line of the same event says how often it was repeated, and
the next line of any event says how many lines of other events were suppressed.
"""

from __future__ import annotations

import datetime
from collections.abc import Hashable, Mapping
from typing import Final

#: Once a minute is often enough to be noticed, and cannot fill a disk: 60 lines of about 500 bytes are 43 MB a day.
INTERVAL: Final = datetime.timedelta(minutes=1)
MAX_LINES: Final = 60


class LogLimit:
    """Decides which repeated events are logged. Its memory is bounded by the number of lines. Not thread-safe."""

    def __init__(self, interval: datetime.timedelta = INTERVAL, max_lines: int = MAX_LINES) -> None:
        self._interval = interval
        self._max_lines = max_lines
        self._since: datetime.datetime | None = None
        #: How often each event was repeated in this interval, and in the one before.
        self._repeated: dict[Hashable, int] = {}
        self._before: dict[Hashable, int] = {}
        self._others = 0

    def admit(self, event: Hashable, now: datetime.datetime) -> Mapping[str, int] | None:
        """Whether to log an event now. Returns None if not, else fields to add to the line: `repeated` and
        `others_suppressed`, each if lines were suppressed since the last one.
        """
        if self._since is None or not self._since <= now < self._since + self._interval:
            self._others += sum(self._before.values())
            self._before, self._repeated, self._since = self._repeated, {}, now
        if event in self._repeated:
            self._repeated[event] += 1
            return None
        if len(self._repeated) >= self._max_lines:
            self._others += 1
            return None
        self._repeated[event] = 0
        fields = {"repeated": self._before.pop(event, 0), "others_suppressed": self._others}
        self._others = 0
        return {name: count for name, count in fields.items() if count}
