"""Renewal of certificates in place, in kubeadm's layout and in certplane's."""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import os
import stat
import textwrap

import pytest
from cryptography import x509

from certplane.errors import SetupError
from certplane.golang import goyaml
from certplane.kubeadm import embedded, kubeconfig, layout, pki, renewal
from certplane.testing import FakeClock
from tests import kubeadmpki

#: When the directory was made, and when its certificates are renewed.
MADE = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)
NOW = MADE + datetime.timedelta(days=300)
OPTIONS = renewal.Options(key_algorithm="ECDSA-P256")


@pytest.fixture
def directory(tmp_path):
    return kubeadmpki.create(tmp_path / "kubernetes", MADE)


@pytest.fixture
def entries(directory):
    return layout.kubeadm(directory.pki, directory.root)


def renew(entry, options=OPTIONS, now=NOW):
    return renewal.renew(entry, renewal.load_ca(entry.ca, now), options, now)


def parsed(entry):
    return x509.load_pem_x509_certificate(renewal.load(entry).certificate)


def extension(certificate, kind):
    return certificate.extensions.get_extension_for_class(kind)


@pytest.mark.parametrize("name", layout.NAMES)
def test_a_renewed_certificate_has_the_contents_of_the_old_one(entries, name):
    """Subject, names, usages and issuer; a new key, serial number and validity."""
    entry = entries.find(name)
    old = parsed(entry)
    renewed = renew(entry)
    new = parsed(entry)
    assert (old.subject, old.issuer) == (new.subject, new.issuer)
    assert [(item.oid, item.critical, item.value) for item in old.extensions] == [
        (item.oid, item.critical, item.value) for item in new.extensions
    ]
    assert old.public_key() != new.public_key()
    assert NOW - datetime.timedelta(minutes=5) == new.not_valid_before_utc
    assert NOW + pki.LEAF_LIFETIME == new.not_valid_after_utc
    assert renewal.Renewed(entry, f"{new.serial_number:x}", new.not_valid_after_utc, is_shortened=False) == renewed
    assert old.serial_number != new.serial_number
    assert renewal.load(entry).matches
    new.verify_directly_issued_by(x509.load_pem_x509_certificate(entry.ca.certificate.read_bytes()))


def test_extensions_have_the_order_of_kubeadm(entries):
    """Key usage, extended key usage, basic constraints, authority key identifier, names."""
    renew(entries.find("etcd-server"))
    kinds = (
        x509.KeyUsage,
        x509.ExtendedKeyUsage,
        x509.BasicConstraints,
        x509.AuthorityKeyIdentifier,
        x509.SubjectAlternativeName,
    )
    assert list(kinds) == [type(item.value) for item in parsed(entries.find("etcd-server")).extensions]


def test_names_are_sorted_and_other_contents_dropped(directory, entries):
    """As in kubeadm: DNS names in the order of their bytes, without duplicates; addresses in their order."""
    validity = (MADE, MADE + kubeadmpki.YEAR)
    names = (["b", "*.a", "b"], ["10.0.0.2", "::1", "10.0.0.1", "10.0.0.2"])
    usages = [kubeadmpki.SERVER, x509.ObjectIdentifier("1.2.3.4")]
    leaf = kubeadmpki.new_leaf(("x", ["o2", "o1"]), usages, names, directory.cas["ca"], validity)
    kubeadmpki.write_pair(directory.pki, "apiserver", leaf)
    renew(entries.find("apiserver"))
    new = parsed(entries.find("apiserver"))
    alternative = extension(new, x509.SubjectAlternativeName).value
    assert ["*.a", "b"] == alternative.get_values_for_type(x509.DNSName)
    assert ["10.0.0.2", "::1", "10.0.0.1"] == list(map(str, alternative.get_values_for_type(x509.IPAddress)))
    assert [kubeadmpki.SERVER] == list(extension(new, x509.ExtendedKeyUsage).value)


@pytest.mark.parametrize(
    ("algorithm", "label"),
    [("RSA-2048", "RSA"), ("RSA-3072", "RSA"), ("ECDSA-P256", "EC"), ("ECDSA-P384", "EC")],
)
def test_the_key_algorithm_is_that_of_the_options(entries, algorithm, label):
    """Not that of the old key."""
    entry = entries.find("apiserver")
    renew(entry, renewal.Options(key_algorithm=algorithm))
    assert entry.key.read_bytes().startswith(f"-----BEGIN {label} PRIVATE KEY-----\n".encode())
    assert renewal.load(entry).matches
    bits = int(algorithm.rpartition("-")[2].removeprefix("P"))
    assert bits == parsed(entry).public_key().key_size


def test_the_old_files_are_kept_for_one_generation(entries):
    """Beside the new ones, the key readable by nobody else."""
    entry, admin = entries.find("apiserver"), entries.find("admin.conf")
    for _ in range(2):
        before = [path.read_bytes() for path in (entry.certificate, entry.key, admin.certificate)]
        renew(entry)
        renew(admin)
        old = [path.with_name(f"{path.name}.old") for path in (entry.certificate, entry.key, admin.certificate)]
        assert before == [path.read_bytes() for path in old]
        assert [0o644, 0o600, 0o600] == [stat.S_IMODE(path.stat().st_mode) for path in old]
    assert {"apiserver.crt", "apiserver.key", "apiserver.crt.old", "apiserver.key.old"} == {
        path.name for path in entry.certificate.parent.glob("*apiserver.*")
    }


def test_modes_are_kept_but_never_for_all_users(entries):
    """A component that does not run as root reads its key as a member of a group."""
    entry = entries.find("etcd-server")
    entry.key.chmod(0o644)
    renew(entry)
    assert 0o640 == stat.S_IMODE(entry.key.stat().st_mode)
    entry.certificate.chmod(0o600)
    renew(entry)
    assert [0o640, 0o600] == [stat.S_IMODE(path.stat().st_mode) for path in (entry.key, entry.certificate)]


def test_nobody_else_may_change_a_renewed_file(entries):
    """Whoever may write to the old one, as a member of its group or as anybody, may not write to the new one."""
    entry, admin = entries.find("etcd-server"), entries.find("admin.conf")
    paths = (entry.certificate, entry.key, admin.certificate)
    for path in paths:
        path.chmod(0o666)
    for name in ("etcd-server", "admin.conf"):
        renew(entries.find(name))
    for suffix in ("", ".old"):
        modes = [stat.S_IMODE(path.with_name(path.name + suffix).stat().st_mode) for path in paths]
        assert [0o644, 0o640, 0o640] == modes


def test_owners_are_kept(entries):
    """As root, for a component that runs as another user. Others can only renew their own files."""
    owner = (12345, 12346) if os.geteuid() == 0 else (os.geteuid(), os.getegid())
    entry, admin = entries.find("etcd-server"), entries.find("admin.conf")
    paths = (entry.certificate, entry.key, admin.certificate)
    for path in paths:
        os.chown(path, *owner)
    for name in ("etcd-server", "admin.conf"):
        renew(entries.find(name))
    for path in (*paths, *(path.with_name(f"{path.name}.old") for path in paths)):
        assert owner == (path.stat().st_uid, path.stat().st_gid)


@pytest.mark.parametrize("writes", range(1, 5))
def test_a_crash_between_two_writes_is_recovered(entries, monkeypatch, writes):
    """After any number of writes, `recover` leaves a matching pair, the old or the new one."""
    entry = entries.find("apiserver")
    before = entry.certificate.read_bytes()
    written = []
    rename = os.rename

    class Crash(BaseException):
        pass

    def crash(source, target, **options):
        if len(written) == writes:
            raise Crash
        written.append(target)
        rename(source, target, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", crash)
        with pytest.raises(Crash):
            renew(entry)
    expected = ["apiserver.crt.new", "apiserver.key.old", "apiserver.crt.old", "apiserver.key", "apiserver.crt"]
    assert expected[:writes] == written
    is_new = "apiserver.key" in written
    assert renewal.load(entry).matches != is_new
    assert is_new == renewal.recover(entry)
    assert renewal.load(entry).matches
    assert is_new == (before != entry.certificate.read_bytes())
    assert not entry.certificate.with_name("apiserver.crt.new").exists()
    assert renewal.recover(entry) is False
    renew(entry)
    assert renewal.load(entry).matches


def test_a_certificate_never_outlives_its_ca(tmp_path):
    """And the result says so."""
    directory = kubeadmpki.create(tmp_path / "kubernetes", MADE, ca_lifetime=datetime.timedelta(days=400))
    entry = layout.kubeadm(directory.pki, directory.root).find("front-proxy-client")
    renewed = renew(entry)
    assert MADE + datetime.timedelta(days=400) == renewed.not_after
    assert renewed.is_shortened


def refused(call, *arguments):
    with pytest.raises(SetupError) as refusal:
        call(*arguments)
    assert refusal.value.hints
    return refusal.value.message


def test_a_certificate_of_another_ca_is_refused(directory, entries):
    """Also if the other CA has the same name: the signature counts. Nothing is written."""
    other = kubeadmpki.new_ca("kubernetes", MADE)
    entry = entries.find("apiserver")
    kubeadmpki.write_pair(directory.pki, "ca", other)
    before = entry.certificate.read_bytes()
    expected = "certificate apiserver is not signed by corresponding CA: x509: ECDSA verification failure"
    assert expected == refused(renew, entry)
    assert before == entry.certificate.read_bytes()
    kubeadmpki.write_pair(directory.pki, "ca", kubeadmpki.new_ca("other", MADE))
    assert "unknown authority" in refused(renew, entry)


def test_a_new_ca_is_introduced_by_a_bundle(directory, entries):
    """The first certificate signs; the others say whose certificates it may replace. Kubeconfigs trust both."""
    new = kubeadmpki.new_ca("kubernetes", NOW)
    old = directory.cas["ca"]
    kubeadmpki.write_pair(directory.pki, "ca", new)
    bundle = kubeadmpki.pem(new.certificate) + kubeadmpki.pem(old.certificate)
    kubeadmpki.write(directory.pki / "ca.crt", bundle, 0o644)
    for name in ("apiserver", "admin.conf"):
        renew(entries.find(name))
        parsed(entries.find(name)).verify_directly_issued_by(new.certificate)
    assert bundle == embedded.read((directory.root / "admin.conf").read_bytes()).ca


@pytest.mark.parametrize(
    ("days", "problem"), [(3651, "has expired"), (-1, "is not valid yet")], ids=["expired", "future"]
)
def test_a_ca_that_is_not_valid_now_is_refused(entries, days, problem):
    """An expired CA cannot issue a valid certificate."""
    now = MADE + datetime.timedelta(days=days)
    assert problem in refused(renewal.load_ca, entries.authorities[0], now)


def test_a_ca_key_of_another_ca_is_refused(directory, entries):
    """Before anything is signed with it."""
    kubeadmpki.write(directory.pki / "ca.key", kubeadmpki.key_pem(kubeadmpki.new_key()))
    assert "private key does not match public key" in refused(renewal.load_ca, entries.authorities[0], NOW)


def test_a_ca_that_is_no_ca_is_refused(directory, entries):
    """Its basic constraints count."""
    for suffix in ("crt", "key"):
        content = (directory.pki / f"apiserver.{suffix}").read_bytes()
        (directory.pki / f"ca.{suffix}").write_bytes(content)
    assert "ca certificate is not a certificate authority" == refused(renewal.load_ca, entries.authorities[0], NOW)


@pytest.mark.parametrize("suffix", ["crt", "key"])
def test_an_incomplete_ca_is_refused(directory, entries, suffix):
    """With a hint that says which file to restore."""
    (directory.pki / f"ca.{suffix}").unlink()
    with pytest.raises(SetupError) as refusal:
        renewal.load_ca(entries.authorities[0], NOW)
    assert f"restore {directory.pki}/ca.{suffix}" in refusal.value.hints[0]


def test_a_missing_certificate_is_none(directory, entries):
    """It is the caller who decides what that means."""
    (directory.pki / "apiserver.crt").unlink()
    (directory.root / "admin.conf").unlink()
    assert [None, None] == [renewal.load(entries.find(name)) for name in ("apiserver", "admin.conf")]
    assert "MISSING! certificate for serving the Kubernetes API" == refused(renew, entries.find("apiserver"))


@pytest.mark.parametrize(
    "content", [b"", b"no PEM", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", b"\x30\x82\x01\x00"]
)
def test_a_damaged_certificate_is_refused(entries, content):
    """With the file and the reason."""
    entry = entries.find("apiserver")
    entry.certificate.write_bytes(content)
    message = refused(renewal.load, entry)
    assert message.startswith("failed to load existing certificate apiserver: couldn't load the certificate file ")


def test_files_that_could_block_or_never_end_are_refused(entries):
    """A pipe and a huge file."""
    entry = entries.find("apiserver")
    entry.certificate.unlink()
    os.mkfifo(entry.certificate)
    assert "not a regular file" in refused(renewal.load, entry)
    entry.certificate.unlink()
    with entry.certificate.open("wb") as file:
        file.truncate(renewal.MAX_FILE + 1)
    assert "larger than" in refused(renewal.load, entry)


def test_links_are_not_replaced(directory, entries, tmp_path):
    """The file that the link leads to would stay as it is, and be used."""
    entry = entries.find("apiserver")
    target = tmp_path / "elsewhere.key"
    entry.key.rename(target)
    entry.key.symlink_to(target)
    assert "is not a regular file" in refused(renew, entry)
    assert entry.key.is_symlink()


def test_directories_that_others_can_write_are_refused(directory, entries):
    """Whoever can replace files there chooses what is signed."""
    directory.pki.chmod(0o777)
    assert "other users can create files" in refused(renew, entries.find("apiserver"))


# --- external CAs -------------------------------------------------------------------------------------------------


def test_a_ca_without_key_is_external(directory, entries):
    """If the certificates that it must have issued are complete."""
    assert [False] * 3 == [renewal.find_external(entries, ca) for ca in entries.authorities]
    for base_name in kubeadmpki.CAS:
        (directory.pki / f"{base_name}.key").unlink()
    assert [True] * 3 == [renewal.find_external(entries, ca) for ca in entries.authorities]


EXTERNAL = "Error checking external CA condition for"


@pytest.mark.parametrize(
    ("base_name", "leaf", "expected"),
    [
        ("ca", "apiserver.crt", "certificate for API server: couldn't load the certificate file"),
        ("ca", "apiserver-kubelet-client.key", "key for apiserver-kubelet-client: couldn't load the private key file"),
        ("etcd/ca", "etcd/peer.crt", "certificate for etcd peer: couldn't load the certificate file"),
        ("front-proxy-ca", "front-proxy-client.key", "key for front-proxy-client: couldn't load the private key file"),
    ],
)
def test_an_external_ca_needs_complete_certificates(directory, entries, base_name, leaf, expected):
    """The texts are kubeadm's."""
    (directory.pki / f"{base_name}.key").unlink()
    (directory.pki / leaf).unlink()
    ca = next(ca for ca in entries.authorities if ca.base_name == base_name)
    message = refused(renewal.find_external, entries, ca)
    path = directory.pki / leaf
    prefix = f"{EXTERNAL} {base_name} certificate authority: failure loading {expected}"
    assert message == f"{prefix} {path}: open {path}: no such file or directory"


def test_an_external_ca_must_have_issued_the_certificates(directory, entries):
    """By signature."""
    (directory.pki / "ca.key").unlink()
    other = kubeadmpki.new_ca("kubernetes", MADE)
    leaf = kubeadmpki.new_leaf(("x", []), [kubeadmpki.SERVER], (["x"], []), other, (MADE, NOW))
    kubeadmpki.write_pair(directory.pki, "apiserver", leaf)
    message = refused(renewal.find_external, entries, entries.authorities[0])
    assert "certificate API server is not signed by corresponding CA: x509: ECDSA verification failure" in message


def test_a_missing_ca_certificate_is_an_error(directory, entries):
    """Even with its key."""
    (directory.pki / "ca.crt").unlink()
    expected = (
        f"{EXTERNAL} ca certificate authority: failure loading certificate for CA: couldn't load the certificate file "
        f"{directory.pki}/ca.crt: open {directory.pki}/ca.crt: no such file or directory"
    )
    assert expected == refused(renewal.find_external, entries, entries.authorities[0])


# --- kubeconfigs --------------------------------------------------------------------------------------------------


def test_everything_else_in_a_kubeconfig_is_kept(directory, entries):
    """Comments, order, other contexts and users."""
    path = directory.root / "admin.conf"
    text = path.read_text().replace("users:\n", "# mine\nusers:\n- {name: jane, user: {token: abc}}\n")
    path.write_text(text)
    before = goyaml.load(text)
    renew(entries.find("admin.conf"))
    after = goyaml.load(path.read_text())
    assert "# mine\n" in path.read_text()
    for config in (before, after):
        del config["users"][1]["user"]
    assert before == after


def test_base64_in_several_lines_is_read(directory, entries):
    """A block scalar, as some tools write it. The file is written anew then."""
    path = directory.root / "admin.conf"
    config = goyaml.load(path.read_text())
    user = config["users"][0]["user"]
    for name, value in user.items():
        user[name] = f"{textwrap.fill(value, 64)}\n"
    path.write_text(goyaml.dump(config))
    assert "client-key-data: |" in path.read_text()
    renew(entries.find("admin.conf"))
    assert renewal.load(entries.find("admin.conf")).matches


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        (lambda config: config.pop("current-context"), "invalid kubeConfig file {}: missing context "),
        (lambda config: config.update(clusters=[]), "invalid kubeConfig file {}: missing cluster kubernetes"),
        (lambda config: config.update(users=None), "invalid kubeConfig file {}: missing authInfo kubernetes-admin"),
        (
            lambda config: config["clusters"][0]["cluster"].pop("certificate-authority-data"),
            "kubeConfig file {} does not have an embedded server certificate",
        ),
        (
            lambda config: config["users"][0].update(user={"client-certificate": "a", "client-key": "b"}),
            "kubeConfig file {} does not have an embedded client certificate",
        ),
        (
            lambda config: config["users"][0]["user"].update({"client-certificate-data": "AAAA"}),
            "kubeConfig file {} does not contain a valid client certificate: data does not contain any valid RSA or ",
        ),
        (
            lambda config: config["users"][0]["user"].update({"client-key-data": "%"}),
            "failed to load kubeConfig file {}: client-key-data is not base64",
        ),
    ],
    ids=["context", "cluster", "user", "ca", "files", "certificate", "base64"],
)
def test_unusable_kubeconfigs_are_refused(directory, entries, edit, expected):
    """With kubeadm's texts."""
    path = directory.root / "admin.conf"
    config = goyaml.load(path.read_text())
    edit(config)
    path.write_text(goyaml.dump(config))
    assert refused(renewal.load, entries.find("admin.conf")).startswith(expected.format(path))


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.7, 0.9])
def test_half_written_kubeconfigs_are_noticed(directory, entries, share):
    """Whatever is missing. If it is the end of the key, the certificate is found, and the key does not match."""
    path = directory.root / "admin.conf"
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with contextlib.suppress(SetupError):
        assert not renewal.load(entries.find("admin.conf")).matches


# --- the data directory of certplane ------------------------------------------------------------------------------


def test_a_data_directory_is_renewed(tmp_path):
    """And `certplane serve` accepts the result."""
    own = pki.ensure(tmp_path / "pki", ("localhost", "127.0.0.1"), "ECDSA-P256", MADE)
    kubeconfig.ensure(tmp_path, own, "https://127.0.0.1:6443", "ECDSA-P256", MADE)
    entries = layout.own(tmp_path)
    assert ["admin.conf", "apiserver", "super-admin.conf"] == [entry.name for entry in entries.entries]
    for entry in entries.entries:
        assert NOW + pki.LEAF_LIFETIME == renew(entry).not_after
    kubeconfig.check(tmp_path)
    again = pki.ensure(tmp_path / "pki", ("localhost",), "ECDSA-P256", NOW)
    assert kubeconfig.Changes([], []) == kubeconfig.ensure(tmp_path, again, "https://127.0.0.1:6443", "", NOW)
    names = extension(parsed(entries.find("apiserver")), x509.SubjectAlternativeName).value
    assert "localhost" in names.get_values_for_type(x509.DNSName)


# --- the lock -----------------------------------------------------------------------------------------------------


async def test_two_renewals_do_not_interleave(directory):
    """The second one waits, and gives up after a while."""
    clock = FakeClock(NOW)
    async with renewal.locked(directory.pki, clock):
        with pytest.raises(SetupError, match="another process is renewing"):
            async with renewal.locked(directory.pki, clock, seconds=0):
                pass
    async with renewal.locked(directory.pki, clock, seconds=0):
        pass


@pytest.mark.parametrize("mode", [0o644, 0o666])
async def test_a_lock_that_others_can_hold_is_refused(directory, mode):
    """They could keep it for ever."""
    path = directory.pki / ".renewal.lock"
    path.touch()
    path.chmod(mode)
    with path.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(SetupError, match="other users can lock"):
            async with renewal.locked(directory.pki, FakeClock(NOW)):
                pass


async def test_a_planted_link_is_not_followed(directory, tmp_path):
    """A lock in its place would create or open another file."""
    (directory.pki / ".renewal.lock").symlink_to(tmp_path / "planted")
    with pytest.raises(SetupError, match="cannot be locked"):
        async with renewal.locked(directory.pki, FakeClock(NOW)):
            pass
    assert not (tmp_path / "planted").exists()
