"""URIs as Go's net/url reads and writes them.

A URI among the alternative names of a request has to be one that Go can parse, and what is issued is not the text of
the request but what Go prints of what it has parsed: the scheme in lower case, odd characters escaped, an empty
fragment left out. Both are visible to whoever asks. RFC 3986; Go `net/url`, `net/netip`.

What is read is ASCII: names are IA5Strings.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import re
import string
from typing import Final

from certplane import gotext

_ALWAYS: Final = frozenset(string.ascii_letters + string.digits + "-_.~")
#: What stands as it is, part by part; everything else is escaped.
_HOST: Final = _ALWAYS | frozenset("!$&'()*+,;=:[]<>\"")
_HOST_CHAR: Final = f"[{re.escape(''.join(sorted(_HOST)))}]"
#: Of a host only what is not ASCII is escaped, and a per cent sign; of a zone whatever could stand in a host, and the
#: spaces of Windows.
_GOOD_HOST: Final = re.compile(rf"(?:{_HOST_CHAR}|%25|%[89A-Fa-f][0-9A-Fa-f])*")
_ZONE_ESCAPE: Final = f"%(?i:25|20|{'|'.join(f'{ord(each):02x}' for each in sorted(_HOST))})"
_GOOD_ZONE: Final = re.compile(f"(?:{_HOST_CHAR}|{_ZONE_ESCAPE})*")
_USER: Final = _ALWAYS | frozenset("$&+,;=")
_PATH: Final = _ALWAYS | frozenset("$&+,/:;=@")
_FRAGMENT: Final = _PATH | frozenset("?!()*")
#: What may stand in a path or fragment that is printed as it was written.
_KEPT: Final = frozenset("!$&'()*+,;=:@[]%")
_USER_INFO: Final = _ALWAYS | frozenset(":!$&'()*+,;=%@")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)?:(.*)", re.DOTALL)
_ESCAPE: Final = re.compile(r"%([0-9A-Fa-f]{2})")
_BAD_ESCAPE: Final = re.compile(r"%(?![0-9A-Fa-f]{2}).{0,2}")
_PORT: Final = re.compile(r"(:[0-9]*)?")
_ADDRESS_MARK: Final = re.compile(r"[.:%]")


class URIProblem(ValueError):
    """A text that is no URI. The text is Go's."""


@dataclasses.dataclass(frozen=True, slots=True)
class URI:
    """A URI: its host with the port, empty if it has none, and the whole as Go prints it."""

    host: str
    text: str


def parse(text: str) -> URI:
    """Raises URIProblem."""
    uri, _, fragment = text.partition("#")
    try:
        host, printed = _parse(uri)
    except URIProblem as problem:
        raise URIProblem(f"parse {gotext.quote(uri)}: {problem}") from problem
    if not fragment:
        return URI(host, printed)
    try:
        return URI(host, f"{printed}#{_kept(fragment, _FRAGMENT)}")
    except URIProblem as problem:
        raise URIProblem(f"parse {gotext.quote(text)}: {problem}") from problem


def _parse(uri: str) -> tuple[str, str]:
    """The host of a URI without a fragment, and what is printed of it."""
    if _CONTROL.search(uri):
        raise URIProblem("net/url: invalid control character in URL")
    scheme, rest = _scheme(uri)
    rest, mark, query = rest.partition("?")
    end = mark + query
    if not rest.startswith("/"):
        if scheme and rest:
            return "", f"{scheme}:{rest}{end}"
        if ":" in rest.partition("/")[0]:
            raise URIProblem("first path segment in URL cannot contain colon")
    user, host, path = "", "", rest
    if rest.startswith("//") and (scheme or not rest.startswith("///")):
        authority, slash, path = rest[2:].partition("/")
        path = slash + path
        user, host = _authority(scheme, authority)
    # What is printed of the path may need a "./" in front, so that it is not taken for a scheme.
    printed = _kept(path, _PATH) if path != "*" else path
    beginning = _beginning(scheme, user, host, rest)
    if not beginning and ":" in printed.partition("/")[0]:
        printed = f"./{printed}"
    return host, f"{beginning}{printed}{end}"


def _scheme(uri: str) -> tuple[str, str]:
    """The scheme in lower case, empty if there is none, and what follows."""
    found = _SCHEME.fullmatch(uri)
    if found is None:
        return "", uri
    if found[1] is None:
        raise URIProblem("missing protocol scheme")
    return found[1].lower(), found[2]


def _beginning(scheme: str, user: str, host: str, rest: str) -> str:
    """What is printed in front of the path. An authority without anything in it is not one, unless a path follows."""
    before = f"{scheme}:" if scheme else ""
    if user or host:
        return f"{before}//{user}{_escaped(host, _HOST)}"
    has_authority = rest.startswith("//") and len(rest) > 2
    return f"{before}//" if scheme and has_authority else before


# --- the authority ------------------------------------------------------------------------------------------------


def _authority(scheme: str, authority: str) -> tuple[str, str]:
    """What is printed of the user, with its "@", and the host with its port."""
    info, at, host = authority.rpartition("@")
    host = _host(scheme, host)
    if not at:
        return "", host
    if not _USER_INFO.issuperset(info):
        raise URIProblem("net/url: invalid userinfo")
    name, colon, password = info.partition(":")
    return f"{_escaped(_unescaped(name), _USER)}{colon}{_escaped(_unescaped(password), _USER)}@", host


def _host(scheme: str, host: str) -> str:
    bracket = host.rfind("[")
    if bracket > 0:
        raise URIProblem("invalid IP-literal")
    if bracket == 0:
        return _literal(host)
    first, last = host.find(":"), host.rfind(":")
    if first >= 0:
        # Databases have several hosts with ports in one URI; the web has not.
        _check_port(host[first if scheme in ("http", "https") else last :])
    return _unescaped_host(host, _GOOD_HOST)


def _literal(host: str) -> str:
    """An IPv6 address in brackets, perhaps with a zone, and a port. RFC 6874."""
    address, bracket, port = host[1:].rpartition("]")
    if not bracket:
        raise URIProblem("missing ']' in host")
    _check_port(port)
    at = address.find("%25")
    if at < 0:
        address = _unescaped_host(address, _GOOD_HOST)
    else:
        address = _unescaped_host(address[:at], _GOOD_HOST) + _unescaped_host(address[at:], _GOOD_ZONE)
    _check_address(address)
    return f"[{address}]{port}"


def _check_port(port: str) -> None:
    if not _PORT.fullmatch(port):
        raise URIProblem(f"invalid port {gotext.quote(port)} after host")


def _check_address(address: str) -> None:
    mark = _ADDRESS_MARK.search(address)
    kind = mark[0] if mark is not None else ""
    bare, percent, zone = address.partition("%")
    if kind == "%":
        problem = "missing IPv6 address"
    elif kind == ":" and percent and not zone:
        problem = "zone must be a non-empty string"
    elif (version := _version(bare if kind == ":" else address)) is None:
        # Go tells a dozen reasons apart.
        problem = "unable to parse IP"
    elif version == 4:
        raise URIProblem("invalid IP-literal")
    else:
        return
    raise URIProblem(f"invalid host: ParseAddr({gotext.quote(address)}): {problem}")


def _version(address: str) -> int | None:
    """Which version of IP an address is of; None if it is none."""
    try:
        return ipaddress.ip_address(address).version
    except ValueError:
        return None


# --- escapes ------------------------------------------------------------------------------------------------------


def _unescaped(text: str) -> str:
    """A text whose characters are bytes, as they are meant."""
    bad = _BAD_ESCAPE.search(text)
    if bad is not None:
        raise URIProblem(f"invalid URL escape {gotext.quote(bad[0])}")
    return _ESCAPE.sub(lambda found: chr(int(found[1], 16)), text)


def _unescaped_host(text: str, good: re.Pattern[str]) -> str:
    """A host, or the zone of an address, of which the pattern tells how far it is good."""
    end = good.match(text).end()  # type: ignore[union-attr]  # it matches nothing, too
    if end == len(text):
        return _unescaped(text)
    if text[end] == "%":
        raise URIProblem(f"invalid URL escape {gotext.quote(text[end : end + 3])}")
    raise URIProblem(f"invalid character {gotext.quote(text[end])} in host name")


def _escaped(text: str, allowed: frozenset[str]) -> str:
    return "".join(char if char in allowed else f"%{ord(char):02X}" for char in text)


def _kept(text: str, allowed: frozenset[str]) -> str:
    """A path or fragment as it is printed: as it was written, if it could be; else escaped anew."""
    meant = _unescaped(text)
    if all(char in _KEPT or char in allowed for char in text):
        return text
    return _escaped(meant, allowed)
