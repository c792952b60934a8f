"""A server renews its own certificates: when, and what happens if that fails."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import logging
import stat

import pytest
from cryptography import x509

from certplane import reload, telemetry, testing
from certplane.golang import goyaml
from certplane.kubeadm import kubeconfig, pki, renewal
from certplane.kubeadm import layout as layouts
from certplane.plane import owncertificates
from certplane.plane.owncertificates import OwnCertificates

YEAR = 365 * 86400.0
SERVER = "https://127.0.0.1:6443"


class Own:
    """A data directory with certificates of one year, and what renews them."""

    def __init__(self, directory):
        self.clock, self.telemetry, self.renewed = testing.FakeClock(), telemetry.Telemetry(), []
        directory.mkdir(mode=0o700, exist_ok=True)
        paths = pki.ensure(directory / "pki", ("localhost", "127.0.0.1"), "ECDSA-P256", self.clock.now())
        kubeconfig.ensure(directory, paths, SERVER, "ECDSA-P256", self.clock.now())
        self.directory, self.layout = directory, layouts.own(directory)
        self.certificates = OwnCertificates(
            self.layout.entries, "ECDSA-P256", self.clock, self.telemetry, self._on_renewed
        )

    async def _on_renewed(self, entry):
        self.renewed.append(entry.name)

    def entry(self, name):
        return self.layout.find(name)

    def shorten(self, lifetime):
        """Replace all certificates by some with a short lifetime."""
        for entry in self.layout.entries:
            ca = renewal.load_ca(entry.ca, self.clock.now())
            renewal.renew(entry, ca, renewal.Options(lifetime, "ECDSA-P256"), self.clock.now())

    def not_after(self, name):
        return renewal.load(self.entry(name)).not_after

    def counted(self, name, result):
        line = f'certplane_certificate_renewals_total{{certificate="{name}",result="{result}"}} '
        lines = self.telemetry.render().decode().splitlines()
        return next((float(text.removeprefix(line)) for text in lines if text.startswith(line)), 0)


@pytest.fixture
def own(tmp_path):
    return Own(tmp_path / "data")


def messages(caplog, level=logging.WARNING):
    return [record.getMessage() for record in caplog.records if record.levelno >= level]


@contextlib.asynccontextmanager
async def running(own):
    """The background task, until the block ends."""
    task = asyncio.ensure_future(own.certificates.run(reload.Wakeup()))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def test_certificates_are_due_at_70_to_90_per_cent_of_their_lifetime(tmp_path):
    """At points that depend on the certificate: a fleet of one age does not renew at once."""
    positions = set()
    for number in range(12):
        existing = renewal.load(Own(tmp_path / str(number)).entry("apiserver"))
        lifetime = existing.not_after - existing.not_before
        position = (owncertificates.renewal_time(existing) - existing.not_before) / lifetime
        assert 0.7 <= position <= 0.9
        positions.add(round(position, 6))
    assert 12 == len(positions)


@pytest.mark.parametrize(
    ("failures", "left", "seconds"),
    [(1, 3600, 1), (4, 3600, 8), (20, 3600, 180), (40, 86400 * 90, 3600), (9, 10, 1), (40, -5, 60), (2000, 0, 60)],
)
def test_retries_slow_down_but_not_beyond_what_is_left(failures, left, seconds):
    """A certificate with ten seconds left is retried each second; at most an hour passes between two attempts."""
    assert seconds == owncertificates.retry_delay(failures, datetime.timedelta(seconds=left)).total_seconds()


async def test_nothing_is_renewed_before_it_is_due(own):
    """The files are not touched, and the next check is after a minute."""
    before = {path: path.read_bytes() for path in own.directory.rglob("*") if path.is_file()}
    await own.clock.advance(0.69 * YEAR)
    assert 60 == await own.certificates.check()
    assert before == {path: path.read_bytes() for path in own.directory.rglob("*") if path.is_file()}


async def test_due_certificates_are_renewed_and_put_to_use(own, caplog):
    """With new keys, the same subject and names, and another year."""
    caplog.set_level(logging.INFO)
    before = {entry.name: renewal.load(entry) for entry in own.layout.entries}
    await own.clock.advance(0.91 * YEAR)
    await own.certificates.check()
    assert ["admin.conf", "apiserver", "super-admin.conf"] == sorted(own.renewed)
    for name, former in before.items():
        renewed = renewal.load(own.entry(name))
        assert renewed.matches
        assert former.key != renewed.key
        assert former.parsed.subject == renewed.parsed.subject
        assert former.parsed.alternative_names == renewed.parsed.alternative_names
        assert own.clock.now() + datetime.timedelta(days=365) == renewed.not_after
        assert 1 == own.counted(name, "success")
    assert 0o600 == stat.S_IMODE(own.entry("apiserver").key.stat().st_mode)
    assert 3 == messages(caplog, logging.INFO).count("certificate renewed")
    assert own.certificates.problem() is None
    own.renewed.clear()
    await own.certificates.check()
    assert [] == own.renewed


async def test_a_short_lived_certificate_is_renewed_in_time(own):
    """One minute is left when the task starts. The check interval follows the deadline, and the renewed certificates
    are those of a year.
    """
    own.shorten(datetime.timedelta(minutes=1))
    end = own.not_after("apiserver")
    async with running(own):
        while len(own.renewed) < 3:
            assert own.clock.now() < end
            await testing.eventually(lambda: own.clock.sleepers)
            await own.clock.advance(1)
            await asyncio.sleep(0)
    assert own.not_after("apiserver") > end + datetime.timedelta(days=300)


async def test_contexts_and_users_of_an_operator_are_kept(own):
    """Also if the current context is one of them: the user that certplane created is renewed."""
    path = own.directory / "admin.conf"
    config = goyaml.load(path.read_text())
    config["users"].insert(0, {"name": "jane", "user": {"token": "abc"}})
    config["clusters"].append({"name": "other", "cluster": {"server": "https://other.example"}})
    config["contexts"].append({"name": "mine", "context": {"cluster": "other", "user": "jane"}})
    config["current-context"] = "mine"
    path.write_text(goyaml.dump(config))
    await own.clock.advance(0.91 * YEAR)
    await own.certificates.check()
    renewed = goyaml.load(path.read_text())
    former, current = (entries["users"].pop() for entries in (config, renewed))
    assert config == renewed
    assert former["name"] == current["name"] == "kubernetes-admin"
    assert former["user"] != current["user"]
    assert own.clock.now() < own.not_after("admin.conf")


async def test_one_failure_does_not_keep_the_others_from_being_renewed(own, caplog):
    """It is counted, logged, and retried later; the health check names it."""
    (own.directory / "admin.conf.old").mkdir()
    await own.clock.advance(0.91 * YEAR)
    assert 1 == await own.certificates.check()
    assert ["apiserver", "super-admin.conf"] == sorted(own.renewed)
    assert ["certificate renewal failed"] == messages(caplog)
    assert "renewal of admin.conf fails: " in own.certificates.problem()
    assert 1 == own.counted("admin.conf", "error")
    await own.certificates.check()
    assert 1 == own.counted("admin.conf", "error")
    await own.clock.advance(1)
    assert 2 == await own.certificates.check()
    assert 2 == own.counted("admin.conf", "error")
    (own.directory / "admin.conf.old").rmdir()
    await own.clock.advance(2)
    await own.certificates.check()
    assert "admin.conf" in own.renewed
    assert own.certificates.problem() is None


async def test_without_the_ca_key_nothing_is_renewed(own, caplog):
    """It is kept elsewhere: said once, and no failure. When the key is there, the next check renews."""
    key = own.directory / "pki" / "ca.key"
    content = key.read_bytes()
    key.unlink()
    await own.clock.advance(0.91 * YEAR)
    for _ in range(2):
        assert 60 == await own.certificates.check()
    assert [] == own.renewed
    assert 3 == messages(caplog).count("certificate cannot be renewed")
    key.write_bytes(content)
    key.chmod(0o600)
    await own.certificates.check()
    assert 3 == len(own.renewed)


async def test_a_certificate_of_another_ca_is_not_replaced(own, tmp_path, caplog):
    """Its clients would not trust the new one: the operator has to decide."""
    other = Own(tmp_path / "other")
    for name in ("ca.crt", "ca.key"):
        (own.directory / "pki" / name).write_bytes((other.directory / "pki" / name).read_bytes())
    before = own.not_after("apiserver")
    await own.clock.advance(0.91 * YEAR)
    await own.certificates.check()
    assert [] == own.renewed
    assert before == own.not_after("apiserver")
    assert "is not signed by corresponding CA" in own.certificates.problem()


async def test_certificates_that_end_with_their_ca_are_not_renewed_again_and_again(own, caplog):
    """A new one would end at the same time."""
    await own.clock.advance(9.5 * YEAR)
    await own.certificates.check()
    assert 3 == len(own.renewed)
    end = own.not_after("apiserver")
    await own.clock.advance(0.49 * YEAR)
    await own.certificates.check()
    assert 3 == len(own.renewed)
    assert end == own.not_after("apiserver")
    assert "the CA ends as early" in caplog.records[-1].error


async def test_a_removed_kubeconfig_is_no_problem(own, caplog):
    """An operator does not want it on this machine."""
    (own.directory / "super-admin.conf").unlink()
    await own.clock.advance(0.91 * YEAR)
    await own.certificates.check()
    assert ["admin.conf", "apiserver"] == sorted(own.renewed)
    assert [] == messages(caplog)


async def test_a_damaged_kubeconfig_is_said_once_and_kept(own, caplog):
    """It may have entries of an operator."""
    path = own.directory / "admin.conf"
    path.write_text("users: [")
    for _ in range(2):
        await own.certificates.check()
    assert ["certificate cannot be renewed"] == messages(caplog)
    assert "users: [" == path.read_text()


# --- names --------------------------------------------------------------------------------------------------------


def names_in(path):
    certificate = x509.load_pem_x509_certificate(path.read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return {*names.get_values_for_type(x509.DNSName), *map(str, names.get_values_for_type(x509.IPAddress))}


async def test_missing_names_are_added(own):
    """A changed --tls-san, or another host name; names that the certificate has are kept."""
    entry = own.entry("apiserver")
    before = names_in(entry.certificate)
    await own.certificates.add_names(entry, ("localhost", "PKI.example.com", "10.1.2.3", "127.0.0.1"))
    assert before | {"pki.example.com", "10.1.2.3"} == names_in(entry.certificate)
    assert ["apiserver"] == own.renewed
    await own.certificates.add_names(entry, ("localhost", "PKI.example.com", "10.1.2.3", "127.0.0.1"))
    assert ["apiserver"] == own.renewed


async def test_missing_names_are_reported_if_they_cannot_be_added(own, caplog):
    """Without the CA key, and for a certificate that has more than a hundred names."""
    entry = own.entry("apiserver")
    await own.certificates.add_names(entry, [f"host-{number}.example.com" for number in range(100)])
    before = entry.certificate.read_bytes()
    await own.certificates.add_names(entry, ("new.example.com",))
    (own.directory / "pki" / "ca.key").unlink()
    await own.certificates.add_names(entry, ("new.example.com",))
    assert before == entry.certificate.read_bytes()
    assert ["certificate lacks names of this server"] * 2 == messages(caplog)
    assert "is not here" in caplog.records[-1].error
