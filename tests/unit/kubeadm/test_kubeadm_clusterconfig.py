"""The configuration file of kubeadm."""

from __future__ import annotations

import datetime
import pathlib

import pytest

from certplane.errors import SetupError
from certplane.kubeadm import clusterconfig, renewal
from certplane.kubeadm.clusterconfig import ClusterConfig

FULL = b"""\
# a comment
---
apiVersion: kubeadm.k8s.io/v1beta4
kind: InitConfiguration
nodeRegistration: {name: node-a}
localAPIEndpoint: {advertiseAddress: 10.1.2.3, bindPort: 6444}
--- # the cluster
apiVersion: kubeadm.k8s.io/v1beta4
kind: ClusterConfiguration
certificatesDir: /srv/pki
clusterName: prod
encryptionAlgorithm: ECDSA-P384
certificateValidityPeriod: 720h0m0s
controlPlaneEndpoint: cp.example.com:6443
networking: {serviceSubnet: 10.0.0.0/16, dnsDomain: k8s.local}
apiServer: {certSANs: [foo.example.com, 1.2.3.4]}
etcd: {local: {serverCertSANs: [e.example.com], peerCertSANs: [p.example.com]}}
---
kind: KubeletConfiguration
apiVersion: kubelet.config.k8s.io/v1beta1
"""


def test_all_settings_are_read():
    """From both documents, in any order; others are ignored."""
    assert ClusterConfig(
        directory=pathlib.Path("/srv/pki"),
        options=renewal.Options(datetime.timedelta(days=30), "ECDSA-P384"),
        cluster_name="prod",
        dns_domain="k8s.local",
        service_subnet="10.0.0.0/16",
        endpoint="cp.example.com:6443",
        api_names=("foo.example.com", "1.2.3.4"),
        etcd_server_names=("e.example.com",),
        etcd_peer_names=("p.example.com",),
        node_name="node-a",
        advertise_address="10.1.2.3",
        bind_port=6444,
    ) == clusterconfig.parse(FULL, "file")


def cluster(text=b"", version=b"kubeadm.k8s.io/v1beta4"):
    return clusterconfig.parse(b"kind: ClusterConfiguration\napiVersion: " + version + b"\n" + text, "file")


@pytest.mark.parametrize("version", [b"kubeadm.k8s.io/v1beta3", b"kubeadm.k8s.io/v1beta4"])
def test_everything_has_a_default(version):
    """That of kubeadm."""
    assert ClusterConfig() == cluster(version=version)
    assert ("RSA-2048", datetime.timedelta(hours=8760)) == (
        ClusterConfig().options.key_algorithm,
        ClusterConfig().options.lifetime,
    )


def test_an_external_etcd_is_noticed():
    """Its certificates are not renewed."""
    assert cluster(b"etcd: {external: {endpoints: [https://a:2379]}}").has_external_etcd


def test_long_lifetimes_get_the_warnings_of_kubeadm():
    """They are not refused."""
    config = cluster(b"certificateValidityPeriod: 9000h\ncaCertificateValidityPeriod: 30m")
    prefix = "certificateValidityPeriod: the value 9000h0m0s is more than the"
    assert (
        f"{prefix} caCertificateValidityPeriod: 30m0s",
        f"{prefix} recommended default for certificate expiration: 8760h0m0s",
    ) == config.warnings


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            b"encryptionAlgorithm: Foo",
            'file: encryptionAlgorithm: Invalid value: "Foo": Invalid encryption algorithm "Foo". Must be one of [',
        ),
        (b"certificateValidityPeriod: 1y", 'file: certificateValidityPeriod: Invalid value: "1y": must be a duration'),
        (b"certificateValidityPeriod: 0s", 'certificateValidityPeriod: Invalid value: "0s": must be a duration'),
        (b"certificateValidityPeriod: -1h", 'certificateValidityPeriod: Invalid value: "-1h": must be a duration'),
        (b"certificateValidityPeriod: 5", "certificateValidityPeriod: Invalid value: "),
        (b"apiServer: {certSANs: [1]}", "apiServer.certSANs: Invalid value: "),
        (b"apiServer: []", "apiServer: Invalid value: "),
        (b"etcd: x", "file: etcd: Invalid value: "),
        (b"certificatesDir: [a", "file is not valid YAML: "),
    ],
)
def test_invalid_values_are_refused(text, expected):
    """With the path of the field."""
    with pytest.raises(SetupError) as refusal:
        cluster(text)
    assert expected in refusal.value.message
    assert refusal.value.hints


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"- a",
        b"\xff\xfe",
        b"a: b",
        b"kind: ClusterConfiguration",
        b"kind: ClusterConfiguration\napiVersion: kubeadm.k8s.io/v1beta1",
        b"kind: InitConfiguration\napiVersion: kubeadm.k8s.io/v1beta4\nlocalAPIEndpoint: {bindPort: 99999}",
        b"kind: InitConfiguration\napiVersion: kubeadm.k8s.io/v1beta4\nlocalAPIEndpoint: {bindPort: true}",
        b"---\n" * 500 + b"x",
    ],
    ids=lambda content: ascii(content)[:30],
)
def test_other_files_are_refused(content):
    """Empty, of another kind or version."""
    with pytest.raises(SetupError) as refusal:
        clusterconfig.parse(content, "file")
    assert refusal.value.message.startswith("file")
    assert refusal.value.hints


def test_a_missing_file_is_an_error(tmp_path):
    """With a hint."""
    with pytest.raises(SetupError, match="cannot be read: No such file or directory"):
        clusterconfig.load(tmp_path / "x.yaml")
