"""Copies of a pair for programs that cannot read `NAME-current.pem`: tls.crt, tls.key, ca.crt, PKCS#12.

The order is: the CA certificates, so that a new certificate is trusted when it appears; the key; the certificate, so
that a program that watches the certificate finds its key; the PKCS#12. Two files cannot be replaced at one instant:
what reads `NAME-current.pem` or a PKCS#12 always gets a matching pair.
"""

from __future__ import annotations

import grp
import os
import pathlib
import pwd
from typing import Final

from certplane import files
from certplane.agent import filegroup
from certplane.agent.filegroup import FileProblem, NewFile
from certplane.agent.pairstore import Pair
from certplane.agent.settings import Outputs
from certplane.errors import CertplaneError
from certplane.golang import formatting
from certplane.x509 import pkcs12

_MAX_PASSWORD: Final = 1024
_MAX_BYTES: Final = 1024 * 1024
#: Certificates are public; servers and their health checks may run as any user.
_PUBLIC: Final = 0o444
#: Characters of a name in a text.
_MAX_NAME: Final = 64
#: User and group ids of Linux; the number above means "unchanged".
_MAX_ID: Final = 2**32 - 2


class OutputProblem(CertplaneError):
    """A file that cannot be written. The text is for log and status."""


def write(outputs: Outputs, pair: Pair, roots: bytes) -> bool:
    """Write the files that differ from a pair and from `roots`, the CA certificates in PEM; empty `roots` change
    nothing. Returns whether a file was written. Raises OutputProblem.
    """
    try:
        changed = [file for file in _new_files(outputs, pair, roots) if not filegroup.is_current(file)]
        if changed:
            filegroup.replace(changed)
    except FileProblem as error:
        raise OutputProblem(str(error)) from error
    return bool(changed)


def find_problems(outputs: Outputs) -> list[str]:
    """What would keep `write` from working; each problem begins with the name of a field of the configuration."""
    problems = []
    uid = -1
    try:
        uid = _uid(outputs.owner)
    except OutputProblem as error:
        problems.append(f"owner: {error}")
    try:
        _gid(outputs.group)
    except OutputProblem as error:
        problems.append(f"group: {error}")
    if outputs.pkcs12_password_file is not None:
        try:
            _read_password(outputs.pkcs12_password_file)
        except OutputProblem as error:
            problems.append(f"pkcs12PasswordFile: {error}")
    for name in ("certificate", "key", "ca", "pkcs12"):
        path = getattr(outputs, name)
        problem = filegroup.directory_problem(path.parent, uid) if path is not None else ""
        if not problem and path is not None and path.is_dir():
            problem = f"{path} is a directory"
        if problem:
            problems.append(f"{name}: {problem}")
    return problems


def _new_files(outputs: Outputs, pair: Pair, roots: bytes) -> list[NewFile]:
    uid, gid = _uid(outputs.owner), _gid(outputs.group)
    public = outputs.mode | _PUBLIC
    new_files = []
    if outputs.ca is not None and roots:
        new_files.append(NewFile(outputs.ca, roots, public, uid, gid))
    if outputs.key is not None:
        new_files.append(NewFile(outputs.key, pair.key, outputs.mode, uid, gid))
    if outputs.certificate is not None:
        new_files.append(NewFile(outputs.certificate, pair.certificate, public, uid, gid))
    if outputs.pkcs12 is not None and outputs.pkcs12_password_file is not None:
        password = _read_password(outputs.pkcs12_password_file)
        new_files.append(NewFile(outputs.pkcs12, _pkcs12(outputs.pkcs12, pair, password), outputs.mode, uid, gid))
    return new_files


def _pkcs12(path: pathlib.Path, pair: Pair, password: bytes) -> bytes:
    """The content on disk if it has the pair, else a new one: each new one differs by its salts."""
    try:
        content = files.read_regular(path, _MAX_BYTES)
    except OSError:
        content = b""
    if content and pkcs12.holds(content, pair.certificate, pair.key, password):
        return content
    try:
        return pkcs12.create(pair.facts.common_name or path.stem, pair.certificate, pair.key, password)
    except ValueError as error:
        raise OutputProblem(f"{path} cannot be written: {error}") from error


def _read_password(path: pathlib.Path) -> bytes:
    """The first line of a file that only its owner can read. Raises OutputProblem, which does not quote it."""
    try:
        content = files.read_regular(path, _MAX_PASSWORD)
        readers = files.readable_by_others(path)
    except OSError as error:
        raise OutputProblem(f"{path} cannot be read: {files.error_text(error)}") from error
    if readers is not None:
        raise OutputProblem(f"other users can read {path}: {readers}")
    password = content.rstrip(b"\r\n")
    if not password or b"\n" in password:
        raise OutputProblem(f"{path} must hold the password in one line")
    return password


# --- owner and group ----------------------------------------------------------------------------------------------


def _uid(owner: str) -> int:
    """The id of a user by name or number; -1 for an empty name. Raises OutputProblem."""
    if not owner:
        return -1
    try:
        uid = _number(owner) if owner.isdecimal() else pwd.getpwnam(owner).pw_uid
    except KeyError as error:
        raise OutputProblem(f"there is no user {formatting.shorten(owner, _MAX_NAME)}") from error
    if uid != os.geteuid() != 0:
        raise OutputProblem(f"only root can give files to user {owner}; this process has user id {os.geteuid()}")
    return uid


def _number(digits: str) -> int:
    """An id. Raises KeyError for a number that the system cannot have."""
    # By its length first: Python refuses to convert thousands of digits.
    if len(digits) > len(str(_MAX_ID)) or int(digits) > _MAX_ID:
        raise KeyError(digits)
    return int(digits)


def _gid(group: str) -> int:
    """The id of a group by name or number; -1 for an empty name. Raises OutputProblem."""
    if not group:
        return -1
    try:
        gid = _number(group) if group.isdecimal() else grp.getgrnam(group).gr_gid
    except KeyError as error:
        raise OutputProblem(f"there is no group {formatting.shorten(group, _MAX_NAME)}") from error
    if os.geteuid() != 0 and gid not in (os.getegid(), *os.getgroups()):
        raise OutputProblem(f"only root can give files to group {group}: user id {os.geteuid()} is not in it")
    return gid
