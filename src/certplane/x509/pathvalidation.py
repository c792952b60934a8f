"""Whether a chain of certificates leads to a trusted one and makes its leaf good for a purpose, as Go judges it.

The rules are those of Go's `x509.Verify` with `KeyUsages: ExtKeyUsageClientAuth`, whose texts the refusals have:

- Every certificate of the pool is a trust anchor, whether it signed itself, is an intermediate, or is the leaf itself.
- A path leads from the leaf to the pool over certificates that sign one another: those of the pool, and those that came
  with the leaf, which must have the CA bit. The names must be the same bytes, the signature good, made with neither
  MD5 nor SHA-1. Who signs must not say by basic constraints or by key usage that he may not.
- Each certificate of a path is valid now, has no critical extension that is not understood, and no more authorities
  below than its path length allows. Of several certificates with one name and key a path has one.
- Extended key usages nest: whoever has any has client authentication among them, or any purpose at all.
- Names are held against the name constraints above them, policies against policy constraints.
- Nothing else of the leaf counts: neither its key usage, nor nsCertType, nor the kind and size of its key.

One thing is done in another order. Go asks whether the leaf was signed by what came with it, with keys that a stranger
chose, before it asks whether that leads anywhere. Here what came with the leaf is verified from the pool downwards, so
that a stranger's chain costs as many signature checks as there are names of the pool in it, with the pool's own keys;
what does not lead to the pool is not looked at. The answer is the same; the text does not speculate about such
certificates.

Source: RFC 5280 section 6; Go 1.26 `crypto/x509`, `verify.go`.
"""

from __future__ import annotations

import dataclasses
import datetime
import enum
import functools
from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import Final

from certplane import gotext
from certplane.x509 import certificatepolicies, csr, nameconstraints, signatures
from certplane.x509.pathcertificate import CertificateProblem, PathCertificate, parse

#: As in Go: candidates that are considered for one leaf. A good chain needs two or three.
MOST_CANDIDATES: Final = 100
#: Certificates of one chain, and their bytes together: what is beyond is not read. Go's TLS takes 256 KiB and counts
#: none; chains of clients have three certificates of some 2 KiB at the most.
MOST_CERTIFICATES: Final = 16
MOST_BYTES: Final = 64 * 1024

_CLIENT_AUTH: Final = b"\x2b\x06\x01\x05\x05\x07\x03\x02"
_ANY_PURPOSE: Final = b"\x55\x1d\x25\x00"
_TICK: Final = datetime.timedelta(microseconds=1)
_UNKNOWN_AUTHORITY: Final = "x509: certificate signed by unknown authority"
_VIOLATION: Final = "x509: invalid signature: parent certificate cannot sign this kind of certificate"
_LONGEST_NAME: Final = 128
_ALWAYS: Final = (
    datetime.datetime.min.replace(tzinfo=datetime.UTC),
    datetime.datetime.max.replace(tzinfo=datetime.UTC),
)


class Reason(enum.Enum):
    """Why a chain is refused: few and fixed, so that they can be counted."""

    UNKNOWN_AUTHORITY = "unknown_authority"
    EXPIRED = "expired"
    NOT_YET_VALID = "not_yet_valid"
    USAGE = "usage"
    MALFORMED = "malformed"
    OTHER = "other"


class PathProblem(ValueError):
    """A chain that is refused. The text is Go's."""

    def __init__(self, text: str, reason: Reason = Reason.OTHER) -> None:
        super().__init__(text)
        self.reason = reason


@dataclasses.dataclass(frozen=True, slots=True)
class Span:
    """The time, both ends included, in which a judgement stays what it is."""

    since: datetime.datetime
    until: datetime.datetime

    def __contains__(self, now: datetime.datetime) -> bool:
        return self.since <= now <= self.until


ALWAYS: Final = Span(*_ALWAYS)


def span(certificates: Sequence[PathCertificate], now: datetime.datetime) -> Span:
    """The time around `now` in which none of these certificates begins or ends."""
    since, until = _ALWAYS
    for each in certificates:
        for first in (each.not_before, each.not_after + _TICK if each.not_after < _ALWAYS[1] else _ALWAYS[1]):
            if first <= now:
                since = max(since, first)
            else:
                until = min(until, first - _TICK)
    return Span(since, until)


class Pool:
    """Trusted certificates. Immutable."""

    def __init__(self, certificates: Sequence[PathCertificate]) -> None:
        self.certificates = tuple({each.raw: each for each in certificates}.values())
        self._raw = frozenset(each.raw for each in self.certificates)
        self._by_subject = _by_subject(self.certificates)

    def __contains__(self, certificate: PathCertificate) -> bool:
        return certificate.raw in self._raw

    def issuers(self, certificate: PathCertificate) -> Sequence[PathCertificate]:
        """Those whose name is that of a certificate's issuer, the likeliest first."""
        return _likeliest_first(self._by_subject.get(certificate.issuer, ()), certificate)


def read(chain: Sequence[bytes]) -> list[PathCertificate]:
    """The certificates of a chain, in DER, of at most so many and so long. Raises PathProblem."""
    if len(chain) > MOST_CERTIFICATES:
        raise PathProblem(f"the client sent {len(chain)} certificates, and may send {MOST_CERTIFICATES}")
    size = sum(map(len, chain))
    if size > MOST_BYTES:
        raise PathProblem(f"the client sent certificates of {size} bytes, and may send {MOST_BYTES}")
    try:
        return [parse(each) for each in chain]
    except CertificateProblem as error:
        raise PathProblem(str(error), Reason.MALFORMED) from error


def verify(
    leaf: PathCertificate, intermediates: Sequence[PathCertificate], pool: Pool, now: datetime.datetime
) -> Sequence[PathCertificate]:
    """A path from the leaf to the pool that is good for a client, the leaf first. Raises PathProblem."""
    _check_validity(leaf, now, below=-1)
    paths = [(leaf,)] if leaf in pool else _Search(leaf, intermediates, pool, now).paths()
    problems = _Problems()
    checked: dict[tuple[bytes, bytes], str] = {}
    for path in paths:
        if not certificatepolicies.are_valid(path):
            problems.policies += 1
        elif not _is_for_clients(path):
            problems.purposes += 1
        elif constraint := _constraint_problem(path, checked):
            problems.constraint = problems.constraint or constraint
        else:
            return path
    raise problems.error()


@dataclasses.dataclass(slots=True)
class _Problems:
    """What is wrong with the paths that there are."""

    policies: int = 0
    purposes: int = 0
    constraint: str = ""

    def error(self) -> PathProblem:
        if self.constraint:
            return PathProblem(
                f"x509: a root or intermediate certificate is not authorized to sign for this name: {self.constraint}"
            )
        if self.purposes and not self.policies:
            return PathProblem("x509: certificate specifies an incompatible key usage", Reason.USAGE)
        told = [
            f"{count} candidate chains with {what}"
            for count, what in ((self.purposes, "incompatible key usage"), (self.policies, "invalid policies"))
            if count
        ]
        return PathProblem(f"x509: no valid chains built: {', '.join(told)}")


# --- one certificate ----------------------------------------------------------------------------------------------


def _check_validity(certificate: PathCertificate, now: datetime.datetime, below: int) -> None:
    """Check a certificate in its place, with so many authorities below it. Raises PathProblem."""
    if certificate.has_unhandled_critical:
        raise PathProblem("x509: unhandled critical extension")
    if now < certificate.not_before:
        raise PathProblem(_time_text(now, "before", certificate.not_before), Reason.NOT_YET_VALID)
    if now > certificate.not_after:
        raise PathProblem(_time_text(now, "after", certificate.not_after), Reason.EXPIRED)
    if certificate.path_length is not None and below > certificate.path_length:
        raise PathProblem("x509: too many intermediates for path length constraint")


def _time_text(now: datetime.datetime, word: str, bound: datetime.datetime) -> str:
    current, limit = (each.isoformat(timespec="seconds").replace("+00:00", "Z") for each in (now, bound))
    return f"x509: certificate has expired or is not yet valid: current time {current} is {word} {limit}"


def check_signature(certificate: PathCertificate, parent: PathCertificate) -> None:
    """Check that one certificate signed another, and may. Raises PathProblem."""
    is_denied = parent.is_authority is None if parent.version == 3 else False
    if is_denied or parent.is_authority is False or not parent.may_sign:
        raise PathProblem(_VIOLATION)
    try:
        signatures.verify(certificate.signature, certificate.to_be_signed, parent.key, allow_sha1=False)
    except signatures.SignatureProblem as error:
        raise PathProblem(str(error)) from error


def _is_for_clients(path: Sequence[PathCertificate]) -> bool:
    return all(not each.purposes or _CLIENT_AUTH in each.purposes or _ANY_PURPOSE in each.purposes for each in path)


def _constraint_problem(path: Sequence[PathCertificate], checked: dict[tuple[bytes, bytes], str]) -> str:
    """Why names of a path are not permitted by a certificate above them; empty if they are. `checked` is what was
    found for two certificates before.
    """
    for at, certificate in enumerate(path):
        if certificate.alternative_names is None:
            continue
        for above in path[at + 1 :]:
            if above.constraints is None:
                continue
            key = certificate.raw, above.raw
            if key not in checked:
                checked[key] = _names_problem(certificate.alternative_names, above.constraints)
            if checked[key]:
                return checked[key]
    return ""


def _names_problem(names: bytes, constraints: nameconstraints.Constraints) -> str:
    try:
        nameconstraints.Checker(constraints).check(csr.alternative_names(names))
    except nameconstraints.ConstraintProblem as error:
        return str(error)
    return ""


# --- paths --------------------------------------------------------------------------------------------------------

_Path = tuple[PathCertificate, ...]
_TOO_MANY: Final = "x509: signature check attempts limit reached while verifying certificate chain"


class _Search:
    """The paths from a leaf to the pool, in Go's order, over what came with the leaf and leads to the pool."""

    def __init__(
        self, leaf: PathCertificate, intermediates: Sequence[PathCertificate], pool: Pool, now: datetime.datetime
    ) -> None:
        self._leaf = leaf
        self._intermediates = tuple({each.raw: each for each in intermediates}.values())
        self._pool = pool
        self._now = now
        self._considered = 0
        self._checked: dict[tuple[bytes, bytes], PathProblem | None] = {}

    def paths(self) -> Iterator[_Path]:
        """One after the other. Raises PathProblem if there is none."""
        problem = yield from self._extend((self._leaf,))
        if problem is not None:
            raise problem

    def _extend(self, path: _Path) -> Generator[_Path, None, PathProblem | None]:
        """The paths that begin with this one; returns why there is none."""
        problem: PathProblem | None = None
        hint, is_reached = "", False
        for candidate, is_anchor in self._candidates(path[-1]):
            self._considered += 1
            if self._considered > MOST_CANDIDATES:
                problem = PathProblem(_TOO_MANY)
                break
            if _is_in(path, candidate):
                continue
            refusal = self._signature_problem(path[-1], candidate)
            if refusal is None:
                refusal = problem = _problem_as_issuer(candidate, path, self._now, is_anchor=is_anchor)
            if refusal is not None:
                hint = hint or _hint(refusal, candidate)
            elif is_anchor:
                is_reached = True
                yield *path, candidate
            else:
                problem = yield from self._extend((*path, candidate))
                is_reached = is_reached or problem is None
        if is_reached:
            return None
        return problem or PathProblem(_UNKNOWN_AUTHORITY + hint, Reason.UNKNOWN_AUTHORITY)

    def _candidates(self, child: PathCertificate) -> Iterator[tuple[PathCertificate, bool]]:
        """Who may have signed a certificate, and whether that is in the pool."""
        for each in self._pool.issuers(child):
            yield each, True
        for each in _likeliest_first(self._anchored.get(child.issuer, ()), child):
            yield each, False

    @functools.cached_property
    def _anchored(self) -> Mapping[bytes, Sequence[PathCertificate]]:
        """Of what came with the leaf, what the pool signed, and what was signed by that; by subject."""
        anchored: list[PathCertificate] = []
        left = list(self._intermediates)
        while left:
            by_subject = _by_subject(anchored)
            signed = [each for each in left if self._is_signed(each, by_subject.get(each.issuer, ()))]
            if not signed:
                break
            anchored += signed
            left = [each for each in left if each not in signed]
        return _by_subject([each for each in self._intermediates if each in anchored])

    def _is_signed(self, child: PathCertificate, anchored: Sequence[PathCertificate]) -> bool:
        parents = (*self._pool.issuers(child), *anchored)
        return any(self._signature_problem(child, each) is None for each in parents)

    def _signature_problem(self, child: PathCertificate, parent: PathCertificate) -> PathProblem | None:
        """Why a certificate was not signed by another; None if it was. Each signature is checked once."""
        key = child.raw, parent.raw
        if key not in self._checked:
            if len(self._checked) == MOST_CANDIDATES:
                raise PathProblem(_TOO_MANY)
            try:
                check_signature(child, parent)
                self._checked[key] = None
            except PathProblem as error:
                self._checked[key] = error
        return self._checked[key]


def _problem_as_issuer(
    certificate: PathCertificate, path: _Path, now: datetime.datetime, *, is_anchor: bool
) -> PathProblem | None:
    """Why a certificate cannot stand at the end of a path; None if it can."""
    try:
        _check_validity(certificate, now, below=len(path) - 1)
    except PathProblem as error:
        return error
    if not is_anchor and not certificate.is_authority:
        return PathProblem("x509: certificate is not authorized to sign other certificates")
    return None


def _is_in(path: _Path, candidate: PathCertificate) -> bool:
    """Whether a path has the candidate already, or one with its name, key and alternative names: certificates that
    sign one another crosswise would lead around for ever.
    """
    for each in path:
        if (each.subject, each.spki) != (candidate.subject, candidate.spki):
            continue
        if each.alternative_names == candidate.alternative_names:
            return True
        if each.alternative_names is None or candidate.alternative_names is None:
            # As in Go, which looks no further.
            return False
    return False


def _hint(problem: PathProblem, candidate: PathCertificate) -> str:
    subject = csr.parse_name(candidate.subject)
    name = subject.common_name or next(iter(subject.organization), "") or f"serial:{candidate.serial}"
    told = f"{gotext.quote(str(problem))} while trying to verify candidate authority certificate"
    return f" (possibly because of {told} {gotext.quote(name[:_LONGEST_NAME])})"


def _by_subject(certificates: Sequence[PathCertificate]) -> dict[bytes, list[PathCertificate]]:
    found: dict[bytes, list[PathCertificate]] = {}
    for each in certificates:
        found.setdefault(each.subject, []).append(each)
    return found


def _likeliest_first(candidates: Sequence[PathCertificate], certificate: PathCertificate) -> Sequence[PathCertificate]:
    """Those whose key has the identifier that the certificate names, those of which nothing is said, and the rest."""

    def unlikeliness(candidate: PathCertificate) -> int:
        if candidate.subject_key_id == certificate.authority_key_id:
            return 0
        return 1 if not candidate.subject_key_id or not certificate.authority_key_id else 2

    return sorted(candidates, key=unlikeliness)
