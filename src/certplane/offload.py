"""What takes long is done in a thread, so that the event loop can serve others meanwhile.

The event loop has one thread for everybody. Most requests have a kilobyte, and cost less than to hand them over; but a
body may have three megabytes, and to read, patch and judge it takes a second. There is one thread for all of that:
Python runs one at a time anyway, and whoever sends many large requests waits behind his own, not others behind him.

What is given to the thread must be a pure function of its arguments: it may not look into what the loop changes.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import gc
from collections.abc import Callable
from typing import Final, ParamSpec, TypeVar

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")

#: Bytes that are dealt with at once: ten milliseconds at the worst, mostly one.
INLINE: Final = 32 * 1024
#: YAML takes so many times as long as JSON.
YAML: Final = 4

_thread: Final = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="certplane-offload")


async def run(
    size: int, function: Callable[_Arguments, _Result], *args: _Arguments.args, **kwargs: _Arguments.kwargs
) -> _Result:
    """The result of a function that takes about as long as so many bytes of JSON; it may raise what it raises."""
    if size <= INLINE:
        return function(*args, **kwargs)
    work = functools.partial(function, *args, **kwargs)
    return await asyncio.get_running_loop().run_in_executor(_thread, _uncollected, work)


def _uncollected(work: Callable[[], _Result]) -> _Result:
    """Do it without the collector: it would look at a million values again and again, and let no thread do anything
    meanwhile, though what it finds is hardly ever in a circle.
    """
    gc.disable()
    try:
        return work()
    finally:
        gc.enable()
