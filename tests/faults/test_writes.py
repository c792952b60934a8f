"""A fault at every write of the story: it fails, or fails but was written. In the end the story is the same."""

from __future__ import annotations

import contextlib

import pytest

from certplane import errors
from certplane.client import api
from certplane.resources import certificatesigningrequests as csrs
from certplane.store import memory
from tests.flow import plane as flow

#: Writes of the story itself, after what every start writes: create, approve, issue.
STORY_WRITES = 3


class Faults:
    """Makes one write of the requests fail: the nth."""

    def __init__(self, at, how):
        self.left = at
        self.how = how

    def __call__(self, operation, key):
        if not key.startswith(csrs.RESOURCE.prefix):
            return memory.Fault.NONE
        self.left -= 1
        return self.how if self.left == 0 else memory.Fault.NONE


async def insistently(attempt):
    """What a careful client does: try again, and take a conflict with itself for success."""
    for _ in range(3):
        with contextlib.suppress(errors.InternalError, errors.ServiceUnavailable, errors.Conflict, api.Unreachable):
            try:
                return await attempt()
            except errors.AlreadyExists:
                return None
    raise AssertionError("it never worked")


async def approve(client):
    found = await client.get(csrs.RESOURCE, "a")
    if not csrs.has_condition(found, csrs.APPROVED):
        await flow.decide(client, "a")


@pytest.mark.parametrize("how", [memory.Fault.BEFORE, memory.Fault.AFTER])
@pytest.mark.parametrize("at", range(1, STORY_WRITES + 1))
async def test_one_failed_write_changes_nothing_in_the_end(at, how):
    """The request is there once, approved once, issued once."""
    faults = Faults(at, how)
    store = memory.MemoryStore(faults)
    async with flow.running(store) as plane:
        client = plane.client(flow.ADMIN)
        await insistently(lambda: client.create(csrs.RESOURCE, flow.new_csr()))
        await insistently(lambda: approve(client))
        for _ in range(20):
            await plane.clock.advance(1)
        await flow.issued(client, "a")
        assert faults.left <= 0
        assert [each.metadata.name for each in (await client.list(csrs.RESOURCE)).items] == ["a"]
