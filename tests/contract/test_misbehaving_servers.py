"""Responses that no API server sends: endless, huge, slow or malformed. The server may be a wrong one."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import ipaddress
import json
import ssl

import pytest

from certplane import errors, testing
from certplane.client import api, credentials, lighttransport, remote
from certplane.client.httprequests import Limits
from certplane.clock import SystemClock
from certplane.resources import configmaps
from certplane.x509.issuance import selfsigned
from certplane.x509.tbs import template
from tests.contract import connections
from tests.flow import plane as flow

LIMITS = Limits(body=100_000)
TRANSPORTS = {
    "https": lambda config, limits: remote.HTTPSTransport(config, "test", limits),
    "https-light": lambda config, limits: lighttransport.LightTransport(config, "test", SystemClock(), limits),
}
OK = b"HTTP/1.1 200 OK\r\n"
ENDLESS = b"x" * 10_000
REQUEST = api.Request("GET", "/api/v1/configmaps")


@pytest.fixture(params=TRANSPORTS.values(), ids=TRANSPORTS)
def new_transport(request):
    return request.param


@pytest.fixture
def ca():
    return connections.Authority(SystemClock())


@contextlib.asynccontextmanager
async def serving(respond, ca, tmp_path):
    """The ClientConfig for a TLS server that calls `respond` with a writer for each request."""
    names = template.AltNames(ip=(ipaddress.ip_address("127.0.0.1"),))
    (tmp_path / "pair.pem").write_bytes(b"".join(ca.issue(selfsigned.Leaf("server", names=names))))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(tmp_path / "pair.pem")

    async def serve(reader, writer):
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            await respond(writer)
            await writer.drain()
        writer.transport.abort()

    async with await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context) as server:
        yield connections.client_config(server.sockets[0].getsockname()[1], ca, credentials.StoredCredentials())


def sends(*parts, endlessly=b""):
    async def respond(writer):
        writer.write(b"".join(parts))
        while endlessly:
            writer.write(endlessly)
            # Drain does not let other tasks run while the buffer is small.
            await asyncio.sleep(0)
            await writer.drain()

    return respond


def whole(status, body):
    return sends(b"HTTP/1.1 %d x\r\ncontent-length: %d\r\n\r\n" % (status, len(body)), body)


@contextlib.asynccontextmanager
async def client_of(respond, ca, tmp_path, new_transport, limits=LIMITS):
    async with (
        serving(respond, ca, tmp_path) as config,
        contextlib.aclosing(new_transport(config, limits)) as transport,
    ):
        yield api.Client(transport)


@pytest.mark.parametrize(
    "respond",
    [
        sends(OK, b"\r\n", endlessly=ENDLESS),
        sends(OK, b"content-length: 999999999999\r\n\r\n", endlessly=ENDLESS),
        sends(OK, b"transfer-encoding: chunked\r\n\r\n", endlessly=b"2710\r\n" + ENDLESS + b"\r\n"),
        sends(OK, b"transfer-encoding: chunked\r\n\r\nffffffff\r\n", endlessly=ENDLESS),
    ],
    ids=["until-closed", "length", "chunks", "one-chunk"],
)
async def test_endless_bodies_are_refused(ca, tmp_path, new_transport, respond):
    """However their length is given."""
    async with client_of(respond, ca, tmp_path, new_transport) as client:
        with pytest.raises(api.Unreachable, match="sends more than 100000 bytes"):
            await client.read("/version")


@pytest.mark.parametrize(
    "respond",
    [
        sends(endlessly=ENDLESS),
        sends(OK, b"a: ", endlessly=ENDLESS),
        sends(OK, endlessly=b"a: b\r\n" * 1000),
        sends(endlessly=b"HTTP/1.1 103 Early Hints\r\n\r\n" * 500),
        sends(OK, b"transfer-encoding: chunked\r\n\r\n", endlessly=b"1" * 10_000),
        sends(OK, b"transfer-encoding: chunked\r\n\r\n0\r\n", endlessly=b"a: b\r\n" * 1000),
    ],
    ids=["status-line", "field", "fields", "interim", "chunk-size", "trailers"],
)
async def test_endless_headers_are_refused(ca, tmp_path, respond, new_transport):
    """And everything else that comes line by line. The time limit is for a library that goes on reading."""
    limits = dataclasses.replace(LIMITS, total=0.5)
    async with client_of(respond, ca, tmp_path, new_transport, limits) as client:
        with pytest.raises(api.Unreachable):
            await client.read("/version")


@pytest.mark.parametrize(
    "response",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        OK + b"content-length: 5, 6\r\n\r\n12345",
        OK + b"content-length: -5\r\n\r\n12345",
        OK + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        OK + b"transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        OK + b"transfer-encoding: chunked\r\n\r\n-1\r\n\r\n",
        OK + b"transfer-encoding: chunked\r\n\r\n1\r\n{x\r\n0\r\n\r\n",
        OK + b"content-length: 100\r\n\r\n{}",
        OK + b"content-encoding: gzip\r\ncontent-length: 2\r\n\r\n{}",
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\n\r\n",
        b"",
        b"HTTP/1.1 2",
    ],
)
async def test_what_is_not_http_is_refused(ca, tmp_path, response):
    """By our own parser; a library has its own tests."""
    new_transport = TRANSPORTS["https-light"]
    async with client_of(sends(response), ca, tmp_path, new_transport) as client:
        with pytest.raises(api.Unreachable, match=r"^the server at 127\.0\.0\.1:\d+ "):
            await client.read("/version")


async def test_unusual_but_valid_responses_are_read(ca, tmp_path, new_transport):
    """Chunks with extensions, a trailer, an interim response, and a header without a reason phrase."""
    response = (
        b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 200\r\nTransfer-Encoding: chunked\r\nA: b\r\n\r\n"
        b"3;name=value\r\n[1,\r\n2\r\n2]\r\n0\r\ntrailer: x\r\n\r\n"
    )
    if new_transport is TRANSPORTS["https"]:
        # aiohttp needs the space before the reason phrase.
        response = response.replace(b"HTTP/1.1 200\r\n", b"HTTP/1.1 200 \r\n")
    async with client_of(sends(response), ca, tmp_path, new_transport) as client:
        assert await client.read("/version") == [1, 2]


async def test_redirects_are_not_followed(ca, tmp_path, new_transport):
    """The credentials are for one server."""
    response = b"HTTP/1.1 302 Found\r\nlocation: https://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n"
    async with client_of(sends(response), ca, tmp_path, new_transport) as client:
        assert (await client.transport.send(REQUEST)).status == 302


# --- time ---------------------------------------------------------------------------------------------------------


async def test_a_server_that_does_not_respond_is_given_up(ca, tmp_path, new_transport):
    """The error says that there was no response in time."""

    async def stay_silent(writer):
        await asyncio.Event().wait()

    limits = dataclasses.replace(LIMITS, silence=0.05)
    async with client_of(stay_silent, ca, tmp_path, new_transport, limits) as client:
        with pytest.raises(api.Unreachable, match=r"cannot be reached: no response in time"):
            await client.read("/version")


async def test_the_time_of_a_whole_response_is_limited(ca, tmp_path):
    """A server that sends a byte a minute is never silent for long, and its response never ends."""
    fake = testing.FakeClock()
    accepted = asyncio.get_running_loop().create_future()

    async def drip(writer):
        writer.write(OK + b"\r\n")
        accepted.set_result(writer)
        await asyncio.Event().wait()

    async with serving(drip, ca, tmp_path) as config:
        sending = asyncio.ensure_future(lighttransport.LightTransport(config, "test", fake).send(REQUEST))
        writer = await accepted
        for _ in range(10):
            await fake.advance(60)
            writer.write(b"x")
            if sending.done():
                break
        with pytest.raises(api.Unreachable, match="no response in time"):
            await sending
        assert fake.monotonic() <= 360


# --- content ------------------------------------------------------------------------------------------------------


async def test_an_endless_event_of_a_watch_is_refused(ca, tmp_path, new_transport):
    """A line without an end would fill the memory."""
    async with (
        client_of(
            sends(OK, b"content-type: application/json\r\n\r\n", endlessly=b"x" * 1_000_000),
            ca,
            tmp_path,
            new_transport,
        ) as client,
        client.watch(configmaps.RESOURCE, "1") as events,
    ):
        with pytest.raises(api.Unreachable, match="an event of more than 16777216 bytes"):
            await anext(events)


async def test_the_refusal_of_a_watch_is_bounded(ca, tmp_path, new_transport):
    """An error page without an end is cut."""
    response = sends(b"HTTP/1.1 503 Service Unavailable\r\n\r\n", endlessly=ENDLESS)
    async with client_of(response, ca, tmp_path, new_transport) as client:
        with pytest.raises(errors.APIError) as caught:
            async with client.watch(configmaps.RESOURCE, "1"):
                pass
    assert (caught.value.code, len(caught.value.message) < 2 * errors.MAX_MESSAGE_LENGTH) == (503, True)


async def test_pages_that_do_not_end_are_refused(ca, tmp_path, new_transport):
    """A server that always has the same next page."""
    page = {"metadata": {"continue": "next"}, "items": [{"metadata": {"name": "a"}}]}
    async with client_of(whole(200, json.dumps(page).encode()), ca, tmp_path, new_transport) as client:
        with pytest.raises(api.Unreachable, match="the pages of the list do not end"):
            await client.list(configmaps.RESOURCE)


async def test_a_page_that_is_too_large_is_requested_with_fewer_objects(tmp_path):
    """A page of the largest Secrets has a gigabyte."""
    async with connections.serve_plane("https", tmp_path, testing.FakeClock(), controllers=frozenset()) as server:
        client = server.client(flow.ADMIN)
        for number in range(20):
            large = configmaps.ConfigMap(data={"key": "x" * 1000})
            large.metadata.name = f"m{number:02}"
            await client.create(configmaps.RESOURCE, large, "default")
        certificate, key = map(credentials.Inline, server.ca.client(flow.ADMIN))
        source = credentials.StoredCredentials(certificate=certificate, key=key)
        config = connections.client_config(server.port, server.ca, source)
        for new_transport in TRANSPORTS.values():
            async with contextlib.aclosing(new_transport(config, Limits(body=5000))) as transport:
                listing = await api.Client(transport).list(configmaps.RESOURCE, "default")
                names = [item.metadata.name for item in listing.items if item.metadata.name.startswith("m")]
                assert names == [f"m{number:02}" for number in range(20)]
            async with contextlib.aclosing(new_transport(config, Limits(body=500))) as transport:
                with pytest.raises(api.ResponseTooLarge, match="sends more than 500 bytes"):
                    await api.Client(transport).list(configmaps.RESOURCE, "default")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"reason": ["a"], "code": "x", "message": 5, "details": 7}', ""),
        (b'{"reason": {}, "code": 1e999}', '{"reason": {}, "code": 1e999}'),
        (b'{"reason": "Conflict", "code": 200, "details": {"retryAfterSeconds": "soon"}, "message": "m"}', "m"),
        (b'{"details": {"retryAfterSeconds": 99999999999}, "message": "m"}', "m"),
        (b'{"details": {"retryAfterSeconds": true}, "message": "m", "code": 99999999999999999999999}', "m"),
        (b"[1]", "[1]"),
        (b"\xff", "\ufffd"),
        (b"", "the server responded with code 500"),
        (b"[" * 50_000, None),
        (b'"' + b"x" * 50_000 + b'"', None),
    ],
)
async def test_a_malformed_status_is_an_error_of_the_server(ca, tmp_path, new_transport, body, message):
    """Members of wrong types are left out; the code of the response counts. The message is bounded."""
    async with client_of(whole(500, body), ca, tmp_path, new_transport) as client:
        with pytest.raises(errors.APIError) as caught:
            await client.read("/version")
    error = caught.value
    assert (500, 0) == (error.code, error.retry_after)
    assert len(error.message) < 2 * errors.MAX_MESSAGE_LENGTH
    assert message is None or error.message == message


async def test_deeply_nested_documents_are_refused(ca, tmp_path, new_transport):
    """They would exhaust the stack."""
    async with client_of(whole(200, b"[" * 50_000 + b"]" * 50_000), ca, tmp_path, new_transport) as client:
        with pytest.raises(api.Unreachable, match="the response is not from an API server"):
            await client.read("/version")


async def test_empty_pages_are_read_over_but_not_for_ever(ca, tmp_path, new_transport, monkeypatch):
    """A server that examines many objects for a selector may return a page without any; one that invents tokens without
    end is refused.
    """
    monkeypatch.setattr(api, "_MAX_EMPTY_PAGES", 3)
    pages = iter([{"metadata": {"continue": str(number)}, "items": []} for number in range(3)])
    last = {"metadata": {}, "items": [{"metadata": {"name": "a"}}]}

    class Pages:
        async def send(self, request):
            return api.Response(200, {}, json.dumps(next(pages, last)).encode())

    found = await api.Client(Pages()).list(configmaps.RESOURCE)
    assert [item.metadata.name for item in found.items] == ["a"]
    pages = iter([{"metadata": {"continue": str(number)}, "items": []} for number in range(5)])
    with pytest.raises(api.Unreachable, match="the pages of the list do not end"):
        await api.Client(Pages()).list(configmaps.RESOURCE)
