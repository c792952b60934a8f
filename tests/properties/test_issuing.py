"""Any request is issued as a valid certificate, or refused with a reason."""

from __future__ import annotations

import contextlib
import datetime
import ipaddress

import hypothesis
import pytest
from cryptography import x509
from cryptography.x509 import verification
from hypothesis import strategies as st

from certplane.golang import asn1, pem
from certplane.x509 import certificatenames
from certplane.x509.issuance import issue
from certplane.x509.lint import linter
from certplane.x509.pkcs10 import certificaterequest, weakkeys
from certplane.x509.tbs import tbscertificate, template
from tests.unit.x509 import material

#: Texts without control characters, as in names of real requests.
TEXTS = st.text(st.characters(min_codepoint=32, max_codepoint=0x2FFFF, exclude_categories=("Cs", "Cc")), max_size=30)
ANY_TEXTS = st.text(st.characters(exclude_categories=("Cs",)), max_size=80)
ASCII = st.text(st.characters(min_codepoint=1, max_codepoint=126), max_size=40)
HOSTS = st.from_regex(r"(\*\.)?[a-z0-9]([a-z0-9-]{0,10}[a-z0-9])?(\.[a-z]{2,5}){0,3}", fullmatch=True)
USAGES = st.lists(
    st.sampled_from(("signing", "digital signature", "key encipherment", "client auth", "server auth", "any",
                     "cert sign", "encipher only", "decipher only", "key agreement", "ocsp signing")),
    max_size=5, unique=True,
)  # fmt: skip
SECONDS = st.none() | st.integers(600, 1 << 31)
AUTHORITIES = ("RSA-2048", "P-256", "P-384", "Ed25519")


def subjects(texts):
    several = st.lists(texts, max_size=3).map(tuple)
    return st.builds(
        certificatenames.Subject,
        country=several,
        province=several,
        locality=several,
        organization=several,
        organizational_unit=several,
        common_name=texts,
        serial_number=texts,
    )


def alt_names(hosts, others):
    addresses = st.lists(st.ip_addresses(), max_size=3)
    emails = st.lists(others, max_size=2)
    uris = st.lists(others.map("spiffe://a.example/{}".format), max_size=2)
    return st.builds(template.AltNames, dns=st.lists(hosts, max_size=4), email=emails, ip=addresses, uri=uris)


def request(subject, names):
    extension = template.subject_alt_name(names, critical=False)
    attributes = material.requested(extension) if names else b""
    return certificaterequest.verified(material.odd_request(template.encode_name(subject), attributes))


@pytest.mark.parametrize("kind", AUTHORITIES)
@hypothesis.settings(max_examples=100, deadline=None)
@hypothesis.given(
    subjects(TEXTS), alt_names(HOSTS, st.from_regex(r"[a-z]{1,8}", fullmatch=True)), USAGES, SECONDS, st.data()
)
def test_issued_certificates_are_valid_and_as_requested(kind, subject, names, usages, seconds, data):
    """They have no lint errors, are accepted by the path validation of another library, and have the requested
    contents.
    """
    issuer = material.new_issuer(kind)
    csr = request(subject, names)
    prepared = issuer.prepare(csr, usages, seconds, material.NOW)
    encoded = issuer.issue(prepared)
    certificate = x509.load_pem_x509_certificate(encoded)
    certificate.verify_directly_issued_by(issuer.authority.certificate)
    moment = data.draw(st.sampled_from((material.NOW, certificate.not_valid_after_utc - datetime.timedelta(seconds=1))))
    # The verifier of the library requires names, and supports neither Ed25519 nor all usages of Kubernetes.
    if "client auth" in usages and names and kind != "Ed25519" and not {"encipher only", "decipher only"} & {*usages}:
        _verifier(issuer, moment).verify(certificate, [])
    read = tbscertificate.parse(pem.first_block(encoded).data)
    assert (read.spki, read.subject) == (csr.request.spki, template.encode_name(csr.request.subject))
    assert {finding.severity for finding in prepared.findings} <= {linter.Severity.WARNING}
    assert (read.names is not None) == bool(names)
    assert datetime.timedelta(0) < certificate.not_valid_after_utc - certificate.not_valid_before_utc
    assert certificate.not_valid_after_utc <= issuer.authority.not_after


def _verifier(issuer, moment):
    """The path validation of the library, without its requirements for public web servers."""
    store = verification.Store([issuer.authority.certificate])
    policies = {
        "ca_policy": verification.ExtensionPolicy.webpki_defaults_ca(),
        "ee_policy": verification.ExtensionPolicy.permit_all(),
    }
    policy = verification.PolicyBuilder().store(store).time(moment)
    return policy.extension_policies(**policies).build_client_verifier()


@hypothesis.settings(max_examples=300, deadline=None)
@hypothesis.given(subjects(ANY_TEXTS), alt_names(ASCII, ASCII), USAGES)
def test_any_request_is_issued_or_refused_with_a_reason(subject, names, usages):
    """Any text in any field is accepted, or refused with a documented exception."""
    issuer = material.new_issuer()
    with contextlib.suppress(certificaterequest.RequestError, issue.IssueError, weakkeys.WeakKey):
        csr = request(subject, names)
        prepared = issuer.prepare(csr, usages, None, material.NOW)
        record = issuer.record(prepared, material.UID)
        assert issuer.issue(prepared)
        # Another process resumes from what was recorded.
        resumed = issuer.resume(record, material.UID, csr, usages, None, material.NOW)
        assert resumed.to_be_signed == prepared.to_be_signed


REQUEST = request(
    certificatenames.Subject(common_name="jane"), template.AltNames(ip=(ipaddress.ip_address("10.0.0.1"),))
)
RECORD = material.new_issuer().prepare(REQUEST, ("client auth",), 3600, material.NOW)


@hypothesis.settings(max_examples=150, deadline=None)
@hypothesis.given(
    st.sampled_from(("change", "truncate", "append")), st.integers(0, len(RECORD.to_be_signed) - 1), st.integers(1, 255)
)
def test_a_damaged_record_changes_only_serial_number_and_validity(change, at, difference):
    """A record with a changed byte, or with bytes removed or added, is refused, or differs in the serial number or the
    validity only, even if it is authentic.
    """
    undamaged = RECORD.to_be_signed
    changed = undamaged[:at] + bytes((undamaged[at] ^ difference,)) + undamaged[at + 1 :]
    damaged = {"change": changed, "truncate": undamaged[:at], "append": undamaged + undamaged[at:]}[change]
    try:
        issuer = material.new_issuer()
        record = material.recorded(issuer, damaged)
        resumed = issuer.resume(record, material.UID, REQUEST, ("client auth",), 3600, material.NOW)
    except issue.IssueError:
        return
    actual, expected = resumed.template, RECORD.template
    assert (actual.subject, actual.spki, actual.extensions) == (expected.subject, expected.spki, expected.extensions)
    assert (actual.serial, actual.not_before, actual.not_after) != (
        expected.serial, expected.not_before, expected.not_after
    )  # fmt: skip


@hypothesis.settings(max_examples=200, deadline=None)
@hypothesis.given(st.binary(max_size=200))
def test_lint_accepts_any_bytes(data):
    """Bytes that are not a certificate cause a finding, not an exception."""
    own = material.new_authority()
    policy = linter.IssuerPolicy(own.subject, own.key_id, own.algorithm, own.not_after, material.YEAR)
    for certificate in (data, asn1.encode(0x30, data), template.assemble(data, own.algorithm, b"")):
        result = linter.run(certificate, policy)
        assert (result.certificate, [finding.rule for finding in result.findings]) == (None, ["structure"])
