"""JSON as Go's encoding/json reads it: the same documents accepted, the same words for the others.

The tree that `parse` returns keeps what a plain reading loses: objects are `Pairs` in document order with duplicates,
numbers are `Number`, their own spelling. Depth is limited as in Go; nothing here recurses, so depth costs memory only.

Source: Go `encoding/json/scanner.go`, whose states and error contexts this follows.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

from certplane import errors, gotext

MAX_DEPTH: Final = 10_000
_END: Final = "unexpected end of JSON input"


class Pairs(list[tuple[str, Any]]):
    """A JSON object: its members in document order, duplicates included."""

    __slots__ = ()


class Number(str):
    """A JSON number, as it was written."""

    __slots__ = ()


class SyntaxProblem(errors.CertplaneError):
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
    """A position in a document, and the tokens from there on."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def problem(self, context: str) -> SyntaxProblem:
        if self.at >= len(self.data):
            return SyntaxProblem(_END, len(self.data))
        return SyntaxProblem(f"invalid character {_quoted(self.data[self.at])} {context}", self.at)

    def peek(self) -> int:
        """The next byte that is not white space; -1 at the end."""
        match = _SPACE.match(self.data, self.at)
        assert match is not None  # noqa: S101 - the pattern matches the empty string
        self.at = match.end()
        return self.data[self.at] if self.at < len(self.data) else -1

    def scalar(self, first: int) -> Any:
        if first == ord('"'):
            self.at += 1
            return self.string()
        if first in _LITERALS:
            return self._literal(*_LITERALS[first])
        if first == ord("-") or ord("0") <= first <= ord("9"):
            return self._number()
        raise self.problem("looking for beginning of value")

    def _literal(self, text: bytes, value: Any) -> Any:
        for wanted in text:
            if self.at >= len(self.data) or self.data[self.at] != wanted:
                raise self.problem(f"in literal {text.decode()} (expecting {_quoted(wanted)})")
            self.at += 1
        return value

    def _number(self) -> Number:
        match = _NUMBER.match(self.data, self.at)
        start = self.at
        if match is None:
            self.at += 1
            raise self.problem("in numeric literal")
        self.at = match.end()
        following = self.data[self.at : self.at + 1]
        text = match.group()
        if following == b"." and b"." not in text and b"e" not in text.lower():
            self.at += 1
            raise self.problem("after decimal point in numeric literal")
        if following in (b"e", b"E") and b"e" not in text.lower():
            self.at += 1
            if self.data[self.at : self.at + 1] in (b"+", b"-"):
                self.at += 1
            raise self.problem("in exponent of numeric literal")
        return Number(self.data[start : self.at].decode("ascii"))

    def string(self) -> str:
        """The rest of a string whose opening quote has been read."""
        parts: list[str] = []
        while True:
            match = _PLAIN.match(self.data, self.at)
            assert match is not None  # noqa: S101 - the pattern matches the empty string
            parts.append(_text(match.group()))
            self.at = match.end()
            if self.at >= len(self.data):
                raise self.problem("")
            char = self.data[self.at]
            if char == ord('"'):
                self.at += 1
                return _joined(parts)
            if char != ord("\\"):
                raise self.problem("in string literal")
            self.at += 1
            parts.append(self._escape())

    def _escape(self) -> str:
        if self.at >= len(self.data):
            raise self.problem("")
        char = self.data[self.at]
        if char in _ESCAPES:
            self.at += 1
            return _ESCAPES[char]
        if char != ord("u"):
            raise self.problem("in string escape code")
        self.at += 1
        begin = self.at
        for _ in range(4):
            if not _HEX.match(self.data, self.at):
                raise self.problem("in \\u hexadecimal character escape")
            self.at += 1
        return chr(int(self.data[begin : self.at], 16))


def _text(raw: bytes) -> str:
    """UTF-8 as Go decodes it: each byte that fits nowhere becomes U+FFFD."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        # Python folds a truncated sequence into one replacement, Go replaces byte by byte.
        return raw.decode("utf-8", "surrogateescape").translate(_ESCAPED_BYTES)


_ESCAPED_BYTES: Final = dict.fromkeys(range(0xDC80, 0xDD00), _REPLACEMENT)


def _joined(parts: list[str]) -> str:
    text = "".join(parts)
    if text.isascii():
        return text
    # Halves of a surrogate pair that were escaped one by one belong together; a lone half is replaced.
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace") if _has_surrogate(text) else text


def _has_surrogate(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return True
    return False


def _quoted(char: int) -> str:
    """Go's rendering of a byte in an error: quoted, as if it were a character of its own."""
    if char == ord("'"):
        return r"'\''"
    if char == ord('"'):
        return "'\"'"
    return "'" + gotext.quote(chr(char))[1:-1] + "'"


def parse(data: bytes) -> Any:  # noqa: PLR0912 - one branch for each token of the grammar
    """The tree of a document. Raises SyntaxProblem."""
    scanner = _Scanner(data)
    # What is open: each container, with the key that its next value will have.
    stack: list[tuple[list[Any], str | None]] = []
    key: str | None = None
    while True:
        char = scanner.peek()
        if char in (ord("{"), ord("[")):
            if len(stack) >= MAX_DEPTH:
                raise SyntaxProblem(f"invalid character {_quoted(char)} exceeded max depth", scanner.at)
            container: list[Any] = Pairs() if char == ord("{") else []
            scanner.at += 1
            stack.append((container, key))
            if scanner.peek() == (ord("}") if char == ord("{") else ord("]")):
                value = _close(stack, scanner)
                key = value[1]
                result = value[0]
            else:
                key = _key(scanner) if char == ord("{") else None
                continue
        else:
            result = scanner.scalar(char)
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
                scanner.at += 1
                key = _next_key(scanner) if isinstance(container, Pairs) else None
                break
            if char != end:
                raise scanner.problem(context)
            result, key = _close(stack, scanner)
        else:
            if scanner.peek() != -1:
                raise scanner.problem("after top-level value")
            return result


def _close(stack: list[tuple[list[Any], str | None]], scanner: _Scanner) -> tuple[list[Any], str | None]:
    scanner.at += 1
    return stack.pop()


def _next_key(scanner: _Scanner) -> str:
    scanner.peek()
    return _key(scanner)


def _key(scanner: _Scanner) -> str:
    if scanner.peek() != ord('"'):
        raise scanner.problem("looking for beginning of object key string")
    scanner.at += 1
    key = scanner.string()
    if scanner.peek() != ord(":"):
        raise scanner.problem("after object key")
    scanner.at += 1
    return key


def plain(tree: Any, *, numbers: bool = True) -> Any:
    """Builtins from a tree: of duplicates the last one counts; numbers become int or float unless kept as text."""
    result: list[Any] = [None]
    todo: list[tuple[Any, Any, Any]] = [(result, 0, tree)]
    while todo:
        into, where, value = todo.pop()
        if isinstance(value, Pairs):
            made: Any = dict(value)
            todo.extend((made, key, item) for key, item in made.items())
        elif isinstance(value, list):
            made = [None] * len(value)
            todo.extend((made, position, item) for position, item in enumerate(value))
        elif isinstance(value, Number):
            made = number(value) if numbers else str(value)
        else:
            made = value
        into[where] = made
    return result[0]


def number(text: Number) -> int | float:
    """The value of a number: an int if it is written as one."""
    return int(text) if text.lstrip("-").isdigit() and len(text) < 4000 else float(text)


def deeper_than(tree: Any, limit: int) -> bool:
    """Whether a tree, or builtins, are nested deeper than that: more than code that recurses can bear."""
    todo = [(tree, 0)]
    while todo:
        value, depth = todo.pop()
        if isinstance(value, dict | list):
            if depth >= limit:
                return True
            inner = value.values() if isinstance(value, dict) else value
            if isinstance(value, Pairs):
                inner = [item for _, item in value]
            todo.extend((item, depth + 1) for item in inner if isinstance(item, dict | list))
    return False


def duplicates(tree: Any, at: str = "") -> Iterator[str]:
    """The members that a document names twice, in its order, as strict decoding reports them: `duplicate field
    "a.b[0].c"`. `at` is where the tree stands.
    """
    # Where something stands is put together only where it is told: in deep documents that is as long as they are.
    path, todo = [at], [_members(tree)]
    while todo:
        found = next(todo[-1], None)
        if found is None:
            todo.pop()
            path.pop()
            continue
        step, value, again = found
        if again:
            where = "".join((*path, step))
            yield f'duplicate field "{where if at else where.removeprefix(".")}"'
        path.append(step)
        todo.append(_members(value))


def _members(of: Any) -> Iterator[tuple[str, Any, bool]]:
    """What is in an object or a list: the step to it, its value, and whether the name was there before."""
    seen: set[str] = set()
    if isinstance(of, Pairs):
        for key, item in of:
            yield f".{key}", item, key in seen
            seen.add(key)
    elif isinstance(of, list):
        yield from ((f"[{position}]", item, False) for position, item in enumerate(of))


def sorted_tree(tree: Any) -> Any:
    """A tree without duplicates, the members of its objects sorted: as Go writes its maps."""
    if isinstance(tree, Pairs):
        return Pairs((key, sorted_tree(item)) for key, item in sorted(dict(tree).items()))
    return [sorted_tree(item) for item in tree] if isinstance(tree, list) else tree


def text(tree: Any) -> str:
    """The compact JSON of a tree, as Go writes it: with the order of its members, and numbers as they were spelled."""
    if isinstance(tree, Pairs):
        return "{" + ",".join(f"{gotext.json_text(key)}:{text(item)}" for key, item in tree) + "}"
    if isinstance(tree, list):
        return "[" + ",".join(map(text, tree)) + "]"
    return str(tree) if isinstance(tree, Number) else gotext.json_text(tree)
