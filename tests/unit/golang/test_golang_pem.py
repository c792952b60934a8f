"""PEM is decoded as in Go."""

from __future__ import annotations

from certplane.golang import pem

BLOCK = pem.encode("A", b"abc")


def test_blocks_are_decoded_in_order():
    """Text around them is skipped, as are malformed blocks."""
    text = b"x\n" + BLOCK + b"-----BEGIN A-----\n*\n-----END A-----\n" + pem.encode("B", b"") + b"\ny"
    assert [(block.label, block.data) for block in pem.blocks(text)] == [("A", b"abc"), ("B", b"")]


def test_headers_belong_to_their_block():
    """They end at the first line without a colon."""
    (block,) = pem.blocks(b"-----BEGIN A-----\nKey: value\nOther: one\n\nYWJj\n-----END A-----")
    assert (dict(block.headers), block.data) == ({"Key": "value", "Other": "one"}, b"abc")


class CountingBytes(bytes):
    """Counts the bytes that are copied out of it and of its copies."""

    copied = 0

    def __getitem__(self, index):
        item = super().__getitem__(index)
        return self._count(item) if isinstance(index, slice) else item

    def partition(self, separator):
        return tuple(map(self._count, super().partition(separator)))

    @staticmethod
    def _count(copy):
        CountingBytes.copied += len(copy)
        return CountingBytes(copy)


def test_the_rest_of_a_text_is_not_copied_for_each_block():
    """The cost would be quadratic: a gigabyte for a megabyte of blocks."""
    text = CountingBytes(BLOCK * 500)
    assert len(list(pem.blocks(text))) == 500
    assert CountingBytes.copied < 4 * len(text)
