"""YAML as go-yaml parses it, and as Kubernetes writes it: the same documents are accepted, the others get Go's error
texts.

The trees are those of `gojson`: objects with duplicates; numbers normalised. Booleans and numbers are resolved by YAML
1.1 with go-yaml's exceptions: `y` and `0o10` are included, sexagesimal numbers and dates are not.

Documents that are nested too deep, or that aliases make huge, are refused before any code recurses into them.

Source: `go.yaml.in/yaml/v2` (resolve.go, decode.go), `sigs.k8s.io/yaml`.
"""

from __future__ import annotations

import base64
import math
import re
from typing import Any

import yaml

from certplane.golang import formatting, gojson


class YAMLError(Exception):
    """Text that is not YAML, or YAML that has no equivalent in JSON. The text is Go's where Go has one."""


class _Loader(yaml.CSafeLoader):
    """YAML as Kubernetes reads it: duplicates are kept, plain scalars are resolved as in go-yaml, without dates."""


_Loader.yaml_implicit_resolvers = {}


_BOOLEANS = {"y": True, "yes": True, "true": True, "on": True, "n": False, "no": False, "false": False, "off": False}
_SPELLINGS = "|".join(text for name in _BOOLEANS for text in {name, name.capitalize(), name.upper()})
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
        if key.tag == _MERGE_TAG and not all(isinstance(mapping, yaml.MappingNode) for mapping in merged):
            raise YAMLError("yaml: map merge requires map or sequence of maps as the value")
    loader.flatten_mapping(node)
    pairs = gojson.Pairs()
    for key, value in node.value:
        item = loader.construct_object(value, deep=True)
        pairs.append((_key_text(loader.construct_object(key, deep=True), item), item))
    return pairs


_MERGE_TAG = "tag:yaml.org,2002:merge"


def _key_text(key: object, value: object) -> str:
    if isinstance(key, str):
        return str(key)
    if isinstance(key, bool):
        return "true" if key else "false"
    if key is None:
        printed = formatting.format_syntax(gojson.to_builtins(value))
        raise YAMLError(f"unsupported map key of type: %!s(<nil>), key: <nil>, value: {printed}")
    raise YAMLError(f"yaml: invalid map key: {formatting.format_syntax(gojson.to_builtins(key))}")


def _construct_bool(_: _Loader, node: yaml.ScalarNode) -> bool:
    value = _BOOLEANS.get(str(node.value).lower())
    if value is None:
        raise _undecodable(node, "bool")
    return value


def _construct_integer(_: _Loader, node: yaml.ScalarNode) -> gojson.Number:
    text = str(node.value).replace("_", "")
    try:
        # YAML 1.1 octal numbers have no letter after the 0.
        number = int(text, 8) if re.match("[-+]?0[0-7]+\\Z", text) else int(text, 0)
    except ValueError as error:
        raise _undecodable(node, "int") from error
    return gojson.Number(str(number)) if -(1 << 63) <= number < 1 << 64 else _encode_float(_to_float(number))


def _to_float(number: int) -> float:
    try:
        return float(number)
    except OverflowError:
        return math.inf if number > 0 else -math.inf


def _construct_float(_: _Loader, node: yaml.ScalarNode) -> gojson.Number:
    text = str(node.value).replace("_", "").lower()
    try:
        return _encode_float(float(text.replace(".inf", "inf").replace(".nan", "nan")))
    except ValueError as error:
        raise _undecodable(node, "float") from error


def _encode_float(number: float) -> gojson.Number:
    if math.isnan(number) or math.isinf(number):
        text = "NaN" if math.isnan(number) else "+Inf" if number > 0 else "-Inf"
        raise YAMLError(f"json: unsupported value: {text}")
    return gojson.Number(str(int(number)) if number.is_integer() and abs(number) < 1e21 else repr(number))


def _construct_binary(_: _Loader, node: yaml.ScalarNode) -> str:
    try:
        return base64.b64decode(str(node.value), validate=True).decode("utf-8", "replace")
    except ValueError as error:
        raise YAMLError("yaml: !!binary value contains invalid base64 data") from error


def _construct_other(loader: _Loader, node: yaml.Node) -> object:
    """A value with an unknown tag, by its syntax alone."""
    if isinstance(node, yaml.MappingNode):
        return _construct_mapping(loader, node)
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    return str(node.value)


def _undecodable(node: yaml.ScalarNode, kind: str) -> YAMLError:
    return YAMLError(f"yaml: cannot decode !!str `{node.value}` as a !!{kind}")


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
#: Limits of the values in a document, and of the values after the expansion of aliases. The size of a value does not
#: count.
_MAX_NODES = 100_000
_MAX_EXPANDED = 400_000


def parse(data: bytes) -> object:
    """The tree of the first YAML document, in the form of `gojson.parse`. Raises YAMLError."""
    try:
        text = data.decode("utf-8")
        _check_structure(text)
        return _construct(text)
    except yaml.MarkedYAMLError as error:
        raise YAMLError(f"yaml: {_line_text(error)}{_problem_text(error, text)}") from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise YAMLError("yaml: control characters are not allowed") from error
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        # An explicit tag on a value of another type: the library's constructors do not check it.
        raise YAMLError("yaml: cannot decode a value as its tag says") from error


def _problem_text(error: yaml.MarkedYAMLError, text: str) -> str:
    if error.problem != "found undefined alias" or error.problem_mark is None:
        return str(error.problem)
    line = text.split("\n")[error.problem_mark.line]
    name = re.match(r"[\w-]*", line[error.problem_mark.column + 1 :])
    return f"unknown anchor '{name[0] if name is not None else ''}' referenced"


def _line_text(error: yaml.MarkedYAMLError) -> str:
    """The line of an error as Go's parser prints it: counted from 0, and omitted for the first line."""
    marks = [mark for mark in (error.context_mark, error.problem_mark) if mark is not None and mark.line]
    if not marks:
        return ""
    return f"line {marks[0].line + isinstance(error, yaml.scanner.ScannerError)}: "


def find_duplicates(data: bytes) -> list[str]:
    """The duplicate keys of a YAML document, as Go's parser reports them. `parse` must have accepted the document."""
    problems: list[str] = []

    def walk(node: yaml.Node | None) -> None:
        if isinstance(node, yaml.SequenceNode):
            for item in node.value:
                walk(item)
        elif isinstance(node, yaml.MappingNode):
            seen: set[str] = set()
            for key, value in node.value:
                walk(value)
                if key.tag == _MERGE_TAG:
                    seen.update(_merged_keys(value))
                    continue
                text = str(key.value)
                if text in seen:
                    line = value.start_mark.line + 1
                    problems.append(f"line {line}: key {formatting.quote(text)} already set in map")
                seen.add(text)

    loader = _Loader(data.decode("utf-8"))
    try:
        walk(_first_node(loader))
    finally:
        loader.dispose()
    return problems


def _merged_keys(value: yaml.Node) -> list[str]:
    mappings = value.value if isinstance(value, yaml.SequenceNode) else [value]
    return [str(key.value) for mapping in mappings for key, _ in mapping.value]


def _first_node(loader: _Loader) -> yaml.Node | None:
    """The root of the first document of a text. The rest of the text is not read."""
    node: yaml.Node | None = loader.get_node() if loader.check_node() else None
    return node


def _construct(text: str) -> object:
    loader = _Loader(text)
    try:
        node = _first_node(loader)
        if "*" in text:
            _check_expansion(node)
        return loader.construct_document(node) if node is not None else None
    finally:
        loader.dispose()


def _check_expansion(root: yaml.Node | None) -> None:
    """Refuse a document that becomes huge, or infinite, when its aliases are expanded."""
    pending: list[object] = [root]
    count = 0
    while pending:
        node = pending.pop()
        children: list[object] = []
        if isinstance(node, yaml.SequenceNode):
            children = node.value
        elif isinstance(node, yaml.MappingNode):
            children = [part for pair in node.value for part in pair]
        count += len(children)
        if count > _MAX_EXPANDED:
            raise YAMLError("yaml: document contains excessive aliasing")
        pending.extend(children)


def _check_structure(text: str) -> None:
    """Refuse a document that is nested too deep or has too many values or aliases."""
    # The C loader recurses without a limit: a deeply nested document would crash the process. The C parser does not
    # recurse. A document with few structural characters cannot exceed any limit and is not parsed twice.
    if sum(map(text.count, "[{-:?,*\n")) <= _MAX_DEPTH:
        return
    depth = nodes = aliases = 0
    for event in yaml.parse(text, Loader=yaml.CSafeLoader):
        if isinstance(event, yaml.NodeEvent):
            nodes += 1
            if nodes > _MAX_NODES:
                raise YAMLError(f"yaml: document has more than {_MAX_NODES} values")
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > _MAX_DEPTH:
                raise YAMLError(f"yaml: exceeded max depth of {_MAX_DEPTH}")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        elif isinstance(event, yaml.AliasEvent):
            aliases += 1
            if aliases > _MAX_ALIASES:
                raise YAMLError("yaml: document contains excessive aliasing")


def load(text: str | bytes) -> Any:
    """A YAML text as builtins. For files of the operator: configuration, kubeconfig. Raises YAMLError."""
    return gojson.to_builtins(parse(text.encode("utf-8") if isinstance(text, str) else text), numbers=True)


class _Dumper(yaml.CSafeDumper):
    """YAML as Kubernetes writes it."""


def _resolve_tag(dumper: _Dumper, text: str) -> str:
    tag: str = dumper.resolve(yaml.ScalarNode, text, (True, False))  # type: ignore[no-untyped-call]  # PyYAML's stubs
    return tag


def _represent_text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    style = None
    if "\n" in text:
        style = "|"
    elif _resolve_tag(dumper, text) != "tag:yaml.org,2002:str" or _looks_numeric(text):
        style = '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


def _looks_numeric(text: str) -> bool:
    return text in ("y", "Y", "n", "N", "=", "<<") or bool(re.fullmatch(r"[-+]?[0-9][0-9_]*([.eE][-+0-9eE]*)?", text))


_Dumper.add_representer(str, _represent_text)
_Dumper.ignore_aliases = lambda *_: True  # type: ignore[method-assign]  # JSON has no references


def dump(value: object) -> str:
    """JSON builtins as a YAML document, keys sorted, in block style."""
    text: str = yaml.dump(value, Dumper=_Dumper, default_flow_style=False, allow_unicode=True)
    return text
