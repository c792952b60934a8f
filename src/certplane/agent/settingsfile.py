"""Read the agent's configuration, and report all problems at once, each with the path of its field."""

from __future__ import annotations

import difflib
import ipaddress
import os
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from certplane import files, signernames
from certplane.agent import settings
from certplane.agent.schedule import RenewalTimes, Window
from certplane.agent.settings import AgentSettings, CertificateSettings
from certplane.config.options import MAX_QUOTE, Address
from certplane.errors import SetupError
from certplane.golang import formatting, goyaml
from certplane.meta import names
from certplane.x509 import keys
from certplane.x509.certificatenames import Subject
from certplane.x509.tbs.template import AltNames

_MAX_BYTES: Final = 1024 * 1024
_MAX_PROBLEM: Final = 500
_MAX_ITEMS: Final = 100
#: The minimum of spec.expirationSeconds, and the maximum of its type.
_MIN_EXPIRATION: Final = 600
_MAX_EXPIRATION: Final = 2**31 - 1
_DAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_USAGES: Final = (
    "signing", "digital signature", "content commitment", "key encipherment", "key agreement", "data encipherment",
    "server auth", "client auth", "code signing", "email protection", "s/mime", "ipsec end system", "ipsec tunnel",
    "ipsec user", "timestamping", "ocsp signing",
)  # fmt: skip
_CLIENT_SIGNERS: Final = (signernames.KUBE_APISERVER_CLIENT, signernames.KUBE_APISERVER_CLIENT_KUBELET)
_SIGNALS: Final = ("HUP", "INT", "QUIT", "TERM", "USR1", "USR2", "WINCH")
_LEVELS: Final = ("DEBUG", "INFO", "WARNING", "ERROR")
_EXAMPLE_HINT: Final = "docs/agent.md has an example"


class ConfigurationError(SetupError):
    """A configuration that cannot be used. `problems` are sentences, each beginning with the path of a field."""

    def __init__(self, path: pathlib.Path, problems: Sequence[str]) -> None:
        super().__init__(f"{path}: {'; '.join(problems)}", (f"certplane agent check {path}", _EXAMPLE_HINT))
        self.path = path
        self.problems = tuple(problems)


def load(path: pathlib.Path) -> AgentSettings:
    """The configuration in a file. Relative paths in it are relative to its directory. Raises SetupError, of which
    ConfigurationError has everything that is wrong.
    """
    hint = f"write it, or name another file; {_EXAMPLE_HINT}"
    with files.as_setup_error(f"the configuration file {path} cannot be read", hint):
        content = files.read_regular(path, _MAX_BYTES)
    try:
        document = goyaml.load(content)
    except (goyaml.YAMLError, UnicodeDecodeError) as error:
        problem = formatting.shorten(str(error), _MAX_PROBLEM)
        raise ConfigurationError(path, (f"not valid YAML: {problem}",)) from error
    if not isinstance(document, dict):
        raise ConfigurationError(path, ("not a YAML mapping",))
    problems: list[str] = []
    parsed = _agent(_Fields(document, "", problems, path.absolute().parent))
    if problems:
        raise ConfigurationError(path, problems)
    return parsed


# --- fields of a mapping -------------------------------------------------------------------------------------------


class _Fields:
    """The fields of one mapping. A reader that finds a problem records it and returns a harmless value. `finish`
    records the fields that were not read: they are unknown.
    """

    def __init__(self, values: Mapping[str, Any], path: str, problems: list[str], base: pathlib.Path) -> None:
        self._values = values
        self._path = path
        self._problems = problems
        self._base = base
        self._known: list[str] = []

    def report(self, name: str, problem: str) -> None:
        """Record a problem of a field; of the mapping itself, if `name` is empty."""
        self._problems.append(f"{self.path(name)}: {problem}")

    def path(self, name: str) -> str:
        """The path of a field in the document."""
        return ".".join(part for part in (self._path, name) if part) or "the document"

    def has(self, name: str) -> bool:
        """Whether a field is set."""
        return self._values.get(name) is not None

    def _take(self, name: str) -> Any:
        self._known.append(name)
        return self._values.get(name)

    def text(self, name: str, default: str = "", *, required: bool = False) -> str:
        value = self._take(name)
        if value is None or value == "":
            if required:
                self.report(name, "required")
            return default
        if not isinstance(value, str):
            self.report(name, f"must be a string, not {_quote(value)}")
            return default
        if not value.isprintable():
            self.report(name, f"has characters that are not printable: {_quote(value)}")
            return default
        return value

    def choice(self, name: str, choices: Sequence[str], default: str) -> str:
        text = self.text(name, default)
        if text not in choices:
            self.report(name, f"must be one of {', '.join(choices)}, not {_quote(text)}")
            return default
        return text

    def number(self, name: str, default: float, low: float, high: float) -> float:
        value = self._take(name)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            self.report(name, f"must be a number from {low:g} to {high:g}, not {_quote(value)}")
            return default
        return value

    def seconds(self, name: str, default: float, low: float, high: float) -> float:
        text = self.text(name)
        if not text:
            return default
        duration = formatting.parse_duration(text)
        if duration is None:
            self.report(name, f"not a duration: {_quote(text)}; write it as 1h30m or 45s")
            return default
        if not low <= duration.total_seconds() <= high:
            limits = f"{formatting.human_duration(low)} to {formatting.human_duration(high)}"
            self.report(name, f"must be from {limits}, not {_quote(text)}")
            return default
        return duration.total_seconds()

    def flag(self, name: str, *, default: bool) -> bool:
        value = self._take(name)
        if value is not None and not isinstance(value, bool):
            self.report(name, f"must be true or false, not {_quote(value)}")
        return value if isinstance(value, bool) else default

    def mode(self, name: str, default: int) -> int:
        """A file mode: octal, as a string or as a number. Only the owner may write, nobody may execute."""
        value = self._take(name)
        if value is None:
            return default
        if isinstance(value, str) and re.fullmatch("0?[0-7]{3}", value):
            value = int(value, 8)
        # YAML reads 0640 as octal; 640 is a number that no such mode has.
        if isinstance(value, bool) or not isinstance(value, int) or value & ~0o644 or not value & 0o400:
            self.report(name, f'must be a mode such as "0640" in which only the owner may write, not {_quote(value)}')
            return default
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        items = self._list(name)
        for index, item in enumerate(items):
            if not isinstance(item, str) or not item or not item.isprintable():
                self.report(f"{name}[{index}]", f"must be a string, not {_quote(item)}")
        return tuple(item for item in items if isinstance(item, str))

    def file(self, name: str, *, required: bool = False) -> pathlib.Path | None:
        text = self.text(name, required=required)
        return self._base / text if text else None

    def child(self, name: str) -> _Fields | None:
        """The mapping under a name; None if it is absent."""
        value = self._take(name)
        if value is None:
            return None
        if not isinstance(value, dict):
            self.report(name, f"must be a mapping, not {_quote(value)}")
            return None
        return _Fields(value, self.path(name), self._problems, self._base)

    def children(self, name: str) -> list[_Fields]:
        """The mappings in a list."""
        fields = []
        for index, item in enumerate(self._list(name)):
            path = f"{name}[{index}]"
            if isinstance(item, dict):
                fields.append(_Fields(item, self.path(path), self._problems, self._base))
            else:
                self.report(path, f"must be a mapping, not {_quote(item)}")
        return fields

    def _list(self, name: str) -> list[Any]:
        value = self._take(name)
        if value is None:
            return []
        if not isinstance(value, list):
            self.report(name, f"must be a list, not {_quote(value)}")
            return []
        if len(value) > _MAX_ITEMS:
            self.report(name, f"has {len(value)} items; the limit is {_MAX_ITEMS}")
        return value[:_MAX_ITEMS]

    def finish(self) -> None:
        """Record the fields that nobody asked for."""
        for name in self._values:
            if name not in self._known:
                quoted = formatting.shorten(str(name), MAX_QUOTE)
                similar = difflib.get_close_matches(quoted, self._known, 1)
                suggestion = f'; did you mean "{similar[0]}"?' if similar else ""
                self.report(quoted, f"unknown field{suggestion}")


def _quote(value: object) -> str:
    return formatting.quote(formatting.shorten(value if isinstance(value, str) else repr(value), MAX_QUOTE))


# --- the document --------------------------------------------------------------------------------------------------


def _agent(fields: _Fields) -> AgentSettings:
    for name, expected in (("apiVersion", settings.API_VERSION), ("kind", settings.KIND)):
        actual = fields.text(name, required=True)
        if actual and actual != expected:
            fields.report(name, f"must be {expected}, not {_quote(actual)}")
    certificates = tuple(_certificate(item) for item in fields.children("certificates"))
    bundles = tuple(_trust_bundle(item) for item in fields.children("trustBundles"))
    if not certificates and not bundles:
        fields.report("certificates", "required: at least one, or a trust bundle")
    parsed = AgentSettings(
        directory=fields.file("directory") or settings.DEFAULT_DIRECTORY,
        server=_server(fields.child("server")),
        certificates=certificates,
        trust_bundles=bundles,
        notice=_notice(fields.child("renewalNotice")),
        metrics_address=_address(fields, "metricsAddress"),
        log_level=fields.choice("logLevel", _LEVELS, "INFO"),
    )
    fields.finish()
    _check_names(parsed, fields)
    _check_paths(parsed, fields)
    return parsed


def _check_names(parsed: AgentSettings, fields: _Fields) -> None:
    seen: set[str] = set()
    for index, certificate in enumerate(parsed.certificates):
        if certificate.name and certificate.name in seen:
            fields.report(f"certificates[{index}].name", f"duplicate: {_quote(certificate.name)}")
        seen.add(certificate.name)
    identity = parsed.server.identity
    if not identity:
        return
    certificate_of_identity = parsed.certificate(identity)
    if certificate_of_identity is None:
        fields.report("server.identity", f"there is no certificate {_quote(identity)}")
    elif "client auth" not in certificate_of_identity.usages:
        fields.report("server.identity", f'the certificate {_quote(identity)} needs the usage "client auth"')


def _check_paths(parsed: AgentSettings, fields: _Fields) -> None:
    """Two files at one path would overwrite each other at every renewal."""
    users: dict[pathlib.Path, str] = {}

    def claim(path: pathlib.Path | None, name: str) -> None:
        if path is None:
            return
        normal = pathlib.Path(os.path.normpath(path))
        if normal in users:
            fields.report(name, f"{path} is also the path of {users[normal]}")
        users[normal] = name

    for index, certificate in enumerate(parsed.certificates):
        outputs = certificate.outputs
        for name in ("certificate", "key", "ca", "pkcs12"):
            claim(getattr(outputs, name), f"certificates[{index}].outputs.{name}")
    for index, bundle in enumerate(parsed.trust_bundles):
        claim(bundle.path, f"trustBundles[{index}].path")


def _server(fields: _Fields | None) -> settings.ServerSettings:
    if fields is None:
        return settings.ServerSettings()
    server = settings.ServerSettings(
        kubeconfig=fields.file("kubeconfig"),
        context=fields.text("context"),
        token_file=fields.file("tokenFile"),
        identity=fields.text("identity"),
    )
    fields.finish()
    if server.context and server.kubeconfig is None:
        fields.report("context", "needs a kubeconfig")
    return server


def _notice(fields: _Fields | None) -> settings.RenewalNotice | None:
    default = settings.RenewalNotice()
    if fields is None:
        return default
    enabled = fields.flag("enabled", default=True)
    namespace, name = fields.text("namespace", default.namespace), fields.text("name", default.name)
    fields.finish()
    for field, text in (("namespace", namespace), ("name", name)):
        _check_name(fields, field, text)
    return settings.RenewalNotice(namespace, name) if enabled else None


def _check_name(fields: _Fields, field: str, text: str) -> None:
    for problem in names.dns1123_subdomain_problems(text) if text else ():
        fields.report(field, f"{_quote(text)}: {problem}")


def _trust_bundle(fields: _Fields) -> settings.TrustBundle:
    path = fields.file("path", required=True) or pathlib.Path()
    config_map = None
    reference = fields.child("configMap")
    if reference is not None:
        config_map = settings.ConfigMapKey(
            namespace=reference.text("namespace", required=True),
            name=reference.text("name", required=True),
            key=reference.text("key", "ca.crt"),
        )
        reference.finish()
        _check_name(reference, "namespace", config_map.namespace)
        _check_name(reference, "name", config_map.name)
    bundle = settings.TrustBundle(
        path=path,
        config_map=config_map,
        cluster_trust_bundle=fields.text("clusterTrustBundle"),
        signer_name=fields.text("signerName"),
    )
    fields.finish()
    if sum(map(bool, (bundle.config_map, bundle.cluster_trust_bundle, bundle.signer_name))) != 1:
        fields.report("", "needs exactly one of configMap, clusterTrustBundle and signerName")
    return bundle


def _address(fields: _Fields, name: str) -> Address | None:
    """HOST:PORT; None if the field is absent, or not valid."""
    text = fields.text(name)
    if not text:
        return None
    host, colon, port = text.rpartition(":")
    is_bracketed = host.startswith("[") and host.endswith("]")
    host = host[1:-1] if is_bracketed else host
    if not colon or not host or (":" in host) != is_bracketed or not re.fullmatch("[0-9]{1,5}", port):
        fields.report(name, f"not HOST:PORT: {_quote(text)}")
        return None
    if not 1 <= int(port) <= 65535:
        fields.report(name, f"the port must be from 1 to 65535: {_quote(text)}")
        return None
    return Address(host, int(port))


# --- a certificate -------------------------------------------------------------------------------------------------


def _certificate(fields: _Fields) -> CertificateSettings:
    name = fields.text("name", required=True)
    for problem in names.dns1123_label_problems(name) if name else ():
        fields.report("name", f"{_quote(name)}: {problem}")
    signer = fields.text("signerName", required=True)
    domain, slash, path = signer.partition("/")
    if signer and (not slash or not path or names.dns1123_subdomain_problems(domain)):
        fields.report("signerName", f"must be DOMAIN/PATH, not {_quote(signer)}")
    subject = _subject(fields.child("subject"))
    alt_names = _alt_names(fields)
    if not (subject.common_name or subject.organization or alt_names):
        fields.report("subject", "required: a commonName, or dnsNames, ipAddresses or uris")
    if signer in _CLIENT_SIGNERS and not subject.common_name:
        fields.report("subject.commonName", f"required by the signer {signer}: it is the user name")
    lifetime = fields.seconds("lifetime", 0, _MIN_EXPIRATION, _MAX_EXPIRATION)
    certificate = CertificateSettings(
        name=name,
        signer_name=signer,
        subject=subject,
        names=alt_names,
        usages=_usages(fields, signer),
        expiration_seconds=int(lifetime) or None,
        key_kind=fields.choice("key", keys.KINDS, "ECDSA-P256"),
        renewal=_renewal(fields.child("renewal")),
        outputs=_outputs(fields.child("outputs")),
        hooks=tuple(_hook(item) for item in fields.children("hooks")),
        probe=_probe(fields.child("probe")),
    )
    fields.finish()
    return certificate


def _subject(fields: _Fields | None) -> Subject:
    if fields is None:
        return Subject()
    subject = Subject(
        common_name=fields.text("commonName"),
        organization=fields.texts("organizations"),
        organizational_unit=fields.texts("organizationalUnits"),
        country=fields.texts("countries"),
        province=fields.texts("provinces"),
        locality=fields.texts("localities"),
    )
    fields.finish()
    return subject


def _alt_names(fields: _Fields) -> AltNames:
    dns_names, uris = fields.texts("dnsNames"), fields.texts("uris")
    for index, name in enumerate(dns_names):
        for problem in names.dns1123_subdomain_problems(name.removeprefix("*.")):
            fields.report(f"dnsNames[{index}]", f"{_quote(name)}: {problem}")
    for index, uri in enumerate(uris):
        if not uri.isascii() or ":" not in uri:
            fields.report(f"uris[{index}]", f"not a URI: {_quote(uri)}")
    addresses = []
    for index, text in enumerate(fields.texts("ipAddresses")):
        try:
            addresses.append(ipaddress.ip_address(text))
        except ValueError:
            fields.report(f"ipAddresses[{index}]", f"not an IP address: {_quote(text)}")
    return AltNames(dns=dns_names, ip=tuple(addresses), uri=uris)


def _usages(fields: _Fields, signer: str) -> tuple[str, ...]:
    usages = fields.texts("usages")
    for index, usage in enumerate(usages):
        if usage not in _USAGES:
            fields.report(f"usages[{index}]", f"must be one of {', '.join(_USAGES)}, not {_quote(usage)}")
    if len(set(usages)) != len(usages):
        fields.report("usages", "has duplicates")
    if usages:
        return usages
    if signer in _CLIENT_SIGNERS:
        return ("digital signature", "client auth")
    if signer != signernames.KUBELET_SERVING:
        fields.report("usages", "required for this signer, such as [digital signature, server auth]")
    return ("digital signature", "server auth")


def _renewal(fields: _Fields | None) -> RenewalTimes:
    if fields is None:
        return RenewalTimes()
    first = fields.number("fromPercent", 70, 10, 95) / 100
    last = fields.number("toPercent", 90, 10, 95) / 100
    window = _window(fields.child("window"))
    fields.finish()
    if first > last:
        fields.report("fromPercent", "must not be more than toPercent")
    return RenewalTimes(first, max(first, last), window)


def _window(fields: _Fields | None) -> Window | None:
    if fields is None:
        return None
    days = fields.texts("days") or _DAYS
    for index, day in enumerate(days):
        if day not in _DAYS:
            fields.report(f"days[{index}]", f"must be one of {', '.join(_DAYS)}, not {_quote(day)}")
    start = fields.text("start", required=True)
    match = re.fullmatch(r"([01][0-9]|2[0-3]):([0-5][0-9])", start)
    if start and match is None:
        fields.report("start", f'must be a time in UTC such as "02:30", not {_quote(start)}')
    duration = fields.seconds("duration", 3600, 60, 86400)
    fields.finish()
    numbers = tuple(sorted({_DAYS.index(day) for day in days if day in _DAYS}))
    seconds = int(match[1]) * 3600 + int(match[2]) * 60 if match is not None else 0
    return Window(numbers or tuple(range(7)), seconds, int(duration))


def _outputs(fields: _Fields | None) -> settings.Outputs:
    if fields is None:
        return settings.Outputs()
    outputs = settings.Outputs(
        certificate=fields.file("certificate"),
        key=fields.file("key"),
        ca=fields.file("ca"),
        pkcs12=fields.file("pkcs12"),
        pkcs12_password_file=fields.file("pkcs12PasswordFile"),
        owner=fields.text("owner"),
        group=fields.text("group"),
        mode=fields.mode("mode", 0o600),
    )
    fields.finish()
    if (outputs.pkcs12 is None) != (outputs.pkcs12_password_file is None):
        fields.report("pkcs12", "pkcs12 and pkcs12PasswordFile belong together")
    return outputs


def _hook(fields: _Fields) -> settings.Hook:
    hook = settings.Hook(
        command=fields.texts("command"),
        signal=fields.text("signal").removeprefix("SIG"),
        pid_file=fields.file("pidFile"),
        touch=fields.file("touch"),
        timeout=fields.seconds("timeout", 60, 1, 3600),
    )
    fields.finish()
    if sum(map(bool, (hook.command, hook.signal, hook.touch))) != 1:
        fields.report("", "needs exactly one of command, signal and touch")
    if hook.command and not hook.command[0].startswith("/"):
        fields.report("command[0]", f"must be an absolute path, not {_quote(hook.command[0])}")
    if hook.signal and hook.signal not in _SIGNALS:
        fields.report("signal", f"must be one of {', '.join(_SIGNALS)}, not {_quote(hook.signal)}")
    if bool(hook.signal) != (hook.pid_file is not None):
        fields.report("pidFile", "signal and pidFile belong together")
    return hook


def _probe(fields: _Fields | None) -> settings.Probe | None:
    if fields is None:
        return None
    if not fields.has("address"):
        fields.report("address", "required")
    address = _address(fields, "address")
    server_name = fields.text("serverName")
    fields.finish()
    return settings.Probe(address.host, address.port, server_name) if address is not None else None
