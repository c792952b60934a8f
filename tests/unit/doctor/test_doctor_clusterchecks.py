"""A running server: its clock, its health, its controllers, and requests that wait."""

from __future__ import annotations

import datetime
import email.utils

import pytest

from certplane import timestamps
from certplane.doctor import clusterchecks, examination
from certplane.doctor.clusterfacts import Answer, ClusterFacts, Health
from certplane.doctor.findings import Severity
from certplane.resources import certificatesigningrequests as csrs
from certplane.resources.leases import Lease, LeaseSpec
from certplane.testing import builders

NOW = datetime.datetime(2026, 1, 2, 12, tzinfo=datetime.UTC)
SECOND, HOUR = datetime.timedelta(seconds=1), datetime.timedelta(hours=1)
PKCS10 = builders.new_pkcs10()


def wrong(items):
    return [(finding.id, finding.severity.name) for finding in items if finding.severity > Severity.OK]


# --- clock --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0, []),
        (-9, []),
        (11, [("clock-skew", "WARNING")]),
        (-299, [("clock-skew", "WARNING")]),
        (300, [("clock-skew", "ERROR")]),
        (-86400, [("clock-skew", "ERROR")]),
    ],
)
def test_clock_skew(seconds, expected):
    """A difference by which certificates are refused is an error."""
    date = email.utils.format_datetime(NOW + seconds * SECOND, usegmt=True)
    found = clusterchecks.check_clock(date, NOW)
    assert wrong(found) == expected
    if expected:
        assert ("ahead of" if seconds > 0 else "behind") in found[0].what


@pytest.mark.parametrize("date", ["", "yesterday", "Fri, 99 Jan 2026 00:00:00 GMT", "Fri, 2 Jan 2026 00:00:00 -0000"])
def test_a_server_without_a_readable_date(date):
    """The check says that it could not run."""
    assert wrong(clusterchecks.check_clock(date, NOW)) == [("clock-skew", "INFO")]


# --- health and controllers ---------------------------------------------------------------------------------------

GOOD = "[+]ping ok\n[+]background ok\n[+]etcd ok\nreadyz check passed\n"


@pytest.mark.parametrize(
    ("text", "status", "expected"),
    [
        (GOOD, 200, []),
        ("[+]ping ok\n[-]etcd failed: disk is full\nreadyz check failed\n", 500, [("store", "ERROR")]),
        ("[!]stored-values failed, ignored: 1\n", 200, [("store", "WARNING")]),
        ("[!]certificates failed, ignored: serving ends in 6d\n", 200, [("certificate-end", "WARNING")]),
        ("[!]background failed, ignored: x\n", 200, [("controllers", "WARNING")]),
        ("[!]signer-kubelet-serving failed, ignored: no CA\n", 200, [("controllers", "WARNING")]),
        ("[-]shutdown failed: reason withheld\n", 500, [("server-ready", "ERROR")]),
        ("<html>", 502, [("server-ready", "ERROR")]),
    ],
)
def test_health_checks(text, status, expected):
    """Failed ones are named with their reason; those that are ignored by the server are warnings."""
    found = clusterchecks.check_health(clusterchecks.parse_health(text), status, "--context x ")
    assert wrong(found) == expected
    if "disk is full" in text:
        assert found[0].what == "the check etcd of the server fails: disk is full"
        assert found[0].fix[0] == "kubectl --context x get --raw '/readyz?verbose'"


def lease(holder, age):
    renewed = timestamps.rfc3339_micro(NOW - age)
    return Lease(spec=LeaseSpec(holder_identity=holder, lease_duration_seconds=15, renew_time=renewed))


@pytest.mark.parametrize(
    ("leases", "health", "expected"),
    [
        ({}, GOOD, []),
        ({"kube-controller-manager": lease("node-a", 3 * SECOND)}, "[+]ping ok\n", []),
        ({"kube-controller-manager": lease("node-a", HOUR)}, "[+]ping ok\n", [("controllers", "ERROR")]),
        ({"kube-controller-manager": lease("", SECOND)}, "[+]ping ok\n", [("controllers", "ERROR")]),
        ({"kube-controller-manager": Lease()}, "[+]ping ok\n", [("controllers", "ERROR")]),
        ({"certplane-controllers": lease("pod", HOUR)}, GOOD, [("controllers", "WARNING")]),
        ({}, "[+]ping ok\n", [("controllers", "WARNING")]),
        ({"other": lease("x", SECOND)}, "[+]ping ok\n", [("controllers", "WARNING")]),
    ],
)
def test_controllers_are_alive(leases, health, expected):
    """By the Lease of their leader, or, in certplane, by a health check."""
    assert wrong(clusterchecks.check_controllers(leases, clusterchecks.parse_health(health), NOW)) == expected


# --- requests -----------------------------------------------------------------------------------------------------


def request(name, age, *conditions, certificate=b""):
    csr = builders.new_csr(name, request=PKCS10)
    csr.metadata.creation_timestamp = timestamps.rfc3339(NOW - age)
    for type_, since in conditions:
        csr.status.conditions.append(
            csrs.CertificateSigningRequestCondition(
                type=type_, status="True", last_update_time=timestamps.rfc3339(NOW - since)
            )
        )
    csr.status.certificate = certificate
    return csr


def requests_found(*requests):
    return wrong(clusterchecks.check_requests(requests, NOW, ""))


@pytest.mark.parametrize(
    ("age", "severity"), [(SECOND, "INFO"), (2 * HOUR, "WARNING"), (13 * HOUR, "ERROR")]
)  # fmt: skip
def test_pending_requests(age, severity):
    """The oldest counts, and is named with the commands that decide it."""
    requests = [request("young", SECOND / 2), request("old", age)]
    found = clusterchecks.check_requests(requests, NOW, "--context x ")
    assert wrong(found) == [("csr-pending", severity)]
    assert found[0].what.startswith("2 requests wait for a decision; the oldest, old for kubernetes.io/")
    assert found[0].fix[0] == "kubectl --context x describe csr old"


def test_requests_that_nobody_has_to_decide():
    """Decided, issued and failed ones do not wait."""
    assert requests_found() == []
    assert requests_found(request("a", HOUR * 20, ("Denied", HOUR))) == []
    assert requests_found(request("a", HOUR * 20, ("Approved", HOUR), certificate=b"x")) == []
    assert requests_found(request("a", HOUR * 20, ("Approved", HOUR), ("Failed", HOUR))) == [("csr-failed", "INFO")]


def test_approved_requests_without_a_certificate():
    """After a minute the signer does not work."""
    assert requests_found(request("a", HOUR, ("Approved", 30 * SECOND))) == []
    assert requests_found(request("a", HOUR, ("Approved", 90 * SECOND))) == [("csr-not-issued", "ERROR")]


def test_times_that_cannot_be_read_are_tolerated():
    """A server may send anything."""
    csr = request("a", HOUR, ("Approved", HOUR))
    csr.metadata.creation_timestamp = "soon"
    csr.status.conditions[0].last_update_time = "x" * 1000
    assert requests_found(csr) == []
    csr.status.conditions = []
    assert requests_found(csr) == [("csr-pending", "INFO")]


# --- all of a server ----------------------------------------------------------------------------------------------


def test_an_unreachable_server():
    """An error, unless it may be stopped on purpose."""
    facts = ClusterFacts(NOW, unreachable="connection refused")
    assert wrong(examination.server(facts, "", is_optional=False)) == [("server", "ERROR")]
    assert wrong(examination.server(facts, "", is_optional=True)) == [("server", "WARNING")]


def test_what_is_forbidden_does_not_hide_the_rest():
    """Each question has its own answer."""
    date = email.utils.format_datetime(NOW, usegmt=True)
    forbidden = Answer(reason="forbidden: no")
    facts = ClusterFacts(NOW, "", date, Answer(Health(200, GOOD)), forbidden, forbidden, forbidden)
    found = examination.server(facts, "", is_optional=False)
    assert wrong(found) == [("controllers", "WARNING"), ("csr-pending", "WARNING"), ("rbac-approve", "WARNING")]
    assert {item.id for item in found if item.severity is Severity.OK} == {"server", "clock-skew", "server-ready"}
    assert [item.what for item in found if item.id == "csr-pending"] == ["requests not checked: forbidden: no"]


def test_the_rule_that_is_missing_is_named():
    """As the server's own refusals name it, to paste into a role."""
    refused = (
        'certificatesigningrequests.certificates.k8s.io is forbidden: User "jane" cannot list resource '
        '"certificatesigningrequests" in API group "certificates.k8s.io" at the cluster scope'
    )
    facts = ClusterFacts(NOW, "", "", requests=Answer(reason=refused))
    (finding,) = (item for item in examination.server(facts, "", is_optional=False) if item.id == "csr-pending")
    rule = "- {apiGroups: ['certificates.k8s.io'], resources: [certificatesigningrequests], verbs: [list]}"
    assert finding.fix == (f"add to a ClusterRole: {rule}",)
