"""How the values of settings are read."""

from __future__ import annotations

import pytest

from certplane.config import options


@pytest.mark.parametrize(
    ("text", "network"),
    [
        ("10.2.0.1/16", "10.2.0.0/16"),
        ("10.2.0.1/255.255.0.0", "10.2.0.0/16"),
        ("2001:db8::1/64", "2001:db8::/64"),
        ("10.2.0.0/16", ""),
        ("10.2.0.1", ""),
        ("10.2.0.1/33", ""),
        ("10.2.0.1/", ""),
        ("example.com/16", ""),
        ("", ""),
    ],
)
def test_the_network_that_is_meant(text, network):
    """By an address with a prefix length: the one that it lies in. Nothing else means one."""
    assert options.network_meant(text) == network
