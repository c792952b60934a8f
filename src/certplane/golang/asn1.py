"""A DER reader with the errors of Go's encoding/asn1.

The errors are part of the Kubernetes API (`spec.request: Invalid value: ...: asn1: ...`), and the treatment of unusual
requests must not depend on the version of a library. Source: ITU-T X.690; Go `encoding/asn1`.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from certplane import boundedcache
from certplane.golang import dertags

TAG_SEQUENCE: Final = 16
TAG_SET: Final = 17
TAG_BOOLEAN: Final = 1
TAG_INTEGER: Final = 2
TAG_BIT_STRING: Final = 3
TAG_OCTET_STRING: Final = 4
TAG_OID: Final = 6
CLASS_CONTEXT: Final = 2
#: Limit of the values in one list: attributes, extensions, names. Public CAs allow a hundred names in a certificate.
MAX_VALUES: Final = 2000
#: The tag bits of a first byte after which the tag number follows in bytes of its own.
LONG_TAG: Final = 0x1F

#: How Go prints the default of its field parameters in errors.
_PARAMETERS: Final = (
    "{optional:false explicit:false application:false private:false defaultValue:<nil> tag:<nil> "
    "stringType:0 timeType:0 set:false omitEmpty:false}"
)


class DERError(ValueError):
    """Bytes that are not DER, or not of the expected type. The text is Go's."""


def syntax_error(text: str) -> DERError:
    return DERError(f"asn1: syntax error: {text}")


def structural_error(text: str) -> DERError:
    return DERError(f"asn1: structure error: {text}")


class Element(NamedTuple):
    """One value: class (0 universal, 2 context-specific), tag number, whether it is constructed, content, and the whole
    encoding.

    A NamedTuple is created three times as fast as a frozen dataclass, and a request needs dozens of them.
    """

    class_: int
    tag: int
    compound: bool
    content: bytes
    raw: bytes


#: Class, tag number, whether the value is constructed, and length and offset of its content. A plain tuple for speed.
_Header = tuple[int, int, bool, int, int]


def _read_header(data: bytes, offset: int) -> _Header:
    first = data[offset]
    offset += 1
    tag = first & LONG_TAG
    if tag != LONG_TAG and offset < len(data) and data[offset] < 0x80:
        return first >> 6, tag, bool(first & 0x20), data[offset], offset + 1
    if tag == LONG_TAG:
        tag, offset = _read_base128(data, offset)
        if tag < LONG_TAG:
            raise syntax_error("non-minimal tag")
    if offset >= len(data):
        raise syntax_error("truncated tag or length")
    length = data[offset]
    offset += 1
    if length & 0x80:
        length, offset = _read_long_length(data, offset, length & 0x7F)
    return first >> 6, tag, bool(first & 0x20), length, offset


def _read_base128(data: bytes, offset: int) -> tuple[int, int]:
    value = 0
    for count in range(5):
        if offset >= len(data):
            raise syntax_error("truncated base 128 integer")
        byte = data[offset]
        offset += 1
        if count == 0 and byte == 0x80:
            raise syntax_error("integer is not minimally encoded")
        value = value << 7 | byte & 0x7F
        if not byte & 0x80:
            if value > 0x7FFFFFFF:
                raise structural_error("base 128 integer too large")
            return value, offset
    raise structural_error("base 128 integer too large")


def _read_long_length(data: bytes, offset: int, count: int) -> tuple[int, int]:
    if count == 0:
        raise syntax_error("indefinite length found (not DER)")
    length = 0
    for _ in range(count):
        if offset >= len(data):
            raise syntax_error("truncated tag or length")
        if length >= 1 << 23:
            raise structural_error("length too large")
        length = length << 8 | data[offset]
        offset += 1
        if length == 0:
            raise structural_error("superfluous leading zeros in length")
    if length < 0x80:
        raise structural_error("non-minimal length")
    return length, offset


class _Cursor:
    """A position in a series of values."""

    __slots__ = ("data", "offset")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.offset = 0

    @property
    def empty(self) -> bool:
        return self.offset >= len(self.data)

    def _take(self, header: _Header) -> Element:
        class_, tag, compound, length, begin = header
        end = begin + length
        if end > len(self.data):
            raise syntax_error("data truncated")
        start, self.offset = self.offset, end
        return Element(class_, tag, compound, self.data[begin:end], self.data[start:end])


class Reader(_Cursor):
    """Reads values one after the other, with the errors of Go's encoding/asn1."""

    __slots__ = ()

    def read_any(self) -> Element:
        """The next value, of any type. Raises DERError."""
        if self.offset >= len(self.data):
            raise syntax_error("sequence truncated")
        return self._take(_read_header(self.data, self.offset))

    def read(self, tag: int, name: str, *, compound: bool | None = None) -> Element:
        """The next value, which must have this universal tag. `name` is Go's name of the type, for the error. Raises
        DERError.
        """
        return self._read_expected(
            (0, tag, tag in (TAG_SEQUENCE, TAG_SET) if compound is None else compound), _PARAMETERS, name
        )

    def read_context(self, tag: int) -> Element:
        """The next value, which must be constructed and have this context-specific tag. Raises DERError."""
        # Go prints the address of the tag here, which cannot be reproduced.
        return self._read_expected((CLASS_CONTEXT, tag, True), "", "")

    def _read_expected(self, kind: tuple[int, int, bool], parameters: str, name: str) -> Element:
        if self.empty:
            raise syntax_error("sequence truncated")
        header = _read_header(self.data, self.offset)
        if header[:3] != kind:
            class_, tag, compound, length, begin = header
            actual = f"{{class:{class_} tag:{tag} length:{length} isCompound:{'true' if compound else 'false'}}}"
            raise structural_error(f"tags don't match ({kind[1]} vs {actual}) {parameters} {name} @{begin}")
        return self._take(header)

    def next_is(self, tag: int) -> bool:
        """Whether there is a next value, and it is primitive and has this universal tag. For optional fields."""
        return not self.empty and _read_header(self.data, self.offset)[:3] == (0, tag, False)

    def peek_context(self) -> int | None:
        """The tag number of the next value if that is context-specific; else None."""
        if self.empty:
            return None
        class_, tag, *_ = _read_header(self.data, self.offset)
        return tag if class_ == CLASS_CONTEXT else None

    def read_all(self, tag: int | None = None) -> list[Element]:
        """The remaining values, at most MAX_VALUES. If a universal tag is given, all must be constructed and have it.
        As in Go, all headers are checked before any content is decoded. Raises DERError.
        """
        elements: list[Element] = []
        size = len(self.data)
        while self.offset < size:
            if len(elements) == MAX_VALUES:
                raise structural_error(f"more than {MAX_VALUES} values")
            header = _read_header(self.data, self.offset)
            if tag is not None and header[:3] != (0, tag, True):
                raise structural_error("sequence tag mismatch")
            if header[3] + header[4] > size:
                raise syntax_error("truncated sequence")
            elements.append(self._take(header))
        return elements

    def __iter__(self) -> Iterator[Element]:
        while self.offset < len(self.data):
            yield self._take(_read_header(self.data, self.offset))


class StrictReader(_Cursor):
    """Reads values by their identifier octet (see `dertags`), so tag numbers of several bytes are refused: the
    `cryptobyte` reader, with which Go's crypto/x509 parses certificates, alternative names and keys. Its errors have no
    details; callers replace the text.
    """

    __slots__ = ()

    def next_is(self, tag: int) -> bool:
        """Whether there is a next value, and it has this identifier octet."""
        return self.offset < len(self.data) and self.data[self.offset] == tag

    def read_any(self) -> Element:
        """The next value, of any type. Raises DERError."""
        if self.offset >= len(self.data):
            raise syntax_error("sequence truncated")
        if self.data[self.offset] & LONG_TAG == LONG_TAG:
            raise structural_error("a tag of several bytes")
        return self._take(_read_header(self.data, self.offset))

    def read(self, tag: int) -> Element:
        """The next value, which must have this identifier octet. Raises DERError."""
        if not self.next_is(tag):
            raise structural_error("tags don't match")
        return self.read_any()

    def read_child(self, tag: int = dertags.SEQUENCE) -> StrictReader:
        """A reader of the content of the next value, which must have this identifier octet. Raises DERError."""
        return StrictReader(self.read(tag).content)


def decode_integer(element: Element) -> int:
    """The value of an INTEGER of any size. Raises DERError."""
    content = element.content
    if not content:
        raise structural_error("empty integer")
    if len(content) > 1 and ((content[0] == 0 and not content[1] & 0x80) or (content[0] == 0xFF and content[1] & 0x80)):
        raise structural_error("integer not minimally-encoded")
    return int.from_bytes(content, "big", signed=True)


def decode_int64(element: Element) -> int:
    """The value of an INTEGER of at most 64 bits. Raises DERError."""
    value = decode_integer(element)
    if len(element.content) > 8:
        raise structural_error("integer too large")
    return value


def decode_boolean(element: Element) -> bool:
    """The value of a BOOLEAN. Raises DERError."""
    if element.content not in (b"\x00", b"\xff"):
        raise syntax_error("invalid boolean")
    return element.content == b"\xff"


def decode_oid(element: Element) -> str:
    """The value of an OBJECT IDENTIFIER, in dotted form. Raises DERError."""
    return _decode_oid(element.content)


#: Limit of the arcs of an object identifier: RFC 2578 section 3.5. No OID in use has more than twenty.
_MAX_ARCS: Final = 128


@boundedcache.memoize()
def _decode_oid(content: bytes) -> str:
    if not content:
        raise syntax_error("zero length OBJECT IDENTIFIER")
    first, offset = _read_base128(content, 0)
    parts = [0, first] if first < 40 else [1, first - 40] if first < 80 else [2, first - 80]
    while offset < len(content):
        if len(parts) == _MAX_ARCS:
            raise structural_error(f"OBJECT IDENTIFIER has more than {_MAX_ARCS} arcs")
        part, offset = _read_base128(content, offset)
        parts.append(part)
    return ".".join(map(str, parts))


def decode_bit_string(element: Element) -> bytes:
    """The value of a BIT STRING, right-aligned. Raises DERError."""
    content = element.content
    if not content:
        raise syntax_error("zero length BIT STRING")
    padding = content[0]
    if padding > 7 or (len(content) == 1 and padding > 0) or content[-1] & (1 << padding) - 1:
        raise syntax_error("invalid padding bits in BIT STRING")
    if not padding:
        return content[1:]
    value = int.from_bytes(content[1:], "big") >> padding
    return value.to_bytes(len(content) - 1, "big")


def read_algorithm(reader: Reader) -> tuple[str, bytes]:
    """The OID of an AlgorithmIdentifier, and the encoding of its parameters, empty if it has none. Raises DERError."""
    fields = Reader(reader.read(TAG_SEQUENCE, "AlgorithmIdentifier").content)
    oid = decode_oid(fields.read(TAG_OID, "ObjectIdentifier"))
    return oid, b"" if fields.empty else fields.read_any().raw


def encode(tag: int, content: bytes) -> bytes:
    """A value with this identifier octet (see `dertags`)."""
    length = len(content)
    if length < 0x80:
        return bytes((tag, length)) + content
    encoded = length.to_bytes((length.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(encoded))) + encoded + content


# --- attribute values in names ------------------------------------------------------------------------------------

_UTF8, _NUMERIC, _PRINTABLE, _T61, _IA5, _UTC_TIME, _GENERALIZED_TIME, _BMP = 12, 18, 19, 20, 22, 23, 24, 30
_PRINTABLE_CHARS: Final = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 '()+,-./:=?*&")
_NUMERIC_CHARS: Final = frozenset(b"0123456789 ")
_TIMES: Final = {
    _UTC_TIME: re.compile(rb"(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)?(Z|[+-](\d\d)(\d\d))"),
    _GENERALIZED_TIME: re.compile(rb"(\d{4})(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)(?:\.\d{0,8}[1-9])?(Z|[+-](\d\d)(\d\d))"),
}


def decode_string(element: Element) -> str | None:
    """The text of a value of one of the string types that names use; None for other types. Values of other types that
    Go knows must be well-formed too. Raises DERError.
    """
    if element.class_ != 0 or element.compound:
        return None
    decode = _STRINGS.get(element.tag)
    if decode is not None:
        return decode(element.content)
    check = _CHECKS.get(element.tag)
    if check is not None:
        check(element)
    return None


def _decode_printable(content: bytes) -> str:
    if not _PRINTABLE_CHARS.issuperset(content):
        raise syntax_error("PrintableString contains invalid character")
    return content.decode("ascii")


def _decode_numeric(content: bytes) -> str:
    if not _NUMERIC_CHARS.issuperset(content):
        raise syntax_error("NumericString contains invalid character")
    return content.decode("ascii")


def _decode_ia5(content: bytes) -> str:
    if not content.isascii():
        raise syntax_error("IA5String contains invalid character")
    return content.decode("ascii")


def _decode_utf8(content: bytes) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DERError("asn1: invalid UTF-8 string") from error


def _decode_bmp(content: bytes) -> str:
    """UCS-2: surrogates and code points that are permanently unassigned (noncharacters) are refused."""
    if len(content) % 2:
        raise DERError("invalid BMPString")
    try:
        value = content.removesuffix(b"\0\0").decode("utf-16-be")
    except UnicodeDecodeError as error:
        raise DERError("invalid BMPString") from error
    if any(char >= "\ufffe" or "\ufdd0" <= char <= "\ufdef" for char in value):
        raise DERError("invalid BMPString")
    return value


def _check_time(element: Element) -> None:
    match = _TIMES[element.tag].fullmatch(element.content)
    if match is None or not _is_valid_time(*match.groups(b"0")):
        raise DERError("asn1: time did not serialize back to the original value and may be invalid")


def _is_valid_time(year: bytes, *rest: bytes) -> bool:
    *numbers, zone, zone_hours, zone_minutes = rest
    # As in POSIX, two-digit years from 69 on belong to the 20th century.
    century = 0 if len(year) == 4 else 1900 if year >= b"69" else 2000
    try:
        datetime.datetime(century + int(year), *map(int, numbers), tzinfo=datetime.UTC)  # type: ignore[arg-type, misc]  # five numbers
    except ValueError:
        return False
    # The zone +0000 must be written as Z.
    return zone == b"Z" or (int(zone_hours) <= 24 and int(zone_minutes) < 60 and zone[1:] != b"0000")


#: By tag number. T61String is read as Latin-1, as most implementations write it.
_STRINGS: Final[dict[int, Callable[[bytes], str]]] = {
    _UTF8: _decode_utf8,
    _NUMERIC: _decode_numeric,
    _PRINTABLE: _decode_printable,
    _T61: lambda content: content.decode("latin-1"),
    _IA5: _decode_ia5,
    _BMP: _decode_bmp,
}
_CHECKS: Final[dict[int, Callable[[Element], object]]] = {
    TAG_BOOLEAN: decode_boolean,
    TAG_INTEGER: decode_int64,
    TAG_BIT_STRING: decode_bit_string,
    TAG_OID: decode_oid,
    _UTC_TIME: _check_time,
    _GENERALIZED_TIME: _check_time,
}
