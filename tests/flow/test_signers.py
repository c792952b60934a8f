"""Custom signers: warnings, approval by rule, limits of the signer, and reloads of the signers file."""

from __future__ import annotations

import datetime

import pytest

from certplane import errors, signernames, testing
from certplane.config.signing import PairFiles, SigningSettings
from certplane.controllers.approving import signerrules
from certplane.controllers.runtime import decisions
from certplane.controllers.signing import signer, signersfile
from certplane.meta import context
from certplane.plane import controllerconfig
from certplane.resources import certificatesigningrequests as csrs
from certplane.resources import events
from certplane.wire import codec
from certplane.x509 import keys
from certplane.x509.issuance import authority, issue, profiles, selfsigned
from tests.flow import plane as flow

WEB = "example.com/web"
PATH = "/apis/certificates.k8s.io/v1/certificatesigningrequests"
REQUESTOR = context.User("requestor", groups=("requestors", "system:authenticated", "system:masters"))
SIGNERS = """\
apiVersion: signers.certplane.dev/v1alpha1
kind: SignerList
signers:
- name: example.com/web
  authority: {certFile: ca.crt, keyFile: ca.key}
  keys: [ECDSA-P256]
  usages: {allowed: [client auth], required: [client auth]}
  subject: {commonName: ["web-*"]}
  lifetime: {max: 2h, default: 1h}
  approval: [{groups: [requestors]}]
"""


def write_signers(tmp_path, clock, text=SIGNERS):
    """The signers file `signers.yaml` with a CA, loaded."""
    key = keys.generate("ECDSA-P256")
    (tmp_path / "ca.crt").write_bytes(selfsigned.self_signed_ca("web", key, clock.now(), datetime.timedelta(days=100)))
    (tmp_path / "ca.key").write_bytes(keys.to_pem(key))
    (tmp_path / "ca.key").chmod(0o600)
    (tmp_path / "signers.yaml").write_text(text)
    signers_file = signersfile.SignersFile(tmp_path / "signers.yaml", datetime.timedelta(days=365))
    signers_file.load()
    return signers_file


def web(name="a", common_name="web-1", **spec):
    return flow.new_csr(name, WEB, request=flow.pkcs10(common_name), **spec)


async def test_an_approval_rule_approves_and_the_custom_ca_signs(tmp_path):
    """A requestor whom the rule names needs no manual approval; the certificate has the default lifetime."""
    clock = testing.FakeClock()
    async with flow.running(clock=clock, signers_file=write_signers(tmp_path, clock)) as plane:
        await plane.client(REQUESTOR).create(csrs.RESOURCE, web())
        certificate = await flow.issued(plane.client(flow.ADMIN), "a")
        assert certificate.issuer.rfc4514_string() == "CN=web"
        assert certificate.not_valid_after_utc == clock.now() + datetime.timedelta(hours=1)
        csr = await plane.client(flow.ADMIN).get(csrs.RESOURCE, "a")
        assert [(condition.type, condition.reason) for condition in csr.status.conditions] == [
            (csrs.APPROVED, signerrules.REASON)
        ]


async def test_other_requestors_need_a_manual_approval(tmp_path):
    """Requestors whom no rule names wait; after a manual approval the certificate is issued."""
    clock = testing.FakeClock()
    async with flow.running(clock=clock, signers_file=write_signers(tmp_path, clock)) as plane:
        admin = plane.client(flow.ADMIN)
        await admin.create(csrs.RESOURCE, web(expiration_seconds=36000))
        await testing.settle(500)
        assert (await admin.get(csrs.RESOURCE, "a")).status.conditions == []
        await flow.decide(admin, "a")
        certificate = await flow.issued(admin, "a")
        assert certificate.not_valid_after_utc == clock.now() + datetime.timedelta(hours=2)


async def test_an_approval_rule_does_not_approve_what_the_signer_refuses(tmp_path):
    """The request stays pending with an Event; after a manual approval, it fails."""
    clock = testing.FakeClock()
    async with flow.running(clock=clock, signers_file=write_signers(tmp_path, clock)) as plane:
        admin = plane.client(flow.ADMIN)
        await plane.client(REQUESTOR).create(csrs.RESOURCE, web(common_name="db-1"))

        async def reported():
            items = (await admin.list(events.RESOURCE, "default")).items
            return [(event.metadata.annotations[decisions.DECISION_ANNOTATION], event.reason) for event in items]

        assert await flow.eventually(reported) == [(decisions.NOT_APPROVED, signerrules.NOT_PERMITTED)]
        await flow.decide(admin, "a")

        async def failed():
            conditions = (await admin.get(csrs.RESOURCE, "a")).status.conditions
            return next((condition.message for condition in conditions if condition.type == csrs.FAILED), None)

        assert await flow.eventually(failed) == "subject common name does not begin with web-"


async def test_an_approval_rule_does_not_change_a_decision(tmp_path):
    """A denial stays, even if a rule names the requestor; requests for unknown signers are ignored."""
    clock = testing.FakeClock()
    denied = csrs.with_condition(web(), csrs.DENIED, "Test", "")
    denied.spec.username, denied.spec.groups = REQUESTOR.name, list(REQUESTOR.groups)
    signers = write_signers(tmp_path, clock)
    # Nothing is written, so there is no client.
    recorded = []
    approver = signerrules.Approver(None, lambda: signers.signers, lambda *args: recorded.append(args))
    await approver.handle(denied)
    unknown = web()
    unknown.spec.signer_name = "example.com/other"
    await approver.handle(unknown)
    assert recorded == []


async def test_system_masters_is_refused_at_creation():
    """The signer for clients accepts no request with this group, whoever sends it, because it could not be revoked.
    Other organizations are accepted.
    """
    async with flow.running() as plane:
        admin = plane.client(flow.ADMIN)
        for organizations in (["system:masters"], ["team", "system:masters"]):
            request = flow.pkcs10("jane", organizations)
            with pytest.raises(errors.Forbidden, match="with system:masters group is not allowed"):
                await admin.create(csrs.RESOURCE, flow.new_csr("a", request=request))
        await admin.create(csrs.RESOURCE, flow.new_csr("a", request=flow.pkcs10("jane", ["system:master"])))


async def test_an_added_signer_signs_pending_requests(tmp_path):
    """When the file is read again, all requests are evaluated again."""
    clock = testing.FakeClock()
    signers = write_signers(tmp_path, clock, SIGNERS.replace("/web", "/other"))
    async with flow.running(clock=clock, signers_file=signers) as plane:
        admin = plane.client(flow.ADMIN)
        await admin.create(csrs.RESOURCE, web())
        await flow.decide(admin, "a")
        await testing.settle(500)
        assert not (await admin.get(csrs.RESOURCE, "a")).status.certificate
        (tmp_path / "signers.yaml").write_text(SIGNERS + "# changed\n")
        await clock.advance(11)
        assert await flow.issued(admin, "a")


async def test_an_added_domain_is_approved_and_signed(tmp_path):
    """The controllers get permissions for the signers of the domain, and evaluate pending requests again."""
    clock = testing.FakeClock()
    signers = write_signers(tmp_path, clock, SIGNERS.replace("example.com", "example.org"))
    async with flow.running(clock=clock, signers_file=signers) as plane:
        await plane.client(REQUESTOR).create(csrs.RESOURCE, web())
        await testing.settle(500)
        assert (await plane.client(flow.ADMIN).get(csrs.RESOURCE, "a")).status.conditions == []
        (tmp_path / "signers.yaml").write_text(SIGNERS + "# changed\n")
        await clock.advance(11)
        assert await flow.issued(plane.client(flow.ADMIN), "a")


async def create_warnings(plane, csr, user=flow.ADMIN):
    """The warnings of the server when a request is created."""
    csr.kind, csr.api_version = csrs.RESOURCE.kind, csrs.RESOURCE.api_version
    body = codec.encode(csr)
    response = await flow.respond(plane, "POST", PATH, body, user=user, content_type="application/json")
    assert response.status == 201
    return flow.warning_texts(response)


async def test_a_request_that_will_not_be_signed_is_warned_of(tmp_path):
    """The request is created; kubectl prints the warning."""
    clock = testing.FakeClock()
    async with flow.running(clock=clock, signers_file=write_signers(tmp_path, clock)) as plane:
        (warning,) = await create_warnings(plane, web("a", common_name="db-1"))
        assert "signer example.com/web will not sign this request: subject common name" in warning
        assert "use signer kubernetes.io/kube-apiserver-client instead" in warning
        (warning,) = await create_warnings(plane, flow.new_csr("b", "example.com/wob"))
        assert "unknown signer" in warning
        assert await create_warnings(plane, web("c")) == []


async def test_hints_about_signers_can_be_disabled():
    """Then there is no warning, as from a real API server."""
    async with flow.running(creation_hints=False) as plane:
        assert await create_warnings(plane, flow.new_csr("b", "example.com/web")) == []


async def test_a_lifetime_above_the_maximum_is_warned_of(tmp_path):
    """Built-in signers warn, and custom signers whose maximum is that of the server."""
    clock = testing.FakeClock()
    text = SIGNERS.replace("  lifetime: {max: 2h, default: 1h}\n", "")
    custom = write_signers(tmp_path, clock, text)
    pair = PairFiles(tmp_path / "ca.crt", tmp_path / "ca.key")
    built_in = controllerconfig.built_in_signers(SigningSettings(pair, {}, datetime.timedelta(days=30), None))
    async with flow.running(clock=clock, signers=built_in, signers_file=custom) as plane:
        for new, hours, others in (
            (flow.new_csr("a", expiration_seconds=31 * 86400), 720, []),
            # The CA of these tests ends before the maximum.
            (web("b", expiration_seconds=366 * 86400), 8760, ["its CA ends in 2400h"]),
        ):
            text = f"signer {new.spec.signer_name}: maximum lifetime is {hours}h; the request will be shortened"
            first, *rest = await create_warnings(plane, new, REQUESTOR)
            assert first == text
            assert [other.partition(": ")[2].partition(";")[0] for other in rest] == others


# --- faults of the CA key ---------------------------------------------------------------------------------------------


class FaultyAuthority(authority.Authority):
    """Makes one bad signature, and good ones afterwards."""

    __slots__ = ("signatures",)

    def __init__(self, sound):
        super().__init__(sound.raw, sound._key)
        self.signatures = 0

    def sign(self, data):
        self.signatures += 1
        return super().sign(data + b"x" if self.signatures == 1 else data)


async def approve_new(client, name, **spec):
    await client.create(csrs.RESOURCE, flow.new_csr(name, **spec))
    await flow.decide(client, name)


async def test_a_certificate_that_fails_its_check_stops_its_signer(caplog):
    """The certificate is not published, and the key is not used again; the other signers continue. The log, /readyz,
    the metric and an Event have the reason.
    """
    clock = testing.FakeClock()
    sound = flow.new_authority(clock)
    faulty = FaultyAuthority(sound)
    keys_of = {signernames.KUBE_APISERVER_CLIENT: faulty}
    signers = {
        name: signer.Signer(profile, issue.Issuer(keys_of.get(name, sound), datetime.timedelta(days=365)))
        for name, profile in profiles.BUILT_IN.items()
    }
    async with flow.running(clock=clock, signers=signers) as plane:
        admin = plane.client(flow.ADMIN)
        await approve_new(admin, "a")

        async def reasons():
            return {event.reason for event in (await admin.list(events.RESOURCE, "default")).items} - {"Test"}

        assert await flow.eventually(reasons) == {signer.STOPPED}
        await approve_new(admin, "b")
        node = flow.pkcs10("system:node:n1", ("system:nodes",))
        usages = ("digital signature", "client auth")
        await approve_new(
            admin, "c", signer_name=signernames.KUBE_APISERVER_CLIENT_KUBELET, usages=usages, request=node
        )
        assert await flow.issued(admin, "c")
        for _ in range(4):
            await clock.advance(1000)
            await testing.settle(500)
        for name in ("a", "b"):
            status = (await admin.get(csrs.RESOURCE, name)).status
            assert (status.certificate, [condition.type for condition in status.conditions]) == (b"", [csrs.APPROVED])
        assert faulty.signatures == 1
        problem = "stopped until restart: the new certificate does not verify: InvalidSignature"
        assert [
            (record.levelname, record.error) for record in caplog.records if "signer stopped" in record.message
        ] == [("ERROR", problem)]
        ready = await flow.respond(plane, "GET", "/readyz?verbose")
        assert f"signer-kube-apiserver-client failed, ignored: {problem}" in ready.body.decode()
        assert "[+]custom-signers ok" in ready.body.decode()
        metric = f'certplane_signer_ready{{reason="{problem}",signer="{signernames.KUBE_APISERVER_CLIENT}"}} 0.0'
        assert metric in plane.telemetry.render().decode()


async def test_a_stopped_custom_signer_stays_stopped_when_the_file_changes(tmp_path):
    """The changed definition is another configuration of the same signer."""
    clock = testing.FakeClock()
    signers = write_signers(tmp_path, clock)
    signers.signers[WEB].fault.set("stopped until restart: a test")
    (tmp_path / "signers.yaml").write_text(SIGNERS.replace("name: example.com/web", "name: example.com/web2"))
    assert signers.reload(is_requested=True)
    (tmp_path / "signers.yaml").write_text(SIGNERS.replace("default: 1h", "default: 90m"))
    assert signers.reload(is_requested=True)
    assert signers.signers[WEB].current(clock.now()).problem == "stopped until restart: a test"
