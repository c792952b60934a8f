"""Keys and PKCS#10 requests for a control plane whose CA is elsewhere.

Each certificate gets a key and a request; each kubeconfig is written with its key, and its request beside it. The
requests have the subjects and names that kubeadm would put into the certificates. Nothing is overwritten: all paths are
checked before the first file is written, where kubeadm stops at the first existing one.

Source: kubernetes, `cmd/kubeadm/app/cmd/certs.go`, `.../phases/certs/certlist.go`, `.../util/pkiutil/pki_helpers.go`.
"""

from __future__ import annotations

import base64
import dataclasses
import ipaddress
import os
import pathlib
import urllib.parse
from typing import Final

from certplane import files
from certplane.errors import SetupError
from certplane.golang import formatting, goyaml
from certplane.kubeadm.clusterconfig import ClusterConfig
from certplane.meta import names
from certplane.x509 import keys
from certplane.x509.certificatenames import Subject
from certplane.x509.issuance import reservednames, selfsigned
from certplane.x509.pkcs10 import newrequest
from certplane.x509.tbs.template import AltNames

_CONFIG_HINT: Final = "correct it in the file that --config names"


@dataclasses.dataclass(frozen=True, slots=True)
class RequestedCertificate:
    """What is requested: the base name of the files, or the name of a kubeconfig; `names` are DNS names and IP
    addresses; `server` is the URL in the kubeconfig.
    """

    name: str
    subject: Subject
    names: tuple[str, ...] = ()
    server: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """What to write, and where. `ca` is PEM to embed in the kubeconfigs; empty for none."""

    directory: pathlib.Path
    kubeconfig_directory: pathlib.Path
    certificates: tuple[RequestedCertificate, ...]
    kubeconfigs: tuple[RequestedCertificate, ...]
    cluster_name: str = "kubernetes"
    ca: bytes = b""

    def paths(self) -> list[tuple[str, pathlib.Path]]:
        """All files, each with the text that names it in an error."""
        paths = []
        for certificate in self.certificates:
            base = self.directory / certificate.name
            paths += [(f"key or CSR {base}", base.with_name(f"{base.name}.{suffix}")) for suffix in ("key", "csr")]
        for kubeconfig in self.kubeconfigs:
            path = self.kubeconfig_directory / kubeconfig.name
            request = path.with_name(f"{path.name}.csr")
            paths += [(f"kube config: {path}", path), (f"csr: {request}", request)]
        return paths


# --- what to request ----------------------------------------------------------------------------------------------


def plan_kubeadm(config: ClusterConfig, directory: pathlib.Path, kubeconfig_directory: pathlib.Path) -> Plan:
    """The requests of a kubeadm control plane. The node name and the advertise address must be set. Raises SetupError
    for invalid settings.
    """
    local = _url(_address("localAPIEndpoint.advertiseAddress", config.advertise_address), config.bind_port)
    host, port = _endpoint(config)
    public = _url(host, port) if host else local
    node = config.node_name
    _check_names("nodeRegistration.name", (node,))
    etcd = (node, "localhost", config.advertise_address, "127.0.0.1", "::1")
    for field, extra in (
        ("apiServer.certSANs", config.api_names),
        ("etcd.local.serverCertSANs", config.etcd_server_names),
        ("etcd.local.peerCertSANs", config.etcd_peer_names),
    ):
        _check_names(field, extra)
    certificates = (
        RequestedCertificate("apiserver", Subject(common_name="kube-apiserver"), _api_names(config, host)),
        RequestedCertificate("apiserver-kubelet-client", Subject(common_name="kube-apiserver-kubelet-client")),
        RequestedCertificate("front-proxy-client", Subject(common_name="front-proxy-client")),
        RequestedCertificate("etcd/server", Subject(common_name=node), (*etcd, *config.etcd_server_names)),
        RequestedCertificate("etcd/peer", Subject(common_name=node), (*etcd, *config.etcd_peer_names)),
        RequestedCertificate("etcd/healthcheck-client", Subject(common_name="kube-etcd-healthcheck-client")),
        RequestedCertificate("apiserver-etcd-client", Subject(common_name="kube-apiserver-etcd-client")),
    )
    return Plan(directory, kubeconfig_directory, certificates, _kubeconfigs(node, public, local), config.cluster_name)


def _kubeconfigs(node: str, public: str, local: str) -> tuple[RequestedCertificate, ...]:
    return (
        *_administrators(public),
        RequestedCertificate(
            "kubelet.conf", Subject(organization=("system:nodes",), common_name=f"system:node:{node}"), server=public
        ),
        RequestedCertificate(
            "controller-manager.conf", Subject(common_name="system:kube-controller-manager"), server=local
        ),
        RequestedCertificate("scheduler.conf", Subject(common_name="system:kube-scheduler"), server=local),
    )


def _administrators(server: str) -> tuple[RequestedCertificate, ...]:
    return tuple(
        RequestedCertificate(file, Subject(organization=(organization,), common_name=name), server=server)
        for file, name, organization in (
            ("admin.conf", "kubernetes-admin", "kubeadm:cluster-admins"),
            ("super-admin.conf", "kubernetes-super-admin", "system:masters"),
        )
    )


def plan_own(data_directory: pathlib.Path, host_name: str) -> Plan:
    """The requests of a data directory of certplane, with the names that `certplane serve` uses by default. The CA
    certificate is embedded if it is there.
    """
    directory = data_directory / "pki"
    certificate = directory / "ca.crt"
    return Plan(
        directory,
        data_directory,
        (
            RequestedCertificate(
                "apiserver",
                Subject(common_name="kube-apiserver"),
                (*reservednames.SERVICE_NAMES, "localhost", host_name, "127.0.0.1", "::1"),
            ),
        ),
        _administrators("https://127.0.0.1:6443"),
        ca=files.read(certificate, "the CA certificate") if certificate.exists() else b"",
    )


def _api_names(config: ClusterConfig, endpoint: str) -> tuple[str, ...]:
    services = list(reservednames.SERVICE_NAMES[:3])
    if config.dns_domain:
        services.append(f"{services[-1]}.{config.dns_domain}")
    addresses = (_first_service_address(config.service_subnet), config.advertise_address)
    return (config.node_name, *services, *addresses, *filter(None, (endpoint,)), *config.api_names)


def _first_service_address(subnets: str) -> str:
    first = subnets.split(",", 1)[0].strip()
    try:
        return str(ipaddress.ip_network(first, strict=False)[1])
    except (ValueError, IndexError) as error:
        raise SetupError(
            f"unable to get first IP address from the given CIDR: {formatting.truncate(first, 100)}: {error}",
            (f"networking.serviceSubnet: {_CONFIG_HINT}",),
        ) from error


def _address(field: str, text: str) -> str:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError as error:
        raise SetupError(
            f"error parsing LocalAPIEndpoint AdvertiseAddress {formatting.truncate(text, 100)}: is not a valid textual "
            "representation of an IP address",
            (f"{field}: {_CONFIG_HINT}",),
        ) from error


def _url(host: str, port: int) -> str:
    return f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"


def _endpoint(config: ClusterConfig) -> tuple[str, int]:
    """Host and port of the controlPlaneEndpoint; an empty host if it is not set. Raises SetupError."""
    text = config.endpoint
    if not text:
        return "", 0
    try:
        has_bare_ipv6 = text.count(":") > 1 and _is_address(text)
        parts = urllib.parse.urlsplit(f"//[{text}]" if has_bare_ipv6 else f"//{text}")
        host, port = parts.hostname or "", parts.port or config.bind_port
        if parts.username is not None:
            host = ""
    except ValueError:
        host, port = "", 0
    if not _is_address(host) and (not host or names.dns1123_subdomain_problems(host) or parts.netloc != text):
        raise SetupError(
            f"error parsing cluster controlPlaneEndpoint {formatting.quote(formatting.truncate(text, 100))}: it is not "
            "a host with an optional port",
            (f"controlPlaneEndpoint: {_CONFIG_HINT}",),
        )
    return host, port


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _check_names(field: str, values: tuple[str, ...]) -> None:
    """Raises SetupError unless all are IP addresses or DNS names, which may begin with a wildcard."""
    for value in values:
        problems = [] if _is_address(value) else names.dns1123_subdomain_problems(value.removeprefix("*."))
        if problems:
            quoted = formatting.quote(formatting.truncate(value, 100))
            raise SetupError(
                f"{field}: Invalid value: {quoted}: altname is not a valid IP address, DNS label or a DNS label with "
                f"subdomain wildcards: {'; '.join(problems)}",
                (f"{field}: {_CONFIG_HINT}",),
            )


# --- writing ------------------------------------------------------------------------------------------------------


def check(plan: Plan) -> None:
    """Raises SetupError if a file exists that would be written."""
    for what, path in plan.paths():
        if os.path.lexists(path):
            raise SetupError(
                f"file already exists: {what}", (f"move {path} away to create a new key and request, or keep both",)
            )


def write_certificate(plan: Plan, certificate: RequestedCertificate, key_algorithm: str) -> None:
    """Write the key and the request of a certificate. Raises SetupError."""
    base = plan.directory / certificate.name
    _make_directory(base.parent)
    key, request = _new_request(certificate, key_algorithm)
    files.write(base.with_name(f"{base.name}.key"), key)
    files.write(base.with_name(f"{base.name}.csr"), request)


def write_kubeconfig(plan: Plan, kubeconfig: RequestedCertificate, key_algorithm: str) -> None:
    """Write a kubeconfig without a certificate, and its request. Raises SetupError."""
    path = plan.kubeconfig_directory / kubeconfig.name
    _make_directory(path.parent)
    key, request = _new_request(kubeconfig, key_algorithm)
    user = kubeconfig.subject.common_name
    context = f"{user}@{plan.cluster_name}"
    cluster = {"server": kubeconfig.server}
    if plan.ca:
        cluster["certificate-authority-data"] = _base64(plan.ca)
    document = {
        "apiVersion": "v1",
        "clusters": [{"cluster": cluster, "name": plan.cluster_name}],
        "contexts": [{"context": {"cluster": plan.cluster_name, "user": user}, "name": context}],
        "current-context": context,
        "kind": "Config",
        "users": [{"name": user, "user": {"client-key-data": _base64(key)}}],
    }
    files.write(path, goyaml.dump(document).encode("utf-8"))
    files.write(path.with_name(f"{path.name}.csr"), request)


def _make_directory(path: pathlib.Path) -> None:
    with files.as_setup_error(f"the directory {path} cannot be created", "check who may write to the one above it"):
        path.mkdir(mode=0o755, parents=True, exist_ok=True)
    files.check_directory(path, "the directory")


def _new_request(certificate: RequestedCertificate, key_algorithm: str) -> tuple[bytes, bytes]:
    """A new key and its request, in PEM."""
    key = keys.generate(key_algorithm)
    alternative_names = selfsigned.alt_names(certificate.names) if certificate.names else AltNames()
    return keys.to_pem(key), newrequest.create(key, certificate.subject, alternative_names)


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")
