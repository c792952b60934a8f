"""The PKI directory on disk, in kubeadm's layout. Missing files are created; existing ones are checked, never changed.

    ca.crt, ca.key                  the CA: trust anchor of clients, issuer of all certificates
    apiserver.crt, apiserver.key    the serving certificate
    sa.key, sa.pub                  the key that signs the tokens of service accounts

All files are checked before any file is written, and a new directory is created atomically, so that a crash leaves no
incomplete PKI. The CA key may be kept elsewhere: without `ca.key`, the files that need it must exist.

Source: kubernetes, `cmd/kubeadm/app/phases/certs`, `cmd/kubeadm/app/util/pkiutil`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Final

from certplane import files, timestamps
from certplane.errors import SetupError
from certplane.golang import pem
from certplane.x509 import keys
from certplane.x509.issuance import authority, reservednames, selfsigned
from certplane.x509.issuance.authority import Authority
from certplane.x509.trust import certificates, clientcertificates, validity

CA_LIFETIME: Final = selfsigned.CA_LIFETIME
LEAF_LIFETIME: Final = selfsigned.LEAF_LIFETIME
_CA_NAME: Final = "kubernetes"


@dataclasses.dataclass(frozen=True, slots=True)
class PKI:
    """The paths of the PKI. `authority` is None if the CA key is kept elsewhere."""

    directory: pathlib.Path
    ca_certificate: pathlib.Path
    ca_key: pathlib.Path
    certificate: pathlib.Path
    key: pathlib.Path
    account_key: pathlib.Path
    authority: Authority | None

    def client(
        self, name: str, organizations: tuple[str, ...], key_algorithm: str, now: datetime.datetime
    ) -> tuple[bytes, bytes]:
        """Issue a client certificate; returns it and its key, in PEM. Raises SetupError without the CA key."""
        if self.authority is None:
            raise SetupError(
                f"cannot issue a certificate for {name}: {self.ca_key} does not exist",
                ("provide ca.key temporarily, or provide the kubeconfig",),
            )
        key = keys.generate(key_algorithm)
        leaf = selfsigned.Leaf(name, organizations)
        return selfsigned.issue_leaf(leaf, key, self.authority, now, LEAF_LIFETIME), keys.to_pem(key)


def check_files(directory: pathlib.Path) -> None:
    """Check owner and mode of the existing files. Raises SetupError."""
    if not os.path.lexists(directory):
        return
    files.check_directory(directory, "the PKI directory", is_own=True)
    for name in ("ca.key", "apiserver.key", "sa.key"):
        files.check_data_file(directory / name, "the key")
    for name in ("ca.crt", "apiserver.crt", "sa.pub"):
        files.check_data_file(directory / name, "the file", files.READ_ONLY)


def check_not_expired(path: pathlib.Path, now: datetime.datetime) -> None:
    """Raises SetupError if all CA certificates in a file have expired: then nothing that they signed is valid."""
    try:
        ends = [item.not_after for item in validity.from_pem(files.read(path, "the CA certificate"))]
    except certificates.CertificateError as error:
        raise SetupError(f"{path} cannot be used: {error}", (f"{path} must hold CA certificates, in PEM",)) from error
    if ends and max(ends) <= now:
        raise SetupError(
            f"the CA certificate {path} expired at {timestamps.rfc3339(max(ends))}: nothing that it signed is valid",
            ("replace the CA: docs/operations.md", "check the clock of this machine"),
        )


def ensure(directory: pathlib.Path, names: Sequence[str], key_algorithm: str, now: datetime.datetime) -> PKI:
    """Create the missing files of a PKI directory. Raises SetupError, having written nothing, if a file is invalid.

    `names` are the DNS names and IP addresses of the server; `key_algorithm` is that of new keys.
    """
    check_files(directory)
    with files.as_setup_error(f"the PKI directory {directory} cannot be used", "check its permissions"):
        return _ensure(directory, names, key_algorithm, now)


def _ensure(directory: pathlib.Path, names: Sequence[str], key_algorithm: str, now: datetime.datetime) -> PKI:
    ca_cert, ca_key = directory / "ca.crt", directory / "ca.key"
    cert, key = directory / "apiserver.crt", directory / "apiserver.key"
    ca = _load_ca(ca_cert, ca_key)
    has_serving_pair = _check_serving_pair(cert, key)
    if not ca_cert.exists():
        if has_serving_pair:
            raise SetupError(
                f"{cert} exists, but the CA certificate {ca_cert} does not",
                (f"restore {ca_cert}, or move {directory} away to create a new PKI",),
            )
        with _create_directory(directory) as new_directory:
            ca = _create_ca(new_directory, key_algorithm, now)
            _create_serving_pair(new_directory, ca, names, key_algorithm, now)
    elif not has_serving_pair:
        if ca is None:
            raise SetupError(
                f"the serving certificate {cert} does not exist, nor does {ca_key} to issue one",
                (f"provide {cert} and {key}, or name others with --tls-cert-file and --tls-private-key-file",),
            )
        _create_serving_pair(directory, ca, names, key_algorithm, now)
    account_key = directory / "sa.key"
    if not account_key.exists():
        _create_account_key(directory, key_algorithm)
    return PKI(directory, ca_cert, ca_key, cert, key, account_key, ca)


def load_account_key(path: pathlib.Path) -> keys.PrivateKey:
    """Load the key that signs tokens. Raises SetupError if it is invalid, or other users can read it."""
    content = files.read(path, "the service account key")
    try:
        readers = files.readable_by_others(path)
        key = keys.from_pem(content)
        keys.jwt_algorithm(key.public_key())
    except keys.InvalidKeyError as error:
        raise SetupError(f"{path}: {error}", (_key_hint(path),)) from error
    if readers is not None:
        hints = (f"chmod 600 {path}", "anyone with this key can impersonate any service account")
        raise SetupError(f"other users can read the service account key {path}: {readers}", hints)
    return key


def _key_hint(path: pathlib.Path) -> str:
    return f"{path} must hold one private key, in PEM"


def load_authority(certificate: pathlib.Path, key: pathlib.Path) -> Authority:
    """Load a CA. Raises SetupError if it is invalid, or other users can read its key."""
    readers = files.readable_by_others(key) if key.exists() else None
    if readers is not None:
        raise SetupError(
            f"other users can read the CA key {key}: {readers}",
            (
                f"chmod 600 {key}",
                "if the key may have leaked, create a new CA: anyone with this key can impersonate any user",
            ),
        )
    try:
        return authority.load(certificate, key)
    except authority.AuthorityError as error:
        raise SetupError(
            str(error), (f"{certificate} must hold one CA certificate, and {key} its private key, in PEM",)
        ) from error


def check_pair(certificate: pathlib.Path, key: pathlib.Path) -> None:
    """Raises SetupError if the public key of a certificate is not that of a private key."""
    certificate_pem, key_pem = files.read(certificate, "the certificate"), files.read(key, "the key")
    try:
        leaf = certificates.parse_first(certificate_pem)
        private_key = keys.from_pem(key_pem)
    except keys.InvalidKeyError as error:
        raise SetupError(f"{key}: {error}", (_key_hint(key),)) from error
    if leaf is None:
        raise SetupError(f"{certificate} holds no certificate", (f"{certificate} must hold a certificate, in PEM",))
    if certificates.public_key_der(leaf) != keys.spki(private_key):
        raise SetupError(
            f"the certificate {certificate} does not match the private key {key}",
            ("provide a matching pair", f"or remove both {certificate} and {key} to create new ones"),
        )


def _load_ca(certificate: pathlib.Path, key: pathlib.Path) -> Authority | None:
    if not certificate.exists():
        if key.exists():
            raise SetupError(
                f"{key} exists, but {certificate} does not",
                (f"restore {certificate}; a CA key is useless without its certificate",),
            )
        return None
    if not key.exists():
        _check_trust_anchor(certificate)
        return None
    return load_authority(certificate, key)


def _check_trust_anchor(certificate: pathlib.Path) -> None:
    try:
        clientcertificates.ClientVerifier(certificate.read_bytes())
    except (OSError, certificates.CertificateError) as error:
        raise SetupError(
            f"{certificate} cannot be used: {error}", (f"{certificate} must hold CA certificates, in PEM",)
        ) from error


def _check_serving_pair(certificate: pathlib.Path, key: pathlib.Path) -> bool:
    """Whether the serving pair exists. Raises SetupError for half a pair, or one that does not match."""
    if not certificate.exists() and not key.exists():
        return False
    if not certificate.exists() or not key.exists():
        existing, missing = (key, certificate) if key.exists() else (certificate, key)
        raise SetupError(
            f"{existing} exists, but {missing} does not", (f"restore {missing}, or remove {existing} to create both",)
        )
    check_pair(certificate, key)
    return True


# --- creating files -----------------------------------------------------------------------------------------------


def _create_ca(directory: pathlib.Path, key_algorithm: str, now: datetime.datetime) -> Authority:
    key = keys.generate(key_algorithm)
    certificate = selfsigned.self_signed_ca(_CA_NAME, key, now, CA_LIFETIME)
    files.write(directory / "ca.key", keys.to_pem(key), 0o600)
    files.write(directory / "ca.crt", certificate, 0o644)
    return Authority(next(pem.blocks(certificate)).data, key)


def _create_account_key(directory: pathlib.Path, key_algorithm: str) -> None:
    key = keys.generate(key_algorithm)
    # The public key first: `ensure` takes sa.key as a sign that both exist.
    files.write(directory / "sa.pub", keys.public_to_pem(key), 0o600)
    files.write(directory / "sa.key", keys.to_pem(key), 0o600)


def _create_serving_pair(
    directory: pathlib.Path, ca: Authority, names: Sequence[str], key_algorithm: str, now: datetime.datetime
) -> None:
    key = keys.generate(key_algorithm)
    leaf = selfsigned.Leaf("kube-apiserver", names=selfsigned.alt_names((*reservednames.SERVICE_NAMES, *names)))
    certificate = selfsigned.issue_leaf(leaf, key, ca, now, LEAF_LIFETIME)
    files.write(directory / "apiserver.key", keys.to_pem(key), 0o600)
    files.write(directory / "apiserver.crt", certificate, 0o644)


@contextlib.contextmanager
def _create_directory(directory: pathlib.Path) -> Iterator[pathlib.Path]:
    """A temporary directory to fill, which is renamed to `directory` if the block succeeds."""
    if directory.exists() and any(directory.iterdir()):
        # The directory has other files, so ours can only be added one by one.
        yield directory
        return
    temporary = directory.with_name(f".{directory.name}.new")
    files.discard(temporary)
    temporary.mkdir(mode=0o700, parents=True)
    try:
        yield temporary
        if directory.exists():
            directory.rmdir()
        files.rename(temporary, directory)
    except BaseException:
        # Whatever interrupts the work, no directory with keys must stay behind.
        with contextlib.suppress(OSError):
            files.discard(temporary)
        raise
