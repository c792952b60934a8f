"""Two steps: what the certificate says is decided, looked at and may be recorded; then the CA key is used, once."""

from __future__ import annotations

import dataclasses
import datetime

import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import NameOID

from certplane.x509 import authority, csr, der, issue, lint, pem, template, weak
from tests.unit.x509 import material

NOW = material.NOW
CLIENT = ("digital signature", "client auth")


class Observed(authority.Authority):
    """An authority that counts, and that can be made to sign something else."""

    __slots__ = ("change", "signed")

    def __init__(self, kind="P-256", change=lambda data: data):
        real = material.new_authority(kind)
        super().__init__(real.raw, material.key(kind, 100))
        self.signed = []
        self.change = change

    def sign(self, data):
        self.signed.append(data)
        return super().sign(self.change(data))


def load(text):
    return x509.load_pem_x509_certificate(text)


def issued(issuer, request, usages=CLIENT, seconds=None):
    return load(issuer.issue(issuer.prepare(request, usages, seconds, NOW)))


AUTHORITIES = ["RSA-2048", "RSA-3072", "P-256", "P-384", "P-521", "P-224", "Ed25519"]


@pytest.mark.parametrize("kind", AUTHORITIES)
@pytest.mark.parametrize("subject", ["RSA-2048", "P-256", "Ed25519"])
def test_what_was_prepared_is_issued(kind, subject):
    """For every kind of authority and of key: the recorded bytes are those that are signed."""
    issuer = material.new_issuer(kind)
    request = material.request(material.key(subject), dns=["a.example"])
    prepared = issuer.prepare(request, CLIENT, None, NOW)
    made = load(issuer.issue(prepared))
    made.verify_directly_issued_by(issuer.authority.certificate)
    assert made.tbs_certificate_bytes == prepared.to_be_signed
    assert made.public_key() == request.public_key
    assert material.own(prepared.findings) == ()


@pytest.mark.parametrize("kind", AUTHORITIES)
def test_a_stand_in_signs_under_the_authoritys_algorithm(kind):
    """The certificate that is looked at is the one to come, but for the signature."""
    own = material.new_authority(kind)
    to_be_signed = material.new_issuer(kind).prepare(material.request(), CLIENT, None, NOW).to_be_signed
    signature = authority.StandIn(own).sign(to_be_signed)
    looked_at = x509.load_der_x509_certificate(template.assemble(to_be_signed, own.algorithm, signature))
    real = x509.load_der_x509_certificate(template.assemble(to_be_signed, own.algorithm, own.sign(to_be_signed)))
    assert looked_at.signature_algorithm_oid == real.signature_algorithm_oid
    assert looked_at.tbs_certificate_bytes == real.tbs_certificate_bytes
    with pytest.raises(InvalidSignature):
        looked_at.verify_directly_issued_by(own.certificate)


def test_preparing_does_not_use_the_key():
    """Only issuing does, once, and for the bytes that were prepared."""
    own = Observed()
    issuer = issue.Issuer(own, material.YEAR)
    prepared = issuer.prepare(material.request(), CLIENT, None, NOW)
    assert own.signed == []
    issuer.issue(prepared)
    assert own.signed == [prepared.to_be_signed]


def test_an_error_of_lint_ends_it_before_the_key_is_used():
    """A NUL in a name deceives those who end names there."""
    own = Observed()
    issuer = issue.Issuer(own, material.YEAR)
    with pytest.raises(issue.LintError) as caught:
        issuer.prepare(material.request(common_name="admin\0.example"), CLIENT, None, NOW)
    assert str(caught.value) == (
        "the certificate would not be good: a NUL in the subject, where some programs take the name to end "
        "[nul: CVE-2009-2408]"
    )
    assert [each.rule for each in caught.value.findings] == ["nul"]
    assert own.signed == []


def test_warnings_are_told_and_stop_nothing():
    """Kubernetes does not correlate usages and keys."""
    issuer = material.new_issuer()
    prepared = issuer.prepare(material.request(dns=["a_b.example"]), (*CLIENT, "key encipherment"), None, NOW)
    assert [(each.rule, each.severity) for each in material.own(prepared.findings)] == [
        ("usage-of-key", lint.Severity.WARNING),
        ("dns-syntax", lint.Severity.WARNING),
    ]
    assert load(issuer.issue(prepared)).subject == x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "jane")])


def test_weak_keys_are_refused():
    """With an error of their own, whose text is for the Failed condition."""
    with pytest.raises(weak.WeakKey) as caught:
        material.new_issuer().prepare(material.request(material.key("RSA-1024")), CLIENT, None, NOW)
    assert str(caught.value) == "the public key is refused: the RSA modulus has 1024 bits, and 2048 are needed"


def test_the_size_of_rsa_keys_can_be_set():
    """For houses that want more, and for those that still have less."""
    request = material.request(material.key("RSA-2048"))
    with pytest.raises(weak.WeakKey):
        material.new_issuer(smallest_rsa=3072).prepare(request, CLIENT, None, NOW)
    small = material.request(material.key("RSA-1024"))
    assert issued(material.new_issuer(smallest_rsa=1024), small).public_key() == small.public_key


def test_a_token_is_good_once_and_here():
    """It cannot be redeemed twice, nor by another issuer."""
    issuer = material.new_issuer()
    prepared = issuer.prepare(material.request(), CLIENT, None, NOW)
    with pytest.raises(issue.IssueError):
        material.new_issuer(number=1).issue(prepared)
    issuer.issue(prepared)
    with pytest.raises(issue.IssueError):
        issuer.issue(prepared)


def test_what_is_not_what_was_prepared_is_not_handed_out():
    """A key that signs something else is found out."""
    issuer = issue.Issuer(Observed(change=lambda data: data + b"x"), material.YEAR)
    prepared = issuer.prepare(material.request(), CLIENT, None, NOW)
    with pytest.raises(issue.CheckFailed):
        issuer.issue(prepared)


def test_usages_that_a_library_does_not_take_are_issued():
    """kube-controller-manager issues "encipher only" by itself."""
    prepared = material.new_issuer().prepare(material.request(), ("encipher only",), None, NOW)
    assert [each.rule for each in material.own(prepared.findings)] == ["usage-meaning"]
    assert material.new_issuer().resume(prepared.to_be_signed, material.request(), ("encipher only",), None, NOW)
    issuer = material.new_issuer()
    assert issuer.issue(issuer.prepare(material.request(), ("encipher only",), None, NOW))


def test_keys_are_encoded_anew():
    """What a request writes behind the numbers of its key is not copied into the certificate."""
    private = material.key("RSA-2048")
    parts = list(der.Reader(der.Reader(material.public_der(private)).any().content))
    numbers = der.Reader(der.bits(parts[1])).any().content
    padded = der.encode(0x03, b"\0" + der.encode(0x30, numbers + b"\x0c\x04evil") + b"\x0c\x04evil")
    request = csr.parse(material.odd_request(private=private, spki=der.encode(0x30, parts[0].raw + padded)))
    made = issued(material.new_issuer(), request)
    assert made.public_key() == private.public_key()
    assert b"evil" not in made.tbs_certificate_bytes


def test_lifetimes_are_whole_seconds():
    """What is left of a second in the configuration is cut off."""
    longest = datetime.timedelta(hours=9, microseconds=7)
    made = issued(issue.Issuer(material.new_authority(), longest), material.request())
    assert made.not_valid_after_utc - made.not_valid_before_utc == datetime.timedelta(hours=9)


def test_the_shortest_lifetime_is_ten_minutes_though_the_signer_has_less():
    """As kube-controller-manager has it: only what is longer than the signer's is cut."""
    issuer = issue.Issuer(material.new_authority(), datetime.timedelta(minutes=5))
    assert issued(issuer, material.request(), seconds=60).not_valid_after_utc == NOW + datetime.timedelta(minutes=10)
    assert issued(issuer, material.request()).not_valid_after_utc == NOW + datetime.timedelta(minutes=5)


def test_the_authoritys_own_name_may_be_asked_for():
    """It is issued, without an authority key identifier, and remarked."""
    issuer = material.new_issuer()
    prepared = issuer.prepare(material.request(common_name="ca-0"), CLIENT, None, NOW)
    assert [each.rule for each in material.own(prepared.findings)] == ["own-issuer"]
    made = load(issuer.issue(prepared))
    assert x509.AuthorityKeyIdentifier not in {type(each.value) for each in made.extensions}


# --- taking back what was recorded --------------------------------------------------------------------------------


def test_what_was_recorded_is_issued_by_another_process():
    """The same bytes, the same serial number; signed twice it is still one certificate."""
    request = material.request(dns=["a.example"])
    recorded = material.new_issuer("RSA-2048").prepare(request, CLIENT, 3600, NOW).to_be_signed
    made = []
    for _ in range(2):
        issuer = material.new_issuer("RSA-2048")
        later = NOW + datetime.timedelta(minutes=30)
        made.append(issuer.issue(issuer.resume(recorded, request, CLIENT, 3600, later)))
    assert made[0] == made[1]
    assert load(made[0]).tbs_certificate_bytes == recorded


def refused(recorded, request=None, usages=CLIENT, now=NOW, seconds=3600):
    with pytest.raises(issue.IssueError) as caught:
        material.new_issuer().resume(recorded, request or material.request(), usages, seconds, now)
    return str(caught.value)


def recorded_by(issuer, **of):
    return issuer.prepare(material.request(**of), CLIENT, 3600, NOW).to_be_signed


def test_what_another_authority_prepared_is_refused():
    """The CA was exchanged in between; also if it has the same name, and another key."""
    expected = "what was recorded for the request is of another authority"
    assert refused(recorded_by(material.new_issuer(number=1))) == expected
    renewed = material.renewed(material.new_authority(), material.key("P-256", 7))
    assert refused(recorded_by(issue.Issuer(renewed, material.YEAR))) == expected


def test_what_is_for_another_key_is_refused():
    """The bytes are of another request."""
    recorded = recorded_by(material.new_issuer(), private=material.key("P-256", 1))
    assert refused(recorded) == "what was recorded for the request is for another key"


def test_what_is_over_is_refused():
    """It took too long to come back."""
    end = NOW + datetime.timedelta(hours=1)
    recorded = recorded_by(material.new_issuer())
    assert refused(recorded, now=end) == (
        "what was recorded for the request is over: NotAfter=2026-01-01 01:00:00 +0000 UTC"
    )
    issuer = material.new_issuer()
    resumed = issuer.resume(recorded, material.request(), CLIENT, 3600, end - datetime.timedelta(seconds=1))
    assert resumed.to_be_signed == recorded


@pytest.mark.parametrize(
    ("request_", "usages"),
    [
        pytest.param({"common_name": "jack"}, CLIENT, id="another subject"),
        pytest.param({"dns": ["a.example"]}, CLIENT, id="other names"),
        pytest.param({}, ("server auth",), id="other usages"),
    ],
)
def test_what_would_not_be_issued_is_refused(request_, usages):
    """Whoever changes the record gets no certificate for it."""
    recorded = recorded_by(material.new_issuer())
    expected = "what was recorded for the request is not what would be issued for it"
    assert refused(recorded, material.request(**request_), usages) == expected


def test_nonsense_is_refused():
    """Whatever the record holds, there is a reason and no exception of another kind."""
    good = recorded_by(material.new_issuer())
    expected = "what was recorded for the request is no certificate"
    for bad in (b"", b"\x30\x00", b"nonsense", good[:-1], good + b"\0"):
        assert refused(bad) == expected


def test_what_lives_too_long_is_refused():
    """The signer's longest lifetime was made shorter, or the record is forged."""
    recorded = material.new_issuer().prepare(material.request(), CLIENT, None, NOW).to_be_signed
    shorter = issue.Issuer(material.new_authority(), datetime.timedelta(hours=1))
    with pytest.raises(issue.LintError) as caught:
        shorter.resume(recorded, material.request(), CLIENT, None, NOW)
    assert [each.rule for each in caught.value.findings] == ["lifetime"]


def test_a_lifetime_is_not_chosen_by_the_record():
    """It is what the request would have got at the moment that the record names; that is not to come."""
    expected = "what was recorded for the request has another lifetime than it would get"
    recorded = recorded_by(material.new_issuer())
    assert refused(recorded, seconds=7200) == expected
    assert refused(recorded, now=NOW - issue.BACKDATE - datetime.timedelta(seconds=1)) == expected
    early = material.new_issuer().resume(recorded, material.request(), CLIENT, 3600, NOW - issue.BACKDATE)
    assert early.to_be_signed == recorded


def test_a_serial_number_is_not_chosen_by_the_record():
    """One that our generator does not make is refused, whoever wrote it."""
    issuer = material.new_issuer()
    prepared = issuer.prepare(material.request(), CLIENT, None, NOW)
    one = dataclasses.replace(prepared.template, serial=1).to_be_signed()
    fields = [each.raw for each in der.Reader(der.Reader(one).any().content)]
    negative = der.encode(0x30, b"".join((fields[0], b"\x02\x01\xff", *fields[2:])))
    for forged in (one, negative):
        with pytest.raises(issue.LintError):
            issuer.resume(forged, material.request(), CLIENT, None, NOW)


def test_weak_keys_are_not_resumed():
    """The rules of today count."""
    request = material.request(material.key("RSA-2048"))
    recorded = material.new_issuer().prepare(request, CLIENT, None, NOW).to_be_signed
    with pytest.raises(weak.WeakKey):
        material.new_issuer(smallest_rsa=3072).resume(recorded, request, CLIENT, None, NOW)


def test_the_result_is_one_pem_block():
    """Without the authority's certificate."""
    issuer = material.new_issuer()
    text = issuer.issue(issuer.prepare(material.request(), CLIENT, None, NOW))
    assert [each.label for each in pem.blocks(text)] == ["CERTIFICATE"]
    assert load(text).public_bytes(serialization.Encoding.PEM) == text
