"""`certplane token`: bootstrap tokens, with which machines request their first certificate.

Like `kubeadm token`. The tokens are Secrets in kube-system; everything is done through the API, with the permissions of
the user in the kubeconfig.
"""

from __future__ import annotations

import json
import re
import secrets as randomness
from collections.abc import Callable, Coroutine, Sequence
from http import HTTPStatus
from typing import Any, Final, TypeVar

import click

from certplane import timestamps
from certplane.cli import connection, durations, options, tables
from certplane.cli.connection import Connection
from certplane.client.api import Client
from certplane.clock import SystemClock
from certplane.errors import SetupError
from certplane.golang import formatting
from certplane.resources import secrets

_T = TypeVar("_T")

_TOKEN: Final = re.compile(r"([a-z0-9]{6})\.([a-z0-9]{16})")
_ID: Final = re.compile(r"[a-z0-9]{6}")
_GROUP: Final = re.compile(r"system:bootstrappers:[a-z0-9:-]{0,255}[a-z0-9]")
_USAGES: Final = ("authentication", "signing")
_USAGE_PREFIX: Final = "usage-bootstrap-"
_GROUPS_KEY: Final = "auth-extra-groups"
_ALPHABET: Final = "abcdefghijklmnopqrstuvwxyz0123456789"
_DEFAULT_GROUP: Final = "system:bootstrappers:kubeadm:default-node-token"
_GROUPS_HINT: Final = f"groups must begin with system:bootstrappers:, such as {_DEFAULT_GROUP}"


@click.group(cls=options.Group)
def token() -> None:
    """Create, list and delete bootstrap tokens."""


@token.command()
@click.argument("text", metavar="[TOKEN]", default="")
@click.option("--ttl", default="24h0m0s", show_default=True, metavar="DURATION", help="Lifetime; 0: does not expire.")
@click.option("--usages", default="signing,authentication", show_default=True, help="Permitted usages of the token.")
@click.option(
    "--groups",
    default=_DEFAULT_GROUP,
    show_default=True,
    help="Additional groups of a client that authenticates with the token.",
)
@click.option("--description", default="", help="Description of the token.")
@connection.with_connection
def create(server: Connection, /, text: str, **values: str) -> None:
    """Create a token and print it. Without TOKEN, a random token is generated, which is more secure."""
    id_, secret_part = _parse(text) if text else _generate()
    secret = secrets.Secret(type=secrets.BOOTSTRAP_TOKEN)
    secret.metadata.name = secrets.BOOTSTRAP_PREFIX + id_
    secret.data = {"token-id": id_.encode(), "token-secret": secret_part.encode()}
    lifetime = durations.parse(values["ttl"])
    if lifetime:
        secret.data["expiration"] = timestamps.rfc3339(SystemClock().now() + lifetime).encode()
    usages = _split(values["usages"], _USAGES.__contains__, "usage", f"supported usages are {' and '.join(_USAGES)}")
    secret.data |= {_USAGE_PREFIX + usage: b"true" for usage in usages}
    groups = _split(values["groups"], lambda group: bool(_GROUP.fullmatch(group)), "group", _GROUPS_HINT)
    if groups and "authentication" not in usages:
        raise SetupError(
            "a token without the usage authentication cannot have groups",
            ("use --usages signing,authentication to authenticate with it", '--groups "" creates it without groups'),
        )
    if groups:
        secret.data[_GROUPS_KEY] = ",".join(groups).encode()
    if values["description"]:
        try:
            secret.data["description"] = values["description"].encode()
        except UnicodeEncodeError as error:
            raise SetupError("the description is not valid UTF-8", ("write --description in UTF-8",)) from error
    _call(server, lambda client: client.create(secrets.RESOURCE, secret, secrets.BOOTSTRAP_NAMESPACE))
    click.echo(f"{id_}.{secret_part}")


@token.command()
@connection.with_connection
def generate(server: Connection, /) -> None:
    """Print a random token, without creating it on the server."""
    # As for kubeadm, the options of the connection are allowed and have no effect.
    del server
    click.echo(".".join(_generate()))


@token.command("list")
@click.option("-o", "--output", type=click.Choice(("table", "json")), default="table", show_default=True)
@connection.with_connection
def list_(server: Connection, /, output: str) -> None:
    """List the tokens, with their usages and remaining lifetimes."""
    listing = _call(server, lambda client: client.list(secrets.RESOURCE, secrets.BOOTSTRAP_NAMESPACE))
    rows = []
    for secret in listing.items:
        if secret.type != secrets.BOOTSTRAP_TOKEN:
            continue
        problem = _problem(secret)
        if problem:
            click.echo(f"warning: {secret.metadata.name} is not a valid token: {problem}", err=True)
        else:
            rows.append(_row(secret))
    if output == "json":
        click.echo(json.dumps(rows, indent=2))
    elif rows:
        click.echo(_table(rows), nl=False)


@token.command()
@click.argument("names", metavar="TOKEN-ID...", nargs=-1, required=True)
@connection.with_connection
def delete(server: Connection, /, names: Sequence[str]) -> None:
    """Delete tokens, which are given by id or in full."""
    ids = [name if _ID.fullmatch(name) else _parse(name)[0] for name in names]
    for id_ in ids:
        name = secrets.BOOTSTRAP_PREFIX + id_

        def remove(client: Client, name: str = name) -> Coroutine[Any, Any, None]:
            return client.delete(secrets.RESOURCE, name, secrets.BOOTSTRAP_NAMESPACE)

        _call(server, remove)
        click.echo(f'bootstrap token "{id_}" deleted')


def _parse(text: str) -> tuple[str, str]:
    match = _TOKEN.fullmatch(text)
    if match is None:
        # The text is not repeated: a token with a typing error is still a secret.
        raise SetupError(
            "the bootstrap token is not of the form [a-z0-9]{6}.[a-z0-9]{16}",
            ("certplane token generate prints a valid one",),
        )
    return match[1], match[2]


def _generate() -> tuple[str, str]:
    return _random_text(6), _random_text(16)


def _random_text(length: int) -> str:
    return "".join(randomness.choice(_ALPHABET) for _ in range(length))


def _split(text: str, is_valid: Callable[[str], bool], kind: str, hint: str) -> list[str]:
    """The items of a comma-separated list. Raises SetupError."""
    items = [item.strip() for item in text.split(",") if item.strip()]
    for item in items:
        if not is_valid(item):
            raise SetupError(f"invalid {kind} of a bootstrap token: {item}", (hint,))
    return items


def _call(server: Connection, operation: Callable[[Client], Coroutine[Any, Any, _T]]) -> _T:
    """Call the server. Raises SetupError for every failure."""
    listing = f"list the tokens with certplane token {server.flags()}list"
    permissions = f"list your permissions with kubectl {server.flags()}auth can-i --list --namespace kube-system"
    hints: dict[int, str] = {HTTPStatus.FORBIDDEN: permissions}
    hints |= {HTTPStatus.NOT_FOUND: listing, HTTPStatus.CONFLICT: listing}
    return connection.call(server, operation, hints)


# --- output -------------------------------------------------------------------------------------------------------


def _problem(secret: secrets.Secret) -> str:
    """Why a Secret of the right type is not a valid token; empty if it is valid."""
    data = {key: secret.data.get(key, b"").decode("utf-8", "replace") for key in ("token-id", "token-secret")}
    if secret.metadata.name != secrets.BOOTSTRAP_PREFIX + data["token-id"]:
        return "its name does not end with its token-id"
    if _TOKEN.fullmatch(f"{data['token-id']}.{data['token-secret']}") is None:
        return "its token-id and token-secret are not of the form [a-z0-9]{6}.[a-z0-9]{16}"
    return ""


def _row(secret: secrets.Secret) -> dict[str, object]:
    data = {key: value.decode("utf-8", "replace") for key, value in secret.data.items()}
    left = secrets.time_left(secret, SystemClock().now())
    usages = sorted(
        key.removeprefix(_USAGE_PREFIX) for key in data if key.startswith(_USAGE_PREFIX) and data[key] == "true"
    )
    return {
        "token": f"{data.get('token-id', '')}.{data.get('token-secret', '')}",
        "ttl": "<forever>" if left is None else formatting.human_duration(left) if left else "<invalid>",
        "expires": data.get("expiration") or "<never>",
        "usages": usages,
        "description": data.get("description", ""),
        "groups": [group for group in data.get(_GROUPS_KEY, "").split(",") if group],
    }


def _table(rows: Sequence[dict[str, Any]]) -> str:
    cells = [["TOKEN", "TTL", "EXPIRES", "USAGES", "DESCRIPTION", "EXTRA GROUPS"]]
    for row in rows:
        values = [",".join(value) if isinstance(value, list) else value for value in row.values()]
        cells.append([value or "<none>" for value in values])
    return tables.format_table(cells)
