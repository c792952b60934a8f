"""HTTP/1.1 framing. The rules are in the docstring of `certplane.server.connection.http1`."""

from __future__ import annotations

import pytest

from certplane.server.connection import http1
from tests.unit.server.connection import playbook
from tests.unit.server.connection.playbook import END, HOST, FullResponse, Stream

OK = b"HTTP/1.1 200 OK\r\n"
EMPTY = OK + b"content-length: 0\r\n\r\n"
LAST = OK + b"content-length: 0\r\nconnection: close\r\n\r\n"

SCRIPTS = {
    "a request, its response, and the next request": [
        b"GET /x?y=%20 HTTP/1.1\r\n" + HOST + b"\r\n",
        "GET /x?y=%20",
        FullResponse(200, b"hi", OK + b"content-length: 2\r\n\r\nhi"),
        b"GET /z HTTP/1.1\r\n" + HOST + b"\r\n",
        "GET /z",
    ],
    "a body with Content-Length": [
        b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 3\r\n\r\nabc",
        "POST /",
        "abc",
        END,
        FullResponse(200, b"", EMPTY),
        b"GET / HTTP/1.1\r\n" + HOST + b"\r\n",
        "GET /",
    ],
    "a chunked body with extensions": [
        b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: Chunked\r\n\r\n",
        "POST /",
        b'3;a=b;c="d"\r\nabc\r\n00A \r\n0123456789\r\n0\r\n\r\n',
        "abc0123456789",
        END,
        FullResponse(200, b"", EMPTY),
    ],
    "trailers are dropped": [
        b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n",
        "POST /",
        "x",
        b"Impersonate-Group: system:masters\r\nA: b\r\n\r\n",
        END,
        FullResponse(200, b"", EMPTY),
        b"GET / HTTP/1.1\r\n" + HOST + b"\r\n",
        "GET /",
    ],
    "an upgrade is ignored, and its body is an ordinary body": [
        b"POST / HTTP/1.1\r\n" + HOST + b"Connection: Upgrade\r\nUpgrade: foo\r\nContent-Length: 33\r\n\r\n",
        "POST /",
        b"GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n"[:33],
        "GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n"[:33],
        END,
        FullResponse(200, b"", EMPTY),
    ],
    "an upgrade to HTTP/2 is ignored": [
        b"GET / HTTP/1.1\r\n" + HOST + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\r\n",
        "GET /",
        FullResponse(200, b"", EMPTY),
    ],
    "pipelined requests": [
        b"GET /1 HTTP/1.1\r\n" + HOST + b"\r\nGET /2 HTTP/1.1\r\n" + HOST + b"\r\nGET /3 HTTP/1.1\r\n" + HOST + b"\r\n",
        "GET /1",
        FullResponse(200, b"", EMPTY),
        "GET /2",
        FullResponse(200, b"", EMPTY),
        "GET /3",
    ],
    "a response before the end of the body is the last": [
        b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 1000\r\n\r\nabc",
        "POST /",
        "abc",
        FullResponse(200, b"", LAST, closes=True),
        b"GET /smuggled HTTP/1.1\r\n" + HOST + b"\r\n",
    ],
    "a response before the last chunk is the last": [
        b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
        "POST /",
        "abc",
        FullResponse(200, b"", LAST, closes=True),
        b"0\r\n\r\nGET /smuggled HTTP/1.1\r\n" + HOST + b"\r\n",
    ],
    "Connection: close": [
        b"GET / HTTP/1.1\r\n" + HOST + b"Connection: x, CLOSE\r\n\r\n",
        "GET /",
        FullResponse(200, b"", LAST, closes=True),
        b"GET /2 HTTP/1.1\r\n" + HOST + b"\r\n",
    ],
    "HTTP/1.0": [
        b"GET / HTTP/1.0\r\n\r\n",
        "GET /",
        FullResponse(200, b"", LAST, closes=True),
    ],
    "HTTP/1.0 has no chunks": [
        b"GET / HTTP/1.0\r\n\r\n",
        "GET /",
        Stream((b"ab", b"", b"c"), OK + b"connection: close\r\n\r\nabc", closes=True),
    ],
    "a response in chunks": [
        b"GET / HTTP/1.1\r\n" + HOST + b"\r\n",
        "GET /",
        Stream((b"ab", b"", b"c"), OK + b"transfer-encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n"),
        b"GET /2 HTTP/1.1\r\n" + HOST + b"\r\n",
        "GET /2",
    ],
    "HEAD has no response body": [
        b"HEAD / HTTP/1.1\r\n" + HOST + b"\r\n",
        "HEAD /",
        FullResponse(200, b"abc", OK + b"content-length: 3\r\n\r\n"),
        b"HEAD / HTTP/1.1\r\n" + HOST + b"\r\n",
        "HEAD /",
        Stream((b"ab",), OK + b"transfer-encoding: chunked\r\n\r\n"),
    ],
    "304 has no Content-Length": [
        b"GET / HTTP/1.1\r\n" + HOST + b"\r\n",
        "GET /",
        FullResponse(304, b"", b"HTTP/1.1 304 Not Modified\r\n\r\n"),
    ],
    "absolute form": [
        b"GET https://a:1/b?c HTTP/1.1\r\nHost: a:1\r\n\r\n",
        "GET /b?c",
        FullResponse(200, b"", EMPTY),
        b"GET HTTP://a HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /",
    ],
    "asterisk form": [
        b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n",
        "OPTIONS *",
    ],
    "paths are decoded, queries are not": [
        b"GET /%61%2Fb\xc3\xa9?%61 HTTP/1.1\r\n" + HOST + b"\r\n",
        "GET /a/bé?%61",
    ],
    "an empty host": [
        b"GET / HTTP/1.1\r\nHost:\r\n\r\n",
        "GET /",
    ],
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts(name):
    """The machine emits the events of the script, however the bytes are split."""
    playbook.play(SCRIPTS[name])


def _get(*fields, version=b"1.1", target=b"/"):
    lines = [b"GET " + target + b" HTTP/" + version, *fields, b"", b""]
    return b"\r\n".join(lines)


HOSTED = b"Host: h"
CHUNKED = b"Transfer-Encoding: chunked"

REFUSED = {
    "no host": (_get(), 400, "missing required Host header"),
    "two hosts": (_get(HOSTED, HOSTED), 400, "too many Host headers"),
    "a host that is none": (_get(b"Host: a b"), 400, "malformed Host header"),
    "no version": (b"GET /\r\n\r\n", 400, "malformed HTTP request"),
    "another protocol": (b"SSH-2.0-x\r\n\r\n", 400, "malformed HTTP request"),
    "HTTP/0.9": (_get(HOSTED, version=b"0.9"), 505, "unsupported protocol version"),
    "HTTP/1.2": (_get(HOSTED, version=b"1.2"), 505, "unsupported protocol version"),
    "HTTP/2.0": (b"PRI * HTTP/2.0\r\n\r\n", 505, "unsupported protocol version"),
    "HTTP/1.01": (_get(HOSTED, version=b"1.01"), 400, "malformed HTTP request"),
    "lower case": (b"GET / http/1.1\r\nHost: h\r\n\r\n", 400, "malformed HTTP request"),
    "two spaces": (b"GET  / HTTP/1.1\r\nHost: h\r\n\r\n", 400, "malformed HTTP request"),
    "a tab": (b"GET\t/ HTTP/1.1\r\nHost: h\r\n\r\n", 400, "malformed HTTP request"),
    "a target without a slash": (_get(HOSTED, target=b"x"), 400, "malformed HTTP request"),
    "another scheme": (_get(HOSTED, target=b"ftp://h/"), 400, "malformed HTTP request"),
    "CONNECT": (b"CONNECT h:1 HTTP/1.1\r\nHost: h\r\n\r\n", 400, "malformed HTTP request"),
    "a broken escape": (_get(HOSTED, target=b"/%zz"), 400, "malformed HTTP request"),
    "a folded field": (_get(HOSTED, b"A: b", b" c"), 400, "malformed HTTP request"),
    "a space before the colon": (_get(HOSTED, b"A : b"), 400, "malformed HTTP request"),
    "a field without a name": (_get(HOSTED, b": b"), 400, "malformed HTTP request"),
    "a field without a colon": (_get(HOSTED, b"A"), 400, "malformed HTTP request"),
    "a bare line feed": (_get(HOSTED, b"A: b\nC: d"), 400, "malformed HTTP request"),
    "a bare carriage return": (_get(HOSTED, b"A: b\rC: d"), 400, "malformed HTTP request"),
    "a NUL": (_get(HOSTED, b"A: b\0"), 400, "malformed HTTP request"),
    "another coding": (_get(HOSTED, b"Transfer-Encoding: gzip"), 501, "unsupported transfer encoding"),
    "two codings": (_get(HOSTED, b"Transfer-Encoding: gzip, chunked"), 501, "unsupported transfer encoding"),
    "chunked twice": (_get(HOSTED, CHUNKED, CHUNKED), 501, "unsupported transfer encoding"),
    "chunked by another name": (_get(HOSTED, b"Transfer-Encoding: \x0bchunked"), 400, "malformed HTTP request"),
    "a coding and a length": (
        _get(HOSTED, CHUNKED, b"Content-Length: 3"), 400, "unexpected Transfer-Encoding",
    ),
    "a coding in HTTP/1.0": (
        _get(HOSTED, CHUNKED, version=b"1.0"), 400, "unexpected Transfer-Encoding",
    ),
    "two lengths": (_get(HOSTED, b"Content-Length: 3", b"Content-Length: 3"), 400, "bad Content-Length"),
    "a list of lengths": (_get(HOSTED, b"Content-Length: 3, 3"), 400, "bad Content-Length"),
    "a signed length": (_get(HOSTED, b"Content-Length: +3"), 400, "bad Content-Length"),
    "an empty length": (_get(HOSTED, b"Content-Length:"), 400, "bad Content-Length"),
    "a length beyond numbers": (_get(HOSTED, b"Content-Length: " + b"9" * 19), 400, "bad Content-Length"),
    "another expectation": (_get(HOSTED, CHUNKED, b"Expect: more"), 417, "malformed HTTP request"),
    "a long head": (_get(HOSTED, b"A: " + b"x" * http1.HEAD_LIMIT), 431, "malformed HTTP request"),
    "a long target": (
        b"GET /" + b"x" * http1.TARGET_LIMIT + b" HTTP/1.1\r\nHost: h\r\n\r\n", 414, "malformed HTTP request",
    ),
    "many fields": (_get(HOSTED, *[b"A:"] * http1.FIELD_LIMIT), 431, "malformed HTTP request"),
    "an empty line before a request": (b"\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n", 400, "malformed HTTP request"),
    "TLS on an HTTP port": (b"\x16\x03\x01", 400, "malformed HTTP request"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_ambiguous_requests_are_refused(name):
    """The response has Go's error text, and nothing that follows is parsed."""
    sent, status, reason = REFUSED[name]
    machine = http1.StateMachine()

    events = machine.receive(sent)

    assert [(status, reason)] == [(event.status, event.reason) for event in events]
    assert events[0].response.startswith(b"HTTP/1.1 %d " % status)
    assert b"connection: close\r\n" in events[0].response
    assert machine.closing
    assert machine.receive(_get(HOSTED)) == []


BROKEN_BODIES = {
    "a chunk without a size": b"\r\n",
    "a size that is none": b"xyz\r\n",
    "a signed size": b"+1\r\nx\r\n",
    "a size with a prefix": b"0x1\r\nx\r\n",
    "a size beyond numbers": b"1" + b"0" * 15 + b"\r\n",
    "a chunk longer than it says": b"1\r\nxy\r\n",
    "a bare line feed after a size": b"1\nx\r\n",
    "a bare line feed in an extension": b"1;a\nb\r\nx\r\n",
    "a long extension": b"1;" + b"a" * 5000 + b"\r\nx\r\n",
    "much extension for little data": (b"1;" + b"a" * 4000 + b"\r\nx\r\n") * 5,
    "a trailer that is none": b"0\r\nno field\r\n\r\n",
    "a trailer that would frame": b"0\r\nTransfer-Encoding: chunked\r\n\r\n",
    "a folded trailer": b"0\r\nA: b\r\n c\r\n\r\n",
    "many trailers": b"0\r\n" + b"A:\r\n" * (http1.FIELD_LIMIT + 1) + b"\r\n",
    "a long trailer": b"0\r\nA: " + b"x" * (http1.HEAD_LIMIT + 10) + b"\r\n\r\n",
}


@pytest.mark.parametrize("name", BROKEN_BODIES)
def test_malformed_chunked_bodies_are_refused(name):
    """Data before the error is passed on; a request behind it is never parsed."""
    machine = http1.StateMachine()

    events = machine.receive(_get(HOSTED, CHUNKED) + BROKEN_BODIES[name] + _get(HOSTED))

    assert isinstance(events[-1], http1.Refusal)
    assert events[-1].status == 400
    assert sum(isinstance(event, http1.RequestHead) for event in events) == 1
    assert not any(isinstance(event, http1.EndOfMessage) for event in events)


def test_expect_needs_a_body():
    """A client that waits for 100 Continue has a body to send; HTTP/1.0 has no Expect."""
    expect = b"Expect: 100-Continue"

    def expects(*fields, version=b"1.1"):
        (request, *_) = http1.StateMachine().receive(_get(HOSTED, *fields, version=version))
        return request.expects_continue

    assert expects(expect, b"Content-Length: 3")
    assert not expects(b"Content-Length: 3")
    assert not expects(expect)
    assert not expects(expect, b"Content-Length: 0")
    assert not expects(expect, b"Content-Length: 3", version=b"1.0")


def test_field_names_are_lower_case_and_values_are_trimmed():
    """Inner spaces and non-ASCII bytes of the values are kept."""
    (request,) = http1.StateMachine().receive(_get(HOSTED, b"X-A:  b \t c\t ", b"x-b: \xff"))

    assert request.fields == [(b"host", b"h"), (b"x-a", b"b \t c"), (b"x-b", b"\xff")]


def test_header_values_with_line_breaks_are_refused():
    """A value must not start another field or a body."""
    for value in (b"a\r\nb: c", b"a\nb", b"a\r"):
        machine = http1.StateMachine()
        machine.receive(_get(HOSTED))
        with pytest.raises(ValueError, match="line break"):
            machine.encode_response(200, [(b"x", value)], b"")


@pytest.mark.parametrize("sent", [b"A: " + b"x" * 200_000, b"\r\n".join([b"A: b"] * 900)], ids=["long", "many"])
def test_the_cost_of_a_slow_head_is_linear(sent):
    """The search for the end of the head starts at most three bytes before the new ones."""
    machine = http1.StateMachine()
    machine.receive(b"GET / HTTP/1.1\r\n")
    for at in range(0, len(sent), 1000):
        machine.receive(sent[at : at + 1000])

        assert machine._searched == machine.buffered
