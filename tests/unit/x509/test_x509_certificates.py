"""Bundles of certificates in status.certificate."""

from __future__ import annotations

import pytest

from certplane.golang import pem
from certplane.x509.tbs import template
from certplane.x509.trust import certificates
from tests.unit.x509 import material


def test_duplicate_extensions_are_refused():
    """The exception of the library is not raised."""
    extensions = [template.basic_constraints(ca=True)] * 2
    text = pem.encode("CERTIFICATE", material.ca_certificate(material.key(), extensions=extensions))
    with pytest.raises(certificates.CertificateError, match="duplicate extension with OID"):
        certificates.check_bundle(text)


@pytest.mark.parametrize("name", material.RARE_NAMES)
def test_rare_kinds_of_names_are_accepted_in_a_bundle(name):
    """As in Go. A certificate whose extensions are needed is refused, with an exception of ours."""
    data = material.ca_with_rare_names(material.key(), name)
    text = pem.encode("CERTIFICATE", data)
    certificates.check_bundle(text)
    assert certificates.first_not_after(text) == material.NOW + 10 * material.YEAR
    assert certificates.parse_without_extensions(data).serial_number == 1
    with pytest.raises(certificates.CertificateError, match="malformed certificate"):
        certificates.parse(data)


def test_the_first_certificate_of_a_block_counts():
    """The cleaner uses its notAfter."""
    data = material.ca_certificate(material.key())
    text = pem.encode("CERTIFICATE", data + data)
    certificates.check_bundle(text)
    assert certificates.first_not_after(text) == material.NOW + 10 * material.YEAR
