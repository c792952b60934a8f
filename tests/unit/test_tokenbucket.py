"""Token buckets."""

from __future__ import annotations

from certplane import testing, tokenbucket


async def test_tokens_are_taken_while_there_are_some():
    """They come back at the rate, up to the burst. A refused token is not taken."""
    clock = testing.FakeClock()
    bucket = tokenbucket.TokenBucket(clock, rate=2, burst=3)
    assert [bucket.take() for _ in range(5)] == [True, True, True, False, False]
    await clock.advance(1)
    assert [bucket.take() for _ in range(3)] == [True, True, False]
    await clock.advance(100)
    assert [bucket.take() for _ in range(4)] == [True, True, True, False]


async def test_tokens_are_reserved_in_advance():
    """The result is how long to wait; later callers wait longer."""
    clock = testing.FakeClock()
    bucket = tokenbucket.TokenBucket(clock, rate=2, burst=2)
    assert [bucket.reserve() for _ in range(4)] == [0.0, 0.0, 0.5, 1.0]
    await clock.advance(1)
    assert not bucket.take()
    assert bucket.reserve() == 0.5
