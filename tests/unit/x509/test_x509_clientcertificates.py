"""Client certificates, including those with unusual names."""

from __future__ import annotations

import pytest

from certplane.golang import pem
from certplane.x509 import certificatenames
from certplane.x509.issuance import authority, issue
from certplane.x509.pkcs10 import certificaterequest
from certplane.x509.tbs import template
from certplane.x509.trust import certificates, clientcertificates
from tests.unit.x509 import material

CLIENT = ("client auth",)


def client(subject, ca=None):
    """The certificate of a client with this DER name, in DER, and the pool with its CA, in PEM."""
    ca = ca or material.new_authority()
    issuer = issue.Issuer(ca, material.YEAR)
    text = issuer.issue(
        issuer.prepare(certificaterequest.verified(material.odd_request(subject)), CLIENT, None, material.NOW)
    )
    return pem.first_block(text).data, pem.encode("CERTIFICATE", ca.raw)


@pytest.mark.parametrize(
    "subject",
    [
        pytest.param(certificatenames.Subject(organization=("dev",), common_name="jane"), id="ordinary"),
        pytest.param(certificatenames.Subject(common_name="system:node:" + "x" * 253), id="a long name"),
        pytest.param(certificatenames.Subject(country=("Deutschland",), common_name="jane"), id="a long country"),
        pytest.param(
            certificatenames.Subject(organization=("dev", "dev"), common_name="jane"), id="an organization twice"
        ),
        pytest.param(certificatenames.Subject(organization=("",), common_name="jane"), id="an empty organization"),
        pytest.param(certificatenames.Subject(), id="empty"),
    ],
)
def test_a_verified_client_has_the_names_of_the_subject(subject):
    """Names of any length, without a warning of the library."""
    leaf, pool = client(template.encode_name(subject))
    verified = clientcertificates.ClientVerifier(pool).verify(leaf, [], material.NOW)
    assert (verified.common_name, verified.organizations) == (subject.common_name, subject.organization)


def test_a_ca_with_long_names_is_accepted():
    """Names are compared by their bytes."""
    name = template.encode_name(certificatenames.Subject(organization=("x" * 100,), common_name="y" * 100))
    private = material.key()
    ca = authority.Authority(material.ca_certificate(private, issuer=name, subject=name), private)
    leaf, pool = client(template.encode_name(certificatenames.Subject(common_name="jane")), ca)
    assert clientcertificates.ClientVerifier(pool).verify(leaf, [], material.NOW).common_name == "jane"
    assert certificates.issuer_and_subject(ca.certificate) == (name, name)
