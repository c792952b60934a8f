"""A CA in two files that change while it is used: the last good one signs on, and what is wrong is told."""

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
def place(tmp_path):
    return Place(tmp_path)


class Place:
    """Two files, and what is read out of them by one who looks a second after the last look."""

    def __init__(self, directory):
        self.certificate, self.key = directory / "ca.crt", directory / "ca.key"
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

    def name(self, now=None):
        """The common name of the authority that signs now, and what is wrong."""
        self.now += cafiles.CHECK_INTERVAL
        now = now or self.now
        state = self.files.current(now)
        signs = state.issuer and state.issuer.authority.certificate.subject.rfc4514_string().removeprefix("CN=")
        return signs, state.problem

    @property
    def wrong(self):
        return f'error reading CA cert file "{self.certificate}"'

    @property
    def pair(self):
        return f'"csr-controller::{self.certificate}::{self.key}"'


def _replace(path, text, mode):
    """As careful people do it: in one step."""
    new = path.with_name("new")
    new.write_bytes(text)
    new.chmod(mode)
    new.rename(path)


def certificate_only(**changes):
    """A certificate for the key with number 0 that says something else."""
    return pem.encode("CERTIFICATE", material.ca_certificate(material.key(), **changes))


def with_serial(number):
    """A CA certificate with this DER serial number, which no library would write."""
    return pem.encode("CERTIFICATE", material.ca_certificate(material.key(), raw_serial=number))


# --- the start ----------------------------------------------------------------------------------------------------


def test_a_good_pair_signs(place):
    """The issuer is the same until the files change."""
    place.put_ca()
    issuer = place.files.load()
    assert issuer.authority.is_authority
    assert place.files.current(NOW) == cafiles.IssuerState(issuer, "")
    assert place.files.current(NOW + cafiles.REREAD_INTERVAL).issuer is issuer


def test_an_authority_is_loaded_from_two_files(place):
    """A problem names the file that it is in, and quotes no key."""
    place.put_ca(3)
    loaded = authority.load(place.certificate, place.key)
    loaded.certificate.public_key().verify(loaded.sign(b"x"), b"x", ec.ECDSA(hashes.SHA256()))
    place.put_key(keys.to_pem(material.key("P-256", 4)))
    with pytest.raises(authority.AuthorityError) as caught:
        authority.load(place.certificate, place.key)
    assert str(caught.value).startswith(place.wrong)
    place.put_key(b"secret")
    with pytest.raises(authority.AuthorityError) as caught:
        authority.load(place.certificate, place.key)
    assert str(caught.value).startswith(f'error reading CA key file "{place.key}": ')
    assert "secret" not in str(caught.value)
    place.certificate.unlink()
    with pytest.raises(authority.AuthorityError) as caught:
        authority.load(place.certificate, place.key)
    assert str(caught.value) == f"{place.wrong}: open {place.certificate}: no such file or directory"


def refused_at_start(place):
    with pytest.raises(cafiles.CAFilesError) as caught:
        place.files.load()
    assert place.files.current(NOW) == cafiles.IssuerState(None, str(caught.value))
    return str(caught.value)


def test_files_that_are_missing(place):
    """Each is named, with what the system says."""
    assert refused_at_start(place) == f"{place.wrong}: open {place.certificate}: no such file or directory"
    place.put_ca()
    place.key.unlink()
    assert refused_at_start(place) == f"{place.wrong}: open {place.key}: no such file or directory"


def test_names_that_are_missing(tmp_path):
    """As kube-controller-manager says it."""
    files = cafiles.CAFiles(type(tmp_path)(), tmp_path / "ca.key", material.YEAR)
    with pytest.raises(cafiles.CAFilesError, match="missing filename for serving cert"):
        files.load()


def test_a_directory_is_no_file(place):
    """Nor is anything else that cannot be read."""
    place.certificate.mkdir()
    assert refused_at_start(place) == f"{place.wrong}: open {place.certificate}: is a directory"


@pytest.mark.skipif(os.geteuid() == 0, reason="root can read everything")
def test_a_key_that_cannot_be_read(place):
    """The reason is the system's."""
    place.put_ca()
    place.key.chmod(0)
    assert refused_at_start(place) == f"{place.wrong}: open {place.key}: permission denied"


def test_a_key_that_others_can_read(place):
    """Whoever has it can be anybody."""
    place.put_ca()
    place.key.chmod(0o644)
    problem = refused_at_start(place)
    assert problem == (
        f"other users can read the CA key {place.key}: mode 0644 gives access to its group and everybody"
    )


def test_two_certificates(place):
    """Which of them would it be?"""
    place.put_ca()
    place.put_certificate(place.certificate.read_bytes() * 2)
    assert refused_at_start(place) == f"error reading CA cert file {place.pair}: expected 1 certificate, found 2"


BAD = [
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
        id="a key for a certificate",
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
        lambda _: pem.encode("CERTIFICATE", b"nonsense"), None, "x509: malformed certificate", id="no certificate in it"
    ),
    pytest.param(
        lambda _: certificate_only(extensions=[template.basic_constraints(ca=False)]), None, NO_CA, id="not a CA"
    ),
    pytest.param(lambda _: certificate_only(extensions=[]), None, NO_CA, id="no word of a CA"),
    pytest.param(
        lambda _: certificate_only(
            extensions=[template.key_usage(("digital_signature",)), template.basic_constraints(ca=True)]
        ),
        None,
        NO_CA,
        id="a CA that may not sign",
    ),
    pytest.param(lambda _: with_serial(b"\xff"), None, "x509: negative serial number", id="a negative serial number"),
]


@pytest.mark.parametrize(("certificate", "key", "expected"), BAD)
def test_content_that_is_no_authority(place, certificate, key, expected):
    """At the start it is an error; later the last good authority signs on."""
    place.put_ca()
    place.files.load()
    good = place.name()
    if certificate:
        place.put_certificate(certificate(place.certificate.read_bytes()))
    if key:
        place.put_key(key(place.key.read_bytes()))
    fresh = cafiles.CAFiles(place.certificate, place.key, material.YEAR)
    expected = f"{place.wrong}: {expected.format(pair=place.pair)}"
    with pytest.raises(cafiles.CAFilesError) as caught:
        fresh.load()
    assert str(caught.value) == expected
    assert place.name() == (good[0], expected)


def test_a_key_that_cannot_be_parsed_is_not_quoted(place):
    """The text names the pair, and nothing of the key."""
    place.put_ca()
    place.put_key(pem.encode("EC PRIVATE KEY", b"\x30\x03\x02\x01\x01"))
    expected = f"error reading CA key file {place.pair}: the private key cannot be parsed"
    assert refused_at_start(place) == expected


# --- changes ------------------------------------------------------------------------------------------------------


def test_a_renewed_pair_is_taken_within_a_second(place):
    """However it was written."""
    place.put_ca(0)
    place.files.load()
    place.put_ca(1)
    assert place.name() == ("ca-1", "")
    other = material.key("RSA-2048", 2)
    place.certificate.write_bytes(selfsigned.self_signed_ca("ca-2", other, NOW, material.YEAR))
    place.key.write_bytes(keys.to_pem(other))
    assert place.name() == ("ca-2", "")


def test_between_two_files_the_old_pair_signs(place):
    """Whoever exchanges both does so one after the other."""
    place.put_ca(0)
    place.files.load()
    new = material.key("P-256", 1)
    place.put_certificate(selfsigned.self_signed_ca("ca-1", new, NOW, material.YEAR))
    assert place.name() == ("ca-0", f"{place.wrong}: tls: private key does not match public key")
    place.put_key(keys.to_pem(new))
    assert place.name() == ("ca-1", "")


def test_files_that_go_away_and_come_back(place):
    """The last good pair signs on."""
    place.put_ca(0)
    place.files.load()
    text = place.certificate.read_bytes()
    place.certificate.unlink()
    assert place.name() == ("ca-0", f"{place.wrong}: open {place.certificate}: no such file or directory")
    place.put_certificate(text)
    assert place.name() == ("ca-0", "")


def test_the_last_good_one_signs_only_while_it_is_valid(place):
    """Then nothing does, and both reasons are told."""
    place.put_ca(0, lifetime=datetime.timedelta(days=1))
    place.files.load()
    place.put_key(b"")
    over = NOW + datetime.timedelta(days=1)
    bad = f"{place.wrong}: missing content for serving cert {place.pair}"
    expired = "the signer has expired: NotAfter=2026-01-02 00:00:00 +0000 UTC"
    assert place.name(over - datetime.timedelta(seconds=1)) == ("ca-0", bad)
    assert place.name(over) == (None, f"{bad}; {expired}")
    place.put_ca(1)
    assert place.name(over + cafiles.CHECK_INTERVAL) == ("ca-1", "")


def test_an_authority_that_is_over_does_not_sign(place):
    """It is no error at the start: it may be renewed."""
    place.put_ca(0, lifetime=datetime.timedelta(days=1))
    place.files.load()
    expired = "the signer has expired: NotAfter=2026-01-02 00:00:00 +0000 UTC"
    assert place.name(NOW + datetime.timedelta(days=1)) == (None, expired)


def test_an_authority_that_is_over_replaces_no_valid_one(place):
    """Somebody put an old file back; a minute later it is still so."""
    place.put_ca(0)
    place.files.load()
    place.put_ca(1, lifetime=datetime.timedelta(days=1))
    expired = "the signer has expired: NotAfter=2026-01-02 00:00:00 +0000 UTC"
    for minutes in range(3):
        now = NOW + datetime.timedelta(days=1, minutes=minutes)
        assert place.name(now) == ("ca-0", f"{place.wrong}: {expired}")


def test_an_authority_of_tomorrow_waits_for_its_day(place):
    """Until it begins the one before signs, if there is one; then the new one does, with nobody's help."""
    tomorrow = NOW + datetime.timedelta(days=1)
    begins = tomorrow - selfsigned.BACKDATE
    too_early = "the signer is not valid yet: NotBefore=2026-01-01 23:55:00 +0000 UTC"
    place.put_ca(0, not_before=tomorrow)
    place.files.load()
    assert place.name() == (None, too_early)
    assert place.name(begins) == ("ca-0", "")
    place.put_ca(1)
    assert place.name(begins + cafiles.CHECK_INTERVAL) == ("ca-1", "")
    place.put_ca(2, not_before=tomorrow)
    assert place.name() == ("ca-1", f"{place.wrong}: {too_early}")
    assert place.name(begins) == ("ca-2", "")


def test_a_change_without_a_trace_is_found_within_a_minute(place):
    """Same size, same file, same times: the content is what counts."""
    place.put_ca(0)
    place.files.load()
    assert place.name() == ("ca-0", "")
    place.put_ca(1)
    # As if the status of the files had not changed.
    place.files._statuses = tuple(map(cafiles._file_status, (place.certificate, place.key)))
    assert place.name(LATER) == ("ca-0", "")
    assert place.name(NOW + cafiles.CHECK_INTERVAL + cafiles.REREAD_INTERVAL) == ("ca-1", "")


def test_the_file_system_is_asked_once_a_second(place):
    """However many are signed in it."""
    place.put_ca(0)
    place.files.load()
    assert place.name(NOW) == ("ca-0", "")
    place.put_ca(1)
    assert place.name(NOW + cafiles.CHECK_INTERVAL - datetime.timedelta(microseconds=1)) == ("ca-0", "")
    assert place.name(NOW + cafiles.CHECK_INTERVAL) == ("ca-1", "")


def test_a_clock_that_goes_back_stops_nothing(place):
    """The files are read again, and that is all."""
    place.put_ca(0)
    place.files.load()
    assert place.name(NOW + material.YEAR) == ("ca-0", "")
    assert place.name(NOW) == ("ca-0", "")


@pytest.mark.filterwarnings("ignore:Parsed a serial number")  # the filters of this run replace the program's own
@pytest.mark.parametrize(
    "certificate",
    [
        pytest.param(lambda: certificate_only(subject=b"\x30\x00", issuer=b"\x30\x00"), id="an empty subject"),
        pytest.param(lambda: with_serial(b"\0"), id="serial number 0"),
        pytest.param(lambda: with_serial(b"\x7f" * 21), id="a long serial number"),
    ],
)
def test_an_odd_authority_signs(place, certificate):
    """People have such certificates."""
    place.put(certificate(), material.key())
    issuer = place.files.load()
    prepared = issuer.prepare(material.request(dns=["a.example"]), ["client auth"], None, NOW)
    assert pem.first_block(issuer.issue(prepared)).label == "CERTIFICATE"


def test_threads_that_look_at_once_see_one_issuer(place):
    """Each content is loaded once."""
    place.put_ca(0)
    place.files.load()
    place.put_ca(1)
    issuers = []
    threads = [threading.Thread(target=lambda: issuers.append(place.files.current(NOW).issuer)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(issuers) == 8
    assert len(set(map(id, issuers))) == 1


def test_nothing_of_the_key_is_printed(place):
    """Neither of the files' state nor of what signs."""
    place.put_ca()
    place.files.load()
    text = f"{place.files!r} {place.files.current(NOW)!r} {place.files.load().authority!r}"
    secret = place.key.read_text().splitlines()[1]
    assert secret not in text
    assert isinstance(place.files.load().authority, authority.Authority)


def test_the_signers_terms_are_those_of_its_issuer(place):
    """Whichever authority is in the files."""
    terms = {"min_rsa_bits": 3072, "issues_ca": True}
    files = cafiles.CAFiles(place.certificate, place.key, datetime.timedelta(hours=9), **terms)
    for number in (0, 1):
        place.put_ca(number)
        issuer = files.current(NOW).issuer
        wanted = certificaterequest.verified(
            material.odd_request(attributes=material.requested(template.basic_constraints(ca=True)))
        )
        made = issuer.prepare(wanted, ["cert sign"], None, NOW).template
        assert made.not_after - made.not_before == datetime.timedelta(hours=9)
        assert template.basic_constraints(ca=True, path_length=0) in made.extensions
        with pytest.raises(weakkeys.WeakKey):
            issuer.prepare(material.request(material.key("RSA-2048")), ["client auth"], None, NOW)
