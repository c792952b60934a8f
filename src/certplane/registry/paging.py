"""Continue tokens, and what a resourceVersion on a list asks for.

Source: `k8s.io/apiserver/pkg/storage/continue.go`; api-concepts, "Retrieving large results sets in chunks" and
"Semantics for get and list".
"""

from __future__ import annotations

import base64
import dataclasses
import posixpath
from typing import Any, Final

import msgspec

from certplane import errors, gotext
from certplane.meta import gojson

_VERSION: Final = "meta.k8s.io/v1"
#: Digits of the largest version.


@dataclasses.dataclass(frozen=True, slots=True)
class Continue:
    """Where the next page starts: `start` relative to the listed prefix, read at `revision` (-1: the newest)."""

    start: str
    revision: int


def encode(start: str, revision: int) -> str:
    """The token for the page that begins at the key `start` (relative to the prefix)."""
    document = {"v": _VERSION, "rv": revision, "start": start}
    return base64.urlsafe_b64encode(msgspec.json.encode(document)).rstrip(b"=").decode("ascii")


def decode(token: str) -> Continue:
    """Raises BadRequest with the text of the real server."""
    # Line ends are passed over, and nobody looks at the bits that are left over at the end.
    letters = token.translate(_NO_LINE_ENDS)
    if not _ALPHABET.issuperset(letters) or len(letters) % 4 == 1:
        raise _refusal(f"illegal base64 data at input byte {_fault(token)}")
    raw = base64.urlsafe_b64decode(letters + "=" * (-len(letters) % 4))
    try:
        document = gojson.plain(gojson.parse(raw), numbers=True)
    except gojson.SyntaxProblem as error:
        raise _refusal(str(error)) from error
    if document is not None and not isinstance(document, dict):
        raise _refusal(f"json: cannot unmarshal {_kind(document)} into Go value of type storage.continueToken")
    return _checked(document or {})


def _checked(document: dict[str, Any]) -> Continue:
    # Go finds members whatever their case is.
    document = {name.lower(): value for name, value in document.items()}
    for name, value in document.items():
        wanted = _FIELDS.get(name)
        if wanted is not None and value is not None and (not isinstance(value, wanted) or isinstance(value, bool)):
            raise _refusal(
                f"json: cannot unmarshal {_kind(value, exact=wanted is int)} into Go struct field continueToken.{name} "
                f"of type {'int64' if wanted is int else 'string'}"
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


def _kind(value: Any, *, exact: bool = False) -> str:
    """What Go calls a JSON value that it cannot use; numbers with their value where another number would do."""
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


def _fault(token: str) -> int:
    for position, char in enumerate(token):
        if char not in _ALPHABET and char not in "\r\n":
            return position
    return len(token) - len(token) % 4


def _refusal(why: str) -> errors.BadRequest:
    return errors.BadRequest(f"invalid continue token: continue key is not valid: {why}")


def parse_revision(text: str) -> int:
    """The revision that a query parameter names; 0 if it names none. Raises BadRequest with Go's text."""
    if not text or text == "0":
        return 0
    try:
        return gotext.parse_uint(text)
    except ValueError as error:
        raise errors.BadRequest(
            f"invalid resource version: resourceVersion: Invalid value: {gotext.quote(text)}: {error}"
        ) from error
