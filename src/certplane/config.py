"""Settings of `certplane serve`: parsed and judged once, each with a safe default.

`OPTIONS` is the one list of them: the command line, the configuration file and the reference page are made from it. A
setting has the name that kube-apiserver or kube-controller-manager gives it, if they have it. Flags win over the file.
"""

from __future__ import annotations

import dataclasses
import datetime
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from certplane import errors

_DURATION_PART: Final = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(h|ms|us|µs|ns|m|s)")
#: Seconds that fit into 63 bits of nanoseconds.
_LONGEST_DURATION: Final = 2**63 / 1e9
_UNITS: Final = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
KEY_KINDS: Final = ("RSA-2048", "RSA-3072", "RSA-4096", "ECDSA-P256", "ECDSA-P384")
_SHORTEST_TOKEN: Final = datetime.timedelta(hours=1)
_LONGEST_TOKEN: Final = datetime.timedelta(seconds=1 << 32)
NO_LOG: Final = "none"
SQLITE: Final = "sqlite"

CONTROLLERS: Final = {
    "certificatesigningrequest-approving-controller": "csrapproving",
    "certificatesigningrequest-signing-controller": "csrsigning",
    "certificatesigningrequest-cleaner-controller": "csrcleaner",
    "namespace-controller": "namespace",
    "clusterrole-aggregation-controller": "clusterrole-aggregation",
    "root-ca-certificate-publisher-controller": "root-ca-cert-publisher",
    "serviceaccount-controller": "serviceaccount",
    "token-cleaner-controller": "tokencleaner",
}


@dataclasses.dataclass(frozen=True, slots=True)
class Option:
    """One setting. `kind` is text, number, path, flag, duration, names (comma-separated), or choice (one of
    `choices`).
    """

    name: str
    help: str
    kind: str = "text"
    default: Any = ""
    choices: tuple[str, ...] = ()

    @property
    def field(self) -> str:
        return self.name.replace("-", "_")


def _signing(signer: str, what: str) -> tuple[Option, Option]:
    infix = f"-{signer}" if signer else ""
    return (
        Option(
            f"cluster-signing{infix}-cert-file", f"CA certificate with which {what} are signed, in PEM.", "path", None
        ),
        Option(f"cluster-signing{infix}-key-file", "The key that belongs to it.", "path", None),
    )


OPTIONS: Final[tuple[Option, ...]] = (
    Option("data-dir", "Directory of the PKI, the kubeconfigs and the store.", "path", "./certplane-data"),
    Option("listen", "HOST:PORT to serve on.", default="127.0.0.1:6443"),
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
    *_signing("", "the certificates of all signers"),
    Option("cluster-signing-duration", "The longest lifetime of signed certificates.", "duration", "8760h0m0s"),
    *_signing("kubelet-serving", "kubernetes.io/kubelet-serving certificates"),
    *_signing("kubelet-client", "kubernetes.io/kube-apiserver-client-kubelet certificates"),
    *_signing("kube-apiserver-client", "kubernetes.io/kube-apiserver-client certificates"),
    *_signing("legacy-unknown", "kubernetes.io/legacy-unknown certificates"),
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
    Option("audit-log-maxsize", "Megabytes after which it is turned over; 0 for never.", "number", 100),
    Option("audit-log-maxbackup", "How many former files are kept; 0 for all.", "number", 10),
    Option("audit-log-maxage", "Days that former files are kept; 0 for ever.", "number", 0),
    Option("event-ttl", "How long events are kept after their last change.", "duration", "1h0m0s"),
    Option("max-requests-inflight", "Reads at once; others are told to come again.", "number", 400),
    Option("max-mutating-requests-inflight", "Writes at once; others are told to come again.", "number", 200),
    Option("request-timeout", "How long a request may take, watches apart.", "duration", "1m0s"),
    Option("log-level", "How much is logged.", "choice", "INFO", ("DEBUG", "INFO", "WARNING", "ERROR")),
)

#: The infix of the flags of each signer, and what kube-controller-manager calls it in errors.
SIGNERS: Final[Mapping[str, tuple[str, str]]] = {
    "kubernetes.io/kubelet-serving": ("kubelet_serving", "cluster-signing-kubelet-serving"),
    "kubernetes.io/kube-apiserver-client-kubelet": ("kubelet_client", "cluster-signing-kube-apiserver-client"),
    "kubernetes.io/kube-apiserver-client": ("kube_apiserver_client", "cluster-signing-kube-apiserver"),
    "kubernetes.io/legacy-unknown": ("legacy_unknown", "cluster-signing-legacy-unknown"),
}


@dataclasses.dataclass(frozen=True, slots=True)
class Pair:
    """A certificate file and a key file, as far as they are named."""

    certificate: pathlib.Path | None
    key: pathlib.Path | None


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
    store: pathlib.Path
    controllers: frozenset[str]
    tls_san: tuple[str, ...]
    key_algorithm: str
    client_ca_file: pathlib.Path | None
    serving: Pair
    token_auth_file: pathlib.Path | None
    anonymous_auth: bool
    bootstrap_tokens: bool
    root_ca_file: pathlib.Path | None
    accounts: Accounts
    signing_duration: datetime.timedelta
    signing: Pair
    signer_files: Mapping[str, Pair]
    audit_policy_file: pathlib.Path | None
    audit_log: pathlib.Path
    audit_rotation: tuple[int, int, int]
    event_ttl: datetime.timedelta
    limits: tuple[int, int, float]
    runtime_config: Mapping[str, bool]
    log_level: str

    @property
    def records(self) -> bool:
        """Whether requests are recorded at all."""
        return str(self.audit_log) != NO_LOG

    @property
    def signs_by_default(self) -> bool:
        """Whether nothing was said about signing, so that the authority of the data directory signs."""
        return self.signing == Pair(None, None) and not any(_is_named(each) for each in self.signer_files.values())


def settings(flags: Mapping[str, Any], file: Mapping[str, Any]) -> Settings:
    """Settings from the command line (by field, None where nothing was said) and a configuration file (by name).

    Raises SetupError, with everything that is wrong.
    """
    problems: list[str] = []
    values = _merged(flags, file, problems)
    host, port = _address(str(values["listen"]), problems)
    pairs = {name: _pair(values, f"cluster_signing_{infix}_") for name, (infix, _) in SIGNERS.items()}
    common = _pair(values, "cluster_signing_")
    _check_signing(common, pairs, problems)
    data_dir = pathlib.Path(str(values["data_dir"]))
    serving = Pair(_path(values["tls_cert_file"]), _path(values["tls_private_key_file"]))
    if (serving.certificate is None) != (serving.key is None):
        problems.append("--tls-cert-file and --tls-private-key-file must be given together")
    duration = _duration(values, "cluster_signing_duration", problems)
    if duration is not None and duration <= datetime.timedelta(0):
        problems.append("--cluster-signing-duration: must be more than nothing")
    found = Settings(
        data_dir=data_dir,
        host=host,
        port=port,
        store=_store(str(values["store"]), data_dir, problems),
        controllers=_controllers(values["controllers"], problems),
        tls_san=tuple(values["tls_san"]),
        key_algorithm=str(values["key_algorithm"]),
        client_ca_file=_path(values["client_ca_file"]),
        serving=serving,
        token_auth_file=_path(values["token_auth_file"]),
        anonymous_auth=bool(values["anonymous_auth"]),
        bootstrap_tokens=bool(values["enable_bootstrap_token_auth"]),
        root_ca_file=_path(values["root_ca_file"]),
        accounts=_accounts(values, problems),
        signing_duration=duration or datetime.timedelta(0),
        signing=common,
        signer_files=pairs,
        audit_policy_file=_path(values["audit_policy_file"]),
        audit_log=_path(values["audit_log_path"]) or data_dir / "audit.log",
        audit_rotation=_rotation(values, problems),
        event_ttl=_duration(values, "event_ttl", problems) or datetime.timedelta(0),
        limits=_limits(values, problems),
        runtime_config=_switches("runtime-config", values["runtime_config"], problems),
        log_level=str(values["log_level"]),
    )
    if problems:
        raise errors.SetupError("; ".join(problems), ("certplane serve --help lists all settings",))
    return found


def _merged(flags: Mapping[str, Any], file: Mapping[str, Any], problems: list[str]) -> dict[str, Any]:
    known = {option.name: option for option in OPTIONS}
    problems += [f"the configuration file has an unknown setting: {name}" for name in file if name not in known]
    values = {}
    for option in OPTIONS:
        sent = flags.get(option.field)
        if sent is None and option.name in file:
            sent = _from_file(option, file[option.name], problems)
        values[option.field] = option.default if sent is None else sent
        if option.kind == "names" and isinstance(sent, str):
            values[option.field] = tuple(each.strip() for each in sent.split(",") if each.strip())
    return values


def _from_file(option: Option, value: Any, problems: list[str]) -> Any:
    if option.kind == "flag":
        if not isinstance(value, bool):
            problems.append(f"{option.name}: must be true or false, not {value!r}")
        return value
    if option.kind == "names" and isinstance(value, list):
        return tuple(str(each) for each in value)
    if isinstance(value, bool | dict | list) or value is None:
        problems.append(f"{option.name}: must be a text, not {value!r}")
        return None
    if option.choices and value not in option.choices:
        problems.append(f"{option.name}: must be one of {', '.join(option.choices)}, not {value}")
    return str(value)


def _address(text: str, problems: list[str]) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not port.isdigit() or int(port) > 65535 or not host:
        problems.append(f"--listen: not HOST:PORT: {text}")
        return "", 0
    return host, int(port)


def _store(text: str, data_dir: pathlib.Path, problems: list[str]) -> pathlib.Path:
    if not text:
        return data_dir / "store.sqlite"
    kind, colon, path = text.partition(":")
    if kind != SQLITE or not colon or not path:
        problems.append(f"--store: not sqlite:PATH: {text}")
    return pathlib.Path(path)


def _controllers(wanted: Sequence[str], problems: list[str]) -> frozenset[str]:
    by_alias = {alias: name for name, alias in CONTROLLERS.items()}
    chosen = set(CONTROLLERS) if "*" in wanted else set()
    for each in wanted:
        plain = each.removeprefix("-")
        name = by_alias.get(plain, plain)
        if each == "*":
            continue
        if name not in CONTROLLERS:
            problems.append(f"--controllers: there is no controller {plain}; there are {', '.join(CONTROLLERS)}")
        elif each.startswith("-"):
            chosen.discard(name)
        else:
            chosen.add(name)
    return frozenset(chosen)


def _limits(values: Mapping[str, Any], problems: list[str]) -> tuple[int, int, float]:
    """Reads and writes at once, and the seconds that one may take."""
    reads = _number(values, "max_requests_inflight", 1, problems)
    writes = _number(values, "max_mutating_requests_inflight", 1, problems)
    patience = _duration(values, "request_timeout", problems) or datetime.timedelta(0)
    if patience <= datetime.timedelta(0):
        problems.append("--request-timeout: must be more than nothing")
    return reads, writes, patience.total_seconds()


def _rotation(values: Mapping[str, Any], problems: list[str]) -> tuple[int, int, int]:
    """Megabytes, backups, days."""
    size, count, age = (
        _number(values, f"audit_log_{name}", 0, problems) for name in ("maxsize", "maxbackup", "maxage")
    )
    return size, count, age


def _number(values: Mapping[str, Any], field: str, least: int, problems: list[str]) -> int:
    text = str(values[field])
    if not (text.isascii() and text.isdigit()) or int(text) < least:
        problems.append(f"--{field.replace('_', '-')}: must be a number, at least {least}: {text}")
        return least
    return int(text)


def _switches(name: str, given: Sequence[str], problems: list[str]) -> dict[str, bool]:
    """KEY=true, KEY=false, or KEY alone, which is true."""
    found = {}
    for each in given:
        key, _, value = each.partition("=")
        if value not in ("", "true", "false"):
            problems.append(f"--{name}: must be true or false: {each}")
        found[key] = value != "false"
    return found


def _accounts(values: Mapping[str, Any], problems: list[str]) -> Accounts:
    issuer = str(values["service_account_issuer"])
    if not issuer:
        problems.append("--service-account-issuer: must not be empty")
    longest = _duration(values, "service_account_max_token_expiration", problems) or datetime.timedelta(0)
    if longest and not _SHORTEST_TOKEN <= longest <= _LONGEST_TOKEN:
        problems.append("--service-account-max-token-expiration: must be between 1h and 2^32 seconds")
    return Accounts(
        issuer,
        _path(values["service_account_signing_key_file"]),
        _path(values["service_account_key_file"]),
        longest,
        tuple(values["api_audiences"]) or (issuer,),
    )


def _duration(values: Mapping[str, Any], field: str, problems: list[str]) -> datetime.timedelta | None:
    found = parse_duration(str(values[field]))
    if found is None:
        problems.append(f"--{field.replace('_', '-')}: not a duration: {values[field]}")
    return found


def _path(value: Any) -> pathlib.Path | None:
    return pathlib.Path(str(value)) if value else None


def _pair(values: Mapping[str, Any], prefix: str) -> Pair:
    """An empty name is a name too: it says that there is to be no such file."""
    certificate, key = values[prefix + "cert_file"], values[prefix + "key_file"]
    return Pair(
        None if certificate is None else pathlib.Path(str(certificate)),
        None if key is None else pathlib.Path(str(key)),
    )


def _is_named(of: Pair) -> bool:
    return of.certificate is not None or of.key is not None


def is_given(path: pathlib.Path | None) -> bool:
    """Whether a file name was given that is not empty."""
    return path is not None and path != pathlib.Path()


def _check_signing(common: Pair, pairs: Mapping[str, Pair], problems: list[str]) -> None:
    """The exclusions of kube-controller-manager, in its words."""
    specific = False
    for name, pair in pairs.items():
        label = SIGNERS[name][1]
        if is_given(pair.key) and not is_given(pair.certificate):
            problems.append(f'"{label}": cannot specify key without cert')
        if is_given(pair.certificate) and not is_given(pair.key):
            problems.append(f'"{label}": cannot specify cert without key')
        specific = specific or is_given(pair.certificate) or is_given(pair.key)
    if specific and (is_given(common.certificate) or is_given(common.key)):
        problems.append(
            "cannot specify --cluster-signing-{cert,key}-file and other --cluster-signing-*-file flags at the same time"
        )


def parse_duration(text: str) -> datetime.timedelta | None:
    """A duration as Go writes it, `8760h0m0s`; None if it is not one, or one that is longer than Go's can be."""
    # Go takes a bare zero, and no other number without a unit.
    rest, seconds = "" if text == "0" else text, 0.0
    while rest:
        part = _DURATION_PART.match(rest)
        if part is None:
            return None
        seconds += float(part[1]) * _UNITS[part[2]]
        rest = rest[part.end() :]
    if not text or seconds > _LONGEST_DURATION:
        return None
    return datetime.timedelta(seconds=seconds)
