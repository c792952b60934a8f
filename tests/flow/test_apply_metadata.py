"""Server-side apply of metadata that is null."""

from __future__ import annotations

import pytest

from tests.flow import plane as flow


@pytest.mark.parametrize("metadata", [b"null", b"{}", b'{"annotations":null,"labels":null}'])
async def test_apply_treats_null_metadata_as_missing(metadata):
    """The document has no name, which is a 400, as for missing metadata, and not a failure of the server."""
    body = b'{"apiVersion":"v1","kind":"ConfigMap","metadata":%b,"data":{"a":"b"}}' % metadata
    target = "/api/v1/namespaces/default/configmaps/a?fieldManager=test&force=true"
    async with flow.running() as plane:
        status, answer = await flow.request_json(
            plane, "PATCH", target, body, content_type="application/apply-patch+yaml"
        )
    assert (status, answer["reason"]) == (400, "BadRequest")
    assert answer["message"] == "the name of the object (a based on URL) was undeterminable: name must be provided"
