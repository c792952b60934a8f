"""What takes long is done in a thread, so that the event loop can serve others meanwhile.

The event loop has one thread for everybody. Most requests have a kilobyte, and cost less than to hand them over; but a
body may have three megabytes, and to read, patch and judge it takes a second. There is one thread for all of that:
Python runs one at a time anyway. Those who send large requests take turns: whoever sends many waits behind his own.

What is given to the thread must be a pure function of its arguments: it may not look into what the loop changes.
"""

from __future__ import annotations

import asyncio
import collections
import concurrent.futures
import contextlib
import contextvars
import functools
import gc
import sys
import weakref
from collections.abc import Callable
from typing import Final, ParamSpec, TypeVar

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")

#: Bytes that are dealt with at once: ten milliseconds at the worst, mostly one.
INLINE: Final = 32 * 1024
#: How long the thread keeps the interpreter while the loop waits for it. A short request lets go of it ten times; with
#: the five milliseconds of Python that is fifty. At other times the usual interval costs less.
_SWITCH_SECONDS: Final = 0.0005
#: YAML takes so many times as long as JSON.
YAML: Final = 4

#: The name of the user whose request this is.
asker: Final[contextvars.ContextVar[str]] = contextvars.ContextVar("asker", default="")
_thread: Final = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="certplane-offload")


async def run(
    size: int, function: Callable[_Arguments, _Result], *args: _Arguments.args, **kwargs: _Arguments.kwargs
) -> _Result:
    """The result of a function that takes about as long as so many bytes of JSON; it may raise what it raises."""
    if size <= INLINE:
        return function(*args, **kwargs)
    loop = asyncio.get_running_loop()
    turns = _turns.setdefault(loop, _Turns())
    await turns.take(asker.get())
    work = _thread.submit(_uncollected, functools.partial(function, *args, **kwargs))
    # Not when this is left: if it is cancelled, the thread is at it all the same.
    work.add_done_callback(lambda _: _call_in(loop, turns.give_back))
    return await asyncio.wrap_future(work)


def _uncollected(work: Callable[[], _Result]) -> _Result:
    """Do it without the collector: it would look at a million values again and again, and let no thread do anything
    meanwhile, though what it finds is hardly ever in a circle.
    """
    gc.disable()
    usual = sys.getswitchinterval()
    sys.setswitchinterval(_SWITCH_SECONDS)
    try:
        return work()
    finally:
        sys.setswitchinterval(usual)
        gc.enable()


class _Turns:
    """Who may use the thread next: each user in turn, and of his own what came first. For one event loop."""

    def __init__(self) -> None:
        self._is_taken = False
        self._waiting: dict[str, collections.deque[asyncio.Future[None]]] = {}

    async def take(self, name: str) -> None:
        """Wait until it is a user's turn; `give_back` ends it."""
        if not self._is_taken:
            self._is_taken = True
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(name, collections.deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.give_back()
            raise

    def give_back(self) -> None:
        while self._waiting:
            name = next(iter(self._waiting))
            own = self._waiting.pop(name)
            turn = own.popleft()
            if own:
                self._waiting[name] = own
            if not turn.done():
                turn.set_result(None)
                return
        self._is_taken = False


_turns: Final[weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Turns]] = weakref.WeakKeyDictionary()


def _call_in(loop: asyncio.AbstractEventLoop, call: Callable[[], None]) -> None:
    # A loop that is closed has nobody who waits.
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(call)
