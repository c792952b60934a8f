"""The inventory: what is kept of certificates after their requests are deleted."""

from __future__ import annotations

import asyncio
import datetime
import json

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import NameOID

from certplane import testing
from certplane.inventory import recorder, retention
from certplane.meta import context
from certplane.resources import certificatesigningrequests as csrs
from certplane.resources import issuedcertificates as issued
from certplane.store import archive, memory
from certplane.wire import codec
from tests.flow import plane as flow

_PATH = "/apis/inventory.certplane.io/v1alpha1/issuedcertificates"
_BOB = testing.user("bob", "system:masters")


async def issue(plane, name="a", subject="jane", user=flow.ADMIN, **spec):
    """The certificate of a new request that bob has approved."""
    await plane.client(user).create(csrs.RESOURCE, flow.new_csr(name, request=testing.new_pkcs10(subject), **spec))
    await flow.decide(plane.client(_BOB), name)
    return await flow.issued(plane.client(flow.ADMIN), name)


def certificate_for(csr, clock):
    """What a signer elsewhere publishes for a request."""
    request, now = x509.load_pem_x509_csr(csr.spec.request), clock.now()
    builder = x509.CertificateBuilder().subject_name(request.subject).issuer_name(request.subject)
    builder = builder.public_key(request.public_key()).serial_number(1)
    builder = builder.not_valid_before(now).not_valid_after(now + datetime.timedelta(hours=1))
    return builder.sign(testing.new_key(), hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


async def inventory(plane, selector="", query=""):
    status, listing = await flow.request_json(plane, "GET", f"{_PATH}?fieldSelector={selector}{query}")
    assert status == 200, listing
    return listing


async def test_an_issued_certificate_is_kept_with_who_requested_and_approved_it():
    """Also after its request is deleted. The users are those of the calls."""
    async with flow.running() as plane:
        certificate = await issue(plane, expiration_seconds=600)
        request = await plane.client(flow.ADMIN).get(csrs.RESOURCE, "a")
        await plane.client(flow.ADMIN).delete(csrs.RESOURCE, "a")
        (item,) = (await inventory(plane))["items"]
        fingerprint = certificate.fingerprint(certificate.signature_hash_algorithm).hex()
        assert item["metadata"]["name"] == f"{fingerprint[:24]}-{request.metadata.uid[:8]}"
        assert item["signerName"] == flow.CLIENT
        facts = item["certificate"]
        assert facts["fingerprint"] == fingerprint
        assert facts["serialNumber"] == f"{certificate.serial_number:x}"
        assert facts["commonName"] == "jane"
        assert facts["pem"].encode() == request.status.certificate
        ends = certificate.not_valid_after_utc.strftime("%Y-%m-%dT%H:%M:%SZ")
        assert facts["notAfter"] == ends
        assert item["requester"]["username"] == "admin"
        assert item["approval"]["username"] == "bob"
        assert item["approval"]["method"] == issued.PERSON
        assert item["request"]["name"] == "a"
        assert item["request"]["uid"] == request.metadata.uid
        signer = "system:serviceaccount:kube-system:certificate-controller"
        assert item["source"] == {"type": "Issued", "username": signer}


async def test_an_external_signer_is_recorded():
    """Whoever publishes a certificate: the entry is made by the write itself."""
    async with flow.running() as plane:
        client = plane.client(flow.ADMIN)
        await client.create(csrs.RESOURCE, flow.new_csr(signer_name="example.com/own"))
        await flow.decide(client, "a")
        csr = await client.get(csrs.RESOURCE, "a")
        csr.status.certificate = certificate_for(csr, plane.clock)
        await client.update(csrs.RESOURCE, csr, "status")
        (item,) = (await inventory(plane, "signerName%3Dexample.com/own"))["items"]
        assert item["source"]["username"] == "admin"


async def test_the_approver_is_known_after_a_restart():
    """The approval is in the store, not only in the memory of the process."""
    store, clock = memory.MemoryStore(), testing.FakeClock()
    async with flow.running(store, clock) as plane:
        await plane.client(flow.ADMIN).create(csrs.RESOURCE, flow.new_csr(signer_name="example.com/own"))
        await flow.decide(plane.client(_BOB), "a")
    async with flow.running(store, clock) as plane:
        csr = await plane.client(flow.ADMIN).get(csrs.RESOURCE, "a")
        csr.status.certificate = certificate_for(csr, clock)
        await plane.client(flow.ADMIN).update(csrs.RESOURCE, csr, "status")
        (item,) = (await inventory(plane))["items"]
        assert item["approval"]["username"] == "bob"


class _Rivalled(memory.MemoryStore):
    """An approval is written only when a second one, that of `rival`, is about to be written as well."""

    rival = None

    async def update(self, key, value, expected, archived=()):
        if self.rival is None or not any(entry.collection == recorder.APPROVALS for entry in archived):
            return await super().update(key, value, expected, archived)
        if self.arrived is None:
            self.arrived, self.written = asyncio.Event(), asyncio.Event()
            self.second = asyncio.create_task(self.rival())
            await self.arrived.wait()
            written = await super().update(key, value, expected, archived)
            self.written.set()
            return written
        self.arrived.set()
        await self.written.wait()
        return await super().update(key, value, expected, archived)

    arrived = None


async def test_of_two_approvals_at_the_same_time_the_stored_one_counts():
    """The other one was not written: its user has approved nothing."""
    store = _Rivalled()
    async with flow.running(store) as plane:
        await plane.client(flow.ADMIN).create(csrs.RESOURCE, flow.new_csr(signer_name="example.com/own"))
        path = "/apis/certificates.k8s.io/v1/certificatesigningrequests/a/approval"
        patch = {"status": {"conditions": [{"type": "Approved", "status": "True", "reason": "R"}]}}

        async def approve(name):
            media_type = "application/strategic-merge-patch+json"
            user = testing.user(name, "system:masters")
            assert (await flow.respond(plane, "PATCH", path, patch, user=user, content_type=media_type)).status == 200

        store.rival = lambda: approve("bob")
        await approve("alice")
        await store.second
        csr = await plane.client(flow.ADMIN).get(csrs.RESOURCE, "a")
        csr.status.certificate = certificate_for(csr, plane.clock)
        await plane.client(flow.ADMIN).update(csrs.RESOURCE, csr, "status")
        (item,) = (await inventory(plane))["items"]
        assert item["approval"]["username"] == "alice"


async def test_a_certificate_that_is_published_twice_is_kept_for_each_request():
    """A signer elsewhere may do that, and each request has its own requester."""
    async with flow.running() as plane:
        client, request = plane.client(flow.ADMIN), testing.new_pkcs10("jane")
        for name in ("a", "b"):
            await client.create(csrs.RESOURCE, flow.new_csr(name, "example.com/own", request=request))
            await flow.decide(client, name)
        first = await client.get(csrs.RESOURCE, "a")
        certificate = certificate_for(first, plane.clock)
        first.status.certificate = certificate
        await client.update(csrs.RESOURCE, first, "status")
        second = await client.get(csrs.RESOURCE, "b")
        second.status.certificate = certificate
        await client.update(csrs.RESOURCE, second, "status")
        items = (await inventory(plane))["items"]
        assert [item["request"]["name"] for item in items] == ["a", "b"]
        assert len({item["certificate"]["fingerprint"] for item in items}) == 1
        # The check at the end wants each serial number once.
        await client.delete(csrs.RESOURCE, "b")


async def test_a_certificate_that_has_ended_already_is_kept():
    """A signer cannot hide what it has published by a date in the past."""
    async with flow.running() as plane:
        client = plane.client(flow.ADMIN)
        await client.create(csrs.RESOURCE, flow.new_csr(signer_name="example.com/own"))
        await flow.decide(client, "a")
        csr = await client.get(csrs.RESOURCE, "a")
        past = testing.FakeClock(plane.clock.now() - datetime.timedelta(days=3650))
        csr.status.certificate = certificate_for(csr, past)
        await client.update(csrs.RESOURCE, csr, "status")
        keeper = retention.Retention(plane.store.archive, plane.clock, datetime.timedelta(days=90))
        await keeper.remove_ended()
        assert len((await inventory(plane, "endsBefore%3D1s"))["items"]) == 1


async def test_a_dry_run_is_not_kept():
    """Neither an approval nor a certificate was made."""
    async with flow.running() as plane:
        client = plane.client(flow.ADMIN)
        await client.create(csrs.RESOURCE, flow.new_csr(signer_name="example.com/own"))
        csr = await client.get(csrs.RESOURCE, "a")
        path = "/apis/certificates.k8s.io/v1/certificatesigningrequests/a/status?dryRun=All"
        csr.status.certificate = certificate_for(csr, plane.clock)
        status, _ = await flow.request_json(plane, "PUT", path, codec.encode(csr), content_type="application/json")
        assert status == 200
        assert (await inventory(plane))["items"] == []


@pytest.mark.parametrize(
    ("selector", "names"),
    [
        ("commonName%3Djane", ["jane"]),
        ("organization%3Dops", ["root"]),
        ("request%3Db", ["root"]),
        ("requester%3Dadmin,commonName!%3Djane", ["root"]),
        ("approver%3Dbob", ["jane", "root"]),
        ("approver%3Dalice", []),
        ("subject%3DCN%5C%3Djane", ["jane"]),
        ("endsBefore%3D1h", ["jane"]),
        ("endsAfter%3D1h", ["root"]),
        ("endsBefore%3D2h,endsAfter%3D1h,commonName%3Djane", []),
        ("metadata.name%3Dnone", []),
    ],
)
async def test_selectors(selector, names):
    """The fields that people search by; all requirements must hold."""
    async with flow.running() as plane:
        await issue(plane, expiration_seconds=600)
        await issue(plane, "b", "root", expiration_seconds=6000) if "ops" not in selector else await _with_group(plane)
        found = [item["certificate"]["commonName"] for item in (await inventory(plane, selector))["items"]]
        assert found == names


async def _with_group(plane):
    subject = x509.Name(
        [x509.NameAttribute(NameOID.ORGANIZATION_NAME, "ops"), x509.NameAttribute(NameOID.COMMON_NAME, "root")]
    )
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(testing.new_key(), hashes.SHA256())
    csr = flow.new_csr("b", request=request.public_bytes(serialization.Encoding.PEM), expiration_seconds=6000)
    await plane.client(flow.ADMIN).create(csrs.RESOURCE, csr)
    await flow.decide(plane.client(_BOB), "b")
    await flow.issued(plane.client(flow.ADMIN), "b")


async def test_serial_numbers_and_fingerprints_are_found_as_openssl_prints_them():
    """With capital letters, colons and leading zeros."""
    async with flow.running() as plane:
        certificate = await issue(plane)
        serial = f"{certificate.serial_number:X}"
        fingerprint = certificate.fingerprint(certificate.signature_hash_algorithm).hex(":").upper()
        assert len((await inventory(plane, f"serialNumber%3D0{serial}"))["items"]) == 1
        assert len((await inventory(plane, f"fingerprint%3D{fingerprint}"))["items"]) == 1
        assert len((await inventory(plane, f"serialNumber%3D{serial}0"))["items"]) == 0


@pytest.mark.parametrize("selector", ["color%3Dred", "endsBefore%3Dsoon", "endsBefore!%3D1h", "metadata.name!%3Da"])
async def test_unknown_selectors_are_refused(selector):
    """With a 400 that names the known ones."""
    async with flow.running() as plane:
        status, body = await flow.request_json(plane, "GET", f"{_PATH}?fieldSelector={selector}")
        assert status == 400
        assert "endsBefore" in body["message"]


async def test_a_selector_has_a_bounded_number_of_requirements():
    """Each is a test on every entry, and the database has limits of its own."""
    async with flow.running() as plane:
        for count, code in ((20, 200), (21, 400), (3000, 400)):
            selector = ",".join(f"approver!%3Du{number}" for number in range(count))
            status, _ = await flow.request_json(plane, "GET", f"{_PATH}?fieldSelector={selector}")
            assert status == code


async def test_pages():
    """Each has a token for the next; the order is that of the ends."""
    async with flow.running() as plane:
        for number in range(3):
            await issue(plane, f"r{number}", f"user{number}", expiration_seconds=6000 - 600 * number)
        first = await inventory(plane, query="&limit=2")
        second = await inventory(plane, query=f"&limit=2&continue={first['metadata']['continue']}")
        found = [item["certificate"]["commonName"] for item in (*first["items"], *second["items"])]
        assert found == ["user2", "user1", "user0"]
        assert "continue" not in second["metadata"]


@pytest.mark.parametrize("token", ["x", "eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6MSwic3RhcnQiOiJhIn0"])
async def test_a_token_of_another_list_is_refused(token):
    """With a 400."""
    async with flow.running() as plane:
        status, _ = await flow.request_json(plane, "GET", f"{_PATH}?limit=1&continue={token}")
        assert status == 400


async def test_a_list_that_would_not_be_complete_is_refused(monkeypatch):
    """Clients that ignore the token would take a part for the whole."""
    monkeypatch.setattr("certplane.registry.archived.MAX_PAGE", 1)
    async with flow.running() as plane:
        await issue(plane)
        assert len((await inventory(plane))["items"]) == 1
        await issue(plane, "b")
        status, body = await flow.request_json(plane, "GET", _PATH)
        assert (status, "set a limit" in body["message"]) == (400, True)
        assert len((await inventory(plane, query="&limit=5"))["items"]) == 1


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", ""), ("PUT", "/a"), ("PATCH", "/a"), ("DELETE", "/a"), ("DELETE", ""), ("GET", "?watch=true")],
)
async def test_the_kind_is_read_only(method, path):
    """Nobody can change the history."""
    async with flow.running() as plane:
        headers = {"content_type": "application/merge-patch+json"} if method == "PATCH" else {}
        status, _ = await flow.request_json(plane, method, _PATH + path, {}, **headers)
        assert status == 405


async def test_reading_needs_a_permission():
    """As for every other kind."""
    async with flow.running() as plane:
        status, _ = await flow.request_json(plane, "GET", _PATH, user=flow.JANE)
        assert status == 403


async def test_get_and_table():
    """One object by its name, and the columns of kubectl."""
    async with flow.running() as plane:
        await issue(plane, expiration_seconds=600)
        (item,) = (await inventory(plane))["items"]
        status, one = await flow.request_json(plane, "GET", f"{_PATH}/{item['metadata']['name']}")
        assert (status, one["kind"], one["certificate"]) == (200, "IssuedCertificate", item["certificate"])
        assert (await flow.request_json(plane, "GET", f"{_PATH}/none"))[0] == 404
        accept = "application/json;as=Table;v=v1;g=meta.k8s.io"
        _, table = await flow.request_json(plane, "GET", _PATH, accept=accept)
        columns = [column["name"] for column in table["columnDefinitions"] if not column["priority"]]
        assert columns == ["Name", "Subject", "SignerName", "Requestor", "Approver", "Ends", "Age"]
        assert table["rows"][0]["cells"][1:6] == ["jane", flow.CLIENT, "admin", "bob", "10m"]


async def test_other_representations():
    """Protobuf and YAML, as for every kind."""
    async with flow.running() as plane:
        await issue(plane)
        for media_type in ("application/vnd.kubernetes.protobuf", "application/yaml"):
            response = await flow.respond(plane, "GET", _PATH, accept=media_type)
            assert (response.status, response.content_type) == (200, media_type)


async def test_certificates_are_removed_some_time_after_their_end():
    """The setting counts from the end. Approvals without a certificate have an end of their own."""
    store, clock = memory.MemoryStore(), testing.FakeClock()
    now = int(clock.now().timestamp())
    await store.archive.append(
        [archive.Entry(recorder.APPROVALS, "u", now + 5, (), b"")]
        + [archive.Entry("issued", f"c{number}", now + number, (), b"") for number in range(500)]
    )
    keeper = retention.Retention(store.archive, clock, datetime.timedelta(seconds=100))
    await clock.advance(110)
    await keeper.remove_ended()
    assert await store.archive.get(recorder.APPROVALS, "u") is None
    assert await store.archive.get("issued", "c9") is None
    assert await store.archive.get("issued", "c10") is not None
    await clock.advance(1000)
    await keeper.remove_ended()
    assert await store.archive.get("issued", "c499") is None


async def test_a_certificate_that_cannot_be_parsed_is_published_and_recorded(monkeypatch):
    """What Go accepts and the library does not must not stop a signer: then only the digest is known."""

    def refuse(raw):
        raise ValueError("an extension that only Go accepts")

    async with flow.running() as plane:
        client = plane.client(flow.ADMIN)
        await client.create(csrs.RESOURCE, flow.new_csr(signer_name="example.com/own"))
        await flow.decide(client, "a")
        csr = await client.get(csrs.RESOURCE, "a")
        csr.status.certificate = certificate_for(csr, plane.clock)
        with monkeypatch.context() as patch:
            patch.setattr("cryptography.x509.load_der_x509_certificate", refuse)
            await client.update(csrs.RESOURCE, csr, "status")
        (item,) = (await inventory(plane))["items"]
        assert item["certificate"]["fingerprint"]
        assert "notAfter" not in item["certificate"]


async def test_the_methods_of_approval():
    """A service account is no person, and a controller of the control plane no service account of a user."""
    methods = {}
    async with flow.running() as plane:
        for number, name in enumerate(
            (
                "bob",
                "system:serviceaccount:ci:bot",
                "system:serviceaccount:kube-system:certificate-controller",
                "system:serviceaccount:kube-system:kubelet-serving-approver",
            )
        ):
            await plane.client(flow.ADMIN).create(csrs.RESOURCE, flow.new_csr(f"r{number}"))
            user = context.User(name, groups=("system:masters", "system:authenticated"))
            await flow.decide(plane.client(user), f"r{number}")
            await flow.issued(plane.client(flow.ADMIN), f"r{number}")
        for item in (await inventory(plane))["items"]:
            methods[item["approval"]["username"]] = item["approval"]["method"]
    assert list(methods.values()) == [issued.PERSON, issued.SERVICE_ACCOUNT, issued.CONTROLLER, issued.RULE]


async def test_the_archive_keeps_one_entry_for_a_certificate():
    """One row, and one for the approval."""
    async with flow.running() as plane:
        await issue(plane)
        for collection in ("issued", "approvals"):
            found = await plane.store.archive.find(archive.Query(collection), 10)
            assert len(found.entries) == 1
            json.loads(found.entries[0].value)


async def test_a_server_without_our_kinds_records_all_the_same():
    """With --creation-hints=false a server has the kinds of Kubernetes only; the history has no gap."""
    async with flow.running(creation_hints=False) as plane:
        await issue(plane)
        assert (await flow.respond(plane, "GET", _PATH)).status == 404
        assert len((await plane.store.archive.find(archive.Query("issued"), 10)).entries) == 1
