"""A CA in two files that may change while certplane runs, and may be replaced one after the other.

At most once a second the status of the files is compared with the previous one; they are read only if it has changed.
New content replaces the CA if it is valid: one CA certificate, the key that belongs to it, and a validity that includes
now. Otherwise the last valid CA stays in use until it expires, and the problem is reported: a CA that is not valid yet
may be installed in advance. Nothing here waits, watches or reads a clock: the caller asks before each signature.

Differs from kube-controller-manager, on purpose: that refuses to sign while the new files are invalid. The texts are
its own (kubernetes, `pkg/controller/certificates/signer/ca_provider.go`, Go `crypto/tls`).
"""

from __future__ import annotations

import dataclasses
import datetime
import functools
import hashlib
import os
import pathlib
import threading
from typing import Final

from certplane import files
from certplane.golang import formatting, pem
from certplane.x509 import keys
from certplane.x509.issuance import authority
from certplane.x509.issuance.authority import AuthorityError
from certplane.x509.issuance.issue import Issuer
from certplane.x509.pkcs10 import weakkeys
from certplane.x509.trust import keypairs

#: How often the files' status is read: there are many signatures in a second, and each would read it twice.
CHECK_INTERVAL: Final = datetime.timedelta(seconds=1)
#: How often the files are read although their status is the same: a second write of the same size within one tick of
#: the file system's clock does not change it.
REREAD_INTERVAL: Final = datetime.timedelta(minutes=1)


class CAFilesError(ValueError):
    """Files that cannot be used as a CA. The text says which file and why, and nothing of the key."""


@dataclasses.dataclass(frozen=True, slots=True)
class IssuerState:
    """The issuer to use now, None if there is none, and the problem with the files, empty if there is none. There may
    be both: the files are invalid now, and the last valid CA has not expired.
    """

    issuer: Issuer | None
    problem: str


#: What changes when a file is written or replaced: device, inode, size, and times in nanoseconds.
_FileStatus = tuple[int, int, int, int, int]


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class _LoadedCA:
    """The issuer of a valid pair of files, and a digest of their content."""

    issuer: Issuer
    digest: bytes


class CAFiles:
    """The CA of one signer, with one issuer for each content of the files. Safe to use from several threads."""

    def __init__(
        self,
        certificate: pathlib.Path,
        key: pathlib.Path,
        max_ttl: datetime.timedelta,
        min_rsa_bits: int = weakkeys.MIN_RSA_BITS,
        *,
        issues_ca: bool = False,
    ) -> None:
        """The other parameters are those of `Issuer`."""
        self._paths = (certificate, key)
        self._new_issuer = functools.partial(Issuer, max_ttl=max_ttl, min_rsa_bits=min_rsa_bits, issues_ca=issues_ca)
        self._lock = threading.Lock()
        self._loaded: _LoadedCA | None = None
        self._problem = ""
        self._statuses: tuple[_FileStatus | None, ...] = ()
        self._checked_at: datetime.datetime | None = None
        self._read_at: datetime.datetime | None = None

    def load(self) -> Issuer:
        """Read the files for the first time. Raises CAFilesError. An expired CA is not an error: it may be renewed."""
        with self._lock:
            try:
                self._loaded, self._problem = self._read(), ""
            except CAFilesError as error:
                self._problem = str(error)
                raise
            return self._loaded.issuer

    def current(self, now: datetime.datetime) -> IssuerState:
        """The state now. Never raises: a signer that started with invalid files recovers when they are replaced."""
        with self._lock:
            self._refresh(now)
            loaded, problem = self._loaded, self._problem
        if loaded is None:
            return IssuerState(None, problem)
        validity_problem = _validity_problem(loaded.issuer, now)
        if not validity_problem:
            return IssuerState(loaded.issuer, problem)
        return IssuerState(None, "; ".join(filter(None, (problem, validity_problem))))

    @property
    def certificate(self) -> bytes | None:
        """The certificate of the last valid CA, in DER, also if it has expired; None if there was none."""
        loaded = self._loaded
        return loaded.issuer.authority.raw if loaded is not None else None

    def recheck(self) -> None:
        """Have the next call of `current` read the files: an operator says that they have changed."""
        with self._lock:
            self._checked_at = self._read_at = None

    def _refresh(self, now: datetime.datetime) -> None:
        if not _has_elapsed(self._checked_at, now, CHECK_INTERVAL):
            return
        self._checked_at = now
        statuses = tuple(map(_file_status, self._paths))
        if statuses == self._statuses and not _has_elapsed(self._read_at, now, REREAD_INTERVAL):
            return
        # The statuses are older than the content that is read now: a write in between is seen at the next check.
        self._statuses, self._read_at = statuses, now
        try:
            loaded = self._read()
            validity_problem = _validity_problem(loaded.issuer, now)
            if self._loaded is not None and loaded is not self._loaded and validity_problem:
                raise CAFilesError(f'error reading CA cert file "{self._paths[0]}": {validity_problem}')
        except CAFilesError as error:
            self._problem = str(error)
        else:
            self._loaded, self._problem = loaded, ""

    def _read(self) -> _LoadedCA:
        """The CA in the files; the loaded one if they have not changed. Raises CAFilesError."""
        certificate, key = self._paths
        error_prefix = f'error reading CA cert file "{certificate}"'
        name = f"csr-controller::{certificate}::{key}"
        try:
            if not certificate.name or not key.name:
                raise CAFilesError(f"{error_prefix}: missing filename for serving cert")
            texts = authority.read_file(certificate), authority.read_file(key)
            if not all(texts):
                raise CAFilesError(f'{error_prefix}: missing content for serving cert "{name}"')
            _check_readers(key)
            digest = hashlib.sha256(b"\0".join(texts)).digest()
            if self._loaded is not None and self._loaded.digest == digest:
                return self._loaded
            _check_blocks(*texts)
            count = sum(block.label == "CERTIFICATE" for block in pem.blocks(texts[0]))
            if count != 1:
                raise CAFilesError(f'error reading CA cert file "{name}": expected 1 certificate, found {count}')
            ca = authority.from_pem(*texts)
        except keys.InvalidKeyError as error:
            raise CAFilesError(f'error reading CA key file "{name}": {error}') from error
        except AuthorityError as error:
            raise CAFilesError(f"{error_prefix}: {error}") from error
        return _LoadedCA(self._new_issuer(ca), digest)


def _file_status(path: pathlib.Path) -> _FileStatus | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _has_elapsed(since: datetime.datetime | None, now: datetime.datetime, period: datetime.timedelta) -> bool:
    # The clock may have been set back.
    return since is None or not since <= now < since + period


def _check_readers(key: pathlib.Path) -> None:
    try:
        readers = files.readable_by_others(key)
    except OSError as error:
        raise AuthorityError(f"open {key}: {(error.strerror or str(error)).lower()}") from error
    if readers is not None:
        raise CAFilesError(f"other users can read the CA key {key}: {readers}")


def _check_blocks(certificate: bytes, key: bytes) -> None:
    """Check for PEM blocks of the right types, in the order of a Go server. Raises AuthorityError."""
    try:
        keypairs.find_blocks(certificate, key)
    except keypairs.KeyPairError as problem:
        raise AuthorityError(str(problem)) from problem


def _validity_problem(issuer: Issuer, now: datetime.datetime) -> str:
    """Why a CA cannot sign now: it has expired, or is not valid yet. Empty if it can."""
    if now >= issuer.authority.not_after:
        return f"the signer has expired: NotAfter={formatting.format_time(issuer.authority.not_after)}"
    if now < issuer.authority.not_before:
        return f"the signer is not valid yet: NotBefore={formatting.format_time(issuer.authority.not_before)}"
    return ""
