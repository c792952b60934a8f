"""What `certplane audit approvals` reads from audit records, and its output."""

from __future__ import annotations

import datetime
import json

import pytest
from click import testing

from certplane import errors
from certplane.cli import audit

NEW_YEAR = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)


def _event(minute=0, **more):
    return {
        "kind": "Event",
        "apiVersion": "audit.k8s.io/v1",
        "level": "Metadata",
        "auditID": f"id-{minute}",
        "stage": "ResponseComplete",
        "user": {"username": "jane"},
        "objectRef": {"resource": "certificatesigningrequests", "name": "a", "subresource": "approval"},
        "stageTimestamp": f"2026-01-01T00:{minute:02}:00.546147Z",
        **more,
    }


def _decision(uid="u1", decision="Approved", **more):
    noted = {"csr-decision": decision, "csr-reason": "Asked", "csr-requestor": "bob", "csr-signer": "example.com/s"}
    return _event(
        **more, annotations={f"certplane.io/{key}": value for key, value in {**noted, "csr-uid": uid}.items()}
    )


def _issued(uid="u1", serial="0a1b", **more):
    noted = {
        "csr-uid": uid,
        "certificate-serial": serial,
        "certificate-sha256": "ff" * 32,
        "certificate-not-after": "2027-01-01T00:00:00Z",
    }
    user = {"username": "system:serviceaccount:kube-system:signer"}
    return _event(**more, user=user, annotations={f"certplane.io/{key}": value for key, value in noted.items()})


def _lines(*events):
    return [json.dumps(event).encode() + b"\n" for event in events]


def _run(*arguments):
    return testing.CliRunner().invoke(audit.audit, ["approvals", *arguments])


def test_an_approval_has_all_recorded_fields():
    """The time is that of the decision, not of the certificate."""
    (approval,) = audit.approvals(_lines(_decision(), _issued(minute=1)))
    assert approval == audit.Approval(
        when="2026-01-01T00:00:00.546147Z",
        decision="Approved",
        csr="a",
        uid="u1",
        by="jane",
        requestor="bob",
        signer="example.com/s",
        reason="Asked",
        serial="0a1b",
        sha256="ff" * 32,
        not_after="2027-01-01T00:00:00Z",
        audit_id="id-0",
    )


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        ([], []),
        ([_decision()], [("u1", "Approved", "")]),
        ([_decision(decision="Denied")], [("u1", "Denied", "")]),
        ([_decision(decision="Failed")], [("u1", "Failed", "")]),
        ([_decision(), _issued()], [("u1", "Approved", "0a1b")]),
        ([_issued()], []),
        ([_issued(), _decision()], [("u1", "Approved", "")]),
        ([_decision(), _issued("u2")], [("u1", "Approved", "")]),
        (
            [_decision("u1"), _decision("u2"), _issued("u2", "02"), _issued("u1", "01")],
            [("u1", "Approved", "01"), ("u2", "Approved", "02")],
        ),
        (
            [_decision(), _decision(decision="Note"), _issued()],
            [("u1", "Approved", "0a1b"), ("u1", "Note", "")],
        ),
        ([_decision(stage="RequestReceived"), _decision(stage="Panic")], []),
        ([_event(annotations={"authorization.k8s.io/decision": "allow"})], []),
    ],
)
def test_decisions_and_certificates_are_joined_by_the_uid_of_the_request(events, expected):
    """Decisions keep their order. A certificate without a decision, and a decision that was not carried out, are not
    listed.
    """
    assert [
        (approval.uid, approval.decision, approval.serial) for approval in audit.approvals(_lines(*events))
    ] == expected


def test_requests_with_the_same_name_are_distinguished():
    """A name can be used again after its request was deleted; the UID cannot."""
    events = [_decision("old"), _issued("old", "01"), _decision("new", minute=5), _issued("new", "02", minute=6)]
    approvals = audit.approvals(_lines(*events))
    assert [(approval.csr, approval.uid, approval.serial) for approval in approvals] == [
        ("a", "old", "01"),
        ("a", "new", "02"),
    ]


@pytest.mark.parametrize(
    ("who", "expected"),
    [
        ({}, "jane"),
        ({"impersonatedUser": {"username": "bob"}}, "bob (impersonated by jane)"),
        ({"impersonatedUser": {"username": "jane"}}, "jane (impersonated by jane)"),
    ],
)
def test_the_deciding_user_is_shown(who, expected):
    """An impersonated user is shown together with the real one."""
    (approval,) = audit.approvals(_lines(_decision(**who)))
    assert approval.by == expected


@pytest.mark.parametrize(
    ("minutes", "expected"),
    [(-1, ["u0", "u5"]), (0, ["u0", "u5"]), (1, ["u5"]), (5, ["u5"]), (6, [])],
)
def test_since_filters_by_the_time_of_the_decision(minutes, expected):
    """The certificate of a decision may be issued at any later time."""
    events = [_decision("u0"), _decision("u5", minute=5), _issued("u5", minute=59)]
    approvals = audit.approvals(_lines(*events), since=NEW_YEAR + datetime.timedelta(minutes=minutes))
    assert [approval.uid for approval in approvals] == expected
    assert all(approval.serial for approval in approvals if approval.uid == "u5")


@pytest.mark.parametrize(
    "line",
    [b"", b"\n", b"{}", b"certplane.io/", b'{"a":"certplane.io/', b'["certplane.io/"]', b'"certplane.io/"', b"\xff"],
)
def test_lines_with_invalid_json_are_ignored(line):
    """A damaged line does not affect the other lines."""
    first, last = _lines(_decision("u1"), _decision("u2"))
    assert [approval.uid for approval in audit.approvals([first, line, last])] == ["u1", "u2"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"stageTimestamp": "yesterday"},
        {"stageTimestamp": None},
        {"annotations": ["certplane.io/csr-decision"]},
        {"user": "jane"},
        {"impersonatedUser": ["jane"]},
        {"objectRef": None},
    ],
)
def test_lines_that_are_no_audit_event_are_ignored(wrong):
    """A server did not write them."""
    approvals = audit.approvals(_lines(_decision("u1"), _decision("u2") | wrong), since=NEW_YEAR)
    assert [approval.uid for approval in approvals] == ["u1"]


def test_lines_with_deep_nesting_are_ignored():
    """They cause no RecursionError."""
    assert audit.approvals([b'{"a":"certplane.io/","b":' + b"[" * 100_000]) == []


# --- the command --------------------------------------------------------------------------------------------------


@pytest.fixture
def log(tmp_path):
    """A log that was rotated twice. The files were created in another order than that of their records."""
    current = tmp_path / "audit.log"
    current.write_bytes(b"".join(_lines(_decision("u3", "Denied", minute=3), _issued("u2", "02", minute=4))))
    for minute in (2, 1):
        file = tmp_path / f"audit-2026-01-01T00-0{minute}-30.000.log"
        file.write_bytes(b"".join(_lines(_decision(f"u{minute}", minute=minute))))
    (tmp_path / "audit-notes.log").write_bytes(b"".join(_lines(_decision("other"))))
    return current


def test_rotated_files_are_read_first(log):
    """From the oldest to the newest, so that a certificate in one file is joined to its decision in another."""
    done = _run("--log", str(log), "-o", "json")
    assert done.exit_code == 0
    serials = [(record["uid"], record["serial"]) for record in json.loads(done.output)]
    assert serials == [("u1", ""), ("u2", "02"), ("u3", "")]


def test_the_table_has_a_line_for_each_decision(log):
    """A dash stands for an unknown value."""
    lines = _run("--log", str(log)).output.splitlines()
    assert lines[0].split() == ["WHEN", "DECISION", "CSR", "BY", "FOR", "SIGNER", "SERIAL", "NOT", "AFTER"]
    assert [line.split() for line in lines[1:]] == [
        ["2026-01-01T00:01:00Z", "Approved", "a", "jane", "bob", "example.com/s", "-", "-"],
        ["2026-01-01T00:02:00Z", "Approved", "a", "jane", "bob", "example.com/s", "02", "2027-01-01T00:00:00Z"],
        ["2026-01-01T00:03:00Z", "Denied", "a", "jane", "bob", "example.com/s", "-", "-"],
    ]


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("plain", "plain"),
        ("two words", "two words"),
        ("größe", "größe"),
        ("a\n2026-01-01T00:00:00Z   Approved", r'"a\n2026-01-01T00:00:00Z   Approved"'),
        ("a   bob", '"a   bob"'),
        ("a\x1b[2J", r'"a\x1b[2J"'),
        ("a\u202eb", r'"a\u202eb"'),
        (" a", '" a"'),
    ],
)
def test_unsafe_names_are_quoted_in_the_table(tmp_path, name, shown):
    """Clients choose the names: what could look like another line, another column or a terminal escape is quoted."""
    path = tmp_path / "audit.log"
    path.write_bytes(b"".join(_lines(_decision(objectRef={"name": name}))))
    lines = _run("--log", str(path)).output.splitlines()
    assert len(lines) == 2
    assert f"Approved   {shown}   jane" in lines[1]


def test_the_default_log_is_in_the_data_directory(log):
    """`--data-dir` gives the same output as `--log`."""
    assert _run("--data-dir", str(log.parent)).output == _run("--log", str(log)).output


@pytest.mark.parametrize(("output", "start"), [("table", "WHEN "), ("json", "[]\n")])
def test_a_log_without_decisions_is_accepted(tmp_path, output, start):
    """The table has only its header, the JSON document is an empty list."""
    (tmp_path / "audit.log").write_bytes(b"")
    done = _run("--log", str(tmp_path / "audit.log"), "-o", output)
    assert (done.exit_code, len(done.output.splitlines())) == (0, 1)
    assert done.output.startswith(start)


@pytest.mark.parametrize(
    ("since", "expected"),
    [
        ("", ["early", "late"]),
        ("2026-01-01T00:00:00Z", ["late"]),
        ("2026-01-01T01:00:00+01:00", ["late"]),
        ("1h", ["late"]),
        ("1h30m", ["late"]),
    ],
)
def test_since_is_a_time_or_a_duration(tmp_path, since, expected):
    """A time in any time zone, or a duration before now. One decision is long ago, the other far in the future."""
    path = tmp_path / "audit.log"
    path.write_bytes(b"".join(_lines(
        _decision("early", stageTimestamp="2020-01-01T00:00:00.000000Z"),
        _decision("late", stageTimestamp="9000-01-01T00:00:00.000000Z"),
    )))  # fmt: skip
    done = _run("--log", str(path), "--since", since, "-o", "json")
    assert [record["uid"] for record in json.loads(done.output)] == expected


@pytest.mark.parametrize(
    "since", ["yesterday", "24", "-5h", "2026-01-01", "2026-01-01T00:00:00", "2026-13-01T00:00:00Z", "99999999h"]
)
def test_an_invalid_since_is_refused(log, since):
    """The error quotes the value, and there is a hint."""
    done = _run("--log", str(log), "--since", since)
    assert isinstance(done.exception, errors.SetupError)
    assert since in done.exception.message
    assert done.exception.hints


@pytest.mark.parametrize("kind", ["missing", "folder"])
def test_an_unreadable_log_is_an_error(tmp_path, kind):
    """The error has the path. An empty list would mean that nothing was approved."""
    path = tmp_path / "audit.log"
    if kind == "folder":
        path.mkdir()
    done = _run("--log", str(path))
    assert isinstance(done.exception, errors.SetupError)
    assert str(path) in done.exception.message
    assert done.exception.hints


def test_the_approvals_log_is_read_too(tmp_path):
    """It has decisions that were rotated out of the audit log. A record that is in both files counts once."""
    old, new = _lines(_decision(), _decision(minute=2, uid="u2"))
    (tmp_path / "audit-approvals-2026-01-01T00-00-00.000.log").write_bytes(old)
    (tmp_path / "audit-approvals.log").write_bytes(new)
    (tmp_path / "audit.log").write_bytes(b"".join(_lines(_decision(minute=1, uid="u3"))) + new)
    answer = _run("--data-dir", str(tmp_path), "-o", "json")
    assert [record["uid"] for record in json.loads(answer.stdout)] == ["u1", "u3", "u2"]
    (tmp_path / "audit.log").unlink()
    answer = _run("--data-dir", str(tmp_path), "-o", "json")
    assert [record["uid"] for record in json.loads(answer.stdout)] == ["u1", "u2"]


def test_decisions_with_the_same_audit_id_are_all_listed():
    """Clients can choose the auditID."""
    same = {"auditID": "chosen"}
    approvals = audit.approvals(_lines(_decision(**same), _decision(uid="u2", decision="Denied", **same)))
    assert [approval.decision for approval in approvals] == ["Approved", "Denied"]
