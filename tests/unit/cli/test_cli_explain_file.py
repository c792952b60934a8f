"""`certplane explain file`: what is wrong with a request, before it is sent to any server."""

from __future__ import annotations

import json
import sys

import pytest
from cryptography.hazmat.primitives import serialization

from certplane import testing
from certplane.cli import main
from certplane.wire import codec


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Explains a file with some content: exit code, standard output, standard error."""

    def run(content):
        path = tmp_path / "a.yaml"
        if content is not None:
            path.write_bytes(content)
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["certplane", "explain", "file", path.name])
        with pytest.raises(SystemExit) as ended:
            main.main()
        output = capsys.readouterr()
        return ended.value.code, output.out, output.err

    return run


def manifest(**spec):
    """A manifest in JSON, which is YAML; `spec` replaces fields."""
    csr = testing.new_csr()
    csr.kind, csr.api_version = "CertificateSigningRequest", "certificates.k8s.io/v1"
    document = json.loads(codec.encode(csr))
    document["spec"] |= spec
    return json.dumps(document).encode()


def test_a_manifest(run):
    """What it asks for, and what the signer of Kubernetes will do."""
    code, out, _ = run(manifest())
    assert (code, out.splitlines()) == (
        0,
        ["a.yaml: a request for CN=jane, key ECDSA-P256", "signer: kubernetes.io/kube-apiserver-client permits it"],
    )
    code, out, _ = run(manifest(usages=["digital signature"]))
    assert (code, out.splitlines()[-1]) == (0, "fix: request the usages digital signature, client auth")
    assert "whose rules its server knows" in run(manifest(signerName="example.com/a"))[1]


def test_a_pkcs10(run):
    """It has no signer yet."""
    code, out, _ = run(testing.new_pkcs10("a", dns=("b",)))
    assert (code, out) == (0, "a.yaml: a request for CN=a, key ECDSA-P256\nnames: DNS:b\n")


@pytest.mark.parametrize(
    ("content", "message", "hint"),
    [
        (manifest(request="$(cat a.csr)"), "spec.request is a shell command that was not run", "illegal base64 data"),
        (manifest(request=""), "spec.request is empty", "PEM block type must be CERTIFICATE REQUEST"),
        (manifest(signerName="nobody"), "spec.signerName: Invalid value", "docs/troubleshooting.md"),
        (b"apiVersion: v1\nspec: {a", "the manifest is not valid YAML", "docs/troubleshooting.md"),
        (b"apiVersion: v1\nkind: Secret\nspec: {}\n", "the manifest is not a CertificateSigningRequest", "docs"),
        (b"\x00\xff", "it is not acceptable", "docs/troubleshooting.md"),
        (b"jane.csr", "it is the name of a file", "PEM block type must be CERTIFICATE REQUEST"),
        (b"x" * (1 << 20) + b"x", "cannot be read", "name a manifest"),
        (None, "cannot be read", "name a manifest"),
    ],
    ids=["shell", "empty", "invalid", "YAML", "kind", "binary", "name", "large", "absent"],
)
def test_what_is_no_request_is_named(run, content, message, hint):
    """Exit code 2, and what a server would say."""
    code, out, err = run(content)
    error, hints = err.splitlines()
    assert (code, out) == (2, "")
    assert error.startswith("error: a.yaml")
    assert message in error
    assert hint in hints


def test_a_private_key_is_never_repeated(run):
    """It is compromised."""
    key = testing.new_key().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    code, out, err = run(key)
    assert (code, out, "considered compromised" in err) == (2, "", True)
    assert key.decode().splitlines()[1] not in err
