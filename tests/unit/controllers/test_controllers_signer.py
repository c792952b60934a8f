"""A fault of the key stops a signer at once, also for requests that wait for a thread."""

from __future__ import annotations

import asyncio
import concurrent.futures
import datetime
import threading

from certplane import telemetry, testing
from certplane.controllers.runtime import decisions
from certplane.controllers.signing import records, signer
from certplane.x509.issuance import authority, issue, profiles
from tests.flow import plane as flow

SIGNER = profiles.KUBE_APISERVER_CLIENT


class Recorded:
    """Records that keep nothing but the names of the published requests."""

    def __init__(self):
        self.published = []

    async def record(self, csr, to_be_signed):
        return records.Record(csr, to_be_signed)

    async def publish(self, csr):
        self.published.append(csr.metadata.name)


class FaultyAuthority(authority.Authority):
    """Makes one bad signature, the first. The second waits until `stopped` says so, if it is made at all."""

    __slots__ = ("second_begun", "signatures", "stopped")

    def __init__(self, sound, stopped=lambda: None):
        super().__init__(sound.raw, sound._key)
        self.signatures = 0
        self.second_begun = threading.Event()
        self.stopped = stopped

    def sign(self, data):
        self.signatures += 1
        if self.signatures == 1:
            return super().sign(data + b"x")
        self.second_begun.set()
        self.stopped()
        return super().sign(data)


def approved(name):
    csr = flow.new_csr(name)
    csr.metadata.uid = name
    return flow.csrs.with_condition(csr, flow.csrs.APPROVED, "Test", "")


async def signed(faulty, clock, threads):
    """What is published, and decided, for four requests that come at once."""
    own = signer.Signer(profiles.BUILT_IN[SIGNER], issue.Issuer(faulty, datetime.timedelta(days=365)))
    kept, decided = Recorded(), []
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        context = signer.SigningContext(clock, kept, pool, lambda csr, *decision: decided.append(decision))
        controller = signer.SigningController(lambda: {SIGNER: own}, context, telemetry.Telemetry())
        await asyncio.gather(*(controller.handle(approved(name)) for name in "abcd"))
    return kept.published, [decision[:2] for decision in decided]


async def test_requests_that_wait_for_a_thread_are_not_signed():
    """The first signature is bad; the three behind it are not made."""
    clock = testing.FakeClock()
    faulty = FaultyAuthority(flow.new_authority(clock))
    assert await signed(faulty, clock, 1) == ([], [(decisions.NOT_ISSUED, signer.STOPPED)] * 4)
    assert faulty.signatures == 1


async def test_a_certificate_that_was_signed_meanwhile_is_not_published(monkeypatch):
    """Another thread had begun when the fault was found."""
    clock = testing.FakeClock()
    stopped = threading.Event()
    faulty = FaultyAuthority(flow.new_authority(clock), lambda: stopped.wait(10))
    check, stop = issue._check, signer.FaultLatch.set

    def wait_for_second(encoded, prepared, own):
        assert faulty.second_begun.wait(10)
        check(encoded, prepared, own)

    def set_and_say(latch, problem):
        stop(latch, problem)
        stopped.set()

    monkeypatch.setattr(issue, "_check", wait_for_second)
    monkeypatch.setattr(signer.FaultLatch, "set", set_and_say)
    assert await signed(faulty, clock, 2) == ([], [(decisions.NOT_ISSUED, signer.STOPPED)] * 4)
    assert faulty.signatures == 2
