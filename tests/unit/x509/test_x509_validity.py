"""Validities of certificates in a text."""

from __future__ import annotations

import datetime

import pytest

from certplane import testing
from certplane.golang import pem
from certplane.x509.trust import certificates, description, validity

NOW = testing.FakeClock().now()


def test_all_certificates_of_a_bundle_have_a_validity():
    """In its order; other blocks are skipped."""
    raws = [testing.new_authority(testing.FakeClock()).raw for _ in range(2)]
    bundle = b"".join(pem.encode("CERTIFICATE", raw) for raw in raws) + pem.encode("X509 CRL", b"?")
    first, second = validity.from_pem(bundle)
    assert first != second
    assert "CN=kubernetes" == first.subject
    assert NOW - datetime.timedelta(minutes=5) == first.not_before
    assert NOW + datetime.timedelta(days=3650) == first.not_after
    assert datetime.timedelta(days=3650, minutes=5) == first.lifetime
    assert description.describe(bundle).sha256 == first.sha256
    assert description.describe(bundle).serial == first.serial


def test_a_damaged_certificate_is_an_error():
    """With the text of a Go server."""
    with pytest.raises(certificates.CertificateError, match="x509"):
        validity.from_pem(pem.encode("CERTIFICATE", b"?"))
