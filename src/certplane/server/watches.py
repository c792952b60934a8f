"""Open watches: their event streams, and what ends them.

A watch ends at its timeout, when the server drains, when its client disconnects, or when it falls too far behind. In
the last case it sends an ERROR event, after which clients list again; in the others the stream just ends.
"""

from __future__ import annotations

import asyncio
import collections
import random
from collections.abc import AsyncIterator, Mapping
from typing import Final

from certplane import errors, offload, telemetry
from certplane.clock import Clock
from certplane.meta import context, options
from certplane.registry import reads
from certplane.server import rendering, requestinfo
from certplane.store import watchcache

#: Seconds between bookmarks, if the client allows them; and between the last one and the end.
_BOOKMARK_INTERVAL: Final = 60.0
_LAST_BOOKMARK: Final = 2.0
#: Without timeoutSeconds a watch lasts this long, times a random factor between 1 and 2, as in kube-apiserver.
_MIN_TIMEOUT: Final = 1800.0
#: The maximum of timeoutSeconds. Reconnecting at least once an hour spreads the clients over the replicas of a server,
#: and frees what a lost connection has left behind.
_MAX_TIMEOUT: Final = 2 * _MIN_TIMEOUT


class Watches:
    """All open watches of a server."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._open: dict[watchcache.Watcher, context.RequestInfo] = {}
        self._draining = False

    def __len__(self) -> int:
        return len(self._open)

    def count(self) -> Mapping[telemetry.WatchLabels, int]:
        """The number of open watches by metric labels."""
        return collections.Counter(
            (info.group, info.version, info.resource, info.subresource, requestinfo.scope(info), telemetry.COMPONENT)
            for info in self._open.values()
        )

    def drain(self) -> None:
        """End all watches, and each new one at once, as at their timeout."""
        self._draining = True
        for watcher in list(self._open):
            watcher.close()

    async def stream_events(
        self,
        stream: reads.AnyStream,
        framer: rendering.Framer,
        list_options: options.ListOptions,
        info: context.RequestInfo,
    ) -> AsyncIterator[bytes]:
        """The response body of one watch, in chunks."""
        watcher = stream.watcher
        if list_options.timeout_seconds < 0:
            # A negative timeoutSeconds has expired before the watch begins, as in kube-apiserver.
            watcher.close()
            return
        self._open[watcher] = info
        timer = asyncio.ensure_future(self._time(watcher, list_options))
        try:
            frames = await offload.run(framer.cost(stream.initial), framer.initial, stream.initial)
            if stream.initial_end:
                frames += framer.bookmark(stream.revision, initial_end=True)
            yield frames
            if self._draining:
                return
            async for events in stream.events:
                if events:
                    yield rendering.frames(events, framer)
                # An empty batch means that a bookmark is due; one with the initial resourceVersion would be useless.
                elif watcher.revision > stream.revision:
                    yield framer.bookmark(watcher.revision, initial_end=False)
            if watcher.overflowed:
                yield framer.error(errors.Expired("too old resource version: the watch fell behind").status())
        except rendering.UnsupportedEvent:
            # The response has begun, so an error can no longer be sent.
            return
        finally:
            timer.cancel()
            watcher.close()
            del self._open[watcher]

    async def _time(self, watcher: watchcache.Watcher, list_options: options.ListOptions) -> None:
        """Trigger the bookmarks of the watch, and end it at its timeout."""
        end = self._clock.monotonic() + _timeout(list_options)
        if list_options.allow_watch_bookmarks:
            await self._trigger_bookmarks(watcher, end - _LAST_BOOKMARK)
        await self._clock.sleep(max(end - self._clock.monotonic(), 0.0))
        watcher.close()

    async def _trigger_bookmarks(self, watcher: watchcache.Watcher, last: float) -> None:
        """Wake the watch for a bookmark after each interval, and for the last one at `last`."""
        left = last - self._clock.monotonic()
        while left > 0:
            await self._clock.sleep(min(left, _BOOKMARK_INTERVAL))
            watcher.wake()
            # sleep() may return slightly early, which must not cause an extra bookmark.
            left = last - self._clock.monotonic() if left > _BOOKMARK_INTERVAL else 0.0


def _timeout(list_options: options.ListOptions) -> float:
    if list_options.timeout_seconds:
        return min(float(list_options.timeout_seconds), _MAX_TIMEOUT)
    return _MIN_TIMEOUT * (1.0 + random.random())  # noqa: S311 - spreads reconnections, no secret
