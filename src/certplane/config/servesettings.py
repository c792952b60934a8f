"""Settings of `certplane serve`."""

from __future__ import annotations

import dataclasses
import datetime
import pathlib
from collections.abc import Mapping
from typing import Final

from certplane import errors
from certplane.config import options, sharedsettings, signing
from certplane.config.options import Address, Option
from certplane.config.sharedsettings import ControllerSettings
from certplane.config.signing import PairFiles
from certplane.golang import formatting

KEY_ALGORITHMS: Final = ("RSA-2048", "RSA-3072", "RSA-4096", "ECDSA-P256", "ECDSA-P384")
#: As in kube-apiserver.
_MIN_TOKEN_EXPIRATION: Final = datetime.timedelta(hours=1)
_MAX_TOKEN_EXPIRATION: Final = datetime.timedelta(seconds=1 << 32)
NO_LOG: Final = "none"
STANDARD_OUTPUT: Final = "-"
SQLITE: Final = "sqlite"

OPTIONS: Final[tuple[Option, ...]] = (
    Option("data-dir", "Directory of the PKI, the kubeconfigs and the store.", "path", "./certplane-data"),
    Option("listen", "HOST:PORT to serve on.", default="127.0.0.1:6443"),
    Option("ready-file", "File that holds the server's URL while the server is ready.", "path", None),
    Option("store", "sqlite:PATH; by default DATA-DIR/store.sqlite."),
    Option("controllers", "'*', or names of controllers; -NAME removes one.", "names", ("*",)),
    Option("tls-san", "Additional names and addresses in a generated serving certificate.", "names", ()),
    Option("key-algorithm", "Algorithm of generated keys.", "choice", "RSA-2048", KEY_ALGORITHMS),
    Option("client-ca-file", "CA certificates for client certificates, in PEM; by default DATA-DIR/pki/ca.crt.",
           "path", None),
    Option("tls-cert-file", "Serving certificate, in PEM; by default DATA-DIR/pki/apiserver.crt.", "path", None),
    Option("tls-private-key-file", "Key of the serving certificate.", "path", None),
    Option("token-auth-file", 'CSV file of static tokens: token,user,uid,"group1,group2".', "path", None),
    Option("enable-bootstrap-token-auth", "Accept bootstrap tokens, which are Secrets in kube-system.", "flag", True),
    Option("service-account-issuer", "Issuer of service account tokens.", default="https://kubernetes.default.svc"),
    Option("service-account-signing-key-file",
           "Private key that signs service account tokens; by default DATA-DIR/pki/sa.key.", "path", None),
    Option("service-account-key-file", "Additional public keys to verify service account tokens with, in PEM.",
           "path", None),
    Option("service-account-max-token-expiration", "Maximum lifetime of service account tokens; 0s for no maximum.",
           "duration", "0s"),
    Option("api-audiences", "Audiences of the API server in tokens; by default the issuer.", "names", ()),
    Option("root-ca-file", "CA certificates published in every namespace; by default DATA-DIR/pki/ca.crt.",
           "path", None),
    Option("anonymous-auth", "Accept requests without credentials, as system:anonymous.", "flag", True),
    *signing.OPTIONS,
    Option("runtime-config", "Additional kinds to serve: GROUP/VERSION/RESOURCE=true or GROUP/VERSION=true.",
           "names", ()),
    Option("audit-policy-file",
           "Policy of audit.k8s.io/v1; by default all requests but frequent reads, without bodies.", "path", None),
    Option("audit-log-path",
           "File for audit records; - for standard output, none to disable; by default DATA-DIR/audit.log."),
    Option("audit-log-maxsize", "Megabytes after which the audit log is rotated; 0 for never.", "number", 100),
    Option("audit-log-maxbackup", "How many rotated files are kept; 0 for all.", "number", 10),
    Option("audit-log-maxage", "Days that rotated files are kept; 0 for no limit.", "number", 0),
    Option("audit-approvals-log-path",
           "Second file for the audit records of certificate requests, rotated separately; none to disable; by default "
           "beside the audit log, with -approvals added to its name, such as audit-approvals.log."),
    Option("audit-anonymous-rate",
           "Maximum records a second of unauthenticated requests that changed nothing; others are only counted; 0 for "
           "no limit.",
           "number", 1),
    Option("event-ttl", "How long Events are kept after their last change; 0s for no limit.", "duration", "1h0m0s"),
    Option("inventory-retention", "How long issued certificates are kept in the inventory after they have ended.",
           "duration", "2160h0m0s"),
    Option("max-requests-inflight", "Maximum concurrent reads; more are answered with 429.", "number", 400),
    Option("max-mutating-requests-inflight", "Maximum concurrent writes; more are answered with 429.", "number", 200),
    Option("request-timeout", "Maximum duration of a request; watches are exempt.", "duration", "1m0s"),
    sharedsettings.SERVING_APPROVER,
    Option("creation-hints",
           "Warn requesters and approvers about requests that cannot be signed, say what is missing, and serve "
           "kinds that Kubernetes does not have: SigningPreviews, IssuedCertificates.",
           "flag", True),
    sharedsettings.DECISION_EVENTS,
    options.LOG_LEVEL,
)  # fmt: skip


@dataclasses.dataclass(frozen=True, slots=True)
class ServiceAccountSettings:
    """Tokens of service accounts. `api_audiences` are those of this server; `max_token_expiration` limits the lifetime
    of new tokens, 0 for no limit.
    """

    issuer: str
    api_audiences: tuple[str, ...]
    signing_key_file: pathlib.Path | None = None
    key_file: pathlib.Path | None = None
    max_token_expiration: datetime.timedelta = datetime.timedelta(0)


@dataclasses.dataclass(frozen=True, slots=True)
class LogRotation:
    """Megabytes after which a file is rotated; how many rotated files are kept, and for how many days. 0: no limit."""

    maxsize: int = 0
    maxbackup: int = 0
    maxage: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class AuditSettings:
    """`log_path` and `approvals_log_path` may be NO_LOG or STANDARD_OUTPUT."""

    policy_file: pathlib.Path | None
    log_path: pathlib.Path
    approvals_log_path: pathlib.Path
    rotation: LogRotation
    anonymous_rate: int

    @property
    def has_log(self) -> bool:
        return str(self.log_path) != NO_LOG

    @property
    def has_approvals_log(self) -> bool:
        return str(self.approvals_log_path) != NO_LOG


@dataclasses.dataclass(frozen=True, slots=True)
class RequestLimits:
    """Maximum concurrent reads and writes, and how long one request may take."""

    max_requests_inflight: int
    max_mutating_requests_inflight: int
    request_timeout: datetime.timedelta


@dataclasses.dataclass(frozen=True, slots=True)
class APISettings:
    """How the API server answers requests. Events are kept for `event_ttl` after their last change; 0: no limit. Issued
    certificates are kept for `inventory_retention` after their end.
    """

    anonymous_auth: bool
    enable_bootstrap_token_auth: bool
    creation_hints: bool
    event_ttl: datetime.timedelta
    inventory_retention: datetime.timedelta
    limits: RequestLimits


@dataclasses.dataclass(frozen=True, slots=True)
class Settings:
    """All settings of `serve`, checked."""

    data_dir: pathlib.Path
    listen: Address
    ready_file: pathlib.Path | None
    store: pathlib.Path
    tls_san: tuple[str, ...]
    key_algorithm: str
    client_ca_file: pathlib.Path | None
    serving: PairFiles
    token_auth_file: pathlib.Path | None
    runtime_config: Mapping[str, bool]
    service_accounts: ServiceAccountSettings
    audit: AuditSettings
    api: APISettings
    controllers: ControllerSettings
    log_level: str


def read(flags: Mapping[str, object], file: Mapping[str, object]) -> Settings:
    """Settings from the command line (by field, None for flags that were not set) and a configuration file (by name).

    Raises SetupError, with everything that is wrong.
    """
    problems: options.Problems = []
    values = options.Values(OPTIONS, flags, file, problems)
    if not values.text("data_dir"):
        problems.append("--data-dir: must not be empty; . is the current directory")
    data_dir = pathlib.Path(values.text("data_dir"))
    settings = Settings(
        data_dir=data_dir,
        listen=values.address("listen"),
        ready_file=values.path("ready_file"),
        store=_read_store(values.text("store"), data_dir, problems),
        tls_san=values.names("tls_san"),
        key_algorithm=values.text("key_algorithm"),
        client_ca_file=values.path("client_ca_file"),
        serving=_read_serving_pair(values),
        token_auth_file=values.path("token_auth_file"),
        runtime_config=values.switches("runtime_config"),
        service_accounts=_read_service_accounts(values),
        audit=_read_audit(values, data_dir),
        api=_read_api(values),
        controllers=sharedsettings.read_controllers(values),
        log_level=values.text("log_level"),
    )
    if problems:
        raise errors.SetupError("; ".join(problems), ("certplane serve --help lists all settings",))
    return settings


def _read_store(text: str, data_dir: pathlib.Path, problems: options.Problems) -> pathlib.Path:
    if not text:
        return data_dir / "store.sqlite"
    kind, colon, path = text.partition(":")
    if kind != SQLITE or not colon or not pathlib.Path(path).name:
        problems.append(f"--store: not sqlite:PATH: {formatting.shorten(text, options.MAX_QUOTE)}")
    return pathlib.Path(path)


def _read_serving_pair(values: options.Values) -> PairFiles:
    pair = PairFiles(values.path("tls_cert_file"), values.path("tls_private_key_file"))
    if (pair.cert_file is None) != (pair.key_file is None):
        present, missing = "--tls-cert-file", "--tls-private-key-file"
        if pair.cert_file is None:
            present, missing = missing, present
        values.problems.append(f"{present} is set, but {missing} is missing")
    return pair


def _read_service_accounts(values: options.Values) -> ServiceAccountSettings:
    issuer = values.text("service_account_issuer")
    if not issuer:
        values.problems.append("--service-account-issuer: must not be empty")
    expiration = values.duration("service_account_max_token_expiration")
    if expiration and not _MIN_TOKEN_EXPIRATION <= expiration <= _MAX_TOKEN_EXPIRATION:
        values.problems.append("--service-account-max-token-expiration: must be between 1h and 2^32 seconds")
    return ServiceAccountSettings(
        issuer=issuer,
        api_audiences=values.names("api_audiences") or (issuer,),
        signing_key_file=values.path("service_account_signing_key_file"),
        key_file=values.path("service_account_key_file"),
        max_token_expiration=expiration,
    )


def _read_audit(values: options.Values, data_dir: pathlib.Path) -> AuditSettings:
    log_path = values.path("audit_log_path") or data_dir / "audit.log"
    return AuditSettings(
        policy_file=values.path("audit_policy_file"),
        log_path=log_path,
        approvals_log_path=values.path("audit_approvals_log_path") or approvals_log_path(log_path),
        rotation=LogRotation(
            maxsize=values.number("audit_log_maxsize", 0),
            maxbackup=values.number("audit_log_maxbackup", 0),
            maxage=values.number("audit_log_maxage", 0),
        ),
        anonymous_rate=values.number("audit_anonymous_rate", 0),
    )


def approvals_log_path(log_path: pathlib.Path) -> pathlib.Path:
    """The default file for the records of certificate requests: beside the audit log; none for standard output, and for
    a path without a file name, such as /.
    """
    if str(log_path) in (NO_LOG, STANDARD_OUTPUT) or not log_path.name:
        return pathlib.Path(NO_LOG)
    return log_path.with_name(f"{log_path.stem}-approvals{log_path.suffix}")


def _read_api(values: options.Values) -> APISettings:
    return APISettings(
        anonymous_auth=values.flag("anonymous_auth"),
        enable_bootstrap_token_auth=values.flag("enable_bootstrap_token_auth"),
        creation_hints=values.flag("creation_hints"),
        event_ttl=values.duration("event_ttl"),
        inventory_retention=values.duration("inventory_retention"),
        limits=RequestLimits(
            max_requests_inflight=values.number("max_requests_inflight", 1),
            max_mutating_requests_inflight=values.number("max_mutating_requests_inflight", 1),
            request_timeout=values.duration("request_timeout", positive=True),
        ),
    )


#: Those of a command line without flags.
DEFAULTS: Final = read({}, {})
