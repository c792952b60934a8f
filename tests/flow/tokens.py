"""Tokens of service accounts, by the subresource `token`, which no controller or command uses."""

from __future__ import annotations

import json

from certplane import errors
from certplane.client import api
from certplane.resources import serviceaccounts
from certplane.wire import codec

HEADERS = {"accept": "application/json", "content-type": "application/json"}


async def request_token(client, token_request, account, namespace="default"):
    """The answered TokenRequest. Raises the errors.APIError of a refusal, as the verbs of the client do."""
    kind = serviceaccounts.TOKEN_REQUESTS
    token_request.kind, token_request.api_version = kind.kind, kind.api_version
    path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token"
    response = await client.transport.send(api.Request("POST", path, headers=HEADERS, body=codec.encode(token_request)))
    if response.status != 201:
        raise errors.from_status(json.loads(response.body), response.status)
    return codec.decode(response.body, kind.type)
