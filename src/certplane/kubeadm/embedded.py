"""The client certificate, its key and the CA certificate that are embedded in a kubeconfig: to read and replace them.

They are those of the current context, or of a given user. Everything else in the file is kept: comments and order, too,
if the texts to replace occur in one piece; otherwise the file is written anew, as kubeadm always does.

Source: kubernetes, `cmd/kubeadm/app/phases/certs/renewal/readwriter.go`, whose error texts these are.
"""

from __future__ import annotations

import base64
import binascii
import copy
import dataclasses
from collections.abc import Mapping
from typing import Any, Final

from certplane.golang import goyaml

_CERTIFICATE: Final = "client-certificate-data"
_KEY: Final = "client-key-data"
_CA: Final = "certificate-authority-data"


class KubeconfigError(ValueError):
    """A kubeconfig without a usable embedded certificate. The text follows the path of the file and quotes no key."""


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class EmbeddedCredential:
    """The texts of a kubeconfig's current context, in PEM."""

    certificate: bytes
    key: bytes
    ca: bytes

    def __repr__(self) -> str:
        return "<EmbeddedCredential>"


def read(content: bytes, user_name: str = "") -> EmbeddedCredential:
    """What a kubeconfig embeds, for its current context, or for a user and the first context that it has. Raises
    KubeconfigError.
    """
    cluster, user = _find_pair(_parse(content), user_name)
    return EmbeddedCredential(_decode(user, _CERTIFICATE), _decode(user, _KEY), _decode(cluster, _CA))


def replace(content: bytes, credential: EmbeddedCredential, user_name: str = "") -> bytes:
    """The kubeconfig with another credential of the current context, or of a user. Raises KubeconfigError."""
    config = _parse(content)
    updated = copy.deepcopy(config)
    cluster, user = _find_pair(updated, user_name)
    edited = content
    for section, name, data in (
        (user, _CERTIFICATE, credential.certificate),
        (user, _KEY, credential.key),
        (cluster, _CA, credential.ca),
    ):
        former, section[name] = str(section[name]), base64.b64encode(data).decode("ascii")
        if former:
            edited = edited.replace(former.encode("utf-8"), section[name].encode("ascii"))
    # Another user may have the same certificate, and a text may be folded into lines.
    try:
        if goyaml.load(edited) == updated:
            return edited
    except goyaml.YAMLError:
        pass
    return goyaml.dump(updated).encode("utf-8")


def _parse(content: bytes) -> dict[str, Any]:
    try:
        config = goyaml.load(content)
    except goyaml.YAMLError as error:
        raise KubeconfigError(str(error)) from error
    if not isinstance(config, dict) or config.get("kind", "Config") != "Config":
        raise KubeconfigError("it is not a kubeconfig")
    return config


def _find_pair(config: Mapping[str, Any], user_name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The cluster and the user of the current context, or of the first context of a user, with embedded data."""
    name = config.get("current-context") or ""
    if user_name:
        name = _context_of(config, user_name) or name
    context = _find(config, "contexts", "context", name)
    if context is None:
        raise KubeconfigError(f"missing context {name}")
    cluster = _find(config, "clusters", "cluster", context.get("cluster"))
    if cluster is None:
        raise KubeconfigError(f"missing cluster {context.get('cluster') or ''}")
    user = _find(config, "users", "user", context.get("user"))
    if user is None:
        raise KubeconfigError(f"missing authInfo {context.get('user') or ''}")
    if not cluster.get(_CA):
        raise KubeconfigError("does not have an embedded server certificate")
    if not user.get(_CERTIFICATE) or not user.get(_KEY):
        raise KubeconfigError("does not have an embedded client certificate")
    return cluster, user


def _context_of(config: Mapping[str, Any], user_name: str) -> str:
    """The name of the first context of a user; empty if there is none."""
    contexts = config.get("contexts")
    for entry in contexts if isinstance(contexts, list) else ():
        context = entry.get("context") if isinstance(entry, dict) else None
        if isinstance(context, dict) and context.get("user") == user_name:
            return str(entry.get("name") or "")
    return ""


def _find(config: Mapping[str, Any], section: str, inner: str, name: object) -> dict[str, Any] | None:
    entries = config.get(section)
    for entry in entries if isinstance(entries, list) else ():
        if isinstance(entry, dict) and entry.get("name") == name and isinstance(entry.get(inner), dict):
            value: dict[str, Any] = entry[inner]
            return value
    return None


def _decode(section: Mapping[str, Any], name: str) -> bytes:
    # A block scalar has newlines, which Go's decoder ignores.
    text = str(section[name]).replace("\n", "").replace("\r", "")
    try:
        return base64.b64decode(text.encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError) as error:
        raise KubeconfigError(f"{name} is not base64") from error
