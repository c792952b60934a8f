"""Comparing granted with held permissions, and its limits."""

import itertools

import pytest

from certplane.access import escalation
from certplane.resources import rbac


def _rule(verbs="", groups="", resources="", names="", paths=""):
    lists = [text.split() for text in (verbs, groups, resources, names, paths)]
    return rbac.PolicyRule(
        verbs=lists[0],
        api_groups=["" if group == "core" else group for group in lists[1]],
        resources=lists[2],
        resource_names=lists[3],
        non_resource_urls=lists[4],
    )


def _covers(rule, permission):
    """Whether a rule covers a permission, as Kubernetes defines it."""
    verbs = rule.verbs
    if "*" not in verbs and permission.verb not in verbs:
        return False
    if permission.path is not None:
        paths = rule.non_resource_urls
        return any(
            path in ("*", permission.path) or (path.endswith("*") and permission.path.startswith(path[:-1]))
            for path in paths
        )
    subresource = permission.resource.partition("/")[2]
    return (
        ("*" in rule.api_groups or permission.group in rule.api_groups)
        and (
            "*" in rule.resources
            or permission.resource in rule.resources
            or (bool(subresource) and f"*/{subresource}" in rule.resources)
        )
        and (not rule.resource_names or (permission.name is not None and permission.name in rule.resource_names))
    )


GRANTED = (
    _rule("get list get", "core a", "p p/s q", "x y"),
    _rule("put", "b", "q/s *", ""),
    _rule("get put", paths="/a /a/b /b *"),
)
HELD = (
    _rule("get", "*", "p */s"),
    _rule("*", "core", "q", "x"),
    _rule("list", "a core", "*", "y"),
    _rule("get", paths="/a* /b"),
    _rule("put", "b", "*"),
)


@pytest.mark.parametrize("held", [HELD[:count] for count in range(len(HELD) + 1)], ids=len)
def test_missing_permissions_are_those_that_no_rule_covers(held):
    """In the order of the rules, with repetitions."""
    everything = list(escalation.missing(GRANTED, ()))
    assert len(everything) == 3 * 2 * 3 * 2 + 1 * 1 * 2 + 2 * 4
    expected = [permission for permission in everything if not any(_covers(rule, permission) for rule in held)]
    assert list(escalation.missing(GRANTED, held)) == expected


def test_a_rule_with_millions_of_permissions_is_compared_quickly():
    """Ten million permissions that are all covered by one rule, or by none, are not enumerated."""
    many = " ".join(f"{number:x}" for number in range(56))
    granted = [_rule(many, many, many, many)]
    assert list(escalation.missing(granted, [_rule("*", "*", "*")])) == []
    assert len(list(itertools.islice(escalation.missing(granted, [_rule("get", "*", "*")]), 1_001))) == 1_001
    assert list(escalation.missing([_rule("0 1", many, many, many)], [_rule("0 1", "*", "*")])) == []


def test_too_many_combinations_are_refused():
    """If the held rules distinguish all values of the granted rule."""
    many = [f"{number:x}" for number in range(100)]
    held = [_rule(verb, group, resource) for verb, group, resource in zip(many, many[1:], many[2:], strict=False)]
    held += [_rule(verb, " ".join(many[at:]), " ".join(many[at:])) for at, verb in enumerate(many)]
    held += [_rule("* ", group, " ".join(many[at::2])) for at, group in enumerate(many)]
    text = " ".join(many)
    with pytest.raises(escalation.TooManyCombinations):
        list(
            escalation.missing([_rule(text, text, text, text)], [*held, *(_rule("*", "*", "*", name) for name in many)])
        )
