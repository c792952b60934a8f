"""The watch: sources that hang, fail or vanish leave the others unharmed, and what was read of them is still shown."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from certplane.expiry.findings import SourceProblem
from certplane.expiry.stream import InventorySource, StreamedCertificate
from certplane.expiry.watch import Limits, Watch
from certplane.testing import FakeClock
from tests.unit.expiry import material
from tests.unit.expiry.material import ListSource
from tests.unit.expiry.test_expiry_exposition import samples

LIMITS = Limits(interval=300, timeout=60, certificates=5)


def shown(watch):
    """The values in the metrics, by name and source."""
    text = b"".join(watch.page().parts).decode()
    return {(name, dict(labels).get("source")): value for (name, labels), value in samples(text).items()}


@contextlib.asynccontextmanager
async def running(watch):
    """The watch runs; each source was read once."""
    changed = asyncio.Event()
    remaining = [len(watch.states)]

    def count():
        remaining[0] -= 1
        if not remaining[0]:
            changed.set()

    watch.on_change(count)
    task = asyncio.ensure_future(watch.run())
    try:
        yield changed
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def next_change(watch):
    """A function that waits until a source was read again."""
    changed = asyncio.Event()
    watch.on_change(changed.set)
    return changed


async def test_metrics_of_sources():
    """How many certificates each has, when it was read, and that it could be."""
    clock = FakeClock()
    watch = Watch([ListSource("one", *map(material.finding, range(8)))], clock, LIMITS)
    async with running(watch) as read:
        await read.wait()
        values = shown(watch)
    assert 1 == values[("x509_source_up", "one")]
    assert 0 == values[("x509_source_errors_total", "one")]
    assert 8 == values[("certplane_watch_certificates", "one")]
    assert 3 == values[("certplane_watch_omitted_certificates", "one")]
    assert clock.now().timestamp() == pytest.approx(values[("certplane_watch_read_timestamp_seconds", "one")], abs=1)


async def test_a_source_that_hangs():
    """It is given up after its time, and read again later. The other source is shown meanwhile."""
    clock = FakeClock()
    silent = asyncio.Event()
    hanging = ListSource("hanging", material.finding(), before=silent.wait)
    watch = Watch([hanging, ListSource("good", material.finding(2))], clock, LIMITS)
    good = await next_change(watch)
    async with running(watch) as read:
        await good.wait()
        assert 1 == shown(watch)[("x509_source_up", "good")]
        assert 0 == shown(watch)[("x509_source_up", "hanging")]
        await clock.advance(60)
        await read.wait()
        assert "it was not read within 60 s" == watch.states[0].problem
        assert 1 == shown(watch)[("x509_source_errors_total", "hanging")]
        silent.set()
        again = await next_change(watch)
        await clock.advance(300)
        while not shown(watch)[("x509_source_up", "hanging")]:
            await again.wait()
            again.clear()


@pytest.mark.parametrize("error", [SourceProblem("it is gone"), ValueError("a bug in a parser")])
async def test_a_source_that_fails_later(error):
    """What was read of it is still shown: the certificates end all the same."""
    clock = FakeClock()
    source = ListSource("one", material.finding())
    watch = Watch([source], clock, LIMITS)

    async def fail():
        raise error

    async with running(watch) as read:
        await read.wait()
        before = shown(watch)
        source.before = fail
        again = await next_change(watch)
        await clock.advance(300)
        await again.wait()
        after = shown(watch)
    assert before[("x509_cert_not_after", "one")] == after[("x509_cert_not_after", "one")]
    assert (1, 0) == (before[("x509_source_up", "one")], after[("x509_source_up", "one")])
    assert 1 == after[("x509_source_errors_total", "one")]
    # The text of an unexpected error may have any content of a file.
    assert watch.states[0].problem in ("it is gone", "ValueError")


async def test_expired_is_shown_without_a_reading():
    """Within half a minute."""
    clock = FakeClock()
    end = clock.now().replace(microsecond=0) + 0.01 * material.DAY
    source = ListSource("one", material.finding(end=end))
    watch = Watch([source], clock, Limits(interval=86400))
    async with running(watch) as read:
        await read.wait()
        assert 0 == shown(watch)[("x509_cert_expired", "one")]
        await clock.advance(900)
        for _ in range(100):
            if shown(watch)[("x509_cert_expired", "one")]:
                break
            await asyncio.to_thread(lambda: None)
            await clock.advance(30)
        assert 1 == shown(watch)[("x509_cert_expired", "one")]
    assert 1 == source.readings


async def test_read_now():
    """An operator need not wait for the interval."""
    source = ListSource("one")
    watch = Watch([source], FakeClock(), LIMITS)
    async with running(watch) as read:
        await read.wait()
        again = await next_change(watch)
        watch.read_now()
        await again.wait()
    assert 2 == source.readings


async def test_an_inventory_is_a_source():
    """Any stream of certificates: of each chain, the first one counts."""

    async def stream():
        yield StreamedCertificate("csr-1", material.leaf("one") + material.CA.pem, "example.com/a")
        yield StreamedCertificate("csr-2", b"damaged")

    found = await material.read(InventorySource("inventory", stream))
    assert [("csr-1", "", "one", ""), ("csr-2", "", "", "it holds no certificate")] == material.brief(found)
    assert (("csr_name", "csr-1"), ("signer_name", "example.com/a")) == found[0].labels
