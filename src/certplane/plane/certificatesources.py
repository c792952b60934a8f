"""Where the certificates are that a process works with: files, kubeconfigs, what TLS uses, the CAs of signers.

Each function returns a source for `expirations`. Files are read in a thread: a file system that does not respond must
not block the event loop. A file that does not exist holds no certificate; whoever needs it reports that.
"""

from __future__ import annotations

import asyncio
import functools
import pathlib
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from certplane import files
from certplane.client.credentials import CredentialProblem, StoredCredentials
from certplane.client.kubeconfig import ClientConfig
from certplane.errors import SetupError
from certplane.golang import pem
from certplane.kubeadm import kubeconfig
from certplane.kubeadm.kubeconfig import KubeconfigUser
from certplane.plane import expirations
from certplane.plane.controllerconfig import ControllerConfig
from certplane.plane.expirations import NamedCertificate, Source, Unreadable
from certplane.x509.trust import validity
from certplane.x509.trust.certificates import CertificateError
from certplane.x509.trust.validity import Validity

Items = Iterable[NamedCertificate | Unreadable]

#: Bytes of a file: more than the largest bundle of CAs has.
_MAX_FILE: Final = 4 * 1024 * 1024
_CA_REMEDY: Final = "replace the CA before it ends: docs/operations.md"


def from_file(name: str, path: pathlib.Path, remedy: str) -> Source:
    """The certificates of a PEM file."""

    def read() -> Items:
        return _read(name, path, remedy, validity.from_pem)

    return functools.partial(asyncio.to_thread, read)


def from_kubeconfig(path: pathlib.Path, user: KubeconfigUser, remedy: str) -> Source:
    """The client certificate of a user in a kubeconfig."""

    def parse(content: bytes) -> Sequence[Validity]:
        certificate = kubeconfig.client_certificate(path, content, user)
        return [] if certificate is None else validity.from_pem(certificate)[:1]

    def read() -> Items:
        return _read(user.file, path, remedy, parse)

    return functools.partial(asyncio.to_thread, read)


def _read(name: str, path: pathlib.Path, remedy: str, parse: Callable[[bytes], Sequence[Validity]]) -> Items:
    try:
        return expirations.named(name, path, parse(files.read_regular(path, _MAX_FILE)), remedy)
    except FileNotFoundError:
        return []
    except OSError as error:
        return [Unreadable(name, f"{path} cannot be read: {files.error_text(error)}")]
    except (CertificateError, SetupError) as error:
        return [Unreadable(name, f"{path} cannot be used: {error}")]


def from_memory(name: str, path: pathlib.Path, certificate: Callable[[], bytes], remedy: str) -> Source:
    """The first certificate of a PEM text that is in use, and was read from a file."""

    async def get() -> Items:
        return _parse(name, path, remedy, certificate())

    return get


def from_client(config: ClientConfig, remedy: str) -> Source:
    """The client certificate of a kubeconfig, under the name "client". An exec plugin is not run for this."""

    async def get() -> Items:
        source = config.current().source
        if not isinstance(source, StoredCredentials):
            return []
        try:
            certificate = (await source.identity()).certificate
        except CredentialProblem as error:
            return [Unreadable("client", str(error))]
        return _parse("client", f"the client certificate for {config.host}", remedy, certificate)

    return get


def _parse(name: str, path: object, remedy: str, certificate: bytes) -> Items:
    """The first certificate of a PEM text."""
    try:
        return expirations.named(name, path, validity.from_pem(certificate)[:1], remedy)
    except CertificateError as error:
        return [Unreadable(name, f"{path} cannot be used: {error}")]


def _pem(certificate: bytes) -> bytes:
    return pem.encode("CERTIFICATE", certificate)


def from_signers(config: ControllerConfig) -> Source:
    """The CA certificates of all signers."""

    async def get() -> Items:
        authorities = {name: signer.ca_certificate for name, signer in config.all_signers().items()}
        return [
            item
            for name, certificate in authorities.items()
            if certificate is not None
            for item in _parse(f"signer:{name}", "the CA of the signer", _CA_REMEDY, _pem(certificate))
        ]

    return get
