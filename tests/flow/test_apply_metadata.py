"""Server-side apply of metadata that is null."""

from __future__ import annotations

import pytest

from certplane.server import exchange
from tests.flow import plane as flow


async def _patch(plane, body):
    async def chunks():
        yield body

    path = "/api/v1/namespaces/default/configmaps/a"
    headers = exchange.Headers([(b"content-type", b"application/apply-patch+yaml"), (b"accept", b"application/json")])
    query = "fieldManager=test&force=true"
    request = exchange.Request("PATCH", path, query, headers, chunks, identity=flow.ADMIN)
    return await plane.handler(request)


@pytest.mark.parametrize("metadata", [b"null", b"{}", b'{"annotations":null,"labels":null}'])
async def test_metadata_that_is_null_is_no_failure_of_the_server(metadata):
    """It is the same as missing metadata, for a new object and for an existing one."""
    body = b'{"apiVersion":"v1","kind":"ConfigMap","metadata":%b,"data":{"a":"b"}}' % metadata
    async with flow.running() as plane:
        codes = [(await _patch(plane, body)).status for _ in range(2)]
    assert all(code < 500 for code in codes), codes
