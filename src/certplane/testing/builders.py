"""Keys, PKCS#10 and CertificateSigningRequest objects for tests."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from certplane import signernames
from certplane.resources.certificatesigningrequests import CertificateSigningRequest, CertificateSigningRequestSpec

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey

#: The signer of client certificates, which most tests want.
CLIENT_SIGNER = signernames.KUBE_APISERVER_CLIENT


def new_key() -> ec.EllipticCurvePrivateKey:
    """A private key on P-256, the fastest to make."""
    return ec.generate_private_key(ec.SECP256R1())


def new_pkcs10(
    common_name: str = "jane",
    organizations: Sequence[str] = (),
    *,
    dns: Sequence[str] = (),
    addresses: Sequence[str] = (),
    key: PrivateKey | None = None,
) -> bytes:
    """A PKCS#10 in PEM, signed by its key; without one, by a new key that is discarded."""
    attributes = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization) for organization in organizations]
    subject = x509.Name([*attributes, x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    names: list[x509.GeneralName] = [
        *(x509.DNSName(name) for name in dns),
        *(x509.IPAddress(ipaddress.ip_address(address)) for address in addresses),
    ]
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(key or new_key(), hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def new_csr(
    name: str = "jane",
    signer_name: str = CLIENT_SIGNER,
    usages: Sequence[str] = ("client auth",),
    request: bytes | None = None,
    **spec: Any,
) -> CertificateSigningRequest:
    """A CertificateSigningRequest that can be created; `request` is a PKCS#10 in PEM, by default that of `new_pkcs10`.
    `spec` has further fields of CertificateSigningRequestSpec, such as `expiration_seconds`.
    """
    csr = CertificateSigningRequest(
        spec=CertificateSigningRequestSpec(
            request=request or new_pkcs10(), signer_name=signer_name, usages=list(usages), **spec
        )
    )
    csr.metadata.name = name
    return csr
