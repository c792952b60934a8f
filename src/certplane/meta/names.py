"""Validation of names: DNS labels, subdomains, qualified names, label values, path segments.

Each function returns Kubernetes' error texts; an empty list means that the name is valid. All lengths are counted in
bytes. Sources: RFC 1123 section 2.1; `k8s.io/apimachinery/pkg/util/validation` and `.../api/validate/content`.
"""

from __future__ import annotations

import re
from typing import Final

from certplane.golang import formatting

_LABEL: Final = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_SUBDOMAIN: Final = rf"{_LABEL}(\.{_LABEL})*"
_QUALIFIED: Final = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]"
_VALUE: Final = "(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?"

_CONFIG_KEY: Final = "[-._a-zA-Z0-9]+"

_config_key = re.compile(_CONFIG_KEY, re.ASCII).fullmatch
_label = re.compile(_LABEL, re.ASCII).fullmatch
_subdomain = re.compile(_SUBDOMAIN, re.ASCII).fullmatch
_qualified = re.compile(_QUALIFIED, re.ASCII).fullmatch
_value = re.compile(_VALUE, re.ASCII).fullmatch


def _expression(text: str, pattern: str, *examples: str) -> str:
    example_text = ",  or ".join(f"'{example}'" for example in examples)
    return f"{text} (e.g. {example_text}, regex used for validation is '{pattern}')"


_LABEL_TEXT: Final = _expression(
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', "
    "and must start and end with an alphanumeric character",
    _LABEL,
    "my-name",
    "123-abc",
)
_SUBDOMAIN_TEXT: Final = _expression(
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', "
    "and must start and end with an alphanumeric character",
    _SUBDOMAIN,
    "example.com",
)
_QUALIFIED_RULE: Final = (
    "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character"
)
_PART_TEXT: Final = _expression(f"name part {_QUALIFIED_RULE}", _QUALIFIED, "MyName", "my.name", "123-abc")
_SLASHES_TEXT: Final = (
    _expression(f"a valid label key {_QUALIFIED_RULE}", _QUALIFIED, "MyName", "my.name", "123-abc")
    + " with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
)
_VALUE_TEXT: Final = _expression(
    "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', "
    "and must start and end with an alphanumeric character",
    _VALUE,
    "MyValue",
    "my_value",
    "12345",
)

_CONFIG_KEY_TEXT: Final = _expression(
    "a valid config key must consist of alphanumeric characters, '-', '_' or '.'",
    _CONFIG_KEY,
    "key.name",
    "KEY_NAME",
    "key-name",
)


def size(text: str) -> int:
    """The length of a text in UTF-8 bytes, as Kubernetes counts."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def dns1123_label_problems(text: str) -> list[str]:
    """A DNS label: at most 63 bytes of lower-case letters, digits and hyphens."""
    problems = ["must be no more than 63 characters"] if size(text) > 63 else []
    if _label(text):
        return problems
    # Several labels where one belongs have an error of their own.
    return [*problems, "must not contain dots" if _subdomain(text) else _LABEL_TEXT]


def dns1123_subdomain_problems(text: str) -> list[str]:
    """DNS labels joined by dots: at most 253 bytes."""
    problems = ["must be no more than 253 characters"] if size(text) > 253 else []
    return problems if _subdomain(text) else [*problems, _SUBDOMAIN_TEXT]


def qualified_name_problems(text: str) -> list[str]:
    """The key of a label or annotation: an optional DNS prefix and a slash, and a name of at most 63 bytes."""
    prefix, slash, name = text.rpartition("/")
    problems: list[str] = []
    if slash:
        if "/" in prefix:
            return [_SLASHES_TEXT]
        if not prefix:
            problems.append("prefix part must be non-empty")
        else:
            # Kubernetes validates the prefix by newer code, whose text says bytes.
            texts = (text.replace("253 characters", "253 bytes") for text in dns1123_subdomain_problems(prefix))
            problems.extend(f"prefix part {text}" for text in texts)
    if not name:
        problems.append("name part must be non-empty")
    elif size(name) > 63:
        problems.append("name part must be no more than 63 bytes")
    if not _qualified(name):
        problems.append(_PART_TEXT)
    return problems


def label_value_problems(text: str) -> list[str]:
    """The value of a label: empty, or at most 63 bytes."""
    problems = ["must be no more than 63 bytes"] if size(text) > 63 else []
    return problems if _value(text) else [*problems, _VALUE_TEXT]


def path_segment_problems(text: str, *, is_prefix: bool = False) -> list[str]:
    """A name that can be a segment of a URL path. A prefix of a name may be `.` or `..`."""
    if not is_prefix and text in (".", ".."):
        return [f"may not be '{text}'"]
    return [f"may not contain '{char}'" for char in "/%" if char in text]


def lookup_problem(name: str) -> str:
    """Why an object cannot be looked up by a name; empty if it can."""
    if not name:
        return "Name parameter required."
    problems = path_segment_problems(name)
    return f"Name parameter invalid: {formatting.quote(name)}: {';'.join(problems)}" if problems else ""


def config_key_problems(key: str) -> list[str]:
    """The key of a value in a ConfigMap or a Secret."""
    problems = ["must be no more than 253 characters"] if size(key) > 253 else []
    if not _config_key(key):
        problems.append(_CONFIG_KEY_TEXT)
    if key in (".", ".."):
        problems.append(f"must not be '{key}'")
    elif key.startswith(".."):
        problems.append("must not start with '..'")
    return problems
