"""`certplane agent` against a real control plane: three lives of a certificate, and death at each step."""

from __future__ import annotations

import base64
import contextlib
import pathlib
import signal
import subprocess
import sys
import threading
import time

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import serialization

import demo
from tests.conftest import Server
from tests.e2e import agentprocess, goclient, kubelet, requests
from tests.e2e.test_kubelet import new_token, whoami

CONFIG_MAPS = "/api/v1/namespaces/kube-public/configmaps"
NODE_SIGNER = "kubernetes.io/kube-apiserver-client-kubelet"
CLIENT_SIGNER = "kubernetes.io/kube-apiserver-client"


@pytest.fixture(scope="module")
def short_lived(tmp_path_factory):
    """A control plane whose certificates live for eight seconds, and begin five minutes before."""
    directory = tmp_path_factory.mktemp("server")
    with demo.running(directory / "data", directory / "log", "--cluster-signing-duration", "8s") as port:
        yield Server(directory / "data", port, directory / "log")


class Agent:
    """A directory with a configuration, in which agents run."""

    def __init__(self, server, directory, *, identity="node", **certificate):
        self.server = server
        self.directory = directory
        self.state = directory / "state"
        self.config = directory / "agent.yaml"
        self.lines = []
        kubeconfig = yaml.safe_load((server.data / "admin.conf").read_text())
        if identity:
            kubeconfig["users"][0]["user"] = {"token": new_token(server)}
        (directory / "kubeconfig").write_text(yaml.safe_dump(kubeconfig))
        (directory / "kubeconfig").chmod(0o600)
        node = {"commonName": f"system:node:{directory.name}", "organizations": ["system:nodes"]}
        document = {
            "apiVersion": "agent.certplane.io/v1alpha1",
            "kind": "AgentConfiguration",
            "directory": "state",
            "server": {"kubeconfig": "kubeconfig", "identity": identity},
            "certificates": [{"name": "node", "signerName": NODE_SIGNER, "subject": node, **certificate}],
        }
        self.config.write_text(yaml.safe_dump(document))

    @contextlib.contextmanager
    def running(self, *command):
        """An agent, from its start to its end by SIGTERM."""
        command = command or (demo.CERTPLANE, "agent", "run", "--config")
        process = subprocess.Popen(
            [*map(str, command), str(self.config)], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        # A text that never comes must not hang the test.
        watch = threading.Timer(90, process.kill)
        watch.start()
        try:
            yield process
        finally:
            watch.cancel()
            process.send_signal(signal.SIGTERM)
            self.lines += process.communicate(timeout=30)[1].splitlines()

    def read_until(self, process, text):
        """The next line of the log with a text."""
        for line in process.stderr:
            self.lines.append(line.rstrip())
            if text in line:
                return line.rstrip()
        raise AssertionError(f"the agent has ended without {text!r}:\n" + "\n".join(self.lines))

    def command(self, *arguments):
        """A command of `certplane agent`, run to its end."""
        return subprocess.run(
            [demo.CERTPLANE, "agent", *arguments, "--config", str(self.config)],
            capture_output=True, text=True, timeout=60, check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip

    def status_with(self, text):
        """The status, as soon as it has a text: it is written within a second."""
        for _ in range(20):
            done = self.command("status")
            if text in done.stdout:
                return done
        raise AssertionError(done)

    @property
    def current(self):
        return self.state / "node-current.pem"

    def serial(self):
        return x509.load_pem_x509_certificate(self.current.read_bytes()).serial_number


@pytest.fixture
def admin(request, tmp_path):
    """The administrator of the server that the test uses."""
    name = "short_lived" if "short_lived" in request.fixturenames else "server"
    with contextlib.closing(requests.client(request.getfixturevalue(name), tmp_path)) as wire:
        yield goclient.Client(wire)


def csrs(admin, common_name):
    """The CSRs with a common name, the oldest first."""
    items = admin.ask("GET", kubelet.CSRS).obj.get("items") or ()
    mine = [item for item in items if _common_name(item) == common_name]
    return sorted(mine, key=lambda item: int(item["metadata"]["resourceVersion"]))


def _common_name(item):
    request = x509.load_pem_x509_csr(base64.b64decode(item["spec"]["request"]))
    return request.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)[0].value


def as_user(server, pair):
    """A client that authenticates with a file."""
    return goclient.Client(kubelet.Wire(server.port, server.data / "pki" / "ca.crt", pair=pair))


def test_three_lives(short_lived, admin, tmp_path):
    """The certificate is replaced before it ends, files and hooks follow, and every request with it succeeds. Only the
    first one is requested with the bootstrap token.
    """
    output = tmp_path / "tls"
    output.mkdir(mode=0o755)
    agent = Agent(
        short_lived, tmp_path,
        outputs={"certificate": str(output / "tls.crt"), "key": str(output / "tls.key"), "ca": str(output / "ca.crt")},
        hooks=[{"command": ["/bin/sh", "-c", 'echo "$CERTPLANE_SERIAL" >> ' + str(output / "log")]}],
    )  # fmt: skip
    serials, requested = [], 0
    with agent.running() as process:
        for _ in range(4):
            agent.read_until(process, "files written")
            serials.append(agent.serial())
            end = time.monotonic() + 1
            while time.monotonic() < end:
                requested += 1
                assert whoami(as_user(short_lived, agent.current))["username"] == f"system:node:{tmp_path.name}"
    assert process.returncode == 0
    assert len(set(serials)) == 4
    assert requested > 20
    assert (output / "tls.crt").read_bytes() + (output / "tls.key").read_bytes() == agent.current.read_bytes()
    assert (output / "log").read_text().split()[:3] == [f"{serial:x}" for serial in serials[:3]]
    users = [item["spec"]["username"] for item in csrs(admin, f"system:node:{tmp_path.name}")]
    assert users[0].startswith("system:bootstrap:")
    assert set(users[1:]) == {f"system:node:{tmp_path.name}"}
    assert len(list(agent.state.glob("node-2*"))) == 3


#: Where the process is killed, in the order of a request.
STEPS = ("Load", "Prepare", "created", "Submit", "Fetch", "Save")


def keys_on_disk(agent):
    """The public keys of all keys that the agent has."""
    keys = set()
    for path in agent.state.glob("node-*.pem"):
        key = serialization.load_pem_private_key(path.read_bytes(), None)
        keys.add(_public(key.public_key()))
    return keys


def _public(key):
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def test_death_at_each_step(server, admin, tmp_path):
    """An agent that is killed after each step, one after the other, loses no key that a certificate was issued for,
    creates no second CSR, and runs the hooks once.
    """
    log = tmp_path / "log"
    hook = {"command": ["/bin/sh", "-c", f'echo "$CERTPLANE_SERIAL" >> {log}']}
    agent = Agent(server, tmp_path, hooks=[hook])
    program = (sys.executable, agentprocess.__file__)
    for step in STEPS:
        with agent.running(*program, step) as process:
            process.wait(timeout=60)
        assert process.returncode == -signal.SIGKILL, (step, agent.lines)
        issued = [item for item in csrs(admin, f"system:node:{tmp_path.name}") if item["status"].get("certificate")]
        wanted = {
            _public(x509.load_pem_x509_certificate(base64.b64decode(item["status"]["certificate"])).public_key())
            for item in issued
        }
        assert wanted <= keys_on_disk(agent), step
    (request,) = csrs(admin, f"system:node:{tmp_path.name}")
    with agent.running(*program, "never") as process:
        agent.read_until(process, "hooks run")
    assert process.returncode == 0
    certificate = x509.load_pem_x509_certificate(base64.b64decode(request["status"]["certificate"]))
    assert certificate.serial_number == agent.serial()
    assert log.read_text() == f"{agent.serial():x}\n"
    assert len(csrs(admin, f"system:node:{tmp_path.name}")) == 1
    assert not (agent.state / "node-pending.pem").exists()


def decide(admin, name, decision):
    """Approve or deny a CSR."""
    csr = admin.ask("GET", f"{kubelet.CSRS}/{name}").obj
    condition = {"type": decision, "status": "True", "reason": "Test", "message": "as the test wants it"}
    csr["status"].setdefault("conditions", []).append(condition)
    admin.in_json("PUT", f"{kubelet.CSRS}/{name}/approval", csr)


def requested_name(line):
    return line.rpartition("csr=")[2]


def test_denial_renewal_and_notice(server, admin, tmp_path):
    """A denied request waits for hours, `renew` ends that, and a notice renews a certificate early."""
    agent = Agent(server, tmp_path, identity="", signerName=CLIENT_SIGNER, subject={"commonName": "jane"})
    with agent.running() as process:
        first = requested_name(agent.read_until(process, "certificate requested"))
        decide(admin, first, "Denied")
        assert f'error="the CSR {first} was denied: Test: as the test wants it"' in agent.read_until(process, "denied")
        done = agent.status_with("was denied")
        assert done.returncode == 4
        assert f"node: the CSR {first} was denied: Test: as the test wants it\n" in done.stdout
        done = agent.command("renew", "node", "--new-key")
        assert done.stdout == "node: renewal requested; certplane agent status shows the progress\n"
        second = requested_name(agent.read_until(process, "certificate requested"))
        assert second != first
        decide(admin, second, "Approved")
        agent.read_until(process, "certificate is current")
        done = agent.status_with("Current")
        assert (done.returncode, done.stderr) == (0, "")
    serial = agent.serial()
    now = admin.ask("GET", f"{kubelet.CSRS}/{second}").obj["metadata"]["creationTimestamp"]
    data = {"issuedBefore": now, "renewBefore": now, "signerNames": "kubernetes.io/*"}
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "certplane-agent"}, "data": data}
    admin.in_json("POST", CONFIG_MAPS, body)
    with agent.running() as process:
        third = requested_name(agent.read_until(process, "certificate requested"))
        decide(admin, third, "Approved")
        agent.read_until(process, "certificate is current")
    assert agent.serial() != serial


def test_one_agent_for_each_directory(server, tmp_path):
    """A second one is refused, and `status` says whether one is running."""
    agent = Agent(server, tmp_path)
    with agent.running() as process:
        agent.read_until(process, "certificate is current")
        done = agent.command("run")
        assert done.returncode == 2
        assert f"error: another agent, process {process.pid}, uses {agent.state}\n" in done.stderr
        assert "hint: " in done.stderr
    done = agent.command("status")
    assert done.returncode == 4
    assert done.stderr.startswith("warning: no agent is running")
    done = agent.command("renew", "node")
    assert done.stdout == "node: no agent is running; the certificate will be renewed when it starts\n"
    serial = agent.serial()
    with agent.running() as process:
        agent.read_until(process, "certificate requested")
        agent.read_until(process, "certificate is current")
    assert agent.serial() != serial
    assert not (agent.state / "node-renew").exists()


def test_a_changed_configuration(server, tmp_path):
    """SIGHUP reads it; a broken one is reported, and the former one is kept."""
    agent = Agent(server, tmp_path)
    with agent.running() as process:
        agent.read_until(process, "certificate is current")
        text = agent.config.read_text()
        agent.config.write_text("kind: Other\n")
        process.send_signal(signal.SIGHUP)
        agent.read_until(process, "the configuration cannot be used; the former one is kept")
        output = tmp_path / "tls.crt"
        document = yaml.safe_load(text)
        document["certificates"][0]["outputs"] = {"certificate": str(output)}
        agent.config.write_text(yaml.safe_dump(document))
        process.send_signal(signal.SIGHUP)
        agent.read_until(process, "files written")
        assert output.read_bytes() in agent.current.read_bytes()


def test_check(server, tmp_path):
    """Everything that is wrong is reported, before the agent runs."""
    agent = Agent(
        server,
        tmp_path,
        outputs={"certificate": "/tmp/tls.crt", "owner": "no-such-user"},
        hooks=[{"command": ["/nonexistent"]}],
    )
    (tmp_path / "kubeconfig").chmod(0o644)
    done = subprocess.run([demo.CERTPLANE, "agent", "check", agent.config], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    fields = [line.split(": ")[2] for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert fields == ["server.kubeconfig", "certificates[0].outputs.owner", "certificates[0].hooks[0].command"]
    assert not (tmp_path / "state").exists()


def test_memory(server, tmp_path):
    """An agent needs at most 44 MiB. Nearly half of that are pages of libraries, which other processes share."""
    agent = Agent(server, tmp_path)
    with agent.running() as process:
        agent.read_until(process, "certificate is current")
        status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
    resident = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:"))
    assert resident <= 44 * 1024
