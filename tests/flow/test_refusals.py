"""Errors and warnings are small, even if the request is large and invalid in each of its parts."""

from __future__ import annotations

import base64
import json

import pytest

from tests.flow import plane as flow

CSRS = "/apis/certificates.k8s.io/v1/certificatesigningrequests"
CONFIG_MAPS = "/api/v1/namespaces/default/configmaps"
MANY = 20_000
LONG = 900_000


async def _post(plane, path, body, query=""):
    return await flow.respond(plane, "POST", f"{path}?{query}", body, content_type="application/json")


def _csr(**changes):
    spec = {
        "request": base64.b64encode(flow.pkcs10()).decode(), "signerName": flow.CLIENT, "usages": ["client auth"],
    }  # fmt: skip
    return {"metadata": {"name": "a"}, "spec": spec | changes}


def _labelled(labels, data=None):
    return {"metadata": {"name": "a", "labels": labels}, "data": data or {}}


@pytest.mark.parametrize(
    ("path", "body", "query"),
    [
        (CSRS, _csr(usages=[f"no usage {number}" for number in range(1000)]), ""),
        (CSRS, _csr(usages=["x" * LONG]), ""),
        (CSRS, _csr(signerName="é" * LONG), ""),
        (CSRS, _csr(expirationSeconds=int("9" * 4000)), ""),
        (CSRS, _csr(request="!" * LONG), ""),
        (CSRS, {"metadata": {"name": "\0" * LONG}, "spec": {}}, ""),
        (CONFIG_MAPS, _labelled({f"no label {number}": "x" for number in range(MANY)}), ""),
        (CONFIG_MAPS, _labelled({"a": "é" * LONG}), ""),
        (CONFIG_MAPS, _labelled({"é" * LONG: "a"}), ""),
        (CONFIG_MAPS, _labelled({}, {f"no key {number}": "x" for number in range(MANY)}), ""),
        (CONFIG_MAPS, {f"x{number}": 1 for number in range(MANY)} | {"x" * LONG: 1}, "fieldValidation=Strict"),
        (CONFIG_MAPS, b"[" * LONG, ""),
        (CONFIG_MAPS, b'{"kind":"' + b"\\u0000" * 100_000 + b'"}', ""),
        (CONFIG_MAPS, {}, "labelSelector=" + "(" * 60_000),
        (CONFIG_MAPS, {}, "fieldManager=" + "x" * 60_000),
        (f"/apis/{'x' * 60_000}/v1/a", {}, ""),
    ],
)
async def test_the_size_of_an_error_is_limited(path, body, query):
    """An error has at most 64 KB and a hundred causes; the last cause has the number of the omitted ones."""
    async with flow.running() as plane:
        reply = await _post(plane, path, body, query)
    assert 400 <= reply.status < 500
    assert len(reply.body) <= 64 * 1024
    assert sum(len(name) + len(value) for name, value in reply.headers) <= 8 * 1024
    if reply.content_type.startswith("text/plain"):
        return
    causes = json.loads(reply.body).get("details", {}).get("causes", [])
    assert len(causes) <= 101
    if len(causes) == 101:
        assert causes[-1]["message"].endswith("more causes are omitted")
        assert "more]" in json.loads(reply.body)["message"]


async def test_warnings_are_truncated_as_in_kubernetes():
    """Beyond 4096 characters in total, each warning is truncated to 256 characters, and as many as fit are sent."""
    async with flow.running() as plane:
        two, ninety = ({f"{number:03}" + "x" * 1000: 1 for number in range(count)} for count in (2, 90))
        few = await _post(plane, CONFIG_MAPS, {"metadata": {"name": "a"}} | two)
        many = await _post(plane, CONFIG_MAPS, {"metadata": {"name": "b"}} | ninety)
    assert [len(value) for name, value in few.headers if name == b"warning"] == [1029, 1029]
    warnings = [value.decode() for name, value in many.headers if name == b"warning"]
    assert (few.status, many.status, len(warnings)) == (201, 201, 16)
    assert {len(warning.replace("\\", "")) for warning in warnings} == {256 + len('299 - ""')}


async def test_a_long_value_in_an_error_is_shortened_in_its_middle():
    """The reason after the value is complete."""
    async with flow.running() as plane:
        reply = await _post(plane, CONFIG_MAPS, _labelled({"a": "é" * LONG}))
    message = json.loads(reply.body)["details"]["causes"][-1]["message"]
    assert "characters omitted" in message
    assert message.endswith("'(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')")
