"""Signers that users declare, in a file that may change while we run.

The file is YAML, read strictly: an unknown field is a mistake, and every mistake is told at once, with its path. A file
that is bad changes nothing: the signers of the last good one go on, and what is wrong is told beside them. Names of
Kubernetes' own domains are not to be had: whoever issues under them is taken for Kubernetes.
"""

from __future__ import annotations

import dataclasses
import datetime
import ipaddress
import itertools
import os
import pathlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Final

from msgspec import field

from certplane import errors, gotext
from certplane.config import options
from certplane.controllers import signer
from certplane.meta import codec, goyaml, objects, validation
from certplane.meta.objects import always, doc
from certplane.x509 import cafiles, profiles

API_VERSION: Final = "signers.certplane.dev/v1alpha1"
KIND: Final = "SignerList"
_RESERVED: Final = re.compile(r"(.+\.)?(kubernetes|k8s)\.io")
_USAGES: Final = frozenset(
    {
        "signing", "digital signature", "content commitment", "key encipherment", "key agreement", "data encipherment",
        "cert sign", "crl sign", "encipher only", "decipher only", "any", "server auth", "client auth", "code signing",
        "email protection", "s/mime", "ipsec end system", "ipsec tunnel", "ipsec user", "timestamping", "ocsp signing",
        "microsoft sgc", "netscape sgc",
    }
)  # fmt: skip
#: As in the API: nothing is asked for a shorter time.
_SHORTEST: Final = datetime.timedelta(minutes=10)
_KINDS: Final = ("dns", "email", "ip", "uri")


class Authority(objects.Type):
    """Authority says with which CA a signer signs. File names are relative to this file."""

    cert_file: Annotated[str, doc("CA certificate, in PEM.")] = always(str)
    key_file: Annotated[str, doc("The key that belongs to it; nobody else may read it.")] = always(str)


class Usages(objects.Type):
    """Usages says what certificates may be for."""

    allowed: Annotated[list[str], doc("Usages that may be asked for.")] = field(default_factory=list)
    required: Annotated[list[str], doc("Usages that must be asked for.")] = field(default_factory=list)


class Subject(objects.Type):
    """Subject says what certificates may name. Patterns: * stands for any characters, {username} for whoever asks."""

    common_name: Annotated[list[str] | None, doc("Patterns, one of which the common name has to match.")] = None
    organizations: Annotated[list[str] | None, doc("Patterns, one of which each organization has to match.")] = None


class Names(objects.Type):
    """Names says which alternative names there may be. What is not there may be anything; an empty list is none."""

    dns: Annotated[list[str] | None, doc("DNS names; *. stands for one label, **. for several.")] = None
    ip: Annotated[list[str] | None, doc("Networks, such as 10.0.0.0/8.")] = None
    email: Annotated[list[str] | None, doc("Patterns of mail addresses.")] = None
    uri: Annotated[list[str] | None, doc("Patterns of URIs, such as spiffe://example.com/*.")] = None
    required: Annotated[list[str], doc("Kinds (dns, ip, email, uri) of which there has to be one.")] = field(
        default_factory=list
    )
    most: Annotated[objects.Int32 | None, doc("How many there may be.")] = None
    wildcards: Annotated[bool, doc("Whether DNS names may have wildcards.")] = False


class Lifetime(objects.Type):
    """Lifetime says how long certificates live. Durations as Go writes them: 24h, 90m."""

    longest: Annotated[str, doc("More is cut to this. By default what --cluster-signing-duration says.")] = ""
    shortest: Annotated[str, doc("Less is refused.")] = ""
    default: Annotated[str, doc("What those get that ask for nothing; by default the longest.")] = ""


class Approval(objects.Type):
    """Approval says whose requests are approved without a person, as long as the signer permits them."""

    users: Annotated[list[str], doc("User names.")] = field(default_factory=list)
    groups: Annotated[list[str], doc("Groups, any of which is enough.")] = field(default_factory=list)


class Signer(objects.Type):
    """Signer is one kind of certificate."""

    name: Annotated[str, doc("What requests name in spec.signerName, as domain/path.")] = always(str)
    description: Annotated[str, doc("What it is for, in a sentence.")] = ""
    authority: Annotated[Authority, doc("With which CA it signs.")] = always(Authority)
    keys: Annotated[list[str] | None, doc("Kinds of keys: RSA-2048 (or more), ECDSA-P256, Ed25519, ...")] = None
    usages: Annotated[Usages, doc("What certificates may be for.")] = always(Usages)
    subject: Annotated[Subject, doc("What certificates may name.")] = field(default_factory=Subject)
    names: Annotated[Names, doc("Which alternative names there may be.")] = field(default_factory=Names)
    lifetime: Annotated[Lifetime, doc("How long certificates live.")] = field(default_factory=Lifetime)
    certificate_authority: Annotated[bool, doc("Whether CA certificates may be asked for. Hardly ever right.")] = False
    approval: Annotated[list[Approval], doc("Whose requests are approved without a person; nobody's, if empty.")] = (
        field(default_factory=list)
    )


class Document(objects.Object):
    """SignerList declares signers."""

    signers: Annotated[list[Signer], doc("The signers.")] = always(list)


class SignersProblem(ValueError):
    """A file that cannot be used; the text says everything that is wrong with it."""


def parse(data: bytes) -> Document:
    """The declarations in a file. Raises SignersProblem."""
    try:
        reading = codec.read(goyaml.parse(data), Document)
    except (goyaml.Problem, codec.ReadProblem) as error:
        raise SignersProblem(str(error)) from error
    found: Document = reading.object
    problems = list(reading.strict)
    if (found.api_version, found.kind) != (API_VERSION, KIND):
        kind = f"{found.kind or 'nothing'} of {found.api_version or 'no version'}"
        problems.append(f"it is {kind}, not a {KIND} of {API_VERSION}")
    seen: set[str] = set()
    for at, each in enumerate(found.signers):
        path = f"signers[{at}]"
        problems += [f"{path}.{why}" for why in _problems(each)]
        if each.name in seen:
            problems.append(f"{path}.name: {each.name} is there twice")
        seen.add(each.name)
    if problems:
        raise SignersProblem("; ".join(problems))
    return found


def profile_of(of: Signer) -> profiles.Profile:
    """What a declaration permits."""
    return profiles.Profile(
        signer=of.name,
        description=of.description,
        keys=_optional(of.keys),
        usages=tuple(of.usages.allowed),
        required_usages=tuple(of.usages.required),
        common_name=_optional(of.subject.common_name),
        organizations=_optional(of.subject.organizations),
        dns=_optional(of.names.dns),
        email=_optional(of.names.email),
        ip=_optional(of.names.ip),
        uri=_optional(of.names.uri),
        required_names=tuple(of.names.required),
        most_names=of.names.most,
        wildcards=of.names.wildcards,
        shortest=_duration(of.lifetime.shortest),
        longest=_duration(of.lifetime.longest),
        default=_duration(of.lifetime.default),
        authority=of.certificate_authority,
        approval=tuple(profiles.Approval(tuple(each.users), tuple(each.groups)) for each in of.approval),
    )


def _optional(of: list[str] | None) -> tuple[str, ...] | None:
    return None if of is None else tuple(of)


def _duration(text: str) -> datetime.timedelta | None:
    return gotext.parse_duration(text) if text else None


# --- what is wrong ------------------------------------------------------------------------------------------------


def _problems(of: Signer) -> Iterator[str]:
    yield from map(str, validation.signer_name_problems(of.name, "name"))
    if _RESERVED.fullmatch(of.name.partition("/")[0]):
        yield f"name: {of.name} is Kubernetes' own; use a domain of yours"
    for name, value in (("certFile", of.authority.cert_file), ("keyFile", of.authority.key_file)):
        if not value:
            yield f"authority.{name}: must be there"
    for each in of.keys or ():
        if each not in profiles.CURVES and each != profiles.ED25519 and not profiles.RSA.fullmatch(each):
            yield f"keys: {each} is none; there are RSA-2048 (any size), {', '.join(profiles.CURVES)}, Ed25519"
    yield from _usage_problems(of.usages)
    yield from _name_problems(of.names)
    yield from _lifetime_problems(of.lifetime)
    for at, rule in enumerate(of.approval):
        if not rule.users and not rule.groups:
            yield f"approval[{at}]: names nobody"


def _usage_problems(of: Usages) -> Iterator[str]:
    if not of.allowed:
        yield "usages.allowed: must name at least one"
    for each in of.allowed:
        if each not in _USAGES:
            yield f"usages.allowed: there is no usage {each}"
    for each in of.required:
        if each not in of.allowed:
            yield f"usages.required: {each} is not allowed"


def _name_problems(of: Names) -> Iterator[str]:
    for each in of.dns or ():
        labels = each.split(".")
        if "" in labels or any("*" in label for label in labels[1:]) or labels[0].strip("*") not in ("", labels[0]):
            yield f"names.dns: {each} is no pattern; *. or **. may stand at the beginning"
    for each in of.ip or ():
        try:
            ipaddress.ip_network(each)
        except ValueError as error:
            meant = options.network_meant(each)
            yield f"names.ip: {error}{f'; did you mean {meant}?' if meant else ''}"
    for each in of.required:
        if each not in _KINDS:
            yield f"names.required: there is no kind {each}; there are {', '.join(_KINDS)}"
    if of.most is not None and of.most < 0:
        yield "names.most: must be 0 or more"


def _lifetime_problems(of: Lifetime) -> Iterator[str]:
    found: dict[str, datetime.timedelta] = {}
    for name in ("shortest", "default", "longest"):
        text = getattr(of, name)
        if not text:
            continue
        value = gotext.parse_duration(text)
        if value is None:
            yield f"lifetime.{name}: {text} is no duration, such as 24h"
        elif value < _SHORTEST:
            yield f"lifetime.{name}: must be 10m at least"
        else:
            found[name] = value
    ordered = list(found.items())
    for (lesser, less), (greater, more) in itertools.pairwise(ordered):
        if less > more:
            yield f"lifetime.{lesser}: is more than the {greater}"


# --- the file -----------------------------------------------------------------------------------------------------


class SignerFile:
    """The signers of a file, as it is now. `longest` is for those that name no lifetime."""

    def __init__(self, path: pathlib.Path, longest: datetime.timedelta) -> None:
        self._path = path
        self._longest = longest
        self._trace: tuple[int, ...] | None = None
        self._files: dict[tuple[Any, ...], cafiles.CAFiles] = {}
        self._signers: Mapping[str, signer.Signer] = {}
        self.problem = ""

    def load(self) -> None:
        """Read it for the first time. Raises SetupError."""
        self.look()
        if self.problem:
            raise errors.SetupError(
                f"the signers in {self._path} cannot be used: {self.problem}", ("docs/signers.md says what is in it",)
            )

    @property
    def signers(self) -> Mapping[str, signer.Signer]:
        """Those of the last good file, by name."""
        return self._signers

    def look(self) -> bool:
        """Read the file if it has changed; whether the signers are others now."""
        try:
            found = os.stat(self._path)
            trace = found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
            if trace == self._trace:
                return False
            self._trace = trace
            document = parse(self._path.read_bytes())
        except OSError as error:
            self._trace, self.problem = None, f"it cannot be read: {error.strerror}"
            return False
        except SignersProblem as error:
            self.problem = str(error)
            return False
        self._signers = {each.name: self._made(each) for each in document.signers}
        self.problem = ""
        return True

    def _made(self, of: Signer) -> signer.Signer:
        profile = profile_of(of)
        place = self._path.parent
        pair = place / of.authority.cert_file, place / of.authority.key_file
        longest = profile.longest or self._longest
        key = (*pair, longest, of.certificate_authority)
        if key not in self._files:
            # Kept over changes of this file: what was good goes on.
            self._files[key] = cafiles.CAFiles(*pair, longest, issues_authorities=of.certificate_authority)
        return signer.Signer(dataclasses.replace(profile, longest=longest), files=self._files[key])


def domains(of: Sequence[str]) -> list[str]:
    """The domains of some signers, as RBAC names all signers of one."""
    return sorted({f"{each.partition('/')[0]}/*" for each in of})
