"""Warnings about requests that will not give the expected certificate. kubectl prints them; nothing is refused.

Kubernetes accepts a CertificateSigningRequest for any signer name. It does not say that no signer will sign it, that
the certificate will not suit its purpose, or that an existing request was applied again with another key. These
admission hooks say so at once, and name the signer that would sign.
"""

from __future__ import annotations

import dataclasses
import datetime
import difflib
from collections.abc import Callable, Iterator, Mapping
from typing import Final, Protocol

from certplane import boundedcache, offload
from certplane.golang import formatting
from certplane.meta.resource import AnyResource
from certplane.registry.admission import AdmissionAttributes
from certplane.resources import certificatesigningrequests as csrs
from certplane.x509.issuance import issue, profiles
from certplane.x509.issuance.profiles import CARequests, Profile, RequestedCertificate
from certplane.x509.pkcs10 import certificaterequest, mistakes, weakkeys

#: Characters of a warning: a few of them have to fit into the headers of a response.
_MAX_LENGTH: Final = 320
#: The similarity (0 to 1, difflib's ratio) from which on one name is proposed for another.
_MIN_SIMILARITY: Final = 0.6
_SERVER_AUTH: Final = "server auth"
#: How the proposal of a signer name begins.
DID_YOU_MEAN: Final = "did you mean"


class Signer(Protocol):
    """What the warnings need to know about a signer."""

    @property
    def profile(self) -> Profile: ...


#: All signers of this server, by name.
Signers = Callable[[], Mapping[str, Signer]]


@dataclasses.dataclass(frozen=True, slots=True)
class Availability:
    """Whether a signer can sign at present: `problem` is empty if it can. `ca_remaining` is the time until its CA ends,
    None if that is not known.
    """

    problem: str = ""
    ca_remaining: datetime.timedelta | None = None


FindAvailability = Callable[[Signer], Availability]


class Warnings:
    """An admission hook that runs last: on new requests and on approvals."""

    def __init__(self, signers: Signers, availability: FindAvailability) -> None:
        self._signers = signers
        self._availability = availability

    def __call__(self, write: AdmissionAttributes) -> None:
        """Add a warning for everything that will go wrong."""
        if write.resource.plural != csrs.RESOURCE.plural or not (_is_creation(write) or _is_first_approval(write)):
            return
        try:
            requested = csrs.requested_certificate(write.new)
        except certificaterequest.RequestError:
            return
        name, signers = write.new.spec.signer_name, self._signers()
        for text in find_warnings(name, requested, signers, self._availability):
            if _is_first_approval(write) and name not in signers:
                # An approval cannot be withdrawn, so the approver must know that nobody will act on it.
                text = f"approved, but nothing will be issued: {text}"
            _warn(write, formatting.truncate(text, _MAX_LENGTH))


def _is_creation(write: AdmissionAttributes) -> bool:
    return write.operation == "create" and not write.subresource


def _is_first_approval(write: AdmissionAttributes) -> bool:
    return (
        (write.operation, write.subresource) == ("update", "approval")
        and csrs.is_approved(write.new)
        and not csrs.is_approved(write.old)
    )


def describe_unreadable_request(write: AdmissionAttributes) -> None:
    """An admission hook that runs first: what the bytes of a new request are, if they are no PKCS#10. The validation
    that follows refuses them in Kubernetes' words.
    """
    if write.resource.plural != csrs.RESOURCE.plural or not _is_creation(write):
        return
    text = write.new.spec.request or b""
    if len(text) > offload.INLINE_BYTES:
        # Hooks run on the event loop. Mistakes are made with usual requests.
        return
    try:
        certificaterequest.verified(text)
    except certificaterequest.RequestError:
        mistake = mistakes.describe(text)
        if mistake:
            _warn(write, formatting.truncate(f"spec.request is {mistake}", _MAX_LENGTH))


def describe_value(resource: AnyResource, path: str, value: str) -> str:
    """What the value of a field is that should be base64, and is not: the text of a warning, empty if that is not
    known.
    """
    if (resource.plural, path) != (csrs.RESOURCE.plural, "spec.request"):
        return ""
    mistake = mistakes.describe_base64(value)
    return formatting.truncate(f"spec.request is {mistake}", _MAX_LENGTH) if mistake else ""


def _warn(write: AdmissionAttributes, text: str) -> None:
    # Hooks run again when a write is retried.
    if text not in write.call.warnings:
        write.call.warn(text)


def warn_about_ignored_spec_changes(write: AdmissionAttributes) -> None:
    """An admission hook that runs first, before the registry restores the immutable spec of an existing request.

    Without the warning, a user who applies a new key would take the certificate of the old key for the new one.
    """
    if write.resource.plural != csrs.RESOURCE.plural or write.operation != "update" or write.subresource:
        return
    sent, stored = write.new.spec, write.old.spec
    # A missing field is not a request to remove it.
    changed = [
        name
        for name, differs in (
            ("request", bool(sent.request) and sent.request != stored.request),
            ("signerName", bool(sent.signer_name) and sent.signer_name != stored.signer_name),
            ("expirationSeconds", sent.expiration_seconds not in (None, stored.expiration_seconds)),
            ("usages", bool(sent.usages) and set(sent.usages) != set(stored.usages)),
        )
        if differs
    ]
    if not changed:
        return
    key = "; the certificate will not match the new key" if _has_other_key(sent.request, stored.request) else ""
    remedy = f"to submit a new request, run kubectl delete csr {write.name} first or use another name"
    _warn(write, f"the spec of {write.name} is immutable; ignored changes to {', '.join(changed)}{key}; {remedy}")


#: The hooks that run before the validation.
FIRST_HOOKS: Final = (warn_about_ignored_spec_changes, describe_unreadable_request)


def _has_other_key(sent: bytes | None, stored: bytes | None) -> bool:
    try:
        return bool(sent) and certificaterequest.parse(sent or b"").spki != certificaterequest.parse(stored or b"").spki
    except certificaterequest.RequestError:
        return False


def find_warnings(
    name: str, requested: RequestedCertificate, signers: Mapping[str, Signer], availability: FindAvailability
) -> Iterator[str]:
    """What will go wrong with a request for the signer called `name`, one sentence each."""
    signer = signers.get(name)
    if signer is None:
        yield f'unknown signer "{name}"; {closest_signer(name, requested, signers)}'
        return
    violation = next(profiles.violations(signer.profile, requested), None)
    if violation is not None:
        yield f"signer {name} will not sign this request: {violation}; {_other_signer(name, requested, signers)}"
        return
    weaknesses = weakkeys.problems(requested.pkcs10.public_key)
    if weaknesses:
        # All signers refuse weak keys.
        yield f"signer {name} will not sign this request: weak public key: {'; '.join(weaknesses)}; use another key"
        return
    if requested.pkcs10.requests_ca and signer.profile.ca_requests is CARequests.IGNORE:
        yield f"signer {name} does not issue CA certificates; the certificate will not be a CA"
    available = availability(signer)
    if available.problem:
        yield f"signer {name} cannot sign at present: {available.problem}"
    yield from lifetime_warnings(name, requested, signer.profile, available.ca_remaining)


def lifetime_warnings(
    name: str, requested: RequestedCertificate, profile: Profile, ca_remaining: datetime.timedelta | None = None
) -> Iterator[str]:
    """What will shorten the lifetime of the certificate: the signer's maximum, and the end of its CA."""
    max_lifetime, asked = profile.max_lifetime, requested.expiration
    if max_lifetime is not None and asked is not None and asked > max_lifetime.total_seconds():
        maximum = _duration_text(int(max_lifetime.total_seconds()))
        yield f"signer {name}: maximum lifetime is {maximum}; the request will be shortened"
    lifetime = datetime.timedelta(seconds=asked) if asked is not None else profile.default_lifetime
    granted = min((value for value in (lifetime, max_lifetime) if value is not None), default=None)
    if granted is not None and ca_remaining is not None and ca_remaining < issue.remaining_lifetime(granted):
        remaining, full = _duration_text(_minutes(ca_remaining)), _duration_text(int(granted.total_seconds()))
        yield f"signer {name}: its CA ends in {remaining}; the certificate will end with it, not after {full}"


def _minutes(duration: datetime.timedelta) -> int:
    """A duration in seconds, without those that exceed whole minutes."""
    return int(duration.total_seconds()) // 60 * 60


def _duration_text(seconds: int) -> str:
    """A duration as flags and files take it: `8760h`, `1h30m`, `45s`."""
    hours, rest = divmod(seconds, 3600)
    minutes, rest = divmod(rest, 60)
    parts = ((hours, "h"), (minutes, "m"), (rest, "s"))
    return "".join(f"{count}{unit}" for count, unit in parts if count) or "0s"


def closest_signer(name: str, requested: RequestedCertificate, signers: Mapping[str, Signer]) -> str:
    """What to do about a signer name that this server does not know."""
    suitable = suitable_signers(requested, signers)
    closest = _most_similar(name, suitable) if suitable else _similar(name, tuple(signers))
    if closest:
        return f'{DID_YOU_MEAN} "{closest}"?'
    return "define it with certplane serve --signers, or run a controller that signs for it"


def _other_signer(name: str, requested: RequestedCertificate, signers: Mapping[str, Signer]) -> str:
    """What to do about a request that its signer will not sign."""
    none = "no signer of this server accepts it; define one with certplane serve --signers"
    return find_remedy(name, requested, signers) or none


def find_remedy(name: str, requested: RequestedCertificate, signers: Mapping[str, Signer]) -> str:
    """The change after which a signer would sign a request that its signer will not sign; empty if there is none."""
    suitable = suitable_signers(requested, signers)
    if suitable:
        return f"use signer {_most_similar(name, suitable)} instead"
    return _signer_with_usages(name, requested, signers)


def suitable_signers(requested: RequestedCertificate, signers: Mapping[str, Signer]) -> tuple[str, ...]:
    """The signers that would sign; of those, the ones with the most restrictions: they are made for such requests."""
    restrictions = {
        name: len(signer.profile.restricted_fields)
        for name, signer in signers.items()
        if _suits(signer.profile, requested)
    }
    most = max(restrictions.values(), default=0)
    return tuple(name for name, count in restrictions.items() if count == most)


def _signer_with_usages(requested_name: str, requested: RequestedCertificate, signers: Mapping[str, Signer]) -> str:
    """The signer that would sign if other usages were requested."""
    for name, signer in sorted(signers.items(), key=lambda item: item[0] != requested_name):
        for usages in _other_usages(signer.profile, requested):
            if profiles.permits(signer.profile, dataclasses.replace(requested, usages=usages)):
                if name == requested_name:
                    return f"request the usages {', '.join(usages)}"
                return f"use signer {name} instead, with the usages {', '.join(usages)}"
    return ""


def _other_usages(profile: Profile, requested: RequestedCertificate) -> Iterator[list[str]]:
    """Sets of usages that a signer permits and that serve the purpose of a request: those that it has, completed, as
    signers for kubelets accept certain sets only; for a server, without those that the signer does not permit.
    """
    for usages in profile.usage_sets:
        if usages.issuperset(requested.usages):
            yield sorted(usages)
    if profile.usages is None:
        return
    kept = [usage for usage in requested.usages if usage in profile.usages]
    completed = list(dict.fromkeys((*kept, *profile.required_usages)))
    if set(completed).issuperset(requested.usages) or (_SERVER_AUTH in requested.usages and _SERVER_AUTH in completed):
        yield completed


def _suits(profile: Profile, requested: RequestedCertificate) -> bool:
    """Whether a signer permits a request and restricts usages: one that signs anything is not worth proposing."""
    restricts = profile.usages is not None or profile.usage_sets
    # Usages first: they exclude most signers, at the least cost.
    return bool(restricts) and profiles.permits_usages(profile, requested) and profiles.permits(profile, requested)


# The same few names recur, and comparing them is slow.
@boundedcache.memoize()
def _similar(name: str, names: tuple[str, ...]) -> str:
    return next(iter(difflib.get_close_matches(name, names, 1, _MIN_SIMILARITY)), "")


@boundedcache.memoize()
def _most_similar(name: str, names: tuple[str, ...]) -> str:
    return max(sorted(names), key=lambda known: difflib.SequenceMatcher(None, name, known).ratio())
