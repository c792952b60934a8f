"""What is recorded of a request, and where the records go."""

from __future__ import annotations

import datetime
import json
import os
import resource
import signal

import pytest

from certplane import telemetry, testing
from certplane.meta import context
from certplane.server import audit, auditlimits, auditlog, auditpolicy, exchange

JANE = context.User("jane", groups=("dev", "system:authenticated"))


def _gap(count, since, until):
    return f"{count} lost from {since:%H:%M:%S} until {until:%H:%M:%S}\n".encode()


def _policy(*rules, **more):
    return auditpolicy.parse(
        json.dumps({"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "rules": rules, **more}).encode()
    )


def _asks(verb="get", user=JANE, **what):
    return context.Attributes(user, verb, **{"group": "", "resource": "configmaps", **what})


def _path(path, user=JANE):
    return context.Attributes(user, "get", path=path, is_resource=False)


@pytest.mark.parametrize(
    ("rule", "matching", "other"),
    [
        ({}, _asks(), None),
        ({"users": ["jane"]}, _asks(), _asks(user=context.User("bob"))),
        ({"userGroups": ["ops", "dev"]}, _asks(), _asks(user=context.User("bob", groups=("x",)))),
        ({"verbs": ["get"]}, _asks(), _asks("list")),
        ({"namespaces": ["a"]}, _asks(namespace="a"), _asks(namespace="b")),
        ({"namespaces": [""]}, _asks(), _asks(namespace="b")),
        ({"namespaces": ["a"]}, _asks(namespace="a"), _path("/healthz")),
        ({"nonResourceURLs": ["/healthz*"]}, _path("/healthz/etcd"), _path("/livez")),
        ({"nonResourceURLs": ["/version"]}, _path("/version"), _path("/version/")),
        ({"nonResourceURLs": ["*"]}, _path("/x"), _asks()),
        ({"resources": [{"group": ""}]}, _asks(), _asks(group="apps")),
        ({"resources": [{"group": "", "resources": ["configmaps"]}]}, _asks(), _asks(subresource="status")),
        ({"resources": [{"group": "", "resources": ["configmaps/status"]}]}, _asks(subresource="status"), _asks()),
        ({"resources": [{"group": "", "resources": ["configmaps/*"]}]}, _asks(subresource="x"), _asks(resource="pods")),
        (
            {"resources": [{"group": "", "resources": ["*/status"]}]},
            _asks(subresource="status"),
            _asks(subresource="x"),
        ),
        ({"resources": [{"group": "", "resources": ["*"]}]}, _asks(subresource="x"), _asks(group="apps")),
        ({"resources": [{"group": "*", "resources": ["configmaps"]}]}, _asks(group="apps"), _asks(resource="pods")),
        (
            {"resources": [{"group": "", "resources": ["configmaps"], "resourceNames": ["a"]}]},
            _asks(name="a"),
            _asks(name="b"),
        ),
    ],
)
def test_a_rule_matches_what_it_names(rule, matching, other):
    """All conditions of a rule must hold; an empty one always does."""
    policy = _policy({"level": "Request", **rule})
    assert policy.judge(matching).level == "Request"
    assert other is None or policy.judge(other).level == "None"


def test_the_first_rule_that_matches_counts():
    """Stages of the policy are left out with those of the rule, and the rule has the last word on managedFields."""
    policy = _policy(
        {"level": "None", "users": ["jane"]},
        {"level": "Request", "omitStages": ["Panic"], "omitManagedFields": False},
        omitStages=["RequestReceived"],
        omitManagedFields=True,
    )
    assert policy.judge(_asks()).level == "None"
    found = policy.judge(_asks(user=context.User("bob")))
    assert (found.level, found.omitted, found.omit_managed_fields) == ("Request", {"Panic", "RequestReceived"}, False)


@pytest.mark.parametrize("what", [
    {"resource": "secrets"},
    {"resource": "serviceaccounts", "subresource": "token"},
    {"group": "authentication.k8s.io", "resource": "tokenreviews"},
])  # fmt: skip
def test_no_policy_gets_at_secrets(what):
    """Bodies that are credentials are not recorded, whoever asks for it."""
    assert _policy({"level": "RequestResponse"}).judge(_asks(**what)).level == "Metadata"
    assert _policy({"level": "None"}).judge(_asks(**what)).level == "None"


@pytest.mark.parametrize(
    ("document", "problem"),
    [
        (b"", "not a Policy"),
        (b"[]", "cannot unmarshal array"),
        (b"{", "yaml"),
        ({"rules": [{"level": "Metadata"}], "kind": "Pod"}, "it is Pod of"),
        ({"rules": []}, "it has no rules"),
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
def test_a_policy_that_cannot_be_meant_is_refused(document, problem):
    """With the place and the reason."""
    if isinstance(document, dict):
        document = json.dumps({"apiVersion": "audit.k8s.io/v1", "kind": "Policy", **document}).encode()
    with pytest.raises(auditpolicy.PolicyProblem) as found:
        auditpolicy.parse(document)
    assert problem in str(found.value)


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
def test_where_a_request_came_from(peer, headers, expected):
    """What proxies say comes first, what nobody can choose last; what is no address is left out."""
    assert audit.sources(peer, exchange.Headers(headers)) == expected


# --- the file -----------------------------------------------------------------------------------------------------


def _names(folder):
    return sorted(each.name for each in folder.iterdir())


def test_a_log_is_turned_over_and_forgotten(tmp_path):
    """A full file gets the time as its name; only so many are kept, and they are nobody else's to read."""
    clock = testing.FakeClock()
    log = auditlog.LogFile(tmp_path / "logs" / "audit.log", auditlog.Rotation(megabytes=1, backups=2), clock, _gap)
    line = b"x" * (400 * 1024) + b"\n"
    for _ in range(9):
        log.write(line)
        clock._move_to(clock.monotonic() + 1.5)
    log.close()
    assert _names(tmp_path / "logs") == [
        "audit-2026-01-01T00-00-09.000.log", "audit-2026-01-01T00-00-12.000.log", "audit.log",
    ]  # fmt: skip
    assert {each.stat().st_mode & 0o777 for each in (tmp_path / "logs").iterdir()} == {0o600}
    assert [each.name for each in auditlog.backups(tmp_path / "logs" / "audit.log")] == _names(tmp_path / "logs")[:2]


def test_old_files_are_forgotten(tmp_path):
    """By their age in days, whatever their number."""
    clock = testing.FakeClock()
    (tmp_path / "audit-2025-12-01T00-00-00.000.log").write_bytes(b"")
    (tmp_path / "audit-2025-12-31T00-00-00.000.log").write_bytes(b"")
    (tmp_path / "audit-notes.log").write_bytes(b"")
    log = auditlog.LogFile(tmp_path / "audit.log", auditlog.Rotation(megabytes=1, backups=0, days=7), clock, _gap)
    for _ in range(2):
        log.write(b"x" * 1024 * 1024)
    log.close()
    assert _names(tmp_path) == [
        "audit-2025-12-31T00-00-00.000.log", "audit-2026-01-01T00-00-00.000.log", "audit-notes.log", "audit.log",
    ]  # fmt: skip


def test_a_log_without_an_ending_is_turned_over_too(tmp_path):
    """Its former files are found, and forgotten, like any others."""
    clock = testing.FakeClock()
    log = auditlog.LogFile(tmp_path / "audit", auditlog.Rotation(megabytes=1, backups=1), clock, _gap)
    for _ in range(4):
        log.write(b"x" * 1024 * 1024)
        clock._move_to(clock.monotonic() + 1)
    log.close()
    assert _names(tmp_path) == ["audit", "audit-2026-01-01T00-00-03.000"]
    assert [each.name for each in auditlog.backups(tmp_path / "audit")] == ["audit-2026-01-01T00-00-03.000"]


def test_a_name_that_is_no_time_is_nobody_of_ours(tmp_path):
    """It stays, and fails nothing."""
    stranger = tmp_path / "audit-2025-99-99T00-00-00.000.log"
    stranger.write_bytes(b"")
    log = auditlog.LogFile(tmp_path / "audit.log", auditlog.Rotation(megabytes=1, days=1), testing.FakeClock(), _gap)
    for _ in range(3):
        log.write(b"x" * 1024 * 1024)
    log.close()
    assert stranger.exists()
    assert log.lost == 0


def test_half_a_line_does_not_swallow_the_next(tmp_path):
    """Where the disk is full in the middle of a line, the log ends before it, and goes on when there is room again."""
    path = tmp_path / "audit.log"
    log = auditlog.LogFile(path, auditlog.Rotation(), testing.FakeClock(), _gap)
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
def test_a_log_that_cannot_be_renamed_goes_on(tmp_path):
    """Too large is better than lost."""
    folder = tmp_path / "logs"
    folder.mkdir()
    path = folder / "audit.log"
    path.write_bytes(b"")
    folder.chmod(0o500)
    log = auditlog.LogFile(path, auditlog.Rotation(megabytes=1), testing.FakeClock(), _gap)
    for _ in range(3):
        log.write(b"x" * 1024 * 1024)
    log.close()
    folder.chmod(0o700)
    assert (log.lost, path.stat().st_size) == (0, 3 * 1024 * 1024)


def test_what_cannot_be_written_is_counted(tmp_path):
    """No request fails because of it."""
    (tmp_path / "file").write_bytes(b"")
    log = auditlog.LogFile(tmp_path / "file" / "audit.log", auditlog.Rotation(), testing.FakeClock(), _gap)
    log.write(b"a\n")
    log.write(b"b\n")
    assert log.lost == 2


async def test_what_was_lost_is_told_when_there_is_room_again(tmp_path, caplog):
    """In the log itself: how many records, and between which moments; meanwhile, and now and then, in the server's."""
    clock = testing.FakeClock()
    path = tmp_path / "folder" / "audit.log"
    (tmp_path / "folder").write_bytes(b"")
    log = auditlog.LogFile(path, auditlog.Rotation(), clock, _gap)
    for _ in range(150):
        log.write(b"a\n")
        await clock.advance(1)
    assert (log.lost, log.problem) == (150, "File exists")
    assert [each.lost for each in caplog.records] == [1, 61, 121]
    (tmp_path / "folder").unlink()
    log.write(b"b\n")
    log.write(b"c\n")
    log.close()
    assert path.read_bytes() == b"150 lost from 00:00:00 until 00:02:30\nb\nc\n"
    assert (log.lost, log.problem) == (150, "")


def test_strangers_are_recorded_at_a_rate():
    """The first hundred whole, then so many a second; how many were left out is told once a minute."""
    clock = testing.FakeClock()
    sampler = auditlimits.Sampler(10, clock)
    assert sum(sampler.admits() for _ in range(500)) == 100
    assert sampler.untold() is None
    clock._move_to(2)
    assert sum(sampler.admits() for _ in range(500)) == 20
    clock._move_to(61)
    assert sampler.untold() == (880, datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC))
    assert (sampler.untold(at_once=True), sampler.skipped) == (None, 880)


def test_no_rate_is_no_limit():
    """0, as for other settings."""
    sampler = auditlimits.Sampler(0, testing.FakeClock())
    assert all(sampler.admits() for _ in range(1000))
    assert sampler.untold(at_once=True) is None


@pytest.mark.parametrize("long", ["x" * 64_000, "\0" * 64_000, "1.2.3.4," * 8_000])
def test_a_record_does_not_grow_with_what_was_sent(long):
    """Whatever is long in a request: path, query, headers, names, the Status, and whom it acts as."""
    clock, lines = testing.FakeClock(), []
    outputs = audit.Outputs(lambda line, may_wait: lines.append(line))
    made = audit.Audit(_policy({"level": "Metadata"}), outputs, clock, telemetry.AuditTelemetry())
    headers = [(name, long.encode()) for name in (b"user-agent", b"x-forwarded-for", b"x-real-ip")]
    of = exchange.Exchange("GET", "/" + long, long, exchange.Headers(headers), source="127.0.0.1")
    of.info = context.RequestInfo("/", long, True, long, long, long, long, long, long)
    of.request_id, of.received, of.user = "id", clock.now(), context.User(long, long, (long,) * 500, {long: (long,)})
    record = made.begin(of, _asks())
    record.object_uid = record.object_version = long
    many = [f"{number}" for number in range(9_000)]
    of.user, of.annotations = context.User("b", "", tuple(many), dict.fromkeys(many, ("a",))), {"a": long}
    causes = [{"message": long, "field": long}] * 500
    status = {"metadata": {}, "message": long, "details": {"name": long, "causes": causes}}
    made.finish(of, record, exchange.Reply(422, "", outcome=status))
    assert max(map(len, lines)) < 256 * 1024
    event = json.loads(lines[-1])
    assert event["sourceIPs"][-1] == "127.0.0.1"
    assert event["responseStatus"]["details"]["causes"][-1] == {"message": "490 more causes are left out"}
    assert event["user"]["extra"]["certplane.io/left-out"][0].endswith(" groups, 1 keys")


def test_times_in_records_have_microseconds():
    """As clients of the log expect them."""
    clock = testing.FakeClock(datetime.datetime(2026, 1, 1, 0, 0, 0, 546147, tzinfo=datetime.UTC))
    lines = []
    figures = telemetry.AuditTelemetry()
    outputs = audit.Outputs(lambda line, may_wait: lines.append(line))
    made = audit.Audit(_policy({"level": "Metadata"}), outputs, clock, figures)
    of = exchange.Exchange("GET", "/version", "", exchange.Headers([(b"user-agent", b"x/1")]), source="127.0.0.1")
    of.info = context.RequestInfo("/version", "get", is_resource=False)
    of.request_id, of.received, of.user = "id", clock.now(), JANE
    made.begin(of, _path("/version"))
    assert json.loads(lines[0]) == {
        "kind": "Event", "apiVersion": "audit.k8s.io/v1", "level": "Metadata", "auditID": "id",
        "stage": "RequestReceived", "requestURI": "/version", "verb": "get",
        "user": {"username": "jane", "groups": ["dev", "system:authenticated"]}, "sourceIPs": ["127.0.0.1"],
        "userAgent": "x/1", "requestReceivedTimestamp": "2026-01-01T00:00:00.546147Z",
        "stageTimestamp": "2026-01-01T00:00:00.546147Z",
    }  # fmt: skip
