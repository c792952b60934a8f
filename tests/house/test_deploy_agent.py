"""deploy/agent: the examples are valid configurations and objects, and the unit may write what the example writes."""

from __future__ import annotations

import configparser
import pathlib
import shlex

import kubernetes_validate
import pytest
import yaml

from certplane.agent import settingsfile
from certplane.cli import agent
from tests.house import manifests, test_deploy

FOLDER = manifests.DEPLOY / "agent"
SIDECAR = tuple(yaml.safe_load_all((FOLDER / "sidecar.yaml").read_text("utf-8")))


def _unit():
    unit = configparser.RawConfigParser(strict=False)
    unit.optionxform = str
    unit.read_string((FOLDER / "certplane-agent.service").read_text("utf-8"))
    return unit["Service"]


def _sidecar_settings(directory):
    text = manifests.one(SIDECAR, "ConfigMap")["data"]["agent.yaml"]
    (directory / "agent.yaml").write_text(text)
    return settingsfile.load(directory / "agent.yaml")


def _written(settings):
    """The directories that an agent writes to."""
    outputs = [certificate.outputs for certificate in settings.certificates]
    files = [path for item in outputs for path in (item.certificate, item.key, item.ca, item.pkcs12) if path]
    bundles = [bundle.path for bundle in settings.trust_bundles]
    return {settings.directory.parent, *(path.parent for path in (*files, *bundles))}


def test_the_unit_runs_the_agent():
    """With an existing option; exit code 2 means that an operator must fix something."""
    service = _unit()
    program, *command, option, path = shlex.split(service["ExecStart"])
    assert ("/opt/certplane/bin/certplane", ["agent", "run"]) == (program, command)
    assert option in {text for parameter in agent.run.params for text in parameter.opts}
    assert "/etc/certplane/agent.yaml" == path
    assert "2" == service["RestartPreventExitStatus"]


def test_the_unit_may_write_what_the_example_writes():
    """Its state directory, and the directories of the outputs."""
    service = _unit()
    writable = {
        pathlib.Path("/var/lib") / service["StateDirectory"],
        *map(pathlib.Path, service["ReadWritePaths"].split()),
    }
    assert writable == _written(settingsfile.load(FOLDER / "agent.yaml"))


@pytest.mark.parametrize("release", test_deploy.RELEASES)
def test_the_objects_of_the_sidecar_are_valid(release):
    """In each supported release."""
    for document in SIDECAR:
        kubernetes_validate.validate(document, release, strict=True)


def test_the_sidecar_writes_to_its_volumes(tmp_path):
    """And its directory is below a volume, which others may write to."""
    pod = manifests.pod(SIDECAR)["spec"]
    (container,) = pod["initContainers"]
    volumes = {volume["name"] for volume in pod["volumes"] if "emptyDir" in volume}
    mounts = {pathlib.Path(mount["mountPath"]) for mount in container["volumeMounts"] if mount["name"] in volumes}
    assert mounts == _written(_sidecar_settings(tmp_path))
    assert "Always" == container["restartPolicy"]


def test_the_sidecar_may_read_its_bundle_and_the_notice(tmp_path):
    """Each ConfigMap by its name, and nothing else in the namespace."""
    settings = _sidecar_settings(tmp_path)
    readable = {
        (role["metadata"]["namespace"], name)
        for role in SIDECAR
        if role["kind"] == "Role"
        for rule in role["rules"]
        for name in rule["resourceNames"]
    }
    places = {(bundle.config_map.namespace, bundle.config_map.name) for bundle in settings.trust_bundles}
    assert {*places, (settings.notice.namespace, settings.notice.name)} == readable
    role = manifests.one(SIDECAR, "ClusterRole")
    assert test_deploy._granted(role) == {
        ("create", "certificatesigningrequests", ""),
        ("get", "certificatesigningrequests", ""),
        ("get", "clustertrustbundles", ""),
        ("list", "clustertrustbundles", ""),
    }
