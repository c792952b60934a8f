"""Creates and updates the kubeconfigs of the data directory: server address, CA certificate and client certificate.

A kubeconfig is created once; contexts and users that an operator adds are kept. The server address is updated when the
server's address changes, because another process may use the old one by then. The address that certplane wrote is also
recorded in an extension of the cluster: an address that differs from the record was edited by an operator, and is kept.

Source: kubernetes.io, "Organizing Cluster Access Using kubeconfig Files"; `cmd/kubeadm/app/phases/kubeconfig`.
"""

from __future__ import annotations

import base64
import copy
import dataclasses
import datetime
import pathlib
import re
import urllib.parse
from collections.abc import Iterator, Mapping
from typing import Final

from certplane import files
from certplane.errors import SetupError
from certplane.golang import goyaml
from certplane.kubeadm import pki
from certplane.x509.trust import keypairs

_CLUSTER: Final = "kubernetes"
#: The name of the extension that records the address that certplane wrote.
_EXTENSION: Final = "certplane"
#: Hosts that certplane must have written, in files without that extension.
_LOOPBACK: Final = frozenset({"127.0.0.1", "::1", "localhost"})


@dataclasses.dataclass(frozen=True, slots=True)
class KubeconfigUser:
    """A user for whom a kubeconfig is created."""

    file: str
    name: str
    organization: str


#: The same two as of `kubeadm init`: one for daily use, whose permissions can be revoked, and one for emergencies.
ADMIN: Final = KubeconfigUser("admin.conf", "kubernetes-admin", "kubeadm:cluster-admins")
SUPER_ADMIN: Final = KubeconfigUser("super-admin.conf", "kubernetes-super-admin", "system:masters")
USERS: Final = (ADMIN, SUPER_ADMIN)


@dataclasses.dataclass(frozen=True, slots=True)
class Changes:
    """The kubeconfigs that have been created, and those whose server address has been updated."""

    created: list[pathlib.Path]
    updated: list[pathlib.Path]


def check(directory: pathlib.Path) -> None:
    """Check the existing kubeconfigs. Raises SetupError for an invalid one, which is never overwritten."""
    for user in USERS:
        path = directory / user.file
        files.check_data_file(path, "the kubeconfig")
        if path.exists():
            _check_user(path, user, _parse(path, _text(path)))


def ensure(
    directory: pathlib.Path, pki_paths: pki.PKI, server: str, key_algorithm: str, now: datetime.datetime
) -> Changes:
    """Create the missing kubeconfigs, and update the server address in the others. Raises SetupError."""
    changes = Changes([], [])
    ca = files.read(pki_paths.ca_certificate, "the CA certificate")
    for user in USERS:
        path = directory / user.file
        if path.exists():
            text = _text(path)
            updated = _update_server(text, _parse(path, text), server, ca)
            if updated != text:
                files.write(path, updated.encode("utf-8"))
                changes.updated.append(path)
        elif pki_paths.authority is not None:
            credential = pki_paths.client(user.name, (user.organization,), key_algorithm, now)
            files.write(path, render(user.name, server, ca, credential))
            changes.created.append(path)
    return changes


def client_certificate(path: pathlib.Path, content: bytes, user: KubeconfigUser) -> bytes | None:
    """The client certificate of a user in a kubeconfig, in PEM; None if the user has none. Raises SetupError."""
    try:
        config = _parse(path, content.decode("utf-8"))
        for entry in _entries(config, "users", "user", user.name):
            if "client-certificate-data" in entry:
                return base64.b64decode(str(entry["client-certificate-data"]), validate=True)
    except ValueError as error:
        raise SetupError(f"the kubeconfig {path} has a damaged user {user.name}: {error}", (_HINT,)) from error
    return None


# --- existing files -----------------------------------------------------------------------------------------------

_HINT: Final = "move the file away and restart; then copy your own entries from the old file"


def _text(path: pathlib.Path) -> str:
    return files.read_text(path, "the kubeconfig", _HINT)


def _parse(path: pathlib.Path, text: str) -> Mapping[str, object]:
    try:
        config = goyaml.load(text)
    except goyaml.YAMLError as error:
        raise SetupError(f"the kubeconfig {path} is not valid YAML: {error}", (_HINT,)) from error
    if not isinstance(config, dict) or config.get("kind") != "Config":
        raise SetupError(f"the file {path} is not a kubeconfig", (_HINT,))
    return config


def _entries(config: Mapping[str, object], section: str, inner: str, name: str) -> Iterator[dict[str, object]]:
    """The clusters, users or extensions with a name."""
    entries = config.get(section)
    for entry in entries if isinstance(entries, list) else ():
        if isinstance(entry, dict) and entry.get("name") == name and isinstance(entry.get(inner), dict):
            yield entry[inner]


def _check_user(path: pathlib.Path, user: KubeconfigUser, config: Mapping[str, object]) -> None:
    """Raises SetupError if the embedded certificate or key of a user is damaged."""
    for entry in _entries(config, "users", "user", user.name):
        if "client-certificate-data" not in entry or "client-key-data" not in entry:
            continue
        try:
            certificate, key = (
                base64.b64decode(str(entry[name]), validate=True)
                for name in ("client-certificate-data", "client-key-data")
            )
            keypairs.check(certificate, key)
        except ValueError as error:
            # KeyPairError is one, and so is every problem of base64.
            raise SetupError(f"the kubeconfig {path} has a damaged user {user.name}: {error}", (_HINT,)) from error


def _update_server(text: str, config: Mapping[str, object], server: str, ca: bytes) -> str:
    """A kubeconfig with the present server address; unchanged if certplane did not write the address in it."""
    updated = copy.deepcopy(config)
    former = ""
    for cluster in _entries(updated, "clusters", "cluster", _CLUSTER):
        is_ours = cluster.get("certificate-authority-data") == _base64(ca)
        if is_ours and cluster.get("server") != server and _is_own_address(cluster, server):
            former = str(cluster["server"])
            cluster["server"] = server
            for extension in _extensions(cluster):
                extension["server"] = server
    if not former:
        return text
    # Replacing the address in the text keeps comments and order; the result is used only if it parses to `updated`.
    edited = re.sub(rf"{re.escape(former)}(?=[\s\"',}}]|$)", lambda _: server, text)
    try:
        if goyaml.load(edited) == updated:
            return edited
    except goyaml.YAMLError:
        pass
    return goyaml.dump(updated)


def _is_own_address(cluster: Mapping[str, object], server: str) -> bool:
    """Whether certplane wrote the server address of a cluster."""
    extension = next(_extensions(cluster), None)
    if extension is not None:
        return bool(extension.get("server") == cluster.get("server"))
    try:
        host = urllib.parse.urlsplit(str(cluster.get("server"))).hostname
    except ValueError:
        return False
    return host in _LOOPBACK or host == urllib.parse.urlsplit(server).hostname


def _extensions(cluster: Mapping[str, object]) -> Iterator[dict[str, object]]:
    yield from _entries(cluster, "extensions", "extension", _EXTENSION)


def _extension(server: str) -> dict[str, object]:
    return {"extension": {"server": server}, "name": _EXTENSION}


# --- new files ----------------------------------------------------------------------------------------------------


def render(user: str, server: str, ca: bytes, credential: tuple[bytes, bytes]) -> bytes:
    """A kubeconfig of one cluster and one user. `credential` is a certificate and its key, in PEM."""
    context = f"{user}@{_CLUSTER}"
    certificate, key = credential
    document = {
        "apiVersion": "v1",
        "clusters": [
            {
                "cluster": {
                    "certificate-authority-data": _base64(ca),
                    "extensions": [_extension(server)],
                    "server": server,
                },
                "name": _CLUSTER,
            },
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
