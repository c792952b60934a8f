"""A machine becomes a node: from a bootstrap token to renewed certificates, against a real process."""

from __future__ import annotations

import base64
import contextlib
import datetime
import subprocess

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

import demo
from tests.e2e import goclient, kubelet, requests

NODES = "/api/v1/nodes"
LEASES = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
WHO = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
ADDRESSES = (("Hostname", "n1"), ("InternalIP", "10.0.0.1"), ("InternalDNS", "n1.internal"))


def new_token(server, *arguments):
    command = [demo.CERTPLANE, "token", "--kubeconfig", str(server.data / "admin.conf"), "create", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True, stdin=subprocess.DEVNULL)
    return result.stdout.strip()


@pytest.fixture
def admin(server, tmp_path):
    with contextlib.closing(requests.client(server, tmp_path)) as wire:
        yield goclient.Client(wire)


@pytest.fixture
def machine(server, tmp_path):
    """Creates kubelets, each with its own token and directory."""
    token = new_token(server)
    return lambda name, **options: kubelet.Kubelet(server, tmp_path / name, name, options.get("token", token))


def whoami(client):
    body = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
    answer = client.in_json("POST", WHO, body)
    return answer.obj["status"]["userInfo"]


def conditions(admin, name):
    return [(condition["type"], condition["reason"]) for condition in read(admin, name)["status"].get("conditions", ())]


def read(admin, name):
    return admin.ask("GET", f"{kubelet.CSRS}/{name}").obj


def node(name, **status):
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "status": status}


def decide(admin, name, type_="Approved", subresource="approval"):
    """Set a condition, like `kubectl certificate approve` or `deny`, or like a signer that fails a request."""
    csr = read(admin, name)
    csr["status"]["conditions"] = [{"type": type_, "status": "True", "reason": "Test", "message": "by a test"}]
    answer = admin.ask("PUT", f"{kubelet.CSRS}/{name}/{subresource}", csr)
    assert answer.status == 200, answer.obj


def test_a_machine_becomes_a_node(machine, admin):
    """Token, request, approval by the permission `nodeclient`, certificate; then it has the permissions of the node."""
    alpha = machine("alpha")
    alpha.bootstrap()
    who = whoami(alpha.client())
    assert (who["username"], sorted(who["groups"])) == (
        "system:node:alpha",
        ["system:authenticated", "system:nodes"],
    )
    name = kubelet.digest_name(_key(alpha.client_store), "alpha", kubelet.CLIENT_USAGES)
    assert conditions(admin, name) == [("Approved", "AutoApproved")]
    assert _message(admin, name) == "Auto approving kubelet client certificate after SubjectAccessReview."
    assert alpha.client_store.current.is_symlink()
    assert alpha.client_store.current.stat().st_mode & 0o777 == 0o600
    client = alpha.client()
    assert client.in_json("POST", NODES, node("alpha")).status == 201
    addresses = {"addresses": [{"type": "InternalIP", "address": "10.0.0.1"}]}
    assert client.in_json("PUT", f"{NODES}/alpha/status", node("alpha", **addresses)).status == 200
    lease = {
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "alpha"},
        "spec": {"holderIdentity": "alpha", "leaseDurationSeconds": 40},
    }  # fmt: skip
    assert client.ask("POST", LEASES, lease).status == 201


def _key(store):
    from_file = kubelet.serialization.load_pem_private_key(store.current.read_bytes(), None)
    assert isinstance(from_file, kubelet.ec.EllipticCurvePrivateKey)
    return from_file


def _message(admin, name):
    return read(admin, name)["status"]["conditions"][0]["message"]


def test_a_node_renews_its_client_certificate(machine, admin):
    """With `selfnodeclient`, and without a token; the new certificate replaces the old one on disk."""
    node = machine("beta")
    node.bootstrap()
    before = node.client_store.certificate()
    request = node.rotate()
    assert request["metadata"]["name"].startswith("csr-")
    name = request["metadata"]["name"]
    assert _message(admin, name) == "Auto approving self kubelet client certificate after SubjectAccessReview."
    assert node.client_store.certificate().serial_number != before.serial_number
    assert whoami(node.client())["username"] == "system:node:beta"
    assert len(list(node.client_store.directory.glob("kubelet-client-2*.pem"))) == 2


def test_a_serving_certificate_needs_manual_approval(machine, admin):
    """It is not approved automatically; after approval, the certificate has the requested names."""
    node = machine("n1")
    node.bootstrap()
    request, key = node.ask_for_serving(ADDRESSES)
    name = request["metadata"]["name"]
    assert conditions(admin, name) == []
    decide(admin, name)
    node.keep_serving(request, key)
    certificate = node.serving_store.certificate()
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["n1", "n1.internal"]
    assert [str(address) for address in names.get_values_for_type(x509.IPAddress)] == ["10.0.0.1"]
    usages = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert [usage.dotted_string for usage in usages] == ["1.3.6.1.5.5.7.3.1"]


def test_a_serving_certificate_is_approved_by_rules(tmp_path):
    """With rules that trust the Node object: names that it lists are approved, others wait, with an Event."""
    (tmp_path / "rules.yaml").write_text("sources: [node]\n")
    directory, rules = tmp_path / "data", str(tmp_path / "rules.yaml")
    with demo.running(directory, tmp_path / "log", "--serving-approver", rules) as port:
        server = requests.Server(directory, port)
        joined = kubelet.Kubelet(server, tmp_path / "n1", "n1", new_token(server))
        joined.bootstrap()
        client = joined.client()
        assert client.in_json("POST", NODES, node("n1")).status == 201
        addresses = [{"type": kind, "address": address} for kind, address in ADDRESSES]
        assert client.in_json("PUT", f"{NODES}/n1/status", node("n1", addresses=addresses)).status == 200
        joined.keep_serving(*joined.ask_for_serving(ADDRESSES))
        names = joined.serving_store.certificate().extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert names.get_values_for_type(x509.DNSName) == ["n1", "n1.internal"]
        request, _ = joined.ask_for_serving((*ADDRESSES, ("ExternalIP", "192.0.2.7")))
        with contextlib.closing(requests.client(server, tmp_path)) as wire:
            admin = goclient.Client(wire)
            informer = goclient.Informer(admin, "/api/v1/namespaces/default/events")
            with informer:
                informer.until(lambda known: _about(known, request))
            [event, *_] = _about(informer.known, request)
            assert conditions(admin, request["metadata"]["name"]) == []
        assert "192.0.2.7" in event["message"]


def _about(known, request):
    return [event for event in known.values() if event["involvedObject"]["name"] == request["metadata"]["name"]]


def test_a_kubelet_continues_its_request_after_a_crash(machine):
    """The key is kept, so the request has the same name, and the existing one is used."""
    node = machine("gamma")
    client, key = node.bootstrap_client(), node._bootstrap_key()
    name = kubelet.digest_name(key, "gamma", kubelet.CLIENT_USAGES)
    first = node.submit(client, kubelet.CLIENT, kubelet.request_pem(key, "gamma"), kubelet.CLIENT_USAGES, name)
    node.bootstrap()
    assert node.client_store.certificate().public_key() == key.public_key()
    again = node.submit(client, kubelet.CLIENT, kubelet.request_pem(key, "gamma"), kubelet.CLIENT_USAGES, name)
    assert again["metadata"]["uid"] == first["metadata"]["uid"]


def test_a_kubelet_stops_at_a_foreign_request_with_its_name(machine):
    """Another request with its name is neither used nor deleted."""
    node = machine("delta")
    key = node._bootstrap_key()
    name = kubelet.digest_name(key, "delta", kubelet.CLIENT_USAGES)
    other = kubelet.request_pem(kubelet.new_key(), "delta")
    node.submit(node.bootstrap_client(), kubelet.CLIENT, other, kubelet.CLIENT_USAGES, name)
    with pytest.raises(kubelet.WaitFailed, match="retrieved csr is not compatible"):
        node.bootstrap()


@pytest.mark.parametrize(
    ("act", "why"),
    [
        (lambda admin, name: decide(admin, name, "Denied"), r"is denied, reason: Test, message: by a test"),
        (lambda admin, name: decide(admin, name, "Failed", "status"), r"failed, reason: Test, message: by a test"),
        (lambda admin, name: admin.ask("DELETE", f"{kubelet.CSRS}/{name}"), r'csr "csr-.*" was deleted'),
    ],
)
def test_a_refusal_ends_the_wait(machine, admin, act, why):
    """Denied, failed, deleted: each with the text of client-go."""
    node = machine("epsilon")
    node.bootstrap()
    request, _ = node.ask_for_serving((("Hostname", "epsilon"),))
    name = request["metadata"]["name"]
    act(admin, name)
    with pytest.raises(kubelet.WaitFailed, match=why):
        node.follow(node.client(), request, request["metadata"]["resourceVersion"])


def test_a_replaced_request_is_detected_by_its_uid(machine, admin):
    """A new request with the same name has another UID."""
    node = machine("zeta")
    key = node._bootstrap_key()
    name = kubelet.digest_name(key, "zeta", kubelet.CLIENT_USAGES)
    client, request = node.bootstrap_client(), kubelet.request_pem(key, "zeta")
    first = node.submit(client, kubelet.CLIENT, request, kubelet.CLIENT_USAGES, name)
    admin.ask("DELETE", f"{kubelet.CSRS}/{name}")
    node.submit(client, kubelet.CLIENT, request, kubelet.CLIENT_USAGES, name)
    with pytest.raises(kubelet.WaitFailed, match="changed UIDs"):
        node.wait(client, first)


# --- forbidden requests --------------------------------------------------------------------------------------------


def test_a_token_without_the_bootstrap_group_is_forbidden(machine, server):
    """Its requests are refused, because the group has the permission."""
    machine_outside_the_group = machine("eta", token=new_token(server, "--groups", "system:bootstrappers:others"))
    with pytest.raises(kubelet.WaitFailed, match='cannot create resource "certificatesigningrequests"'):
        machine_outside_the_group.bootstrap()


def test_a_node_cannot_request_for_another_node(machine):
    """NodeRestriction: no client or serving certificate for another node, and no change of another Node."""
    one, two = machine("theta"), machine("iota")
    one.bootstrap()
    two.bootstrap()
    client = one.client()
    for signer, usages in ((kubelet.CLIENT, kubelet.CLIENT_USAGES), (kubelet.SERVING, kubelet.SERVING_USAGES)):
        request = kubelet.request_pem(kubelet.new_key(), "iota", (("Hostname", "iota"),))
        with pytest.raises(kubelet.WaitFailed, match="can only create a node CSR with CN=system:node:theta"):
            one.submit(client, signer, request, usages)
    assert two.client().in_json("POST", NODES, node("iota")).status == 201
    assert client.in_json("PUT", f"{NODES}/iota/status", node("iota")).status == 403
    assert client.in_json("DELETE", f"{NODES}/iota").status == 403


def test_a_token_can_name_any_node(machine):
    """As in Kubernetes, a bootstrap token can become any node, so tokens should be short-lived."""
    one, two = machine("kappa"), machine("kappa")
    two.client_store.directory = two.client_store.directory.with_name("kappa-2")
    two._temporary = two.client_store.directory / "kubelet-client.key.tmp"
    one.bootstrap()
    two.bootstrap()
    assert whoami(two.client())["username"] == "system:node:kappa"
    assert one.client_store.certificate().serial_number != two.client_store.certificate().serial_number


def test_a_node_cannot_approve(machine, admin):
    """It cannot approve its own request either."""
    node = machine("lambda")
    node.bootstrap()
    request, _ = node.ask_for_serving((("Hostname", "lambda"),))
    csr = read(admin, request["metadata"]["name"])
    csr["status"]["conditions"] = [{"type": "Approved", "status": "True", "reason": "Mine", "message": ""}]
    answer = node.client().ask("PUT", f"{kubelet.CSRS}/{request['metadata']['name']}/approval", csr)
    assert answer.status == 403


def test_other_usages_are_not_approved(machine, admin):
    """A kubelet request with additional usages needs manual approval."""
    node = machine("mu")
    usages = [*kubelet.CLIENT_USAGES, "server auth"]
    request = kubelet.request_pem(kubelet.new_key(), "mu")
    created = node.submit(node.bootstrap_client(), kubelet.CLIENT, request, usages)
    other = node.submit(
        node.bootstrap_client(), kubelet.CLIENT, kubelet.request_pem(kubelet.new_key(), "mu"), kubelet.CLIENT_USAGES
    )
    assert node.wait(node.bootstrap_client(), other)
    assert conditions(admin, created["metadata"]["name"]) == []


# --- functions ----------------------------------------------------------------------------------------------------


@given(
    lifetime=st.timedeltas(datetime.timedelta(minutes=10), datetime.timedelta(days=3650)),
    chance=st.floats(0, 1, exclude_max=True),
)
def test_the_rotation_deadline_is_within_its_bounds(lifetime, chance):
    """It is after 70 % to 90 % of the lifetime."""
    begins = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    part = (kubelet.rotation_deadline(begins, begins + lifetime, chance) - begins) / lifetime
    assert 0.699 < part < 0.901


def test_the_name_of_a_request_is_a_digest():
    """It is derived from key, node and usages, and has 43 URL-safe characters."""
    key = kubelet.new_key()
    name = kubelet.digest_name(key, "n1", kubelet.CLIENT_USAGES)
    assert len(name) == len("node-csr-") + 43
    assert name == kubelet.digest_name(key, "n1", kubelet.CLIENT_USAGES)
    assert name != kubelet.digest_name(key, "n2", kubelet.CLIENT_USAGES)
    assert base64.urlsafe_b64decode(name.removeprefix("node-csr-") + "=")
