"""`certplane kubeconfig create`: a kubeconfig for a user, with a client certificate that ends.

The certificate is requested from the server of the current kubeconfig. Until it is issued, the key is in a file beside
the new kubeconfig, so that a request that is approved later is not lost.
"""

from __future__ import annotations

import base64
import dataclasses
import pathlib
import re
import secrets
import shlex
from collections.abc import Sequence
from http import HTTPStatus
from typing import Final

import click

from certplane import errors, files, signernames
from certplane.cli import connection, csr, durations, exitcodes, newfiles, newrequests, options
from certplane.cli.connection import Connection
from certplane.client import kubeconfig as client_kubeconfig
from certplane.client.api import Client
from certplane.client.kubeconfig import Cluster
from certplane.errors import SetupError
from certplane.golang import asn1, formatting, goyaml
from certplane.resources import certificatesigningrequests as csrs
from certplane.resources.certificatesigningrequests import CertificateSigningRequest
from certplane.x509 import certificatenames, keys
from certplane.x509.pkcs10 import certificaterequest
from certplane.x509.trust import certificates

_REASON: Final = "CertplaneApprove"
_MESSAGE: Final = "This CSR was approved by certplane kubeconfig create --approve."
#: How often an approval is tried when something else changes the request at the same time.
_ATTEMPTS: Final = 5
_ALPHABET: Final = "bcdfghjklmnpqrstvwxz2456789"
_APPROVER_HINT: Final = (
    "approving needs the permission update on certificatesigningrequests/approval, and approve on the signer"
)


@click.group(cls=options.Group)
def kubeconfig() -> None:
    """Create kubeconfigs for users."""


@kubeconfig.command(epilog="certplane kubeconfig create jane --group developers --duration 8h")
@click.argument("user")
@click.option("--group", "--organization", "groups", multiple=True, metavar="NAME", help="Group. Repeatable.")
@click.option(
    "--duration", default="24h0m0s", show_default=True, metavar="DURATION", help="Lifetime of the certificate."
)
@click.option(
    "--key-algorithm", default="ECDSA-P256", show_default=True, metavar="NAME",
    help=f"Algorithm of the key: {', '.join(keys.KINDS)}.",
)  # fmt: skip
@click.option(
    "--approve", is_flag=True,
    help="Approve the request yourself, and print what you approve. Without it, another user has to approve it.",
)  # fmt: skip
@click.option("-o", "--output", default="", metavar="FILE", help="The new kubeconfig.  [default: USER.conf]")
@click.option("--force", is_flag=True, help="Replace FILE; the former one gets the suffix .old.")
@click.option(
    "--timeout", default=csr.TIMEOUT, show_default=True, metavar="DURATION", help="How long to wait for approval."
)
@click.option("--csr", "request", default="", metavar="NAME", help="Continue with this request, which needs --key.")
@click.option("--key", default="", metavar="FILE", help="The key of the request in --csr.")
@connection.with_connection
def create(server: Connection, /, user: str, **values: object) -> None:
    """Create a kubeconfig for USER, with the server of the current kubeconfig and a new client certificate.

    The certificate ends after --duration. What USER may do is decided by RBAC, for the name and the groups.
    """
    _Creation(server, user, _Values(**values)).run()  # type: ignore[arg-type]  # click checks the types


@dataclasses.dataclass(frozen=True, slots=True)
class _Values:
    """The options of `create`."""

    groups: Sequence[str]
    duration: str
    key_algorithm: str
    approve: bool
    output: str
    force: bool
    timeout: str
    request: str
    key: str


class _Creation:
    """One run of `create`."""

    def __init__(self, server: Connection, user: str, values: _Values) -> None:
        if not user:
            raise SetupError("the user name is empty", ("certplane kubeconfig create jane",))
        if bool(values.request) != bool(values.key):
            raise SetupError("--csr and --key belong together", ("set both, to continue with a request, or neither",))
        self._server = server
        self._user = user
        self._values = values
        label = re.sub(r"[^a-z0-9.-]+", "-", user.lower()).strip("-.") or "user"
        self._name = values.request or f"{label}-{''.join(secrets.choice(_ALPHABET) for _ in range(5))}"
        newrequests.check_name(self._name)
        self._path = pathlib.Path(values.output or f"{label}.conf")
        self._default_key_path = pathlib.Path(f"{self._path}.key")
        self._key_path = pathlib.Path(values.key) if values.key else self._default_key_path
        self._contents = newrequests.Contents(
            signer=signernames.KUBE_APISERVER_CLIENT,
            subject=newrequests.subject(user, values.groups),
            names=newrequests.alt_names(),
            usages=("digital signature", *_encipherment(values.key_algorithm), newrequests.CLIENT_AUTH),
            seconds=newrequests.lifetime_seconds(values.duration),
        )
        self._seconds = durations.parse(values.timeout).total_seconds()

    def run(self) -> None:
        if not self._values.force:
            newfiles.check_absent(self._path, "replace it with --force", "or name another file with -o")
        cluster = _cluster(self._server)
        key = self._key()
        wanted = newrequests.build(self._name, self._contents, key)
        created = self._continue(wanted) if self._values.request else self._send(wanted, key)
        try:
            if self._values.approve:
                self._approve(wanted, created.metadata.uid)
            else:
                connection.report(f"if this ends before the certificate is issued: {self._command()}")
            issued = csr.wait_for(self._server, self._name, self._seconds, created.metadata.uid)
        except exitcodes.Failure as error:
            if error.exit_code == exitcodes.REFUSED:
                self._discard_key()
                raise
            raise exitcodes.Failure(
                error.exit_code, error.message, (error.hints[0], f"continue with {self._command()}")
            ) from error
        chain = csr.checked_chain(issued, keys.to_pem(key))
        self._write(cluster, chain, key)
        self._discard_key()
        self._report(cluster, chain)

    # --- the request ----------------------------------------------------------------------------------------------

    def _key(self) -> keys.PrivateKey:
        if self._values.key:
            return newfiles.read_key(self._key_path)
        newfiles.check_absent(
            self._key_path, "it is the key of an earlier request: continue with --csr and --key, or move it away"
        )
        return csr.new_key(self._values.key_algorithm)

    def _send(self, wanted: CertificateSigningRequest, key: keys.PrivateKey) -> CertificateSigningRequest:
        files.write(self._key_path, keys.to_pem(key))
        try:
            return csr.send(self._server, wanted)
        except SetupError as error:
            # Without a response, the request may have been created: then the key is needed.
            if isinstance(error.__cause__, errors.APIError) and error.__cause__.code < HTTPStatus.INTERNAL_SERVER_ERROR:
                self._discard_key()
            raise

    def _continue(self, wanted: CertificateSigningRequest) -> CertificateSigningRequest:
        existing = csr.get(self._server, self._name)
        if not is_same(existing, wanted):
            raise SetupError(
                f"the request {self._name} is not for {self._user} with these groups and this key",
                ("repeat the options with which it was created", "or create a new one, without --csr"),
            )
        return existing

    def _approve(self, wanted: CertificateSigningRequest, uid: str) -> None:
        connection.report(f"approving {self._name}: {newrequests.describe(self._contents)}")
        hints: dict[int, str] = {HTTPStatus.FORBIDDEN: f"{_APPROVER_HINT}; ask an approver, then {self._command()}"}
        connection.call(self._server, lambda client: approve(client, wanted, uid), hints)

    def _command(self) -> str:
        """The command that continues with the request."""
        groups = "".join(f" --group {shlex.quote(group)}" for group in self._values.groups)
        output = f" -o {shlex.quote(self._values.output)}" if self._values.output else ""
        parts = f"--duration {self._values.duration}{groups}{output}{' --force' if self._values.force else ''}"
        request = f"--csr {shlex.quote(self._name)} --key {shlex.quote(str(self._key_path))}"
        return f"certplane kubeconfig create {self._server.flags()}{shlex.quote(self._user)} {parts} {request}"

    def _discard_key(self) -> None:
        """Remove the key that this command has written: no certificate will come, or it is in the kubeconfig."""
        if self._key_path == self._default_key_path:
            newfiles.withdraw(self._key_path, had_former=False)

    # --- the kubeconfig -------------------------------------------------------------------------------------------

    def _write(self, cluster: Cluster, chain: bytes, key: keys.PrivateKey) -> None:
        content = render(self._user, cluster, chain, keys.to_pem(key))
        newfiles.write(self._path, content, newfiles.KEY_MODE)

    def _report(self, cluster: Cluster, chain: bytes) -> None:
        requested, granted = self._contents.seconds, certificates.lifetime(chain)
        if requested is not None and granted is not None and granted.total_seconds() < requested * 0.95:
            shorter = formatting.human_duration(granted.total_seconds())
            connection.report(f"Warning: the signer has shortened the lifetime to {shorter}")
        issued = issued_subject(chain)
        if issued != (self._contents.subject.common_name, sorted(self._contents.subject.organization)):
            connection.report(f"Warning: the certificate is for {formatting.quote(issued[0])}, groups {issued[1]}")
        if cluster.insecure:
            connection.report("Warning: the kubeconfig does not verify the server: insecure-skip-tls-verify was copied")
        click.echo(f"{self._path}: {self._user} at {cluster.server}, {csr.validity(chain)}")


def _encipherment(algorithm: str) -> Sequence[str]:
    return ("key encipherment",) if algorithm.startswith("RSA-") else ()


def _cluster(server: Connection) -> Cluster:
    """The server, as the new kubeconfig describes it."""
    config = server.load()
    paths = server.paths()
    if paths:
        return client_kubeconfig.load_cluster(*paths, context=server.context)
    return Cluster(name="kubernetes", server=config.base, trusted=config.trusted.read())


def is_same(existing: CertificateSigningRequest, wanted: CertificateSigningRequest) -> bool:
    """Whether two requests are for the same certificate. Their PKCS#10 may have different signatures."""
    try:
        found, expected = csrs.requested_certificate(existing), csrs.requested_certificate(wanted)
    except certificaterequest.RequestError:
        return False
    return (
        (existing.spec.signer_name, sorted(found.usages), found.expiration)
        == (wanted.spec.signer_name, sorted(expected.usages), expected.expiration)
    ) and (
        (found.pkcs10.subject, found.pkcs10.spki, found.pkcs10.extensions)
        == (expected.pkcs10.subject, expected.pkcs10.spki, expected.pkcs10.extensions)
    )  # fmt: skip


async def approve(client: Client, wanted: CertificateSigningRequest, uid: str) -> None:
    """Approve a request, unless it is decided. Raises Failure if the server has another one under its name."""
    name = wanted.metadata.name
    for attempt in range(_ATTEMPTS):
        current = await client.get(csrs.RESOURCE, name)
        if current.metadata.uid != uid or not is_same(current, wanted):
            raise exitcodes.Failure(
                exitcodes.REFUSED,
                f"{name} is not approved: it has been replaced by another request",
                ("somebody deleted it and created another one of this name: find out who",),
            )
        if csrs.is_decided(current):
            return
        approved = csrs.with_condition(current, csrs.APPROVED, _REASON, _MESSAGE)
        try:
            await client.update(csrs.RESOURCE, approved, "approval")
            return
        except errors.Conflict:
            if attempt == _ATTEMPTS - 1:
                raise


def issued_subject(chain: bytes) -> tuple[str, list[str]]:
    """Common name and sorted organizations of the first certificate of a chain; empty if they cannot be read."""
    certificate = certificates.parse_first(chain)
    if certificate is None:
        return "", []
    try:
        subject = certificatenames.parse_name(certificates.issuer_and_subject(certificate)[1])
    except asn1.DERError:
        return "", []
    return subject.common_name, sorted(subject.organization)


def render(user: str, cluster: Cluster, chain: bytes, key: bytes) -> bytes:
    """A kubeconfig of one user and one server, with certificate and key, in PEM. Its first line says when it ends."""
    described: dict[str, object] = {"server": cluster.server}
    if cluster.trusted:
        described["certificate-authority-data"] = _base64(cluster.trusted)
    if cluster.server_name:
        described["tls-server-name"] = cluster.server_name
    if cluster.insecure:
        described["insecure-skip-tls-verify"] = True
    if cluster.proxy:
        described["proxy-url"] = cluster.proxy
    context = {"cluster": cluster.name, "user": user}
    if cluster.namespace:
        context["namespace"] = cluster.namespace
    context_name = f"{user}@{cluster.name}"
    document = {
        "apiVersion": "v1",
        "clusters": [{"cluster": described, "name": cluster.name}],
        "contexts": [{"context": context, "name": context_name}],
        "current-context": context_name,
        "kind": "Config",
        "users": [{"name": user, "user": {"client-certificate-data": _base64(chain), "client-key-data": _base64(key)}}],
    }
    end = csr.validity(chain).partition(" (")[0]
    return f"# The certificate in this file is {end}.\n{goyaml.dump(document)}".encode()


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
