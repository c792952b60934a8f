"""What deploy/ installs: it fits the schemas of Kubernetes, it is closed, and kustomize and Helm agree on it."""

from __future__ import annotations

import copy
import importlib
import json
import re

import kubernetes_validate
import pytest
import yaml

from certplane import telemetry
from certplane.controllers import servingrules, signerfile
from tests.house import manifests

#: The releases against whose schemas everything is held; those that the project looks after.
RELEASES = ("1.35", "1.36", "1.37")
OVERLAYS = ("base", "ha", "standalone")
COMPONENTS = sorted(each.name for each in (manifests.DEPLOY / "components").iterdir())
SCHEMA = json.loads((manifests.DEPLOY / "chart/values.schema.json").read_text("utf-8"))
VALUES = yaml.safe_load((manifests.DEPLOY / "chart/values.yaml").read_text("utf-8"))
#: Everything that the chart can be told.
CHARTS = {
    "as it is": {},
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
    "next to nothing": {
        "replicas": 1,
        "onControlPlane": False,
        "priorityClassName": "",
        "ca": {"secretName": ""},
        "leaderElection": {"enabled": False},
        "podDisruptionBudget": {"enabled": False},
    },
    "signers of one's own alone": {
        "onControlPlane": False,
        "controllers": ["csrsigning"],
        "ca": {"secretName": ""},
        "signers": [{"name": "example.com/web"}],
        "extraSecrets": ["web-ca"],
    },
    "a plane with everything": {
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
        *(pytest.param(lambda each=each: manifests.kustomized(manifests.DEPLOY / each), id=each) for each in OVERLAYS),
        *(pytest.param(lambda values=values: manifests.chart(**values), id=name) for name, values in CHARTS.items()),
    ],
)


def _validate(objects):
    for each in objects:
        # Kinds of the Prometheus operator are not Kubernetes'.
        if not each["apiVersion"].startswith("monitoring.coreos.com/"):
            for release in RELEASES:
                kubernetes_validate.validate(each, release, strict=True)


# --- schemas ------------------------------------------------------------------------------------------------------


@everything_installed
def test_everything_fits_the_schemas_of_kubernetes(objects):
    """Each object is what the API server of each release takes, without a field that it would drop."""
    _validate(objects())


@pytest.mark.parametrize("name", COMPONENTS)
def test_components_fit_too(name, tmp_path):
    """Each component can be put on top of deploy/ha, and adds what is valid."""
    # kustomize takes relative paths only.
    up = "/".join([".."] * len(tmp_path.parts[1:]))
    deploy = up + str(manifests.DEPLOY)
    text = f"resources: ['{deploy}/ha']\ncomponents: ['{deploy}/components/{name}']\n"
    (tmp_path / "kustomization.yaml").write_text(text)
    found = manifests.kustomized(tmp_path)
    assert len(found) > len(manifests.kustomized(manifests.DEPLOY / "ha"))
    _validate(found)


def test_the_schemas_are_strict():
    """They do notice a field that nobody knows."""
    wrong = copy.deepcopy(manifests.one(manifests.kustomized(manifests.DEPLOY / "ha"), "Deployment"))
    wrong["spec"]["template"]["spec"]["containers"][0]["securityContext"]["readonlyRootFilesystem"] = True
    with pytest.raises(kubernetes_validate.ValidationError, match="readonlyRootFilesystem"):
        _validate([wrong])


# --- closed -------------------------------------------------------------------------------------------------------


@everything_installed
def test_pods_are_closed(objects):
    """No root, no writable root, no privileges, no capabilities, no token where none is needed."""
    found = objects()
    spec = manifests.pod(found)["spec"]
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
    is_alone = container["args"][0] == "serve"
    assert spec["automountServiceAccountToken"] is not is_alone
    assert manifests.one(found, "ServiceAccount")["automountServiceAccountToken"] is False


@everything_installed
def test_secrets_are_for_one_reader(objects):
    """Keys are mounted so that nobody but the pod's group can read them, and none is in an environment."""
    spec = manifests.pod(objects())["spec"]
    assert {0o400} >= {each["secret"]["defaultMode"] for each in spec["volumes"] if "secret" in each}
    assert [] == [each for each in spec["containers"] if "env" in each or "envFrom" in each]


@everything_installed
def test_what_is_mounted_is_there(objects):
    """Every mount has its volume, every volume its mount, and the ConfigMap is one of those that are installed."""
    found = objects()
    workload = next(each for each in found if each["kind"] in ("Deployment", "StatefulSet"))
    spec = workload["spec"]["template"]["spec"]
    claims = [each["metadata"]["name"] for each in workload["spec"].get("volumeClaimTemplates", ())]
    volumes = sorted([each["name"] for each in spec["volumes"]] + claims)
    assert volumes == sorted(each["name"] for each in spec["containers"][0]["volumeMounts"])
    maps = [each["configMap"]["name"] for each in spec["volumes"] if "configMap" in each]
    assert maps == [manifests.one(found, "ConfigMap")["metadata"]["name"]]


@everything_installed
def test_everything_finds_its_pods(objects):
    """What selects pods selects those of the workload, and what names a port names one of theirs."""
    found = objects()
    template = manifests.pod(found)
    labels = template["metadata"]["labels"].items()
    ports = {each["name"] for each in template["spec"]["containers"][0]["ports"]}
    for each in found:
        selector = each.get("spec", {}).get("selector")
        if each["kind"] in ("Deployment", "StatefulSet", "PodDisruptionBudget"):
            assert selector["matchLabels"].items() <= labels
        elif each["kind"] == "Service":
            assert selector.items() <= labels
            assert {port["targetPort"] for port in each["spec"]["ports"]} <= ports
        elif each["kind"] == "ServiceMonitor":
            service = manifests.one(found, "Service")
            assert selector["matchLabels"].items() <= service["metadata"]["labels"].items()
            offered = {port["name"] for port in service["spec"]["ports"]}
            assert {end["port"] for end in each["spec"]["endpoints"]} <= offered


# --- kustomize and Helm -------------------------------------------------------------------------------------------


HELMS_LABELS = {f"app.kubernetes.io/{each}" for each in ("instance", "version", "managed-by")} | {"helm.sh/chart"}


def _plain(objects):
    """Objects by kind and name, without what Helm and kustomize each add for themselves, and without settings."""
    return {
        (each["kind"], each["metadata"]["name"]): _bare(each)
        for each in objects
        if each["kind"] not in ("ConfigMap", "Namespace")
    }


def _bare(of, key=""):
    if isinstance(of, dict):
        left = {name: _bare(value, name) for name, value in of.items() if name not in HELMS_LABELS}
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
    if isinstance(of, list):
        return [_bare(each) for each in of]
    return of


def test_the_chart_is_what_kustomize_makes():
    """By default the chart installs what deploy/ha does, rule for rule and field for field."""
    assert _plain(manifests.kustomized(manifests.DEPLOY / "ha")) == _plain(manifests.chart())


def test_the_chart_alone_is_what_kustomize_makes():
    """As it is with deploy/standalone, but for what a larger pod and a Service of a type want."""
    kustomized = _plain(manifests.kustomized(manifests.DEPLOY / "standalone"))
    resources = manifests.pod(kustomized.values())["spec"]["containers"][0]["resources"]
    made = _plain(manifests.chart(mode="standalone", priorityClassName="", resources=resources))
    assert made["Service", "certplane"]["spec"].pop("type") == "ClusterIP"
    assert kustomized == made


def test_what_is_monitored_is_the_same():
    """The chart's alerts and those of deploy/components/monitoring are the same."""
    rules = yaml.safe_load((manifests.DEPLOY / "components/monitoring/prometheusrule.yaml").read_text("utf-8"))
    made = manifests.one(manifests.chart(prometheusRules={"enabled": True}), "PrometheusRule")
    assert rules["spec"]["groups"][0]["rules"] == made["spec"]["groups"][0]["rules"]


# --- rights -------------------------------------------------------------------------------------------------------


def _rights(**values):
    """What the chart's ClusterRole permits, as verb, resource and name."""
    return _granted(manifests.one(manifests.chart(**values), "ClusterRole"))


def _granted(role):
    return {
        (verb, resource, name)
        for rule in role["rules"]
        for verb in rule["verbs"]
        for resource in rule["resources"]
        for name in rule.get("resourceNames", [""])
    }


def test_rights_follow_the_controllers():
    """A controller that does not work has no rights."""
    assert _rights(controllers=["csrcleaner"]) == {
        (verb, "certificatesigningrequests", "") for verb in ("list", "watch", "delete")
    }
    assert _rights(controllers=["podcertificaterequest-cleaner-controller"]) == {
        (verb, "podcertificaterequests", "") for verb in ("list", "watch", "delete")
    }


def test_rights_follow_the_signers():
    """Only signers that have a CA may sign, and users' own besides."""
    ca = {"signers": {"kubelet-serving": "serving-ca"}}
    found = _rights(controllers=["csrsigning"], ca=ca, signers=[{"name": "example.com/web"}])
    assert {name for verb, _, name in found if verb == "sign"} == {"kubernetes.io/kubelet-serving", "example.com/web"}


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
def test_components_have_the_rights_of_the_chart(component, values):
    """What else may work has the same rights either way."""
    path = manifests.DEPLOY / "components" / component / "rbac.yaml"
    role = manifests.one(yaml.safe_load_all(path.read_text("utf-8")), "ClusterRole")
    more = {**values, "controllers": [*VALUES["controllers"], *values.get("controllers", ())]}
    assert _granted(role) == _rights(**more) - _rights()


# --- values -------------------------------------------------------------------------------------------------------

#: What is not the chart's to judge.
OPEN = {"global", "signers", "servingApprover", "nodeAffinity", "podAffinity", "podAntiAffinity"}


def _properties(of, path=""):
    for name, inner in of.get("properties", {}).items():
        yield f"{path}{name}", name, inner
        yield from _properties(inner, f"{path}{name}.")
        yield from _properties(inner.get("items", {}), f"{path}{name}[].")


def test_the_schema_is_closed():
    """Nothing may be said that has no meaning."""
    assert SCHEMA["additionalProperties"] is False
    loose = [
        path
        for path, name, inner in _properties(SCHEMA)
        if inner.get("type") == "object" and name not in OPEN and inner.get("additionalProperties") is not False
    ]
    assert loose == []


def test_every_value_has_a_default_and_a_schema():
    """values.yaml shows everything that can be said, and the schema knows it."""
    shown = set(VALUES)
    assert shown == set(SCHEMA["properties"]) - {"global"}
    for name in shown:
        inner = SCHEMA["properties"][name].get("properties", {})
        if inner and VALUES[name]:
            assert set(inner) == set(VALUES[name])


@pytest.mark.parametrize(
    ("values", "told"),
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
def test_wrong_values_are_refused(values, told):
    """Helm refuses them, and says where."""
    assert told in manifests.problem(**values)


def test_the_notes_say_what_is_left_to_do():
    """Helm's last words name the Secret that is needed, and what kube-controller-manager must leave alone."""
    text = manifests.notes(controllers=["csrapproving", "csrsigning"])
    assert "create secret tls certplane-ca" in text
    assert "--controllers=*,-csrapproving,-csrsigning\n" in text


# --- settings -----------------------------------------------------------------------------------------------------


def _config(objects):
    return yaml.safe_load(manifests.one(objects, "ConfigMap")["data"]["config.yaml"])


@everything_installed
def test_settings_are_such(objects):
    """The program takes the settings of each installation, and what they name is in a place that is mounted."""
    found = objects()
    said = _config(found)
    container = manifests.pod(found)["spec"]["containers"][0]
    mounts = tuple(f"{each['mountPath']}/" for each in container["volumeMounts"])
    assert [] == [each for each in map(str, said.values()) if each.startswith("/") and not each.startswith(mounts)]
    importlib.import_module(f"certplane.config.{container['args'][0]}").settings({}, said)


MINE = {
    "name": "example.com/web",
    "authority": {"certFile": "a", "keyFile": "b"},
    "usages": {"allowed": ["server auth"]},
}
PROOFS = {"mode": "report", "sources": ["node"]}


def test_signers_and_rules_are_such():
    """The files that the chart makes of its values are those that the program reads."""
    found = manifests.chart(signers=[MINE], servingApprover=PROOFS)
    data = manifests.one(found, "ConfigMap")["data"]
    assert [each.name for each in signerfile.parse(data["signers.yaml"].encode()).signers] == ["example.com/web"]
    assert servingrules.parse(yaml.safe_load(data["serving-approver.yaml"])).rules is not None


def test_who_approves_by_rule_has_the_right_to():
    """For the signers that have rules, and for no other."""
    ruled = {**MINE, "name": "example.com/ruled", "approval": [{"users": ["jane"]}]}
    found = _rights(controllers=["csrsigning"], signers=[MINE, ruled])
    assert {name for verb, _, name in found if verb == "approve"} == {"example.com/ruled"}
    assert ("update", "certificatesigningrequests/approval", "") in found


# --- docs/in-a-cluster.md ------------------------------------------------------------------------------------------

GUIDE = (manifests.ROOT / "docs/in-a-cluster.md").read_text("utf-8")


def test_the_example_of_the_guide_can_be_built(tmp_path):
    """What the guide has one write beside a checkout makes what is valid, with the settings that it says."""
    (tmp_path / "my-cluster").mkdir()
    (tmp_path / "certplane").symlink_to(manifests.ROOT)
    for name, text in re.findall(r"```yaml\n# my-cluster/(\S+)\n(.*?)```", GUIDE, flags=re.DOTALL):
        (tmp_path / "my-cluster" / name).write_text(text)
    made = manifests.kustomized(tmp_path / "my-cluster")
    _validate(made)
    assert _config(made)["controllers"] == ["csrcleaner"]
    assert manifests.pod(made)["spec"]["containers"][0]["image"] == "registry.example/certplane:0.1.0"


def test_the_guide_names_what_there_is():
    """Each file of deploy/ and each value of the chart that it mentions exists."""
    named = set(re.findall(r"\bdeploy/[\w./-]*\w", GUIDE))
    assert named
    assert [] == [each for each in named if not (manifests.ROOT / each).exists()]
    for path in re.findall(r"--set '?([\w.]+)=", GUIDE):
        inner = SCHEMA
        for part in path.split("."):
            inner = inner["properties"][part]


# --- places -------------------------------------------------------------------------------------------------------


def test_nothing_names_a_place_to_get_things_from():
    """No registry and no download is named: where images come from is for whoever installs them to say."""
    texts = [each.read_text("utf-8") for each in manifests.DEPLOY.rglob("*") if each.is_file()]
    assert {SCHEMA["$schema"]} == {url for text in texts for url in re.findall(r"\w+://[^\s\"']+", text)}
    for name in OVERLAYS:
        objects = manifests.kustomized(manifests.DEPLOY / name)
        assert manifests.pod(objects)["spec"]["containers"][0]["image"] == "certplane"
    assert VALUES["image"]["repository"] == "certplane"


# --- alerts -------------------------------------------------------------------------------------------------------


def test_alerts_are_about_metrics_that_there_are():
    """Each metric that an alert looks at is one that the program has."""
    text = (manifests.DEPLOY / "chart/rules.yaml").read_text("utf-8")
    shown = set(re.findall(r"^# TYPE (\w+)", telemetry.Telemetry().render().decode(), flags=re.MULTILINE))
    asked = set(re.findall(r"\b(\w+)\{job=", text))
    assert asked
    assert asked - {"up"} <= shown
