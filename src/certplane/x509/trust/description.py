"""What a certificate says, as texts for people and for searches.

The certificate may come from anybody: nothing is verified, and what cannot be read is left empty.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import hashlib
import warnings
from collections.abc import Sequence
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from certplane import boundedcache
from certplane.golang import pem
from certplane.x509.trust import certificates

# Of names that exceed the lengths of X.520. For all threads: to change the filter for one call would change it for all.
warnings.filterwarnings("ignore", "Attribute's length must be", UserWarning)

#: Memory for descriptions: what publishes a certificate asks for one several times.
_CACHE_BYTES: Final = 16 * 1024 * 1024
#: Names in a description, at most: a certificate may have tens of thousands.
MAX_NAMES: Final = 1000


@dataclasses.dataclass(frozen=True, slots=True)
class Description:
    """Facts about a certificate. `serial`, `sha256` and `authority_key_id` are in lower-case hexadecimal digits,
    `issuer` and `subject` as in RFC 4514, `key` is a kind and a size. `names` are cut at MAX_NAMES.
    """

    sha256: str
    serial: str = ""
    issuer: str = ""
    subject: str = ""
    common_name: str = ""
    organizations: Sequence[str] = ()
    dns_names: Sequence[str] = ()
    ip_addresses: Sequence[str] = ()
    email_addresses: Sequence[str] = ()
    uris: Sequence[str] = ()
    key: str = ""
    authority_key_id: str = ""
    not_before: datetime.datetime | None = None
    not_after: datetime.datetime | None = None


@boundedcache.memoize(_CACHE_BYTES)
def describe(text: bytes) -> Description:
    """The description of the first certificate in PEM. If it cannot be parsed, there is only a digest: that of the
    first block, or else of the text.
    """
    certificate = certificates.parse_first(text)
    if certificate is None:
        block = pem.first_block(text)
        return Description(hashlib.sha256(block.data if block is not None else text).hexdigest())
    names = _Names(certificate)
    digest = hashlib.sha256(certificate.public_bytes(serialization.Encoding.DER)).hexdigest()
    return Description(
        sha256=digest,
        serial=f"{certificate.serial_number:x}",
        issuer=names.issuer,
        subject=names.subject,
        common_name=names.common_name,
        organizations=names.organizations,
        dns_names=names.dns,
        ip_addresses=names.ip,
        email_addresses=names.email,
        uris=names.uri,
        key=_key(certificate),
        authority_key_id=names.authority_key_id,
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
    )


class _Names:
    """The names in a certificate. Each part that cannot be read stays empty."""

    def __init__(self, certificate: x509.Certificate) -> None:
        self.issuer = self.subject = self.common_name = self.authority_key_id = ""
        self.organizations: Sequence[str] = ()
        self.dns: Sequence[str] = ()
        self.ip: Sequence[str] = ()
        self.email: Sequence[str] = ()
        self.uri: Sequence[str] = ()
        with contextlib.suppress(*certificates.PARSE_ERRORS):
            self.issuer = certificate.issuer.rfc4514_string()
        with contextlib.suppress(*certificates.PARSE_ERRORS):
            self._read_subject(certificate.subject)
        with contextlib.suppress(*certificates.PARSE_ERRORS):
            self._read_extensions(certificate.extensions)

    def _read_subject(self, subject: x509.Name) -> None:
        self.subject = subject.rfc4514_string()
        attributes = list(subject)
        common_names = [str(attribute.value) for attribute in attributes if attribute.oid == NameOID.COMMON_NAME]
        # As in Go and so in Kubernetes, the last one counts.
        self.common_name = common_names[-1] if common_names else ""
        organizations = [str(attribute.value) for attribute in attributes if attribute.oid == NameOID.ORGANIZATION_NAME]
        self.organizations = organizations[:MAX_NAMES]

    def _read_extensions(self, extensions: x509.Extensions) -> None:
        for extension in extensions:
            value = extension.value
            if isinstance(value, x509.AuthorityKeyIdentifier):
                self.authority_key_id = (value.key_identifier or b"").hex()
            elif isinstance(value, x509.SubjectAlternativeName):
                self.dns = value.get_values_for_type(x509.DNSName)[:MAX_NAMES]
                self.ip = [str(ip) for ip in value.get_values_for_type(x509.IPAddress)[:MAX_NAMES]]
                self.email = value.get_values_for_type(x509.RFC822Name)[:MAX_NAMES]
                self.uri = value.get_values_for_type(x509.UniformResourceIdentifier)[:MAX_NAMES]


def _key(certificate: x509.Certificate) -> str:
    try:
        key = certificate.public_key()
    except certificates.PARSE_ERRORS:
        return ""
    if isinstance(key, rsa.RSAPublicKey):
        return f"RSA {key.key_size}"
    if isinstance(key, ec.EllipticCurvePublicKey):
        return f"ECDSA {_CURVES.get(key.curve.name, key.curve.name)}"
    return _KINDS.get(type(key).__name__, "")


#: The names of NIST for curves, which people know.
_CURVES: Final = {"secp224r1": "P-224", "secp256r1": "P-256", "secp384r1": "P-384", "secp521r1": "P-521"}
_KINDS: Final = {"Ed25519PublicKey": "Ed25519", "Ed448PublicKey": "Ed448", "DSAPublicKey": "DSA"}
