"""Decisions about one certificate: when to request it, with which credentials, and what to do when something fails.

`Rotation.steps` is a generator without any I/O, clock or randomness of its own: it yields a command, and is sent the
event that the command led to. The driver is `process`; tests and the simulation of a fleet are drivers, too.

The rules, most of them those of the kubelet (client-go `util/certificate/certificate_manager.go`):

- A certificate is renewed between 70 and 90 % of its lifetime (`schedule`), or when its names are not those that are
  configured, or when an administrator asks for it.
- Each certificate has a new key. The key is stored before its CSR is created, and kept as long as the CSR may still be
  issued; only then is it discarded. The name of the CSR is derived from the key: a CSR that was created without us
  hearing of it, because the answer was lost or the process ended, is found again. The kubelet creates another one.
- There is one CSR at a time. It is waited for as long as it exists, but not much longer than a day. One that is
  deleted, by a cleaner for example, is created again with the same key.
- A denied or failed request is given up with its key. The next one follows after hours: nothing has changed until then.
- Failures are retried after 2, 4, 8, 16, 32 seconds and so on up to five minutes, and not before the time that the
  server asks for. All pauses are random, so that many agents do not act at once.
- Without a valid certificate of its own, or when the server refuses it, an agent requests it with its bootstrap
  credentials. Its other certificates are requested with its own one alone: approval depends on who requests.
- The renewal time is a time of the wall clock, which may jump: it is also counted on the monotonic clock, and the
  earlier of both applies. Pauses are on the monotonic clock alone.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Generator
from typing import Final, NoReturn

import msgspec

from certplane.agent import schedule
from certplane.agent.schedule import Notice, RenewalTimes, Validity

_HOUR: Final = 3600.0
#: A new certificate that has to be renewed at once, and names that the signer leaves out, are retried after this time.
_QUIET_SECONDS: Final = _HOUR
_FIRST_PAUSE: Final = 2.0
_LONGEST_PAUSE: Final = 300.0
#: A CSR is looked up after a third of the time that it has been waited for, within these limits.
_POLL_SECONDS: Final = (1.0, 120.0)
#: After a denial or a failure: one hour, then longer; sooner, if the certificate would expire.
_DENIED_SECONDS: Final = (600.0, 1 * _HOUR, 6 * _HOUR)
#: How long one CSR is waited for. A cluster removes pending ones after a day.
_ABANDONED_SECONDS: Final = 25 * _HOUR
#: The first request of an agent without a certificate is delayed by up to this time, and that of an agent whose
#: certificate has expired by up to the second: then the rest of a fleet probably waits, too.
_START_SECONDS: Final = 2.0
_EXPIRED_SECONDS: Final = 120.0


class Moment(msgspec.Struct, frozen=True):
    """A time: `wall` in POSIX seconds, `steady` in seconds of the monotonic clock."""

    wall: float
    steady: float


class Policy(msgspec.Struct, frozen=True):
    """What the configuration says. `is_identity`: the agent authenticates with this certificate."""

    signer: str
    times: RenewalTimes = msgspec.field(default_factory=RenewalTimes)
    is_identity: bool = False


class Credentials(enum.Enum):
    """With what the agent authenticates."""

    #: The certificate that it maintains for itself; the bootstrap credentials, if there is none.
    IDENTITY = "identity"
    #: Those of the kubeconfig, or a token.
    BOOTSTRAP = "bootstrap"


class Outcome(enum.Enum):
    """The state of a CSR."""

    PENDING = "pending"
    APPROVED = "approved"
    ISSUED = "issued"
    DENIED = "denied"
    FAILED = "failed"
    #: It does not exist (any more).
    GONE = "gone"
    #: Another one has its name: its UID or its public key is not ours.
    REPLACED = "replaced"


# --- commands -----------------------------------------------------------------------------------------------------


class Load(msgspec.Struct, frozen=True):
    """Read what is stored. Answered by Loaded or StoreFailed."""


class Wait(msgspec.Struct, frozen=True):
    """Wait until one of two times: `wall` on the wall clock, `steady` on the monotonic clock; infinity for none.
    Answered by Woken, or earlier by RenewNow or Noticed.
    """

    wall: float
    steady: float


class Prepare(msgspec.Struct, frozen=True):
    """Generate a key and store it as pending. Answered by Done or StoreFailed."""


class Submit(msgspec.Struct, frozen=True):
    """Create a CSR for the pending key, unless it exists, and store its name and UID. Answered by Submitted, Refused,
    Unreachable or StoreFailed.
    """

    credentials: Credentials


class Fetch(msgspec.Struct, frozen=True):
    """Read the CSR. Answered by Fetched, Refused or Unreachable."""

    credentials: Credentials
    name: str
    uid: str


class Save(msgspec.Struct, frozen=True):
    """Make a certificate and the pending key the current pair. Answered by Saved or StoreFailed."""

    certificate: bytes


class Discard(msgspec.Struct, frozen=True):
    """Remove the pending key. Answered by Done or StoreFailed."""


class Install(msgspec.Struct, frozen=True):
    """The current pair was replaced: have it installed (`installation`), without waiting for it. Answered by Done."""


Command = Load | Wait | Prepare | Submit | Fetch | Save | Discard | Install


# --- events -------------------------------------------------------------------------------------------------------


class Event(msgspec.Struct, frozen=True):
    """Something that has happened. `now` is when."""

    now: Moment


class Loaded(Event, frozen=True):
    """What is stored: the current certificate, whether its names are those that are configured, and the pending key
    with name and UID of its CSR, which are empty until it is created.
    """

    validity: Validity | None = None
    is_as_configured: bool = True
    has_pending: bool = False
    csr_name: str = ""
    csr_uid: str = ""


class Woken(Event, frozen=True):
    """The time has come."""


class RenewNow(Event, frozen=True):
    """An operator wants a new certificate. With `new_key`, the key of a request under way is not used any more: it may
    have been disclosed with the current one.
    """

    new_key: bool = False


class Noticed(Event, frozen=True):
    """The administrator's notice has changed. None: there is none any more."""

    notice: Notice | None


class Done(Event, frozen=True):
    """The command was carried out."""


class Submitted(Event, frozen=True):
    """The CSR exists."""

    name: str
    uid: str


class Refused(Event, frozen=True):
    """The server refused a request. `retry_after` is in seconds, 0 for none."""

    code: int
    message: str
    retry_after: float = 0.0


class Unreachable(Event, frozen=True):
    """There was no answer. The request may have been executed all the same."""

    message: str


class Fetched(Event, frozen=True):
    """The state of the CSR; reason and message of its denial or failure; for an issued one the certificate, with its
    validity, which is None if the certificate cannot be used: then `message` says why.
    """

    outcome: Outcome
    message: str = ""
    certificate: bytes = b""
    validity: Validity | None = None


class Saved(Event, frozen=True):
    """The certificate is current, and the pending key is gone."""

    validity: Validity
    is_as_configured: bool = True


class StoreFailed(Event, frozen=True):
    """The disk is full, or files cannot be used."""

    message: str


Steps = Generator[Command, Event, None]


class Phase(enum.Enum):
    """What a rotation is doing, in the words of `certplane agent status`."""

    STARTING = "Starting"
    WAITING = "Current"
    REQUESTING = "Requesting"
    PENDING = "Pending"
    SAVING = "Saving"
    GIVEN_UP = "Denied"


class Status(msgspec.Struct):
    """What a rotation knows. `renewal` is the next renewal, in POSIX seconds; `problem` is empty if there is none.
    `failures` counts since the last success, `errors` and `renewals` since the start.
    """

    phase: Phase = Phase.STARTING
    validity: Validity | None = None
    renewal: float | None = None
    csr_name: str = ""
    problem: str = ""
    failures: int = 0
    errors: int = 0
    renewals: int = 0
    #: How long the last replaced certificate was in use, in seconds: the kubelet's metric of rotation.
    last_age: float | None = None


class _Restart(Exception):
    """The request under way is to be given up."""


class Rotation:
    """The decisions about one certificate. `random` returns numbers in [0, 1)."""

    def __init__(self, policy: Policy, random: Callable[[], float]) -> None:
        self.status = Status()
        self._policy = policy
        self._random = random
        self._now = Moment(0.0, 0.0)
        self._is_as_configured = True
        self._has_pending = False
        self._csr = ("", "")
        self._notice: tuple[Notice, float] | None = None
        self._is_forced = False
        self._is_rejected = False
        self._denials = 0
        self._losses = 0
        #: No renewal before this time of the monotonic clock.
        self._quiet_until = 0.0

    def steps(self) -> Steps:
        """The commands, without end."""
        yield from self._load()
        while True:
            try:
                if not self._has_pending:
                    yield from self._wait_until_due()
                yield from self._request()
            except _Restart:
                self._is_forced = True
                yield from self._discard()

    # --- waiting --------------------------------------------------------------------------------------------------

    def _load(self) -> Steps:
        while True:
            event = yield Load()
            self._now = event.now
            if isinstance(event, Loaded):
                break
            yield from self._fail(event)
        self.status.validity = event.validity
        self._is_as_configured = event.is_as_configured
        self._has_pending = event.has_pending
        self._csr = (event.csr_name, event.csr_uid)
        self._succeed()

    def _wait_until_due(self) -> Steps:
        self.status.phase = Phase.WAITING
        delay = self._first_delay()
        due, steady = 0.0, 0.0
        while not self._is_forced:
            latest = self._due(delay)
            if latest != due:
                due, steady = latest, self._now.steady + latest - self._now.wall
            self.status.renewal = due
            if self._now.steady >= self._quiet_until and (due <= self._now.wall or steady <= self._now.steady):
                break
            if self._now.steady < self._quiet_until:
                event = yield Wait(float("inf"), self._quiet_until)
            else:
                event = yield Wait(due, steady)
            self._take(event)

    def _first_delay(self) -> float:
        """Seconds before the request of a certificate that is needed at once."""
        spread = _START_SECONDS if self.status.validity is None else _EXPIRED_SECONDS
        return self._now.wall + spread * self._random()

    def _due(self, soon: float) -> float:
        """When to renew. `soon` is the time for a certificate that is needed at once."""
        validity, times = self.status.validity, self._policy.times
        if validity is None or validity.not_after <= self._now.wall:
            return soon
        due = schedule.renewal_time(validity, times)
        if self._notice is not None:
            notice, seen = self._notice
            # A notice whose time is not over yet does not concern the certificates that were renewed because of it.
            if notice.concerns(validity, self._policy.signer) and validity.not_before < seen:
                due = min(due, schedule.noticed_time(validity, notice, seen))
        if not self._is_as_configured:
            due = min(due, validity.start + _QUIET_SECONDS)
        return schedule.wait_for_window(validity, times.window, due)

    def _take(self, event: Event) -> None:
        """Handle an event that a Wait was answered with. Raises _Restart."""
        self._now = event.now
        if isinstance(event, RenewNow):
            self._is_forced = True
            if event.new_key and self._has_pending:
                raise _Restart
        elif isinstance(event, Noticed):
            former = self._notice[0] if self._notice is not None else None
            if event.notice != former:
                self._notice = (event.notice, self._now.wall) if event.notice is not None else None

    def _pause(self, seconds: float) -> Steps:
        """Wait; an operator who asks for a renewal ends it. Raises _Restart."""
        until = self._now.steady + seconds
        while self._now.steady < until:
            event = yield Wait(float("inf"), until)
            self._take(event)
            if isinstance(event, RenewNow):
                break

    def _fail(self, event: Event) -> Steps:
        """Record a failure, and wait until the next attempt."""
        if isinstance(event, Refused):
            self.status.problem = f"the server responds with {event.code}: {event.message}"
            retry_after = event.retry_after
        elif isinstance(event, Unreachable | StoreFailed):
            self.status.problem, retry_after = event.message, 0.0
        else:
            _unexpected(event)
        if isinstance(event, Refused) and event.code == 401:
            # The certificate was revoked, or the server has another CA; or the bootstrap token has expired.
            self._is_rejected = not self._is_rejected
        pause = min(_FIRST_PAUSE * 2.0 ** min(self.status.failures, 20), _LONGEST_PAUSE)
        self.status.failures += 1
        self.status.errors += 1
        yield from self._pause(max(pause * (0.5 + self._random()), retry_after * (1.0 + self._random() / 2)))

    def _succeed(self) -> None:
        self.status.problem, self.status.failures = "", 0

    # --- requesting -----------------------------------------------------------------------------------------------

    def _request(self) -> Steps:
        """Request a certificate until there is one, or until the request is given up."""
        while True:
            self.status.phase = Phase.REQUESTING
            self.status.csr_name = self._csr[0]
            self.status.renewal = None
            if not self._csr[0]:
                yield from self._wait_for_window()
                if not (yield from self._create()):
                    continue
                # No signer is so fast that the answer would be there already.
                yield from self._pause(_POLL_SECONDS[0] * (0.75 + self._random() / 2))
            fetched = yield from self._await_issue()
            if fetched is None:
                return
            if fetched.outcome is Outcome.ISSUED:
                yield from self._save(fetched)
                return

    def _wait_for_window(self) -> Steps:
        """A retry, too, waits for the maintenance window, if the certificate lasts until then."""
        while not self._is_forced:
            start = schedule.wait_for_window(self.status.validity, self._policy.times.window, self._now.wall)
            if start <= self._now.wall:
                break
            self._take((yield Wait(start, self._now.steady + start - self._now.wall)))

    def _create(self) -> Generator[Command, Event, bool]:
        """One attempt to create the CSR. Returns whether it exists."""
        if not self._has_pending:
            event = yield Prepare()
            self._now = event.now
            if not isinstance(event, Done):
                yield from self._fail(event)
                return False
            self._has_pending = True
        event = yield Submit(self._credentials())
        self._now = event.now
        if not isinstance(event, Submitted):
            yield from self._fail(event)
            if isinstance(event, Refused) and event.code == 409:
                # Somebody else has created a CSR of this name.
                yield from self._discard()
            return False
        self._csr = (event.name, event.uid)
        self.status.phase, self.status.csr_name = Phase.PENDING, event.name
        self._succeed()
        return True

    def _credentials(self) -> Credentials:
        validity = self.status.validity
        is_expired = validity is None or not validity.contains(self._now.wall)
        if self._policy.is_identity and (self._is_rejected or is_expired):
            return Credentials.BOOTSTRAP
        return Credentials.IDENTITY

    def _await_issue(self) -> Generator[Command, Event, Fetched | None]:
        """Wait until the CSR is issued, or is to be created again. None: it was given up."""
        self.status.phase, self.status.csr_name = Phase.PENDING, self._csr[0]
        start = self._now.steady
        while True:
            event = yield Fetch(self._credentials(), *self._csr)
            self._now = event.now
            if not isinstance(event, Fetched):
                yield from self._fail(event)
                continue
            self._succeed()
            waited = self._now.steady - start
            if event.outcome in (Outcome.PENDING, Outcome.APPROVED) and waited < _ABANDONED_SECONDS:
                low, high = _POLL_SECONDS
                yield from self._pause(min(max(waited / 3, low), high) * (0.75 + self._random() / 2))
                continue
            if event.outcome is Outcome.GONE:
                yield from self._lose()
                return event
            if event.outcome is not Outcome.ISSUED or self._is_unusable(event):
                yield from self._give_up(event)
                return None
            return event

    def _is_unusable(self, event: Fetched) -> bool:
        """Whether an issued certificate is worse than the current one: unreadable, or expired while that is valid."""
        current, now = self.status.validity, self._now.wall
        is_current_valid = current is not None and current.contains(now)
        return event.validity is None or (is_current_valid and event.validity.not_after <= now)

    def _lose(self) -> Steps:
        """The CSR was deleted: create it again, with the same key and the same name."""
        self.status.problem = f"the CSR {self._csr[0]} was deleted"
        self._csr = ("", "")
        self._losses += 1
        yield from self._pause(min(15.0 * 2.0 ** min(self._losses, 20), _HOUR) * (0.5 + self._random()))

    def _give_up(self, event: Fetched) -> Steps:
        """Nobody will issue this CSR: discard its key, and wait for hours."""
        name = self._csr[0]
        yield from self._discard()
        self.status.phase = Phase.GIVEN_UP
        self.status.problem = _give_up_text(name, event)
        self.status.errors += 1
        self._denials += 1
        low, first, longest = _DENIED_SECONDS
        pause = min(first * 2.0 ** min(self._denials - 1, 20), longest)
        validity = self.status.validity
        if validity is not None and validity.contains(self._now.wall):
            pause = max(low, min(pause, (validity.not_after - self._now.wall) / 4))
        yield from self._pause(pause * (0.75 + self._random() / 2))

    def _discard(self) -> Steps:
        while self._has_pending:
            event = yield Discard()
            self._now = event.now
            if isinstance(event, Done):
                self._has_pending = False
                break
            try:
                yield from self._fail(event)
            except _Restart:
                continue
        self._csr = ("", "")
        self.status.csr_name = ""

    def _save(self, fetched: Fetched) -> Steps:
        """Store the certificate. It is retried for as long as the disk is full: the certificate is kept in memory, the
        key on disk, and the CSR on the server, for some time.
        """
        self.status.phase = Phase.SAVING
        while True:
            event = yield Save(fetched.certificate)
            self._now = event.now
            if isinstance(event, Saved):
                break
            yield from self._fail(event)
        former = self.status.validity
        self.status.last_age = self._now.wall - former.not_before if former is not None else None
        self.status.validity, self.status.csr_name = event.validity, ""
        self.status.renewals += 1
        self._is_as_configured, self._has_pending, self._csr = event.is_as_configured, False, ("", "")
        self._is_rejected = self._is_forced = False
        self._denials = self._losses = 0
        self._succeed()
        self._check_new(event)
        self._now = (yield Install()).now

    def _check_new(self, event: Saved) -> None:
        """A certificate that would have to be renewed at once must not be requested again and again."""
        if self._due(self._now.wall) <= self._now.wall:
            left = event.validity.not_after - self._now.wall
            self._quiet_until = self._now.steady + (min(_QUIET_SECONDS, left / 4) if left > 0 else _QUIET_SECONDS)
            self.status.problem = (
                "the new certificate would have to be renewed at once: compare the clock of this host with that of the "
                "signer"
            )
        elif event.validity.not_before > self._now.wall:
            self.status.problem = "the new certificate is not valid yet: the clock of this host is probably slow"
        elif not event.is_as_configured:
            self.status.problem = "the signer has issued other names than those that are configured"


def _give_up_text(name: str, event: Fetched) -> str:
    texts = {
        Outcome.DENIED: f"the CSR {name} was denied",
        Outcome.FAILED: f"the signer cannot issue the CSR {name}",
        Outcome.REPLACED: f"another CSR has the name {name}",
        Outcome.ISSUED: f"the certificate of the CSR {name} cannot be used",
    }
    text = texts.get(event.outcome, f"the CSR {name} was not decided in time")
    return f"{text}: {event.message}" if event.message else text


def _unexpected(event: Event) -> NoReturn:
    raise AssertionError(f"unexpected event: {type(event).__name__}")
