"""The configuration of the watch: all problems at once, with the paths of fields."""

from __future__ import annotations

import pathlib

import pytest

from certplane.config.documents import ConfigurationError
from certplane.config.options import Address
from certplane.expiry import settings, settingsfile
from certplane.expiry.settings import EndpointSettings, SecretSelection, SourceSettings
from certplane.expiry.watch import Limits

HEAD = "apiVersion: watch.certplane.io/v1alpha1\nkind: WatchConfiguration\n"


def load(tmp_path, text):
    path = tmp_path / "watch.yaml"
    path.write_text(HEAD + text)
    return settingsfile.load(path)


def problems(tmp_path, text):
    with pytest.raises(ConfigurationError) as raised:
        load(tmp_path, text)
    assert all(raised.value.hints)
    return list(raised.value.problems)


def test_the_smallest_configuration(tmp_path):
    """One source; the rest has defaults."""
    expected = settings.WatchSettings(
        sources=(
            SourceSettings(
                "cp", settings.ControlPlane(pathlib.Path("/etc/kubernetes/pki"), pathlib.Path("/etc/kubernetes"))
            ),
        )
    )
    assert expected == load(tmp_path, "sources: [{name: cp, controlPlane: {}}]")
    assert Address("127.0.0.1", 9793) == expected.metrics_address


def test_every_field(tmp_path):
    """Each field is read; relative paths are relative to the file."""
    text = """
interval: 1m
timeout: 10s
maxCertificates: 100
metricsAddress: "[::1]:9000"
stateDirectory: state
logLevel: DEBUG
sources:
- name: own
  controlPlane: {dataDir: data}
- name: dir
  directory: {path: certs}
- name: pem
  files: {paths: ["*.pem", /etc/ssl/a.p12], pkcs12PasswordFile: password}
- name: users
  kubeconfigs: {paths: [/home/*/.kube/config]}
- name: prod
  cluster:
    kubeconfig: prod.conf
    context: admin
    namespaces: [web]
    secrets: [{}, {type: Opaque, keys: ["*.pem"]}]
    configMaps: {}
    clusterTrustBundles: true
    certificateSigningRequests: true
- name: live
  endpoints:
    addresses:
    - {address: "db:5432", startTLS: postgres, serverName: db.example.com, caFile: ca.pem}
    - {address: "web:443"}
webhooks:
- name: chat
  urlFile: url
  format: slack
  secretFile: secret
  caFile: ca.pem
  thresholds: [1d, 2w, 0s]
  sources: [prod]
"""
    loaded = load(tmp_path, text)
    assert Limits(60, 10, 100) == loaded.limits
    assert Address("::1", 9000) == loaded.metrics_address
    assert (tmp_path / "state", "DEBUG") == (loaded.state_directory, loaded.log_level)
    places = {source.name: source.place for source in loaded.sources}
    assert tmp_path / "data" == places["own"].data_dir
    assert settings.Directory(tmp_path / "certs") == places["dir"]
    assert settings.Files((f"{tmp_path}/*.pem", "/etc/ssl/a.p12"), tmp_path / "password") == places["pem"]
    assert settings.Kubeconfigs(("/home/*/.kube/config",)) == places["users"]
    assert (
        settings.Cluster(
            tmp_path / "prod.conf",
            "admin",
            ("web",),
            (SecretSelection(), SecretSelection("Opaque", ("*.pem",))),
            ("ca.crt",),
            trust_bundles=True,
            csrs=True,
        )
        == places["prod"]
    )
    assert (
        settings.Endpoints(
            (
                EndpointSettings(Address("db", 5432), "db.example.com", "postgres", tmp_path / "ca.pem"),
                EndpointSettings(Address("web", 443)),
            )
        )
        == places["live"]
    )
    (webhook,) = loaded.webhooks
    assert (
        settings.WebhookSettings(
            "chat", tmp_path / "url", "slack", tmp_path / "secret", tmp_path / "ca.pem",
            (14 * settings.DAY, settings.DAY, 0.0), ("prod",),
        )
        == webhook
    )  # fmt: skip


def test_no_metrics(tmp_path):
    """For hosts where no port may be opened."""
    loaded = load(tmp_path, "metrics: false\nsources: [{name: cp, controlPlane: {}}]")
    assert loaded.metrics_address is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "sources: required: at least one"),
        ("sources: [{name: A, controlPlane: {}}]", "sources[0].name: "),
        ("sources: [{name: a}]", "sources[0]: needs exactly one of controlPlane, directory, "),
        ("sources: [{name: a, directory: {path: a}, files: {paths: [b]}}]", "sources[0]: needs exactly one of"),
        ("sources: [{name: a, directory: {}}]", "sources[0].directory.path: required"),
        ("sources: [{name: a, files: {paths: [/etc/**]}}]", "sources[0].files.paths[0]: "),
        ("sources: [{name: a, controlPlane: {dataDir: a, certDir: b}}]", "sources[0].controlPlane.dataDir: cannot be"),
        ("sources: [{name: a, cluster: {secrets: []}}]", "sources[0].cluster: reads nothing"),
        ("sources: [{name: a, cluster: {context: b}}]", "sources[0].cluster.context: needs a kubeconfig"),
        ("sources: [{name: a, endpoints: {addresses: [{address: x}]}}]", "sources[0].endpoints.addresses[0].address: "),
        ("sources: [{name: a, endpoints: {addresses: [{}]}}]", "sources[0].endpoints.addresses[0].address: required"),
        (
            'sources: [{name: a, endpoints: {addresses: [{address: "a:1", startTLS: imap}]}}]',
            "sources[0].endpoints.addresses[0].startTLS: must be one of",
        ),
        ("sources: [{name: a, directory: {path: b}}, {name: a, directory: {path: c}}]", "sources[1].name: duplicate"),
        ("maxCertificates: 0\nsources: [{name: a, directory: {path: b}}]", "maxCertificates: must be a number from 1"),
        ("intervall: 1m\nsources: [{name: a, directory: {path: b}}]", "intervall: unknown field; did you mean"),
        ("webhooks: [{name: a}]\nsources: [{name: a, directory: {path: b}}]", "webhooks[0].urlFile: required"),
        (
            "webhooks: [{name: a, urlFile: u, thresholds: [soon]}]\nsources: [{name: a, directory: {path: b}}]",
            'webhooks[0].thresholds[0]: not a duration: "soon"',
        ),
        (
            "webhooks: [{name: a, urlFile: u, sources: [b]}]\nsources: [{name: a, directory: {path: b}}]",
            'webhooks[0].sources: there is no source "b"',
        ),
    ],
)
def test_problems(text, expected, tmp_path):
    """Each with the path of its field, and nothing else."""
    (problem,) = problems(tmp_path, text)
    assert problem.startswith(expected)
