"""What is to be signed is recorded before the CA key is used, and signed again after a crash: the same bytes."""

from __future__ import annotations

import asyncio
import base64
import concurrent.futures
import contextlib

from certplane import manager, telemetry, testing
from certplane.client import informer
from certplane.controllers import records, signer
from certplane.resources import certificatesigningrequests as csrs
from certplane.store import journal, memory
from certplane.x509 import csr, issue, profiles
from tests.flow import plane as flow


def _prepared(plane, of):
    """What another process would have recorded for a request."""
    issuer = _issuer(plane)
    return issuer.prepare(csr.parse(of.spec.request), of.spec.usages, None, plane.clock.now())


def _issuer(plane):
    found = plane._how.signers[profiles.KUBE_APISERVER_CLIENT].current(plane.clock.now()).issuer
    assert isinstance(found, issue.Issuer)
    return found


async def test_what_an_earlier_process_recorded_is_what_is_signed():
    """One serial number for a request, however often it is tried."""
    store = memory.MemoryStore()
    async with flow.running(store, controllers=frozenset()) as plane:
        admin = plane.client(flow.ADMIN)
        of = await admin.create(csrs.RESOURCE, flow.new_csr())
        await flow.decide(admin, "a")
        signers, prepared = plane._how.signers, _prepared(plane, of)
        await journal.Journal(store).keep(of.metadata.uid, prepared.to_be_signed)
    async with flow.running(store, signers=signers) as plane:
        made = await flow.issued(plane.client(flow.ADMIN), "a")
    assert made.serial_number == prepared.template.serial
    assert made.tbs_certificate_bytes == prepared.to_be_signed


async def test_what_cannot_be_signed_any_more_is_prepared_anew():
    """The authority is another one by now: what was recorded would not verify under it."""
    store = memory.MemoryStore()
    async with flow.running(store, controllers=frozenset()) as plane:
        admin = plane.client(flow.ADMIN)
        of = await admin.create(csrs.RESOURCE, flow.new_csr())
        await flow.decide(admin, "a")
        prepared = _prepared(plane, of)
        await journal.Journal(store).keep(of.metadata.uid, prepared.to_be_signed)
    async with flow.running(store) as plane:
        made = await flow.issued(plane.client(flow.ADMIN), "a")
        made.verify_directly_issued_by(_issuer(plane).authority.certificate)
    assert made.serial_number != prepared.template.serial


async def test_what_is_published_is_forgotten():
    """A moment later, and what was kept for requests that are gone, at the start."""
    store = memory.MemoryStore()
    await journal.Journal(store).keep("of-nobody", b"x")
    async with flow.running(store) as plane:
        admin = plane.client(flow.ADMIN)
        await admin.create(csrs.RESOURCE, flow.new_csr())
        await flow.decide(admin, "a")
        await flow.issued(admin, "a")
        await plane.clock.advance(2)
        await testing.settle(500)
        assert list(await journal.Journal(store).kept()) == []


async def test_a_damaged_record_is_replaced():
    """What is no certificate is not signed, and stops nothing."""
    store = memory.MemoryStore()
    async with flow.running(store, controllers=frozenset()) as plane:
        admin = plane.client(flow.ADMIN)
        of = await admin.create(csrs.RESOURCE, flow.new_csr())
        await flow.decide(admin, "a")
        await journal.Journal(store).keep(of.metadata.uid, b"nonsense")
    async with flow.running(store) as plane:
        assert await flow.issued(plane.client(flow.ADMIN), "a")


# --- against an API server elsewhere ------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def abroad(plane, signers):
    """The signing controller, as a copy of `certplane controllers` has it."""
    client = plane.client(flow.ADMIN)
    with concurrent.futures.ThreadPoolExecutor(1) as threads:
        crew = manager.Crew(
            client=lambda _: client, reader=client, clock=plane.clock, telemetry=telemetry.Telemetry(),
            signers=signers, journal=None, threads=threads,
        )  # fmt: skip
        tasks = [asyncio.ensure_future(each()) for each in manager.assemble(crew, {signer.NAME}).values()]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def test_another_copy_signs_what_a_dead_one_recorded():
    """The request itself carries it from one to the other, and nothing of it stays."""
    async with flow.running(controllers=frozenset()) as plane:
        admin, signers = plane.client(flow.ADMIN), plane._how.signers
        of = await admin.create(csrs.RESOURCE, flow.new_csr())
        of = await flow.decide(admin, "a")
        prepared = _prepared(plane, of)
        await records.OnRequest(admin, plane.clock).keep(of, prepared.to_be_signed)
        await plane.clock.advance(60)
        async with abroad(plane, signers):
            made = await flow.issued(admin, "a")
        assert made.tbs_certificate_bytes == prepared.to_be_signed
        assert [each.type for each in (await admin.get(csrs.RESOURCE, "a")).status.conditions] == [csrs.APPROVED]


async def test_who_may_only_ask_records_nothing():
    """A status that comes with the request is dropped: serial number and times are the signer's."""
    async with flow.running(controllers=frozenset()) as plane:
        admin, signers = plane.client(flow.ADMIN), plane._how.signers
        new = flow.new_csr()
        planted = base64.b64encode(_prepared(plane, new).to_be_signed).decode()
        await admin.create(csrs.RESOURCE, csrs.with_condition(new, records.ISSUING, "Recorded", planted))
        await flow.decide(admin, "a")
        async with abroad(plane, signers):
            made = await flow.issued(admin, "a")
        assert base64.b64encode(made.tbs_certificate_bytes).decode() != planted


async def test_two_copies_that_both_work_issue_one_certificate():
    """Even without an election: the server lets one of two writes win, and the other copy goes on from there."""
    async with flow.running(controllers=frozenset()) as plane:
        admin, signers = plane.client(flow.ADMIN), plane._how.signers
        seen = set()

        def changed(before, after):
            if after is not None and after.status.certificate:
                seen.add((after.metadata.uid, after.status.certificate))

        watching = informer.Informer(admin, csrs.RESOURCE, plane.clock)
        watching.subscribe(changed)
        following = asyncio.ensure_future(watching.run())
        async with abroad(plane, signers), abroad(plane, signers):
            for number in range(20):
                await admin.create(csrs.RESOURCE, flow.new_csr(f"r{number}"))
                await flow.decide(admin, f"r{number}")
            for number in range(20):
                await flow.issued(admin, f"r{number}")
        await testing.settle(500)
        following.cancel()
        assert len(seen) == 20
