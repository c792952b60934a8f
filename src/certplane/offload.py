"""Runs long computations in a worker thread, so that the event loop can serve other requests meanwhile.

Most requests have a kilobyte, and to hand them over would cost more than to process them; but a body may have three
megabytes, and to decode, patch and validate it takes a second. There is one worker thread for all of them, because
Python runs one thread at a time anyway. Users with large requests take turns (fair queuing): a user who sends many
waits behind their own.

A function that runs in the thread must be pure: it must not read state that the event loop changes.
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

#: Up to this size, work is done on the event loop: one millisecond mostly, ten at worst.
INLINE_BYTES: Final = 32 * 1024
#: The interpreter's switch interval while the worker runs. The loop waits that long for the interpreter about ten times
#: a request: 5 ms with this value, 50 ms with Python's default of 5 ms. At other times the default costs less.
_SWITCH_SECONDS: Final = 0.0005
#: How many times as long YAML takes as JSON.
YAML_FACTOR: Final = 4

#: The name of the user whose request the present task serves.
current_user: Final[contextvars.ContextVar[str]] = contextvars.ContextVar("current_user", default="")
_thread: Final = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="certplane-offload")


async def run(
    size: int, function: Callable[_Arguments, _Result], *args: _Arguments.args, **kwargs: _Arguments.kwargs
) -> _Result:
    """Call a function that takes about as long as decoding `size` bytes of JSON. Returns its result, raises what it
    raises.
    """
    if size <= INLINE_BYTES:
        return function(*args, **kwargs)
    loop = asyncio.get_running_loop()
    queue = _queues.setdefault(loop, _FairQueue())
    await queue.acquire(current_user.get())
    future = _thread.submit(_run_without_gc, functools.partial(function, *args, **kwargs))
    # Release when the thread is done, not when this coroutine ends: the thread goes on after a cancellation.
    future.add_done_callback(lambda _: _call_in(loop, queue.release))
    return await asyncio.wrap_future(future)


def _run_without_gc(function: Callable[[], _Result]) -> _Result:
    """Call a function with the cycle collector off: it would traverse a million new values again and again, and block
    all threads meanwhile, though documents hardly ever contain cycles.
    """
    gc.disable()
    default = sys.getswitchinterval()
    sys.setswitchinterval(_SWITCH_SECONDS)
    try:
        return function()
    finally:
        sys.setswitchinterval(default)
        gc.enable()


class _FairQueue:
    """A lock for the worker thread: users take turns, and each user's requests are served in order. For one
    event loop.
    """

    def __init__(self) -> None:
        self._is_taken = False
        self._waiting: dict[str, collections.deque[asyncio.Future[None]]] = {}

    async def acquire(self, user: str) -> None:
        """Wait until it is the user's turn; `release` ends the turn."""
        if not self._is_taken:
            self._is_taken = True
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(user, collections.deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.release()
            raise

    def release(self) -> None:
        while self._waiting:
            user = next(iter(self._waiting))
            turns = self._waiting.pop(user)
            turn = turns.popleft()
            if turns:
                self._waiting[user] = turns
            if not turn.done():
                turn.set_result(None)
                return
        self._is_taken = False


_queues: Final[weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _FairQueue]] = weakref.WeakKeyDictionary()


def _call_in(loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
    # RuntimeError: the loop is closed, so no task waits any more.
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(callback)
