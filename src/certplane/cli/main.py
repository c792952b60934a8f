"""`certplane`: the command line.

Exit codes: 0 success; 1 a bug, with a traceback in the log; 2 a setting or file that the operator must fix, with
`error:` and `hint:` lines, or, of `wait`, a server that is not ready; 3 `controllers` has lost the leadership;
4 `certs check-expiration`, `watch --once` or `agent status` has found a certificate that ends too soon, cannot be read
or is not renewed, or the worst finding of `doctor` is a warning; 5 a certificate request was denied, has failed or was
deleted; 6 there is no certificate yet; 7 `doctor` has found an error, or `status` a server that is not ready; 130
interrupted.
"""

from __future__ import annotations

import importlib
import pathlib
import sys
from typing import Final, NoReturn

import click

import certplane
from certplane import errors
from certplane.cli import exitcodes, options
from certplane.x509 import privatekeys

#: Each command is in a module of the same name. The texts are those of the commands: to print them, the help of
#: certplane does not import the whole program.
_COMMANDS: Final = {
    "agent": "Request, renew and install the certificates of this host or workload.",
    "audit": "Query the audit log.",
    "certs": "Check, renew and request the certificates of a control plane.",
    "controllers": "Run only the controllers, for another API server.",
    "csr": "Request a certificate, wait for it, and fetch it.",
    "doctor": "Find what is broken, or open to others, in an installation.",
    "explain": "Explain why a request has no certificate, and what to do.",
    "inventory": "List, show and export the certificates that were issued.",
    "kubeconfig": "Create kubeconfigs for users.",
    "serve": "Serve the API: a control plane in one process.",
    "signer": "Define signers of your own.",
    "status": "Show the state of a server on one screen.",
    "token": "Create, list and delete bootstrap tokens.",
    "version": "Print the version of the program and of the API.",
    "wait": "Wait until a server is ready, and print its URL.",
    "watch": "Watch when certificates end, wherever they are: metrics and notifications.",
}


class _Commands(options.Group):
    """Imports a command when it is used: a command does not pay for the imports of others."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return list(_COMMANDS)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = getattr(importlib.import_module(f"certplane.cli.{cmd_name}"), cmd_name)
        return command


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(certplane.__version__, prog_name="certplane", message="%(prog)s %(version)s")
def cli() -> None:
    """The Kubernetes Certificates API as stand-alone software."""


def main() -> NoReturn:
    """Run a command, and exit with its code."""
    if any(privatekeys.contains_key(argument.encode("utf-8", "surrogateescape")) for argument in sys.argv[1:]):
        # Before an error message quotes it: it begins with dashes, like an option.
        _fail(
            "an argument is or contains a private key: the process list and your shell history have it now",
            (
                "the key is compromised: create a new one",
                "pass the name of the file, not its content: see certplane --help",
            ),
        )
    try:
        code = cli.main(prog_name=_program(), complete_var="_CERTPLANE_COMPLETE", standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except exitcodes.Failure as error:
        _fail(error.message, error.hints, error.exit_code)
    except errors.SetupError as error:
        _fail(error.message, error.hints)
    except click.exceptions.NoArgsIsHelpError as error:
        # Its message is the help text.
        click.echo(error.format_message(), err=True)
        sys.exit(2)
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx is not None else "certplane"
        _fail(error.format_message(), (f"{command} --help",))
    except click.ClickException as error:
        _fail(error.format_message(), ())
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)


def _program() -> str:
    """How this program was called: kubectl runs its plugin kubectl-certplane as `kubectl certplane`."""
    return "kubectl certplane" if pathlib.PurePath(sys.argv[0]).name == "kubectl-certplane" else "certplane"


def _fail(message: str, hints: tuple[str, ...], exit_code: int = 2) -> NoReturn:
    click.echo(f"error: {message}", err=True)
    for hint in hints:
        click.echo(f"hint: {hint}", err=True)
    sys.exit(exit_code)
