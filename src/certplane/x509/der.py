"""A small reader of DER, with the complaints of Go's encoding/asn1.

It exists because those complaints are part of the Kubernetes API (`spec.request: Invalid value: ...: asn1: ...`), and
because what to make of an odd request must not depend on the mood of a library. Source: ITU-T X.690; Go
`encoding/asn1`.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from certplane import boundedcache

SEQUENCE: Final = 16
SET: Final = 17
BOOLEAN: Final = 1
INTEGER: Final = 2
BIT_STRING: Final = 3
OCTET_STRING: Final = 4
NULL: Final = 5
OID: Final = 6
CONTEXT: Final = 2
#: Values of one list: attributes, extensions, names. A public authority puts a hundred names into a certificate.
MOST_VALUES: Final = 2000
#: The tag in the first byte of those whose tag has bytes of its own.
LONG_TAG: Final = 0x1F

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
    tag = first & LONG_TAG
    if tag != LONG_TAG and at < len(data) and data[at] < 0x80:
        return first >> 6, tag, bool(first & 0x20), data[at], at + 1
    if tag == LONG_TAG:
        tag, at = _base128(data, at)
        if tag < LONG_TAG:
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


class _Cursor:
    """A place among values that follow each other."""

    __slots__ = ("at", "data")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    @property
    def empty(self) -> bool:
        return self.at >= len(self.data)

    def _take(self, header: _Header) -> Element:
        class_, tag, compound, length, begin = header
        end = begin + length
        if end > len(self.data):
            raise syntax("data truncated")
        start, self.at = self.at, end
        return Element(class_, tag, compound, self.data[begin:end], self.data[start:end])


class Reader(_Cursor):
    """Reads values one after the other."""

    __slots__ = ()

    def any(self) -> Element:
        """The next value, whatever it is."""
        if self.at >= len(self.data):
            raise syntax("sequence truncated")
        return self._take(_header(self.data, self.at))

    def read(self, tag: int, name: str, *, compound: bool | None = None) -> Element:
        """The next value, which must have this universal tag. `name` is what Go calls the type."""
        return self._expect((0, tag, tag in (SEQUENCE, SET) if compound is None else compound), _PARAMETERS, name)

    def read_context(self, tag: int) -> Element:
        """The next value, which must be constructed and have this tag of the context class."""
        # Go prints the address of the tag here.
        return self._expect((CONTEXT, tag, True), "", "")

    def _expect(self, kind: tuple[int, int, bool], parameters: str, name: str) -> Element:
        if self.empty:
            raise syntax("sequence truncated")
        header = _header(self.data, self.at)
        if header[:3] != kind:
            class_, tag, compound, length, begin = header
            found = f"{{class:{class_} tag:{tag} length:{length} isCompound:{'true' if compound else 'false'}}}"
            raise structure(f"tags don't match ({kind[1]} vs {found}) {parameters} {name} @{begin}")
        return self._take(header)

    def next_is(self, tag: int) -> bool:
        """Whether there is a next value, and it has this universal tag and is primitive: for what is optional."""
        return not self.empty and _header(self.data, self.at)[:3] == (0, tag, False)

    def peek_context(self) -> int | None:
        """The tag of the next value, if it is of the context class."""
        if self.empty:
            return None
        class_, tag, *_ = _header(self.data, self.at)
        return tag if class_ == CONTEXT else None

    def sequence(self, tag: int | None = None) -> list[Element]:
        """All that is left, which must be of this universal tag and constructed, if one is given, and no more than
        MOST_VALUES. All headers are judged before anything is read of the contents.
        """
        found: list[Element] = []
        size = len(self.data)
        while self.at < size:
            if len(found) == MOST_VALUES:
                raise structure(f"more than {MOST_VALUES} values")
            header = _header(self.data, self.at)
            if tag is not None and header[:3] != (0, tag, True):
                raise structure("sequence tag mismatch")
            if header[3] + header[4] > size:
                raise syntax("truncated sequence")
            found.append(self._take(header))
        return found

    def __iter__(self) -> Iterator[Element]:
        while self.at < len(self.data):
            yield self._take(_header(self.data, self.at))


class StrictReader(_Cursor):
    """Reads values by their first byte, which leaves no room for tags of several bytes: how Go's crypto/x509 reads
    certificates, alternative names and keys. It says of what is wrong only that it is: whoever reads has the words.
    """

    __slots__ = ()

    def next_is(self, first: int) -> bool:
        """Whether there is a next value, and it begins with this byte."""
        return self.at < len(self.data) and self.data[self.at] == first

    def any(self) -> Element:
        """The next value, whatever it is."""
        if self.at >= len(self.data):
            raise syntax("sequence truncated")
        if self.data[self.at] & LONG_TAG == LONG_TAG:
            raise structure("a tag of several bytes")
        return self._take(_header(self.data, self.at))

    def read(self, first: int) -> Element:
        """The next value, which must begin with this byte."""
        if not self.next_is(first):
            raise structure("tags don't match")
        return self.any()

    def inside(self, first: int = 0x30) -> StrictReader:
        """A reader of what the next value holds, which must begin with this byte."""
        return StrictReader(self.read(first).content)


def integer(of: Element) -> int:
    """The value of an INTEGER."""
    content = of.content
    if not content:
        raise structure("empty integer")
    if len(content) > 1 and ((content[0] == 0 and not content[1] & 0x80) or (content[0] == 0xFF and content[1] & 0x80)):
        raise structure("integer not minimally-encoded")
    return int.from_bytes(content, "big", signed=True)


def small_integer(of: Element) -> int:
    """The value of an INTEGER that has to fit into 64 bits."""
    value = integer(of)
    if len(of.content) > 8:
        raise structure("integer too large")
    return value


def boolean(of: Element) -> bool:
    """The value of a BOOLEAN."""
    if of.content not in (b"\x00", b"\xff"):
        raise syntax("invalid boolean")
    return of.content == b"\xff"


def oid(of: Element) -> str:
    """The value of an OBJECT IDENTIFIER, dotted."""
    return _dotted(of.content)


#: Arcs of an object identifier: RFC 2578 section 3.5. None in use has twenty.
_MOST_ARCS: Final = 128


@boundedcache.remember()
def _dotted(content: bytes) -> str:
    if not content:
        raise syntax("zero length OBJECT IDENTIFIER")
    first, at = _base128(content, 0)
    parts = [0, first] if first < 40 else [1, first - 40] if first < 80 else [2, first - 80]
    while at < len(content):
        if len(parts) == _MOST_ARCS:
            raise structure(f"OBJECT IDENTIFIER has more than {_MOST_ARCS} arcs")
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


def algorithm(reader: Reader) -> tuple[str, bytes]:
    """An AlgorithmIdentifier: its OID, and its parameters as they stand."""
    parts = Reader(reader.read(SEQUENCE, "AlgorithmIdentifier").content)
    name = oid(parts.read(OID, "ObjectIdentifier"))
    return name, b"" if parts.empty else parts.any().raw


def encode(tag: int, content: bytes) -> bytes:
    """A value with this first byte."""
    size = len(content)
    if size < 0x80:
        return bytes((tag, size)) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(length))) + length + content


# --- values of names ----------------------------------------------------------------------------------------------

_UTF8, _NUMERIC, _PRINTABLE, _T61, _IA5, _UTC_TIME, _GENERALIZED_TIME, _BMP = 12, 18, 19, 20, 22, 23, 24, 30
_PRINTABLE_CHARS: Final = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 '()+,-./:=?*&")
_NUMERIC_CHARS: Final = frozenset(b"0123456789 ")
_TIMES: Final = {
    _UTC_TIME: re.compile(rb"(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)?(Z|[+-](\d\d)(\d\d))"),
    _GENERALIZED_TIME: re.compile(rb"(\d{4})(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)(?:\.\d{0,8}[1-9])?(Z|[+-](\d\d)(\d\d))"),
}


def text(of: Element) -> str | None:
    """The value of a string of any of the types that names use; None for other types, which have to be well-formed
    nevertheless.
    """
    if of.class_ != 0 or of.compound:
        return None
    read = _STRINGS.get(of.tag)
    if read is not None:
        return read(of.content)
    check = _OTHERS.get(of.tag)
    if check is not None:
        check(of)
    return None


def _printable(content: bytes) -> str:
    if not _PRINTABLE_CHARS.issuperset(content):
        raise syntax("PrintableString contains invalid character")
    return content.decode("ascii")


def _numeric(content: bytes) -> str:
    if not _NUMERIC_CHARS.issuperset(content):
        raise syntax("NumericString contains invalid character")
    return content.decode("ascii")


def _ia5(content: bytes) -> str:
    if not content.isascii():
        raise syntax("IA5String contains invalid character")
    return content.decode("ascii")


def _utf8(content: bytes) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DERProblem("asn1: invalid UTF-8 string") from error


def _bmp(content: bytes) -> str:
    """UCS-2: without surrogates, and without what is no character for good."""
    if len(content) % 2:
        raise DERProblem("invalid BMPString")
    try:
        value = content.removesuffix(b"\0\0").decode("utf-16-be")
    except UnicodeDecodeError as error:
        raise DERProblem("invalid BMPString") from error
    if any(char >= "\ufffe" or "\ufdd0" <= char <= "\ufdef" for char in value):
        raise DERProblem("invalid BMPString")
    return value


def _check_time(of: Element) -> None:
    found = _TIMES[of.tag].fullmatch(of.content)
    if found is None or not _is_moment(*found.groups(b"0")):
        raise DERProblem("asn1: time did not serialize back to the original value and may be invalid")


def _is_moment(year: bytes, *rest: bytes) -> bool:
    *numbers, zone, ahead, minutes_ahead = rest
    # Of two digits those from 69 are of the century before, as in POSIX.
    century = 0 if len(year) == 4 else 1900 if year >= b"69" else 2000
    try:
        datetime.datetime(century + int(year), *map(int, numbers), tzinfo=datetime.UTC)  # type: ignore[arg-type, misc]  # five numbers
    except ValueError:
        return False
    # A zone of no distance is written as Z.
    return zone == b"Z" or (int(ahead) <= 24 and int(minutes_ahead) < 60 and zone[1:] != b"0000")


#: Latin-1 is what the world writes into the 8 bits of a T61String.
_STRINGS: Final[dict[int, Callable[[bytes], str]]] = {
    _UTF8: _utf8,
    _NUMERIC: _numeric,
    _PRINTABLE: _printable,
    _T61: lambda content: content.decode("latin-1"),
    _IA5: _ia5,
    _BMP: _bmp,
}
_OTHERS: Final[dict[int, Callable[[Element], object]]] = {
    BOOLEAN: boolean,
    INTEGER: small_integer,
    BIT_STRING: bits,
    OID: oid,
    _UTC_TIME: _check_time,
    _GENERALIZED_TIME: _check_time,
}
