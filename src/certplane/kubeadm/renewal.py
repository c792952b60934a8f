"""Renews certificates in place: the subject, names and usages of the existing certificate, with a new key.

For a process that renews its own certificates, or a command that renews an operator's:

    layout = layouts.own(data_directory)
    async with renewal.locked(layout.directory, clock):
        for entry in layout.entries:
            renewal.recover(entry)                          # an interrupted renewal
            existing = renewal.load(entry)                  # None if it is missing; existing.not_after
            if existing is not None and renewal.find_external(layout, entry.ca) is False:
                ca = renewal.load_ca(entry.ca, clock.now()) # checked: pair, CA, validity
                renewed = renewal.renew(entry, ca, renewal.Options(), clock.now())

All functions raise SetupError and never change a CA. `renew` accepts only a certificate that one of the certificates in
the CA file has signed: with another CA, the new certificate would not be trusted where the old one was.

Crashes. Key and certificate are two files, so between two writes they do not match. The new certificate is first
written beside the pair, as `NAME.crt.new`, then the key, then the certificate; at last the first file is removed.
`recover` decides by the key: if it is that of `NAME.crt.new`, the renewal is completed, else it never happened. A
program that starts with half a pair refuses it, because the public keys differ.

The old files are kept, for one generation: `NAME.crt.old`, `NAME.key.old`, `NAME.conf.old`.

Differs from kubeadm, on purpose: kubeadm overwrites in place and keeps nothing, does not check who signed the existing
certificate, and issues certificates that outlive their CA; these end with it, and `Renewed.is_shortened` says so.

Source: kubernetes, `cmd/kubeadm/app/phases/certs/renewal`, whose error texts these are.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import errno
import fcntl
import os
import pathlib
import stat
from collections.abc import AsyncIterator
from typing import Final

from certplane import files
from certplane.clock import Clock
from certplane.errors import SetupError
from certplane.golang import formatting, pem
from certplane.kubeadm import embedded
from certplane.kubeadm.embedded import EmbeddedCredential
from certplane.kubeadm.layout import CertificateAuthority, Entry, Layout
from certplane.x509 import keys, signatures
from certplane.x509.issuance import selfsigned
from certplane.x509.issuance.authority import Authority, AuthorityError
from certplane.x509.trust import certificates, keypairs, pathcertificate
from certplane.x509.trust.pathcertificate import PathCertificate

#: Bytes. A kubeconfig has a few kilobytes; one with many clusters some hundred.
MAX_FILE: Final = 1024 * 1024
#: How long to wait for another process that renews.
LOCK_SECONDS: Final = 10.0
_LOCK_INTERVAL: Final = 0.1
_LOCK_NAME: Final = ".renewal.lock"


@dataclasses.dataclass(frozen=True, slots=True)
class Options:
    """The lifetime of renewed certificates, the algorithm of their keys, one of `keys.KINDS`, and DNS names and IP
    addresses that are added to those of the existing certificate.
    """

    lifetime: datetime.timedelta = selfsigned.LEAF_LIFETIME
    key_algorithm: str = "RSA-2048"
    names: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Existing:
    """A certificate on disk. `certificate` and `key` are PEM; `key` is empty if the file is missing."""

    parsed: PathCertificate
    certificate: bytes
    key: bytes = dataclasses.field(repr=False)

    @property
    def not_before(self) -> datetime.datetime:
        return self.parsed.not_before

    @property
    def not_after(self) -> datetime.datetime:
        return self.parsed.not_after

    @property
    def matches(self) -> bool:
        """Whether the key is that of the certificate."""
        return keypairs.matches(self.certificate, self.key)


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class LoadedCA:
    """A CA that may sign. `trusted` are all certificates in its file, the first of which is the authority's."""

    ca: CertificateAuthority
    authority: Authority
    trusted: tuple[PathCertificate, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Renewed:
    """A certificate that has been renewed. `serial` is in lower-case hex. `is_shortened` if it ends with its CA, before
    the end of the lifetime that was asked for.
    """

    entry: Entry
    serial: str
    not_after: datetime.datetime
    is_shortened: bool


# --- reading ------------------------------------------------------------------------------------------------------


def load(entry: Entry) -> Existing | None:
    """The certificate of an entry; None if its file does not exist. Raises SetupError."""
    content = _read(entry.certificate)
    if content is None:
        return None
    hints = (f"restore {entry.certificate} from a backup",)
    if entry.key is not None:
        context = f"failed to load existing certificate {entry.base_name}"
        parsed = _parse_certificates(content, entry.certificate, context)
        return Existing(parsed[0], content, _read(entry.key) or b"")
    try:
        credential = embedded.read(content, entry.user)
    except embedded.KubeconfigError as error:
        raise SetupError(_kubeconfig_text(entry.certificate, error), hints) from error
    try:
        leaf = _parse_all(credential.certificate)[0]
    except ValueError as error:
        raise SetupError(
            f"kubeConfig file {entry.certificate} does not contain a valid client certificate: {error}", hints
        ) from error
    return Existing(leaf, credential.certificate, credential.key)


def _kubeconfig_text(path: pathlib.Path, error: embedded.KubeconfigError) -> str:
    text = str(error)
    if text.startswith("missing "):
        return f"invalid kubeConfig file {path}: {text}"
    if text.startswith("does not have "):
        return f"kubeConfig file {path} {text}"
    return f"failed to load kubeConfig file {path}: {text}"


def _read(path: pathlib.Path) -> bytes | None:
    """The content of a file, None if there is none. Raises SetupError."""
    try:
        return files.read_regular(path, MAX_FILE)
    except FileNotFoundError:
        return None
    except (files.NotRegularError, files.TooLargeError) as error:
        raise SetupError(f"{path} cannot be read: {error.strerror}", (f"move {path} away",)) from error
    except OSError as error:
        raise SetupError(
            f"open {path}: {(error.strerror or str(error)).lower()}", ("run the command as the owner of the file",)
        ) from error


def _parse_all(content: bytes) -> list[PathCertificate]:
    """The certificates in a PEM text. Raises ValueError with Go's text."""
    parsed = [
        pathcertificate.parse(block.data)
        for block in pem.blocks(content)
        if block.label == certificates.PEM_LABEL and not block.headers
    ]
    if not parsed:
        raise ValueError("data does not contain any valid RSA or ECDSA certificates")
    return parsed


def _parse_certificates(content: bytes, path: pathlib.Path, context: str) -> list[PathCertificate]:
    try:
        return _parse_all(content)
    except ValueError as error:
        raise SetupError(
            f"{context}: couldn't load the certificate file {path}: error reading {path}: {error}",
            (f"{path} must hold a certificate, in PEM", "restore it from a backup"),
        ) from error


# --- the CA -------------------------------------------------------------------------------------------------------


def load_ca(ca: CertificateAuthority, now: datetime.datetime) -> LoadedCA:
    """A CA, ready to sign. Raises SetupError if it is incomplete, its key is that of another one, it is not a CA, or it
    is not valid now.
    """
    context = f"failure loading {ca.base_name} certificate authority"
    trusted = load_ca_certificates(ca, context)
    content = _read(ca.key)
    if content is None:
        raise SetupError(
            f"{context}: failed to load key: couldn't load the private key file {ca.key}: no such file or directory",
            (f"restore {ca.key}", "or request new certificates from the CA with certplane certs generate-csr"),
        )
    try:
        authority = Authority(trusted[0].raw, keys.from_pem(content))
    except (AuthorityError, keys.InvalidKeyError) as error:
        raise SetupError(
            f"{context}: {ca.certificate} and {ca.key}: {error}",
            (f"{ca.key} must hold the private key of the first certificate in {ca.certificate}, in PEM",),
        ) from error
    if not authority.is_ca:
        raise SetupError(
            f"{ca.base_name} certificate is not a certificate authority",
            (f"{ca.certificate} must hold a CA certificate",),
        )
    if not authority.not_before <= now <= authority.not_after:
        problem = "has expired" if now > authority.not_after else "is not valid yet"
        begin, end = map(formatting.format_time, (authority.not_before, authority.not_after))
        raise SetupError(
            f"the CA certificate {ca.certificate} {problem}: NotBefore: {begin}, NotAfter: {end}",
            ("replace the CA; this command never does", "check the clock of this machine"),
        )
    return LoadedCA(ca, authority, tuple(trusted))


def load_ca_certificates(ca: CertificateAuthority, context: str = "") -> list[PathCertificate]:
    """All certificates in the file of a CA. Raises SetupError, also if there is no such file."""
    context = context or f"failure loading {ca.base_name} certificate authority"
    content = _read(ca.certificate)
    if content is None:
        raise SetupError(
            f"{context}: couldn't load the certificate file {ca.certificate}: open {ca.certificate}: "
            "no such file or directory",
            (f"restore {ca.certificate}: the CA signs and verifies all other certificates",),
        )
    return _parse_certificates(content, ca.certificate, context)


def find_external(layout: Layout, ca: CertificateAuthority) -> bool:
    """Whether the key of a CA is kept elsewhere. Raises SetupError if a certificate that it should have issued is
    missing then, or was not issued by it, and if the CA certificate cannot be used.
    """
    try:
        return _find_external(layout, ca)
    except SetupError as error:
        raise SetupError(
            f"Error checking external CA condition for {ca.base_name} certificate authority: {error.message}",
            error.hints,
        ) from error


def _find_external(layout: Layout, ca: CertificateAuthority) -> bool:
    trusted = load_ca_certificates(ca, f"failure loading certificate for {ca.title}")
    if not trusted[0].is_ca:
        raise SetupError(f"certificate {ca.title} is not a CA", (f"{ca.certificate} must hold a CA certificate",))
    if os.path.lexists(ca.key):
        return False
    for base_name, title in ca.required:
        certificate, key = (layout.directory / f"{base_name}.{suffix}" for suffix in ("crt", "key"))
        hint = f"the CA key {ca.key} is not here, so {base_name}.crt and {base_name}.key must be provided"
        content, key_content = _read(certificate), _read(key)
        if content is None:
            raise SetupError(
                f"failure loading certificate for {title}: couldn't load the certificate file {certificate}: "
                f"open {certificate}: no such file or directory",
                (hint,),
            )
        leaf = _parse_certificates(content, certificate, f"failure loading certificate for {title}")[0]
        if key_content is None or not keypairs.is_key(key_content):
            reason = f"open {key}: no such file or directory" if key_content is None else "it holds no private key"
            raise SetupError(
                f"failure loading key for {base_name}: couldn't load the private key file {key}: {reason}", (hint,)
            )
        _check_issuer(leaf, trusted, f"certificate {title}", ca)
    return True


def _check_issuer(leaf: PathCertificate, trusted: list[PathCertificate], what: str, ca: CertificateAuthority) -> None:
    """Raises SetupError unless one of the CA certificates has signed the certificate."""
    reason = "x509: certificate signed by unknown authority"
    for certificate in trusted:
        if certificate.subject != leaf.issuer:
            continue
        try:
            signatures.verify(leaf.signature, leaf.to_be_signed, certificate.key, allow_sha1=False)
        except signatures.SignatureError as error:
            reason = str(error)
        else:
            return
    raise SetupError(
        f"{what} is not signed by corresponding CA: {reason}",
        (
            f"restore the CA that issued it in {ca.certificate} and {ca.key}",
            f"to move to a new CA, put its certificate first in {ca.certificate} and keep the old one below it",
        ),
    )


# --- renewing -----------------------------------------------------------------------------------------------------


def renew(entry: Entry, ca: LoadedCA, options: Options, now: datetime.datetime) -> Renewed:
    """Renew the certificate of an entry, and write it. Raises SetupError; the old files are intact then, or `recover`
    restores a matching pair.
    """
    for directory in dict.fromkeys((entry.certificate.parent, ca.ca.directory)):
        files.check_directory(directory, "the directory")
    recover(entry)
    existing = load(entry)
    if existing is None:
        raise SetupError(f"MISSING! {entry.long_name}", (f"create {entry.certificate} first",))
    _check_issuer(existing.parsed, list(ca.trusted), f"certificate {entry.base_name}", ca.ca)
    try:
        leaf = selfsigned.renewable(existing.parsed.raw)
        if options.names:
            names = selfsigned.alt_names((*leaf.names.dns, *map(str, leaf.names.ip), *options.names))
            leaf = dataclasses.replace(leaf, names=names)
        key = keys.generate(options.key_algorithm)
        certificate = selfsigned.issue_leaf(leaf, key, ca.authority, now, options.lifetime)
        issued = _parse_all(certificate)[0]
    except (ValueError, OverflowError) as error:
        raise SetupError(
            f"failed to renew certificate {entry.name}: {error}", (f"check {entry.certificate} with openssl x509",)
        ) from error
    # What a faulty CPU or memory has signed must never replace a certificate that works.
    _check_issuer(issued, list(ca.trusted[:1]), f"the new certificate {entry.base_name}", ca.ca)
    if entry.key is not None:
        _write_pair(entry.certificate, entry.key, certificate, keys.to_pem(key))
    else:
        _write_kubeconfig(entry, certificate, keys.to_pem(key), _ca_text(ca))
    wanted = now.replace(microsecond=0) + options.lifetime
    return Renewed(entry, f"{issued.serial:x}", issued.not_after, is_shortened=issued.not_after < wanted)


def _ca_text(ca: LoadedCA) -> bytes:
    """The CA certificates for kubeconfigs: all of them, so that a client trusts the old and the new one while a CA is
    replaced.
    """
    return b"".join(pem.encode(certificates.PEM_LABEL, certificate.raw) for certificate in ca.trusted)


def recover(entry: Entry) -> bool:
    """Complete a renewal that was interrupted. Returns whether there was one to complete. Raises SetupError."""
    if entry.key is None:
        return False
    staged = _staged(entry.certificate)
    content = _read(staged)
    if content is None:
        return False
    parsed = _parse_certificates(content, staged, "failed to complete a renewal")
    new = Existing(parsed[0], content, _read(entry.key) or b"")
    is_interrupted = new.matches and _read(entry.certificate) != content
    if is_interrupted:
        attributes = _attributes(entry.certificate, 0o644)
        files.write(entry.certificate, content, attributes.mode, owner=attributes.owner)
    with files.as_setup_error(f"{staged} cannot be removed", "check who may write to the directory"):
        staged.unlink()
    return is_interrupted


def _staged(certificate: pathlib.Path) -> pathlib.Path:
    return certificate.with_name(f"{certificate.name}.new")


def _write_pair(certificate: pathlib.Path, key: pathlib.Path, new_certificate: bytes, new_key: bytes) -> None:
    public, private = _attributes(certificate, 0o644), _attributes(key)
    files.write(_staged(certificate), new_certificate, public.mode)
    for path, attributes in ((key, private), (certificate, public)):
        _keep_old(path, attributes)
    files.write(key, new_key, private.mode, owner=private.owner)
    files.write(certificate, new_certificate, public.mode, owner=public.owner)
    with files.as_setup_error(f"{_staged(certificate)} cannot be removed", "remove it"):
        _staged(certificate).unlink()


def _write_kubeconfig(entry: Entry, certificate: bytes, key: bytes, ca: bytes) -> None:
    attributes = _attributes(entry.certificate)
    content = _read(entry.certificate) or b""
    try:
        renewed = embedded.replace(content, EmbeddedCredential(certificate, key, ca), entry.user)
    except embedded.KubeconfigError as error:
        raise SetupError(
            _kubeconfig_text(entry.certificate, error), (f"another process changed {entry.certificate}; try again",)
        ) from error
    _keep_old(entry.certificate, attributes)
    files.write(entry.certificate, renewed, attributes.mode, owner=attributes.owner)


@dataclasses.dataclass(frozen=True, slots=True)
class _Attributes:
    """The mode of a file, and its owner and group if they are not this process's."""

    mode: int
    owner: tuple[int, int] | None = None


def _attributes(path: pathlib.Path, default: int = 0o600) -> _Attributes:
    """The attributes that a new file takes over from the old one: a component that does not run as root must still be
    able to read its key. Raises SetupError for a symbolic link.
    """
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return _Attributes(default)
    except OSError as error:
        raise SetupError(f"{path} cannot be used: {files.error_text(error)}", ("check its permissions",)) from error
    if not stat.S_ISREG(status.st_mode):
        raise SetupError(
            f"{path} is not a regular file, so it is not replaced",
            ("replace a link by a copy of its target, or renew the certificate where the link leads",),
        )
    is_ours = (status.st_uid, status.st_gid) == (os.geteuid(), os.getegid())
    # Only root may give files away. What every user can read is not secret, whatever its mode was.
    owner = None if is_ours or os.geteuid() != 0 else (status.st_uid, status.st_gid)
    allowed = 0o666 if default & 0o004 else 0o660
    return _Attributes(stat.S_IMODE(status.st_mode) & allowed & ~0o022 | 0o600, owner)


def _keep_old(path: pathlib.Path, attributes: _Attributes) -> None:
    content = _read(path)
    if content is not None:
        files.write(path.with_name(f"{path.name}.old"), content, attributes.mode, owner=attributes.owner)


# --- one renewal at a time ----------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def locked(directory: pathlib.Path, timer: Clock, seconds: float = LOCK_SECONDS) -> AsyncIterator[None]:
    """Hold the lock of a certificate directory, so that renewals do not interleave. Raises SetupError if another
    process still has it after `seconds`.
    """
    files.check_directory(directory, "the certificate directory")
    path = directory / _LOCK_NAME
    handle = _open_lock(path)
    try:
        deadline = timer.monotonic() + seconds
        while not _try_lock(handle):
            if timer.monotonic() >= deadline:
                raise SetupError(
                    f"another process is renewing certificates in {directory}: it has locked {path}",
                    ("try again when it has finished",),
                )
            await timer.sleep(_LOCK_INTERVAL)
        yield
    finally:
        os.close(handle)


def _open_lock(path: pathlib.Path) -> int:
    with files.as_setup_error(f"{path} cannot be locked", "run the command as the owner of the directory"):
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        handle = os.open(path, flags, 0o600)
        try:
            status = os.fstat(handle)
            # Whoever can open the file could hold the lock for ever.
            if not stat.S_ISREG(status.st_mode) or status.st_mode & 0o077 or status.st_uid not in (0, os.geteuid()):
                raise SetupError(f"other users can lock {path}", (f"find out who created it, then rm {path}",))
        except BaseException:
            os.close(handle)
            raise
    return handle


def _try_lock(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EAGAIN, errno.EACCES):
            raise SetupError(
                f"the certificate directory cannot be locked: {files.error_text(error)}",
                ("use a file system with locks",),
            ) from error
        return False
    return True
