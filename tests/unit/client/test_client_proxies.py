"""The proxy for a server, from the environment variables that Go's programs read."""

from __future__ import annotations

import pytest

from certplane.client import proxies

PROXY = "http://proxy.example:3128"


@pytest.mark.parametrize(
    ("host", "excepted", "is_excepted"),
    [
        ("api.example.com", "", False),
        ("localhost", "", True),
        ("127.0.0.1", "", True),
        ("::1", "", True),
        ("api.example.com", "*", True),
        ("api.example.com", "example.com", True),
        ("api.example.com", ".example.com", True),
        ("example.com", ".example.com", False),
        ("example.com", "example.com", True),
        ("badexample.com", "example.com", False),
        ("api.example.com", "other.org, Example.COM", True),
        ("api.example.com", "*.example.com", True),
        ("10.1.2.3", "10.0.0.0/8", True),
        ("11.1.2.3", "10.0.0.0/8", False),
        ("10.1.2.3", "10.1.2.3", True),
        ("10.1.2.3", "10.1.2.30", False),
        ("api.example.com", "example.com:6443", True),
        ("api.example.com", "example.com:443", False),
        ("2001:db8::1", "2001:db8::/32", True),
        ("2001:db8::1", "[2001:db8::1]:6443", True),
        ("2001:db8::1", "not-a-network/64", False),
    ],
)
def test_no_proxy(host, excepted, is_excepted):
    """It lists host names, domains, addresses and networks, with optional ports."""
    proxy = proxies.proxy_url(host, 6443, {"HTTPS_PROXY": PROXY, "NO_PROXY": excepted})
    assert proxy == ("" if is_excepted else PROXY)


def test_the_variable_of_the_proxy():
    """HTTP_PROXY does not apply. The lower-case name counts too, and a proxy without a scheme is an HTTP proxy."""
    assert proxies.proxy_url("api.example.com", 443, {"HTTP_PROXY": PROXY}) == ""
    assert proxies.proxy_url("api.example.com", 443, {"https_proxy": "proxy:1"}) == "http://proxy:1"
