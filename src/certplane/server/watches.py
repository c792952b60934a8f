"""Open watches: what feeds a stream, and what ends it.

A watch ends when its time is up, when the server drains, when its client goes away, or when it falls too far behind.
The first three are ends without a word; the last sends an ERROR event, upon which clients list again.
"""

from __future__ import annotations

import asyncio
import collections
import random
from collections.abc import AsyncIterator, Mapping
from typing import Final

from certplane import clock as clocks
from certplane import errors, offload, telemetry
from certplane.meta import context, options
from certplane.registry import reads
from certplane.server import rendering, requestinfo
from certplane.store import watchcache

#: Seconds between bookmarks for those who want them; the last one comes so many seconds before the end.
_BOOKMARK_INTERVAL: Final = 60.0
_LAST_BOOKMARK: Final = 2.0
#: A watch without timeoutSeconds lasts this long, times a random factor between 1 and 2, as in kube-apiserver.
_SHORTEST: Final = 1800.0
#: No watch lasts longer, whatever is asked for: clients that begin anew every hour at the latest are spread over the
#: copies of a server again, and what a lost connection left behind goes.
_LONGEST: Final = 2 * _SHORTEST


class Watches:
    """All watches of a server, so that they can be ended together."""

    def __init__(self, clock: clocks.Clock) -> None:
        self._clock = clock
        self._open: dict[watchcache.Watcher, context.RequestInfo] = {}
        self._draining = False

    def __len__(self) -> int:
        return len(self._open)

    def count(self) -> Mapping[telemetry.WatchLabels, int]:
        """How many there are, by what they are about."""
        return collections.Counter(
            (of.group, of.version, of.resource, of.subresource, requestinfo.scope(of), telemetry.COMPONENT)
            for of in self._open.values()
        )

    def drain(self) -> None:
        """End all watches, and those that are begun from now on, as if their time were up."""
        self._draining = True
        for watcher in list(self._open):
            watcher.close()

    async def feed(
        self, stream: reads.Stream, framer: rendering.Framer, how: options.ListOptions, about: context.RequestInfo
    ) -> AsyncIterator[bytes]:
        """The body of one watch."""
        watcher = stream.watcher
        if how.timeout_seconds < 0:
            # Its time was up before it began.
            watcher.close()
            return
        self._open[watcher] = about
        keeper = asyncio.ensure_future(self._keep(watcher, how))
        try:
            begin = await offload.run(framer.weight(stream.initial), framer.initial, stream.initial)
            if stream.initial_end:
                begin += framer.bookmark(stream.revision, initial_end=True)
            yield begin
            if self._draining:
                return
            async for notices in stream.notices:
                if notices:
                    yield rendering.many(notices, framer)
                # No notices are the keeper's reminder that a bookmark is due; one that says where the watch began
                # would say nothing.
                elif watcher.revision > stream.revision:
                    yield framer.bookmark(watcher.revision, initial_end=False)
            if watcher.overflowed:
                yield framer.error(errors.Expired("too old resource version: the watch fell behind").status())
        except rendering.NotShown:
            # The answer has begun and cannot become a refusal.
            return
        finally:
            keeper.cancel()
            watcher.close()
            del self._open[watcher]

    async def _keep(self, watcher: watchcache.Watcher, how: options.ListOptions) -> None:
        """Remind the watch of its bookmarks, and end it when its time is up."""
        end = self._clock.monotonic() + _lifetime(how)
        if how.allow_watch_bookmarks:
            await self._remind(watcher, end - _LAST_BOOKMARK)
        await self._clock.sleep(max(end - self._clock.monotonic(), 0.0))
        watcher.close()

    async def _remind(self, watcher: watchcache.Watcher, last: float) -> None:
        """Wake the watch at each interval, and at the time of the last bookmark."""
        left = last - self._clock.monotonic()
        while left > 0:
            await self._clock.sleep(min(left, _BOOKMARK_INTERVAL))
            watcher.wake()
            # Clocks may wake early by a trifle, for which nobody needs another bookmark.
            left = last - self._clock.monotonic() if left > _BOOKMARK_INTERVAL else 0.0


def _lifetime(how: options.ListOptions) -> float:
    if how.timeout_seconds:
        return min(float(how.timeout_seconds), _LONGEST)
    return _SHORTEST * (1.0 + random.random())  # noqa: S311 - spreads reconnections, no secret
