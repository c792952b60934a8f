"""What takes long leaves the event loop."""

import asyncio
import gc
import threading

import pytest

from certplane import offload, testing


def _where(failure=None):
    if failure is not None:
        raise failure
    return threading.current_thread()


async def test_small_things_are_done_at_once():
    """To hand them over would cost more than they do."""
    assert await offload.run(offload.INLINE, _where) is threading.current_thread()


async def test_large_things_are_done_in_one_thread():
    """The same one for all of them, so that others than those who wait for it have the rest of the machine."""
    first, second = [await offload.run(offload.INLINE + 1, _where) for _ in range(2)]
    assert first is second is not threading.current_thread()


async def test_what_is_raised_comes_back():
    """As if it had been done here."""
    with pytest.raises(ValueError, match="wrong"):
        await offload.run(offload.INLINE + 1, _where, failure=ValueError("wrong"))


class _Queued:
    """Work of users that waits while the thread is busy."""

    def __init__(self):
        self.done = []
        self._may_go_on = threading.Event()
        self._busy = asyncio.ensure_future(offload.run(offload.INLINE + 1, self._may_go_on.wait, 60))

    async def add(self, user, number):
        offload.asker.set(user)
        await offload.run(offload.INLINE + 1, self.done.append, f"{user}{number}")

    async def finish(self, *work):
        self._may_go_on.set()
        assert await self._busy
        return await asyncio.gather(*work, return_exceptions=True)


async def test_users_take_turns():
    """Whoever sends many large requests waits behind his own."""
    queued = _Queued()
    await testing.settle(10)
    work = [asyncio.ensure_future(queued.add(user, at)) for user, count in (("a", 4), ("b", 2)) for at in range(count)]
    await testing.settle(10)
    await queued.finish(*work)
    assert queued.done == ["a0", "b0", "a1", "b1", "a2", "a3"]


async def test_who_waits_no_more_keeps_nobody_waiting():
    """Neither before his turn nor at the moment when it comes."""
    queued = _Queued()
    await testing.settle(10)
    work = [asyncio.ensure_future(queued.add("a", at)) for at in range(3)]
    await testing.settle(10)
    work[1].cancel()
    turns = offload._turns[asyncio.get_running_loop()]
    turns._waiting["a"][0].set_result(None)
    work[0].cancel()
    await testing.settle(10)
    first, second, third = await asyncio.wait_for(queued.finish(*work), 10)
    assert isinstance(first, asyncio.CancelledError)
    assert isinstance(second, asyncio.CancelledError)
    assert third is None
    assert queued.done == ["a2"]
    await offload.run(offload.INLINE + 1, queued.done.append, "last")
    assert queued.done == ["a2", "last"]


async def test_the_collector_does_not_look_at_what_is_read():
    """It would hold up all threads at every fourth part of a million values; afterwards it works again."""
    assert not await offload.run(offload.INLINE + 1, gc.isenabled)
    with pytest.raises(ValueError, match="wrong"):
        await offload.run(offload.INLINE + 1, _where, failure=ValueError("wrong"))
    assert gc.isenabled()
