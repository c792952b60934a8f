"""Background tasks: they are restarted with back-off, and are late until they work again."""

from __future__ import annotations

import asyncio

import pytest

from certplane import errors, supervisor, telemetry, testing


class Work:
    """Records when it is called; raises `error`, or hangs if it is `stuck`."""

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
    supervised = supervisor.Supervisor(clock, figures)
    yield supervised
    await supervised.stop()


async def test_a_task_runs_periodically(supervised, clock):
    """For the first time after one period."""
    work = Work(clock)
    supervised.run_every("rounds", 100, work)
    await clock.advance(350)
    assert work.moments == [100, 200, 300]
    assert supervised.late_seconds() == {"rounds": 0.0}
    assert supervised.problem() is None


async def test_a_failed_round_is_retried_with_back_off(supervised, clock, figures, caplog):
    """Never later than the next round. The task is late until it succeeds; failures are counted and logged."""
    caplog.set_level("INFO")
    work = Work(clock)
    work.error = errors.CertplaneError("the disk is full")
    supervised.run_every("rounds", 10, work)
    await clock.advance(40)
    assert work.moments == [10, 11, 13, 17, 25, 35]
    assert supervised.problem() == "rounds has been failing for 30s"
    assert supervised.problem(tolerated=31) is None
    rendered = figures.render().decode()
    assert 'certplane_background_failures_total{task="rounds"} 6.0' in rendered
    assert 'certplane_background_late_seconds{task="rounds"} 30.0' in rendered
    assert [(record.failures, record.error) for record in caplog.records] == [
        (number, "the disk is full") for number in (1, 2, 4)
    ]
    work.error = None
    await clock.advance(10)
    assert supervised.problem() is None
    assert caplog.records[-1].getMessage() == "background task recovered"
    await clock.advance(10)
    assert work.moments[-2:] == [45, 55]


async def test_an_unexpected_exception_is_logged_with_its_traceback(supervised, clock, caplog):
    """The task continues."""
    work = Work(clock)
    work.error = ZeroDivisionError("a mistake")
    supervised.run_every("rounds", 10, work)
    await clock.advance(11)
    assert caplog.records[0].exc_info[1] is work.error
    assert len(work.moments) == 2


async def test_a_round_that_hangs_is_late(supervised, clock):
    """As soon as the next one would be over as well."""
    work = Work(clock)
    work.stuck = True
    supervised.run_every("rounds", 100, work)
    await clock.advance(210)
    assert supervised.problem() is None
    await clock.advance(1)
    assert supervised.problem() == "rounds is late by 111s"


@pytest.mark.parametrize("form", ["rounds", "run"])
async def test_a_task_whose_awaited_future_was_cancelled_has_failed(form, supervised, clock):
    """The task itself was not cancelled: it is restarted, and late."""
    work = Work(clock)
    work.error = asyncio.CancelledError()
    if form == "run":
        supervised.run_forever("work", work)
    else:
        supervised.run_every("work", 1, work)
    await clock.advance(3)
    assert len(work.moments) >= 2
    assert supervised.problem() is not None


@pytest.mark.parametrize("ends", [False, True])
async def test_a_run_that_ends_is_restarted(ends, supervised, clock):
    """Whether it returns or raises."""
    work = Work(clock)
    work.error = None if ends else RuntimeError("a mistake")
    supervised.run_forever("run", work)
    await clock.advance(8)
    assert work.moments == [0, 1, 3, 7]
    assert supervised.problem() == "run has been failing for 8s"


async def test_a_run_works_again_after_a_minute(supervised, clock):
    """A failure after that is the first one."""
    work = Work(clock)
    work.error = RuntimeError("a mistake")
    supervised.run_forever("run", work)
    await clock.advance(8)
    work.error, work.stuck = None, True
    await clock.advance(7)
    assert work.moments == [0, 1, 3, 7, 15]
    await clock.advance(59)
    assert supervised.problem() == "run has been failing for 74s"
    await clock.advance(1)
    assert supervised.problem() is None


async def test_a_failure_after_a_long_run_is_the_first(supervised, clock):
    """It is restarted after a second."""
    moments, over = [], asyncio.Event()

    async def run():
        moments.append(clock.monotonic())
        await over.wait()
        raise RuntimeError("a mistake")

    supervised.run_forever("run", run)
    await clock.advance(100)
    over.set()
    await clock.advance(2)
    assert moments == [0, 101]
    assert supervised.problem() == "run has been failing for 2s"


async def test_the_delay_is_limited(supervised, clock):
    """To one minute."""
    work = Work(clock)
    work.error = RuntimeError("a mistake")
    supervised.run_forever("run", work)
    await clock.advance(3600)
    assert work.moments[-1] - work.moments[-2] == 60


async def test_stop_cancels_all_tasks(supervised, clock):
    """No task is late afterwards."""
    work = Work(clock)
    work.stuck = True
    supervised.run_forever("run", work)
    await clock.advance(1)
    await supervised.stop()
    assert supervised.late_seconds() == {}


async def test_names_of_tasks_are_unique(supervised, clock):
    """Otherwise the metrics of two tasks would be mixed."""
    supervised.run_every("rounds", 10, Work(clock))
    with pytest.raises(ValueError, match="rounds"):
        supervised.run_forever("rounds", Work(clock))
