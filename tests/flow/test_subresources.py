"""Which fields of a request may be written through which subresource, and the errors for others."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import copy
import json

import pytest
from cryptography.hazmat.primitives import serialization

from certplane import testing, timestamps
from certplane.resources import certificatesigningrequests as csrs
from certplane.store import memory
from tests.flow import plane as flow

PATH = "/apis/certificates.k8s.io/v1/certificatesigningrequests"


async def ask(plane, method, path, body=b""):
    """One request with a JSON body: status and response."""
    return await flow.request_json(plane, method, path, body, content_type="application/json")


@contextlib.asynccontextmanager
async def with_request(**metadata):
    """A plane with one request, for an unknown signer."""
    async with flow.running() as plane:
        csr = flow.new_csr("a")
        csr.spec.signer_name = "example.com/x"
        for name, value in metadata.items():
            setattr(csr.metadata, name, value)
        await plane.client(flow.ADMIN).create(csrs.RESOURCE, csr)
        yield plane


def condition(type_):
    return {"type": type_, "status": "True", "reason": "Test", "message": "m"}


async def write(plane, subresource, *types):
    _, stored = await ask(plane, "GET", f"{PATH}/a")
    stored["status"]["conditions"] = [condition(type_) for type_ in types]
    return await ask(plane, "PUT", f"{PATH}/a{subresource}", stored)


async def test_errors_about_removed_conditions_come_first():
    """Errors about removed conditions precede errors about added ones, for all condition types."""
    async with with_request() as plane:
        assert (await write(plane, "/status", "Failed"))[0] == 200
        status, answer = await write(plane, "/status", "Approved")
    assert (status, [cause["message"] for cause in answer["details"]["causes"]]) == (
        422,
        [
            'Forbidden: updates may not remove a condition of type "Failed"',
            'Forbidden: updates may not add a condition of type "Approved"',
        ],
    )


async def test_a_resource_version_that_is_not_a_number():
    """The message is only Go's error, as in a real API server."""
    async with with_request() as plane:
        _, stored = await ask(plane, "GET", f"{PATH}/a")
        stored["metadata"]["resourceVersion"] = "abc"
        status, answer = await ask(plane, "PUT", f"{PATH}/a", stored)
    assert (status, answer["message"]) == (500, 'strconv.ParseUint: parsing "abc": invalid syntax')


@pytest.mark.parametrize(("method", "path"), [("PUT", f"{PATH}/a"), ("POST", PATH)])
async def test_invalid_extra_values(method, path):
    """The error names the type ExtraValue."""
    async with with_request() as plane:
        _, body = await ask(plane, "GET", f"{PATH}/a")
        body["spec"]["extra"] = {"a": "b"}
        status, answer = await ask(plane, method, path, body)
    assert (status, answer["message"].rpartition(": ")[2]) == (
        400,
        "cannot unmarshal string into Go struct field CertificateSigningRequestSpec.spec.extra of type v1.ExtraValue",
    )


@pytest.mark.parametrize(
    ("query", "status"),
    [("", 200), ("?orphanDependents=false", 202), ("?orphanDependents=true", 200), ("?propagationPolicy=Orphan", 200)],
)
async def test_status_of_a_deletion_that_waits_for_finalizers(query, status):
    """It is 202 if orphanDependents is false, 200 otherwise."""
    async with with_request(finalizers=["example.com/x"]) as plane:
        actual, answer = await ask(plane, "DELETE", f"{PATH}/a{query}")
    assert (actual, "deletionTimestamp" in answer["metadata"]) == (status, True)


async def test_an_empty_propagation_policy_is_refused():
    """It is not treated as missing."""
    async with with_request() as plane:
        status, answer = await ask(plane, "DELETE", f"{PATH}/a?propagationPolicy=")
    assert status == 422
    assert answer["message"].endswith(
        'propagationPolicy: Unsupported value: "": supported values: "Foreground", "Background", "Orphan", "nil"'
    )


CERTIFICATE = flow.new_authority(testing.FakeClock()).certificate.public_bytes(serialization.Encoding.PEM)


@pytest.mark.parametrize(
    ("subresource", "written"),
    [("", set()), ("/approval", {"conditions"}), ("/status", {"certificate"})],
)
async def test_each_subresource_changes_its_own_fields_only(subresource, written):
    """All other fields stay as they are stored, without an error: neither the requestor nor a certificate can be
    forged.
    """
    async with with_request() as plane:
        _, stored = await ask(plane, "GET", f"{PATH}/a")
        changed = copy.deepcopy(stored)
        changed["spec"] |= {"signerName": "example.com/y", "username": "mallory", "groups": ["system:masters"]}
        changed["spec"]["usages"] = ["server auth"]
        changed["status"] = {"certificate": base64.b64encode(CERTIFICATE).decode()}
        if subresource != "/status":
            changed["status"]["conditions"] = [condition("Approved")]
        status, _ = await ask(plane, "PUT", f"{PATH}/a{subresource}", changed)
        _, kept = await ask(plane, "GET", f"{PATH}/a")
        assert (status, kept["spec"], set(kept["status"])) == (200, stored["spec"], written)
        # Otherwise the plane finds a certificate without an approval.
        await ask(plane, "DELETE", f"{PATH}/a")


async def test_a_status_update_does_not_change_the_decision():
    """A changed approval condition is replaced by the stored one."""
    async with with_request() as plane:
        await write(plane, "/approval", "Approved")
        _, stored = await ask(plane, "GET", f"{PATH}/a")
        forged = copy.deepcopy(stored)
        forged["status"]["conditions"][0] |= {"reason": "Forged", "message": "forged"}
        forged["status"]["conditions"].append(condition("Failed"))
        status, _ = await ask(plane, "PUT", f"{PATH}/a/status", forged)
        _, kept = await ask(plane, "GET", f"{PATH}/a")
    assert (status, kept["status"]["conditions"][0]) == (200, stored["status"]["conditions"][0])
    assert [kept_condition["type"] for kept_condition in kept["status"]["conditions"]] == ["Approved", "Failed"]


@pytest.mark.parametrize(("subresource", "type_"), [("/approval", "Approved"), ("/status", "Failed")])
async def test_a_condition_gets_the_time_of_its_write(subresource, type_):
    """The time is set if the client gives none; a second write does not change it."""
    async with with_request() as plane:
        await write(plane, subresource, type_)
        _, first = await ask(plane, "GET", f"{PATH}/a")
        now = timestamps.rfc3339(plane.clock.now())
        (written,) = first["status"]["conditions"]
        assert (written["lastUpdateTime"], written["lastTransitionTime"]) == (now, now)
        await plane.clock.advance(60)
        await write(plane, subresource, type_)
        _, second = await ask(plane, "GET", f"{PATH}/a")
    assert second["status"]["conditions"][0]["lastTransitionTime"] == now


async def test_a_deletion_timestamp_cannot_be_changed():
    """A write can neither remove nor set it."""
    async with with_request(finalizers=["example.com/x"]) as plane:
        _, stored = await ask(plane, "GET", f"{PATH}/a")
        stored["metadata"]["deletionTimestamp"] = "2020-01-01T00:00:00Z"
        assert (await ask(plane, "PUT", f"{PATH}/a", stored))[0] == 422
        await ask(plane, "DELETE", f"{PATH}/a")
        _, deleted = await ask(plane, "GET", f"{PATH}/a")
        changed = copy.deepcopy(deleted)
        del changed["metadata"]["deletionTimestamp"], changed["metadata"]["deletionGracePeriodSeconds"]
        changed["metadata"]["labels"] = {"a": "b"}
        assert (await ask(plane, "PUT", f"{PATH}/a", changed))[0] == 200
        _, kept = await ask(plane, "GET", f"{PATH}/a")
    for name in ("deletionTimestamp", "deletionGracePeriodSeconds"):
        assert kept["metadata"][name] == deleted["metadata"][name]


async def test_an_update_does_not_change_system_metadata():
    """creationTimestamp and generation stay; another UID is a conflict."""
    async with with_request() as plane:
        _, stored = await ask(plane, "GET", f"{PATH}/a")
        changed = copy.deepcopy(stored)
        changed["metadata"] |= {"creationTimestamp": "2020-01-01T00:00:00Z", "generation": 7, "selfLink": "/x"}
        assert (await ask(plane, "PUT", f"{PATH}/a", changed))[0] == 200
        _, kept = await ask(plane, "GET", f"{PATH}/a")
        for metadata in (kept["metadata"], stored["metadata"]):
            metadata.pop("managedFields", None)
        assert kept["metadata"] == stored["metadata"]
        changed["metadata"]["uid"] = "other"
        assert (await ask(plane, "PUT", f"{PATH}/a", changed))[0] == 409


async def test_an_object_is_deleted_with_its_last_finalizer():
    """A deletion waits for all finalizers; until then the object can be read. A dry run removes nothing."""
    async with with_request(finalizers=["example.com/x", "example.com/y"]) as plane:
        await ask(plane, "DELETE", f"{PATH}/a")
        _, waiting = await ask(plane, "GET", f"{PATH}/a")
        waiting["metadata"]["finalizers"] = ["example.com/y"]
        assert (await ask(plane, "PUT", f"{PATH}/a", waiting))[0] == 200
        status, waiting = await ask(plane, "GET", f"{PATH}/a")
        assert (status, waiting["metadata"]["finalizers"]) == (200, ["example.com/y"])
        waiting["metadata"]["finalizers"] = []
        assert (await ask(plane, "PUT", f"{PATH}/a?dryRun=All", waiting))[0] == 200
        assert (await ask(plane, "GET", f"{PATH}/a"))[0] == 200
        assert (await ask(plane, "PUT", f"{PATH}/a", waiting))[0] == 200
        assert (await ask(plane, "GET", f"{PATH}/a"))[0] == 404


@pytest.mark.parametrize("query", ["?dryRun=All", ""])
async def test_a_dry_run_deletes_nothing(query):
    """Its response is that of a deletion."""
    async with with_request() as plane:
        assert (await ask(plane, "DELETE", f"{PATH}/a{query}"))[0] == 200
        assert (await ask(plane, "GET", f"{PATH}/a"))[0] == (200 if query else 404)


@pytest.mark.parametrize(
    ("condition_", "status"),
    [
        (lambda meta: {"uid": meta["uid"], "resourceVersion": meta["resourceVersion"]}, 200),
        (lambda meta: {"uid": "other"}, 409),
        (lambda meta: {"resourceVersion": "1"}, 409),
        (lambda meta: {"uid": meta["uid"], "resourceVersion": "1"}, 409),
    ],
)
async def test_preconditions_of_a_deletion(condition_, status):
    """An object is only deleted if its UID and resourceVersion are those that the client has seen."""
    async with with_request() as plane:
        _, stored = await ask(plane, "GET", f"{PATH}/a")
        preconditions = {"preconditions": condition_(stored["metadata"])}
        assert (await ask(plane, "DELETE", f"{PATH}/a", preconditions))[0] == status
        assert (await ask(plane, "GET", f"{PATH}/a"))[0] == (404 if status == 200 else 200)


@pytest.mark.parametrize("method", ["PUT", "POST"])
async def test_duplicate_owner_references_are_stored_once(method):
    """The client gets a warning with the UID."""
    owner = {"apiVersion": "v1", "kind": "Node", "name": "n", "uid": "1"}
    async with with_request() as plane:
        _, stored = await ask(plane, "GET", f"{PATH}/a")
        stored["metadata"]["ownerReferences"] = [owner, owner]
        path = f"{PATH}/a"
        if method == "POST":
            stored["metadata"] = {"name": "b", "ownerReferences": [owner, owner]}
            path = PATH
        response = await flow.respond(plane, method, path, stored, content_type="application/json")
    assert json.loads(response.body)["metadata"]["ownerReferences"] == [owner]
    assert any(text.endswith("duplicate UID(s) observed: 1") for text in flow.warning_texts(response))


class LateStore(memory.MemoryStore):
    """A store to which other servers write as well: their changes reach the watches a little later."""

    is_late = False

    def _record(self, change):
        if not self.is_late:
            return super()._record(change)
        self._changes.append(change)
        for watch in list(self._watches):
            asyncio.get_running_loop().call_soon(watch.offer, (change,))
        return None


@pytest.mark.parametrize(("method", "status"), [("PUT", 200), ("DELETE", 200), ("POST", 409)])
async def test_a_write_sees_recent_writes_of_another_server(method, status):
    """If the watch cache is behind, it catches up with the store first."""
    store = LateStore()
    async with flow.running(store=store) as plane:
        await plane.client(flow.ADMIN).create(csrs.RESOURCE, flow.new_csr("a"))
        _, body = await ask(plane, "GET", f"{PATH}/a")
        body["metadata"] = {"name": "b"}
        (stored,) = (await store.list(csrs.RESOURCE.prefix)).items
        store.is_late = True
        value = stored.value.replace(b'"name":"a"', b'"name":"b"')
        written = await store.create(f"{csrs.RESOURCE.prefix}b", value)
        body["metadata"]["resourceVersion"] = "" if method == "POST" else str(written.mod_revision)
        path = PATH if method == "POST" else f"{PATH}/b"
        assert (await ask(plane, method, path, body if method != "DELETE" else b""))[0] == status


@pytest.mark.parametrize(("method", "path"), [("POST", ""), ("PUT", "/a"), ("DELETE", "/a")])
async def test_writes_to_a_closed_store_are_answered_with_503(method, path):
    """A client may retry, at another server."""
    store = memory.MemoryStore()
    async with flow.running(store=store) as plane:
        await plane.client(flow.ADMIN).create(csrs.RESOURCE, flow.new_csr("a"))
        _, body = await ask(plane, "GET", f"{PATH}/a")
        if method == "POST":
            body["metadata"] = {"name": "b"}
        body["metadata"]["labels"] = {"a": "b"}
        await store.close()
        assert (await ask(plane, method, f"{PATH}{path}", body if method != "DELETE" else b""))[0] == 503


@pytest.mark.parametrize(
    ("policy", "finalizers"),
    [
        ("Background", ["example.com/x"]),
        ("Orphan", ["example.com/x", "orphan"]),
        ("Foreground", ["example.com/x", "foregroundDeletion"]),
    ],
)
async def test_a_propagation_policy_becomes_a_finalizer(policy, finalizers):
    """It is the finalizer of the garbage collector, after the others; a later deletion replaces it."""
    async with with_request(finalizers=["example.com/x"]) as plane:
        await ask(plane, "DELETE", f"{PATH}/a?propagationPolicy=Orphan")
        await ask(plane, "DELETE", f"{PATH}/a?propagationPolicy={policy}")
        _, stored = await ask(plane, "GET", f"{PATH}/a")
    assert stored["metadata"]["finalizers"] == finalizers
    assert "deletionTimestamp" in stored["metadata"]


@pytest.mark.parametrize(("version", "status"), [("", 201), ("0", 201), ("1", 500)])
async def test_creation_with_a_resource_version(version, status):
    """The value 0 is treated as empty; another one is refused."""
    async with with_request() as plane:
        _, body = await ask(plane, "GET", f"{PATH}/a")
        body["metadata"] = {"name": "b", "resourceVersion": version}
        assert (await ask(plane, "POST", PATH, body))[0] == status
        assert (await ask(plane, "GET", f"{PATH}/b"))[0] == (200 if status == 201 else 404)
