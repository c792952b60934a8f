"""The configuration of a kubeadm cluster, as far as it concerns certificates.

A file has several YAML documents, of which ClusterConfiguration and InitConfiguration count; the cluster keeps the
first one in the ConfigMap `kube-system/kubeadm-config`. Fields of other documents, and other fields, are ignored: they
configure what is not done here.

Source: kubernetes, `cmd/kubeadm/app/apis/kubeadm/v1beta4/types.go`, `.../validation/validation.go`.
"""

from __future__ import annotations

import dataclasses
import datetime
import pathlib
import re
from collections.abc import Mapping
from typing import Any, Final

from certplane import files
from certplane.errors import SetupError
from certplane.golang import formatting, goyaml
from certplane.kubeadm import layout as layouts
from certplane.kubeadm import renewal
from certplane.x509 import keys
from certplane.x509.issuance import selfsigned

_GROUP: Final = "kubeadm.k8s.io"
#: The periods and the key algorithm exist from v1beta4 on.
_VERSIONS: Final = (f"{_GROUP}/v1beta3", f"{_GROUP}/v1beta4")
_MAX_FILE: Final = 1024 * 1024
_MAX_DOCUMENTS: Final = 100
_HINT: Final = "kubeadm config print init-defaults prints an example"


@dataclasses.dataclass(frozen=True, slots=True)
class ClusterConfig:
    """Settings with kubeadm's defaults. `endpoint` is the controlPlaneEndpoint; it, `node_name` and `advertise_address`
    are empty if they are not set. The additional names of serving certificates are DNS names and IP addresses.
    `warnings` are about settings that are valid but unwise.
    """

    directory: pathlib.Path = layouts.CERTIFICATES_DIRECTORY
    has_external_etcd: bool = False
    options: renewal.Options = dataclasses.field(default_factory=renewal.Options)
    cluster_name: str = "kubernetes"
    dns_domain: str = "cluster.local"
    service_subnet: str = "10.96.0.0/12"
    endpoint: str = ""
    api_names: tuple[str, ...] = ()
    etcd_server_names: tuple[str, ...] = ()
    etcd_peer_names: tuple[str, ...] = ()
    node_name: str = ""
    advertise_address: str = ""
    bind_port: int = 6443
    warnings: tuple[str, ...] = ()


def load(path: pathlib.Path) -> ClusterConfig:
    """The configuration in a file. Raises SetupError."""
    with files.as_setup_error(f"the configuration file {path} cannot be read", "set --config to a file of kubeadm"):
        content = files.read_regular(path, _MAX_FILE)
    return parse(content, str(path))


def parse(content: bytes, source: str) -> ClusterConfig:
    """The configuration in YAML documents. `source` names them in errors. Raises SetupError."""
    documents = re.split(rb"^---(?=\s)[^\n]*$", content, maxsplit=_MAX_DOCUMENTS, flags=re.MULTILINE)
    config = ClusterConfig()
    is_empty = True
    for document in documents:
        values = _parse_document(document, source)
        readers = {"ClusterConfiguration": _read_cluster, "InitConfiguration": _read_init}
        reader = readers.get(str(values.get("kind")))
        if reader is None:
            continue
        if values.get("apiVersion") not in _VERSIONS:
            raise SetupError(
                f"{source}: unsupported apiVersion of {values['kind']}: {_quote(values.get('apiVersion'))}",
                (f"supported are {' and '.join(_VERSIONS)}; kubeadm config migrate converts older ones",),
            )
        config = reader(_Section(values, "", source), config)
        is_empty = False
    if is_empty:
        raise SetupError(f"{source} has neither a ClusterConfiguration nor an InitConfiguration of kubeadm", (_HINT,))
    return config


def _parse_document(document: bytes, source: str) -> Mapping[str, Any]:
    try:
        values = goyaml.load(document)
    except goyaml.YAMLError as error:
        raise SetupError(f"{source} is not valid YAML: {error}", (_HINT,)) from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise SetupError(f"{source} is not a configuration of kubeadm", (_HINT,))
    return values


def _quote(value: object) -> str:
    return formatting.quote(formatting.truncate(str("" if value is None else value), 100))


# --- fields -------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class _Section:
    """An object in a document; `path` is that of its fields, with a dot at the end."""

    values: Mapping[str, Any]
    path: str
    source: str

    def section(self, name: str) -> _Section:
        value = self.values.get(name)
        if value is not None and not isinstance(value, dict):
            raise self.error(name, value, "must be an object")
        return _Section(value or {}, f"{self.path}{name}.", self.source)

    def text(self, name: str, default: str) -> str:
        value = self.values.get(name)
        if value is not None and not isinstance(value, str):
            raise self.error(name, value, "must be a string")
        return value or default

    def texts(self, name: str) -> tuple[str, ...]:
        value = self.values.get(name)
        if value is not None and not (isinstance(value, list) and all(isinstance(item, str) for item in value)):
            raise self.error(name, value, "must be a list of strings")
        return tuple(value or ())

    def duration(self, name: str, default: datetime.timedelta) -> datetime.timedelta:
        text = self.text(name, "")
        if not text:
            return default
        duration = formatting.parse_duration(text)
        if duration is None or duration <= datetime.timedelta(0):
            raise self.error(name, text, "must be a duration, such as 8760h0m0s")
        return duration

    def error(self, name: str, value: object, detail: str) -> SetupError:
        return SetupError(f"{self.source}: {self.path}{name}: Invalid value: {_quote(value)}: {detail}", (_HINT,))


def _read_cluster(section: _Section, config: ClusterConfig) -> ClusterConfig:
    etcd = section.section("etcd")
    local = etcd.section("local")
    networking = section.section("networking")
    options, warnings = _read_options(section)
    return dataclasses.replace(
        config,
        directory=pathlib.Path(section.text("certificatesDir", str(config.directory))),
        has_external_etcd=etcd.values.get("external") is not None,
        options=options,
        cluster_name=section.text("clusterName", config.cluster_name),
        dns_domain=networking.text("dnsDomain", config.dns_domain),
        service_subnet=networking.text("serviceSubnet", config.service_subnet),
        endpoint=section.text("controlPlaneEndpoint", ""),
        api_names=section.section("apiServer").texts("certSANs"),
        etcd_server_names=local.texts("serverCertSANs"),
        etcd_peer_names=local.texts("peerCertSANs"),
        warnings=warnings,
    )


def _read_options(section: _Section) -> tuple[renewal.Options, tuple[str, ...]]:
    """The lifetime and the key algorithm, and kubeadm's warnings about the lifetime."""
    defaults = renewal.Options()
    algorithm = section.text("encryptionAlgorithm", defaults.key_algorithm)
    if algorithm not in keys.KINDS:
        kinds = " ".join(sorted(keys.KINDS))
        detail = f'Invalid encryption algorithm "{algorithm}". Must be one of [{kinds}]'
        raise section.error("encryptionAlgorithm", algorithm, detail)
    name = "certificateValidityPeriod"
    lifetime = section.duration(name, defaults.lifetime)
    ca_lifetime = section.duration("caCertificateValidityPeriod", selfsigned.CA_LIFETIME)
    prefix = f"{name}: the value {_format(lifetime)} is more than the"
    warnings = []
    if lifetime > ca_lifetime:
        warnings.append(f"{prefix} caCertificateValidityPeriod: {_format(ca_lifetime)}")
    if lifetime > defaults.lifetime:
        warnings.append(f"{prefix} recommended default for certificate expiration: {_format(defaults.lifetime)}")
    return renewal.Options(lifetime, algorithm), tuple(warnings)


def _format(duration: datetime.timedelta) -> str:
    """A duration of whole seconds as Go prints it: `8760h0m0s`."""
    minutes, seconds = divmod(int(duration.total_seconds()), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes}m{seconds}s" if hours else f"{minutes}m{seconds}s" if minutes else f"{seconds}s"


def _read_init(section: _Section, config: ClusterConfig) -> ClusterConfig:
    endpoint = section.section("localAPIEndpoint")
    port = endpoint.values.get("bindPort", config.bind_port)
    if isinstance(port, bool) or not isinstance(port, int) or not 0 < port < 1 << 16:
        raise endpoint.error("bindPort", port, "must be a port number")
    return dataclasses.replace(
        config,
        node_name=section.section("nodeRegistration").text("name", ""),
        advertise_address=endpoint.text("advertiseAddress", ""),
        bind_port=port,
    )
