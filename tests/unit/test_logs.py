"""The format of the log."""

from __future__ import annotations

import io
import logging

from certplane import logs


def test_log_lines_are_limited():
    """Messages, values and tracebacks quote requests of clients. The end of a traceback is kept: it has the error."""
    stream = io.StringIO()
    with logs.logging_to(stream):
        log = logging.getLogger("certplane.test")
        log.warning("a%s", "x" * 100_000, extra={"path": "y" * 100_000})
        try:
            raise ValueError("z" * 100_000)
        except ValueError:
            log.exception("b")
    first, second = stream.getvalue().split("b\n")
    assert len(first) < 5_000
    assert len(second) < 33_000
    assert "characters omitted" in second
