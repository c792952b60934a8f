"""`certplane inventory`: the certificates that were issued, from a certplane server."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from typing import Final

import click
import msgspec

from certplane.cli import connection, options, plaintext, tables
from certplane.cli.connection import Connection
from certplane.client.api import Client
from certplane.clock import SystemClock
from certplane.config import options as settings
from certplane.errors import SetupError
from certplane.golang import goyaml
from certplane.meta.selectors import FieldSelector, Term
from certplane.resources import issuedcertificates as issued
from certplane.resources.issuedcertificates import IssuedCertificate
from certplane.wire import codec

_PAGE: Final = 500
_NOT_FOUND: Final = 404
_FORBIDDEN: Final = 403
_RULE: Final = "- {apiGroups: [inventory.certplane.io], resources: [issuedcertificates], verbs: [get, list]}"
_HINTS: Final = {
    _NOT_FOUND: "the server has no inventory: it is not certplane, or an older one",
    _FORBIDDEN: f"a ClusterRole allows it with the rule {_RULE}",
}
#: The columns of CSV, each with its value. Their order and names are stable.
_CSV: Final[dict[str, Callable[[IssuedCertificate], str]]] = {
    "fingerprint": lambda obj: obj.certificate.fingerprint,
    "serial_number": lambda obj: obj.certificate.serial_number,
    "subject": lambda obj: obj.certificate.subject,
    "names": lambda obj: " ".join(issued.alternative_names(obj)),
    "not_before": lambda obj: obj.certificate.not_before or "",
    "not_after": lambda obj: obj.certificate.not_after or "",
    "signer_name": lambda obj: obj.signer_name,
    "issuer": lambda obj: obj.certificate.issuer,
    "requester": lambda obj: obj.requester.username,
    "approver": lambda obj: obj.approval.username,
    "approval_method": lambda obj: obj.approval.method,
    "request": lambda obj: obj.request.name,
    "request_uid": lambda obj: obj.request.uid,
    "issued": lambda obj: obj.metadata.creation_timestamp or "",
}
#: Options that select, and the field of the selector for each.
_SELECTORS: Final = {
    "serial": "serialNumber",
    "fingerprint": "fingerprint",
    "common_name": "commonName",
    "organization": "organization",
    "san": "san",
    "signer": "signerName",
    "requester": "requester",
    "approver": "approver",
    "ends_before": "endsBefore",
    "ends_after": "endsAfter",
}


def _selecting(command: Callable[..., None]) -> Callable[..., None]:
    """A decorator that adds the options of a search."""
    for option in reversed(
        (
            click.option("--serial", metavar="HEX", help="Serial number."),
            click.option("--fingerprint", metavar="HEX", help="SHA-256 of the certificate."),
            click.option("--common-name", metavar="NAME", help="Common name: the user of a client certificate."),
            click.option("--organization", metavar="NAME", help="Organization: a group of a client certificate."),
            click.option("--san", metavar="NAME", help="DNS name, IP address, email address or URI."),
            click.option("--signer", metavar="SIGNER", help="Name of the signer."),
            click.option("--requester", metavar="USER", help="User who created the request."),
            click.option("--approver", metavar="USER", help="User who approved the request."),
            click.option("--ends-before", metavar="WHEN", help="A time, a date, or a duration from now, such as 30d."),
            click.option("--ends-after", metavar="WHEN", help="The same; 0s leaves out what has ended."),
        )
    ):
        command = option(command)
    return command


@click.group(cls=options.Group)
def inventory() -> None:
    """List, show and export the certificates that were issued."""


@inventory.command("list", epilog="certplane inventory list --ends-after 0s --ends-before 30d")
@_selecting
@click.option(
    "-o",
    "--output",
    type=click.Choice(["table", "wide", "json", "yaml", "name"]),
    default="table",
    show_default=True,
    help="Format.",
)
@connection.with_connection
def list_(server: Connection, /, output: str, **selection: str | None) -> None:
    """List issued certificates, those that end first at the top."""
    found = _search(server, selection)
    if output == "name":
        click.echo("".join(f"{obj.metadata.name}\n" for obj in found), nl=False)
    elif output in ("json", "yaml"):
        _print_document(found, output)
    elif found:
        click.echo(_table(found, is_wide=output == "wide"), nl=False)
    else:
        connection.report("no certificates found")


@inventory.command(epilog="certplane inventory show 0d34481c88247d88fcd6f988e7466c53")
@click.argument("name")
@click.option(
    "-o", "--output", type=click.Choice(["yaml", "json", "pem"]), default="yaml", show_default=True, help="Format."
)
@connection.with_connection
def show(server: Connection, /, name: str, output: str) -> None:
    """Show a certificate, by its name, serial number or fingerprint."""
    for label in ("metadata.name", "serialNumber", "fingerprint"):
        found = _fetch(server, FieldSelector.equals(label, name))
        if found:
            break
    else:
        quoted = plaintext.escape(name, settings.MAX_QUOTE)
        raise SetupError(f"no issued certificate has the name {quoted}", ("certplane inventory list",))
    if output == "pem":
        click.echo("".join(obj.certificate.pem for obj in found), nl=False)
    else:
        for obj in found:
            click.echo(_as_text(codec.encode(obj), output), nl=False)


@inventory.command(epilog="certplane inventory export -o csv > issued.csv")
@_selecting
@click.option(
    "-o",
    "--output",
    type=click.Choice(["json", "csv", "pem"]),
    default="json",
    show_default=True,
    help="Format; json has one object in a line.",
)
@connection.with_connection
def export(server: Connection, /, output: str, **selection: str | None) -> None:
    """Write all that is known about issued certificates to standard output."""
    if output == "csv":
        click.echo(_csv_line(list(_CSV)), nl=False)

    def write(obj: IssuedCertificate) -> None:
        if output == "csv":
            click.echo(_csv_line([_csv_cell(value(obj)) for value in _CSV.values()]), nl=False)
        elif output == "pem":
            click.echo(obj.certificate.pem, nl=False)
        else:
            click.echo(codec.encode(obj).decode())

    _each(server, _selector(selection), write)


def _selector(selection: dict[str, str | None]) -> FieldSelector:
    terms = [Term(_SELECTORS[option], "=", value) for option, value in selection.items() if value is not None]
    return FieldSelector(tuple(terms))


def _search(server: Connection, selection: dict[str, str | None]) -> Sequence[IssuedCertificate]:
    return _fetch(server, _selector(selection))


def _fetch(server: Connection, selector: FieldSelector) -> Sequence[IssuedCertificate]:
    found: list[IssuedCertificate] = []
    _each(server, selector, found.append)
    return found


def _each(server: Connection, selector: FieldSelector, process: Callable[[IssuedCertificate], None]) -> None:
    """Call a function with each certificate, page by page: a million need not fit into the memory."""

    async def operation(client: Client) -> None:
        async for listing in client.pages(issued.RESOURCE, page=_PAGE, field_selector=str(selector)):
            for obj in listing.items:
                process(obj)

    connection.call(server, operation, _HINTS)


def _print_document(certificates: Sequence[IssuedCertificate], output: str) -> None:
    items = [msgspec.Raw(codec.encode(obj)) for obj in certificates]
    resource = issued.RESOURCE
    document = {"kind": resource.list_kind, "apiVersion": resource.api_version, "metadata": {}, "items": items}
    click.echo(_as_text(msgspec.json.encode(document), output), nl=False)


def _as_text(document: bytes, output: str) -> str:
    if output == "yaml":
        return goyaml.dump(msgspec.json.decode(document))
    return msgspec.json.format(document, indent=2).decode() + "\n"


def _table(certificates: Sequence[IssuedCertificate], *, is_wide: bool) -> str:
    now = SystemClock().now()
    columns = [column for column in issued.RESOURCE.columns if is_wide or not column.priority]
    rows = [[column.name.upper() for column in columns]]
    rows += [[plaintext.escape(str(column.cell(obj, now) or "")) for column in columns] for obj in certificates]
    return tables.format_table(rows)


def _csv_line(cells: Sequence[str]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(cells)
    return line.getvalue()


def _csv_cell(text: str) -> str:
    """A cell that no spreadsheet takes for a formula: whoever requested the certificate chose the text."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text
