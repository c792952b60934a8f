"""Texts of many blocks."""

from certplane.x509 import pem

BLOCK = pem.encode("A", b"abc")


def test_blocks_come_in_order_with_what_is_in_them():
    """Text around them is passed over, as are blocks that are none."""
    text = b"x\n" + BLOCK + b"-----BEGIN A-----\n*\n-----END A-----\n" + pem.encode("B", b"") + b"\ny"
    assert [(each.label, each.data) for each in pem.blocks(text)] == [("A", b"abc"), ("B", b"")]


def test_headers_belong_to_their_block():
    """They end where a line has no colon."""
    (block,) = pem.blocks(b"-----BEGIN A-----\nKey: value\nOther: one\n\nYWJj\n-----END A-----")
    assert (dict(block.headers), block.data) == ({"Key": "value", "Other": "one"}, b"abc")


class Watched(bytes):
    """Counts the bytes that are copied out of it, and out of what was copied."""

    copied = 0

    def __getitem__(self, where):
        return self._watched(super().__getitem__(where)) if isinstance(where, slice) else super().__getitem__(where)

    def partition(self, separator):
        return tuple(map(self._watched, super().partition(separator)))

    @staticmethod
    def _watched(piece):
        Watched.copied += len(piece)
        return Watched(piece)


def test_what_is_left_is_not_copied_at_each_block():
    """A megabyte of blocks would be a gigabyte."""
    text = Watched(BLOCK * 500)
    assert len(list(pem.blocks(text))) == 500
    assert Watched.copied < 4 * len(text)
