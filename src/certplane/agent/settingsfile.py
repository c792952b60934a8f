"""Read the agent's configuration, and report all problems at once, each with the path of its field."""

from __future__ import annotations

import ipaddress
import os
import pathlib
import re
from typing import Final

from certplane import signernames
from certplane.agent import settings
from certplane.agent.schedule import RenewalTimes, Window
from certplane.agent.settings import AgentSettings, CertificateSettings
from certplane.config import documents
from certplane.config.documents import DocumentKind, Fields, quote
from certplane.meta import names
from certplane.x509 import keys
from certplane.x509.certificatenames import Subject
from certplane.x509.tbs.template import AltNames

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
_DOCUMENT: Final = DocumentKind(settings.API_VERSION, settings.KIND, "certplane agent check", "docs/agent.md")


def load(path: pathlib.Path) -> AgentSettings:
    """The configuration in a file. Relative paths in it are relative to its directory. Raises SetupError, of which
    ConfigurationError has everything that is wrong.
    """
    return documents.read(path, _DOCUMENT, _agent)


def _agent(fields: Fields) -> AgentSettings:
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
        metrics_address=fields.address("metricsAddress"),
        log_level=fields.choice("logLevel", _LEVELS, "INFO"),
    )
    fields.finish()
    _check_names(parsed, fields)
    _check_paths(parsed, fields)
    return parsed


def _check_names(parsed: AgentSettings, fields: Fields) -> None:
    seen: set[str] = set()
    for index, certificate in enumerate(parsed.certificates):
        if certificate.name and certificate.name in seen:
            fields.report(f"certificates[{index}].name", f"duplicate: {quote(certificate.name)}")
        seen.add(certificate.name)
    identity = parsed.server.identity
    if not identity:
        return
    certificate_of_identity = parsed.certificate(identity)
    if certificate_of_identity is None:
        fields.report("server.identity", f"there is no certificate {quote(identity)}")
    elif "client auth" not in certificate_of_identity.usages:
        fields.report("server.identity", f'the certificate {quote(identity)} needs the usage "client auth"')


def _check_paths(parsed: AgentSettings, fields: Fields) -> None:
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


def _server(fields: Fields | None) -> settings.ServerSettings:
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


def _notice(fields: Fields | None) -> settings.RenewalNotice | None:
    default = settings.RenewalNotice()
    if fields is None:
        return default
    enabled = fields.flag("enabled", default=True)
    namespace, name = fields.text("namespace", default.namespace), fields.text("name", default.name)
    fields.finish()
    for field, text in (("namespace", namespace), ("name", name)):
        _check_name(fields, field, text)
    return settings.RenewalNotice(namespace, name) if enabled else None


def _check_name(fields: Fields, field: str, text: str) -> None:
    for problem in names.dns1123_subdomain_problems(text) if text else ():
        fields.report(field, f"{quote(text)}: {problem}")


def _trust_bundle(fields: Fields) -> settings.TrustBundle:
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


# --- a certificate -------------------------------------------------------------------------------------------------


def _certificate(fields: Fields) -> CertificateSettings:
    name = fields.text("name", required=True)
    for problem in names.dns1123_label_problems(name) if name else ():
        fields.report("name", f"{quote(name)}: {problem}")
    signer = fields.text("signerName", required=True)
    domain, slash, path = signer.partition("/")
    if signer and (not slash or not path or names.dns1123_subdomain_problems(domain)):
        fields.report("signerName", f"must be DOMAIN/PATH, not {quote(signer)}")
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


def _subject(fields: Fields | None) -> Subject:
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


def _alt_names(fields: Fields) -> AltNames:
    dns_names, uris = fields.texts("dnsNames"), fields.texts("uris")
    for index, name in enumerate(dns_names):
        for problem in names.dns1123_subdomain_problems(name.removeprefix("*.")):
            fields.report(f"dnsNames[{index}]", f"{quote(name)}: {problem}")
    for index, uri in enumerate(uris):
        if not uri.isascii() or ":" not in uri:
            fields.report(f"uris[{index}]", f"not a URI: {quote(uri)}")
    addresses = []
    for index, text in enumerate(fields.texts("ipAddresses")):
        try:
            addresses.append(ipaddress.ip_address(text))
        except ValueError:
            fields.report(f"ipAddresses[{index}]", f"not an IP address: {quote(text)}")
    return AltNames(dns=dns_names, ip=tuple(addresses), uri=uris)


def _usages(fields: Fields, signer: str) -> tuple[str, ...]:
    usages = fields.texts("usages")
    for index, usage in enumerate(usages):
        if usage not in _USAGES:
            fields.report(f"usages[{index}]", f"must be one of {', '.join(_USAGES)}, not {quote(usage)}")
    if len(set(usages)) != len(usages):
        fields.report("usages", "has duplicates")
    if usages:
        return usages
    if signer in _CLIENT_SIGNERS:
        return ("digital signature", "client auth")
    if signer != signernames.KUBELET_SERVING:
        fields.report("usages", "required for this signer, such as [digital signature, server auth]")
    return ("digital signature", "server auth")


def _renewal(fields: Fields | None) -> RenewalTimes:
    if fields is None:
        return RenewalTimes()
    first = fields.number("fromPercent", 70, 10, 95) / 100
    last = fields.number("toPercent", 90, 10, 95) / 100
    window = _window(fields.child("window"))
    fields.finish()
    if first > last:
        fields.report("fromPercent", "must not be more than toPercent")
    return RenewalTimes(first, max(first, last), window)


def _window(fields: Fields | None) -> Window | None:
    if fields is None:
        return None
    days = fields.texts("days") or _DAYS
    for index, day in enumerate(days):
        if day not in _DAYS:
            fields.report(f"days[{index}]", f"must be one of {', '.join(_DAYS)}, not {quote(day)}")
    start = fields.text("start", required=True)
    match = re.fullmatch(r"([01][0-9]|2[0-3]):([0-5][0-9])", start)
    if start and match is None:
        fields.report("start", f'must be a time in UTC such as "02:30", not {quote(start)}')
    duration = fields.seconds("duration", 3600, 60, 86400)
    fields.finish()
    numbers = tuple(sorted({_DAYS.index(day) for day in days if day in _DAYS}))
    seconds = int(match[1]) * 3600 + int(match[2]) * 60 if match is not None else 0
    return Window(numbers or tuple(range(7)), seconds, int(duration))


def _outputs(fields: Fields | None) -> settings.Outputs:
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


def _hook(fields: Fields) -> settings.Hook:
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
        fields.report("command[0]", f"must be an absolute path, not {quote(hook.command[0])}")
    if hook.signal and hook.signal not in _SIGNALS:
        fields.report("signal", f"must be one of {', '.join(_SIGNALS)}, not {quote(hook.signal)}")
    if bool(hook.signal) != (hook.pid_file is not None):
        fields.report("pidFile", "signal and pidFile belong together")
    return hook


def _probe(fields: Fields | None) -> settings.Probe | None:
    if fields is None:
        return None
    if not fields.has("address"):
        fields.report("address", "required")
    address = fields.address("address")
    server_name = fields.text("serverName")
    fields.finish()
    return settings.Probe(address.host, address.port, server_name) if address is not None else None
