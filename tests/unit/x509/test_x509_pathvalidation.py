"""Chains of clients, judged as Go judges them.

`chains.json` holds chains as `chains` describes them, some made by chance, some by hand, with what Go 1.26.2 says of
each (`x509.Verify` with `KeyUsages: ExtKeyUsageClientAuth`; empty if it is good). Where the text here is another one,
because what came with the leaf and leads nowhere is not looked at, `here` has it.
"""

from __future__ import annotations

import datetime
import json
import pathlib

import pytest

from certplane.x509 import certificates, nameconstraints, pathcertificate, pathvalidation, pem, signatures
from certplane.x509.pathvalidation import Reason
from tests.unit.x509 import chains

RECORDED = json.loads(pathlib.Path(__file__).with_name("chains.json").read_text("utf-8"))
AUTHORITY = {"subject": "ca", "issuer": "ca", "key": 0, "signer": 0, "ca": True}
LEAF = {"subject": "jane", "issuer": "ca", "key": 8, "signer": 0, "purposes": ["client"]}


def judge(described):
    """What is said of a chain; empty if it is good."""
    made = chains.build(described)
    pool = pathvalidation.Pool([pathcertificate.parse(made[name]) for name in described["pool"]])
    try:
        leaf, *others = pathvalidation.read([made[name] for name in described["chain"]])
        pathvalidation.verify(leaf, others, pool, chains.NOW)
    except pathvalidation.PathProblem as problem:
        return str(problem)
    return ""


@pytest.mark.parametrize("group", sorted({each["group"] for each in RECORDED}))
def test_chains_are_judged_as_go_judges_them(group):
    """All that were recorded, answer by answer."""
    cases = [each for each in RECORDED if each["group"] == group]
    assert len(cases) >= 10
    expected = [each.get("here", each["go"]) for each in cases]
    assert [judge(each) for each in cases] == expected


def test_what_is_said_otherwise_is_not_judged_otherwise():
    """The texts differ in what they suppose, never in whether the chain is good."""
    others = [each for each in RECORDED if "here" in each]
    assert all(bool(each["go"]) == bool(each["here"]) for each in others)
    assert len(others) * 10 < len(RECORDED)


def verifier(fields=AUTHORITY):
    return certificates.ClientVerifier(pem.encode("CERTIFICATE", chains.certificate(fields)))


def refusal(leaf, others=(), now=chains.NOW, pool=AUTHORITY):
    with pytest.raises(certificates.VerificationError) as caught:
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
    """Few and fixed ones, whatever the text says; and it is told which certificate that was."""
    found = refusal(chains.certificate(LEAF | changes))
    assert found.reason is reason
    assert found.identifiers.subject == "CN=jane"
    assert found.identifiers.serial == "1"


@pytest.mark.parametrize("garbage", [b"", b"\x30", b"\x30\x80", b"\xff" * 100, bytes(100)])
def test_bytes_that_are_no_certificate_are_malformed(garbage):
    """Also behind a certificate, and beside a good one."""
    good = chains.certificate(LEAF)
    for leaf, others in ((garbage, ()), (good, (garbage,)), (good + garbage, ())):
        if (leaf, others) != (good, ()):
            assert refusal(leaf, others).reason is Reason.MALFORMED


def test_a_name_is_told_in_a_bounded_length():
    """Whoever made the certificate chose it."""
    found = refusal(chains.certificate(LEAF | {"subject": "j\n" * 5000, "signer": 9}))
    assert len(found.identifiers.subject) <= 128
    assert len(found.text) <= 512


def test_what_follows_a_policy_is_not_read():
    """Its qualifiers, which nobody here looks at, need not be readable."""
    leaf = chains.certificate(LEAF | {"policies": ["1.2.3.1"], "qualifiers": "3006"})
    assert verifier().verify(leaf, [], chains.NOW).common_name == "jane"


# --- the cost -----------------------------------------------------------------------------------------------------


class Counted:
    """Counts the signatures that are checked."""

    def __init__(self, monkeypatch):
        self.count = 0
        real = signatures.verify

        def verify(*arguments, **options):
            self.count += 1
            real(*arguments, **options)

        monkeypatch.setattr(signatures, "verify", verify)


def test_keys_of_strangers_are_not_used(monkeypatch):
    """Fifteen authorities that a stranger made, each with the name of the real one, and each signed by each other: all
    that is checked is whether the real one signed them.
    """
    counted = Counted(monkeypatch)
    forged = [chains.certificate(AUTHORITY | {"key": 9, "signer": 9, "skid": str(number)}) for number in range(15)]
    found = refusal(chains.certificate(LEAF | {"signer": 9}), forged)
    assert found.reason is Reason.UNKNOWN_AUTHORITY
    assert counted.count <= 16


def test_a_maze_of_good_authorities_ends(monkeypatch):
    """Fifteen authorities that the real one did sign, with its name, each a way to each other."""
    counted = Counted(monkeypatch)
    maze = [
        chains.certificate(AUTHORITY | {"key": number % 4, "signer": number % 4, "skid": str(number)})
        for number in range(15)
    ]
    refusal(chains.certificate(LEAF | {"signer": 9}), maze)
    assert counted.count <= pathvalidation.MOST_CANDIDATES


def test_long_chains_are_not_read():
    """Neither many certificates nor many bytes; what is read is judged."""
    leaf, own = chains.certificate(LEAF), chains.certificate(AUTHORITY)
    assert verifier().verify(leaf, [own] * 15, chains.NOW).common_name == "jane"
    assert "may send 16" in refusal(leaf, [own] * 16).text
    assert "may send 65536" in refusal(leaf, [bytes(65536)]).text


@pytest.mark.parametrize("kind", ["dns", "email", "uri", "ip"])
def test_names_and_constraints_cost_their_sum(kind):
    """Not their product: twice as many of both is twice as much work, counted in Python's own lines."""

    def values(count, *, constraint):
        for number in range(count):
            host = f"h{number}.example.com"
            address = f"10.{number >> 8}.{number & 255}.1"
            name = {"dns": f"a.{host}", "email": f"jane@{host}", "uri": f"https://{host}/", "ip": address}[kind]
            yield kind, (f"{address}/32" if kind == "ip" else host) if constraint else name

    def work(count):
        subtrees = [chains.general_name(*each)[2:] for each in values(count, constraint=True)]
        constraints = nameconstraints.Constraints({chains.TYPES[kind]: subtrees}, {}, has_other_types=False)
        names = b"".join(chains.general_name(*each) for each in values(count, constraint=False))
        parsed = certificates.csr.alternative_names(chains.der.encode(0x30, names))
        return chains.lines(lambda: nameconstraints.Checker(constraints).check(parsed))

    small, large = work(100), work(400)
    assert large < 4.4 * small


# --- how long a judgement holds -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("days", "since", "until"),
    [(-20, None, -9), (-8, -9, -5), (0, -5, 3), (4, 3, 9), (20, 9, None)],
)
def test_a_judgement_holds_until_a_certificate_begins_or_ends(days, since, until):
    """To the moment: a certificate is good in the very second in which it ends."""
    certificate = pathcertificate.parse(chains.certificate(AUTHORITY))
    other = pathcertificate.parse(chains.certificate(LEAF | {"from": -5, "to": 3}))
    found = pathvalidation.span([certificate, other], chains.NOW + datetime.timedelta(days=days))
    tick = datetime.timedelta(microseconds=1)
    is_end = {-9: False, -5: False, 3: True, 9: True}
    expected = [
        bound if day is None else chains.NOW + datetime.timedelta(days=day) + (tick if is_end[day] else tick * 0) - less
        for bound, day, less in (
            (pathvalidation.ALWAYS.since, since, tick * 0),
            (pathvalidation.ALWAYS.until, until, tick),
        )
    ]
    assert [found.since, found.until] == expected


def test_a_refusal_that_tells_the_time_holds_for_a_minute():
    """Else the log would tell one that is long over."""
    now = chains.NOW + datetime.timedelta(days=10)
    found = refusal(chains.certificate(LEAF), now=now)
    assert found.span.until == now + datetime.timedelta(minutes=1)


# --- what an authority is good for ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        pytest.param({}, True, id="the same certificate"),
        pytest.param({"subject": "other", "issuer": "other"}, True, id="its key under another name"),
        pytest.param({"subject": "below", "key": 1}, True, id="an authority below it"),
        pytest.param({"subject": "below", "key": 1, "purposes": ["server"]}, False, id="one for servers alone"),
        pytest.param({"key": 1, "signer": 1}, False, id="another one with its name"),
    ],
)
def test_an_authority_is_told_whose_certificates_make_clients(changes, expected):
    """By its key, or because it leads to the pool."""
    assert verifier().trusts(chains.certificate(AUTHORITY | changes), chains.NOW)[0] is expected
