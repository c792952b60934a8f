"""Runs a function in a thread that may hang: a file system that does not respond must stop neither the event loop nor
the end of the process, as the threads of an executor would.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class StoppedError(Exception):
    """The caller does not wait any more."""


class Stopping:
    """Whether the function should end, because nobody waits for its result."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def stop(self) -> None:
        self._event.set()

    def check(self) -> None:
        """Call between steps. Raises StoppedError."""
        if self._event.is_set():
            raise StoppedError


async def call(function: Callable[[Stopping], T]) -> T:
    """The result of a function, which runs in a thread of its own; raises what it raises. If this is cancelled, the
    thread goes on until the next `check`, or for ever.
    """
    loop = asyncio.get_running_loop()
    result: asyncio.Future[T] = loop.create_future()
    stopping = Stopping()

    def finish(value: T | None, error: BaseException | None) -> None:
        if result.done():
            return
        if error is not None:
            result.set_exception(error)
        else:
            result.set_result(value)  # type: ignore[arg-type]  # without an error it is the function's result

    def run() -> None:
        value, error = None, None
        try:
            value = function(stopping)
        except BaseException as raised:
            # It is raised again where the result is awaited.
            error = raised
        # RuntimeError: the loop is closed, so nobody waits any more.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(finish, value, error)

    threading.Thread(target=run, daemon=True, name="certplane-watch").start()
    try:
        return await result
    finally:
        stopping.stop()
