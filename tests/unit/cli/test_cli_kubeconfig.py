"""`certplane kubeconfig create`: the new kubeconfig, and approval of the request that was sent and no other."""

from __future__ import annotations

import base64

import pytest

from certplane import errors, signernames, testing
from certplane.cli import exitcodes, kubeconfig, newrequests
from certplane.client import kubeconfig as client_kubeconfig
from certplane.golang import goyaml
from certplane.resources import certificatesigningrequests as csrs
from certplane.x509 import keys

KEY = keys.generate("ECDSA-P256")

CURRENT = """\
apiVersion: v1
kind: Config
current-context: work
clusters:
- name: production
  cluster:
    server: https://admin:secret@api.example.com:6443/prefix
    certificate-authority-data: {ca}
    tls-server-name: api.internal
    proxy-url: http://user:password@proxy.example.com:3128
contexts:
- {{name: work, context: {{cluster: production, user: me, namespace: team}}}}
users:
- name: me
  user:
    token: secret-token
    exec: {{apiVersion: client.authentication.k8s.io/v1, command: steal}}
"""


@pytest.fixture
async def plane():
    async with testing.Plane() as running:
        yield running


def current(directory, ca=b""):
    path = directory / "config"
    path.write_text(CURRENT.format(ca=base64.b64encode(ca).decode()))
    return path


async def issued(plane, user="jane", groups=("dev",)):
    """A certificate chain from the control plane."""
    wanted = request(user, groups)
    await plane.client().create(csrs.RESOURCE, wanted)
    await plane.approve(wanted.metadata.name)
    return await plane.certificate(wanted.metadata.name)


def request(user="jane", groups=("dev",), key=KEY, seconds=3600, **names):
    contents = newrequests.Contents(
        signer=signernames.KUBE_APISERVER_CLIENT,
        subject=newrequests.subject(user, groups),
        names=newrequests.alt_names(**names),
        usages=("digital signature", "client auth"),
        seconds=seconds,
    )
    return newrequests.build("jane-1", contents, key)


# --- the kubeconfig -----------------------------------------------------------------------------------------------


async def test_the_kubeconfig_has_the_server_and_no_foreign_credentials(plane, tmp_path):
    """No token, no plugin, no password in a URL."""
    cluster = client_kubeconfig.load_cluster(current(tmp_path, plane.ca_certificate))
    text = kubeconfig.render("jane", cluster, await issued(plane), keys.to_pem(KEY)).decode()
    for secret in ("secret", "password", "steal", "exec"):
        assert secret not in text
    document = goyaml.load(text)
    assert document["clusters"] == [
        {
            "name": "production",
            "cluster": {
                "server": "https://api.example.com:6443/prefix",
                "certificate-authority-data": base64.b64encode(plane.ca_certificate).decode(),
                "tls-server-name": "api.internal",
                "proxy-url": "http://proxy.example.com:3128",
            },
        }
    ]
    assert document["contexts"][0]["context"] == {"cluster": "production", "user": "jane", "namespace": "team"}


async def test_the_kubeconfig_can_be_loaded(plane, tmp_path):
    """By our own client, with the certificate and the key."""
    cluster = client_kubeconfig.load_cluster(current(tmp_path, plane.ca_certificate))
    chain = await issued(plane)
    path = tmp_path / "jane.conf"
    path.write_bytes(kubeconfig.render("jane", cluster, chain, keys.to_pem(KEY)))
    config = client_kubeconfig.load(path)
    identity = await config.source.identity()
    assert (config.host, config.namespace) == ("api.example.com:6443", "team")
    assert (identity.certificate, identity.key, identity.authorization) == (chain, keys.to_pem(KEY), "")
    assert config.trusted.read() == plane.ca_certificate


def test_the_context_selects_the_server(tmp_path):
    """As for `load`."""
    path = current(tmp_path)
    document = goyaml.load(path.read_text())
    server = {"server": "https://b.test", "insecure-skip-tls-verify": True}
    document["clusters"].append({"name": "b", "cluster": server})
    document["contexts"].append({"name": "other", "context": {"cluster": "b", "user": "me"}})
    path.write_text(goyaml.dump(document))
    cluster = client_kubeconfig.load_cluster(path, context="other")
    assert cluster == client_kubeconfig.Cluster(name="b", server="https://b.test", insecure=True)


async def test_the_first_line_says_when_the_certificate_ends(plane):
    """For those who look into the file."""
    cluster = client_kubeconfig.Cluster("c", "https://c.test")
    first = kubeconfig.render("jane", cluster, await issued(plane), keys.to_pem(KEY)).decode().splitlines()[0]
    assert first == "# The certificate in this file is valid until 2026-01-01T01:00:00Z."


async def test_the_subject_of_the_certificate_is_read(plane):
    """A signer may issue another one than was requested."""
    chain = await issued(plane, groups=("ops", "dev"))
    assert kubeconfig.issued_subject(chain) == ("jane", ["dev", "ops"])
    assert kubeconfig.issued_subject(b"") == ("", [])


# --- approval -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "other",
    [
        request(user="root"),
        request(groups=("dev", "admins")),
        request(key=keys.generate("ECDSA-P256")),
        request(seconds=7200),
        request(dns=["a.example.com"]),
        testing.new_csr("jane-1", "example.com/other", request=request().spec.request),
        testing.new_csr("jane-1", usages=("client auth", "server auth"), request=request().spec.request),
    ],
)
async def test_another_request_of_the_name_is_not_approved(plane, other):
    """Somebody replaced it after it was created."""
    wanted = request()
    created = await plane.client().create(csrs.RESOURCE, wanted)
    await plane.client().delete(csrs.RESOURCE, "jane-1")
    replaced = await plane.client().create(csrs.RESOURCE, other)
    for uid in (created.metadata.uid, replaced.metadata.uid):
        with pytest.raises(exitcodes.Failure) as caught:
            await kubeconfig.approve(plane.client(), wanted, uid)
        assert caught.value.exit_code == exitcodes.REFUSED
    assert not csrs.is_decided(await plane.client().get(csrs.RESOURCE, "jane-1"))


async def test_the_request_is_approved_with_a_reason(plane):
    """The audit log and `kubectl describe` show it."""
    created = await plane.client().create(csrs.RESOURCE, request())
    await kubeconfig.approve(plane.client(), request(), created.metadata.uid)
    (condition,) = (await plane.client().get(csrs.RESOURCE, "jane-1")).status.conditions
    assert (condition.type, condition.reason) == ("Approved", "CertplaneApprove")


class Interfering:
    """A transport: another client changes the request before each of the first `count` updates."""

    def __init__(self, plane, count):
        self.plane, self.count = plane, count
        self.transport = plane.client().transport

    async def send(self, request):
        if request.method == "PUT" and self.count:
            self.count -= 1
            csr = await self.plane.client().get(csrs.RESOURCE, "jane-1")
            csr.metadata.labels = {"changed": str(self.count)}
            await self.plane.client().update(csrs.RESOURCE, csr)
        return await self.transport.send(request)


@pytest.mark.parametrize(("count", "succeeds"), [(0, True), (4, True), (5, False)])
async def test_a_conflict_is_tried_again(plane, count, succeeds):
    """A few times."""
    created = await plane.client().create(csrs.RESOURCE, request())
    client = type(plane.client())(Interfering(plane, count))
    try:
        await kubeconfig.approve(client, request(), created.metadata.uid)
    except errors.Conflict:
        assert not succeeds
    assert csrs.is_approved(await plane.client().get(csrs.RESOURCE, "jane-1")) == succeeds


async def test_a_decided_request_is_left_alone(plane):
    """A denial is not overruled."""
    created = await plane.client().create(csrs.RESOURCE, request())
    await plane.deny("jane-1")
    await kubeconfig.approve(plane.client(), request(), created.metadata.uid)
    assert not csrs.is_approved(await plane.client().get(csrs.RESOURCE, "jane-1"))


def test_the_same_request_with_another_signature_is_the_same():
    """ECDSA signatures are random."""
    assert request().spec.request != request().spec.request
    assert kubeconfig.is_same(request(), request())


def test_a_malformed_request_is_another_one():
    """Of a server that sends anything."""
    assert not kubeconfig.is_same(testing.new_csr("jane-1", request=b"nonsense"), request())
