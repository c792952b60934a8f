"""Work in the background: it fails, is begun again later and later, and is told late until it works."""

from __future__ import annotations

import asyncio

import pytest

from certplane import errors, supervisor, telemetry, testing


class Work:
    """Counts its rounds; fails as long as it is told to."""

    def __init__(self, clock):
        self.clock = clock
        self.moments = []
        self.error = None
        self.stuck = False

    async def __call__(self):
        self.moments.append(self.clock.monotonic())
        if self.error is not None:
            raise self.error
        if self.stuck:
            await asyncio.Event().wait()


@pytest.fixture
def clock():
    return testing.FakeClock()


@pytest.fixture
def figures():
    return telemetry.Telemetry()


@pytest.fixture
async def supervised(clock, figures):
    made = supervisor.Supervisor(clock, figures)
    yield made
    await made.stop()


async def test_rounds_come_in_their_period(supervised, clock):
    """The first after one period."""
    work = Work(clock)
    supervised.every("rounds", 100, work)
    await clock.advance(350)
    assert work.moments == [100, 200, 300]
    assert supervised.late() == {"rounds": 0.0}
    assert supervised.problem() is None


async def test_a_failed_round_is_tried_again_soon(supervised, clock, figures, caplog):
    """Later and later, never later than the next round; it is late, counted and logged until it works."""
    caplog.set_level("INFO")
    work = Work(clock)
    work.error = errors.CertplaneError("the disk is full")
    supervised.every("rounds", 10, work)
    await clock.advance(40)
    assert work.moments == [10, 11, 13, 17, 25, 35]
    assert supervised.problem() == "rounds has not worked for 30s"
    assert supervised.problem(tolerated=31) is None
    rendered = figures.render().decode()
    assert 'certplane_background_failures_total{task="rounds"} 6.0' in rendered
    assert 'certplane_background_late_seconds{task="rounds"} 30.0' in rendered
    assert [(each.failures, each.problem) for each in caplog.records] == [
        (number, "the disk is full") for number in (1, 2, 4)
    ]
    work.error = None
    await clock.advance(10)
    assert supervised.problem() is None
    assert caplog.records[-1].getMessage() == "work in the background goes on"
    await clock.advance(10)
    assert work.moments[-2:] == [45, 55]


async def test_what_nobody_thought_of_is_logged_with_its_origin(supervised, clock, caplog):
    """And does not end the work."""
    work = Work(clock)
    work.error = ZeroDivisionError("a mistake")
    supervised.every("rounds", 10, work)
    await clock.advance(11)
    assert caplog.records[0].exc_info[1] is work.error
    assert len(work.moments) == 2


async def test_a_round_that_hangs_is_late(supervised, clock):
    """Once the next one would be over as well."""
    work = Work(clock)
    work.stuck = True
    supervised.every("rounds", 100, work)
    await clock.advance(210)
    assert supervised.problem() is None
    await clock.advance(1)
    assert supervised.problem() == "rounds has not worked for 111s"


@pytest.mark.parametrize("form", ["rounds", "run"])
async def test_work_whose_future_was_cancelled_has_failed(form, supervised, clock):
    """It is not the supervisor that was cancelled: the work is begun again, and late."""
    work = Work(clock)
    work.error = asyncio.CancelledError()
    if form == "run":
        supervised.keep("work", work)
    else:
        supervised.every("work", 1, work)
    await clock.advance(3)
    assert len(work.moments) >= 2
    assert supervised.problem() is not None


@pytest.mark.parametrize("ends", [False, True])
async def test_a_run_that_ends_is_begun_again(ends, supervised, clock):
    """With an error or without: it should not have ended."""
    work = Work(clock)
    work.error = None if ends else RuntimeError("a mistake")
    supervised.keep("run", work)
    await clock.advance(8)
    assert work.moments == [0, 1, 3, 7]
    assert supervised.problem() == "run has not worked for 8s"


async def test_a_run_works_again_when_it_has_lasted(supervised, clock):
    """A minute; what fails after that is a new failure."""
    work = Work(clock)
    work.error = RuntimeError("a mistake")
    supervised.keep("run", work)
    await clock.advance(8)
    work.error, work.stuck = None, True
    await clock.advance(7)
    assert work.moments == [0, 1, 3, 7, 15]
    await clock.advance(59)
    assert supervised.problem() == "run has not worked for 74s"
    await clock.advance(1)
    assert supervised.problem() is None


async def test_a_failure_after_a_long_run_is_the_first(supervised, clock):
    """It is begun again after a second."""
    moments, over = [], asyncio.Event()

    async def run():
        moments.append(clock.monotonic())
        await over.wait()
        raise RuntimeError("a mistake")

    supervised.keep("run", run)
    await clock.advance(100)
    over.set()
    await clock.advance(2)
    assert moments == [0, 101]
    assert supervised.problem() == "run has not worked for 2s"


async def test_delays_have_an_end(supervised, clock):
    """A minute at the most."""
    work = Work(clock)
    work.error = RuntimeError("a mistake")
    supervised.keep("run", work)
    await clock.advance(3600)
    assert work.moments[-1] - work.moments[-2] == 60


async def test_stopping_ends_everything(supervised, clock):
    """And nothing is late any more."""
    work = Work(clock)
    work.stuck = True
    supervised.keep("run", work)
    await clock.advance(1)
    await supervised.stop()
    assert supervised.late() == {}


async def test_names_are_given_once(supervised, clock):
    """Or the figures of two would be one."""
    supervised.every("rounds", 10, Work(clock))
    with pytest.raises(ValueError, match="rounds"):
        supervised.keep("rounds", Work(clock))
