"""`certplane certs`: flags, texts and exit codes."""

from __future__ import annotations

import datetime
import json
import re
import sys
from typing import NamedTuple

import pytest

from certplane.cli import durations, main
from certplane.clock import SystemClock
from certplane.errors import SetupError
from certplane.golang import goyaml
from certplane.kubeadm import kubeconfig, layout, pki, renewal
from tests import kubeadmpki

DAY = datetime.timedelta(days=1)


class Result(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """Runs `certplane certs` in an empty directory."""
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")

    def run_command(*arguments):
        monkeypatch.setattr(sys, "argv", ["certplane", "certs", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main.main()
        return Result(ended.value.code, *capsys.readouterr())

    return run_command


@pytest.fixture
def now():
    return SystemClock().now().replace(microsecond=0)


def create(tmp_path, now, **options):
    """A directory of kubeadm, and the flags that name it."""
    directory = kubeadmpki.create(tmp_path / "kubernetes", now, **options)
    # Without a kubeconfig the configuration is not read from a cluster.
    flags = ("--cert-dir", directory.pki, "--kubeconfig-dir", directory.root, "--kubeconfig", tmp_path / "none")
    return directory, flags


@pytest.fixture
def data(tmp_path, now):
    """A data directory of certplane."""
    path = tmp_path / "data"
    path.mkdir(mode=0o700)
    own = pki.ensure(path / "pki", ("localhost",), "ECDSA-P256", now - 300 * DAY)
    kubeconfig.ensure(path, own, "https://127.0.0.1:6443", "ECDSA-P256", now - 300 * DAY)
    return path


def rows(result):
    """The cells of the first table, by name."""
    lines = result.out.partition("\n\n")[0].splitlines()[1:]
    return {cells[0]: cells[1:] for cells in (re.split(r"\s{2,}", line.strip()) for line in lines)}


# --- check-expiration ---------------------------------------------------------------------------------------------


def test_all_certificates_are_listed(run, tmp_path, now):
    """With kubeadm's columns; nothing is printed to standard error."""
    _, flags = create(tmp_path, now, lifetime=30 * DAY)
    result = run("check-expiration", *flags)
    assert (0, "") == (result.code, result.err)
    assert list(layout.NAMES) == list(rows(result))
    assert ["29d", "etcd-ca", "no"] == rows(result)["etcd-peer"][1:]


def test_the_document_has_four_spaces_and_no_other_text(run, tmp_path, now):
    """As JSON; YAML has sorted keys."""
    _, flags = create(tmp_path, now)
    result = run("check-expiration", *flags, "-o", "json")
    document = json.loads(result.out)
    assert json.dumps(document, indent=4) + "\n" == result.out
    text = run("check-expiration", *flags, "--output", "yaml").out
    assert text.startswith("apiVersion: output.kubeadm.k8s.io/v1alpha3\ncertificateAuthorities:\n- ")
    assert [row["name"] for row in document["certificates"]] == [
        row["name"] for row in goyaml.load(text)["certificates"]
    ]


@pytest.mark.parametrize(
    ("within", "code", "names"),
    [("30d", 4, "apiserver"), ("20d", 0, ""), ("4w2d", 4, "apiserver"), ("1d1h", 0, ""), ("720h", 4, "apiserver")],
)
def test_a_certificate_that_ends_too_soon_is_an_exit_code(run, tmp_path, now, within, code, names):
    """For cron and CI: 4, and the names on standard error."""
    _, flags = create(tmp_path, now, lifetime=25 * DAY)
    result = run("check-expiration", *flags, "--within", within)
    assert code == result.code
    assert names in result.err
    assert bool(names) == ("ending within" in result.err)
    assert 11 == len(rows(result))


def test_an_expired_certificate_is_an_exit_code_of_within_only(run, tmp_path, now):
    """kubeadm returns 0."""
    _, flags = create(tmp_path, now - 2 * DAY, lifetime=DAY)
    assert 0 == run("check-expiration", *flags).code
    result = run("check-expiration", *flags, "--within", "0")
    assert 4 == result.code
    assert "<invalid>" == rows(result)["apiserver"][1]


def test_a_ca_that_ends_too_soon_counts(run, tmp_path, now):
    """It ends all its certificates."""
    _, flags = create(tmp_path, now, ca_lifetime=20 * DAY)
    result = run("check-expiration", *flags, "--within", "30d")
    assert (4, "ending within 30d: ca, etcd-ca, front-proxy-ca\n") == (result.code, result.err)


def test_damage_is_an_error_as_in_kubeadm_and_a_row_with_within(run, tmp_path, now):
    """Both name the file."""
    directory, flags = create(tmp_path, now)
    path = directory.pki / "apiserver.crt"
    path.write_text("x")
    result = run("check-expiration", *flags)
    assert (2, "") == (result.code, result.out)
    assert (
        f"error: failed to load existing certificate apiserver: couldn't load the certificate file {path}" in result.err
    )
    assert "\nhint: " in result.err
    result = run("check-expiration", *flags, "--within", "1d")
    assert 4 == result.code
    assert [] == rows(result)["!INVALID! apiserver"]
    assert "warning: apiserver: failed to load existing certificate apiserver: couldn't load " in result.err
    assert 11 == len(rows(result))


def test_an_interrupted_renewal_is_reported(run, tmp_path, now):
    """The key is that of another certificate."""
    directory, flags = create(tmp_path, now)
    kubeadmpki.write(directory.pki / "apiserver.key", kubeadmpki.key_pem(kubeadmpki.new_key()))
    result = run("check-expiration", *flags)
    assert "warning: the key of apiserver is not that of its certificate: certplane certs renew apiserver" in result.err


@pytest.mark.parametrize("within", ["30x", "", "-1d", "d", "1d30", "9" * 5000 + "d", "99999999999d", "\udcff", "30 d"])
def test_bad_durations_get_a_hint(within):
    """With an example."""
    with pytest.raises(SetupError) as refusal:
        durations.parse_long(within)
    assert refusal.value.message.startswith("not a duration: ")
    assert re.fullmatch(r"write it as \d+d, 2w, 12h or 1d12h", refusal.value.hints[0])


def test_the_hint_for_a_bad_unit_has_the_number():
    """30x is probably 30d."""
    with pytest.raises(SetupError) as refusal:
        durations.parse_long("30x")
    assert ("write it as 30d, 2w, 12h or 1d12h",) == refusal.value.hints


@pytest.mark.parametrize(
    ("text", "expected"),
    [("30d", 30 * DAY), ("2w", 14 * DAY), ("1w1d1h", 8 * DAY + DAY / 24), ("90m", DAY / 16), ("0", 0 * DAY)],
)
def test_durations_may_have_weeks_and_days(text, expected):
    """Before what Go writes."""
    assert expected == durations.parse_long(text)


def test_an_empty_directory_is_no_success_with_within(run, tmp_path):
    """A cron job with a wrong path must not be silent."""
    flags = ("--cert-dir", tmp_path, "--kubeconfig-dir", tmp_path, "--kubeconfig", tmp_path / "none")
    result = run("check-expiration", *flags)
    assert 0 == result.code
    assert f"warning: there are no certificates in {tmp_path}" in result.err
    result = run("check-expiration", *flags, "--within", "30d")
    assert 2 == result.code
    assert "hint: set --cert-dir" in result.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["check-expiration", "-o", "foo"], 'unable to match a printer suitable for the output format "foo", allowed '),
        (["check-expiration", "--cert-dir", ""], "--cert-dir: not a path"),
        (["check-expiration", "--data-dir", "x"], "x is not a data directory of certplane"),
        (["check-expiration", "--data-dir", "x", "--cert-dir", "y"], "--data-dir cannot be combined"),
        (["check-expiration", "--config", "x"], "the configuration file x cannot be read: No such file"),
        (["check-expiration", "--within", "30x"], "not a duration: 30x"),
        (["renew", "kubelet.conf"], "'kubelet.conf' is not one of"),
        (["renew", "ca"], "'ca' is not one of"),
        (["renew"], "Missing argument"),
        (["renew", "all", "--cert-dir", "x"], "the certificate directory x cannot be used"),
        (["renew", "all", "--key-algorithm", "DSA"], "'DSA' is not one of"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_invalid_arguments_are_refused(run, arguments, message):
    """With code 2 and a hint."""
    result = run(*arguments)
    assert 2 == result.code
    assert message in result.err
    assert "\nhint: " in result.err


# --- directories of any files -------------------------------------------------------------------------------------


def test_a_directory_of_any_files_is_listed(run, tmp_path, now):
    """One line for each certificate and problem; the exit code says that there are problems."""
    ca = kubeadmpki.new_ca("kubernetes", now)
    path = tmp_path / "files"

    def write(name, begins, ends):
        leaf = kubeadmpki.new_leaf((name, []), [kubeadmpki.CLIENT], kubeadmpki.NO_NAMES, ca, (begins, ends))
        kubeadmpki.write(path / f"{name}.crt", kubeadmpki.pem(leaf.certificate))

    write("good", now, now + 100 * DAY + DAY / 2)
    assert 0 == run("check-expiration", "--directory", path).code
    assert 4 == run("check-expiration", "--directory", path, "--within", "101d").code
    write("soon", now, now + 5 * DAY + DAY / 2)
    assert 0 == run("check-expiration", "--directory", path).code
    write("future", now + 10 * DAY, now + 100 * DAY + DAY / 2)
    assert 4 == run("check-expiration", "--directory", path).code
    write("old", now - 10 * DAY, now - 5 * DAY)
    kubeadmpki.write(path / "broken.pem", b"-----BEGIN CERTIFICATE-----")
    result = run("check-expiration", "--directory", path, "--within", "10d")
    assert (4, "") == (result.code, result.err)
    header = ["CERTIFICATE", "SUBJECT", "EXPIRES", "RESIDUAL TIME", "ISSUER", "STATUS"]
    assert header == re.split(r"\s{2,}", result.out.splitlines()[0])
    lines = [re.split(r"\s{2,}", line.removeprefix(f"{path}/")) for line in result.out.splitlines()[1:]]
    begins = (now + 10 * DAY).strftime("%b %d, %Y %H:%M UTC")
    assert [
        ["broken.pem", "a damaged PEM block"],
        ["future.crt", "future", "100d", "kubernetes", f"not valid before {begins}"],
        ["good.crt", "good", "100d", "kubernetes", "ok"],
        ["old.crt", "old", "<invalid>", "kubernetes", "expired"],
        ["soon.crt", "soon", "5d11h", "kubernetes", "ends within 10d"],
    ] == [cells[:2] + cells[3:] for cells in lines]
    document = json.loads(run("check-expiration", "--directory", path, "-o", "json").out)
    assert [True, True, False, True, False] == [item["needsAttention"] for item in document["items"]]
    assert "certs.certplane.io/v1alpha1" == document["apiVersion"]


def test_names_cannot_control_the_terminal(run, tmp_path, now):
    """Whoever makes a certificate or a file chooses its name, which need not be UTF-8."""
    path = tmp_path / "files"
    leaf = kubeadmpki.new_ca("evil\x1b[2J\n", now)
    kubeadmpki.write(path / "x\x1b[31m\udcff.crt", kubeadmpki.pem(leaf.certificate))
    result = run("check-expiration", "--directory", path)
    assert 0 == result.code
    assert "\x1b" not in result.out
    assert "x?[31m?.crt" in result.out
    assert "evil?[2J?" in result.out
    assert 2 == len(result.out.splitlines())
    for output in ("json", "yaml"):
        assert "\x1b" not in run("check-expiration", "--directory", path, "-o", output).out


@pytest.mark.parametrize("name", ["missing", "", "a\0b", "x" * 5000, "\udcff"])
def test_a_directory_that_cannot_be_listed_is_an_error(run, name):
    """With a hint."""
    result = run("check-expiration", "--directory", name)
    assert 2 == result.code
    assert "\nhint: " in result.err


def test_an_empty_directory_is_an_error(run, tmp_path):
    """A cron job with a wrong path must not be silent."""
    result = run("check-expiration", "--directory", tmp_path)
    assert 2 == result.code
    assert "error: there are no certificates in " in result.err


def test_a_directory_cannot_be_combined_with_a_layout(run, tmp_path):
    """It would not be clear what is listed."""
    result = run("check-expiration", "--directory", tmp_path, "--cert-dir", tmp_path)
    assert 2 == result.code
    assert "error: --directory cannot be combined " in result.err


# --- renew --------------------------------------------------------------------------------------------------------


def test_all_certificates_are_renewed(run, tmp_path, now):
    """The lines are kubeadm's, in the order of the names."""
    directory, flags = create(tmp_path, now - 300 * DAY)
    (directory.root / "super-admin.conf").unlink()
    result = run("renew", "all", *flags, "--key-algorithm", "ECDSA-P256")
    assert (0, "") == (result.code, result.err)
    assert [
        "certificate embedded in the kubeconfig file for the admin to use and for kubeadm itself renewed",
        "certificate for serving the Kubernetes API renewed",
        "certificate the apiserver uses to access etcd renewed",
        "certificate for the API server to connect to kubelet renewed",
        "certificate embedded in the kubeconfig file for the controller manager to use renewed",
        "certificate for liveness probes to healthcheck etcd renewed",
        "certificate for etcd nodes to communicate with each other renewed",
        "certificate for serving etcd renewed",
        "certificate for the front proxy client renewed",
        "certificate embedded in the kubeconfig file for the scheduler manager to use renewed",
        "MISSING! certificate embedded in the kubeconfig file for the super-admin",
        "",
        (
            "Done renewing certificates. You must restart the kube-apiserver, kube-controller-manager, kube-scheduler "
            "and etcd, so that they can use the new certificates."
        ),
    ] == result.out.splitlines()
    listed = rows(run("check-expiration", *flags))
    assert {"364d"} == {cells[1] for name, cells in listed.items() if name != "!MISSING! super-admin.conf"}


def test_one_certificate_is_renewed(run, tmp_path, now):
    """The others, the CA and kubelet.conf are not touched."""
    directory, flags = create(tmp_path, now - 300 * DAY)
    before = {path: path.read_bytes() for path in directory.root.rglob("*") if path.is_file()}
    result = run("renew", "etcd-server", *flags)
    assert (0, "certificate for serving etcd renewed\n") == (result.code, result.out)
    changed = {path.name for path, content in before.items() if path.read_bytes() != content}
    assert {"server.crt", "server.key"} == changed


def test_an_external_ca_is_no_error(run, tmp_path, now):
    """As in kubeadm; the certificates of the other CAs are renewed."""
    directory, flags = create(tmp_path, now)
    (directory.pki / "ca.key").unlink()
    result = run("renew", "all", *flags, "--key-algorithm", "ECDSA-P256")
    assert 0 == result.code
    assert "Detected external ca, certificate for serving the Kubernetes API can't be renewed\n" in result.out
    lines = [line for line in result.out.splitlines() if line.endswith(" renewed")]
    assert 11 == len(lines)
    assert 6 == sum(line.startswith("Detected external ca, ") for line in lines)


def test_an_error_of_one_certificate_keeps_none_from_being_renewed(run, tmp_path, now):
    """But the exit code says so, and the last line does not say that all is done."""
    directory, flags = create(tmp_path, now)
    (directory.pki / "etcd" / "peer.crt").write_text("x")
    result = run("renew", "all", *flags, "--key-algorithm", "ECDSA-P256")
    assert 2 == result.code
    assert 10 == result.out.count(" renewed\n")
    assert "Done" not in result.out
    assert result.err.startswith("error: failed to load existing certificate etcd/peer: ")


def test_renewing_nothing_because_of_errors_is_no_success(run, tmp_path, now):
    """An expired CA, for all certificates."""
    _, flags = create(tmp_path, now - 20 * DAY, ca_lifetime=10 * DAY)
    result = run("renew", "all", *flags)
    assert (2, "") == (result.code, result.out)
    assert 11 == result.err.count(" has expired: NotBefore: ")
    assert "warning" not in result.err


def test_a_certificate_that_ends_with_its_ca_is_announced(run, tmp_path, now):
    """It would not be valid any longer."""
    _, flags = create(tmp_path, now, ca_lifetime=10 * DAY)
    result = run("renew", "apiserver", *flags)
    assert 0 == result.code
    assert result.err.startswith("warning: apiserver ends with its CA, ")


def test_a_ca_key_that_others_can_read_is_announced(run, tmp_path, now):
    """It is used all the same: the certificates may end tomorrow."""
    directory, flags = create(tmp_path, now)
    (directory.pki / "ca.key").chmod(0o644)
    result = run("renew", "apiserver", *flags)
    assert 0 == result.code
    assert "warning: other users can read the CA key" in result.err


def test_the_configuration_file_is_used(run, tmp_path, now):
    """Directory, lifetime, algorithm and an external etcd. --cert-dir is ignored then, as in kubeadm."""
    directory, _ = create(tmp_path, now)
    config = tmp_path / "config.yaml"
    config.write_text(
        "apiVersion: kubeadm.k8s.io/v1beta4\nkind: ClusterConfiguration\n"
        f"certificatesDir: {directory.pki}\nencryptionAlgorithm: ECDSA-P384\n"
        "certificateValidityPeriod: 10000h0m0s\netcd: {external: {endpoints: []}}\n"
    )
    flags = ("--config", config, "--cert-dir", "/nowhere", "--kubeconfig-dir", directory.root)
    result = run("renew", "apiserver", *flags)
    assert 0 == result.code
    assert "warning: certificateValidityPeriod: the value 10000h0m0s is more than the recommended" in result.err
    entry = layout.kubeadm(directory.pki, directory.root).find("apiserver")
    assert abs(renewal.load(entry).not_after - now - datetime.timedelta(hours=10000)) < datetime.timedelta(minutes=2)
    assert "ECDSA" == renewal.load(entry).parsed.key.kind
    assert 7 == len(rows(run("check-expiration", *flags)))
    result = run("renew", "etcd-peer", *flags)
    assert 2 == result.code
    assert "error: etcd-peer is not a valid certificate for this cluster\nhint: there are: admin.conf, " in result.err


# --- the data directory of certplane ------------------------------------------------------------------------------


def test_a_data_directory_is_listed_and_renewed(run, data):
    """Only its own certificates are expected."""
    result = run("check-expiration", "--data-dir", data)
    assert (0, "") == (result.code, result.err)
    assert {"admin.conf": "64d", "apiserver": "64d", "super-admin.conf": "64d"} == {
        name: cells[1] for name, cells in rows(result).items()
    }
    assert ["CERTIFICATE", "ca"] == [line.split()[0] for line in result.out.partition("\n\n")[2].splitlines()]
    result = run("renew", "all", "--data-dir", data)
    assert (0, "") == (result.code, result.err)
    assert "Done renewing certificates. A running certplane serve " in result.out
    assert {"364d"} == {cells[1] for cells in rows(run("check-expiration", "--data-dir", data)).values()}


def test_nothing_is_done_without_the_ca_key_of_a_data_directory(run, data):
    """And the output does not say so."""
    (data / "pki" / "ca.key").unlink()
    result = run("renew", "all", "--data-dir", data)
    assert (0, "") == (result.code, result.err)
    assert 3 == result.out.count("Detected external ca, ")
    assert "Done" not in result.out
    assert {"yes"} == {cells[-1] for cells in rows(run("check-expiration", "--data-dir", data)).values()}


def test_damage_in_a_data_directory_is_a_row(run, data):
    """There is no kubeadm to be compatible with."""
    (data / "admin.conf").write_bytes((data / "admin.conf").read_bytes()[:500])
    result = run("check-expiration", "--data-dir", data)
    assert 4 == result.code
    assert [] == rows(result)["!INVALID! admin.conf"]
    assert "warning: admin.conf: invalid kubeConfig file " in result.err


def test_the_data_directory_below_the_current_one_is_the_default(run, data, monkeypatch, tmp_path):
    """If there is none of kubeadm. It is said on standard error."""
    monkeypatch.setattr(layout, "CERTIFICATES_DIRECTORY", tmp_path / "none")
    monkeypatch.chdir(tmp_path)
    data.rename(tmp_path / "certplane-data")
    result = run("check-expiration")
    assert 0 == result.code
    assert "using the data directory certplane-data" in result.err
    assert 3 == len(rows(result))


def test_an_unknown_name_of_a_data_directory_is_an_error(run, data):
    """It has no etcd."""
    result = run("renew", "etcd-peer", "--data-dir", data)
    assert 2 == result.code
    assert "hint: there are: admin.conf, apiserver, super-admin.conf" in result.err


# --- generate-csr -------------------------------------------------------------------------------------------------


def test_requests_are_written_for_all_certificates(run, tmp_path):
    """The lines are kubeadm's. --cert-dir has precedence over the configuration file here."""
    config = tmp_path / "config.yaml"
    config.write_text(
        "apiVersion: kubeadm.k8s.io/v1beta4\nkind: InitConfiguration\nlocalAPIEndpoint: {advertiseAddress: 10.1.2.3}\n"
        "---\napiVersion: kubeadm.k8s.io/v1beta4\nkind: ClusterConfiguration\ncertificatesDir: /nowhere\n"
        "encryptionAlgorithm: ECDSA-P256\n"
    )
    flags = ("--config", config, "--cert-dir", tmp_path / "pki", "--kubeconfig-dir", tmp_path)
    result = run("generate-csr", *flags)
    assert (0, "") == (result.code, result.err)
    assert [
        f"generating keys and CSRs in {tmp_path}/pki",
        *(f"  {name}" for name in kubeadmpki.LEAFS),
        f"generating keys and CSRs in {tmp_path}",
        *(f"  {name}" for name in kubeadmpki.KUBECONFIGS),
    ] == result.out.splitlines()
    assert (tmp_path / "pki" / "etcd" / "peer.key").read_text().startswith("-----BEGIN EC PRIVATE KEY-----")
    result = run("generate-csr", *flags)
    assert (2, "") == (result.code, result.out)
    assert f"error: file already exists: key or CSR {tmp_path}/pki/apiserver\nhint: " in result.err


def test_requests_are_written_into_a_data_directory(run, tmp_path):
    """With the defaults of `certplane serve`."""
    result = run("generate-csr", "--data-dir", tmp_path / "data", "--key-algorithm", "ECDSA-P256")
    assert (0, "") == (result.code, result.err)
    assert ["  apiserver", "  admin.conf", "  super-admin.conf"] == [
        line for line in result.out.splitlines() if line.startswith("  ")
    ]
    result = run("generate-csr", "--data-dir", tmp_path, "--cert-dir", tmp_path)
    assert (2, "") == (result.code, result.out)


# --- certificate-key ----------------------------------------------------------------------------------------------


def test_a_certificate_key_has_64_hexadecimal_digits(run):
    """And is another one each time."""
    keys = {run("certificate-key").out for _ in range(2)}
    assert 2 == len(keys)
    assert all(re.fullmatch(r"[0-9a-f]{64}\n", key) for key in keys)
