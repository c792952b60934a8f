"""What the agent keeps current: the configuration, as `settingsfile` reads it from YAML."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Final

from certplane.agent.schedule import RenewalTimes
from certplane.config.options import Address
from certplane.x509.certificatenames import Subject
from certplane.x509.tbs.template import AltNames

API_VERSION: Final = "agent.certplane.io/v1alpha1"
KIND: Final = "AgentConfiguration"
DEFAULT_FILE: Final = pathlib.Path("/etc/certplane/agent.yaml")
DEFAULT_DIRECTORY: Final = pathlib.Path("/var/lib/certplane-agent")


@dataclasses.dataclass(frozen=True, slots=True)
class Outputs:
    """Files that other programs read. `owner`, `group` and `mode` are those of the files with the key; the other files
    have the same owner and group, and everybody may read them. Empty names: the user and group of the agent.
    """

    certificate: pathlib.Path | None = None
    key: pathlib.Path | None = None
    ca: pathlib.Path | None = None
    pkcs12: pathlib.Path | None = None
    pkcs12_password_file: pathlib.Path | None = None
    owner: str = ""
    group: str = ""
    mode: int = 0o600


@dataclasses.dataclass(frozen=True, slots=True)
class Hook:
    """What to do after a certificate was replaced, one of three: run `command`, without a shell; send `signal`, such as
    HUP, to the process in `pid_file`; set the modification time of `touch`. `timeout` is in seconds.
    """

    command: tuple[str, ...] = ()
    signal: str = ""
    pid_file: pathlib.Path | None = None
    touch: pathlib.Path | None = None
    timeout: float = 60.0


@dataclasses.dataclass(frozen=True, slots=True)
class Probe:
    """The TLS endpoint that serves a certificate. `server_name` is sent in the handshake; empty: the host."""

    host: str
    port: int
    server_name: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class ConfigMapKey:
    """One value of a ConfigMap."""

    namespace: str
    name: str
    key: str = "ca.crt"


@dataclasses.dataclass(frozen=True, slots=True)
class TrustBundle:
    """A file with CA certificates, from one of three sources: a ConfigMap, a ClusterTrustBundle of this name, or all
    ClusterTrustBundles of this signer.
    """

    path: pathlib.Path
    config_map: ConfigMapKey | None = None
    cluster_trust_bundle: str = ""
    signer_name: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class CertificateSettings:
    """One certificate. `expiration_seconds` is the lifetime to request; None: the signer chooses."""

    name: str
    signer_name: str
    subject: Subject
    names: AltNames
    usages: tuple[str, ...]
    expiration_seconds: int | None = None
    key_kind: str = "ECDSA-P256"
    renewal: RenewalTimes = dataclasses.field(default_factory=RenewalTimes)
    outputs: Outputs = Outputs()
    hooks: tuple[Hook, ...] = ()
    probe: Probe | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class ServerSettings:
    """The API server, and how to authenticate. Without `kubeconfig`, the agent uses the service account of its pod.

    `token_file` replaces the credentials in the kubeconfig. `identity` is the name of the certificate with which the
    agent authenticates as long as it is valid; the kubeconfig's credentials then only request the first one.
    """

    kubeconfig: pathlib.Path | None = None
    context: str = ""
    token_file: pathlib.Path | None = None
    identity: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class RenewalNotice:
    """The ConfigMap in which an administrator asks for early renewal."""

    namespace: str = "kube-public"
    name: str = "certplane-agent"


@dataclasses.dataclass(frozen=True, slots=True)
class AgentSettings:
    """The whole configuration."""

    directory: pathlib.Path
    server: ServerSettings
    certificates: tuple[CertificateSettings, ...]
    trust_bundles: tuple[TrustBundle, ...] = ()
    notice: RenewalNotice | None = RenewalNotice()
    metrics_address: Address | None = None
    log_level: str = "INFO"

    def certificate(self, name: str) -> CertificateSettings | None:
        """The certificate of a name; None if there is none."""
        return next((certificate for certificate in self.certificates if certificate.name == name), None)
