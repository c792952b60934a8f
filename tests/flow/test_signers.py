"""Users' own signers on a plane: declared, warned about, approved by rule, signed within their bounds, reloaded."""

from __future__ import annotations

import datetime

from certplane import manager, testing
from certplane.config import signing
from certplane.controllers import decisions, ruleapprover, signerfile
from certplane.meta import codec, context
from certplane.resources import certificatesigningrequests as csrs
from certplane.resources import events
from certplane.server import local
from certplane.x509 import keys, mint
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
    (tmp_path / "ca.crt").write_bytes(mint.self_signed_ca("web", key, clock.now(), datetime.timedelta(days=100)))
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
    async with flow.running(clock=clock, declared=declared(tmp_path, clock)) as plane:
        await plane.client(MAKER).create(csrs.RESOURCE, web())
        made = await flow.issued(plane.client(flow.ADMIN), "a")
        assert made.issuer.rfc4514_string() == "CN=web"
        assert made.not_valid_after_utc == clock.now() + datetime.timedelta(hours=1)
        found = await plane.client(flow.ADMIN).get(csrs.RESOURCE, "a")
        assert [(each.type, each.reason) for each in found.status.conditions] == [(csrs.APPROVED, ruleapprover.REASON)]


async def test_others_wait_for_a_person(tmp_path):
    """Whom no rule names; a person's approval is as good."""
    clock = testing.FakeClock()
    async with flow.running(clock=clock, declared=declared(tmp_path, clock)) as plane:
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
    async with flow.running(clock=clock, declared=declared(tmp_path, clock)) as plane:
        admin = plane.client(flow.ADMIN)
        await plane.client(MAKER).create(csrs.RESOURCE, web(common_name="db-1"))

        async def told():
            found = (await admin.list(events.RESOURCE, "default")).items
            return [(each.metadata.annotations[decisions.DECISION], each.reason) for each in found]

        assert await flow.eventually(told) == [(decisions.NOT_APPROVED, ruleapprover.NOT_PERMITTED)]
        await flow.decide(admin, "a")

        async def failed():
            conditions = (await admin.get(csrs.RESOURCE, "a")).status.conditions
            return next((each.message for each in conditions if each.type == csrs.FAILED), None)

        assert await flow.eventually(failed) == "subject common name does not begin with web-"


async def test_a_signer_that_is_declared_later_signs_what_waits(tmp_path):
    """The file is read again, and all requests are looked at."""
    clock = testing.FakeClock()
    signers = declared(tmp_path, clock, DECLARED.replace("/web", "/other"))
    async with flow.running(clock=clock, declared=signers) as plane:
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
    async with flow.running(clock=clock, declared=signers) as plane:
        await plane.client(MAKER).create(csrs.RESOURCE, web())
        await testing.settle(500)
        assert (await plane.client(flow.ADMIN).get(csrs.RESOURCE, "a")).status.conditions == []
        (tmp_path / "signers.yaml").write_text(DECLARED + "# changed\n")
        await clock.advance(11)
        assert await flow.issued(plane.client(flow.ADMIN), "a")


async def warnings_of(plane, new):
    """What the server warns of when a request is made."""
    transport = plane.client(flow.ADMIN)._transport
    body = csrs_body(new)
    path = "/apis/certificates.k8s.io/v1/certificatesigningrequests"
    answer = await transport.request("POST", path, headers={"content-type": "application/json"}, body=body)
    assert answer.status == 201
    return answer.headers.get("warning", "")


def csrs_body(new):
    new.kind, new.api_version = csrs.RESOURCE.kind, csrs.RESOURCE.api_version
    return flow.app.codec.encode(new)


async def test_a_request_that_nobody_will_sign_is_warned_of(tmp_path):
    """Made all the same: a warning and no more, which kubectl prints."""
    clock = testing.FakeClock()
    async with flow.running(clock=clock, declared=declared(tmp_path, clock)) as plane:
        told = await warnings_of(plane, web("a", common_name="db-1"))
        assert "example.com/web will not sign this: subject common name does not begin with web-" in told
        assert "kubernetes.io/kube-apiserver-client would" in told
        assert "no signer here is called" in await warnings_of(plane, flow.new_csr("b", "example.com/wob"))
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
    pair = signing.Pair(tmp_path / "ca.crt", tmp_path / "ca.key")
    built_in = manager.signers(signing.Signing(pair, {}, datetime.timedelta(days=30)))
    async with flow.running(clock=clock, signers=built_in, declared=own) as plane:
        for new, seconds in ((flow.new_csr("a", expiration_seconds=31 * 86400), 30 * 86400),
                             (web("b", expiration_seconds=366 * 86400), 365 * 86400)):  # fmt: skip
            call = local.Transport(plane.handler, MAKER, "test")
            body = codec.encode(new)
            answer = await call.request("POST", PATH, headers={"content-type": "application/json"}, body=body)
            told = f'299 - "{new.spec.signer_name} gives {seconds} seconds at the most"'
            assert (answer.status, answer.headers["warning"]) == (201, told)
