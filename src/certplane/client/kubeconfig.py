"""Where the server is and who we are: a kubeconfig file, as kubectl reads it.

Certificates, keys and CAs may be in the file or beside it; file names are relative to the kubeconfig. Exec plugins and
proxies are not read yet. Source: client-go `tools/clientcmd`.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import os
import pathlib
import ssl
import tempfile
import urllib.parse
from collections.abc import Mapping
from typing import Any

from certplane import errors
from certplane.meta import codec


@dataclasses.dataclass(frozen=True, slots=True)
class Access:
    """How to reach a server. `token` is empty if a certificate says who we are, or nothing does."""

    host: str
    port: int
    tls: ssl.SSLContext
    token: str = dataclasses.field(default="", repr=False)
    namespace: str = "default"
    authority: str = ""


def load(path: pathlib.Path, context: str = "") -> Access:
    """The access that a kubeconfig describes, by its current context or another. Raises SetupError."""
    config = _read(path)
    name = context or config.get("current-context") or ""
    chosen = _entry(config, "contexts", "context", str(name), path)
    cluster = _entry(config, "clusters", "cluster", str(chosen.get("cluster", "")), path)
    user = _entry(config, "users", "user", str(chosen.get("user", "")), path) if chosen.get("user") else {}
    if "exec" in user or "auth-provider" in user:
        raise errors.SetupError(
            f"{path} gets its credentials from another program, which is not supported here",
            ("name a kubeconfig with a certificate or a token",),
        )
    url = urllib.parse.urlsplit(str(cluster.get("server", "")))
    if url.scheme != "https" or not url.hostname or url.path not in ("", "/"):
        raise errors.SetupError(f"{path} names no https server: {cluster.get('server', '')}")
    token = str(user.get("token") or "")
    if not token and user.get("tokenFile"):
        token = _bytes(path, user, "token", "tokenFile").decode("utf-8", "replace").strip()
    namespace = str(chosen.get("namespace") or "default")
    authority = _bytes(path, cluster, "certificate-authority-data", "certificate-authority").decode("ascii", "replace")
    return Access(url.hostname, url.port or 443, _tls(path, cluster, user), token, namespace, authority)


def in_cluster() -> Access:
    """The access that a pod is given."""
    raise errors.SetupError("this is no pod: there is no service account", ("--kubeconfig names the API server",))


def _read(path: pathlib.Path) -> Mapping[str, Any]:
    try:
        found = codec.load_yaml(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise errors.SetupError(
            f"the kubeconfig {path} cannot be read: {error}", ("--kubeconfig names another file",)
        ) from error
    except codec.YAMLProblem as error:
        raise errors.SetupError(f"the kubeconfig {path} is no YAML: {error}") from error
    if not isinstance(found, dict):
        raise errors.SetupError(f"{path} is no kubeconfig")
    return found


def _entry(config: Mapping[str, Any], section: str, inner: str, name: str, path: pathlib.Path) -> Mapping[str, Any]:
    for each in config.get(section) or ():
        if isinstance(each, dict) and each.get("name") == name and isinstance(each.get(inner), dict):
            found: Mapping[str, Any] = each[inner]
            return found
    raise errors.SetupError(f'{path} has no {inner} "{name}"', ("kubectl config view shows what it has",))


def _bytes(path: pathlib.Path, entry: Mapping[str, Any], data: str, file: str) -> bytes:
    """What is in the file under `data` in base64, or in the file named under `file`; nothing if neither is there."""
    try:
        if entry.get(data):
            return base64.b64decode(str(entry[data]), validate=True)
        if entry.get(file):
            return (path.parent / str(entry[file])).read_bytes()
    except binascii.Error as error:
        raise errors.SetupError(f"{data} in {path} is not base64") from error
    except OSError as error:
        raise errors.SetupError(f"{file} in {path} cannot be read: {error}") from error
    return b""


def _tls(path: pathlib.Path, cluster: Mapping[str, Any], user: Mapping[str, Any]) -> ssl.SSLContext:
    settings = ssl.create_default_context()
    try:
        authority = _bytes(path, cluster, "certificate-authority-data", "certificate-authority")
        if authority:
            settings = ssl.create_default_context(cadata=authority.decode("ascii"))
        if cluster.get("insecure-skip-tls-verify"):
            settings.check_hostname = False
            settings.verify_mode = ssl.CERT_NONE
        certificate = _bytes(path, user, "client-certificate-data", "client-certificate")
        key = _bytes(path, user, "client-key-data", "client-key")
        if certificate or key:
            _load_pair(settings, certificate, key)
    except (ssl.SSLError, UnicodeDecodeError) as error:
        raise errors.SetupError(
            f"the certificates in {path} cannot be used: {error}", ("check that certificate and key belong together",)
        ) from error
    return settings


def _load_pair(settings: ssl.SSLContext, certificate: bytes, key: bytes) -> None:
    # The library reads a pair from a file only. This one is nobody else's, and gone before anything is done with it.
    handle, name = tempfile.mkstemp()
    try:
        with os.fdopen(handle, "wb") as sink:
            sink.write(certificate + b"\n" + key)
        settings.load_cert_chain(name)
    finally:
        os.unlink(name)
