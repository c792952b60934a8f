"""Settings of `certplane serve`."""

from __future__ import annotations

import dataclasses
import datetime
import pathlib
from collections.abc import Mapping
from typing import Any, Final

from certplane import errors
from certplane.config import crew, options, signing
from certplane.config.options import Option

KEY_KINDS: Final = ("RSA-2048", "RSA-3072", "RSA-4096", "ECDSA-P256", "ECDSA-P384")
_SHORTEST_TOKEN: Final = datetime.timedelta(hours=1)
_LONGEST_TOKEN: Final = datetime.timedelta(seconds=1 << 32)
NO_LOG: Final = "none"
SQLITE: Final = "sqlite"

OPTIONS: Final[tuple[options.Option, ...]] = (
    Option("data-dir", "Directory of the PKI, the kubeconfigs and the store.", "path", "./certplane-data"),
    Option("listen", "HOST:PORT to serve on.", default="127.0.0.1:6443"),
    Option("ready-file", "File with the server's address, which is there while requests are answered.", "path", None),
    Option("store", "sqlite:PATH; by default a file in the data directory."),
    Option("controllers", "'*', or names of controllers; -NAME leaves one out.", "names", ("*",)),
    Option("tls-san", "Further names and addresses for the serving certificate, when it is made.", "names", ()),
    Option("key-algorithm", "Kind of the keys that are made.", "choice", "RSA-2048", KEY_KINDS),
    Option("client-ca-file", "CA certificates of clients, in PEM; by default DATA-DIR/pki/ca.crt.", "path", None),
    Option("tls-cert-file", "Serving certificate, in PEM; by default DATA-DIR/pki/apiserver.crt.", "path", None),
    Option("tls-private-key-file", "The key that belongs to it.", "path", None),
    Option("token-auth-file", 'CSV file of static tokens: token,user,uid,"group1,group2".', "path", None),
    Option("enable-bootstrap-token-auth", "Whether bootstrap tokens in kube-system are let in.", "flag", True),
    Option("service-account-issuer", "Who signs service account tokens.", default="https://kubernetes.default.svc"),
    Option(
        "service-account-signing-key-file",
        "Key that signs them; by default DATA-DIR/pki/sa.key.",
        "path",
        None,
    ),
    Option("service-account-key-file", "Further public keys whose tokens are good, in PEM.", "path", None),
    Option("service-account-max-token-expiration", "Their longest lifetime; 0s for any.", "duration", "0s"),
    Option("api-audiences", "Names of this server in tokens; by default the issuer's.", "names", ()),
    Option("root-ca-file", "Certificates published in every namespace; by default DATA-DIR/pki/ca.crt.", "path", None),
    Option("anonymous-auth", "Whether requests without credentials are let in, as system:anonymous.", "flag", True),
    *signing.OPTIONS,
    Option(
        "runtime-config",
        "Kinds to serve besides: GROUP/VERSION/RESOURCE=true or GROUP/VERSION=true.",
        "names",
        (),
    ),
    Option(
        "audit-policy-file", "Policy of audit.k8s.io/v1; by default everything but noise, without bodies.", "path", None
    ),
    Option(
        "audit-log-path",
        "File of audit records; - is standard output, none for no records; by default DATA-DIR/audit.log.",
    ),
    Option("audit-log-maxsize", "Megabytes after which it is rotated; 0 for never.", "number", 100),
    Option("audit-log-maxbackup", "How many former files are kept; 0 for all.", "number", 10),
    Option("audit-log-maxage", "Days that former files are kept; 0 for ever.", "number", 0),
    Option(
        "audit-approvals-log-path",
        "File where records of what was done to certificate requests are kept as well, rotated on its own; none "
        "for no such file; by default audit-approvals.log, beside the audit log.",
    ),
    Option(
        "audit-anonymous-rate",
        "Records a second of requests that nobody known sent and that changed nothing; others are counted; 0 for all.",
        "number",
        1,
    ),
    Option("event-ttl", "How long events are kept after their last change.", "duration", "1h0m0s"),
    Option("max-requests-inflight", "Reads at once; others are told to come again.", "number", 400),
    Option("max-mutating-requests-inflight", "Writes at once; others are told to come again.", "number", 200),
    Option("request-timeout", "How long a request may take, watches apart.", "duration", "1m0s"),
    options.SERVING_APPROVER,
    Option(
        "creation-hints",
        "Whether those who ask and approve are warned of what will not work, and told what would be needed.",
        "flag",
        True,
    ),
    options.DECISION_EVENTS,
    options.LOG_LEVEL,
)


@dataclasses.dataclass(frozen=True, slots=True)
class Accounts:
    """What is said about tokens of service accounts. `longest` is 0 for no bound."""

    issuer: str
    signing_key: pathlib.Path | None
    further_keys: pathlib.Path | None
    longest: datetime.timedelta
    audiences: tuple[str, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Settings:
    """Everything that `serve` has to know, judged."""

    data_dir: pathlib.Path
    host: str
    port: int
    ready_file: pathlib.Path | None
    store: pathlib.Path
    controllers: frozenset[str]
    tls_san: tuple[str, ...]
    key_algorithm: str
    client_ca_file: pathlib.Path | None
    serving: signing.Pair
    token_auth_file: pathlib.Path | None
    anonymous_auth: bool
    bootstrap_tokens: bool
    root_ca_file: pathlib.Path | None
    accounts: Accounts
    signing: signing.Signing
    audit_policy_file: pathlib.Path | None
    audit_log: pathlib.Path
    audit_approvals: pathlib.Path
    audit_anonymous_rate: int
    audit_rotation: tuple[int, int, int]
    event_ttl: datetime.timedelta
    decision_events: bool
    creation_hints: bool
    serving_approver: pathlib.Path | None
    limits: tuple[int, int, float]
    runtime_config: Mapping[str, bool]
    log_level: str

    @property
    def records(self) -> bool:
        """Whether requests are recorded at all."""
        return str(self.audit_log) != NO_LOG

    @property
    def keeps_approvals(self) -> bool:
        """Whether what is done to certificate requests is recorded in a file of its own as well."""
        return str(self.audit_approvals) != NO_LOG


def settings(flags: Mapping[str, Any], file: Mapping[str, Any]) -> Settings:
    """Settings from the command line (by field, None where nothing was said) and a configuration file (by name).

    Raises SetupError, with everything that is wrong.
    """
    problems: options.Problems = []
    values = options.Values(OPTIONS, flags, file, problems)
    host, port = values.address("listen")
    data_dir = pathlib.Path(values.text("data_dir"))
    serving = signing.Pair(values.path("tls_cert_file"), values.path("tls_private_key_file"))
    if (serving.certificate is None) != (serving.key is None):
        given, missing = "--tls-cert-file", "--tls-private-key-file"
        if serving.certificate is None:
            given, missing = missing, given
        problems.append(f"{given} is given, and {missing} is missing")
    audit_log = values.path("audit_log_path") or data_dir / "audit.log"
    found = Settings(
        data_dir=data_dir,
        host=host,
        port=port,
        ready_file=values.path("ready_file"),
        store=_store(values.text("store"), data_dir, problems),
        controllers=crew.chosen(values.names("controllers"), list(crew.CONTROLLERS), problems),
        tls_san=values.names("tls_san"),
        key_algorithm=values.text("key_algorithm"),
        client_ca_file=values.path("client_ca_file"),
        serving=serving,
        token_auth_file=values.path("token_auth_file"),
        anonymous_auth=values.flag("anonymous_auth"),
        bootstrap_tokens=values.flag("enable_bootstrap_token_auth"),
        root_ca_file=values.path("root_ca_file"),
        accounts=_accounts(values),
        signing=signing.read(values),
        audit_policy_file=values.path("audit_policy_file"),
        audit_log=audit_log,
        audit_approvals=values.path("audit_approvals_log_path") or approvals_path(audit_log),
        audit_anonymous_rate=values.number("audit_anonymous_rate", 0),
        audit_rotation=_rotation(values),
        event_ttl=values.duration("event_ttl"),
        decision_events=values.flag("decision_events"),
        creation_hints=values.flag("creation_hints"),
        serving_approver=values.path("serving_approver"),
        limits=_limits(values),
        runtime_config=values.switches("runtime_config"),
        log_level=values.text("log_level"),
    )
    if problems:
        raise errors.SetupError("; ".join(problems), ("certplane serve --help lists all settings",))
    return found


def _store(text: str, data_dir: pathlib.Path, problems: options.Problems) -> pathlib.Path:
    if not text:
        return data_dir / "store.sqlite"
    kind, colon, path = text.partition(":")
    if kind != SQLITE or not colon or not path:
        problems.append(f"--store: not sqlite:PATH: {text}")
    return pathlib.Path(path)


def approvals_path(audit_log: pathlib.Path) -> pathlib.Path:
    """The file beside an audit log that keeps what was done to certificate requests; none beside standard output."""
    if str(audit_log) in (NO_LOG, "-"):
        return pathlib.Path(NO_LOG)
    return audit_log.with_name(f"{audit_log.stem}-approvals{audit_log.suffix}")


def _limits(values: options.Values) -> tuple[int, int, float]:
    """Reads and writes at once, and the seconds that one may take."""
    reads = values.number("max_requests_inflight", 1)
    writes = values.number("max_mutating_requests_inflight", 1)
    return reads, writes, values.duration("request_timeout", positive=True).total_seconds()


def _rotation(values: options.Values) -> tuple[int, int, int]:
    """Megabytes, backups, days."""
    size, count, age = (values.number(f"audit_log_{name}", 0) for name in ("maxsize", "maxbackup", "maxage"))
    return size, count, age


def _accounts(values: options.Values) -> Accounts:
    issuer = values.text("service_account_issuer")
    if not issuer:
        values.problems.append("--service-account-issuer: must not be empty")
    longest = values.duration("service_account_max_token_expiration")
    if longest and not _SHORTEST_TOKEN <= longest <= _LONGEST_TOKEN:
        values.problems.append("--service-account-max-token-expiration: must be between 1h and 2^32 seconds")
    return Accounts(
        issuer,
        values.path("service_account_signing_key_file"),
        values.path("service_account_key_file"),
        longest,
        values.names("api_audiences") or (issuer,),
    )
