"""Flags and configuration files of the commands that run for long, made from their lists of settings."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Sequence
from typing import Any, Final

import click

from certplane import errors, files
from certplane.config import options
from certplane.meta import goyaml

_LINES: Final = "write one setting a line, like listen: 127.0.0.1:6443"


def with_flags(known: Sequence[options.Option]) -> Callable[[Any], Any]:
    """Gives a command a flag for each setting, and --config."""

    def decorate(command: Any) -> Any:
        # The last decorator is the first flag.
        for each in reversed(known):
            command = _option(each)(command)
        what = "YAML file with the settings below; flags win over it."
        return click.option("--config", "config_file", metavar="FILE", help=what)(command)

    return decorate


def _option(of: options.Option) -> Callable[[Any], Any]:
    shown = of.help
    if of.default not in (None, "", ()):
        default = ",".join(of.default) if of.kind == "names" else of.default
        shown += f"  [default: {str(default).lower() if of.kind == 'flag' else default}]"
    flag = f"--{of.name}"
    if of.kind == "flag":
        # As in Go: --flag, --flag=true, --flag=false.
        return click.option(flag, of.field, type=bool, is_flag=False, flag_value=True, default=None, help=shown)
    if of.kind == "choice":
        return click.option(flag, of.field, type=click.Choice(of.choices), default=None, help=shown)
    path = "DIR" if of.name.endswith("-dir") else "FILE"
    metavar = {"path": path, "duration": "DURATION", "names": "NAMES"}.get(of.kind, "TEXT")
    return click.option(flag, of.field, default=None, metavar=metavar, help=shown)


def read_file(path: str | None) -> dict[str, Any]:
    """The settings of a configuration file. Raises SetupError."""
    if path is None:
        return {}
    try:
        text = files.read_text(pathlib.Path(path), "the configuration file", "--config names another file")
        found = goyaml.load(text)
    except goyaml.Problem as error:
        raise errors.SetupError(f"the configuration file {path} is no YAML: {error}", (_LINES,)) from error
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise errors.SetupError(
            f"the configuration file {path} is not a mapping",
            (_LINES,),
        )
    return found
