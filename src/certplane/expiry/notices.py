"""Which certificates are to be announced, and which announcements are settled. No I/O.

Each certificate is announced when it crosses a threshold, such as 30 and 7 days before its end and the end itself; once
for each threshold, and only for the last one that it has crossed. When it is no longer found, because it was renewed or
removed, the matter is settled, and that is announced too. A source that cannot be read settles nothing.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import msgspec

from certplane.expiry.findings import Finding
from certplane.expiry.watch import SourceState

_MAX_TEXT: Final = 200


class Announced(msgspec.Struct, rename="camel", frozen=True):
    """A certificate that was announced, or is to be. `threshold` is in seconds before the end, the smallest that was
    crossed; `not_after` in POSIX seconds. Texts are shortened.
    """

    source: str
    path: str
    place: str
    subject: str
    issuer: str
    serial: str
    not_after: int
    threshold: float


@dataclasses.dataclass(frozen=True, slots=True)
class Decision:
    """What is to be announced, and what is settled, by key; and keys of sources that are no longer watched."""

    due: Mapping[str, Announced]
    settled: Mapping[str, Announced]
    forgotten: frozenset[str] = frozenset()


def decide(
    states: Sequence[SourceState],
    thresholds: Sequence[float],
    sources: Sequence[str],
    announced: Mapping[str, Announced],
    now: float,
) -> Decision:
    """What is to be done now. `thresholds` are in seconds, the longest first; `sources` limits the sources by their
    names in the configuration, empty for all; `announced` is what was announced before; `now` is in POSIX seconds.
    """
    due: dict[str, Announced] = {}
    present: set[str] = set()
    watched = {state.source.name: state for state in states if not sources or _configured(state) in sources}
    for state in watched.values():
        for key, item in _ending(state, thresholds, now):
            present.add(key)
            before = announced.get(key)
            if before is None or item.threshold < before.threshold:
                due[key] = item
    settled = {
        key: item
        for key, item in announced.items()
        if key not in present and item.source in watched and _is_gone(watched[item.source], item)
    }
    return Decision(due, settled, frozenset(key for key, item in announced.items() if item.source not in watched))


def _configured(state: SourceState) -> str:
    """The name of a source in the configuration: a cluster has several."""
    return state.source.name.partition("/")[0]


def _ending(state: SourceState, thresholds: Sequence[float], now: float) -> Iterator[tuple[str, Announced]]:
    """What has crossed a threshold."""
    for finding in state.findings:
        end = finding.item.not_after
        # What ends soonest comes first; what has no end comes last.
        if end is None or end.timestamp() - now > thresholds[0]:
            return
        left = end.timestamp() - now
        threshold = min(threshold for threshold in thresholds if left <= threshold)
        yield _key(state.source.name, finding), _announced(state.source.name, finding, int(end.timestamp()), threshold)


def _key(source: str, finding: Finding) -> str:
    item = finding.item
    texts = (source, finding.path, item.subject, item.issuer, item.serial, str(item.not_after))
    digest = hashlib.sha256("\0".join(texts).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()[:32]


def _announced(source: str, finding: Finding, not_after: int, threshold: float) -> Announced:
    item = finding.item
    return Announced(
        source=source,
        path=_short(finding.path),
        place=_short(finding.place),
        subject=_short(item.subject),
        issuer=_short(item.issuer),
        serial=_short(item.serial),
        not_after=not_after,
        threshold=threshold,
    )


def _short(text: str) -> str:
    shown = "".join(char if char.isprintable() else "?" for char in text[: _MAX_TEXT + 1])
    return shown if len(text) <= _MAX_TEXT else f"{shown[: _MAX_TEXT - 3]}..."


def _is_gone(state: SourceState, item: Announced) -> bool:
    """Whether a certificate that was not found is gone: the source could be read, and did not have so many others that
    end before.
    """
    if not state.is_read or state.problem:
        return False
    if not state.omitted:
        return True
    ends = [finding.item.not_after for finding in state.findings if finding.item.not_after is not None]
    return bool(ends) and item.not_after < ends[-1].timestamp()
