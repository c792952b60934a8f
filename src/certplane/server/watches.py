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
from certplane import errors, telemetry
from certplane.meta import context, options
from certplane.registry import reads
from certplane.server import rendering, requestinfo
from certplane.store import watchcache

#: Seconds between bookmarks for those who want them; the last one comes so many seconds before the end.
_BOOKMARK_INTERVAL: Final = 60.0
_LAST_BOOKMARK: Final = 2.0
#: A watch without timeoutSeconds lasts this long, times a random factor between 1 and 2, as in kube-apiserver.
_SHORTEST: Final = 1800.0


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
        self._open[watcher] = about
        keeper = asyncio.ensure_future(self._keep(watcher, how))
        try:
            begin = b"".join([framer.event("ADDED", each) for each in stream.initial])
            if stream.initial_end:
                begin += framer.bookmark(stream.revision, initial_end=True)
            yield begin
            if self._draining:
                return
            async for notices in stream.notices:
                # A batch without notices is the keeper's reminder that a bookmark is due.
                yield (
                    rendering.many(notices, framer) if notices else framer.bookmark(watcher.revision, initial_end=False)
                )
            if watcher.overflowed:
                yield framer.error(errors.Expired("too old resource version: the watch fell behind").status())
        finally:
            keeper.cancel()
            watcher.close()
            del self._open[watcher]

    async def _keep(self, watcher: watchcache.Watcher, how: options.ListOptions) -> None:
        """Remind the watch of its bookmarks, and end it when its time is up."""
        end = self._clock.monotonic() + _lifetime(how)
        while (left := end - self._clock.monotonic()) > 0:
            if how.allow_watch_bookmarks and left > _LAST_BOOKMARK:
                await self._clock.sleep(min(left - _LAST_BOOKMARK, _BOOKMARK_INTERVAL))
                watcher.wake()
            else:
                await self._clock.sleep(left)
        watcher.close()


def _lifetime(how: options.ListOptions) -> float:
    if how.timeout_seconds:
        return float(how.timeout_seconds)
    return _SHORTEST * (1.0 + random.random())  # noqa: S311 - spreads reconnections, no secret
