"""Is the house standing? The laws that import-linter cannot see."""

from __future__ import annotations

import ast
import pathlib
import re
import tomllib

import pytest

from certplane.server import pipeline

ROOT = pathlib.Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src" / "certplane"
GENERATED = re.compile(r"_pb2\.pyi?$")
MODULES = sorted(path for path in SOURCE.rglob("*.py") if not GENERATED.search(path.name))
HARD_CAP = 900

#: Where each third-party library lives: the one package or module that may import it.
HOMES = {
    "cryptography": ("x509",),
    "sqlite3": ("store/sqlite.py", "store/sqlitewriter.py"),
    "uvloop": ("server/connection/listener.py",),
    "OpenSSL": ("server/connection/tls.py",),
    "yaml": ("meta/goyaml.py",),
    "google": ("meta",),
    "click": ("cli",),
    "jwt": ("access/tokens.py",),
    "prometheus_client": ("telemetry.py",),
    "ssl": ("client",),
    "aiohttp": ("client/remote.py",),
    "yarl": ("client/remote.py",),
}


def _name(path):
    return path.relative_to(SOURCE).as_posix()


def _imports(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node, alias.name
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node, node.module


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_a_file_can_be_read_in_one_go(path):
    """No file is longer than the hard cap."""
    assert len(path.read_text("utf-8").splitlines()) <= HARD_CAP


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_each_library_stays_at_home(path):
    """A third-party library is imported in its home only."""
    for _, module in _imports(ast.parse(path.read_text("utf-8"))):
        homes = HOMES.get(module.partition(".")[0])
        assert homes is None or _name(path).startswith(homes), f"{module} does not live here"


@pytest.mark.parametrize("path", [path for path in MODULES if path.name != "__main__.py"], ids=_name)
def test_imports_are_in_the_open(path):
    """No own import hides in a function or under TYPE_CHECKING, and none is relative. Where the program begins, signals
    are taken before anything is loaded.
    """
    tree = ast.parse(path.read_text("utf-8"))
    assert "TYPE_CHECKING" not in path.read_text("utf-8")
    top = set(tree.body)
    for node, module in _imports(tree):
        assert node in top or not module.startswith("certplane")
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level]


@pytest.mark.parametrize("path", [path for path in MODULES if path.name != "clock.py"], ids=_name)
def test_only_the_clock_reads_a_clock(path):
    """Nothing but clock.py asks what time it is or sleeps (after yielding once, which is no wait)."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            called = ast.unparse(node.func)
            assert called not in ("time.time", "time.monotonic", "time.sleep", "datetime.datetime.now")
            assert called != "asyncio.sleep" or ast.unparse(node.args[0]) == "0"


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_exceptions_to_the_rules_have_reasons(path):
    """Every noqa and type: ignore says which rule and why."""
    for line in path.read_text("utf-8").splitlines():
        if "# noqa" in line:
            assert re.search(r"# noqa: [A-Z0-9, ]+ - \S", line), line
        if "# type: ignore" in line:
            assert re.search(r"# type: ignore\[[\w-]+(, [\w-]+)*\]  # \S", line), line


#: Functions that `functools.cache` may remember without a bound, and why: no argument is sent by anybody.
OURS = {
    "meta/codec.py:_decoder": "types of ours",
    "meta/codec.py:_struct_reader": "types of ours",
    "meta/protobuf.py:_writer": "types of ours",
    "meta/protobuf.py:_reader": "types of ours",
    "meta/shape.py:of": "types of ours",
    "meta/shape.py:_fields": "types of ours",
    "registry/verbs.py:_top_fields": "types of ours",
    "x509/pkilinter.py:is_installed": "no argument",
    "x509/pkilinter.py:_tools": "no argument",
}


def test_what_strangers_send_is_remembered_by_bounded_caches_alone():
    """`functools.cache` and `lru_cache` know no bytes: they are for arguments of ours, and these are listed."""
    found = {
        f"{_name(path)}:{node.name}"
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.FunctionDef)
        and any(re.match(r"(functools\.)?(lru_)?cache\b", ast.unparse(each)) for each in node.decorator_list)
    }
    assert found == set(OURS)
    for path in MODULES:
        text = path.read_text("utf-8")
        assert "lru_cache" not in text
        assert _name(path) == "controllers/decisions.py" or "OrderedDict" not in text


#: Where anything at all may be caught: whoever calls these has to be answered, or to go on with the next.
CATCH_ALL = {
    "controllers/runtime.py",
    "server/audit.py",
    "server/pipeline.py",
    "server/requestinfo.py",
    "store/sqlitewriter.py",
    "supervisor.py",
    "x509/pkilinter.py",
}


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_few_catch_everything(path):
    """A handler for any exception hides mistakes: a task that may fail belongs to the supervisor."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ExceptHandler) and (node.type is None or ast.unparse(node.type) == "Exception"):
            assert _name(path) in CATCH_ALL


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_tasks_are_awaited_or_supervised(path):
    """A task that nobody keeps ends unseen."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            assert ast.unparse(node.value.func) not in ("asyncio.ensure_future", "asyncio.create_task")


def test_most_functions_are_short():
    """The median function is under 12 lines, nine in ten are under 50."""
    lengths = sorted(
        node.end_lineno - node.lineno + 1
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )
    assert lengths[len(lengths) // 2] < 12
    assert lengths[len(lengths) * 9 // 10] < 50


def test_the_life_of_a_request_is_told_as_it_is():
    """The stages in the documentation are those of the pipeline, in their order."""
    text = (ROOT / "docs" / "life-of-a-request.md").read_text("utf-8")
    table = text.partition("| stage |")[2].partition("\n\n")[0]
    told = re.findall(r"^\| ([a-z]+) \|", table, flags=re.MULTILINE)
    assert told == [stage.name for stage in pipeline.STAGES]


def test_dependencies_are_declared_with_their_reason():
    """Each runtime dependency has a comment in pyproject.toml and a pin in requirements/run.txt."""
    text = (ROOT / "pyproject.toml").read_text("utf-8")
    pins = (ROOT / "requirements" / "run.txt").read_text("utf-8").lower()
    for dependency in tomllib.loads(text)["project"]["dependencies"]:
        name = re.match(r"[\w.-]+", dependency).group()
        assert re.search(rf'"{re.escape(dependency)}",\s+# \S', text), f"{dependency} has no reason"
        assert re.search(rf"^{re.escape(name.lower())}==", pins, flags=re.MULTILINE), f"{name} is not pinned"


def test_nothing_names_a_download_host():
    """Requirement files pin by hash and name no index."""
    for path in (ROOT / "requirements").iterdir():
        text = path.read_text("utf-8")
        assert "://" not in text
        assert "--index-url" not in text
        assert path.suffix == ".in" or "--hash=sha256:" in text
