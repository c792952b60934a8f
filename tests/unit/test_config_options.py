"""How the values of settings are read."""

from __future__ import annotations

import pytest

from certplane.config import options, servesettings
from certplane.errors import SetupError


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


@pytest.mark.parametrize(
    ("listen", "problem"),
    [
        ("127.0.0.1:99999", "--listen: port 99999 is above 65535: 127.0.0.1:99999"),
        ("127.0.0.1:x", "--listen: not HOST:PORT: 127.0.0.1:x"),
        ("127.0.0.1", "--listen: not HOST:PORT: 127.0.0.1"),
        (":6443", "--listen: not HOST:PORT: :6443"),
    ],
)
def test_an_address_that_cannot_be_used(listen, problem):
    """The message says which part is wrong."""
    with pytest.raises(SetupError) as caught:
        servesettings.read({"listen": listen}, {})
    assert caught.value.message == problem


def test_a_duration_without_a_unit():
    """The message shows how to write it."""
    with pytest.raises(SetupError) as caught:
        servesettings.read({"event_ttl": "3"}, {})
    assert caught.value.message == "--event-ttl: not a duration: 3; write 3s for 3 seconds"


def test_an_unknown_setting_in_a_file():
    """A similar one is suggested."""
    with pytest.raises(SetupError) as caught:
        servesettings.read({}, {"listn": "127.0.0.1:6443"})
    assert caught.value.message == 'unknown setting "listn" in the configuration file; did you mean "listen"?'
