"""The process of `certplane watch`: the watch, its metrics, and its notifications.

SIGHUP reads the configuration again, and all sources at once. A configuration that has not changed leaves everything
running; a new one starts the watch anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Sequence
from typing import Any, Final

from certplane import files, logs, metricsserver
from certplane.clock import Clock, SystemClock
from certplane.errors import SetupError
from certplane.expiry import sources, webhooks
from certplane.expiry.settings import WatchSettings
from certplane.expiry.watch import SourceState, Watch
from certplane.expiry.webhooks import NoticeStore, Webhook
from certplane.signals import Signals

_log: Final = logging.getLogger("certplane.watch")

#: Reads the configuration. Raises SetupError.
Load = Callable[[], WatchSettings]


def make(settings: WatchSettings, timer: Clock) -> Watch:
    """The watch of a configuration."""
    return Watch(
        [built for source in settings.sources for built in sources.build(source, timer)], timer, settings.limits
    )


def read_once(settings: WatchSettings, timer: Clock) -> Sequence[SourceState]:
    """Read all sources one time."""
    watch = make(settings, timer)
    asyncio.run(watch.read_once())
    return watch.states


def run(load: Load) -> int:
    """The whole process, and its exit code. Raises SetupError."""
    os.umask(0o077)
    settings = load()
    with logs.logging_to(level=settings.log_level):
        for webhook in settings.webhooks:
            files.warn_if_readable(webhook.url_file)
            files.warn_if_readable(webhook.secret_file)
        try:
            asyncio.run(_run(load, settings, SystemClock()))
        except* SetupError as group:
            raise _first(group) from None
    return 0


async def _run(load: Load, settings: WatchSettings, timer: Clock) -> None:
    received = Signals()
    asked = asyncio.Event()
    received.on_reload(asked.set)
    stopped = asyncio.ensure_future(received.stopped())
    try:
        while not received.is_stopping:
            settings = await _run_settings(load, settings, asked, stopped, timer)
    finally:
        stopped.cancel()
    _log.info("stopping")


async def _run_settings(
    load: Load, settings: WatchSettings, asked: asyncio.Event, stopped: asyncio.Future[None], timer: Clock
) -> WatchSettings:
    """Run a watch until the process is to stop, or the configuration has changed. Returns the configuration."""
    watch = make(settings, timer)
    running = asyncio.ensure_future(_serve(watch, settings, timer))
    reloading = asyncio.ensure_future(asked.wait())
    _log.info("watching", extra={"sources": len(watch.states), "metrics": _address(settings)})
    try:
        while True:
            tasks: set[asyncio.Future[Any]] = {running, stopped, reloading}
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if running.done():
                await running
            if stopped.done():
                return settings
            asked.clear()
            reloading = asyncio.ensure_future(asked.wait())
            latest = _reload(load, settings)
            if latest != settings:
                return latest
            watch.read_now()
    finally:
        for task in (running, reloading):
            task.cancel()
        await asyncio.gather(running, reloading, return_exceptions=True)


async def _serve(watch: Watch, settings: WatchSettings, timer: Clock) -> None:
    async with contextlib.AsyncExitStack() as stack:
        hooks: list[Webhook] = []
        if settings.webhooks:
            store = NoticeStore(settings.state_directory)
            stack.enter_context(store.opened())
            hooks = [Webhook(item, watch, store, timer) for item in settings.webhooks]
            watch.add_metrics(lambda: webhooks.metrics(hooks))
        await stack.enter_async_context(metricsserver.served(settings.metrics_address, watch.page, timer))
        group = await stack.enter_async_context(asyncio.TaskGroup())
        tasks = [group.create_task(run()) for run in (watch.run, *(hook.run for hook in hooks))]
        await asyncio.gather(*tasks)


def _address(settings: WatchSettings) -> str:
    address = settings.metrics_address
    return f"{address.host}:{address.port}" if address is not None else "none"


def _reload(load: Load, settings: WatchSettings) -> WatchSettings:
    try:
        latest = load()
    except SetupError as error:
        _log.error("the configuration cannot be used; the former one is kept", extra={"error": str(error)})
        return settings
    _log.info("configuration read", extra={"changed": latest != settings})
    return latest


def _first(group: BaseExceptionGroup[SetupError]) -> SetupError:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, SetupError)  # noqa: S101 - the group holds nothing else
    return error
