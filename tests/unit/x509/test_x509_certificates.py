"""Certificates of clients, also those with names that no library likes."""

from __future__ import annotations

import pytest

from certplane.x509 import authority, certificates, csr, issue, pem, template
from tests.unit.x509 import material

CLIENT = ("client auth",)


def client(subject, own=None):
    """The certificate of a client with a DER name, and the pool that it is judged against."""
    own = own or material.new_authority()
    issuer = issue.Issuer(own, material.YEAR)
    text = issuer.issue(issuer.prepare(csr.parse(material.odd_request(subject)), CLIENT, None, material.NOW))
    return pem.first(text).data, pem.encode("CERTIFICATE", own.raw)


@pytest.mark.parametrize(
    "subject",
    [
        pytest.param(csr.Subject(organization=("dev",), common_name="jane"), id="ordinary"),
        pytest.param(csr.Subject(common_name="system:node:" + "x" * 253), id="a long name"),
        pytest.param(csr.Subject(country=("Deutschland",), common_name="jane"), id="a long country"),
        pytest.param(csr.Subject(organization=("dev", "dev"), common_name="jane"), id="an organization twice"),
        pytest.param(csr.Subject(organization=("",), common_name="jane"), id="an empty organization"),
        pytest.param(csr.Subject(), id="nobody"),
    ],
)
def test_a_client_is_who_the_certificate_says(subject):
    """Whatever the length of its names, and without remarks."""
    leaf, pool = client(template.name(subject))
    found = certificates.ClientVerifier(pool).verify(leaf, [], material.NOW)
    assert (found.common_name, found.organizations) == (subject.common_name, subject.organization)


def test_an_extension_that_is_there_twice_is_no_fault_of_ours():
    """The certificate is refused, as whatever else is malformed."""
    twice = [template.basic_constraints(ca=True)] * 2
    text = pem.encode("CERTIFICATE", material.ca_certificate(material.key(), extensions=twice))
    with pytest.raises(certificates.CertificateError, match="duplicate extension with OID"):
        certificates.check_bundle(text)


def test_of_a_block_with_several_certificates_the_first_one_counts():
    """Its end is when the cleaner takes the request away."""
    data = material.ca_certificate(material.key())
    text = pem.encode("CERTIFICATE", data + data)
    certificates.check_bundle(text)
    assert certificates.first_not_after(text) == material.NOW + 10 * material.YEAR


def test_an_authority_with_long_names_is_followed():
    """Its name is compared as it stands."""
    name = template.name(csr.Subject(organization=("x" * 100,), common_name="y" * 100))
    private = material.key()
    own = authority.Authority(material.ca_certificate(private, issuer=name, subject=name), private)
    leaf, pool = client(template.name(csr.Subject(common_name="jane")), own)
    assert certificates.ClientVerifier(pool).verify(leaf, [], material.NOW).common_name == "jane"
    assert certificates.names(own.certificate) == (name, name)
