"""What a setting is, and how its value is read: from a flag, from a file, or by default."""

from __future__ import annotations

import dataclasses
import datetime
import ipaddress
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, Final

from certplane import gotext

#: What is wrong, in a sentence each; whoever reads settings collects them all.
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


#: Settings that several commands share.
SERVING_APPROVER: Final = Option(
    "serving-approver",
    "Rules by which kubelets' serving certificates are approved (docs/kubelet-serving.md); without, a person does.",
    "path",
    None,
)
DECISION_EVENTS: Final = Option(
    "decision-events", "Whether decisions about requests are told as Events on them.", "flag", True
)
LOG_LEVEL: Final = Option("log-level", "How much is logged.", "choice", "INFO", ("DEBUG", "INFO", "WARNING", "ERROR"))


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


class Values:
    """The values of a command's options, by field; asked for by the kind that they should have.

    What cannot be read is noted in `problems`, and something harmless is returned for it.
    """

    def __init__(
        self, known: Sequence[Option], flags: Mapping[str, Any], file: Mapping[str, Any], problems: Problems
    ) -> None:
        """`flags` are by field, None where nothing was said; `file` is by name."""
        self.problems = problems
        names = {option.name for option in known}
        problems += [f"the configuration file has an unknown setting: {name}" for name in file if name not in names]
        self._values = {option.field: _value(option, flags, file, problems) for option in known}
        for option in known:
            # From a configuration file: no argument can have one, and no path either.
            if "\0" in str(self._values[option.field]):
                problems.append(f"--{option.name}: has a NUL character")
                self._values[option.field] = option.default

    def __getitem__(self, field: str) -> Any:
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

    def number(self, field: str, least: int) -> int:
        text = self.text(field)
        if not (text.isascii() and text.isdigit()) or int(text) < least:
            self.problems.append(f"{_flag(field)}: must be a number, at least {least}: {text}")
            return least
        return int(text)

    def duration(self, field: str, *, positive: bool = False) -> datetime.timedelta:
        found = gotext.parse_duration(self.text(field))
        if found is None:
            self.problems.append(f"{_flag(field)}: not a duration: {self._values[field]}")
        elif positive and found <= datetime.timedelta(0):
            self.problems.append(f"{_flag(field)}: must be more than nothing")
        return found or datetime.timedelta(0)

    def address(self, field: str) -> tuple[str, int]:
        """A host and a port."""
        text = self.text(field)
        host, colon, port = text.rpartition(":")
        host = host.removeprefix("[").removesuffix("]")
        if not colon or not port.isdigit() or int(port) > 65535 or not host:
            self.problems.append(f"{_flag(field)}: not HOST:PORT: {text}")
            return "", 0
        return host, int(port)

    def switches(self, field: str) -> dict[str, bool]:
        """KEY=true, KEY=false, or KEY alone, which is true."""
        found = {}
        for each in self.names(field):
            key, _, value = each.partition("=")
            if value not in ("", "true", "false"):
                self.problems.append(f"{_flag(field)}: must be true or false: {each}")
            found[key] = value != "false"
        return found


def _flag(field: str) -> str:
    return f"--{field.replace('_', '-')}"


def _value(option: Option, flags: Mapping[str, Any], file: Mapping[str, Any], problems: Problems) -> Any:
    sent = flags.get(option.field)
    if sent is None and option.name in file:
        sent = _from_file(option, file[option.name], problems)
    if option.kind == "names" and isinstance(sent, str):
        return tuple(each.strip() for each in sent.split(",") if each.strip())
    return option.default if sent is None else sent


def _from_file(option: Option, value: Any, problems: Problems) -> Any:
    if option.kind == "flag":
        if not isinstance(value, bool):
            problems.append(f"{option.name}: must be true or false, not {value!r}")
        return value
    if option.kind == "names" and isinstance(value, list):
        return tuple(str(each) for each in value)
    if isinstance(value, bool | dict | list) or value is None:
        problems.append(f"{option.name}: must be a text, not {value!r}")
        return None
    if option.choices and value not in option.choices:
        problems.append(f"{option.name}: must be one of {', '.join(option.choices)}, not {value}")
    return str(value)
