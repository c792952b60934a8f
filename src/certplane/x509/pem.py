"""PEM as Go's encoding/pem reads it, which is laxer here and stricter there than other decoders.

Text before, between and after blocks is skipped; BEGIN and END must begin a line and agree on the type; a block may
have headers; white space inside the base64 does not matter, any other foreign character makes it no block at all. If
BEGIN is repeated, the last one before END counts. Source: RFC 7468, Go `encoding/pem`.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Final

_BEGIN: Final = b"-----BEGIN "
_END: Final = b"\n-----END "
_DASHES: Final = b"-----"


@dataclasses.dataclass(frozen=True, slots=True)
class Block:
    """One block: its label, its headers, its bytes."""

    label: str
    headers: Mapping[str, str]
    data: bytes


def blocks(text: bytes) -> Iterator[Block]:
    """All blocks of a document, in order."""
    at = 0
    while (found := _decode(text, at)) is not None:
        block, at = found
        yield block


def first(text: bytes) -> Block | None:
    """The first block of a document."""
    found = _decode(text, 0)
    return found[0] if found is not None else None


def encode(label: str, data: bytes) -> bytes:
    """One block, in lines of 64 columns, with a final newline."""
    body = base64.b64encode(data)
    lines = [body[at : at + 64] for at in range(0, len(body), 64)]
    name = label.encode("ascii")
    return b"\n".join([_BEGIN + name + _DASHES, *lines, b"-----END " + name + _DASHES, b""])


# All of these work on the whole text and a place in it: what is left is never copied.


def _line(text: bytes, at: int) -> tuple[bytes, int]:
    """The line at a place, without its end and trailing blanks, and where the next one begins."""
    end = text.find(b"\n", at)
    line, following = (text[at:], len(text)) if end < 0 else (text[at:end], end + 1)
    return line.removesuffix(b"\r").rstrip(b" \t"), following


def _decode(text: bytes, at: int) -> tuple[Block, int] | None:
    """The first block from a place on, and where it ends."""
    while True:
        end = text.find(_END, at)
        if end < 0:
            return None
        begin = text.rfind(_BEGIN, at, end + 1)
        if begin >= 0 and (begin == at or text[begin - 1 : begin] == b"\n"):
            found = _block(text, begin + len(_BEGIN), end)
            if found is not None:
                return found
        at = end + len(_END)


def _block(text: bytes, at: int, end: int) -> tuple[Block, int] | None:
    """The block whose BEGIN has been read, up to `at`, and whose END line begins at `end`; None if it is not
    well-formed.
    """
    first_line, at = _line(text, at)
    if not first_line.endswith(_DASHES):
        return None
    label = first_line[: -len(_DASHES)]
    headers: dict[str, str] = {}
    while at <= end:
        line, following = _line(text, at)
        key, colon, value = line.partition(b":")
        if not colon:
            break
        headers[key.strip().decode("latin-1")] = value.strip().decode("latin-1")
        at = following
    # The END line of an empty block follows at once; its newline belongs to the line before.
    after = max(end, at - 1) + len(_END)
    if not text.startswith(label + _DASHES, after):
        return None
    last, rest = _line(text, after + len(label) + len(_DASHES))
    if last:
        return None
    encoded = text[at : max(end, at)].translate(None, b" \t\r\n")
    try:
        return Block(label.decode("utf-8", "replace"), headers, base64.b64decode(encoded, validate=True)), rest
    except binascii.Error:
        return None
