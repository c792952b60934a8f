"""The CA files of signers while a control plane runs: new files are used within ten seconds, and problems reported."""

from __future__ import annotations

import base64
import dataclasses
import datetime
import logging

import pytest

from certplane import testing
from certplane.config.servesettings import DEFAULTS
from certplane.config.signing import PairFiles
from certplane.controllers.signing.signersfile import SignersFile
from certplane.plane import controllerconfig
from certplane.resources import certificatesigningrequests as csrs
from certplane.x509 import keys
from certplane.x509.issuance import issue, selfsigned
from certplane.x509.trust import validity
from tests.flow import plane as flow

CLIENT = flow.CLIENT
SETTINGS = DEFAULTS.controllers.signing
MESSAGE = "signer uses another CA: its files have changed"


class CADirectory:
    """A CA in two files, which a test replaces."""

    def __init__(self, directory, clock):
        self.certificate, self.key, self.clock = directory / "ca.crt", directory / "ca.key", clock
        directory.mkdir()
        self.replace()

    def replace(self, lifetime=datetime.timedelta(days=3650)):
        key = testing.new_key()
        self.certificate.write_bytes(selfsigned.self_signed_ca("kubernetes", key, self.clock.now(), lifetime))
        self.key.write_bytes(keys.to_pem(key))
        self.key.chmod(0o600)

    @property
    def pair(self):
        return PairFiles(self.certificate, self.key)

    @property
    def end(self):
        return validity.from_pem(self.certificate.read_bytes())[0].not_after


@pytest.fixture
def clock():
    return testing.FakeClock()


@pytest.fixture
def ca(tmp_path, clock):
    return CADirectory(tmp_path / "ca", clock)


def built_in(settings, default=None):
    return controllerconfig.built_in_signers(settings, None, default)


def metric(plane, name, signer=CLIENT):
    prefix = f'{name}{{signer="{signer}"}} '
    lines = plane.telemetry.render().decode().splitlines()
    return next(float(line.removeprefix(prefix)) for line in lines if line.startswith(prefix))


def replaced(caplog):
    return {record.signer for record in caplog.records if record.getMessage() == MESSAGE}


async def issued(plane, name):
    """The certificate of a new request."""
    client = plane.client()
    await client.create(csrs.RESOURCE, flow.new_csr(name))
    await plane.approve(name)
    return await flow.issued(client, name)


@pytest.mark.parametrize("is_default", [True, False], ids=["the CA of the data directory", "--cluster-signing"])
async def test_a_new_ca_is_used_without_a_request(is_default, ca, clock, caplog):
    """Within ten seconds after its files have changed, which is logged; then it signs."""
    caplog.set_level(logging.INFO)
    settings = SETTINGS if is_default else dataclasses.replace(SETTINGS, common=ca.pair)
    signers = built_in(settings, ca.pair if is_default else None)
    async with flow.running(clock=clock, signers=signers) as plane:
        before = await issued(plane, "before")
        ca.replace()
        await clock.advance(10)
        assert set(signers) == replaced(caplog)
        after = await issued(plane, "after")
        assert before.extensions != after.extensions
        assert 'certplane_file_reloads_total{file="signer CA",result="success"} 4.0' in (
            plane.telemetry.render().decode()
        )


async def test_half_a_new_ca_is_reported_and_not_used(ca, clock, caplog):
    """The certificate has been replaced, and its key has not."""
    key = ca.key.read_bytes()
    async with flow.running(clock=clock, signers=built_in(SETTINGS, ca.pair)) as plane:
        ca.replace()
        new_key = ca.key.read_bytes()
        ca.key.write_bytes(key)
        await clock.advance(10)
        assert set() == replaced(caplog)
        assert "signer keeps using its previous CA: the CA files have a problem" in caplog.messages
        await issued(plane, "a")
        ca.key.write_bytes(new_key)
        caplog.set_level(logging.INFO)
        await clock.advance(10)
        assert "signer recovered" in caplog.messages
        assert CLIENT in replaced(caplog)


async def test_sighup_reads_the_files_at_once(ca, clock, caplog):
    """Without waiting for the next check."""
    caplog.set_level(logging.INFO)
    async with flow.running(clock=clock, signers=built_in(SETTINGS, ca.pair)) as plane:
        await testing.settle()
        ca.replace()
        plane.config.wakeup.wake()
        await testing.settle()
        assert CLIENT in replaced(caplog)


async def test_an_expired_ca_does_not_sign(ca, clock, caplog):
    """That is logged when it happens, not when the next request comes; requests stay pending."""
    ca.replace(datetime.timedelta(hours=1))
    async with flow.running(clock=clock, signers=built_in(SETTINGS, ca.pair)) as plane:
        await clock.advance(3590)
        assert "signer cannot sign" not in caplog.messages
        await clock.advance(20)
        assert "signer cannot sign" in caplog.messages
        client = plane.client()
        await client.create(csrs.RESOURCE, flow.new_csr("a"))
        await plane.approve("a")
        await testing.settle(500)
        assert not (await client.get(csrs.RESOURCE, "a")).status.certificate
        ca.replace()
        await clock.advance(10)
        assert await flow.issued(client, "a")


async def test_a_ca_that_ends_within_the_longest_lifetime_is_reported(ca, clock, caplog):
    """Once in the log, and as a metric, before a request is shortened; users are warned when they create one."""
    assert datetime.timedelta(days=365) == SETTINGS.duration
    ca.replace(datetime.timedelta(days=365, seconds=60) - issue.BACKDATE)
    message = "the CA ends within the longest lifetime of its signer: it shortens certificates"
    async with flow.running(clock=clock, signers=built_in(SETTINGS, ca.pair)) as plane:
        await clock.advance(20)
        assert message not in caplog.messages
        assert 0 == metric(plane, "certplane_signer_lifetime_cut_seconds")
        await clock.advance(60)
        assert 4 == caplog.messages.count(message)
        assert 20 == metric(plane, "certplane_signer_lifetime_cut_seconds")
        path = "/apis/certificates.k8s.io/v1/certificatesigningrequests"
        response = await flow.respond(plane, "POST", path, plane_body())
        assert 201 == response.status
        (warning,) = [text for text in flow.warning_texts(response) if "its CA ends" in text]
        assert "the certificate will end with it" in warning
        await plane.approve("a")
        assert ca.end == (await flow.issued(plane.client(), "a")).not_valid_after_utc


def plane_body():
    """A request of a client certificate, in JSON."""
    return {
        "apiVersion": "certificates.k8s.io/v1",
        "kind": "CertificateSigningRequest",
        "metadata": {"name": "a"},
        "spec": {
            "request": base64.b64encode(flow.pkcs10()).decode(),
            "signerName": CLIENT,
            "usages": ["client auth"],
        },
    }


async def test_the_ca_of_a_custom_signer_is_reloaded(ca, clock, caplog, tmp_path):
    """The file of --signers has not changed, only the files that it names."""
    caplog.set_level(logging.INFO)
    path = tmp_path / "signers.yaml"
    path.write_text(
        "apiVersion: signers.certplane.dev/v1alpha1\nkind: SignerList\n"
        f"signers:\n- name: example.com/a\n  authority: {{certFile: {ca.certificate}, keyFile: {ca.key}}}\n"
        "  usages: {allowed: [client auth]}\n"
    )
    signers_file = SignersFile(path, datetime.timedelta(days=365))
    signers_file.load()
    async with flow.running(clock=clock, signers={}, signers_file=signers_file):
        ca.replace()
        await clock.advance(10)
        assert {"example.com/a"} == replaced(caplog)
