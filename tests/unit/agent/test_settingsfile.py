"""The agent's configuration: all problems at once, with the paths of fields."""

from __future__ import annotations

import ipaddress
import pathlib

import pytest

from certplane.agent import settings, settingsfile
from certplane.agent.schedule import RenewalTimes, Window
from certplane.config.documents import ConfigurationError
from certplane.config.options import Address
from certplane.errors import SetupError
from certplane.meta import names
from certplane.x509.certificatenames import Subject
from certplane.x509.tbs.template import AltNames

HEAD = "apiVersion: agent.certplane.io/v1alpha1\nkind: AgentConfiguration\n"
NODE = """
certificates:
- name: node
  signerName: kubernetes.io/kube-apiserver-client-kubelet
  subject: {commonName: "system:node:a", organizations: ["system:nodes"]}
"""


def load(tmp_path, text):
    path = tmp_path / "agent.yaml"
    path.write_text(HEAD + text)
    return settingsfile.load(path)


def problems(tmp_path, text):
    with pytest.raises(ConfigurationError) as raised:
        load(tmp_path, text)
    return list(raised.value.problems)


def test_the_smallest_configuration(tmp_path):
    """A client certificate needs a name, a signer and a subject; the rest has defaults."""
    expected = settings.AgentSettings(
        directory=pathlib.Path("/var/lib/certplane-agent"),
        server=settings.ServerSettings(),
        certificates=(
            settings.CertificateSettings(
                name="node",
                signer_name="kubernetes.io/kube-apiserver-client-kubelet",
                subject=Subject(common_name="system:node:a", organization=("system:nodes",)),
                names=AltNames(),
                usages=("digital signature", "client auth"),
            ),
        ),
    )
    assert expected == load(tmp_path, NODE)


def test_every_field(tmp_path):
    """Each field is read; relative paths are relative to the file."""
    text = """
directory: state
server: {kubeconfig: bootstrap.conf, context: c, tokenFile: token, identity: web}
renewalNotice: {namespace: kube-system, name: renew}
metricsAddress: "[::1]:9460"
logLevel: DEBUG
certificates:
- name: web
  signerName: example.com/web
  subject: {commonName: web}
  dnsNames: [web.example.com, "*.web.example.com"]
  ipAddresses: [10.0.0.1]
  uris: ["spiffe://example.com/web"]
  usages: [digital signature, client auth]
  lifetime: 24h
  key: RSA-2048
  renewal:
    fromPercent: 50
    toPercent: 60
    window: {days: [Sun, Sat], start: "02:30", duration: 2h}
  outputs:
    certificate: /etc/web/tls.crt
    key: /etc/web/tls.key
    ca: /etc/web/ca.crt
    pkcs12: /etc/web/tls.p12
    pkcs12PasswordFile: password
    owner: web
    group: ssl
    mode: 0640
  hooks:
  - {command: [/bin/systemctl, reload, web], timeout: 10s}
  - {signal: SIGHUP, pidFile: /run/web.pid}
  - {touch: /run/web.changed}
  probe: {address: "web.example.com:8443", serverName: web}
trustBundles:
- path: ca.crt
  configMap: {namespace: default, name: kube-root-ca.crt}
- path: other.crt
  signerName: example.com/web
"""
    parsed = load(tmp_path, text)
    certificate = parsed.certificates[0]
    assert tmp_path / "state" == parsed.directory
    assert settings.ServerSettings(tmp_path / "bootstrap.conf", "c", tmp_path / "token", "web") == parsed.server
    assert settings.RenewalNotice("kube-system", "renew") == parsed.notice
    assert Address("::1", 9460) == parsed.metrics_address
    assert "DEBUG" == parsed.log_level
    assert certificate.names == AltNames(
        dns=("web.example.com", "*.web.example.com"),
        ip=(ipaddress.ip_address("10.0.0.1"),),
        uri=("spiffe://example.com/web",),
    )
    assert (86400, "RSA-2048") == (certificate.expiration_seconds, certificate.key_kind)
    assert RenewalTimes(0.5, 0.6, Window((5, 6), 9000, 7200)) == certificate.renewal
    assert certificate.outputs == settings.Outputs(
        certificate=pathlib.Path("/etc/web/tls.crt"),
        key=pathlib.Path("/etc/web/tls.key"),
        ca=pathlib.Path("/etc/web/ca.crt"),
        pkcs12=pathlib.Path("/etc/web/tls.p12"),
        pkcs12_password_file=tmp_path / "password",
        owner="web",
        group="ssl",
        mode=0o640,
    )
    assert certificate.hooks == (
        settings.Hook(command=("/bin/systemctl", "reload", "web"), timeout=10),
        settings.Hook(signal="HUP", pid_file=pathlib.Path("/run/web.pid")),
        settings.Hook(touch=pathlib.Path("/run/web.changed")),
    )
    assert settings.Probe("web.example.com", 8443, "web") == certificate.probe
    assert parsed.trust_bundles == (
        settings.TrustBundle(tmp_path / "ca.crt", settings.ConfigMapKey("default", "kube-root-ca.crt")),
        settings.TrustBundle(tmp_path / "other.crt", signer_name="example.com/web"),
    )


def test_all_problems_are_reported_at_once(tmp_path):
    """Each has the path of its field, and an unknown field the name that was probably meant."""
    text = """
directori: /x
server: {identity: other}
certificates:
- name: Web
  signerName: web
  dnsName: [a]
  lifetime: 5
  hooks: [{}]
  outputs: {mode: 0666, key: /k, certificate: /k}
- 5
trustBundles:
- path: x
"""
    assert problems(tmp_path, text) == [
        'certificates[1]: must be a mapping, not "5"',
        f'certificates[0].name: "Web": {names.dns1123_label_problems("Web")[0]}',
        'certificates[0].signerName: must be DOMAIN/PATH, not "web"',
        "certificates[0].subject: required: a commonName, or dnsNames, ipAddresses or uris",
        'certificates[0].lifetime: must be a string, not "5"',
        "certificates[0].usages: required for this signer, such as [digital signature, server auth]",
        'certificates[0].outputs.mode: must be a mode such as "0640" in which only the owner may write, not "438"',
        "certificates[0].hooks[0]: needs exactly one of command, signal and touch",
        'certificates[0].dnsName: unknown field; did you mean "dnsNames"?',
        "trustBundles[0]: needs exactly one of configMap, clusterTrustBundle and signerName",
        'directori: unknown field; did you mean "directory"?',
        'server.identity: there is no certificate "other"',
        "certificates[0].outputs.key: /k is also the path of certificates[0].outputs.certificate",
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[]", "not a YAML mapping"),
        ("a: [", "not valid YAML: "),
        ("{}", "apiVersion: required"),
    ],
)
def test_documents_of_another_kind(text, problem, tmp_path):
    """They are refused with a sentence."""
    path = tmp_path / "agent.yaml"
    path.write_text(text)
    with pytest.raises(ConfigurationError) as raised:
        settingsfile.load(path)
    assert raised.value.problems[0].startswith(problem)


@pytest.mark.parametrize(
    ("field", "problem"),
    [
        ("metricsAddress: localhost", 'metricsAddress: not HOST:PORT: "localhost"'),
        ("metricsAddress: ':9'", 'metricsAddress: not HOST:PORT: ":9"'),
        ("metricsAddress: 'a:99999'", 'metricsAddress: the port must be from 1 to 65535: "a:99999"'),
        ("server: {context: c}", "server.context: needs a kubeconfig"),
        ("server: 5", 'server: must be a mapping, not "5"'),
        ("renewalNotice: {enabled: 1}", 'renewalNotice.enabled: must be true or false, not "1"'),
        ('logLevel: "a\\u0000b"', 'logLevel: has characters that are not printable: "a\\x00b"'),
    ],
)
def test_invalid_values(field, problem, tmp_path):
    """The problem names the field and quotes the value."""
    assert [problem] == problems(tmp_path, NODE + field)


@pytest.mark.parametrize(
    ("field", "problem"),
    [
        ("lifetime: 5m", 'lifetime: must be from 10m to 68y, not "5m"'),
        ("lifetime: soon", 'lifetime: not a duration: "soon"; write it as 1h30m or 45s'),
        ("renewal: {fromPercent: 90, toPercent: 80}", "renewal.fromPercent: must not be more than toPercent"),
        ("renewal: {fromPercent: 5}", 'renewal.fromPercent: must be a number from 10 to 95, not "5"'),
        ("renewal: {window: {start: '25:00'}}", 'renewal.window.start: must be a time in UTC such as "02:30", not "25'),
        (
            "renewal: {window: {days: [Monday], start: '02:00'}}",
            'renewal.window.days[0]: must be one of Mon, Tue, Wed, Thu, Fri, Sat, Sun, not "Monday"',
        ),
        ("outputs: {pkcs12: /x}", "outputs.pkcs12: pkcs12 and pkcs12PasswordFile belong together"),
        ("outputs: {mode: 640}", 'outputs.mode: must be a mode such as "0640" in which only the owner may write, '),
        ("hooks: [{command: [reload]}]", 'hooks[0].command[0]: must be an absolute path, not "reload"'),
        ("hooks: [{signal: KILL, pidFile: /p}]", "hooks[0].signal: must be one of HUP, INT, "),
        ("hooks: [{signal: HUP}]", "hooks[0].pidFile: signal and pidFile belong together"),
        ("probe: {}", "probe.address: required"),
        ("usages: [server]", "usages[0]: must be one of "),
        ("ipAddresses: [10.0.0.0/8]", 'ipAddresses[0]: not an IP address: "10.0.0.0/8"'),
        ("key: DSA", 'key: must be one of RSA-2048, RSA-3072, RSA-4096, ECDSA-P256, ECDSA-P384, not "DSA"'),
    ],
)
def test_invalid_fields_of_a_certificate(field, problem, tmp_path):
    """The path begins with the index of the certificate."""
    (actual,) = problems(tmp_path, f"{NODE}  {field}\n")
    assert actual.startswith(f"certificates[0].{problem}")


def test_a_client_certificate_needs_a_user(tmp_path):
    """The common name is the user name, so the signers of client certificates need one."""
    text = NODE.replace('subject: {commonName: "system:node:a", organizations: ["system:nodes"]}', "dnsNames: [a]")
    signer = "kubernetes.io/kube-apiserver-client-kubelet"
    expected = f"certificates[0].subject.commonName: required by the signer {signer}: it is the user name"
    assert [expected] == problems(tmp_path, text)


def test_a_file_that_cannot_be_read(tmp_path):
    """A missing file and a directory are errors of the operator."""
    for path, reason in ((tmp_path / "none", "No such file"), (tmp_path, "it is not a regular file")):
        with pytest.raises(SetupError, match=reason):
            settingsfile.load(path)
