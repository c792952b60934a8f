"""Carries out what `rotation` and `installation` decide about one certificate: files, requests, hooks.

Every command is answered with an event; a failure is an event, too. Nothing here decides what happens next.
"""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import datetime
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, TypeVar

from certplane import clock, errors, timestamps
from certplane.agent import hooks, installation, outputs, probe, requests, rotation, trustbundles
from certplane.agent.access import Access
from certplane.agent.metrics import Ages, CertificateMetrics
from certplane.agent.outputs import OutputProblem
from certplane.agent.pairstore import Pair, PairStore, StoreProblem
from certplane.agent.rotation import Credentials, Moment
from certplane.agent.schedule import Notice
from certplane.agent.settings import CertificateSettings
from certplane.agent.status import AgentDirectory, CertificateStatus
from certplane.client import api
from certplane.client.api import Client
from certplane.client.credentials import CredentialProblem
from certplane.clock import Clock
from certplane.errors import SetupError
from certplane.x509 import keys

T = TypeVar("T")

_log = logging.getLogger("certplane")

#: A wait looks at the wall clock this often: it may be set.
_LOOK_SECONDS: Final = 60.0
#: A server that answers nothing in this time is not reachable.
_REQUEST_SECONDS: Final = 90.0


@dataclasses.dataclass(frozen=True, slots=True)
class Surroundings:
    """What the workers of an agent share. `random` returns numbers in [0, 1); `changed` is called when the status of a
    certificate has changed.
    """

    access: Access
    directory: AgentDirectory
    clock: Clock
    random: Callable[[], float]
    changed: Callable[[], None]


class Worker:
    """Keeps one certificate current. Its store must be locked by the caller."""

    def __init__(
        self, settings: CertificateSettings, store: PairStore, around: Surroundings, *, identity: bool
    ) -> None:
        self.settings = settings
        self._store = store
        self._around = around
        self._clock = around.clock
        self._rotation = rotation.Rotation(
            rotation.Policy(settings.signer_name, settings.renewal, identity), around.random
        )
        self._installation = installation.Installation(
            len(settings.hooks),
            around.random,
            has_probe=settings.probe is not None,
            has_certificate=store.current() is not None,
        )
        self._inbox: collections.deque[Callable[[Moment], rotation.Event]] = collections.deque()
        self._arrived = asyncio.Event()
        self._installed = asyncio.Event()
        self._ages = Ages()
        self._logged = ("", rotation.Phase.STARTING)
        self._logged_installation = ("", "", "")
        self._served = b""

    def status(self) -> CertificateStatus:
        """The status, for people."""
        status, installed, validity = self._rotation.status, self._installation.status, self._rotation.status.validity
        return CertificateStatus(
            name=self.settings.name,
            signer_name=self.settings.signer_name,
            phase=status.phase.value,
            serial=validity.serial if validity is not None else "",
            not_before=_time_text(validity.not_before if validity is not None else None),
            not_after=_time_text(validity.not_after if validity is not None else None),
            renewal=_time_text(status.renewal),
            csr=status.csr_name,
            problem=status.problem,
            outputs=installed.outputs,
            hooks=installed.hooks,
            endpoint=installed.probe,
            is_served=installed.is_served,
        )

    def metrics(self) -> CertificateMetrics:
        """The same, for Prometheus."""
        status, installed = self._rotation.status, self._installation.status
        return CertificateMetrics(
            name=self.settings.name,
            is_server="server auth" in self.settings.usages,
            not_after=status.validity.not_after if status.validity is not None else None,
            renewal=status.renewal,
            errors=status.errors,
            renewals=status.renewals,
            has_problem=any((status.problem, installed.outputs, installed.hooks, installed.probe)),
            is_served=installed.is_served,
            ages=self._ages,
        )

    def pair(self) -> Pair | None:
        """The pair in use."""
        return self._store.current()

    def in_use(self) -> Sequence[bytes]:
        """The certificates in use, with their chains, in PEM: the current one, and the one that the endpoint serves."""
        pair = self._store.current()
        served = trustbundles.as_chain(self._served) if self._served else b""
        return [chain for chain in (pair.certificate if pair is not None else b"", served) if chain]

    def renew(self, *, new_key: bool) -> None:
        """Request a new certificate now."""
        self._send(lambda now: rotation.RenewNow(now, new_key))

    def notice(self, notice: Notice | None) -> None:
        """An administrator asks for early renewal, or does not any more."""
        self._send(lambda now: rotation.Noticed(now, notice))

    def _send(self, event: Callable[[Moment], rotation.Event]) -> None:
        self._inbox.append(event)
        self._arrived.set()

    async def run(self) -> None:
        """Run until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._rotate())
            group.create_task(self._install())

    # --- rotation -------------------------------------------------------------------------------------------------

    async def _rotate(self) -> None:
        steps = self._rotation.steps()
        command = next(steps)
        while True:
            self._report()
            event = await self._carry_out(command)
            command = steps.send(event)

    def _now(self) -> Moment:
        return Moment(self._clock.now().timestamp(), self._clock.monotonic())

    async def _carry_out(self, command: rotation.Command) -> rotation.Event:
        try:
            return await self._dispatch(command)
        except StoreProblem as error:
            return rotation.StoreFailed(self._now(), str(error))
        except errors.APIError as error:
            return rotation.Refused(self._now(), error.code, requests.printable(error.message), error.retry_after)
        except TimeoutError:
            return rotation.Unreachable(self._now(), f"no answer within {_REQUEST_SECONDS:g}s")
        except requests.NotOurs:
            return rotation.Refused(self._now(), 409, "another CSR has the name")
        except (api.Unreachable, CredentialProblem, SetupError) as error:
            return rotation.Unreachable(self._now(), requests.printable(str(error)))

    async def _dispatch(self, command: rotation.Command) -> rotation.Event:
        match command:
            case rotation.Wait():
                return await self._wait(command)
            case rotation.Load():
                return self._load()
            case rotation.Prepare():
                self._store.begin(keys.to_pem(keys.generate(self.settings.key_kind)))
            case rotation.Discard():
                self._store.discard_pending()
            case rotation.Submit():
                return await self._submit(command)
            case rotation.Fetch():
                return await self._fetch(command)
            case rotation.Save():
                pair = self._store.save(command.certificate, self._clock.now())
                self._around.directory.renewed(self.settings.name)
                validity = requests.validity(pair.facts, self._clock.now())
                return rotation.Saved(self._now(), validity, requests.is_as_configured(pair.facts, self.settings))
            case rotation.Install():
                if self._rotation.status.last_age is not None:
                    self._ages.add(self._rotation.status.last_age)
                self._installed.set()
        return rotation.Done(self._now())

    def _load(self) -> rotation.Event:
        self._store.recover()
        pair, pending = self._store.current(), self._store.pending()
        name = uid = ""
        # A CSR for what was configured formerly is not waited for; its key is used for another one.
        if pending is not None and pending.csr_name == requests.csr_name(self.settings, pending.key):
            name, uid = pending.csr_name, pending.csr_uid
        return rotation.Loaded(
            self._now(),
            requests.validity(pair.facts, pair.saved) if pair is not None else None,
            pair is None or requests.is_as_configured(pair.facts, self.settings),
            pending is not None,
            name,
            uid,
        )

    def _pending_key(self) -> bytes:
        pending = self._store.pending()
        if pending is None:
            raise StoreProblem("the pending key has disappeared")
        return pending.key

    async def _submit(self, command: rotation.Submit) -> rotation.Event:
        key = self._pending_key()
        name, uid = await self._call(command.credentials, lambda client: requests.submit(client, self.settings, key))
        self._store.submitted(name, uid)
        return rotation.Submitted(self._now(), name, uid)

    async def _fetch(self, command: rotation.Fetch) -> rotation.Event:
        key = self._pending_key()
        outcome, message, certificate, facts = await self._call(
            command.credentials, lambda client: requests.fetch(client, command.name, command.uid, key)
        )
        validity = requests.validity(facts, self._clock.now()) if facts is not None else None
        return rotation.Fetched(self._now(), outcome, message, certificate, validity)

    async def _call(self, credentials: Credentials, operation: Callable[[Client], Awaitable[T]]) -> T:
        async with self._around.access.client(credentials) as client:
            return await clock.wait_for(self._clock, operation(client), _REQUEST_SECONDS)

    async def _wait(self, command: rotation.Wait) -> rotation.Event:
        while True:
            now = self._now()
            if self._inbox:
                return self._inbox.popleft()(now)
            left = min(command.wall - now.wall, command.steady - now.steady)
            if left <= 0:
                return rotation.Woken(now)
            self._arrived.clear()
            await clock.wait_until(self._clock, self._arrived, min(left, _LOOK_SECONDS))

    def _report(self) -> None:
        """Log what has changed, once."""
        status = self._rotation.status
        fields = {"certificate": self.settings.name}
        problem, phase = self._logged
        if status.problem and status.problem != problem:
            _log.warning("certificate problem", extra={**fields, "error": status.problem})
        elif problem and not status.problem:
            _log.info("certificate problem solved", extra={**fields, "former": problem})
        if status.phase is not phase and status.phase is rotation.Phase.PENDING:
            _log.info("certificate requested", extra={**fields, "csr": status.csr_name})
        if status.phase is not phase and status.phase is rotation.Phase.WAITING and status.validity is not None:
            extra = {**fields, "serial": status.validity.serial}
            _log.info("certificate is current", extra=extra)
        self._logged = (status.problem, status.phase)
        self._around.changed()

    # --- installation ---------------------------------------------------------------------------------------------

    async def _install(self) -> None:
        steps = self._installation.steps()
        command = next(steps)
        while True:
            self._report_installation()
            command = steps.send(await self._carry_out_installation(command))

    async def _carry_out_installation(self, command: installation.Command) -> installation.Event:
        try:
            match command:
                case installation.Wait():
                    is_changed = await self._wait_for_change(command.seconds)
                    return installation.Changed() if is_changed else installation.Woken()
                case installation.WriteOutputs():
                    return self._write_outputs()
                case installation.RunHook():
                    hook = self.settings.hooks[command.number]
                    problem = await hooks.run(hook, self._variables(), self._clock)
                    return installation.Failed(problem) if problem else installation.Done()
                case installation.MarkDone():
                    self._store.hooks_done()
                    if self.settings.hooks:
                        _log.info("hooks run", extra={"certificate": self.settings.name})
                    return installation.Done()
                case installation.Probe():
                    return await self._probe()
        except (StoreProblem, OutputProblem, CredentialProblem, SetupError) as error:
            return installation.Failed(str(error))

    async def _wait_for_change(self, seconds: float) -> bool:
        if seconds == float("inf"):
            await self._installed.wait()
        else:
            await clock.wait_until(self._clock, self._installed, seconds)
        is_changed = self._installed.is_set()
        self._installed.clear()
        return is_changed

    def _write_outputs(self) -> installation.Event:
        pair = self._store.current()
        if pair is None:
            raise StoreProblem("there is no certificate")
        roots = self._around.access.roots() if self.settings.outputs.ca is not None else b""
        if outputs.write(self.settings.outputs, pair, roots):
            _log.info("files written", extra={"certificate": self.settings.name, "serial": pair.facts.serial})
        return installation.Done(hooks_due=self._store.hooks_due())

    def _variables(self) -> Mapping[str, str]:
        """What a hook gets to know."""
        pair = self._store.current()
        variables = {"CERTPLANE_NAME": self.settings.name, "CERTPLANE_PAIR": str(self._store.current_path)}
        if pair is not None:
            variables["CERTPLANE_SERIAL"] = pair.facts.serial
        return variables

    async def _probe(self) -> installation.Event:
        pair = self._store.current()
        target = self.settings.probe
        if pair is None or target is None:
            raise StoreProblem("there is no certificate")
        result = await probe.probe(target, self._clock)
        if result.problem:
            return installation.Failed(result.problem)
        self._served = result.certificate
        if result.serial != pair.facts.serial:
            return installation.Failed(
                f"{target.host}:{target.port} serves the certificate {result.serial}, not {pair.facts.serial}"
            )
        return installation.Done()

    def _report_installation(self) -> None:
        status = self._installation.status
        problems = (status.outputs, status.hooks, status.probe)
        for step, problem, former in zip(
            ("files", "hooks", "endpoint"), problems, self._logged_installation, strict=True
        ):
            fields = {"certificate": self.settings.name, "step": step}
            if problem and problem != former:
                _log.warning("installation problem", extra={**fields, "error": problem})
            elif former and not problem:
                _log.info("installation problem solved", extra={**fields, "former": former})
        self._logged_installation = problems
        self._around.changed()


def _time_text(seconds: float | None) -> str:
    """A time in POSIX seconds as RFC 3339; empty for None."""
    return "" if seconds is None else timestamps.rfc3339(datetime.datetime.fromtimestamp(seconds, datetime.UTC))
