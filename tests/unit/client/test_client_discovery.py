"""Which of some resources a server has."""

from __future__ import annotations

import json

import pytest

from certplane import errors
from certplane.client import api, discovery
from certplane.resources import certificatesigningrequests, clustertrustbundles, configmaps, secrets

CSRS, BUNDLES = certificatesigningrequests.RESOURCE, clustertrustbundles.RESOURCE


class DiscoveryTransport:
    """Serves documents by path, and a 404 for other paths. Records the requested paths."""

    def __init__(self, documents, status=404):
        self.documents = documents
        self.status = status
        self.paths = []

    async def send(self, request):
        self.paths.append(request.path)
        if request.path in self.documents:
            return api.Response(200, {}, json.dumps(self.documents[request.path]).encode())
        reason = {404: "NotFound", 403: "Forbidden"}[self.status]
        status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "code": self.status}
        return api.Response(self.status, {}, json.dumps(status).encode())


def resource_list(*names):
    return {"kind": "APIResourceList", "resources": [{"name": name} for name in names]}


async def test_only_served_resources_are_returned():
    """A group that the server does not have has none. Each group is requested once."""
    transport = DiscoveryTransport(
        {
            "/apis/certificates.k8s.io/v1": resource_list(CSRS.plural, f"{CSRS.plural}/status"),
            "/api/v1": resource_list("configmaps"),
        }
    )
    wanted = (CSRS, BUNDLES, configmaps.RESOURCE, secrets.RESOURCE)
    assert await discovery.served_resources(api.Client(transport), wanted) == [CSRS, configmaps.RESOURCE]
    assert transport.paths == ["/apis/certificates.k8s.io/v1", "/apis/certificates.k8s.io/v1beta1", "/api/v1"]


async def test_other_errors_are_raised():
    """A refusal does not mean that the server lacks a resource."""
    with pytest.raises(errors.Forbidden):
        await discovery.served_resources(api.Client(DiscoveryTransport({}, 403)), [CSRS])


@pytest.mark.parametrize("document", [{"resources": None}, {"resources": ["x", {}]}, {}, {"resources": [{"name": 1}]}])
async def test_malformed_documents_have_no_resources(document):
    """They raise nothing."""
    transport = DiscoveryTransport({"/apis/certificates.k8s.io/v1": document})
    assert await discovery.served_resources(api.Client(transport), [CSRS]) == []
