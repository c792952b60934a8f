"""Who else can read a key file."""

from __future__ import annotations

import pytest

from certplane.x509 import keys

ROOT, POD = 0, 65532


@pytest.mark.parametrize(
    ("mode", "owner", "reader", "told"),
    [
        (0o600, POD, POD, None),
        (0o400, ROOT, ROOT, None),
        (0o440, ROOT, POD, None),
        (0o640, ROOT, POD, None),
        (0o440, ROOT, ROOT, "mode 0440 gives access to its group"),
        (0o440, POD, POD, "mode 0440 gives access to its group"),
        (0o440, 1000, POD, "mode 0440 gives access to its group"),
        (0o460, ROOT, POD, "mode 0460 gives access to its group"),
        (0o444, ROOT, POD, "mode 0444 gives access to its group and everybody"),
        (0o404, ROOT, POD, "mode 0404 gives access to everybody"),
    ],
)
def test_a_key_is_for_one_reader(mode, owner, reader, told):
    """Its owner, or a user who is not root and reads a file of root's by its group: as a pod does its Secrets."""
    assert told == keys.exposure_of(mode, owner=owner, reader=reader)


def test_a_file_is_judged_as_it_is(tmp_path):
    """The mode of the file counts."""
    path = tmp_path / "a.key"
    path.touch(mode=0o600)
    assert keys.exposure(path) is None
    path.chmod(0o644)
    assert keys.exposure(path) == "mode 0644 gives access to its group and everybody"
