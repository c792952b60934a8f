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

from certplane import boundedcache
from certplane.errors import BadRequest
from certplane.golang import formatting
from certplane.meta import names, objects

# --- label selectors ----------------------------------------------------------------------------------------------

_SET_OPERATORS: Final = ("in", "notin")
_TOKEN: Final = re.compile(r"[ \t\r\n]*(==|!=|=|!|\(|\)|,|<|>|[^ \t\r\n=!(),<>]+|\Z)")
_SYMBOLS: Final = frozenset({"==", "!=", "=", "!", "(", ")", ",", "<", ">", ""})


@dataclasses.dataclass(frozen=True, slots=True)
class Requirement:
    """One requirement of a label selector. `operator` is one of = == != in notin exists ! gt lt; `values` are
    sorted.
    """

    key: str
    operator: str
    values: tuple[str, ...] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether an object with these labels meets the requirement."""
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
        # Binary search: there may be thousands of values, and every object is compared with them.
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
    """Requirements on labels, all of which must hold. Without requirements it selects everything."""

    requirements: tuple[Requirement, ...] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether an object with these labels is selected."""
        return all(requirement.matches(labels) for requirement in self.requirements)

    def __str__(self) -> str:
        return ",".join(str(requirement) for requirement in self.requirements)


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
        assert match is not None  # noqa: S101 - the pattern also matches the end of the text
        return match[1], match.end()


def _is_identifier(token: str) -> bool:
    return token not in _SYMBOLS


def _expected(token: str, expected: str, *, requirement: bool = True) -> BadRequest:
    text = f"found '{token}', expected: {expected}"
    return BadRequest(f"unable to parse requirement: {text}" if requirement else text)


#: Maximum requirements of a selector. Each is evaluated for each object; users and controllers write a few.
MAX_REQUIREMENTS: Final = 100


def _check_count(selector: str, count: int) -> None:
    if count > MAX_REQUIREMENTS:
        raise BadRequest(f"a {selector} may have at most {MAX_REQUIREMENTS} requirements")


@boundedcache.memoize()
def parse_labels(text: str) -> LabelSelector:
    """Parse a label selector. Raises BadRequest with Go's text."""
    lexer = _Lexer(text)
    requirements: list[Requirement] = []
    if lexer.peek() == "":
        return LabelSelector()
    while True:
        current = lexer.peek()
        if not _is_identifier(current) and current != "!":
            raise _expected(current, "!, identifier, or 'end of string'", requirement=False)
        requirements.append(_requirement(lexer))
        _check_count("label selector", len(requirements))
        current = lexer.take()
        if not current:
            break
        if current != ",":
            raise _expected(current, "',' or 'end of string'", requirement=False)
        following = lexer.peek()
        if not _is_identifier(following) and following != "!":
            raise _expected(following, "identifier after ','", requirement=False)
    return LabelSelector(tuple(sorted(requirements, key=lambda requirement: requirement.key)))


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
        # No comma after the token: the text of kube-apiserver.
        raise BadRequest(f"unable to parse requirement: found '{opening}' expected: '('")
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
        raise BadRequest(f"unable to parse requirement: <nil>: Invalid value: {formatting.quote(key)}: {text}")


def _checked(requirement: Requirement) -> Requirement:
    problems: list[str] = []
    for position, value in enumerate(requirement.values):
        if requirement.operator in ("gt", "lt") and _integer(value) is None:
            detail = "for 'Gt', 'Lt' operators, the value must be an integer"
            problems.append(f"values[{position}]: Invalid value: {formatting.quote(value)}: {detail}")
        if value_problems := names.label_value_problems(value):
            detail = "; ".join(value_problems)
            path = f"values[{position}][{requirement.key}]"
            problems.append(f"{path}: Invalid value: {formatting.quote(value)}: {detail}")
    if problems:
        text = problems[0] if len(problems) == 1 else f"[{', '.join(problems)}]"
        raise BadRequest(f"unable to parse requirement: {text}")
    return requirement


_STRUCT_OPERATORS: Final = {"In": "in", "NotIn": "notin", "Exists": "exists", "DoesNotExist": "!"}


def from_struct(selector: objects.LabelSelector | None) -> LabelSelector | None:
    """The selector of a LabelSelector in an object; None selects nothing. Raises ValueError for an unknown operator."""
    if selector is None:
        return None
    requirements = [Requirement(key, "in", (value,)) for key, value in selector.match_labels.items()]
    for expression in selector.match_expressions:
        operator = _STRUCT_OPERATORS.get(expression.operator)
        if operator is None:
            raise ValueError(f"not a valid selector operator: {expression.operator}")
        requirements.append(Requirement(expression.key, operator, tuple(sorted(set(expression.values)))))
    return LabelSelector(tuple(requirements))


# --- field selectors ----------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class Term:
    """One term of a field selector. `operator` is = or !=."""

    field: str
    operator: str
    value: str


@dataclasses.dataclass(frozen=True, slots=True)
class FieldSelector:
    """Terms on fields, all of which must hold."""

    terms: tuple[Term, ...] = ()

    @classmethod
    def equals(cls, field: str, value: str) -> FieldSelector:
        """The selector `field=value`."""
        return cls((Term(field, "=", value),))

    def matches(self, field_value: Callable[[str], str]) -> bool:
        """Whether an object is selected. `field_value` returns its value of a field."""
        return all((field_value(term.field) == term.value) == (term.operator == "=") for term in self.terms)

    def required_value(self, field: str) -> str | None:
        """The value that a field must equal; None if the selector requires none."""
        for term in self.terms:
            if term.field == field and term.operator == "=":
                return term.value
        return None

    def __str__(self) -> str:
        return ",".join(f"{term.field}{term.operator}{_escape(term.value)}" for term in self.terms)


#: The selector without terms.
EVERYTHING: Final = FieldSelector()


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace(",", "\\,").replace("=", "\\=")


@boundedcache.memoize()
def parse_fields(text: str) -> FieldSelector:
    """Parse a field selector. The terms are sorted by their texts. Raises BadRequest with Go's text."""
    parts = sorted(part for part in _split_terms(text) if part)
    _check_count("field selector", len(parts))
    return FieldSelector(tuple(_term(part, text) for part in parts))


#: A comma, or a backslash and the character that it escapes, which may be a comma.
_COMMA: Final = re.compile(r"\\.|,", re.DOTALL)
_OPERATOR: Final = re.compile("!=|==?")
#: Characters and escape sequences with a meaning in a value.
_SPECIAL: Final = re.compile(r"\\.?|[,=]", re.DOTALL)


def _split_terms(text: str) -> Sequence[str]:
    commas = [match.start() for match in _COMMA.finditer(text) if match[0] == ","]
    starts = [0, *(comma + 1 for comma in commas)]
    return [text[start:end] for start, end in zip(starts, [*commas, len(text)], strict=True)]


def _term(part: str, text: str) -> Term:
    operator = _OPERATOR.search(part)
    if operator is None:
        raise BadRequest(f"invalid selector: '{text}'; can't understand '{part}'")
    return Term(part[: operator.start()], "!=" if operator[0] == "!=" else "=", _unescape(part[operator.end() :]))


def _unescape(value: str) -> str:
    return _SPECIAL.sub(_unescape_match, value)


def _unescape_match(match: re.Match[str]) -> str:
    text = match[0]
    if text in (",", "="):
        raise BadRequest(f"invalid field selector: unescaped character in value: {ord(text)}")
    if text[1:] not in ("\\", ",", "="):
        raise BadRequest(f"invalid field selector: invalid escape sequence: {text}")
    return text[1:]
