"""The bytes to be signed are recorded before the CA key is used; after a crash the same bytes are signed again."""

from __future__ import annotations

import asyncio
import base64
import concurrent.futures
import contextlib
import dataclasses

import pytest

from certplane import signernames, telemetry, testing
from certplane.client import informer
from certplane.controllers.runtime.eventwriter import EventWriter
from certplane.controllers.signing import records, signer
from certplane.plane import controllerset
from certplane.plane.controllerconfig import ControllerConfig
from certplane.resources import certificatesigningrequests as csrs
from certplane.store import journal, memory
from certplane.x509.issuance import authority, issue
from certplane.x509.pkcs10 import certificaterequest
from tests.flow import plane as flow


def _prepared(plane, csr):
    """A prepared certificate of another process for a request, and its record."""
    issuer = _issuer(plane)
    verified = certificaterequest.verified(csr.spec.request)
    prepared = issuer.prepare(verified, csr.spec.usages, None, plane.clock.now())
    return prepared, issuer.record(prepared, csr.metadata.uid)


def _issuer(plane):
    issuer = plane.config.controllers.signers[signernames.KUBE_APISERVER_CLIENT].current(plane.clock.now()).issuer
    assert isinstance(issuer, issue.Issuer)
    return issuer


async def test_recorded_bytes_of_an_earlier_process_are_signed():
    """A request gets the same serial number on every attempt."""
    store = memory.MemoryStore()
    async with flow.running(store, controllers=frozenset()) as plane:
        admin = plane.client(flow.ADMIN)
        csr = await admin.create(csrs.RESOURCE, flow.new_csr())
        await flow.decide(admin, "a")
        signers, (prepared, record) = plane.config.controllers.signers, _prepared(plane, csr)
        await journal.Journal(store).record(csr.metadata.uid, record)
    async with flow.running(store, signers=signers) as plane:
        certificate = await flow.issued(plane.client(flow.ADMIN), "a")
    assert certificate.serial_number == prepared.template.serial
    assert certificate.tbs_certificate_bytes == prepared.to_be_signed


async def test_a_record_of_a_replaced_ca_is_prepared_again():
    """The recorded certificate would not verify with the new CA."""
    store = memory.MemoryStore()
    async with flow.running(store, controllers=frozenset()) as plane:
        admin = plane.client(flow.ADMIN)
        csr = await admin.create(csrs.RESOURCE, flow.new_csr())
        await flow.decide(admin, "a")
        prepared, record = _prepared(plane, csr)
        await journal.Journal(store).record(csr.metadata.uid, record)
    async with flow.running(store) as plane:
        certificate = await flow.issued(plane.client(flow.ADMIN), "a")
        certificate.verify_directly_issued_by(_issuer(plane).authority.certificate)
    assert certificate.serial_number != prepared.template.serial


async def test_records_are_removed_after_issuance():
    """They are removed soon after issuance, and those of deleted requests at the start."""
    store = memory.MemoryStore()
    await journal.Journal(store).record("uid-of-a-deleted-request", b"x")
    async with flow.running(store) as plane:
        admin = plane.client(flow.ADMIN)
        await admin.create(csrs.RESOURCE, flow.new_csr())
        await flow.decide(admin, "a")
        await flow.issued(admin, "a")
        await plane.clock.advance(2)
        await testing.settle(500)
        assert list(await journal.Journal(store).entries()) == []


async def test_a_damaged_record_is_replaced():
    """An invalid record is not signed, and does not stop the controller."""
    store = memory.MemoryStore()
    async with flow.running(store, controllers=frozenset()) as plane:
        admin = plane.client(flow.ADMIN)
        csr = await admin.create(csrs.RESOURCE, flow.new_csr())
        await flow.decide(admin, "a")
        await journal.Journal(store).record(csr.metadata.uid, b"not a certificate")
    async with flow.running(store) as plane:
        assert await flow.issued(plane.client(flow.ADMIN), "a")


# --- with another API server ----------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def remote_signing(plane, signers):
    """The signing controller as in `certplane controllers`."""
    client = plane.client(flow.ADMIN)
    with concurrent.futures.ThreadPoolExecutor(1) as threads:
        context = controllerset.ControllerContext(
            config=ControllerConfig(signers=signers), client=lambda _: client, reader=client, clock=plane.clock,
            telemetry=telemetry.Telemetry(), journal=None, threads=threads,
            events=EventWriter(client, plane.clock),
        )  # fmt: skip
        runs = controllerset.build_controllers(context, {signer.NAME}).values()
        tasks = [asyncio.ensure_future(run()) for run in runs]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def test_another_replica_signs_recorded_bytes():
    """The record is a condition of the request, and is removed at issuance."""
    async with flow.running(controllers=frozenset()) as plane:
        admin, signers = plane.client(flow.ADMIN), plane.config.controllers.signers
        csr = await admin.create(csrs.RESOURCE, flow.new_csr())
        csr = await flow.decide(admin, "a")
        prepared, record = _prepared(plane, csr)
        await records.ConditionRecords(admin, plane.clock).record(csr, record)
        await plane.clock.advance(60)
        async with remote_signing(plane, signers):
            certificate = await flow.issued(admin, "a")
        assert certificate.tbs_certificate_bytes == prepared.to_be_signed
        assert [condition.type for condition in (await admin.get(csrs.RESOURCE, "a")).status.conditions] == [
            csrs.APPROVED
        ]


async def test_requestors_cannot_plant_a_record():
    """The status of a new request is dropped, so users cannot choose the serial number and the times."""
    async with flow.running(controllers=frozenset()) as plane:
        admin, signers = plane.client(flow.ADMIN), plane.config.controllers.signers
        csr = flow.new_csr()
        prepared, record = _prepared(plane, csr)
        planted = base64.b64encode(record).decode()
        await admin.create(csrs.RESOURCE, csrs.with_condition(csr, records.ISSUING, "Recorded", planted))
        await flow.decide(admin, "a")
        async with remote_signing(plane, signers):
            certificate = await flow.issued(admin, "a")
        assert certificate.serial_number != prepared.template.serial


def _forged(prepared, serial):
    """What an approver can write: all of it is public."""
    return dataclasses.replace(prepared.template, serial=serial).to_be_signed()


@pytest.mark.parametrize("forgery", ["without a MAC", "with another MAC", "of another request"])
async def test_approvers_cannot_plant_a_record(forgery):
    """They can write conditions through /approval, and could otherwise choose the serial number, even one that another
    certificate has. It is issued with a new one, although the planted record is for the same certificate.
    """
    async with flow.running(controllers=frozenset()) as plane:
        admin, signers = plane.client(flow.ADMIN), plane.config.controllers.signers
        csr, other = flow.new_csr("a"), flow.new_csr("b")
        other.spec = csr.spec
        csr, other = await admin.create(csrs.RESOURCE, csr), await admin.create(csrs.RESOURCE, other)
        prepared, record = _prepared(plane, other)
        chosen = _forged(prepared, 1 << 126 | 7)
        content, serial = {
            "without a MAC": (chosen, 1 << 126 | 7),
            "with another MAC": (record[: authority.MAC_SIZE] + chosen, 1 << 126 | 7),
            "of another request": (record, prepared.template.serial),
        }[forgery]
        planted = csrs.with_condition(csr, records.ISSUING, "Recorded", base64.b64encode(content).decode())
        approved = csrs.with_condition(planted, csrs.APPROVED, "Test", "for the test")
        written = await admin.update(csrs.RESOURCE, approved, "approval")
        assert [condition.type for condition in written.status.conditions] == [records.ISSUING, csrs.APPROVED]
        async with remote_signing(plane, signers):
            certificate = await flow.issued(admin, "a")
        assert certificate.serial_number != serial
        types = [condition.type for condition in (await admin.get(csrs.RESOURCE, "a")).status.conditions]
        assert types == [csrs.APPROVED]


async def test_a_record_that_is_not_ascii_is_replaced():
    """It was planted by an approver, who could otherwise have the request retried for ever."""
    async with flow.running(controllers=frozenset()) as plane:
        admin, signers = plane.client(flow.ADMIN), plane.config.controllers.signers
        csr = await admin.create(csrs.RESOURCE, flow.new_csr())
        planted = csrs.with_condition(csr, records.ISSUING, "Recorded", "é")
        approved = csrs.with_condition(planted, csrs.APPROVED, "Test", "for the test")
        await admin.update(csrs.RESOURCE, approved, "approval")
        async with remote_signing(plane, signers):
            assert await flow.issued(admin, "a")


async def test_two_active_replicas_issue_one_certificate():
    """Even without leader election, the server accepts one of two writes, and the other replica continues from it."""
    async with flow.running(controllers=frozenset()) as plane:
        admin, signers = plane.client(flow.ADMIN), plane.config.controllers.signers
        issued = set()

        def collect(before, after):
            if after is not None and after.status.certificate:
                issued.add((after.metadata.uid, after.status.certificate))

        watching = informer.Informer(admin, csrs.RESOURCE, plane.clock)
        watching.subscribe(collect)
        following = asyncio.ensure_future(watching.run())
        async with remote_signing(plane, signers), remote_signing(plane, signers):
            for number in range(20):
                await admin.create(csrs.RESOURCE, flow.new_csr(f"r{number}"))
                await flow.decide(admin, f"r{number}")
            for number in range(20):
                await flow.issued(admin, f"r{number}")
        await testing.settle(500)
        following.cancel()
        assert len(issued) == 20
