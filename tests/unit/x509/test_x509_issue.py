"""Two steps: what the certificate says is decided, looked at and may be recorded; then the CA key is used, once."""

from __future__ import annotations

import concurrent.futures
import copy
import dataclasses
import datetime
import itertools
import threading

import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import NameOID

from certplane.golang import asn1, pem
from certplane.resources import certificatesigningrequests as csrs
from certplane.x509 import certificatenames
from certplane.x509.issuance import authority, issue
from certplane.x509.lint import linter
from certplane.x509.pkcs10 import certificaterequest, weakkeys
from certplane.x509.tbs import template
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
    certificate = load(issuer.issue(prepared))
    certificate.verify_directly_issued_by(issuer.authority.certificate)
    assert certificate.tbs_certificate_bytes == prepared.to_be_signed
    assert certificate.public_key() == request.request.public_key
    assert material.own(prepared.findings) == ()


@pytest.mark.parametrize("kind", AUTHORITIES)
def test_a_stand_in_signs_under_the_authoritys_algorithm(kind):
    """The certificate that is looked at is the one to come, but for the signature."""
    own = material.new_authority(kind)
    to_be_signed = material.new_issuer(kind).prepare(material.request(), CLIENT, None, NOW).to_be_signed
    signature = authority.LintKey(own).sign(to_be_signed)
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
        "the certificate failed linting: the subject contains a NUL, at which some programs cut the name off "
        "[nul: CVE-2009-2408]"
    )
    assert [finding.rule for finding in caught.value.findings] == ["nul"]
    assert own.signed == []


def test_warnings_are_told_and_stop_nothing():
    """Kubernetes does not correlate usages and keys."""
    issuer = material.new_issuer()
    prepared = issuer.prepare(material.request(dns=["a_b.example"]), (*CLIENT, "key encipherment"), None, NOW)
    assert [(finding.rule, finding.severity) for finding in material.own(prepared.findings)] == [
        ("usage-of-key", linter.Severity.WARNING),
        ("dns-syntax", linter.Severity.WARNING),
    ]
    assert load(issuer.issue(prepared)).subject == x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "jane")])


def test_weak_keys_are_refused():
    """With an error of their own, whose text is for the Failed condition."""
    with pytest.raises(weakkeys.WeakKey) as caught:
        material.new_issuer().prepare(material.request(material.key("RSA-1024")), CLIENT, None, NOW)
    assert str(caught.value) == "weak public key: the RSA modulus has 1024 bits; the minimum is 2048"


def test_the_size_of_rsa_keys_can_be_set():
    """For houses that want more, and for those that still have less."""
    request = material.request(material.key("RSA-2048"))
    with pytest.raises(weakkeys.WeakKey):
        material.new_issuer(min_rsa_bits=3072).prepare(request, CLIENT, None, NOW)
    small = material.request(material.key("RSA-1024"))
    assert issued(material.new_issuer(min_rsa_bits=1024), small).public_key() == small.request.public_key


def test_a_token_is_good_once_and_here():
    """It cannot be redeemed twice, nor by another issuer."""
    issuer = material.new_issuer()
    prepared = issuer.prepare(material.request(), CLIENT, None, NOW)
    with pytest.raises(issue.IssueError, match="the certificate was prepared by another issuer"):
        material.new_issuer(number=1).issue(prepared)
    issuer.issue(prepared)
    with pytest.raises(issue.IssueError, match="the certificate was issued already"):
        issuer.issue(prepared)


def test_only_the_bytes_of_the_token_are_signed():
    """A changed template is not what is signed, and the check finds the difference."""
    own = Observed()
    issuer = issue.Issuer(own, material.YEAR)
    prepared = issuer.prepare(material.request(), CLIENT, None, NOW)
    changed = dataclasses.replace(prepared, template=dataclasses.replace(prepared.template, serial=7))
    with pytest.raises(issue.CheckFailed, match=r"differs from what was prepared in the serial number$"):
        issuer.issue(changed)
    assert own.signed == [prepared.to_be_signed]


def test_only_an_issuer_makes_tokens():
    """A second token for the same bytes would be a second signature."""
    own = Observed()
    issuer = issue.Issuer(own, material.YEAR)
    prepared = issuer.prepare(material.request(), CLIENT, None, NOW)
    with pytest.raises(TypeError, match=r"only Issuer\.prepare and Issuer\.resume make signing tokens"):
        issue.SigningToken(issuer, prepared.to_be_signed)
    for copied in (copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="a signing token cannot be copied"):
            copied(prepared.token)
    issuer.issue(prepared)
    with pytest.raises(issue.IssueError, match="the certificate was issued already"):
        issuer.issue(dataclasses.replace(prepared))
    assert own.signed == [prepared.to_be_signed]


def test_of_several_threads_one_redeems_a_token():
    """The key is used once, whoever comes first."""
    threads = 8
    own = Observed()
    issuer = issue.Issuer(own, material.YEAR)
    barrier = threading.Barrier(threads)

    def redeem(prepared):
        barrier.wait()
        try:
            return issuer.issue(prepared)
        except issue.IssueError as error:
            return str(error)

    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        for _ in range(20):
            own.signed.clear()
            prepared = issuer.prepare(material.request(), CLIENT, None, NOW)
            results = list(pool.map(redeem, [prepared] * threads))
            assert own.signed == [prepared.to_be_signed]
            assert results.count("the certificate was issued already") == threads - 1


def test_what_is_not_what_was_prepared_is_not_handed_out():
    """A key that signs something else is found out."""
    issuer = issue.Issuer(Observed(change=lambda data: data + b"x"), material.YEAR)
    prepared = issuer.prepare(material.request(), CLIENT, None, NOW)
    with pytest.raises(issue.CheckFailed):
        issuer.issue(prepared)


def test_usages_that_a_library_does_not_take_are_issued():
    """kube-controller-manager issues "encipher only" by itself."""
    prepared = material.new_issuer().prepare(material.request(), ("encipher only",), None, NOW)
    assert [finding.rule for finding in material.own(prepared.findings)] == ["usage-meaning"]
    assert material.new_issuer().resume(prepared.to_be_signed, material.request(), ("encipher only",), None, NOW)
    issuer = material.new_issuer()
    assert issuer.issue(issuer.prepare(material.request(), ("encipher only",), None, NOW))


@pytest.mark.parametrize("requests_ca", [True, False])
@pytest.mark.parametrize("issues_ca", [True, False])
def test_no_usages_make_a_sound_certificate_fail_its_check(requests_ca, issues_ca):
    """A failed check stops the signer, so no client may cause one. `cryptography` rejects some of these usages."""
    issuer = material.new_issuer(issues_ca=issues_ca)
    attributes = material.requested(template.basic_constraints(ca=True)) if requests_ca else b""
    subject = template.encode_name(certificatenames.Subject(common_name="jane"))
    request = certificaterequest.verified(material.odd_request(subject, attributes))
    bits = ("cert sign", "encipher only", "decipher only", "key agreement", "digital signature")
    for usages in itertools.chain.from_iterable(itertools.combinations(bits, size) for size in range(len(bits) + 1)):
        assert issuer.issue(issuer.prepare(request, usages, None, NOW))


@pytest.mark.parametrize(
    ("key_type", "text"),
    [("broken", "the certificate cannot be read back: unsupported"), ("other", "the public key is read back changed")],
)
def test_what_could_not_be_checked_is_refused_before_it_is_signed(monkeypatch, key_type, text):
    """The second library reads the certificate with the signature of the temporary key first."""

    class Certificate:
        def __init__(self, encoded):
            self._certificate = load_der(encoded)

        def __getattr__(self, name):
            return getattr(self._certificate, name)

        def public_key(self):
            if key_type == "broken":
                raise ValueError("unsupported")
            return material.key("P-256", 9).public_key()

    load_der = x509.load_der_x509_certificate
    own = Observed()
    issuer = issue.Issuer(own, material.YEAR)
    recorded = issuer.prepare(material.request(), CLIENT, None, NOW).to_be_signed
    monkeypatch.setattr(issue.x509, "load_der_x509_certificate", Certificate)
    for attempt in (
        lambda: issuer.prepare(material.request(), CLIENT, None, NOW),
        lambda: issuer.resume(recorded, material.request(), CLIENT, None, NOW),
    ):
        with pytest.raises(issue.LintError) as caught:
            attempt()
        assert str(caught.value) == f"the certificate failed linting: {text} [read-back: certplane]"
    assert own.signed == []


def test_every_usage_of_the_api_can_be_issued():
    """The two tables have what a request may name, and nothing else."""
    assert issue.KEY_USAGES.keys() | issue.EXTENDED_KEY_USAGES.keys() == set(csrs.USAGES)
    assert not issue.KEY_USAGES.keys() & issue.EXTENDED_KEY_USAGES.keys()


def test_keys_are_encoded_anew():
    """What a request writes behind the numbers of its key is not copied into the certificate."""
    private = material.key("RSA-2048")
    parts = list(asn1.Reader(asn1.Reader(material.public_der(private)).read_any().content))
    numbers = asn1.Reader(asn1.decode_bit_string(parts[1])).read_any().content
    padded = asn1.encode(0x03, b"\0" + asn1.encode(0x30, numbers + b"\x0c\x04evil") + b"\x0c\x04evil")
    request = certificaterequest.verified(
        material.odd_request(private=private, spki=asn1.encode(0x30, parts[0].raw + padded))
    )
    certificate = issued(material.new_issuer(), request)
    assert certificate.public_key() == private.public_key()
    assert b"evil" not in certificate.tbs_certificate_bytes


def test_lifetimes_are_whole_seconds():
    """What is left of a second in the configuration is cut off."""
    longest = datetime.timedelta(hours=9, microseconds=7)
    certificate = issued(issue.Issuer(material.new_authority(), longest), material.request())
    assert certificate.not_valid_after_utc - certificate.not_valid_before_utc == datetime.timedelta(hours=9)


def test_the_shortest_lifetime_is_ten_minutes_though_the_signer_has_less():
    """As kube-controller-manager has it: only what is longer than the signer's is cut."""
    issuer = issue.Issuer(material.new_authority(), datetime.timedelta(minutes=5))
    assert issued(issuer, material.request(), seconds=60).not_valid_after_utc == NOW + datetime.timedelta(minutes=10)
    assert issued(issuer, material.request()).not_valid_after_utc == NOW + datetime.timedelta(minutes=5)


@pytest.mark.parametrize(
    ("after", "message"),
    [
        pytest.param(0, "refusing to sign a certificate that expired in the past", id="at the end"),
        pytest.param(299, "refusing to sign a certificate that expired in the past", id="within the back-dating"),
        pytest.param(300, "the signer has expired", id="later"),
    ],
)
def test_an_expired_authority_signs_nothing(after, message):
    """Not even in the five minutes in which the back-dated start is before the end of the CA."""
    own = Observed()
    issuer = issue.Issuer(own, material.YEAR)
    now = own.not_after + datetime.timedelta(seconds=after)
    with pytest.raises(issue.IssueError) as caught:
        issuer.prepare(material.request(), CLIENT, None, now)
    assert str(caught.value).startswith(f"{message}: NotAfter=")
    assert own.signed == []


def test_an_unknown_usage_is_refused():
    """It is not left out of the certificate in silence."""
    with pytest.raises(issue.IssueError) as caught:
        material.new_issuer().prepare(material.request(), (*CLIENT, "flying"), None, NOW)
    assert str(caught.value) == 'unrecognized usage values: ["flying"]'


def test_the_authoritys_own_name_may_be_asked_for():
    """It is issued, without an authority key identifier, and remarked."""
    issuer = material.new_issuer()
    prepared = issuer.prepare(material.request(common_name="ca-0"), CLIENT, None, NOW)
    assert [finding.rule for finding in material.own(prepared.findings)] == ["own-issuer"]
    certificate = load(issuer.issue(prepared))
    assert x509.AuthorityKeyIdentifier not in {type(each.value) for each in certificate.extensions}


# --- taking back what was recorded --------------------------------------------------------------------------------


def test_what_was_recorded_is_issued_by_another_process():
    """The same bytes, the same serial number. With RSA, whose signatures are deterministic, the same certificate."""
    request = material.request(dns=["a.example"])
    recorded = material.new_issuer("RSA-2048").prepare(request, CLIENT, 3600, NOW).to_be_signed
    certificates = []
    for _ in range(2):
        issuer = material.new_issuer("RSA-2048")
        later = NOW + datetime.timedelta(minutes=30)
        certificates.append(issuer.issue(issuer.resume(recorded, request, CLIENT, 3600, later)))
    assert certificates[0] == certificates[1]
    assert load(certificates[0]).tbs_certificate_bytes == recorded


def refused(recorded, request=None, usages=CLIENT, now=NOW, seconds=3600):
    with pytest.raises(issue.IssueError) as caught:
        material.new_issuer().resume(recorded, request or material.request(), usages, seconds, now)
    return str(caught.value)


def recorded_by(issuer, **fields):
    return issuer.prepare(material.request(**fields), CLIENT, 3600, NOW).to_be_signed


def test_what_another_authority_prepared_is_refused():
    """The CA was exchanged in between; also if it has the same name, and another key."""
    expected = "the recorded certificate is for another authority"
    assert refused(recorded_by(material.new_issuer(number=1))) == expected
    renewed = material.renewed(material.new_authority(), material.key("P-256", 7))
    assert refused(recorded_by(issue.Issuer(renewed, material.YEAR))) == expected


def test_what_is_for_another_key_is_refused():
    """The bytes are of another request."""
    recorded = recorded_by(material.new_issuer(), private=material.key("P-256", 1))
    assert refused(recorded) == "the recorded certificate is for another key"


def test_what_is_over_is_refused():
    """It took too long to come back."""
    end = NOW + datetime.timedelta(hours=1)
    recorded = recorded_by(material.new_issuer())
    assert refused(recorded, now=end) == "the recorded certificate has expired: NotAfter=2026-01-01 01:00:00 +0000 UTC"
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
    expected = "the recorded certificate differs from what would be issued for the request"
    assert refused(recorded, material.request(**request_), usages) == expected


def test_nonsense_is_refused():
    """Whatever the record holds, there is a reason and no exception of another kind."""
    good = recorded_by(material.new_issuer())
    expected = "the record is not a certificate"
    for bad in (b"", b"\x30\x00", b"nonsense", good[:-1], good + b"\0"):
        assert refused(bad) == expected


def test_what_lives_too_long_is_refused():
    """The signer's longest lifetime was made shorter, or the record is forged."""
    recorded = material.new_issuer().prepare(material.request(), CLIENT, None, NOW).to_be_signed
    shorter = issue.Issuer(material.new_authority(), datetime.timedelta(hours=1))
    with pytest.raises(issue.LintError) as caught:
        shorter.resume(recorded, material.request(), CLIENT, None, NOW)
    assert [finding.rule for finding in caught.value.findings] == ["lifetime"]


def test_a_lifetime_is_not_chosen_by_the_record():
    """It is what the request would have got at the moment that the record names; that is not to come."""
    expected = "the recorded certificate has a lifetime that the request would not get"
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
    fields = [each.raw for each in asn1.Reader(asn1.Reader(one).read_any().content)]
    negative = asn1.encode(0x30, b"".join((fields[0], b"\x02\x01\xff", *fields[2:])))
    for forged in (one, negative):
        with pytest.raises(issue.LintError):
            issuer.resume(forged, material.request(), CLIENT, None, NOW)


def test_weak_keys_are_not_resumed():
    """The rules of today count."""
    request = material.request(material.key("RSA-2048"))
    recorded = material.new_issuer().prepare(request, CLIENT, None, NOW).to_be_signed
    with pytest.raises(weakkeys.WeakKey):
        material.new_issuer(min_rsa_bits=3072).resume(recorded, request, CLIENT, None, NOW)


def test_the_result_is_one_pem_block():
    """Without the authority's certificate."""
    issuer = material.new_issuer()
    text = issuer.issue(issuer.prepare(material.request(), CLIENT, None, NOW))
    assert [each.label for each in pem.blocks(text)] == ["CERTIFICATE"]
    assert load(text).public_bytes(serialization.Encoding.PEM) == text
