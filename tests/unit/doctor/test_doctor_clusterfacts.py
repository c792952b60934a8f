"""Questions to a server that answers some of them, nonsense, or nothing."""

from __future__ import annotations

import asyncio
import datetime

import pytest

from certplane.client import api
from certplane.client.api import Client
from certplane.doctor import clusterfacts, overview
from certplane.testing import FakeClock

NOW = datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC)


class Answers:
    """A transport with an answer for each path; None: it never answers. Others are forbidden."""

    def __init__(self, **answers):
        self.answers = {f"/{path}": body for path, body in answers.items()}

    async def send(self, request):
        body = self.answers.get(request.path, b"forbidden")
        if body is None:
            await asyncio.Event().wait()
        status = 200 if request.path in self.answers else 403
        return api.Response(status, {"date": "Fri, 02 Jan 2026 00:00:00 GMT"}, body)


async def advanced(clock, coroutine):
    """The result of a coroutine while the time passes."""
    task = asyncio.ensure_future(coroutine)
    while not task.done():
        await clock.advance(5)
    return task.result()


def test_a_server_that_forbids_everything():
    """The reasons are those of the server."""
    facts = asyncio.run(clusterfacts.gather(Client(Answers()), FakeClock(NOW)))
    assert facts.unreachable == ""
    assert facts.health.reason == "the server responds to /readyz with 403"
    for answer in (facts.requests, facts.leases, facts.rbac):
        assert (answer.value, answer.reason) == (None, "forbidden")


def test_a_server_that_sends_nonsense():
    """It is no API server, and is said to be none."""
    path = "apis/certificates.k8s.io/v1/certificatesigningrequests"
    answers = Answers(**{"readyz": b"\xff\x00", path: b"[1]"})
    facts = asyncio.run(clusterfacts.gather(Client(answers), FakeClock(NOW)))
    assert facts.health.value.status == 200
    assert facts.requests.reason.startswith("the response is not from an API server")


def test_a_server_that_does_not_answer():
    """Neither command waits for long: not at the start, and not for one question."""

    async def scenario():
        clock = FakeClock(NOW)
        silent = Client(Answers(readyz=None))
        facts = await advanced(clock, clusterfacts.gather(silent, clock))
        assert facts.unreachable == "the server does not respond within 15s"
        with pytest.raises(api.Unreachable, match="does not respond within 15s"):
            await advanced(clock, overview.gather(silent, clock))
        partly = Client(Answers(readyz=b"ok", version=None, metrics=b"x"))
        state = await advanced(clock, overview.gather(partly, clock))
        assert state.version.reason == "the server does not respond within 15s"
        assert state.metrics.value == "x"
        assert state.user.reason == "forbidden"

    asyncio.run(scenario())
