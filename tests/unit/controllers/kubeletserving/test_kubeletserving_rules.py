"""The rules of the kubelet-serving approver: parsing, defaults, and problems."""

from __future__ import annotations

import pathlib
import re

import pytest

from certplane import errors
from certplane.controllers.approving.kubeletserving import rules

ENOUGH = {"cidrs": ["10.0.0.0/16"], "patterns": ["{node}"]}


def _id(value):
    """Without memory addresses: test names must be the same in all processes."""
    return re.sub(" object at 0x[0-9a-f]+", "", str(value))


def test_defaults_are_safe():
    """Nothing is denied, and the Node object alone proves nothing."""
    settings = rules.parse(ENOUGH)
    assert settings.mode is rules.Mode.APPROVE_ONLY
    assert settings.rules.alternatives == (("node", "cidrs"), ("node", "patterns"))
    assert (settings.inventory, settings.dns_timeout) == (None, None)
    assert (settings.rules.max_lifetime, settings.rules.max_names, settings.rules.dns_reverse) == (
        365 * 86400,
        32,
        False,
    )


def test_all_fields():
    """Each field has its place in the settings."""
    settings = rules.parse(
        {
            "mode": "enforce",
            "sources": ["inventory", "node + dns"],
            "inventory": "/etc/nodes.yaml",
            "cidrs": ["10.0.0.0/16"],
            "patterns": ["{node}.Example.com"],
            "dns": True,
            "dns-reverse": True,
            "dns-timeout": "1500ms",
            "max-lifetime": "24h",
            "max-names": 5,
            "api-server": ["API.example.com", "10.0.0.100"],
            "service-cidrs": ["10.96.0.0/12"],
            "cluster-domain": "k8s.example",
            "forbidden": [".corp.example", "vault.example.com", "192.0.2.0/24", "2001:db8::1"],
        }
    )
    assert settings.mode is rules.Mode.ENFORCE
    assert settings.rules.alternatives == (("inventory",), ("node", "dns"))
    assert (settings.inventory, settings.dns_timeout) == (pathlib.Path("/etc/nodes.yaml"), 1.5)
    assert (settings.rules.max_lifetime, settings.rules.max_names, settings.rules.dns_reverse) == (86400, 5, True)
    assert settings.rules.expand_patterns("n1") == ("n1.example.com",)
    assert {"api.example.com", "vault.example.com"} <= settings.rules.forbidden.names
    assert settings.rules.forbidden.suffixes == (
        ".localhost", ".svc", ".corp.example", ".svc.k8s.example", ".pod.k8s.example",
    )  # fmt: skip
    assert {"10.0.0.100/32", "10.96.0.0/12", "192.0.2.0/24", "2001:db8::1/128"} <= set(
        map(str, settings.rules.forbidden.networks)
    )


@pytest.mark.parametrize(
    ("document", "problem"),
    [
        ({"modus": "enforce"}, 'unknown field "modus"; did you mean "mode"?'),
        ({"x": 1}, 'unknown field "x"'),
        ({"mode": "strict"}, "mode: must be one of enforce, approve-only, report, not strict"),
        ({"mode": 1}, "mode: must be a string, not 1"),
        ({"sources": "node"}, "sources: must be a list of strings"),
        ({"sources": ["nodes"]}, "sources: unknown source 'nodes'"),
        ({"sources": ["node+"]}, "sources: unknown source ''"),
        ({"sources": ["inventory"]}, "sources: inventory is used, but inventory is not set"),
        ({"sources": ["node+dns"]}, "sources: dns is used, but dns is not set"),
        ({"sources": []}, "no source can prove a DNS name"),
        ({"sources": ["patterns"]}, "no source can prove an IP address"),
        ({"sources": ["patterns", "cidrs+patterns+dns"], "dns": True}, "no source can prove an IP address"),
        ({"sources": ["cidrs"]}, "no source can prove a DNS name"),
        ({"sources": ["node+cidrs+patterns"]}, "no source can prove a DNS name"),
        ({"sources": ["dns"], "dns": True}, "no source can prove a DNS name"),
        ({"cidrs": ["10.2.0.1/16"]}, "cidrs: '10.2.0.1/16' is not a network; did you mean 10.2.0.0/16?"),
        ({"service-cidrs": ["fd00::1/64"]}, "service-cidrs: 'fd00::1/64' is not a network; did you mean fd00::/64?"),
        ({"forbidden": ["10.2.0.1/16"]}, "address or network; did you mean 10.2.0.0/16?"),
        ({"cidrs": ["::ffff:10.0.0.0/112"]}, "is not a network"),
        ({"cidrs": "10.0.0.0/16"}, "cidrs: must be a list of strings"),
        ({"cidrs": [10]}, "cidrs: must be a list of strings"),
        ({"patterns": ["example.com"]}, r"patterns: 'example.com' is not a DNS name that contains {node}"),
        ({"patterns": ["*.{node}"]}, "is not a DNS name that contains {node}"),
        ({"patterns": ["{node}."]}, "is not a DNS name that contains {node}"),
        ({"patterns": ["{node}.exa mple.com"]}, "is not a DNS name that contains {node}"),
        ({"patterns": ["{name}"]}, "is not a DNS name that contains {node}"),
        ({"dns": "yes"}, "dns: must be true or false, not 'yes'"),
        ({"dns": True, "dns-timeout": "5"}, "dns-timeout: must be a positive duration such as 5s, not '5'"),
        ({"max-lifetime": "0s"}, "max-lifetime: must be a positive duration such as 8760h, not '0s'"),
        ({"max-lifetime": "500ms"}, "max-lifetime: must be at least 10m, the minimum of spec.expirationSeconds"),
        ({"max-lifetime": "9m59s"}, "max-lifetime: must be at least 10m, the minimum of spec.expirationSeconds"),
        ({"max-lifetime": 86400}, "max-lifetime: must be a string, not 86400"),
        ({"max-names": 0}, "max-names: must be an integer of at least 1, not 0"),
        ({"max-names": True}, "max-names: must be an integer of at least 1, not True"),
        ({"api-server": ["https://api.example.com"]}, "is not a name or address"),
        ({"cluster-domain": ".cluster.local"}, "cluster-domain: '.cluster.local' is not a DNS name"),
        ({"forbidden": ["*.example.com"]}, "is not a name, .suffix, address or network"),
        ({"forbidden": ["10.0.0.0/33"]}, "is not a name, .suffix, address or network"),
    ],
    ids=_id,
)
def test_invalid_documents_are_refused(document, problem):
    """The error has the field."""
    document = {**ENOUGH, **document}
    with pytest.raises(errors.SetupError) as caught:
        rules.parse(document)
    assert problem in caught.value.message
    assert caught.value.hints


def test_an_address_is_a_network_of_one_address():
    """It can be listed without a prefix length."""
    settings = rules.parse({**ENOUGH, "service-cidrs": ["10.96.0.1"]})
    assert "10.96.0.1/32" in map(str, settings.rules.forbidden.networks)


@pytest.mark.parametrize("document", [None, [], "enforce"])
def test_the_document_must_be_a_mapping(document):
    """A YAML file may contain anything."""
    with pytest.raises(errors.SetupError):
        rules.parse(document)


def test_all_problems_are_reported_at_once():
    """In one SetupError."""
    with pytest.raises(errors.SetupError) as caught:
        rules.parse({"mode": "x", "cidrs": ["y"], "patterns": ["z"], "max-names": "a", "b": 1})
    for part in ('unknown field "b"', "mode:", "cidrs:", "patterns:", "max-names:"):
        assert part in caught.value.message


@pytest.mark.parametrize(
    "document",
    [
        {"inventory": "x"},
        {"cidrs": ["10.0.0.0/8"], "dns": True},
        {"patterns": ["{node}"], "dns": True},
        {"cidrs": ["10.0.0.0/8"], "dns": True, "sources": ["node", "dns"]},
        {"sources": ["node"]},
    ],
    ids=_id,
)
def test_rules_that_can_prove_names_and_addresses_are_accepted(document):
    """DNS proves one of them if the other can be proven without it."""
    assert rules.parse(document).rules.alternatives
