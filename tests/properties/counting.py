"""Counts the operations of certplane: the measurement of `test_growth`.

Time depends on the machine, and executed lines are too coarse: `item in seen` is one line, and costs as much as `seen`
is long. A second copy of the package is therefore loaded, as `counted`, in which each operation first adds its cost: a
call 1, a loop 1 for each round, and operations that Python does in C (slices, sums, comparisons, searches, `in`,
`[*a, *b]`) the length of what they read, copy or create.

Not counted are operations inside of libraries, beyond the lengths of arguments and results, and backtracking in regular
expressions: see `test_expressions`.
"""

from __future__ import annotations

import ast
import importlib.abc
import importlib.util
import pathlib
import re
import sys
import types
from collections import deque

import certplane

_ROOT = pathlib.Path(certplane.__file__).parent
_NAME = "counted"
#: Generated modules register themselves once, and have nothing to count.
_SHARED = "certplane.meta.pb"
_SIZED = (str, bytes, bytearray, list, tuple, dict, set, frozenset, deque, type({}.keys()), type({}.items()))
_SCANNED = (str, bytes, list, tuple)


class Counter:
    """The cost since the last reset."""

    def __init__(self):
        self.total = 0

    def charge(self, cost):
        self.total += cost


counter = Counter()
_charge = counter.charge


def _length(value):
    return len(value) if isinstance(value, _SIZED) else 0


def _deep(value):
    if isinstance(value, dict):
        return len(value) + sum(map(_deep, value.values()))
    if isinstance(value, list | tuple):
        return len(value) + sum(map(_deep, value))
    return _length(value)


# --- functions that the second copy calls -----------------------------------------------------------------------------


def _rounds(iterable):
    for item in iterable:
        counter.total += 1
        yield item


def _slice(value, where):
    part = value[where]
    _charge(_length(part))
    return part


def _contains(item, container):
    _charge(len(container) if isinstance(container, _SCANNED) else 1)
    return item in container


def _equals(left, right):
    if type(left) is type(right) and isinstance(left, _SIZED) and len(left) == len(right):
        _charge(_deep(left))
    return left == right


def _created(value):
    _charge(1 + _length(value))
    return value


def _grown(value):
    if isinstance(value, str | bytes | tuple | frozenset):
        _charge(len(value))


#: Methods whose cost does not depend on the size of their object.
_CONSTANT = frozenset(
    {"append", "add", "get", "setdefault", "popitem", "popleft", "appendleft", "discard", "keys", "values", "items",
     "isascii", "clear", "end", "start", "group", "groups", "span", "__setitem__", "__getitem__", "move_to_end"}
)  # fmt: skip
#: Functions with constant cost.
_CONSTANT_FUNCTIONS = frozenset(
    {len, isinstance, issubclass, getattr, setattr, hasattr, type, id, iter, next, callable, range, enumerate, zip, map,
     filter, reversed, min, bool, super, object}
)  # fmt: skip
_FINDING = frozenset({"find", "index", "rfind", "rindex"})
_PREFIXES = frozenset({"startswith", "endswith", "removeprefix", "removesuffix"})


def _call(function, *args, **kwargs):
    counter.total += 1
    if isinstance(function, types.FunctionType | types.MethodType) and _is_own(function):
        return function(*args, **kwargs)
    if isinstance(function, type | types.BuiltinFunctionType) and function in _CONSTANT_FUNCTIONS:
        return function(*args, **kwargs)
    result = function(*args, **kwargs)
    _charge(_cost(function, args, result))
    return result


def _is_own(function):
    return (getattr(function, "__module__", None) or "").startswith(_NAME)


def _cost(function, args, result):
    owner, name = getattr(function, "__self__", None), getattr(function, "__name__", "")
    if isinstance(owner, re.Pattern):
        return _search_cost(name, args, result)
    if not isinstance(owner, _SIZED):
        return sum(map(_deep, args)) + _length(result)
    if name in _CONSTANT or (name == "pop" and not (isinstance(owner, list) and args)):
        return 0
    if name in _PREFIXES:
        return sum(map(_length, args))
    if name in _FINDING:
        begin = args[1] if len(args) > 1 else 0
        end = args[2] if len(args) > 2 else len(owner)
        if name.startswith("r"):
            return end - result if result >= 0 else end - begin
        return result - begin if result >= 0 else end - begin
    if name == "insert" or (name == "pop" and isinstance(owner, list)):
        return max(len(owner) - args[0], 0) if args[0] >= 0 else -args[0]
    if name in ("extend", "update"):
        return sum(map(_length, args))
    if name == "isdisjoint":
        return min(len(owner), _length(args[0]))
    return len(owner) + sum(map(_length, args)) + _length(result)


def _search_cost(name, args, result):
    """A regular expression reads what it matches, or the rest of the text if it does not match."""
    text = args[0] if args and isinstance(args[0], str | bytes) else args[-1]
    begin = args[1] if len(args) > 1 and isinstance(args[1], int) else 0
    if name == "match":
        return result.end() - begin if result is not None else 1
    if name in ("search", "fullmatch"):
        return result.end() - begin if result is not None else max(len(text) - begin, 0)
    return _length(text)


_HELPERS = {
    "_counted_rounds": _rounds, "_counted_slice": _slice, "_counted_contains": _contains, "_counted_equals": _equals,
    "_counted_created": _created, "_counted_call": _call, "_counted_grown": _grown,
}  # fmt: skip


# --- the second copy --------------------------------------------------------------------------------------------------


def _to(helper, *args):
    return ast.Call(ast.Name(f"_counted_{helper}", ast.Load()), list(args), [])


class _Instrument(ast.NodeTransformer):
    """Adds the counting to each operation inside of functions, and makes the copy import itself."""

    def __init__(self):
        self._inside = 0

    def visit_ImportFrom(self, node):
        if node.module.split(".")[0] == "certplane" and not node.module.startswith(_SHARED):
            node.module = _NAME + node.module.removeprefix("certplane")
        return node

    def visit_FunctionDef(self, node):
        self._inside += 1
        body = ast.Module(node.body, [])
        node.body = self.generic_visit(body).body
        self._inside -= 1
        return node

    visit_AsyncFunctionDef = visit_FunctionDef  # noqa: N815 - the names of the syntax

    def visit_Lambda(self, node):
        self._inside += 1
        node.body = self.visit(node.body)
        self._inside -= 1
        return node

    def visit_AnnAssign(self, node):
        if node.value is not None:
            node.value = self.visit(node.value)
        return node

    def visit_For(self, node):
        self.generic_visit(node)
        if self._inside:
            node.iter = _to("rounds", node.iter)
        return node

    def visit_While(self, node):
        self.generic_visit(node)
        if self._inside:
            node.body.insert(0, ast.Expr(_to("created", ast.Constant(None))))
        return node

    def visit_comprehension(self, node):
        self.generic_visit(node)
        if self._inside and not node.is_async:
            node.iter = _to("rounds", node.iter)
        return node

    def visit_Call(self, node):
        self.generic_visit(node)
        if not self._inside or (isinstance(node.func, ast.Name) and node.func.id == "super"):
            return node
        return ast.Call(ast.Name("_counted_call", ast.Load()), [node.func, *node.args], node.keywords)

    def visit_Subscript(self, node):
        self.generic_visit(node)
        if self._inside and isinstance(node.slice, ast.Slice) and isinstance(node.ctx, ast.Load):
            bounds = [bound or ast.Constant(None) for bound in (node.slice.lower, node.slice.upper, node.slice.step)]
            return _to("slice", node.value, ast.Call(ast.Name("slice", ast.Load()), bounds, []))
        return node

    def visit_Compare(self, node):
        self.generic_visit(node)
        if not self._inside or len(node.ops) != 1:
            return node
        operator, right = node.ops[0], node.comparators[0]
        if isinstance(operator, ast.In | ast.NotIn):
            counted = _to("contains", node.left, right)
        elif isinstance(operator, ast.Eq | ast.NotEq):
            counted = _to("equals", node.left, right)
        else:
            return node
        return ast.UnaryOp(ast.Not(), counted) if isinstance(operator, ast.NotIn | ast.NotEq) else counted

    def _wrapped(self, node):
        self.generic_visit(node)
        return _to("created", node) if self._inside else node

    visit_BinOp = visit_JoinedStr = _wrapped  # noqa: N815 - the names of the syntax

    def visit_List(self, node):
        self.generic_visit(node)
        unpacks = any(isinstance(element, ast.Starred) for element in node.elts)
        return _to("created", node) if self._inside and unpacks and isinstance(node.ctx, ast.Load) else node

    visit_Tuple = visit_List  # noqa: N815 - the names of the syntax

    def visit_Dict(self, node):
        self.generic_visit(node)
        return _to("created", node) if self._inside and None in node.keys else node

    def visit_AugAssign(self, node):
        self.generic_visit(node)
        if not self._inside or not isinstance(node.target, ast.Name) or not isinstance(node.op, ast.Add | ast.BitOr):
            return node
        # The cost is the length of what is added; strings and tuples are copied, which costs their whole length.
        target = ast.Name(node.target.id, ast.Load())
        node.value = _to("created", node.value)
        return [node, ast.Expr(_to("grown", target))]


class _Loader(importlib.abc.Loader):
    def __init__(self, path):
        self._path = path

    def create_module(self, spec):
        return None

    def exec_module(self, module):
        tree = ast.parse(self._path.read_text("utf-8"), str(self._path))
        tree = ast.fix_missing_locations(_Instrument().visit(tree))
        vars(module).update(_HELPERS)
        exec(compile(tree, str(self._path), "exec", dont_inherit=True), vars(module))


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] != _NAME:
            return None
        place = _ROOT.joinpath(*name.split(".")[1:])
        if place.is_dir():
            return importlib.util.spec_from_file_location(
                name, place / "__init__.py", loader=_Loader(place / "__init__.py"),
                submodule_search_locations=[str(place)],
            )  # fmt: skip
        return importlib.util.spec_from_loader(name, _Loader(place.with_suffix(".py")))


def load(name):
    """A module of the second copy."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        # First, because the default finder would also find the files of a package.
        sys.meta_path.insert(0, _Finder())
    return importlib.import_module(f"{_NAME}.{name}")
