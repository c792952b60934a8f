"""A directory as `kubeadm init` leaves it: three CAs, seven certificates and five kubeconfigs, with kubeadm's contents.

The certificates are made with `cryptography` and not with certplane, from the tables of kubeadm (kubernetes,
`cmd/kubeadm/app/phases/certs/certlist.go` and `.../util/pkiutil`).
"""

from __future__ import annotations

import base64
import dataclasses
import datetime
import ipaddress
import pathlib

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

YEAR = datetime.timedelta(days=365)
BACKDATE = datetime.timedelta(minutes=5)
NODE = "node-a"
SERVER, CLIENT = ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH
_SERVICE = ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"]
_API_NAMES = ([*_SERVICE, NODE], ["10.96.0.1", "10.1.2.3"])
_ETCD_NAMES = (["localhost", NODE], ["10.1.2.3", "127.0.0.1", "::1"])
NO_NAMES = ([], [])

CAS = {"ca": "kubernetes", "etcd/ca": "etcd-ca", "front-proxy-ca": "front-proxy-ca"}
#: CA, common name, usages, and names by base name.
LEAFS = {
    "apiserver": ("ca", "kube-apiserver", [SERVER], _API_NAMES),
    "apiserver-kubelet-client": ("ca", "kube-apiserver-kubelet-client", [CLIENT], NO_NAMES),
    "front-proxy-client": ("front-proxy-ca", "front-proxy-client", [CLIENT], NO_NAMES),
    "etcd/server": ("etcd/ca", NODE, [SERVER, CLIENT], _ETCD_NAMES),
    "etcd/peer": ("etcd/ca", NODE, [SERVER, CLIENT], _ETCD_NAMES),
    "etcd/healthcheck-client": ("etcd/ca", "kube-etcd-healthcheck-client", [CLIENT], NO_NAMES),
    "apiserver-etcd-client": ("etcd/ca", "kube-apiserver-etcd-client", [CLIENT], NO_NAMES),
}
#: User and organizations by file.
KUBECONFIGS = {
    "admin.conf": ("kubernetes-admin", ["kubeadm:cluster-admins"]),
    "super-admin.conf": ("kubernetes-super-admin", ["system:masters"]),
    "kubelet.conf": (f"system:node:{NODE}", ["system:nodes"]),
    "controller-manager.conf": ("system:kube-controller-manager", []),
    "scheduler.conf": ("system:kube-scheduler", []),
}


@dataclasses.dataclass(frozen=True)
class Issued:
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


def new_key(kind="P-256"):
    return ec.generate_private_key(ec.SECP256R1()) if kind == "P-256" else rsa.generate_private_key(65537, 2048)


def _builder(common_name, organizations, issuer, validity):
    attributes = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, name) for name in organizations]
    subject = x509.Name([*attributes, x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer or subject)
        .serial_number(x509.random_serial_number() >> 100)
        .not_valid_before(validity[0])
        .not_valid_after(validity[1])
    )


def _usage(*, is_ca):
    return x509.KeyUsage(True, False, True, False, False, is_ca, False, False, False)


def new_ca(common_name, now, lifetime=10 * YEAR, key=None):
    key = key or new_key()
    builder = _builder(common_name, [], None, (now - BACKDATE, now + lifetime)).public_key(key.public_key())
    for extension, is_critical in (
        (_usage(is_ca=True), True),
        (x509.BasicConstraints(True, None), True),
        (x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False),
        (x509.SubjectAlternativeName([x509.DNSName(common_name)]), False),
    ):
        builder = builder.add_extension(extension, is_critical)
    return Issued(builder.sign(key, hashes.SHA256()), key)


def new_leaf(subject, usages, names, ca, validity):
    """`subject` is a common name and organizations; `names` are DNS names and addresses."""
    key = new_key()
    builder = _builder(*subject, ca.certificate.subject, validity).public_key(key.public_key())
    identifier = ca.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    for extension, is_critical in (
        (_usage(is_ca=False), True),
        (x509.ExtendedKeyUsage(usages), False),
        (x509.BasicConstraints(False, None), True),
        (x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), False),
    ):
        builder = builder.add_extension(extension, is_critical)
    dns, addresses = names
    general_names = [*map(x509.DNSName, dns), *(x509.IPAddress(ipaddress.ip_address(text)) for text in addresses)]
    if general_names:
        builder = builder.add_extension(x509.SubjectAlternativeName(general_names), False)
    return Issued(builder.sign(ca.key, hashes.SHA256()), key)


def pem(certificate):
    return certificate.public_bytes(serialization.Encoding.PEM)


def key_pem(key):
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )


def write(path, content, mode=0o600):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    path.chmod(mode)


def write_pair(directory, base_name, issued):
    write(directory / f"{base_name}.crt", pem(issued.certificate), 0o644)
    write(directory / f"{base_name}.key", key_pem(issued.key))


def kubeconfig(user, issued, ca):
    data = {name: base64.b64encode(text).decode() for name, text in (
        ("ca", pem(ca.certificate)), ("certificate", pem(issued.certificate)), ("key", key_pem(issued.key))
    )}  # fmt: skip
    context = f"{user}@kubernetes"
    document = {
        "apiVersion": "v1",
        "clusters": [
            {
                "cluster": {"certificate-authority-data": data["ca"], "server": "https://10.1.2.3:6443"},
                "name": "kubernetes",
            }
        ],
        "contexts": [{"context": {"cluster": "kubernetes", "user": user}, "name": context}],
        "current-context": context,
        "kind": "Config",
        "users": [
            {
                "name": user,
                "user": {"client-certificate-data": data["certificate"], "client-key-data": data["key"]},
            }
        ],
    }
    return yaml.safe_dump(document).encode()


@dataclasses.dataclass(frozen=True)
class Directory:
    """What has been made: /etc/kubernetes and the CAs by base name."""

    root: pathlib.Path
    cas: dict[str, Issued]

    @property
    def pki(self):
        return self.root / "pki"


def create(root, now, *, lifetime=YEAR, ca_lifetime=10 * YEAR):
    """All files of a control plane that was set up at `now`."""
    pki = root / "pki"
    cas = {base_name: new_ca(common_name, now, ca_lifetime) for base_name, common_name in CAS.items()}
    for base_name, ca in cas.items():
        write_pair(pki, base_name, ca)
    validity = (now - BACKDATE, now + lifetime)
    for base_name, (ca, common_name, usages, names) in LEAFS.items():
        write_pair(pki, base_name, new_leaf((common_name, []), usages, names, cas[ca], validity))
    for file, subject in KUBECONFIGS.items():
        # kubeadm backdates these to the beginning of the CA.
        leaf = new_leaf(subject, [CLIENT], NO_NAMES, cas["ca"], validity)
        write(root / file, kubeconfig(subject[0], leaf, cas["ca"]))
    account = new_key()
    write(pki / "sa.key", key_pem(account))
    write(
        pki / "sa.pub",
        account.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo),
    )
    root.chmod(0o755)
    for directory in (pki, pki / "etcd"):
        directory.chmod(0o755)
    return Directory(root, cas)
