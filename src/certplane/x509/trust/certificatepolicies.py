"""Certificate policies along a path: whether at least one policy is valid, if a certificate of the path requires one.

RFC 5280 section 6.1, with the policy graph of RFC 9618, for a verifier that accepts any policy. Only the current level
of the graph is kept: since any policy is accepted, the result is whether the last level is empty, and each level
depends only on the level before. Source: Go `crypto/x509`, `policiesValid`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Final

from certplane.x509.trust import pathcertificate

#: anyPolicy, 2.5.29.32.0, as the content of its DER.
_ANY_POLICY: Final = b"\x55\x1d\x20\x00"

#: A level of the graph: the valid policies, each with its expected policy set for the next certificate.
_Level = dict[bytes, frozenset[bytes]]


@dataclasses.dataclass(slots=True)
class _Counters:
    """How many more certificates may follow before an explicit policy is required, mappings are inhibited, and
    anyPolicy is inhibited: explicit_policy, policy_mapping and inhibit_anyPolicy of RFC 5280 section 6.1.2.
    """

    explicit_policy: int
    policy_mapping: int
    inhibit_any: int


def are_valid(path: Sequence[pathcertificate.PathCertificate]) -> bool:
    """Whether a path, leaf first, has a valid policy or requires none."""
    if len(path) == 1:
        return True
    below_anchor = path[-2::-1]
    counters = _Counters(*[len(below_anchor) + 1] * 3)
    level: _Level | None = {_ANY_POLICY: frozenset({_ANY_POLICY})}
    for index, certificate in enumerate(below_anchor):
        is_leaf = index == len(below_anchor) - 1
        is_self_issued = certificate.issuer == certificate.subject
        limits = certificate.policy_limits
        level = None if level is None or not limits.policies else level
        if level is None and counters.explicit_policy == 0:
            return False
        if level is not None:
            allow_any = counters.inhibit_any > 0 or (not is_leaf and is_self_issued)
            level = _next_level(level, limits.policies, allow_any=allow_any)
            if not is_leaf and not _apply_mappings(level, limits.mappings, allow=counters.policy_mapping > 0):
                return False
        if not is_leaf:
            _update(counters, limits, is_self_issued=is_self_issued)
    explicit_policy = max(counters.explicit_policy - 1, 0)
    return bool(level) or not (explicit_policy == 0 or path[0].policy_limits.require_explicit == 0)


def _next_level(level: _Level, policies: Sequence[bytes], *, allow_any: bool) -> _Level:
    """The next level, for a certificate with these policies. RFC 5280 section 6.1.3, step d."""
    expected = frozenset().union(*level.values())
    valid = {
        policy: frozenset({policy})
        for policy in policies
        if policy != _ANY_POLICY and (policy in expected or _ANY_POLICY in level)
    }
    if allow_any and _ANY_POLICY in policies:
        valid.update({policy: frozenset({policy}) for policy in expected if policy not in valid})
    return valid


def _apply_mappings(level: _Level, mappings: Sequence[tuple[bytes, bytes]], *, allow: bool) -> bool:
    """Replace the expected policies of a level by those that they are mapped to; without `allow`, remove the policies
    that are mapped. False if a mapping has anyPolicy, which is invalid. RFC 5280 section 6.1.4, steps a and b.
    """
    subjects: dict[bytes, set[bytes]] = {}
    for issuer_policy, subject_policy in mappings:
        if not allow:
            level.pop(issuer_policy, None)
        elif _ANY_POLICY in (issuer_policy, subject_policy):
            return False
        else:
            subjects.setdefault(issuer_policy, set()).add(subject_policy)
    for issuer_policy, subject_policies in subjects.items():
        if issuer_policy in level or _ANY_POLICY in level:
            level[issuer_policy] = frozenset(subject_policies)
    return True


def _update(counters: _Counters, limits: pathcertificate.PolicyLimits, *, is_self_issued: bool) -> None:
    """Count a certificate that is not the leaf. RFC 5280 section 6.1.4, steps h to j."""
    if not is_self_issued:
        counters.explicit_policy = max(counters.explicit_policy - 1, 0)
        counters.policy_mapping = max(counters.policy_mapping - 1, 0)
        counters.inhibit_any = max(counters.inhibit_any - 1, 0)
    if limits.require_explicit >= 0:
        counters.explicit_policy = min(counters.explicit_policy, limits.require_explicit)
    if limits.inhibit_mapping >= 0:
        counters.policy_mapping = min(counters.policy_mapping, limits.inhibit_mapping)
    if limits.inhibit_any >= 0:
        counters.inhibit_any = min(counters.inhibit_any, limits.inhibit_any)
