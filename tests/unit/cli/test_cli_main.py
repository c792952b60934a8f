"""The command line itself: what holds for every command."""

from __future__ import annotations

import sys

import pytest

from certplane.cli import main
from certplane.x509 import keys


@pytest.mark.parametrize(
    "arguments",
    [["token", "create"], ["token", "delete"], ["token", "create", "--groups"], [], ["serve", "--tls-san"]],
)
def test_a_private_key_among_the_arguments_is_not_repeated(arguments, monkeypatch, capsys):
    """It begins like an option, and an option that does not exist would be quoted."""
    key = keys.to_pem(keys.generate("ECDSA-P256")).decode()
    monkeypatch.setattr(sys, "argv", ["certplane", *arguments, key])
    with pytest.raises(SystemExit) as ended:
        main.main()
    told = capsys.readouterr()
    assert ended.value.code == 2
    assert told.err.startswith("error: an argument is a private key, or holds one")
    assert "hint: consider it exposed, and make a new one" in told.err
    assert "PRIVATE" not in told.err + told.out
    assert key.splitlines()[1][:20] not in told.err + told.out
