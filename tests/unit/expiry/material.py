"""Certificates, and what sources find, for tests of the expiry watch."""

from __future__ import annotations

import datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from certplane.expiry.findings import Collector, Finding
from certplane.x509.trust.inventory import Item
from tests.unit.agent import pairs

DAY = pairs.DAY
NOW = pairs.NOW
KEY = pairs.new_key()
CA = pairs.CA("Example CA")


def leaf(name="web", lifetime=30 * DAY, start=NOW):
    """A certificate in PEM."""
    return CA.issue(KEY, start, lifetime, name)


def crl(next_update=NOW + DAY, encoding=serialization.Encoding.PEM):
    """A revocation list of the CA."""
    builder = x509.CertificateRevocationListBuilder().issuer_name(CA.name).last_update(NOW).next_update(next_update)
    return builder.sign(CA.key, hashes.SHA256()).public_bytes(encoding)


async def read(source, limit=1000):
    """What a source finds."""
    collector = Collector(limit)
    await source.read(collector)
    return list(collector.findings())


def brief(findings):
    """The place, the subject and the problem of each."""
    return sorted((item.path, item.place, item.item.subject, item.item.problem) for item in findings)


def finding(number=1, end=NOW + 90 * DAY, path="/a.pem", **item):
    """A certificate that was found."""
    fields = {"subject": f"name-{number}", "issuer": "Example CA", "serial": f"{number:x}", **item}
    return Finding(path, "", (("filepath", path),), Item(not_before=NOW, not_after=end, **fields))


def problem(text="it is empty", path="/b.pem"):
    return Finding(path, "", (("filepath", path),), Item(problem=text))


class ListSource:
    """A source whose findings are given; `before` is awaited first, and may raise."""

    kind = "list"

    def __init__(self, name, *findings, before=None):
        self.name = name
        self.findings = list(findings)
        self.before = before
        self.readings = 0

    async def read(self, findings):
        self.readings += 1
        if self.before is not None:
            await self.before()
        for item in self.findings:
            findings.add(item)


def seconds(time: datetime.datetime) -> int:
    return int(time.timestamp())
