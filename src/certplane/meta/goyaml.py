"""YAML as go-yaml reads it, and as Kubernetes writes it: the same documents accepted, the same words for the others.

The trees are those of `gojson`: objects with their duplicates, numbers by their value. What go-yaml takes for a boolean
or a number is YAML 1.1 with exceptions: `y` and `0o10` are in, sexagesimal numbers and dates are not.

What is nested too deep, or made huge by aliases, is refused before anything recurses into it.

Source: `go.yaml.in/yaml/v2` (resolve.go, decode.go), `sigs.k8s.io/yaml`.
"""

from __future__ import annotations

import base64
import math
import re
from typing import Any

import yaml

from certplane import errors, gotext
from certplane.meta import gojson


class Problem(errors.CertplaneError):
    """Text that is not YAML, or YAML that JSON cannot say."""


class _Loader(yaml.CSafeLoader):
    """YAML as Kubernetes reads it: duplicates kept, no dates, and of plain words and numbers what go-yaml takes for
    booleans and numbers.
    """


_Loader.yaml_implicit_resolvers = {}


_BOOLEANS = {"y": True, "yes": True, "true": True, "on": True, "n": False, "no": False, "false": False, "off": False}
_SPELLINGS = "|".join(each for name in _BOOLEANS for each in {name, name.capitalize(), name.upper()})
_INTEGER = r"[-+]?(0[xX][0-9a-fA-F_]+|0[oO]?[0-7_]*|0[bB][01_]+|[1-9][0-9_]*)"
_FLOAT = r"[-+]?(\.[0-9]+|[0-9][0-9_]*(\.[0-9_]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
for _name, _pattern, _first in (
    ("bool", _SPELLINGS, "yYnNtTfFoO"),
    ("null", "~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("merge", "<<", "<"),
    ("int", _INTEGER, "-+0123456789"),
    ("float", _FLOAT, "-+0123456789."),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", re.compile(f"(?:{_pattern})\\Z"), list(_first))


def _construct_mapping(loader: _Loader, node: yaml.MappingNode) -> gojson.Pairs:
    for key, value in node.value:
        merged = value.value if isinstance(value, yaml.SequenceNode) else [value]
        if key.tag == _MERGE_TAG and not all(isinstance(each, yaml.MappingNode) for each in merged):
            raise Problem("yaml: map merge requires map or sequence of maps as the value")
    loader.flatten_mapping(node)
    found = gojson.Pairs()
    for key, value in node.value:
        item = loader.construct_object(value, deep=True)
        found.append((_key_text(loader.construct_object(key, deep=True), item), item))
    return found


_MERGE_TAG = "tag:yaml.org,2002:merge"


def _key_text(key: Any, value: Any) -> str:
    if isinstance(key, str):
        return str(key)
    if isinstance(key, bool):
        return "true" if key else "false"
    if key is None:
        raise Problem(
            f"unsupported map key of type: %!s(<nil>), key: <nil>, value: {gotext.syntax(gojson.plain(value))}"
        )
    raise Problem(f"yaml: invalid map key: {gotext.syntax(gojson.plain(key))}")


def _construct_bool(_: _Loader, node: yaml.ScalarNode) -> bool:
    found = _BOOLEANS.get(str(node.value).lower())
    if found is None:
        raise _undecodable(node, "bool")
    return found


def _construct_integer(_: _Loader, node: yaml.ScalarNode) -> gojson.Number:
    text = str(node.value).replace("_", "")
    try:
        # An octal number may lack its letter.
        number = int(text, 8) if re.match("[-+]?0[0-7]+\\Z", text) else int(text, 0)
    except ValueError as error:
        raise _undecodable(node, "int") from error
    return gojson.Number(str(number)) if -(1 << 63) <= number < 1 << 64 else _float(_as_float(number))


def _as_float(number: int) -> float:
    try:
        return float(number)
    except OverflowError:
        return math.inf if number > 0 else -math.inf


def _construct_float(_: _Loader, node: yaml.ScalarNode) -> gojson.Number:
    text = str(node.value).replace("_", "").lower()
    try:
        return _float(float(text.replace(".inf", "inf").replace(".nan", "nan")))
    except ValueError as error:
        raise _undecodable(node, "float") from error


def _float(number: float) -> gojson.Number:
    if math.isnan(number) or math.isinf(number):
        text = "NaN" if math.isnan(number) else "+Inf" if number > 0 else "-Inf"
        raise Problem(f"json: unsupported value: {text}")
    return gojson.Number(str(int(number)) if number.is_integer() and abs(number) < 1e21 else repr(number))


def _construct_binary(_: _Loader, node: yaml.ScalarNode) -> str:
    try:
        return base64.b64decode(str(node.value), validate=True).decode("utf-8", "replace")
    except ValueError as error:
        raise Problem("yaml: !!binary value contains invalid base64 data") from error


def _construct_other(loader: _Loader, node: yaml.Node) -> Any:
    """What has a tag of its own is what it looks like."""
    if isinstance(node, yaml.MappingNode):
        return _construct_mapping(loader, node)
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    return str(node.value)


def _undecodable(node: yaml.ScalarNode, kind: str) -> Problem:
    return Problem(f"yaml: cannot decode !!str `{node.value}` as a !!{kind}")


_Loader.add_constructor("tag:yaml.org,2002:bool", _construct_bool)
_Loader.add_constructor("tag:yaml.org,2002:int", _construct_integer)
_Loader.add_constructor("tag:yaml.org,2002:float", _construct_float)
_Loader.add_constructor("tag:yaml.org,2002:binary", _construct_binary)
for _tag in ("tag:yaml.org,2002:map", "tag:yaml.org,2002:set"):
    _Loader.add_constructor(_tag, _construct_mapping)
for _tag in ("omap", "pairs", "timestamp"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_tag}", _construct_other)
_Loader.add_constructor(None, _construct_other)

_MAX_ALIASES = 1000
_MAX_DEPTH = 256
#: Values that are written out, and values when aliases are put in their places. A megabyte of text may be one of them.
_MAX_NODES = 100_000
_MAX_EXPANDED = 400_000


def parse(data: bytes) -> Any:
    """The tree of the first YAML document, of the same form as `codec.parse_json` gives. Raises Problem."""
    try:
        text = data.decode("utf-8")
        _check_outline(text)
        return _construct(text)
    except yaml.MarkedYAMLError as error:
        raise Problem(f"yaml: {_line(error)}{_words(error, text)}") from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise Problem("yaml: control characters are not allowed") from error
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        # An explicit tag on a value that is none of the kind: the library's constructors do not look before they leap.
        raise Problem("yaml: cannot decode a value as its tag says") from error


def _words(error: yaml.MarkedYAMLError, text: str) -> str:
    if error.problem != "found undefined alias" or error.problem_mark is None:
        return str(error.problem)
    line = text.split("\n")[error.problem_mark.line]
    name = re.match(r"[\w-]*", line[error.problem_mark.column + 1 :])
    return f"unknown anchor '{name[0] if name is not None else ''}' referenced"


def _line(error: yaml.MarkedYAMLError) -> str:
    """Where Go's parser says that it stopped: lines count from 0 there, and nothing is said of the first one."""
    marks = [mark for mark in (error.context_mark, error.problem_mark) if mark is not None and mark.line]
    if not marks:
        return ""
    return f"line {marks[0].line + isinstance(error, yaml.scanner.ScannerError)}: "


def duplicates(data: bytes) -> list[str]:
    """The keys that a mapping of a YAML document has twice, in the words of Go's parser. `parse` has read it."""
    found: list[str] = []

    def walk(node: yaml.Node | None) -> None:
        if isinstance(node, yaml.SequenceNode):
            for item in node.value:
                walk(item)
        elif isinstance(node, yaml.MappingNode):
            known: set[str] = set()
            for key, value in node.value:
                walk(value)
                if key.tag == _MERGE_TAG:
                    known.update(_merged_keys(value))
                    continue
                text = str(key.value)
                if text in known:
                    found.append(f"line {value.start_mark.line + 1}: key {gotext.quote(text)} already set in map")
                known.add(text)

    loader = _Loader(data.decode("utf-8"))
    try:
        walk(_first_node(loader))
    finally:
        loader.dispose()
    return found


def _merged_keys(value: yaml.Node) -> list[str]:
    mappings = value.value if isinstance(value, yaml.SequenceNode) else [value]
    return [str(key.value) for each in mappings for key, _ in each.value]


def _first_node(loader: _Loader) -> yaml.Node | None:
    """The first document of a text: what comes behind it is not even looked at."""
    node: yaml.Node | None = loader.get_node() if loader.check_node() else None
    return node


def _construct(text: str) -> Any:
    loader = _Loader(text)
    try:
        node = _first_node(loader)
        if "*" in text:
            _check_expansion(node)
        return loader.construct_document(node) if node is not None else None
    finally:
        loader.dispose()


def _check_expansion(root: yaml.Node | None) -> None:
    """Refuse what aliases make huge, or endless, when it is written out."""
    todo: list[Any] = [root]
    count = 0
    while todo:
        node = todo.pop()
        inner: list[Any] = []
        if isinstance(node, yaml.SequenceNode):
            inner = node.value
        elif isinstance(node, yaml.MappingNode):
            inner = [part for pair in node.value for part in pair]
        count += len(inner)
        if count > _MAX_EXPANDED:
            raise Problem("yaml: document contains excessive aliasing")
        todo.extend(inner)


def _check_outline(text: str) -> None:
    """Refuse what is nested too deep, has very many values, or very many aliases."""
    # The C loader recurses without looking: what is nested too deep would take the process with it. Its parser does not
    # recurse. A document with few signs of structure can be none of this and needs no second look.
    if sum(map(text.count, "[{-:?,*\n")) <= _MAX_DEPTH:
        return
    depth = nodes = aliases = 0
    for event in yaml.parse(text, Loader=yaml.CSafeLoader):
        if isinstance(event, yaml.NodeEvent):
            nodes += 1
            if nodes > _MAX_NODES:
                raise Problem(f"yaml: document has more than {_MAX_NODES} values")
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > _MAX_DEPTH:
                raise Problem(f"yaml: exceeded max depth of {_MAX_DEPTH}")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        elif isinstance(event, yaml.AliasEvent):
            aliases += 1
            if aliases > _MAX_ALIASES:
                raise Problem("yaml: document contains excessive aliasing")


def load(text: str | bytes) -> Any:
    """Builtins from a YAML text of a trusted person (configuration, kubeconfig). Raises Problem."""
    return gojson.plain(parse(text.encode("utf-8") if isinstance(text, str) else text), numbers=True)


class _Dumper(yaml.CSafeDumper):
    """YAML as Kubernetes writes it."""


def _resolved(dumper: _Dumper, text: str) -> str:
    found: str = dumper.resolve(yaml.ScalarNode, text, (True, False))  # type: ignore[no-untyped-call]  # PyYAML's stubs
    return found


def _represent_text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    style = None
    if "\n" in text:
        style = "|"
    elif _resolved(dumper, text) != "tag:yaml.org,2002:str" or _looks_numeric(text):
        style = '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


def _looks_numeric(text: str) -> bool:
    return text in ("y", "Y", "n", "N", "=", "<<") or bool(re.fullmatch(r"[-+]?[0-9][0-9_]*([.eE][-+0-9eE]*)?", text))


_Dumper.add_representer(str, _represent_text)
_Dumper.ignore_aliases = lambda *_: True  # type: ignore[method-assign]  # JSON has no references to preserve


def dump(value: Any) -> str:
    """JSON builtins as a YAML document, keys sorted, in block style."""
    text: str = yaml.dump(value, Dumper=_Dumper, default_flow_style=False, allow_unicode=True)
    return text
