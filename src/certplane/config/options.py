"""What a setting is, and how its value is read: from a flag, from a configuration file, or by default."""

from __future__ import annotations

import dataclasses
import datetime
import difflib
import ipaddress
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, Final

from certplane.golang import formatting

_MAX_PORT: Final = 65535

#: Messages, one sentence each. Readers of settings collect all of them before they fail.
Problems = list[str]


@dataclasses.dataclass(frozen=True, slots=True)
class Option:
    """One setting. `kind` is text, number, path, flag, duration, names (comma-separated), or choice (one of
    `choices`).
    """

    name: str
    help: str
    kind: str = "text"
    default: Any = ""
    choices: tuple[str, ...] = ()

    @property
    def field(self) -> str:
        return self.name.replace("-", "_")


@dataclasses.dataclass(frozen=True, slots=True)
class Address:
    """Where to listen. IPv6 addresses are without brackets."""

    host: str
    port: int


LOG_LEVEL: Final = Option(
    "log-level", "Lowest level that is logged.", "choice", "INFO", ("DEBUG", "INFO", "WARNING", "ERROR")
)


def network_meant(text: str) -> str:
    """For an address with a prefix length whose host bits are set, the network that is probably meant: 10.2.0.0/16 for
    10.2.0.1/16. Empty for everything else.
    """
    address, slash, _ = text.partition("/")
    try:
        network = ipaddress.ip_network(text, strict=False)
        return str(network) if slash and network.network_address != ipaddress.ip_address(address) else ""
    except ValueError:
        return ""


def duration_hint(text: str) -> str:
    """How to write a duration that could not be parsed: with a unit, if only that is missing."""
    return f"write {text}s for {text} seconds" if text.isascii() and text.isdigit() else "write it as 1h30m or 45s"


class Values:
    """The values of a command's options, by field. The caller names the type that a value should have.

    For a value that cannot be read a message is added to `problems`, and a harmless value is returned.
    """

    def __init__(
        self, known: Sequence[Option], flags: Mapping[str, object], file: Mapping[str, object], problems: Problems
    ) -> None:
        """`flags` are by field, None for those that were not set; `file` is by name."""
        self.problems = problems
        names = {option.name for option in known}
        problems += [_unknown_setting(name, names) for name in file if name not in names]
        self._values = {option.field: _value(option, flags, file, problems) for option in known}
        for option in known:
            # Only a configuration file can hold one: the system permits it neither in an argument nor in a path.
            if "\0" in str(self._values[option.field]):
                problems.append(f"--{option.name}: has a NUL character")
                self._values[option.field] = option.default

    def __getitem__(self, field: str) -> object:
        return self._values[field]

    def text(self, field: str) -> str:
        return str(self._values[field])

    def flag(self, field: str) -> bool:
        return bool(self._values[field])

    def names(self, field: str) -> tuple[str, ...]:
        return tuple(self._values[field])

    def path(self, field: str) -> pathlib.Path | None:
        value = self._values[field]
        return pathlib.Path(self.text(field)) if value else None

    def number(self, field: str, minimum: int) -> int:
        text = self.text(field)
        if not (text.isascii() and text.isdigit()) or int(text) < minimum:
            self.problems.append(f"{_flag(field)}: must be a number, at least {minimum}: {text}")
            return minimum
        return int(text)

    def duration(self, field: str, *, positive: bool = False) -> datetime.timedelta:
        text = self.text(field)
        duration = formatting.parse_duration(text)
        if duration is None:
            self.problems.append(f"{_flag(field)}: not a duration: {text}; {duration_hint(text)}")
        elif positive and duration <= datetime.timedelta(0):
            self.problems.append(f"{_flag(field)}: must be longer than 0s")
        return duration or datetime.timedelta(0)

    def address(self, field: str) -> Address:
        """A host and a port."""
        text = self.text(field)
        host, colon, port = text.rpartition(":")
        host = host.removeprefix("[").removesuffix("]")
        if not colon or not (port.isascii() and port.isdigit()) or not host:
            self.problems.append(f"{_flag(field)}: not HOST:PORT: {text}")
            return Address("", 0)
        if int(port) > _MAX_PORT:
            self.problems.append(f"{_flag(field)}: port {port} is above {_MAX_PORT}: {text}")
            return Address("", 0)
        return Address(host, int(port))

    def switches(self, field: str) -> dict[str, bool]:
        """KEY=true, KEY=false, or KEY alone, which is true."""
        switches = {}
        for item in self.names(field):
            key, _, value = item.partition("=")
            if value not in ("", "true", "false"):
                self.problems.append(f"{_flag(field)}: must be true or false: {item}")
            switches[key] = value != "false"
        return switches


def _unknown_setting(name: object, names: set[str]) -> str:
    similar = difflib.get_close_matches(str(name), sorted(names), 1)
    suggestion = f'; did you mean "{similar[0]}"?' if similar else ""
    return f'unknown setting "{name}" in the configuration file{suggestion}'


def _flag(field: str) -> str:
    return f"--{field.replace('_', '-')}"


def _value(option: Option, flags: Mapping[str, object], file: Mapping[str, object], problems: Problems) -> Any:
    value = flags.get(option.field)
    if value is None and option.name in file:
        value = _from_file(option, file[option.name], problems)
    if option.kind == "names" and isinstance(value, str):
        return tuple(name.strip() for name in value.split(",") if name.strip())
    return option.default if value is None else value


def _from_file(option: Option, value: object, problems: Problems) -> Any:
    if option.kind == "flag":
        if not isinstance(value, bool):
            problems.append(f"{option.name}: must be true or false, not {value!r}")
        return value
    if option.kind == "names" and isinstance(value, list):
        return tuple(str(name) for name in value)
    if isinstance(value, bool | dict | list) or value is None:
        problems.append(f"{option.name}: must be a string, not {value!r}")
        return None
    if option.choices and value not in option.choices:
        problems.append(f"{option.name}: must be one of {', '.join(option.choices)}, not {value}")
    return str(value)
