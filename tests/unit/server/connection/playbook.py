"""Scripts for the HTTP state machine: the bytes that a client sends, the responses, and the expected events.

A step is bytes (the client sends them), `FullResponse` or `Stream` (the handler responds), or the `summary` of an
expected event. `play` runs a script once as it is and once byte by byte: how the bytes are split must not matter.
"""

from __future__ import annotations

import dataclasses

from certplane.server.connection import http1

HOST = b"Host: h\r\n"
END = "end"


@dataclasses.dataclass
class FullResponse:
    """A complete response; `wire` is what the client gets, without Date and Content-Type."""

    status: int
    body: bytes
    wire: bytes
    closes: bool = False


@dataclasses.dataclass
class Stream:
    """A response in chunks."""

    pieces: tuple[bytes, ...]
    wire: bytes
    closes: bool = False


def summary(event):
    """An event in short form."""
    if isinstance(event, http1.RequestHead):
        return f"{event.method} {event.path}" + (f"?{event.raw_query}" if event.raw_query else "")
    if isinstance(event, http1.Body):
        return event.data.decode("latin-1")
    if isinstance(event, http1.EndOfMessage):
        return END
    return (event.status, event.reason)


def play(script):
    """Run a script, whole and in single bytes. The events must be those of the script, in order."""
    for cut in (len, lambda _: 1):
        machine = http1.StateMachine()
        events_so_far = []
        for step in script:
            if isinstance(step, bytes):
                size = max(cut(step), 1)
                for start in range(0, len(step), size):
                    _add_events(events_so_far, machine.receive(step[start : start + size]))
            elif isinstance(step, FullResponse):
                assert machine.encode_response(step.status, [], step.body) == step.wire
                assert machine.closing == step.closes
                _add_events(events_so_far, machine.receive(b""))
            elif isinstance(step, Stream):
                parts = [machine.start_stream(200, [])]
                parts += [machine.encode_chunk(chunk) for chunk in step.pieces]
                assert b"".join([*parts, machine.end_stream()]) == step.wire
                assert machine.closing == step.closes
                _add_events(events_so_far, machine.receive(b""))
            else:
                assert events_so_far, f"no event, expected {step!r}"
                assert events_so_far.pop(0) == step
        assert events_so_far == []


def _add_events(events_so_far, events):
    """Add events. Consecutive parts of a body are joined."""
    for event in events:
        text = summary(event)
        if isinstance(event, http1.Body) and events_so_far and isinstance(events_so_far[-1], BodyPart):
            events_so_far[-1] = BodyPart(events_so_far[-1] + text)
        else:
            events_so_far.append(BodyPart(text) if isinstance(event, http1.Body) else text)


class BodyPart(str):
    """A part of a body."""

    __slots__ = ()
