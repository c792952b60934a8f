"""Issuing in two steps: a certificate is prepared, checked and recorded, and then signed once with the CA key."""

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
from certplane.x509 import certificatenames, keys
from certplane.x509.issuance import authority, issue
from certplane.x509.lint import linter
from certplane.x509.pkcs10 import certificaterequest, weakkeys
from certplane.x509.tbs import template
from tests.unit.x509 import material

NOW = material.NOW
CLIENT = ("digital signature", "client auth")


class RecordingAuthority(authority.Authority):
    """An authority that records what it signs, and that can sign something else."""

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
def test_the_prepared_bytes_are_issued(kind, subject):
    """For every type of CA key and of subject key."""
    issuer = material.new_issuer(kind)
    request = material.request(material.key(subject), dns=["a.example"])
    prepared = issuer.prepare(request, CLIENT, None, NOW)
    certificate = load(issuer.issue(prepared))
    certificate.verify_directly_issued_by(issuer.authority.certificate)
    assert certificate.tbs_certificate_bytes == prepared.to_be_signed
    assert certificate.public_key() == request.request.public_key
    assert material.own(prepared.findings) == ()


@pytest.mark.parametrize("kind", AUTHORITIES)
def test_the_lint_key_has_the_algorithm_of_the_authority(kind):
    """The linted certificate differs from the issued one only in its signature."""
    own = material.new_authority(kind)
    to_be_signed = material.new_issuer(kind).prepare(material.request(), CLIENT, None, NOW).to_be_signed
    signature = authority.LintKey(own).sign(to_be_signed)
    linted = x509.load_der_x509_certificate(template.assemble(to_be_signed, own.algorithm, signature))
    issued = x509.load_der_x509_certificate(template.assemble(to_be_signed, own.algorithm, own.sign(to_be_signed)))
    assert linted.signature_algorithm_oid == issued.signature_algorithm_oid
    assert linted.tbs_certificate_bytes == issued.tbs_certificate_bytes
    with pytest.raises(InvalidSignature):
        linted.verify_directly_issued_by(own.certificate)


def test_preparing_does_not_use_the_ca_key():
    """Issuing uses it once, for the prepared bytes."""
    recording = RecordingAuthority()
    issuer = issue.Issuer(recording, material.YEAR)
    prepared = issuer.prepare(material.request(), CLIENT, None, NOW)
    assert recording.signed == []
    issuer.issue(prepared)
    assert recording.signed == [prepared.to_be_signed]


def test_a_lint_error_prevents_signing():
    """The CA key is not used for a name with a NUL, at which some programs end the name."""
    recording = RecordingAuthority()
    issuer = issue.Issuer(recording, material.YEAR)
    with pytest.raises(issue.LintError) as caught:
        issuer.prepare(material.request(common_name="admin\0.example"), CLIENT, None, NOW)
    assert str(caught.value) == (
        "the certificate failed linting: the subject contains a NUL, where some programs truncate the name "
        "[nul-character: CVE-2009-2408]"
    )
    assert [finding.rule for finding in caught.value.findings] == ["nul-character"]
    assert recording.signed == []


def test_lint_warnings_do_not_prevent_signing():
    """Kubernetes does not compare usages with the type of the key."""
    issuer = material.new_issuer()
    prepared = issuer.prepare(material.request(dns=["a_b.example"]), (*CLIENT, "key encipherment"), None, NOW)
    assert [(finding.rule, finding.severity) for finding in material.own(prepared.findings)] == [
        ("usage-for-key-type", linter.Severity.WARNING),
        ("dns-syntax", linter.Severity.WARNING),
    ]
    assert load(issuer.issue(prepared)).subject == x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "jane")])


def test_weak_keys_are_refused():
    """With the text for the Failed condition."""
    with pytest.raises(weakkeys.WeakKey) as caught:
        material.new_issuer().prepare(material.request(material.key("RSA-1024")), CLIENT, None, NOW)
    assert str(caught.value) == "weak public key: the RSA modulus has 1024 bits; the minimum is 2048"


def test_the_minimum_rsa_size_is_configurable():
    """It can be higher or lower than the default."""
    request = material.request(material.key("RSA-2048"))
    with pytest.raises(weakkeys.WeakKey):
        material.new_issuer(min_rsa_bits=3072).prepare(request, CLIENT, None, NOW)
    small = material.request(material.key("RSA-1024"))
    assert issued(material.new_issuer(min_rsa_bits=1024), small).public_key() == small.request.public_key


def test_a_signing_token_is_used_once_by_its_issuer():
    """A second use is refused, and the use by another issuer."""
    issuer = material.new_issuer()
    prepared = issuer.prepare(material.request(), CLIENT, None, NOW)
    with pytest.raises(issue.IssueError, match="the certificate was prepared by another issuer"):
        material.new_issuer(number=1).issue(prepared)
    issuer.issue(prepared)
    with pytest.raises(issue.IssueError, match="the certificate was issued already"):
        issuer.issue(prepared)


def test_only_the_bytes_of_the_token_are_signed():
    """If the template was changed, the check after signing fails."""
    recording = RecordingAuthority()
    issuer = issue.Issuer(recording, material.YEAR)
    prepared = issuer.prepare(material.request(), CLIENT, None, NOW)
    changed = dataclasses.replace(prepared, template=dataclasses.replace(prepared.template, serial=7))
    with pytest.raises(issue.CheckFailed, match=r"differs from what was prepared in the serial number$"):
        issuer.issue(changed)
    assert recording.signed == [prepared.to_be_signed]


def test_signing_tokens_cannot_be_created_or_copied():
    """A second token for the same bytes would allow a second signature."""
    recording = RecordingAuthority()
    issuer = issue.Issuer(recording, material.YEAR)
    prepared = issuer.prepare(material.request(), CLIENT, None, NOW)
    with pytest.raises(TypeError, match=r"only Issuer\.prepare and Issuer\.resume make signing tokens"):
        issue.SigningToken(issuer, prepared.to_be_signed)
    for copied in (copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="a signing token cannot be copied"):
            copied(prepared.token)
    issuer.issue(prepared)
    with pytest.raises(issue.IssueError, match="the certificate was issued already"):
        issuer.issue(dataclasses.replace(prepared))
    assert recording.signed == [prepared.to_be_signed]


def test_one_of_several_threads_uses_a_token():
    """The others get an error, and the CA key is used once."""
    threads = 8
    recording = RecordingAuthority()
    issuer = issue.Issuer(recording, material.YEAR)
    barrier = threading.Barrier(threads)

    def redeem(prepared):
        barrier.wait()
        try:
            return issuer.issue(prepared)
        except issue.IssueError as error:
            return str(error)

    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        for _ in range(20):
            recording.signed.clear()
            prepared = issuer.prepare(material.request(), CLIENT, None, NOW)
            results = list(pool.map(redeem, [prepared] * threads))
            assert recording.signed == [prepared.to_be_signed]
            assert results.count("the certificate was issued already") == threads - 1


def test_a_signature_for_other_bytes_is_not_returned():
    """The check after signing fails."""
    issuer = issue.Issuer(RecordingAuthority(change=lambda data: data + b"x"), material.YEAR)
    prepared = issuer.prepare(material.request(), CLIENT, None, NOW)
    with pytest.raises(issue.CheckFailed):
        issuer.issue(prepared)


def test_encipher_only_is_issued_without_other_usages():
    """As by kube-controller-manager, although `cryptography` rejects it."""
    prepared = material.new_issuer().prepare(material.request(), ("encipher only",), None, NOW)
    assert [finding.rule for finding in material.own(prepared.findings)] == ["usage-combination"]
    issuer = material.new_issuer()
    record = issuer.record(prepared, material.UID)
    assert issuer.resume(record, material.UID, material.request(), ("encipher only",), None, NOW)
    assert issuer.issue(issuer.prepare(material.request(), ("encipher only",), None, NOW))


@pytest.mark.parametrize("requests_ca", [True, False])
@pytest.mark.parametrize("issues_ca", [True, False])
def test_every_combination_of_usages_passes_the_check(requests_ca, issues_ca):
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
    [
        ("broken", "the certificate cannot be read back: unsupported"),
        ("other", "the public key differs after it was read back"),
    ],
)
def test_a_certificate_that_cannot_be_read_back_is_not_signed(monkeypatch, key_type, text):
    """It is read back with the signature of the temporary key first."""

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
    recording = RecordingAuthority()
    issuer = issue.Issuer(recording, material.YEAR)
    record = issuer.record(issuer.prepare(material.request(), CLIENT, None, NOW), material.UID)
    monkeypatch.setattr(issue.x509, "load_der_x509_certificate", Certificate)
    for attempt in (
        lambda: issuer.prepare(material.request(), CLIENT, None, NOW),
        lambda: issuer.resume(record, material.UID, material.request(), CLIENT, None, NOW),
    ):
        with pytest.raises(issue.LintError) as caught:
            attempt()
        assert str(caught.value) == f"the certificate failed linting: {text} [read-back: certplane]"
    assert recording.signed == []


def test_every_usage_of_the_api_can_be_issued():
    """The two tables have the usages that a request may name, and no others."""
    assert issue.KEY_USAGES.keys() | issue.EXTENDED_KEY_USAGES.keys() == set(csrs.USAGES)
    assert not issue.KEY_USAGES.keys() & issue.EXTENDED_KEY_USAGES.keys()


def test_public_keys_are_encoded_again():
    """Data after the numbers of a key is not copied into the certificate."""
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
    """A fraction of a second in the configuration is dropped."""
    longest = datetime.timedelta(hours=9, microseconds=7)
    certificate = issued(issue.Issuer(material.new_authority(), longest), material.request())
    assert certificate.not_valid_after_utc - certificate.not_valid_before_utc == datetime.timedelta(hours=9)


def test_a_requested_lifetime_is_at_least_ten_minutes():
    """Even if the maximum of the signer is shorter, as in kube-controller-manager."""
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
    """This includes the five minutes in which the back-dated start is before its end."""
    recording = RecordingAuthority()
    issuer = issue.Issuer(recording, material.YEAR)
    now = recording.not_after + datetime.timedelta(seconds=after)
    with pytest.raises(issue.IssueError) as caught:
        issuer.prepare(material.request(), CLIENT, None, now)
    assert str(caught.value).startswith(f"{message}: NotAfter=")
    assert recording.signed == []


def test_an_unknown_usage_is_refused():
    """It is not silently dropped."""
    with pytest.raises(issue.IssueError) as caught:
        material.new_issuer().prepare(material.request(), (*CLIENT, "flying"), None, NOW)
    assert str(caught.value) == 'unrecognized usage values: ["flying"]'


def test_the_name_of_the_authority_can_be_requested():
    """The certificate has no authority key identifier, and there is a finding."""
    issuer = material.new_issuer()
    prepared = issuer.prepare(material.request(common_name="ca-0"), CLIENT, None, NOW)
    assert [finding.rule for finding in material.own(prepared.findings)] == ["subject-is-issuer"]
    certificate = load(issuer.issue(prepared))
    assert x509.AuthorityKeyIdentifier not in {type(extension.value) for extension in certificate.extensions}


# --- resuming a recorded certificate ------------------------------------------------------------------------------


def test_a_recorded_certificate_is_issued_by_another_process():
    """With the same bytes and serial number. RSA signatures are deterministic, so the certificates are equal."""
    request = material.request(dns=["a.example"])
    first = material.new_issuer("RSA-2048")
    prepared = first.prepare(request, CLIENT, 3600, NOW)
    record = first.record(prepared, material.UID)
    certificates = []
    for _ in range(2):
        issuer = material.new_issuer("RSA-2048")
        later = NOW + datetime.timedelta(minutes=30)
        certificates.append(issuer.issue(issuer.resume(record, material.UID, request, CLIENT, 3600, later)))
    assert certificates[0] == certificates[1]
    assert load(certificates[0]).tbs_certificate_bytes == prepared.to_be_signed


NOT_AUTHENTIC = "the record was not made for this request with the key of this CA"


def refused(record, request=None, usages=CLIENT, now=NOW, seconds=3600, uid=material.UID):
    with pytest.raises(issue.IssueError) as caught:
        material.new_issuer().resume(record, uid, request or material.request(), usages, seconds, now)
    return str(caught.value)


def recorded_by(issuer, **fields):
    return issuer.record(issuer.prepare(material.request(**fields), CLIENT, 3600, NOW), material.UID)


def test_a_record_needs_the_ca_key():
    """Who can write records, but does not have the key, could otherwise choose the serial number and the start of
    validity. One record has them from another certificate for the same request.
    """
    issuer = material.new_issuer()
    record = recorded_by(issuer)
    other = issuer.prepare(material.request(), CLIENT, 3600, NOW - datetime.timedelta(minutes=10)).to_be_signed
    bits = [record[:at] + bytes((record[at] ^ 1,)) + record[at + 1 :] for at in range(len(record))]
    forged = (other, record[: authority.MAC_SIZE] + other, record[: authority.MAC_SIZE], b"", b"\0" * 100)
    for changed in (*bits, *forged, record[:-1], record + b"\0"):
        assert refused(changed) == NOT_AUTHENTIC


def test_a_record_is_for_one_request():
    """That of another request for the same certificate is refused, so that no serial number is issued twice."""
    record = recorded_by(material.new_issuer())
    assert refused(record, uid="another") == NOT_AUTHENTIC
    # A part of the context cannot be moved into the bytes, or the other way round.
    first, rest = record[authority.MAC_SIZE :][:1], record[authority.MAC_SIZE :][1:]
    moved = record[: authority.MAC_SIZE] + rest
    assert refused(moved, uid=material.UID + first.decode("ascii")) == NOT_AUTHENTIC


@pytest.mark.parametrize("kind", AUTHORITIES)
def test_records_are_authenticated_with_every_kind_of_key(kind):
    """The MAC depends on the private key alone: a process that reads it from a file makes the same."""
    private = material.key(kind, 100)
    one, other = material.new_authority(kind), material.new_authority(kind, 1)
    again = authority.Authority(one.raw, keys.from_pem(keys.to_pem(private)))
    assert again.mac("uid", b"data") == one.mac("uid", b"data")
    assert other.mac("uid", b"data") != one.mac("uid", b"data")


def test_a_record_of_another_authority_is_refused():
    """The CA was replaced in between, perhaps by one with the same name and another key, or the same key and another
    name.
    """
    expected = NOT_AUTHENTIC
    assert refused(recorded_by(material.new_issuer(number=1))) == expected
    renewed = material.renewed(material.new_authority(), material.key("P-256", 7))
    assert refused(recorded_by(issue.Issuer(renewed, material.YEAR))) == expected


def test_a_record_for_another_key_is_refused():
    """It belongs to another request."""
    recorded = recorded_by(material.new_issuer(), private=material.key("P-256", 1))
    assert refused(recorded) == "the recorded certificate is for another key"


def test_an_expired_record_is_refused():
    """It can be resumed until a second before its notAfter."""
    end = NOW + datetime.timedelta(hours=1)
    recorded = recorded_by(material.new_issuer())
    assert refused(recorded, now=end) == "the recorded certificate has expired: NotAfter=2026-01-01 01:00:00 +0000 UTC"
    issuer = material.new_issuer()
    last = end - datetime.timedelta(seconds=1)
    assert issuer.resume(recorded, material.UID, material.request(), CLIENT, 3600, last)


@pytest.mark.parametrize(
    ("request_", "usages"),
    [
        pytest.param({"common_name": "jack"}, CLIENT, id="another subject"),
        pytest.param({"dns": ["a.example"]}, CLIENT, id="other names"),
        pytest.param({}, ("server auth",), id="other usages"),
    ],
)
def test_a_record_that_differs_from_the_request_is_refused(request_, usages):
    """A changed record is not signed."""
    recorded = recorded_by(material.new_issuer())
    expected = "the recorded certificate differs from what would be issued for the request"
    assert refused(recorded, material.request(**request_), usages) == expected


def test_malformed_records_are_refused():
    """No other exception is raised, whatever the record contains."""
    issuer = material.new_issuer()
    good = issuer.prepare(material.request(), CLIENT, 3600, NOW).to_be_signed
    expected = "the record is not a certificate"
    for to_be_signed in (b"", b"\x30\x00", b"nonsense", good[:-1], good + b"\0"):
        assert refused(material.recorded(issuer, to_be_signed)) == expected


def test_a_record_above_the_maximum_lifetime_is_refused():
    """The maximum of the signer was reduced in between."""
    former = material.new_issuer()
    record = former.record(former.prepare(material.request(), CLIENT, None, NOW), material.UID)
    issuer = issue.Issuer(material.new_authority(), datetime.timedelta(hours=1))
    with pytest.raises(issue.LintError) as caught:
        issuer.resume(record, material.UID, material.request(), CLIENT, None, NOW)
    assert [finding.rule for finding in caught.value.findings] == ["lifetime"]


def test_the_lifetime_of_a_record_is_that_of_the_request():
    """As of the recorded time, which must not be in the future."""
    expected = "the recorded certificate has a lifetime that the request would not get"
    recorded = recorded_by(material.new_issuer())
    assert refused(recorded, seconds=7200) == expected
    assert refused(recorded, now=NOW - issue.BACKDATE - datetime.timedelta(seconds=1)) == expected
    earliest = NOW - issue.BACKDATE
    assert material.new_issuer().resume(recorded, material.UID, material.request(), CLIENT, 3600, earliest)


def test_the_serial_number_of_a_record_is_checked():
    """Only numbers that the generator can make are accepted."""
    issuer = material.new_issuer()
    prepared = issuer.prepare(material.request(), CLIENT, None, NOW)
    one = dataclasses.replace(prepared.template, serial=1).to_be_signed()
    fields = [field.raw for field in asn1.Reader(asn1.Reader(one).read_any().content)]
    negative = asn1.encode(0x30, b"".join((fields[0], b"\x02\x01\xff", *fields[2:])))
    for forged in (one, negative):
        with pytest.raises(issue.LintError):
            issuer.resume(material.recorded(issuer, forged), material.UID, material.request(), CLIENT, None, NOW)


def test_a_record_for_a_weak_key_is_refused():
    """The current configuration counts."""
    request = material.request(material.key("RSA-2048"))
    issuer = material.new_issuer()
    record = issuer.record(issuer.prepare(request, CLIENT, None, NOW), material.UID)
    with pytest.raises(weakkeys.WeakKey):
        material.new_issuer(min_rsa_bits=3072).resume(record, material.UID, request, CLIENT, None, NOW)


def test_the_result_is_one_pem_block():
    """The certificate of the CA is not included."""
    issuer = material.new_issuer()
    text = issuer.issue(issuer.prepare(material.request(), CLIENT, None, NOW))
    assert [block.label for block in pem.blocks(text)] == ["CERTIFICATE"]
    assert load(text).public_bytes(serialization.Encoding.PEM) == text
