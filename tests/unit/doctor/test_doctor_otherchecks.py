"""Settings, custom signers, the store and the disk."""

from __future__ import annotations

import datetime

import pytest

from certplane.config import servesettings
from certplane.doctor import settingschecks, signerchecks, storechecks
from certplane.doctor.findings import Severity
from certplane.doctor.signerchecks import SignerFacts
from certplane.doctor.storechecks import DiskFacts, StoreFacts
from tests import kubeadmpki

NOW = datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC)
CA = kubeadmpki.new_ca("kubernetes", NOW)
OTHER = kubeadmpki.new_ca("other", NOW)
GIB = 1 << 30


def wrong(items):
    return [(finding.id, finding.severity.name) for finding in items if finding.severity > Severity.OK]


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({}, []),
        # The log of approvals is beside the audit log, so it is off, too.
        ({"audit_log_path": "none"}, [("audit-off", "WARNING")]),
        ({"audit_log_path": "none", "audit_approvals_log_path": "a.log"}, []),
        ({"cluster_signing_duration": "87600h"}, [("long-lifetime", "WARNING")]),
        ({"token_auth_file": "t.csv"}, [("static-tokens", "WARNING")]),
        ({"listen": "0.0.0.0:6443"}, [("anonymous-auth", "INFO")]),
        ({"listen": "0.0.0.0:6443", "anonymous_auth": False}, []),
    ],
)
def test_settings_that_are_a_risk(flags, expected):
    """They are valid, and the server starts with them."""
    assert wrong(settingschecks.check(servesettings.read(flags, {}))) == expected


CERT, KEY = "--cluster-signing-cert-file=/a", "--cluster-signing-key-file=/b"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([CERT, KEY], ""),
        (["kube-controller-manager"], "no --cluster-signing-cert-file and --cluster-signing-key-file"),
        ([CERT], "has --cluster-signing-cert-file, but no --cluster-signing-key-file"),
        ([KEY], "has --cluster-signing-key-file, but no --cluster-signing-cert-file"),
        ([CERT, "--cluster-signing-key-file="], "but no --cluster-signing-key-file"),
        (["--cluster-signing-kubelet-serving-cert-file=/a"], "no --cluster-signing-kubelet-serving-key-file"),
    ],
)
def test_the_signing_flags_of_kube_controller_manager(arguments, text):
    """Both or none of a pair, and one pair at least: the mission's "signer flags missing"."""
    found = settingschecks.check_controller_manager(arguments, "/m.yaml")
    assert [finding.severity for finding in found] == [Severity.ERROR if text else Severity.OK]
    assert text in found[0].what


# --- custom signers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ca", "changes", "expected"),
    [
        (OTHER, {}, []),
        (CA, {}, [("signers-client-ca", "WARNING")]),
        (CA, {"limits_subject": False}, [("signers-client-ca", "ERROR")]),
        (CA, {"issues_ca": True}, [("signers-client-ca", "ERROR")]),
    ],
)
def test_a_signer_under_the_ca_of_the_clients(ca, changes, expected):
    """Its certificates log in; without limits, as anybody."""
    signer = SignerFacts("example.com/web", "/web.crt", kubeadmpki.pem(ca.certificate), **changes)
    assert wrong(signerchecks.check([signer], kubeadmpki.pem(CA.certificate), NOW)) == expected


def test_a_signer_below_the_ca_of_the_clients():
    """An intermediate below it counts, and so does a renewed certificate of the same key."""
    names = ("web ca", [])
    below = kubeadmpki.new_leaf(names, [kubeadmpki.CLIENT], kubeadmpki.NO_NAMES, CA, (NOW, NOW + kubeadmpki.YEAR))
    renewed = kubeadmpki.new_ca("kubernetes", NOW + kubeadmpki.YEAR, key=CA.key)
    for issued in (below, renewed):
        signer = SignerFacts("example.com/web", "/web.crt", kubeadmpki.pem(issued.certificate))
        found = signerchecks.check([signer], kubeadmpki.pem(CA.certificate), NOW + datetime.timedelta(days=1))
        assert wrong(found) == [("signers-client-ca", "WARNING")]


def test_files_that_cannot_be_compared():
    """A damaged client CA is said; a damaged CA of a signer is a finding of the CAs."""
    signer = SignerFacts("example.com/web", "/web.crt", b"hello")
    assert wrong(signerchecks.check([signer], b"hello", NOW)) == [("signers-client-ca", "WARNING")]
    assert wrong(signerchecks.check([signer], kubeadmpki.pem(CA.certificate), NOW)) == []


# --- store and disk -----------------------------------------------------------------------------------------------

HEADER = b"SQLite format 3\0" + (4096).to_bytes(2, "big") + bytes(82)


@pytest.mark.parametrize(
    ("store", "expected"),
    [
        (StoreFacts("/s", 8192, 0, HEADER), []),
        (StoreFacts("/s", 0, 0, b""), []),
        (StoreFacts("/s"), [("store", "INFO")]),
        (StoreFacts("/s", 8192, 0, bytes(100)), [("store", "ERROR")]),
        (StoreFacts("/s", 8192, 0, HEADER[:16] + bytes(84)), [("store", "ERROR")]),
        (StoreFacts("/s", 50, 0, HEADER[:50]), [("store", "ERROR")]),
        (StoreFacts("/s", 3 * GIB, 0, HEADER), [("store", "WARNING")]),
        (StoreFacts("/s", 4096, 3 * GIB, HEADER), [("store", "WARNING")]),
    ],
)
def test_the_files_of_a_store(store, expected):
    """A store that is missing is new; one that is no database, or is huge, is not."""
    assert wrong(storechecks.check_store(store)) == expected


@pytest.mark.parametrize(
    ("free", "total", "inodes", "expected"),
    [
        (50 * GIB, 100 * GIB, 100, []),
        (0.9 * GIB, 100 * GIB, 100, [("disk-space", "WARNING")]),
        (0.05 * GIB, 100 * GIB, 100, [("disk-space", "ERROR")]),
        (0.5 * GIB, 2 * GIB, 100, []),
        (0.15 * GIB, 2 * GIB, 100, [("disk-space", "WARNING")]),
        (50 * GIB, 100 * GIB, 0, [("disk-space", "WARNING")]),
    ],
)
def test_free_space(free, total, inodes, expected):
    """A gigabyte, or a tenth of a small disk; and inodes."""
    disk = DiskFacts("the store", "/d", int(free), total, inodes, 1000)
    assert wrong(storechecks.check_disks([disk])) == expected
