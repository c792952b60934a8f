"""Flags and configuration files of the long-running commands, made from their lists of settings."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Sequence
from typing import Any, Final

import click

from certplane import files
from certplane.config.options import Option
from certplane.errors import SetupError
from certplane.golang import formatting, goyaml

#: Characters of a problem in a file that an error shows: it may quote a long value.
_MAX_PROBLEM: Final = 500
_FORMAT_HINT: Final = "write one setting on each line, such as listen: 127.0.0.1:6443"


def with_flags(settings: Sequence[Option]) -> Callable[[Any], Any]:
    """A decorator that gives a command a flag for each setting, and --config."""

    def decorate(command: Any) -> Any:
        # The decorator that is applied last adds the first flag.
        for setting in reversed(settings):
            command = _flag_option(setting)(command)
        text = "YAML file with the settings below; flags take precedence."
        return click.option("--config", "config_file", metavar="FILE", help=text)(command)

    return decorate


def _flag_option(option: Option) -> Callable[[Any], Any]:
    text = option.help
    if option.default not in (None, "", ()):
        default = ",".join(option.default) if option.kind == "names" else option.default
        text += f"  [default: {str(default).lower() if option.kind == 'flag' else default}]"
    flag = f"--{option.name}"
    if option.kind == "flag":
        # As in Go: --flag, --flag=true, --flag=false.
        return click.option(flag, option.field, type=bool, is_flag=False, flag_value=True, default=None, help=text)
    if option.kind == "choice":
        return click.option(flag, option.field, type=click.Choice(option.choices), default=None, help=text)
    path = "DIR" if option.name.endswith("-dir") else "FILE"
    metavar = {"path": path, "duration": "DURATION", "names": "NAMES"}.get(option.kind, "TEXT")
    return click.option(flag, option.field, default=None, metavar=metavar, help=text)


def read_file(path: str | None) -> dict[str, object]:
    """The settings of a configuration file. Raises SetupError."""
    if path is None:
        return {}
    try:
        text = files.read_text(pathlib.Path(path), "the configuration file", "set --config to another file")
        document = goyaml.load(text)
    except goyaml.YAMLError as error:
        problem = formatting.shorten(str(error), _MAX_PROBLEM)
        raise SetupError(f"the configuration file {path} is not valid YAML: {problem}", (_FORMAT_HINT,)) from error
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise SetupError(f"the configuration file {path} is not a YAML mapping", (_FORMAT_HINT,))
    return document
