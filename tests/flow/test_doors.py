"""What may be written of a request through which door, and what is said to whoever tries more."""

from __future__ import annotations

import contextlib
import json

import pytest

from certplane.resources import certificatesigningrequests as csrs
from certplane.server import exchange
from tests.flow import plane as flow

PATH = "/apis/certificates.k8s.io/v1/certificatesigningrequests"


def _chunks(body):
    async def chunks():
        yield body

    return chunks


async def ask(plane, method, path, body=None):
    """One request with a JSON body: status, and the answer."""
    path, _, query = path.partition("?")
    sent = b"" if body is None else json.dumps(body).encode()
    headers = exchange.Headers([(b"content-type", b"application/json")])
    of = exchange.Exchange(method, path, query, headers, _chunks(sent), identity=flow.ADMIN)
    reply = await flow.assembled(plane)(of)
    return reply.status, json.loads(reply.body)


@contextlib.asynccontextmanager
async def with_request(**metadata):
    """A plane with one request, that no signer of it knows."""
    async with flow.running() as plane:
        new = flow.new_csr("a")
        new.spec.signer_name = "example.com/x"
        for name, value in metadata.items():
            setattr(new.metadata, name, value)
        await plane.client(flow.ADMIN).create(csrs.RESOURCE, new)
        yield plane


def condition(type_):
    return {"type": type_, "status": "True", "reason": "Test", "message": "m"}


async def write(plane, door, *types):
    _, stored = await ask(plane, "GET", f"{PATH}/a")
    stored["status"]["conditions"] = [condition(each) for each in types]
    return await ask(plane, "PUT", f"{PATH}/a{door}", stored)


async def test_what_is_gone_is_told_before_what_is_new():
    """Of all kinds of conditions: first what may not be removed, then what may not be added."""
    async with with_request() as plane:
        assert (await write(plane, "/status", "Failed"))[0] == 200
        status, answer = await write(plane, "/status", "Approved")
    assert (status, [each["message"] for each in answer["details"]["causes"]]) == (
        422,
        [
            'Forbidden: updates may not remove a condition of type "Failed"',
            'Forbidden: updates may not add a condition of type "Approved"',
        ],
    )


async def test_a_version_that_is_no_number():
    """The answer is bare, as a real server's is."""
    async with with_request() as plane:
        _, stored = await ask(plane, "GET", f"{PATH}/a")
        stored["metadata"]["resourceVersion"] = "abc"
        status, answer = await ask(plane, "PUT", f"{PATH}/a", stored)
    assert (status, answer["message"]) == (500, 'strconv.ParseUint: parsing "abc": invalid syntax')


async def test_extra_values_have_a_type_of_their_own():
    """Which is named where something else is sent."""
    async with with_request() as plane:
        _, stored = await ask(plane, "GET", f"{PATH}/a")
        stored["spec"]["extra"] = {"a": "b"}
        status, answer = await ask(plane, "PUT", f"{PATH}/a", stored)
    assert (status, answer["message"].rpartition(": ")[2]) == (
        400,
        "cannot unmarshal string into Go struct field CertificateSigningRequestSpec.spec.extra of type v1.ExtraValue",
    )


@pytest.mark.parametrize(
    ("query", "status"),
    [("", 200), ("?orphanDependents=false", 202), ("?orphanDependents=true", 200), ("?propagationPolicy=Orphan", 200)],
)
async def test_what_is_not_gone_at_once_is_accepted(query, status):
    """Where dependents are said not to be orphaned in the old way; existing clients take it for success otherwise."""
    async with with_request(finalizers=["example.com/x"]) as plane:
        found, answer = await ask(plane, "DELETE", f"{PATH}/a{query}")
    assert (found, "deletionTimestamp" in answer["metadata"]) == (status, True)


async def test_an_empty_policy_is_none():
    """It is refused, not taken for no policy."""
    async with with_request() as plane:
        status, answer = await ask(plane, "DELETE", f"{PATH}/a?propagationPolicy=")
    assert status == 422
    assert answer["message"].endswith(
        'propagationPolicy: Unsupported value: "": supported values: "Foreground", "Background", "Orphan", "nil"'
    )
