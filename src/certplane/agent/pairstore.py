"""Pairs of certificate and key on disk, in the layout of the kubelet, and the key of a certificate that is requested.

    NAME-2026-11-30-09-58-00.pem   a pair: the certificate, its chain and its key in one file, mode 0600; UTC
    NAME-current.pem               a symbolic link to the pair in use
    NAME-pending.pem               the key of a certificate that was or will be requested, and its CSR
    NAME-hooks-due                 the pair whose hooks have not been run yet
    NAME.lock                      locked by the process that manages the pair

The process may end, or the machine lose its power, between any two system calls:

- A key is durable before its CSR is created, and is removed only after the pair is durable and in use, or by
  `discard_pending`. So no certificate is ever issued for a key that is lost.
- `NAME-current.pem` is replaced by a rename. A reader sees the old pair or the new one, each complete.
- `recover` finishes a `save` that was interrupted.

The link is relative, so a directory can be mounted elsewhere in another container. The kubelet differs: its link is
absolute, is removed before it is replaced, its file names have the local time, and it keeps all old files.

Source: client-go, `util/certificate/certificate_store.go`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import fcntl
import logging
import os
import pathlib
import re
from collections.abc import Iterator
from typing import Final

from certplane import files
from certplane.agent import certificatefacts
from certplane.agent.certificatefacts import PEM_LABEL, Facts, PairError
from certplane.errors import CertplaneError, SetupError
from certplane.golang import pem
from certplane.x509 import keys
from certplane.x509.keys import InvalidKeyError
from certplane.x509.trust.pathcertificate import CertificateParseError

_log = logging.getLogger("certplane")

#: Bytes of a file. A usual pair has less than 8 KiB.
_MAX_BYTES: Final = 512 * 1024
#: Of a certificate with its chain.
MAX_CERTIFICATE: Final = _MAX_BYTES // 2
#: Former pairs that are kept, besides the current one.
KEPT: Final = 2
_TIME_FORMAT: Final = "%Y-%m-%d-%H-%M-%S"
_TIME_PATTERN: Final = r"\d{4}(?:-\d\d){5}"
_FIELD: Final = re.compile(rb"^(csr-name|csr-uid|replaces): ([A-Za-z0-9._:-]{1,300})$", re.MULTILINE)
_VALUE: Final = re.compile(r"[A-Za-z0-9._:-]{0,300}")


class StoreProblem(CertplaneError):
    """Something in the store cannot be read or written. The text is for log and status, and quotes nothing of a key."""


@dataclasses.dataclass(frozen=True, slots=True)
class Pair:
    """A certificate with its chain, leaf first, and its key; both in PEM."""

    certificate: bytes
    key: bytes = dataclasses.field(repr=False)
    facts: Facts
    path: pathlib.Path

    @property
    def saved(self) -> datetime.datetime:
        """When the pair was saved, by its file name; the beginning of its validity, if the name does not tell."""
        found = re.search(rf"({_TIME_PATTERN})\.pem\Z", self.path.name)
        if found is None:
            return self.facts.not_before
        try:
            return datetime.datetime.strptime(found[1], _TIME_FORMAT).replace(tzinfo=datetime.UTC)
        except ValueError:
            return self.facts.not_before


@dataclasses.dataclass(frozen=True, slots=True)
class Pending:
    """The key of a certificate that is requested, in PEM. Name and UID of the CSR are empty until it is created.
    `replaces` is the file name of the pair that was in use when the key was made, empty without one.
    """

    key: bytes = dataclasses.field(repr=False)
    csr_name: str = ""
    csr_uid: str = ""
    replaces: str = ""


class PairStore:
    """The pairs of one name in a directory. Every method that changes something raises StoreProblem, and has then
    changed nothing that a repetition would not finish.
    """

    def __init__(self, directory: pathlib.Path, name: str) -> None:
        self._directory = directory
        self._name = name
        self._pair_name = re.compile(rf"{re.escape(name)}-{_TIME_PATTERN}\.pem")
        self._reported = ""
        #: The link to the pair in use.
        self.current_path = directory / f"{name}-current.pem"
        #: The same name as the kubelet's: whichever of both was interrupted, the other finishes the swap.
        self._updated_path = directory / f"{name}-updated.pem"
        self._pending_path = directory / f"{name}-pending.pem"
        self._mark_path = directory / f"{name}-hooks-due"
        self._lock_path = directory / f"{name}.lock"

    # --- start ----------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Check owner and mode of the directory and the files, if they exist. Raises SetupError."""
        if not os.path.lexists(self._directory):
            return
        files.check_directory(self._directory, "the certificate directory")
        for path in (self._pending_path, *self._pair_paths()):
            files.check_data_file(path, "the key")
        for path in (self._mark_path, self._lock_path):
            files.check_data_file(path, "the file")
        if os.path.lexists(self.current_path) and not self.current_path.is_symlink():
            raise SetupError(
                f'expected "{self.current_path}" to be a symlink but it is a file',
                (f"move {self.current_path} away; certplane creates it as a link to the pair in use",),
            )

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Create the directory if it is missing, and keep other processes from managing the pair. Raises SetupError,
        and StoreProblem if another process does.
        """
        files.make_directory(self._directory, "the certificate directory")
        self.check()
        with self._translated(f"{self._lock_path} cannot be locked"):
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            handle = os.open(self._lock_path, flags, 0o600)
        try:
            with self._translated(f"{self._lock_path} cannot be locked"):
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError as error:
                    raise StoreProblem(f"another process manages {self.current_path}") from error
            yield
        finally:
            os.close(handle)

    def recover(self) -> None:
        """Finish what an earlier process began. Call it at start, under the lock."""
        with self._translated(f"the files of {self.current_path} cannot be repaired"):
            self._remove_temporary_files()
            self._finish_swap()
            self._finish_save()
            self._repair_link()

    def _remove_temporary_files(self) -> None:
        """They may have keys, and names with a time are not used again."""
        temporary = re.compile(rf"\.{self._pair_name.pattern}\.new")
        for name in os.listdir(self._directory):
            if temporary.fullmatch(name):
                os.unlink(self._directory / name)

    def _finish_swap(self) -> None:
        """As the kubelet does it; it removes the old link before it renames the new one."""
        if not self._updated_path.is_symlink():
            return
        if os.path.lexists(self.current_path):
            os.unlink(self._updated_path)
        else:
            os.rename(self._updated_path, self.current_path)

    def _finish_save(self) -> None:
        """Put a pair to use that was saved while its key is still pending."""
        pending = self.pending()
        pairs = [] if pending is None else [pair for pair in self._stored_pairs() if pair.key == pending.key]
        if pending is not None and pairs:
            newest = max(pairs, key=_age)
            # A renewal may keep the key: then the replaced pair, and older ones, have it too.
            if newest.path.name != pending.replaces:
                self._put_to_use(newest.path)

    def _repair_link(self) -> None:
        """Let the link lead to the newest valid pair, if it leads nowhere, or to something else than a pair."""
        if self.current_path.is_symlink() and self._read_current() is None:
            pairs = self._stored_pairs()
            if pairs:
                self._link(max(pairs, key=_age).path)

    # --- reading --------------------------------------------------------------------------------------------------

    def current(self) -> Pair | None:
        """The pair in use; None if there is none, which an operator may have brought about by removing the link. If it
        cannot be used, this is logged, and the newest valid pair takes its place, which may have expired.
        """
        pair = self._read_current()
        if pair is None and os.path.lexists(self.current_path):
            pairs = self._stored_pairs()
            pair = max(pairs, key=_age) if pairs else None
            if pair is not None:
                self._report(f"{self.current_path} cannot be used; {pair.path} is used instead")
        return pair

    def pending(self) -> Pending | None:
        """The key that waits for a certificate; None if there is none, or, which is logged, its file is damaged."""
        try:
            content = files.read_regular(self._pending_path, _MAX_BYTES)
            _, block = _key_block(content)
            keys.from_pem(content)
        except FileNotFoundError:
            return None
        except (OSError, PairError, InvalidKeyError) as error:
            self._report(f"{self._pending_path} cannot be used: {_reason(error)}")
            return None
        fields = {name.decode(): value.decode() for name, value in _FIELD.findall(content)}
        return Pending(
            pem.encode(block.label, block.data),
            fields.get("csr-name", ""),
            fields.get("csr-uid", ""),
            fields.get("replaces", ""),
        )

    def _read_current(self) -> Pair | None:
        if not self.current_path.is_symlink():
            if os.path.lexists(self.current_path):
                self._report(f'expected "{self.current_path}" to be a symlink but it is a file')
            return None
        try:
            pair = _read_pair(self.current_path)
        except (OSError, StoreProblem) as error:
            self._report(f"{self.current_path} cannot be used: {_reason(error)}")
            return None
        self._reported = ""
        return dataclasses.replace(pair, path=self._directory / os.readlink(self.current_path))

    def _pair_paths(self) -> list[pathlib.Path]:
        """The files of pairs, valid or not, the oldest first by their names."""
        try:
            names = os.listdir(self._directory)
        except OSError:
            return []
        return [self._directory / name for name in sorted(names) if self._pair_name.fullmatch(name)]

    def _stored_pairs(self) -> list[Pair]:
        """The valid pairs."""
        pairs = []
        for path in self._pair_paths():
            with contextlib.suppress(OSError, StoreProblem):
                pairs.append(_read_pair(path))
        return pairs

    # --- writing --------------------------------------------------------------------------------------------------

    def begin(self, key: bytes) -> None:
        """Keep a key, in PEM, durably. To be called before its CSR is created. Another pending key must have been
        discarded.
        """
        if self.pending() is not None:
            raise StoreProblem(f"{self._pending_path} holds a key whose certificate may still be issued")
        self._write_pending(Pending(key, replaces=self._target()))

    def submitted(self, csr_name: str, csr_uid: str) -> None:
        """Keep the name and the UID of the CSR that was created for the pending key, durably."""
        if not (_VALUE.fullmatch(csr_name) and _VALUE.fullmatch(csr_uid)):
            raise StoreProblem("the API server gave the CSR a name or UID with invalid characters")
        self._write_pending(dataclasses.replace(self._require_pending(), csr_name=csr_name, csr_uid=csr_uid))

    def save(self, certificate: bytes, now: datetime.datetime) -> Pair:
        """Put a certificate and its chain, in PEM, to use, with the pending key, which is then no longer pending. The
        hooks are due.
        """
        pending = self._require_pending()
        content = _join(certificate, pending.key)
        with self._translated(f"the pair of {self.current_path} cannot be saved"):
            pair = self._stored(content)
            if pair is None:
                path = self._new_path(now)
                files.write(path, content)
                pair = _read_pair(path)
            self._put_to_use(pair.path)
            self._remove_old()
        return pair

    def _stored(self, content: bytes) -> Pair | None:
        """The pair that an interrupted `save` wrote: repetitions on a full disk must not fill it further."""
        return next((pair for pair in self._stored_pairs() if pair.certificate + pair.key == content), None)

    def discard_pending(self) -> None:
        """Remove the pending key, if there is one."""
        with self._translated(f"{self._pending_path} cannot be removed"):
            self._remove(self._pending_path)

    def hooks_due(self) -> bool:
        """Whether `hooks_done` has not been called since the pair was put to use, in this process or an earlier one."""
        try:
            return files.read_regular(self._mark_path, _MAX_BYTES).decode("utf-8", "replace") == self._target()
        except OSError:
            return False

    def hooks_done(self) -> None:
        """The hooks of the pair in use were run, or there are none."""
        with self._translated(f"{self._mark_path} cannot be removed"):
            self._remove(self._mark_path)

    def _put_to_use(self, path: pathlib.Path) -> None:
        # The mark first: it names the pair, so it has no effect until the link does too.
        files.write(self._mark_path, path.name.encode())
        self._link(path)
        self._remove(self._pending_path)

    def _link(self, path: pathlib.Path) -> None:
        if os.path.lexists(self.current_path) and not self.current_path.is_symlink():
            raise StoreProblem(f'expected "{self.current_path}" to be a symlink but it is a file')
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._updated_path)
        os.symlink(path.name, self._updated_path)
        os.rename(self._updated_path, self.current_path)
        self._sync()

    def _new_path(self, now: datetime.datetime) -> pathlib.Path:
        """A path that is free: certificates of a few seconds, or a clock that went back, lead to a name in use."""
        time = now
        while os.path.lexists(path := self._directory / f"{self._name}-{time.strftime(_TIME_FORMAT)}.pem"):
            time += datetime.timedelta(seconds=1)
        return path

    def _remove_old(self) -> None:
        former = [path for path in self._pair_paths() if path.name != self._target()]
        for path in former[:-KEPT]:
            # The pair is in use whether old ones can be removed or not.
            with contextlib.suppress(OSError):
                os.unlink(path)

    def _write_pending(self, pending: Pending) -> None:
        with self._translated(f"{self._pending_path} cannot be written"):
            _, block = _key_block(pending.key)
            fields = (
                ("csr-name", pending.csr_name),
                ("csr-uid", pending.csr_uid),
                ("replaces", pending.replaces),
            )
            head = "".join(f"{name}: {value}\n" for name, value in fields if value)
            files.write(self._pending_path, head.encode() + pem.encode(block.label, block.data))

    def _require_pending(self) -> Pending:
        pending = self.pending()
        if pending is None:
            raise StoreProblem(f"{self._pending_path} holds no key")
        return pending

    def _remove(self, path: pathlib.Path) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
            self._sync()

    def _sync(self) -> None:
        """Make the names of the directory durable."""
        handle = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    def _target(self) -> str:
        """The name of the pair in use; empty if there is none."""
        try:
            return pathlib.PurePath(os.readlink(self.current_path)).name
        except OSError:
            return ""

    def _report(self, problem: str) -> None:
        """Log a problem, unless it was the last one that was logged."""
        if problem != self._reported:
            self._reported = problem
            _log.warning("a certificate file cannot be used", extra={"certificate": self._name, "error": problem})

    @contextlib.contextmanager
    def _translated(self, message: str) -> Iterator[None]:
        try:
            yield
        except (OSError, PairError) as error:
            raise StoreProblem(f"{message}: {_reason(error)}") from error
        except SetupError as error:
            raise StoreProblem(str(error)) from error


def _age(pair: Pair) -> tuple[datetime.datetime, str]:
    """By what certificates say, because the clock may have been wrong when a file got its name."""
    return pair.facts.not_before, pair.path.name


def _reason(error: Exception) -> str:
    return files.error_text(error) if isinstance(error, OSError) else str(error)


def _join(certificate: bytes, key: bytes) -> bytes:
    """The content of a pair: clean PEM blocks, first the certificates, then the key. Raises StoreProblem."""
    if len(certificate) > MAX_CERTIFICATE:
        raise StoreProblem(f"the certificate that was issued has more than {MAX_CERTIFICATE} bytes")
    chain = [block for block in pem.blocks(certificate) if block.label == PEM_LABEL]
    try:
        certificatefacts.check_pair(certificate, key)
        _, block = _key_block(key)
        certificatefacts.read(chain[0].data)
    except (PairError, CertificateParseError) as error:
        raise StoreProblem(f"the certificate that was issued cannot be used: {error}") from error
    return b"".join(pem.encode(PEM_LABEL, block.data) for block in chain) + pem.encode(block.label, block.data)


def _key_block(content: bytes) -> tuple[list[pem.Block], pem.Block]:
    """The blocks of a text and the first one with a private key. Raises PairError."""
    blocks = list(pem.blocks(content))
    for block in blocks:
        if block.label == "PRIVATE KEY" or block.label.endswith(" PRIVATE KEY"):
            return blocks, block
    raise PairError("it holds no private key in PEM")


def _read_pair(path: pathlib.Path) -> Pair:
    """Raises OSError, and StoreProblem for a file that holds no pair."""
    content = files.read_regular(path, _MAX_BYTES)
    try:
        certificatefacts.check_pair(content, content)
        blocks, key = _key_block(content)
        chain = [block.data for block in blocks if block.label == PEM_LABEL]
        facts = certificatefacts.read(chain[0])
    except (PairError, CertificateParseError) as error:
        raise StoreProblem(f'could not convert data from "{path}" into cert/key pair: {error}') from error
    certificate = b"".join(pem.encode(PEM_LABEL, data) for data in chain)
    return Pair(certificate, pem.encode(key.label, key.data), facts, path)
