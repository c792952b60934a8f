"""Where the server is and who we are: kubeconfig files, as kubectl reads them, or what a pod is told.

Of several files the first one that has an entry of a name counts. Certificates, keys, tokens and CAs may be in a file
or beside it; file names are relative to the kubeconfig that has them. Source: client-go `tools/clientcmd`,
`rest.InClusterConfig`.
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
from collections.abc import Mapping, Sequence
from typing import IO, Any, Final

from certplane import clock as clocks
from certplane import errors
from certplane.client import credentials, proxies
from certplane.meta import goyaml

_ACCOUNT: Final = pathlib.Path("/var/run/secrets/kubernetes.io/serviceaccount")
_EXTRA: Final = "Impersonate-Extra-"
NOTHING: Final = credentials.Inline()
_ANOTHER: Final = "--kubeconfig names another file"
_LOOK: Final = "kubectl config view shows what it has"


@dataclasses.dataclass(frozen=True, slots=True)
class Access:
    """How to reach a server. `base` is its URL without a slash at the end, `source` knows who we are, `server_name` is
    what its certificate is for, if not the host; `impersonated` are header fields; `proxy` is a URL, empty for none.
    """

    base: str = dataclasses.field(repr=False)
    source: credentials.Source
    trusted: credentials.Content = NOTHING
    namespace: str = "default"
    server_name: str = ""
    insecure: bool = False
    proxy: str = dataclasses.field(default="", repr=False)
    impersonated: Mapping[str, str | Sequence[str]] = dataclasses.field(default_factory=dict)

    @property
    def place(self) -> str:
        """The server, for people: without a password that a URL may have."""
        return urllib.parse.urlsplit(self.base).netloc.rpartition("@")[2]

    def tls_context(self, trusted: bytes, certificate: bytes, key: bytes) -> ssl.SSLContext:
        """TLS settings from PEM; without `trusted`, the machine's CAs count. Raises CredentialProblem."""
        try:
            settings = ssl.create_default_context(cadata=trusted.decode("ascii") if trusted else None)
            # As in Go: whatever stands in the file is an anchor, an issuing CA without its root too; and a CA need not
            # have all that RFC 5280 wants of those of the web, as newer versions of the library ask for.
            settings.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
            settings.verify_flags &= ~ssl.VERIFY_X509_STRICT
            if self.insecure:
                settings.check_hostname = False
                settings.verify_mode = ssl.CERT_NONE
            if certificate or key:
                _load_pair(settings, certificate, key)
        except (ssl.SSLError, UnicodeDecodeError) as error:
            raise credentials.CredentialProblem(
                f"the certificates cannot be used: {error}; do certificate and key belong together?"
            ) from error
        return settings


def _load_pair(settings: ssl.SSLContext, certificate: bytes, key: bytes) -> None:
    # The library reads a pair from a file only. This one is in memory where the system can do that: the key gets on no
    # disk, and a container need not have a place to write to.
    with _scratch() as sink:
        sink.write(certificate + b"\n" + key)
        sink.flush()
        settings.load_cert_chain(sink.name if isinstance(sink.name, str) else f"/proc/self/fd/{sink.fileno()}")


def _scratch() -> IO[bytes]:
    """A file that is nobody else's, and gone when it is closed."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("pair"), "wb")
    return tempfile.NamedTemporaryFile()


# --- a pod --------------------------------------------------------------------------------------------------------


def in_cluster(account: pathlib.Path = _ACCOUNT, environment: Mapping[str, str] = os.environ) -> Access:
    """The access that a pod is given: a service account's token, written anew before it ends. Raises SetupError."""
    host, port = environment.get("KUBERNETES_SERVICE_HOST", ""), environment.get("KUBERNETES_SERVICE_PORT", "")
    if not host or not port:
        raise errors.SetupError(
            "this is no pod: KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are not set",
            ("--kubeconfig names the API server",),
        )
    if not (account / "token").exists():
        raise errors.SetupError(
            f"the pod has no service account: there is no {account / 'token'}",
            ("automountServiceAccountToken may be false", "--kubeconfig names the API server"),
        )
    try:
        namespace = (account / "namespace").read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError):
        namespace = "default"
    return Access(
        base=f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}",
        source=credentials.Held(token=credentials.File(account / "token")),
        trusted=credentials.File(account / "ca.crt") if (account / "ca.crt").exists() else NOTHING,
        namespace=namespace,
    )


# --- kubeconfig files ---------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class _Entry:
    """A cluster, a user or a context, and the file that has it."""

    path: pathlib.Path
    values: Mapping[str, Any]

    def text(self, name: str) -> str:
        return str(self.values.get(name) or "")

    def content(self, data: str, file: str) -> credentials.Content:
        """What is under `data` in base64, or in the file named under `file`; nothing if neither is there."""
        if self.values.get(data):
            try:
                return credentials.Inline(base64.b64decode(self.text(data), validate=True))
            except binascii.Error as error:
                raise errors.SetupError(f"{data} in {self.path} is not base64", (_LOOK,)) from error
        return self.file(file)

    def file(self, name: str) -> credentials.Content:
        """What is in the file named there; nothing if none is."""
        if not self.values.get(name):
            return NOTHING
        made = credentials.File(self.path.parent / self.text(name))
        try:
            made.read()
        except credentials.CredentialProblem as error:
            raise errors.SetupError(f"{name} in {self.path}: {error}", (_LOOK,)) from error
        return made


def from_environment(environment: Mapping[str, str] = os.environ) -> Sequence[pathlib.Path]:
    """The files that KUBECONFIG names; those that do not exist are left out."""
    named = [pathlib.Path(each) for each in environment.get("KUBECONFIG", "").split(os.pathsep) if each]
    return [each for each in named if each.exists()]


def load(*paths: pathlib.Path, context: str = "") -> Access:
    """The access that kubeconfig files describe, by their current context or another. Raises SetupError."""
    files = [(path, _read(path)) for path in paths]
    name = context or next((str(each["current-context"]) for _, each in files if each.get("current-context")), "")
    if not name:
        raise errors.SetupError(
            f"{_names(paths)} has no current context", ("--context chooses one", "kubectl config use-context NAME")
        )
    chosen = _entry(files, "contexts", "context", name)
    cluster = _entry(files, "clusters", "cluster", chosen.text("cluster"))
    user = _entry(files, "users", "user", chosen.text("user")) if chosen.text("user") else _Entry(chosen.path, {})
    base = _base(cluster)
    url = urllib.parse.urlsplit(base)
    found = Access(
        base=base,
        source=_credentials(user, cluster),
        trusted=cluster.content("certificate-authority-data", "certificate-authority"),
        namespace=chosen.text("namespace") or "default",
        server_name=cluster.text("tls-server-name"),
        insecure=bool(cluster.values.get("insecure-skip-tls-verify")),
        proxy=_proxy(cluster) or proxies.chosen(url.hostname or "", url.port or 443, os.environ),
        impersonated=_impersonated(user),
    )
    _check(found, chosen.path)
    return found


def _names(paths: Sequence[pathlib.Path]) -> str:
    return ", ".join(map(str, paths)) or "the kubeconfig"


def _read(path: pathlib.Path) -> Mapping[str, Any]:
    try:
        found = goyaml.load(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise errors.SetupError(
            f"the kubeconfig {path} cannot be read: {getattr(error, 'strerror', None) or error}", (_ANOTHER,)
        ) from error
    except goyaml.Problem as error:
        raise errors.SetupError(f"the kubeconfig {path} is no YAML: {error}", (_ANOTHER,)) from error
    if not isinstance(found, dict):
        raise errors.SetupError(f"{path} is no kubeconfig", (_ANOTHER,))
    return found


def _entry(files: Sequence[tuple[pathlib.Path, Mapping[str, Any]]], section: str, inner: str, name: str) -> _Entry:
    for path, config in files:
        entries = config.get(section)
        for each in entries if isinstance(entries, list) else ():
            if isinstance(each, dict) and each.get("name") == name and isinstance(each.get(inner), dict):
                return _Entry(path, each[inner])
    raise errors.SetupError(f'{_names([path for path, _ in files])} has no {inner} "{name}"', (_LOOK,))


def _base(cluster: _Entry) -> str:
    text = cluster.text("server")
    url = urllib.parse.urlsplit(text)
    try:
        good = url.scheme == "https" and bool(url.hostname) and (url.port is None or url.port > 0)
    except ValueError:
        good = False
    if not good or url.query or url.fragment:
        raise errors.SetupError(f"{cluster.path} names no https server: {text}", (_LOOK,))
    return text.rstrip("/")


def _credentials(user: _Entry, cluster: _Entry) -> credentials.Source:
    if "auth-provider" in user.values:
        raise errors.SetupError(
            f"{user.path} uses an auth-provider, which Kubernetes has removed",
            ("use an exec plugin, a certificate or a token",),
        )
    if isinstance(user.values.get("exec"), dict):
        return credentials.Exec(_plugin(user, cluster), clocks.SystemClock())
    basic = ""
    if user.text("username"):
        pair = f"{user.text('username')}:{user.text('password')}".encode()
        basic = f"Basic {base64.b64encode(pair).decode('ascii')}"
    token = credentials.Inline(user.text("token").encode()) if user.text("token") else None
    # A file wins over the text: it is the one that is kept current.
    held = user.file("tokenFile") if user.text("tokenFile") else token or NOTHING
    return credentials.Held(
        token=held,
        certificate=user.content("client-certificate-data", "client-certificate"),
        key=user.content("client-key-data", "client-key"),
        basic=basic,
    )


def _plugin(user: _Entry, cluster: _Entry) -> credentials.Plugin:
    said = user.values["exec"]
    command = str(said.get("command") or "")
    if not command:
        raise errors.SetupError(f"the exec plugin in {user.path} has no command", (_LOOK,))
    if os.sep in command:
        # A name with a directory is relative to the file, one without is looked up as a shell does.
        command = str(user.path.parent / command)
    variables = {str(each["name"]): str(each.get("value", "")) for each in said.get("env") or () if "name" in each}
    return credentials.Plugin(
        version=credentials.plugin_version(said.get("apiVersion")),
        command=(command, *map(str, said.get("args") or ())),
        environment=variables,
        cluster=_told(cluster) if said.get("provideClusterInfo") else None,
        interactive=str(said.get("interactiveMode") or "IfAvailable"),
        hint=str(said.get("installHint") or ""),
    )


def _told(cluster: _Entry) -> Mapping[str, Any]:
    """What a plugin is told of the server."""
    authority = cluster.content("certificate-authority-data", "certificate-authority").read()
    said = {
        "server": cluster.text("server"),
        "tls-server-name": cluster.text("tls-server-name"),
        "insecure-skip-tls-verify": bool(cluster.values.get("insecure-skip-tls-verify")),
        "certificate-authority-data": base64.b64encode(authority).decode("ascii"),
        "proxy-url": cluster.text("proxy-url"),
    }
    return {name: value for name, value in said.items() if value}


def _proxy(cluster: _Entry) -> str:
    text = cluster.text("proxy-url")
    scheme = urllib.parse.urlsplit(text).scheme
    if text and scheme not in ("http", "https"):
        # Not the URL: it may have a password.
        raise errors.SetupError(
            f"the {scheme}:// proxy in {cluster.path} cannot be used", ("http:// and https:// proxies can",)
        )
    return text


def _impersonated(user: _Entry) -> Mapping[str, str | Sequence[str]]:
    if not user.text("as"):
        if any(user.values.get(each) for each in ("as-uid", "as-groups", "as-user-extra")):
            raise errors.SetupError(f"{user.path} says as-uid, as-groups or as-user-extra without as", (_LOOK,))
        return {}
    found: dict[str, str | Sequence[str]] = {"Impersonate-User": user.text("as")}
    if user.text("as-uid"):
        found["Impersonate-Uid"] = user.text("as-uid")
    if user.values.get("as-groups"):
        found["Impersonate-Group"] = [str(each) for each in user.values["as-groups"]]
    for name, values in (user.values.get("as-user-extra") or {}).items():
        found[_EXTRA + urllib.parse.quote(str(name), safe="")] = [str(each) for each in values]
    return found


def _check(access: Access, path: pathlib.Path) -> None:
    """Find out now what would fail at the first request. Raises SetupError."""
    if not isinstance(access.source, credentials.Held):
        return
    try:
        held = access.source
        access.tls_context(access.trusted.read(), held.certificate.read(), held.key.read())
    except credentials.CredentialProblem as error:
        raise errors.SetupError(f"{path}: {error}", (_LOOK,)) from error
