"""The signers file: custom signers, in a file that may change while certplane runs.

The file is YAML, parsed strictly: an unknown field is an error, and all errors are reported at once, with their paths.
An invalid file changes nothing: the signers of the last valid one stay in use, and `problem` says what is wrong. Names
in Kubernetes' own domains are refused, as certificates of such signers would be taken for Kubernetes' own.
"""

from __future__ import annotations

import dataclasses
import datetime
import functools
import ipaddress
import itertools
import pathlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Final

from msgspec import field

from certplane import errors
from certplane.config import options
from certplane.controllers.signing import signer
from certplane.controllers.signing.signer import FaultLatch
from certplane.golang import formatting, goyaml
from certplane.meta import objects, validation
from certplane.meta.objects import always, doc
from certplane.reload import CompletionCheck
from certplane.resources import certificatesigningrequests as csrs
from certplane.wire import codec
from certplane.x509.issuance import issue, profiles
from certplane.x509.issuance.cafiles import CAFiles
from certplane.x509.issuance.profiles import CARequests, Profile
from certplane.x509.issuance.reservednames import Reservations

API_VERSION: Final = "signers.certplane.dev/v1alpha1"
KIND: Final = "SignerList"
#: Domains in which only Kubernetes may name signers.
_KUBERNETES_DOMAINS: Final = re.compile(r"(.+\.)?(kubernetes|k8s)\.io")
_KINDS: Final = ("dns", "email", "ip", "uri")


class Authority(objects.Type):
    """Authority is the CA of a signer. File names are relative to this file."""

    cert_file: Annotated[str, doc("CA certificate, in PEM.")] = always(str)
    key_file: Annotated[str, doc("The CA key, in PEM; other users must not be able to read the file.")] = always(str)


class Usages(objects.Type):
    """Usages are the usages of certificates."""

    allowed: Annotated[list[str], doc("Usages that may be requested.")] = field(default_factory=list)
    required: Annotated[list[str], doc("Usages that must be requested.")] = field(default_factory=list)


class Subject(objects.Type):
    """Subject limits the subject. In patterns * matches any characters, {username} is the requestor's user name."""

    common_name: Annotated[list[str] | None, doc("Patterns, one of which the common name must match.")] = None
    organizations: Annotated[list[str] | None, doc("Patterns, one of which each organization must match.")] = None


class Names(objects.Type):
    """Names limits the alternative names. A missing list permits any name, an empty list none."""

    dns: Annotated[list[str] | None, doc("DNS names; *. matches one label, **. one or more.")] = None
    ip: Annotated[list[str] | None, doc("Networks, such as 10.0.0.0/8.")] = None
    email: Annotated[list[str] | None, doc("Patterns of email addresses.")] = None
    uri: Annotated[list[str] | None, doc("Patterns of URIs, such as spiffe://example.com/*.")] = None
    required: Annotated[list[str], doc("Kinds (dns, ip, email, uri); a name of one of them is required.")] = field(
        default_factory=list
    )
    max: Annotated[objects.Int32 | None, doc("Maximum number of names.")] = None
    wildcards: Annotated[bool, doc("Whether DNS names may have wildcards.")] = False


class Lifetime(objects.Type):
    """Lifetime limits the lifetime of certificates. Durations are in Go's syntax: 24h, 90m."""

    max: Annotated[str, doc("Longer lifetimes are shortened to this. The default is --cluster-signing-duration.")] = ""
    min: Annotated[str, doc("Shorter lifetimes are refused.")] = ""
    default: Annotated[str, doc("The lifetime of requests that name none; by default the maximum.")] = ""


class Approval(objects.Type):
    """Approval is a rule for automatic approval of requests that the signer permits."""

    users: Annotated[list[str], doc("User names.")] = field(default_factory=list)
    groups: Annotated[list[str], doc("Groups; one of them is enough.")] = field(default_factory=list)


class SignerDefinition(objects.Type):
    """SignerDefinition defines one kind of certificate."""

    name: Annotated[str, doc("The value of spec.signerName in requests, as domain/path.")] = always(str)
    description: Annotated[str, doc("The purpose, in a sentence.")] = ""
    authority: Annotated[Authority, doc("The CA.")] = always(Authority)
    keys: Annotated[list[str] | None, doc("Kinds of keys: RSA-2048 (or larger), ECDSA-P256, Ed25519, ...")] = None
    usages: Annotated[Usages, doc("Usages that may and must be requested.")] = always(Usages)
    subject: Annotated[Subject, doc("Limits of the subject.")] = field(default_factory=Subject)
    names: Annotated[Names, doc("Limits of the alternative names.")] = field(default_factory=Names)
    lifetime: Annotated[Lifetime, doc("Limits of the lifetime.")] = field(default_factory=Lifetime)
    certificate_authority: Annotated[bool, doc("Whether CA certificates may be requested.")] = False
    approval: Annotated[list[Approval], doc("Rules for automatic approval; if empty, people approve.")] = field(
        default_factory=list
    )


class Document(objects.Object):
    """SignerList defines custom signers."""

    signers: Annotated[list[SignerDefinition], doc("The signers.")] = always(list)


class SignersFileError(ValueError):
    """An invalid signers file; the text has all problems."""


def parse(data: bytes) -> Document:
    """Parse a signers file. Raises SignersFileError."""
    try:
        reading = codec.decode_tree(goyaml.parse(data), Document)
    except (goyaml.YAMLError, codec.DecodeError) as error:
        raise SignersFileError(str(error)) from error
    document = reading.object
    problems = list(reading.strict_errors)
    if (document.api_version, document.kind) != (API_VERSION, KIND):
        kind = f"{document.kind or '(no kind)'} of {document.api_version or '(no apiVersion)'}"
        problems.append(f"expected {KIND} of {API_VERSION}, got {kind}")
    names: set[str] = set()
    for index, definition in enumerate(document.signers):
        path = f"signers[{index}]"
        problems += [f"{path}.{problem}" for problem in _problems(definition)]
        if definition.name in names:
            problems.append(f"{path}.name: duplicate signer {definition.name}")
        names.add(definition.name)
    if problems:
        raise SignersFileError("; ".join(problems))
    return document


def profile_from(definition: SignerDefinition) -> Profile:
    """The profile of a custom signer."""
    names, lifetime = definition.names, definition.lifetime
    return Profile(
        signer=definition.name,
        description=definition.description,
        keys=_optional(definition.keys),
        usages=tuple(definition.usages.allowed),
        required_usages=tuple(definition.usages.required),
        common_name=_optional(definition.subject.common_name),
        organizations=_optional(definition.subject.organizations),
        dns=_optional(names.dns),
        email=_optional(names.email),
        ip=_optional(names.ip),
        uri=_optional(names.uri),
        required_names=tuple(names.required),
        max_names=names.max,
        allow_wildcards=names.wildcards,
        min_lifetime=_duration(lifetime.min),
        max_lifetime=_duration(lifetime.max),
        default_lifetime=_duration(lifetime.default),
        ca_requests=CARequests.ALLOW if definition.certificate_authority else CARequests.REFUSE,
        approval=tuple(profiles.Approval(tuple(rule.users), tuple(rule.groups)) for rule in definition.approval),
    )


def _optional(texts: list[str] | None) -> tuple[str, ...] | None:
    return None if texts is None else tuple(texts)


def _duration(text: str) -> datetime.timedelta | None:
    return formatting.parse_duration(text) if text else None


# --- validation ---------------------------------------------------------------------------------------------------


def _problems(definition: SignerDefinition) -> Iterator[str]:
    yield from map(str, validation.signer_name_problems(definition.name, "name"))
    if _KUBERNETES_DOMAINS.fullmatch(definition.name.partition("/")[0]):
        yield f"name: {definition.name} is in a domain of Kubernetes; use a domain of yours"
    authority = definition.authority
    for field_name, value in (("certFile", authority.cert_file), ("keyFile", authority.key_file)):
        if not value:
            yield f"authority.{field_name}: required"
    for kind in definition.keys or ():
        if kind not in profiles.CURVES and kind != profiles.ED25519 and not profiles.RSA.fullmatch(kind):
            known = f"RSA-2048 (any size), {', '.join(profiles.CURVES)}, {profiles.ED25519}"
            yield f'keys: unknown kind of key "{kind}"; known are {known}'
    yield from _usage_problems(definition.usages)
    yield from _name_problems(definition.names)
    yield from _lifetime_problems(definition.lifetime)
    for index, rule in enumerate(definition.approval):
        if not rule.users and not rule.groups:
            yield f"approval[{index}]: users or groups are required"


def _usage_problems(usages: Usages) -> Iterator[str]:
    if not usages.allowed:
        yield "usages.allowed: at least one usage is required"
    for usage in usages.allowed:
        if usage not in csrs.USAGES:
            yield f'usages.allowed: unknown usage "{usage}"'
    for usage in usages.required:
        if usage not in usages.allowed:
            yield f'usages.required: "{usage}" is not in usages.allowed'


def _name_problems(names: Names) -> Iterator[str]:
    for pattern in names.dns or ():
        labels = pattern.split(".")
        if "" in labels or any("*" in label for label in labels[1:]) or labels[0].strip("*") not in ("", labels[0]):
            yield f'names.dns: invalid pattern "{pattern}"; wildcards are *. or **. at the beginning'
    for network in names.ip or ():
        try:
            ipaddress.ip_network(network)
        except ValueError as error:
            suggestion = options.network_meant(network)
            yield f"names.ip: {error}{f'; did you mean {suggestion}?' if suggestion else ''}"
    for kind in names.required:
        if kind not in _KINDS:
            yield f'names.required: unknown kind of name "{kind}"; known are {", ".join(_KINDS)}'
    if names.max is not None and names.max < 0:
        yield "names.max: must be 0 or more"


def _lifetime_problems(lifetime: Lifetime) -> Iterator[str]:
    durations: dict[str, datetime.timedelta] = {}
    for name in ("min", "default", "max"):
        text = getattr(lifetime, name)
        if not text:
            continue
        duration = formatting.parse_duration(text)
        if duration is None:
            yield f'lifetime.{name}: invalid duration "{text}"; an example is 24h'
        elif duration < issue.MIN_LIFETIME:
            yield f"lifetime.{name}: must be at least 10m"
        else:
            durations[name] = duration
    for (lesser, less), (greater, more) in itertools.pairwise(durations.items()):
        if less > more:
            yield f"lifetime.{lesser}: must not be more than lifetime.{greater}"


# --- the file -----------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class _CAKey:
    """Identifies the CA of a custom signer when the file changes."""

    certificate: pathlib.Path
    key: pathlib.Path
    max_lifetime: datetime.timedelta
    issues_ca: bool


class SignersFile:
    """The signers in a file. `max_lifetime` is for definitions without one; `reservations` are the rules for names
    under the client CA. Not safe to use from several threads.
    """

    def __init__(
        self, path: pathlib.Path, max_lifetime: datetime.timedelta, reservations: Reservations | None = None
    ) -> None:
        self._path = path
        self._max_lifetime = max_lifetime
        self._reservations = reservations
        self._completion = CompletionCheck()
        #: The content in use.
        self._used: bytes | None = None
        self._ca_files: dict[_CAKey, CAFiles] = {}
        #: By signer name; kept if a signer disappears from the file and comes back.
        self._faults: dict[str, FaultLatch] = {}
        self._signers: Mapping[str, signer.Signer] = {}
        self.problem = ""

    def load(self) -> None:
        """Read the file for the first time. Raises SetupError."""
        self.reload(is_requested=True)
        if self.problem:
            raise errors.SetupError(
                f"invalid signers file {self._path}: {self.problem}", ("docs/signers.md describes the format",)
            )

    @property
    def signers(self) -> Mapping[str, signer.Signer]:
        """The signers of the last valid file, by name."""
        return self._signers

    def reload(self, *, is_requested: bool = False) -> bool:
        """Read the file. New content is used when two successive calls have read it, and at once with `is_requested`.
        Returns whether there are new signers; if the file cannot be used, see `problem`.
        """
        try:
            content = self._path.read_bytes()
        except OSError as error:
            self.problem = f"cannot read the file: {error.strerror}"
            return False
        is_complete = self._completion.is_complete(content, is_requested=is_requested)
        if content == self._used:
            self.problem = ""
            return False
        if not is_complete:
            return False
        # Content that was refused is checked again each time: the reason may have been a CA file, which was corrected.
        try:
            signers = [self._new_signer(definition) for definition in parse(content).signers]
        except SignersFileError as error:
            self.problem = str(error)
            return False
        problems = [
            f"signers[{index}]: {problem}"
            for index, new_signer in enumerate(signers)
            if (problem := self._ca_problem(new_signer))
        ]
        self.problem = "; ".join(problems)
        if problems:
            return False
        self._signers = {new_signer.profile.signer: new_signer for new_signer in signers}
        self._used = content
        return True

    def _ca_problem(self, new_signer: signer.Signer) -> str:
        """Why a signer may not use its CA; empty if it may. Checked again before each signature, as files change."""
        if self._reservations is None or new_signer.files is None:
            return ""
        return self._reservations.current_problem(new_signer.profile, new_signer.files)

    def _new_signer(self, definition: SignerDefinition) -> signer.Signer:
        profile = profile_from(definition)
        profile = dataclasses.replace(profile, max_lifetime=profile.max_lifetime or self._max_lifetime)
        ca_files = self._ca_files_for(definition, profile)
        fault = self._faults.setdefault(profile.signer, FaultLatch())
        reservations = self._reservations
        if reservations is None:
            return signer.Signer(profile, files=ca_files, fault=fault)
        reserved_names = functools.partial(reservations.violations, profile.signer, ca_files)
        profile = dataclasses.replace(profile, reserved_names=reserved_names)
        check = functools.partial(reservations.issuer_problem, profile)
        return signer.Signer(profile, files=ca_files, check=check, fault=fault)

    def _ca_files_for(self, definition: SignerDefinition, profile: Profile) -> CAFiles:
        """Kept when the file changes, with the last valid CA in it."""
        directory, authority = self._path.parent, definition.authority
        key = _CAKey(
            directory / authority.cert_file,
            directory / authority.key_file,
            profile.max_lifetime or self._max_lifetime,
            definition.certificate_authority,
        )
        if key not in self._ca_files:
            self._ca_files[key] = CAFiles(key.certificate, key.key, key.max_lifetime, issues_ca=key.issues_ca)
        return self._ca_files[key]


def domains(patterns: Sequence[str]) -> list[str]:
    """The domains of signers, in the form in which RBAC names all signers of a domain."""
    return sorted({f"{pattern.partition('/')[0]}/*" for pattern in patterns})
