"""Builders for the requests and Nodes of kubelets, and a DNS resolver for tests."""

from __future__ import annotations

import ipaddress

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import NameOID

from certplane import signernames
from certplane.controllers.approving.kubeletserving import evidence
from certplane.resources import certificatesigningrequests as csrs
from certplane.resources import nodes

KEY = ec.generate_private_key(ec.SECP256R1())
USAGES = ("digital signature", "server auth")


def pkcs10(common_name="system:node:n1", dns=("n1",), ips=("10.0.0.1",), organizations=("system:nodes",), **also):
    """A PEM request. `names` are additional general names, `extensions` additional extensions, `attributes` additional
    attributes of the subject; `key` replaces the default key.
    """
    attributes = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization) for organization in organizations]
    attributes += [x509.NameAttribute(NameOID.COMMON_NAME, common_name), *also.get("attributes", ())]
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(attributes))
    names = [*map(x509.DNSName, dns), *(x509.IPAddress(ipaddress.ip_address(ip)) for ip in ips)]
    names += also.get("names", ())
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    for extension in also.get("extensions", ()):
        builder = builder.add_extension(extension, critical=False)
    key = also.get("key", KEY)
    request = builder.sign(key, None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM)


def spec(request, username="system:node:n1", groups=("system:nodes", "system:authenticated"), usages=USAGES, **also):
    """The spec of a CertificateSigningRequest as the server stores it."""
    return csrs.CertificateSigningRequestSpec(
        request=request,
        signer_name=signernames.KUBELET_SERVING,
        username=username,
        groups=list(groups),
        usages=list(usages),
        **also,
    )


def node(name="n1", *addresses):
    """A Node; `addresses` are pairs of type and address, by default those of `pkcs10`."""
    built = nodes.Node()
    built.metadata.name = name
    pairs = addresses or (("Hostname", "n1"), ("InternalIP", "10.0.0.1"))
    built.status.addresses = [nodes.NodeAddress(type=type_, address=address) for type_, address in pairs]
    return built


class TableResolver:
    """A DNS resolver with a table of records by name or address; exceptions in the table are raised."""

    def __init__(self, records=None):
        self.records = records or {}
        self.lookups = []

    async def addresses(self, name):
        return [evidence.parse_address(record) for record in self._look_up(name)]

    async def names(self, address):
        return self._look_up(str(address))

    def _look_up(self, key):
        self.lookups.append(key)
        records = self.records.get(key, ())
        if isinstance(records, Exception):
            raise records
        return records
