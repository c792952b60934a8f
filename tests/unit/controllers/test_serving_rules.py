"""What the administrator can say about kubelets' serving certificates, and what is wrong with it."""

from __future__ import annotations

import pathlib
import re

import pytest

from certplane import errors
from certplane.controllers import servingrules

ENOUGH = {"cidrs": ["10.0.0.0/16"], "patterns": ["{node}"]}


def _id(of):
    """Without addresses in memory: both processes have to call a test the same."""
    return re.sub(" object at 0x[0-9a-f]+", "", str(of))


def test_what_is_not_said_is_safe():
    """Nothing is denied, and the kubelet's word alone proves nothing."""
    made = servingrules.parse(ENOUGH)
    assert made.mode is servingrules.Mode.APPROVE_ONLY
    assert made.rules.alternatives == (("node", "cidrs"), ("node", "patterns"))
    assert (made.inventory, made.patience) == (None, None)
    assert (made.rules.longest, made.rules.most_names, made.rules.reverse) == (365 * 86400, 32, False)


def test_everything_can_be_said():
    """Each setting arrives where it is used."""
    made = servingrules.parse(
        {
            "mode": "enforce",
            "sources": ["inventory", "node + dns"],
            "inventory": "/etc/nodes.yaml",
            "cidrs": ["10.0.0.0/16"],
            "patterns": ["{node}.Example.com"],
            "dns": True,
            "dns-reverse": True,
            "dns-timeout": "1500ms",
            "longest-lifetime": "24h",
            "most-names": 5,
            "api-server": ["API.example.com", "10.0.0.100"],
            "service-cidrs": ["10.96.0.0/12"],
            "cluster-domain": "k8s.example",
            "forbidden": [".corp.example", "vault.example.com", "192.0.2.0/24", "2001:db8::1"],
        }
    )
    assert made.mode is servingrules.Mode.ENFORCE
    assert made.rules.alternatives == (("inventory",), ("node", "dns"))
    assert (made.inventory, made.patience) == (pathlib.Path("/etc/nodes.yaml"), 1.5)
    assert (made.rules.longest, made.rules.most_names, made.rules.reverse) == (86400, 5, True)
    assert made.rules.names_of("n1") == ("n1.example.com",)
    assert {"api.example.com", "vault.example.com"} <= made.rules.forbidden.names
    assert made.rules.forbidden.suffixes == (
        ".localhost", ".svc", ".corp.example", ".svc.k8s.example", ".pod.k8s.example",
    )  # fmt: skip
    assert {"10.0.0.100/32", "10.96.0.0/12", "192.0.2.0/24", "2001:db8::1/128"} <= set(
        map(str, made.rules.forbidden.networks)
    )


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        ({"modus": "enforce"}, "there is no setting modus"),
        ({"mode": "strict"}, "mode: must be one of enforce, approve-only, report, not strict"),
        ({"mode": 1}, "mode: must be a text, not 1"),
        ({"sources": "node"}, "sources: must be a list of texts"),
        ({"sources": ["nodes"]}, "sources: there is no source 'nodes'"),
        ({"sources": ["node+"]}, "sources: there is no source ''"),
        ({"sources": ["inventory"]}, "sources: inventory is named, and inventory is not set"),
        ({"sources": ["node+dns"]}, "sources: dns is named, and dns is not set"),
        ({"sources": []}, "nothing can prove a name"),
        ({"sources": ["patterns"]}, "nothing can prove an address"),
        ({"sources": ["patterns", "cidrs+patterns+dns"], "dns": True}, "nothing can prove an address"),
        ({"sources": ["cidrs"]}, "nothing can prove a name"),
        ({"sources": ["node+cidrs+patterns"]}, "nothing can prove a name"),
        ({"sources": ["dns"], "dns": True}, "nothing can prove a name"),
        ({"cidrs": ["10.2.0.1/16"]}, "cidrs: '10.2.0.1/16' is no network; did you mean 10.2.0.0/16?"),
        ({"service-cidrs": ["fd00::1/64"]}, "service-cidrs: 'fd00::1/64' is no network; did you mean fd00::/64?"),
        ({"forbidden": ["10.2.0.1/16"]}, "address or network; did you mean 10.2.0.0/16?"),
        ({"cidrs": ["::ffff:10.0.0.0/112"]}, "is no network"),
        ({"cidrs": "10.0.0.0/16"}, "cidrs: must be a list of texts"),
        ({"cidrs": [10]}, "cidrs: must be a list of texts"),
        ({"patterns": ["example.com"]}, r"patterns: 'example.com' is no DNS name with {node} in it"),
        ({"patterns": ["*.{node}"]}, "is no DNS name with {node} in it"),
        ({"patterns": ["{node}."]}, "is no DNS name with {node} in it"),
        ({"patterns": ["{node}.exa mple.com"]}, "is no DNS name with {node} in it"),
        ({"patterns": ["{name}"]}, "is no DNS name with {node} in it"),
        ({"dns": "yes"}, "dns: must be true or false, not 'yes'"),
        ({"dns": True, "dns-timeout": "5"}, "dns-timeout: must be a duration such as 5s, not '5'"),
        ({"longest-lifetime": "0s"}, "longest-lifetime: must be a duration such as 8760h, not '0s'"),
        ({"longest-lifetime": 86400}, "longest-lifetime: must be a text, not 86400"),
        ({"most-names": 0}, "most-names: must be a number, at least 1, not 0"),
        ({"most-names": True}, "most-names: must be a number, at least 1, not True"),
        ({"api-server": ["https://api.example.com"]}, "is no name or address"),
        ({"service-cidrs": ["10.96.0.1"]}, None),
        ({"cluster-domain": ".cluster.local"}, "cluster-domain: '.cluster.local' is no DNS name"),
        ({"forbidden": ["*.example.com"]}, "is no name, .suffix, address or network"),
        ({"forbidden": ["10.0.0.0/33"]}, "is no name, .suffix, address or network"),
    ],
    ids=_id,
)
def test_what_is_wrong_is_said(said, problem):
    """With the setting, before anything is approved by mistake."""
    given = {**ENOUGH, **said}
    if problem is None:
        servingrules.parse(given)
        return
    with pytest.raises(errors.SetupError) as caught:
        servingrules.parse(given)
    assert problem in caught.value.message
    assert caught.value.hints


@pytest.mark.parametrize("said", [None, [], "enforce"])
def test_settings_are_a_mapping(said):
    """What a file says may be anything."""
    with pytest.raises(errors.SetupError):
        servingrules.parse(said)


def test_everything_that_is_wrong_is_said_at_once():
    """Nobody wants to start a program five times."""
    with pytest.raises(errors.SetupError) as caught:
        servingrules.parse({"mode": "x", "cidrs": ["y"], "patterns": ["z"], "most-names": "a", "b": 1})
    for part in ("there is no setting b", "mode:", "cidrs:", "patterns:", "most-names:"):
        assert part in caught.value.message


@pytest.mark.parametrize(
    "said",
    [
        {"inventory": "x"},
        {"cidrs": ["10.0.0.0/8"], "dns": True},
        {"patterns": ["{node}"], "dns": True},
        {"cidrs": ["10.0.0.0/8"], "dns": True, "sources": ["node", "dns"]},
        {"sources": ["node"]},
    ],
    ids=_id,
)
def test_what_can_prove_names_and_addresses_is_enough(said):
    """DNS leads from the one to the other."""
    assert servingrules.parse(said).rules.alternatives
