"""Whatever a request says, what is issued for it is a good certificate, or there is a reason in words."""

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

#: What people and programs write into names: any letter, no control characters.
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
def test_what_is_issued_is_good(kind, subject, names, usages, seconds, data):
    """No error of lint, verified by another library, by a path from the authority as well, and as it was asked for."""
    issuer = material.new_issuer(kind)
    wanted = request(subject, names)
    prepared = issuer.prepare(wanted, usages, seconds, material.NOW)
    encoded = issuer.issue(prepared)
    certificate = x509.load_pem_x509_certificate(encoded)
    certificate.verify_directly_issued_by(issuer.authority.certificate)
    moment = data.draw(st.sampled_from((material.NOW, certificate.not_valid_after_utc - datetime.timedelta(seconds=1))))
    # That verifier wants names, knows no Ed25519, and does not take every usage that Kubernetes issues.
    if "client auth" in usages and names and kind != "Ed25519" and not {"encipher only", "decipher only"} & {*usages}:
        _verifier(issuer, moment).verify(certificate, [])
    read = tbscertificate.parse(pem.first_block(encoded).data)
    assert (read.spki, read.subject) == (wanted.request.spki, template.encode_name(wanted.request.subject))
    assert {finding.severity for finding in prepared.findings} <= {linter.Severity.WARNING}
    assert (read.names is not None) == bool(names)
    assert datetime.timedelta(0) < certificate.not_valid_after_utc - certificate.not_valid_before_utc
    assert certificate.not_valid_after_utc <= issuer.authority.not_after


def _verifier(issuer, moment):
    """The library's own idea of a path; what it demands of public web servers is not asked."""
    store = verification.Store([issuer.authority.certificate])
    policies = {
        "ca_policy": verification.ExtensionPolicy.webpki_defaults_ca(),
        "ee_policy": verification.ExtensionPolicy.permit_all(),
    }
    policy = verification.PolicyBuilder().store(store).time(moment)
    return policy.extension_policies(**policies).build_client_verifier()


@hypothesis.settings(max_examples=300, deadline=None)
@hypothesis.given(subjects(ANY_TEXTS), alt_names(ASCII, ASCII), USAGES)
def test_what_is_not_issued_has_a_reason(subject, names, usages):
    """Any text in any place: issued, or refused with an error that says why; never another exception."""
    issuer = material.new_issuer()
    with contextlib.suppress(certificaterequest.RequestError, issue.IssueError, weakkeys.WeakKey):
        wanted = request(subject, names)
        prepared = issuer.prepare(wanted, usages, None, material.NOW)
        recorded = prepared.to_be_signed
        assert issuer.issue(prepared)
        # What was recorded is taken back by whoever comes next.
        assert issuer.resume(recorded, wanted, usages, None, material.NOW).to_be_signed == recorded


WANTED = request(
    certificatenames.Subject(common_name="jane"), template.AltNames(ip=(ipaddress.ip_address("10.0.0.1"),))
)
RECORD = material.new_issuer().prepare(WANTED, ("client auth",), 3600, material.NOW)


@hypothesis.settings(max_examples=150, deadline=None)
@hypothesis.given(
    st.sampled_from(("flip", "cut", "add")), st.integers(0, len(RECORD.to_be_signed) - 1), st.integers(1, 255)
)
def test_a_damaged_record_is_refused(change, at, difference):
    """One byte changed, bytes cut off or added: an error that says why, or another serial number or time."""
    good = RECORD.to_be_signed
    flipped = good[:at] + bytes((good[at] ^ difference,)) + good[at + 1 :]
    bad = {"flip": flipped, "cut": good[:at], "add": good + good[at:]}[change]
    try:
        resumed = material.new_issuer().resume(bad, WANTED, ("client auth",), 3600, material.NOW)
    except issue.IssueError:
        return
    found, expected = resumed.template, RECORD.template
    assert (found.subject, found.spki, found.extensions) == (expected.subject, expected.spki, expected.extensions)
    assert (found.serial, found.not_before, found.not_after) != (
        expected.serial, expected.not_before, expected.not_after
    )  # fmt: skip


@hypothesis.settings(max_examples=200, deadline=None)
@hypothesis.given(st.binary(max_size=200))
def test_lint_reads_anything(data):
    """Bytes that are no certificate are a finding, not an exception."""
    own = material.new_authority()
    policy = linter.IssuerPolicy(own.subject, own.key_id, own.algorithm, own.not_after, material.YEAR)
    for certificate in (data, asn1.encode(0x30, data), template.assemble(data, own.algorithm, b"")):
        result = linter.run(certificate, policy)
        assert (result.certificate, [finding.rule for finding in result.findings]) == (None, ["structure"])
