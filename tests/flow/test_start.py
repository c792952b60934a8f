"""Startup of the commands: any path in the settings may be unusable, and each problem has a message and hints."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
import socket

import click.testing
import pytest

from certplane import notify, signals, testing
from certplane.cli import audit, token
from certplane.cli import settings as files_of_settings
from certplane.config import controllersettings, servesettings
from certplane.errors import SetupError
from certplane.plane import assembly, controllers, serve
from certplane.plane.controllerconfig import ControllerConfig
from certplane.server.connection import listener
from certplane.store import memory

is_root = os.geteuid() == 0


@pytest.fixture(autouse=True)
def process_settings():
    """Restore the signal handlers and the umask, which the commands change."""
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    handlers = [signal.getsignal(number) for number in numbers]
    umask = os.umask(0o077)
    yield
    os.umask(umask)
    for number, handler in zip(numbers, handlers, strict=True):
        signal.signal(number, handler)


@contextlib.contextmanager
def taken_port():
    """A port with another listener: no server that is started here gets further than binding it."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        yield taken.getsockname()[1]


def start_serve(data, **flags):
    with taken_port() as port:
        fast = {"key_algorithm": "ECDSA-P256", "listen": f"127.0.0.1:{port}"}
        serve.run(servesettings.read({"data_dir": data, **fast, **flags}, {}))


def refused(start):
    """The message of the SetupError; it must have hints."""
    with pytest.raises(SetupError) as caught:
        start()
    assert caught.value.hints
    return caught.value.message


@pytest.fixture(scope="module")
def complete(tmp_path_factory):
    """A data directory after a first start, without the kubeconfigs, which are written when the port is bound."""
    data = tmp_path_factory.mktemp("complete") / "data"
    with pytest.raises(SetupError, match="cannot listen"):
        start_serve(data)
    return data


@pytest.fixture
def data(complete, tmp_path):
    copy = tmp_path / "data"
    for path in [complete, *sorted(complete.rglob("*"))]:
        target = copy / path.relative_to(complete)
        if path.is_dir():
            target.mkdir(mode=0o700)
        else:
            target.write_bytes(path.read_bytes())
            target.chmod(path.stat().st_mode & 0o777)
    return copy


def _id(value):
    return value if isinstance(value, str) else value.__name__


# --- unusable paths ---------------------------------------------------------------------------------------------------


def _away(path):
    if path.is_dir() and not path.is_symlink():
        path.rename(path.with_name(path.name + ".away"))
    else:
        path.unlink(missing_ok=True)


def a_directory(path):
    _away(path)
    path.mkdir()


def a_file(path):
    _away(path)
    path.write_bytes(b"?")


def garbage(path):
    _away(path)
    path.write_bytes(b"\xff\x00?")
    path.chmod(0o600)


def a_link(path):
    target = path.with_name(path.name + ".target")
    if path.exists():
        path.rename(target)
    path.symlink_to(target)


def a_link_to_itself(path):
    _away(path)
    path.symlink_to(path)


def unreadable(path):
    if not path.exists():
        path.touch()
    path.chmod(0)


def open_to_all(path):
    if not path.exists():
        path.touch()
    path.chmod(0o777 if path.is_dir() else 0o666)


def owned_by_another_user(path):
    if not path.exists():
        path.touch(mode=0o600)
    os.chown(path, 65534, 65534)


#: Root can read everything, and is the only user who can change the owner of a file.
_APPLICABLE = {unreadable: not is_root, owned_by_another_user: is_root}
SECRETS = ("pki/ca.key", "pki/apiserver.key", "pki/sa.key", "admin.conf", "super-admin.conf")
DATA_FILES = (*SECRETS, "pki/ca.crt", "pki/apiserver.crt", "store.sqlite", "store.sqlite-wal", "store.sqlite-shm",
              "store.sqlite.lock", "audit.log", "audit-approvals.log")  # fmt: skip
CASES = [
    (name, damage)
    for damage in (a_directory, a_link, a_link_to_itself, unreadable, open_to_all, owned_by_another_user)
    for name in DATA_FILES
    if _APPLICABLE.get(damage, True)
]
CASES += [(name, garbage) for name in (*SECRETS, "pki/ca.crt", "pki/apiserver.crt", "store.sqlite")]
CASES += [
    (name, damage)
    for name in ("", "pki")
    for damage in (a_file, a_link_to_itself, open_to_all, *([owned_by_another_user] * is_root))
]
CASES += [("pki", a_link), *([("", unreadable), ("pki", unreadable)] * (not is_root))]


@pytest.mark.parametrize(("name", "damage"), CASES, ids=_id)
def test_the_data_directory_is_checked_at_startup(name, damage, data):
    """Directories or links in place of files, files of other users or accessible to them, and invalid contents: each is
    refused with its path, and not changed.
    """
    path = data / name
    damage(path)
    before = os.lstat(path)
    message = refused(lambda: start_serve(data))
    assert str(path) in message
    assert "cannot listen" not in message
    after = os.lstat(path)
    assert (before.st_ino, before.st_mode, before.st_size) == (after.st_ino, after.st_mode, after.st_size)


def _missing(path):
    _away(path)


def _too_long(path):
    return path.with_name("a" * 300)


def _below_a_file(path):
    path.write_bytes(b"")
    return path / "below"


FILE_FLAGS = (
    "client_ca_file", "token_auth_file", "service_account_signing_key_file", "service_account_key_file", "root_ca_file",
    "audit_policy_file", "serving_approver", "signers",
)  # fmt: skip
DAMAGES = [_missing, a_directory, a_link_to_itself, garbage, _too_long, _below_a_file, *([unreadable] * (not is_root))]


@pytest.mark.parametrize("damage", DAMAGES, ids=_id)
@pytest.mark.parametrize("flag", FILE_FLAGS)
def test_files_named_by_flags_are_checked_by_serve(flag, damage, data, tmp_path):
    """An unusable file is refused with its path, for each flag that names a file."""
    path = tmp_path / "file"
    path = damage(path) or path
    message = refused(lambda: start_serve(data, **{flag: path}))
    assert str(path) in message
    assert "cannot listen" not in message


@pytest.mark.parametrize("damage", DAMAGES, ids=_id)
@pytest.mark.parametrize("half", ["tls_cert_file", "tls_private_key_file"])
def test_the_serving_pair_is_checked(half, damage, data, tmp_path):
    """Both the certificate and the key are checked."""
    pair = {"tls_cert_file": data / "pki" / "apiserver.crt", "tls_private_key_file": data / "pki" / "apiserver.key"}
    path = tmp_path / "file"
    pair[half] = damage(path) or path
    message = refused(lambda: start_serve(data, **pair))
    assert str(pair[half]) in message
    assert "cannot listen" not in message


@pytest.mark.parametrize("damage", [a_directory, a_link_to_itself, a_link, _too_long, _below_a_file], ids=_id)
@pytest.mark.parametrize("flag", ["audit_log_path", "audit_approvals_log_path", "store", "ready_file"])
def test_output_paths_are_checked(flag, damage, data, tmp_path):
    """These are the audit logs and the store outside the data directory, and the ready file."""
    place = tmp_path / "place"
    place.mkdir(mode=0o700)
    path = place / "file"
    if damage is a_link:
        (place / "file.target").touch(mode=0o600)
    path = damage(path) or path
    value = f"sqlite:{path}" if flag == "store" else path
    message = refused(lambda: start_serve(data, **{flag: value}))
    assert str(path if damage is not _below_a_file else path.parent) in message
    assert "cannot listen" not in message


def test_a_taken_port_leaves_no_kubeconfig(data):
    """It would lead clients to the process that has the port."""
    assert "cannot listen" in refused(lambda: start_serve(data))
    assert not list(data.glob("*.conf"))


@pytest.mark.parametrize(
    ("error", "hint"),
    [
        (OSError(errno.EADDRINUSE, ""), "another process may be using the port; choose another port with --listen"),
        (OSError(errno.EADDRNOTAVAIL, ""), "this machine does not have that address; try --listen 127.0.0.1:443"),
        (socket.gaierror(socket.EAI_NONAME, ""), "this machine does not have that address; try --listen 127.0.0.1:443"),
        (OSError(errno.EACCES, ""), "ports below 1024 require root; choose another port with --listen"),
    ],
)  # fmt: skip
def test_the_hint_for_a_failed_bind_depends_on_the_error(error, hint):
    """For an address of another machine, another port would not help."""
    assert listener._hint(error, 443, "--listen").startswith(hint)


def test_an_address_of_another_machine_is_refused():
    """The address is reserved for documentation (RFC 5737)."""
    with pytest.raises(SetupError, match=r"cannot listen on 192\.0\.2\.1:6443: Cannot assign") as caught:
        listener.bind("192.0.2.1", 6443)
    assert "this machine does not have that address" in caught.value.hints[0]


class HangingStore(memory.MemoryStore):
    """A store whose reads never return, as on a hanging disk."""

    def __init__(self):
        super().__init__()
        self.called = asyncio.Event()

    async def list(self, *arguments, **options):
        self.called.set()
        await asyncio.Event().wait()


async def test_a_hanging_startup_ends_on_sigterm(tmp_path):
    """No task is left running."""
    clock, store = testing.FakeClock(), HangingStore()
    plane = assembly.Plane(store, clock, assembly.PlaneConfig(ControllerConfig()))
    received = signals.Signals()
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        listening = listener.Listener(plane.handler, bound, None, clock)
        serving = asyncio.ensure_future(serve._serve(plane, listening, tmp_path, received, notify.Notifier(None)))
        await store.called.wait()
        os.kill(os.getpid(), signal.SIGTERM)
        await serving
    assert received.is_stopping
    assert [asyncio.current_task()] == list(asyncio.all_tasks())


# --- the other commands -----------------------------------------------------------------------------------------------


def start_controllers(**flags):
    with taken_port() as port:
        controllers.run(controllersettings.read({"listen_health": f"127.0.0.1:{port}", **flags}, {}))


@pytest.mark.parametrize("damage", DAMAGES, ids=_id)
@pytest.mark.parametrize("flag", ["kubeconfig", "root_ca_file", "serving_approver", "signers"])
def test_files_named_by_flags_are_checked_by_controllers(flag, damage, tmp_path):
    """An unusable file is refused with its path, for each flag that names a file."""
    path = tmp_path / "file"
    path = damage(path) or path
    good = tmp_path / "good.conf"
    good.write_text(
        "clusters: [{name: a, cluster: {server: 'https://127.0.0.1:1'}}]\n"
        "contexts: [{name: a, context: {cluster: a}}]\ncurrent-context: a\n"
    )
    message = refused(lambda: start_controllers(**{"kubeconfig": good, flag: path}))
    assert str(path) in message
    assert "cannot listen" not in message


@pytest.mark.parametrize("damage", DAMAGES, ids=_id)
def test_the_configuration_file_is_checked(damage, tmp_path):
    """This is --config of both commands."""
    path = tmp_path / "file"
    path = damage(path) or path
    assert str(path) in refused(lambda: files_of_settings.read_file(str(path)))


def test_a_configuration_file_that_is_not_yaml(tmp_path):
    """The error has a hint."""
    (tmp_path / "bad.yaml").write_text("listen: [")
    assert "is not valid YAML" in refused(lambda: files_of_settings.read_file(str(tmp_path / "bad.yaml")))


@pytest.mark.parametrize("damage", DAMAGES, ids=_id)
def test_files_of_other_commands_are_checked(damage, tmp_path):
    """These are --kubeconfig of token and --log of audit."""
    path = tmp_path / "file"
    path = damage(path) or path
    commands = [(token.token, ["--kubeconfig", str(path), "list"])]
    if damage is not garbage:
        # Lines that are not records are skipped.
        commands.append((audit.audit, ["approvals", "--log", str(path)]))
    for command, arguments in commands:
        result = click.testing.CliRunner().invoke(command, arguments)
        assert isinstance(result.exception, SetupError), result.exception
        assert str(path) in result.exception.message


@pytest.mark.parametrize("name", ["data-dir", "audit-log-path", "kubeconfig"])
def test_a_path_with_a_nul_character_is_refused(name):
    """A configuration file can contain one."""
    read = controllersettings.read if name == "kubeconfig" else servesettings.read
    with pytest.raises(SetupError, match=f"--{name}: has a NUL character"):
        read({}, {name: "a\0b"})


@pytest.mark.parametrize(
    ("flags", "missing"),
    [
        ({"cluster_signing_cert_file": "a"}, "--cluster-signing-key-file"),
        ({"cluster_signing_key_file": "a"}, "--cluster-signing-cert-file"),
        ({"cluster_signing_kubelet_serving_cert_file": "a"}, "--cluster-signing-kubelet-serving-key-file"),
        ({"cluster_signing_legacy_unknown_key_file": "a"}, "--cluster-signing-legacy-unknown-cert-file"),
        ({"tls_cert_file": "a"}, "--tls-private-key-file"),
        ({"tls_private_key_file": "a"}, "--tls-cert-file"),
    ],
)
def test_the_missing_half_of_a_pair_is_named(flags, missing):
    """The error has the flag that is missing."""
    with pytest.raises(SetupError) as caught:
        servesettings.read(flags, {})
    assert f"{missing} is missing" in caught.value.message
