"""A server under load turns away and ends what is too much, and says so in the way that clients understand."""

from __future__ import annotations

import asyncio

import pytest

from certplane import testing
from certplane.meta import context
from certplane.server import exchange, manners
from tests.flow import plane as flow

JANE = context.User("jane", groups=("system:authenticated",))
CSRS = "/apis/certificates.k8s.io/v1/certificatesigningrequests"


class Doors:
    """A route that holds every request until it is told to let go."""

    def __init__(self, plane):
        self.open = asyncio.Event()
        self.waiting = 0
        self._route = plane.services.route

    async def route(self, of):
        self.waiting += 1
        await self.open.wait()
        return await self._route(of)


def _exchange(user, method="GET", path=CSRS, query=""):
    return exchange.Exchange(method, path, query, exchange.Headers([(b"x-user", user.name.encode())]))


def _known_by_header(plane, *users):
    """Have requests say who they come from: no test here is about certificates."""
    by_name = {each.name: each for each in users}
    plane.services.authenticate = lambda of: by_name[of.headers.get(b"x-user")]
    plane.services.authorize = lambda attributes: ("", None)


async def test_what_is_too_much_is_told_to_come_again():
    """The first ones are served, the next is turned away with Retry-After, those in system:masters never are."""
    async with flow.running(limits=manners.Limits(reads=2, writes=1)) as plane:
        _known_by_header(plane, JANE, flow.ADMIN)
        doors = Doors(plane)
        plane.services.route, route = doors.route, plane.services.route
        handler = flow.assembled(plane)
        first = [asyncio.ensure_future(handler(_exchange(JANE))) for _ in range(2)]
        await flow.eventually(lambda: doors.waiting == 2)
        refused = await handler(_exchange(JANE))
        assert (refused.status, refused.body) == (429, b"Too many requests, please try again later.\n")
        assert (b"retry-after", b"1") in refused.headers
        write = asyncio.ensure_future(handler(_exchange(JANE, method="POST")))
        boss = asyncio.ensure_future(handler(_exchange(flow.ADMIN)))
        await flow.eventually(lambda: doors.waiting == 4)
        assert (await handler(_exchange(JANE, method="POST"))).status == 429
        assert b'inflight_requests{request_kind="readOnly"} 3.0' in plane.telemetry.render()
        doors.open.set()
        assert [each.status for each in await asyncio.gather(*first, boss)] == [200, 200, 200]
        assert (await write).status == 400
        plane.services.route = route
        assert (await handler(_exchange(JANE))).status == 200


@pytest.mark.parametrize(
    ("query", "seconds"), [("", 60), ("timeout=5s", 5), ("timeout=10m", 60), ("timeout=1500ms", 1)]
)
async def test_what_takes_too_long_is_ended(query, seconds):
    """After the server's patience or the client's, whichever is less, the answer is a 504."""
    clock = testing.FakeClock()
    async with flow.running(clock=clock) as plane:
        _known_by_header(plane, JANE)
        doors = Doors(plane)
        plane.services.route = doors.route
        handler = flow.assembled(plane)
        slow = asyncio.ensure_future(handler(_exchange(JANE, query=query)))
        await flow.eventually(lambda: doors.waiting == 1)
        await clock.advance(seconds - 1)
        assert not slow.done()
        await clock.advance(3)
        reply = await slow
        assert reply.status == 504
        assert b"request did not complete within requested timeout" in reply.body


async def test_a_watch_may_take_as_long_as_it_likes():
    """It is neither counted nor ended."""
    clock = testing.FakeClock()
    async with flow.running(clock=clock, limits=manners.Limits(reads=1)) as plane:
        _known_by_header(plane, JANE)
        watches = [await plane.handler(_exchange(JANE, query="watch=true")) for _ in range(3)]
        await clock.advance(90)
        assert [each.status for each in watches] == [200, 200, 200]
        for each in watches:
            await each.stream.aclose()
