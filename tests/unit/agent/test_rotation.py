"""The decisions about one certificate, as playbooks: which command follows which event."""

from __future__ import annotations

import pytest

from certplane.agent.rotation import (
    Credentials,
    Discard,
    Done,
    Fetch,
    Fetched,
    Install,
    Load,
    Loaded,
    Noticed,
    Outcome,
    Phase,
    Policy,
    Prepare,
    Refused,
    RenewNow,
    Rotation,
    Save,
    Saved,
    StoreFailed,
    Submit,
    Submitted,
    Unreachable,
    Wait,
    Woken,
)
from certplane.agent.schedule import Notice, RenewalTimes, Validity, Window, renewal_time
from tests.unit.agent.playbook import START, Playbook

HOUR = 3600.0
DAY = 24 * HOUR
SIGNER = "kubernetes.io/kube-apiserver-client"
CURRENT = Validity("1", START.wall - DAY, START.wall + 9 * DAY)
EXPIRED = Validity("2", START.wall - 10 * DAY, START.wall - DAY)
IDENTITY, BOOTSTRAP = Credentials.IDENTITY, Credentials.BOOTSTRAP


class Story(Playbook):
    """A rotation, with shortcuts for what usually happens."""

    def __init__(self, *, window=None, is_identity=True, random=0.5):
        self.random = random
        self.rotation = Rotation(Policy(SIGNER, RenewalTimes(window=window), is_identity), lambda: random)
        super().__init__(self.rotation.steps())

    @property
    def status(self):
        return self.rotation.status

    def load(self, validity=None, **fields):
        assert self.command == Load()
        return self.send(Loaded, validity, **fields)

    def submit(self, name="node-1"):
        """From the first Wait, or Prepare, to the first Fetch."""
        self.wake_until(Prepare)
        assert isinstance(self.send(Done), Submit)
        self.send(Submitted, name, f"uid-{name}")
        assert self.wake()[0] == pytest.approx(0.75 + self.random / 2)
        return self.command

    def issue(self, serial="9", days=10, **fields):
        """From Fetch to the next Wait. Returns the validity of the new certificate."""
        validity = Validity(serial, self.now.wall, self.now.wall + days * DAY)
        assert self.send(Fetched, Outcome.ISSUED, "", b"pem", validity) == Save(b"pem")
        assert self.send(Saved, validity, **fields) == Install()
        self.send(Done)
        return validity


def test_the_first_certificate():
    """Key first, then the CSR with bootstrap credentials, then the pair; the next renewal is planned."""
    story = Story()
    assert story.load() == Wait(START.wall + 1.0, START.steady + 1.0)
    assert story.wake() == (1.0, Prepare())
    assert story.send(Done) == Submit(BOOTSTRAP)
    story.send(Submitted, "node-1", "u")
    assert (story.status.phase, story.status.csr_name) == (Phase.PENDING, "node-1")
    assert story.wake() == (1.0, Fetch(BOOTSTRAP, "node-1", "u"))
    validity = story.issue()
    due = renewal_time(validity, RenewalTimes())
    assert story.command == Wait(due, story.now.steady + due - story.now.wall)
    assert (story.status.phase, story.status.validity) == (Phase.WAITING, validity)
    assert (story.status.renewal, story.status.renewals, story.status.problem) == (due, 1, "")


def test_renewal():
    """A valid certificate is renewed with its own credentials at the renewal time."""
    story = Story()
    due = renewal_time(CURRENT, RenewalTimes())
    assert story.load(CURRENT) == Wait(due, START.steady + due - START.wall)
    _, command = story.wake()
    assert command == Prepare()
    assert story.send(Done) == Submit(IDENTITY)


def test_a_certificate_for_something_else_is_no_identity():
    """A serving certificate that has expired is requested with the identity of the agent all the same."""
    story = Story(is_identity=False)
    story.load(EXPIRED)
    story.wake_until(Prepare)
    assert story.send(Done) == Submit(IDENTITY)


def test_an_expired_certificate():
    """After a long outage, the agent uses its bootstrap credentials, after a pause of up to two minutes."""
    story = Story()
    story.load(EXPIRED)
    assert story.wake() == (60.0, Prepare())
    assert story.send(Done) == Submit(BOOTSTRAP)


def test_the_certificate_expires_while_its_successor_is_waited_for():
    """Then the bootstrap credentials read the CSR."""
    story = Story()
    story.load(Validity("1", START.wall - 9 * DAY, START.wall + HOUR), has_pending=True, csr_name="node-1", csr_uid="u")
    credentials = []
    for _ in range(3):
        credentials.append(story.command.credentials)
        assert isinstance(story.send(Fetched, Outcome.PENDING), Wait)
        story.send(Woken, after=HOUR / 2)
    assert credentials == [IDENTITY, IDENTITY, BOOTSTRAP]


# --- pending keys and CSRs ----------------------------------------------------------------------------------------


def test_a_process_that_ended_while_it_waited_continues():
    """The CSR is looked up by the name and the UID that are stored, at once; no key and no CSR is created."""
    story = Story()
    command = story.load(CURRENT, has_pending=True, csr_name="node-7", csr_uid="u")
    assert command == Fetch(IDENTITY, "node-7", "u")


def test_a_process_that_ended_before_it_knew_its_csr():
    """The CSR is created with the stored key: if it exists already, the name, derived from the key, leads to it."""
    assert Story().load(has_pending=True) == Submit(BOOTSTRAP)


def test_a_lost_answer():
    """The CSR may have been created. The same key is used again."""
    story = Story()
    story.load(has_pending=True)
    assert isinstance(story.send(Unreachable, "connection reset"), Wait)
    assert story.wake() == (2.0, Submit(BOOTSTRAP))


@pytest.mark.parametrize("outcome", [Outcome.PENDING, Outcome.APPROVED])
def test_waiting_for_approval(outcome):
    """The CSR is looked up less and less often: at first every second, then every two minutes."""
    story = Story()
    story.load()
    story.submit()
    pauses = []
    while story.now.steady < START.steady + DAY:
        story.send(Fetched, outcome)
        pauses.append(round(story.wake()[0], 6))
    assert pauses[:3] == [1.0, 1.0, 1.0]
    assert pauses == sorted(pauses)
    assert pauses[-1] == 120.0
    assert len(pauses) < 800


def test_a_csr_that_nobody_decides():
    """After a day it is given up."""
    story = Story()
    story.load()
    story.submit()
    story.send(Fetched, Outcome.PENDING)
    story.send(Woken, after=26 * HOUR)
    assert story.send(Fetched, Outcome.PENDING) == Discard()
    story.send(Done)
    assert story.status.problem == "the CSR node-1 was not decided in time"


def test_a_csr_that_was_deleted():
    """It is created again, with the same key, after a pause that grows."""
    story = Story()
    story.load()
    story.submit()
    pauses = []
    for _ in range(9):
        assert isinstance(story.send(Fetched, Outcome.GONE), Wait)
        assert story.status.problem == "the CSR node-1 was deleted"
        seconds, command = story.wake()
        pauses.append(seconds)
        assert command == Submit(BOOTSTRAP)
        story.send(Submitted, "node-1", "u")
        story.wake()
    assert pauses == [30, 60, 120, 240, 480, 960, 1920, 3600, 3600]


def test_another_csr_of_the_same_name():
    """Its certificate would not be for our key: the key is given up."""
    story = Story()
    story.load()
    story.submit()
    assert story.send(Fetched, Outcome.REPLACED) == Discard()


def test_a_name_that_is_taken():
    """The key, from which the name is derived, is given up."""
    story = Story()
    story.load(has_pending=True)
    story.send(Refused, 409, "another CSR has the name")
    assert story.wake() == (2.0, Discard())
    assert story.send(Done) == Prepare()


# --- denial -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("outcome", [Outcome.DENIED, Outcome.FAILED])
def test_a_denied_request(outcome):
    """The key is discarded, the certificate is kept, and hours pass before the next request, with a new key."""
    story = Story()
    story.load(CURRENT)
    story.submit()
    assert story.send(Fetched, outcome, "not today") == Discard()
    assert isinstance(story.send(Done), Wait)
    assert story.status.phase is Phase.GIVEN_UP
    assert story.status.validity == CURRENT
    assert story.status.problem.endswith("the CSR node-1" + (
        " was denied: not today" if outcome is Outcome.DENIED else ": not today"))  # fmt: skip
    seconds, command = story.wake()
    assert seconds == HOUR
    assert command == Prepare()


def test_denials_in_a_row():
    """The pause grows to six hours. It is shorter when the certificate is about to expire."""
    story = Story()
    story.load(CURRENT)
    pauses = []
    for _ in range(12):
        story.submit()
        story.send(Fetched, Outcome.DENIED)
        story.send(Done)
        left = CURRENT.not_after - story.now.wall
        pauses.append(story.wake()[0])
        assert pauses[-1] <= max(600, left / 4) or left < 0
    assert pauses[:3] == [HOUR, 2 * HOUR, 4 * HOUR]
    assert max(pauses) == 6 * HOUR


def test_an_operator_ends_the_pause_after_a_denial():
    """`certplane agent renew` requests at once."""
    story = Story()
    story.load(CURRENT)
    story.submit()
    story.send(Fetched, Outcome.DENIED)
    story.send(Done)
    assert story.send(RenewNow) == Prepare()


# --- renewal on request -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("new_key", [False, True])
def test_renewal_by_an_operator(new_key):
    """Every renewal has a new key."""
    story = Story()
    story.load(CURRENT)
    assert story.send(RenewNow, new_key) == Prepare()


def test_a_leaked_key():
    """With --new-key, the key of the request under way is not used: whoever read one file read the other, too."""
    story = Story()
    story.load(CURRENT)
    story.submit()
    story.send(Fetched, Outcome.PENDING)
    assert story.send(RenewNow, new_key=True) == Discard()
    assert story.send(Done) == Prepare()


def test_a_renewal_under_way_is_not_started_again():
    """Without --new-key, the CSR is looked up at once."""
    story = Story()
    story.load(CURRENT)
    story.submit()
    story.send(Fetched, Outcome.PENDING)
    assert story.send(RenewNow) == Fetch(IDENTITY, "node-1", "uid-node-1")


def test_a_notice():
    """An administrator asks for renewal before a time: at a time of its own between now and then, and only once."""
    story = Story()
    story.load(CURRENT)
    notice = Notice(issued_before=START.wall, renew_before=START.wall + DAY)
    command = story.send(Noticed, notice)
    assert START.wall < command.wall < START.wall + 0.9 * DAY
    assert command.wall == story.status.renewal
    # Reading it again does not move the time.
    assert story.send(Noticed, notice, after=60) == command
    story.submit()
    validity = story.issue()
    assert story.command.wall == renewal_time(validity, RenewalTimes())


def test_a_notice_about_the_future():
    """Certificates that were renewed because of it are not renewed again."""
    story = Story()
    story.load(CURRENT)
    story.send(Noticed, Notice(issued_before=START.wall + 5 * DAY, renew_before=START.wall + 6 * DAY))
    story.submit()
    validity = story.issue()
    assert story.command.wall == renewal_time(validity, RenewalTimes())


def test_a_notice_that_is_withdrawn():
    """The usual time applies again."""
    story = Story()
    due = story.load(CURRENT)
    story.send(Noticed, Notice(START.wall, START.wall + DAY))
    assert story.send(Noticed, None) == due


def test_other_names_in_the_configuration():
    """The certificate is renewed, but not within an hour: the signer may leave the names out."""
    story = Story()
    story.load(CURRENT, is_as_configured=False)
    story.submit()
    validity = story.issue(is_as_configured=False)
    assert story.status.problem == "the signer has issued other names than those that are configured"
    assert story.command.wall == validity.not_before + HOUR


# --- maintenance windows ------------------------------------------------------------------------------------------

#: Sundays, 02:00 to 04:00. The playbook starts on Thursday, 1 January 2026, 00:00.
SUNDAY = Window((6,), 7200, 7200)


def test_a_renewal_is_in_the_window():
    """Between 70 and 90 % of ten days since Wednesday there is none: the Sunday before is used."""
    story = Story(window=SUNDAY)
    command = story.load(Validity("1", START.wall - 2 * DAY, START.wall + 8 * DAY))
    assert START.wall + 3 * DAY + 2 * HOUR <= command.wall <= START.wall + 3 * DAY + 4 * HOUR


@pytest.mark.parametrize(("days", "expected"), [(60, 7 * DAY), (4, 2.0)])
def test_a_failed_renewal_waits_for_the_next_window(days, expected):
    """If the certificate lasts until then; else it is retried as usual."""
    story = Story(window=SUNDAY)
    story.load(Validity("1", START.wall - days * DAY, START.wall + days * DAY))
    story.wake_until(Prepare)
    story.send(Done)
    story.send(Unreachable, "no route", after=3 * HOUR)
    waited = story.wake_until(Submit)
    assert expected - 5 * HOUR <= waited <= expected


def test_an_operator_does_not_wait_for_the_window():
    """Neither at first nor after a failure."""
    story = Story(window=SUNDAY)
    story.load(CURRENT)
    assert story.send(RenewNow) == Prepare()
    story.send(Done)
    story.send(Unreachable, "no route")
    assert story.wake() == (2.0, Submit(IDENTITY))


# --- failures -----------------------------------------------------------------------------------------------------


def test_pauses_after_failures():
    """2, 4, 8 seconds and so on, up to five minutes; for days."""
    story = Story()
    story.load(has_pending=True)
    pauses = []
    while story.now.steady < START.steady + 3 * DAY:
        story.send(Unreachable, "the server cannot be reached")
        pauses.append(story.wake()[0])
    assert pauses[:9] == [2, 4, 8, 16, 32, 64, 128, 256, 300]
    assert pauses[-1] == 300
    assert story.status.problem == "the server cannot be reached"
    assert story.status.failures == len(pauses)


@pytest.mark.parametrize(("random", "expected"), [(0.0, 1.0), (0.999, 2.998)])
def test_pauses_are_random(random, expected):
    """Half to one and a half times the usual one."""
    story = Story(random=random)
    story.load(has_pending=True)
    story.send(Unreachable, "")
    assert story.wake()[0] == pytest.approx(expected)


def test_the_server_asks_for_a_pause():
    """Retry-After is the minimum."""
    story = Story(random=0.0)
    story.load(has_pending=True)
    story.send(Refused, 429, "too many requests", 40.0)
    assert story.wake()[0] == 40.0
    assert story.status.problem == "the server responds with 429: too many requests"


def test_a_certificate_that_the_server_refuses():
    """It was revoked, or the server has another CA: bootstrap credentials, then its own again."""
    story = Story()
    story.load(CURRENT, has_pending=True)
    credentials = []
    for _ in range(4):
        credentials.append(story.command.credentials)
        story.send(Refused, 401, "Unauthorized")
        story.wake()
    assert credentials == [IDENTITY, BOOTSTRAP, IDENTITY, BOOTSTRAP]


def test_other_certificates_are_never_requested_with_bootstrap_credentials():
    """Approval depends on who requests: their CSR might wait for ever."""
    story = Story(is_identity=False)
    story.load(CURRENT, has_pending=True)
    for _ in range(3):
        assert story.command.credentials is IDENTITY
        story.send(Refused, 401, "Unauthorized")
        story.wake()


def test_a_full_disk():
    """The key is stored before the CSR is created. The certificate is stored as soon as there is space."""
    story = Story()
    story.load()
    story.wake()
    story.send(StoreFailed, "no space left on device")
    assert story.wake() == (2.0, Prepare())
    story.submit()
    validity = Validity("9", story.now.wall, story.now.wall + DAY)
    assert story.send(Fetched, Outcome.ISSUED, "", b"pem", validity) == Save(b"pem")
    for seconds in (2, 4, 8):
        story.send(StoreFailed, "no space left on device")
        assert story.status.problem == "no space left on device"
        assert story.wake() == (seconds, Save(b"pem"))
    assert story.send(Saved, validity) == Install()


def test_an_unreadable_store():
    """At the start, it is read again after a pause; nothing is requested before it is known what is there."""
    story = Story()
    story.send(StoreFailed, "input/output error")
    assert story.wake() == (2.0, Load())


@pytest.mark.parametrize(
    "validity", [None, Validity("9", START.wall - 2 * DAY, START.wall - DAY)], ids=["unreadable", "expired"]
)
def test_an_issued_certificate_that_is_worse(validity):
    """It does not replace a valid certificate."""
    story = Story()
    story.load(CURRENT)
    story.submit()
    assert story.send(Fetched, Outcome.ISSUED, "why", b"pem", validity) == Discard()
    story.send(Done)
    assert story.status.problem == "the certificate of the CSR node-1 cannot be used: why"


# --- clocks -------------------------------------------------------------------------------------------------------


def test_a_clock_that_is_set_back():
    """The time is counted on the monotonic clock, too."""
    story = Story()
    wait = story.load(CURRENT)
    story.jump(-365 * DAY)
    assert story.send(Woken, after=wait.steady - START.steady - 1) == wait
    assert story.send(Woken, after=1) == Prepare()


def test_a_clock_that_is_set_forth():
    """The certificate is renewed early rather than late."""
    story = Story()
    story.load(CURRENT)
    story.jump(8 * DAY)
    assert story.send(Woken, after=1) == Prepare()


def test_a_clock_that_is_far_ahead_of_the_signer():
    """Every new certificate has expired already: one an hour is requested, not one after the other."""
    story = Story()
    story.load()
    story.submit()
    old = Validity("9", START.wall - 20 * DAY, START.wall - 10 * DAY)
    story.send(Fetched, Outcome.ISSUED, "", b"pem", old)
    story.send(Saved, old)
    story.send(Done)
    assert "clock of this host" in story.status.problem
    assert story.wake_until(Prepare) >= HOUR


def test_a_clock_that_is_slow():
    """A certificate that is not valid yet is used, and the status says so."""
    story = Story()
    story.load()
    story.submit()
    early = Validity("9", story.now.wall + DAY, story.now.wall + 11 * DAY)
    story.send(Fetched, Outcome.ISSUED, "", b"pem", early)
    story.send(Saved, early)
    story.send(Done)
    assert story.status.problem == "the new certificate is not valid yet: the clock of this host is probably slow"
    assert story.command.wall == renewal_time(early, RenewalTimes())


@pytest.mark.parametrize("life", [5, 60, 120])
def test_short_lives_with_an_early_begin(life):
    """Signers let certificates begin five minutes earlier: those of a test are renewed in time all the same."""
    story = Story()
    story.load()
    for _ in range(3):
        story.submit()
        validity = Validity("9", story.now.wall - 300, story.now.wall + life, story.now.wall)
        story.send(Fetched, Outcome.ISSUED, "", b"pem", validity)
        story.send(Saved, validity)
        story.send(Done)
        assert story.status.problem == ""
        assert 0.7 * life <= story.status.renewal - story.now.wall <= 0.9 * life


def test_a_certificate_that_ends_soon_is_renewed_before():
    """Also if the signer gives less time than is left until the renewal: the pause is a part of what is left."""
    story = Story()
    story.load()
    story.send(Noticed, Notice(START.wall + 1e6, START.wall - 1))
    story.submit()
    validity = Validity("9", story.now.wall - DAY, story.now.wall + 100)
    story.send(Fetched, Outcome.ISSUED, "", b"pem", validity)
    story.send(Saved, validity)
    story.send(Done)
    assert story.wake_until(Prepare) == 25
