"""Kubeconfig files: where the server is, whom to trust, and who one is.

Source: kubernetes.io, "Organizing Cluster Access Using kubeconfig Files"; `cmd/kubeadm/app/phases/kubeconfig`.
"""

from __future__ import annotations

import base64
import dataclasses
import datetime
import pathlib
from typing import Final

from certplane import files
from certplane.kubeadm import pki
from certplane.meta import goyaml

_CLUSTER: Final = "kubernetes"


@dataclasses.dataclass(frozen=True, slots=True)
class Person:
    """A user that gets a kubeconfig."""

    file: str
    name: str
    organization: str


#: `kubeadm init` makes the same two: one for daily use, whose rights can be taken away, and one for emergencies.
ADMIN: Final = Person("admin.conf", "kubernetes-admin", "kubeadm:cluster-admins")
SUPER_ADMIN: Final = Person("super-admin.conf", "kubernetes-super-admin", "system:masters")


def ensure(
    directory: pathlib.Path, of: pki.PKI, server: str, key_kind: str, now: datetime.datetime
) -> list[pathlib.Path]:
    """Make the kubeconfigs that are missing; those that were made. Raises SetupError."""
    made = []
    for person in (ADMIN, SUPER_ADMIN):
        path = directory / person.file
        if path.exists() or of.authority is None:
            continue
        certificate, key = of.client(person.name, (person.organization,), key_kind, now)
        files.write(path, render(person.name, server, of.ca_certificate.read_bytes(), (certificate, key)))
        made.append(path)
    return made


def render(user: str, server: str, ca: bytes, credential: tuple[bytes, bytes]) -> bytes:
    """A kubeconfig of one cluster and one user. `credential` is a certificate and its key, in PEM."""
    context = f"{user}@{_CLUSTER}"
    certificate, key = credential
    document = {
        "apiVersion": "v1",
        "clusters": [
            {"cluster": {"certificate-authority-data": _base64(ca), "server": server}, "name": _CLUSTER},
        ],
        "contexts": [{"context": {"cluster": _CLUSTER, "user": user}, "name": context}],
        "current-context": context,
        "kind": "Config",
        "users": [
            {
                "name": user,
                "user": {"client-certificate-data": _base64(certificate), "client-key-data": _base64(key)},
            }
        ],
    }
    return goyaml.dump(document).encode("utf-8")


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
