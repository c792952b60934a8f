"""What the expiry watch reads and where it reports: the configuration, as `settingsfile` reads it from YAML."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Final, TypeAlias

from certplane.config.options import Address
from certplane.expiry.watch import Limits

API_VERSION: Final = "watch.certplane.io/v1alpha1"
KIND: Final = "WatchConfiguration"
DEFAULT_FILE: Final = pathlib.Path("/etc/certplane/watch.yaml")
DEFAULT_ADDRESS: Final = Address("127.0.0.1", 9793)
DEFAULT_STATE_DIRECTORY: Final = pathlib.Path("/var/lib/certplane-watch")
DEFAULT_LIMITS: Final = Limits()
DAY: Final = 86400.0
#: How long before the end something is announced, in seconds; 0 is the end itself.
DEFAULT_THRESHOLDS: Final = (30 * DAY, 7 * DAY, 0.0)


@dataclasses.dataclass(frozen=True, slots=True)
class ControlPlane:
    """The certificates of a control plane: kubeadm's, or the data directory of certplane if it is set."""

    cert_dir: pathlib.Path
    kubeconfig_dir: pathlib.Path
    data_dir: pathlib.Path | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Directory:
    """All files in and below a directory."""

    path: pathlib.Path


@dataclasses.dataclass(frozen=True, slots=True)
class Files:
    """Files by patterns of the shell. The password file is that of the PKCS#12 files among them."""

    patterns: tuple[str, ...]
    pkcs12_password_file: pathlib.Path | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Kubeconfigs:
    """Kubeconfigs by patterns of the shell."""

    patterns: tuple[str, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class SecretSelection:
    """Secrets of a type, and patterns of the keys that are read."""

    type: str = "kubernetes.io/tls"
    keys: tuple[str, ...] = ("tls.crt", "ca.crt")


@dataclasses.dataclass(frozen=True, slots=True)
class Cluster:
    """Objects of a cluster: that of a kubeconfig, or of the pod. `namespaces` limits Secrets and ConfigMaps; empty for
    all. `config_maps` are patterns of keys; empty for none.
    """

    kubeconfig: pathlib.Path | None = None
    context: str = ""
    namespaces: tuple[str, ...] = ()
    secrets: tuple[SecretSelection, ...] = (SecretSelection(),)
    config_maps: tuple[str, ...] = ()
    trust_bundles: bool = False
    csrs: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class EndpointSettings:
    """A TLS endpoint. `start_tls` is a protocol, or empty; `ca_file` has the CA certificates that must have issued the
    certificate, None not to verify it.
    """

    address: Address
    server_name: str = ""
    start_tls: str = ""
    ca_file: pathlib.Path | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Endpoints:
    """TLS endpoints."""

    endpoints: tuple[EndpointSettings, ...]


Place: TypeAlias = ControlPlane | Directory | Files | Kubeconfigs | Cluster | Endpoints


@dataclasses.dataclass(frozen=True, slots=True)
class SourceSettings:
    """A source, and its name."""

    name: str
    place: Place


@dataclasses.dataclass(frozen=True, slots=True)
class WebhookSettings:
    """Where to announce what ends. The URL is in a file, because it may be a secret; so is the key that signs."""

    name: str
    url_file: pathlib.Path
    format: str = "json"
    secret_file: pathlib.Path | None = None
    ca_file: pathlib.Path | None = None
    thresholds: tuple[float, ...] = DEFAULT_THRESHOLDS
    sources: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class WatchSettings:
    """The whole configuration. `metrics_address` is None to serve no metrics."""

    sources: tuple[SourceSettings, ...]
    limits: Limits = DEFAULT_LIMITS
    metrics_address: Address | None = DEFAULT_ADDRESS
    webhooks: tuple[WebhookSettings, ...] = ()
    state_directory: pathlib.Path = DEFAULT_STATE_DIRECTORY
    log_level: str = "INFO"
