"""What will become of a request, told when it is made: a warning that kubectl prints, and no more than that.

Kubernetes takes a request for any signer, and says nothing when none will ever sign it, or when the certificate will
not be good for what it is wanted for. Here whoever asks learns at once, and which signer would do. Nothing is refused.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping
from typing import Final, Protocol

from certplane import boundedcache
from certplane.registry import admission
from certplane.resources import certificatesigningrequests as csrs
from certplane.x509 import csr, profiles, weak

_LONGEST: Final = 240
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
    """An admission hook."""

    def __init__(self, signers: Signers, problem: Problem) -> None:
        self._signers = signers
        self._problem = problem

    def __call__(self, of: admission.Review) -> None:
        """Warn of what is not going to work."""
        if of.operation != "create" or of.subresource or of.resource.plural != csrs.RESOURCE.plural:
            return
        spec = of.new.spec
        try:
            request = csr.parse(spec.request or b"")
        except csr.RequestError:
            return
        asked = profiles.Asked(request, spec.usages, spec.username, spec.expiration_seconds)
        for text in hints(spec.signer_name, asked, self._signers(), self._problem):
            short = text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."
            # A check may run again.
            if short not in of.call.warnings:
                of.call.warn(short)


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
    alike = _alike(name, tuple(known)) if name not in known else ""
    return f"; did you mean {alike}?" if alike else ""


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
