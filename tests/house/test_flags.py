"""A flag takes at most three steps under one name: its Option, a field of one settings section, and the code that uses
the field. Sections are passed on whole, so nothing else has a copy of the value.
"""

from __future__ import annotations

import ast
import collections
import dataclasses
import functools
import importlib
import inspect
import pathlib
import sys
import textwrap
import types
import typing
from collections.abc import Mapping

import pytest

from certplane.config import controllersettings, options, servesettings
from certplane.golang import formatting

ROOT = pathlib.Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src"
COMMANDS = {"serve": servesettings, "controllers": controllersettings}
MODULES = sorted(
    path
    for path in (SOURCE / "certplane").rglob("*.py")
    if "_pb2" not in path.name and path.name != "__main__.py" and path.parent.name != "config"
)
FLAGS = [
    pytest.param(module, option, id=f"{name}--{option.name}")
    for name, module in COMMANDS.items()
    for option in module.OPTIONS
]

# --- from an option to its field ----------------------------------------------------------------------------------

#: Two valid values of each option whose type alone does not say what is valid.
VALUES = {
    "listen": ("127.0.0.1:1", "127.0.0.1:2"),
    "listen-health": ("127.0.0.1:1", "127.0.0.1:2"),
    "store": ("sqlite:/a", "sqlite:/b"),
    "controllers": ("csrsigning", "csrapproving"),
    "service-account-max-token-expiration": ("2h", "3h"),
}
#: Flags of which another part than a prefix is dropped.
RENAMED = {"tls-private-key-file": "key_file"}  # kube-apiserver's name; all other pairs have cert-file and key-file


def two_values(option):
    """Two valid values of an option."""
    if option.name in VALUES:
        return VALUES[option.name]
    if option.kind == "duration":
        seconds = int(formatting.parse_duration(option.default).total_seconds())
        return f"{seconds}s", f"{seconds + 1}s"
    if option.kind == "choice":
        return option.choices[:2]
    return {"flag": (True, False), "number": (7, 8), "path": ("/a", "/b")}.get(option.kind, ("a", "b"))


def settings_of(module, option, value):
    """The settings when all flags are set, so that no field has a default that follows another flag."""
    is_common = option.name in ("cluster-signing-cert-file", "cluster-signing-key-file")

    def is_excluded(name):
        """kube-controller-manager refuses the CA of all signers together with the CA of one."""
        is_pair = name.startswith("cluster-signing-") and name.endswith("-file")
        return is_pair and is_common != (name in ("cluster-signing-cert-file", "cluster-signing-key-file"))

    flags = {other.field: two_values(other)[0] for other in module.OPTIONS if not is_excluded(other.name)}
    return module.read({**flags, option.field: value}, {})


def is_section(value):
    return dataclasses.is_dataclass(value) and not isinstance(value, options.Address)


def differences(first, second, path=()):
    """The paths of the fields in which two settings differ."""
    if is_section(first) and type(first) is type(second):
        for field in dataclasses.fields(first):
            yield from differences(getattr(first, field.name), getattr(second, field.name), (*path, field.name))
    elif isinstance(first, Mapping) and isinstance(second, Mapping) and first.keys() == second.keys():
        for key in first:
            yield from differences(first[key], second[key], (*path, key))
    elif first != second:
        yield path


def changed_fields(module, option):
    """The paths of the fields that a flag changes."""
    before, after = (settings_of(module, option, value) for value in two_values(option))
    return list(differences(before, after))


@pytest.mark.parametrize(("module", "option"), FLAGS)
def test_a_flag_has_one_field_of_its_name(module, option):
    """The field has the flag's name, or the name without the prefix of its section."""
    (path,) = changed_fields(module, option)
    name = RENAMED.get(option.name, path[-1])

    assert path[-1] == name
    assert option.field == name or option.field.endswith(f"_{name}")


@pytest.mark.parametrize("module", COMMANDS.values(), ids=COMMANDS)
def test_a_section_drops_one_prefix(module):
    """So the flag of a field can be found by its name."""
    prefixes = collections.defaultdict(set)
    for option in module.OPTIONS:
        (path,) = changed_fields(module, option)
        if option.name not in RENAMED and option.field != path[-1]:
            prefixes[path[:-1]].add(option.field.removesuffix(path[-1]))

    assert {section: found for section, found in prefixes.items() if len(found) > 1} == {}


def test_every_field_has_a_flag():
    """A field that no flag sets is not a setting."""
    for module in COMMANDS.values():
        fields = {path for option in module.OPTIONS for path in changed_fields(module, option)}
        assert leaves(module.read({}, {})) - fields == set()


def leaves(settings, path=()):
    """The paths of all fields that are not sections."""
    if is_section(settings):
        return {
            leaf
            for field in dataclasses.fields(settings)
            for leaf in leaves(getattr(settings, field.name), (*path, field.name))
        }
    if isinstance(settings, Mapping) and any(map(is_section, settings.values())):
        return {leaf for key, value in settings.items() for leaf in leaves(value, (*path, key))}
    return {path}


# --- from the field to the code that uses it ----------------------------------------------------------------------

#: Copies that are not configuration, by function and class, and the reason.
COPIES = {("_built_in_signer", "Profile"): "the profile is the signer's policy, which requesters are warned about"}
#: A value that went through one of these is still the same value.
CONVERSIONS = {"int", "float", "str", "bool", "tuple", "list", "set", "frozenset", "dict"}


def sections(cls):
    """A settings class and the sections in it."""
    if not dataclasses.is_dataclass(cls) or cls is options.Address:
        return set()
    return {cls}.union(*(sections(inner) for hint in typing.get_type_hints(cls).values() for inner in classes(hint)))


def classes(hint):
    """The classes in an annotation: of `Mapping[str, A] | None`, Mapping, str, A and NoneType."""
    arguments = typing.get_args(hint)
    return {inner for argument in arguments for inner in classes(argument)} if arguments else {hint}


SECTIONS = set().union(*(sections(module.Settings) for module in COMMANDS.values()))


def only_class(hint):
    """The class of `A` or `A | None`; None for every other annotation."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        candidates = {*typing.get_args(hint)} - {type(None)}
        return only_class(candidates.pop()) if len(candidates) == 1 else None
    return hint if isinstance(hint, type) else None


def resolve(annotation, names):
    """The class that an annotation names in a module; None if it cannot be told."""
    try:
        return only_class(eval(annotation, dict(names)) if isinstance(annotation, str) else annotation)
    except (AttributeError, NameError, TypeError):
        return None


def annotated(holder, names):
    """The classes in the annotations of a class or function."""
    return {name: resolve(annotation, names) for name, annotation in inspect.get_annotations(holder).items()}


@functools.cache
def attributes(cls):
    """The classes of the attributes of a class: from its annotations, and from `self.name = parameter`."""
    known = {}
    for base in reversed(cls.__mro__):
        if base.__module__.partition(".")[0] not in ("certplane", "tests"):
            continue
        names = vars(sys.modules[base.__module__])
        known |= annotated(base, names)
        for name, member in vars(base).items():
            if isinstance(member, property):
                known[name] = annotated(member.fget, names).get("return")
        initializer = vars(base).get("__init__")
        if not dataclasses.is_dataclass(base) and inspect.isfunction(initializer):
            known |= _assigned(initializer, annotated(initializer, names))
    return known


def _assigned(initializer, parameters):
    """The attributes that an `__init__` sets to a parameter, with the parameter's class."""
    return {
        target.attr: parameters[node.value.id]
        for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(initializer))))
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Name) and node.value.id in parameters
        for target in node.targets
        if isinstance(target, ast.Attribute) and ast.unparse(target.value) == "self"
    }


class Copies(ast.NodeVisitor):
    """Finds the dataclasses outside `certplane.config` that are given fields of a section instead of the section.

    It follows annotated parameters, attributes, and local names, but not values that a function returns: what was read
    from a file that a setting names is not the setting. `found` has pairs of a function and a class.
    """

    def __init__(self, module_names):
        self.found = set()
        self._globals = module_names
        self._scopes = [{}]
        self._class = None
        self._path = []

    def visit_ClassDef(self, node):
        outer = self._class
        self._class = self._globals.get(node.name) if outer is None else None
        self._path.append(node.name)
        self.generic_visit(node)
        self._path.pop()
        self._class = outer

    def visit_FunctionDef(self, node):
        arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        scope = {
            argument.arg: argument.annotation and resolve(ast.unparse(argument.annotation), self._globals)
            for argument in arguments
        }
        if self._class is not None and arguments and arguments[0].arg == "self":
            scope["self"] = self._class
        self._scopes.append(scope)
        self._path.append(node.name)
        self.generic_visit(node)
        self._path.pop()
        self._scopes.pop()

    def visit_AsyncFunctionDef(self, node):
        self.visit_FunctionDef(node)

    def visit_Assign(self, node):
        self.generic_visit(node)
        for target in node.targets:
            pairs = [(target, node.value)]
            if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                pairs = list(zip(target.elts, node.value.elts, strict=False))
            for name, value in pairs:
                if isinstance(name, ast.Name):
                    self._scopes[-1][name.id] = FIELD if self._is_field(value) else self._class_of(value)

    def visit_Call(self, node):
        self.generic_visit(node)
        values = [*node.args, *(keyword.value for keyword in node.keywords)]
        cls = self._global(node.func)
        if cls is dataclasses.replace:
            cls = self._class_of(node.args[0])
            is_copy = cls not in SECTIONS
        else:
            is_copy = dataclasses.is_dataclass(cls) and not cls.__module__.startswith("certplane.config")
        if is_copy and any(map(self._is_field, values)):
            self.found.add((".".join(self._path), getattr(cls, "__name__", "replace")))

    def _global(self, node):
        """The value of a dotted name of the module; None for local names and other expressions."""
        if isinstance(node, ast.Name):
            return self._globals.get(node.id)
        return getattr(self._global(node.value), node.attr, None) if isinstance(node, ast.Attribute) else None

    def _class_of(self, node):
        """The class of an expression's value, or FIELD for a field of a section; None if it cannot be told."""
        if isinstance(node, ast.Name):
            for scope in reversed(self._scopes):
                if node.id in scope:
                    return scope[node.id]
            value = self._globals.get(node.id)
            return type(value) if type(value) in SECTIONS else None
        if isinstance(node, ast.Attribute):
            owner = self._class_of(node.value)
            if owner is FIELD or owner is None:
                value = self._global(node) if owner is None else None
                return type(value) if type(value) in SECTIONS else None
            cls = attributes(owner).get(node.attr)
            return FIELD if owner in SECTIONS and cls not in SECTIONS else cls
        if isinstance(node, ast.Call):
            function = node.func
            if isinstance(function, ast.Attribute):
                owner = self._class_of(function.value)
                method = getattr(owner, function.attr, None) if isinstance(owner, type) else None
                if inspect.isfunction(method):
                    return annotated(method, vars(sys.modules[method.__module__])).get("return")
            cls = self._global(function)
            return cls if isinstance(cls, type) else None
        return None

    def _is_field(self, node):
        """Whether an expression is a field of a section, perhaps converted or with a default."""
        if isinstance(node, ast.Call):
            function = node.func
            if isinstance(function, ast.Name) and function.id in CONVERSIONS:
                return any(map(self._is_field, node.args))
            return isinstance(function, ast.Attribute) and self._is_field(function.value)
        if isinstance(node, ast.IfExp):
            return self._is_field(node.body) or self._is_field(node.orelse)
        if isinstance(node, ast.BoolOp | ast.BinOp | ast.Tuple | ast.List | ast.Starred):
            inner = [child for child in ast.iter_child_nodes(node) if isinstance(child, ast.expr)]
            return any(map(self._is_field, inner))
        return self._class_of(node) is FIELD


#: Stands for the class of a field that is not a section.
FIELD = object()


def copies(text, module_names):
    """Functions that copy fields of a section, each with the class that gets the copies."""
    visitor = Copies(module_names)
    visitor.visit(ast.parse(text))
    return visitor.found


def copies_in(path):
    """The same, for a module of certplane."""
    name = ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__")
    return copies(path.read_text("utf-8"), vars(importlib.import_module(name)))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(SOURCE / "certplane").as_posix())
def test_sections_are_passed_whole(path):
    """No dataclass outside `certplane.config` gets a field of a section; the section is passed instead."""
    assert copies_in(path) - set(COPIES) == set()


def test_exceptions_exist():
    """Each exception is still needed."""
    assert set(COPIES) <= {copy for path in MODULES for copy in copies_in(path)}


@dataclasses.dataclass
class Example:
    """What gets copies in the examples."""

    value: object
    api: servesettings.APISettings | None = None


@dataclasses.dataclass
class Holder:
    """A dataclass that a section was passed to."""

    api: servesettings.APISettings


class Server:
    """A class that a section was passed to."""

    def __init__(self, limits: servesettings.RequestLimits) -> None:
        self._limits = limits


@pytest.mark.parametrize(
    "text",
    [
        "def f(settings: Settings): return Example(settings.key_algorithm)",
        "def f(settings: Settings): return Example(value=settings.api.limits.request_timeout)",
        "def f(settings: Settings | None): return Example(settings.key_algorithm)",
        "def f(settings: Settings): return Example(int(settings.api.event_ttl.total_seconds()))",
        "def f(settings: Settings): return Example(settings.client_ca_file or 'ca.crt')",
        "def f(settings: Settings): return Example(settings.log_level if settings.api.creation_hints else '')",
        "def f(settings: Settings):\n    level = settings.log_level\n    return Example(level)",
        "def f(settings: Settings):\n    api, level = settings.api, 1\n    return Example(api.creation_hints)",
        "def f(settings: Settings):\n    def g():\n        return Example(settings.log_level)\n    return g",
        "async def f(holder: Holder): return Example(holder.api.anonymous_auth)",
        "def f(example: Example, settings: Settings): return dataclasses.replace(example, value=settings.log_level)",
        "class Server:\n    def f(self): return Example(self._limits.request_timeout)",
        "def f(): return Example(servesettings.DEFAULTS.log_level)",
    ],
)
def test_copies_are_detected(text):
    """The test above depends on this detection."""
    names = {**globals(), "Settings": servesettings.Settings}
    assert {cls for _, cls in copies(text, names)} == {"Example"}


@pytest.mark.parametrize(
    "text",
    [
        "def f(settings: Settings): return Example(1, api=settings.api)",
        "def f(settings: Settings): return Holder(settings.api)",
        "def f(settings: Settings): return Example(load(settings.client_ca_file))",
        "def f(settings: Settings): return Example(1 if settings.api.creation_hints else 2)",
        "def f(api: servesettings.APISettings): return dataclasses.replace(api, creation_hints=api.anonymous_auth)",
        "def f(settings: Settings): return Server(settings.api.limits.request_timeout)",
    ],
)
def test_sections_and_uses_are_not_copies(text):
    """A section that is passed whole, a file that is loaded, a decision, and the class that uses a value."""
    assert copies(text, {**globals(), "Settings": servesettings.Settings}) == set()
