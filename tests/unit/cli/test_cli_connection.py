"""The connection of a command: which kubeconfig is used, errors and warnings of the server."""

from __future__ import annotations

import contextlib
import os

import pytest

from certplane import errors
from certplane.cli import connection
from certplane.cli.connection import Connection
from certplane.client import api
from certplane.resources import certificatesigningrequests as csrs

KUBECONFIG = """\
apiVersion: v1
kind: Config
current-context: {name}
clusters:
- {{name: {name}, cluster: {{server: "https://{name}.test:6443"}}}}
contexts:
- {{name: {name}, context: {{cluster: {name}, user: {name}}}}}
users:
- {{name: {name}, user: {{token: {name}}}}}
"""


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """An empty home directory that is also the working directory, and no variables."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("KUBECONFIG", "KUBERNETES_SERVICE_HOST", "HTTPS_PROXY", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def write(path, name):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(KUBECONFIG.format(name=name))
    return path


def test_the_option_comes_first_then_the_variable_then_the_home_directory(home, monkeypatch):
    """As for kubectl."""
    option, variable = write(home / "option", "a"), write(home / "variable", "b")
    write(home / ".kube" / "config", "c")
    assert Connection().load().host == "c.test:6443"
    monkeypatch.setenv("KUBECONFIG", str(variable))
    assert Connection().load().host == "b.test:6443"
    assert Connection(str(option)).load().host == "a.test:6443"


def test_the_variable_is_a_list_in_which_files_may_be_missing(home, monkeypatch):
    """The first current context counts; --context selects one of any file."""
    files = [home / "missing", write(home / "one", "one"), write(home / "two", "two")]
    monkeypatch.setenv("KUBECONFIG", os.pathsep.join(["", *map(str, files)]))
    assert Connection().load().host == "one.test:6443"
    assert Connection(context="two").load().host == "two.test:6443"


def test_a_variable_without_an_existing_file_is_an_error(home, monkeypatch):
    """The file in the home directory is not used instead."""
    write(home / ".kube" / "config", "c")
    monkeypatch.setenv("KUBECONFIG", "missing")
    with pytest.raises(errors.SetupError) as caught:
        Connection().load()
    assert caught.value.message == "KUBECONFIG names no file that exists: missing"


def test_without_a_kubeconfig_the_hint_names_that_of_a_local_server(home):
    """It is not used by itself: another user may have written it."""
    write(home / "certplane-data" / "admin.conf", "local")
    with pytest.raises(errors.SetupError) as caught:
        Connection().load()
    assert "there is no kubeconfig" in caught.value.message
    assert caught.value.hints[-1].startswith("--kubeconfig certplane-data/admin.conf is for the server")


def test_in_a_pod_its_service_account_is_used(monkeypatch):
    """If there is no kubeconfig."""
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    assert Connection().paths() == ()
    assert Connection().describe() == "the service account of the pod"


def test_the_options_are_repeated_in_commands_of_messages():
    """Quoted for the shell."""
    assert Connection("my file", "c").flags() == "--kubeconfig 'my file' --context c "
    assert Connection().flags() == ""


# --- errors -------------------------------------------------------------------------------------------------------


def failing(error):
    async def operation(client):
        raise error

    return operation


@pytest.mark.parametrize(
    ("error", "message", "hint"),
    [
        (api.Unreachable("the server at x cannot be reached"), "cannot be reached", "check that the server is running"),
        (errors.Unauthorized(), "Unauthorized", "the server does not accept the credentials in"),
        (errors.Forbidden("no"), "no", "auth can-i --list"),
        (errors.NotFound("csr", "", "x"), "not found", "look elsewhere"),
        (errors.BadRequest("a\x1b[2Jb\nc"), "a\\x1b[2Jb\\nc", "code 400"),
        (errors.BadRequest("x" * 5000), "x" * 100, "code 400"),
    ],
)
def test_failures_of_the_server_become_errors_with_hints(home, error, message, hint):
    """In one line that cannot control the terminal."""
    server = Connection(str(write(home / "config", "a")))
    with pytest.raises(errors.SetupError) as caught:
        connection.call(server, failing(error), {404: "look elsewhere"})
    assert message in caught.value.message
    assert len(caught.value.message) < 1500
    assert hint in caught.value.hints[0]


def test_the_default_server_is_named_if_there_is_a_local_one(home, capsys):
    """A command without options may be meant for the local one."""
    write(home / ".kube" / "config", "production")
    write(home / "certplane-data" / "admin.conf", "local")

    async def nothing(client):
        return 1

    assert connection.call(Connection(), nothing) == 1
    assert "hint: the server is production.test:6443, from" in capsys.readouterr().err
    connection.call(Connection("certplane-data/admin.conf"), nothing)
    assert capsys.readouterr().err == ""


# --- warnings -----------------------------------------------------------------------------------------------------


class Responding:
    """A transport whose responses have a Warning header."""

    def __init__(self, header):
        self.response = api.Response(200, {"warning": header}, b"{}")

    async def send(self, request):
        return self.response

    @contextlib.asynccontextmanager
    async def stream(self, request):
        yield self.response


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("", []),
        ('299 - "one"', ["Warning: one"]),
        ('299 - "one, 299 - two", 299 certplane "say \\"x\\""', ["Warning: one, 299 - two", 'Warning: say "x"']),
        ('299 - "one", 299 - "one"', ["Warning: one"]),
        ('299 - "\x1b[2J"', ["Warning: \\x1b[2J"]),
        ("nonsense", []),
    ],
)
async def test_warnings_are_reported_once(header, expected):
    """Several of them, in one header or joined from several."""
    lines = []
    transport = connection.WarningsTransport(Responding(header), lines.append)
    client = api.Client(transport)
    await client.get(csrs.RESOURCE, "x")
    async with transport.stream(api.Request("GET", "/")):
        pass
    assert lines == expected
