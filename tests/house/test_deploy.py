"""deploy/: the objects are valid, they have minimal permissions, and kustomize and Helm produce the same ones."""

from __future__ import annotations

import copy
import json
import re

import kubernetes_validate
import pytest
import yaml

from certplane import telemetry
from certplane.config import controllersettings, servesettings
from certplane.controllers.approving.kubeletserving import rules
from certplane.controllers.signing import signersfile
from tests.house import manifests

#: The Kubernetes releases whose schemas are used: those that the project supports.
RELEASES = ("1.35", "1.36", "1.37")
COMMANDS = {"serve": servesettings, "controllers": controllersettings}
OVERLAYS = ("base", "ha", "standalone")
COMPONENTS = sorted(path.name for path in (manifests.DEPLOY / "components").iterdir())
SCHEMA = json.loads((manifests.DEPLOY / "chart/values.schema.json").read_text("utf-8"))
VALUES = yaml.safe_load((manifests.DEPLOY / "chart/values.yaml").read_text("utf-8"))
#: Values that together use every setting of the chart.
CHARTS = {
    "defaults": {},
    "standalone": {"mode": "standalone"},
    "everything": {
        "fullnameOverride": "pki",
        "image": {"repository": "certplane", "digest": "sha256:" + "0" * 64, "pullPolicy": "Always"},
        "imagePullSecrets": [{"name": "pull"}],
        "logLevel": "DEBUG",
        "extraArgs": ["--decision-events=false"],
        "priorityClassName": "high",
        "nodeSelector": {"a": "b"},
        "tolerations": [{"key": "a", "operator": "Exists", "effect": "NoExecute"}],
        "affinity": {"podAntiAffinity": {}},
        "podLabels": {"team": "pki"},
        "podAnnotations": {"a": "b"},
        "serviceAccount": {"annotations": {"a": "b"}},
        "replicas": 3,
        "controllers": [*SCHEMA["properties"]["controllers"]["items"]["enum"]],
        "ca": {"signers": {"kubelet-serving": "serving-ca", "kubelet-client": "client-ca"}},
        "signers": [{"name": "example.com/web"}],
        "extraSecrets": ["web-ca"],
        "servingApprover": {"mode": "report"},
        "podDisruptionBudget": {"maxUnavailable": "34%"},
        "serviceMonitor": {"enabled": True, "labels": {"a": "b"}},
        "prometheusRules": {"enabled": True, "labels": {"a": "b"}},
    },
    "minimal": {
        "replicas": 1,
        "onControlPlane": False,
        "priorityClassName": "",
        "ca": {"secretName": ""},
        "leaderElection": {"enabled": False},
        "podDisruptionBudget": {"enabled": False},
    },
    "only custom signers": {
        "onControlPlane": False,
        "controllers": ["csrsigning"],
        "ca": {"secretName": ""},
        "signers": [{"name": "example.com/web"}],
        "extraSecrets": ["web-ca"],
    },
    "standalone with every setting": {
        "mode": "standalone",
        "nodeSelector": {"a": "b"},
        "tolerations": [{"key": "a"}],
        "standalone": {
            "tlsSANs": ["pki.example.com", "192.0.2.1"],
            "storage": {"size": "10Gi", "storageClassName": "fast"},
            "service": {"type": "LoadBalancer", "port": 6443},
        },
    },
}
everything_installed = pytest.mark.parametrize(
    "objects",
    [
        *(pytest.param(lambda name=name: manifests.kustomized(manifests.DEPLOY / name), id=name) for name in OVERLAYS),
        *(pytest.param(lambda values=values: manifests.chart(**values), id=name) for name, values in CHARTS.items()),
    ],
)


def _validate(objects):
    for document in objects:
        # Kinds of the Prometheus operator are not Kubernetes'.
        if not document["apiVersion"].startswith("monitoring.coreos.com/"):
            for release in RELEASES:
                kubernetes_validate.validate(document, release, strict=True)


# --- schemas ------------------------------------------------------------------------------------------------------


@everything_installed
def test_objects_are_valid(objects):
    """The API server of each release accepts every object, and drops no field."""
    _validate(objects())


@pytest.mark.parametrize("name", COMPONENTS)
def test_components_are_valid(name, tmp_path):
    """Each component can be combined with deploy/ha, and adds valid objects."""
    # kustomize takes relative paths only.
    up = "/".join([".."] * len(tmp_path.parts[1:]))
    deploy = up + str(manifests.DEPLOY)
    text = f"resources: ['{deploy}/ha']\ncomponents: ['{deploy}/components/{name}']\n"
    (tmp_path / "kustomization.yaml").write_text(text)
    documents = manifests.kustomized(tmp_path)
    assert len(documents) > len(manifests.kustomized(manifests.DEPLOY / "ha"))
    _validate(documents)


def test_the_schemas_are_strict():
    """They detect an unknown field."""
    wrong = copy.deepcopy(manifests.one(manifests.kustomized(manifests.DEPLOY / "ha"), "Deployment"))
    wrong["spec"]["template"]["spec"]["containers"][0]["securityContext"]["readonlyRootFilesystem"] = True
    with pytest.raises(kubernetes_validate.ValidationError, match="readonlyRootFilesystem"):
        _validate([wrong])


# --- pods ---------------------------------------------------------------------------------------------------------


@everything_installed
def test_pods_are_restricted(objects):
    """No root user, read-only root file system, no privileges, no capabilities, no token where none is needed."""
    documents = objects()
    spec = manifests.pod(documents)["spec"]
    security = spec["securityContext"]
    assert security["runAsNonRoot"] is True
    assert security["runAsUser"] == security["runAsGroup"] == security["fsGroup"] == 65532
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
    (container,) = spec["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert "limits" in container["resources"]
    assert {"livenessProbe", "readinessProbe"} <= set(container)
    is_standalone = container["args"][0] == "serve"
    assert spec["automountServiceAccountToken"] is not is_standalone
    assert manifests.one(documents, "ServiceAccount")["automountServiceAccountToken"] is False


@everything_installed
def test_secrets_are_readable_only_by_the_pod(objects):
    """Mounted keys are readable only by the pod's group, and no key is in an environment variable."""
    spec = manifests.pod(objects())["spec"]
    assert {0o400} >= {volume["secret"]["defaultMode"] for volume in spec["volumes"] if "secret" in volume}
    assert [] == [container for container in spec["containers"] if "env" in container or "envFrom" in container]


@everything_installed
def test_mounts_and_volumes_match(objects):
    """Every mount has a volume, every volume has a mount, and the ConfigMap is installed."""
    documents = objects()
    workload = next(document for document in documents if document["kind"] in ("Deployment", "StatefulSet"))
    spec = workload["spec"]["template"]["spec"]
    claims = [claim["metadata"]["name"] for claim in workload["spec"].get("volumeClaimTemplates", ())]
    volumes = sorted([volume["name"] for volume in spec["volumes"]] + claims)
    assert volumes == sorted(mount["name"] for mount in spec["containers"][0]["volumeMounts"])
    maps = [volume["configMap"]["name"] for volume in spec["volumes"] if "configMap" in volume]
    assert maps == [manifests.one(documents, "ConfigMap")["metadata"]["name"]]


@everything_installed
def test_selectors_and_ports_match_the_pods(objects):
    """Pod selectors match the pods of the workload, and named ports exist."""
    documents = objects()
    template = manifests.pod(documents)
    labels = template["metadata"]["labels"].items()
    ports = {port["name"] for port in template["spec"]["containers"][0]["ports"]}
    for document in documents:
        selector = document.get("spec", {}).get("selector")
        if document["kind"] in ("Deployment", "StatefulSet", "PodDisruptionBudget"):
            assert selector["matchLabels"].items() <= labels
        elif document["kind"] == "Service":
            assert selector.items() <= labels
            assert {port["targetPort"] for port in document["spec"]["ports"]} <= ports
        elif document["kind"] == "ServiceMonitor":
            service = manifests.one(documents, "Service")
            assert selector["matchLabels"].items() <= service["metadata"]["labels"].items()
            offered = {port["name"] for port in service["spec"]["ports"]}
            assert {end["port"] for end in document["spec"]["endpoints"]} <= offered


# --- kustomize and Helm -------------------------------------------------------------------------------------------


HELMS_LABELS = {f"app.kubernetes.io/{name}" for name in ("instance", "version", "managed-by")} | {"helm.sh/chart"}


def _plain(objects):
    """Objects by kind and name, without settings and without the additions of Helm and kustomize."""
    return {
        (document["kind"], document["metadata"]["name"]): _bare(document)
        for document in objects
        if document["kind"] not in ("ConfigMap", "Namespace")
    }


def _bare(node, key=""):
    if isinstance(node, dict):
        left = {name: _bare(value, name) for name, value in node.items() if name not in HELMS_LABELS}
        if key == "metadata":
            left.pop("annotations", None)
        if key == "httpGet":
            left.setdefault("scheme", "HTTP")
        if key == "configMap":
            left["name"] = re.sub(r"-[a-z0-9]{10}$", "", left["name"])
        if "image" in left:
            left["image"] = left["image"].partition(":")[0]
            left.pop("imagePullPolicy", None)
        return left
    if isinstance(node, list):
        return [_bare(item) for item in node]
    return node


def test_the_chart_equals_the_ha_overlay():
    """By default the chart installs the same objects as deploy/ha, field for field."""
    assert _plain(manifests.kustomized(manifests.DEPLOY / "ha")) == _plain(manifests.chart())


def test_the_standalone_chart_equals_the_standalone_overlay():
    """In mode standalone it installs those of deploy/standalone, except for resources and the Service type."""
    kustomized = _plain(manifests.kustomized(manifests.DEPLOY / "standalone"))
    resources = manifests.pod(kustomized.values())["spec"]["containers"][0]["resources"]
    documents = _plain(manifests.chart(mode="standalone", priorityClassName="", resources=resources))
    assert documents["Service", "certplane"]["spec"].pop("type") == "ClusterIP"
    assert kustomized == documents


def test_alerts_of_chart_and_component_are_equal():
    """The chart's alerts and those of deploy/components/monitoring are the same."""
    rules = yaml.safe_load((manifests.DEPLOY / "components/monitoring/prometheusrule.yaml").read_text("utf-8"))
    rule = manifests.one(manifests.chart(prometheusRules={"enabled": True}), "PrometheusRule")
    assert rules["spec"]["groups"][0]["rules"] == rule["spec"]["groups"][0]["rules"]


# --- permissions --------------------------------------------------------------------------------------------------


def _permissions(**values):
    """The permissions of the chart's ClusterRole, as verb, resource and name."""
    return _granted(manifests.one(manifests.chart(**values), "ClusterRole"))


def _granted(role):
    return {
        (verb, resource, name)
        for rule in role["rules"]
        for verb in rule["verbs"]
        for resource in rule["resources"]
        for name in rule.get("resourceNames", [""])
    }


def test_permissions_follow_the_enabled_controllers():
    """A disabled controller has no permissions."""
    assert _permissions(controllers=["csrcleaner"]) == {
        (verb, "certificatesigningrequests", "") for verb in ("list", "watch", "delete")
    }
    assert _permissions(controllers=["podcertificaterequest-cleaner-controller"]) == {
        (verb, "podcertificaterequests", "") for verb in ("list", "watch", "delete")
    }


def test_sign_permissions_follow_the_signers():
    """Only signers with a CA may sign, and custom ones."""
    ca = {"signers": {"kubelet-serving": "serving-ca"}}
    permissions = _permissions(controllers=["csrsigning"], ca=ca, signers=[{"name": "example.com/web"}])
    assert {name for verb, _, name in permissions if verb == "sign"} == {
        "kubernetes.io/kubelet-serving",
        "example.com/web",
    }


@pytest.mark.parametrize(
    ("component", "values"),
    [
        ("serving-approver", {"servingApprover": {"mode": "enforce"}}),
        ("root-ca-publisher", {"controllers": ["root-ca-cert-publisher"]}),
        (
            "trust-bundle-publisher",
            {"controllers": ["kube-apiserver-serving-clustertrustbundle-publisher-controller"]},
        ),
        ("pod-request-cleaner", {"controllers": ["podcertificaterequest-cleaner-controller"]}),
    ],
)
def test_components_have_the_permissions_of_the_chart(component, values):
    """Optional controllers have the same permissions with both."""
    path = manifests.DEPLOY / "components" / component / "rbac.yaml"
    role = manifests.one(yaml.safe_load_all(path.read_text("utf-8")), "ClusterRole")
    more = {**values, "controllers": [*VALUES["controllers"], *values.get("controllers", ())]}
    assert _granted(role) == _permissions(**more) - _permissions()


# --- values -------------------------------------------------------------------------------------------------------

#: Values that the schema of the chart does not check.
OPEN = {"global", "signers", "servingApprover", "nodeAffinity", "podAffinity", "podAntiAffinity"}


def _properties(schema, path=""):
    for name, inner in schema.get("properties", {}).items():
        yield f"{path}{name}", name, inner
        yield from _properties(inner, f"{path}{name}.")
        yield from _properties(inner.get("items", {}), f"{path}{name}[].")


def test_the_schema_is_closed():
    """Every object of the schema forbids unknown properties."""
    assert SCHEMA["additionalProperties"] is False
    loose = [
        path
        for path, name, inner in _properties(SCHEMA)
        if inner.get("type") == "object" and name not in OPEN and inner.get("additionalProperties") is not False
    ]
    assert loose == []


def test_every_value_has_a_default_and_a_schema():
    """values.yaml contains exactly the properties of the schema."""
    shown = set(VALUES)
    assert shown == set(SCHEMA["properties"]) - {"global"}
    for name in shown:
        inner = SCHEMA["properties"][name].get("properties", {})
        if inner and VALUES[name]:
            assert set(inner) == set(VALUES[name])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"replica": 2}, "replica"),
        ({"replicas": "2"}, "/replicas"),
        ({"mode": "both"}, "/mode"),
        ({"image": {"digest": "latest"}}, "/image/digest"),
        ({"ca": {"signers": {"kube-apiserver": "a"}}}, "/ca/signers"),
        ({"ca": {"secretName": "../etc"}}, "/ca/secretName"),
        ({"controllers": ["csrsigner"]}, "/controllers"),
        ({"controllers": []}, "/controllers"),
        ({"signers": [{"signer": "example.com/web"}]}, "name"),
        ({"signers": [{"name": "web"}]}, "/signers/0/name"),
        ({"signingDuration": "1y"}, "/signingDuration"),
        ({"extraArgs": ["controllers"]}, "/extraArgs/0"),
        ({"leaderElection": {"enabled": False}}, "/replicas"),
        ({"mode": "standalone", "serviceMonitor": {"enabled": True}}, "/serviceMonitor/enabled"),
    ],
    ids=str,
)
def test_invalid_values_are_refused(values, message):
    """Helm refuses them, with their path."""
    assert message in manifests.problem(**values)


def test_the_notes_list_the_remaining_steps():
    """The notes name the Secret that is needed, and the controllers to disable in kube-controller-manager."""
    text = manifests.notes(controllers=["csrapproving", "csrsigning"])
    assert "create secret tls certplane-ca" in text
    assert "--controllers=*,-csrapproving,-csrsigning\n" in text


# --- settings -----------------------------------------------------------------------------------------------------


def _config(objects):
    return yaml.safe_load(manifests.one(objects, "ConfigMap")["data"]["config.yaml"])


@everything_installed
def test_settings_are_valid_and_their_files_mounted(objects):
    """certplane accepts the settings of each installation, and the files that they name are mounted."""
    documents = objects()
    settings = _config(documents)
    container = manifests.pod(documents)["spec"]["containers"][0]
    mounts = tuple(f"{mount['mountPath']}/" for mount in container["volumeMounts"])
    assert [] == [
        value for value in map(str, settings.values()) if value.startswith("/") and not value.startswith(mounts)
    ]
    COMMANDS[container["args"][0]].read({}, settings)


MINE = {
    "name": "example.com/web",
    "authority": {"certFile": "a", "keyFile": "b"},
    "usages": {"allowed": ["server auth"]},
}
PROOFS = {"mode": "report", "sources": ["node"]}


def test_generated_signers_and_rules_are_valid():
    """certplane can read the files that the chart generates from its values."""
    documents = manifests.chart(signers=[MINE], servingApprover=PROOFS)
    data = manifests.one(documents, "ConfigMap")["data"]
    assert [signer.name for signer in signersfile.parse(data["signers.yaml"].encode()).signers] == ["example.com/web"]
    assert rules.parse(yaml.safe_load(data["serving-approver.yaml"])).rules is not None


def test_approve_permissions_follow_the_approval_rules():
    """For the signers that have approval rules, and for no other."""
    ruled = {**MINE, "name": "example.com/ruled", "approval": [{"users": ["jane"]}]}
    permissions = _permissions(controllers=["csrsigning"], signers=[MINE, ruled])
    assert {name for verb, _, name in permissions if verb == "approve"} == {"example.com/ruled"}
    assert ("update", "certificatesigningrequests/approval", "") in permissions


# --- docs/in-a-cluster.md ------------------------------------------------------------------------------------------

GUIDE = (manifests.ROOT / "docs/in-a-cluster.md").read_text("utf-8")


def test_the_example_of_the_guide_can_be_built(tmp_path):
    """The files in the guide produce valid objects with the settings in the guide."""
    (tmp_path / "my-cluster").mkdir()
    (tmp_path / "certplane").symlink_to(manifests.ROOT)
    for name, text in re.findall(r"```yaml\n# my-cluster/(\S+)\n(.*?)```", GUIDE, flags=re.DOTALL):
        (tmp_path / "my-cluster" / name).write_text(text)
    documents = manifests.kustomized(tmp_path / "my-cluster")
    _validate(documents)
    assert _config(documents)["controllers"] == ["csrcleaner"]
    assert manifests.pod(documents)["spec"]["containers"][0]["image"] == "registry.example/certplane:0.1.0"


def test_paths_and_values_in_the_guide_exist():
    """Each file of deploy/ and each value of the chart in the guide exists."""
    named = set(re.findall(r"\bdeploy/[\w./-]*\w", GUIDE))
    assert named
    assert [] == [path for path in named if not (manifests.ROOT / path).exists()]
    for path in re.findall(r"--set '?([\w.]+)=", GUIDE):
        inner = SCHEMA
        for part in path.split("."):
            inner = inner["properties"][part]


# --- download hosts -----------------------------------------------------------------------------------------------


def test_no_registry_or_download_url_is_named():
    """No registry and no download URL is named: the user chooses where images come from."""
    texts = [path.read_text("utf-8") for path in manifests.DEPLOY.rglob("*") if path.is_file()]
    assert {SCHEMA["$schema"]} == {url for text in texts for url in re.findall(r"\w+://[^\s\"']+", text)}
    for name in OVERLAYS:
        objects = manifests.kustomized(manifests.DEPLOY / name)
        assert manifests.pod(objects)["spec"]["containers"][0]["image"] == "certplane"
    assert VALUES["image"]["repository"] == "certplane"


# --- alerts -------------------------------------------------------------------------------------------------------


def test_metrics_in_alerts_exist():
    """Each metric in an alert exists."""
    text = (manifests.DEPLOY / "chart/rules.yaml").read_text("utf-8")
    shown = set(re.findall(r"^# TYPE (\w+)", telemetry.Telemetry().render().decode(), flags=re.MULTILINE))
    queried = set(re.findall(r"\b(\w+)\{job=", text))
    assert queried
    assert queried - {"up"} <= shown
