"""Which kubeconfigs are used to read the configuration of a kubeadm cluster."""

from __future__ import annotations

import os

import pytest

from certplane.cli import kubeadmconfig
from certplane.errors import SetupError

KUBECONFIG = """\
apiVersion: v1
kind: Config
clusters: [{{name: c, cluster: {{server: "https://127.0.0.1:1"}}}}]
contexts: [{{name: x, context: {{cluster: c, user: u}}}}]
current-context: x
users: [{{name: u, user: {user}}}]
"""


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "admin.conf"
    path.write_text(KUBECONFIG.format(user="{token: abc}"))
    path.chmod(0o600)
    return path


@pytest.mark.parametrize("mode", [0o622, 0o620, 0o602])
def test_a_kubeconfig_that_others_can_change_is_not_used(path, mode):
    """They would choose where the credentials are sent."""
    path.chmod(mode)
    with pytest.raises(SetupError, match="other users can change the kubeconfig"):
        kubeadmconfig.fetch(path)


def test_a_plugin_is_not_run_as_root(path, tmp_path, monkeypatch):
    """Whoever wrote the file chose the program."""
    marker = tmp_path / "marker"
    plugin = tmp_path / "plugin"
    plugin.write_text(f"#!/bin/sh\ntouch {marker}\n")
    plugin.chmod(0o755)
    path.write_text(
        KUBECONFIG.format(
            user=f"{{exec: {{apiVersion: client.authentication.k8s.io/v1, command: {plugin}, interactiveMode: Never}}}}"
        )
    )
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(SetupError):
        kubeadmconfig.fetch(path)
    assert not marker.exists()


def test_a_cluster_that_cannot_be_reached_is_an_error(path):
    """With a hint; the command then uses defaults."""
    with pytest.raises(SetupError) as refusal:
        kubeadmconfig.fetch(path)
    assert ("check the API server, or pass the settings with --config",) == refusal.value.hints
