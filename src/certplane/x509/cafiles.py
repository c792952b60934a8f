"""An authority in two files that may change while we run: renewed by hand, by a mounted Secret, or by half.

Once a second at the most, what the file system says of the two files is compared with what it said before; only if that
differs are they read. What is read replaces the authority if it is one: one CA certificate, the key that belongs to it,
begun and not over. Else the last good one goes on signing while it is valid, and what is wrong is told beside it: an
authority of tomorrow may be put there today. Nothing here waits, watches or reads a clock: whoever signs looks before.

Differs from kube-controller-manager, on purpose: that one refuses to sign while the new files are bad. The texts are
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

from certplane import files, gotext
from certplane.x509 import authority, issue, keys, pairs, pem, weak

#: How often the file system is asked: many are signed in a second, and each costs two questions or more.
LOOK: Final = datetime.timedelta(seconds=1)
#: Content that changed without a trace (a second write of the same size within a tick) is found after this time.
RELOAD: Final = datetime.timedelta(minutes=1)


class CAProblem(ValueError):
    """Files that make no authority. The text says which file and why, never what is in the key."""


@dataclasses.dataclass(frozen=True, slots=True)
class State:
    """What there is to sign with, if anything; and what is wrong with the files, empty if nothing is. Both at once: the
    files are bad now, and the last good authority is still valid.
    """

    issuer: issue.Issuer | None
    problem: str


#: What tells that a file was written or replaced: device, inode, size, and times in nanoseconds.
_Trace = tuple[int, int, int, int, int]


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class _Good:
    """The issuer of a content that was good, and what tells that content again."""

    issuer: issue.Issuer
    digest: bytes


class CAFiles:
    """The authority of one signer, with one issuer for each content of the files. Safe to use from several threads."""

    def __init__(
        self,
        certificate: pathlib.Path,
        key: pathlib.Path,
        max_ttl: datetime.timedelta,
        smallest_rsa: int = weak.SMALLEST_RSA,
        *,
        issues_authorities: bool = False,
    ) -> None:
        """All but the files is for the `issue.Issuer` that is made of them."""
        self._paths = (certificate, key)
        self._issuer = functools.partial(
            issue.Issuer, max_ttl=max_ttl, smallest_rsa=smallest_rsa, issues_authorities=issues_authorities
        )
        self._lock = threading.Lock()
        self._good: _Good | None = None
        self._problem = ""
        self._traces: tuple[_Trace | None, ...] = ()
        self._looked: datetime.datetime | None = None
        self._read_at: datetime.datetime | None = None

    def load(self) -> issue.Issuer:
        """Read the files for the first time. Raises CAProblem. That an authority is over is no reason: it may be
        renewed.
        """
        with self._lock:
            self._traces = tuple(map(_trace, self._paths))
            try:
                self._good, self._problem = self._read(), ""
            except CAProblem as error:
                self._problem = str(error)
                raise
            return self._good.issuer

    def current(self, now: datetime.datetime) -> State:
        """What there is to sign with now. Never raises: good files mend a start with bad ones."""
        with self._lock:
            self._follow(now)
            good, problem = self._good, self._problem
        untimely = _untimely(good.issuer, now) if good is not None else ""
        if good is None or not untimely:
            return State(good.issuer if good is not None else None, problem)
        return State(None, "; ".join(filter(None, (problem, untimely))))

    def _follow(self, now: datetime.datetime) -> None:
        if not _is_over(self._looked, now, LOOK):
            return
        self._looked = now
        traces = tuple(map(_trace, self._paths))
        if traces == self._traces and not _is_over(self._read_at, now, RELOAD):
            return
        # The traces are from before the files are read: what is written meanwhile shows at the next look.
        self._traces, self._read_at = traces, now
        try:
            found = self._read()
            untimely = _untimely(found.issuer, now)
            if self._good is not None and found is not self._good and untimely:
                raise CAProblem(f'error reading CA cert file "{self._paths[0]}": {untimely}')
        except CAProblem as error:
            self._problem = str(error)
        else:
            self._good, self._problem = found, ""

    def _read(self) -> _Good:
        """What is in the files; what there is, if they hold the same. Raises CAProblem."""
        certificate, key = self._paths
        wrong = f'error reading CA cert file "{certificate}"'
        name = f"csr-controller::{certificate}::{key}"
        try:
            if not certificate.name or not key.name:
                raise CAProblem(f"{wrong}: missing filename for serving cert")
            texts = authority.content(certificate), authority.content(key)
            if not all(texts):
                raise CAProblem(f'{wrong}: missing content for serving cert "{name}"')
            _check_exposure(key)
            digest = hashlib.sha256(b"\0".join(texts)).digest()
            if self._good is not None and self._good.digest == digest:
                return self._good
            _check_blocks(*texts)
            count = sum(each.label == "CERTIFICATE" for each in pem.blocks(texts[0]))
            if count != 1:
                raise CAProblem(f'error reading CA cert file "{name}": expected 1 certificate, found {count}')
            found = authority.from_pem(*texts)
        except keys.KeyProblem as error:
            raise CAProblem(f'error reading CA key file "{name}": {error}') from error
        except authority.AuthorityError as error:
            raise CAProblem(f"{wrong}: {error}") from error
        return _Good(self._issuer(found), digest)


def _trace(path: pathlib.Path) -> _Trace | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _is_over(since: datetime.datetime | None, now: datetime.datetime, period: datetime.timedelta) -> bool:
    # Clocks are set back as well.
    return since is None or not since <= now < since + period


def _check_exposure(key: pathlib.Path) -> None:
    try:
        who = files.exposure(key)
    except OSError as error:
        raise authority.AuthorityError(f"open {key}: {(error.strerror or str(error)).lower()}") from error
    if who is not None:
        raise CAProblem(f"others can read the CA key {key}: {who}")


def _check_blocks(certificate: bytes, key: bytes) -> None:
    """What a Go server misses first. Raises AuthorityError."""
    try:
        pairs.check_blocks(certificate, key)
    except pairs.PairProblem as problem:
        raise authority.AuthorityError(str(problem)) from problem


def _untimely(of: issue.Issuer, now: datetime.datetime) -> str:
    """Why an authority cannot sign now, if it cannot: it is over, or has not begun."""
    if now >= of.authority.not_after:
        return f"the signer has expired: NotAfter={gotext.time_text(of.authority.not_after)}"
    if now < of.authority.not_before:
        return f"the signer is not valid yet: NotBefore={gotext.time_text(of.authority.not_before)}"
    return ""
