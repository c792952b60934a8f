"""Path validation of client certificate chains, as Go does it.

The rules and the error texts are those of Go's `x509.Verify` with `KeyUsages: ExtKeyUsageClientAuth`:

- Every certificate of the pool is a trust anchor, whether it is self-signed, an intermediate, or the leaf itself.
- A path leads from the leaf to the pool; each certificate is signed by the next one, which is from the pool, or came
  with the leaf and has the CA bit. Issuer and subject must be the same bytes. The signature must be valid and made with
  neither MD5 nor SHA-1. The basic constraints and the key usage of the signing certificate must permit it to sign.
- Each certificate of a path is currently valid, has no unhandled critical extension, and has no more CAs below it than
  its path length allows. A path has at most one of several certificates with the same name and key.
- Extended key usages nest: each certificate with an extended key usage has client authentication or any purpose in it.
- Names must satisfy the name constraints above them; policies must satisfy the policy constraints.
- Nothing else of the leaf is checked: neither its key usage, nor nsCertType, nor the kind and size of its key.

One check is done in another order. Go first verifies the signature of the leaf with the keys of the intermediates,
which an attacker chose, and then looks for a path from there. Here the intermediates are verified first, from the pool
downwards, and those without a path to the pool are ignored. An attacker's chain therefore costs only as many signature
checks, with keys of the pool, as it has certificates with an issuer name of the pool. The result is the same; only the
hints in error texts do not mention the ignored certificates.

Source: RFC 5280 section 6; Go 1.26 `crypto/x509`, `verify.go`.
"""

from __future__ import annotations

import dataclasses
import datetime
import enum
import functools
from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import Final

from certplane.golang import formatting
from certplane.x509 import certificatenames, signatures
from certplane.x509.trust import certificatepolicies, nameconstraints
from certplane.x509.trust.pathcertificate import CertificateParseError, PathCertificate, parse

#: As in Go: limit of the issuer candidates for one leaf. A usual chain needs two or three.
MAX_CANDIDATES: Final = 100
#: Limits of the certificates in one chain and of their total size in bytes; longer chains are not parsed. Go's TLS
#: accepts 256 KiB and any number. Usual chains have at most three certificates of about 2 KiB.
MAX_CERTIFICATES: Final = 16
MAX_CHAIN_BYTES: Final = 64 * 1024

#: OIDs as the content of their DER: 1.3.6.1.5.5.7.3.2 and 2.5.29.37.0.
_CLIENT_AUTH: Final = b"\x2b\x06\x01\x05\x05\x07\x03\x02"
_ANY_PURPOSE: Final = b"\x55\x1d\x25\x00"
_CLIENT_PURPOSES: Final = frozenset({_CLIENT_AUTH, _ANY_PURPOSE})
_TICK: Final = datetime.timedelta(microseconds=1)
_UNKNOWN_AUTHORITY: Final = "x509: certificate signed by unknown authority"
_CONSTRAINT_VIOLATION: Final = "x509: invalid signature: parent certificate cannot sign this kind of certificate"
_MAX_NAME: Final = 128
_FIRST_TIME: Final = datetime.datetime.min.replace(tzinfo=datetime.UTC)
_LAST_TIME: Final = datetime.datetime.max.replace(tzinfo=datetime.UTC)


class Reason(enum.Enum):
    """Why a chain is refused. The values are few and fixed: they are labels of a metric."""

    UNKNOWN_AUTHORITY = "unknown_authority"
    EXPIRED = "expired"
    NOT_YET_VALID = "not_yet_valid"
    USAGE = "usage"
    MALFORMED = "malformed"
    OTHER = "other"


class PathValidationError(ValueError):
    """A chain that is refused. The text is Go's."""

    def __init__(self, text: str, reason: Reason = Reason.OTHER) -> None:
        super().__init__(text)
        self.reason = reason


@dataclasses.dataclass(frozen=True, slots=True)
class Span:
    """A period, both ends included, in which the result of a verification does not change."""

    since: datetime.datetime
    until: datetime.datetime

    def __contains__(self, now: datetime.datetime) -> bool:
        return self.since <= now <= self.until


ALWAYS: Final = Span(_FIRST_TIME, _LAST_TIME)


def stable_span(certificates: Sequence[PathCertificate], now: datetime.datetime) -> Span:
    """The span around `now` in which none of these certificates becomes valid or expires."""
    since, until = _FIRST_TIME, _LAST_TIME
    for certificate in certificates:
        expiry = certificate.not_after + _TICK if certificate.not_after < _LAST_TIME else _LAST_TIME
        for change in (certificate.not_before, expiry):
            if change <= now:
                since = max(since, change)
            else:
                until = min(until, change - _TICK)
    return Span(since, until)


class Pool:
    """The trust anchors. Immutable."""

    def __init__(self, certificates: Sequence[PathCertificate]) -> None:
        self.certificates = _drop_duplicates(certificates)
        self._raw = frozenset(certificate.raw for certificate in self.certificates)
        self._by_subject = _group_by_subject(self.certificates)

    def __contains__(self, certificate: PathCertificate) -> bool:
        return certificate.raw in self._raw

    def find_issuers(self, certificate: PathCertificate) -> Sequence[PathCertificate]:
        """The anchors with the name of a certificate's issuer, the likeliest first."""
        return _sort_by_key_id(self._by_subject.get(certificate.issuer, ()), certificate)


def parse_chain(chain: Sequence[bytes]) -> list[PathCertificate]:
    """Parse the certificates of a chain, in DER, within the limits. Raises PathValidationError."""
    if len(chain) > MAX_CERTIFICATES:
        raise PathValidationError(f"the client sent {len(chain)} certificates; the limit is {MAX_CERTIFICATES}")
    size = sum(map(len, chain))
    if size > MAX_CHAIN_BYTES:
        raise PathValidationError(f"the client sent {size} bytes of certificates; the limit is {MAX_CHAIN_BYTES}")
    try:
        return [parse(data) for data in chain]
    except CertificateParseError as error:
        raise PathValidationError(str(error), Reason.MALFORMED) from error


def verify(
    leaf: PathCertificate, intermediates: Sequence[PathCertificate], pool: Pool, now: datetime.datetime
) -> Sequence[PathCertificate]:
    """A valid path for a client, from the leaf to an anchor of the pool. Raises PathValidationError."""
    _check_validity(leaf, now, below=-1)
    paths = [(leaf,)] if leaf in pool else _PathBuilder(leaf, intermediates, pool, now).build()
    problems = _Problems()
    checked: _CheckedNames = {}
    for path in paths:
        if not certificatepolicies.are_valid(path):
            problems.policies += 1
        elif not _is_for_clients(path):
            problems.purposes += 1
        elif problem := _find_constraint_problem(path, checked):
            problems.constraint = problems.constraint or problem
        else:
            return path
    raise problems.error()


@dataclasses.dataclass(slots=True)
class _Problems:
    """Why paths were refused: the numbers of those with invalid policies and with incompatible extended key usages, and
    the first violated name constraint.
    """

    policies: int = 0
    purposes: int = 0
    constraint: str = ""

    def error(self) -> PathValidationError:
        if self.constraint:
            return PathValidationError(
                f"x509: a root or intermediate certificate is not authorized to sign for this name: {self.constraint}"
            )
        if self.purposes and not self.policies:
            return PathValidationError("x509: certificate specifies an incompatible key usage", Reason.USAGE)
        reasons = [
            f"{count} candidate chains with {reason}"
            for count, reason in ((self.purposes, "incompatible key usage"), (self.policies, "invalid policies"))
            if count
        ]
        return PathValidationError(f"x509: no valid chains built: {', '.join(reasons)}")


# --- one certificate ----------------------------------------------------------------------------------------------


def _check_validity(certificate: PathCertificate, now: datetime.datetime, below: int) -> None:
    """Check a certificate of a path; `below` is the number of CAs below it. Raises PathValidationError."""
    if certificate.has_unhandled_critical:
        raise PathValidationError("x509: unhandled critical extension")
    if now < certificate.not_before:
        raise PathValidationError(_validity_text(now, "before", certificate.not_before), Reason.NOT_YET_VALID)
    if now > certificate.not_after:
        raise PathValidationError(_validity_text(now, "after", certificate.not_after), Reason.EXPIRED)
    if certificate.path_length is not None and below > certificate.path_length:
        raise PathValidationError("x509: too many intermediates for path length constraint")


def _validity_text(now: datetime.datetime, word: str, bound: datetime.datetime) -> str:
    current, limit = (time.isoformat(timespec="seconds").replace("+00:00", "Z") for time in (now, bound))
    return f"x509: certificate has expired or is not yet valid: current time {current} is {word} {limit}"


def check_signature(certificate: PathCertificate, parent: PathCertificate) -> None:
    """Check that `parent` signed a certificate and was permitted to. Raises PathValidationError."""
    # Only certificates of version 3 must have basic constraints: older ones cannot.
    lacks_constraints = parent.version == 3 and parent.is_ca is None
    if lacks_constraints or parent.is_ca is False or not parent.may_sign:
        raise PathValidationError(_CONSTRAINT_VIOLATION)
    try:
        signatures.verify(certificate.signature, certificate.to_be_signed, parent.key, allow_sha1=False)
    except signatures.SignatureError as error:
        raise PathValidationError(str(error)) from error


def _is_for_clients(path: Sequence[PathCertificate]) -> bool:
    return all(not certificate.purposes or certificate.purposes & _CLIENT_PURPOSES for certificate in path)


#: Results of `_check_names`, by the DER of the certificate with the names and of the CA with the constraints.
_CheckedNames = dict[tuple[bytes, bytes], str]


def _find_constraint_problem(path: Sequence[PathCertificate], checked: _CheckedNames) -> str:
    """The first violation of a name constraint on a path; empty if there is none. `checked` is kept across paths."""
    for index, certificate in enumerate(path):
        if certificate.alternative_names is None:
            continue
        for ca in path[index + 1 :]:
            if ca.constraints is None:
                continue
            key = certificate.raw, ca.raw
            if key not in checked:
                checked[key] = _check_names(certificate.alternative_names, ca.constraints)
            if checked[key]:
                return checked[key]
    return ""


def _check_names(names: bytes, constraints: nameconstraints.Constraints) -> str:
    """The violation of a name constraint by the value of a SubjectAlternativeName; empty if there is none."""
    try:
        nameconstraints.Checker(constraints).check(certificatenames.parse_alternative_names(names))
    except nameconstraints.NameConstraintError as error:
        return str(error)
    return ""


# --- paths --------------------------------------------------------------------------------------------------------

_Path = tuple[PathCertificate, ...]
_TOO_MANY: Final = "x509: signature check attempts limit reached while verifying certificate chain"


class _PathBuilder:
    """Builds the paths from a leaf to the pool, in Go's order, over the intermediates that have a path to the pool."""

    def __init__(
        self, leaf: PathCertificate, intermediates: Sequence[PathCertificate], pool: Pool, now: datetime.datetime
    ) -> None:
        self._leaf = leaf
        self._intermediates = _drop_duplicates(intermediates)
        self._pool = pool
        self._now = now
        self._considered = 0
        self._checked_signatures: dict[tuple[bytes, bytes], PathValidationError | None] = {}

    def build(self) -> Iterator[_Path]:
        """The paths, one after the other. Raises PathValidationError if there is none."""
        error = yield from self._extend((self._leaf,))
        if error is not None:
            raise error

    def _extend(self, path: _Path) -> Generator[_Path, None, PathValidationError | None]:
        """Yield the complete paths that begin with this one. Returns the error if there is none, else None."""
        error: PathValidationError | None = None
        hint, has_path = "", False
        for candidate, is_anchor in self._candidates(path[-1]):
            self._considered += 1
            if self._considered > MAX_CANDIDATES:
                error = PathValidationError(_TOO_MANY)
                break
            if _has_equivalent(path, candidate):
                continue
            refusal = self._signature_error(path[-1], candidate)
            if refusal is None:
                # As in Go, the error of the last candidate that signed the certificate is reported.
                refusal = error = _issuer_error(candidate, path, self._now, is_anchor=is_anchor)
            if refusal is not None:
                hint = hint or _hint(refusal, candidate)
            elif is_anchor:
                has_path = True
                yield *path, candidate
            else:
                error = yield from self._extend((*path, candidate))
                has_path = has_path or error is None
        if has_path:
            return None
        return error or PathValidationError(_UNKNOWN_AUTHORITY + hint, Reason.UNKNOWN_AUTHORITY)

    def _candidates(self, child: PathCertificate) -> Iterator[tuple[PathCertificate, bool]]:
        """The certificates that may have signed a certificate, each with whether it is an anchor."""
        for anchor in self._pool.find_issuers(child):
            yield anchor, True
        for intermediate in _sort_by_key_id(self._anchored.get(child.issuer, ()), child):
            yield intermediate, False

    @functools.cached_property
    def _anchored(self) -> Mapping[bytes, Sequence[PathCertificate]]:
        """The intermediates that the pool signed, directly or through other such intermediates; by subject."""
        anchored: list[PathCertificate] = []
        remaining = list(self._intermediates)
        while remaining:
            by_subject = _group_by_subject(anchored)
            signed = [child for child in remaining if self._is_signed(child, by_subject.get(child.issuer, ()))]
            if not signed:
                break
            anchored += signed
            remaining = [child for child in remaining if child not in signed]
        return _group_by_subject([certificate for certificate in self._intermediates if certificate in anchored])

    def _is_signed(self, child: PathCertificate, anchored: Sequence[PathCertificate]) -> bool:
        parents = (*self._pool.find_issuers(child), *anchored)
        return any(self._signature_error(child, parent) is None for parent in parents)

    def _signature_error(self, child: PathCertificate, parent: PathCertificate) -> PathValidationError | None:
        """The error if `parent` did not sign `child`; None if it did. Each pair is checked once."""
        key = child.raw, parent.raw
        if key not in self._checked_signatures:
            if len(self._checked_signatures) == MAX_CANDIDATES:
                raise PathValidationError(_TOO_MANY)
            try:
                check_signature(child, parent)
                self._checked_signatures[key] = None
            except PathValidationError as error:
                self._checked_signatures[key] = error
        return self._checked_signatures[key]


def _issuer_error(
    certificate: PathCertificate, path: _Path, now: datetime.datetime, *, is_anchor: bool
) -> PathValidationError | None:
    """The error if a certificate cannot extend a path; None if it can."""
    try:
        _check_validity(certificate, now, below=len(path) - 1)
    except PathValidationError as error:
        return error
    if not is_anchor and not certificate.is_ca:
        return PathValidationError("x509: certificate is not authorized to sign other certificates")
    return None


def _has_equivalent(path: _Path, candidate: PathCertificate) -> bool:
    """Whether a path has a certificate with the name, key and alternative names of the candidate. Without this check,
    cross-signed certificates would make endless paths.
    """
    for certificate in path:
        if (certificate.subject, certificate.spki) != (candidate.subject, candidate.spki):
            continue
        if certificate.alternative_names == candidate.alternative_names:
            return True
        if certificate.alternative_names is None or candidate.alternative_names is None:
            # Go stops at this certificate, too.
            return False
    return False


def _hint(error: PathValidationError, candidate: PathCertificate) -> str:
    subject = certificatenames.parse_name(candidate.subject)
    name = subject.common_name or next(iter(subject.organization), "") or f"serial:{candidate.serial}"
    reason = f"{formatting.quote(str(error))} while trying to verify candidate authority certificate"
    return f" (possibly because of {reason} {formatting.quote(name[:_MAX_NAME])})"


def _drop_duplicates(certificates: Sequence[PathCertificate]) -> Sequence[PathCertificate]:
    return tuple({certificate.raw: certificate for certificate in certificates}.values())


def _group_by_subject(certificates: Sequence[PathCertificate]) -> dict[bytes, list[PathCertificate]]:
    groups: dict[bytes, list[PathCertificate]] = {}
    for certificate in certificates:
        groups.setdefault(certificate.subject, []).append(certificate)
    return groups


def _sort_by_key_id(candidates: Sequence[PathCertificate], certificate: PathCertificate) -> Sequence[PathCertificate]:
    """Candidates by their subject key identifier: equal to the certificate's authority key identifier, one of the two
    absent, different.
    """

    def rank(candidate: PathCertificate) -> int:
        if candidate.subject_key_id == certificate.authority_key_id:
            return 0
        return 1 if not candidate.subject_key_id or not certificate.authority_key_id else 2

    return sorted(candidates, key=rank)
