"""Every regular expression of the package matches in linear time: none backtracks quadratically.

Backtracking cannot be observed from outside, so a matcher here repeats the steps of the library's and counts them. Each
expression is tried on repetitions of many short texts, with an end that it does not match.
"""

from __future__ import annotations

import importlib
import itertools
import pkgutil
import re
from re import _compiler, _constants, _parser

import pytest

import certplane

PIECES = (
    *'a0A.-_ /:@"\\[]()<>=,;%\t\n1eh',
    "a.",
    "0.",
    "a-",
    "a/",
    "1h",
    "0h",
    "\\a",
    '""',
    " a",
    "a@",
    "a:",
    "%4",
    "aa",
)
#: Two series of repetitions, because an expression with a bounded repeat may backtrack up to its bound: a step, and not
#: growth.
SIZES = ((16, 32, 64), (40, 80, 160))
#: The matcher gives up after this many steps.
MAX_STEPS = 50_000
#: The maximum ratio of the added steps when the text is doubled twice: 2 for linear costs, 4 for quadratic ones.
MAX_RATIO = 2.6


def _expressions():
    """All expressions in variables of modules: alone, by their bound methods, or in collections."""
    for module in pkgutil.walk_packages(certplane.__path__, "certplane."):
        if ".pb." in module.name or module.name.endswith("__main__"):
            continue
        for name, value in vars(importlib.import_module(module.name)).items():
            values = (
                value.values() if isinstance(value, dict) else value if isinstance(value, tuple | list) else (value,)
            )
            for item in values:
                expression = item if isinstance(item, re.Pattern) else getattr(item, "__self__", None)
                if isinstance(expression, re.Pattern):
                    yield pytest.param(expression, id=f"{module.name.removeprefix('certplane.')}.{name}")


class _Matcher:
    """Matches a text from its start like the library, and counts the steps."""

    def __init__(self, expression):
        pattern, self._flags = expression.pattern, expression.flags
        if isinstance(pattern, bytes):
            pattern, self._flags = pattern.decode("latin-1"), self._flags | re.ASCII
        self._tree = list(_parser.parse(pattern, self._flags))
        self._cache = {}
        self.steps = 0

    def run(self, text):
        """Try to match the whole text, in all ways."""
        self.steps = 0
        return any(end == len(text) for end in self._sequence(self._tree, 0, text, 0))

    def _sequence(self, parts, index, text, position):
        if index == len(parts):
            yield position
            return
        for end in self._part(*parts[index], text, position):
            yield from self._sequence(parts, index + 1, text, end)

    def _part(self, kind, value, text, position):
        """The end positions of all matches of one part of the expression."""
        self.steps += 1
        if self.steps > MAX_STEPS:
            return
        name = str(kind)
        if name in ("LITERAL", "NOT_LITERAL", "ANY", "IN", "CATEGORY", "RANGE"):
            if position < len(text) and self._matches_char(kind, value, text[position]):
                yield position + 1
        elif name in ("BRANCH", "SUBPATTERN"):
            for branch in value[1] if name == "BRANCH" else value[3:]:
                yield from self._sequence(list(branch), 0, text, position)
        elif name in ("ATOMIC_GROUP", "POSSESSIVE_REPEAT"):
            ends = (
                self._repeat(*value, text, position)
                if name == "POSSESSIVE_REPEAT"
                else self._sequence(list(value), 0, text, position)
            )
            yield from itertools.islice(ends, 1)
        elif name in ("MAX_REPEAT", "MIN_REPEAT"):
            yield from self._repeat(*value, text, position)
        elif name in ("ASSERT", "ASSERT_NOT"):
            matches = value[0] < 0 or next(self._sequence(list(value[1]), 0, text, position), None) is not None
            if matches == (name == "ASSERT"):
                yield position
        elif name == "AT":
            if str(value) in ("AT_BEGINNING", "AT_BEGINNING_STRING") or position == len(text):
                yield position
        else:
            raise NotImplementedError(name)

    def _matches_char(self, kind, value, char):
        """Whether a part for one character matches one; the library decides."""
        key = str((kind, value)), char
        if key not in self._cache:
            tree = _parser.SubPattern(_parser.State(), [(kind, value)])
            tree.state.flags, tree.state.str = self._flags, ""
            self._cache[key] = _compiler.compile(tree, self._flags).match(char) is not None
        return self._cache[key]

    def _repeat(self, minimum, maximum, inner, text, position, count=0):
        if maximum is _constants.MAXREPEAT or count < maximum:
            for end in self._sequence(list(inner), 0, text, position):
                if end > position:
                    yield from self._repeat(minimum, maximum, inner, text, end, count + 1)
        if count >= minimum:
            yield position


def _steps(matcher, text):
    matcher.run(text)
    return matcher.steps


def _is_linear(matcher, prefix, piece, suffix, sizes):
    once, twice, fourfold = [_steps(matcher, prefix + piece * size + suffix) for size in sizes]
    return fourfold < MAX_STEPS and fourfold - twice <= MAX_RATIO * (twice - once) + 40


def _quadratic_texts(expression):
    """The texts whose cost is not linear in their length, as prefix, repeated piece and suffix."""
    matcher = _Matcher(expression)
    return [
        (prefix, piece, suffix)
        for piece in PIECES
        for prefix, suffix in (("", "!"), ("a", "\0"), ("0", "@"))
        if not any(_is_linear(matcher, prefix, piece, suffix, sizes) for sizes in SIZES)
    ]


@pytest.mark.parametrize("expression", list(_expressions()))
def test_expressions_match_in_linear_time(expression):
    """This applies to repetitions of any text."""
    assert _quadratic_texts(expression) == []


@pytest.mark.parametrize("expression", [r"[0-9]+\.?[0-9]*", r"(0|[0-9]+h)+", r"[ \t]*(a|[ \t]*b)"])
def test_quadratic_expressions_are_detected(expression):
    """Tests the measurement."""
    assert _quadratic_texts(re.compile(expression))
