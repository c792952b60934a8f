"""The diagram in docs/architecture.md shows the imports between packages."""

from __future__ import annotations

import ast
import pathlib
import re

ROOT = pathlib.Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src" / "certplane"
PAGE = (ROOT / "docs" / "architecture.md").read_text("utf-8")
#: The packages in the diagram: without single modules, and without packages that any module may import.
PACKAGES = {path.parent.name for path in SOURCE.glob("*/__init__.py")} - {"golang"}


def drawn_arrows():
    """Pairs of importer and imported package, from the diagram."""
    picture = re.search(r"^```mermaid\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    return re.findall(r"^ *(\w+) --> (\w+)$", picture[1], re.MULTILINE)


def imported_modules(path):
    """The dotted names that a file imports, with the imported name where it comes from a module."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def real_imports():
    """Pairs of packages, the first of which imports the second."""
    return {
        (package, parts[1])
        for package in PACKAGES
        for path in (SOURCE / package).rglob("*.py")
        for parts in (name.split(".") for name in imported_modules(path))
        if parts[0] == "certplane" and len(parts) > 1 and parts[1] in PACKAGES - {package}
    }


def reachable(package, arrows):
    """The packages that a path of one or more arrows leads to."""
    direct = {target for source, target in arrows if source == package}
    return direct.union(*(reachable(target, arrows) for target in direct))


def test_every_arrow_is_an_import():
    """Each arrow is drawn once."""
    arrows = drawn_arrows()
    assert sorted(set(arrows) - real_imports()) == []
    assert sorted(set(arrows)) == sorted(arrows)


def test_every_import_is_an_arrow_or_a_path_of_arrows():
    """No package imports another one to which no arrows lead."""
    arrows = drawn_arrows()
    missing = {(source, target) for source, target in real_imports() if target not in reachable(source, arrows)}
    assert sorted(missing) == []


def test_no_arrow_is_a_shortcut():
    """There is no arrow if a longer path leads to the same package."""
    arrows = drawn_arrows()
    shortcuts = [
        (source, target) for source, target in arrows if target in reachable(source, set(arrows) - {(source, target)})
    ]
    assert shortcuts == []


def test_every_package_and_every_shared_module_is_named():
    """Packages are in the table, single modules in the text below it."""
    single = {path.name for path in SOURCE.glob("*.py")} - {"__init__.py", "__main__.py"}
    assert sorted(package for package in PACKAGES if f"| `{package}` |" not in PAGE) == []
    assert sorted(name for name in single if f"`{name}`" not in PAGE) == []
