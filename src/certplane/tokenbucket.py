"""Token buckets, which limit rates. Source: client-go `util/flowcontrol`, Go `golang.org/x/time/rate`."""

from __future__ import annotations

from certplane.clock import Clock


class TokenBucket:
    """Tokens that come back at a fixed rate. For one event loop."""

    __slots__ = ("_burst", "_clock", "_rate", "_refilled", "_tokens")

    def __init__(self, clock: Clock, rate: float, burst: int) -> None:
        """`rate` is tokens a second, more than 0; `burst` is how many may be taken at once."""
        self._clock = clock
        self._rate = rate
        self._burst = float(burst)
        self._tokens = float(burst)
        self._refilled = clock.monotonic()

    def take(self) -> bool:
        """Take a token if there is one. Returns whether there was."""
        self._refill()
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    def reserve(self) -> float:
        """Take a token. Returns the seconds to wait until it is there; a caller that waits keeps its place."""
        self._refill()
        self._tokens -= 1
        return max(0.0, -self._tokens / self._rate)

    def _refill(self) -> None:
        now = self._clock.monotonic()
        self._tokens = min(self._burst, self._tokens + (now - self._refilled) * self._rate)
        self._refilled = now
