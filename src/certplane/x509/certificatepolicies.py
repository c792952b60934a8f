"""Whether the policies along a path leave any that is valid, if some certificate of it requires one.

RFC 5280 section 6.1, with the policy graph of RFC 9618, for verifiers that accept any policy. Of the graph only the
newest row is kept: since any policy is accepted, the answer is whether that row is empty at the end, and no node of a
row decides about it but those of the row before. Source: Go `crypto/x509`, `policiesValid`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Final

from certplane.x509 import pathcertificate

_ANY: Final = b"\x55\x1d\x20\x00"

#: Policies that are valid for the certificates so far, and which each expects below.
_Row = dict[bytes, frozenset[bytes]]


@dataclasses.dataclass(slots=True)
class _Counters:
    """How many more certificates may come before each rule holds."""

    explicit: int
    mapping: int
    any: int


def are_valid(path: Sequence[pathcertificate.PathCertificate]) -> bool:
    """Whether a path, leaf first, has valid policies as far as it requires any."""
    if len(path) == 1:
        return True
    below = path[-2::-1]
    counters = _Counters(*[len(below) + 1] * 3)
    row: _Row | None = {_ANY: frozenset({_ANY})}
    for at, certificate in enumerate(below):
        is_leaf = at == len(below) - 1
        is_self_issued = certificate.issuer == certificate.subject
        limits = certificate.policy_limits
        row = None if row is None or not limits.policies else row
        if row is None and counters.explicit == 0:
            return False
        if row is not None:
            row = _next(row, limits.policies, takes_any=counters.any > 0 or (not is_leaf and is_self_issued))
            if not is_leaf and not _map(row, limits.mappings, may_map=counters.mapping > 0):
                return False
        if not is_leaf:
            _count(counters, limits, is_self_issued=is_self_issued)
    explicit = max(counters.explicit - 1, 0)
    return bool(row) or not (explicit == 0 or path[0].policy_limits.require_explicit == 0)


def _next(row: _Row, policies: Sequence[bytes], *, takes_any: bool) -> _Row:
    expected = frozenset().union(*row.values())
    found = {each: frozenset({each}) for each in policies if each != _ANY and (each in expected or _ANY in row)}
    if takes_any and _ANY in policies:
        found.update({each: frozenset({each}) for each in expected if each not in found})
    return found


def _map(row: _Row, mappings: Sequence[tuple[bytes, bytes]], *, may_map: bool) -> bool:
    """Replace what policies expect below by what they are mapped to; tell whether the mappings are valid."""
    subjects: dict[bytes, set[bytes]] = {}
    for issuer, subject in mappings:
        if not may_map:
            row.pop(issuer, None)
        elif _ANY in (issuer, subject):
            return False
        else:
            subjects.setdefault(issuer, set()).add(subject)
    for issuer, mapped in subjects.items():
        if issuer in row or _ANY in row:
            row[issuer] = frozenset(mapped)
    return True


def _count(counters: _Counters, limits: pathcertificate.PolicyLimits, *, is_self_issued: bool) -> None:
    if not is_self_issued:
        counters.explicit = max(counters.explicit - 1, 0)
        counters.mapping = max(counters.mapping - 1, 0)
        counters.any = max(counters.any - 1, 0)
    if limits.require_explicit >= 0:
        counters.explicit = min(counters.explicit, limits.require_explicit)
    if limits.inhibit_mapping >= 0:
        counters.mapping = min(counters.mapping, limits.inhibit_mapping)
    if limits.inhibit_any >= 0:
        counters.any = min(counters.any, limits.inhibit_any)
