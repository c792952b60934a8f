"""The audit record of whole stories: who did what, and that nothing slips through."""

from __future__ import annotations

import asyncio
import datetime
import json

import pytest
from click import testing as click_testing

from certplane import errors, testing
from certplane.access import tokens
from certplane.cli import audit as audit_command
from certplane.meta import context
from certplane.resources import certificatesigningrequests as csrs
from certplane.resources import configmaps, secrets, serviceaccounts
from certplane.server import audit, auditlog, auditpolicy, exchange
from certplane.store import memory
from certplane.x509 import keys
from tests.flow import plane as flow

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

    def events(self, **wanted):
        found = [json.loads(line) for line in self.lines]
        return [each for each in found if all(each.get(key) == value for key, value in wanted.items())]


async def test_who_approved_what_and_what_came_out_is_one_query():
    """An approval, a denial and the certificate's serial number, under the policy that holds by default."""
    log = Log()
    async with flow.running(audit_sink=log) as plane:
        client = plane.client(flow.ADMIN)
        await client.create(csrs.RESOURCE, flow.new_csr("yes"))
        await client.create(csrs.RESOURCE, flow.new_csr("no"))
        await flow.decide(client, "yes")
        await flow.decide(client, "no", csrs.DENIED)
        certificate = await flow.issued(client, "yes")
    found = {each.csr: each for each in audit_command.approvals(log.lines)}
    assert (found["yes"].decision, found["yes"].by, found["yes"].requestor) == ("Approved", "admin", "admin")
    assert found["yes"].serial == f"{certificate.serial_number:x}"
    assert found["yes"].not_after == certificate.not_valid_after_utc.strftime("%Y-%m-%dT%H:%M:%SZ")
    assert (found["no"].decision, found["no"].serial) == ("Denied", "")


async def test_a_refused_or_dry_approval_is_none():
    """Only what was stored counts."""
    log = Log()
    async with flow.running(audit_sink=log) as plane:
        await plane.client(flow.ADMIN).create(csrs.RESOURCE, flow.new_csr())
        with pytest.raises(errors.Forbidden):
            await flow.decide(plane.client(flow.JANE), "a")
        found = await plane.client(flow.ADMIN).get(csrs.RESOURCE, "a")
        found.status.conditions.append(csrs.CertificateSigningRequestCondition(type="Approved", status="True"))
        body = json.dumps(csrs.codec.to_builtins(found)).encode()
        reply = await _send(plane, flow.ADMIN, "PUT", "/a/approval", query="dryRun=All", body=body)
        assert reply.status == 200
        assert audit_command.approvals(log.lines) == []
        (refused,) = log.events(verb="get", user={"username": "jane", "groups": ["system:authenticated"]})
        assert refused["responseStatus"]["reason"] == "Forbidden"
        decision = {"authorization.k8s.io/decision": "forbid", "authorization.k8s.io/reason": ""}
        assert refused["annotations"] == decision


async def _send(plane, user, method, rest="", **request):
    body, query = request.get("body", b""), request.get("query", "")

    async def chunks():
        yield body

    path = "/apis/certificates.k8s.io/v1/certificatesigningrequests" + rest
    own = [(b"content-type", b"application/json"), (b"user-agent", b"test/1")]
    fields = exchange.Headers([*request.get("headers", ()), *own])
    return await plane.handler(exchange.Exchange(method, path, query, fields, chunks, identity=user))


async def test_bodies_are_recorded_where_the_policy_says_so():
    """Request adds what was sent, RequestResponse what came back; both as JSON of the request's version."""
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
        await _send(plane, flow.ADMIN, "PATCH", "/a", body=b'{"metadata":{"labels":{"a":"b"}}}', headers=[
            (b"content-type", b"application/merge-patch+json")])  # fmt: skip


async def test_secrets_are_never_in_the_log():
    """Not in a body, not in an annotation, not in an error, whatever the policy wants."""
    log = Log()
    async with flow.running(audit_sink=log, audit_policy=_everything()) as plane:
        client = plane.client(flow.ADMIN)
        made = secrets.Secret(string_data={"password": "correct-horse"})
        made.metadata.name = "s"
        await client.create(secrets.RESOURCE, made, "default")
        found = await client.get(secrets.RESOURCE, "s", "default")
        found.data["other"] = b"battery-staple"
        await client.update(secrets.RESOURCE, found)
        await client.list(secrets.RESOURCE)
        await client.delete(secrets.RESOURCE, "s", "default")
    text = b"".join(log.lines)
    assert log.events(verb="update", level="Metadata")
    for secret in (b"correct-horse", b"Y29ycmVjdC1ob3JzZQ", b"battery-staple", b"YmF0dGVyeS1zdGFwbGU"):
        assert secret not in text


@pytest.mark.parametrize(
    ("patch_type", "patch"),
    [
        (b"merge-patch+json", b'{"metadata":{"labels":[]}}'),
        (b"strategic-merge-patch+json", b'{"stringData":{"a":"battery-staple"},"metadata":{"labels":[]}}'),
        (b"apply-patch+yaml", b"{apiVersion: v1, kind: Secret, stringData: {a: [battery-staple]}}"),
    ],
)
async def test_refusals_do_not_quote_secrets_into_the_log(patch_type, patch):
    """The client is told what it sent, and what it would have made; the log only that it was refused."""
    log = Log()
    async with flow.running(audit_sink=log) as plane:
        made = secrets.Secret(string_data={"password": "correct-horse"})
        made.metadata.name = "s"
        await plane.client(flow.ADMIN).create(secrets.RESOURCE, made, "default")
        of = exchange.Exchange(
            "PATCH",
            "/api/v1/namespaces/default/secrets/s",
            "fieldManager=test",
            exchange.Headers([(b"content-type", b"application/" + patch_type)]),
            lambda: _one(patch),
            identity=flow.ADMIN,
        )
        reply = await plane.handler(of)
    (event,) = log.events(verb="patch")
    assert event["responseStatus"]["code"] == reply.status >= 400
    text = b"".join(log.lines)
    for secret in (b"correct-horse", b"Y29ycmVjdC1ob3JzZQ", b"battery-staple"):
        assert secret not in text


async def _one(body):
    yield body


async def test_nobody_writes_records_of_their_own():
    """A body with line breaks between its tokens is still one line of the log."""
    forged = {"stage": "ResponseComplete", "annotations": {"certplane.io/csr-decision": "Approved"}}
    body = b'{"metadata":{"labels":{"a":"b"}},"x":[\n' + json.dumps(forged).encode() + b"\r\n]}\n"
    log = Log()
    async with flow.running(audit_sink=log, audit_policy=_everything("Request")) as plane:
        await plane.client(flow.ADMIN).create(csrs.RESOURCE, flow.new_csr())
        patch = [(b"content-type", b"application/merge-patch+json")]
        fields = exchange.Headers(patch)
        path = "/apis/certificates.k8s.io/v1/certificatesigningrequests/a"
        await plane.handler(exchange.Exchange("PATCH", path, "", fields, lambda: _one(body), identity=flow.ADMIN))
    assert all(line.count(b"\n") == 1 and b"\r" not in line for line in log.lines)
    (event,) = log.events(verb="patch", stage="ResponseComplete")
    assert event["requestObject"]["x"] == [forged]


async def test_a_watch_is_recorded_when_it_begins_and_when_it_ends():
    """ResponseStarted, and later ResponseComplete."""
    log = Log()
    async with flow.running(audit_sink=log, audit_policy=_everything("Metadata", users=["admin"])) as plane:
        reply = await _send(plane, flow.ADMIN, "GET", query="watch=true")
        assert [each["stage"] for each in log.events(verb="watch")] == ["RequestReceived", "ResponseStarted"]
        async for _ in reply.stream:
            break
        await reply.stream.aclose()
        assert [each["stage"] for each in log.events(verb="watch")][-1] == "ResponseComplete"


async def test_acting_as_somebody_else_is_recorded_with_both_names():
    """The one who asks, the one who is acted as, and by which right."""
    log = Log()
    async with flow.running(audit_sink=log, audit_policy=_everything("Metadata")) as plane:
        await _send(plane, flow.ADMIN, "GET", headers=[(b"impersonate-user", b"bob")])
        (event,) = log.events(stage="ResponseComplete", verb="list", userAgent="test/1")
        assert event["user"]["username"] == "admin"
        assert event["impersonatedUser"] == {"username": "bob", "groups": ["system:authenticated"]}
        assert event["authenticationMetadata"] == {"impersonationConstraint": "impersonate:user-info"}


async def test_whom_nobody_recognises_is_recorded_without_a_name():
    """A bad token is a 401, and its record has an empty user and no token."""
    log = Log()
    async with flow.running(audit_sink=log, audit_policy=_everything("Metadata")) as plane:
        headers = [(b"authorization", b"Bearer nonsense")]
        assert (await _send(plane, None, "GET", headers=headers)).status == 401
        (event,) = log.events(stage="ResponseStarted", verb="list")
        assert (event["user"], event["responseStatus"]["code"]) == ({}, 401)
        assert b"nonsense" not in b"".join(log.lines)


async def test_managed_fields_are_left_out_where_that_is_asked_for():
    """Of the object, of the items of a list, and of what the rows of a table stand for."""
    log = Log()
    policy = _everything(omitManagedFields=True)
    async with flow.running(audit_sink=log, audit_policy=policy) as plane:
        made = configmaps.ConfigMap(data={"a": "b"})
        made.metadata.name = "c"
        created = await plane.client(flow.ADMIN).create(configmaps.RESOURCE, made, "default")
        assert created.metadata.managed_fields
        await plane.client(flow.ADMIN).list(configmaps.RESOURCE, "default")
        recorded = log.events(stage="ResponseComplete", verb="create")[-1]["responseObject"]
        assert recorded["data"] == {"a": "b"}
        assert "managedFields" not in json.dumps(log.events(verb="list"))
        accept = [(b"accept", b"application/json;as=Table;v=v1;g=meta.k8s.io")]
        path = "/api/v1/namespaces/default/configmaps/c"
        query = "includeObject=Object"
        await plane.handler(exchange.Exchange("GET", path, query, exchange.Headers(accept), identity=flow.ADMIN))
        table = log.events(verb="get")[-1]["responseObject"]
        assert table["rows"][0]["object"]["data"] == {"a": "b"}
        assert "managedFields" not in json.dumps(table)


def test_a_log_that_is_damaged_is_read_as_far_as_it_goes():
    """Half a line, other people's records and nonsense are passed over."""
    lines = [b"certplane.io/ half", b"{}", b'{"annotations":{"certplane.io/csr-decision":"Approved"}}', b"\xff"]
    assert audit_command.approvals(lines) == []


async def test_reading_secrets_leaves_a_trace_whoever_does_it():
    """Under the policy that holds by default, only what the server asks itself is passed over."""
    log = Log()
    robot = context.User(
        "system:serviceaccount:kube-system:robot",
        groups=("system:serviceaccounts:kube-system", "system:masters", "system:authenticated"),
    )
    async with flow.running(audit_sink=log) as plane:
        await plane.client(robot).list(secrets.RESOURCE)
        found = [each["user"]["username"] for each in log.events(verb="list")]
    assert found == [robot.name]


async def test_a_client_that_goes_away_is_no_fault_of_the_servers(caplog):
    """No traceback, no Panic: half a request is none, and its record says so."""
    log = Log()

    async def half():
        yield b'{"kind":'
        raise exchange.ClientGone

    async with flow.running(audit_sink=log, audit_policy=_everything("Metadata", users=["admin"])) as plane:
        path = "/apis/certificates.k8s.io/v1/certificatesigningrequests"
        of = exchange.Exchange("POST", path, "", exchange.Headers([]), half, identity=flow.ADMIN)
        with pytest.raises(exchange.ClientGone):
            await plane.handler(of)
        assert b'code="499"' in plane.telemetry.render()
    received, complete = log.events(verb="create")
    assert (received["stage"], complete["stage"]) == ("RequestReceived", "ResponseComplete")
    assert complete["responseStatus"]["code"] == 499
    assert complete["responseStatus"]["message"] == "the client went away before it had sent all of its request"
    assert "Traceback" not in caplog.text


async def test_a_decision_is_recorded_beside_other_conditions():
    """What else is written at the same time does not hide it."""
    log = Log()
    async with flow.running(audit_sink=log, controllers=frozenset()) as plane:
        client = plane.client(flow.ADMIN)
        await client.create(csrs.RESOURCE, flow.new_csr())
        found = await client.get(csrs.RESOURCE, "a")
        for type_ in (csrs.APPROVED, "Zzz"):
            found.status.conditions.append(csrs.CertificateSigningRequestCondition(type=type_, status="True"))
        await client.update(csrs.RESOURCE, found, "approval")
    assert [each.decision for each in audit_command.approvals(log.lines)] == ["Approved"]


async def test_bytes_that_are_no_text_are_recorded_without_harm():
    """A patch that is not UTF-8, a name in a header that is not: the request is judged, the record is made."""
    log = Log()
    async with flow.running(audit_sink=log, audit_policy=_everything("Request", users=["admin"])) as plane:
        await plane.client(flow.ADMIN).create(csrs.RESOURCE, flow.new_csr())
        patch = [(b"content-type", b"application/apply-patch+yaml")]
        reply = await _send(plane, flow.ADMIN, "PATCH", "/a", body=b'{"\x80":1}', query="fieldManager=x", headers=patch)
        assert reply.status == 400
        reply = await _send(plane, flow.ADMIN, "GET", headers=[(b"impersonate-user", b"\xff")])
        assert reply.status == 403
        (event,) = log.events(verb="list", stage="ResponseComplete")
        assert event["impersonatedUser"]["username"] == "\ufffd"
        assert log.events(verb="patch", stage="ResponseComplete")


async def _records(method, rest="", level="RequestResponse", **request):
    """The last record of one request about CertificateSigningRequests; `a` is there."""
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
async def test_answers_are_recorded_as_they_were_given(method, rest, accept, expected):
    """Refusals, deletions and other forms too, always in JSON; nothing where no form could be agreed on."""
    record = await _records(method, rest, headers=[(b"accept", accept.encode())])
    assert (record.get("responseObject", {}).get("kind"), record["responseStatus"]["code"]) == expected
    if expected == (None, 406):
        assert record["responseStatus"] == {"metadata": {}, "code": 406}


async def test_what_was_sent_is_recorded_with_its_type():
    """A client may leave it out; of options of a deletion the version is Kubernetes' own."""
    body = b'{"metadata":{"name":"b"},"spec":{"signerName":"example.com/a"}}'
    made = (await _records("POST", body=body))["requestObject"]
    assert (made["apiVersion"], made["kind"]) == ("certificates.k8s.io/v1", "CertificateSigningRequest")
    gone = (await _records("DELETE", "/a", body=b'{"propagationPolicy":"Background"}'))["requestObject"]
    assert gone == {
        "kind": "DeleteOptions",
        "apiVersion": "meta.k8s.io/__internal",
        "propagationPolicy": "Background",
    }


async def test_tokens_that_are_given_out_are_named_in_the_record():
    """By their id, which is also in every record of what is done with them."""
    log = Log()
    issuer = tokens.Issuer(name="issuer", key=keys.generate("ECDSA-P256"), audiences=("issuer",))
    async with flow.running(audit_sink=log, audit_policy=_everything(), issuer=issuer) as plane:
        client = plane.client(flow.ADMIN)
        account = serviceaccounts.ServiceAccount()
        account.metadata.name = "robot"
        await client.create(serviceaccounts.RESOURCE, account, "default")
        asked = serviceaccounts.TokenRequest()
        await client.ask(serviceaccounts.TOKEN_REQUESTS, asked, "robot", "default")
        (record,) = log.events(stage="ResponseComplete", verb="create", level="Metadata")
        assert record["objectRef"]["subresource"] == "token"
        assert record["annotations"]["authentication.kubernetes.io/issued-credential-id"].startswith("JTI=")


async def test_strangers_do_not_flush_the_log(tmp_path):
    """Thousands of large refused requests: some are recorded, cut; the others are counted, and that is recorded. What
    was decided before is found.
    """
    clock = testing.FakeClock()
    path = tmp_path / "audit.log"
    rotation = auditlog.Rotation(megabytes=1, backups=1)
    log = auditlog.LogFile(path, rotation, clock, _gap)
    kept = auditlog.LogFile(tmp_path / "audit-approvals.log", rotation, clock, _gap)
    async with flow.running(clock=clock, audit_sink=log.write, audit_approvals=kept.write, audit_rate=10) as plane:
        client = plane.client(flow.ADMIN)
        await client.create(csrs.RESOURCE, flow.new_csr())
        await flow.decide(client, "a")
        certificate = await flow.issued(client, "a")
        for user, token, count in ((context.ANONYMOUS, b"", 2000), (None, b"Bearer nonsense", 2000)):
            for number in range(count):
                headers = [(b"authorization", token), (b"user-agent", b"x" * 60_000)] if token else []
                reply = await _send(plane, user, "GET", f"/{number}" + "x" * 60_000, headers=headers)
                assert reply.status in (401, 403)
        await clock.advance(61)
        await _send(plane, context.ANONYMOUS, "GET")
        assert b"certplane_audit_left_out_total 3900.0" in plane.telemetry.render()
    log.close()
    kept.close()
    assert path.stat().st_size < 1024 * 1024
    assert b'"certplane.io/records-left-out":"3900"' in path.read_bytes()
    answer = click_testing.CliRunner().invoke(audit_command.audit, ["approvals", "--log", str(path), "-o", "json"])
    (found,) = json.loads(answer.stdout)
    assert (found["csr"], found["decision"], found["serial"]) == ("a", "Approved", f"{certificate.serial_number:x}")


def _gap(count, since, until):
    return audit.notice("records-lost", count, since, until)


async def test_what_was_decided_is_kept_in_a_file_of_its_own(tmp_path):
    """Creation, approval and issuance, when they succeed; no reads, refusals or dry runs. A flood of records by users
    turns the audit log over, and not this one.
    """
    clock, kept = testing.FakeClock(), Log()
    path = tmp_path / "audit.log"
    log = auditlog.LogFile(path, auditlog.Rotation(megabytes=1, backups=1), clock, _gap)
    async with flow.running(clock=clock, audit_sink=log.write, audit_approvals=kept) as plane:
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
                await clock.advance(1)  # Former files are named after their second.
    log.close()
    done = [(each["verb"], each["objectRef"].get("subresource")) for each in kept.events()]
    assert done == [("create", None), ("update", "approval"), ("update", "status")]
    assert b"csr-decision" not in path.read_bytes() + auditlog.backups(path)[0].read_bytes()


async def test_lost_records_are_told_by_readyz():
    """That they are, to anybody; why, to those who may know. The server goes on."""
    problem = ""
    async with flow.running(audit_problem=lambda: problem) as plane:

        async def ready(user):
            of = exchange.Exchange("GET", "/readyz", "verbose=", exchange.Headers([]), identity=user)
            return await plane.handler(of)

        assert b"[+]audit-log ok" in (await ready(context.ANONYMOUS)).body
        problem = "No space left on device"
        reply, told = await ready(context.ANONYMOUS), await ready(flow.ADMIN)
    assert reply.status == 200
    assert b"[!]audit-log not working, tolerated: reason withheld" in reply.body
    assert b"[!]audit-log not working, tolerated: No space left on device" in told.body


def test_the_log_tells_of_itself_in_a_record():
    """How many are missing, and between which moments, in the form of all others."""
    since = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    line = audit.notice("records-lost", 3, since, since + datetime.timedelta(seconds=90))
    event = json.loads(line)
    assert event["annotations"] == {"certplane.io/records-lost": "3"}
    moments = (event["requestReceivedTimestamp"], event["stageTimestamp"])
    assert moments == ("2026-01-01T00:00:00.000000Z", "2026-01-01T00:01:30.000000Z")
    assert (event["kind"], event["user"], line[-1:]) == ("Event", {"username": "system:apiserver"}, b"\n")
    assert audit_command.approvals([line]) == []


class _Slow(memory.MemoryStore):
    """Writes at once, and answers when it may."""

    def __init__(self):
        super().__init__()
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.written = asyncio.Event()

    async def update(self, key, value, expected):
        done = await super().update(key, value, expected)
        self.written.set()
        await self.may_answer.wait()
        return done


@pytest.mark.parametrize("end", ["cancelled", "failed"])
async def test_an_approval_that_may_be_done_is_recorded(end):
    """The server ends, or the store fails, between the write and its answer: both logs have it, and say that nobody
    knows.
    """
    log, kept = Log(), Log()
    fails = []
    store = _Slow() if end == "cancelled" else memory.MemoryStore(lambda *_: fails[-1] if fails else memory.Fault.NONE)
    async with flow.running(store, controllers=frozenset(), audit_sink=log, audit_approvals=kept) as plane:
        client = plane.client(flow.ADMIN)
        await client.create(csrs.RESOURCE, flow.new_csr())
        if end == "cancelled":
            store.may_answer.clear()
            approving = asyncio.ensure_future(flow.decide(client, "a"))
            await store.written.wait()
            approving.cancel()
            with pytest.raises(asyncio.CancelledError):
                await approving
            store.may_answer.set()
        else:
            fails.append(memory.Fault.AFTER)
            with pytest.raises(errors.APIError):
                await flow.decide(client, "a")
            fails.clear()
        assert (await client.get(csrs.RESOURCE, "a")).status.conditions[0].type == csrs.APPROVED
        (record,) = kept.events(verb="update")
        assert log.events(verb="update") == [record]
        assert record["objectRef"]["subresource"] == "approval"
        assert record["responseStatus"]["code"] == (504 if end == "cancelled" else 500)
    await store.close()
