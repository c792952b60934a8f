"""`certplane`: the command line.

Exit codes: 0 done; 1 a fault of ours, with a traceback in the log; 2 a setting or a file that must be mended, with
`error:` and `hint:` lines, or, of `wait`, a server that is not ready; 3 another copy of the controllers works now;
130 interrupted.
"""

from __future__ import annotations

import importlib
import sys
from typing import Final, NoReturn

import click

import certplane
from certplane import errors
from certplane.x509 import privatekeys

#: The commands, and the modules that they are in, under the same name.
_COMMANDS: Final = ("audit", "controllers", "serve", "token", "version", "wait")


class _Commands(click.Group):
    """Loads a command when it is asked for: what one needs another does not pay for at its start."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        if cmd_name not in _COMMANDS:
            return None
        found: click.Command = getattr(importlib.import_module(f"certplane.cli.{cmd_name}"), cmd_name)
        return found


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(certplane.__version__, prog_name="certplane", message="%(prog)s %(version)s")
def cli() -> None:
    """The Kubernetes Certificates API as software of its own."""


def main() -> NoReturn:
    """Run a command, and end with its exit code."""
    if any(privatekeys.is_in(argument.encode("utf-8", "surrogateescape")) for argument in sys.argv[1:]):
        # Before anything quotes it: it begins with dashes, as an option does.
        _fail(
            "an argument is a private key, or holds one: the list of processes and your shell's history have it now",
            ("consider it exposed, and make a new one", "files are named, not pasted: see certplane --help"),
        )
    try:
        code = cli.main(prog_name="certplane", standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except errors.SetupError as error:
        _fail(error.message, error.hints)
    except click.exceptions.NoArgsIsHelpError as error:
        # Its message is the whole help.
        click.echo(error.format_message(), err=True)
        sys.exit(2)
    except click.UsageError as error:
        where = error.ctx.command_path if error.ctx is not None else "certplane"
        _fail(error.format_message(), (f"{where} --help",))
    except click.ClickException as error:
        _fail(error.format_message(), ())
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)


def _fail(message: str, hints: tuple[str, ...]) -> NoReturn:
    click.echo(f"error: {message}", err=True)
    for hint in hints:
        click.echo(f"hint: {hint}", err=True)
    sys.exit(2)
