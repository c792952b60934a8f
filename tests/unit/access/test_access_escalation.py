"""Which permissions of some rules others do not have, and how long it takes to find out."""

import itertools

import pytest

from certplane.access import escalation
from certplane.resources import rbac


def _rule(verbs="", groups="", resources="", names="", paths=""):
    lists = [each.split() for each in (verbs, groups, resources, names, paths)]
    return rbac.PolicyRule(
        verbs=lists[0],
        api_groups=["" if each == "core" else each for each in lists[1]],
        resources=lists[2],
        resource_names=lists[3],
        non_resource_urls=lists[4],
    )


def _covered_one_by_one(rule, atom):
    """The rule of Kubernetes, read aloud."""
    verbs = rule.verbs
    if "*" not in verbs and atom.verb not in verbs:
        return False
    if atom.path is not None:
        held = rule.non_resource_urls
        return any(
            each in ("*", atom.path) or (each.endswith("*") and atom.path.startswith(each[:-1])) for each in held
        )
    sub = atom.resource.partition("/")[2]
    return (
        ("*" in rule.api_groups or atom.group in rule.api_groups)
        and ("*" in rule.resources or atom.resource in rule.resources or (bool(sub) and f"*/{sub}" in rule.resources))
        and (not rule.resource_names or (atom.name is not None and atom.name in rule.resource_names))
    )


WANTED = (
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
def test_the_rest_is_what_no_rule_covers(held):
    """In the order of the rules, and as often as it is asked for."""
    everything = list(escalation.missing(WANTED, ()))
    assert len(everything) == 3 * 2 * 3 * 2 + 1 * 1 * 2 + 2 * 4
    expected = [atom for atom in everything if not any(_covered_one_by_one(rule, atom) for rule in held)]
    assert list(escalation.missing(WANTED, held)) == expected


def test_a_rule_of_a_thousand_bytes_is_not_multiplied_out():
    """It has ten million permissions: covered by one rule, or by none, they are one."""
    many = " ".join(f"{number:x}" for number in range(56))
    wanted = [_rule(many, many, many, many)]
    assert list(escalation.missing(wanted, [_rule("*", "*", "*")])) == []
    assert len(list(itertools.islice(escalation.missing(wanted, [_rule("get", "*", "*")]), 1_001))) == 1_001
    assert list(escalation.missing([_rule("0 1", many, many, many)], [_rule("0 1", "*", "*")])) == []


def test_what_tells_all_values_apart_is_given_up():
    """Who holds a rule for each of them could not write such a role before, either."""
    many = [f"{number:x}" for number in range(100)]
    held = [_rule(verb, group, resource) for verb, group, resource in zip(many, many[1:], many[2:], strict=False)]
    held += [_rule(verb, " ".join(many[at:]), " ".join(many[at:])) for at, verb in enumerate(many)]
    held += [_rule("* ", group, " ".join(many[at::2])) for at, group in enumerate(many)]
    text = " ".join(many)
    with pytest.raises(escalation.TooManyCombinations):
        list(
            escalation.missing([_rule(text, text, text, text)], [*held, *(_rule("*", "*", "*", each) for each in many)])
        )
