"""The directory of an agent, apart from its pairs: which process uses it, its status, and requests for renewal.

    agent.lock          locked by the agent as long as it runs; holds its process id
    status.json         what the agent knows, for `certplane agent status`
    NAME-renew          an operator asks for a new certificate; removed when there is one

A request for renewal is a file, so that it is not lost when no agent runs, or when it ends in between.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Final

import msgspec

from certplane import files
from certplane.errors import SetupError

_WHAT: Final = "the agent's directory"
_NEW_KEY: Final = b"new-key\n"
_MAX_BYTES: Final = 4 * 1024 * 1024
_FLAGS: Final = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class CertificateStatus(msgspec.Struct, rename="camel", kw_only=True, omit_defaults=True):
    """The status of one certificate. Times are RFC 3339, in UTC; texts are empty if there is nothing to say.

    `problem` is about the renewal, `outputs`, `hooks` and `endpoint` about the steps after it. `is_served` says whether
    the endpoint serves the certificate; None if it is not known.
    """

    name: str
    signer_name: str
    phase: str
    serial: str = ""
    not_before: str = ""
    not_after: str = ""
    renewal: str = ""
    csr: str = ""
    problem: str = ""
    outputs: str = ""
    hooks: str = ""
    endpoint: str = ""
    is_served: bool | None = None


class BundleStatus(msgspec.Struct, rename="camel", kw_only=True, omit_defaults=True):
    """The status of one trust bundle. `certificates` are those in the file, after the first update; `retained` of them
    are no longer published, but a certificate in use depends on them.
    """

    path: str
    certificates: int = 0
    retained: int = 0
    problem: str = ""


class AgentStatus(msgspec.Struct, rename="camel", kw_only=True):
    """The status of an agent. `written` is when it last changed."""

    written: str
    certificates: list[CertificateStatus]
    trust_bundles: list[BundleStatus] = []


@dataclasses.dataclass(frozen=True, slots=True)
class AskedRenewal:
    """A renewal that an operator asks for. `time` is that of the request, which differs from a former one."""

    new_key: bool
    time: int


@dataclasses.dataclass(frozen=True, slots=True)
class AgentDirectory:
    """The directory."""

    path: pathlib.Path

    def check(self) -> None:
        """Check owner and mode, if it exists. Raises SetupError."""
        if os.path.lexists(self.path):
            files.check_directory(self.path, _WHAT)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Create the directory if it is missing, and keep other agents out. Raises SetupError."""
        files.make_directory(self.path, _WHAT)
        self.check()
        lock = self.path / "agent.lock"
        with files.as_setup_error(f"{lock} cannot be locked", "check the permissions of the directory"):
            handle = os.open(lock, _FLAGS, 0o600)
            try:
                if not _try_lock(handle):
                    raise SetupError(
                        f"another agent, process {_read_pid(handle)}, uses {self.path}",
                        ("stop it, or set directory to another one in the configuration",),
                    )
                os.ftruncate(handle, 0)
                os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
                yield
            finally:
                os.close(handle)

    def running_agent(self) -> int:
        """The process id of the agent that uses the directory; 0 if none does. Raises SetupError."""
        self.check()
        lock = self.path / "agent.lock"
        with files.as_setup_error(f"{lock} cannot be read", "run this command as the user of the agent"):
            try:
                handle = os.open(lock, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            except FileNotFoundError:
                return 0
            try:
                return 0 if _try_lock(handle) else _read_pid(handle)
            finally:
                os.close(handle)

    # --- status ---------------------------------------------------------------------------------------------------

    def write_status(self, status: AgentStatus) -> None:
        """Raises SetupError."""
        files.write(self.path / "status.json", msgspec.json.encode(status))

    def read_status(self) -> AgentStatus | None:
        """The last status; None if there is none. Raises SetupError."""
        self.check()
        path = self.path / "status.json"
        with files.as_setup_error(f"{path} cannot be read", "run this command as the user of the agent"):
            try:
                return msgspec.json.decode(files.read_regular(path, _MAX_BYTES), type=AgentStatus)
            except FileNotFoundError:
                return None
            except msgspec.DecodeError as error:
                raise SetupError(f"{path} is damaged: {error}", ("the agent writes it anew when it starts",)) from error

    # --- requests for renewal -------------------------------------------------------------------------------------

    def ask_renewal(self, name: str, *, new_key: bool) -> None:
        """Ask for a new certificate. Raises SetupError."""
        files.make_directory(self.path, _WHAT)
        self.check()
        files.write(self._renewal_path(name), _NEW_KEY if new_key else b"\n")

    def asked_renewals(self, names: Sequence[str]) -> dict[str, AskedRenewal]:
        """The renewals that are asked for, by certificate."""
        asked = {}
        for name in names:
            path = self._renewal_path(name)
            with contextlib.suppress(OSError):
                content = files.read_regular(path, len(_NEW_KEY))
                asked[name] = AskedRenewal(content == _NEW_KEY, os.stat(path).st_mtime_ns)
        return asked

    def renewed(self, name: str) -> None:
        """There is a new certificate: nothing is asked any more."""
        with contextlib.suppress(OSError):
            self._renewal_path(name).unlink()

    def _renewal_path(self, name: str) -> pathlib.Path:
        return self.path / f"{name}-renew"


def _try_lock(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read_pid(handle: int) -> int:
    """The process id in the lock file; 0 if the agent has not written it yet."""
    text = os.pread(handle, 20, 0).strip()
    return int(text) if text.isdigit() else 0
