"""The process of `certplane agent run`: one worker for each certificate, and what they share.

SIGHUP reads the configuration again, and looks for renewals that an operator asks for. A configuration that has not
changed leaves the workers alone; a new one restarts them, which is as safe as a restart of the process.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import pathlib
import random
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from certplane import clock, errors, files, logs, metricsserver, timestamps
from certplane.agent import kinds, metrics, requests, settingsfile
from certplane.agent.access import Access
from certplane.agent.bundlekeeper import BundleKeeper
from certplane.agent.pairstore import Pair, PairStore, StoreProblem
from certplane.agent.rotation import Credentials
from certplane.agent.schedule import Notice
from certplane.agent.settings import AgentSettings, RenewalNotice
from certplane.agent.status import AgentDirectory, AgentStatus, AskedRenewal
from certplane.agent.worker import Surroundings, Worker
from certplane.client import api
from certplane.client.credentials import CredentialProblem
from certplane.clock import Clock, SystemClock
from certplane.errors import SetupError
from certplane.metricsserver import Page
from certplane.signals import Signals

_log = logging.getLogger("certplane")

#: How often the notice of early renewal is read; at random, so that a fleet does not read it at once.
_NOTICE_SECONDS: Final = 1800.0
_NOTICE_RETRY_SECONDS: Final = 300.0
#: The status is written at most this often.
_STATUS_SECONDS: Final = 1.0
_REQUEST_SECONDS: Final = 90.0


class Agent:
    """The workers of one configuration. Call `run` while the directory is locked."""

    def __init__(self, settings: AgentSettings, timer: Clock, numbers: random.Random) -> None:
        """Raises SetupError, StoreProblem if the files on disk cannot be used."""
        self._settings = settings
        self._clock = timer
        self._random = numbers
        self._directory = AgentDirectory(settings.directory)
        self._changed = asyncio.Event()
        self._passed_on: dict[str, AskedRenewal] = {}
        self.access = Access(settings.server, self._identity, timer)
        around = Surroundings(self.access, self._directory, timer, numbers.random, self._changed.set)
        self._stores = {item.name: PairStore(settings.directory, item.name) for item in settings.certificates}
        for store in self._stores.values():
            store.check()
        self._workers = {
            item.name: Worker(item, self._stores[item.name], around, identity=item.name == settings.server.identity)
            for item in settings.certificates
        }

        self._keepers = [
            BundleKeeper(bundle, self.access, timer, numbers.random, self._in_use, self._changed.set)
            for bundle in settings.trust_bundles
        ]

    def _in_use(self) -> Sequence[bytes]:
        return [chain for worker in self._workers.values() for chain in worker.in_use()]

    def _identity(self) -> Pair | None:
        store = self._stores.get(self._settings.server.identity)
        return store.current() if store is not None else None

    async def run(self) -> None:
        """Run until cancelled. Raises SetupError if something cannot be used from the start on."""
        with contextlib.ExitStack() as stack:
            for store in self._stores.values():
                stack.enter_context(store.locked())
            self.pass_on_renewals()
            async with (
                metricsserver.served(self._settings.metrics_address, self._metrics, self._clock),
                asyncio.TaskGroup() as group,
            ):
                for worker in self._workers.values():
                    group.create_task(worker.run())
                for keeper in self._keepers:
                    group.create_task(keeper.run())
                group.create_task(self._keep_status())
                if self._settings.notice is not None:
                    group.create_task(self._read_notices(self._settings.notice))

    def pass_on_renewals(self) -> None:
        """Tell the workers which renewals an operator has asked for."""
        for name, asked in self._directory.asked_renewals(list(self._workers)).items():
            if self._passed_on.get(name) != asked:
                self._passed_on[name] = asked
                _log.info("renewal requested by an operator", extra={"certificate": name, "new_key": asked.new_key})
                self._workers[name].renew(new_key=asked.new_key)

    def _metrics(self) -> Page:
        bundles = [keeper.status() for keeper in self._keepers]
        certificates = [worker.metrics() for worker in self._workers.values()]
        text = metrics.render(certificates, bundles, self._clock.now().timestamp())
        return Page((text.encode(),))

    async def _keep_status(self) -> None:
        former: AgentStatus | None = None
        problem = ""
        while True:
            self._changed.clear()
            written = timestamps.rfc3339(self._clock.now())
            status = AgentStatus(
                written=written,
                certificates=[worker.status() for worker in self._workers.values()],
                trust_bundles=[keeper.status() for keeper in self._keepers],
            )
            if former is None or msgspec.structs.replace(former, written=written) != status:
                try:
                    self._directory.write_status(status)
                    former, problem = status, ""
                except SetupError as error:
                    if problem != str(error):
                        problem = str(error)
                        _log.warning("the status cannot be written", extra={"error": problem})
            await self._clock.sleep(_STATUS_SECONDS)
            await self._changed.wait()

    # --- early renewal --------------------------------------------------------------------------------------------

    async def _read_notices(self, place: RenewalNotice) -> None:
        problem = ""
        while True:
            pause = _NOTICE_SECONDS
            try:
                notice = await clock.wait_for(self._clock, self._read_notice(place), _REQUEST_SECONDS)
                for worker in self._workers.values():
                    worker.notice(notice)
                problem = ""
            except (errors.APIError, api.Unreachable, CredentialProblem, SetupError, TimeoutError, ValueError) as error:
                if problem != str(error):
                    problem = str(error)
                    place_text = f"{place.namespace}/{place.name}"
                    text = requests.printable(problem)
                    _log.info("the renewal notice cannot be read", extra={"config_map": place_text, "error": text})
                pause = _NOTICE_RETRY_SECONDS
            await self._clock.sleep(pause * (0.75 + self._random.random() / 2))

    async def _read_notice(self, place: RenewalNotice) -> Notice | None:
        async with self.access.client(Credentials.IDENTITY) as client:
            try:
                config_map = await client.get(kinds.CONFIG_MAPS, place.name, place.namespace)
            except errors.NotFound:
                return None
        return parse_notice(config_map.data)


def parse_notice(data: dict[str, str]) -> Notice | None:
    """The notice in the data of a ConfigMap: `renewBefore` and `issuedBefore` are RFC 3339, `signerNames` are separated
    by commas. None without `renewBefore`. Raises ValueError.
    """
    if not data.get("renewBefore"):
        return None
    if not data.get("issuedBefore"):
        raise ValueError("renewBefore without issuedBefore: which certificates are to be renewed?")
    signers = tuple(name.strip() for name in data.get("signerNames", "").split(",") if name.strip())
    return Notice(
        issued_before=timestamps.parse_rfc3339(data["issuedBefore"]).timestamp(),
        renew_before=timestamps.parse_rfc3339(data["renewBefore"]).timestamp(),
        signers=signers,
    )


# --- the process --------------------------------------------------------------------------------------------------


async def _run(path: pathlib.Path, settings: AgentSettings, timer: Clock) -> None:
    received = Signals()
    asked = asyncio.Event()
    received.on_reload(asked.set)
    stopped = asyncio.ensure_future(received.stopped())
    numbers = random.Random(os.urandom(16))  # noqa: S311 - it spreads load, and protects nothing
    try:
        while not received.is_stopping:
            with AgentDirectory(settings.directory).locked():
                agent = Agent(settings, timer, numbers)
                agent.access.config(Credentials.BOOTSTRAP)
                settings = await _run_agent(path, settings, agent, asked, stopped)
    finally:
        stopped.cancel()
    _log.info("stopping")


async def _run_agent(
    path: pathlib.Path, settings: AgentSettings, agent: Agent, asked: asyncio.Event, stopped: asyncio.Future[None]
) -> AgentSettings:
    """Run an agent until the process is to stop, or the configuration has changed. Returns the configuration."""
    running = asyncio.ensure_future(agent.run())
    reloading = asyncio.ensure_future(asked.wait())
    _log.info("agent running", extra={"config": path, "certificates": len(settings.certificates)})
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
            latest = _reload(path, settings)
            if latest != settings:
                return latest
            agent.pass_on_renewals()
    finally:
        for task in (running, reloading):
            task.cancel()
        await asyncio.gather(running, reloading, return_exceptions=True)


def _reload(path: pathlib.Path, settings: AgentSettings) -> AgentSettings:
    try:
        latest = settingsfile.load(path)
    except SetupError as error:
        _log.error("the configuration cannot be used; the former one is kept", extra={"error": str(error)})
        return settings
    _log.info("configuration read", extra={"changed": latest != settings})
    return latest


def run(path: pathlib.Path) -> int:
    """`certplane agent run`: the whole process, and its exit code. Raises SetupError."""
    os.umask(0o077)
    settings = settingsfile.load(path)
    with logs.logging_to(level=settings.log_level):
        try:
            files.warn_if_readable(settings.server.kubeconfig)
            files.warn_if_readable(settings.server.token_file)
            asyncio.run(_run(path, settings, SystemClock()))
        except* (SetupError, StoreProblem) as group:
            error = _first(group)
            if isinstance(error, SetupError):
                raise error from None
            raise SetupError(str(error), ("certplane agent check names all problems of the files",)) from None
    return 0


def _first(group: BaseExceptionGroup[Exception]) -> Exception:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, Exception)  # noqa: S101 - groups of Exception hold nothing else
    return error
