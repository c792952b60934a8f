"""The cleaners delete the objects that they checked, and no others."""

from __future__ import annotations

import asyncio

from certplane import testing
from certplane.client import informer
from certplane.controllers.cleanup import csrcleaner
from certplane.controllers.runtime.periodiccleaner import PeriodicCleaner
from certplane.resources import certificatesigningrequests as csrs


async def test_a_new_object_of_the_same_name_is_not_deleted():
    """The informer may be late: a deletion has the UID of the object that was checked."""
    async with testing.Plane(controllers=frozenset()) as plane:
        client = plane.client()
        for name in ("replaced", "expired"):
            await client.create(csrs.RESOURCE, testing.new_csr(name))
        late = informer.Informer(client, csrs.RESOURCE, plane.clock)
        running = asyncio.ensure_future(late.run())
        await late.synced.wait()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

        for csr in late.objects.values():
            csr.metadata.creation_timestamp = "2020-01-01T00:00:00Z"
        await client.delete(csrs.RESOURCE, "replaced")
        await client.create(csrs.RESOURCE, testing.new_csr("replaced"))
        await PeriodicCleaner(client, csrcleaner.RULE, late, plane.clock).clean()

        assert [csr.metadata.name for csr in (await client.list(csrs.RESOURCE)).items] == ["replaced"]
