"""What an issued certificate says: its validity to the second, and its extensions."""

from __future__ import annotations

import dataclasses
import datetime

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from certplane.x509 import certificatenames
from certplane.x509.issuance import authority, issue
from certplane.x509.lint import linter
from certplane.x509.pkcs10 import certificaterequest
from certplane.x509.tbs import signing, template
from tests.unit.x509 import material

NOW, YEAR = material.NOW, material.YEAR
CLIENT = ("digital signature", "client auth")


def time(**offset):
    return datetime.timedelta(**offset)


def issued(issuer, request=None, usages=CLIENT, seconds=None, now=NOW):
    prepared = issuer.prepare(request or material.request(), usages, seconds, now)
    return x509.load_pem_x509_certificate(issuer.issue(prepared))


def authority_with(**changes):
    """An authority whose certificate differs from the usual one in some fields of its template."""
    private = material.key("P-256", 50)
    return authority.Authority(material.ca_certificate(private, **changes), private)


# --- validity -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "lifetime"),
    [
        (600, time(seconds=600)),
        (8 * 3600 - 1, time(seconds=8 * 3600 - 1)),
        (8 * 3600, time(seconds=8 * 3600 - 300)),
        (8 * 3600 + 1, time(seconds=8 * 3600 - 299)),
        (365 * 86400, time(days=365, minutes=-5)),
        (365 * 86400 + 1, time(days=365, minutes=-5)),
        (None, time(days=365, minutes=-5)),
    ],
)
def test_the_end_of_validity(seconds, lifetime):
    """As kube-controller-manager counts: below eight hours from now, otherwise from the back-dated start."""
    certificate = issued(material.new_issuer(), seconds=seconds)
    assert certificate.not_valid_before_utc == NOW - time(minutes=5)
    assert certificate.not_valid_after_utc == NOW + lifetime


@pytest.mark.parametrize("microseconds", [1, 999_999])
def test_the_time_of_a_certificate_has_no_fraction_of_a_second(microseconds):
    """A certificate cannot hold one; it is cut off, so that the recorded validity is the issued one."""
    issuer = material.new_issuer()
    now = NOW + time(microseconds=microseconds)
    certificate = issued(issuer, seconds=3600, now=now)
    assert (certificate.not_valid_before_utc, certificate.not_valid_after_utc) == (
        NOW - time(minutes=5),
        NOW + time(hours=1),
    )
    prepared = issuer.prepare(material.request(), CLIENT, 3600, now)
    resumed = issuer.resume(issuer.record(prepared, material.UID), material.UID, material.request(), CLIENT, 3600, now)
    assert resumed.to_be_signed == prepared.to_be_signed


@pytest.mark.parametrize("left", [time(seconds=1), time(minutes=30), time(hours=1)])
def test_no_certificate_outlives_its_authority(left):
    """It ends with the CA, whatever was requested."""
    ca = authority_with(not_after=NOW + left)
    for seconds in (None, 3600, 86400):
        assert issued(issue.Issuer(ca, YEAR), seconds=seconds).not_valid_after_utc == NOW + left


def test_a_record_of_a_shortened_certificate_is_resumed():
    """The end of the CA shortened it, not the request."""
    issuer = issue.Issuer(authority_with(not_after=NOW + time(minutes=30)), YEAR)
    prepared = issuer.prepare(material.request(), CLIENT, 3600, NOW)
    record, later = issuer.record(prepared, material.UID), NOW + time(minutes=10)
    resumed = issuer.resume(record, material.UID, material.request(), CLIENT, 3600, later)
    assert resumed.to_be_signed == prepared.to_be_signed


def test_the_linter_limits_the_lifetime_to_that_of_the_signer():
    """With back-dating, and ten minutes at least. The limit is exact: a longer lifetime is a fault of ours."""
    for maximum, limit in ((time(minutes=5), time(minutes=15)), (time(hours=1), time(hours=1, minutes=5))):
        issuer = issue.Issuer(material.new_authority(), maximum)
        own = material.new_authority()
        prepared = issuer.prepare(material.request(), CLIENT, 600, NOW)
        for lifetime, rules in ((limit, []), (limit + time(seconds=1), ["lifetime"])):
            longer = dataclasses.replace(prepared.template, not_after=prepared.template.not_before + lifetime)
            to_be_signed = longer.to_be_signed()
            encoded = template.assemble(to_be_signed, own.algorithm, own.sign(to_be_signed))
            findings = material.own(linter.run(encoded, issuer._policy).findings)
            assert [finding.rule for finding in findings] == rules


# --- extensions ---------------------------------------------------------------------------------------------------


def extension(certificate, type_):
    return certificate.extensions.get_extension_for_class(type_)


@pytest.mark.parametrize(("common_name", "critical"), [("", True), ("jane", False)])
def test_alternative_names_are_critical_without_a_subject(common_name, critical):
    """RFC 5280 section 4.2.1.6: then they are the only name."""
    request = material.request(common_name=common_name, dns=["a.example"], addresses=["10.0.0.1"])
    names = extension(issued(material.new_issuer(), request), x509.SubjectAlternativeName)
    assert names.critical is critical
    assert names.value.get_values_for_type(x509.DNSName) == ["a.example"]


def test_no_alternative_names_were_requested():
    """The certificate has no such extension, rather than an empty one."""
    types = {type(item.value) for item in issued(material.new_issuer()).extensions}
    assert types == {x509.KeyUsage, x509.ExtendedKeyUsage, x509.BasicConstraints, x509.AuthorityKeyIdentifier}


@pytest.mark.parametrize("has_key_id", [True, False])
def test_the_authority_key_identifier_is_that_of_the_ca(has_key_id):
    """A CA without a subject key identifier is not referred to by one."""
    extensions = [template.key_usage(("key_cert_sign",)), template.basic_constraints(ca=True)]
    extensions += [template.subject_key_id(b"\x01\x02\x03")] if has_key_id else []
    certificate = issued(issue.Issuer(authority_with(extensions=extensions), YEAR))
    identifiers = [
        item.value.key_identifier
        for item in certificate.extensions
        if isinstance(item.value, x509.AuthorityKeyIdentifier)
    ]
    assert identifiers == ([b"\x01\x02\x03"] if has_key_id else [])


def test_extended_key_usages_have_a_fixed_order_without_duplicates():
    """The order of kube-controller-manager's table; two usages of the API share an OID."""
    usages = ("client auth", "s/mime", "email protection", "any", "server auth")
    certificate = issued(material.new_issuer(), usages=usages)
    assert list(extension(certificate, x509.ExtendedKeyUsage).value) == [
        ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE,
        ExtendedKeyUsageOID.SERVER_AUTH,
        ExtendedKeyUsageOID.CLIENT_AUTH,
        ExtendedKeyUsageOID.EMAIL_PROTECTION,
    ]


def ca_request():
    subject = template.encode_name(certificatenames.Subject(common_name="intermediate"))
    attributes = material.requested(template.basic_constraints(ca=True, path_length=5))
    return certificaterequest.verified(material.odd_request(subject, attributes))


@pytest.mark.parametrize(
    ("issues_ca", "request_", "is_ca"),
    [(True, ca_request, True), (False, ca_request, False), (True, material.request, False)],
)
def test_a_ca_certificate_is_requested_and_allowed(issues_ca, request_, is_ca):
    """Neither is enough alone. The path length is 0, whatever was requested."""
    certificate = issued(material.new_issuer(issues_ca=issues_ca), request_(), ("cert sign", "crl sign"))
    constraints = extension(certificate, x509.BasicConstraints)
    assert (constraints.critical, constraints.value.ca, constraints.value.path_length) == (
        True,
        is_ca,
        0 if is_ca else None,
    )
    has_key_id = any(isinstance(item.value, x509.SubjectKeyIdentifier) for item in certificate.extensions)
    assert has_key_id is is_ca


@pytest.mark.parametrize(("path_length", "allowed"), [(None, True), (1, True), (0, False)])
def test_the_path_length_of_the_ca_limits_ca_certificates(path_length, allowed):
    """With 0 it issues end-entity certificates only: verifiers would refuse the path."""
    ca = authority_with(
        extensions=[
            template.key_usage(("key_cert_sign",)),
            template.basic_constraints(ca=True, path_length=path_length),
        ]
    )
    issuer = issue.Issuer(ca, YEAR, issues_ca=True)
    assert not extension(issued(issuer), x509.BasicConstraints).value.ca
    if allowed:
        assert extension(issued(issuer, ca_request(), ("cert sign",)), x509.BasicConstraints).value.ca
    else:
        with pytest.raises(issue.IssueError, match="the CA may not issue CA certificates: its path length is 0"):
            issuer.prepare(ca_request(), ("cert sign",), None, NOW)


# --- the check after signing --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"serial": 1 << 100}, "the serial number"),
        ({"spki": material.public_der(material.key("P-256", 9))}, "the public key"),
        ({"not_before": NOW}, "the start of validity"),
        ({"not_after": NOW + YEAR + YEAR}, "the end of validity"),
        ({"extensions": [template.basic_constraints(ca=False)]}, "the list of extensions"),
    ],
)
def test_the_check_compares_every_field(changes, field):
    """The error names the fields that differ, and the certificate is not returned."""
    issuer = material.new_issuer()
    prepared = issuer.prepare(material.request(), CLIENT, None, NOW)
    changed = dataclasses.replace(prepared, template=dataclasses.replace(prepared.template, **changes))
    with pytest.raises(issue.CheckFailed) as caught:
        issuer.issue(changed)
    assert str(caught.value) == f"the new certificate differs from what was prepared in {field}"


def test_the_check_compares_with_the_end_of_the_authority():
    """A certificate that outlives its CA is not returned, even if it was prepared so."""
    private = material.key("P-256", 50)
    ca = authority.Authority(material.ca_certificate(private), private)
    issuer = issue.Issuer(ca, YEAR)
    prepared = issuer.prepare(material.request(), CLIENT, None, NOW)
    ca.not_after = prepared.template.not_after - time(seconds=1)
    with pytest.raises(issue.CheckFailed, match="differs from what was prepared in the end of validity"):
        issuer.issue(prepared)


def test_the_check_verifies_the_signature():
    """A signature by another key is not returned, though every byte before it is right."""

    class Other(authority.Authority):
        __slots__ = ()

        def sign(self, data):
            return signing.sign(material.key("P-256", 60), data)

    real = material.new_authority()
    issuer = issue.Issuer(Other(real.raw, material.key("P-256", 100)), YEAR)
    with pytest.raises(issue.CheckFailed, match="the new certificate does not verify: InvalidSignature"):
        issuer.issue(issuer.prepare(material.request(), CLIENT, None, NOW))


def test_a_record_of_a_ca_with_another_name_is_refused():
    """Although it has the same key, so that the key identifiers do not differ."""
    name = template.encode_name(certificatenames.Subject(common_name="renamed"))
    old, new = authority_with(), authority_with(issuer=name, subject=name)
    assert old.key_id == new.key_id
    former = issue.Issuer(old, YEAR)
    record = former.record(former.prepare(material.request(), CLIENT, None, NOW), material.UID)
    with pytest.raises(issue.IssueError) as caught:
        issue.Issuer(new, YEAR).resume(record, material.UID, material.request(), CLIENT, None, NOW)
    assert str(caught.value) == "the recorded certificate is for another authority"
