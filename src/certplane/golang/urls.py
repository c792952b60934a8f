"""URIs as Go's net/url parses and prints them.

A URI among the subject alternative names of a request must be one that Go can parse. The certificate does not hold the
text of the request but the parsed URI as Go prints it: the scheme in lower case, unusual characters escaped, an empty
fragment omitted. Clients can see both. The input is ASCII: names are IA5Strings.

Source: RFC 3986; Go `net/url`, `net/netip`.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import re
import string
from typing import Final

from certplane.golang import formatting

_UNRESERVED: Final = frozenset(string.ascii_letters + string.digits + "-_.~")
#: The characters that are not escaped, for each part of a URI.
_HOST: Final = _UNRESERVED | frozenset("!$&'()*+,;=:[]<>\"")
_HOST_CHAR: Final = f"[{re.escape(''.join(sorted(_HOST)))}]"
#: In a host only non-ASCII bytes and the per cent sign may be escaped; in a zone also the characters of hosts, and
#: spaces (Windows has them).
_VALID_HOST: Final = re.compile(rf"(?:{_HOST_CHAR}|%25|%[89A-Fa-f][0-9A-Fa-f])*")
_ZONE_ESCAPE: Final = f"%(?i:25|20|{'|'.join(f'{ord(char):02x}' for char in sorted(_HOST))})"
_VALID_ZONE: Final = re.compile(f"(?:{_HOST_CHAR}|{_ZONE_ESCAPE})*")
_USER: Final = _UNRESERVED | frozenset("$&+,;=")
_PATH: Final = _UNRESERVED | frozenset("$&+,/:;=@")
_FRAGMENT: Final = _PATH | frozenset("?!()*")
#: Further characters that do not cause a path or fragment to be escaped again.
_KEPT: Final = frozenset("!$&'()*+,;=:@[]%")
_USER_INFO: Final = _UNRESERVED | frozenset(":!$&'()*+,;=%@")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)?:(.*)", re.DOTALL)
_ESCAPE: Final = re.compile(r"%([0-9A-Fa-f]{2})")
_INVALID_ESCAPE: Final = re.compile(r"%(?![0-9A-Fa-f]{2}).{0,2}")
_PORT: Final = re.compile(r"(:[0-9]*)?")
_ADDRESS_MARK: Final = re.compile(r"[.:%]")


class URIError(ValueError):
    """A text that is not a URI. The text is Go's."""


@dataclasses.dataclass(frozen=True, slots=True)
class URI:
    """A URI: its host with the port, empty if it has none, and the whole URI as Go prints it."""

    host: str
    text: str


def parse(text: str) -> URI:
    """Parse a URI. Raises URIError."""
    uri, _, fragment = text.partition("#")
    try:
        host, printed = _parse(uri)
    except URIError as problem:
        raise URIError(f"parse {formatting.quote(uri)}: {problem}") from problem
    if not fragment:
        return URI(host, printed)
    try:
        return URI(host, f"{printed}#{_print_part(fragment, _FRAGMENT)}")
    except URIError as problem:
        raise URIError(f"parse {formatting.quote(text)}: {problem}") from problem


def _parse(uri: str) -> tuple[str, str]:
    """The host of a URI without a fragment, and that URI as it is printed."""
    if _CONTROL.search(uri):
        raise URIError("net/url: invalid control character in URL")
    scheme, rest = _split_scheme(uri)
    rest, question_mark, query = rest.partition("?")
    suffix = question_mark + query
    if not rest.startswith("/"):
        if scheme and rest:
            return "", f"{scheme}:{rest}{suffix}"
        if ":" in rest.partition("/")[0]:
            raise URIError("first path segment in URL cannot contain colon")
    user, host, path = "", "", rest
    if rest.startswith("//") and (scheme or not rest.startswith("///")):
        authority, slash, path = rest[2:].partition("/")
        path = slash + path
        user, host = _parse_authority(scheme, authority)
    printed = _print_part(path, _PATH) if path != "*" else path
    prefix = _print_prefix(scheme, user, host, rest)
    if not prefix and ":" in printed.partition("/")[0]:
        # Without "./" the path would begin with a scheme.
        printed = f"./{printed}"
    return host, f"{prefix}{printed}{suffix}"


def _split_scheme(uri: str) -> tuple[str, str]:
    """The scheme in lower case, empty if there is none, and the rest of the URI."""
    match = _SCHEME.fullmatch(uri)
    if match is None:
        return "", uri
    if match[1] is None:
        raise URIError("missing protocol scheme")
    return match[1].lower(), match[2]


def _print_prefix(scheme: str, user: str, host: str, rest: str) -> str:
    """What is printed before the path. An empty authority is printed only if a path follows."""
    prefix = f"{scheme}:" if scheme else ""
    if user or host:
        return f"{prefix}//{user}{_escape(host, _HOST)}"
    has_authority = rest.startswith("//") and len(rest) > 2
    return f"{prefix}//" if scheme and has_authority else prefix


# --- the authority ------------------------------------------------------------------------------------------------


def _parse_authority(scheme: str, authority: str) -> tuple[str, str]:
    """The user as it is printed, with its "@", and the host with its port."""
    userinfo, separator, host = authority.rpartition("@")
    host = _parse_host(scheme, host)
    if not separator:
        return "", host
    if not _USER_INFO.issuperset(userinfo):
        raise URIError("net/url: invalid userinfo")
    name, colon, password = userinfo.partition(":")
    return f"{_escape(_unescape(name), _USER)}{colon}{_escape(_unescape(password), _USER)}@", host


def _parse_host(scheme: str, host: str) -> str:
    bracket = host.rfind("[")
    if bracket > 0:
        raise URIError("invalid IP-literal")
    if bracket == 0:
        return _parse_ip_literal(host)
    first, last = host.find(":"), host.rfind(":")
    if first >= 0:
        # The URIs of databases may list several hosts with ports; those of the web may not.
        _check_port(host[first if scheme in ("http", "https") else last :])
    return _unescape_host(host, _VALID_HOST)


def _parse_ip_literal(host: str) -> str:
    """An IPv6 address in brackets, with an optional zone, and an optional port. RFC 6874."""
    address, bracket, port = host[1:].rpartition("]")
    if not bracket:
        raise URIError("missing ']' in host")
    _check_port(port)
    zone = address.find("%25")
    if zone < 0:
        address = _unescape_host(address, _VALID_HOST)
    else:
        address = _unescape_host(address[:zone], _VALID_HOST) + _unescape_host(address[zone:], _VALID_ZONE)
    _check_address(address)
    return f"[{address}]{port}"


def _check_port(port: str) -> None:
    if not _PORT.fullmatch(port):
        raise URIError(f"invalid port {formatting.quote(port)} after host")


def _check_address(address: str) -> None:
    mark = _ADDRESS_MARK.search(address)
    kind = mark[0] if mark is not None else ""
    bare, percent, zone = address.partition("%")
    if kind == "%":
        problem = "missing IPv6 address"
    elif kind == ":" and percent and not zone:
        problem = "zone must be a non-empty string"
    elif (version := _version(bare if kind == ":" else address)) is None:
        # Go distinguishes a dozen reasons.
        problem = "unable to parse IP"
    elif version == 4:
        raise URIError("invalid IP-literal")
    else:
        return
    raise URIError(f"invalid host: ParseAddr({formatting.quote(address)}): {problem}")


def _version(address: str) -> int | None:
    """The IP version of an address; None if it is not an address."""
    try:
        return ipaddress.ip_address(address).version
    except ValueError:
        return None


# --- escapes ------------------------------------------------------------------------------------------------------


def _unescape(text: str) -> str:
    """A text without escapes, one character for each byte. Raises URIError."""
    invalid = _INVALID_ESCAPE.search(text)
    if invalid is not None:
        raise URIError(f"invalid URL escape {formatting.quote(invalid[0])}")
    return _ESCAPE.sub(lambda match: chr(int(match[1], 16)), text)


def _unescape_host(text: str, valid: re.Pattern[str]) -> str:
    """A host, or the zone of an address, without escapes. The pattern must match all of it. Raises URIError."""
    end = valid.match(text).end()  # type: ignore[union-attr]  # the pattern matches the empty string
    if end == len(text):
        return _unescape(text)
    if text[end] == "%":
        raise URIError(f"invalid URL escape {formatting.quote(text[end : end + 3])}")
    raise URIError(f"invalid character {formatting.quote(text[end])} in host name")


def _escape(text: str, allowed: frozenset[str]) -> str:
    return "".join(char if char in allowed else f"%{ord(char):02X}" for char in text)


def _print_part(text: str, allowed: frozenset[str]) -> str:
    """A path or fragment as it is printed: unchanged if it is valid, else escaped again. Raises URIError."""
    unescaped = _unescape(text)
    if all(char in _KEPT or char in allowed for char in text):
        return text
    return _escape(unescaped, allowed)
