"""A small reader of DER, with the complaints of Go's encoding/asn1.

It exists because those complaints are part of the Kubernetes API (`spec.request: Invalid value: ...: asn1: ...`), and
because what to make of an odd request must not depend on the mood of a library. Source: ITU-T X.690; Go
`encoding/asn1`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

SEQUENCE: Final = 16
SET: Final = 17
BOOLEAN: Final = 1
INTEGER: Final = 2
BIT_STRING: Final = 3
OCTET_STRING: Final = 4
NULL: Final = 5
OID: Final = 6
CONTEXT: Final = 2

_PARAMETERS: Final = (
    "{optional:false explicit:false application:false private:false defaultValue:<nil> tag:<nil> "
    "stringType:0 timeType:0 set:false omitEmpty:false}"
)


class DERProblem(ValueError):
    """Bytes that are not the DER that was expected. The text is Go's."""


def syntax(text: str) -> DERProblem:
    return DERProblem(f"asn1: syntax error: {text}")


def structure(text: str) -> DERProblem:
    return DERProblem(f"asn1: structure error: {text}")


class Element(NamedTuple):
    """One value: class (0 universal, 2 context), tag, whether it is constructed, content, and all its bytes.

    A tuple, as it is made in a third of the time of a frozen dataclass, dozens of times a request.
    """

    class_: int
    tag: int
    compound: bool
    content: bytes
    raw: bytes


#: Class, tag, whether it is constructed, length of the content, and where that begins. A plain tuple, as every value
#: of every request has one.
_Header = tuple[int, int, bool, int, int]


def _header(data: bytes, at: int) -> _Header:
    first = data[at]
    at += 1
    tag = first & 0x1F
    if tag != 0x1F and at < len(data) and data[at] < 0x80:
        return first >> 6, tag, bool(first & 0x20), data[at], at + 1
    if tag == 0x1F:
        tag, at = _base128(data, at)
        if tag < 0x1F:
            raise syntax("non-minimal tag")
    if at >= len(data):
        raise syntax("truncated tag or length")
    length = data[at]
    at += 1
    if length & 0x80:
        length, at = _long_length(data, at, length & 0x7F)
    return first >> 6, tag, bool(first & 0x20), length, at


def _base128(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for count in range(5):
        if at >= len(data):
            raise syntax("truncated base 128 integer")
        byte = data[at]
        at += 1
        if count == 0 and byte == 0x80:
            raise syntax("integer is not minimally encoded")
        value = value << 7 | byte & 0x7F
        if not byte & 0x80:
            if value > 0x7FFFFFFF:
                raise structure("base 128 integer too large")
            return value, at
    raise structure("base 128 integer too large")


def _long_length(data: bytes, at: int, count: int) -> tuple[int, int]:
    if count == 0:
        raise syntax("indefinite length found (not DER)")
    length = 0
    for _ in range(count):
        if at >= len(data):
            raise syntax("truncated tag or length")
        if length >= 1 << 23:
            raise structure("length too large")
        length = length << 8 | data[at]
        at += 1
        if length == 0:
            raise structure("superfluous leading zeros in length")
    if length < 0x80:
        raise structure("non-minimal length")
    return length, at


class Reader:
    """Reads values one after the other."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    @property
    def empty(self) -> bool:
        return self.at >= len(self.data)

    def any(self) -> Element:
        """The next value, whatever it is."""
        if self.at >= len(self.data):
            raise syntax("sequence truncated")
        return self._take(_header(self.data, self.at))

    def read(self, tag: int, name: str, *, compound: bool | None = None) -> Element:
        """The next value, which must have this universal tag. `name` is what Go calls the type."""
        if self.empty:
            raise syntax("sequence truncated")
        header = _header(self.data, self.at)
        class_, found_tag, found_compound, length, begin = header
        constructed = tag in (SEQUENCE, SET) if compound is None else compound
        if class_ != 0 or found_tag != tag or found_compound != constructed:
            found = (
                f"{{class:{class_} tag:{found_tag} length:{length} isCompound:{'true' if found_compound else 'false'}}}"
            )
            raise structure(f"tags don't match ({tag} vs {found}) {_PARAMETERS} {name} @{begin}")
        return self._take(header)

    def peek_context(self) -> int | None:
        """The tag of the next value, if it is of the context class."""
        if self.empty:
            return None
        class_, tag, *_ = _header(self.data, self.at)
        return tag if class_ == CONTEXT else None

    def _take(self, header: _Header) -> Element:
        class_, tag, compound, length, begin = header
        end = begin + length
        if end > len(self.data):
            raise syntax("data truncated")
        start, self.at = self.at, end
        return Element(class_, tag, compound, self.data[begin:end], self.data[start:end])

    def __iter__(self) -> Iterator[Element]:
        while self.at < len(self.data):
            yield self._take(_header(self.data, self.at))


def integer(of: Element) -> int:
    """The value of an INTEGER."""
    content = of.content
    if not content:
        raise structure("empty integer")
    if len(content) > 1 and ((content[0] == 0 and not content[1] & 0x80) or (content[0] == 0xFF and content[1] & 0x80)):
        raise structure("integer not minimally-encoded")
    return int.from_bytes(content, "big", signed=True)


def oid(of: Element) -> str:
    """The value of an OBJECT IDENTIFIER, dotted."""
    content = of.content
    if not content:
        raise syntax("zero length OBJECT IDENTIFIER")
    first, at = _base128(content, 0)
    parts = [0, first] if first < 40 else [1, first - 40] if first < 80 else [2, first - 80]
    while at < len(content):
        part, at = _base128(content, at)
        parts.append(part)
    return ".".join(map(str, parts))


def bits(of: Element) -> bytes:
    """The value of a BIT STRING, right-aligned."""
    content = of.content
    if not content:
        raise syntax("zero length BIT STRING")
    padding = content[0]
    if padding > 7 or (len(content) == 1 and padding > 0) or content[-1] & (1 << padding) - 1:
        raise syntax("invalid padding bits in BIT STRING")
    if not padding:
        return content[1:]
    value = int.from_bytes(content[1:], "big") >> padding
    return value.to_bytes(len(content) - 1, "big")


def encode(tag: int, content: bytes) -> bytes:
    """A value with this first byte."""
    size = len(content)
    if size < 0x80:
        return bytes((tag, size)) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(length))) + length + content


# --- strings ------------------------------------------------------------------------------------------------------

_PRINTABLE: Final = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 '()+,-./:=?*&")
_UTF8, _NUMERIC, _PRINTABLE_TAG, _T61, _IA5, _BMP = 12, 18, 19, 20, 22, 30


def text(of: Element) -> str | None:
    """The value of a string of any of the types that names use; None for other types."""
    content = of.content
    if of.class_ != 0:
        return None
    if of.tag == _PRINTABLE_TAG:
        if not _PRINTABLE.issuperset(content):
            raise syntax("PrintableString contains invalid character")
        return content.decode("ascii")
    if of.tag == _NUMERIC:
        if not frozenset(b"0123456789 ").issuperset(content):
            raise syntax("NumericString contains invalid character")
        return content.decode("ascii")
    if of.tag == _IA5:
        if not content.isascii():
            raise syntax("IA5String contains invalid character")
        return content.decode("ascii")
    if of.tag == _T61:
        return content.decode("utf-8", "replace")
    if of.tag == _UTF8:
        try:
            return content.decode("utf-8")
        except UnicodeDecodeError as error:
            raise DERProblem("asn1: invalid UTF-8 string") from error
    if of.tag == _BMP:
        if len(content) % 2:
            raise DERProblem("pkcs12: odd-length BMP string")
        return content.removesuffix(b"\0\0").decode("utf-16-be", "replace")
    return None
