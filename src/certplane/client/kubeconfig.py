"""The server's address and the client's credentials: from kubeconfig files, as kubectl reads them, or inside a pod.

Of several files, the first that has an entry of a name is used. Certificates, keys, tokens and CAs may be in a file or
beside it; file names are relative to the kubeconfig that names them. All of these files are read again when they have
changed (`configfiles`). Source: client-go `tools/clientcmd`, `rest.InClusterConfig`.
"""

from __future__ import annotations

import base64
import dataclasses
import os
import pathlib
import ssl
import tempfile
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from typing import IO, Any, Final

from certplane import errors, files
from certplane.client import credentials, proxies
from certplane.client.configfiles import ConfigFiles, Reloaded
from certplane.client.credentials import CredentialProblem
from certplane.clock import SystemClock
from certplane.golang import goyaml

_ACCOUNT: Final = pathlib.Path("/var/run/secrets/kubernetes.io/serviceaccount")
_EXTRA: Final = "Impersonate-Extra-"
EMPTY: Final = credentials.Inline()
_LINE_BREAKS: Final = {ord("\r"): None, ord("\n"): None}
_FILE_HINT: Final = "set --kubeconfig to a kubeconfig file"
_VIEW_HINT: Final = "kubectl config view prints the kubeconfig"


@dataclasses.dataclass(frozen=True, slots=True)
class ClientConfig:
    """How to reach a server. `base` is its URL without a slash at the end, `source` has the credentials, `trusted` the
    CA certificates in PEM; `server_name` is the name in the server's certificate, if not the host; `impersonation` are
    header fields; `proxy` is a URL, empty for none. `latest` returns the configuration for the files as they are now.
    """

    base: str = dataclasses.field(repr=False)
    source: credentials.Source
    trusted: credentials.Content = EMPTY
    namespace: str = "default"
    server_name: str = ""
    insecure: bool = False
    proxy: str = dataclasses.field(default="", repr=False)
    impersonation: Mapping[str, str | Sequence[str]] = dataclasses.field(default_factory=dict)
    latest: Callable[[], ClientConfig] | None = dataclasses.field(default=None, repr=False, compare=False)

    def current(self) -> ClientConfig:
        """The configuration that is on disk now. To be called for every request."""
        return self if self.latest is None else self.latest()

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
    base = f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"
    entry = {"tokenFile": "token"}
    if (account / "ca.crt").exists():
        entry["certificate-authority"] = "ca.crt"

    def load_account(sources: ConfigFiles) -> ClientConfig:
        pod = _Entry(account / "token", entry, sources)
        trusted = pod.file("certificate-authority")
        config = ClientConfig(base, _credentials(pod, pod), trusted, namespace)
        _check(config, account)
        return config

    return _reloaded(load_account)


# --- kubeconfig files ---------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class _Entry:
    """A cluster, a user or a context, and the file that it is in."""

    path: pathlib.Path
    values: Mapping[str, Any]
    sources: ConfigFiles = dataclasses.field(repr=False)

    def text(self, name: str) -> str:
        return str(self.values.get(name) or "")

    def content(self, data: str, file: str) -> credentials.Content:
        """The base64 text under the key `data`, or the file named under the key `file`; empty without either."""
        if self.values.get(data):
            try:
                # Line breaks are allowed, as in Go: the text may be a block of YAML.
                text = self.text(data).translate(_LINE_BREAKS)
                return credentials.Inline(base64.b64decode(text, validate=True))
            except ValueError as error:
                # Not only binascii.Error: for text that is not ASCII it is a plain ValueError.
                raise errors.SetupError(f"{data} in {self.path} is not base64", (_VIEW_HINT,)) from error
        return self.file(file)

    def file(self, name: str) -> credentials.Content:
        """The file that is named under a key; empty without."""
        if not self.values.get(name):
            return EMPTY
        path = self.path.parent / self.text(name)
        try:
            content = self.sources.read(path)
        except OSError as error:
            raise errors.SetupError(
                f"{name} in {self.path}: {path} cannot be read: {files.error_text(error)}", (_VIEW_HINT,)
            ) from error
        if not content.strip():
            # Without it the client would trust other CAs, or be anonymous.
            raise errors.SetupError(f"{name} in {self.path}: {path} is empty", (_VIEW_HINT,))
        return credentials.Inline(content)


def load(*paths: pathlib.Path, context: str = "") -> ClientConfig:
    """The configuration in kubeconfig files, for `context` or their current context. Raises SetupError."""
    return _reloaded(lambda sources: _load(sources, paths, context))


def _reloaded(load_config: Callable[[ConfigFiles], ClientConfig]) -> ClientConfig:
    reloaded = Reloaded(load_config)
    return dataclasses.replace(reloaded.current(), latest=reloaded.current)


class _Documents:
    """The entries of some kubeconfigs. Raises SetupError for an entry that does not exist."""

    def __init__(self, sources: ConfigFiles, paths: Sequence[pathlib.Path]) -> None:
        self._sources = sources
        self._paths = paths
        self._documents = [(path, _read(path, sources)) for path in paths]

    def context(self, name: str) -> _Entry:
        """The context of a name; empty: the current one."""
        current = (document["current-context"] for _, document in self._documents if document.get("current-context"))
        name = name or str(next(current, ""))
        if not name:
            raise errors.SetupError(
                f"{_names(self._paths)} has no current context",
                ("set --context, or run kubectl config use-context NAME",),
            )
        return self.entry("contexts", "context", name)

    def entry(self, section: str, kind: str, name: str) -> _Entry:
        """The first entry of a name."""
        for path, document in self._documents:
            entries = document.get(section)
            for entry in entries if isinstance(entries, list) else ():
                if isinstance(entry, dict) and entry.get("name") == name and isinstance(entry.get(kind), dict):
                    return _Entry(path, entry[kind], self._sources)
        raise errors.SetupError(f'{_names(self._paths)} has no {kind} "{name}"', (_VIEW_HINT,))

    def empty(self, path: pathlib.Path) -> _Entry:
        """An entry without values."""
        return _Entry(path, {}, self._sources)


def _load(sources: ConfigFiles, paths: Sequence[pathlib.Path], context: str) -> ClientConfig:
    documents = _Documents(sources, paths)
    selected = documents.context(context)
    cluster = documents.entry("clusters", "cluster", selected.text("cluster"))
    user_name = selected.text("user")
    user = documents.entry("users", "user", user_name) if user_name else documents.empty(selected.path)
    base = _base(cluster)
    config = ClientConfig(
        base=base,
        source=_credentials(user, cluster),
        trusted=cluster.content("certificate-authority-data", "certificate-authority"),
        namespace=selected.text("namespace") or "default",
        server_name=cluster.text("tls-server-name"),
        insecure=bool(cluster.values.get("insecure-skip-tls-verify")),
        proxy=_proxy(cluster) or _environment_proxy(base),
        impersonation=_impersonation(user),
    )
    _check(config, selected.path)
    return config


def _names(paths: Sequence[pathlib.Path]) -> str:
    return ", ".join(map(str, paths)) or "the kubeconfig"


def _read(path: pathlib.Path, sources: ConfigFiles) -> Mapping[str, Any]:
    try:
        config = goyaml.load(sources.read(path).decode("utf-8"))
    except OSError as error:
        raise errors.SetupError(
            f"the kubeconfig {path} cannot be read: {files.error_text(error)}", (_FILE_HINT,)
        ) from error
    except UnicodeDecodeError as error:
        raise errors.SetupError(f"the kubeconfig {path} cannot be read: it is not UTF-8", (_FILE_HINT,)) from error
    except goyaml.YAMLError as error:
        raise errors.SetupError(f"the kubeconfig {path} is not valid YAML: {error}", (_FILE_HINT,)) from error
    if not isinstance(config, dict):
        raise errors.SetupError(f"{path} is not a kubeconfig", (_FILE_HINT,))
    return config


def _base(cluster: _Entry) -> str:
    text = cluster.text("server")
    try:
        url = urllib.parse.urlsplit(text)
        is_valid = url.scheme == "https" and bool(url.hostname) and (url.port is None or url.port > 0)
        is_valid = is_valid and not url.query and not url.fragment
    except ValueError:
        is_valid = False
    if not is_valid:
        # A URL with an @ may have a password.
        shown = "" if "@" in text else f": {text}"
        raise errors.SetupError(f"the server in {cluster.path} is not an https:// URL{shown}", (_VIEW_HINT,))
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
    problem = user.sources.untrusted_owner(user.path)
    if problem:
        raise errors.SetupError(
            f"the exec plugin in {user.path} would run as root: {problem}",
            (f"run certplane as that user, or chown root {user.path} and chmod go-w {user.path}",),
        )
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
    """The URL of the proxy in a kubeconfig; empty for none."""
    return _checked_proxy(cluster.text("proxy-url"), str(cluster.path))


def _environment_proxy(base: str) -> str:
    """The URL of the proxy for a server in the environment; empty for none."""
    url = urllib.parse.urlsplit(base)
    return _checked_proxy(proxies.proxy_url(url.hostname or "", url.port or 443, os.environ), "HTTPS_PROXY")


def _checked_proxy(text: str, where: str) -> str:
    if not text:
        return ""
    # Errors never repeat the URL: it may have a password.
    try:
        proxy = urllib.parse.urlsplit(text)
        is_valid = bool(proxy.hostname) and (proxy.port is None or proxy.port > 0)
    except ValueError:
        is_valid = False
    if not is_valid:
        raise errors.SetupError(f"the proxy in {where} is not a valid URL", ("use a URL such as http://proxy:3128",))
    if proxy.scheme not in ("http", "https"):
        raise errors.SetupError(
            f"the proxy in {where} has an unsupported scheme: {proxy.scheme}://", ("use an http:// or https:// proxy",)
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


# --- for new kubeconfigs ------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class Cluster:
    """A server as a new kubeconfig describes it, for any user: without credentials, also in the URLs of server and
    proxy. `trusted` are CA certificates in PEM; empty: the system's.
    """

    name: str
    server: str
    trusted: bytes = b""
    server_name: str = ""
    insecure: bool = False
    proxy: str = ""
    namespace: str = ""


def load_cluster(*paths: pathlib.Path, context: str = "") -> Cluster:
    """The server of `context` or of the current context, in kubeconfigs that `load` accepts. Raises SetupError."""
    documents = _Documents(ConfigFiles(), paths)
    selected = documents.context(context)
    cluster = documents.entry("clusters", "cluster", selected.text("cluster"))
    server = _base(cluster)
    return Cluster(
        name=selected.text("cluster"),
        server=_without_user(server),
        trusted=cluster.content("certificate-authority-data", "certificate-authority").read(),
        server_name=cluster.text("tls-server-name"),
        insecure=bool(cluster.values.get("insecure-skip-tls-verify")),
        proxy=_without_user(_proxy(cluster)),
        namespace=selected.text("namespace"),
    )


def _without_user(text: str) -> str:
    """A URL without user name and password."""
    url = urllib.parse.urlsplit(text)
    return url._replace(netloc=url.netloc.rpartition("@")[2]).geturl()
