"""A machine becomes a node: from a bootstrap token to certificates that renew, against a process of its own."""

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
    found = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True, stdin=subprocess.DEVNULL)
    return found.stdout.strip()


@pytest.fixture
def admin(server, tmp_path):
    with contextlib.closing(requests.client(server, tmp_path)) as wire:
        yield goclient.Client(wire)


@pytest.fixture
def machine(server, tmp_path):
    """Makes kubelets, each with a token and a directory of its own."""
    token = new_token(server)
    return lambda name, **how: kubelet.Kubelet(server, tmp_path / name, name, how.get("token", token))


def whoami(client):
    body = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
    answer = client.in_json("POST", WHO, body)
    return answer.obj["status"]["userInfo"]


def conditions(admin, name):
    return [(each["type"], each["reason"]) for each in read(admin, name)["status"].get("conditions", ())]


def read(admin, name):
    return admin.ask("GET", f"{kubelet.CSRS}/{name}").obj


def node(name, **status):
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "status": status}


def decide(admin, name, type_="Approved", door="approval"):
    """What `kubectl certificate approve` (or deny) does; or a signer that refuses."""
    found = read(admin, name)
    found["status"]["conditions"] = [{"type": type_, "status": "True", "reason": "Test", "message": "by a test"}]
    answer = admin.ask("PUT", f"{kubelet.CSRS}/{name}/{door}", found)
    assert answer.status == 200, answer.obj


def test_a_machine_becomes_a_node(machine, admin):
    """Token, request, approval by the right `nodeclient`, certificate; then it is the node, and does what nodes do."""
    made = machine("alpha")
    made.bootstrap()
    who = whoami(made.client())
    assert (who["username"], sorted(who["groups"])) == (
        "system:node:alpha",
        ["system:authenticated", "system:nodes"],
    )
    name = kubelet.digest_name(_key(made.client_store), "alpha", kubelet.CLIENT_USAGES)
    assert conditions(admin, name) == [("Approved", "AutoApproved")]
    assert _message(admin, name) == "Auto approving kubelet client certificate after SubjectAccessReview."
    assert made.client_store.current.is_symlink()
    assert made.client_store.current.stat().st_mode & 0o777 == 0o600
    client = made.client()
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


def test_a_node_renews_by_its_own_right(machine, admin):
    """`selfnodeclient`, and no token any more; the new certificate replaces the old one on disk."""
    made = machine("beta")
    made.bootstrap()
    before = made.client_store.certificate()
    asked = made.rotate()
    assert asked["metadata"]["name"].startswith("csr-")
    name = asked["metadata"]["name"]
    assert _message(admin, name) == "Auto approving self kubelet client certificate after SubjectAccessReview."
    assert made.client_store.certificate().serial_number != before.serial_number
    assert whoami(made.client())["username"] == "system:node:beta"
    assert len(list(made.client_store.directory.glob("kubelet-client-2*.pem"))) == 2


def test_a_serving_certificate_waits_for_a_person(machine, admin):
    """Nobody approves it unasked; approved, it has the names that were asked for."""
    made = machine("n1")
    made.bootstrap()
    asked, key = made.ask_for_serving(ADDRESSES)
    name = asked["metadata"]["name"]
    assert conditions(admin, name) == []
    decide(admin, name)
    made.keep_serving(asked, key)
    found = made.serving_store.certificate()
    names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["n1", "n1.internal"]
    assert [str(each) for each in names.get_values_for_type(x509.IPAddress)] == ["10.0.0.1"]
    usages = found.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert [each.dotted_string for each in usages] == ["1.3.6.1.5.5.7.3.1"]


def test_a_serving_certificate_that_is_proven_needs_nobody(tmp_path):
    """By rules that believe the node's own object: what it has is approved, what it has not waits, and is told of."""
    (tmp_path / "rules.yaml").write_text("sources: [node]\n")
    directory, rules = tmp_path / "data", str(tmp_path / "rules.yaml")
    with demo.running(directory, tmp_path / "log", "--serving-approver", rules) as port:
        server = requests.Server(directory, port)
        made = kubelet.Kubelet(server, tmp_path / "n1", "n1", new_token(server))
        made.bootstrap()
        client = made.client()
        assert client.in_json("POST", NODES, node("n1")).status == 201
        addresses = [{"type": kind, "address": address} for kind, address in ADDRESSES]
        assert client.in_json("PUT", f"{NODES}/n1/status", node("n1", addresses=addresses)).status == 200
        made.keep_serving(*made.ask_for_serving(ADDRESSES))
        names = made.serving_store.certificate().extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert names.get_values_for_type(x509.DNSName) == ["n1", "n1.internal"]
        asked, _ = made.ask_for_serving((*ADDRESSES, ("ExternalIP", "192.0.2.7")))
        with contextlib.closing(requests.client(server, tmp_path)) as wire:
            admin = goclient.Client(wire)
            told = goclient.Informer(admin, "/api/v1/namespaces/default/events")
            with told:
                told.until(lambda known: _about(known, asked))
            [event, *_] = _about(told.known, asked)
            assert conditions(admin, asked["metadata"]["name"]) == []
        assert "192.0.2.7" in event["message"]


def _about(known, asked):
    return [each for each in known.values() if each["involvedObject"]["name"] == asked["metadata"]["name"]]


def test_a_crash_in_the_middle_is_no_harm(machine):
    """The key is kept, so the name of the request is the same, and what is there is used."""
    made = machine("gamma")
    client, key = made.bootstrap_client(), made._bootstrap_key()
    name = kubelet.digest_name(key, "gamma", kubelet.CLIENT_USAGES)
    first = made.submit(client, kubelet.CLIENT, kubelet.request_pem(key, "gamma"), kubelet.CLIENT_USAGES, name)
    made.bootstrap()
    assert made.client_store.certificate().public_key() == key.public_key()
    again = made.submit(client, kubelet.CLIENT, kubelet.request_pem(key, "gamma"), kubelet.CLIENT_USAGES, name)
    assert again["metadata"]["uid"] == first["metadata"]["uid"]


def test_a_request_that_is_not_its_own_stops_a_machine(machine):
    """Somebody else's request under the name it would use: nothing is taken over, and nothing deleted."""
    made = machine("delta")
    key = made._bootstrap_key()
    name = kubelet.digest_name(key, "delta", kubelet.CLIENT_USAGES)
    other = kubelet.request_pem(kubelet.new_key(), "delta")
    made.submit(made.bootstrap_client(), kubelet.CLIENT, other, kubelet.CLIENT_USAGES, name)
    with pytest.raises(kubelet.WaitFailed, match="retrieved csr is not compatible"):
        made.bootstrap()


@pytest.mark.parametrize(
    ("act", "why"),
    [
        (lambda admin, name: decide(admin, name, "Denied"), r"is denied, reason: Test, message: by a test"),
        (lambda admin, name: decide(admin, name, "Failed", "status"), r"failed, reason: Test, message: by a test"),
        (lambda admin, name: admin.ask("DELETE", f"{kubelet.CSRS}/{name}"), r'csr "csr-.*" was deleted'),
    ],
)
def test_a_refusal_is_heard(machine, admin, act, why):
    """Denied, failed, deleted: each in the words of client-go."""
    made = machine("epsilon")
    made.bootstrap()
    asked, _ = made.ask_for_serving((("Hostname", "epsilon"),))
    name = asked["metadata"]["name"]
    act(admin, name)
    with pytest.raises(kubelet.WaitFailed, match=why):
        made.follow(made.client(), asked, asked["metadata"]["resourceVersion"])


def test_a_request_that_was_replaced_is_not_taken_for_its_own(machine, admin):
    """The name is the same, the UID is not."""
    made = machine("zeta")
    key = made._bootstrap_key()
    name = kubelet.digest_name(key, "zeta", kubelet.CLIENT_USAGES)
    client, request = made.bootstrap_client(), kubelet.request_pem(key, "zeta")
    first = made.submit(client, kubelet.CLIENT, request, kubelet.CLIENT_USAGES, name)
    admin.ask("DELETE", f"{kubelet.CSRS}/{name}")
    made.submit(client, kubelet.CLIENT, request, kubelet.CLIENT_USAGES, name)
    with pytest.raises(kubelet.WaitFailed, match="changed UIDs"):
        made.wait(client, first)


# --- what a machine may not do ------------------------------------------------------------------------------------


def test_a_token_without_the_group_makes_no_node(machine, server):
    """Its requests are not even taken: the right to make them comes with the group."""
    stranger = machine("eta", token=new_token(server, "--groups", "system:bootstrappers:others"))
    with pytest.raises(kubelet.WaitFailed, match='cannot create resource "certificatesigningrequests"'):
        stranger.bootstrap()


def test_a_node_asks_for_itself_alone(machine):
    """NodeRestriction: not for another node, neither to come nor to serve; and it changes no other Node."""
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
    """As in Kubernetes: whoever has a bootstrap token can become any node. Tokens are to be short-lived for that."""
    one, two = machine("kappa"), machine("kappa")
    two.client_store.directory = two.client_store.directory.with_name("kappa-2")
    two._temporary = two.client_store.directory / "kubelet-client.key.tmp"
    one.bootstrap()
    two.bootstrap()
    assert whoami(two.client())["username"] == "system:node:kappa"
    assert one.client_store.certificate().serial_number != two.client_store.certificate().serial_number


def test_a_node_cannot_approve(machine, admin):
    """Not even itself."""
    made = machine("lambda")
    made.bootstrap()
    asked, _ = made.ask_for_serving((("Hostname", "lambda"),))
    found = read(admin, asked["metadata"]["name"])
    found["status"]["conditions"] = [{"type": "Approved", "status": "True", "reason": "Mine", "message": ""}]
    answer = made.client().ask("PUT", f"{kubelet.CSRS}/{asked['metadata']['name']}/approval", found)
    assert answer.status == 403


def test_other_usages_are_not_approved(machine, admin):
    """What looks like a kubelet's request but asks for more waits for a person."""
    made = machine("mu")
    usages = [*kubelet.CLIENT_USAGES, "server auth"]
    request = kubelet.request_pem(kubelet.new_key(), "mu")
    asked = made.submit(made.bootstrap_client(), kubelet.CLIENT, request, usages)
    other = made.submit(
        made.bootstrap_client(), kubelet.CLIENT, kubelet.request_pem(kubelet.new_key(), "mu"), kubelet.CLIENT_USAGES
    )
    assert made.wait(made.bootstrap_client(), other)
    assert conditions(admin, asked["metadata"]["name"]) == []


# --- functions ----------------------------------------------------------------------------------------------------


@given(
    lifetime=st.timedeltas(datetime.timedelta(minutes=10), datetime.timedelta(days=3650)),
    chance=st.floats(0, 1, exclude_max=True),
)
def test_renewal_begins_in_time(lifetime, chance):
    """After 70 %, before 90 % of the lifetime."""
    begins = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    part = (kubelet.rotation_deadline(begins, begins + lifetime, chance) - begins) / lifetime
    assert 0.699 < part < 0.901


def test_the_name_of_a_request_is_a_digest():
    """Of key, node and usages; 43 characters that a URL takes."""
    key = kubelet.new_key()
    name = kubelet.digest_name(key, "n1", kubelet.CLIENT_USAGES)
    assert len(name) == len("node-csr-") + 43
    assert name == kubelet.digest_name(key, "n1", kubelet.CLIENT_USAGES)
    assert name != kubelet.digest_name(key, "n2", kubelet.CLIENT_USAGES)
    assert base64.urlsafe_b64decode(name.removeprefix("node-csr-") + "=")
