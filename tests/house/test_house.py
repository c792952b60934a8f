"""Rules for the source code that import-linter cannot check."""

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

#: Modules with imports inside functions. The first installs signal handlers before it imports anything; the second is
#: loaded in every project that runs pytest.
LATE_IMPORTS = {"__main__.py", "pytest_plugin.py"}
#: The packages or modules that may import each third-party library.
HOMES = {
    "cryptography": ("x509", "testing/builders.py"),
    "sqlite3": ("store/sqlite.py", "store/sqlitearchive.py", "store/sqlitewriter.py"),
    "uvloop": ("server/connection/listener.py",),
    "OpenSSL": ("server/connection/tls.py",),
    "yaml": ("golang/goyaml.py",),
    "google": ("wire", "openapi"),
    "click": ("cli",),
    "jwt": ("access/tokens.py",),
    "prometheus_client": ("telemetry.py",),
    "ssl": ("client",),
    "aiohttp": ("client/remote.py",),
    "pytest": ("pytest_plugin.py",),
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
def test_files_are_not_too_long(path):
    """No file is longer than the hard cap."""
    assert len(path.read_text("utf-8").splitlines()) <= HARD_CAP


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_third_party_imports(path):
    """Each third-party library is imported only where HOMES says."""
    for _, module in _imports(ast.parse(path.read_text("utf-8"))):
        homes = HOMES.get(module.partition(".")[0])
        assert homes is None or _name(path).startswith(homes), f"{module} must not be imported here"


@pytest.mark.parametrize("path", [path for path in MODULES if path.name not in LATE_IMPORTS], ids=_name)
def test_imports_are_at_the_top(path):
    """certplane's own modules are imported at the top of a file, never under TYPE_CHECKING or by relative imports."""
    tree = ast.parse(path.read_text("utf-8"))
    assert "TYPE_CHECKING" not in path.read_text("utf-8")
    top = set(tree.body)
    for node, module in _imports(tree):
        assert node in top or not module.startswith("certplane")
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level]


#: Functions that read a clock, sleep or set a timer, by their last names.
CLOCK_FUNCTIONS = re.compile(
    r"time\.(time|monotonic|perf_counter|sleep)(_ns)?|datetime\.(datetime\.)?(now|utcnow|today)|"
    r"asyncio\.(sleep|wait_for|timeout|timeout_at)|(.+\.)?call_(later|at)"
)
#: The exceptions, each with its reason. Both wait for a moment, and no decision depends on it.
TIMERS = {
    "server/auditlog.py:asyncio.get_running_loop().call_later": "lines are collected for one system call",
    "server/connection/listener.py:self._loop.call_later": "accepting pauses while there are no descriptors",
}


def _clock_calls(path):
    """The calls in a module that read a clock, sleep or set a timer; `asyncio.sleep(0)`, which only yields, is none."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            called = ast.unparse(node.func)
            has_timeout = called == "asyncio.wait" and any(keyword.arg == "timeout" for keyword in node.keywords)
            if has_timeout or (CLOCK_FUNCTIONS.fullmatch(called) and ast.unparse(node) != "asyncio.sleep(0)"):
                yield f"{_name(path)}:{called}"


def test_only_the_clock_reads_a_clock():
    """Only clock.py reads a clock, sleeps or sets a timer, besides TIMERS."""
    calls = {call for path in MODULES if _name(path) != "clock.py" for call in _clock_calls(path)}
    assert calls == set(TIMERS)


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_exceptions_to_the_rules_have_reasons(path):
    """Every noqa and type: ignore names the rule and the reason."""
    for line in path.read_text("utf-8").splitlines():
        if "# noqa" in line:
            assert re.search(r"# noqa: [A-Z0-9, ]+ - \S", line), line
        if "# type: ignore" in line:
            assert re.search(r"# type: ignore\[[\w-]+(, [\w-]+)*\]  # \S", line), line


#: Functions with an unbounded `functools.cache`, and the reason: their arguments never come from a client.
UNBOUNDED_CACHES = {
    "wire/codec.py:_decoder": "our own types",
    "wire/codec.py:_struct_reader": "our own types",
    "wire/protobuf.py:_writer": "our own types",
    "wire/protobuf.py:_reader": "our own types",
    "meta/shapes.py:shape_of": "our own types",
    "meta/shapes.py:_fields": "our own types",
    "registry/verbs.py:_top_fields": "our own types",
    "x509/lint/pkilinter.py:is_installed": "no argument",
    "x509/lint/pkilinter.py:_validators": "no argument",
}


def test_untrusted_input_is_cached_only_in_bounded_caches():
    """`functools.cache` and `lru_cache` have no limit in bytes, so only the listed functions use them."""
    cached = {
        f"{_name(path)}:{node.name}"
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.FunctionDef)
        and any(re.match(r"(functools\.)?(lru_)?cache\b", ast.unparse(decorator)) for decorator in node.decorator_list)
    }
    assert cached == set(UNBOUNDED_CACHES)
    for path in MODULES:
        text = path.read_text("utf-8")
        assert "lru_cache" not in text
        assert _name(path) == "controllers/runtime/eventwriter.py" or "OrderedDict" not in text


#: Modules that may catch every exception, because they must answer a request or continue with the next item.
CATCH_ALL = {
    "client/informer.py",
    "controllers/runtime/controller.py",
    "expiry/watch.py",
    "reload.py",
    "server/audit.py",
    "server/auditlog.py",
    "server/pipeline.py",
    "server/requestinfo.py",
    "store/sqlitewriter.py",
    "supervisor.py",
    "x509/lint/pkilinter.py",
}


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_only_listed_modules_catch_every_exception(path):
    """Catching every exception hides bugs; the supervisor handles tasks that fail."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ExceptHandler) and (node.type is None or ast.unparse(node.type) == "Exception"):
            assert _name(path) in CATCH_ALL


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_tasks_are_awaited_or_supervised(path):
    """The failure of a task without a reference would go unnoticed."""
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


def test_the_documented_stages_are_those_of_the_pipeline():
    """The documentation lists the stages in the order of the pipeline."""
    text = (ROOT / "docs" / "life-of-a-request.md").read_text("utf-8")
    table = text.partition("| stage |")[2].partition("\n\n")[0]
    documented = re.findall(r"^\| ([a-z-]+) \|", table, flags=re.MULTILINE)
    assert documented == [stage.name for stage in pipeline.STAGES]


def test_dependencies_are_declared_with_their_reason():
    """Each runtime dependency has a comment in pyproject.toml and a pin in requirements/run.txt."""
    text = (ROOT / "pyproject.toml").read_text("utf-8")
    pins = (ROOT / "requirements" / "run.txt").read_text("utf-8").lower()
    for dependency in tomllib.loads(text)["project"]["dependencies"]:
        name = re.match(r"[\w.-]+", dependency).group()
        assert re.search(rf'"{re.escape(dependency)}",\s+# \S', text), f"{dependency} has no reason"
        assert re.search(rf"^{re.escape(name.lower())}==", pins, flags=re.MULTILINE), f"{name} is not pinned"


def test_nothing_names_a_download_host():
    """Requirement files pin packages by hash and name no index."""
    for path in (ROOT / "requirements").iterdir():
        text = path.read_text("utf-8")
        assert "://" not in text
        assert "--index-url" not in text
        assert path.suffix == ".in" or "--hash=sha256:" in text


def test_package_data_exists():
    """Each package that the wheel takes other files from has such files."""
    settings = tomllib.loads((SOURCE.parents[1] / "pyproject.toml").read_text("utf-8"))
    for package, patterns in settings["tool"]["setuptools"]["package-data"].items():
        directory = SOURCE.parent / package.replace(".", "/")
        for pattern in patterns:
            assert list(directory.glob(pattern)), f"{package}: {pattern}"
