"""docs/kubelet-serving.md and docs/attackers.md agree with the code and the tests."""

from __future__ import annotations

import pathlib
import re

from certplane.controllers.approving.kubeletserving import approver, evidence, policy, rules
from certplane.controllers.runtime import decisions
from certplane.golang import goyaml
from tests.flow import approving

DOCS = pathlib.Path(__file__).resolve().parents[4] / "docs"
PAGE = (DOCS / "kubelet-serving.md").read_text("utf-8")
ATTACKERS = (DOCS / "attackers.md").read_text("utf-8").partition("## Serving certificates of kubelets")[2]
ATTACKS = (DOCS.parent / "tests" / "flow" / "test_serving_attackers.py").read_text("utf-8")


def section(title):
    return PAGE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def blocks(text):
    return re.findall(r"^```yaml\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


def first_cells(text):
    return [
        name for row in re.findall(r"^\| (`.*?) \|", text, flags=re.MULTILINE) for name in re.findall("`(.*?)`", row)
    ]


def test_attacks_and_tests_correspond():
    """Each attack has one test, and each test one attack."""
    rows = re.findall(r"^\| (?!attack|---)(.*) \| (.*) \| (.*) \|$", ATTACKERS, flags=re.MULTILINE)
    assert all(attack and stopped for attack, stopped, _ in rows)
    documented = [re.fullmatch("`(test_[a-z0-9_]+)`", test)[1] for _, _, test in rows]
    tests = re.findall(r"^async def (test_\w+)\(", ATTACKS, flags=re.MULTILINE)
    assert sorted(documented) == sorted(tests)


def test_every_reason_is_documented():
    """There are no others in the page."""
    constants = {name: value for name, value in vars(policy).items() if re.fullmatch("[A-Z][A-Z_]+", name)}
    reasons = {value for value in constants.values() if isinstance(value, str)} - {policy.NODE_USER_PREFIX}
    assert set(first_cells(section("Reasons"))) == reasons | {decisions.UNREADABLE_REQUEST}


def test_every_setting_is_documented():
    """There are no others in the page."""
    assert re.findall(r"^\| `(.*?)` \|", section("Settings"), flags=re.MULTILINE) == list(rules.FIELDS)


def test_every_source_and_every_mode_is_documented():
    """By their names."""
    assert set(rules.SOURCES) <= set(first_cells(section("What each source proves")))
    assert {mode.value for mode in rules.Mode} <= set(first_cells(section("What is done")))
    assert approver.WOULD_APPROVE in section("What is done")


def test_the_example_works():
    """Unchanged, and with the default for `sufficient`."""
    (example,) = blocks(section("In short"))
    settings = rules.parse(goyaml.load(example))
    assert settings.rules.alternatives == (("node", "cidrs"), ("node", "patterns"))
    (default,) = blocks(section("What each source proves"))
    everything = {"inventory": "x", "cidrs": ["10.0.0.0/8"], "patterns": ["{node}"], "dns": True}
    settings = rules.parse({**everything, **goyaml.load(default)})
    assert settings.rules.alternatives == rules.parse(everything).rules.alternatives


def test_the_inventory_in_the_page_can_be_read():
    """Without changes."""
    (example,) = blocks(section("The inventory"))
    assert set(evidence.parse_inventory(example.encode()).entries) == {"n1", "n2"}


def test_the_documented_permissions_are_those_of_the_tests():
    """There are no others in the page."""
    (text,) = blocks(section("Permissions"))
    documented = [
        (group, plural, tuple(rule["verbs"]), tuple(rule.get("resourceNames", ())))
        for rule in goyaml.load(text)["rules"]
        for group in rule["apiGroups"]
        for plural in rule["resources"]
    ]
    assert documented == list(approving.RULES)
