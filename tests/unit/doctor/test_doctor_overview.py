"""The state of a server on one screen, and as a document, also if the server sends anything."""

from __future__ import annotations

import datetime
import json

import pytest

from certplane import timestamps
from certplane.cli import doctor as doctor_command
from certplane.cli import status as status_command
from certplane.doctor.clusterfacts import Answer, Health
from certplane.doctor.findings import Finding, Severity
from certplane.doctor.overview import MAX_ROWS, Overview, UserFacts
from certplane.resources import certificatesigningrequests as csrs
from certplane.resources.leases import Lease, LeaseSpec
from certplane.testing import builders
from tests import kubeadmpki

NOW = datetime.datetime(2026, 1, 2, 12, tzinfo=datetime.UTC)
HOUR = datetime.timedelta(hours=1)
PKCS10 = builders.new_pkcs10()
HOSTILE = "\x1b[35m\x07evil\r\n\u202e" + "x" * 5000
#: Control characters of the terminal, and those that change the direction of text.
CONTROLS = {"\x1b", "\x07", "\r", "\u202e"}


def request(name, age, **times):
    """A request; `times` are ages of its conditions by type."""
    csr = builders.new_csr(name, request=PKCS10, username="jane")
    csr.metadata.creation_timestamp = timestamps.rfc3339(NOW - age)
    csr.status.conditions = [
        csrs.CertificateSigningRequestCondition(
            type=type_, status="True", reason="Because", last_update_time=timestamps.rfc3339(NOW - since)
        )
        for type_, since in times.items()
    ]
    return csr


def overview(*requests, health="[+]ping ok\n", status=200, **others):
    return Overview(NOW, Answer(Health(status, health)), requests=Answer(requests), **others)


def text(facts):
    return "\n".join(status_command._lines(facts, "127.0.0.1:6443", ""))


def test_requests_are_counted():
    """Those of today by their decision; pending ones from the oldest on."""
    issued = request("issued", 5 * HOUR, Approved=4 * HOUR)
    issued.status.certificate = kubeadmpki.pem(kubeadmpki.new_ca("x", NOW).certificate)
    facts = overview(
        request("young", HOUR),
        request("old", 3 * HOUR),
        request("denied", 9 * HOUR, Denied=HOUR),
        request("yesterday", 20 * HOUR, Approved=13 * HOUR),
        request("failed", HOUR, Approved=HOUR, Failed=HOUR),
        issued,
    )
    assert [csr.metadata.name for csr in facts.pending] == ["old", "young"]
    assert [csr.metadata.name for csr in facts.waiting] == ["yesterday"]
    assert facts.counts == {"approvedToday": 2, "deniedToday": 1, "issued": 1, "failed": 1}
    assert [approval.name for approval in facts.approvals] == ["failed", "issued", "yesterday"]
    assert [end.name for end in facts.ends] == ["csr/issued"]
    shown = text(facts)
    assert "2 pending, 2 approved and 1 denied today, 1 issued, 1 failed" in shown
    assert "oldest pending for 3h: old for kubernetes.io/kube-apiserver-client" in shown
    assert "1 approved without a certificate: yesterday" in shown


METRICS = r"""# HELP certplane_signer_ready text
certplane_signer_ready{reason="",signer="example.com/web"} 1.0
certplane_signer_ready{reason="no \"CA\"",signer="kubernetes.io/kubelet-serving"} 0.0
certplane_certificate_expiration_timestamp_seconds{certificate="serving",serial_number="a"} 1.7676e+09
certplane_certificate_expiration_timestamp_seconds{certificate="ca",serial_number="b"} 1.9e+09
certplane_certificate_expiration_timestamp_seconds{certificate="bad",serial_number="c"} 1e400
certplane_certificate_expiration_timestamp_seconds{certificate="worse" 1
certplane_certificate_expiration_timestamp_seconds_other{certificate="no"} 1
"""


def test_signers_and_ends_are_read_from_metrics():
    """Damaged samples are left out."""
    facts = overview(metrics=Answer(METRICS))
    assert [(signer.name, signer.is_ready, signer.reason) for signer in facts.signers] == [
        ("example.com/web", True, ""),
        ("kubernetes.io/kubelet-serving", False, 'no "CA"'),
    ]
    assert [end.name for end in facts.ends] == ["serving", "ca"]


def test_signers_are_read_from_health_checks_without_metrics():
    """Whoever may not read metrics may read those."""
    facts = overview(health="[+]signer-kubelet-serving ok\n[!]custom-signers failed, ignored: no CA\n")
    assert [(signer.name, signer.is_ready, signer.reason) for signer in facts.signers] == [
        ("custom-signers", False, "no CA"),
        ("kubernetes.io/kubelet-serving", True, ""),
    ]


def test_what_is_not_known_is_said():
    """With the reason, in place of each answer."""
    forbidden = Answer(reason="forbidden: no")
    facts = Overview(NOW, forbidden, forbidden, forbidden, forbidden, forbidden, forbidden)
    assert not facts.is_ready
    shown = text(facts)
    for label in ("User", "Controllers", "Requests"):
        assert f"{label.ljust(14)}not known: forbidden: no" in shown
    document = status_command._document(facts, "x", "")
    assert (document["user"], document["requests"], document["server"]["ready"]) == (None, None, False)


def test_a_server_that_is_not_ready():
    """The failed check is shown with its reason."""
    facts = overview(health="[-]etcd failed: disk is full\n", status=500)
    assert not facts.is_ready
    assert "etcd: disk is full" in text(facts)


def test_only_a_few_rows_are_shown():
    """It is one screen."""
    many = [request(f"r{number}", HOUR, Approved=HOUR) for number in range(100)]
    assert len(overview(*many).approvals) == MAX_ROWS
    assert len(text(overview(*many)).splitlines()) < 24


@pytest.mark.parametrize("version", [{"gitVersion": HOSTILE}, {"gitVersion": [HOSTILE]}, [HOSTILE], HOSTILE, None])
def test_hostile_content_does_not_reach_the_terminal(version):
    """Control sequences are escaped, and long texts shortened, wherever they come from."""
    csr = request(HOSTILE, HOUR)
    approved = request("a", HOUR, Approved=HOUR)
    for item in (csr, approved):
        item.spec.signer_name = item.spec.username = HOSTILE
    approved.status.conditions[0].reason = HOSTILE
    lease = Lease(spec=LeaseSpec(holder_identity=HOSTILE, renew_time=HOSTILE))
    facts = overview(
        csr,
        approved,
        health=f"[-]{'x' * 3000} failed: {HOSTILE}\n[!]etcd failed, ignored: \x1b[0m\n",
        status=500,
        version=Answer(version),
        user=Answer(UserFacts(HOSTILE, [HOSTILE] * 3)),
        leases=Answer({"kube-controller-manager": lease}),
        metrics=Answer('certplane_signer_ready{signer="\x1b[35m",reason="\\n\x07"} 1.0\n'),
    )
    shown = "\n".join(line.replace("\x1b[0m", "") for line in status_command._lines(facts, HOSTILE, ""))
    for style in ("\x1b[31m", "\x1b[32m", "\x1b[33m", "\x1b[1m"):
        # The command's own colours, which click removes where there is no terminal.
        shown = shown.replace(style, "")
    assert not CONTROLS & set(shown)
    assert len(shown) < 20_000
    assert json.loads(json.dumps(status_command._document(facts, HOSTILE, "")))


def test_hostile_findings_do_not_reach_the_terminal():
    """The same for doctor: what, and the command."""
    findings = [Finding("rbac-approve", Severity.ERROR, HOSTILE, HOSTILE, (HOSTILE,))]
    shown = doctor_command._text(findings, findings)
    for style in ("\x1b[31m", "\x1b[1m", "\x1b[0m"):
        shown = shown.replace(style, "")
    assert not CONTROLS & set(shown)
    document = doctor_command._document(findings, findings, ["a\udcff"])
    assert document["sources"] == ["a\ufffd"]
