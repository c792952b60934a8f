"""Lines of the log that strangers cause, and may cause as often as they like.

The same event (say, the same reason from the same address) is logged once in an interval, and at most so many different
ones are. Whatever is left out is counted, and the next line of the same event says how many times it came again;
events that were not logged at all, or never came again, are summed up in the next line of any.
"""

from __future__ import annotations

import datetime
from collections.abc import Hashable, Mapping
from typing import Final

#: Once a minute is enough to be seen, and little enough to fill no disk: 60 lines of some 500 bytes are 43 MB a day.
INTERVAL: Final = datetime.timedelta(minutes=1)
MOST_LINES: Final = 60


class LogLimit:
    """What to log of repeated events. Its memory is bounded by the number of lines. Not safe for several threads."""

    def __init__(self, interval: datetime.timedelta = INTERVAL, most_lines: int = MOST_LINES) -> None:
        self._interval = interval
        self._most_lines = most_lines
        self._since: datetime.datetime | None = None
        #: How often each event of this interval, and of the one before, came again.
        self._repeated: dict[Hashable, int] = {}
        self._before: dict[Hashable, int] = {}
        self._others = 0

    def admit(self, event: Hashable, now: datetime.datetime) -> Mapping[str, int] | None:
        """The fields that a line about an event says besides: how much was left out since the last one, if anything
        was. None if there is to be no line now.
        """
        if self._since is None or not self._since <= now < self._since + self._interval:
            self._others += sum(self._before.values())
            self._before, self._repeated, self._since = self._repeated, {}, now
        if event in self._repeated:
            self._repeated[event] += 1
            return None
        if len(self._repeated) >= self._most_lines:
            self._others += 1
            return None
        self._repeated[event] = 0
        fields = {"repeated": self._before.pop(event, 0), "others_left_out": self._others}
        self._others = 0
        return {name: count for name, count in fields.items() if count}
