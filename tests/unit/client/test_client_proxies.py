"""Through which proxy a server is reached, as Go's programs read the environment."""

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
def test_exceptions(host, excepted, is_excepted):
    """NO_PROXY names hosts, those below them, addresses, networks, and ports of these."""
    proxy = proxies.proxy_url(host, 6443, {"HTTPS_PROXY": PROXY, "NO_PROXY": excepted})
    assert proxy == ("" if is_excepted else PROXY)


def test_no_proxy_is_used_where_none_is_named():
    """Names in lower case count, too; a proxy without a scheme speaks HTTP."""
    assert proxies.proxy_url("api.example.com", 443, {"HTTP_PROXY": PROXY}) == ""
    assert proxies.proxy_url("api.example.com", 443, {"https_proxy": "proxy:1"}) == "http://proxy:1"
