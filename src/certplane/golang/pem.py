"""PEM as Go's encoding/pem decodes it, which is laxer in some respects and stricter in others than other decoders.

Text before, between and after blocks is skipped. BEGIN and END must start a line and have the same label. A block may
have headers. White space inside the base64 is ignored; any other foreign character invalidates the block. If BEGIN is
repeated, the last one before END counts. Source: RFC 7468, Go `encoding/pem`.
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
    """One block: its label, its headers, and its decoded content."""

    label: str
    headers: Mapping[str, str]
    data: bytes


def blocks(text: bytes) -> Iterator[Block]:
    """The blocks of a document, in order."""
    offset = 0
    while (decoded := _decode(text, offset)) is not None:
        block, offset = decoded
        yield block


def first_block(text: bytes) -> Block | None:
    """The first block of a document; None if it has none."""
    decoded = _decode(text, 0)
    return decoded[0] if decoded is not None else None


def encode(label: str, data: bytes) -> bytes:
    """One block, in lines of 64 columns, with a final newline."""
    body = base64.b64encode(data)
    lines = [body[start : start + 64] for start in range(0, len(body), 64)]
    name = label.encode("ascii")
    return b"\n".join([_BEGIN + name + _DASHES, *lines, b"-----END " + name + _DASHES, b""])


# These functions take the whole text and an offset into it, so the rest of a text is never copied.


def _read_line(text: bytes, offset: int) -> tuple[bytes, int]:
    """The line at an offset, without its end and trailing blanks, and the offset of the next one."""
    end = text.find(b"\n", offset)
    line, following = (text[offset:], len(text)) if end < 0 else (text[offset:end], end + 1)
    return line.removesuffix(b"\r").rstrip(b" \t"), following


def _decode(text: bytes, offset: int) -> tuple[Block, int] | None:
    """The first block from an offset on, and the offset of its end; None if there is none."""
    while True:
        end = text.find(_END, offset)
        if end < 0:
            return None
        begin = text.rfind(_BEGIN, offset, end + 1)
        if begin >= 0 and (begin == offset or text[begin - 1 : begin] == b"\n"):
            decoded = _decode_block(text, begin + len(_BEGIN), end)
            if decoded is not None:
                return decoded
        offset = end + len(_END)


def _decode_block(text: bytes, offset: int, end: int) -> tuple[Block, int] | None:
    """The block whose label begins at `offset` and whose END line begins at `end`, and the offset of its end; None if
    the block is malformed.
    """
    first_line, offset = _read_line(text, offset)
    if not first_line.endswith(_DASHES):
        return None
    label = first_line[: -len(_DASHES)]
    headers: dict[str, str] = {}
    while offset <= end:
        line, following = _read_line(text, offset)
        key, colon, value = line.partition(b":")
        if not colon:
            break
        headers[key.strip().decode("latin-1")] = value.strip().decode("latin-1")
        offset = following
    # In an empty block, the newline before END is the one that ends the line before.
    after = max(end, offset - 1) + len(_END)
    if not text.startswith(label + _DASHES, after):
        return None
    trailing, following = _read_line(text, after + len(label) + len(_DASHES))
    if trailing:
        return None
    encoded = text[offset : max(end, offset)].translate(None, b" \t\r\n")
    try:
        return Block(label.decode("utf-8", "replace"), headers, base64.b64decode(encoded, validate=True)), following
    except binascii.Error:
        return None
