"""What is recorded of a request, and where the records go."""

from __future__ import annotations

import datetime
import json
import os
import pathlib
import resource
import signal

import pytest

from certplane import telemetry, testing
from certplane.config.servesettings import LogRotation
from certplane.meta import context
from certplane.server import audit, auditlimits, auditlog, auditpolicy, exchange

JANE = context.User("jane", groups=("dev", "system:authenticated"))


def _encode_loss(count, since, until):
    return f"{count} lost from {since:%H:%M:%S} until {until:%H:%M:%S}\n".encode()


def _policy(*rules, **more):
    return auditpolicy.parse(
        json.dumps({"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "rules": rules, **more}).encode()
    )


def _attributes(verb="get", user=JANE, **fields):
    return context.Attributes(user, verb, **{"group": "", "resource": "configmaps", **fields})


def _path_attributes(path, user=JANE):
    return context.Attributes(user, "get", path=path, is_resource=False)


@pytest.mark.parametrize(
    ("rule", "matching", "other"),
    [
        ({}, _attributes(), None),
        ({"users": ["jane"]}, _attributes(), _attributes(user=context.User("bob"))),
        ({"userGroups": ["ops", "dev"]}, _attributes(), _attributes(user=context.User("bob", groups=("x",)))),
        ({"verbs": ["get"]}, _attributes(), _attributes("list")),
        ({"namespaces": ["a"]}, _attributes(namespace="a"), _attributes(namespace="b")),
        ({"namespaces": [""]}, _attributes(), _attributes(namespace="b")),
        ({"namespaces": ["a"]}, _attributes(namespace="a"), _path_attributes("/healthz")),
        ({"nonResourceURLs": ["/healthz*"]}, _path_attributes("/healthz/etcd"), _path_attributes("/livez")),
        ({"nonResourceURLs": ["/version"]}, _path_attributes("/version"), _path_attributes("/version/")),
        ({"nonResourceURLs": ["*"]}, _path_attributes("/x"), _attributes()),
        ({"resources": [{"group": ""}]}, _attributes(), _attributes(group="apps")),
        ({"resources": [{"group": "", "resources": ["configmaps"]}]}, _attributes(), _attributes(subresource="status")),
        (
            {"resources": [{"group": "", "resources": ["configmaps/status"]}]},
            _attributes(subresource="status"),
            _attributes(),
        ),
        (
            {"resources": [{"group": "", "resources": ["configmaps/*"]}]},
            _attributes(subresource="x"),
            _attributes(resource="pods"),
        ),
        (
            {"resources": [{"group": "", "resources": ["*/status"]}]},
            _attributes(subresource="status"),
            _attributes(subresource="x"),
        ),
        ({"resources": [{"group": "", "resources": ["*"]}]}, _attributes(subresource="x"), _attributes(group="apps")),
        (
            {"resources": [{"group": "*", "resources": ["configmaps"]}]},
            _attributes(group="apps"),
            _attributes(resource="pods"),
        ),
        (
            {"resources": [{"group": "", "resources": ["configmaps"], "resourceNames": ["a"]}]},
            _attributes(name="a"),
            _attributes(name="b"),
        ),
    ],
)
def test_rules_match_requests(rule, matching, other):
    """All conditions of a rule must hold; an empty one always does."""
    policy = _policy({"level": "Request", **rule})
    assert policy.evaluate(matching).level == "Request"
    assert other is None or policy.evaluate(other).level == "None"


def test_the_first_matching_rule_applies():
    """The omitted stages of policy and rule add up; the rule overrides omitManagedFields."""
    policy = _policy(
        {"level": "None", "users": ["jane"]},
        {"level": "Request", "omitStages": ["Panic"], "omitManagedFields": False},
        omitStages=["RequestReceived"],
        omitManagedFields=True,
    )
    assert policy.evaluate(_attributes()).level == "None"
    config = policy.evaluate(_attributes(user=context.User("bob")))
    assert config == auditpolicy.RequestAuditConfig("Request", frozenset({"Panic", "RequestReceived"}), False)


@pytest.mark.parametrize("resource_fields", [
    {"resource": "secrets"},
    {"resource": "serviceaccounts", "subresource": "token"},
    {"group": "authentication.k8s.io", "resource": "tokenreviews"},
])  # fmt: skip
def test_bodies_with_credentials_are_never_recorded(resource_fields):
    """The policy cannot enable it."""
    assert _policy({"level": "RequestResponse"}).evaluate(_attributes(**resource_fields)).level == "Metadata"
    assert _policy({"level": "None"}).evaluate(_attributes(**resource_fields)).level == "None"


@pytest.mark.parametrize(
    ("document", "problem"),
    [
        (b"", "expected kind Policy"),
        (b"[]", "cannot unmarshal array"),
        (b"{", "yaml"),
        ({"rules": [{"level": "Metadata"}], "kind": "Pod"}, "expected kind Policy"),
        ({"rules": []}, "rules: Required value"),
        ({"rules": [{}]}, "rules[0].level: Required value"),
        ({"rules": [{"level": "Some"}]}, 'rules[0].level: Unsupported value: "Some"'),
        ({"rules": [{"level": "None"}], "omitStages": ["Never"]}, 'omitStages[0]: Unsupported value: "Never"'),
        ({"rules": [{"level": "None", "nonResourceURLs": ["x"]}]}, "must begin with a '/' character"),
        ({"rules": [{"level": "None", "nonResourceURLs": ["/a*b"]}]}, "must be the final character"),
        ({"rules": [{"level": "None", "nonResourceURLs": ["/"], "namespaces": ["a"]}]}, "cannot apply to both"),
        ({"rules": [{"level": "None", "resources": [{"group": "A_"}]}]}, "rules[0].resources[0].group"),
        ({"rules": [{"level": "None", "resources": [{"resourceNames": ["a"]}]}]}, "requires at least one resource"),
        ({"rules": [{"level": "None", "user": ["a"]}]}, 'unknown field "rules[0].user"'),
    ],
)
def test_invalid_policies_are_refused(document, problem):
    """With field path and reason."""
    if isinstance(document, dict):
        document = json.dumps({"apiVersion": "audit.k8s.io/v1", "kind": "Policy", **document}).encode()
    with pytest.raises(auditpolicy.InvalidPolicy) as raised:
        auditpolicy.parse(document)
    assert problem in str(raised.value)


@pytest.mark.parametrize(
    ("peer", "headers", "expected"),
    [
        ("10.0.0.1", [], ["10.0.0.1"]),
        ("10.0.0.1", [(b"x-forwarded-for", b"1.1.1.1, 2.2.2.2")], ["1.1.1.1", "2.2.2.2", "10.0.0.1"]),
        ("10.0.0.1", [(b"x-forwarded-for", b"nonsense, 10.0.0.1")], ["10.0.0.1"]),
        ("10.0.0.1", [(b"x-forwarded-for", b"nonsense," * 64 + b"1.1.1.1")], ["10.0.0.1"]),
        ("10.0.0.1", [(b"x-forwarded-for", b"nonsense," * 63 + b"1.1.1.1")], ["1.1.1.1", "10.0.0.1"]),
        ("10.0.0.1", [(b"x-forwarded-for", b"1.1.1.1, 1.1.1.1")], ["1.1.1.1", "1.1.1.1", "10.0.0.1"]),
        ("10.0.0.1", [(b"x-forwarded-for", b"1.1.1.1"), (b"x-forwarded-for", b"2.2.2.2")], ["1.1.1.1", "10.0.0.1"]),
        ("::ffff:10.0.0.1", [(b"x-forwarded-for", b"fe80::1%eth0")], ["10.0.0.1"]),
        ("::1", [(b"x-real-ip", b"3.3.3.3")], ["3.3.3.3", "::1"]),
        ("", [], []),
    ],
)
def test_source_ips(peer, headers, expected):
    """Addresses of proxy headers first, the one of the connection last; invalid ones are left out."""
    assert audit.sources(peer, exchange.Headers(headers)) == expected


# --- the file -----------------------------------------------------------------------------------------------------


def _names(folder):
    return sorted(file.name for file in folder.iterdir())


async def test_rotation(tmp_path):
    """A full file gets a time stamp; backups above the maximum are deleted; only the owner can read them."""
    clock = testing.FakeClock()
    log = auditlog.LogFile(tmp_path / "logs" / "audit.log", LogRotation(maxsize=1, maxbackup=2), clock, _encode_loss)
    line = b"x" * (400 * 1024) + b"\n"
    for _ in range(9):
        log.write(line)
        await clock.advance(1.5)
    log.close()
    assert _names(tmp_path / "logs") == [
        "audit-2026-01-01T00-00-09.000.log", "audit-2026-01-01T00-00-12.000.log", "audit.log",
    ]  # fmt: skip
    assert {file.stat().st_mode & 0o777 for file in (tmp_path / "logs").iterdir()} == {0o600}
    assert [file.name for file in auditlog.backups(tmp_path / "logs" / "audit.log")] == _names(tmp_path / "logs")[:2]


def test_old_backups_are_deleted(tmp_path):
    """By age in days."""
    clock = testing.FakeClock()
    (tmp_path / "audit-2025-12-01T00-00-00.000.log").write_bytes(b"")
    (tmp_path / "audit-2025-12-31T00-00-00.000.log").write_bytes(b"")
    (tmp_path / "audit-notes.log").write_bytes(b"")
    log = auditlog.LogFile(tmp_path / "audit.log", LogRotation(maxsize=1, maxbackup=0, maxage=7), clock, _encode_loss)
    for _ in range(2):
        log.write(b"x" * 1024 * 1024)
    log.close()
    assert _names(tmp_path) == [
        "audit-2025-12-31T00-00-00.000.log", "audit-2026-01-01T00-00-00.000.log", "audit-notes.log", "audit.log",
    ]  # fmt: skip


def test_a_very_large_maximum_age_keeps_all_files(tmp_path):
    """It may reach back to before the year 1."""
    rotation = LogRotation(maxsize=1, maxbackup=0, maxage=2**63 - 1)
    (tmp_path / "audit-2001-01-01T00-00-00.000.log").write_bytes(b"")
    log = auditlog.LogFile(tmp_path / "audit.log", rotation, testing.FakeClock(), _encode_loss)
    for _ in range(2):
        log.write(b"x" * 1024 * 1024)
    log.close()
    assert "audit-2001-01-01T00-00-00.000.log" in _names(tmp_path)
    assert log.lost == 0


async def test_rotation_of_a_file_without_a_suffix(tmp_path):
    """Its backups are found and deleted, too."""
    clock = testing.FakeClock()
    log = auditlog.LogFile(tmp_path / "audit", LogRotation(maxsize=1, maxbackup=1), clock, _encode_loss)
    for _ in range(4):
        log.write(b"x" * 1024 * 1024)
        await clock.advance(1)
    log.close()
    assert _names(tmp_path) == ["audit", "audit-2026-01-01T00-00-03.000"]
    assert [file.name for file in auditlog.backups(tmp_path / "audit")] == ["audit-2026-01-01T00-00-03.000"]


def test_files_with_invalid_time_stamps_are_kept(tmp_path):
    """They are no backups."""
    other_file = tmp_path / "audit-2025-99-99T00-00-00.000.log"
    other_file.write_bytes(b"")
    log = auditlog.LogFile(tmp_path / "audit.log", LogRotation(maxsize=1, maxage=1), testing.FakeClock(), _encode_loss)
    for _ in range(3):
        log.write(b"x" * 1024 * 1024)
    log.close()
    assert other_file.exists()
    assert log.lost == 0


def test_partial_lines_are_removed(tmp_path):
    """When the disk is full in the middle of a line."""
    path = tmp_path / "audit.log"
    log = auditlog.LogFile(path, LogRotation(), testing.FakeClock(), _encode_loss)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        log.write(b"first\n")
        resource.setrlimit(resource.RLIMIT_FSIZE, (9, hard))
        log.write(b"second\n")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    log.write(b"third\n")
    log.close()
    assert path.read_bytes() == b"first\n1 lost from 00:00:00 until 00:00:00\nthird\n"
    assert (log.lost, log.problem) == (1, "")


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may rename anything")
def test_a_log_that_cannot_be_rotated_goes_on(tmp_path):
    """A large file is better than lost events."""
    folder = tmp_path / "logs"
    folder.mkdir()
    path = folder / "audit.log"
    path.write_bytes(b"")
    folder.chmod(0o500)
    log = auditlog.LogFile(path, LogRotation(maxsize=1), testing.FakeClock(), _encode_loss)
    for _ in range(3):
        log.write(b"x" * 1024 * 1024)
    log.close()
    folder.chmod(0o700)
    assert (log.lost, path.stat().st_size) == (0, 3 * 1024 * 1024)


def test_lost_lines_are_counted(tmp_path):
    """A failure to write raises nothing."""
    (tmp_path / "file").write_bytes(b"")
    log = auditlog.LogFile(tmp_path / "file" / "audit.log", LogRotation(), testing.FakeClock(), _encode_loss)
    log.write(b"a\n")
    log.write(b"b\n")
    assert log.lost == 2


def test_every_failure_to_write_is_counted(tmp_path):
    """Also one that the file system does not report. The lines after it are written."""
    failing = True

    def encode_loss(count, since, until):
        if failing:
            raise ValueError("cannot be encoded")
        return _encode_loss(count, since, until)

    (tmp_path / "folder").write_bytes(b"")
    path = tmp_path / "folder" / "audit.log"
    log = auditlog.LogFile(path, LogRotation(), testing.FakeClock(), encode_loss)
    log.write(b"a\n")
    (tmp_path / "folder").unlink()
    log.write(b"b\n")
    assert (log.lost, log.problem) == (2, "ValueError('cannot be encoded')")
    failing = False
    log.write(b"c\n")
    log.close()
    assert path.read_bytes() == b"2 lost from 00:00:00 until 00:00:00\nc\n"
    assert (log.lost, log.problem) == (2, "")


def test_a_failure_to_delete_backups_loses_no_lines(tmp_path, monkeypatch, caplog):
    """The lines are written, and the failure is logged."""

    def fail(_):
        raise ValueError("cannot be listed")

    monkeypatch.setattr(pathlib.Path, "iterdir", fail)
    log = auditlog.LogFile(tmp_path / "audit.log", LogRotation(maxsize=1), testing.FakeClock(), _encode_loss)
    for _ in range(2):
        log.write(b"x" * 1024 * 1024)
    log.close()
    assert (log.lost, (tmp_path / "audit.log").stat().st_size) == (0, 1024 * 1024)
    assert [record.message for record in caplog.records] == ["failed to delete rotated audit logs"]


async def test_lost_lines_are_reported(tmp_path, caplog):
    """In the log itself when it can be written again; until then at intervals in the server's log."""
    clock = testing.FakeClock()
    path = tmp_path / "folder" / "audit.log"
    (tmp_path / "folder").write_bytes(b"")
    log = auditlog.LogFile(path, LogRotation(), clock, _encode_loss)
    for _ in range(150):
        log.write(b"a\n")
        await clock.advance(1)
    assert (log.lost, log.problem) == (150, "File exists")
    assert [record.lost for record in caplog.records] == [1, 61, 121]
    (tmp_path / "folder").unlink()
    log.write(b"b\n")
    log.write(b"c\n")
    log.close()
    assert path.read_bytes() == b"150 lost from 00:00:00 until 00:02:30\nb\nc\n"
    assert (log.lost, log.problem) == (150, "")


async def test_events_are_limited_in_rate():
    """A burst of a hundred is admitted, then a rate; the dropped events are counted, since the first of them."""
    clock = testing.FakeClock()
    rate_limiter = auditlimits.EventRateLimiter(10, clock)
    assert rate_limiter.take_dropped() is None
    assert sum(rate_limiter.admit() for _ in range(500)) == 100
    await clock.advance(2)
    assert sum(rate_limiter.admit() for _ in range(500)) == 20
    assert rate_limiter.take_dropped() == (880, datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC))
    assert (rate_limiter.take_dropped(), rate_limiter.total_dropped) == (None, 880)
    assert sum(rate_limiter.admit() for _ in range(10)) == 0
    assert rate_limiter.take_dropped() == (10, datetime.datetime(2026, 1, 1, 0, 0, 2, tzinfo=datetime.UTC))


def test_a_rate_of_0_is_no_limit():
    """All events are admitted."""
    rate_limiter = auditlimits.EventRateLimiter(0, testing.FakeClock())
    assert all(rate_limiter.admit() for _ in range(1000))
    assert rate_limiter.take_dropped() is None


@pytest.mark.parametrize("long", ["x" * 64_000, "\0" * 64_000, "1.2.3.4," * 8_000])
def test_the_size_of_events_is_limited(long):
    """With a long path, query, header, name, Status or user."""
    clock, lines = testing.FakeClock(), []
    outputs = audit.Outputs(lambda line, may_wait: lines.append(line))
    auditor = audit.Auditor(_policy({"level": "Metadata"}), outputs, clock, telemetry.AuditTelemetry())
    headers = [(name, long.encode()) for name in (b"user-agent", b"x-forwarded-for", b"x-real-ip")]
    request = exchange.Request("GET", "/" + long, long, exchange.Headers(headers), source="127.0.0.1")
    request.info = context.RequestInfo("/", long, True, long, long, long, long, long, long)
    request.request_id, request.received, request.user = (
        "id",
        clock.now(),
        context.User(long, long, (long,) * 500, {long: (long,)}),
    )
    record = auditor.begin(request, _attributes())
    record.object_uid = record.object_version = long
    many = [f"{number}" for number in range(9_000)]
    request.user, request.annotations = context.User("b", "", tuple(many), dict.fromkeys(many, ("a",))), {"a": long}
    causes = [{"message": long, "field": long}] * 500
    status = {"metadata": {}, "message": long, "details": {"name": long, "causes": causes}}
    auditor.finish(request, record, exchange.Response(422, "", status_object=status))
    assert max(map(len, lines)) < 256 * 1024
    event = json.loads(lines[-1])
    assert event["sourceIPs"][-1] == "127.0.0.1"
    assert event["responseStatus"]["details"]["causes"][-1] == {"message": "490 more causes omitted"}
    assert event["user"]["extra"]["certplane.io/left-out"][0].endswith(" groups, 1 keys")


def test_event_times_have_microseconds():
    """As MicroTime."""
    clock = testing.FakeClock(datetime.datetime(2026, 1, 1, 0, 0, 0, 546147, tzinfo=datetime.UTC))
    lines = []
    outputs = audit.Outputs(lambda line, may_wait: lines.append(line))
    auditor = audit.Auditor(_policy({"level": "Metadata"}), outputs, clock, telemetry.AuditTelemetry())
    request = exchange.Request("GET", "/version", "", exchange.Headers([(b"user-agent", b"x/1")]), source="127.0.0.1")
    request.info = context.RequestInfo("/version", "get", is_resource=False)
    request.request_id, request.received, request.user = "id", clock.now(), JANE
    auditor.begin(request, _path_attributes("/version"))
    assert json.loads(lines[0]) == {
        "kind": "Event", "apiVersion": "audit.k8s.io/v1", "level": "Metadata", "auditID": "id",
        "stage": "RequestReceived", "requestURI": "/version", "verb": "get",
        "user": {"username": "jane", "groups": ["dev", "system:authenticated"]}, "sourceIPs": ["127.0.0.1"],
        "userAgent": "x/1", "requestReceivedTimestamp": "2026-01-01T00:00:00.546147Z",
        "stageTimestamp": "2026-01-01T00:00:00.546147Z",
    }  # fmt: skip
