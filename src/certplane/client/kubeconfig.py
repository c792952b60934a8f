"""The server's address and the client's credentials: from kubeconfig files, as kubectl reads them, or inside a pod.

Of several files, the first that has an entry of a name is used. Certificates, keys, tokens and CAs may be in a file or
beside it; file names are relative to the kubeconfig that names them. Source: client-go `tools/clientcmd`,
`rest.InClusterConfig`.
"""

from __future__ import annotations

import base64
import dataclasses
import os
import pathlib
import ssl
import tempfile
import urllib.parse
from collections.abc import Mapping, Sequence
from typing import IO, Any, Final

from certplane import errors
from certplane.client import credentials, proxies
from certplane.client.credentials import CredentialProblem
from certplane.clock import SystemClock
from certplane.golang import goyaml

_ACCOUNT: Final = pathlib.Path("/var/run/secrets/kubernetes.io/serviceaccount")
_EXTRA: Final = "Impersonate-Extra-"
EMPTY: Final = credentials.Inline()
_FILE_HINT: Final = "set --kubeconfig to a kubeconfig file"
_VIEW_HINT: Final = "kubectl config view prints the kubeconfig"


@dataclasses.dataclass(frozen=True, slots=True)
class ClientConfig:
    """How to reach a server. `base` is its URL without a slash at the end, `source` has the credentials, `trusted` the
    CA certificates in PEM; `server_name` is the name in the server's certificate, if not the host; `impersonation` are
    header fields; `proxy` is a URL, empty for none.
    """

    base: str = dataclasses.field(repr=False)
    source: credentials.Source
    trusted: credentials.Content = EMPTY
    namespace: str = "default"
    server_name: str = ""
    insecure: bool = False
    proxy: str = dataclasses.field(default="", repr=False)
    impersonation: Mapping[str, str | Sequence[str]] = dataclasses.field(default_factory=dict)

    @property
    def host(self) -> str:
        """Host and port, for messages: without the password that a URL may have."""
        return urllib.parse.urlsplit(self.base).netloc.rpartition("@")[2]

    def tls_context(self, trusted: bytes, certificate: bytes, key: bytes) -> ssl.SSLContext:
        """A TLS context from PEM; without `trusted`, the system's CAs are used. Raises CredentialProblem."""
        try:
            context = ssl.create_default_context(cadata=trusted.decode("ascii") if trusted else None)
            # As in Go: every certificate in the file is a trust anchor, also an intermediate without its root; and
            # the stricter checks of RFC 5280 that newer versions of the library turn on are off.
            context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
            context.verify_flags &= ~ssl.VERIFY_X509_STRICT
            if self.insecure:
                context.check_hostname = False
                context.verify_mode = ssl.CERT_NONE
            if certificate or key:
                _load_pair(context, certificate, key)
        except (ssl.SSLError, UnicodeDecodeError) as error:
            raise CredentialProblem(
                f"the certificates cannot be used: {error}; check that certificate and key match"
            ) from error
        return context


def _load_pair(context: ssl.SSLContext, certificate: bytes, key: bytes) -> None:
    # The library reads a pair from a file only. Where the system has files in memory, it is one of those: the key is
    # not written to a disk, and a container needs no writable directory.
    with _temporary_file() as file:
        file.write(certificate + b"\n" + key)
        file.flush()
        context.load_cert_chain(file.name if isinstance(file.name, str) else f"/proc/self/fd/{file.fileno()}")


def _temporary_file() -> IO[bytes]:
    """A private file that is deleted when it is closed."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("pair"), "wb")
    return tempfile.NamedTemporaryFile()


# --- a pod --------------------------------------------------------------------------------------------------------


def in_cluster(account: pathlib.Path = _ACCOUNT, environment: Mapping[str, str] = os.environ) -> ClientConfig:
    """The configuration inside a pod, with the token of its service account. Raises SetupError."""
    host, port = environment.get("KUBERNETES_SERVICE_HOST", ""), environment.get("KUBERNETES_SERVICE_PORT", "")
    if not host or not port:
        raise errors.SetupError(
            "not running in a pod: KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are not set",
            ("set --kubeconfig",),
        )
    if not (account / "token").exists():
        raise errors.SetupError(
            f"the pod has no service account token: {account / 'token'} does not exist",
            ("check automountServiceAccountToken of the pod", "or set --kubeconfig"),
        )
    try:
        namespace = (account / "namespace").read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError):
        namespace = "default"
    return ClientConfig(
        base=f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}",
        source=credentials.StoredCredentials(token=credentials.File(account / "token")),
        trusted=credentials.File(account / "ca.crt") if (account / "ca.crt").exists() else EMPTY,
        namespace=namespace,
    )


# --- kubeconfig files ---------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class _Entry:
    """A cluster, a user or a context, and the file that it is in."""

    path: pathlib.Path
    values: Mapping[str, Any]

    def text(self, name: str) -> str:
        return str(self.values.get(name) or "")

    def content(self, data: str, file: str) -> credentials.Content:
        """The base64 text under the key `data`, or the file named under the key `file`; empty without either."""
        if self.values.get(data):
            try:
                return credentials.Inline(base64.b64decode(self.text(data), validate=True))
            except ValueError as error:
                # Not only binascii.Error: for text that is not ASCII it is a plain ValueError.
                raise errors.SetupError(f"{data} in {self.path} is not base64", (_VIEW_HINT,)) from error
        return self.file(file)

    def file(self, name: str) -> credentials.Content:
        """The file that is named under a key; empty without."""
        if not self.values.get(name):
            return EMPTY
        file = credentials.File(self.path.parent / self.text(name))
        try:
            file.read()
        except CredentialProblem as error:
            raise errors.SetupError(f"{name} in {self.path}: {error}", (_VIEW_HINT,)) from error
        return file


def load(*paths: pathlib.Path, context: str = "") -> ClientConfig:
    """The configuration in kubeconfig files, for `context` or their current context. Raises SetupError."""
    files = [(path, _read(path)) for path in paths]
    name = context or next((str(config["current-context"]) for _, config in files if config.get("current-context")), "")
    if not name:
        raise errors.SetupError(
            f"{_names(paths)} has no current context", ("set --context, or run kubectl config use-context NAME",)
        )
    selected = _entry(files, "contexts", "context", name)
    cluster = _entry(files, "clusters", "cluster", selected.text("cluster"))
    user = _entry(files, "users", "user", selected.text("user")) if selected.text("user") else _Entry(selected.path, {})
    base = _base(cluster)
    url = urllib.parse.urlsplit(base)
    config = ClientConfig(
        base=base,
        source=_credentials(user, cluster),
        trusted=cluster.content("certificate-authority-data", "certificate-authority"),
        namespace=selected.text("namespace") or "default",
        server_name=cluster.text("tls-server-name"),
        insecure=bool(cluster.values.get("insecure-skip-tls-verify")),
        proxy=_proxy(cluster) or proxies.proxy_url(url.hostname or "", url.port or 443, os.environ),
        impersonation=_impersonation(user),
    )
    _check(config, selected.path)
    return config


def _names(paths: Sequence[pathlib.Path]) -> str:
    return ", ".join(map(str, paths)) or "the kubeconfig"


def _read(path: pathlib.Path) -> Mapping[str, Any]:
    try:
        config = goyaml.load(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise errors.SetupError(
            f"the kubeconfig {path} cannot be read: {getattr(error, 'strerror', None) or error}", (_FILE_HINT,)
        ) from error
    except goyaml.YAMLError as error:
        raise errors.SetupError(f"the kubeconfig {path} is not valid YAML: {error}", (_FILE_HINT,)) from error
    if not isinstance(config, dict):
        raise errors.SetupError(f"{path} is not a kubeconfig", (_FILE_HINT,))
    return config


def _entry(files: Sequence[tuple[pathlib.Path, Mapping[str, object]]], section: str, inner: str, name: str) -> _Entry:
    for path, config in files:
        entries = config.get(section)
        for entry in entries if isinstance(entries, list) else ():
            if isinstance(entry, dict) and entry.get("name") == name and isinstance(entry.get(inner), dict):
                return _Entry(path, entry[inner])
    raise errors.SetupError(f'{_names([path for path, _ in files])} has no {inner} "{name}"', (_VIEW_HINT,))


def _base(cluster: _Entry) -> str:
    text = cluster.text("server")
    url = urllib.parse.urlsplit(text)
    try:
        is_valid = url.scheme == "https" and bool(url.hostname) and (url.port is None or url.port > 0)
    except ValueError:
        is_valid = False
    if not is_valid or url.query or url.fragment:
        raise errors.SetupError(f"the server in {cluster.path} is not an https:// URL: {text}", (_VIEW_HINT,))
    return text.rstrip("/")


def _credentials(user: _Entry, cluster: _Entry) -> credentials.Source:
    if "auth-provider" in user.values:
        raise errors.SetupError(
            f"{user.path} uses an auth-provider, which Kubernetes has removed",
            ("use an exec plugin, a certificate or a token",),
        )
    if isinstance(user.values.get("exec"), dict):
        return credentials.ExecCredentials(_plugin(user, cluster), SystemClock())
    basic = ""
    if user.text("username"):
        pair = f"{user.text('username')}:{user.text('password')}".encode()
        basic = f"Basic {base64.b64encode(pair).decode('ascii')}"
    inline = credentials.Inline(user.text("token").encode())
    # tokenFile takes precedence over token: the file is kept current.
    token = user.file("tokenFile") if user.text("tokenFile") else inline
    return credentials.StoredCredentials(
        token=token,
        certificate=user.content("client-certificate-data", "client-certificate"),
        key=user.content("client-key-data", "client-key"),
        basic=basic,
    )


def _plugin(user: _Entry, cluster: _Entry) -> credentials.ExecPlugin:
    spec = user.values["exec"]
    command = str(spec.get("command") or "")
    if not command:
        raise errors.SetupError(f"the exec plugin in {user.path} has no command", (_VIEW_HINT,))
    if os.sep in command:
        # A name with a directory is relative to the kubeconfig; one without is looked up in PATH.
        command = str(user.path.parent / command)
    variables = {str(item["name"]): str(item.get("value", "")) for item in spec.get("env") or () if "name" in item}
    return credentials.ExecPlugin(
        version=credentials.plugin_version(spec.get("apiVersion")),
        command=(command, *map(str, spec.get("args") or ())),
        environment=variables,
        cluster=_cluster_info(cluster) if spec.get("provideClusterInfo") else None,
        interactive=str(spec.get("interactiveMode") or "IfAvailable"),
        hint=str(spec.get("installHint") or ""),
    )


def _cluster_info(cluster: _Entry) -> Mapping[str, object]:
    """The description of the server for an exec plugin."""
    authority = cluster.content("certificate-authority-data", "certificate-authority").read()
    info = {
        "server": cluster.text("server"),
        "tls-server-name": cluster.text("tls-server-name"),
        "insecure-skip-tls-verify": bool(cluster.values.get("insecure-skip-tls-verify")),
        "certificate-authority-data": base64.b64encode(authority).decode("ascii"),
        "proxy-url": cluster.text("proxy-url"),
    }
    return {name: value for name, value in info.items() if value}


def _proxy(cluster: _Entry) -> str:
    text = cluster.text("proxy-url")
    scheme = urllib.parse.urlsplit(text).scheme
    if text and scheme not in ("http", "https"):
        # Not the URL: it may have a password.
        raise errors.SetupError(
            f"the proxy in {cluster.path} has an unsupported scheme: {scheme}://", ("use an http:// or https:// proxy",)
        )
    return text


def _impersonation(user: _Entry) -> Mapping[str, str | Sequence[str]]:
    if not user.text("as"):
        if any(user.values.get(key) for key in ("as-uid", "as-groups", "as-user-extra")):
            raise errors.SetupError(f"{user.path} has as-uid, as-groups or as-user-extra without as", (_VIEW_HINT,))
        return {}
    fields: dict[str, str | Sequence[str]] = {"Impersonate-User": user.text("as")}
    if user.text("as-uid"):
        fields["Impersonate-Uid"] = user.text("as-uid")
    if user.values.get("as-groups"):
        fields["Impersonate-Group"] = [str(group) for group in user.values["as-groups"]]
    for name, values in (user.values.get("as-user-extra") or {}).items():
        fields[_EXTRA + urllib.parse.quote(str(name), safe="")] = [str(value) for value in values]
    return fields


def _check(config: ClientConfig, path: pathlib.Path) -> None:
    """Check now what would fail at the first request. Raises SetupError."""
    source = config.source
    if not isinstance(source, credentials.StoredCredentials):
        return
    try:
        config.tls_context(config.trusted.read(), source.certificate.read(), source.key.read())
    except CredentialProblem as error:
        raise errors.SetupError(f"{path}: {error}", (_VIEW_HINT,)) from error
