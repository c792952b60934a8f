"""The format of the log: one line for each event, with its fields, and limits for what others can write into it."""

from __future__ import annotations

import contextlib
import datetime
import json
import logging
import re
import sys
from collections.abc import Iterator
from typing import Final, TextIO

from certplane.golang import formatting

_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}


#: Maximum characters of a message or a value, and of a traceback: they quote requests of unauthenticated clients.
_MAX_TEXT_LENGTH: Final = 2048
_MAX_TRACEBACK_LENGTH: Final = 32 * 1024


class _Formatter(logging.Formatter):
    """One line per event: time, level, logger, message, and the extra fields as key=value."""

    def format(self, record: logging.LogRecord) -> str:
        fields = {key: value for key, value in vars(record).items() if key not in _STANDARD}
        moment = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
        time = moment.isoformat(timespec="milliseconds")[:23] + "Z"
        text = formatting.shorten(record.getMessage(), _MAX_TEXT_LENGTH)
        parts = [time, record.levelname, record.name + ":", _one_line(text)]
        parts += [f"{key}={_value(value)}" for key, value in fields.items()]
        line = " ".join(parts)
        if record.exc_info:
            line += "\n" + formatting.shorten(self.formatException(record.exc_info), _MAX_TRACEBACK_LENGTH)
        return line


def _one_line(text: str) -> str:
    return text.replace("\r", "\\r").replace("\n", "\\n")


_PLAIN: Final = re.compile(r"[\w./:@+-]+")


def _value(value: object) -> str:
    text = formatting.shorten(str(value), _MAX_TEXT_LENGTH)
    return text if _PLAIN.fullmatch(text) else json.dumps(text)


@contextlib.contextmanager
def logging_to(stream: TextIO = sys.stderr, level: str = "INFO") -> Iterator[None]:
    """Write the log of this process to a stream while the block runs."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_Formatter())
    root = logging.getLogger()
    previous_level = root.level
    root.addHandler(handler)
    root.setLevel(level)
    try:
        yield
    finally:
        root.removeHandler(handler)
        root.setLevel(previous_level)
