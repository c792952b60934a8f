"""Keys and certificates that a command writes. A former file is kept beside the new one, with the suffix `.old`."""

from __future__ import annotations

import contextlib
import os
import pathlib
from typing import Final

from certplane import files
from certplane.errors import SetupError
from certplane.x509 import keys, privatekeys

_OLD: Final = ".old"
#: Bytes. Keys and chains are much smaller.
MAX_SIZE: Final = 1 << 20
KEY_MODE: Final = 0o600
CERTIFICATE_MODE: Final = 0o644


def check_absent(path: pathlib.Path, *hints: str) -> None:
    """Raises SetupError if there is a file, or anything else, at a path."""
    with files.as_setup_error(f"{path} cannot be used", "check the path and its permissions"):
        exists = os.path.lexists(path)
    if exists:
        raise SetupError(f"{path} exists already", hints)


def write(path: pathlib.Path, content: bytes, mode: int) -> bool:
    """Write a file. Returns whether there was a former one, which is kept. Raises SetupError."""
    with files.as_setup_error(f"{path} cannot be replaced", "move it away"):
        former = files.read_regular(path, MAX_SIZE) if os.path.lexists(path) else None
    if former is not None:
        # Whatever it was, it may have been a key.
        files.write(_old(path), former, KEY_MODE)
    files.write(path, content, mode)
    return former is not None


def withdraw(path: pathlib.Path, *, had_former: bool) -> None:
    """Undo `write`, given its result. Errors are ignored: an unused file may stay behind."""
    with contextlib.suppress(OSError):
        if had_former:
            _old(path).rename(path)
        else:
            path.unlink()


def _old(path: pathlib.Path) -> pathlib.Path:
    return path.with_name(path.name + _OLD)


def write_certificate(path: pathlib.Path, chain: bytes) -> None:
    """Write a certificate chain, which may replace another one, but no other file. Raises SetupError."""
    with files.as_setup_error(f"{path} cannot be replaced", "name another file with -o"):
        former = files.read_regular(path, MAX_SIZE) if os.path.lexists(path) else b""
    if former and (b"-----BEGIN CERTIFICATE-----" not in former or privatekeys.contains_key(former)):
        raise SetupError(f"{path} exists and is not a certificate", ("name another file with -o, or move it away",))
    write(path, chain, CERTIFICATE_MODE)


def read_key(path: pathlib.Path) -> keys.PrivateKey:
    """The key in a file. Raises SetupError; the text quotes nothing of the file."""
    with files.as_setup_error(f"the key {path} cannot be read", "set --key to a private key in PEM"):
        content = files.read_regular(path, MAX_SIZE)
    try:
        return keys.from_pem(content)
    except keys.InvalidKeyError as error:
        hints = ["set --key to a private key in PEM"]
        if b"ENCRYPTED" in content:
            hints = [f"decrypt it first: openssl pkey -in {path} -out NEW"]
        raise SetupError(f"the key {path} cannot be used: {error}", hints) from error
