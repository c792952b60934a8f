"""Client certificate chains are validated as in Go.

`chains.json` holds descriptions of chains (see `chains`), some random, some written by hand, with the error of Go
1.26.2 for each (`x509.Verify` with `KeyUsages: ExtKeyUsageClientAuth`; empty if the chain is valid). `here` is the
expected error where it differs from Go's, because intermediates without a path to the pool are ignored.
"""

from __future__ import annotations

import datetime
import json
import pathlib

import pytest

from certplane.golang import asn1, dertags, pem
from certplane.x509 import certificatenames, signatures
from certplane.x509.trust import clientcertificates, nameconstraints, pathcertificate, pathvalidation
from certplane.x509.trust.pathvalidation import Reason
from tests.unit.x509 import chains

RECORDED = json.loads(pathlib.Path(__file__).with_name("chains.json").read_text("utf-8"))
AUTHORITY = {"subject": "ca", "issuer": "ca", "key": 0, "signer": 0, "ca": True}
LEAF = {"subject": "jane", "issuer": "ca", "key": 8, "signer": 0, "purposes": ["client"]}


def validate(case):
    """The error for the chain of a case; empty if it is valid."""
    certificates = chains.build(case)
    pool = pathvalidation.Pool([pathcertificate.parse(certificates[name]) for name in case["pool"]])
    try:
        leaf, *others = pathvalidation.parse_chain([certificates[name] for name in case["chain"]])
        pathvalidation.verify(leaf, others, pool, chains.NOW)
    except pathvalidation.PathValidationError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("group", sorted({case["group"] for case in RECORDED}))
def test_chains_are_validated_as_in_go(group):
    """Each recorded case has the same result and text."""
    cases = [case for case in RECORDED if case["group"] == group]
    assert len(cases) >= 10
    expected = [case.get("here", case["go"]) for case in cases]
    assert [validate(case) for case in cases] == expected


def test_only_texts_differ_from_go():
    """The validity of a chain never differs, and the text does in few cases."""
    cases = [case for case in RECORDED if "here" in case]
    assert all(bool(case["go"]) == bool(case["here"]) for case in cases)
    assert len(cases) * 10 < len(RECORDED)


def verifier(fields=AUTHORITY):
    return clientcertificates.ClientVerifier(pem.encode("CERTIFICATE", chains.certificate(fields)))


def refusal(leaf, others=(), now=chains.NOW, pool=AUTHORITY):
    with pytest.raises(clientcertificates.VerificationError) as caught:
        verifier(pool).verify(leaf, others, now)
    return caught.value.refusal


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"signer": 9}, Reason.UNKNOWN_AUTHORITY),
        ({"issuer": "jane", "signer": 8}, Reason.UNKNOWN_AUTHORITY),
        ({"from": -9, "to": -1}, Reason.EXPIRED),
        ({"from": 1, "to": 9}, Reason.NOT_YET_VALID),
        ({"purposes": ["server"]}, Reason.USAGE),
        ({"critical": True}, Reason.OTHER),
    ],
)
def test_each_refusal_has_a_reason_that_can_be_counted(changes, reason):
    """The reasons are few and fixed; the identifiers name the certificate."""
    refused = refusal(chains.certificate(LEAF | changes))
    assert refused.reason is reason
    assert refused.identifiers.subject == "CN=jane"
    assert refused.identifiers.serial == "1"


@pytest.mark.parametrize("garbage", [b"", b"\x30", b"\x30\x80", b"\xff" * 100, bytes(100)])
def test_bytes_that_are_no_certificate_are_malformed(garbage):
    """As leaf, as intermediate, and after a valid certificate."""
    valid = chains.certificate(LEAF)
    for leaf, others in ((garbage, ()), (valid, (garbage,)), (valid + garbage, ())):
        if (leaf, others) != (valid, ()):
            assert refusal(leaf, others).reason is Reason.MALFORMED


def test_names_in_refusals_are_truncated():
    """An attacker may choose them."""
    refused = refusal(chains.certificate(LEAF | {"subject": "j\n" * 5000, "signer": 9}))
    assert len(refused.identifiers.subject) <= 128
    assert len(refused.text) <= 512


def test_policy_qualifiers_are_not_parsed():
    """They may be malformed."""
    leaf = chains.certificate(LEAF | {"policies": ["1.2.3.1"], "qualifiers": "3006"})
    assert verifier().verify(leaf, [], chains.NOW).common_name == "jane"


# --- the cost -----------------------------------------------------------------------------------------------------


class VerifyCounter:
    """Counts the signatures that are verified."""

    def __init__(self, monkeypatch):
        self.count = 0
        real = signatures.verify

        def verify(*arguments, **options):
            self.count += 1
            real(*arguments, **options)

        monkeypatch.setattr(signatures, "verify", verify)


def test_keys_of_untrusted_certificates_are_not_used(monkeypatch):
    """Fifteen forged CAs with the name of the real one, so that each could have signed each other: only the key of the
    real one is used.
    """
    counter = VerifyCounter(monkeypatch)
    forged = [chains.certificate(AUTHORITY | {"key": 9, "signer": 9, "skid": str(number)}) for number in range(15)]
    refused = refusal(chains.certificate(LEAF | {"signer": 9}), forged)
    assert refused.reason is Reason.UNKNOWN_AUTHORITY
    assert counter.count <= 16


def test_signature_checks_of_one_chain_are_limited(monkeypatch):
    """Fifteen CAs with the name of the real one and signed by it, so that each could have signed each other."""
    counter = VerifyCounter(monkeypatch)
    intermediates = [
        chains.certificate(AUTHORITY | {"key": number % 4, "signer": number % 4, "skid": str(number)})
        for number in range(15)
    ]
    refusal(chains.certificate(LEAF | {"signer": 9}), intermediates)
    assert counter.count <= pathvalidation.MAX_CANDIDATES


def test_long_chains_are_refused():
    """For many certificates and for many bytes; up to the limits they are accepted."""
    leaf, ca = chains.certificate(LEAF), chains.certificate(AUTHORITY)
    assert verifier().verify(leaf, [ca] * 15, chains.NOW).common_name == "jane"
    assert "the limit is 16" in refusal(leaf, [ca] * 16).text
    assert "the limit is 65536" in refusal(leaf, [bytes(65536)]).text


@pytest.mark.parametrize("kind", ["dns", "email", "uri", "ip"])
def test_names_and_constraints_cost_their_sum(kind):
    """The number of executed lines of Python is linear in the number of names and of constraints."""

    def values(count, *, constraint):
        for number in range(count):
            host = f"h{number}.example.com"
            address = f"10.{number >> 8}.{number & 255}.1"
            name = {"dns": f"a.{host}", "email": f"jane@{host}", "uri": f"https://{host}/", "ip": address}[kind]
            yield kind, (f"{address}/32" if kind == "ip" else host) if constraint else name

    def work(count):
        subtrees = [chains.general_name(*value)[2:] for value in values(count, constraint=True)]
        constraints = nameconstraints.Constraints({chains.TYPES[kind]: subtrees}, {}, has_other_types=False)
        names = b"".join(chains.general_name(*value) for value in values(count, constraint=False))
        parsed = certificatenames.parse_alternative_names(asn1.encode(dertags.SEQUENCE, names))
        return chains.count_lines(lambda: nameconstraints.Checker(constraints).check(parsed))

    small, large = work(100), work(400)
    assert large < 4.4 * small


# --- the span of a result -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("days", "since", "until"),
    [(-20, None, -9), (-8, -9, -5), (0, -5, 3), (4, 3, 9), (20, 9, None)],
)
def test_a_span_ends_when_a_certificate_becomes_valid_or_expires(days, since, until):
    """A certificate is valid up to and including notAfter."""
    certificate = pathcertificate.parse(chains.certificate(AUTHORITY))
    other = pathcertificate.parse(chains.certificate(LEAF | {"from": -5, "to": 3}))
    span = pathvalidation.stable_span([certificate, other], chains.NOW + datetime.timedelta(days=days))
    tick = datetime.timedelta(microseconds=1)
    after_expiry = {-9: tick * 0, -5: tick * 0, 3: tick, 9: tick}

    def change(day, default):
        return default if day is None else chains.NOW + datetime.timedelta(days=day) + after_expiry[day]

    expected = [change(since, pathvalidation.ALWAYS.since), change(until, pathvalidation.ALWAYS.until)]
    if until is not None:
        expected[1] -= tick
    assert [span.since, span.until] == expected


def test_a_refusal_with_the_current_time_is_valid_for_a_minute():
    """A cached refusal would have an old time in the log."""
    now = chains.NOW + datetime.timedelta(days=10)
    refused = refusal(chains.certificate(LEAF), now=now)
    assert refused.span.until == now + datetime.timedelta(minutes=1)


# --- CAs of client certificates -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        pytest.param({}, True, id="the same certificate"),
        pytest.param({"subject": "other", "issuer": "other"}, True, id="its key under another name"),
        pytest.param({"subject": "below", "key": 1}, True, id="an intermediate CA"),
        pytest.param(
            {"subject": "below", "key": 1, "purposes": ["server"]}, False, id="an intermediate CA for servers only"
        ),
        pytest.param({"key": 1, "signer": 1}, False, id="another CA with its name"),
    ],
)
def test_a_verifier_knows_whether_it_trusts_a_ca(changes, expected):
    """By the key of the CA, or by a path to the pool."""
    assert verifier().trusts(chains.certificate(AUTHORITY | changes), chains.NOW)[0] is expected
