"""Finds certificates in directories of any files: PEM, DER and kubeconfigs, good and damaged.

Each certificate and each problem becomes one row, and the rest is unharmed: files that cannot be read, are too large,
or are no files; links that lead nowhere or in a cycle. Links to directories and files are followed, and a file that can
be reached by several names is listed once. Files that hold no certificates are not listed, unless their names say that
they should.
"""

from __future__ import annotations

import base64
import dataclasses
import os
import pathlib
import re
import stat
from collections.abc import Iterator
from typing import Any, Final

from certplane import files
from certplane.golang import goyaml, pem
from certplane.x509.trust import inventory
from certplane.x509.trust.inventory import Item

#: Bytes. The CA certificates of a whole system have some hundred kilobytes.
MAX_FILE: Final = 4 * 1024 * 1024
#: Names of files that should hold certificates in PEM, in any format, and in formats that are not read.
_PEM_SUFFIXES: Final = frozenset({".pem", ".crt", ".cert"})
_SUFFIXES: Final = _PEM_SUFFIXES | {".cer", ".der"}
#: What may be in such files instead of a certificate.
_OTHER_CONTENT: Final = re.compile(rb"PRIVATE KEY-----|-----BEGIN X509 CRL-----")
_KEY_STORES: Final = frozenset({".p12", ".pfx", ".jks"})
_KUBECONFIG_WORDS: Final = (b"apiVersion", b"kind", b"Config", b"clusters")
#: How far into a file the words are searched.
_HEAD: Final = 64 * 1024

#: Device and inode.
_Identity = tuple[int, int]


@dataclasses.dataclass(frozen=True, slots=True)
class FileItem:
    """A certificate or a problem, and where it is: the path, and the place in the file, empty for the only one."""

    path: str
    place: str
    item: Item


@dataclasses.dataclass(frozen=True, slots=True)
class ListedFile:
    """A file that may hold certificates, or a path with a problem."""

    path: str
    problem: str = ""


# --- walking ------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class _Name:
    """One name of a file. The shortest path is the best one; on a level, links are better: they have stable names."""

    depth: int
    is_file: bool
    path: str


def list_files(root: pathlib.Path, limit: int | None = None) -> list[ListedFile]:
    """The regular files in and below a directory, and the problems, in the order of their paths. A file is its own
    list. With a limit, the number of files and problems is limited, and a problem says so. Raises OSError if the
    directory itself cannot be read.
    """
    status = os.stat(root)
    if not stat.S_ISDIR(status.st_mode):
        return [ListedFile(str(root))]
    with os.scandir(root):
        pass
    names: dict[_Identity, _Name] = {}
    problems: list[ListedFile] = []
    visited = {_identity(status)}
    pending: list[tuple[str, tuple[_Identity, ...]]] = [(str(root), (_identity(status),))]
    while pending:
        directory, ancestors = pending.pop()
        if limit is not None and len(names) + len(problems) > limit:
            problems.append(ListedFile(str(root), f"it holds more than {limit} files; the rest is not read"))
            break
        try:
            entries = list(os.scandir(directory))
        except OSError as error:
            problems.append(ListedFile(directory, _error_text(error)))
            continue
        for entry in entries:
            try:
                status = entry.stat()
            except OSError as error:
                problems.append(ListedFile(entry.path, _error_text(error)))
                continue
            identity = _identity(status)
            if stat.S_ISDIR(status.st_mode):
                if identity in ancestors:
                    problems.append(ListedFile(entry.path, "a link to a directory above it, which is not followed"))
                elif identity not in visited:
                    visited.add(identity)
                    pending.append((entry.path, (*ancestors, identity)))
            elif stat.S_ISREG(status.st_mode):
                name = _Name(len(ancestors), not entry.is_symlink(), entry.path)
                names[identity] = min(name, names.get(identity, name), key=dataclasses.astuple)
            elif pathlib.PurePath(entry.name).suffix in _SUFFIXES:
                problems.append(ListedFile(entry.path, "not a regular file"))
    return sorted((*(ListedFile(name.path) for name in names.values()), *problems), key=lambda file: file.path)


def _identity(status: os.stat_result) -> _Identity:
    return status.st_dev, status.st_ino


def _error_text(error: OSError) -> str:
    return f"it cannot be read: {files.error_text(error)}"


# --- reading ------------------------------------------------------------------------------------------------------


def inspect(file: ListedFile) -> list[FileItem]:
    """The certificates in a file, and its problems. Never raises for a damaged file."""
    if file.problem:
        return [FileItem(file.path, "", Item(problem=file.problem))]
    suffix = pathlib.PurePath(file.path).suffix.lower()
    if suffix in _KEY_STORES:
        return [FileItem(file.path, "", Item(note="a key store, which is not read"))]
    try:
        content = files.read_regular(pathlib.Path(file.path), MAX_FILE)
    except files.TooLargeError:
        # Such as a log: only the name says whether there should be a certificate in it.
        problem = f"it is larger than {MAX_FILE // 1024 // 1024} MiB"
        return [FileItem(file.path, "", Item(problem=problem))] if suffix in _SUFFIXES else []
    except OSError as error:
        return [FileItem(file.path, "", Item(problem=_error_text(error)))]
    return inspect_content(file.path, content)


def inspect_content(path: str, content: bytes) -> list[FileItem]:
    """The certificates in a file that was read, and its problems."""
    suffix = pathlib.PurePath(path).suffix.lower()
    if is_kubeconfig(content):
        return list(_kubeconfig_items(path, content))
    items = inventory.inspect(content, needs_pem=suffix in _PEM_SUFFIXES)
    if not items and suffix in _SUFFIXES and not _OTHER_CONTENT.search(content):
        items = [Item(problem="it holds no certificate" if content else "it is empty")]
    return _place(path, "", items)


def is_kubeconfig(content: bytes) -> bool:
    """Whether a file looks like a kubeconfig."""
    head = content[:_HEAD]
    return all(word in head for word in _KUBECONFIG_WORDS) and b"-----BEGIN" not in head


def referenced_files(path: str, content: bytes) -> list[tuple[str, str]]:
    """The certificate files that a kubeconfig names, each with what names it: "user admin". Relative paths are relative
    to the directory of the kubeconfig, as in client-go. Empty for a kubeconfig that cannot be parsed.
    """
    try:
        config = goyaml.load(content)
    except goyaml.YAMLError:
        return []
    if not isinstance(config, dict):
        return []
    found = []
    for section, inner, name in (
        ("clusters", "cluster", "certificate-authority"),
        ("users", "user", "client-certificate"),
    ):
        for entry in _entries(config, section):
            values = entry.get(inner)
            text = values.get(name) if isinstance(values, dict) else None
            # Embedded data counts more than a file, as in client-go.
            if isinstance(values, dict) and text and isinstance(text, str) and not values.get(f"{name}-data"):
                found.append((os.path.join(os.path.dirname(path), text), f"{inner} {entry.get('name')}"))
    return found


def _place(path: str, prefix: str, items: list[Item]) -> list[FileItem]:
    if len(items) == 1:
        return [FileItem(path, prefix, items[0])]
    separator = " " if prefix else ""
    return [FileItem(path, f"{prefix}{separator}#{number}", item) for number, item in enumerate(items, 1)]


def _kubeconfig_items(path: str, content: bytes) -> Iterator[FileItem]:
    try:
        config = goyaml.load(content)
    except goyaml.YAMLError:
        yield FileItem(path, "", Item(problem="a kubeconfig that is not valid YAML"))
        return
    if not isinstance(config, dict) or config.get("kind") != "Config":
        return
    contexts = [entry.get("name") for entry in _entries(config, "contexts")]
    users = [entry.get("name") for entry in _entries(config, "users")]
    if config.get("current-context") not in contexts or not users:
        yield FileItem(path, "", Item(problem="a kubeconfig without its current context: it may be half-written"))
    for entry in _entries(config, "clusters"):
        yield from _embedded_items(path, entry, "cluster", "certificate-authority-data")
    for entry in _entries(config, "users"):
        yield from _embedded_items(path, entry, "user", "client-certificate-data")
        problem = _user_problem(entry.get("user"))
        if problem:
            yield FileItem(path, f"user {entry.get('name')}", Item(problem=problem))


def _entries(config: dict[str, Any], section: str) -> list[dict[str, Any]]:
    entries = config.get(section)
    return [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []


def _embedded_items(path: str, entry: dict[str, Any], inner: str, name: str) -> list[FileItem]:
    values = entry.get(inner)
    text = values.get(name) if isinstance(values, dict) else None
    if not text:
        return []
    try:
        items = inventory.inspect(_decode(text), needs_pem=True) or [Item(problem="it holds no certificate")]
    except ValueError:
        items = [Item(problem="it is not base64")]
    return _place(path, f"{inner} {entry.get('name')}", items)


def _user_problem(user: object) -> str:
    """What a user lacks, because the file was written by half. The key is not loaded."""
    if not isinstance(user, dict) or not any(user.values()):
        return "it has no credentials"
    if not user.get("client-certificate-data") or user.get("client-key"):
        return ""
    try:
        blocks = pem.blocks(_decode(user.get("client-key-data") or ""))
    except ValueError:
        return "its key is not base64"
    return "" if any(block.label.endswith("PRIVATE KEY") for block in blocks) else "its key is missing or damaged"


def _decode(text: object) -> bytes:
    # A block scalar has newlines.
    return base64.b64decode("".join(str(text).split()).encode("ascii"), validate=True)
