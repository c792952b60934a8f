"""No regular expression goes back over what it has read more often than in proportion to its length.

How far one goes back is seen by nothing from outside, so it is done here once more, by a matcher that counts its steps:
the one of the library would do the same ones. An expression is tried on repeated pieces of all sorts, with an end that
it does not take.
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
#: Two, as an expression may take up to a number of characters, and go back from there: a step, and no growth.
SIZES = ((16, 32, 64), (40, 80, 160))
#: Steps after which it is clear what comes of it.
ENOUGH = 50_000
#: What is added doubles twice, and so may the steps; a square would have four times as many.
MOST = 2.6


def _expressions():
    """All that modules keep, alone, as their methods, or in collections."""
    for module in pkgutil.walk_packages(certplane.__path__, "certplane."):
        if ".pb." in module.name or module.name.endswith("__main__"):
            continue
        for name, value in vars(importlib.import_module(module.name)).items():
            values = (
                value.values() if isinstance(value, dict) else value if isinstance(value, tuple | list) else (value,)
            )
            for each in values:
                found = each if isinstance(each, re.Pattern) else getattr(each, "__self__", None)
                if isinstance(found, re.Pattern):
                    yield pytest.param(found, id=f"{module.name.removeprefix('certplane.')}.{name}")


class _Matcher:
    """Matches as the library does, from the beginning, and counts."""

    def __init__(self, expression):
        pattern, self._flags = expression.pattern, expression.flags
        if isinstance(pattern, bytes):
            pattern, self._flags = pattern.decode("latin-1"), self._flags | re.ASCII
        self._tree = list(_parser.parse(pattern, self._flags))
        self._known = {}
        self.steps = 0

    def run(self, text):
        """Try to match all of a text, in every way there is."""
        self.steps = 0
        return any(end == len(text) for end in self._sequence(self._tree, 0, text, 0))

    def _sequence(self, parts, at, text, place):
        if at == len(parts):
            yield place
            return
        for end in self._part(*parts[at], text, place):
            yield from self._sequence(parts, at + 1, text, end)

    def _part(self, kind, value, text, place):
        self.steps += 1
        if self.steps > ENOUGH:
            return
        name = str(kind)
        if name in ("LITERAL", "NOT_LITERAL", "ANY", "IN", "CATEGORY", "RANGE"):
            if place < len(text) and self._takes(kind, value, text[place]):
                yield place + 1
        elif name in ("BRANCH", "SUBPATTERN"):
            for branch in value[1] if name == "BRANCH" else value[3:]:
                yield from self._sequence(list(branch), 0, text, place)
        elif name in ("ATOMIC_GROUP", "POSSESSIVE_REPEAT"):
            ends = (
                self._repeated(*value, text, place)
                if name == "POSSESSIVE_REPEAT"
                else self._sequence(list(value), 0, text, place)
            )
            yield from itertools.islice(ends, 1)
        elif name in ("MAX_REPEAT", "MIN_REPEAT"):
            yield from self._repeated(*value, text, place)
        elif name in ("ASSERT", "ASSERT_NOT"):
            found = value[0] < 0 or next(self._sequence(list(value[1]), 0, text, place), None) is not None
            if found == (name == "ASSERT"):
                yield place
        elif name == "AT":
            if str(value) in ("AT_BEGINNING", "AT_BEGINNING_STRING") or place == len(text):
                yield place
        else:
            raise NotImplementedError(name)

    def _takes(self, kind, value, char):
        """Whether a part of one character takes one: that much is left to the library."""
        key = str((kind, value)), char
        if key not in self._known:
            tree = _parser.SubPattern(_parser.State(), [(kind, value)])
            tree.state.flags, tree.state.str = self._flags, ""
            self._known[key] = _compiler.compile(tree, self._flags).match(char) is not None
        return self._known[key]

    def _repeated(self, least, most, inner, text, place, count=0):
        if most is _constants.MAXREPEAT or count < most:
            for end in self._sequence(list(inner), 0, text, place):
                if end > place:
                    yield from self._repeated(least, most, inner, text, end, count + 1)
        if count >= least:
            yield place


def _steps(matcher, text):
    matcher.run(text)
    return matcher.steps


def _is_linear(matcher, piece, before, end, sizes):
    once, twice, fourfold = [_steps(matcher, before + piece * size + end) for size in sizes]
    return fourfold < ENOUGH and fourfold - twice <= MOST * (twice - once) + 40


def _squares(expression):
    """The texts that cost more than in proportion to their length."""
    matcher = _Matcher(expression)
    return [
        (before, piece, end)
        for piece in PIECES
        for before, end in (("", "!"), ("a", "\0"), ("0", "@"))
        if not any(_is_linear(matcher, piece, before, end, sizes) for sizes in SIZES)
    ]


@pytest.mark.parametrize("expression", list(_expressions()))
def test_going_back_costs_no_square(expression):
    """Whatever stands there over and over again."""
    assert _squares(expression) == []


@pytest.mark.parametrize("bad", [r"[0-9]+\.?[0-9]*", r"(0|[0-9]+h)+", r"[ \t]*(a|[ \t]*b)"])
def test_squares_are_seen(bad):
    """The measure itself."""
    assert _squares(re.compile(bad))
