"""`certplane token`, against a real server, as an administrator uses it."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import ssl
import subprocess

import pytest

import demo
from tests.e2e import requests


def _run(server, *arguments):
    command = [demo.CERTPLANE, "token", "--kubeconfig", str(server.data / "admin.conf"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False, stdin=subprocess.DEVNULL)


def _who(server, token):
    """Status code, and the user name for a token."""
    trust = ssl.create_default_context(cafile=server.data / "pki" / "ca.crt")
    host, _, port = server.url.removeprefix("https://").partition(":")
    path = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
    with contextlib.closing(http.client.HTTPSConnection(host, int(port), context=trust, timeout=10)) as connection:
        connection.request("POST", path, b"{}", {"Authorization": f"Bearer {token}"})
        answer = connection.getresponse()
        answer_body = json.loads(answer.read())
    return answer.status, answer_body.get("status", {}).get("userInfo", {}) if answer.status == 201 else {}


def test_a_token_authenticates_until_it_is_deleted(own_server):
    """`create` prints a token that works at once; `list` shows it; after `delete` it is refused."""
    result = _run(own_server, "create", "--description", "for one test", "--ttl", "2h")
    assert result.returncode == 0, result.stderr
    token = result.stdout.strip()
    assert re.fullmatch(r"[a-z0-9]{6}\.[a-z0-9]{16}", token)
    code, user = _who(own_server, token)
    assert (code, user["username"]) == (201, f"system:bootstrap:{token[:6]}")
    assert "system:bootstrappers:kubeadm:default-node-token" in user["groups"]
    listed = _run(own_server, "list").stdout.splitlines()
    assert listed[0].split()[:4] == ["TOKEN", "TTL", "EXPIRES", "USAGES"]
    assert any(line.startswith(token) and "authentication,signing   for one test" in line for line in listed)
    rows = json.loads(_run(own_server, "list", "-o", "json").stdout)
    assert [row["ttl"] for row in rows if row["token"] == token] in (["119m"], ["120m"])
    gone = _run(own_server, "delete", token)
    assert gone.stdout == f'bootstrap token "{token[:6]}" deleted\n'
    assert _who(own_server, token)[0] == 401


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["create", "abcdef.tooshort"], "not of the form"),
        (["create", "--ttl", "soon"], "not a duration: soon"),
        (["create", "--usages", "everything"], "invalid usage of a bootstrap token: everything"),
        (["create", "--groups", "system:masters"], "invalid group of a bootstrap token: system:masters"),
        (["create", "--usages", "signing"], "a token without the usage authentication cannot have groups"),
        (["delete", "nosuch"], 'secrets "bootstrap-token-nosuch" not found'),
        (["delete", "nosuch"], "list the tokens with certplane token --kubeconfig"),
    ],
)
def test_invalid_arguments_are_refused(own_server, arguments, error):
    """An error, a hint, and exit code 2; the token itself is not printed."""
    refused = _run(own_server, *arguments)
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: ")
    assert error in refused.stderr
    assert "hint: " in refused.stderr
    assert "tooshort" not in refused.stderr


def test_an_unreachable_server_is_reported(own_server, tmp_path):
    """No traceback for an invalid kubeconfig, or for invalid files that it names."""
    text = (own_server.data / "admin.conf").read_text()
    (tmp_path / "admin.conf").write_text(re.sub(r"server: .*", "server: https://127.0.0.1:1", text))
    for name, error in (("admin.conf", "cannot be reached"), ("missing.conf", "cannot be read")):
        command = [demo.CERTPLANE, "token", "--kubeconfig", str(tmp_path / name), "list"]
        result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert (result.returncode, error in result.stderr, "Traceback" in result.stderr) == (2, True, False)


def test_an_invalid_secret_is_reported_and_not_listed(own_server, tmp_path):
    """An invalid Secret does not prevent the list of the others."""
    good = _run(own_server, "create").stdout.strip()
    with contextlib.closing(requests.client(own_server, tmp_path)) as admin:
        for id_, data in {
            "abcde1": {"token-id": "other1", "token-secret": "0123456789abcdef"},
            "abcde2": {"token-id": "abcde2", "token-secret": "short"},
        }.items():
            meta = {"name": f"bootstrap-token-{id_}"}
            body = json.dumps({"metadata": meta, "type": "bootstrap.kubernetes.io/token", "stringData": data}).encode()
            path, fields = "/api/v1/namespaces/kube-system/secrets", {"Content-Type": "application/json"}
            assert admin.request("admin", "POST", path, fields, body).status == 201
    listed = _run(own_server, "list")
    assert [line.split()[0] for line in listed.stdout.splitlines()] == ["TOKEN", good]
    assert listed.stderr.splitlines() == [
        "warning: bootstrap-token-abcde1 is not a valid token: its name does not end with its token-id",
        (
            "warning: bootstrap-token-abcde2 is not a valid token: "
            "its token-id and token-secret are not of the form [a-z0-9]{6}.[a-z0-9]{16}"
        ),
    ]
