"""Sources on disk: directories, PKI directories of a control plane, kubeconfigs, and files by pattern.

Files may be anything: what `kubeadm.certificatefiles` says about damaged files, pipes and links holds here too. The
number of files is limited, and they are read in a thread, because a file system may not respond.
"""

from __future__ import annotations

import glob
import itertools
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

from certplane import files
from certplane.expiry import findings, threads
from certplane.expiry.findings import Collector, Finding, Labels, SourceProblem
from certplane.expiry.threads import Stopping
from certplane.kubeadm import certificatefiles
from certplane.kubeadm.certificatefiles import FileItem, ListedFile
from certplane.kubeadm.layout import Layout
from certplane.x509 import pkcs12
from certplane.x509.pkcs12 import PKCS12Error
from certplane.x509.trust import inventory, revocationlists
from certplane.x509.trust.inventory import Item
from certplane.x509.trust.revocationlists import RevocationList

#: Files of one source, and files that one kubeconfig names.
MAX_FILES: Final = 200_000
_MAX_REFERENCES: Final = 100
_KEY_STORES: Final = (".p12", ".pfx")
_MAX_PASSWORD: Final = 4096

#: Lists the files to read.
List = Callable[[], Iterable[ListedFile]]


class FileSource:
    """Files. `list_files` says which; it may raise OSError. PKCS#12 is read if there is a password file; kubeconfigs
    are followed to the certificates that they name if `follows_kubeconfigs`.
    """

    def __init__(
        self,
        name: str,
        kind: str,
        list_files: List,
        password_file: pathlib.Path | None = None,
        *,
        follows_kubeconfigs: bool = False,
    ) -> None:
        self.name = name
        self.kind = kind
        self._list_files = list_files
        self._password_file = password_file
        self._follows_kubeconfigs = follows_kubeconfigs
        self._is_running = False

    async def read(self, findings: Collector) -> None:
        """See `Source.read`."""
        if self._is_running:
            # One thread that hangs is enough.
            raise SourceProblem("the file system does not respond: an earlier reading has not ended")
        self._is_running = True
        await threads.call(lambda stopping: self._read(findings, stopping))

    def _read(self, collector: Collector, stopping: Stopping) -> None:
        try:
            password = self._password()
            try:
                for file in self._list_files():
                    stopping.check()
                    findings.all_of(self._inspect(file, password), collector)
            except OSError as error:
                raise SourceProblem(f"{printable(str(error.filename))}: {files.error_text(error)}") from error
        finally:
            self._is_running = False

    def _password(self) -> bytes | None:
        if self._password_file is None:
            return None
        try:
            return files.read_regular(self._password_file, _MAX_PASSWORD).rstrip(b"\r\n")
        except OSError as error:
            raise SourceProblem(f"the password file {self._password_file}: {files.error_text(error)}") from error

    def _inspect(self, file: ListedFile, password: bytes | None) -> Iterator[Finding]:
        if file.problem:
            yield from map(_file_finding, certificatefiles.inspect(file))
            return
        suffix = pathlib.PurePath(file.path).suffix.lower()
        if suffix in _KEY_STORES and password is not None:
            yield from _key_store_findings(file.path, password)
            return
        yield from map(_file_finding, certificatefiles.inspect(file))
        content = _content(file.path)
        yield from _revocation_list_findings(file.path, content)
        if self._follows_kubeconfigs and certificatefiles.is_kubeconfig(content):
            yield from _referenced_findings(file.path, content)


def _content(path: str) -> bytes:
    """The content of a file; empty if it cannot be read: `certificatefiles.inspect` says why."""
    try:
        return files.read_regular(pathlib.Path(path), certificatefiles.MAX_FILE)
    except OSError:
        return b""


# --- which files --------------------------------------------------------------------------------------------------


def directory(name: str, path: pathlib.Path) -> FileSource:
    """All files in and below a directory."""
    return FileSource(name, "directory", lambda: certificatefiles.list_files(path, MAX_FILES))


def control_plane(name: str, layout: Layout) -> FileSource:
    """The PKI directory and the kubeconfigs of a control plane. Kubeconfigs that do not exist are no problem: which
    there are depends on the kind of control plane.
    """

    def list_files() -> Iterator[ListedFile]:
        yield from certificatefiles.list_files(layout.directory, MAX_FILES)
        paths = {entry.certificate for entry in layout.entries if entry.is_kubeconfig}
        if not layout.is_own:
            paths.add(layout.kubeconfig_directory / "kubelet.conf")
        yield from (ListedFile(str(path)) for path in sorted(paths) if os.path.lexists(path))

    return FileSource(name, "controlPlane", list_files, follows_kubeconfigs=True)


def patterns(name: str, texts: Sequence[str], password_file: pathlib.Path | None = None) -> FileSource:
    """Files by patterns of the shell. A pattern without a match is a problem: the file may have been deleted."""
    return FileSource(name, "files", lambda: _matches(texts), password_file)


def kubeconfigs(name: str, texts: Sequence[str]) -> FileSource:
    """Kubeconfigs by patterns of the shell."""
    return FileSource(name, "kubeconfigs", lambda: _matches(texts), follows_kubeconfigs=True)


def _matches(texts: Sequence[str]) -> Iterator[ListedFile]:
    seen: set[str] = set()
    for text in texts:
        paths = list(itertools.islice(glob.iglob(text), MAX_FILES + 1))
        for path in sorted(set(paths[:MAX_FILES]) - seen):
            # A pattern such as /etc/* also matches directories; a path without a pattern names what should be a file.
            if path == text or not os.path.isdir(path):
                yield ListedFile(path)
        if not paths:
            yield ListedFile(text, "there is no such file")
        if len(paths) > MAX_FILES:
            yield ListedFile(text, f"it matches more than {MAX_FILES} files; the rest is not read")
        seen.update(paths)


# --- what is in them ----------------------------------------------------------------------------------------------


def printable(text: str) -> str:
    """A text without characters that control a terminal or cannot be encoded."""
    return "".join(char if char.isprintable() else "?" for char in text)


def _file_labels(path: str, place: str) -> Labels:
    labels = (("filename", os.path.basename(path)), ("filepath", path))
    kind, _, key = place.partition(" ")
    if kind not in ("user", "cluster"):
        return labels
    # A place such as "user admin #2": the number is that of a certificate in a chain.
    return (*labels, ("embedded_kind", kind), ("embedded_key", key.partition(" #")[0]))


def _file_finding(row: FileItem) -> Finding:
    return Finding(row.path, row.place, _file_labels(row.path, row.place), row.item)


def _key_store_findings(path: str, password: bytes) -> Iterator[Finding]:
    labels = _file_labels(path, "")
    try:
        certificates = pkcs12.certificates(files.read_regular(pathlib.Path(path), certificatefiles.MAX_FILE), password)
    except PKCS12Error as error:
        yield Finding(path, "", labels, Item(problem=str(error)))
        return
    except OSError as error:
        yield Finding(path, "", labels, Item(problem=f"it cannot be read: {files.error_text(error)}"))
        return
    for number, raw in enumerate(certificates, 1):
        for item in inventory.inspect(raw, needs_pem=False):
            yield Finding(path, f"#{number}" if len(certificates) > 1 else "", labels, item)


def _revocation_list_findings(path: str, content: bytes) -> Iterator[Finding]:
    lists = revocationlists.inspect(content)
    if not lists and pathlib.PurePath(path).suffix.lower() == ".crl":
        lists = revocationlists.inspect_der(content) or [RevocationList(problem="it holds no revocation list")]
    for found in lists:
        yield revocation_list(path, "", _file_labels(path, ""), found)


def revocation_list(path: str, place: str, labels: Labels, revoked: RevocationList) -> Finding:
    """A revocation list that was found in some place."""
    item = Item(
        subject="revocation list",
        issuer=revoked.issuer,
        not_before=revoked.this_update,
        not_after=revoked.next_update,
        problem=revoked.problem,
    )
    return Finding(path, place, labels, item, is_revocation_list=True)


def _referenced_findings(path: str, content: bytes) -> Iterator[Finding]:
    references = certificatefiles.referenced_files(path, content)
    for reference, place in references[:_MAX_REFERENCES]:
        for found in certificatefiles.inspect(ListedFile(reference)):
            where = " ".join(filter(None, (place, printable(os.path.basename(reference)), found.place)))
            yield Finding(path, where, _file_labels(path, place), found.item)
    if len(references) > _MAX_REFERENCES:
        problem = f"it names more than {_MAX_REFERENCES} files; the rest is not read"
        yield Finding(path, "", _file_labels(path, ""), Item(problem=problem))
