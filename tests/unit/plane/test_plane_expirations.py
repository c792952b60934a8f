"""Certificates that are about to end: when and how that is reported."""

from __future__ import annotations

import datetime
import logging

import pytest

from certplane import telemetry, testing
from certplane.plane import expirations
from certplane.plane.expirations import NamedCertificate, Unreadable, Urgency
from certplane.x509.trust.validity import Validity

START = testing.FakeClock().now()
DAY = 86400
YEAR = datetime.timedelta(days=365)


def validity(not_after, lifetime=YEAR, sha256="a"):
    return Validity("CN=test", "1f", sha256, not_after - lifetime, not_after)


def days(number):
    return datetime.timedelta(days=number)


class Watched:
    """Expirations of one certificate, which a test replaces, and what they report."""

    def __init__(self, *items):
        self.clock, self.items = testing.FakeClock(), list(items)
        self.telemetry = telemetry.Telemetry()
        self.events = []
        self.expirations = expirations.Expirations([self._source], self.clock, self.telemetry, self.events.append)

    async def _source(self):
        return self.items

    async def pass_days(self, number):
        """Check once a minute would take long: once every half hour is as good."""
        for _ in range(int(number * 48)):
            await self.clock.advance(1800)
            await self.expirations.check()


def named(value, name="serving"):
    return NamedCertificate(name, "/pki/a.crt", value, "replace the file")


def lines(caplog):
    return [(record.levelname, record.getMessage()) for record in caplog.records]


@pytest.mark.parametrize(
    ("left", "lifetime", "expected"),
    [
        (days(31), YEAR, Urgency.NONE),
        (days(30), YEAR, Urgency.SOON),
        (days(7), YEAR, Urgency.URGENT),
        (days(0), YEAR, Urgency.EXPIRED),
        (days(400), YEAR, Urgency.NOT_YET_VALID),
        (days(5), days(5), Urgency.URGENT),
        (days(0.6), days(1), Urgency.NONE),
        (days(0.3), days(1), Urgency.SOON),
        (days(0.1), days(1), Urgency.URGENT),
        (days(-1), days(1), Urgency.EXPIRED),
    ],
)
def test_urgency_depends_on_the_time_that_is_left(left, lifetime, expected):
    """30 days and 7 days; for a lifetime below two days, a third and a tenth of it."""
    assert expected is expirations.urgency(validity(START + left, lifetime), START)


async def test_a_certificate_is_reported_when_the_urgency_grows_and_daily(caplog):
    """As a warning, then as errors; never before."""
    caplog.set_level(logging.INFO)
    watched = Watched(named(validity(START + days(31))))
    await watched.expirations.check()
    assert [] == lines(caplog)
    assert watched.expirations.problem() is None
    await watched.pass_days(1)
    assert [("WARNING", "certificate ends within 30 days")] == lines(caplog)
    assert "serving ends in 30d, at 2026-02-01T00:00:00Z" == watched.expirations.problem()
    await watched.pass_days(2)
    assert [("WARNING", "certificate ends within 30 days")] * 3 == lines(caplog)
    caplog.clear()
    await watched.pass_days(21)
    assert ("ERROR", "certificate ends within 7 days") == lines(caplog)[-1]
    caplog.clear()
    await watched.pass_days(7)
    assert ("ERROR", "certificate has expired") == lines(caplog)[-1]
    assert "replace the file" == caplog.records[-1].hint
    assert "serving expired at 2026-02-01T00:00:00Z" == watched.expirations.problem()


async def test_events_are_repeated_before_they_are_deleted(caplog):
    """They are kept for an hour; one is on the namespace of the control plane at any time."""
    watched = Watched(named(validity(START + days(3))))
    await watched.expirations.check()
    await watched.pass_days(0.25)
    assert 13 == len(watched.events)
    assert {("CertificateExpiring", "Warning", "kube-system")} == {
        (event.reason, event.type, event.reference.name) for event in watched.events
    }
    assert 1 == len({event.key for event in watched.events})
    assert "certificate serving (/pki/a.crt) ends in 2d18h, at 2026-01-04T00:00:00Z; replace the file" == (
        watched.events[-1].message
    )


async def test_a_replaced_certificate_is_reported_no_more(caplog):
    """Nor is it in the health check."""
    watched = Watched(named(validity(START + days(1))))
    await watched.expirations.check()
    watched.items = [named(validity(START + days(100), sha256="b"))]
    caplog.clear()
    await watched.pass_days(2)
    assert [] == lines(caplog)
    assert watched.expirations.problem() is None


async def test_a_certificate_that_is_not_valid_yet_points_to_the_clock(caplog):
    """Most often the clock of the machine is wrong."""
    watched = Watched(named(validity(START + days(400))))
    await watched.expirations.check()
    assert [("WARNING", "certificate is not valid yet")] == lines(caplog)
    assert "check the clock" in watched.expirations.problem()


async def test_a_certificate_with_two_names_is_reported_once(caplog):
    """All signers usually have the CA of the data directory."""
    ca = validity(START + days(3))
    watched = Watched(named(ca, "ca"), named(ca, "signer:a"))
    await watched.expirations.check()
    assert ["ca"] == [record.certificate for record in caplog.records]


async def test_the_metric_has_the_absolute_end():
    """Prometheus can then calculate what is left at any time."""
    watched = Watched(named(validity(START + days(3))))
    await watched.expirations.check()
    name = 'certplane_certificate_expiration_timestamp_seconds{certificate="serving",serial_number="1f"} '
    values = [line for line in watched.telemetry.render().decode().splitlines() if line.startswith(name)]
    assert [START + days(3)] == [
        datetime.datetime.fromtimestamp(float(line.removeprefix(name)), datetime.UTC) for line in values
    ]


async def test_an_unreadable_file_is_logged_once_and_stays_visible(caplog):
    """The other certificates are reported all the same."""
    watched = Watched(Unreadable("admin.conf", "no permission"), named(validity(START + days(3))))
    await watched.expirations.check()
    await watched.expirations.check()
    assert 1 == lines(caplog).count(("WARNING", "certificate cannot be read"))
    assert "serving ends in 3d, at 2026-01-04T00:00:00Z; admin.conf: no permission" == watched.expirations.problem()


def test_a_bundle_of_many_is_limited_to_those_that_end_first():
    """Each is a series of the metric."""
    bundle = [validity(START + days(number), sha256=str(number)) for number in range(300, 0, -1)]
    limited = expirations.named("client-ca", "/a", bundle, "")
    assert [START + days(number) for number in range(1, 101)] == [item.validity.not_after for item in limited]
