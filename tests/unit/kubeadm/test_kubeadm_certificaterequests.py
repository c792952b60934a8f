"""Keys and requests for a control plane whose CA is elsewhere."""

from __future__ import annotations

import base64
import stat

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import ExtensionOID, NameOID

from certplane.errors import SetupError
from certplane.golang import goyaml
from certplane.kubeadm import certificaterequests
from certplane.kubeadm.clusterconfig import ClusterConfig

#: The example whose names kubeadm prints.
CONFIG = ClusterConfig(
    node_name="node-a",
    advertise_address="10.1.2.3",
    endpoint="cp.example.com:6443",
    api_names=("foo.example.com", "*.bar.example", "1.2.3.4"),
)
ALGORITHM = "ECDSA-P256"


def plan(tmp_path, config=CONFIG):
    return certificaterequests.plan_kubeadm(config, tmp_path / "pki", tmp_path)


def write(plan):
    certificaterequests.check(plan)
    for certificate in plan.certificates:
        certificaterequests.write_certificate(plan, certificate, ALGORITHM)
    for kubeconfig in plan.kubeconfigs:
        certificaterequests.write_kubeconfig(plan, kubeconfig, ALGORITHM)


def load(path):
    return x509.load_pem_x509_csr(path.read_bytes())


def names(request):
    """DNS names and addresses."""
    extension = request.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return extension.get_values_for_type(x509.DNSName), list(map(str, extension.get_values_for_type(x509.IPAddress)))


def subject(request):
    return [
        [attribute.value for attribute in request.subject.get_attributes_for_oid(oid)]
        for oid in (NameOID.COMMON_NAME, NameOID.ORGANIZATION_NAME)
    ]


@pytest.fixture
def written(tmp_path):
    write(plan(tmp_path))
    return tmp_path


def test_requests_have_the_names_of_kubeadm(written):
    """DNS names are sorted, addresses keep their order."""
    kubernetes = [f"kubernetes{suffix}" for suffix in ("", ".default", ".default.svc", ".default.svc.cluster.local")]
    assert (
        ["*.bar.example", "cp.example.com", "foo.example.com", *kubernetes, "node-a"],
        ["10.96.0.1", "10.1.2.3", "1.2.3.4"],
    ) == names(load(written / "pki" / "apiserver.csr"))
    for name in ("server", "peer"):
        request = load(written / "pki" / "etcd" / f"{name}.csr")
        assert (["localhost", "node-a"], ["10.1.2.3", "127.0.0.1", "::1"]) == names(request)
        assert [["node-a"], []] == subject(request)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("pki/apiserver.csr", [["kube-apiserver"], []]),
        ("pki/apiserver-kubelet-client.csr", [["kube-apiserver-kubelet-client"], []]),
        ("pki/front-proxy-client.csr", [["front-proxy-client"], []]),
        ("pki/etcd/healthcheck-client.csr", [["kube-etcd-healthcheck-client"], []]),
        ("pki/apiserver-etcd-client.csr", [["kube-apiserver-etcd-client"], []]),
        ("admin.conf.csr", [["kubernetes-admin"], ["kubeadm:cluster-admins"]]),
        ("super-admin.conf.csr", [["kubernetes-super-admin"], ["system:masters"]]),
        ("kubelet.conf.csr", [["system:node:node-a"], ["system:nodes"]]),
        ("controller-manager.conf.csr", [["system:kube-controller-manager"], []]),
        ("scheduler.conf.csr", [["system:kube-scheduler"], []]),
    ],
)
def test_requests_have_the_subjects_of_kubeadm(written, path, expected):
    """And ask for no usages; clients for no names."""
    request = load(written / path)
    assert expected == subject(request)
    assert request.is_signature_valid
    extensions = [ExtensionOID.SUBJECT_ALTERNATIVE_NAME] if path == "pki/apiserver.csr" else []
    assert extensions == [extension.oid for extension in request.extensions]


def test_each_request_has_the_key_beside_it(written):
    """That of a kubeconfig is in the kubeconfig. All files are readable by their owner only."""
    spki = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)

    def public(key):
        return serialization.load_pem_private_key(key, None).public_key().public_bytes(*spki)

    key = (written / "pki" / "apiserver.key").read_bytes()
    assert public(key) == load(written / "pki" / "apiserver.csr").public_key().public_bytes(*spki)
    user = goyaml.load((written / "admin.conf").read_text())["users"][0]["user"]
    assert ["client-key-data"] == list(user)
    key = base64.b64decode(user["client-key-data"])
    assert public(key) == load(written / "admin.conf.csr").public_key().public_bytes(*spki)
    files = [path for path in written.rglob("*") if path.is_file()]
    assert 2 * 7 + 2 * 5 == len(files)
    assert {0o600} == {stat.S_IMODE(path.stat().st_mode) for path in files}


def test_kubeconfigs_have_the_servers_of_kubeadm(written):
    """Components on the node use its own address."""
    public, local = "https://cp.example.com:6443", "https://10.1.2.3:6443"
    servers = {path.name: goyaml.load(path.read_text())["clusters"][0]["cluster"] for path in written.glob("*.conf")}
    assert {
        "admin.conf": {"server": public},
        "super-admin.conf": {"server": public},
        "kubelet.conf": {"server": public},
        "controller-manager.conf": {"server": local},
        "scheduler.conf": {"server": local},
    } == servers


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("pki/etcd/peer.key", "file already exists: key or CSR {}/pki/etcd/peer"),
        ("pki/apiserver.csr", "file already exists: key or CSR {}/pki/apiserver"),
        ("scheduler.conf", "file already exists: kube config: {}/scheduler.conf"),
        ("admin.conf.csr", "file already exists: csr: {}/admin.conf.csr"),
    ],
)
def test_nothing_is_overwritten(tmp_path, name, message):
    """And nothing is written if one of the files exists, even as a link that leads nowhere."""
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to("nowhere")
    with pytest.raises(SetupError) as refusal:
        write(plan(tmp_path))
    assert message.format(tmp_path) == refusal.value.message
    assert [path] == [file for file in tmp_path.rglob("*") if not file.is_dir()]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"api_names": ("bad_name",)},
            'apiServer.certSANs: Invalid value: "bad_name": altname is not a valid IP address, DNS label or',
        ),
        ({"etcd_peer_names": ("a.*.b",)}, "etcd.local.peerCertSANs: Invalid value: "),
        ({"node_name": "Node A"}, "nodeRegistration.name: Invalid value: "),
        (
            {"advertise_address": "10.1.2"},
            "error parsing LocalAPIEndpoint AdvertiseAddress 10.1.2: is not a valid textual representation of an IP",
        ),
        ({"service_subnet": "10.0.0.0"}, "unable to get first IP address from the given CIDR: 10.0.0.0: "),
        ({"service_subnet": "x/8"}, "unable to get first IP address from the given CIDR: x/8: "),
        ({"endpoint": "a b"}, 'error parsing cluster controlPlaneEndpoint "a b": '),
        ({"endpoint": "a:99999"}, 'error parsing cluster controlPlaneEndpoint "a:99999": '),
        ({"endpoint": "https://a"}, 'error parsing cluster controlPlaneEndpoint "https://a": '),
        ({"endpoint": "x@a"}, 'error parsing cluster controlPlaneEndpoint "x@a": '),
        ({"endpoint": "[::1"}, 'error parsing cluster controlPlaneEndpoint "[::1": '),
    ],
    ids=str,
)
def test_invalid_settings_are_refused(tmp_path, settings, message):
    """With kubeadm's texts."""
    config = {"node_name": "node-a", "advertise_address": "10.1.2.3", **settings}
    with pytest.raises(SetupError) as refusal:
        plan(tmp_path, ClusterConfig(**config))
    assert refusal.value.message.startswith(message)
    assert refusal.value.hints


@pytest.mark.parametrize(
    ("endpoint", "server"),
    [
        ("cp", "https://cp:7000"),
        ("cp:1", "https://cp:1"),
        ("fd00::1", "https://[fd00::1]:7000"),
        ("[fd00::1]:8", "https://[fd00::1]:8"),
        ("1.2.3.4", "https://1.2.3.4:7000"),
    ],
)
def test_the_endpoint_may_have_a_port(tmp_path, endpoint, server):
    """By default it is that of the API server."""
    config = ClusterConfig(node_name="a", advertise_address="10.1.2.3", bind_port=7000, endpoint=endpoint)
    admin = plan(tmp_path, config).kubeconfigs[0]
    assert ("admin.conf", server) == (admin.name, admin.server)
    assert (
        server.removeprefix("https://").rpartition(":")[0].strip("[]") in plan(tmp_path, config).certificates[0].names
    )


def test_the_first_service_subnet_counts(tmp_path):
    """Of both families."""
    config = ClusterConfig(node_name="a", advertise_address="10.1.2.3", service_subnet="fd00::/108, 10.0.0.0/16")
    assert "fd00::1" in plan(tmp_path, config).certificates[0].names


def test_a_data_directory_gets_what_certplane_needs(tmp_path):
    """The serving certificate and two kubeconfigs, with the CA certificate if it is there."""
    write(certificaterequests.plan_own(tmp_path, "Host"))
    assert [
        "admin.conf", "admin.conf.csr", "apiserver.csr", "apiserver.key", "super-admin.conf", "super-admin.conf.csr"
    ] == sorted(path.name for path in tmp_path.rglob("*") if path.is_file())  # fmt: skip
    assert "host" in names(load(tmp_path / "pki" / "apiserver.csr"))[0]
    (tmp_path / "pki" / "ca.crt").write_text("PEM")
    assert b"PEM" == certificaterequests.plan_own(tmp_path, "host").ca
