"""A CA in two files that change: the last valid pair continues to sign, and problems are reported."""

from __future__ import annotations

import datetime
import os
import threading

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from certplane.golang import pem
from certplane.x509 import keys
from certplane.x509.issuance import authority, cafiles, selfsigned
from certplane.x509.pkcs10 import certificaterequest, weakkeys
from certplane.x509.tbs import template
from tests.unit.x509 import material

NOW = material.NOW
LATER = NOW + 2 * cafiles.CHECK_INTERVAL
NO_CA = "the certificate is not a CA certificate"


@pytest.fixture
def directory(tmp_path):
    return CADirectory(tmp_path)


class CADirectory:
    """A directory with a certificate and a key, and the CAFiles that read them. Each call of `signing_ca` is one check
    later.
    """

    def __init__(self, path):
        self.certificate, self.key = path / "ca.crt", path / "ca.key"
        self.files = cafiles.CAFiles(self.certificate, self.key, material.YEAR)
        self.now = NOW

    def put(self, certificate, private):
        self.put_certificate(certificate)
        self.put_key(keys.to_pem(private))

    def put_certificate(self, text):
        _replace(self.certificate, text, 0o644)

    def put_key(self, text):
        _replace(self.key, text, 0o600)

    def put_ca(self, number=0, kind="P-256", lifetime=10 * material.YEAR, not_before=NOW):
        private = material.key(kind, number)
        self.put(selfsigned.self_signed_ca(f"ca-{number}", private, not_before, lifetime), private)

    def signing_ca(self, now=None):
        """The common name of the authority that signs, and the problem."""
        self.now += cafiles.CHECK_INTERVAL
        now = now or self.now
        state = self.files.current(now)
        name = state.issuer and state.issuer.authority.certificate.subject.rfc4514_string().removeprefix("CN=")
        return name, state.problem

    @property
    def certificate_error(self):
        return f'error reading CA cert file "{self.certificate}"'

    @property
    def pair(self):
        return f'"csr-controller::{self.certificate}::{self.key}"'


def _replace(path, text, mode):
    """Replace a file atomically."""
    new = path.with_name("new")
    new.write_bytes(text)
    new.chmod(mode)
    new.rename(path)


def certificate_only(**changes):
    """A CA certificate for the key with number 0, with changed fields."""
    return pem.encode("CERTIFICATE", material.ca_certificate(material.key(), **changes))


def with_serial(number):
    """A CA certificate with this DER serial number, which no library would write."""
    return pem.encode("CERTIFICATE", material.ca_certificate(material.key(), raw_serial=number))


# --- startup ------------------------------------------------------------------------------------------------------


def test_a_valid_pair_is_loaded(directory):
    """The issuer is the same object until the files change."""
    directory.put_ca()
    issuer = directory.files.load()
    assert issuer.authority.is_ca
    assert directory.files.current(NOW) == cafiles.IssuerState(issuer, "")
    assert directory.files.current(NOW + cafiles.REREAD_INTERVAL).issuer is issuer


def test_an_authority_is_loaded_from_two_files(directory):
    """The error names the file, and does not quote the key."""
    directory.put_ca(3)
    loaded = authority.load(directory.certificate, directory.key)
    loaded.certificate.public_key().verify(loaded.sign(b"x"), b"x", ec.ECDSA(hashes.SHA256()))
    directory.put_key(keys.to_pem(material.key("P-256", 4)))
    with pytest.raises(authority.AuthorityError) as caught:
        authority.load(directory.certificate, directory.key)
    assert str(caught.value).startswith(directory.certificate_error)
    directory.put_key(b"secret")
    with pytest.raises(authority.AuthorityError) as caught:
        authority.load(directory.certificate, directory.key)
    assert str(caught.value).startswith(f'error reading CA key file "{directory.key}": ')
    assert "secret" not in str(caught.value)
    directory.certificate.unlink()
    with pytest.raises(authority.AuthorityError) as caught:
        authority.load(directory.certificate, directory.key)
    assert (
        str(caught.value) == f"{directory.certificate_error}: open {directory.certificate}: no such file or directory"
    )


def refused_at_start(directory):
    with pytest.raises(cafiles.CAFilesError) as caught:
        directory.files.load()
    assert directory.files.current(NOW) == cafiles.IssuerState(None, str(caught.value))
    return str(caught.value)


def test_missing_files_are_reported(directory):
    """With the path, and the error of the system."""
    assert (
        refused_at_start(directory)
        == f"{directory.certificate_error}: open {directory.certificate}: no such file or directory"
    )
    directory.put_ca()
    directory.key.unlink()
    assert (
        refused_at_start(directory) == f"{directory.certificate_error}: open {directory.key}: no such file or directory"
    )


def test_an_empty_path_is_refused(tmp_path):
    """With the text of kube-controller-manager."""
    files = cafiles.CAFiles(type(tmp_path)(), tmp_path / "ca.key", material.YEAR)
    with pytest.raises(cafiles.CAFilesError, match="missing filename for serving cert"):
        files.load()


def test_a_directory_is_refused(directory):
    """With the error of the system."""
    directory.certificate.mkdir()
    assert refused_at_start(directory) == f"{directory.certificate_error}: open {directory.certificate}: is a directory"


@pytest.mark.skipif(os.geteuid() == 0, reason="root can read everything")
def test_an_unreadable_key_is_refused(directory):
    """With the error of the system."""
    directory.put_ca()
    directory.key.chmod(0)
    assert refused_at_start(directory) == f"{directory.certificate_error}: open {directory.key}: permission denied"


def test_a_key_that_other_users_can_read_is_refused(directory):
    """The error has its mode."""
    directory.put_ca()
    directory.key.chmod(0o644)
    problem = refused_at_start(directory)
    assert problem == (
        f"other users can read the CA key {directory.key}: mode 0644 gives access to its group and all other users"
    )


def test_a_file_with_two_certificates_is_refused(directory):
    """It would be ambiguous which one signs."""
    directory.put_ca()
    directory.put_certificate(directory.certificate.read_bytes() * 2)
    assert (
        refused_at_start(directory) == f"error reading CA cert file {directory.pair}: expected 1 certificate, found 2"
    )


INVALID = [
    pytest.param(lambda _: b"", None, "missing content for serving cert {pair}", id="no certificate"),
    pytest.param(None, lambda _: b"", "missing content for serving cert {pair}", id="no key"),
    pytest.param(
        lambda text: text[:-40], None, "tls: failed to find any PEM data in certificate input", id="cut certificate"
    ),
    pytest.param(None, lambda text: text[:-20], "tls: failed to find any PEM data in key input", id="cut key"),
    pytest.param(
        lambda _: keys.to_pem(material.key()),
        None,
        "tls: failed to find certificate PEM data in certificate input, but did find a private key; PEM inputs may "
        "have been switched",
        id="a key in the place of the certificate",
    ),
    pytest.param(
        None,
        lambda _: keys.public_to_pem(material.key()),
        'tls: failed to find PEM block with type ending in "PRIVATE KEY" in key input after skipping PEM blocks of the '
        "following types: [PUBLIC KEY]",
        id="a public key",
    ),
    pytest.param(
        None,
        lambda _: keys.to_pem(material.key("P-256", 9)),
        "tls: private key does not match public key",
        id="another key",
    ),
    pytest.param(
        lambda _: pem.encode("CERTIFICATE", b"nonsense"),
        None,
        "x509: malformed certificate",
        id="a malformed certificate",
    ),
    pytest.param(
        lambda _: certificate_only(extensions=[template.basic_constraints(ca=False)]), None, NO_CA, id="not a CA"
    ),
    pytest.param(lambda _: certificate_only(extensions=[]), None, NO_CA, id="no basic constraints"),
    pytest.param(
        lambda _: certificate_only(
            extensions=[template.key_usage(("digital_signature",)), template.basic_constraints(ca=True)]
        ),
        None,
        NO_CA,
        id="a CA without cert sign",
    ),
    *(
        pytest.param(
            lambda _, name=name: pem.encode("CERTIFICATE", material.ca_with_rare_names(material.key(), name)),
            None,
            "x509: malformed certificate",
            id=name,
        )
        for name in material.RARE_NAMES
    ),
    pytest.param(lambda _: with_serial(b"\xff"), None, "x509: negative serial number", id="a negative serial number"),
]


@pytest.mark.parametrize(("certificate", "key", "expected"), INVALID)
def test_invalid_content_is_refused(directory, certificate, key, expected):
    """At startup it is an error. Later the last valid pair continues to sign."""
    directory.put_ca()
    directory.files.load()
    valid, _ = directory.signing_ca()
    if certificate:
        directory.put_certificate(certificate(directory.certificate.read_bytes()))
    if key:
        directory.put_key(key(directory.key.read_bytes()))
    fresh = cafiles.CAFiles(directory.certificate, directory.key, material.YEAR)
    expected = f"{directory.certificate_error}: {expected.format(pair=directory.pair)}"
    with pytest.raises(cafiles.CAFilesError) as caught:
        fresh.load()
    assert str(caught.value) == expected
    assert directory.signing_ca() == (valid, expected)


def test_a_key_that_cannot_be_parsed_is_not_quoted(directory):
    """The error has the paths only."""
    directory.put_ca()
    directory.put_key(pem.encode("EC PRIVATE KEY", b"\x30\x03\x02\x01\x01"))
    expected = f"error reading CA key file {directory.pair}: the private key cannot be parsed"
    assert refused_at_start(directory) == expected


# --- changes ------------------------------------------------------------------------------------------------------


def test_a_renewed_pair_is_used_within_a_second(directory):
    """Whether the files are replaced or overwritten."""
    directory.put_ca(0)
    directory.files.load()
    directory.put_ca(1)
    assert directory.signing_ca() == ("ca-1", "")
    other = material.key("RSA-2048", 2)
    directory.certificate.write_bytes(selfsigned.self_signed_ca("ca-2", other, NOW, material.YEAR))
    directory.key.write_bytes(keys.to_pem(other))
    assert directory.signing_ca() == ("ca-2", "")


def test_the_old_pair_signs_until_both_files_are_replaced(directory):
    """They are replaced one after the other."""
    directory.put_ca(0)
    directory.files.load()
    new = material.key("P-256", 1)
    directory.put_certificate(selfsigned.self_signed_ca("ca-1", new, NOW, material.YEAR))
    assert directory.signing_ca() == (
        "ca-0",
        f"{directory.certificate_error}: tls: private key does not match public key",
    )
    directory.put_key(keys.to_pem(new))
    assert directory.signing_ca() == ("ca-1", "")


def test_the_last_valid_pair_signs_while_a_file_is_missing(directory):
    """The problem is cleared when the file is there again."""
    directory.put_ca(0)
    directory.files.load()
    text = directory.certificate.read_bytes()
    directory.certificate.unlink()
    assert directory.signing_ca() == (
        "ca-0",
        f"{directory.certificate_error}: open {directory.certificate}: no such file or directory",
    )
    directory.put_certificate(text)
    assert directory.signing_ca() == ("ca-0", "")


def test_the_last_valid_pair_signs_until_it_expires(directory):
    """After that nothing is signed, and both problems are reported."""
    directory.put_ca(0, lifetime=datetime.timedelta(days=1))
    directory.files.load()
    directory.put_key(b"")
    end = NOW + datetime.timedelta(days=1)
    bad = f"{directory.certificate_error}: missing content for serving cert {directory.pair}"
    expired = "the signer has expired: NotAfter=2026-01-02 00:00:00 +0000 UTC"
    assert directory.signing_ca(end - datetime.timedelta(seconds=1)) == ("ca-0", bad)
    assert directory.signing_ca(end) == (None, f"{bad}; {expired}")
    directory.put_ca(1)
    assert directory.signing_ca(end + cafiles.CHECK_INTERVAL) == ("ca-1", "")


def test_an_expired_authority_does_not_sign(directory):
    """It is no error at startup, because it may be renewed."""
    directory.put_ca(0, lifetime=datetime.timedelta(days=1))
    directory.files.load()
    expired = "the signer has expired: NotAfter=2026-01-02 00:00:00 +0000 UTC"
    assert directory.signing_ca(NOW + datetime.timedelta(days=1)) == (None, expired)


def test_an_expired_authority_does_not_replace_a_valid_one(directory):
    """Also when its files are read again after a minute."""
    directory.put_ca(0)
    directory.files.load()
    directory.put_ca(1, lifetime=datetime.timedelta(days=1))
    expired = "the signer has expired: NotAfter=2026-01-02 00:00:00 +0000 UTC"
    for minutes in range(3):
        now = NOW + datetime.timedelta(days=1, minutes=minutes)
        assert directory.signing_ca(now) == ("ca-0", f"{directory.certificate_error}: {expired}")


def test_an_authority_signs_only_after_its_not_before(directory):
    """Before that the previous one signs, if there is one. The new one is then used without a change of the files."""
    tomorrow = NOW + datetime.timedelta(days=1)
    begins = tomorrow - selfsigned.BACKDATE
    too_early = "the signer is not valid yet: NotBefore=2026-01-01 23:55:00 +0000 UTC"
    directory.put_ca(0, not_before=tomorrow)
    directory.files.load()
    assert directory.signing_ca() == (None, too_early)
    assert directory.signing_ca(begins) == ("ca-0", "")
    directory.put_ca(1)
    assert directory.signing_ca(begins + cafiles.CHECK_INTERVAL) == ("ca-1", "")
    directory.put_ca(2, not_before=tomorrow)
    assert directory.signing_ca() == ("ca-1", f"{directory.certificate_error}: {too_early}")
    assert directory.signing_ca(begins) == ("ca-2", "")


def test_a_change_with_the_same_file_status_is_found_within_a_minute(directory):
    """The content is compared even if sizes and times are the same."""
    directory.put_ca(0)
    directory.files.load()
    assert directory.signing_ca() == ("ca-0", "")
    directory.put_ca(1)
    # As if the status of the files had not changed.
    directory.files._statuses = tuple(map(cafiles._file_status, (directory.certificate, directory.key)))
    assert directory.signing_ca(LATER) == ("ca-0", "")
    assert directory.signing_ca(NOW + cafiles.CHECK_INTERVAL + cafiles.REREAD_INTERVAL) == ("ca-1", "")


def test_the_files_are_checked_once_a_second(directory):
    """The number of issued certificates does not matter."""
    directory.put_ca(0)
    directory.files.load()
    assert directory.signing_ca(NOW) == ("ca-0", "")
    directory.put_ca(1)
    assert directory.signing_ca(NOW + cafiles.CHECK_INTERVAL - datetime.timedelta(microseconds=1)) == ("ca-0", "")
    assert directory.signing_ca(NOW + cafiles.CHECK_INTERVAL) == ("ca-1", "")


def test_the_authority_signs_when_the_clock_goes_back(directory):
    """The files are read again."""
    directory.put_ca(0)
    directory.files.load()
    assert directory.signing_ca(NOW + material.YEAR) == ("ca-0", "")
    assert directory.signing_ca(NOW) == ("ca-0", "")


@pytest.mark.filterwarnings("ignore:Parsed a serial number")  # the filters of this run replace the program's own
@pytest.mark.parametrize(
    "certificate",
    [
        pytest.param(lambda: certificate_only(subject=b"\x30\x00", issuer=b"\x30\x00"), id="an empty subject"),
        pytest.param(lambda: with_serial(b"\0"), id="serial number 0"),
        pytest.param(lambda: with_serial(b"\x7f" * 21), id="a long serial number"),
    ],
)
def test_unusual_authorities_sign(directory, certificate):
    """Such CA certificates are in use."""
    directory.put(certificate(), material.key())
    issuer = directory.files.load()
    prepared = issuer.prepare(material.request(dns=["a.example"]), ["client auth"], None, NOW)
    assert pem.first_block(issuer.issue(prepared)).label == "CERTIFICATE"


def test_concurrent_threads_get_one_issuer(directory):
    """The same content is loaded once."""
    directory.put_ca(0)
    directory.files.load()
    directory.put_ca(1)
    issuers = []
    threads = [threading.Thread(target=lambda: issuers.append(directory.files.current(NOW).issuer)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(issuers) == 8
    assert len(set(map(id, issuers))) == 1


def test_the_key_is_not_in_any_repr(directory):
    """Of the files, of their state, and of the authority."""
    directory.put_ca()
    directory.files.load()
    text = f"{directory.files!r} {directory.files.current(NOW)!r} {directory.files.load().authority!r}"
    secret = directory.key.read_text().splitlines()[1]
    assert secret not in text
    assert isinstance(directory.files.load().authority, authority.Authority)


def test_every_issuer_has_the_configured_options(directory):
    """Maximum lifetime, minimum size of RSA keys, and whether CA certificates are issued."""
    options = {"min_rsa_bits": 3072, "issues_ca": True}
    files = cafiles.CAFiles(directory.certificate, directory.key, datetime.timedelta(hours=9), **options)
    for number in (0, 1):
        directory.put_ca(number)
        issuer = files.current(NOW).issuer
        request = certificaterequest.verified(
            material.odd_request(attributes=material.requested(template.basic_constraints(ca=True)))
        )
        issued = issuer.prepare(request, ["cert sign"], None, NOW).template
        assert issued.not_after - issued.not_before == datetime.timedelta(hours=9)
        assert template.basic_constraints(ca=True, path_length=0) in issued.extensions
        with pytest.raises(weakkeys.WeakKey):
            issuer.prepare(material.request(material.key("RSA-2048")), ["client auth"], None, NOW)
