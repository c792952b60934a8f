"""Reloading of changed files."""

from __future__ import annotations

import asyncio
import contextlib
import os

import pytest

from certplane import reload, testing
from certplane.errors import SetupError


class Recorder:
    """Records applied contents. A pair is valid if both contents are equal, like a certificate and its key."""

    def __init__(self):
        self.applied = []
        self.observed = []

    def apply(self, contents):
        if len(set(contents)) > 1:
            raise ValueError("they do not belong together")
        self.applied.append(contents[0])

    def observe(self, name, succeeded):
        self.observed.append((name, succeeded))


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
    reloader = reload.Reloader(testing.FakeClock(), reload.Wakeup(), recorder.observe)
    reloader.add("serving certificate", pair, recorder.apply)
    return reloader


def write(paths, content):
    for path in paths:
        path.write_bytes(content)


async def test_files_that_the_process_has_written_are_applied_at_once(reloader, recorder, pair):
    """No second check is needed; the next one finds nothing new."""
    write(pair, b"2")
    await reloader.reload("another group")
    assert [b"1"] == recorder.applied
    await reloader.reload("serving certificate")
    await reloader.check()
    await reloader.check()
    assert [b"1", b"2"] == recorder.applied


async def test_new_content_is_applied_when_two_checks_read_the_same(reloader, recorder, pair):
    """So a file that is being written is not applied."""
    await reloader.check()
    assert [b"1"] == recorder.applied
    write(pair, b"2")
    await reloader.check()
    assert [b"1"] == recorder.applied
    write(pair, b"3")
    await reloader.check()
    assert [b"1"] == recorder.applied
    await reloader.check()
    await reloader.check()
    assert [b"1", b"3"] == recorder.applied
    assert [("serving certificate", True)] == recorder.observed


async def test_a_requested_check_applies_at_once(reloader, recorder, pair):
    """SIGHUP means that the files are complete."""
    write(pair, b"2")
    await reloader.check(is_requested=True)
    assert [b"1", b"2"] == recorder.applied


async def test_half_a_pair_keeps_the_old_one_and_is_logged_once(reloader, recorder, pair, caplog):
    """The new pair is used when the other half has been replaced as well."""
    write(pair[:1], b"2")
    for _ in range(4):
        await reloader.check()
    assert [b"1"] == recorder.applied
    assert 1 == caplog.text.count("files reload failed")
    assert [("serving certificate", False)] == recorder.observed
    write(pair[1:], b"2")
    for _ in range(2):
        await reloader.check()
    assert [b"1", b"2"] == recorder.applied


async def test_a_reverted_change_is_logged(reloader, recorder, pair, caplog):
    """The same failure is logged again after that."""
    caplog.set_level("INFO")
    for content in (b"2", b"1", b"2"):
        write(pair[:1], content)
        for _ in range(2):
            await reloader.check()
    assert 2 == caplog.text.count("files reload failed")
    assert 1 == caplog.text.count("files unchanged again; the reload problem is resolved")
    assert [b"1"] == recorder.applied


async def test_a_missing_file_changes_nothing(reloader, recorder, pair, caplog):
    """It is logged once, and its replacement is applied."""
    pair[0].unlink()
    for _ in range(3):
        await reloader.check()
    assert [f"{pair[0]}: No such file or directory"] == [record.error for record in caplog.records]
    write(pair, b"2")
    for _ in range(2):
        await reloader.check()
    assert [b"1", b"2"] == recorder.applied


async def test_a_change_with_the_same_time_and_size_is_applied(reloader, recorder, pair):
    """Only the content counts."""
    before = pair[0].stat()
    write(pair, b"2")
    for path in pair:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    for _ in range(2):
        await reloader.check()
    assert [b"1", b"2"] == recorder.applied


async def test_an_unexpected_exception_of_one_group_does_not_affect_the_others(recorder, tmp_path, caplog):
    """It is a bug, so it is logged with its traceback, once. The previous content stays in use."""
    broken, good = tmp_path / "ca.crt", tmp_path / "tokens.csv"
    write([broken, good], b"1")
    reloader = reload.Reloader(testing.FakeClock(), reload.Wakeup(), recorder.observe)
    used = []

    def apply(contents):
        if contents != [b"1"]:
            raise LookupError("no such name")
        used.append(contents[0])

    reloader.add("client CA file", [broken], apply)
    reloader.add("token file", [good], recorder.apply)
    write([broken, good], b"2")
    for _ in range(3):
        await reloader.check()
    assert (used, recorder.applied) == ([b"1"], [b"1", b"2"])
    assert recorder.observed == [("client CA file", False), ("token file", True)]
    (failure,) = caplog.records
    assert (failure.getMessage(), failure.error) == (
        "files reload failed; keeping the previous content",
        "LookupError: no such name",
    )
    assert failure.exc_info[0] is LookupError


def test_invalid_content_at_startup_is_refused(recorder, pair):
    """There is no previous content."""
    reloader = reload.Reloader(testing.FakeClock(), reload.Wakeup(), recorder.observe)
    write(pair[:1], b"2")
    with pytest.raises(SetupError, match=r"the serving certificate .* cannot be used: they do not belong together"):
        reloader.add("serving certificate", pair, recorder.apply)
    pair[0].unlink()
    with pytest.raises(SetupError, match="cannot be read"):
        reloader.add("serving certificate", pair, recorder.apply)


async def test_a_change_is_applied_within_ten_seconds(recorder, pair):
    """After a wakeup it is applied at once."""
    clock, wakeup = testing.FakeClock(), reload.Wakeup()
    reloader = reload.Reloader(clock, wakeup, recorder.observe)
    reloader.add("serving certificate", pair, recorder.apply)
    running = asyncio.ensure_future(reloader.run())
    try:
        write(pair, b"2")
        for _ in range(10):
            await clock.advance(1)
            await settled(reloader)
        assert [b"1", b"2"] == recorder.applied
        write(pair, b"3")
        wakeup.wake()
        await settled(reloader)
        assert [b"1", b"2", b"3"] == recorder.applied
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running


async def settled(reloader):
    """Wait for the threads that read files."""
    for _ in range(50):
        await asyncio.to_thread(lambda: None)
