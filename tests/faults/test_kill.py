"""kill -9 of real processes: no acknowledged write is lost, and none is done twice."""

from __future__ import annotations

import contextlib
import json
import threading

import pytest

from tests.e2e import requests
from tests.e2e.test_serve import started

WRITERS = 4
#: Requests after which a condition is considered as never met.
MAX_POLLS = 20_000


def _write_until_killed(client, name, acknowledged, enough):
    request = requests.pkcs10()
    with contextlib.suppress(OSError, ValueError):
        for number in range(10_000):
            body = requests.csr(f"{name}-{number}", request)
            answer = client.request("admin", "POST", requests.CSRS, requests.JSON, body)
            if answer.status == 201:
                acknowledged.append((f"{name}-{number}", json.loads(answer.data)["metadata"]["resourceVersion"]))
            if len(acknowledged) > 100:
                enough.set()


@pytest.mark.parametrize("round_", range(2))
def test_acknowledged_writes_survive_kill(round_, tmp_path):
    """Every acknowledged object exists after kill -9, with the acknowledged resourceVersion."""
    data = tmp_path / "data"
    acknowledged, enough = [], threading.Event()
    with started(data) as (port, process):
        server = requests.Server(data, port)
        clients = [requests.client(server, tmp_path) for _ in range(WRITERS)]
        writers = [
            threading.Thread(target=_write_until_killed, args=(client, f"w{number}", acknowledged, enough))
            for number, client in enumerate(clients)
        ]
        for writer in writers:
            writer.start()
        assert enough.wait(60)
        process.kill()
        for writer in writers:
            writer.join()
        for client in clients:
            client.close()
    with started(data) as (port, _):
        server = requests.Server(data, port)
        with contextlib.closing(requests.client(server, tmp_path)) as client:
            answer = client.request("admin", "GET", requests.CSRS, {"Accept": "application/json"}, None)
    items = json.loads(answer.data)["items"]
    stored = {csr["metadata"]["name"]: csr["metadata"]["resourceVersion"] for csr in items}
    assert {name: stored.get(name) for name, _ in acknowledged} == dict(acknowledged)
    assert len(set(stored.values())) == len(stored)


def test_a_certificate_is_issued_exactly_once(tmp_path):
    """Requests that were approved before kill -9 are issued after the restart; issued certificates do not change."""
    data = tmp_path / "data"
    request = requests.pkcs10()
    names = [f"r{number}" for number in range(40)]
    with started(data) as (port, process):
        server = requests.Server(data, port)
        with contextlib.closing(requests.client(server, tmp_path)) as client:
            for name in names:
                body = requests.csr(name, request, "kubernetes.io/kube-apiserver-client")
                csr = json.loads(client.request("admin", "POST", requests.CSRS, requests.JSON, body).data)
                csr["status"] = {"conditions": [{"type": "Approved", "status": "True", "reason": "t", "message": "t"}]}
                client.request(
                    "admin", "PUT", f"{requests.CSRS}/{name}/approval", requests.JSON, json.dumps(csr).encode()
                )
            before = _certificates(client)
        process.kill()
    with started(data) as (port, _):
        server = requests.Server(data, port)
        with contextlib.closing(requests.client(server, tmp_path)) as client:
            for _ in range(MAX_POLLS):
                after = _certificates(client)
                if len(after) == len(names):
                    break
    assert {name: after[name] for name in before} == before
    assert set(after) == set(names)


def _certificates(client):
    answer = client.request("admin", "GET", requests.CSRS, {"Accept": "application/json"}, None)
    items = json.loads(answer.data)["items"]
    return {csr["metadata"]["name"]: csr["status"]["certificate"] for csr in items if "certificate" in csr["status"]}
