"""Typical requests of client-go in protobuf, against a real process; JSON must have the same content."""

from __future__ import annotations

import base64
import contextlib
import datetime
import json
import pathlib

import pytest
from cryptography import x509

import demo
from certplane.store import sqlite
from tests.e2e import goclient, requests

CASES = pathlib.Path(__file__).parents[1] / "conformance" / "cases" / "protobuf.json"
CSRS = requests.CSRS
CERTIFICATES = "certificates.k8s.io/v1"
LEASES = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases"
CONFIGMAPS = "/api/v1/namespaces/default/configmaps"
ACCOUNTS = "/api/v1/namespaces/default/serviceaccounts"
EVENTS = "/api/v1/namespaces/kube-system/events"
FIRST = {**goclient.Informer.FIRST, "allowWatchBookmarks": "true"}
#: Only the metadata, in protobuf.
PARTIAL = f"{goclient.PROTOBUF};as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
PARTIAL_LIST = f"{goclient.PROTOBUF};as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
TABLE = f"{goclient.PROTOBUF};as=Table;g=meta.k8s.io;v=v1"


@pytest.fixture
def connected(server, tmp_path):
    with contextlib.closing(requests.client(server, tmp_path)) as wire:
        yield wire


@pytest.fixture
def client(connected):
    """A client of an administrator."""
    return goclient.Client(connected)


@pytest.fixture
def manager(connected):
    """A client of kube-controller-manager."""
    return goclient.Client(connected, "kcm")


def agree(read, shown):
    """Protobuf and JSON have the same content."""
    assert goclient.differences(read, shown) == []


def agree_but_for_times(read, shown):
    """The same for two responses, whose times may differ."""
    for value in (read, shown):
        value["metadata"].pop("creationTimestamp", None)
        for entry in value["metadata"].get("managedFields", ()):
            del entry["time"]
    agree(read, shown)


def csr(name, signer="example.com/test", **metadata):
    spec = {
        "request": base64.b64encode(requests.pkcs10()).decode(),
        "signerName": signer,
        "usages": ["client auth"],
        "expirationSeconds": 3600,
    }
    kind = {"apiVersion": CERTIFICATES, "kind": "CertificateSigningRequest"}
    return {**kind, "metadata": {"name": name, **metadata}, "spec": spec}


def configmap(name, **fields):
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "default"}, **fields}


def create(client, path, obj):
    """The created object."""
    answer = client.ask("POST", path, obj)
    assert (answer.status, answer.type) == (201, goclient.PROTOBUF), answer.obj
    return answer.obj


def approved(csr):
    condition = {"type": "Approved", "status": "True", "reason": "R", "message": "M"}
    return {**csr, "status": {**csr["status"], "conditions": [condition]}}


def recorded():
    """Recorded bodies that a real server accepted."""
    for case in json.loads(CASES.read_text("utf-8"))["cases"]:
        for step in case["steps"]:
            if "bodyBase64" in step and step["expect"]["status"] < 300:
                yield pytest.param(base64.b64decode(step["bodyBase64"]), id=f"{case['id']}/{step['id']}")


@pytest.mark.parametrize("body", list(recorded()))
def test_recorded_bodies_round_trip(body):
    """This client decodes them, and encodes them to the same bytes."""
    assert goclient.wrap(goclient.unwrap(body), zeros=False) == body


def test_a_request_is_watched_approved_and_signed(client):
    """ADDED, the initial bookmark, the approval, the certificate: each frame equals the JSON object."""
    request = csr("signed", "kubernetes.io/kube-apiserver-client", labels={"set": "signed", "empty": ""})
    added = create(client, CSRS, request)
    assert added["spec"]["expirationSeconds"] == 3600
    agree(added, client.in_json("GET", f"{CSRS}/signed").obj)
    with client.watch(CSRS, labelSelector="set=signed", timeoutSeconds=60, **FIRST) as watch:
        assert watch.next() == ("ADDED", added)
        kind, mark = watch.next()
        assert (kind, mark["kind"], mark["metadata"]["name"]) == ("BOOKMARK", "CertificateSigningRequest", "")
        assert mark["metadata"]["annotations"] == {goclient.INITIAL_END: "true"}
        answer = client.ask("PUT", f"{CSRS}/signed/approval", approved(added), timeout="5s")
        assert (answer.status, answer.type) == (200, goclient.PROTOBUF)
        assert watch.next() == ("MODIFIED", answer.obj)
        kind, signed = watch.next()
    assert kind == "MODIFIED"
    agree(signed, client.in_json("GET", f"{CSRS}/signed").obj)
    agree(signed, client.in_json("GET", CSRS, labelSelector="set=signed").obj["items"][0] | _kind(signed))
    certificate = x509.load_pem_x509_certificate(base64.b64decode(signed["status"]["certificate"]))
    assert certificate.not_valid_after_utc - certificate.not_valid_before_utc <= datetime.timedelta(seconds=3600 + 300)


def _kind(plural):
    return {"kind": plural["kind"], "apiVersion": plural["apiVersion"]}


STOCK = (
    (CONFIGMAPS, configmap("stock", immutable=True, data={"a": "1", "e": "", "z": "ä<&>"}, binaryData={"b": "/wA="})),
    (CONFIGMAPS, configmap("stock-empty", immutable=False)),
    (
        "/api/v1/namespaces/default/secrets",
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "stock"}, "data": {"k": "/wA=", "e": ""}},
    ),
    (
        "/api/v1/namespaces",
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "stock", "annotations": {"a": "b"}}},
    ),
    (
        ACCOUNTS,
        {
            "apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"generateName": "stock-"},
            "imagePullSecrets": [{"name": "stock"}], "automountServiceAccountToken": False,
        },
    ),
    (
        "/apis/coordination.k8s.io/v1/namespaces/default/leases",
        {
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "stock"},
            "spec": {"leaseDurationSeconds": 2147483647, "renewTime": "1969-12-31T23:59:59.999999Z"},
        },
    ),
    (
        "/api/v1/namespaces/default/events",
        {
            "apiVersion": "v1", "kind": "Event", "metadata": {"name": "stock", "namespace": "default"},
            "involvedObject": {"kind": "ConfigMap", "namespace": "default", "name": "stock"}, "type": "Normal",
            "firstTimestamp": "2026-01-01T00:00:00Z", "lastTimestamp": "2026-01-01T00:00:01Z", "count": 2,
        },
    ),
    (
        "/apis/rbac.authorization.k8s.io/v1/clusterroles",
        {
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "stock"},
            "aggregationRule": {
                "clusterRoleSelectors": [
                    {"matchExpressions": [{"key": "a", "operator": "In", "values": ["b"]}], "matchLabels": {"c": "d"}}
                ]
            },
        },
    ),
    (CSRS, csr("stock", finalizers=["example.com/stay"])),
)  # fmt: skip


@pytest.fixture(scope="module")
def stocked(server, tmp_path_factory):
    """A server with objects with unusual fields, sent as protobuf; its controllers have processed `default`."""
    with contextlib.closing(requests.client(server, tmp_path_factory.mktemp("stock"))) as wire:
        client = goclient.Client(wire)
        for path, obj in STOCK:
            create(client, path, obj)
        with goclient.Informer(client, CONFIGMAPS) as informer:
            informer.until(lambda known: ("default", "kube-root-ca.crt") in known)
        yield server


LISTS = {
    "CertificateSigningRequestList": CSRS,
    "ClusterRoleBindingList": "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
    "ClusterRoleList": "/apis/rbac.authorization.k8s.io/v1/clusterroles",
    "ConfigMapList": "/api/v1/configmaps",
    "EventList": "/api/v1/events",
    "LeaseList": "/apis/coordination.k8s.io/v1/leases",
    "NamespaceList": "/api/v1/namespaces",
    "RoleBindingList": "/apis/rbac.authorization.k8s.io/v1/rolebindings",
    "RoleList": "/apis/rbac.authorization.k8s.io/v1/roles",
    "SecretList": "/api/v1/secrets",
    "ServiceAccountList": "/api/v1/serviceaccounts",
    "EventList of events.k8s.io": "/apis/events.k8s.io/v1/events",
}


@pytest.mark.parametrize("path", LISTS.values(), ids=LISTS)
def test_lists_are_equal_in_both_encodings(path, stocked, client):
    """At one revision, object by object; and single objects equal those in the list."""
    shown = client.in_json("GET", path).obj
    revision = shown["metadata"]["resourceVersion"]
    answer = client.ask("GET", path, resourceVersion=revision, resourceVersionMatch="Exact")
    assert (answer.status, answer.type) == (200, goclient.PROTOBUF)
    agree(answer.obj, shown)
    assert shown["items"]
    one = answer.obj["items"][0]
    namespace, name = one["metadata"]["namespace"], one["metadata"]["name"]
    head, _, plural = path.rpartition("/")
    where = f"{head}/namespaces/{namespace}/{plural}/{name}" if namespace else f"{path}/{name}"
    obj = client.ask("GET", where).obj
    agree(obj, client.in_json("GET", where).obj)


@pytest.mark.parametrize(
    ("path", "obj"), STOCK, ids=lambda parameter: parameter["kind"] if isinstance(parameter, dict) else "at"
)
def test_objects_round_trip(path, obj, stocked, client):
    """No field is lost; false and zero differ from unset."""
    name = obj["metadata"].get("name")
    shown = client.in_json("GET", path).obj["items"]
    [created] = [item for item in shown if (item["metadata"]["name"] == name or "generateName" in item["metadata"])]
    sent = {key: value for key, value in obj.items() if key not in ("kind", "apiVersion", "metadata")}
    assert {key: created.get(key) for key in sent} | {"spec": None} == {**sent, "spec": None}
    spec = obj.get("spec", {})
    assert {key: created["spec"].get(key) for key in spec} == spec


def test_long_lists_are_paged_and_compressed(stocked, client):
    """Long responses use gzip; pages have a continue token."""
    create(client, CONFIGMAPS, configmap("long", data={"text": "x" * 200_000}))
    answer = client.ask("GET", f"{CONFIGMAPS}/long")
    assert answer.headers["content-encoding"] == ["gzip"]
    assert answer.obj["data"]["text"] == "x" * 200_000
    everything = client.ask("GET", LISTS["ClusterRoleList"]).obj
    items, query = [], {}
    while True:
        page = client.ask("GET", LISTS["ClusterRoleList"], limit=20, **query).obj
        items += page["items"]
        if not page["metadata"]["continue"]:
            break
        assert page["metadata"]["remainingItemCount"] == len(everything["items"]) - len(items)
        query = {"continue": page["metadata"]["continue"]}
    assert items == everything["items"]


def test_a_leader_is_elected(manager, client):
    """No Lease, a new one, renewals; an update with an old revision is a conflict."""
    path = f"{LEASES}/elected"
    missing = client.ask("GET", path, timeout="5s")
    assert (missing.status, missing.type, missing.obj["reason"]) == (404, goclient.PROTOBUF, "NotFound")
    spec = {
        "holderIdentity": "one",
        "leaseDurationSeconds": 15,
        "acquireTime": "2026-01-01T00:00:00.000001Z",
        "renewTime": "2026-01-01T00:00:00.000001Z",
        "leaseTransitions": 0,
    }
    kind = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease"}
    lease = {**kind, "metadata": {"name": "elected", "namespace": "kube-system"}, "spec": spec}
    first = create(manager, LEASES, lease)
    assert first["spec"] == spec
    assert manager.ask("POST", LEASES, lease, timeout="5s").obj["reason"] == "AlreadyExists"
    renewed = {**first, "spec": {**spec, "renewTime": "2026-01-01T00:00:02.123456Z"}}
    answer = client.ask("PUT", path, renewed, timeout="5s")
    assert (answer.status, answer.obj["spec"]) == (200, renewed["spec"])
    agree(answer.obj, client.in_json("GET", path).obj)
    other = {**first, "spec": {**spec, "holderIdentity": "two"}}
    late = client.ask("PUT", path, other, timeout="5s")
    assert (late.status, late.type, late.obj["reason"]) == (409, goclient.PROTOBUF, "Conflict")
    agree(late.obj, client.in_json("PUT", path, other).obj)


def test_leader_election_is_recorded_as_an_event(manager, client):
    """An event in the core group, which is visible in the other group as well."""
    now = "2026-01-01T00:00:00Z"
    event = {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": "elected.18", "namespace": "kube-system"},
        "involvedObject": {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "namespace": "kube-system",
            "name": "elected",
        },
        "reason": "LeaderElection",
        "message": "one became leader",
        "source": {"component": "kube-controller-manager"},
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
        "type": "Normal",
    }
    recorded_event = create(manager, EVENTS, event)
    assert recorded_event.get("eventTime") is None
    agree(recorded_event, client.in_json("GET", f"{EVENTS}/elected.18").obj)
    newer = "/apis/events.k8s.io/v1/namespaces/kube-system/events/elected.18"
    shown = client.ask("GET", newer).obj
    assert (shown["apiVersion"], shown["note"]) == ("events.k8s.io/v1", "one became leader")
    agree(shown, client.in_json("GET", newer).obj)


def test_a_token_is_issued_and_authenticated(client):
    """A TokenRequest of a service account; the TokenReview is the same in both encodings."""
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "robot", "namespace": "default"}}
    create(client, ACCOUNTS, account)
    kind = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest"}
    token_request = {**kind, "metadata": {"name": "robot", "namespace": "default"}, "spec": {"expirationSeconds": 3600}}
    token = create(client, f"{ACCOUNTS}/robot/token", token_request)
    assert token["spec"]["expirationSeconds"] == 3600
    assert datetime.datetime.fromisoformat(token["status"]["expirationTimestamp"])
    review = {**kind, "kind": "TokenReview", "metadata": {}, "spec": {"token": token["status"]["token"]}}
    path = "/apis/authentication.k8s.io/v1/tokenreviews"
    reviewed = create(client, path, review)
    assert reviewed["status"]["authenticated"]
    assert reviewed["status"]["user"]["username"] == "system:serviceaccount:default:robot"
    agree_but_for_times(reviewed, client.in_json("POST", path, review).obj)


@pytest.mark.parametrize(
    ("path", "kind", "spec"),
    [
        (
            "authorization.k8s.io/v1/subjectaccessreviews",
            "SubjectAccessReview",
            {
                "user": "jane",
                "groups": ["system:bootstrappers"],
                "extra": {"example.com/a": ["b", ""]},
                "resourceAttributes": {
                    "group": "certificates.k8s.io",
                    "resource": "certificatesigningrequests",
                    "subresource": "nodeclient",
                    "verb": "create",
                    "version": "*",
                },
            },
        ),
        (
            "authorization.k8s.io/v1/subjectaccessreviews",
            "SubjectAccessReview",
            {"user": "jane", "groups": ["system:masters"], "nonResourceAttributes": {"path": "/x", "verb": "get"}},
        ),
        (
            "authorization.k8s.io/v1/selfsubjectaccessreviews",
            "SelfSubjectAccessReview",
            {
                "resourceAttributes": {
                    "verb": "list",
                    "resource": "secrets",
                    "labelSelector": {"requirements": [{"key": "a", "operator": "In", "values": ["b"]}]},
                }
            },
        ),
        ("authorization.k8s.io/v1/selfsubjectrulesreviews", "SelfSubjectRulesReview", {"namespace": "default"}),
        ("authentication.k8s.io/v1/selfsubjectreviews", "SelfSubjectReview", None),
    ],
    ids=["resource", "path", "self", "rules", "who am I"],
)
def test_reviews_are_equal_in_both_encodings(path, kind, spec, manager, client):
    """In protobuf and in JSON; the spec is returned with the status."""
    review = {"apiVersion": path.rpartition("/")[0], "kind": kind, "metadata": {}}
    if spec is not None:
        review["spec"] = spec
    asking = client if kind != "SelfSubjectRulesReview" else manager
    answer = create(asking, f"/apis/{path}", review)
    agree_but_for_times(answer, asking.in_json("POST", f"/apis/{path}", review).obj)


WRONG = {
    "400 another kind": ("POST", CSRS, {**configmap("a"), "metadata": {"name": "a"}}),
    "404 no object": ("GET", f"{CSRS}/nobody", None),
    "404 no kind": ("GET", "/apis/certificates.k8s.io/v1/nothings", None),
    "405": ("DELETE", "/apis/authorization.k8s.io/v1/subjectaccessreviews", None),
    "409 there already": ("POST", CONFIGMAPS, configmap("stock")),
    "409 stale": ("PUT", f"{CSRS}/stock", csr("stock", resourceVersion="1")),
    "409 not the same": (
        "DELETE",
        f"{CONFIGMAPS}/stock",
        {"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"uid": "x"}},
    ),
    "422 invalid": (
        "POST",
        CSRS,
        {**csr("bad"), "spec": {"signerName": "bad", "request": "eA==", "usages": ["x", "x"]}},
    ),
    "422 option": ("GET", f"{CSRS}?resourceVersionMatch=Exact", None),
    "422 immutable": ("PUT", f"{CONFIGMAPS}/stock", configmap("stock", immutable=True, data={"a": "2"})),
}


@pytest.mark.parametrize("case", WRONG)
def test_errors_are_equal_in_both_encodings(case, stocked, client):
    """A Status in protobuf, with the same code, message and causes as in JSON."""
    method, path, obj = WRONG[case]
    answer = client.ask(method, path, obj)
    assert (answer.status, answer.type) == (int(case[:3]), goclient.PROTOBUF)
    assert (answer.obj["kind"], answer.obj["code"]) == ("Status", answer.status)
    agree(answer.obj, client.in_json(method, path, obj).obj)


def test_a_forbidden_request_gets_403(connected):
    """403 in protobuf."""
    jane = goclient.Client(connected, "jane")
    answer = jane.ask("GET", CSRS)
    assert (answer.status, answer.type, answer.obj["reason"]) == (403, goclient.PROTOBUF, "Forbidden")
    agree(answer.obj, jane.in_json("GET", CSRS).obj)


MEDIA = "application/json, application/yaml, application/vnd.kubernetes.protobuf"


def test_unsupported_media_types_are_refused(client, connected):
    """415 for another content type, 406 for another Accept type, as recorded."""
    head = {"Content-Type": "application/cbor", "Accept": goclient.ACCEPT}
    refused = goclient.Answer(connected.request("admin", "POST", CSRS, head, goclient.wrap(csr("cbor"))))
    why = f"the body of the request was in an unknown format - accepted media types include: {MEDIA}"
    assert (refused.status, refused.type, refused.obj["message"]) == (415, goclient.PROTOBUF, why)
    refused = client.ask("GET", CSRS, accept="application/cbor")
    # Everything that can be listed can be watched.
    streams = "application/json;stream=watch, application/vnd.kubernetes.protobuf;stream=watch"
    why = f"406: Not Acceptable\n\nAvailable representations: {MEDIA}, {streams}"
    assert (refused.status, refused.type, refused.obj["message"]) == (406, "application/json", why)


def test_there_are_no_tables_in_protobuf(stocked, client):
    """406, unless another type is acceptable."""
    refused = client.ask("GET", CSRS, accept=TABLE)
    assert (refused.status, refused.obj["reason"]) == (406, "NotAcceptable")
    assert refused.obj["message"] == f"only the following media types are accepted: {MEDIA}"
    fallback = client.ask("GET", CSRS, accept=f"{TABLE}, {goclient.PROTOBUF}")
    assert (fallback.type, fallback.obj["kind"]) == (goclient.PROTOBUF, "CertificateSigningRequestList")


def test_partial_metadata_is_available_in_protobuf(stocked, client):
    """For one object, a list and a watch, as in JSON."""
    head = {"User-Agent": goclient.AGENT}
    for path, accept in ((f"{CSRS}/stock", PARTIAL), (CSRS, PARTIAL_LIST)):
        answer = client.ask("GET", path, accept=accept)
        assert (answer.status, answer.type) == (200, goclient.PROTOBUF)
        json_accept = accept.replace(goclient.PROTOBUF, "application/json")
        shown = client.wire.request("admin", "GET", path, {**head, "Accept": json_accept}, None)
        agree(answer.obj, _without_kinds_of_items(json.loads(shown.data)))
        assert answer.obj["kind"] == accept.partition("as=")[2].partition(";")[0]
    query = {"fieldSelector": "metadata.name=stock", "timeoutSeconds": 30}
    with client.watch(CSRS, accept=PARTIAL, **query, **FIRST) as watch:
        kind, obj = watch.next()
        assert (kind, obj) == ("ADDED", client.ask("GET", f"{CSRS}/stock", accept=PARTIAL).obj)
        kind, mark = watch.next()
        assert (kind, mark["kind"], mark["apiVersion"]) == ("BOOKMARK", "PartialObjectMetadata", "meta.k8s.io/v1")


def _without_kinds_of_items(obj):
    # The items of this list have a kind in JSON, but not in protobuf.
    for item in obj.get("items", ()):
        assert (item.pop("kind"), item.pop("apiVersion")) == ("PartialObjectMetadata", "meta.k8s.io/v1")
    return obj


def test_deletions_are_watched(stocked, client):
    """DeleteOptions in protobuf; the watch delivers the last state with the revision of the deletion."""
    doomed = create(client, CONFIGMAPS, configmap("doomed", data={"a": "b"}))
    revision = doomed["metadata"]["resourceVersion"]
    options = {
        "apiVersion": "v1",
        "kind": "DeleteOptions",
        "preconditions": {"uid": doomed["metadata"]["uid"], "resourceVersion": revision},
        "propagationPolicy": "Background",
    }
    with client.watch(CONFIGMAPS, resourceVersion=revision, timeoutSeconds=30) as watch:
        answer = client.ask("DELETE", f"{CONFIGMAPS}/doomed", options)
        assert (answer.status, answer.obj["kind"], answer.obj["status"]) == (200, "Status", "Success")
        assert answer.obj["details"]["uid"] == doomed["metadata"]["uid"]
        kind, last = watch.next()
    assert (kind, last["data"]) == ("DELETED", {"a": "b"})
    assert int(last["metadata"]["resourceVersion"]) > int(revision)


def test_an_informer_receives_every_change(stocked, client):
    """It starts with all objects, receives every change, and ends with the same objects as a list."""
    with goclient.Informer(client, CONFIGMAPS) as informer:
        assert informer.until(lambda known: ("default", "stock") in known)[-1].type == "BOOKMARK"
        created = create(client, CONFIGMAPS, configmap("followed"))
        assert informer.step() == ("ADDED", created)
        changed = client.ask("PUT", f"{CONFIGMAPS}/followed", {**created, "data": {"a": "b"}}).obj
        assert informer.step() == ("MODIFIED", changed)
        client.ask("DELETE", f"{CONFIGMAPS}/followed")
        assert informer.step().type == "DELETED"
        assert informer.asked == ["stream"]
        _has_what_a_list_has(informer, client, CONFIGMAPS)


def _has_what_a_list_has(informer, client, path):
    listed = client.ask("GET", path).obj["items"]
    known = [informer.known[key] for key in sorted(informer.known)]
    assert [{key: obj[key] for key in obj if key not in ("kind", "apiVersion")} for obj in known] == listed


def test_an_informer_lists_if_a_streaming_list_is_refused(stocked, client):
    """If the streaming list is refused, it uses a list, and watches from its revision."""
    refused = {"resourceVersionMatch": "Exact", "sendInitialEvents": "true"}
    with pytest.raises(goclient.Refused) as caught:
        client.watch(CONFIGMAPS, **refused)
    assert (caught.value.code, caught.value.status["reason"]) == (422, "Invalid")
    first = create(client, CONFIGMAPS, configmap("listed"))
    with goclient.Informer(client, CONFIGMAPS, refused) as informer:
        informer.start()
        assert informer.asked == ["stream", "list", "watch"]
        assert informer.known["default", "listed"] == {key: first[key] for key in first if key not in _kind(first)}
        created = create(client, CONFIGMAPS, configmap("heard"))
        assert informer.step() == ("ADDED", created)
        _has_what_a_list_has(informer, client, CONFIGMAPS)


def test_an_informer_resumes_after_an_interruption(stocked, client):
    """After an interruption it receives missed changes once; a watch that ends is restarted."""
    with goclient.Informer(client, CONFIGMAPS, seconds=1) as informer:
        informer.until(lambda known: ("default", "stock") in known)
        informer.close()
        created = create(client, CONFIGMAPS, configmap("meanwhile"))
        changed = client.ask("PUT", f"{CONFIGMAPS}/meanwhile", {**created, "data": {"a": "b"}}).obj
        assert (informer.step(), informer.step()) == (("ADDED", created), ("MODIFIED", changed))
        assert informer.revision == changed["metadata"]["resourceVersion"]
        with client.watch(CONFIGMAPS, resourceVersion=informer.revision, timeoutSeconds=1) as watch:
            assert watch.rest() == []
        last = create(client, CONFIGMAPS, configmap("later"))
        heard = informer.until(lambda known: ("default", "later") in known)
        assert [event for event in heard if event.type != "BOOKMARK"] == [("ADDED", last)]
        assert informer.asked[0] == "stream"
        assert set(informer.asked[1:]) == {"watch"}
        _has_what_a_list_has(informer, client, CONFIGMAPS)


async def test_an_informer_restarts_after_a_compaction(tmp_path):
    """A compacted revision is 410: an ERROR event in a watch, an error of a list."""
    data, log = tmp_path / "data", tmp_path / "log"
    with demo.running(data, log) as port, contextlib.closing(_wire(data, port, tmp_path)) as wire:
        client = goclient.Client(wire)
        old = create(client, CONFIGMAPS, configmap("old"))["metadata"]["resourceVersion"]
        newest = create(client, CONFIGMAPS, configmap("new"))["metadata"]["resourceVersion"]
    store = sqlite.open_store(data / "store.sqlite")
    await store.compact(int(newest))
    await store.close()
    with demo.running(data, log) as port, contextlib.closing(_wire(data, port, tmp_path)) as wire:
        client = goclient.Client(wire)
        with client.watch(CONFIGMAPS, resourceVersion=old, timeoutSeconds=30) as watch:
            [(kind, status)] = watch.rest()
        assert (kind, status["kind"], status["code"], status["reason"]) == ("ERROR", "Status", 410, "Expired")
        assert status["message"].startswith(f"too old resource version: {old} (")
        query = {"resourceVersion": old, "resourceVersionMatch": "Exact"}
        refused = client.ask("GET", CONFIGMAPS, **query)
        assert (refused.status, refused.type, refused.obj["reason"]) == (410, goclient.PROTOBUF, "Expired")
        agree(refused.obj, client.in_json("GET", CONFIGMAPS, **query).obj)
        with goclient.Informer(client, CONFIGMAPS) as informer:
            informer.revision = old
            assert informer.step().type == "ERROR"
            informer.until(lambda known: ("default", "new") in known)
            assert informer.asked == ["watch", "stream"]


def _wire(data, port, directory):
    return requests.client(requests.Server(data, port), directory)


def test_a_watch_at_a_future_revision_times_out(client):
    """A watch for the state at a future revision ends with a 504 event; others wait."""
    newest = int(client.ask("GET", CONFIGMAPS).obj["metadata"]["resourceVersion"])
    with client.watch(CONFIGMAPS, resourceVersion=newest + 1_000_000, timeoutSeconds=1) as watch:
        assert watch.rest() == []
    initial = {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan", "allowWatchBookmarks": "true"}
    with client.watch(CONFIGMAPS, resourceVersion=newest + 1_000_000, timeoutSeconds=30, **initial) as watch:
        [(kind, status)] = watch.rest()
    assert (kind, status["kind"], status["code"], status["reason"]) == ("ERROR", "Status", 504, "Timeout")
    assert status["details"]["causes"][0]["reason"] == "ResourceVersionTooLarge"
