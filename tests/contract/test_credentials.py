"""Client credentials that change while requests are sent, over HTTPS."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import stat
import sys
import tempfile

import pytest
import yaml

from certplane import errors, testing
from certplane.access import authn
from certplane.client import api, credentials, kubeconfig
from certplane.meta import context
from certplane.resources import reviews
from tests.contract import connections
from tests.flow import plane as flow

JANE, JOHN = context.User("jane"), context.User("john")
TOKENS = 'secret-of-jane,jane,1\nsecret-of-john,john,2,"makers"\n'


@pytest.fixture
async def api_server(tmp_path):
    tokens = tmp_path / "tokens.csv"
    tokens.write_text(TOKENS)
    static_tokens = authn.StaticTokens(authn.parse_tokens(tokens.read_bytes()))
    config = {"static_tokens": (static_tokens,), "controllers": frozenset()}
    async with connections.serve_plane("https", tmp_path, testing.FakeClock(), **config) as server:
        yield server


@pytest.fixture(params=connections.HTTPS_TRANSPORTS.values(), ids=connections.HTTPS_TRANSPORTS)
def client_of(request):
    """Makes a client from a ClientConfig, to be used as a context manager."""

    @contextlib.asynccontextmanager
    async def open_client(config):
        async with contextlib.aclosing(request.param(config)) as transport:
            yield api.Client(transport)

    return open_client


async def whoami(client):
    return (await client.create(reviews.SELF_SUBJECT_REVIEWS, reviews.SelfSubjectReview())).status.user_info.username


def write_kubeconfig(path, api_server, user, **cluster):
    path.write_text(
        yaml.safe_dump(
            {
                "current-context": "here",
                "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u", "namespace": "home"}}],
                "clusters": [
                    {
                        "name": "c",
                        "cluster": {
                            "server": f"https://127.0.0.1:{api_server.port}",
                            "certificate-authority-data": base64.b64encode(api_server.ca.pem).decode(),
                            **cluster,
                        },
                    }
                ],
                "users": [{"name": "u", "user": user}],
            }
        )
    )
    return path


async def test_a_token_file_is_read_again_when_it_changes(client_of, api_server, tmp_path, caplog):
    """The kubelet renews the token of a pod every hour. While the file is missing, the last token is used."""
    (tmp_path / "token").write_text("secret-of-jane\n")
    path = write_kubeconfig(tmp_path / "config", api_server, {"tokenFile": "token"})
    async with client_of(kubeconfig.load(path)) as client:
        assert await whoami(client) == "jane"
        (tmp_path / "token").write_text("secret-of-john")
        assert await whoami(client) == "john"
        (tmp_path / "token").unlink()
        assert [await whoami(client) for _ in range(3)] == ["john"] * 3
    problems = [record.error for record in caplog.records if "reload failed" in record.message]
    assert [f"tokenFile in {path}: {tmp_path / 'token'} cannot be read: No such file or directory"] == problems


def inline(api_server, user):
    certificate, key = (base64.b64encode(text).decode() for text in api_server.ca.client(user))
    return {"client-certificate-data": certificate, "client-key-data": key}


async def test_a_renewed_kubeconfig_is_reloaded(client_of, api_server, tmp_path):
    """New requests use the certificate in it, and an open watch continues: admin.conf is renewed every year."""
    path = write_kubeconfig(tmp_path / "config", api_server, inline(api_server, flow.ADMIN))
    async with client_of(kubeconfig.load(path)) as client:
        assert await whoami(client) == "admin"
        start = (await client.list(flow.csrs.RESOURCE)).resource_version
        async with client.watch(flow.csrs.RESOURCE, start) as events:
            write_kubeconfig(path, api_server, inline(api_server, JANE))
            assert await whoami(client) == "jane"
            await api_server.client(flow.ADMIN).create(flow.csrs.RESOURCE, flow.new_csr("a"))
            assert (await anext(events)).object.metadata.name == "a"


async def test_a_renewed_kubeconfig_can_have_another_server_and_ca(client_of, api_server, tmp_path):
    """A control plane may move, with a new CA."""
    other_ca = base64.b64encode(connections.Authority(testing.FakeClock()).pem).decode()
    user, elsewhere = {"token": "secret-of-jane"}, {"server": "https://127.0.0.1:1"}
    path = write_kubeconfig(tmp_path / "config", api_server, user, **elsewhere)
    async with client_of(kubeconfig.load(path)) as client:
        with pytest.raises(api.Unreachable, match=r"127\.0\.0\.1:1 cannot be reached"):
            await whoami(client)
        write_kubeconfig(path, api_server, user)
        assert await whoami(client) == "jane"
        write_kubeconfig(path, api_server, user, **{"certificate-authority-data": other_ca})
        with pytest.raises(api.Unreachable, match="is not trusted"):
            await whoami(client)


async def test_a_broken_kubeconfig_leaves_the_previous_identity_in_use(client_of, api_server, tmp_path, caplog):
    """However it is broken. Each problem is logged once, and its end too."""
    path = write_kubeconfig(tmp_path / "config", api_server, inline(api_server, JANE))
    good = path.read_bytes()
    john = inline(api_server, JOHN)
    async with client_of(kubeconfig.load(path)) as client:
        assert await whoami(client) == "jane"
        mixed = {**inline(api_server, JANE), "client-key-data": john["client-key-data"]}
        write_kubeconfig(path, api_server, mixed)
        broken = [b"", good[: len(good) // 2], good.replace(b"client-key-data", b"other"), path.read_bytes()]
        for content in broken:
            path.write_bytes(content)
            assert [await whoami(client) for _ in range(3)] == ["jane"] * 3
        assert len(broken) == len([record for record in caplog.records if record.levelname == "ERROR"])
        write_kubeconfig(path, api_server, john)
        assert await whoami(client) == "john"


async def test_a_key_that_is_replaced_after_its_certificate_is_waited_for(client_of, api_server, tmp_path, caplog):
    """Until both match, requests use the previous pair; a moment is not logged."""
    write_pair = dict(zip(("tls.crt", "tls.key"), api_server.ca.client(JANE), strict=True))
    for name, content in write_pair.items():
        (tmp_path / name).write_bytes(content)
    path = write_kubeconfig(tmp_path / "config", api_server, {"client-certificate": "tls.crt", "client-key": "tls.key"})
    async with client_of(kubeconfig.load(path)) as client:
        certificate, key = api_server.ca.client(JOHN)
        (tmp_path / "tls.crt").write_bytes(certificate)
        assert await whoami(client) == "jane"
        (tmp_path / "tls.key").write_bytes(key)
        assert await whoami(client) == "john"
    assert [] == [record for record in caplog.records if record.levelname == "ERROR"]


async def test_a_token_that_was_read_half_is_read_again(client_of, api_server, tmp_path):
    """When the server refuses it: nothing else tells a part of a token from a token."""
    (tmp_path / "token").write_text("secret-of-")
    path = write_kubeconfig(tmp_path / "config", api_server, {"tokenFile": "token"})

    def complete():
        (tmp_path / "token").write_text("secret-of-jane")

    async with client_of(kubeconfig.load(path)) as client:
        request = api.Request("GET", "/api/v1/nodes", before_sending=complete)
        assert (await client.transport.send(request)).status == 403


async def test_a_client_certificate_is_reloaded_when_its_files_change(client_of, api_server, tmp_path):
    """New requests use the new certificate, and an open watch continues."""

    def write(user):
        for name, content in zip(("tls.crt", "tls.key"), api_server.ca.client(user), strict=True):
            (tmp_path / f".{name}").write_bytes(content)
            os.replace(tmp_path / f".{name}", tmp_path / name)

    write(flow.ADMIN)
    path = write_kubeconfig(tmp_path / "config", api_server, {"client-certificate": "tls.crt", "client-key": "tls.key"})
    async with client_of(kubeconfig.load(path)) as client:
        assert await whoami(client) == "admin"
        start = (await client.list(flow.csrs.RESOURCE)).resource_version
        async with client.watch(flow.csrs.RESOURCE, start) as events:
            write(JANE)
            assert await whoami(client) == "jane"
            await api_server.client(flow.ADMIN).create(flow.csrs.RESOURCE, flow.new_csr("a"))
            assert (await anext(events)).object.metadata.name == "a"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can load a key without a temporary file")
async def test_a_client_certificate_needs_no_temporary_file(client_of, api_server, tmp_path, monkeypatch):
    """The file system of a container may be read-only."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    certificate, key = api_server.ca.client(JANE)
    inline = {"client-certificate-data": certificate, "client-key-data": key}
    user = {name: base64.b64encode(content).decode() for name, content in inline.items()}
    async with client_of(kubeconfig.load(write_kubeconfig(tmp_path / "config", api_server, user))) as client:
        assert await whoami(client) == "jane"


async def test_a_pod_authenticates_as_its_service_account(client_of, api_server, tmp_path):
    """Token, CA and namespace come from files, the address of the server from the environment."""
    for name, content in (("token", b"secret-of-jane"), ("ca.crt", api_server.ca.pem), ("namespace", b"home\n")):
        (tmp_path / name).write_bytes(content)
    environment = {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": str(api_server.port)}
    config = kubeconfig.in_cluster(tmp_path, environment)
    assert config.namespace == "home"
    async with client_of(config) as client:
        assert await whoami(client) == "jane"


async def test_the_configuration_of_a_pod_is_refused_elsewhere(tmp_path):
    """The hint has the flag to use."""
    with pytest.raises(errors.SetupError, match="not running in a pod") as caught:
        kubeconfig.in_cluster(tmp_path, {})
    assert caught.value.hints == ("set --kubeconfig",)


# --- exec plugins -------------------------------------------------------------------------------------------------


def write_plugin(path, body):
    path.write_text(f"#!{sys.executable}\nimport json, os, sys\n{body}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def plugin(tmp_path, status, **more):
    """A plugin that records its calls and always prints the content of the same file."""
    write_plugin(
        tmp_path / "plugin",
        f"open({str(tmp_path / 'calls')!r}, 'a').write(os.environ['KUBERNETES_EXEC_INFO'] + '\\n')\n"
        f"print(open({str(tmp_path / 'answer')!r}).read())",
    )
    answer(tmp_path, **status)
    return {"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": "./plugin", **more}}


def answer(tmp_path, **status):
    credential = {"kind": "ExecCredential", "apiVersion": "client.authentication.k8s.io/v1", "status": status}
    (tmp_path / "answer").write_text(json.dumps(credential))


def plugin_calls(tmp_path):
    return [json.loads(line) for line in (tmp_path / "calls").read_text().splitlines()]


async def test_a_plugin_runs_once_while_its_credentials_are_valid(client_of, api_server, tmp_path):
    """Even if there are several requests at the same time."""
    path = write_kubeconfig(tmp_path / "config", api_server, plugin(tmp_path, {"token": "secret-of-jane"}))
    async with client_of(kubeconfig.load(path)) as client:
        assert await asyncio.gather(*(whoami(client) for _ in range(5))) == ["jane"] * 5
    assert [call["spec"]["interactive"] for call in plugin_calls(tmp_path)] == [sys.stdin.isatty()]


async def test_a_plugin_runs_again_when_its_credentials_are_refused(client_of, api_server, tmp_path):
    """The request is repeated with the new credentials."""
    path = write_kubeconfig(tmp_path / "config", api_server, plugin(tmp_path, {"token": "no-longer-good"}))
    async with client_of(kubeconfig.load(path)) as client:
        with pytest.raises(errors.Unauthorized):
            await whoami(client)
        answer(tmp_path, token="secret-of-john")
        assert await whoami(client) == "john"


async def test_a_plugin_runs_again_before_its_credentials_expire(tmp_path):
    """By the clock, some seconds before."""
    clock = testing.FakeClock()
    config = plugin(tmp_path, {"token": "one", "expirationTimestamp": "2026-01-01T00:10:00Z"})["exec"]
    source = credentials.ExecCredentials(
        credentials.ExecPlugin(config["apiVersion"], (str(tmp_path / "plugin"),)), clock
    )
    assert (await source.identity()).authorization == "Bearer one"
    answer(tmp_path, token="two")
    await clock.advance(580)
    assert (await source.identity()).authorization == "Bearer one"
    await clock.advance(15)
    assert (await source.identity()).authorization == "Bearer two"


async def test_a_plugin_can_return_a_certificate(client_of, api_server, tmp_path):
    """With its private key."""
    certificate, key = (text.decode() for text in api_server.ca.client(JANE))
    status = {"clientCertificateData": certificate, "clientKeyData": key}
    path = write_kubeconfig(tmp_path / "config", api_server, plugin(tmp_path, status))
    async with client_of(kubeconfig.load(path)) as client:
        assert await whoami(client) == "jane"


async def test_a_plugin_gets_the_cluster_if_provide_cluster_info_is_set(client_of, api_server, tmp_path):
    """The address of the server and its CA."""
    user = plugin(tmp_path, {"token": "secret-of-jane"}, provideClusterInfo=True)
    async with client_of(kubeconfig.load(write_kubeconfig(tmp_path / "config", api_server, user))) as client:
        await whoami(client)
    cluster = plugin_calls(tmp_path)[0]["spec"]["cluster"]
    assert cluster["server"] == f"https://127.0.0.1:{api_server.port}"
    assert base64.b64decode(cluster["certificate-authority-data"]) == api_server.ca.pem


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ("sys.exit(3)", "plugin failed with exit code 3"),
        ("print('secret-token')", "printed no ExecCredential"),
        ("print('{}')", "printed no ExecCredential"),
        (
            (
                "print(json.dumps({'kind': 'ExecCredential', 'apiVersion': 'client.authentication.k8s.io/v2',"
                " 'status': {'token': 'secret-token'}}))"
            ),
            "printed another version",
        ),
        (
            (
                "print(json.dumps({'kind': 'ExecCredential', 'apiVersion': 'client.authentication.k8s.io/v1',"
                " 'status': {}}))"
            ),
            "printed neither a token nor a certificate",
        ),
    ],
)
async def test_an_unusable_plugin_is_reported_without_its_output(tmp_path, body, error):
    """The output may contain a secret."""
    write_plugin(tmp_path / "plugin", body)
    exec_plugin = credentials.ExecPlugin("client.authentication.k8s.io/v1", (str(tmp_path / "plugin"),))
    with pytest.raises(credentials.CredentialProblem, match=error) as caught:
        await credentials.ExecCredentials(exec_plugin, testing.FakeClock()).identity()
    assert "secret-token" not in str(caught.value)


async def test_a_plugin_that_does_not_finish_is_killed(tmp_path):
    """After a minute; the error says so."""
    pid_file = tmp_path / "pid"
    write_plugin(
        tmp_path / "plugin",
        f"open({str(pid_file)!r}, 'w').write(f'{{os.getpid()}}\\n')\nsys.stdin.read()\nimport signal\nsignal.pause()",
    )
    exec_plugin = credentials.ExecPlugin("client.authentication.k8s.io/v1", (str(tmp_path / "plugin"),))
    fake = testing.FakeClock()
    identity = asyncio.ensure_future(credentials.ExecCredentials(exec_plugin, fake).identity())

    def pid_text():
        text = pid_file.read_text() if pid_file.exists() else ""
        return text if text.endswith("\n") else ""

    pid = int(await flow.eventually(pid_text))
    await flow.eventually(lambda: fake.sleepers)
    await fake.advance(59)
    assert not identity.done()
    await fake.advance(1)
    with pytest.raises(credentials.CredentialProblem, match="plugin did not finish within 60s"):
        await identity
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_a_missing_plugin_is_reported_with_its_install_hint(tmp_path):
    """As in the kubeconfig."""
    exec_plugin = credentials.ExecPlugin(
        "client.authentication.k8s.io/v1", (str(tmp_path / "none"),), hint="install it\n"
    )
    with pytest.raises(credentials.CredentialProblem, match="cannot be run: No such file or directory: install it"):
        await credentials.ExecCredentials(exec_plugin, testing.FakeClock()).identity()


# --- proxies ------------------------------------------------------------------------------------------------------


class Proxy:
    """A proxy that records the requests to it and opens the connections."""

    def __init__(self, extra=b""):
        self.requests = []
        #: What it sends after its response to CONNECT.
        self.extra = extra

    async def serve(self, reader, writer):
        line = (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")[0].decode()
        method, target, _ = line.split()
        self.requests.append((method, target))
        host, _, port = target.rpartition(":")
        from_server, to_server = await asyncio.open_connection(host, int(port))
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n" + self.extra)
        await asyncio.gather(self._copy(reader, to_server), self._copy(from_server, writer))

    async def _copy(self, source, target):
        with contextlib.suppress(OSError):
            while data := await source.read(1 << 16):
                target.write(data)
                await target.drain()
        target.close()


async def test_requests_are_sent_through_a_proxy(client_of, api_server, tmp_path):
    """With CONNECT, so that it sees only the address."""
    proxy = Proxy()
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    async with server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        path = write_kubeconfig(tmp_path / "config", api_server, {"token": "secret-of-jane"}, **{"proxy-url": url})
        async with client_of(kubeconfig.load(path)) as client:
            assert await whoami(client) == "jane"
    assert proxy.requests == [("CONNECT", f"127.0.0.1:{api_server.port}")]


async def test_a_proxy_cannot_respond_for_the_server(client_of, api_server, tmp_path):
    """What it sends before TLS begins is not from the server. It may be an error, but never a response."""
    forged = b'{"kind": "SelfSubjectReview", "status": {"userInfo": {"username": "mallory"}}}'
    proxy = Proxy(b"HTTP/1.1 201 Created\r\ncontent-length: %d\r\n\r\n%s" % (len(forged), forged))
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    async with server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        path = write_kubeconfig(tmp_path / "config", api_server, {"token": "secret-of-jane"}, **{"proxy-url": url})
        async with client_of(kubeconfig.load(path)) as client:
            name = ""
            with contextlib.suppress(api.Unreachable):
                name = await whoami(client)
    assert name in ("jane", "")


# --- connection errors --------------------------------------------------------------------------------------------


async def _connection_problem(client_of, path):
    async with client_of(kubeconfig.load(path)) as client:
        with pytest.raises(api.Unreachable) as caught:
            await whoami(client)
    return str(caught.value)


async def test_an_untrusted_server_is_reported(client_of, api_server, tmp_path):
    """With the problem of its certificate."""
    user, problem = {"token": "secret-of-jane"}, f"the server at 127.0.0.1:{api_server.port} is not trusted: "
    other = base64.b64encode(connections.Authority(testing.FakeClock()).pem).decode()
    path = write_kubeconfig(tmp_path / "config", api_server, user, **{"certificate-authority-data": other})
    assert (await _connection_problem(client_of, path)).startswith(problem)
    path = write_kubeconfig(tmp_path / "config", api_server, user, **{"tls-server-name": "api.example"})
    assert (
        await _connection_problem(client_of, path)
        == f"{problem}Hostname mismatch, certificate is not valid for 'api.example'."
    )


async def test_an_unreachable_proxy_is_reported_without_its_password(client_of, api_server, tmp_path):
    """The error is distinguished from that of an unreachable server."""
    url = {"proxy-url": "http://jane:secret@127.0.0.1:1"}
    problem = await _connection_problem(
        client_of, write_kubeconfig(tmp_path / "config", api_server, {"token": "secret-of-jane"}, **url)
    )
    server = f"the server at 127.0.0.1:{api_server.port} cannot be reached"
    assert problem == f"{server}: the proxy at 127.0.0.1:1: Connection refused"


async def _require_password(reader, writer):
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
    await writer.drain()
    writer.close()


async def test_a_refusing_proxy_is_reported_without_its_password(client_of, api_server, tmp_path):
    """The error is written to the log, and to Events that others can read."""
    async with await asyncio.start_server(_require_password, "127.0.0.1", 0) as server:
        url = {"proxy-url": f"http://jane:secret@127.0.0.1:{server.sockets[0].getsockname()[1]}"}
        problem = await _connection_problem(
            client_of, write_kubeconfig(tmp_path / "config", api_server, {"token": "secret-of-jane"}, **url)
        )
    where = f"the server at 127.0.0.1:{api_server.port} cannot be reached"
    assert problem == f"{where}: the proxy responds with 407 Proxy Authentication Required"


async def _close(reader, writer):
    writer.close()


async def test_an_unreachable_server_is_reported(client_of, api_server, tmp_path):
    """With the error of the system, without that of the library."""
    user = {"token": "secret-of-jane"}
    path = write_kubeconfig(tmp_path / "config", api_server, user, server="https://127.0.0.1:1")
    assert (
        await _connection_problem(client_of, path) == "the server at 127.0.0.1:1 cannot be reached: Connection refused"
    )
    async with await asyncio.start_server(_close, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        path = write_kubeconfig(tmp_path / "config", api_server, user, server=f"https://127.0.0.1:{port}")
        assert (await _connection_problem(client_of, path)).startswith(
            f"the server at 127.0.0.1:{port} cannot be reached: "
        )


# --- impersonation ------------------------------------------------------------------------------------------------


async def test_a_kubeconfig_can_impersonate(client_of, api_server, tmp_path):
    """With UID, groups and extra, whose keys may have special characters."""
    certificate, key = (base64.b64encode(text).decode() for text in api_server.ca.client(flow.ADMIN))
    user = {
        "client-certificate-data": certificate,
        "client-key-data": key,
        "as": "jane",
        "as-uid": "7",
        "as-groups": ["a", "b"],
        "as-user-extra": {"example.com/why": ["one", "two"]},
    }
    async with client_of(kubeconfig.load(write_kubeconfig(tmp_path / "config", api_server, user))) as client:
        user_info = (await client.create(reviews.SELF_SUBJECT_REVIEWS, reviews.SelfSubjectReview())).status.user_info
    assert (user_info.username, user_info.uid, user_info.groups) == ("jane", "7", ["a", "b", "system:authenticated"])
    assert user_info.extra == {"example.com/why": ["one", "two"]}
