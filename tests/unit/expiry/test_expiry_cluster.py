"""Objects of a cluster: pages, the keys that are read, versions of a kind, and servers that refuse."""

from __future__ import annotations

import base64
import json

import pytest

from certplane.client import api
from certplane.expiry import cluster
from certplane.expiry.findings import SourceProblem
from certplane.expiry.settings import Cluster, SecretSelection
from certplane.testing import FakeClock
from tests.unit.expiry import material


class Server:
    """A transport that answers lists, one object a page. `objects` are by path; a number is the code of a refusal."""

    def __init__(self, objects):
        self.objects = objects
        self.requests = []

    async def send(self, request):
        query = dict(request.query)
        self.requests.append((request.path, query.get("fieldSelector", "")))
        items = self.objects.get(request.path, 404)
        if isinstance(items, int):
            return api.Response(items, {}, b"{}")
        start = int(query.get("continue", 0))
        more = str(start + 1) if start + 1 < len(items) else ""
        body = {"metadata": {"resourceVersion": "1", "continue": more}, "items": items[start : start + 1]}
        return api.Response(200, {}, json.dumps(body).encode())


def secret(name, type_="kubernetes.io/tls", **data):
    encoded = {key.replace("_", "."): base64.b64encode(value).decode() for key, value in data.items()}
    return {"metadata": {"namespace": "web", "name": name}, "type": type_, "data": encoded}


async def read(objects, **fields):
    server = Server(objects)
    (source,) = cluster.sources("prod", Cluster(**{"secrets": (), **fields}), FakeClock())
    source._connect = lambda: api.Client(server)
    return server, material.brief(await material.read(source))


async def test_secrets():
    """The chosen keys; a private key or another key is not looked at, and an empty CA is no problem."""
    objects = [
        secret("a", tls_crt=material.leaf("a"), tls_key=b"KEY", ca_crt=b""),
        secret("b", tls_crt=b"damaged", other=material.leaf("other")),
        secret("c", "Opaque", tls_crt=material.leaf("opaque")),
    ]
    server, found = await read({"/api/v1/secrets": objects}, secrets=(SecretSelection(),))
    expected = [
        ("Secret web/a", "tls.crt", "a", ""),
        ("Secret web/b", "tls.crt", "", "it holds no certificate"),
    ]
    assert expected == found
    assert {("/api/v1/secrets", "type=kubernetes.io/tls")} == set(server.requests)
    assert 3 == len(server.requests)


async def test_namespaces_and_config_maps():
    """Keys by pattern; values that are not PEM are left alone."""
    config_map = {
        "metadata": {"namespace": "web", "name": "m"},
        "data": {"ca.crt": material.CA.pem.decode(), "ca.pem": "not yet", "other": material.CA.pem.decode()},
    }
    _, found = await read(
        {"/api/v1/namespaces/web/configmaps": [config_map]}, namespaces=("web",), config_maps=("ca.*",)
    )
    assert [("ConfigMap web/m", "ca.crt", "Example CA", "")] == found


async def test_bundles_of_an_older_server():
    """The newest version that it has."""
    bundle = {"metadata": {"name": "b"}, "spec": {"trustBundle": (material.CA.pem * 2).decode()}}
    path = "/apis/certificates.k8s.io/v1beta1/clustertrustbundles"
    _, found = await read({path: [bundle]}, trust_bundles=True)
    assert [("ClusterTrustBundle b", f"#{number}", "Example CA", "") for number in (1, 2)] == found


async def test_csrs():
    """Those that have a certificate."""
    certificate = base64.b64encode(material.leaf("node")).decode()
    objects = [{"metadata": {"name": "a"}, "status": {"certificate": certificate}}, {"metadata": {"name": "b"}}]
    path = "/apis/certificates.k8s.io/v1/certificatesigningrequests"
    _, found = await read({path: objects}, csrs=True)
    assert [("CertificateSigningRequest a", "", "node", "")] == found


@pytest.mark.parametrize("code", [401, 403, 404, 410, 500])
async def test_a_server_that_refuses(code):
    """The source cannot be read; a missing permission is named."""
    with pytest.raises(SourceProblem, match="may list secrets" if code == 403 else None):
        await read({"/api/v1/secrets": code}, secrets=(SecretSelection(),))


async def test_a_kubeconfig_that_is_gone(tmp_path):
    """The source cannot be read; the process goes on."""
    (source,) = cluster.sources("prod", Cluster(kubeconfig=tmp_path / "gone"), FakeClock())
    with pytest.raises(SourceProblem, match="gone"):
        await material.read(source)
