"""What will become of a request, told to whoever makes or approves it: a warning that kubectl prints, and no more.

Kubernetes takes a request for any signer, and says nothing when none will ever sign it, or when the certificate will
not be good for what it is wanted for. It also says nothing when an existing request is applied again with another key.
Here people learn at once, and which signer would do. Nothing is refused.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable, Iterator, Mapping
from typing import Final, Protocol

from certplane import boundedcache
from certplane.registry import admission
from certplane.resources import certificatesigningrequests as csrs
from certplane.x509 import csr, profiles, weak

_LONGEST: Final = 320
#: How alike two names have to be for one to be taken for the other.
_ALIKE: Final = 0.6


class Signer(Protocol):
    """What has to be known of a signer."""

    @property
    def profile(self) -> profiles.Profile: ...


#: The signers there are, by name; and what is wrong with one, empty if nothing is.
Signers = Callable[[], Mapping[str, Signer]]
Problem = Callable[[Signer], str]


class Hints:
    """An admission hook that runs last: on new requests and on approvals."""

    def __init__(self, signers: Signers, problem: Problem) -> None:
        self._signers = signers
        self._problem = problem

    def __call__(self, of: admission.Review) -> None:
        """Warn of what is not going to work."""
        if of.resource.plural != csrs.RESOURCE.plural or not (_is_new(of) or _is_approved_now(of)):
            return
        spec = of.new.spec
        try:
            request = csr.parse(spec.request or b"")
        except csr.RequestError:
            return
        asked = profiles.Asked(request, spec.usages, spec.username, spec.expiration_seconds)
        for text in hints(spec.signer_name, asked, self._signers(), self._problem):
            _warn(of, text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}...")


def _is_new(of: admission.Review) -> bool:
    return of.operation == "create" and not of.subresource


def _is_approved_now(of: admission.Review) -> bool:
    return (
        (of.operation, of.subresource) == ("update", "approval")
        and csrs.is_approved(of.new)
        and not csrs.is_approved(of.old)
    )


def _warn(of: admission.Review, text: str) -> None:
    # A hook may run again.
    if text not in of.call.warnings:
        of.call.warn(text)


def kept_spec(of: admission.Review) -> None:
    """An admission hook that runs first, while what was sent is there to see: the specification of an existing request
    stays as it is, whatever is sent. Whoever has a new key would take the certificate of the old one for its own.
    """
    if of.resource.plural != csrs.RESOURCE.plural or of.operation != "update" or of.subresource:
        return
    sent, stored = of.new.spec, of.old.spec
    # What is left out is no wish to remove it.
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
    key = "; its certificate is not for the new key" if _has_another_key(sent.request, stored.request) else ""
    again = f"to ask anew, delete it first (kubectl delete csr {of.name}) or choose another name"
    _warn(of, f"the spec of {of.name} cannot be changed and is kept ({', '.join(changed)}){key}: {again}")


def _has_another_key(sent: bytes | None, stored: bytes | None) -> bool:
    try:
        return bool(sent) and csr.parse(sent or b"").spki != csr.parse(stored or b"").spki
    except csr.RequestError:
        return False


def hints(name: str, asked: profiles.Asked, known: Mapping[str, Signer], problem: Problem) -> Iterator[str]:
    """What whoever asks should know."""
    signer = known.get(name)
    if signer is None:
        yield f'no signer here is called "{name}"{_instead(name, asked, known)}'
        return
    why = next(profiles.violations(signer.profile, asked), None)
    if why is not None:
        yield f"{name} will not sign this: {why}{_instead(name, asked, known)}"
        return
    broken = weak.problems(asked.request.public_key)
    if broken:
        # No other signer would.
        yield f"{name} will not sign this: the public key is refused: {'; '.join(broken)}"
        return
    if asked.request.wants_authority and signer.profile.authority is None:
        yield f"{name} issues no CA certificates: this will not become one"
    missing = problem(signer)
    if missing:
        yield f"{name} cannot sign now: {missing}"
    longest = signer.profile.longest
    if longest is not None and asked.expiration is not None and asked.expiration > longest.total_seconds():
        yield f"{name} gives {int(longest.total_seconds())} seconds at the most"


def _instead(name: str, asked: profiles.Asked, known: Mapping[str, Signer]) -> str:
    suited = {each: len(signer.profile.limits) for each, signer in known.items() if _suits(signer.profile, asked)}
    if suited:
        # The one that says most about what it signs is meant for it.
        most = max(suited.values())
        accepting = tuple(each for each, count in suited.items() if count == most)
        return f"; {_nearest(name, accepting)} would"
    if name in known:
        own = "; no signer here would: certplane serve --signers declares one of your own"
        return _with_usages(asked, known) or own
    alike = _alike(name, tuple(known))
    return f"; did you mean {alike}?" if alike else ""


def _with_usages(asked: profiles.Asked, known: Mapping[str, Signer]) -> str:
    """The signer that would, were more usages asked for as well: those of kubelets take certain sets only."""
    for name, signer in known.items():
        for usages in signer.profile.usage_sets:
            more = dataclasses.replace(asked, usages=sorted(usages))
            if usages.issuperset(asked.usages) and profiles.permits(signer.profile, more):
                return f"; {name} would, with the usages {', '.join(more.usages)}"
    return ""


def _suits(profile: profiles.Profile, asked: profiles.Asked) -> bool:
    """Whether a signer permits a request and says what it is for: one that takes anything is no advice."""
    says = profile.usages is not None or profile.usage_sets
    # Usages first: most signers are out by them.
    return bool(says) and profiles.permits_usages(profile, asked) and profiles.permits(profile, asked)


# The same few names come again and again, and to compare them takes long.
@boundedcache.remember()
def _alike(name: str, among: tuple[str, ...]) -> str:
    return next(iter(difflib.get_close_matches(name, among, 1, _ALIKE)), "")


@boundedcache.remember()
def _nearest(name: str, among: tuple[str, ...]) -> str:
    return max(sorted(among), key=lambda each: difflib.SequenceMatcher(None, name, each).ratio())
