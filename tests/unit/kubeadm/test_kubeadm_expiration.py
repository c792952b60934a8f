"""The table and the document of `certs check-expiration`."""

from __future__ import annotations

import datetime
import json
import locale

import pytest

from certplane.errors import SetupError
from certplane.golang import goyaml
from certplane.kubeadm import expiration, layout
from certplane.kubeadm.expiration import Report, Row
from tests import kubeadmpki

MADE = datetime.datetime(2026, 11, 23, 18, 29, 0, tzinfo=datetime.UTC)
NOW = MADE + datetime.timedelta(minutes=5)

#: As kubeadm prints it; the bar marks the end of the line.
TABLE = """\
CERTIFICATE                         EXPIRES                  RESIDUAL TIME   CERTIFICATE AUTHORITY   EXTERNALLY MANAGED|
!MISSING! admin.conf                                                                                 |
apiserver                           Nov 23, 2027 18:29 UTC   364d            ca                      no      |
apiserver-etcd-client               Nov 23, 2027 18:29 UTC   364d            etcd-ca                 no      |
apiserver-kubelet-client            Nov 23, 2027 18:29 UTC   364d            ca                      no      |
!MISSING! controller-manager.conf                                                                    |
etcd-healthcheck-client             Nov 23, 2027 18:29 UTC   364d            etcd-ca                 no      |
etcd-peer                           Nov 23, 2027 18:29 UTC   364d            etcd-ca                 no      |
etcd-server                         Nov 23, 2027 18:29 UTC   364d            etcd-ca                 no      |
front-proxy-client                  Nov 23, 2027 18:29 UTC   364d            front-proxy-ca          yes     |
scheduler.conf                      Nov 23, 2027 18:29 UTC   364d            ca                      no      |
super-admin.conf                    Nov 23, 2027 18:29 UTC   364d            ca                      no      |
|
CERTIFICATE AUTHORITY   EXPIRES                  RESIDUAL TIME   EXTERNALLY MANAGED|
ca                      Nov 20, 2036 18:29 UTC   9y              no      |
etcd-ca                 Nov 20, 2036 18:29 UTC   9y              no      |
front-proxy-ca          Nov 20, 2036 18:29 UTC   9y              yes     |
""".replace("|", "")


@pytest.fixture
def directory(tmp_path):
    return kubeadmpki.create(tmp_path / "kubernetes", MADE)


@pytest.fixture
def entries(directory):
    return layout.kubeadm(directory.pki, directory.root)


def test_the_table_is_that_of_kubeadm(directory, entries):
    """Byte for byte, with missing files and an external CA."""
    for name in ("admin.conf", "controller-manager.conf"):
        (directory.root / name).unlink()
    (directory.pki / "front-proxy-ca.key").unlink()
    assert TABLE == expiration.table(expiration.collect(entries), NOW)


def test_columns_are_as_wide_as_their_longest_cell():
    """At least ten characters; the two tables are aligned independently. What has ended is `<invalid>`."""
    report = Report(
        (Row("apiserver", MADE, "ca"),),
        (Row("ca", MADE + datetime.timedelta(days=3), is_external=True), Row("etcd-ca")),
    )
    assert [
        "CERTIFICATE   EXPIRES                  RESIDUAL TIME   CERTIFICATE AUTHORITY   EXTERNALLY MANAGED",
        "apiserver     Nov 23, 2026 18:29 UTC   <invalid>       ca                      no      ",
        "",
        "CERTIFICATE AUTHORITY   EXPIRES                  RESIDUAL TIME   EXTERNALLY MANAGED",
        "ca                      Nov 26, 2026 18:29 UTC   2d23h           yes     ",
        "!MISSING! etcd-ca" + " " * 48,
    ] == expiration.table(report, NOW).splitlines()


def test_times_have_two_digits_and_english_months():
    """Whatever the locale is."""
    before = locale.setlocale(locale.LC_TIME)
    try:
        locale.setlocale(locale.LC_TIME, "C.UTF-8")
        assert "Feb 03, 2026 04:05 UTC" == expiration.format_time(
            datetime.datetime(2026, 2, 3, 4, 5, 6, tzinfo=datetime.UTC)
        )
    finally:
        locale.setlocale(locale.LC_TIME, before)


def test_the_document_is_that_of_kubeadm(directory, entries):
    """Keys in kubeadm's order; seconds are truncated."""
    (directory.root / "admin.conf").unlink()
    document = expiration.document(expiration.collect(entries), NOW + datetime.timedelta(milliseconds=1))
    assert ["kind", "apiVersion", "certificates", "certificateAuthorities"] == list(document)
    assert ["CertificateExpirationInfo", "output.kubeadm.k8s.io/v1alpha3"] == list(document.values())[:2]
    missing, apiserver = document["certificates"][:2]
    year = 365 * 24 * 3600
    assert (
        '{"name": "apiserver", "expirationDate": "2027-11-23T18:29:00Z", '
        f'"residualTime": {year - 301}, "externallyManaged": false, "caName": "ca", "missing": false}}'
    ) == json.dumps(apiserver)
    assert (
        '{"name": "admin.conf", "expirationDate": null, "residualTime": 0, "externallyManaged": false, "missing": true}'
    ) == json.dumps(missing)
    assert ["ca", "etcd-ca", "front-proxy-ca"] == [row["name"] for row in document["certificateAuthorities"]]
    assert {False} == {"caName" in row for row in document["certificateAuthorities"]}
    assert 'expirationDate: "2027-11-23T18:29:00Z"\n' in goyaml.dump(apiserver)


def test_residual_seconds_are_negative_after_the_end():
    """Truncated towards zero."""
    report = Report((Row("apiserver", MADE, "ca"),), ())
    assert -1 == expiration.document(report, MADE + datetime.timedelta(seconds=1.9))["certificates"][0]["residualTime"]


def test_a_damaged_certificate_is_an_error_as_in_kubeadm(directory, entries):
    """And so is a missing CA certificate; there is no table."""
    (directory.pki / "etcd" / "peer.crt").write_bytes(b"x")
    with pytest.raises(SetupError, match="failed to load existing certificate etcd/peer: "):
        expiration.collect(entries)
    (directory.pki / "ca.crt").unlink()
    with pytest.raises(SetupError, match="Error checking external CA condition for ca certificate authority: "):
        expiration.collect(entries)


def test_damage_is_a_row_if_it_is_tolerated(directory, entries):
    """The others are unharmed."""
    (directory.pki / "etcd" / "peer.crt").write_bytes(b"x")
    kubeconfig = directory.root / "scheduler.conf"
    kubeconfig.write_bytes(kubeconfig.read_bytes()[:1000])
    report = expiration.collect(entries, tolerate_damage=True)
    assert ["etcd-peer", "scheduler.conf"] == [row.name for row in report.rows if row.problem]
    assert 12 == sum(row.not_after is not None for row in report.rows)
    lines = expiration.table(report, NOW).splitlines()
    assert ["!INVALID! etcd-peer", "!INVALID! scheduler.conf"] == [
        line.rstrip() for line in lines if line.startswith("!INVALID!")
    ]
    assert {True} == {row.ends_within(datetime.timedelta(0), NOW) for row in report.rows if row.problem}


def test_a_key_of_another_certificate_is_noticed(directory, entries):
    """A renewal may have been interrupted."""
    kubeadmpki.write(directory.pki / "apiserver.key", kubeadmpki.key_pem(kubeadmpki.new_key()))
    assert ["apiserver"] == [row.name for row in expiration.collect(entries).rows if row.is_mismatched]


def test_an_external_etcd_has_no_rows(directory):
    """Its certificates are not kubeadm's."""
    report = expiration.collect(layout.kubeadm(directory.pki, directory.root, has_external_etcd=True))
    assert [] == [row.name for row in report.rows if "etcd" in row.name]
    assert 9 == len(report.rows)


@pytest.mark.parametrize(("days", "expected"), [(0, False), (364, False), (365, True), (366, True)])
def test_a_period_includes_certificates_that_end_in_it(days, expected):
    """The end itself is not part of it."""
    row = Row("apiserver", MADE + datetime.timedelta(days=365), "ca")
    assert expected == row.ends_within(datetime.timedelta(days=days), NOW)
    assert not Row("apiserver").ends_within(datetime.timedelta(days=days), NOW)
