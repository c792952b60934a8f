"""JSON as Go's encoding/json parses it: the same documents are accepted, the others get Go's error texts.

The tree that `parse` returns is lossless: objects are `Pairs` in document order with duplicates, numbers are `Number`
and keep their spelling. Depth is limited as in Go. `parse` does not recurse, so depth costs only memory.

Source: Go `encoding/json/scanner.go`: its states and error contexts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

from certplane.golang import formatting

MAX_DEPTH: Final = 10_000
_END: Final = "unexpected end of JSON input"


class Pairs(list[tuple[str, object]]):
    """A JSON object: its members in document order, duplicates included."""

    __slots__ = ()


class Number(str):
    """A JSON number, in the spelling of the document."""

    __slots__ = ()


class JSONSyntaxError(Exception):
    """Bytes that are not JSON. The text is Go's; `offset` counts bytes from 0."""

    def __init__(self, message: str, offset: int) -> None:
        super().__init__(message)
        self.offset = offset


_SPACE = re.compile(rb"[ \t\r\n]*")
_NUMBER = re.compile(rb"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_PLAIN = re.compile(rb'[^"\\\x00-\x1f]*')
_HEX = re.compile(rb"[0-9a-fA-F]")
_ESCAPES: Final = {
    ord('"'): '"', ord("\\"): "\\", ord("/"): "/", ord("b"): "\b", ord("f"): "\f", ord("n"): "\n", ord("r"): "\r",
    ord("t"): "\t",
}  # fmt: skip
_LITERALS: Final = {ord("t"): (b"true", True), ord("f"): (b"false", False), ord("n"): (b"null", None)}
_REPLACEMENT: Final = "\ufffd"


class _Scanner:
    """Reads the tokens of a document, from a position on."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.offset = 0

    def error(self, context: str) -> JSONSyntaxError:
        if self.offset >= len(self.data):
            return JSONSyntaxError(_END, len(self.data))
        return JSONSyntaxError(f"invalid character {_quote_byte(self.data[self.offset])} {context}", self.offset)

    def peek(self) -> int:
        """The next byte that is not white space; -1 at the end."""
        match = _SPACE.match(self.data, self.offset)
        assert match is not None  # noqa: S101 - the pattern matches the empty string
        self.offset = match.end()
        return self.data[self.offset] if self.offset < len(self.data) else -1

    def read_scalar(self, first: int) -> Any:
        if first == ord('"'):
            self.offset += 1
            return self.read_string()
        if first in _LITERALS:
            return self._read_literal(*_LITERALS[first])
        if first == ord("-") or ord("0") <= first <= ord("9"):
            return self._read_number()
        raise self.error("looking for beginning of value")

    def _read_literal(self, text: bytes, value: object) -> object:
        for expected in text:
            if self.offset >= len(self.data) or self.data[self.offset] != expected:
                raise self.error(f"in literal {text.decode()} (expecting {_quote_byte(expected)})")
            self.offset += 1
        return value

    def _read_number(self) -> Number:
        match = _NUMBER.match(self.data, self.offset)
        start = self.offset
        if match is None:
            self.offset += 1
            raise self.error("in numeric literal")
        self.offset = match.end()
        following = self.data[self.offset : self.offset + 1]
        text = match.group()
        if following == b"." and b"." not in text and b"e" not in text.lower():
            self.offset += 1
            raise self.error("after decimal point in numeric literal")
        if following in (b"e", b"E") and b"e" not in text.lower():
            self.offset += 1
            if self.data[self.offset : self.offset + 1] in (b"+", b"-"):
                self.offset += 1
            raise self.error("in exponent of numeric literal")
        return Number(self.data[start : self.offset].decode("ascii"))

    def read_string(self) -> str:
        """The rest of a string whose opening quote has been read."""
        parts: list[str] = []
        while True:
            match = _PLAIN.match(self.data, self.offset)
            assert match is not None  # noqa: S101 - the pattern matches the empty string
            parts.append(_decode_utf8(match.group()))
            self.offset = match.end()
            if self.offset >= len(self.data):
                raise self.error("")
            char = self.data[self.offset]
            if char == ord('"'):
                self.offset += 1
                return _join(parts)
            if char != ord("\\"):
                raise self.error("in string literal")
            self.offset += 1
            parts.append(self._read_escape())

    def _read_escape(self) -> str:
        if self.offset >= len(self.data):
            raise self.error("")
        char = self.data[self.offset]
        if char in _ESCAPES:
            self.offset += 1
            return _ESCAPES[char]
        if char != ord("u"):
            raise self.error("in string escape code")
        self.offset += 1
        begin = self.offset
        for _ in range(4):
            if not _HEX.match(self.data, self.offset):
                raise self.error("in \\u hexadecimal character escape")
            self.offset += 1
        return chr(int(self.data[begin : self.offset], 16))


def _decode_utf8(raw: bytes) -> str:
    """UTF-8 as Go decodes it: each invalid byte becomes U+FFFD."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        # Python's "replace" makes one U+FFFD of a truncated sequence; Go replaces each byte.
        return raw.decode("utf-8", "surrogateescape").translate(_ESCAPED_BYTES)


_ESCAPED_BYTES: Final = dict.fromkeys(range(0xDC80, 0xDD00), _REPLACEMENT)


def _join(parts: list[str]) -> str:
    text = "".join(parts)
    if text.isascii():
        return text
    # The two escapes of a surrogate pair make one character; a lone surrogate is replaced by U+FFFD.
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace") if _has_surrogate(text) else text


def _has_surrogate(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return True
    return False


def _quote_byte(char: int) -> str:
    """A byte in an error text, as Go prints it: quoted, each byte as one character."""
    if char == ord("'"):
        return r"'\''"
    if char == ord('"'):
        return "'\"'"
    return "'" + formatting.quote(chr(char))[1:-1] + "'"


def parse(data: bytes) -> object:  # noqa: PLR0912 - one branch for each token of the grammar
    """The tree of a document, of `Pairs`, lists, `Number`, str, bool and None. Raises JSONSyntaxError."""
    scanner = _Scanner(data)
    # The open containers, each with its own key in the container around it.
    stack: list[tuple[list[object], str | None]] = []
    key: str | None = None
    while True:
        char = scanner.peek()
        if char in (ord("{"), ord("[")):
            if len(stack) >= MAX_DEPTH:
                raise JSONSyntaxError(f"invalid character {_quote_byte(char)} exceeded max depth", scanner.offset)
            container: list[Any] = Pairs() if char == ord("{") else []
            scanner.offset += 1
            stack.append((container, key))
            if scanner.peek() == (ord("}") if char == ord("{") else ord("]")):
                result, key = _close(stack, scanner)
            else:
                key = _read_key(scanner) if char == ord("{") else None
                continue
        else:
            result = scanner.read_scalar(char)
        while stack:
            container = stack[-1][0]
            if isinstance(container, Pairs):
                assert key is not None  # noqa: S101 - members have keys
                container.append((key, result))
                more, end, context = ord(","), ord("}"), "after object key:value pair"
            else:
                container.append(result)
                more, end, context = ord(","), ord("]"), "after array element"
            char = scanner.peek()
            if char == more:
                scanner.offset += 1
                key = _read_next_key(scanner) if isinstance(container, Pairs) else None
                break
            if char != end:
                raise scanner.error(context)
            result, key = _close(stack, scanner)
        else:
            if scanner.peek() != -1:
                raise scanner.error("after top-level value")
            return result


def _close(stack: list[tuple[list[object], str | None]], scanner: _Scanner) -> tuple[list[object], str | None]:
    scanner.offset += 1
    return stack.pop()


def _read_next_key(scanner: _Scanner) -> str:
    scanner.peek()
    return _read_key(scanner)


def _read_key(scanner: _Scanner) -> str:
    if scanner.peek() != ord('"'):
        raise scanner.error("looking for beginning of object key string")
    scanner.offset += 1
    key = scanner.read_string()
    if scanner.peek() != ord(":"):
        raise scanner.error("after object key")
    scanner.offset += 1
    return key


def to_builtins(tree: object, *, numbers: bool = True) -> object:
    """A tree as builtins. The last of duplicate members wins. Numbers become int or float, or str if not `numbers`."""
    root: list[object] = [None]
    pending: list[tuple[Any, Any, Any]] = [(root, 0, tree)]
    while pending:
        container, key, value = pending.pop()
        if isinstance(value, Pairs):
            converted: Any = dict(value)
            pending.extend((converted, name, item) for name, item in converted.items())
        elif isinstance(value, list):
            converted = [None] * len(value)
            pending.extend((converted, index, item) for index, item in enumerate(value))
        elif isinstance(value, Number):
            converted = parse_number(value) if numbers else str(value)
        else:
            converted = value
        container[key] = converted
    return root[0]


def parse_number(text: Number) -> int | float:
    """The value of a number: an int if written without fraction and exponent, else a float."""
    return int(text) if text.lstrip("-").isdigit() and len(text) < 4000 else float(text)


def is_deeper_than(tree: object, limit: int) -> bool:
    """Whether a tree, or builtins, are nested deeper than `limit`. For callers whose own code recurses."""
    pending = [(tree, 0)]
    while pending:
        value, depth = pending.pop()
        if isinstance(value, dict | list):
            if depth >= limit:
                return True
            items = value.values() if isinstance(value, dict) else value
            if isinstance(value, Pairs):
                items = [item for _, item in value]
            pending.extend((item, depth + 1) for item in items if isinstance(item, dict | list))
    return False


def find_duplicates(tree: object, prefix: str = "") -> Iterator[str]:
    """The duplicate members of a document, in its order, as strict decoding reports them: `duplicate field "a.b[0].c"`.
    `prefix` is the path of the tree itself.
    """
    # Paths are joined only for duplicates: in deeply nested documents each is as long as the document.
    path, pending = [prefix], [_members(tree)]
    while pending:
        member = next(pending[-1], None)
        if member is None:
            pending.pop()
            path.pop()
            continue
        step, value, is_duplicate = member
        if is_duplicate:
            field = "".join((*path, step))
            yield f'duplicate field "{field if prefix else field.removeprefix(".")}"'
        path.append(step)
        pending.append(_members(value))


def _members(value: object) -> Iterator[tuple[str, Any, bool]]:
    """The members of an object or a list: the path step to each, its value, and whether its name is a duplicate."""
    seen: set[str] = set()
    if isinstance(value, Pairs):
        for key, item in value:
            yield f".{key}", item, key in seen
            seen.add(key)
    elif isinstance(value, list):
        yield from ((f"[{index}]", item, False) for index, item in enumerate(value))


def sort_members(tree: object) -> object:
    """A tree without duplicates and with the members of its objects sorted, as Go encodes its maps."""
    if isinstance(tree, Pairs):
        return Pairs((key, sort_members(item)) for key, item in sorted(dict(tree).items()))
    return [sort_members(item) for item in tree] if isinstance(tree, list) else tree


def encode(tree: object) -> str:
    """A tree as compact JSON, as Go encodes it. The order of members and the spelling of numbers are kept."""
    if isinstance(tree, Pairs):
        return "{" + ",".join(f"{formatting.marshal_json(key)}:{encode(item)}" for key, item in tree) + "}"
    if isinstance(tree, list):
        return "[" + ",".join(map(encode, tree)) + "]"
    return str(tree) if isinstance(tree, Number) else formatting.marshal_json(tree)
