"""The PKI directory on disk, in kubeadm's layout: what is missing is made, what is there is judged and left alone.

    ca.crt, ca.key                  the authority: trust anchor of clients, signer of everything
    apiserver.crt, apiserver.key    the serving certificate
    sa.key, sa.pub                  the key that signs the tokens of service accounts

Everything is judged before anything is written; a directory that did not exist appears in one step, so that no crash
leaves half a PKI behind. The CA key may be kept elsewhere: then `ca.key` is missing, and what needs it has to be there.

Source: kubernetes, `cmd/kubeadm/app/phases/certs`, `cmd/kubeadm/app/util/pkiutil`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import ipaddress
import os
import pathlib
from collections.abc import Sequence
from typing import Final

from certplane import errors, files
from certplane.x509 import authority, certificates, keys, mint, pem, template

CA_LIFETIME: Final = datetime.timedelta(days=3650)
LEAF_LIFETIME: Final = datetime.timedelta(days=365)
_CA_NAME: Final = "kubernetes"
_SERVICE_NAMES: Final = (
    "kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local",
)  # fmt: skip


@dataclasses.dataclass(frozen=True, slots=True)
class Options:
    """How to make what is missing. `names` are DNS names and IP addresses under which clients reach the server."""

    names: Sequence[str]
    key_kind: str = "RSA-2048"


@dataclasses.dataclass(frozen=True, slots=True)
class PKI:
    """Where everything is. `authority` is None where the CA key is kept elsewhere."""

    directory: pathlib.Path
    ca_certificate: pathlib.Path
    ca_key: pathlib.Path
    certificate: pathlib.Path
    key: pathlib.Path
    account_key: pathlib.Path
    authority: authority.Authority | None

    def client(
        self, name: str, organizations: tuple[str, ...], key_kind: str, now: datetime.datetime
    ) -> tuple[bytes, bytes]:
        """A new client certificate and its key, in PEM. Raises SetupError without the CA key."""
        if self.authority is None:
            raise errors.SetupError(
                f"there is no key beside {self.ca_certificate}, so that no certificate can be made for {name}",
                ("put ca.key there for a moment, or bring the kubeconfig yourself",),
            )
        key = keys.generate(key_kind)
        made = mint.leaf(mint.Leaf(name, organizations), key, self.authority, now, LEAF_LIFETIME)
        return made, keys.to_pem(key)


def ensure(directory: pathlib.Path, options: Options, now: datetime.datetime) -> PKI:
    """The PKI in a directory, completed. Raises SetupError, having written nothing, for one that cannot be used."""
    _check_files(directory)
    with files.told(f"the PKI directory {directory} cannot be used", "check who may use it"):
        return _ensure(directory, options, now)


def _check_files(directory: pathlib.Path) -> None:
    """What is there is ours, and nobody else's. Raises SetupError."""
    if not os.path.lexists(directory):
        return
    files.check_directory(directory, "the PKI directory", is_own=True)
    for name in ("ca.key", "apiserver.key", "sa.key"):
        files.check_own(directory / name, "the key")
    for name in ("ca.crt", "apiserver.crt", "sa.pub"):
        files.check_own(directory / name, "the file", files.UNALTERED)


def _ensure(directory: pathlib.Path, options: Options, now: datetime.datetime) -> PKI:
    ca_cert, ca_key = directory / "ca.crt", directory / "ca.key"
    cert, key = directory / "apiserver.crt", directory / "apiserver.key"
    found = _authority(ca_cert, ca_key)
    serving = _serving(cert, key)
    if not ca_cert.exists():
        if serving:
            raise errors.SetupError(
                f"{cert} is there, but {ca_cert}, which must have signed it, is not",
                (f"bring {ca_cert} back, or move {directory} away to have a new one made",),
            )
        with _appearing(directory) as place:
            found = _make_authority(place, options.key_kind, now)
            _make_serving(place, found, options, now)
    elif not serving:
        if found is None:
            raise errors.SetupError(
                f"there is no serving certificate {cert}, and no {ca_key} to make one with",
                (f"bring {cert} and {key}, or name others with --tls-cert-file and --tls-private-key-file",),
            )
        _make_serving(directory, found, options, now)
    account_key = directory / "sa.key"
    if not account_key.exists():
        _make_account_key(directory, options.key_kind)
    return PKI(directory, ca_cert, ca_key, cert, key, account_key, found)


def load_account_key(path: pathlib.Path) -> keys.PrivateKey:
    """The key that signs tokens, which nobody else can read. Raises SetupError."""
    content = files.read(path, "the service account key")
    try:
        who = files.exposure(path)
        found = keys.from_pem(content)
        keys.jwt_algorithm(found.public_key())
    except keys.KeyProblem as error:
        raise errors.SetupError(f"{path}: {error}", (f"{path} must hold one private key, in PEM",)) from error
    if who is not None:
        hints = (f"chmod 600 {path}", "whoever has this key can be any service account")
        raise errors.SetupError(f"others can read the service account key {path}: {who}", hints)
    return found


def load_authority(certificate: pathlib.Path, key: pathlib.Path) -> authority.Authority:
    """An authority whose key nobody else can read. Raises SetupError."""
    who = files.exposure(key) if key.exists() else None
    if who is not None:
        raise errors.SetupError(
            f"others can read the CA key {key}: {who}",
            (f"chmod 600 {key}", "if somebody may have read it, make a new CA: whoever has this key can be anybody"),
        )
    try:
        return authority.load(certificate, key)
    except authority.AuthorityError as error:
        raise errors.SetupError(
            str(error), (f"{certificate} must hold one CA certificate, and {key} the key that belongs to it",)
        ) from error


def check_pair(certificate: pathlib.Path, key: pathlib.Path) -> None:
    """Raises SetupError if a certificate and a key do not belong together."""
    texts = files.read(certificate, "the certificate"), files.read(key, "the key")
    try:
        found = certificates.first(texts[0])
        private = keys.from_pem(texts[1])
    except keys.KeyProblem as error:
        raise errors.SetupError(f"{key}: {error}", (f"{key} must hold one private key, in PEM",)) from error
    if found is None:
        raise errors.SetupError(
            f"{certificate} holds no certificate", (f"{certificate} must hold a certificate, in PEM",)
        )
    if certificates.public_key_der(found) != keys.spki(private):
        raise errors.SetupError(
            f"the certificate {certificate} does not belong to the key {key}",
            ("bring the pair that belongs together", f"or remove both {certificate} and {key} to have new ones made"),
        )


def _authority(certificate: pathlib.Path, key: pathlib.Path) -> authority.Authority | None:
    if not certificate.exists():
        if key.exists():
            raise errors.SetupError(
                f"{key} is there, but {certificate} is not",
                (f"bring {certificate} back; a key without its certificate signs nothing",),
            )
        return None
    if not key.exists():
        _check_trust_anchor(certificate)
        return None
    return load_authority(certificate, key)


def _check_trust_anchor(certificate: pathlib.Path) -> None:
    try:
        certificates.ClientVerifier(certificate.read_bytes())
    except (OSError, certificates.CertificateError) as error:
        raise errors.SetupError(
            f"{certificate} cannot be used: {error}", (f"{certificate} must hold CA certificates, in PEM",)
        ) from error


def _serving(certificate: pathlib.Path, key: pathlib.Path) -> bool:
    """Whether there is a serving pair."""
    if not certificate.exists() and not key.exists():
        return False
    if not certificate.exists() or not key.exists():
        there, missing = (key, certificate) if key.exists() else (certificate, key)
        raise errors.SetupError(
            f"{there} is there, but {missing} is not",
            (f"bring {missing} back, or remove {there} to have both made anew",),
        )
    check_pair(certificate, key)
    return True


# --- making -------------------------------------------------------------------------------------------------------


def _make_authority(directory: pathlib.Path, kind: str, now: datetime.datetime) -> authority.Authority:
    key = keys.generate(kind)
    certificate = mint.self_signed_ca(_CA_NAME, key, now, CA_LIFETIME)
    files.write(directory / "ca.key", keys.to_pem(key), 0o600)
    files.write(directory / "ca.crt", certificate, 0o644)
    return authority.Authority(next(pem.blocks(certificate)).data, key)


def _make_account_key(directory: pathlib.Path, kind: str) -> None:
    key = keys.generate(kind)
    # The public half first: whoever finds the private one finds both.
    files.write(directory / "sa.pub", keys.public_to_pem(key), 0o600)
    files.write(directory / "sa.key", keys.to_pem(key), 0o600)


def _make_serving(directory: pathlib.Path, by: authority.Authority, options: Options, now: datetime.datetime) -> None:
    key = keys.generate(options.key_kind)
    what = mint.Leaf("kube-apiserver", names=alt_names((*_SERVICE_NAMES, *options.names)))
    made = mint.leaf(what, key, by, now, LEAF_LIFETIME)
    files.write(directory / "apiserver.key", keys.to_pem(key), 0o600)
    files.write(directory / "apiserver.crt", made, 0o644)


def alt_names(names: Sequence[str]) -> template.AltNames:
    """DNS names and IP addresses, told apart, without duplicates; names sorted, addresses in the order given."""
    dns: set[str] = set()
    addresses: dict[ipaddress.IPv4Address | ipaddress.IPv6Address, None] = {}
    for each in names:
        try:
            addresses[ipaddress.ip_address(each)] = None
        except ValueError:
            dns.add(each.lower())
    return template.AltNames(dns=sorted(dns), ip=tuple(addresses))


@contextlib.contextmanager
def _appearing(directory: pathlib.Path):  # type: ignore[no-untyped-def]  # a context manager of a path
    """A place to fill, which becomes `directory` when all went well."""
    if directory.exists() and any(directory.iterdir()):
        # Something else is in there already: the files have to come one by one.
        yield directory
        return
    place = directory.with_name(f".{directory.name}.new")
    files.discard(place)
    place.mkdir(mode=0o700, parents=True)
    try:
        yield place
        if directory.exists():
            directory.rmdir()
        files.rename(place, directory)
    except BaseException:
        with contextlib.suppress(OSError):
            files.discard(place)
        raise
