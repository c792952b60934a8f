"""Configuration files in YAML: read strictly, with all problems at once, each with the path of its field.

A configuration has an apiVersion and a kind, as the objects of Kubernetes do. Fields that nobody asks for are unknown,
and reported with the most similar name. Relative paths are relative to the directory of the file.
"""

from __future__ import annotations

import dataclasses
import difflib
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

from certplane import files
from certplane.config.options import MAX_QUOTE, Address
from certplane.errors import SetupError
from certplane.golang import formatting, goyaml

T = TypeVar("T")

_MAX_BYTES: Final = 1024 * 1024
_MAX_PROBLEM: Final = 500
_MAX_ITEMS: Final = 100


@dataclasses.dataclass(frozen=True, slots=True)
class DocumentKind:
    """A kind of configuration. `check_command` is the command that checks a file, `page` describes all fields."""

    api_version: str
    kind: str
    check_command: str
    page: str


class ConfigurationError(SetupError):
    """A configuration that cannot be used. `problems` are sentences, each beginning with the path of a field."""

    def __init__(self, path: pathlib.Path, kind: DocumentKind, problems: Sequence[str]) -> None:
        hints = (f"{kind.check_command} {path}", f"{kind.page} has an example")
        super().__init__(f"{path}: {'; '.join(problems)}", hints)
        self.path = path
        self.problems = tuple(problems)


def read(path: pathlib.Path, kind: DocumentKind, parse: Callable[[Fields], T]) -> T:
    """The configuration in a file. `parse` reads the fields, and calls `Fields.finish`. Raises SetupError, of which
    ConfigurationError has everything that is wrong.
    """
    hint = f"write it, or name another file; {kind.page} has an example"
    with files.as_setup_error(f"the configuration file {path} cannot be read", hint):
        content = files.read_regular(path, _MAX_BYTES)
    try:
        document = goyaml.load(content)
    except (goyaml.YAMLError, UnicodeDecodeError) as error:
        problem = formatting.shorten(str(error), _MAX_PROBLEM)
        raise ConfigurationError(path, kind, (f"not valid YAML: {problem}",)) from error
    if not isinstance(document, dict):
        raise ConfigurationError(path, kind, ("not a YAML mapping",))
    problems: list[str] = []
    fields = Fields(document, "", problems, path.absolute().parent)
    for name, expected in (("apiVersion", kind.api_version), ("kind", kind.kind)):
        actual = fields.text(name, required=True)
        if actual and actual != expected:
            fields.report(name, f"must be {expected}, not {quote(actual)}")
    parsed = parse(fields)
    if problems:
        raise ConfigurationError(path, kind, problems)
    return parsed


class Fields:
    """The fields of one mapping. A reader that finds a problem records it and returns a harmless value. `finish`
    records the fields that were not read: they are unknown.
    """

    def __init__(self, values: Mapping[str, Any], path: str, problems: list[str], base: pathlib.Path) -> None:
        self._values = values
        self._path = path
        self._problems = problems
        self._base = base
        self._known: list[str] = []

    def report(self, name: str, problem: str) -> None:
        """Record a problem of a field; of the mapping itself, if `name` is empty."""
        self._problems.append(f"{self.path(name)}: {problem}")

    def path(self, name: str) -> str:
        """The path of a field in the document."""
        return ".".join(part for part in (self._path, name) if part) or "the document"

    def has(self, name: str) -> bool:
        """Whether a field is set."""
        return self._values.get(name) is not None

    def _take(self, name: str) -> Any:
        self._known.append(name)
        return self._values.get(name)

    def text(self, name: str, default: str = "", *, required: bool = False) -> str:
        value = self._take(name)
        if value is None or value == "":
            if required:
                self.report(name, "required")
            return default
        if not isinstance(value, str):
            self.report(name, f"must be a string, not {quote(value)}")
            return default
        if not value.isprintable():
            self.report(name, f"has characters that are not printable: {quote(value)}")
            return default
        return value

    def choice(self, name: str, choices: Sequence[str], default: str) -> str:
        text = self.text(name, default)
        if text not in choices:
            self.report(name, f"must be one of {', '.join(choices)}, not {quote(text)}")
            return default
        return text

    def number(self, name: str, default: float, low: float, high: float) -> float:
        value = self._take(name)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            self.report(name, f"must be a number from {low:g} to {high:g}, not {quote(value)}")
            return default
        return value

    def seconds(self, name: str, default: float, low: float, high: float) -> float:
        text = self.text(name)
        if not text:
            return default
        duration = formatting.parse_duration(text)
        if duration is None:
            self.report(name, f"not a duration: {quote(text)}; write it as 1h30m or 45s")
            return default
        if not low <= duration.total_seconds() <= high:
            limits = f"{formatting.human_duration(low)} to {formatting.human_duration(high)}"
            self.report(name, f"must be from {limits}, not {quote(text)}")
            return default
        return duration.total_seconds()

    def flag(self, name: str, *, default: bool) -> bool:
        value = self._take(name)
        if value is not None and not isinstance(value, bool):
            self.report(name, f"must be true or false, not {quote(value)}")
        return value if isinstance(value, bool) else default

    def mode(self, name: str, default: int) -> int:
        """A file mode: octal, as a string or as a number. Only the owner may write, nobody may execute."""
        value = self._take(name)
        if value is None:
            return default
        if isinstance(value, str) and re.fullmatch("0?[0-7]{3}", value):
            value = int(value, 8)
        # YAML reads 0640 as octal; 640 is a number that no such mode has.
        if isinstance(value, bool) or not isinstance(value, int) or value & ~0o644 or not value & 0o400:
            self.report(name, f'must be a mode such as "0640" in which only the owner may write, not {quote(value)}')
            return default
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        items = self._list(name)
        for index, item in enumerate(items):
            if not isinstance(item, str) or not item or not item.isprintable():
                self.report(f"{name}[{index}]", f"must be a string, not {quote(item)}")
        return tuple(item for item in items if isinstance(item, str))

    def paths(self, name: str) -> tuple[str, ...]:
        """Paths, or patterns of them."""
        return tuple(str(self._base / text) for text in self.texts(name))

    def address(self, name: str) -> Address | None:
        """HOST:PORT; None if the field is absent, or not valid."""
        text = self.text(name)
        if not text:
            return None
        address, problem = parse_address(text)
        if problem:
            self.report(name, problem)
        return address

    def file(self, name: str, *, required: bool = False) -> pathlib.Path | None:
        text = self.text(name, required=required)
        return self._base / text if text else None

    def child(self, name: str) -> Fields | None:
        """The mapping under a name; None if it is absent."""
        value = self._take(name)
        if value is None:
            return None
        if not isinstance(value, dict):
            self.report(name, f"must be a mapping, not {quote(value)}")
            return None
        return Fields(value, self.path(name), self._problems, self._base)

    def children(self, name: str) -> list[Fields]:
        """The mappings in a list."""
        fields = []
        for index, item in enumerate(self._list(name)):
            path = f"{name}[{index}]"
            if isinstance(item, dict):
                fields.append(Fields(item, self.path(path), self._problems, self._base))
            else:
                self.report(path, f"must be a mapping, not {quote(item)}")
        return fields

    def _list(self, name: str) -> list[Any]:
        value = self._take(name)
        if value is None:
            return []
        if not isinstance(value, list):
            self.report(name, f"must be a list, not {quote(value)}")
            return []
        if len(value) > _MAX_ITEMS:
            self.report(name, f"has {len(value)} items; the limit is {_MAX_ITEMS}")
        return value[:_MAX_ITEMS]

    def finish(self) -> None:
        """Record the fields that nobody asked for."""
        for name in self._values:
            if name not in self._known:
                quoted = formatting.shorten(str(name), MAX_QUOTE)
                similar = difflib.get_close_matches(quoted, self._known, 1)
                suggestion = f'; did you mean "{similar[0]}"?' if similar else ""
                self.report(quoted, f"unknown field{suggestion}")


def parse_address(text: str) -> tuple[Address | None, str]:
    """HOST:PORT, with brackets around an IPv6 address; or why it is not valid."""
    host, colon, port = text.rpartition(":")
    is_bracketed = host.startswith("[") and host.endswith("]")
    host = host[1:-1] if is_bracketed else host
    if not colon or not host or (":" in host) != is_bracketed or not re.fullmatch("[0-9]{1,5}", port):
        return None, f"not HOST:PORT: {quote(text)}"
    if not 1 <= int(port) <= 65535:
        return None, f"the port must be from 1 to 65535: {quote(text)}"
    return Address(host, int(port)), ""


def quote(value: object) -> str:
    """A value for a message: quoted and shortened."""
    return formatting.quote(formatting.shorten(value if isinstance(value, str) else repr(value), MAX_QUOTE))
