"""A problem of a kubeconfig is reported before any request is sent."""

from __future__ import annotations

import base64

import pytest
import yaml

from certplane import errors
from certplane.client import kubeconfig

GOOD = {
    "current-context": "a",
    "contexts": [{"name": "a", "context": {"cluster": "c", "user": "u"}}],
    "clusters": [{"name": "c", "cluster": {"server": "https://server.example:6443/base/"}}],
    "users": [{"name": "u", "user": {"token": "t"}}],
}


def written(tmp_path, name="config", **changes):
    path = tmp_path / name
    path.write_text(yaml.safe_dump({**GOOD, **changes}))
    return path


def cluster(**values):
    return [{"name": "c", "cluster": {"server": "https://server.example", **values}}]


def user(**values):
    return [{"name": "u", "user": values}]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"current-context": ""}, "has no current context"),
        ({"current-context": "b"}, 'has no context "b"'),
        ({"contexts": "none"}, 'has no context "a"'),
        ({"clusters": []}, 'has no cluster "c"'),
        ({"users": [{"name": "x", "user": {}}]}, 'has no user "u"'),
        ({"clusters": [{"name": "c", "cluster": {"server": "http://server"}}]}, "is not an https:// URL"),
        ({"clusters": [{"name": "c", "cluster": {"server": "https://server:x"}}]}, "is not an https:// URL"),
        ({"clusters": cluster(**{"certificate-authority-data": "%"})}, "is not base64"),
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
    ],
)
def test_mistakes(tmp_path, changes, why):
    """Each names the file, and nothing secret."""
    with pytest.raises(errors.SetupError, match=why):
        kubeconfig.load(written(tmp_path, **changes))


def test_files_that_are_none(tmp_path):
    """Missing, no YAML, no mapping."""
    with pytest.raises(errors.SetupError, match=r"none cannot be read: No such file or directory$"):
        kubeconfig.load(tmp_path / "none")
    (tmp_path / "bad").write_text("a: [")
    with pytest.raises(errors.SetupError, match="is not valid YAML"):
        kubeconfig.load(tmp_path / "bad")
    (tmp_path / "list").write_text("- a")
    with pytest.raises(errors.SetupError, match="is not a kubeconfig"):
        kubeconfig.load(tmp_path / "list")


def test_of_several_files_the_first_that_has_an_entry_counts(tmp_path):
    """As with KUBECONFIG; what one lacks another may have."""
    first = written(tmp_path, "first", clusters=[], users=user(token="first"))
    second = written(tmp_path, "second", users=user(token="second"), **{"current-context": "b"})
    config = kubeconfig.load(first, second)
    assert (config.base, config.host) == ("https://server.example:6443/base", "server.example:6443")
    assert config.source.token.read() == b"first"


def test_another_context_can_be_chosen(tmp_path):
    """By name."""
    contexts = [*GOOD["contexts"], {"name": "b", "context": {"cluster": "c", "namespace": "home"}}]
    config = kubeconfig.load(written(tmp_path, contexts=contexts), context="b")
    assert config.namespace == "home"
    assert config.source.token.read() == b""


async def test_a_password_is_sent_as_basic(tmp_path):
    """Servers that have no such users refuse it."""
    config = kubeconfig.load(written(tmp_path, users=user(username="jane", password="pass")))
    assert (await config.source.identity()).authorization == "Basic amFuZTpwYXNz"


def test_nothing_secret_is_printed(tmp_path):
    """Whatever is printed of it."""
    place = cluster(server="https://a:very-secret@server.example", **{"proxy-url": "http://a:very-secret@proxy:1"})
    config = kubeconfig.load(written(tmp_path, users=user(token="very-secret"), clusters=place))
    assert config.host == "server.example"
    assert "very-secret" not in repr(config)
    place = cluster(**{"proxy-url": "socks5://a:very-secret@proxy:1"})
    with pytest.raises(errors.SetupError) as caught:
        kubeconfig.load(written(tmp_path, clusters=place))
    assert "very-secret" not in str(caught.value)
