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
    rest = text
    while (found := _decode(rest)) is not None:
        block, rest = found
        yield block


def first(text: bytes) -> Block | None:
    """The first block of a document."""
    found = _decode(text)
    return found[0] if found is not None else None


def encode(label: str, data: bytes) -> bytes:
    """One block, in lines of 64 columns, with a final newline."""
    body = base64.b64encode(data)
    lines = [body[at : at + 64] for at in range(0, len(body), 64)]
    name = label.encode("ascii")
    return b"\n".join([_BEGIN + name + _DASHES, *lines, b"-----END " + name + _DASHES, b""])


def _line(data: bytes) -> tuple[bytes, bytes]:
    """The first line without its end and trailing blanks, and the rest."""
    line, _, rest = data.partition(b"\n")
    return line.removesuffix(b"\r").rstrip(b" \t"), rest


def _decode(data: bytes) -> tuple[Block, bytes] | None:
    rest = data
    while True:
        end = rest.find(_END)
        if end < 0:
            return None
        begin = rest.rfind(_BEGIN, 0, end + 1)
        if begin < 0 or (begin > 0 and rest[begin - 1 : begin] != b"\n"):
            rest = rest[end + len(_END) :]
            continue
        block = _block(rest[begin + len(_BEGIN) :], end - begin - len(_BEGIN))
        if block is not None:
            return block
        rest = rest[end + len(_END) :]


def _block(text: bytes, end: int) -> tuple[Block, bytes] | None:
    """The block whose BEGIN has been read, and whose END line begins at `end`; None if it is not well-formed."""
    first_line, body = _line(text)
    if not first_line.endswith(_DASHES):
        return None
    label = first_line[: -len(_DASHES)]
    end -= len(text) - len(body)
    headers: dict[str, str] = {}
    while True:
        line, following = _line(body)
        key, colon, value = line.partition(b":")
        if not colon or end < 0:
            break
        headers[key.strip().decode("latin-1")] = value.strip().decode("latin-1")
        end -= len(body) - len(following)
        body = following
    # The END line of an empty block follows at once; its newline belongs to the line before.
    trailer = body[max(end, -1) + len(_END) :]
    if not trailer.startswith(label + _DASHES):
        return None
    last, rest = _line(trailer[len(label) + len(_DASHES) :])
    if last:
        return None
    encoded = body[: max(end, 0)].translate(None, b" \t\r\n")
    try:
        return Block(label.decode("utf-8", "replace"), headers, base64.b64decode(encoded, validate=True)), rest
    except binascii.Error:
        return None
