"""Continue tokens, and what a resourceVersion on a list asks for.

Source: `k8s.io/apiserver/pkg/storage/continue.go`; api-concepts, "Retrieving large results sets in chunks" and
"Semantics for get and list".
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import posixpath
from typing import Any

import msgspec

from certplane import errors
from certplane.meta import gojson

_VERSION = "meta.k8s.io/v1"


@dataclasses.dataclass(frozen=True, slots=True)
class Continue:
    """Where the next page starts: `start` relative to the listed prefix, read at `revision` (-1: the newest)."""

    start: str
    revision: int


def encode(start: str, revision: int) -> str:
    """The token for the page that begins right after the key `start` (relative to the prefix)."""
    document = {"v": _VERSION, "rv": revision, "start": start + "\x00"}
    return base64.urlsafe_b64encode(msgspec.json.encode(document)).rstrip(b"=").decode("ascii")


def decode(token: str) -> Continue:
    """Raises BadRequest with the text of the real server."""
    try:
        raw = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
        if base64.urlsafe_b64encode(raw).rstrip(b"=").decode() != token:
            raise _refusal(f"illegal base64 data at input byte {_fault(token)}")
    except (binascii.Error, ValueError) as error:
        raise _refusal(f"illegal base64 data at input byte {_fault(token)}") from error
    try:
        document = gojson.plain(gojson.parse(raw), numbers=True)
    except gojson.SyntaxProblem as error:
        raise _refusal(str(error)) from error
    if not isinstance(document, dict):
        raise _refusal("json: cannot unmarshal array into Go value of type storage.continueToken")
    return _checked(document)


def _checked(document: dict[str, Any]) -> Continue:
    version, revision, start = document.get("v", ""), document.get("rv", 0), document.get("start", "")
    if version != _VERSION:
        raise _refusal(f"server does not recognize this encoded version {version}")
    if not isinstance(revision, int) or revision == 0:
        raise _refusal("incorrect encoded start resourceVersion (version meta.k8s.io/v1)")
    if not isinstance(start, str) or not start:
        raise _refusal("empty encoded start key (version meta.k8s.io/v1)")
    rooted = start if start.startswith("/") else "/" + start
    cleaned = posixpath.normpath(rooted) + ("/" if rooted.endswith("/") and rooted != "/" else "")
    if cleaned.replace("//", "/", 1) != rooted:
        raise _refusal(start)
    return Continue(cleaned[1:], revision)


def _fault(token: str) -> int:
    alphabet = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")
    for position, char in enumerate(token):
        if char not in alphabet:
            return position
    return len(token) - len(token) % 4


def _refusal(why: str) -> errors.BadRequest:
    return errors.BadRequest(f"invalid continue token: continue key is not valid: {why}")


def parse_revision(text: str) -> int:
    """The revision that a query parameter names; 0 if it names none. Raises BadRequest with Go's text."""
    if not text or text == "0":
        return 0
    if text.isascii() and text.isdigit() and len(text) < 20:
        return int(text)
    raise errors.BadRequest(
        f'invalid resource version: resourceVersion: Invalid value: "{text}": '
        f'strconv.ParseUint: parsing "{text}": invalid syntax'
    )
