"""Each write of a request fails once, or fails after it was written: the result is the same."""

from __future__ import annotations

import contextlib

import pytest

from certplane import errors
from certplane.client import api
from certplane.resources import certificatesigningrequests as csrs
from certplane.store import memory
from tests.flow import plane as flow

#: The writes of a request: create, approve, issue.
REQUEST_WRITES = 3


class Faults:
    """Makes the nth write of a CSR fail."""

    def __init__(self, position, fault):
        self.remaining = position
        self.fault = fault

    def __call__(self, operation, key):
        if not key.startswith(csrs.RESOURCE.prefix):
            return memory.Fault.NONE
        self.remaining -= 1
        return self.fault if self.remaining == 0 else memory.Fault.NONE


async def retry(attempt):
    """Retry up to twice. AlreadyExists means that an earlier attempt succeeded."""
    for _ in range(3):
        with contextlib.suppress(errors.InternalError, errors.ServiceUnavailable, errors.Conflict, api.Unreachable):
            try:
                return await attempt()
            except errors.AlreadyExists:
                return None
    raise AssertionError("all attempts failed")


async def approve(client):
    csr = await client.get(csrs.RESOURCE, "a")
    if not csrs.has_condition(csr, csrs.APPROVED):
        await flow.decide(client, "a")


@pytest.mark.parametrize("fault", [memory.Fault.BEFORE, memory.Fault.AFTER])
@pytest.mark.parametrize("position", range(1, REQUEST_WRITES + 1))
async def test_one_failed_write_does_not_change_the_result(position, fault):
    """There is one request, approved once and issued once."""
    faults = Faults(position, fault)
    store = memory.MemoryStore(faults)
    async with flow.running(store) as plane:
        client = plane.client(flow.ADMIN)
        await retry(lambda: client.create(csrs.RESOURCE, flow.new_csr()))
        await retry(lambda: approve(client))
        for _ in range(20):
            await plane.clock.advance(1)
        await flow.issued(client, "a")
        assert faults.remaining <= 0
        assert [csr.metadata.name for csr in (await client.list(csrs.RESOURCE)).items] == ["a"]
