"""What a setting is, and how its value is read: from a flag, from a configuration file, or by default."""

from __future__ import annotations

import dataclasses
import datetime
import difflib
import ipaddress
import os
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from certplane.golang import formatting

_MAX_PORT: Final = 65535
#: The flags of Kubernetes are 64-bit integers. Python refuses to read texts of more than 4300 digits.
_MAX_NUMBER: Final = 2**63 - 1
_MAX_DIGITS: Final = len(str(_MAX_NUMBER))
#: Characters of an invalid value that an error quotes.
MAX_QUOTE: Final = 100

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


def parse_long_duration(text: str) -> datetime.timedelta | None:
    """A duration as Go writes it that may also have weeks and days, such as 30d, 2w or 1d12h; None for other texts."""
    match = _LONG_DURATION.fullmatch(text)
    rest = formatting.parse_duration(match["rest"] or "0") if match is not None and text else None
    try:
        if match is not None and rest is not None:
            return datetime.timedelta(weeks=int(match["weeks"] or 0), days=int(match["days"] or 0)) + rest
    except (OverflowError, ValueError):
        # Python refuses to convert thousands of digits.
        pass
    return None


_LONG_DURATION: Final = re.compile(r"(?:(?P<weeks>[0-9]+)w)?(?:(?P<days>[0-9]+)d)?(?P<rest>.*)", re.DOTALL)


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
            problem = _encoding_problem(option, self._values[option.field])
            if problem:
                problems.append(f"--{option.name}: {problem}")
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
        number = _parse_number(text)
        if number is None or number < minimum:
            quoted = formatting.shorten(text, MAX_QUOTE)
            self.problems.append(f"{_flag(field)}: must be a number, at least {minimum}: {quoted}")
            return minimum
        if number > _MAX_NUMBER:
            quoted = formatting.shorten(text, MAX_QUOTE)
            self.problems.append(f"{_flag(field)}: must be at most {_MAX_NUMBER}: {quoted}")
            return minimum
        return number

    def duration(self, field: str, *, positive: bool = False) -> datetime.timedelta:
        text = self.text(field)
        duration = formatting.parse_duration(text)
        if duration is None:
            quoted = formatting.shorten(text, MAX_QUOTE)
            self.problems.append(f"{_flag(field)}: not a duration: {quoted}; {duration_hint(quoted)}")
        elif positive and duration <= datetime.timedelta(0):
            self.problems.append(f"{_flag(field)}: must be longer than 0s")
        return duration or datetime.timedelta(0)

    def address(self, field: str) -> Address:
        """A host and a port."""
        text = self.text(field)
        host, colon, port = text.rpartition(":")
        has_brackets = host.startswith("["), host.endswith("]")
        host = host.removeprefix("[").removesuffix("]")
        number = _parse_number(port)
        quoted = formatting.shorten(text, MAX_QUOTE)
        if not colon or number is None or not host or any(has_brackets) != all(has_brackets):
            self.problems.append(f"{_flag(field)}: not HOST:PORT: {quoted}")
            return Address("", 0)
        if number > _MAX_PORT:
            quoted_port = formatting.shorten(port, MAX_QUOTE)
            self.problems.append(f"{_flag(field)}: port {quoted_port} is above {_MAX_PORT}: {quoted}")
            return Address("", 0)
        return Address(host, number)

    def switches(self, field: str) -> dict[str, bool]:
        """KEY=true, KEY=false, or KEY alone, which is true."""
        switches = {}
        for item in self.names(field):
            key, _, value = item.partition("=")
            if value not in ("", "true", "false"):
                quoted = formatting.shorten(item, MAX_QUOTE)
                self.problems.append(f"{_flag(field)}: must be true or false: {quoted}")
            switches[key] = value != "false"
        return switches


def _parse_number(text: str) -> int | None:
    """A number in ASCII digits; None for anything else. Numbers of many digits are read as one above _MAX_NUMBER."""
    if not (text.isascii() and text.isdigit()):
        return None
    digits = text.lstrip("0")
    return int(digits or "0") if len(digits) <= _MAX_DIGITS else _MAX_NUMBER + 1


def _unknown_setting(name: object, names: set[str]) -> str:
    quoted = formatting.shorten(str(name), MAX_QUOTE)
    similar = difflib.get_close_matches(quoted, sorted(names), 1)
    suggestion = f'; did you mean "{similar[0]}"?' if similar else ""
    return f'unknown setting "{quoted}" in the configuration file{suggestion}'


def _flag(field: str) -> str:
    return f"--{field.replace('_', '-')}"


def _value(option: Option, flags: Mapping[str, object], file: Mapping[str, object], problems: Problems) -> Any:
    value = flags.get(option.field)
    if value is None and option.name in file:
        value = _from_file(option, file[option.name], problems)
    if option.kind == "names" and isinstance(value, str):
        return _strip_names(value.split(","))
    return option.default if value is None else value


def _strip_names(names: Sequence[str]) -> tuple[str, ...]:
    return tuple(name.strip() for name in names if name.strip())


def _encoding_problem(option: Option, value: object) -> str:
    """Why the system cannot take a value; empty if it can. Arguments may have any bytes but NUL, and paths, too; a
    configuration file may have NUL and lone surrogates.
    """
    for text in map(str, value) if isinstance(value, tuple) else (str(value),):
        if "\0" in text:
            return "has a NUL character"
        try:
            os.fsencode(text) if option.kind == "path" else text.encode("utf-8")
        except UnicodeEncodeError:
            return "is not valid UTF-8"
    return ""


#: What a configuration file may hold, for errors. A number is also accepted where the setting is a text.
_KIND_NAMES: Final = {
    "text": "a string",
    "number": "a number",
    "path": "a path",
    "duration": "a duration such as 1h30m",
    "names": "a list of strings",
    "choice": "a string",
}


def _from_file(option: Option, value: object, problems: Problems) -> Any:
    if option.kind == "flag":
        if not isinstance(value, bool):
            problems.append(f"{option.name}: must be true or false, not {_quote(value)}")
        return value
    if option.kind == "names" and isinstance(value, list) and all(isinstance(name, str) for name in value):
        return _strip_names(value)
    if isinstance(value, bool | dict | list) or value is None:
        problems.append(f"{option.name}: must be {_KIND_NAMES[option.kind]}, not {_quote(value)}")
        return None
    if option.choices and value not in option.choices:
        quoted = formatting.shorten(str(value), MAX_QUOTE)
        problems.append(f"{option.name}: must be one of {', '.join(option.choices)}, not {quoted}")
    return str(value)


def _quote(value: object) -> str:
    return formatting.shorten(repr(value), MAX_QUOTE)
