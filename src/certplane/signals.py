"""What signals mean to the commands that run for long: SIGTERM and SIGINT end them well, SIGHUP has files read again.

They are taken twice: in `certplane.__main__`, before anything is loaded, and here, on the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable
from typing import Any, Final

_STOPPING: Final = (signal.SIGTERM, signal.SIGINT)


class Signals:
    """The signals of a program on its event loop. Make it there, in the main thread, before anything that takes time:
    what runs at that moment is finished, and `is_stopping` says that nothing is to follow.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopped = asyncio.Event()
        self._reload: Callable[[], None] = lambda: None
        self.is_stopping = False
        for number in _STOPPING:
            signal.signal(number, self._stop)
        signal.signal(signal.SIGHUP, self._hang_up)

    def on_reload(self, call: Callable[[], None]) -> None:
        """What SIGHUP does; nothing so far."""
        self._reload = call

    async def stopped(self) -> None:
        """Return when somebody wants us to end."""
        await self._stopped.wait()

    # Handlers run between any two instructions, so all that they do is to tell the event loop. It may be over already:
    # then there is nothing left to end.

    def _stop(self, *_: Any) -> None:
        self.is_stopping = True
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._stopped.set)

    def _hang_up(self, *_: Any) -> None:
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._reload)
