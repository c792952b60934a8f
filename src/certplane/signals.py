"""Signal handling of the long-running commands: SIGTERM and SIGINT shut down gracefully, SIGHUP reloads files.

Handlers are installed twice: in `certplane.__main__`, before any module is loaded, and here, for the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable
from typing import Final

_STOPPING: Final = (signal.SIGTERM, signal.SIGINT)


class Signals:
    """The signal handlers of a process with an event loop. Create it in the loop, in the main thread, before any long
    step of the start: the step that runs when a signal arrives is finished, and `is_stopping` says that no other must
    follow.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopped = asyncio.Event()
        self._reload: Callable[[], None] = lambda: None
        self.is_stopping = False
        for number in _STOPPING:
            signal.signal(number, self._stop)
        signal.signal(signal.SIGHUP, self._hang_up)

    def on_reload(self, callback: Callable[[], None]) -> None:
        """Set what SIGHUP calls; before that, SIGHUP does nothing."""
        self._reload = callback

    async def stopped(self) -> None:
        """Return when SIGTERM or SIGINT has arrived."""
        await self._stopped.wait()

    # Handlers run between any two bytecode instructions, so they only schedule a call in the event loop. If the loop is
    # closed already (RuntimeError), there is nothing left to stop.

    def _stop(self, *_: object) -> None:
        self.is_stopping = True
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._stopped.set)

    def _hang_up(self, *_: object) -> None:
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._reload)
