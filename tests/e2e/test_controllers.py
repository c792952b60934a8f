"""`certplane controllers` as real processes against a real server, with kill -9."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import urllib.request

import pytest

import demo
from certplane.client import api, kubeconfig, remote
from certplane.resources import certificatesigningrequests as csrs
from certplane.resources import events, leases
from tests.e2e import requests
from tests.e2e.test_serve import started

WITHOUT = "*,-csrapproving,-csrsigning,-csrcleaner"
CLIENT = "kubernetes.io/kube-apiserver-client"
#: Short enough for a test, and long enough for a busy machine.
TERMS = (
    "--leader-elect-lease-duration=8s", "--leader-elect-renew-deadline=6s", "--leader-elect-retry-period=500ms",
)  # fmt: skip


def controllers(*arguments, timeout=30):
    """Run the command until it exits by itself."""
    return subprocess.run(
        [demo.CERTPLANE, "controllers", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        stdin=subprocess.DEVNULL,
    )


@contextlib.contextmanager
def copy_of(data, name, *arguments):
    """A replica of the controllers, with the CA of a data directory; killed in the end."""
    with (data.parent / f"{name}.log").open("ab") as sink:
        process = subprocess.Popen(
            [
                demo.CERTPLANE, "controllers", "--kubeconfig", data / "super-admin.conf", "--listen-health", "none",
                "--cluster-signing-cert-file", data / "pki" / "ca.crt",
                "--cluster-signing-key-file", data / "pki" / "ca.key", *TERMS, *map(str, arguments),
            ],
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
        )  # fmt: skip
        try:
            yield process
        finally:
            process.kill()
            process.wait()


@contextlib.asynccontextmanager
async def admin(data):
    """The API as the administrator sees it."""
    access = kubeconfig.load(data / "super-admin.conf")
    async with contextlib.aclosing(remote.HTTPSTransport(access, "test")) as transport:
        yield api.Client(transport)


async def until(client, kind, holds, namespace=""):
    """The first object that fulfils a condition, waiting for it."""
    page = await client.list(kind, namespace)
    for obj in page.items:
        if holds(obj):
            return obj
    async with client.watch(kind, page.resource_version, namespace) as changes:
        async for event in changes:
            if event.type in ("ADDED", "MODIFIED") and holds(event.object):
                return event.object
    raise AssertionError("the watch ended")


async def approve(client, name, request=None, usages=("client auth",)):
    """Create a request, and approve it."""
    csr = csrs.CertificateSigningRequest(
        spec=csrs.CertificateSigningRequestSpec(
            request=request or requests.pkcs10(name), signer_name=CLIENT, usages=list(usages)
        )
    )
    csr.metadata.name = name
    created = await client.create(csrs.RESOURCE, csr)
    created.status.conditions = [csrs.CertificateSigningRequestCondition(type="Approved", status="True", reason="Test")]
    await client.update(csrs.RESOURCE, created, "approval")


async def issued(client, name):
    return await until(client, csrs.RESOURCE, lambda csr: csr.metadata.name == name and csr.status.certificate)


def held_by_other_than(*identities):
    return lambda lease: lease.spec.holder_identity not in ("", None, *identities)


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
async def test_another_replica_takes_over(end, tmp_path):
    """Of two replicas one is the leader. When it is killed or stopped, the other takes over."""
    data = tmp_path / "data"
    with started(data, "--controllers", WITHOUT), copy_of(data, "one") as one:
        async with admin(data) as client:
            first = await until(client, leases.RESOURCE, held_by_other_than(), "kube-system")
            with copy_of(data, "two"):
                await approve(client, "a")
                await issued(client, "a")
                one.send_signal(end)
                assert one.wait(10) == (-end if end == signal.SIGKILL else 0)
                await approve(client, "b")
                await issued(client, "b")
                lease = await client.get(leases.RESOURCE, first.metadata.name, "kube-system")
    assert lease.spec.holder_identity != first.spec.holder_identity
    assert lease.spec.lease_transitions == first.spec.lease_transitions + 1


async def test_a_paused_replica_exits_when_it_has_lost_the_lease(tmp_path):
    """After SIGSTOP and SIGCONT it notices that another replica is the leader, and exits with code 3."""
    data = tmp_path / "data"
    with started(data, "--controllers", WITHOUT), copy_of(data, "one") as one:
        async with admin(data) as client:
            first = await until(client, leases.RESOURCE, held_by_other_than(), "kube-system")
            with copy_of(data, "two"):
                one.send_signal(signal.SIGSTOP)
                other = held_by_other_than(first.spec.holder_identity)
                await until(client, leases.RESOURCE, other, "kube-system")
                await approve(client, "a")
                one.send_signal(signal.SIGCONT)
                assert one.wait(15) == 3
                await issued(client, "a")
                signed = [event for event in (await client.list(events.RESOURCE)).items if event.reason == "Signed"]
                assert len(signed) <= 1


async def test_health_and_metrics_are_served_without_tls(tmp_path):
    """Health checks and metrics are on a separate address, without TLS."""
    data = tmp_path / "data"
    port = demo.free_port()
    address = f"127.0.0.1:{port}"
    with (
        started(data, "--controllers", WITHOUT),
        copy_of(data, "one", "--listen-health", address, "--leader-elect=false"),
    ):
        async with admin(data) as client:
            await approve(client, "a")
            await issued(client, "a")
        assert "[+]informer-sync ok" in _read(f"http://{address}/readyz?verbose")
        metrics = _read(f"http://{address}/metrics")
        assert 'workqueue_adds_total{name="certificate"}' in metrics
        assert f'decision="Issued",reason="Signed",signer="{CLIENT}"' in metrics


def _read(url):
    with urllib.request.urlopen(url) as answer:
        return answer.read().decode()


def test_a_missing_permission_is_logged_as_a_rule(tmp_path):
    """Once, as a rule that can be pasted into a ClusterRole."""
    data = tmp_path / "data"
    with started(data, "--controllers", WITHOUT, "--token-auth-file", _tokens(tmp_path)) as (port, _):
        config = {
            "current-context": "a",
            "contexts": [{"name": "a", "context": {"cluster": "a", "user": "a"}}],
            "clusters": [
                {
                    "name": "a",
                    "cluster": {
                        "server": f"https://127.0.0.1:{port}", "certificate-authority": str(data / "pki" / "ca.crt"),
                    },
                }
            ],
            "users": [{"name": "a", "user": {"token": "token-without-roles"}}],
        }  # fmt: skip
        (tmp_path / "config").write_text(json.dumps(config))
        process = subprocess.Popen(
            [demo.CERTPLANE, "controllers", "--kubeconfig", tmp_path / "config", "--listen-health", "none"],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            line = next(line for line in process.stderr if "permission missing" in line)
        finally:
            process.kill()
            process.wait()
            process.stderr.close()
    assert "namespace=kube-system" in line
    rule = """- {apiGroups: ['coordination.k8s.io'], resources: [leases], verbs: [get]}"""
    assert line.rstrip().endswith(f'rule="{rule}"')


def _tokens(directory):
    path = directory / "tokens.csv"
    path.write_text("token-without-roles,jane,1\n")
    path.chmod(0o600)
    return path


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(("--kubeconfig", "missing.conf"), "cannot be read"), ((), "not running in a pod")],
)
def test_a_missing_kubeconfig_is_refused(arguments, message):
    """With `error:` and `hint:` lines, and exit code 2."""
    result = controllers(*arguments)
    assert result.returncode == 2
    assert result.stderr.startswith("error: ")
    assert message in result.stderr
    assert "\nhint: " in result.stderr
