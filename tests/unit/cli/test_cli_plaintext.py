"""Texts of a server, on the terminal."""

from __future__ import annotations

import pytest

from certplane.cli import plaintext


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", "plain"),
        ('say "x" \\ y', 'say "x" \\ y'),
        ("Zoë", "Zoë"),
        ("a\nerror: b", "a\\nerror: b"),
        ("\x1b]0;title\x07", "\\x1b]0;title\\a"),
        ("\u202eabc", "\\u202eabc"),
        ("\ud800", "\\ud800"),
    ],
)
def test_control_characters_are_escaped(text, expected):
    """No text looks like another line, or controls the terminal."""
    assert expected == plaintext.escape(text)


def test_long_texts_are_shortened():
    """A server may send megabytes."""
    assert len(plaintext.escape("x" * 1_000_000)) < 1100
