"""Which certificates there are, and where: in kubeadm's directories, and in the data directory of certplane.

Only paths and names are decided here; nothing is read. A kubeadm control plane has ten certificates, three CAs and
five kubeconfigs, of which the kubelet renews its own. certplane needs one certificate, one CA and two kubeconfigs of
them.

Source: kubernetes, `cmd/kubeadm/app/phases/certs/certlist.go`, `.../renewal/manager.go`.
"""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Final

KUBERNETES_DIRECTORY: Final = pathlib.Path("/etc/kubernetes")
CERTIFICATES_DIRECTORY: Final = KUBERNETES_DIRECTORY / "pki"


@dataclasses.dataclass(frozen=True, slots=True)
class CertificateAuthority:
    """A CA. `name` is that of tables, `base_name` that of the files, `title` that of errors. `required` are the base
    names and titles of the certificates that must exist if its key does not.
    """

    name: str
    base_name: str
    title: str
    directory: pathlib.Path
    required: tuple[tuple[str, str], ...]

    @property
    def certificate(self) -> pathlib.Path:
        return self.directory / f"{self.base_name}.crt"

    @property
    def key(self) -> pathlib.Path:
        return self.directory / f"{self.base_name}.key"


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
    """A certificate that can be renewed. `base_name` is that of its files, `long_name` that of messages.

    `key` is None if the certificate and its key are embedded in a kubeconfig, whose path is `certificate` then. They
    are those of `user`, or of the current context if it is empty.
    """

    name: str
    base_name: str
    long_name: str
    certificate: pathlib.Path
    key: pathlib.Path | None
    ca: CertificateAuthority
    user: str = ""

    @property
    def is_kubeconfig(self) -> bool:
        return self.key is None


@dataclasses.dataclass(frozen=True, slots=True)
class Layout:
    """The certificates and CAs of a control plane, sorted by name. `is_own` is for a data directory of certplane."""

    directory: pathlib.Path
    kubeconfig_directory: pathlib.Path
    entries: tuple[Entry, ...]
    authorities: tuple[CertificateAuthority, ...]
    is_own: bool = False

    def find(self, name: str) -> Entry | None:
        """The entry of a name; None if there is none."""
        return next((entry for entry in self.entries if entry.name == name), None)


# --- the tables of kubeadm ----------------------------------------------------------------------------------------

_CA: Final = "ca"
_ETCD_CA: Final = "etcd-ca"
_FRONT_PROXY_CA: Final = "front-proxy-ca"

#: Base name, title, and the certificates that are required without the key, by name of the CA.
_AUTHORITIES: Final = {
    _CA: (
        "ca", "CA", (("apiserver", "API server"), ("apiserver-kubelet-client", "API server kubelet client")),
    ),
    _ETCD_CA: (
        "etcd/ca",
        "etcd CA",
        (
            ("apiserver-etcd-client", "apiserver etcd client"),
            ("etcd/server", "etcd server"),
            ("etcd/peer", "etcd peer"),
            ("etcd/healthcheck-client", "etcd health-check client"),
        ),
    ),
    _FRONT_PROXY_CA: ("front-proxy-ca", "front-proxy CA", (("front-proxy-client", "front-proxy client"),)),
}  # fmt: skip
#: Base name, CA and long name, by name of the certificate.
_CERTIFICATES: Final = {
    "apiserver": ("apiserver", _CA, "certificate for serving the Kubernetes API"),
    "apiserver-etcd-client": (
        "apiserver-etcd-client", _ETCD_CA, "certificate the apiserver uses to access etcd",
    ),
    "apiserver-kubelet-client": (
        "apiserver-kubelet-client", _CA, "certificate for the API server to connect to kubelet",
    ),
    "etcd-healthcheck-client": (
        "etcd/healthcheck-client", _ETCD_CA, "certificate for liveness probes to healthcheck etcd",
    ),
    "etcd-peer": ("etcd/peer", _ETCD_CA, "certificate for etcd nodes to communicate with each other"),
    "etcd-server": ("etcd/server", _ETCD_CA, "certificate for serving etcd"),
    "front-proxy-client": ("front-proxy-client", _FRONT_PROXY_CA, "certificate for the front proxy client"),
}  # fmt: skip
_EMBEDDED: Final = "certificate embedded in the kubeconfig file for the"
_KUBECONFIGS: Final = {
    "admin.conf": f"{_EMBEDDED} admin to use and for kubeadm itself",
    "controller-manager.conf": f"{_EMBEDDED} controller manager to use",
    "scheduler.conf": f"{_EMBEDDED} scheduler manager to use",
    "super-admin.conf": f"{_EMBEDDED} super-admin",
}
#: The names that can be renewed, in the order of the command line.
NAMES: Final = tuple(sorted((*_CERTIFICATES, *_KUBECONFIGS)))
#: What a data directory of certplane has of them.
_OWN: Final = ("admin.conf", "apiserver", "super-admin.conf")
_OWN_USERS: Final = {"admin.conf": "kubernetes-admin", "super-admin.conf": "kubernetes-super-admin"}


def kubeadm(
    directory: pathlib.Path = CERTIFICATES_DIRECTORY,
    kubeconfig_directory: pathlib.Path = KUBERNETES_DIRECTORY,
    *,
    has_external_etcd: bool = False,
) -> Layout:
    """The layout of kubeadm. With an external etcd, its certificates and its CA are not kubeadm's."""
    names = [name for name in _AUTHORITIES if not (has_external_etcd and name == _ETCD_CA)]
    return _layout(directory, kubeconfig_directory, names, NAMES)


def own(data_directory: pathlib.Path) -> Layout:
    """The layout of a data directory of certplane."""
    layout = _layout(data_directory / "pki", data_directory, [_CA], _OWN)
    (ca,) = layout.authorities
    # Clients of kubelets are not needed here.
    ca = dataclasses.replace(ca, required=ca.required[:1])
    # An operator may have added other contexts to the kubeconfigs, and may use one of them.
    entries = tuple(dataclasses.replace(entry, ca=ca, user=_OWN_USERS.get(entry.name, "")) for entry in layout.entries)
    return dataclasses.replace(layout, entries=entries, authorities=(ca,), is_own=True)


def _layout(
    directory: pathlib.Path, kubeconfig_directory: pathlib.Path, authorities: list[str], names: tuple[str, ...]
) -> Layout:
    known = {}
    for name in sorted(authorities):
        base_name, title, required = _AUTHORITIES[name]
        known[name] = CertificateAuthority(name, base_name, title, directory, required)
    entries = []
    for name in names:
        if name in _KUBECONFIGS:
            path = kubeconfig_directory / name
            entries.append(Entry(name, name, _KUBECONFIGS[name], path, None, known[_CA]))
        elif _CERTIFICATES[name][1] in known:
            base_name, ca, long_name = _CERTIFICATES[name]
            certificate, key = (directory / f"{base_name}.{suffix}" for suffix in ("crt", "key"))
            entries.append(Entry(name, base_name, long_name, certificate, key, known[ca]))
    return Layout(directory, kubeconfig_directory, tuple(entries), tuple(known.values()))
