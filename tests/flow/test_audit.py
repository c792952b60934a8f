"""Audit events of whole requests."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime
import json

import pytest
from click import testing as click_testing

from certplane import errors, testing
from certplane.access import tokens
from certplane.cli import audit as audit_command
from certplane.config import servesettings
from certplane.config.servesettings import DEFAULTS, LogRotation
from certplane.meta import context
from certplane.plane import serve
from certplane.resources import certificatesigningrequests as csrs
from certplane.resources import configmaps, secrets, serviceaccounts
from certplane.server import audit, auditlog, auditpolicy, exchange
from certplane.store import memory
from certplane.x509 import keys
from tests.flow import plane as flow
from tests.flow.tokens import request_token

CSRS = "/apis/certificates.k8s.io/v1/certificatesigningrequests"
PARTIAL_LIST = "PartialObjectMetadataList"
BOB = context.User("bob", groups=("system:authenticated",))


def _everything(level="RequestResponse", **more):
    document = {"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "rules": [{"level": level, **more}]}
    return auditpolicy.parse(json.dumps(document).encode())


class Log:
    def __init__(self):
        self.lines = []

    def __call__(self, line, *, may_wait):
        self.lines.append(line)

    def events(self, **fields):
        """The events that have these fields."""
        events = [json.loads(line) for line in self.lines]
        return [event for event in events if all(event.get(key) == value for key, value in fields.items())]


async def test_the_approvals_command_lists_decisions():
    """An approval, a denial and the serial number of the certificate are listed under the default policy."""
    log = Log()
    async with flow.running(audit_sink=log) as plane:
        client = plane.client(flow.ADMIN)
        await client.create(csrs.RESOURCE, flow.new_csr("yes"))
        await client.create(csrs.RESOURCE, flow.new_csr("no"))
        await flow.decide(client, "yes")
        await flow.decide(client, "no", csrs.DENIED)
        certificate = await flow.issued(client, "yes")
    approvals = {approval.csr: approval for approval in audit_command.approvals(log.lines)}
    assert (approvals["yes"].decision, approvals["yes"].by, approvals["yes"].requestor) == (
        "Approved",
        "admin",
        "admin",
    )
    assert approvals["yes"].serial == f"{certificate.serial_number:x}"
    assert approvals["yes"].not_after == certificate.not_valid_after_utc.strftime("%Y-%m-%dT%H:%M:%SZ")
    assert (approvals["no"].decision, approvals["no"].serial) == ("Denied", "")


async def test_refused_and_dry_run_approvals_are_not_listed():
    """Only stored decisions count."""
    log = Log()
    async with flow.running(audit_sink=log) as plane:
        await plane.client(flow.ADMIN).create(csrs.RESOURCE, flow.new_csr())
        with pytest.raises(errors.Forbidden):
            await flow.decide(plane.client(flow.JANE), "a")
        csr = await plane.client(flow.ADMIN).get(csrs.RESOURCE, "a")
        csr.status.conditions.append(csrs.CertificateSigningRequestCondition(type="Approved", status="True"))
        body = json.dumps(csrs.codec.to_builtins(csr)).encode()
        response = await _send(plane, flow.ADMIN, "PUT", "/a/approval", query="dryRun=All", body=body)
        assert response.status == 200
        assert audit_command.approvals(log.lines) == []
        (refused,) = log.events(verb="get", user={"username": "jane", "groups": ["system:authenticated"]})
        assert refused["responseStatus"]["reason"] == "Forbidden"
        decision = {"authorization.k8s.io/decision": "forbid", "authorization.k8s.io/reason": ""}
        assert refused["annotations"] == decision


async def _send(plane, user, method, rest="", *, query="", headers=(), body=b""):
    defaults = [(b"content-type", b"application/json"), (b"user-agent", b"test/1")]
    target = f"{CSRS}{rest}" + (f"?{query}" if query else "")
    return await flow.respond(plane, method, target, body, user=user, fields=[*headers, *defaults])


async def test_bodies_are_recorded_by_level():
    """Level Request adds the request body, RequestResponse also the response body; both are JSON of the request's
    version.
    """
    log = Log()
    async with flow.running(audit_sink=log, audit_policy=_everything(users=["admin"])) as plane:
        await plane.client(flow.ADMIN).create(csrs.RESOURCE, flow.new_csr())
        first, last = log.events(verb="create")
        assert (first["stage"], last["stage"]) == ("RequestReceived", "ResponseComplete")
        assert "name" not in first["objectRef"]
        assert "requestObject" not in first
        assert last["objectRef"] == {
            "resource": "certificatesigningrequests",
            "name": "a",
            "apiGroup": "certificates.k8s.io",
            "apiVersion": "v1",
        }
        assert last["responseStatus"] == {"metadata": {}, "code": 201}
        assert "username" not in last["requestObject"]["spec"]
        assert last["responseObject"]["spec"]["username"] == "admin"
        patch = b'{"metadata":{"labels":{"a":"b"}}}'
        merge = [(b"content-type", b"application/merge-patch+json")]
        await _send(plane, flow.ADMIN, "PATCH", "/a", body=patch, headers=merge)
        _, patched = log.events(verb="patch")
        assert patched["requestObject"] == json.loads(patch)
        assert patched["responseObject"]["metadata"]["labels"] == {"a": "b"}


async def test_secrets_are_never_in_the_log():
    """No body, annotation or error contains a Secret's data, whatever the policy says."""
    log = Log()
    async with flow.running(audit_sink=log, audit_policy=_everything()) as plane:
        client = plane.client(flow.ADMIN)
        secret = secrets.Secret(string_data={"password": "correct-horse"})
        secret.metadata.name = "s"
        await client.create(secrets.RESOURCE, secret, "default")
        stored = await client.get(secrets.RESOURCE, "s", "default")
        stored.data["other"] = b"battery-staple"
        await client.update(secrets.RESOURCE, stored)
        await client.list(secrets.RESOURCE)
        await client.delete(secrets.RESOURCE, "s", "default")
    text = b"".join(log.lines)
    assert log.events(verb="update", level="Metadata")
    for secret in (b"correct-horse", b"Y29ycmVjdC1ob3JzZQ", b"battery-staple", b"YmF0dGVyeS1zdGFwbGU"):
        assert secret not in text


@pytest.mark.parametrize(
    ("patch_type", "patch"),
    [
        ("merge-patch+json", b'{"metadata":{"labels":[]}}'),
        ("strategic-merge-patch+json", b'{"stringData":{"a":"battery-staple"},"metadata":{"labels":[]}}'),
        ("apply-patch+yaml", b"{apiVersion: v1, kind: Secret, stringData: {a: [battery-staple]}}"),
    ],
)
async def test_errors_about_secrets_are_recorded_without_their_text(patch_type, patch):
    """The client gets the text, which quotes the request and the stored object."""
    log = Log()
    async with flow.running(audit_sink=log) as plane:
        secret = secrets.Secret(string_data={"password": "correct-horse"})
        secret.metadata.name = "s"
        await plane.client(flow.ADMIN).create(secrets.RESOURCE, secret, "default")
        target = "/api/v1/namespaces/default/secrets/s?fieldManager=test"
        response = await flow.respond(plane, "PATCH", target, patch, content_type=f"application/{patch_type}")
    (event,) = log.events(verb="patch")
    assert event["responseStatus"]["code"] == response.status >= 400
    text = b"".join(log.lines)
    for secret in (b"correct-horse", b"Y29ycmVjdC1ob3JzZQ", b"battery-staple"):
        assert secret not in text


async def test_clients_cannot_forge_events():
    """A body with line breaks between its tokens is one line of the log."""
    forged = {"stage": "ResponseComplete", "annotations": {"certplane.io/csr-decision": "Approved"}}
    body = b'{"metadata":{"labels":{"a":"b"}},"x":[\n' + json.dumps(forged).encode() + b"\r\n]}\n"
    log = Log()
    async with flow.running(audit_sink=log, audit_policy=_everything("Request")) as plane:
        await plane.client(flow.ADMIN).create(csrs.RESOURCE, flow.new_csr())
        await flow.respond(plane, "PATCH", f"{CSRS}/a", body, content_type="application/merge-patch+json")
    assert all(line.count(b"\n") == 1 and b"\r" not in line for line in log.lines)
    (event,) = log.events(verb="patch", stage="ResponseComplete")
    assert event["requestObject"]["x"] == [forged]


async def test_a_watch_is_recorded_when_it_begins_and_when_it_ends():
    """The event of a started watch has stage ResponseStarted, that of an ended one ResponseComplete."""
    log = Log()
    async with flow.running(audit_sink=log, audit_policy=_everything("Metadata", users=["admin"])) as plane:
        response = await _send(plane, flow.ADMIN, "GET", query="watch=true")
        assert [event["stage"] for event in log.events(verb="watch")] == ["RequestReceived", "ResponseStarted"]
        async for _ in response.stream:
            break
        await response.stream.aclose()
        assert [event["stage"] for event in log.events(verb="watch")][-1] == "ResponseComplete"


async def test_impersonation_is_recorded():
    """The event has both users, and the constraint that allowed the impersonation."""
    log = Log()
    async with flow.running(audit_sink=log, audit_policy=_everything("Metadata")) as plane:
        await _send(plane, flow.ADMIN, "GET", headers=[(b"impersonate-user", b"bob")])
        (event,) = log.events(stage="ResponseComplete", verb="list", userAgent="test/1")
        assert event["user"]["username"] == "admin"
        assert event["impersonatedUser"] == {"username": "bob", "groups": ["system:authenticated"]}
        assert event["authenticationMetadata"] == {"impersonationConstraint": "impersonate:user-info"}


async def test_failed_authentication_is_recorded():
    """An invalid token is answered with 401; its event has an empty user and no token."""
    log = Log()
    async with flow.running(audit_sink=log, audit_policy=_everything("Metadata")) as plane:
        headers = [(b"authorization", b"Bearer nonsense")]
        assert (await _send(plane, None, "GET", headers=headers)).status == 401
        (event,) = log.events(stage="ResponseStarted", verb="list")
        assert (event["user"], event["responseStatus"]["code"]) == ({}, 401)
        assert b"nonsense" not in b"".join(log.lines)


async def test_omit_managed_fields_applies_to_all_recorded_objects():
    """It applies to objects, to items of lists, and to objects in rows of tables."""
    log = Log()
    policy = _everything(omitManagedFields=True)
    async with flow.running(audit_sink=log, audit_policy=policy) as plane:
        config_map = configmaps.ConfigMap(data={"a": "b"})
        config_map.metadata.name = "c"
        created = await plane.client(flow.ADMIN).create(configmaps.RESOURCE, config_map, "default")
        assert created.metadata.managed_fields
        await plane.client(flow.ADMIN).list(configmaps.RESOURCE, "default")
        recorded = log.events(stage="ResponseComplete", verb="create")[-1]["responseObject"]
        assert recorded["data"] == {"a": "b"}
        assert "managedFields" not in json.dumps(log.events(verb="list"))
        target = "/api/v1/namespaces/default/configmaps/c?includeObject=Object"
        await flow.respond(plane, "GET", target, accept="application/json;as=Table;v=v1;g=meta.k8s.io")
        table = log.events(verb="get")[-1]["responseObject"]
        assert table["rows"][0]["object"]["data"] == {"a": "b"}
        assert "managedFields" not in json.dumps(table)


def test_the_approvals_command_skips_invalid_lines():
    """Partial lines, other events and lines that are not JSON are skipped."""
    lines = [b"certplane.io/ half", b"{}", b'{"annotations":{"certplane.io/csr-decision":"Approved"}}', b"\xff"]
    assert audit_command.approvals(lines) == []


async def test_reading_secrets_is_recorded():
    """The default policy skips requests of the server itself only."""
    log = Log()
    robot = context.User(
        "system:serviceaccount:kube-system:robot",
        groups=("system:serviceaccounts:kube-system", "system:masters", "system:authenticated"),
    )
    async with flow.running(audit_sink=log) as plane:
        await plane.client(robot).list(secrets.RESOURCE)
        users = [event["user"]["username"] for event in log.events(verb="list")]
    assert users == [robot.name]


async def test_a_client_that_disconnects_is_recorded(caplog):
    """The event has code 499; there is no Panic event and no traceback."""
    log = Log()

    async def half():
        yield b'{"kind":'
        raise exchange.ClientGone

    async with flow.running(audit_sink=log, audit_policy=_everything("Metadata", users=["admin"])) as plane:
        request = exchange.Request("POST", CSRS, "", exchange.Headers([]), half, identity=flow.ADMIN)
        with pytest.raises(exchange.ClientGone):
            await plane.handler(request)
        assert b'code="499"' in plane.telemetry.render()
    received, complete = log.events(verb="create")
    assert (received["stage"], complete["stage"]) == ("RequestReceived", "ResponseComplete")
    assert complete["responseStatus"]["code"] == 499
    assert complete["responseStatus"]["message"] == "the client disconnected before it had sent the whole request"
    assert "Traceback" not in caplog.text


async def test_approvals_with_other_conditions_are_listed():
    """Conditions written at the same time do not hide the decision."""
    log = Log()
    async with flow.running(audit_sink=log, controllers=frozenset()) as plane:
        client = plane.client(flow.ADMIN)
        await client.create(csrs.RESOURCE, flow.new_csr())
        csr = await client.get(csrs.RESOURCE, "a")
        for type_ in (csrs.APPROVED, "Zzz"):
            csr.status.conditions.append(csrs.CertificateSigningRequestCondition(type=type_, status="True"))
        await client.update(csrs.RESOURCE, csr, "approval")
    assert [approval.decision for approval in audit_command.approvals(log.lines)] == ["Approved"]


async def test_invalid_utf8_is_recorded():
    """Requests with invalid UTF-8 in a patch or in a header have events."""
    log = Log()
    async with flow.running(audit_sink=log, audit_policy=_everything("Request", users=["admin"])) as plane:
        await plane.client(flow.ADMIN).create(csrs.RESOURCE, flow.new_csr())
        patch = [(b"content-type", b"application/apply-patch+yaml")]
        response = await _send(
            plane, flow.ADMIN, "PATCH", "/a", body=b'{"\x80":1}', query="fieldManager=x", headers=patch
        )
        assert response.status == 400
        response = await _send(plane, flow.ADMIN, "GET", headers=[(b"impersonate-user", b"\xff")])
        assert response.status == 403
        (event,) = log.events(verb="list", stage="ResponseComplete")
        assert event["impersonatedUser"]["username"] == "\ufffd"
        assert log.events(verb="patch", stage="ResponseComplete")


async def _records(method, rest="", level="RequestResponse", **request):
    """The last event of one request on CertificateSigningRequests, of which `a` exists."""
    log = Log()
    async with flow.running(audit_sink=log, audit_policy=_everything(level, users=["admin"])) as plane:
        await plane.client(flow.ADMIN).create(csrs.RESOURCE, flow.new_csr())
        await _send(plane, flow.ADMIN, method, rest, **request)
        return log.events()[-1]


@pytest.mark.parametrize(
    ("method", "rest", "accept", "expected"),
    [
        ("GET", "/none", "application/json", ("Status", 404)),
        ("GET", "/a", "application/json;as=Table;v=v1;g=meta.k8s.io", ("Table", 200)),
        ("GET", "", "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io", (PARTIAL_LIST, 200)),
        ("GET", "/a", "application/yaml", ("CertificateSigningRequest", 200)),
        ("GET", "/a", "application/vnd.kubernetes.protobuf", ("CertificateSigningRequest", 200)),
        ("DELETE", "/a", "application/json", ("Status", 200)),
        ("GET", "/a", "image/png", (None, 406)),
    ],
)
async def test_responses_are_recorded_as_json(method, rest, accept, expected):
    """Errors, deletions, tables and other representations are recorded as JSON; a failed negotiation has no body."""
    record = await _records(method, rest, headers=[(b"accept", accept.encode())])
    assert (record.get("responseObject", {}).get("kind"), record["responseStatus"]["code"]) == expected
    if expected == (None, 406):
        assert record["responseStatus"] == {"metadata": {}, "code": 406}


async def test_request_bodies_are_recorded_with_their_type():
    """The type is recorded even if the client omits it; DeleteOptions have an internal version."""
    body = b'{"metadata":{"name":"b"},"spec":{"signerName":"example.com/a"}}'
    created = (await _records("POST", body=body))["requestObject"]
    assert (created["apiVersion"], created["kind"]) == ("certificates.k8s.io/v1", "CertificateSigningRequest")
    options = (await _records("DELETE", "/a", body=b'{"propagationPolicy":"Background"}'))["requestObject"]
    assert options == {
        "kind": "DeleteOptions",
        "apiVersion": "meta.k8s.io/__internal",
        "propagationPolicy": "Background",
    }


async def test_issued_tokens_are_recorded_with_their_id():
    """The event of the token request has the id of the issued token."""
    log = Log()
    issuer = tokens.Issuer(DEFAULTS.service_accounts, keys.generate("ECDSA-P256"))
    async with flow.running(audit_sink=log, audit_policy=_everything(), issuer=issuer) as plane:
        client = plane.client(flow.ADMIN)
        account = serviceaccounts.ServiceAccount()
        account.metadata.name = "robot"
        await client.create(serviceaccounts.RESOURCE, account, "default")
        token_request = serviceaccounts.TokenRequest()
        await request_token(client, token_request, "robot", "default")
        (record,) = log.events(stage="ResponseComplete", verb="create", level="Metadata")
        assert record["objectRef"]["subresource"] == "token"
        assert record["annotations"]["authentication.kubernetes.io/issued-credential-id"].startswith("JTI=")


async def test_unauthenticated_requests_do_not_displace_events(tmp_path):
    """Of thousands of large refused requests, some are recorded, truncated, and the others are counted, within a minute
    and without another request. Earlier approvals are still listed.
    """
    clock = testing.FakeClock()
    path = tmp_path / "audit.log"
    rotation = LogRotation(maxsize=1, maxbackup=1)
    log = auditlog.LogFile(path, rotation, clock, _encode_loss)
    approvals_log = auditlog.LogFile(tmp_path / "audit-approvals.log", rotation, clock, _encode_loss)
    settings = dataclasses.replace(DEFAULTS.audit, anonymous_rate=10)
    config = {"audit_sink": log.write, "audit_approvals_sink": approvals_log.write, "audit_settings": settings}
    async with flow.running(clock=clock, **config) as plane:
        client = plane.client(flow.ADMIN)
        await client.create(csrs.RESOURCE, flow.new_csr())
        await flow.decide(client, "a")
        certificate = await flow.issued(client, "a")
        for user, token, count in ((context.ANONYMOUS, b"", 2000), (None, b"Bearer nonsense", 2000)):
            for number in range(count):
                headers = [(b"authorization", token), (b"user-agent", b"x" * 60_000)] if token else []
                response = await _send(plane, user, "GET", f"/{number}" + "x" * 60_000, headers=headers)
                assert response.status in (401, 403)
        await clock.advance(60)
        log.flush()
        assert b'"certplane.io/records-left-out":"3900"' in path.read_bytes()
        assert b"certplane_audit_left_out_total 3900.0" in plane.telemetry.render()
    log.close()
    approvals_log.close()
    assert path.stat().st_size < 1024 * 1024
    result = click_testing.CliRunner().invoke(audit_command.audit, ["approvals", "--log", str(path), "-o", "json"])
    (approval,) = json.loads(result.stdout)
    assert (approval["csr"], approval["decision"], approval["serial"]) == (
        "a",
        "Approved",
        f"{certificate.serial_number:x}",
    )


def _encode_loss(count, since, until):
    return audit.loss_event("records-lost", count, since, until)


async def test_the_approvals_log_has_only_successful_writes(tmp_path):
    """It has creation, approval and issuance, no reads, errors or dry runs. Many reads rotate the audit log only."""
    clock, approvals_log = testing.FakeClock(), Log()
    path = tmp_path / "audit.log"
    log = auditlog.LogFile(path, LogRotation(maxsize=1, maxbackup=1), clock, _encode_loss)
    async with flow.running(clock=clock, audit_sink=log.write, audit_approvals_sink=approvals_log) as plane:
        client = plane.client(flow.ADMIN)
        await client.create(csrs.RESOURCE, flow.new_csr())
        with pytest.raises(errors.Forbidden):
            await flow.decide(plane.client(flow.JANE), "a")
        await flow.decide(client, "a")
        await flow.issued(client, "a")
        body = json.dumps(csrs.codec.to_builtins(flow.new_csr("b"))).encode()
        assert (await _send(plane, flow.ADMIN, "POST", query="dryRun=All", body=body)).status == 201
        for number in range(2000):
            await _send(plane, flow.ADMIN, "GET", f"/{number}" + "x" * 1_000)
            if number % 100 == 0:
                await clock.advance(1)  # Rotated files are named after the second.
    log.close()
    writes = [(event["verb"], event["objectRef"].get("subresource")) for event in approvals_log.events()]
    assert writes == [("create", None), ("update", "approval"), ("update", "status")]
    assert b"csr-decision" not in path.read_bytes() + auditlog.backups(path)[0].read_bytes()


async def test_the_approvals_log_is_written_without_the_audit_log(tmp_path):
    """With --audit-log-path none. Each record is in the file before the response is sent."""
    path = tmp_path / "approvals.log"
    settings = servesettings.read({"audit_log_path": "none", "audit_approvals_log_path": str(path)}, {}).audit
    logs = serve._open_audit_logs(settings, testing.FakeClock())
    config = logs.config(auditpolicy.DEFAULT)
    sinks = {"audit_sink": config.sink, "audit_approvals_sink": config.approvals_sink}
    async with flow.running(audit_settings=settings, **sinks) as plane:
        client = plane.client(flow.ADMIN)
        await client.create(csrs.RESOURCE, flow.new_csr())
        await client.list(csrs.RESOURCE)
        await flow.decide(client, "a")
        verbs = [json.loads(line)["verb"] for line in path.read_bytes().splitlines()]
        assert (await _send(plane, None, "GET", headers=[(b"authorization", b"Bearer nonsense")])).status == 401
        metrics = plane.telemetry.render()
    logs.close()
    assert verbs == ["create", "update"]
    assert b"certplane_audit_left_out_total 0.0" in metrics
    (approval,) = audit_command.approvals(path.read_bytes().splitlines(keepends=True))
    assert (approval.csr, approval.decision) == ("a", "Approved")
    assert not list(tmp_path.glob("none*"))


def test_without_both_logs_nothing_is_recorded():
    """--audit-log-path none disables the approvals log too, unless that has a path of its own."""
    settings = servesettings.read({"audit_log_path": "none"}, {}).audit
    assert serve._open_audit_logs(settings, testing.FakeClock()).config(auditpolicy.DEFAULT) is None


async def test_readyz_reports_lost_events():
    """Only authorized users see the reason; the server stays ready."""
    problem = ""
    async with flow.running(audit_problem=lambda: problem) as plane:

        async def ready(user):
            return await flow.respond(plane, "GET", "/readyz?verbose=", user=user)

        assert b"[+]audit-log ok" in (await ready(context.ANONYMOUS)).body
        problem = "No space left on device"
        response, admin_response = await ready(context.ANONYMOUS), await ready(flow.ADMIN)
    assert response.status == 200
    assert b"[!]audit-log failed, ignored: reason withheld" in response.body
    assert b"[!]audit-log failed, ignored: No space left on device" in admin_response.body


def test_a_loss_event_has_the_count_and_the_period():
    """It has the form of all events."""
    since = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    line = audit.loss_event("records-lost", 3, since, since + datetime.timedelta(seconds=90))
    event = json.loads(line)
    assert event["annotations"] == {"certplane.io/records-lost": "3"}
    moments = (event["requestReceivedTimestamp"], event["stageTimestamp"])
    assert moments == ("2026-01-01T00:00:00.000000Z", "2026-01-01T00:01:30.000000Z")
    assert (event["kind"], event["user"], line[-1:]) == ("Event", {"username": "system:apiserver"}, b"\n")
    assert audit_command.approvals([line]) == []


class _SlowStore(memory.MemoryStore):
    """An update is written at once, and returns when `may_return` is set."""

    def __init__(self):
        super().__init__()
        self.may_return = asyncio.Event()
        self.may_return.set()
        self.written = asyncio.Event()

    async def update(self, key, value, expected, archived=()):
        updated = await super().update(key, value, expected, archived)
        self.written.set()
        await self.may_return.wait()
        return updated


@pytest.mark.parametrize("end", ["cancelled", "failed"])
async def test_approvals_with_an_unknown_outcome_are_recorded(end):
    """If the server shuts down or the store fails between the write and its response, both logs have an event with an
    error code.
    """
    log, approvals_log = Log(), Log()
    fails = []
    store = (
        _SlowStore() if end == "cancelled" else memory.MemoryStore(lambda *_: fails[-1] if fails else memory.Fault.NONE)
    )
    async with flow.running(
        store, controllers=frozenset(), audit_sink=log, audit_approvals_sink=approvals_log
    ) as plane:
        client = plane.client(flow.ADMIN)
        await client.create(csrs.RESOURCE, flow.new_csr())
        if end == "cancelled":
            store.may_return.clear()
            approving = asyncio.ensure_future(flow.decide(client, "a"))
            await store.written.wait()
            approving.cancel()
            with pytest.raises(asyncio.CancelledError):
                await approving
            store.may_return.set()
        else:
            fails.append(memory.Fault.AFTER)
            with pytest.raises(errors.APIError):
                await flow.decide(client, "a")
            fails.clear()
        assert (await client.get(csrs.RESOURCE, "a")).status.conditions[0].type == csrs.APPROVED
        (record,) = approvals_log.events(verb="update")
        assert log.events(verb="update") == [record]
        assert record["objectRef"]["subresource"] == "approval"
        assert record["responseStatus"]["code"] == (504 if end == "cancelled" else 500)
    await store.close()
