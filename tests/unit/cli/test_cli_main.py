"""Behaviour that all commands share."""

from __future__ import annotations

import sys

import pytest

from certplane.cli import exitcodes, main
from certplane.x509 import keys


@pytest.mark.parametrize(
    "arguments",
    [["token", "create"], ["token", "delete"], ["token", "create", "--groups"], [], ["serve", "--tls-san"]],
)
def test_a_private_key_among_the_arguments_is_not_repeated(arguments, monkeypatch, capsys):
    """It begins with dashes, and the error for an unknown option would quote it."""
    key = keys.to_pem(keys.generate("ECDSA-P256")).decode()
    monkeypatch.setattr(sys, "argv", ["certplane", *arguments, key])
    with pytest.raises(SystemExit) as ended:
        main.main()
    output = capsys.readouterr()
    assert ended.value.code == 2
    assert output.err.startswith("error: an argument is or contains a private key")
    assert "hint: the key is compromised: create a new one" in output.err
    assert "PRIVATE" not in output.err + output.out
    assert key.splitlines()[1][:20] not in output.err + output.out


def test_a_failure_ends_with_its_own_exit_code(monkeypatch, capsys):
    """With error and hints like every other error."""

    def fail(*arguments, **settings):
        raise exitcodes.Failure(exitcodes.REFUSED, "denied", ("ask why",))

    monkeypatch.setattr(main.cli, "main", fail)
    with pytest.raises(SystemExit) as ended:
        main.main()
    assert (ended.value.code, capsys.readouterr().err) == (5, "error: denied\nhint: ask why\n")
