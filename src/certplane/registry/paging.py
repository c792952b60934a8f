"""Continue tokens of lists, and the resourceVersion parameter.

Source: `k8s.io/apiserver/pkg/storage/continue.go`; api-concepts, "Retrieving large results sets in chunks" and
"Semantics for get and list".
"""

from __future__ import annotations

import base64
import dataclasses
import posixpath
from typing import Any, Final

import msgspec

from certplane import errors
from certplane.golang import formatting, gojson

_VERSION: Final = "meta.k8s.io/v1"


@dataclasses.dataclass(frozen=True, slots=True)
class Continue:
    """Where the next page starts: key `start`, relative to the listed prefix, read at `revision` (-1: the newest)."""

    start: str
    revision: int


def encode(start: str, revision: int) -> str:
    """The token for the page that begins at the key `start` (relative to the prefix)."""
    document = {"v": _VERSION, "rv": revision, "start": start}
    return base64.urlsafe_b64encode(msgspec.json.encode(document)).rstrip(b"=").decode("ascii")


def decode(token: str) -> Continue:
    """The content of a token. Raises BadRequest with kube-apiserver's text."""
    # As in Go's base64 decoder: line ends are skipped, and excess bits at the end are ignored.
    letters = token.translate(_NO_LINE_ENDS)
    if not _ALPHABET.issuperset(letters) or len(letters) % 4 == 1:
        raise _refusal(f"illegal base64 data at input byte {_invalid_position(token)}")
    raw = base64.urlsafe_b64decode(letters + "=" * (-len(letters) % 4))
    try:
        document = gojson.to_builtins(gojson.parse(raw), numbers=True)
    except gojson.JSONSyntaxError as error:
        raise _refusal(str(error)) from error
    if document is not None and not isinstance(document, dict):
        raise _refusal(f"json: cannot unmarshal {_kind(document)} into Go value of type storage.continueToken")
    return _checked(document or {})


def _checked(document: dict[str, Any]) -> Continue:
    # Go matches member names without case.
    document = {name.lower(): value for name, value in document.items()}
    for name, value in document.items():
        type_ = _FIELDS.get(name)
        if type_ is not None and value is not None and (not isinstance(value, type_) or isinstance(value, bool)):
            raise _refusal(
                f"json: cannot unmarshal {_kind(value, exact=type_ is int)} into Go struct field continueToken.{name} "
                f"of type {'int64' if type_ is int else 'string'}"
            )
    version, revision, start = document.get("v") or "", document.get("rv") or 0, document.get("start") or ""
    if version != _VERSION:
        raise _refusal(f"server does not recognize this encoded version {version}")
    if revision == 0:
        raise _refusal("incorrect encoded start resourceVersion (version meta.k8s.io/v1)")
    if not start:
        raise _refusal("encoded start key empty (version meta.k8s.io/v1)")
    rooted = start if start.startswith("/") else "/" + start
    if posixpath.normpath(rooted) != rooted or rooted.startswith("//"):
        raise _refusal(start)
    return Continue(rooted[1:], revision)


_FIELDS: Final = {"v": str, "rv": int, "start": str}


def _kind(value: object, *, exact: bool = False) -> str:
    """Go's word for a JSON value of the wrong type; `exact` adds a number's value, where an integer was expected."""
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, str):
        return "string"
    if isinstance(value, list):
        return "array"
    if isinstance(value, dict):
        return "object"
    return f"number {value}" if exact else "number"


_ALPHABET: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")
_NO_LINE_ENDS: Final = str.maketrans("", "", "\r\n")


def _invalid_position(token: str) -> int:
    for position, char in enumerate(token):
        if char not in _ALPHABET and char not in "\r\n":
            return position
    return len(token) - len(token) % 4


def _refusal(why: str) -> errors.BadRequest:
    return errors.BadRequest(f"invalid continue token: continue key is not valid: {why}")


def parse_revision(text: str) -> int:
    """The revision in a resourceVersion parameter; 0 if it is empty or 0. Raises BadRequest with Go's text."""
    if not text or text == "0":
        return 0
    try:
        return formatting.parse_uint(text)
    except ValueError as error:
        raise errors.BadRequest(
            f"invalid resource version: resourceVersion: Invalid value: {formatting.quote(text)}: {error}"
        ) from error
