"""Bundles that another API server stored, or that no server should accept."""

from __future__ import annotations

import pytest

from certplane.golang import asn1, pem
from certplane.x509 import certificatenames
from certplane.x509.tbs import template
from certplane.x509.trust import certificates, clientcertificates
from tests.unit.x509 import chains, material

DER = material.ca_certificate(material.key())
PEM = pem.encode("CERTIFICATE", DER)
FUNCTIONS = ("first_not_after", "lifetime", "parse_first")


def with_validity(since, until):
    """A certificate whose times are these GeneralizedTimes."""
    validity = asn1.encode(0x30, asn1.encode(0x18, since) + asn1.encode(0x18, until))

    def replace(fields):
        return [validity if index == 4 else field.raw for index, field in enumerate(fields)]

    to_be_signed = asn1.Reader(asn1.Reader(DER).read_any().content).read_any()
    changed = asn1.encode(0x30, b"".join(replace(asn1.Reader(to_be_signed.content))))
    return pem.encode("CERTIFICATE", template.assemble(changed, b"\x30\x00", b"x"))


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize(
    "text",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"garbage", id="no PEM"),
        pytest.param(PEM.replace(b"CERTIFICATE", b"X509 CRL"), id="another type"),
        pytest.param(pem.encode("CERTIFICATE", b""), id="an empty block"),
        pytest.param(pem.encode("CERTIFICATE", DER[:-1]), id="a truncated certificate"),
        pytest.param(pem.encode("CERTIFICATE", b"\x30\x03\x02\x01\x01"), id="another structure"),
        pytest.param(with_validity(b"20200101000000Z", b"00000101000000Z"), id="an end in the year 0"),
        pytest.param(with_validity(b"00000101000000Z", b"20200101000000Z"), id="a start in the year 0"),
        pytest.param(with_validity(b"20200230000000Z", b"20300101000000Z"), id="a day that does not exist"),
    ],
)
def test_a_certificate_that_cannot_be_read_has_no_facts(function, text):
    """None, and no exception: one object must not stop the controllers that read all of them."""
    assert getattr(certificates, function)(text) is None


def test_the_lifetime_of_a_certificate():
    """That of the first of a bundle."""
    assert certificates.lifetime(PEM) == 10 * material.YEAR


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "must contain at least one CERTIFICATE PEM block"),
        (b"garbage", "must contain at least one CERTIFICATE PEM block"),
        (PEM + pem.encode("X509 CRL", b"x"), 'only CERTIFICATE PEM blocks are allowed, found "X509 CRL"'),
        (
            PEM.replace(b"CERTIFICATE-----\n", b"CERTIFICATE-----\na: b\n\n", 1),
            "no PEM block headers are permitted",
        ),
        (pem.encode("CERTIFICATE", b""), "found CERTIFICATE PEM block containing 0 certificates"),
        (PEM + pem.encode("CERTIFICATE", DER[:-1]), "x509: malformed certificate"),
    ],
)
def test_a_bundle_holds_certificates_only(text, message):
    """Each block of a bundle is checked."""
    with pytest.raises(certificates.CertificateError) as caught:
        certificates.check_bundle(text)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("pool", "message"),
    [
        (b"", "data does not contain any valid RSA or ECDSA certificates"),
        (pem.encode("X509 CRL", b"x"), "data does not contain any valid RSA or ECDSA certificates"),
        (pem.encode("CERTIFICATE", DER + DER), "x509: trailing data"),
        (PEM + pem.encode("CERTIFICATE", DER[:-1]), "x509: malformed certificate"),
    ],
)
def test_a_pool_of_client_cas_must_be_readable(pool, message):
    """Every certificate of it: a pool from which one was left out would refuse clients without a reason."""
    with pytest.raises(certificates.CertificateError) as caught:
        clientcertificates.ClientVerifier(pool)
    assert str(caught.value) == message


def test_a_verifier_does_not_trust_what_it_cannot_parse():
    """The answer holds for ever."""
    verifier = clientcertificates.ClientVerifier(PEM)
    trusted, span = verifier.trusts(b"garbage", chains.NOW)
    assert not trusted
    assert material.NOW in span
    assert material.NOW + 1000 * material.YEAR in span


def uid(*values):
    """A DER name with a common name and these Kubernetes UIDs."""
    pairs = [("2.5.4.3", "jane"), *(("1.3.6.1.4.1.57683.2", value) for value in values)]
    return asn1.encode(
        0x30,
        b"".join(
            asn1.encode(0x31, asn1.encode(0x30, template.encode_oid(oid) + asn1.encode(0x0C, value.encode())))
            for oid, value in pairs
        ),
    )


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ((), ""),
        (("1",), ""),
        (("1", "2"), "expected 1 UID, but found multiple: [1 2]"),
        (("1", "1"), "expected 1 UID, but found multiple: [1 1]"),
        (("",), "UID cannot be an empty string"),
    ],
)
def test_the_uid_of_a_client_is_in_its_subject(values, problem):
    """At most one, and not empty: another server may use it to tell users apart."""
    private = material.key("P-256", 70)
    ca = certificatenames.Subject(common_name="odd")
    leaf = material.ca_certificate(
        private,
        issuer=template.encode_name(ca),
        subject=uid(*values),
        extensions=[template.extended_key_usage(("1.3.6.1.5.5.7.3.2",))],
    )
    pool = pem.encode("CERTIFICATE", material.ca_certificate(private))
    verifier = clientcertificates.ClientVerifier(pool)
    if problem:
        with pytest.raises(clientcertificates.VerificationError) as caught:
            verifier.verify(leaf, [], material.NOW)
        assert caught.value.refusal.text == problem
    else:
        assert verifier.verify(leaf, [], material.NOW).uid == "".join(values)
