"""Users' own signers on a plane: declared, warned about, approved by rule, signed within their bounds, reloaded."""

from __future__ import annotations

import datetime

import pytest

from certplane import errors, testing
from certplane.client import api
from certplane.config.signing import PairFiles, SigningSettings
from certplane.controllers.approving import declaredsigners
from certplane.controllers.runtime import decisions
from certplane.controllers.signing import signer, signerfile
from certplane.meta import context
from certplane.plane import controllerconfig
from certplane.resources import certificatesigningrequests as csrs
from certplane.resources import events
from certplane.server import exchange, local
from certplane.wire import codec
from certplane.x509 import keys
from certplane.x509.issuance import authority, issue, profiles, selfsigned
from tests.flow import plane as flow

WEB = "example.com/web"
PATH = "/apis/certificates.k8s.io/v1/certificatesigningrequests"
MAKER = context.User("maker", groups=("makers", "system:authenticated", "system:masters"))
DECLARED = """\
apiVersion: signers.certplane.dev/v1alpha1
kind: SignerList
signers:
- name: example.com/web
  authority: {certFile: ca.crt, keyFile: ca.key}
  keys: [ECDSA-P256]
  usages: {allowed: [client auth], required: [client auth]}
  subject: {commonName: ["web-*"]}
  lifetime: {longest: 2h, default: 1h}
  approval: [{groups: [makers]}]
"""


def declared(tmp_path, clock, text=DECLARED):
    key = keys.generate("ECDSA-P256")
    (tmp_path / "ca.crt").write_bytes(selfsigned.self_signed_ca("web", key, clock.now(), datetime.timedelta(days=100)))
    (tmp_path / "ca.key").write_bytes(keys.to_pem(key))
    (tmp_path / "ca.key").chmod(0o600)
    (tmp_path / "signers.yaml").write_text(text)
    made = signerfile.SignerFile(tmp_path / "signers.yaml", datetime.timedelta(days=365))
    made.load()
    return made


def web(name="a", common_name="web-1", **spec):
    return flow.new_csr(name, WEB, request=flow.pkcs10(common_name), **spec)


async def test_a_rule_approves_and_the_declared_authority_signs(tmp_path):
    """Without a person, for whom the rule names; with the lifetime that is the default."""
    clock = testing.FakeClock()
    async with flow.running(clock=clock, signer_file=declared(tmp_path, clock)) as plane:
        await plane.client(MAKER).create(csrs.RESOURCE, web())
        made = await flow.issued(plane.client(flow.ADMIN), "a")
        assert made.issuer.rfc4514_string() == "CN=web"
        assert made.not_valid_after_utc == clock.now() + datetime.timedelta(hours=1)
        found = await plane.client(flow.ADMIN).get(csrs.RESOURCE, "a")
        assert [(each.type, each.reason) for each in found.status.conditions] == [
            (csrs.APPROVED, declaredsigners.REASON)
        ]


async def test_others_wait_for_a_person(tmp_path):
    """Whom no rule names; a person's approval is as good."""
    clock = testing.FakeClock()
    async with flow.running(clock=clock, signer_file=declared(tmp_path, clock)) as plane:
        admin = plane.client(flow.ADMIN)
        await admin.create(csrs.RESOURCE, web(expiration_seconds=36000))
        await testing.settle(500)
        assert (await admin.get(csrs.RESOURCE, "a")).status.conditions == []
        await flow.decide(admin, "a")
        made = await flow.issued(admin, "a")
        assert made.not_valid_after_utc == clock.now() + datetime.timedelta(hours=2)


async def test_what_the_signer_does_not_permit_is_not_approved_by_a_rule(tmp_path):
    """It waits, and an Event says why; approved by a person, it fails."""
    clock = testing.FakeClock()
    async with flow.running(clock=clock, signer_file=declared(tmp_path, clock)) as plane:
        admin = plane.client(flow.ADMIN)
        await plane.client(MAKER).create(csrs.RESOURCE, web(common_name="db-1"))

        async def told():
            found = (await admin.list(events.RESOURCE, "default")).items
            return [(each.metadata.annotations[decisions.DECISION_ANNOTATION], each.reason) for each in found]

        assert await flow.eventually(told) == [(decisions.NOT_APPROVED, declaredsigners.NOT_PERMITTED)]
        await flow.decide(admin, "a")

        async def failed():
            conditions = (await admin.get(csrs.RESOURCE, "a")).status.conditions
            return next((each.message for each in conditions if each.type == csrs.FAILED), None)

        assert await flow.eventually(failed) == "subject common name does not begin with web-"


async def test_a_rule_approves_nothing_that_a_person_has_decided(tmp_path):
    """A denial stays, though a rule names the requestor."""
    clock = testing.FakeClock()
    denied = csrs.with_condition(web(), csrs.DENIED, "Test", "")
    denied.spec.username, denied.spec.groups = MAKER.name, list(MAKER.groups)
    signers = declared(tmp_path, clock)
    # Nothing is written, so there is no client.
    recorded = []
    approver = declaredsigners.RuleApprover(None, lambda: signers.signers, lambda *args: recorded.append(args))
    await approver.handle(denied)
    unknown = web()
    unknown.spec.signer_name = "example.com/other"
    await approver.handle(unknown)
    assert recorded == []


async def test_nobody_gets_a_client_certificate_of_the_masters():
    """Not by the signer for clients, whoever asks: the group could not be revoked. Other organizations are free."""
    async with flow.running() as plane:
        admin = plane.client(flow.ADMIN)
        for organizations in (["system:masters"], ["team", "system:masters"]):
            request = flow.pkcs10("jane", organizations)
            with pytest.raises(errors.Forbidden, match="with system:masters group is not allowed"):
                await admin.create(csrs.RESOURCE, flow.new_csr("a", request=request))
        await admin.create(csrs.RESOURCE, flow.new_csr("a", request=flow.pkcs10("jane", ["system:master"])))


async def test_a_signer_that_is_declared_later_signs_what_waits(tmp_path):
    """The file is read again, and all requests are looked at."""
    clock = testing.FakeClock()
    signers = declared(tmp_path, clock, DECLARED.replace("/web", "/other"))
    async with flow.running(clock=clock, signer_file=signers) as plane:
        admin = plane.client(flow.ADMIN)
        await admin.create(csrs.RESOURCE, web())
        await flow.decide(admin, "a")
        await testing.settle(500)
        assert not (await admin.get(csrs.RESOURCE, "a")).status.certificate
        (tmp_path / "signers.yaml").write_text(DECLARED + "# changed\n")
        await clock.advance(11)
        assert await flow.issued(admin, "a")


async def test_a_domain_that_is_declared_later_is_approved_and_signed_for(tmp_path):
    """The controllers get the rights that they need for it, and look again at what waits."""
    clock = testing.FakeClock()
    signers = declared(tmp_path, clock, DECLARED.replace("example.com", "example.org"))
    async with flow.running(clock=clock, signer_file=signers) as plane:
        await plane.client(MAKER).create(csrs.RESOURCE, web())
        await testing.settle(500)
        assert (await plane.client(flow.ADMIN).get(csrs.RESOURCE, "a")).status.conditions == []
        (tmp_path / "signers.yaml").write_text(DECLARED + "# changed\n")
        await clock.advance(11)
        assert await flow.issued(plane.client(flow.ADMIN), "a")


async def warnings_of(plane, new):
    """What the server warns of when a request is made."""
    transport = plane.client(flow.ADMIN).transport
    body = csrs_body(new)
    path = "/apis/certificates.k8s.io/v1/certificatesigningrequests"
    answer = await transport.send(api.Request("POST", path, headers={"content-type": "application/json"}, body=body))
    assert answer.status == 201
    return answer.headers.get("warning", "")


def csrs_body(new):
    new.kind, new.api_version = csrs.RESOURCE.kind, csrs.RESOURCE.api_version
    return codec.encode(new)


async def test_a_request_that_nobody_will_sign_is_warned_of(tmp_path):
    """Made all the same: a warning and no more, which kubectl prints."""
    clock = testing.FakeClock()
    async with flow.running(clock=clock, signer_file=declared(tmp_path, clock)) as plane:
        told = await warnings_of(plane, web("a", common_name="db-1"))
        assert "signer example.com/web will not sign this request: subject common name" in told
        assert "use signer kubernetes.io/kube-apiserver-client instead" in told
        assert "unknown signer" in await warnings_of(plane, flow.new_csr("b", "example.com/wob"))
        assert await warnings_of(plane, web("c")) == ""


async def test_hints_can_be_turned_off():
    """As the real server is silent."""
    async with flow.running(creation_hints=False) as plane:
        assert await warnings_of(plane, flow.new_csr("b", "example.com/web")) == ""


async def test_who_asks_for_more_than_the_signer_gives_is_told(tmp_path):
    """Also by those of Kubernetes, and by declared ones that leave it to the plane."""
    clock = testing.FakeClock()
    text = DECLARED.replace("  lifetime: {longest: 2h, default: 1h}\n", "")
    own = declared(tmp_path, clock, text)
    pair = PairFiles(tmp_path / "ca.crt", tmp_path / "ca.key")
    built_in = controllerconfig.built_in_signers(SigningSettings(pair, {}, datetime.timedelta(days=30), None))
    async with flow.running(clock=clock, signers=built_in, signer_file=own) as plane:
        for new, hours in ((flow.new_csr("a", expiration_seconds=31 * 86400), 720),
                           (web("b", expiration_seconds=366 * 86400), 8760)):  # fmt: skip
            call = local.InProcessTransport(plane.handler, MAKER, "test")
            body = codec.encode(new)
            answer = await call.send(api.Request("POST", PATH, headers={"content-type": "application/json"}, body=body))
            text = f"signer {new.spec.signer_name}: maximum lifetime is {hours}h; the request will be shortened"
            assert (answer.status, answer.headers["warning"]) == (201, f'299 - "{text}"')


# --- a fault of the key -------------------------------------------------------------------------------------------


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
    """It is not published, and the key is not used again, however long one waits; the other signers go on. The log,
    /readyz, the metric and an Event say why.
    """
    clock = testing.FakeClock()
    sound = flow.new_authority(clock)
    faulty = FaultyAuthority(sound)
    keys_of = {profiles.KUBE_APISERVER_CLIENT: faulty}
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
        await approve_new(admin, "c", signer_name=profiles.KUBE_APISERVER_CLIENT_KUBELET, usages=usages, request=node)
        assert await flow.issued(admin, "c")
        for _ in range(4):
            await clock.advance(1000)
            await testing.settle(500)
        for name in ("a", "b"):
            status = (await admin.get(csrs.RESOURCE, name)).status
            assert (status.certificate, [each.type for each in status.conditions]) == (b"", [csrs.APPROVED])
        assert faulty.signatures == 1
        problem = "stopped until restart: the new certificate does not verify: InvalidSignature"
        assert [(each.levelname, each.problem) for each in caplog.records if "signer stopped" in each.message] == [
            ("ERROR", problem)
        ]
        plane.services.authenticate = lambda _: flow.ADMIN
        ready = await flow.assembled(plane)(exchange.Request("GET", "/readyz", "verbose", exchange.Headers([])))
        assert f"signer-kube-apiserver-client failed, ignored: {problem}" in ready.body.decode()
        assert "[+]custom-signers ok" in ready.body.decode()
        metric = f'certplane_signer_ready{{reason="{problem}",signer="{profiles.KUBE_APISERVER_CLIENT}"}} 0.0'
        assert metric in plane.telemetry.render().decode()


async def test_a_declared_signer_that_has_stopped_stays_so_when_the_file_changes(tmp_path):
    """It is another configuration, of the same signer."""
    clock = testing.FakeClock()
    signers = declared(tmp_path, clock)
    signers.signers[WEB].fault.set("stopped until restart: a test")
    (tmp_path / "signers.yaml").write_text(DECLARED.replace("name: example.com/web", "name: example.com/web2"))
    assert signers.reload()
    (tmp_path / "signers.yaml").write_text(DECLARED.replace("default: 1h", "default: 90m"))
    assert signers.reload()
    assert signers.signers[WEB].current(clock.now()).problem == "stopped until restart: a test"
