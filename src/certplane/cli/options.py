"""The options `--kubeconfig` and `--context`, which may be written before or after a subcommand.

A `Group` passes them on to the subcommand; the last one on the line counts. This module imports nothing of certplane:
every start of the program needs it.
"""

from __future__ import annotations

from typing import Any, Final

import click

KUBECONFIG: Final = "--kubeconfig"
CONTEXT: Final = "--context"


def kubeconfig(default: str = "the files in KUBECONFIG, or ~/.kube/config") -> click.Option:
    """`--kubeconfig`; `default` says what is used without it."""
    return click.Option(
        [KUBECONFIG], default=None, metavar="FILE", help=f"Kubeconfig for the server.  [default: {default}]"
    )


def context() -> click.Option:
    """`--context`."""
    text = "Context of the kubeconfig; by default its current context."
    return click.Option([CONTEXT], default=None, metavar="NAME", help=text)


class Group(click.Group):
    """A group of commands that accepts the options in front of a subcommand that has them."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.params += [kubeconfig("that of the command"), context()]

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the subcommand, and move the options to its arguments. Raises UsageError if it does not have them."""
        given = [(flag, ctx.params.pop(flag.removeprefix("--"), None)) for flag in (KUBECONFIG, CONTEXT)]
        name, command, rest = super().resolve_command(ctx, args)
        passed: list[str] = []
        for flag, value in given:
            if command is None or value is None:
                continue
            if not any(flag in parameter.opts for parameter in command.params):
                raise click.UsageError(f"{ctx.command_path} {name} has no option {flag}", ctx)
            passed += [flag, value]
        # In front: if the subcommand has an option, too, that one counts.
        return name, command, passed + rest
