"""The proxy for a server, from environment variables, as Go reads them.

Source: `golang.org/x/net/http/httpproxy`.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping


def proxy_url(host: str, port: int, environment: Mapping[str, str]) -> str:
    """The URL of the proxy for an HTTPS server; empty if it is to be reached directly."""
    proxy = environment.get("HTTPS_PROXY") or environment.get("https_proxy") or ""
    if not proxy or host == "localhost" or _is_loopback(host):
        return ""
    exceptions = environment.get("NO_PROXY") or environment.get("no_proxy") or ""
    if any(_matches(entry.strip().lower(), host.lower(), port) for entry in exceptions.split(",") if entry.strip()):
        return ""
    return proxy if "://" in proxy else f"http://{proxy}"


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _matches(pattern: str, host: str, port: int) -> bool:
    """Whether an entry of NO_PROXY matches a server. An entry is *, an address, a network, a domain (with its
    subdomains), or a domain with a leading dot (its subdomains only); a port may follow.
    """
    if pattern == "*":
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        address = None
    if "/" in pattern:
        try:
            return address is not None and address in ipaddress.ip_network(pattern, strict=False)
        except ValueError:
            return False
    name, colon, digits = pattern.rpartition(":")
    if colon and digits.isdigit() and (":" not in name or name.startswith("[")):
        if int(digits) != port:
            return False
        pattern = name
    pattern = pattern.removeprefix("[").removesuffix("]").removeprefix("*")
    if address is not None:
        return pattern == host
    return host.endswith(pattern) if pattern.startswith(".") else host == pattern or host.endswith(f".{pattern}")
