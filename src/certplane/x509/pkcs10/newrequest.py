"""Create a PKCS#10 request: subject and subject alternative names, encoded as Go's crypto/x509 encodes them.

A request of Kubernetes names no usages: they are a field of the CertificateSigningRequest. RFC 2986.
"""

from __future__ import annotations

from certplane.golang import asn1, dertags, pem
from certplane.x509 import keys, oids
from certplane.x509.certificatenames import Subject
from certplane.x509.tbs import signing, template
from certplane.x509.tbs.template import AltNames

PEM_LABEL = "CERTIFICATE REQUEST"
_VERSION = asn1.encode(dertags.INTEGER, b"\0")


def create(key: keys.PrivateKey, subject: Subject, names: AltNames | None = None) -> bytes:
    """A request for the public key of `key`, signed with it, in PEM. Raises InvalidKeyError for a curve that Go does
    not support, and UnicodeEncodeError for DNS names, email addresses and URIs that are not ASCII.
    """
    # First, because it refuses a curve.
    algorithm = signing.algorithm_identifier(key)
    attributes = _extension_request(template.subject_alt_name(names, critical=False)) if names else b""
    information = asn1.encode(
        dertags.SEQUENCE,
        _VERSION
        + template.encode_name(subject)
        + keys.spki(key)
        + asn1.encode(dertags.context_constructed(0), attributes),
    )
    return pem.encode(PEM_LABEL, template.assemble(information, algorithm, signing.sign(key, information)))


def _extension_request(extension: template.Extension) -> bytes:
    """The attribute that holds extensions: RFC 2985 section 5.4.2."""
    extensions = asn1.encode(dertags.SEQUENCE, template.encode_extension(extension))
    return asn1.encode(
        dertags.SEQUENCE, template.encode_oid(oids.EXTENSION_REQUEST) + asn1.encode(dertags.SET, extensions)
    )
