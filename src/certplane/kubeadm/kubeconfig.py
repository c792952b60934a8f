"""Kubeconfig files: where the server is, whom to trust, and who one is.

Those in the data directory are made once; people add contexts and users to them, which stay. The address that we wrote
follows the one that we serve on, because another process may have the old one by now. It is noted beside the cluster,
in an extension: an address that a person wrote is not the one that is noted, and stays as well.

Source: kubernetes.io, "Organizing Cluster Access Using kubeconfig Files"; `cmd/kubeadm/app/phases/kubeconfig`.
"""

from __future__ import annotations

import base64
import binascii
import copy
import dataclasses
import datetime
import pathlib
import re
import urllib.parse
from collections.abc import Iterator, Mapping
from typing import Any, Final

from certplane import files
from certplane.errors import SetupError
from certplane.kubeadm import pki
from certplane.meta import goyaml
from certplane.x509 import pairs

_CLUSTER: Final = "kubernetes"
#: Where the address is noted that we wrote.
_EXTENSION: Final = "certplane"
#: Hosts that can only be ours: for files from before addresses were noted.
_LOOPBACK: Final = frozenset({"127.0.0.1", "::1", "localhost"})


@dataclasses.dataclass(frozen=True, slots=True)
class Person:
    """A user that gets a kubeconfig."""

    file: str
    name: str
    organization: str


#: `kubeadm init` makes the same two: one for daily use, whose rights can be taken away, and one for emergencies.
ADMIN: Final = Person("admin.conf", "kubernetes-admin", "kubeadm:cluster-admins")
SUPER_ADMIN: Final = Person("super-admin.conf", "kubernetes-super-admin", "system:masters")


@dataclasses.dataclass(frozen=True, slots=True)
class Written:
    """What became of the kubeconfigs: those that are new, and those that lead to another address now."""

    made: list[pathlib.Path]
    moved: list[pathlib.Path]


def check(directory: pathlib.Path) -> None:
    """Judge the kubeconfigs that are there. Raises SetupError: what cannot be used is nobody's to overwrite."""
    for person in (ADMIN, SUPER_ADMIN):
        path = directory / person.file
        files.check_own(path, "the kubeconfig")
        if path.exists():
            _check_user(path, person, _parse(path, _text(path)))


def ensure(directory: pathlib.Path, of: pki.PKI, server: str, key_kind: str, now: datetime.datetime) -> Written:
    """Make the kubeconfigs that are missing, and have the others lead to where the server is. Raises SetupError."""
    written = Written([], [])
    authority = files.read(of.ca_certificate, "the CA certificate")
    for person in (ADMIN, SUPER_ADMIN):
        path = directory / person.file
        if path.exists():
            text = _text(path)
            moved = _moved(text, _parse(path, text), server, authority)
            if moved != text:
                files.write(path, moved.encode("utf-8"))
                written.moved.append(path)
        elif of.authority is not None:
            credential = of.client(person.name, (person.organization,), key_kind, now)
            files.write(path, render(person.name, server, authority, credential))
            written.made.append(path)
    return written


# --- files that are there -----------------------------------------------------------------------------------------

_HINT: Final = "move it away to have a new one made; what you added to it can be copied from there"


def _text(path: pathlib.Path) -> str:
    return files.read_text(path, "the kubeconfig", _HINT)


def _parse(path: pathlib.Path, text: str) -> Mapping[str, Any]:
    try:
        found = goyaml.load(text)
    except goyaml.Problem as error:
        raise SetupError(f"the kubeconfig {path} is no YAML: {error}", (_HINT,)) from error
    if not isinstance(found, dict) or found.get("kind") != "Config":
        raise SetupError(f"the kubeconfig {path} holds no kubeconfig", (_HINT,))
    return found


def _entries(config: Mapping[str, Any], section: str, inner: str, name: str) -> Iterator[dict[str, Any]]:
    """The clusters or users of a name."""
    entries = config.get(section)
    for entry in entries if isinstance(entries, list) else ():
        if isinstance(entry, dict) and entry.get("name") == name and isinstance(entry.get(inner), dict):
            yield entry[inner]


def _check_user(path: pathlib.Path, person: Person, config: Mapping[str, Any]) -> None:
    """The certificate and the key that we wrote are there whole."""
    for user in _entries(config, "users", "user", person.name):
        if "client-certificate-data" not in user or "client-key-data" not in user:
            continue
        try:
            texts = [
                base64.b64decode(str(user[name]), validate=True)
                for name in ("client-certificate-data", "client-key-data")
            ]
            pairs.check(*texts)
        except (binascii.Error, pairs.PairProblem) as error:
            raise SetupError(f"the kubeconfig {path} has a damaged user {person.name}: {error}", (_HINT,)) from error


def _moved(text: str, config: Mapping[str, Any], server: str, authority: bytes) -> str:
    """The same file with the address where the server is now; unchanged if the one in it is not ours."""
    wanted = copy.deepcopy(config)
    former = ""
    for cluster in _entries(wanted, "clusters", "cluster", _CLUSTER):
        is_ours = cluster.get("certificate-authority-data") == _base64(authority)
        if is_ours and cluster.get("server") != server and _wrote_address(cluster, server):
            former = str(cluster["server"])
            cluster["server"] = server
            for noted in _extensions(cluster):
                noted["server"] = server
    if not former:
        return text
    # Comments and order stay if it can be done in the text, and only then is it.
    edited = re.sub(rf"{re.escape(former)}(?=[\s\"',}}]|$)", lambda _: server, text)
    try:
        if goyaml.load(edited) == wanted:
            return edited
    except goyaml.Problem:
        pass
    return goyaml.dump(wanted)


def _wrote_address(cluster: Mapping[str, Any], server: str) -> bool:
    """Whether the address of a cluster is the one that we wrote."""
    noted = next(_extensions(cluster), None)
    if noted is not None:
        return bool(noted.get("server") == cluster.get("server"))
    try:
        host = urllib.parse.urlsplit(str(cluster.get("server"))).hostname
    except ValueError:
        return False
    return host in _LOOPBACK or host == urllib.parse.urlsplit(server).hostname


def _extensions(cluster: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    yield from _entries(cluster, "extensions", "extension", _EXTENSION)


def _extension(server: str) -> dict[str, Any]:
    return {"extension": {"server": server}, "name": _EXTENSION}


# --- new ones -----------------------------------------------------------------------------------------------------


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
