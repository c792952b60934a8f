"""What is to be signed is recorded before the CA key is used, and signed again after a crash: the same bytes."""

from __future__ import annotations

from certplane import testing
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
