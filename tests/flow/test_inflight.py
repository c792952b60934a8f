"""Requests above the limits are refused, and those that take too long are cancelled, as in kube-apiserver."""

from __future__ import annotations

import asyncio
import datetime

import pytest

from certplane import testing
from certplane.config.servesettings import RequestLimits
from certplane.server import exchange
from tests.flow import plane as flow

CSRS = "/apis/certificates.k8s.io/v1/certificatesigningrequests"


class BlockingRoute:
    """A route that blocks every request until `unblock` is set."""

    def __init__(self, plane):
        self.unblock = asyncio.Event()
        self.waiting = 0
        self._route = plane.dependencies.route

    async def handle(self, request):
        self.waiting += 1
        await self.unblock.wait()
        return await self._route(request)


def _limits(reads, writes=1):
    return RequestLimits(reads, writes, datetime.timedelta(minutes=1))


def _request(user, method="GET", path=CSRS, query=""):
    return exchange.Request(method, path, query, exchange.Headers([(b"x-user", user.name.encode())]))


def _authenticate_by_header(plane, *users):
    """Take the user from a header, and authorize everything."""
    by_name = {user.name: user for user in users}
    flow.replace_services(
        plane,
        authenticate=lambda request: by_name[request.headers.get(b"x-user")],
        authorize=lambda attributes: ("", None),
    )


async def test_requests_above_the_limit_are_refused():
    """The response is a 429 with Retry-After; members of system:masters are never refused."""
    async with flow.running(limits=_limits(reads=2, writes=1)) as plane:
        _authenticate_by_header(plane, flow.JANE, flow.ADMIN)
        route = BlockingRoute(plane)
        original_route = plane.dependencies.route
        flow.replace_services(plane, route=route.handle)
        handler = plane.handler
        first = [asyncio.ensure_future(handler(_request(flow.JANE))) for _ in range(2)]
        await flow.eventually(lambda: route.waiting == 2)
        refused = await handler(_request(flow.JANE))
        assert (refused.status, refused.body) == (429, b"Too many requests, please try again later.\n")
        assert (b"retry-after", b"1") in refused.headers
        write = asyncio.ensure_future(handler(_request(flow.JANE, method="POST")))
        admin = asyncio.ensure_future(handler(_request(flow.ADMIN)))
        await flow.eventually(lambda: route.waiting == 4)
        assert (await handler(_request(flow.JANE, method="POST"))).status == 429
        assert b'inflight_requests{request_kind="readOnly"} 3.0' in plane.telemetry.render()
        route.unblock.set()
        assert [response.status for response in await asyncio.gather(*first, admin)] == [200, 200, 200]
        assert (await write).status == 400
        flow.replace_services(plane, route=original_route)
        assert (await plane.handler(_request(flow.JANE))).status == 200


@pytest.mark.parametrize(
    ("query", "seconds"), [("", 60), ("timeout=5s", 5), ("timeout=10m", 60), ("timeout=1500ms", 1)]
)
async def test_a_request_that_takes_too_long_is_cancelled(query, seconds):
    """After the timeout of the server or of the client, whichever is shorter, the response is a 504."""
    clock = testing.FakeClock()
    async with flow.running(clock=clock) as plane:
        _authenticate_by_header(plane, flow.JANE)
        route = BlockingRoute(plane)
        flow.replace_services(plane, route=route.handle)
        slow = asyncio.ensure_future(plane.handler(_request(flow.JANE, query=query)))
        await flow.eventually(lambda: route.waiting == 1)
        await clock.advance(seconds - 1)
        assert not slow.done()
        await clock.advance(3)
        response = await slow
        assert response.status == 504
        assert b"request did not complete within requested timeout" in response.body


async def test_watches_have_no_limit():
    """They are neither counted nor cancelled."""
    clock = testing.FakeClock()
    async with flow.running(clock=clock, limits=_limits(reads=1)) as plane:
        _authenticate_by_header(plane, flow.JANE)
        watches = [await plane.handler(_request(flow.JANE, query="watch=true")) for _ in range(3)]
        await clock.advance(90)
        assert [watch.status for watch in watches] == [200, 200, 200]
        for watch in watches:
            await watch.stream.aclose()
