"""A problem of a kubeconfig is reported before any request is sent."""

from __future__ import annotations

import base64
import os
import pathlib

import pytest
import yaml

from certplane import errors
from certplane.client import kubeconfig
from tests.unit.server.connection import memory as inmemory

VALID = {
    "current-context": "a",
    "contexts": [{"name": "a", "context": {"cluster": "c", "user": "u"}}],
    "clusters": [{"name": "c", "cluster": {"server": "https://server.example:6443/base/"}}],
    "users": [{"name": "u", "user": {"token": "t"}}],
}


def write(tmp_path, name="config", **changes):
    path = tmp_path / name
    path.write_text(yaml.safe_dump({**VALID, **changes}))
    return path


def cluster(**values):
    return [{"name": "c", "cluster": {"server": "https://server.example", **values}}]


def user(**values):
    return [{"name": "u", "user": values}]


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"current-context": ""}, "has no current context"),
        ({"current-context": "b"}, 'has no context "b"'),
        ({"contexts": "none"}, 'has no context "a"'),
        ({"clusters": []}, 'has no cluster "c"'),
        ({"users": [{"name": "x", "user": {}}]}, 'has no user "u"'),
        ({"clusters": [{"name": "c", "cluster": {"server": "http://server"}}]}, "is not an https:// URL"),
        ({"clusters": [{"name": "c", "cluster": {"server": "https://server:x"}}]}, "is not an https:// URL"),
        ({"clusters": cluster(**{"certificate-authority-data": "%"})}, "is not base64"),
        ({"clusters": cluster(**{"certificate-authority-data": "é"})}, "is not base64"),
        ({"users": user(**{"client-key-data": "é"})}, "is not base64"),
        ({"clusters": cluster(**{"certificate-authority": "none.crt"})}, "none.crt cannot be read"),
        ({"clusters": cluster(**{"proxy-url": "socks5://proxy:1"})}, "unsupported scheme: socks5://"),
        ({"users": user(**{"auth-provider": {"name": "gcp"}})}, "auth-provider, which Kubernetes has removed"),
        ({"users": user(**{"as-groups": ["a"]})}, "without as"),
        ({"users": user(exec={"apiVersion": "client.authentication.k8s.io/v1"})}, "has no command"),
        ({"users": user(exec={"apiVersion": "v0", "command": "x"})}, "unsupported apiVersion: v0"),
        (
            {"users": user(**{"client-certificate-data": base64.b64encode(b"x").decode()})},
            "the certificates cannot be used",
        ),
        ({"users": user(tokenFile="none")}, "none cannot be read"),
        ({"users": user(tokenFile="empty")}, "empty is empty"),
        ({"clusters": cluster(**{"certificate-authority": "empty"})}, "empty is empty"),
        ({"clusters": cluster(server="https://[x")}, "is not an https:// URL"),
        ({"clusters": cluster(**{"proxy-url": "http://[x"})}, "is not a valid URL"),
        ({"clusters": cluster(**{"proxy-url": "http://proxy:x"})}, "is not a valid URL"),
    ],
)
def test_invalid_kubeconfigs_are_refused(tmp_path, changes, error):
    """The error names the invalid field or the missing file."""
    (tmp_path / "empty").write_text("\n")
    with pytest.raises(errors.SetupError, match=error):
        kubeconfig.load(write(tmp_path, **changes))


def test_other_files_are_refused(tmp_path):
    """A missing file, invalid YAML, and another document."""
    with pytest.raises(errors.SetupError, match=r"none cannot be read: No such file or directory$"):
        kubeconfig.load(tmp_path / "none")
    (tmp_path / "bad").write_text("a: [")
    with pytest.raises(errors.SetupError, match="is not valid YAML"):
        kubeconfig.load(tmp_path / "bad")
    (tmp_path / "list").write_text("- a")
    with pytest.raises(errors.SetupError, match="is not a kubeconfig"):
        kubeconfig.load(tmp_path / "list")


def test_the_first_of_several_files_with_an_entry_counts(tmp_path):
    """As with KUBECONFIG: what one file lacks is taken from the next."""
    first = write(tmp_path, "first", clusters=[], users=user(token="first"))
    second = write(tmp_path, "second", users=user(token="second"), **{"current-context": "b"})
    config = kubeconfig.load(first, second)
    assert (config.base, config.host) == ("https://server.example:6443/base", "server.example:6443")
    assert config.source.token.read() == b"first"


def test_a_context_can_be_selected(tmp_path):
    """By its name, instead of the current context."""
    contexts = [*VALID["contexts"], {"name": "b", "context": {"cluster": "c", "namespace": "home"}}]
    config = kubeconfig.load(write(tmp_path, contexts=contexts), context="b")
    assert config.namespace == "home"
    assert config.source.token.read() == b""


async def test_a_password_is_sent_by_basic_authentication(tmp_path):
    """Even though many servers refuse it."""
    config = kubeconfig.load(write(tmp_path, users=user(username="jane", password="pass")))
    assert (await config.source.identity()).authorization == "Basic amFuZTpwYXNz"


def test_secrets_are_not_in_any_repr_or_error(tmp_path):
    """Tokens, and passwords in URLs, are left out."""
    clusters = cluster(server="https://a:very-secret@server.example", **{"proxy-url": "http://a:very-secret@proxy:1"})
    config = kubeconfig.load(write(tmp_path, users=user(token="very-secret"), clusters=clusters))
    assert config.host == "server.example"
    assert "very-secret" not in repr(config)
    for invalid in (
        {"proxy-url": "socks5://a:very-secret@proxy:1"},
        {"proxy-url": "http://a:very-secret@proxy:x"},
        {"server": "http://a:very-secret@server.example"},
    ):
        with pytest.raises(errors.SetupError) as caught:
            kubeconfig.load(write(tmp_path, clusters=cluster(**invalid)))
        assert "very-secret" not in str(caught.value)


def test_an_invalid_proxy_of_the_environment_is_reported_without_its_password(tmp_path, monkeypatch):
    """The error names the variable."""
    monkeypatch.setenv("HTTPS_PROXY", "http://a:very-secret@proxy:x")
    with pytest.raises(errors.SetupError) as caught:
        kubeconfig.load(write(tmp_path))
    assert caught.value.message == "the proxy in HTTPS_PROXY is not a valid URL"


def test_base64_may_have_line_breaks(tmp_path):
    """As in a block of YAML."""
    pem = inmemory.CA("test").pem
    lines = base64.encodebytes(pem).decode()
    config = kubeconfig.load(write(tmp_path, clusters=cluster(**{"certificate-authority-data": lines})))
    assert config.trusted.read() == pem


def test_a_kubeconfig_can_be_a_pipe(tmp_path):
    """As in --kubeconfig <(command). It is read once, and the files that it names are still reloaded."""
    (tmp_path / "token").write_text("one")
    content = write(tmp_path, users=user(tokenFile=str(tmp_path / "token"))).read_bytes()
    reader, writer = os.pipe()
    os.write(writer, content)
    os.close(writer)
    try:
        config = kubeconfig.load(pathlib.Path(f"/dev/fd/{reader}"))
        (tmp_path / "token").write_text("two")
        assert config.current().source.token.read() == b"two"
    finally:
        os.close(reader)


# --- exec plugins -------------------------------------------------------------------------------------------------

PLUGIN = {"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": "plugin"}}


def test_root_runs_no_plugin_of_another_user(tmp_path, monkeypatch):
    """The owner of the kubeconfig would run any program as root."""
    path = write(tmp_path, users=user(**PLUGIN))
    if os.geteuid() == 0:
        os.chown(path, 1234, -1)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(errors.SetupError) as caught:
        kubeconfig.load(path)
    owner = path.stat().st_uid
    assert caught.value.message == f"the exec plugin in {path} would run as root: {path} belongs to user id {owner}"
    assert caught.value.hints[0].startswith("run certplane as that user, or chown root")


def test_a_kubeconfig_without_a_plugin_may_belong_to_anybody(tmp_path, monkeypatch):
    """Its credentials are theirs."""
    path = write(tmp_path)
    if os.geteuid() == 0:
        os.chown(path, 1234, -1)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert kubeconfig.load(path).source.token.read() == b"t"


def test_users_other_than_root_run_the_plugins_of_others(tmp_path, monkeypatch):
    """As kubectl does."""
    monkeypatch.setattr(os, "geteuid", lambda: 1234)
    path = write(tmp_path, users=user(**PLUGIN))
    path.chmod(0o666)
    kubeconfig.load(path)
