"""What takes long leaves the event loop."""

import gc
import threading

import pytest

from certplane import offload


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


async def test_the_collector_does_not_look_at_what_is_read():
    """It would hold up all threads at every fourth part of a million values; afterwards it works again."""
    assert not await offload.run(offload.INLINE + 1, gc.isenabled)
    with pytest.raises(ValueError, match="wrong"):
        await offload.run(offload.INLINE + 1, _where, failure=ValueError("wrong"))
    assert gc.isenabled()
