r"""Label and field selectors: parse, print, match.

Label selectors: `a`, `!a`, `a=b`, `a==b`, `a!=b`, `a in (b,c)`, `a notin (b,c)`, `a>1`, `a<1`, joined by commas; all
must hold. Field selectors know `=`, `==` and `!=` only; in their values `\\`, `,` and `=` are escaped by a backslash.

Sources: `k8s.io/apimachinery/pkg/labels/selector.go`, `.../pkg/fields/selector.go`, whose error texts clients see.
"""

from __future__ import annotations

import bisect
import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from certplane import boundedcache, errors, gotext
from certplane.meta import names, objects

# --- label selectors ----------------------------------------------------------------------------------------------

_SET_OPERATORS: Final = ("in", "notin")
_TOKEN: Final = re.compile(r"[ \t\r\n]*(==|!=|=|!|\(|\)|,|<|>|[^ \t\r\n=!(),<>]+|\Z)")
_SYMBOLS: Final = frozenset({"==", "!=", "=", "!", "(", ")", ",", "<", ">", ""})


@dataclasses.dataclass(frozen=True, slots=True)
class Requirement:
    """One condition. `operator` is one of = == != in notin exists ! gt lt; `values` are sorted."""

    key: str
    operator: str
    values: tuple[str, ...] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether an object with these labels fulfils the condition."""
        value = labels.get(self.key)
        if self.operator in ("=", "==", "in"):
            return value is not None and self._has(value)
        if self.operator in ("!=", "notin"):
            return value is None or not self._has(value)
        if self.operator == "exists":
            return value is not None
        if self.operator == "!":
            return value is None
        number = _integer(value) if value is not None else None
        if number is None:
            return False
        bound = int(self.values[0])
        return number > bound if self.operator == "gt" else number < bound

    def _has(self, value: str) -> bool:
        # There may be thousands, and each object is held against them.
        at = bisect.bisect_left(self.values, value)
        return at < len(self.values) and self.values[at] == value

    def __str__(self) -> str:
        if self.operator == "exists":
            return self.key
        if self.operator == "!":
            return f"!{self.key}"
        if self.operator in _SET_OPERATORS:
            return f"{self.key} {self.operator} ({','.join(self.values)})"
        sign = {"gt": ">", "lt": "<"}.get(self.operator, self.operator)
        return f"{self.key}{sign}{self.values[0]}"


@dataclasses.dataclass(frozen=True, slots=True)
class LabelSelector:
    """Conditions on labels, all of which must hold. Without conditions it selects everything."""

    requirements: tuple[Requirement, ...] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether an object with these labels is selected."""
        return all(each.matches(labels) for each in self.requirements)

    def __str__(self) -> str:
        return ",".join(str(each) for each in self.requirements)


def _integer(text: str) -> int | None:
    return int(text) if re.fullmatch(r"[+-]?[0-9]{1,19}", text, re.ASCII) else None


class _Lexer:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def peek(self) -> str:
        return self._next()[0]

    def take(self) -> str:
        token, self._at = self._next()
        return token

    def _next(self) -> tuple[str, int]:
        match = _TOKEN.match(self._text, self._at)
        assert match is not None  # noqa: S101 - the pattern ends with the end of the text
        return match[1], match.end()


def _is_identifier(token: str) -> bool:
    return token not in _SYMBOLS


def _expected(found: str, what: str, *, requirement: bool = True) -> errors.BadRequest:
    text = f"found '{found}', expected: {what}"
    return errors.BadRequest(f"unable to parse requirement: {text}" if requirement else text)


#: Conditions of one selector. Each is looked at for each object that there is; people and controllers write a few.
MOST_CONDITIONS: Final = 100


def _check_count(what: str, count: int) -> None:
    if count > MOST_CONDITIONS:
        raise errors.BadRequest(f"a {what} may have at most {MOST_CONDITIONS} requirements")


@boundedcache.remember()
def parse_labels(text: str) -> LabelSelector:
    """Raises BadRequest with Go's text."""
    lexer = _Lexer(text)
    found: list[Requirement] = []
    if lexer.peek() == "":
        return LabelSelector()
    while True:
        text = lexer.peek()
        if not _is_identifier(text) and text != "!":
            raise _expected(text, "!, identifier, or 'end of string'", requirement=False)
        found.append(_requirement(lexer))
        _check_count("label selector", len(found))
        text = lexer.take()
        if not text:
            break
        if text != ",":
            raise _expected(text, "',' or 'end of string'", requirement=False)
        following = lexer.peek()
        if not _is_identifier(following) and following != "!":
            raise _expected(following, "identifier after ','", requirement=False)
    return LabelSelector(tuple(sorted(found, key=lambda each: each.key)))


def _requirement(lexer: _Lexer) -> Requirement:
    negated = lexer.peek() == "!"
    if negated:
        lexer.take()
    key = lexer.take()
    if not _is_identifier(key):
        raise _expected(key, "identifier")
    _check_key(key)
    following = lexer.peek()
    if following in ("", ","):
        return Requirement(key, "!" if negated else "exists")
    if negated:
        raise _expected(following, "',' or 'end of string'", requirement=False)
    return _with_values(key, lexer)


def _with_values(key: str, lexer: _Lexer) -> Requirement:
    operator = lexer.take()
    if operator in _SET_OPERATORS:
        return _checked(Requirement(key, operator, tuple(sorted(set(_values(lexer))))))
    if operator in ("=", "==", "!="):
        return _checked(Requirement(key, operator, (_exact_value(lexer),)))
    if operator in (">", "<"):
        return _checked(Requirement(key, "gt" if operator == ">" else "lt", (_exact_value(lexer),)))
    raise _expected(operator, "in, notin, =, ==, !=, gt, lt")


def _values(lexer: _Lexer) -> list[str]:
    opening = lexer.take()
    if opening != "(":
        # The real server forgets the comma here.
        raise errors.BadRequest(f"unable to parse requirement: found '{opening}' expected: '('")
    following = lexer.peek()
    if following not in (")", ",") and not _is_identifier(following):
        raise _expected(following, "',', ')' or identifier")
    values: list[str] = []
    expect_value = True
    while True:
        text = lexer.take()
        if text in (")", ","):
            if expect_value:
                values.append("")
            if text == ")":
                return values
            expect_value = True
        elif not expect_value:
            raise _expected(text, "',' or ')'")
        elif _is_identifier(text):
            values.append(text)
            expect_value = False
        else:
            raise _expected(text, "',', or identifier")


def _exact_value(lexer: _Lexer) -> str:
    text = lexer.peek()
    if text in ("", ","):
        return ""
    lexer.take()
    if not _is_identifier(text):
        raise _expected(text, "identifier")
    return text


def _check_key(key: str) -> None:
    problems = names.qualified_name_problems(key)
    if problems:
        text = "; ".join(problems)
        raise errors.BadRequest(f"unable to parse requirement: <nil>: Invalid value: {gotext.quote(key)}: {text}")


def _checked(of: Requirement) -> Requirement:
    found: list[str] = []
    for position, value in enumerate(of.values):
        if of.operator in ("gt", "lt") and _integer(value) is None:
            why = "for 'Gt', 'Lt' operators, the value must be an integer"
            found.append(f"values[{position}]: Invalid value: {gotext.quote(value)}: {why}")
        problems = names.label_value_problems(value)
        if problems:
            why = "; ".join(problems)
            found.append(f"values[{position}][{of.key}]: Invalid value: {gotext.quote(value)}: {why}")
    if found:
        text = found[0] if len(found) == 1 else f"[{', '.join(found)}]"
        raise errors.BadRequest(f"unable to parse requirement: {text}")
    return of


_STRUCT_OPERATORS: Final = {"In": "in", "NotIn": "notin", "Exists": "exists", "DoesNotExist": "!"}


def from_struct(of: objects.LabelSelector | None) -> LabelSelector | None:
    """The selector that an object describes; None selects nothing. Raises ValueError for an unknown operator."""
    if of is None:
        return None
    found = [Requirement(key, "in", (value,)) for key, value in of.match_labels.items()]
    for each in of.match_expressions:
        operator = _STRUCT_OPERATORS.get(each.operator)
        if operator is None:
            raise ValueError(f"not a valid selector operator: {each.operator}")
        found.append(Requirement(each.key, operator, tuple(sorted(set(each.values)))))
    return LabelSelector(tuple(found))


# --- field selectors ----------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class Term:
    """One condition on one field. `operator` is = or !=."""

    field: str
    operator: str
    value: str


@dataclasses.dataclass(frozen=True, slots=True)
class FieldSelector:
    """Conditions on fields, all of which must hold."""

    terms: tuple[Term, ...] = ()

    @classmethod
    def of_one(cls, field: str, value: str) -> FieldSelector:
        """The selector of what has exactly this value."""
        return cls((Term(field, "=", value),))

    def matches(self, value_of: Callable[[str], str]) -> bool:
        """Whether an object is selected whose field values the function gives."""
        return all((value_of(term.field) == term.value) == (term.operator == "=") for term in self.terms)

    def exact(self, field: str) -> str | None:
        """The one value that a field must have, if there is one."""
        for term in self.terms:
            if term.field == field and term.operator == "=":
                return term.value
        return None

    def __str__(self) -> str:
        return ",".join(f"{term.field}{term.operator}{_escape(term.value)}" for term in self.terms)


#: The selector that asks for nothing in particular.
EVERYTHING: Final = FieldSelector()


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace(",", "\\,").replace("=", "\\=")


@boundedcache.remember()
def parse_fields(text: str) -> FieldSelector:
    """Raises BadRequest with Go's text. Terms are taken in the order of their texts, whatever theirs was."""
    parts = sorted(part for part in _split_terms(text) if part)
    _check_count("field selector", len(parts))
    return FieldSelector(tuple(_term(part, text) for part in parts))


#: A comma, or a backslash with what it escapes, which may be a comma.
_COMMA: Final = re.compile(r"\\.|,", re.DOTALL)
_SIGN: Final = re.compile("!=|==?")
#: What has a meaning in a value.
_SPECIAL: Final = re.compile(r"\\.?|[,=]", re.DOTALL)


def _split_terms(text: str) -> Sequence[str]:
    ends = [found.start() for found in _COMMA.finditer(text) if found[0] == ","]
    return [text[begin:end] for begin, end in zip([0, *(at + 1 for at in ends)], [*ends, len(text)], strict=True)]


def _term(part: str, text: str) -> Term:
    sign = _SIGN.search(part)
    if sign is None:
        raise errors.BadRequest(f"invalid selector: '{text}'; can't understand '{part}'")
    return Term(part[: sign.start()], "!=" if sign[0] == "!=" else "=", _unescape(part[sign.end() :]))


def _unescape(value: str) -> str:
    return _SPECIAL.sub(_meant, value)


def _meant(special: re.Match[str]) -> str:
    text = special[0]
    if text in (",", "="):
        raise errors.BadRequest(f"invalid field selector: unescaped character in value: {ord(text)}")
    if text[1:] not in ("\\", ",", "="):
        raise errors.BadRequest(f"invalid field selector: invalid escape sequence: {text}")
    return text[1:]
