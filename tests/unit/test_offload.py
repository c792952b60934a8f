"""Long computations run in a worker thread, in fair order."""

import asyncio
import gc
import threading

import pytest

from certplane import offload, testing


def _current_thread(error=None):
    if error is not None:
        raise error
    return threading.current_thread()


async def test_small_inputs_are_processed_on_the_event_loop():
    """To hand them over would cost more than to process them."""
    assert await offload.run(offload.INLINE_BYTES, _current_thread) is threading.current_thread()


async def test_large_inputs_are_processed_in_one_thread():
    """The same thread for all of them."""
    first, second = [await offload.run(offload.INLINE_BYTES + 1, _current_thread) for _ in range(2)]
    assert first is second is not threading.current_thread()


async def test_exceptions_of_the_thread_are_raised():
    """In the task that awaits the result."""
    with pytest.raises(ValueError, match="wrong"):
        await offload.run(offload.INLINE_BYTES + 1, _current_thread, error=ValueError("wrong"))


class _Queue:
    """Requests of users that wait while the thread is busy."""

    def __init__(self):
        self.done = []
        self._continue = threading.Event()
        self._busy = asyncio.ensure_future(offload.run(offload.INLINE_BYTES + 1, self._continue.wait, 60))

    async def add(self, user, number):
        offload.current_user.set(user)
        await offload.run(offload.INLINE_BYTES + 1, self.done.append, f"{user}{number}")

    async def finish(self, *work):
        self._continue.set()
        assert await self._busy
        return await asyncio.gather(*work, return_exceptions=True)


async def test_users_take_turns():
    """A user who sends many large requests waits behind their own."""
    requests = _Queue()
    await testing.settle(10)
    work = [
        asyncio.ensure_future(requests.add(user, number))
        for user, count in (("a", 4), ("b", 2))
        for number in range(count)
    ]
    await testing.settle(10)
    await requests.finish(*work)
    assert requests.done == ["a0", "b0", "a1", "b1", "a2", "a3"]


async def test_a_cancelled_request_does_not_block_others():
    """It may be cancelled while it waits, or at the moment of its turn."""
    requests = _Queue()
    await testing.settle(10)
    work = [asyncio.ensure_future(requests.add("a", number)) for number in range(3)]
    await testing.settle(10)
    work[1].cancel()
    queue = offload._queues[asyncio.get_running_loop()]
    queue._waiting["a"][0].set_result(None)
    work[0].cancel()
    await testing.settle(10)
    first, second, third = await asyncio.wait_for(requests.finish(*work), 10)
    assert isinstance(first, asyncio.CancelledError)
    assert isinstance(second, asyncio.CancelledError)
    assert third is None
    assert requests.done == ["a2"]
    await offload.run(offload.INLINE_BYTES + 1, requests.done.append, "last")
    assert requests.done == ["a2", "last"]


async def test_the_cycle_collector_is_off_in_the_thread():
    """It would block all threads repeatedly while a million values are created. It is on again afterwards."""
    assert not await offload.run(offload.INLINE_BYTES + 1, gc.isenabled)
    with pytest.raises(ValueError, match="wrong"):
        await offload.run(offload.INLINE_BYTES + 1, _current_thread, error=ValueError("wrong"))
    assert gc.isenabled()
