"""What is written about kubelets' serving certificates is so."""

from __future__ import annotations

import pathlib
import re

from certplane.controllers import proofs, serving, servingrules, verdicts
from certplane.meta import goyaml
from tests.flow import approving

DOCS = pathlib.Path(__file__).resolve().parents[3] / "docs"
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


def test_every_attack_has_its_test_and_every_test_its_attack():
    """A row without a test is a wish; a test without a row is nobody's knowledge."""
    rows = re.findall(r"^\| (?!attack|---)(.*) \| (.*) \| (.*) \|$", ATTACKERS, flags=re.MULTILINE)
    assert all(attack and stopped for attack, stopped, _ in rows)
    told = [re.fullmatch("`(test_[a-z0-9_]+)`", test)[1] for _, _, test in rows]
    shown = re.findall(r"^async def (test_\w+)\(", ATTACKS, flags=re.MULTILINE)
    assert sorted(told) == sorted(shown)


def test_every_reason_is_told():
    """And none that is never given."""
    reasons = {value for name, value in vars(verdicts).items() if re.fullmatch("[A-Z][A-Z_]+", name)}
    assert set(first_cells(section("Reasons"))) == reasons - {verdicts.USER}


def test_every_setting_is_told():
    """And none that there is not."""
    assert re.findall(r"^\| `(.*?)` \|", section("Settings"), flags=re.MULTILINE) == list(servingrules.KEYS)


def test_every_source_and_every_mode_is_told():
    """By their names."""
    assert set(servingrules.SOURCES) <= set(first_cells(section("What each source proves")))
    assert {each.value for each in servingrules.Mode} <= set(first_cells(section("What is done")))
    assert serving.WOULD_APPROVE in section("What is done")


def test_the_example_works():
    """As it stands there, and with the default for what suffices."""
    (example,) = blocks(section("In short"))
    made = servingrules.parse(goyaml.load(example))
    assert made.rules.alternatives == (("node", "cidrs"), ("node", "patterns"))
    (default,) = blocks(section("What each source proves"))
    everything = {"inventory": "x", "cidrs": ["10.0.0.0/8"], "patterns": ["{node}"], "dns": True}
    said = servingrules.parse({**everything, **goyaml.load(default)})
    assert said.rules.alternatives == servingrules.parse(everything).rules.alternatives


def test_the_inventory_in_the_page_can_be_read():
    """As it stands there."""
    (example,) = blocks(section("The inventory"))
    assert set(proofs.read_listing(example.encode()).entries) == {"n1", "n2"}


def test_the_rights_are_those_with_which_the_tests_work():
    """No more, and no less."""
    (text,) = blocks(section("Rights"))
    told = [
        (group, plural, tuple(rule["verbs"]), tuple(rule.get("resourceNames", ())))
        for rule in goyaml.load(text)["rules"]
        for group in rule["apiGroups"]
        for plural in rule["resources"]
    ]
    assert told == list(approving.RULES)
