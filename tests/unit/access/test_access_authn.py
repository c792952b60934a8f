"""Client certificates, whatever was sent: who is let in, what is remembered, and what is told of the rest."""

from __future__ import annotations

import datetime

import pytest

from certplane import errors
from certplane.access import authn
from certplane.meta import context
from certplane.x509 import certificates, pem, signatures
from tests.unit.x509 import chains

AUTHORITY = {"subject": "ca", "issuer": "ca", "key": 0, "signer": 0, "ca": True}
LEAF = {"subject": "jane", "issuer": "ca", "key": 8, "signer": 0, "purposes": ["client"]}
GOOD = chains.certificate(LEAF)
STRANGE = chains.certificate(LEAF | {"signer": 9})
MINUTE = datetime.timedelta(minutes=1)


class Given:
    """An authenticator, and what it tells."""

    def __init__(self, *, anonymous=True):
        self.refusals, self.remaining = [], []
        verifier = certificates.ClientVerifier(pem.encode("CERTIFICATE", chains.certificate(AUTHORITY)))
        self.certificates = authn.ClientCertificates(verifier, self.remaining.append, self.refusals.append)
        tokens = authn.BearerTokens((), authn.StaticTokens({"secret": context.User("bob")}))
        self._all = authn.Authenticator([self.certificates, tokens], anonymous=anonymous)

    def come(self, *chain, token="", source="192.0.2.1", now=chains.NOW):
        offered = authn.Credentials(chain, f"Bearer {token}" if token else "", source)
        return self._all.authenticate(offered, now).name


def lines(caplog):
    return [record for record in caplog.records if record.getMessage() == "unauthorized"]


def test_a_good_certificate_is_its_owner():
    """And it is told how long it is still good."""
    given = Given()
    assert given.come(GOOD) == "jane"
    assert given.remaining == [9 * 86400]
    assert given.refusals == []


@pytest.mark.parametrize(
    ("chain", "reason"),
    [
        pytest.param([STRANGE], "unknown_authority", id="another authority"),
        pytest.param(
            [chains.certificate(LEAF | {"issuer": "jane", "signer": 8})], "unknown_authority", id="self-signed"
        ),
        pytest.param([chains.certificate(LEAF | {"to": -1})], "expired", id="expired"),
        pytest.param([chains.certificate(LEAF | {"from": 1})], "not_yet_valid", id="not yet valid"),
        pytest.param([chains.certificate(LEAF | {"purposes": ["server"]})], "usage", id="for servers only"),
        pytest.param([b"garbage"], "malformed", id="garbage"),
        pytest.param([GOOD] * 17, "other", id="too many"),
    ],
)
def test_a_bad_certificate_is_refused_told_and_counted(chain, reason, caplog):
    """401, a line with the reason and what is known of the certificate, and a count."""
    given = Given()
    with pytest.raises(errors.Unauthorized):
        given.come(*chain)
    (line,) = lines(caplog)
    assert (line.cause, line.source) == (reason, "192.0.2.1")
    assert line.reason.startswith("client certificate: ")
    assert given.refusals == [reason]
    if reason not in ("malformed", "other"):
        assert (line.subject, line.serial) == ("CN=jane", "1")


def test_a_good_token_beside_a_bad_certificate_is_good(caplog):
    """The next method is asked, as in Kubernetes; the certificate is counted all the same."""
    given = Given()
    assert given.come(STRANGE, token="secret") == "bob"
    assert given.refusals == ["unknown_authority"]
    assert not lines(caplog)


def test_nobody_in_particular_has_no_certificate():
    """A certificate that is refused does not become an anonymous request."""
    given = Given()
    assert given.come() == "system:anonymous"
    with pytest.raises(errors.Unauthorized):
        given.come(STRANGE)


def test_a_certificate_without_a_name_is_nobody():
    """It is good, and names nobody: the request is an anonymous one, as in Kubernetes."""
    assert Given().come(chains.certificate(LEAF | {"subject": "O=dev"})) == "system:anonymous"


def test_a_stranger_does_not_fill_the_log(caplog):
    """One line a minute for the same reason and source; the next one says how many were left out."""
    given = Given()
    for second in range(90):
        for source in ("192.0.2.1", "192.0.2.2"):
            with pytest.raises(errors.Unauthorized):
                given.come(STRANGE, source=source, now=chains.NOW + datetime.timedelta(seconds=second))
    told = [(line.source, getattr(line, "repeated", 0)) for line in lines(caplog)]
    assert told == [("192.0.2.1", 0), ("192.0.2.2", 0), ("192.0.2.1", 59), ("192.0.2.2", 59)]
    assert len(given.refusals) == 180


def test_a_stranger_does_not_write_lines_of_the_log(caplog):
    """A name is quoted where it is printed, and cut."""
    given = Given()
    with pytest.raises(errors.Unauthorized):
        given.come(chains.certificate(LEAF | {"subject": "x\n2026-01-01 INFO forged " * 500, "signer": 9}))
    (line,) = lines(caplog)
    assert len(line.subject) <= 128
    assert len(line.reason) <= 1024


def counted(monkeypatch):
    """The signatures that are checked from now on."""
    checked, real = [], signatures.verify

    def verify(*arguments, **options):
        checked.append(arguments)
        real(*arguments, **options)

    monkeypatch.setattr(signatures, "verify", verify)
    return checked


@pytest.mark.parametrize("chain", [(GOOD,), (STRANGE,), (STRANGE, chains.certificate(AUTHORITY))], ids=len)
def test_a_chain_is_judged_once(chain, monkeypatch):
    """Whether good or bad, as long as no certificate begins or ends."""
    given, checked = Given(), counted(monkeypatch)
    for hour in range(20):
        try:
            given.come(*chain, now=chains.NOW + datetime.timedelta(hours=hour))
        except errors.Unauthorized:
            assert chain[0] == STRANGE
    assert len(checked) <= 3


def test_time_passes_over_what_is_remembered():
    """A certificate that was not valid yet is good later, and over in the end; a refusal is not for ever."""
    given = Given()
    later = chains.certificate(LEAF | {"from": 1, "to": 3})
    answers = []
    for day in (0, 2, 4):
        try:
            answers.append(given.come(later, now=chains.NOW + datetime.timedelta(days=day)))
        except errors.Unauthorized:
            answers.append(given.refusals[-1])
    assert answers == ["not_yet_valid", "jane", "expired"]


def test_another_way_to_the_pool_is_taken_when_one_ends():
    """Of two certificates of one authority the first ends tomorrow."""
    short = chains.certificate(AUTHORITY | {"to": 1})
    long = chains.certificate(AUTHORITY | {"to": 8, "skid": "x"})
    pool = b"".join(pem.encode("CERTIFICATE", each) for each in (short, long))
    own = authn.ClientCertificates(certificates.ClientVerifier(pool))
    offered = authn.Credentials((GOOD,))
    found = [own.recognise(offered, chains.NOW + datetime.timedelta(days=day)).name for day in (0, 2)]
    assert found == ["jane", "jane"]


def test_what_is_remembered_is_bounded(monkeypatch):
    """In bytes for those who are let in, in number for those who are not; and neither pushes the other out."""
    given = Given()
    given.come(GOOD)
    for number in range(5000):
        with pytest.raises(errors.Unauthorized):
            given.come(b"garbage %d" % number)
    checked = counted(monkeypatch)
    assert given.come(GOOD) == "jane"
    assert not checked
    assert len(given.certificates._refused) <= 4096


def test_another_pool_forgets_what_was_found():
    """In both directions."""
    given = Given()
    given.come(GOOD)
    with pytest.raises(errors.Unauthorized):
        given.come(STRANGE)
    other = chains.certificate(AUTHORITY | {"key": 9, "signer": 9})
    given.certificates.replace(certificates.ClientVerifier(pem.encode("CERTIFICATE", other)))
    assert given.come(STRANGE) == "jane"
    with pytest.raises(errors.Unauthorized):
        given.come(GOOD)
