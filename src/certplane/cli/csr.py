"""`certplane csr`: request a certificate, wait for it, and fetch it, from any server of the Certificates API."""

from __future__ import annotations

import dataclasses
import pathlib
import shlex
from collections.abc import Sequence
from http import HTTPStatus
from typing import Final

import click

from certplane import errors, files, signernames
from certplane.cli import certificatewait, connection, durations, exitcodes, newfiles, newrequests, options, plaintext
from certplane.cli.certificatewait import CertificateWait
from certplane.cli.connection import Connection
from certplane.client.api import Client
from certplane.clock import SystemClock
from certplane.errors import SetupError
from certplane.golang import formatting
from certplane.resources import certificatesigningrequests as csrs
from certplane.resources.certificatesigningrequests import CertificateSigningRequest
from certplane.x509 import keys
from certplane.x509.trust import certificates, keypairs

TIMEOUT: Final = "5m0s"
_KINDS_HINT: Final = f"supported are {', '.join(keys.KINDS)}"


@click.group(cls=options.Group)
def csr() -> None:
    """Request a certificate, wait for it, and fetch it."""


@csr.command(epilog="certplane csr create web --signer example.com/web --dns www.example.com --wait")
@click.argument("name")
@click.option(
    "--signer", default=signernames.KUBE_APISERVER_CLIENT, show_default=True, metavar="DOMAIN/NAME",
    help="Signer of the certificate.",
)  # fmt: skip
@click.option(
    "--common-name", "--cn", default=None, metavar="TEXT",
    help="Common name: of a client its user name.  [default: NAME; of a server its first DNS name]",
)  # fmt: skip
@click.option(
    "--organization", "--group", "organizations", multiple=True, metavar="TEXT",
    help="Organization: of a client one of its groups. Repeatable.",
)  # fmt: skip
@click.option("--dns", multiple=True, metavar="NAME", help="DNS name of a server. Repeatable.")
@click.option("--ip", multiple=True, metavar="ADDRESS", help="IP address of a server. Repeatable.")
@click.option("--uri", multiple=True, metavar="URI", help="URI, such as a SPIFFE id. Repeatable.")
@click.option("--email", multiple=True, metavar="ADDRESS", help="Email address. Repeatable.")
@click.option(
    "--usage", multiple=True, metavar="USAGE",
    help="Usage, repeatable.  [default: digital signature; key encipherment with an RSA key; server auth with --dns or "
    "--ip, else client auth]",
)  # fmt: skip
@click.option("--duration", default="", metavar="DURATION", help="Lifetime, at least 10m; by default the signer's.")
@click.option(
    "--key", "key_file", default=None, metavar="FILE", help="Use the private key in FILE instead of a new one."
)
@click.option(
    "--key-algorithm", default="ECDSA-P256", show_default=True, metavar="NAME",
    help=f"Algorithm of the new key: {', '.join(keys.KINDS)}.",
)  # fmt: skip
@click.option(
    "-o", "--out-dir", default=".", show_default=True, metavar="DIR", help="Directory of NAME.key and NAME.crt."
)
@click.option("--force", is_flag=True, help="Replace NAME.key and NAME.crt; the former ones get the suffix .old.")
@click.option("--wait", "waits", is_flag=True, help="Wait for the certificate, and write it to NAME.crt.")
@click.option("--timeout", default=TIMEOUT, show_default=True, metavar="DURATION", help="How long --wait waits.")
@click.option(
    "--dry-run", is_flag=True, help="Write the key, and print the manifest for kubectl instead of sending the request."
)
@connection.with_connection
def create(server: Connection, /, name: str, **values: object) -> None:
    """Create a private key and a certificate request for it.

    The key is written to NAME.key, which only you can read, before the request is sent. An approver then runs `kubectl
    certificate approve NAME`.
    """
    Creation(server, name, _Values(**values)).run()  # type: ignore[arg-type]  # click checks the types


@dataclasses.dataclass(frozen=True, slots=True)
class _Values:
    """The options of `create`, as texts."""

    signer: str
    common_name: str | None
    organizations: Sequence[str]
    dns: Sequence[str]
    ip: Sequence[str]
    uri: Sequence[str]
    email: Sequence[str]
    usage: Sequence[str]
    duration: str
    key_file: str | None
    key_algorithm: str
    out_dir: str
    force: bool
    waits: bool
    timeout: str
    dry_run: bool


class Creation:
    """One run of `create`."""

    def __init__(self, server: Connection, name: str, values: _Values) -> None:
        newrequests.check_name(name)
        self._server = server
        self._name = name
        self._values = values
        directory = pathlib.Path(values.out_dir)
        self._key_path = pathlib.Path(values.key_file) if values.key_file else directory / f"{name}.key"
        self._certificate_path = directory / f"{name}.crt"
        self._seconds = durations.parse(values.timeout).total_seconds()

    def run(self) -> None:
        """Everything is checked before the key is written, and the key is written before the request is sent."""
        self._check_paths()
        key = newfiles.read_key(self._key_path) if self._values.key_file else new_key(self._values.key_algorithm)
        wanted = newrequests.build(self._name, self._contents(key), key)
        if not self._values.dry_run:
            self._server.load()
        files.make_directory(pathlib.Path(self._values.out_dir), "the output directory")
        had_former = self._write_key(key)
        if self._values.dry_run:
            click.echo(newrequests.manifest(wanted), nl=False)
            return
        created = self._send(wanted, had_former)
        click.echo(f"certificatesigningrequest.{csrs.RESOURCE.group}/{self._name} created")
        if not self._values.waits:
            self._print_next_commands()
            return
        self._wait(created, key, had_former)

    def _contents(self, key: keys.PrivateKey) -> newrequests.Contents:
        values = self._values
        newrequests.check_signer(values.signer)
        names = newrequests.alt_names(values.dns, values.ip, values.uri, values.email)
        common_name = values.common_name
        if common_name is None:
            common_name = newrequests.default_common_name(self._name, values.signer, names)
        return newrequests.Contents(
            signer=values.signer,
            subject=newrequests.subject(common_name, values.organizations),
            names=names,
            usages=newrequests.usages(values.usage, values.signer, names, key),
            seconds=newrequests.lifetime_seconds(values.duration),
        )

    def _check_paths(self) -> None:
        values = self._values
        if values.force:
            return
        if not values.key_file:
            hints = (f"use the key in it with --key {shlex.quote(str(self._key_path))}", "replace it with --force")
            newfiles.check_absent(self._key_path, *hints)
        if values.waits:
            newfiles.check_absent(self._certificate_path, "replace it with --force", "or use another name or --out-dir")

    def _write_key(self, key: keys.PrivateKey) -> bool:
        """Returns whether a former key was kept."""
        if self._values.key_file:
            warn_about_readers(self._key_path)
            return False
        had_former = newfiles.write(self._key_path, keys.to_pem(key), newfiles.KEY_MODE)
        connection.report(f"the key is in {self._key_path}")
        return had_former

    def _send(self, wanted: CertificateSigningRequest, had_former: bool) -> CertificateSigningRequest:
        try:
            return send(self._server, wanted)
        except SetupError as error:
            # Without a response, the request may have been created: then the key is needed.
            if isinstance(error.__cause__, errors.APIError) and error.__cause__.code < HTTPStatus.INTERNAL_SERVER_ERROR:
                self._withdraw_key(had_former)
            raise

    def _withdraw_key(self, had_former: bool) -> None:
        """No certificate will be issued for the key."""
        if not self._values.key_file:
            newfiles.withdraw(self._key_path, had_former=had_former)
            connection.report(f"{self._key_path} was {'restored' if had_former else 'removed'}")

    def _wait(self, created: CertificateSigningRequest, key: keys.PrivateKey, had_former: bool) -> None:
        try:
            issued = wait_for(self._server, self._name, self._seconds, created.metadata.uid)
        except exitcodes.Failure as error:
            if error.exit_code == exitcodes.REFUSED:
                self._withdraw_key(had_former)
            raise
        chain = checked_chain(issued, keys.to_pem(key))
        newfiles.write(self._certificate_path, chain, newfiles.CERTIFICATE_MODE)
        click.echo(f"{self._certificate_path}: {validity(chain)}")

    def _print_next_commands(self) -> None:
        flags, name = self._server.flags(), shlex.quote(self._name)
        path = shlex.quote(str(self._certificate_path))
        connection.report(f"an approver runs: kubectl {flags}certificate approve {name}")
        connection.report(f"then: certplane csr fetch {flags}{name} -o {path}")


@csr.command("wait")
@click.argument("name")
@click.option("--timeout", default=TIMEOUT, show_default=True, metavar="DURATION", help="0: check once.")
@connection.with_connection
def wait_(server: Connection, /, name: str, timeout: str) -> None:
    """Wait until a request has its certificate, and say what it waits for."""
    newrequests.check_name(name)
    issued = wait_for(server, name, durations.parse(timeout).total_seconds())
    click.echo(f"{name} is issued: {validity(checked_chain(issued))}")
    quoted = shlex.quote(name)
    connection.report(f"fetch it with certplane csr fetch {server.flags()}{quoted} -o {quoted}.crt")


@csr.command()
@click.argument("name")
@click.option("-o", "--output", default="-", metavar="FILE", help="File for the certificate; by default printed.")
@connection.with_connection
def fetch(server: Connection, /, name: str, output: str) -> None:
    """Print the certificate of a request and its chain, or write them to a file."""
    newrequests.check_name(name)
    found = get(server, name)
    if not found.status.certificate:
        certificatewait.check(found)
        raise exitcodes.Failure(
            exitcodes.TIMED_OUT,
            f"{name} has no certificate yet: it is {csrs.condition_text(found)}",
            (f"wait for it with certplane csr wait {server.flags()}{shlex.quote(name)}",),
        )
    chain = checked_chain(found)
    if output == "-":
        click.echo(chain.decode("ascii", "replace"), nl=False)
        return
    path = pathlib.Path(output)
    newfiles.write_certificate(path, chain)
    connection.report(f"{path}: {validity(chain)}")
    _warn_about_other_key(path.with_suffix(".key"), chain)


def _warn_about_other_key(path: pathlib.Path, chain: bytes) -> None:
    """Print that a key beside the certificate, as `create` writes it, is not that of the certificate."""
    try:
        keypairs.check(chain, files.read_regular(path, newfiles.MAX_SIZE))
    except keypairs.KeyPairError:
        connection.report(f"Warning: the certificate is not for the key in {path}")
    except OSError:
        return  # There is no key, or not for us.


# --- steps that other commands share ------------------------------------------------------------------------------


def new_key(algorithm: str) -> keys.PrivateKey:
    """A new key. Raises SetupError for an unknown algorithm."""
    if algorithm not in keys.KINDS:
        raise SetupError(f"unknown key algorithm: {formatting.shorten(algorithm, 100)}", (_KINDS_HINT,))
    return keys.generate(algorithm)


def warn_about_readers(path: pathlib.Path) -> None:
    """Print who else can read a key."""
    with files.as_setup_error(f"the key {path} cannot be read", "check its permissions"):
        readers = files.readable_by_others(path)
    if readers is not None:
        connection.report(f"Warning: other users can read the key {path}: {readers}")


def send(server: Connection, wanted: CertificateSigningRequest) -> CertificateSigningRequest:
    """Create a request on the server. Raises SetupError, caused by the error of the server if it has refused it."""
    name = shlex.quote(wanted.metadata.name)
    hints: dict[int, str] = {
        HTTPStatus.CONFLICT: f"choose another name, or delete that request: kubectl {server.flags()}delete csr {name}",
        HTTPStatus.FORBIDDEN: (
            f"the message says what is not permitted; kubectl {server.flags()}auth can-i --list lists what is"
        ),
        HTTPStatus.UNPROCESSABLE_ENTITY: "the message names the field that the server does not accept",
        HTTPStatus.NOT_FOUND: "check that the server has the API certificates.k8s.io/v1",
    }
    return connection.call(server, lambda client: client.create(csrs.RESOURCE, wanted), hints)


def get(server: Connection, name: str) -> CertificateSigningRequest:
    """A request of the server. Raises SetupError."""
    return connection.call(server, lambda client: client.get(csrs.RESOURCE, name), _hints(server))


def wait_for(server: Connection, name: str, seconds: float, uid: str = "") -> CertificateSigningRequest:
    """The request with its certificate. Raises Failure if there is none, and SetupError."""
    messages = certificatewait.Messages(connection.report, server.flags())

    async def operation(client: Client) -> CertificateSigningRequest:
        return await CertificateWait(client, name, SystemClock(), messages, uid=uid).until_issued(seconds)

    return connection.call(server, operation, _hints(server))


def _hints(server: Connection) -> dict[int, str]:
    text = f"list the requests with kubectl {server.flags()}get csr; decided ones are deleted after an hour"
    permission = "this needs the permission get on certificatesigningrequests; an administrator may fetch it for you"
    return {HTTPStatus.NOT_FOUND: text, HTTPStatus.FORBIDDEN: permission}


def checked_chain(issued: CertificateSigningRequest, key: bytes | None = None) -> bytes:
    """The certificate chain of a request. Raises Failure if it is none, or is not for a key, in PEM."""
    name, chain = issued.metadata.name, issued.status.certificate
    try:
        certificates.check_bundle(chain)
        if key is not None:
            keypairs.check(chain, key)
    except (certificates.CertificateError, keypairs.KeyPairError) as error:
        raise exitcodes.Failure(
            exitcodes.REFUSED,
            f"the certificate of {name} cannot be used: {plaintext.escape(str(error))}",
            ("the signer issued something else than was requested: report it to the operator of the signer",),
        ) from error
    return chain


def validity(chain: bytes) -> str:
    """Until when the first certificate of a chain is valid."""
    not_after = certificates.first_not_after(chain)
    if not_after is None:
        return "the certificate has no readable end of validity"
    left = formatting.human_duration((not_after - SystemClock().now()).total_seconds())
    return f"valid until {not_after:%Y-%m-%dT%H:%M:%SZ} ({left})"
