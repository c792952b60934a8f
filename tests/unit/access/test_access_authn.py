"""Authentication by client certificates: users, caches, log lines and metrics."""

from __future__ import annotations

import datetime
import io

import pytest

from certplane import errors, logs
from certplane.access import authn
from certplane.golang import pem
from certplane.meta import context
from certplane.x509 import signatures
from certplane.x509.trust import clientcertificates
from tests.unit.x509 import chains

AUTHORITY = {"subject": "ca", "issuer": "ca", "key": 0, "signer": 0, "ca": True}
LEAF = {"subject": "jane", "issuer": "ca", "key": 8, "signer": 0, "purposes": ["client"]}
VALID = chains.certificate(LEAF)
UNTRUSTED = chains.certificate(LEAF | {"signer": 9})
MINUTE = datetime.timedelta(minutes=1)


class Server:
    """An authenticator, with what its metrics get."""

    def __init__(self, *, anonymous=True):
        self.refusals, self.remaining = [], []
        verifier = clientcertificates.ClientVerifier(pem.encode("CERTIFICATE", chains.certificate(AUTHORITY)))
        self.certificates = authn.ClientCertificates(verifier, self.remaining.append, self.refusals.append)
        tokens = authn.BearerTokens((), authn.StaticTokens({"secret": context.User("bob")}))
        self._authenticator = authn.Authenticator([self.certificates, tokens], anonymous=anonymous)

    def authenticate(self, *chain, token="", source="192.0.2.1", now=chains.NOW):
        credentials = authn.Credentials(chain, f"Bearer {token}" if token else "", source)
        return self._authenticator.authenticate(credentials, now).name


def lines(caplog):
    return [record for record in caplog.records if record.getMessage() == "unauthorized"]


def test_a_valid_certificate_authenticates():
    """The metric gets its remaining seconds."""
    server = Server()
    assert server.authenticate(VALID) == "jane"
    assert server.remaining == [9 * 86400]
    assert server.refusals == []


@pytest.mark.parametrize(
    ("chain", "reason"),
    [
        pytest.param([UNTRUSTED], "unknown_authority", id="another authority"),
        pytest.param(
            [chains.certificate(LEAF | {"issuer": "jane", "signer": 8})], "unknown_authority", id="self-signed"
        ),
        pytest.param([chains.certificate(LEAF | {"to": -1})], "expired", id="expired"),
        pytest.param([chains.certificate(LEAF | {"from": 1})], "not_yet_valid", id="not yet valid"),
        pytest.param([chains.certificate(LEAF | {"purposes": ["server"]})], "usage", id="for servers only"),
        pytest.param([b"garbage"], "malformed", id="garbage"),
        pytest.param([VALID] * 17, "other", id="too many"),
    ],
)
def test_an_invalid_certificate_is_refused_logged_and_counted(chain, reason, caplog):
    """401, a log line with reason, subject and serial number, and a count."""
    server = Server()
    with pytest.raises(errors.Unauthorized):
        server.authenticate(*chain)
    (line,) = lines(caplog)
    assert (line.cause, line.source) == (reason, "192.0.2.1")
    assert line.error.startswith("client certificate: ")
    assert server.refusals == [reason]
    if reason not in ("malformed", "other"):
        assert (line.subject, line.serial) == ("CN=jane", "1")


def test_a_valid_token_authenticates_despite_an_invalid_certificate(caplog):
    """The next method is tried, as in Kubernetes; the refused certificate is counted."""
    server = Server()
    assert server.authenticate(UNTRUSTED, token="secret") == "bob"
    assert server.refusals == ["unknown_authority"]
    assert not lines(caplog)


def test_an_invalid_certificate_does_not_become_anonymous():
    """Only a request without credentials is anonymous."""
    server = Server()
    assert server.authenticate() == "system:anonymous"
    with pytest.raises(errors.Unauthorized):
        server.authenticate(UNTRUSTED)


def test_a_certificate_without_a_common_name_is_anonymous():
    """As in Kubernetes."""
    assert Server().authenticate(chains.certificate(LEAF | {"subject": "O=dev"})) == "system:anonymous"


def test_repeated_failures_do_not_fill_the_log(caplog):
    """One line a minute for the same reason and source; the next line has the number of suppressed ones."""
    server = Server()
    for second in range(90):
        for source in ("192.0.2.1", "192.0.2.2"):
            with pytest.raises(errors.Unauthorized):
                server.authenticate(UNTRUSTED, source=source, now=chains.NOW + datetime.timedelta(seconds=second))
    logged = [(line.source, getattr(line, "repeated", 0)) for line in lines(caplog)]
    assert logged == [("192.0.2.1", 0), ("192.0.2.2", 0), ("192.0.2.1", 59), ("192.0.2.2", 59)]
    assert len(server.refusals) == 180


def test_certificate_names_do_not_forge_log_lines():
    """Names in the log are quoted and shortened."""
    server, stream = Server(), io.StringIO()
    forged = chains.certificate(LEAF | {"subject": "x\n2026-01-01 INFO forged " * 500, "signer": 9})
    with logs.logging_to(stream), pytest.raises(errors.Unauthorized):
        server.authenticate(forged)
    (line,) = stream.getvalue().splitlines()
    assert "forged" in line
    assert len(line) < 1500


def count_verifications(monkeypatch):
    """A list that gets an item for each signature that is verified from now on."""
    verified, real = [], signatures.verify

    def verify(*arguments, **options):
        verified.append(arguments)
        real(*arguments, **options)

    monkeypatch.setattr(signatures, "verify", verify)
    return verified


@pytest.mark.parametrize("chain", [(VALID,), (UNTRUSTED,), (UNTRUSTED, chains.certificate(AUTHORITY))], ids=len)
def test_a_chain_is_verified_once(chain, monkeypatch):
    """Whether valid or not, until a certificate of the chain becomes valid or expires."""
    server, verified = Server(), count_verifications(monkeypatch)
    for hour in range(20):
        try:
            server.authenticate(*chain, now=chains.NOW + datetime.timedelta(hours=hour))
        except errors.Unauthorized:
            assert chain[0] == UNTRUSTED
    assert len(verified) <= 3


def test_cached_results_expire():
    """A certificate that was not valid yet becomes valid, and expires later."""
    server = Server()
    later = chains.certificate(LEAF | {"from": 1, "to": 3})
    answers = []
    for day in (0, 2, 4):
        try:
            answers.append(server.authenticate(later, now=chains.NOW + datetime.timedelta(days=day)))
        except errors.Unauthorized:
            answers.append(server.refusals[-1])
    assert answers == ["not_yet_valid", "jane", "expired"]


def test_another_path_is_used_when_one_expires():
    """The pool has two certificates of one CA; the first expires tomorrow."""
    short = chains.certificate(AUTHORITY | {"to": 1})
    long = chains.certificate(AUTHORITY | {"to": 8, "skid": "x"})
    pool = b"".join(pem.encode("CERTIFICATE", certificate) for certificate in (short, long))
    method = authn.ClientCertificates(clientcertificates.ClientVerifier(pool))
    credentials = authn.Credentials((VALID,))
    names = [method.authenticate(credentials, chains.NOW + datetime.timedelta(days=day)).name for day in (0, 2)]
    assert names == ["jane", "jane"]


def test_the_caches_are_bounded(monkeypatch):
    """Valid chains by bytes, refusals by number; refusals do not evict valid chains."""
    server = Server()
    server.authenticate(VALID)
    for number in range(5000):
        with pytest.raises(errors.Unauthorized):
            server.authenticate(b"garbage %d" % number)
    verified = count_verifications(monkeypatch)
    assert server.authenticate(VALID) == "jane"
    assert not verified
    assert len(server.certificates._refused) <= 4096


def test_a_new_pool_clears_the_caches():
    """Of valid chains and of refusals."""
    server = Server()
    server.authenticate(VALID)
    with pytest.raises(errors.Unauthorized):
        server.authenticate(UNTRUSTED)
    other = chains.certificate(AUTHORITY | {"key": 9, "signer": 9})
    server.certificates.replace(clientcertificates.ClientVerifier(pem.encode("CERTIFICATE", other)))
    assert server.authenticate(UNTRUSTED) == "jane"
    with pytest.raises(errors.Unauthorized):
        server.authenticate(VALID)


def test_a_token_file_has_a_user_in_each_line():
    """Groups are optional, and every user is authenticated. Empty lines are ignored."""
    users = authn.parse_tokens(b'secret,jane,1\n\nother, john ,2,"makers, testers,"\n')
    assert users == {
        "secret": context.User("jane", "1", ("system:authenticated",)),
        "other": context.User("john", "2", ("makers", "testers", "system:authenticated")),
    }


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(b"secret,jane\n", "a line has 2 fields; the format is", id="too short"),
        pytest.param(b",jane,1\n", "a line has no token or no user; the format is", id="no token"),
        pytest.param(b"secret,,1\n", "a line has no token or no user; the format is", id="no user"),
        pytest.param(b"secret,\xff,1\n", "not UTF-8", id="not text"),
    ],
)
def test_an_invalid_token_file_is_refused_without_quoting_it(content, message):
    """One invalid line is enough, so that no empty token and no empty user name is accepted."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        authn.parse_tokens(b"first,john,2\n" + content)
    assert str(caught.value).startswith(message)
    assert "secret" not in str(caught.value)
