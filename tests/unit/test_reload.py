"""Files that change while we run."""

from __future__ import annotations

import asyncio
import contextlib
import os

import pytest

from certplane import reload, testing
from certplane.errors import SetupError


class Recorder:
    """Uses contents: those that are equal fit each other, as a certificate and its key do."""

    def __init__(self):
        self.used = []
        self.observed = []

    def apply(self, contents):
        if len(set(contents)) > 1:
            raise ValueError("they do not belong together")
        self.used.append(contents[0])

    def observe(self, name, went_well):
        self.observed.append((name, went_well))


@pytest.fixture
def pair(tmp_path):
    paths = [tmp_path / "tls.crt", tmp_path / "tls.key"]
    for path in paths:
        path.write_bytes(b"1")
    return paths


@pytest.fixture
def recorder():
    return Recorder()


@pytest.fixture
def reloader(recorder, pair):
    made = reload.Reloader(testing.FakeClock(), reload.Wakeup(), recorder.observe)
    made.follow("serving certificate", pair, recorder.apply)
    return made


def write(paths, content):
    for path in paths:
        path.write_bytes(content)


async def test_a_new_content_is_used_when_it_is_the_same_twice(reloader, recorder, pair):
    """So a file that is being written is not used by half."""
    await reloader.look()
    assert [b"1"] == recorder.used
    write(pair, b"2")
    await reloader.look()
    assert [b"1"] == recorder.used
    write(pair, b"3")
    await reloader.look()
    assert [b"1"] == recorder.used
    await reloader.look()
    await reloader.look()
    assert [b"1", b"3"] == recorder.used
    assert [("serving certificate", True)] == recorder.observed


async def test_whoever_asks_need_not_wait(reloader, recorder, pair):
    """SIGHUP says that the files are ready."""
    write(pair, b"2")
    await reloader.look(is_asked=True)
    assert [b"1", b"2"] == recorder.used


async def test_half_a_pair_keeps_the_old_one_and_is_told_once(reloader, recorder, pair, caplog):
    """Until the other half is there."""
    write(pair[:1], b"2")
    for _ in range(4):
        await reloader.look()
    assert [b"1"] == recorder.used
    assert 1 == caplog.text.count("files not reloaded")
    assert [("serving certificate", False)] == recorder.observed
    write(pair[1:], b"2")
    for _ in range(2):
        await reloader.look()
    assert [b"1", b"2"] == recorder.used


async def test_a_change_that_is_taken_back_is_told(reloader, recorder, pair, caplog):
    """And the next one is told anew."""
    caplog.set_level("INFO")
    for content in (b"2", b"1", b"2"):
        write(pair[:1], content)
        for _ in range(2):
            await reloader.look()
    assert 2 == caplog.text.count("files not reloaded")
    assert 1 == caplog.text.count("files are as before")
    assert [b"1"] == recorder.used


async def test_a_missing_file_changes_nothing(reloader, recorder, pair, caplog):
    """It is told once, and what comes in its place is used."""
    pair[0].unlink()
    for _ in range(3):
        await reloader.look()
    assert [f"{pair[0]}: No such file or directory"] == [each.problem for each in caplog.records]
    write(pair, b"2")
    for _ in range(2):
        await reloader.look()
    assert [b"1", b"2"] == recorder.used


async def test_the_same_time_and_size_hide_nothing(reloader, recorder, pair):
    """What counts is the content."""
    before = pair[0].stat()
    write(pair, b"2")
    for path in pair:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    for _ in range(2):
        await reloader.look()
    assert [b"1", b"2"] == recorder.used


def test_what_is_no_good_at_the_start_is_refused(recorder, pair):
    """Nothing was in use before that could go on."""
    made = reload.Reloader(testing.FakeClock(), reload.Wakeup(), recorder.observe)
    write(pair[:1], b"2")
    with pytest.raises(SetupError, match=r"the serving certificate .* cannot be used: they do not belong together"):
        made.follow("serving certificate", pair, recorder.apply)
    pair[0].unlink()
    with pytest.raises(SetupError, match="cannot be read"):
        made.follow("serving certificate", pair, recorder.apply)


async def test_a_change_is_in_use_within_ten_seconds(recorder, pair):
    """By the clock, without anybody asking; and at once when somebody does."""
    clock, wakeup = testing.FakeClock(), reload.Wakeup()
    made = reload.Reloader(clock, wakeup, recorder.observe)
    made.follow("serving certificate", pair, recorder.apply)
    running = asyncio.ensure_future(made.run())
    try:
        write(pair, b"2")
        for _ in range(10):
            await clock.advance(1)
            await settled(made)
        assert [b"1", b"2"] == recorder.used
        write(pair, b"3")
        wakeup.wake()
        await settled(made)
        assert [b"1", b"2", b"3"] == recorder.used
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running


async def settled(reloader):
    """Let the reading threads come back."""
    for _ in range(50):
        await asyncio.to_thread(lambda: None)
