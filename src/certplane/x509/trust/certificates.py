"""Certificates issued elsewhere, as text: the bundle in status.certificate, and its first certificate.

`check_bundle` decides whether a text is a list of certificates at all, with the error texts of a Go server. Whether a
chain authenticates a client is decided in `clientcertificates`.
"""

from __future__ import annotations

import datetime
import warnings
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.utils import CryptographyDeprecationWarning

from certplane.golang import asn1, formatting, pem
from certplane.x509.trust import certificatesyntax

# Older versions of kubeadm made CAs with serial number 0. They are valid and cannot be changed, so the warning of the
# library would only repeat at every start.
warnings.filterwarnings("ignore", "Parsed a serial number which wasn't positive", CryptographyDeprecationWarning)

#: The label of a PEM block that holds a certificate.
PEM_LABEL = "CERTIFICATE"

#: What the library raises for a certificate that it does not accept, when the certificate, its key or its extensions
#: are read. Not all are subclasses of ValueError.
PARSE_ERRORS: Final = (
    ValueError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)

#: A parsed certificate, for callers that only pass it on.
Certificate = x509.Certificate


class CertificateError(ValueError):
    """A text that is not a list of certificates. The text is a Go server's."""


def check_bundle(text: bytes) -> None:
    """Check that a text holds PEM certificates and no other blocks. Raises CertificateError."""
    is_empty = True
    for block in pem.blocks(text):
        if block.label != PEM_LABEL:
            raise CertificateError(f"only CERTIFICATE PEM blocks are allowed, found {formatting.quote(block.label)}")
        if block.headers:
            raise CertificateError("no PEM block headers are permitted")
        if not _count(block.data):
            raise CertificateError("found CERTIFICATE PEM block containing 0 certificates")
        is_empty = False
    if is_empty:
        raise CertificateError("must contain at least one CERTIFICATE PEM block")


def _count(data: bytes) -> int:
    """The number of certificates in a block; it may hold several, one after the other. Raises CertificateError."""
    try:
        return certificatesyntax.check(data)
    except certificatesyntax.CertificateSyntaxError as error:
        raise CertificateError(str(error)) from error


def parse(raw: bytes) -> x509.Certificate:
    """A certificate in DER whose key and extensions can be read. Raises CertificateError, also for a few certificates
    that Go accepts, such as those with an x400Address among their names.
    """
    certificate = parse_without_extensions(raw)
    try:
        certificate.extensions  # noqa: B018 - parses them
    except PARSE_ERRORS as error:
        raise CertificateError("x509: malformed certificate") from error
    return certificate


def parse_without_extensions(raw: bytes) -> x509.Certificate:
    """A certificate in DER whose key can be read. To read the extensions may fail with one of PARSE_ERRORS. Raises
    CertificateError.
    """
    _count(raw)
    try:
        certificate = x509.load_der_x509_certificate(raw)
        certificate.public_key()
    except PARSE_ERRORS as error:
        raise CertificateError("x509: malformed certificate") from error
    return certificate


def first_not_after(text: bytes) -> datetime.datetime | None:
    """The notAfter of the first certificate of a bundle; None if it cannot be parsed."""
    certificate = parse_first(text)
    return certificate.not_valid_after_utc if certificate is not None else None


def parse_first(text: bytes) -> x509.Certificate | None:
    """The first certificate of a bundle; None if it cannot be parsed."""
    block = pem.first_block(text)
    if block is None or block.label != PEM_LABEL:
        return None
    try:
        # A block may hold several certificates, one after the other.
        certificate = x509.load_der_x509_certificate(asn1.Reader(block.data).read_any().raw)
        # The library converts times when they are read, and fails for the year 0, which Go accepts.
        certificate.not_valid_before_utc, certificate.not_valid_after_utc  # noqa: B018 - converts them
    except PARSE_ERRORS:
        return None
    return certificate


def lifetime(text: bytes) -> datetime.timedelta | None:
    """How long the first certificate of a bundle is valid; None if it cannot be parsed."""
    certificate = parse_first(text)
    return certificate.not_valid_after_utc - certificate.not_valid_before_utc if certificate is not None else None


def issuer_and_subject(certificate: x509.Certificate) -> tuple[bytes, bytes]:
    """Issuer and subject in DER, as encoded in the certificate: path validation compares the bytes of names. The
    library's names are not used because it warns about names that exceed the lengths of X.520.
    """
    fields = list(asn1.Reader(asn1.Reader(certificate.tbs_certificate_bytes).read_any().content))
    first = 1 if (fields[0].class_, fields[0].tag) == (asn1.CLASS_CONTEXT, 0) else 0
    return fields[first + 2].raw, fields[first + 4].raw


def public_key_der(certificate: x509.Certificate) -> bytes:
    """The SubjectPublicKeyInfo of a certificate, in DER."""
    return certificate.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def extended_key_usages(raw: bytes) -> tuple[str, ...]:
    """The OIDs of the extended key usages of a certificate in DER, in order; empty without the extension. Raises
    CertificateError.
    """
    try:
        usages = parse(raw).extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return ()
    return tuple(usage.dotted_string for usage in usages)


def is_ca(certificate: x509.Certificate) -> bool:
    """Whether a certificate may sign others: its basic constraints have the CA bit, and its key usage, if it has one,
    has keyCertSign.
    """
    try:
        if not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca:
            return False
    except x509.ExtensionNotFound:
        return False
    try:
        return certificate.extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign
    except x509.ExtensionNotFound:
        return True
