"""`certplane token`: bootstrap tokens, with which machines without an identity ask for their first certificate.

As `kubeadm token`; the tokens are Secrets in kube-system, so everything here is done through the API, under the rights
of whoever asks.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import json
import pathlib
import re
import secrets as randomness
from collections.abc import Coroutine, Sequence
from http import HTTPStatus
from typing import Any, Final, TypeVar

import click

import certplane
from certplane import clock as clocks
from certplane import errors, gotext
from certplane.cli import tables
from certplane.client import api, kubeconfig, remote
from certplane.resources import secrets

_T = TypeVar("_T")

_TOKEN: Final = re.compile(r"([a-z0-9]{6})\.([a-z0-9]{16})")
_ID: Final = re.compile(r"[a-z0-9]{6}")
_GROUP: Final = re.compile(r"system:bootstrappers:[a-z0-9:-]{0,255}[a-z0-9]")
_USAGES: Final = ("authentication", "signing")
_USAGE: Final = "usage-bootstrap-"
_GROUPS: Final = "auth-extra-groups"
_ALPHABET: Final = "abcdefghijklmnopqrstuvwxyz0123456789"
_DEFAULT_GROUP: Final = "system:bootstrappers:kubeadm:default-node-token"
_GROUPS_HINT: Final = f"its groups begin with system:bootstrappers: and a name, as {_DEFAULT_GROUP}"


@click.group()
@click.option(
    "--kubeconfig", "path", default="./certplane-data/admin.conf", show_default=True, metavar="FILE",
    help="Where the server is and who you are.",
)  # fmt: skip
@click.pass_context
def token(context: click.Context, path: str) -> None:
    """Bootstrap tokens: make, list and delete them."""
    context.obj = pathlib.Path(path)


@token.command()
@click.argument("wanted", metavar="[TOKEN]", default="")
@click.option("--ttl", default="24h0m0s", show_default=True, metavar="DURATION", help="Lifetime; 0 for ever.")
@click.option("--usages", default="signing,authentication", show_default=True, help="What it is good for.")
@click.option("--groups", default=_DEFAULT_GROUP, show_default=True, help="Further groups of whoever comes with it.")
@click.option("--description", default="", help="What it is for, in your words.")
@click.pass_obj
def create(path: pathlib.Path, /, wanted: str, **how: str) -> None:
    """Make a token and print it. Without TOKEN, a random one: better."""
    id_, secret = _parse(wanted) if wanted else _generate()
    lifetime = datetime.timedelta(0) if how["ttl"] == "0" else gotext.parse_duration(how["ttl"])
    if lifetime is None:
        raise errors.SetupError(f"not a duration: {how['ttl']}", ("write it as 24h0m0s",))
    new = secrets.Secret(type=secrets.BOOTSTRAP_TOKEN)
    new.metadata.name = secrets.BOOTSTRAP_PREFIX + id_
    new.data = {"token-id": id_.encode(), "token-secret": secret.encode()}
    if lifetime:
        new.data["expiration"] = clocks.rfc3339(clocks.SystemClock().now() + lifetime).encode()
    usages = _list(how["usages"], _USAGES.__contains__, "usage", "signing and authentication are possible")
    new.data |= {_USAGE + usage: b"true" for usage in usages}
    groups = _list(how["groups"], lambda each: bool(_GROUP.fullmatch(each)), "group", _GROUPS_HINT)
    if groups and "authentication" not in usages:
        raise errors.SetupError(
            "a token that nobody authenticates with gives no groups",
            ("--usages signing,authentication lets whoever has it come in", '--groups "" makes one without groups'),
        )
    if groups:
        new.data[_GROUPS] = ",".join(groups).encode()
    if how["description"]:
        new.data["description"] = how["description"].encode()
    _ask(path, lambda client: client.create(secrets.RESOURCE, new, secrets.BOOTSTRAP_NAMESPACE))
    click.echo(f"{id_}.{secret}")


@token.command()
def generate() -> None:
    """Print a random token, without making it known to anybody."""
    click.echo(".".join(_generate()))


@token.command("list")
@click.option("-o", "--output", type=click.Choice(("table", "json")), default="table", show_default=True)
@click.pass_obj
def list_(path: pathlib.Path, output: str) -> None:
    """Show the tokens: what they are good for, and for how long."""
    found = _ask(path, lambda client: client.list(secrets.RESOURCE, secrets.BOOTSTRAP_NAMESPACE)).items
    rows = []
    for each in found:
        if each.type != secrets.BOOTSTRAP_TOKEN:
            continue
        problem = _problem(each)
        if problem:
            click.echo(f"warning: {each.metadata.name} is no token: {problem}", err=True)
        else:
            rows.append(_row(each))
    if output == "json":
        click.echo(json.dumps(rows, indent=2))
    elif rows:
        click.echo(_table(rows), nl=False)


@token.command()
@click.argument("names", metavar="TOKEN-ID...", nargs=-1, required=True)
@click.pass_obj
def delete(path: pathlib.Path, names: Sequence[str]) -> None:
    """Delete tokens, given by their ids or whole."""
    ids = [name if _ID.fullmatch(name) else _parse(name)[0] for name in names]
    for id_ in ids:
        name = secrets.BOOTSTRAP_PREFIX + id_

        def remove(client: api.Client, name: str = name) -> Coroutine[Any, Any, None]:
            return client.delete(secrets.RESOURCE, name, secrets.BOOTSTRAP_NAMESPACE)

        _ask(path, remove)
        click.echo(f'bootstrap token "{id_}" deleted')


def _parse(text: str) -> tuple[str, str]:
    match = _TOKEN.fullmatch(text)
    if match is None:
        # A token that is almost right is still a secret: it is not repeated.
        raise errors.SetupError(
            "the bootstrap token is not of the form [a-z0-9]{6}.[a-z0-9]{16}",
            ("certplane token generate makes a good one",),
        )
    return match[1], match[2]


def _generate() -> tuple[str, str]:
    return _random(6), _random(16)


def _random(length: int) -> str:
    return "".join(randomness.choice(_ALPHABET) for _ in range(length))


def _list(text: str, fits: Any, what: str, hint: str) -> list[str]:
    found = [each.strip() for each in text.split(",") if each.strip()]
    for each in found:
        if not fits(each):
            raise errors.SetupError(f"a bootstrap token cannot have the {what} {each}", (hint,))
    return found


def _ask(path: pathlib.Path, what: Any) -> Any:
    """Ask the server that a kubeconfig names. Raises SetupError for everything that a person must mend."""
    access = kubeconfig.load(path)

    async def ask() -> Any:
        transport = remote.Transport(access, f"certplane/{certplane.__version__}")
        async with contextlib.aclosing(transport):
            return await what(api.Client(transport))

    try:
        return asyncio.run(ask())
    except api.Unreachable as error:
        hints = ("is the server running, and is it the one that the kubeconfig names?",)
        raise errors.SetupError(str(error), hints) from error
    except errors.APIError as error:
        raise errors.SetupError(error.message, (_advice(error.code, path),)) from error


def _advice(code: int, path: pathlib.Path) -> str:
    """What to do about an answer of the server."""
    if code == HTTPStatus.UNAUTHORIZED:
        return f"the server does not take the credentials in {path}: its log says why"
    if code == HTTPStatus.FORBIDDEN:
        return f"kubectl --kubeconfig {path} auth can-i --list --namespace kube-system shows what you may do"
    if code in (HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT):
        return f"certplane token --kubeconfig {path} list shows the tokens that there are"
    return f"that is what the server says (code {code})"


# --- what is shown ------------------------------------------------------------------------------------------------


def _problem(of: secrets.Secret) -> str:
    """Why a Secret of the right type is no token that anybody could come with; empty if it is one."""
    data = {key: of.data.get(key, b"").decode("utf-8", "replace") for key in ("token-id", "token-secret")}
    if of.metadata.name != secrets.BOOTSTRAP_PREFIX + data["token-id"]:
        return "its name does not end in its token-id"
    if _TOKEN.fullmatch(f"{data['token-id']}.{data['token-secret']}") is None:
        return "its token-id and token-secret are not of the form [a-z0-9]{6}.[a-z0-9]{16}"
    return ""


def _row(of: secrets.Secret) -> dict[str, Any]:
    data = {key: value.decode("utf-8", "replace") for key, value in of.data.items()}
    left = secrets.time_left(of, clocks.SystemClock().now())
    usages = sorted(key.removeprefix(_USAGE) for key in data if key.startswith(_USAGE) and data[key] == "true")
    return {
        "token": f"{data.get('token-id', '')}.{data.get('token-secret', '')}",
        "ttl": "<forever>" if left is None else gotext.human_duration(left) if left else "<invalid>",
        "expires": data.get("expiration") or "<never>",
        "usages": usages,
        "description": data.get("description", ""),
        "groups": [each for each in data.get(_GROUPS, "").split(",") if each],
    }


def _table(rows: Sequence[dict[str, Any]]) -> str:
    cells = [["TOKEN", "TTL", "EXPIRES", "USAGES", "DESCRIPTION", "EXTRA GROUPS"]]
    for row in rows:
        values = [",".join(value) if isinstance(value, list) else value for value in row.values()]
        cells.append([value or "<none>" for value in values])
    return tables.aligned(cells)
