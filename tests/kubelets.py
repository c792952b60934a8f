"""What kubelets send, and what those send who would like to be one."""

from __future__ import annotations

import ipaddress

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import NameOID

from certplane.controllers import proofs
from certplane.resources import certificatesigningrequests as csrs
from certplane.resources import nodes
from certplane.x509 import profiles

KEY = ec.generate_private_key(ec.SECP256R1())
USAGES = ("digital signature", "server auth")


def pkcs10(common_name="system:node:n1", dns=("n1",), ips=("10.0.0.1",), organizations=("system:nodes",), **also):
    """A request in PEM. `names` are further general names, `extensions` further extensions, `attributes` further parts
    of the subject, `key` another key.
    """
    parts = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, each) for each in organizations]
    parts += [x509.NameAttribute(NameOID.COMMON_NAME, common_name), *also.get("attributes", ())]
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(parts))
    names = [*map(x509.DNSName, dns), *(x509.IPAddress(ipaddress.ip_address(each)) for each in ips)]
    names += also.get("names", ())
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    for each in also.get("extensions", ()):
        builder = builder.add_extension(each, critical=False)
    key = also.get("key", KEY)
    made = builder.sign(key, None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256())
    return made.public_bytes(serialization.Encoding.PEM)


def spec(request, username="system:node:n1", groups=("system:nodes", "system:authenticated"), usages=USAGES, **also):
    """What a server makes of a request that somebody sends."""
    return csrs.CertificateSigningRequestSpec(
        request=request,
        signer_name=profiles.KUBELET_SERVING,
        username=username,
        groups=list(groups),
        usages=list(usages),
        **also,
    )


def node(name="n1", *addresses):
    """A Node; `addresses` are pairs of type and address, by default those of `pkcs10`."""
    made = nodes.Node()
    made.metadata.name = name
    given = addresses or (("Hostname", "n1"), ("InternalIP", "10.0.0.1"))
    made.status.addresses = [nodes.NodeAddress(type=type_, address=address) for type_, address in given]
    return made


class Table:
    """DNS as a table: names and addresses, by what is asked; what is an error is raised."""

    def __init__(self, answers=None):
        self.answers = answers or {}
        self.asked = []

    async def addresses(self, name):
        return [proofs.address(each) for each in self._look_up(name)]

    async def names(self, address):
        return self._look_up(str(address))

    def _look_up(self, question):
        self.asked.append(question)
        found = self.answers.get(question, ())
        if isinstance(found, Exception):
            raise found
        return found
