"""Scripts for the HTTP machine: what a client sends and what is answered on one side, what is told on the other.

A step is bytes (the client sends them), `Answer` or `Stream` (the handler answers), or what `told` gives for an event
that must come. `play` runs a script once as it stands and once byte by byte: how the bytes were cut must not matter.
"""

from __future__ import annotations

import dataclasses

from certplane.server.connection import http1

HOST = b"Host: h\r\n"
END = "end"


@dataclasses.dataclass
class Answer:
    """The handler answers in one piece; `wire` is what the client gets, Date and such left out."""

    status: int
    body: bytes
    wire: bytes
    closes: bool = False


@dataclasses.dataclass
class Stream:
    """The handler answers in pieces."""

    pieces: tuple[bytes, ...]
    wire: bytes
    closes: bool = False


def told(event):
    """An event, short enough to write down."""
    if isinstance(event, http1.Request):
        return f"{event.method} {event.path}" + (f"?{event.raw_query}" if event.raw_query else "")
    if isinstance(event, http1.Body):
        return event.data.decode("latin-1")
    if isinstance(event, http1.End):
        return END
    return (event.status, event.reason)


def play(script):
    """Run a script, whole and in single bytes. What is told must be what stands between the bytes, in order."""
    for cut in (len, lambda _: 1):
        machine = http1.Machine()
        heard = []
        for step in script:
            if isinstance(step, bytes):
                size = max(cut(step), 1)
                for at in range(0, len(step), size):
                    _hear(heard, machine.receive(step[at : at + size]))
            elif isinstance(step, Answer):
                assert machine.answer(step.status, [], step.body) == step.wire
                assert machine.closing == step.closes
                _hear(heard, machine.receive(b""))
            elif isinstance(step, Stream):
                pieces = [machine.piece(piece) for piece in step.pieces] if (begun := machine.begin(200, [])) else []
                assert b"".join([begun, *pieces, machine.end()]) == step.wire
                assert machine.closing == step.closes
                _hear(heard, machine.receive(b""))
            else:
                assert heard, f"nothing was told where {step!r} should be"
                assert heard.pop(0) == step
        assert heard == []


def _hear(heard, events):
    """Pieces of one body are one piece, however they came."""
    for event in events:
        text = told(event)
        if isinstance(event, http1.Body) and heard and isinstance(heard[-1], Piece):
            heard[-1] = Piece(heard[-1] + text)
        else:
            heard.append(Piece(text) if isinstance(event, http1.Body) else text)


class Piece(str):
    """A piece of a body."""

    __slots__ = ()
