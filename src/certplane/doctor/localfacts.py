"""What is on this machine: the files of a data directory of certplane, or of kubeadm, and what is in them.

Files are only read. A database is not opened, only its first bytes are read, and a log not at all.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

from certplane import files
from certplane.config import servesettings
from certplane.config.servesettings import Settings
from certplane.config.signing import PairFiles
from certplane.controllers.signing import signersfile
from certplane.doctor import filechecks
from certplane.doctor.certificatechecks import CAFacts
from certplane.doctor.filechecks import Kind, PathFacts
from certplane.doctor.signerchecks import SignerFacts
from certplane.doctor.storechecks import HEADER, DiskFacts, StoreFacts
from certplane.errors import SetupError
from certplane.golang import goyaml
from certplane.kubeadm import certificatefiles
from certplane.kubeadm.certificatefiles import FileItem, ListedFile
from certplane.kubeadm.layout import CertificateAuthority, Layout
from certplane.signernames import BUILT_IN

#: Bytes of a file that is read: more than the largest bundle of CAs has.
_MAX_FILE: Final = 4 << 20
#: How far into a file a key or a token is searched.
_HEAD: Final = 64 << 10
#: Files of a directory that are examined.
MAX_FILES: Final = 2000
_STORE_SUFFIXES: Final = ("", "-wal", "-shm", ".lock")
#: What a kubeconfig with credentials has, and what a private key has.
_SECRETS: Final = (b"PRIVATE KEY-----", b"client-key-data:", b"token:", b"password:")
_MANIFEST: Final = pathlib.Path("manifests", "kube-controller-manager.yaml")


# --- any directory ------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class DirectoryFacts:
    """Files and directories, the certificates in them, what could not be listed, and how many files were not examined
    because of their number.
    """

    paths: Sequence[PathFacts]
    certificates: Sequence[FileItem]
    problems: Sequence[ListedFile] = ()
    skipped: int = 0


def scan(root: pathlib.Path, known: Iterable[PathFacts]) -> DirectoryFacts:
    """The files below a directory, besides those that are known already. The rules for a data directory are for files
    that the server uses, and those are known. Raises OSError if the directory cannot be read.
    """
    by_path = {facts.path: facts for facts in known}
    listed = certificatefiles.list_files(root)
    items: list[FileItem] = []
    for file in listed[:MAX_FILES]:
        if file.problem:
            continue
        facts = by_path.get(file.path)
        if facts is not None and (facts.kind is Kind.LOG or facts.what == _STORE):
            continue
        if facts is None:
            by_path[file.path] = _classify(file)
        items += certificatefiles.inspect(file)
    # Links, and directories of files.
    for directory in sorted({os.path.dirname(path) for path in by_path}):
        if directory not in by_path and os.path.isdir(directory):
            by_path[directory] = filechecks.look(directory, "the directory", Kind.DIRECTORY)
    problems = [file for file in listed[:MAX_FILES] if file.problem]
    return DirectoryFacts(tuple(by_path.values()), items, problems, max(0, len(listed) - MAX_FILES))


def _classify(file: ListedFile) -> PathFacts:
    """The facts about a file with unknown content: it is a secret if it has a key or a token."""
    suffix = pathlib.PurePath(file.path).suffix
    is_secret = suffix == ".key"
    try:
        handle = os.open(file.path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        try:
            if stat.S_ISREG(os.fstat(handle).st_mode):
                head = os.read(handle, _HEAD)
                is_secret = is_secret or any(word in head for word in _SECRETS)
        finally:
            os.close(handle)
    except OSError:
        # Its problem, if it matters, is that of the facts.
        pass
    return filechecks.look(file.path, "the key" if is_secret else "the file", _kind(is_secret))


def _kind(is_secret: bool) -> Kind:
    return Kind.SECRET if is_secret else Kind.PUBLIC


def read(path: pathlib.Path | None) -> bytes:
    """The content of a file; empty without a path or a file. Raises OSError."""
    if path is None:
        return b""
    try:
        return files.read_regular(path, _MAX_FILE)
    except FileNotFoundError:
        return b""


def disks(places: Sequence[tuple[str, pathlib.Path]]) -> list[DiskFacts]:
    """The file systems of some directories, each once. A directory that does not exist yet counts as the one above.
    Raises OSError.
    """
    found: dict[int, DiskFacts] = {}
    for what, place in places:
        existing = next(path for path in (place.absolute(), *place.absolute().parents) if path.exists())
        device = os.stat(existing).st_dev
        if device in found:
            what = f"{found[device].what} and {what}"
        system = os.statvfs(existing)
        size = system.f_frsize
        found[device] = DiskFacts(
            what, str(existing), system.f_bavail * size, system.f_blocks * size, system.f_favail, system.f_files
        )
    return list(found.values())


def _authority(
    name: str,
    pair: PairFiles,
    bundles: bytes,
    *,
    key_is_required: bool = True,
    issues_ca: bool = False,
) -> CAFacts:
    """The facts about a CA in two files. Never raises."""
    facts = CAFacts(
        name,
        pair,
        key_is_required=key_is_required,
        bundles=bundles,
        issues_ca=issues_ca,
    )
    try:
        certificate, key = _content(pair.cert_file), _content(pair.key_file)
    except OSError as error:
        return dataclasses.replace(facts, problem=f"{error.filename} cannot be read: {files.error_text(error)}")
    return dataclasses.replace(facts, certificate=certificate, key=key)


def _content(path: pathlib.Path | None) -> bytes | None:
    if path is None or not path.exists():
        return None
    return files.read_regular(path, _MAX_FILE)


def read_store(path: pathlib.Path) -> StoreFacts:
    """The size and the header of a database. Raises OSError."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return StoreFacts(str(path))
    try:
        # No other descriptor of this process has locks on the file, so closing this one releases none.
        size, header = os.fstat(handle).st_size, os.read(handle, HEADER)
    finally:
        os.close(handle)
    log = path.with_name(path.name + "-wal")
    return StoreFacts(str(path), size, log.stat().st_size if log.exists() else 0, header)


# --- a data directory ---------------------------------------------------------------------------------------------

_STORE: Final = "the store's file"


class DataDirectory:
    """The files that the settings of `certplane serve` name."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.root = settings.data_dir
        self.pki = settings.data_dir / "pki"

    @property
    def user(self) -> int:
        """The user that the files belong to: the owner of the directory. Raises OSError."""
        return os.stat(self.root).st_uid

    @property
    def client_ca_file(self) -> pathlib.Path:
        return self.settings.client_ca_file or self.pki / "ca.crt"

    def files(self) -> DirectoryFacts:
        """All files in the directory, and all that the settings name. Raises OSError."""
        known = [*self._own_paths(), *self._named_paths(), *self._ancestors()]
        facts = scan(self.root, known)
        named = [path for path in self._named_certificates() if path.exists() and not path.is_relative_to(self.root)]
        items = [item for path in named for item in certificatefiles.inspect(ListedFile(str(path)))]
        return dataclasses.replace(facts, certificates=[*facts.certificates, *items])

    def _own_paths(self) -> Iterator[PathFacts]:
        own = self._looker(is_own=True)
        yield filechecks.look(self.root, "the data directory", Kind.DIRECTORY, is_own=True, follows_links=True)
        yield own(self.pki, "the PKI directory", Kind.DIRECTORY)
        for name, what in (("ca.key", "the CA key"), ("apiserver.key", "the key"), ("sa.key", "the key of tokens")):
            yield own(self.pki / name, what, Kind.SECRET)
        has_pki = (self.pki / "apiserver.crt").exists() or (self.pki / "ca.key").exists()
        yield filechecks.look(
            self.pki / "ca.crt", "the CA certificate", Kind.PUBLIC, is_own=True, is_required=has_pki
        )  # fmt: skip
        for name in ("apiserver.crt", "sa.pub"):
            yield own(self.pki / name, "the file", Kind.PUBLIC)
        for name in ("admin.conf", "super-admin.conf"):
            yield own(self.root / name, "the kubeconfig", Kind.SECRET)
        store = self.settings.store
        if store.parent != self.root:
            yield filechecks.look(
                store.parent, "the directory of the store", Kind.DIRECTORY, is_own=True, follows_links=True
            )
        for suffix in _STORE_SUFFIXES:
            yield own(store.with_name(store.name + suffix), _STORE, Kind.SECRET)
        audit = self.settings.audit
        for path in (audit.log_path, audit.approvals_log_path):
            if str(path) not in (servesettings.NO_LOG, servesettings.STANDARD_OUTPUT):
                for log in (path, *path.parent.glob(f"{path.stem}-*{path.suffix}")):
                    yield own(log, "the audit log", Kind.LOG)

    def _named_paths(self) -> Iterator[PathFacts]:
        settings = self.settings
        signing, accounts = settings.controllers.signing, settings.service_accounts
        secrets = [
            settings.token_auth_file,
            settings.serving.key_file,
            accounts.signing_key_file,
            *(pair.key_file for pair in (signing.common, *signing.by_signer.values())),
            *(pair.key_file for _, pair, _ in self._custom_pairs()),
        ]
        public = [
            *self._named_certificates(),
            accounts.key_file,
            settings.audit.policy_file,
            settings.controllers.serving_approver,
            signing.signers,
        ]
        named = self._looker(is_own=False, is_required=True)
        for path in filter(_is_named, secrets):
            yield named(path, "the token file" if path == settings.token_auth_file else "the key", Kind.SECRET)
        for path in filter(_is_named, public):
            yield named(path, "the file", Kind.PUBLIC)

    def _named_certificates(self) -> list[pathlib.Path]:
        settings = self.settings
        signing = settings.controllers.signing
        paths = [
            settings.client_ca_file,
            settings.serving.cert_file,
            settings.controllers.root_ca_file,
            *(pair.cert_file for pair in (signing.common, *signing.by_signer.values())),
            *(pair.cert_file for _, pair, _ in self._custom_pairs()),
        ]
        return list(dict.fromkeys(path for path in paths if path is not None and _is_named(path)))

    def _ancestors(self) -> Iterator[PathFacts]:
        """The directories above: who can write to one can replace the whole data directory."""
        for path in self.root.absolute().parents:
            yield filechecks.look(path, "the directory", Kind.DIRECTORY)

    @staticmethod
    def _looker(*, is_own: bool, is_required: bool = False) -> Callable[[pathlib.Path | None, str, Kind], PathFacts]:
        def look(path: pathlib.Path | None, what: str, kind: Kind) -> PathFacts:
            return filechecks.look(str(path), what, kind, is_own=is_own, is_required=is_required)

        return look

    def authorities(self) -> list[CAFacts]:
        """The CAs of the signers. Raises OSError."""
        signing = self.settings.controllers.signing
        bundles = read(self.client_ca_file) + b"\n" + read(self.settings.controllers.root_ca_file)
        own = PairFiles(self.pki / "ca.crt", self.pki / "ca.key")
        found = [_authority("the CA of the data directory", own, bundles, key_is_required=signing.is_default)]
        if not signing.is_default:
            by_pair: dict[tuple[object, object], list[str]] = {}
            for name in BUILT_IN:
                pair = signing.pair(name)
                if pair.is_complete:
                    by_pair.setdefault((pair.cert_file, pair.key_file), []).append(name)
            found += [
                _authority(f"the CA of {', '.join(names)}", signing.pair(names[0]), bundles)
                for names in by_pair.values()
            ]
        found += [
            _authority(f"the CA of {signer}", pair, bundles, issues_ca=issues_ca)
            for signer, pair, issues_ca in self._custom_pairs()
        ]
        return found

    def signers(self) -> list[SignerFacts]:
        """The custom signers. Raises OSError, and SetupError for a file that cannot be used."""
        return [
            SignerFacts(
                definition.name,
                str(pair.cert_file),
                read(pair.cert_file),
                limits_subject=None not in (definition.subject.common_name, definition.subject.organizations),
                issues_ca=definition.certificate_authority,
            )
            for definition, pair in self._definitions()
        ]

    def _custom_pairs(self) -> list[tuple[str, PairFiles, bool]]:
        """The CAs of custom signers; none if their file cannot be read, which is a finding of its own."""
        try:
            return [(item.name, pair, item.certificate_authority) for item, pair in self._definitions()]
        except (OSError, SetupError):
            return []

    def _definitions(self) -> list[tuple[signersfile.SignerDefinition, PairFiles]]:
        path = self.settings.controllers.signing.signers
        if path is None:
            return []
        try:
            document = signersfile.parse(files.read_regular(path, _MAX_FILE))
        except signersfile.SignersFileError as error:
            raise SetupError(f"invalid signers file {path}: {error}", ("docs/signers.md has the format",)) from error
        pairs = (
            PairFiles(path.parent / item.authority.cert_file, path.parent / item.authority.key_file)
            for item in document.signers
        )
        return list(zip(document.signers, pairs, strict=True))

    def store(self) -> StoreFacts:
        """The store on disk. Raises OSError."""
        return read_store(self.settings.store)

    def disks(self) -> list[DiskFacts]:
        """The file systems of the store and the audit log. Raises OSError."""
        places = [("the data directory", self.root), ("the store", self.settings.store.parent)]
        if str(self.settings.audit.log_path) not in (servesettings.NO_LOG, servesettings.STANDARD_OUTPUT):
            places.append(("the audit log", self.settings.audit.log_path.parent))
        return disks(places)


def _is_named(path: pathlib.Path | None) -> bool:
    return path is not None and path != pathlib.Path()


# --- kubeadm ------------------------------------------------------------------------------------------------------


def kubeadm_authorities(layout: Layout) -> list[CAFacts]:
    """The CAs of kubeadm. Only the cluster's own has to sign; the keys of the others may be elsewhere."""
    return [_kubeadm_authority(ca) for ca in layout.authorities if ca.certificate.exists()]


def _kubeadm_authority(ca: CertificateAuthority) -> CAFacts:
    pair = PairFiles(ca.certificate, ca.key)
    # kubeadm's files may hold a bundle; the first certificate is the CA.
    return _authority(f"the CA {ca.name}", pair, b"", key_is_required=False)


def controller_manager_arguments(root: pathlib.Path) -> tuple[str, list[str]] | None:
    """The path of the manifest of kube-controller-manager, and the arguments in it; None without a manifest. Raises
    OSError, and SetupError for one that cannot be used.
    """
    path = root / _MANIFEST
    if not path.exists():
        return None
    try:
        manifest = goyaml.load(files.read_regular(path, _MAX_FILE))
        containers = manifest["spec"]["containers"]
        words = [word for container in containers for key in ("command", "args") for word in container.get(key) or ()]
    except (goyaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        raise SetupError(f"the manifest {path} cannot be used", ("it must be a Pod, in YAML",)) from error
    return str(path), [str(word) for word in words]
