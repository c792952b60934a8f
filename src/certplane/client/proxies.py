"""Through which proxy a server is reached: what the environment says, as Go reads it.

Source: `golang.org/x/net/http/httpproxy`.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping


def chosen(host: str, port: int, environment: Mapping[str, str]) -> str:
    """The URL of the proxy for an HTTPS server; empty if it is to be reached directly."""
    proxy = environment.get("HTTPS_PROXY") or environment.get("https_proxy") or ""
    if not proxy or host == "localhost" or _is_loopback(host):
        return ""
    excepted = environment.get("NO_PROXY") or environment.get("no_proxy") or ""
    if any(_covers(each.strip().lower(), host.lower(), port) for each in excepted.split(",") if each.strip()):
        return ""
    return proxy if "://" in proxy else f"http://{proxy}"


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _covers(pattern: str, host: str, port: int) -> bool:
    """Whether one entry of NO_PROXY is about a server: *, an address, a network, a name (and those below it), a name
    beginning with a dot (those below it alone); each perhaps with a port.
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
    name, colon, wanted = pattern.rpartition(":")
    if colon and wanted.isdigit() and (":" not in name or name.startswith("[")):
        if int(wanted) != port:
            return False
        pattern = name
    pattern = pattern.removeprefix("[").removesuffix("]").removeprefix("*")
    if address is not None:
        return pattern == host
    return host.endswith(pattern) if pattern.startswith(".") else host == pattern or host.endswith(f".{pattern}")
