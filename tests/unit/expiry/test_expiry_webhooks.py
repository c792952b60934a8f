"""Webhooks: what they get, retries, restarts; and secrets, which are in no log."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import json
import logging
import os

import pytest

from certplane.errors import SetupError
from certplane.expiry import webhooks
from certplane.expiry.settings import WebhookSettings
from certplane.expiry.watch import Limits, Watch
from certplane.expiry.webhooks import NoticeStore, Webhook
from certplane.testing import FakeClock
from tests.unit.expiry import material
from tests.unit.expiry.material import ListSource

PATH = "/services/T0/SECRET-TOKEN"


class Receiver:
    """A web server that answers with `status`."""

    def __init__(self):
        self.status = "200 OK"
        self.requests = []

    async def handle(self, reader, writer):
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        line, *fields = head.strip().split("\r\n")
        headers = dict(field.lower().split(": ", 1) for field in fields)
        body = await reader.readexactly(int(headers["content-length"]))
        self.requests.append((line, headers, body))
        writer.write(f"HTTP/1.1 {self.status}\r\nContent-Length: 0\r\n\r\n".encode())
        writer.close()


@contextlib.asynccontextmanager
async def receiving():
    receiver = Receiver()
    server = await asyncio.start_server(receiver.handle, "127.0.0.1", 0)
    async with server:
        receiver.port = server.sockets[0].getsockname()[1]
        yield receiver


@contextlib.asynccontextmanager
async def prepared(tmp_path, port, *findings, clock=None, **fields):
    """A webhook, and a watch that has read its source."""
    clock = clock or FakeClock(material.NOW)
    (tmp_path / "url").write_text(f"http://127.0.0.1:{port}{PATH}\n")
    (tmp_path / "key").write_text("signing-key\n")
    settings = WebhookSettings("chat", tmp_path / "url", **{"secret_file": tmp_path / "key", **fields})
    watch = Watch([ListSource("disk", *findings)], clock, Limits())
    store = NoticeStore(tmp_path / "state")
    with store.opened():
        webhook = Webhook(settings, watch, store, clock)
        webhook.source = watch.states[0].source
        webhook.watch = watch
        await watch.read_once()
        yield webhook


def ending(days, number=1):
    return material.finding(number, material.NOW + days * material.DAY)


async def test_a_message(tmp_path):
    """JSON, signed with the time. What is not due is not in it."""
    async with receiving() as receiver, prepared(tmp_path, receiver.port, ending(5), ending(90, 2)) as webhook:
        assert await webhook.check() is None
        assert await webhook.check() is None
    ((line, headers, body),) = receiver.requests
    assert f"POST {PATH} HTTP/1.1" == line
    timestamp = str(material.seconds(material.NOW))
    assert timestamp == headers["x-certplane-timestamp"]
    expected = hmac.new(b"signing-key", timestamp.encode() + b"." + body, hashlib.sha256).hexdigest()
    assert f"sha256={expected}" == headers["x-certplane-signature"]
    assert {
        "apiVersion": "watch.certplane.io/v1alpha1",
        "kind": "ExpirationNotice",
        "webhook": "chat",
        "time": "2026-01-01T00:00:00Z",
        "certificates": [
            {
                "state": "ending",
                "source": "disk",
                "path": "/a.pem",
                "place": "",
                "subject": "name-1",
                "issuer": "Example CA",
                "serialNumber": "1",
                "notAfter": "2026-01-06T00:00:00Z",
                "secondsLeft": 432000,
                "threshold": "7d",
            }
        ],
        "omitted": 0,
    } == json.loads(body)


async def test_without_a_key_nothing_is_signed(tmp_path):
    """The header is absent."""
    async with receiving() as receiver, prepared(tmp_path, receiver.port, ending(5), secret_file=None) as webhook:
        await webhook.check()
    assert "x-certplane-signature" not in receiver.requests[0][1]


async def test_slack(tmp_path):
    """Names are no markup, and a long list is cut."""
    hostile = material.finding(0, material.NOW - material.DAY, subject="<!channel> & *x*")
    findings = [hostile, *(ending(1, number) for number in range(1, 80))]
    async with receiving() as receiver, prepared(tmp_path, receiver.port, *findings, format="slack") as webhook:
        await webhook.check()
        await webhook.check()
    ((_, _, body),) = receiver.requests
    first, *_, last = json.loads(body)["text"].splitlines()
    assert first == "*&lt;!channel&gt; &amp; *\u200bx*\u200b* ended 24h ago: /a.pem (disk)"
    assert "and 30 more" == last


async def test_a_webhook_that_refuses(tmp_path, caplog):
    """It is tried again with growing pauses. The log has its host, and nothing secret."""
    caplog.set_level(logging.DEBUG)
    async with receiving() as receiver, prepared(tmp_path, receiver.port, ending(5)) as webhook:
        receiver.status = "500 Internal Server Error"
        assert [5, 10, 20, 40] == [await webhook.check() for _ in range(4)]
        (tmp_path / "url").write_text("https://user:SECRET-TOKEN@127.0.0.1/")
        assert 80 == await webhook.check()
        (tmp_path / "url").write_text(f"http://127.0.0.1:{receiver.port}{PATH}")
        receiver.status = "204 No Content"
        assert await webhook.check() is None
        receiver.status = "500 Internal Server Error"
        webhook.source.findings.append(ending(6, 2))
        await webhook.watch.read_once()
        assert 5 == await webhook.check()
        text = webhooks.metrics([webhook])
    assert 'certplane_watch_notifications_total{webhook="chat",result="success"} 1\n' in text
    assert 'certplane_watch_notifications_total{webhook="chat",result="error"} 6\n' in text
    records = [f"{record.getMessage()} {vars(record)}" for record in caplog.records]
    assert any("127.0.0.1 responded with status 500" in record for record in records)
    assert not [record for record in records if "SECRET-TOKEN" in record or "signing-key" in record]


async def test_a_webhook_that_does_not_respond(tmp_path):
    """It is given up after 15 seconds."""
    connected = asyncio.Event()

    async def hang(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        connected.set()
        await reader.read()
        writer.close()

    clock = FakeClock(material.NOW)
    async with (
        await asyncio.start_server(hang, "127.0.0.1", 0) as server,
        prepared(tmp_path, server.sockets[0].getsockname()[1], ending(5), clock=clock) as webhook,
    ):
        checking = asyncio.ensure_future(webhook.check())
        await connected.wait()
        await clock.advance(15)
        assert 5 == await checking


async def test_a_restart_repeats_nothing(tmp_path):
    """Until the next threshold; and what was renewed meanwhile is settled."""
    async with receiving() as receiver:
        async with prepared(tmp_path, receiver.port, ending(10)) as webhook:
            await webhook.check()
        async with prepared(tmp_path, receiver.port, ending(10)) as webhook:
            await webhook.check()
        assert 1 == len(receiver.requests)
        later = FakeClock(material.NOW + 4 * material.DAY)
        async with prepared(tmp_path, receiver.port, ending(10), clock=later) as webhook:
            await webhook.check()
        assert 2 == len(receiver.requests)
        async with prepared(tmp_path, receiver.port, ending(400, 2)) as webhook:
            await webhook.check()
        async with prepared(tmp_path, receiver.port, ending(400, 2)) as webhook:
            await webhook.check()
    states = [[item["state"] for item in json.loads(body)["certificates"]] for _, _, body in receiver.requests]
    assert [["ending"], ["ending"], ["settled"]] == states


async def test_a_damaged_file_of_announcements(tmp_path, caplog):
    """They are repeated, which is better than none."""
    (tmp_path / "state").mkdir(mode=0o700)
    (tmp_path / "state" / "notifications.json").write_bytes(b"{")
    async with receiving() as receiver, prepared(tmp_path, receiver.port, ending(5)) as webhook:
        await webhook.check()
    assert 1 == len(receiver.requests)
    assert "the file of announcements is damaged" in caplog.text


async def test_a_file_that_cannot_be_written(tmp_path, caplog):
    """Within the process nothing is repeated all the same."""
    async with receiving() as receiver, prepared(tmp_path, receiver.port, ending(5)) as webhook:
        os.symlink("elsewhere", tmp_path / "state" / ".notifications.json.new")
        await webhook.check()
        await webhook.check()
    assert 1 == len(receiver.requests)
    assert "announcements cannot be recorded" in caplog.text


def test_two_processes_do_not_share_a_directory(tmp_path):
    """Both would announce everything."""
    with (
        NoticeStore(tmp_path / "state").opened(),
        pytest.raises(SetupError, match="another certplane watch uses"),
        NoticeStore(tmp_path / "state").opened(),
    ):
        pass


async def test_nothing_is_announced_before_all_sources_were_read(tmp_path):
    """One message is better than one for each source."""
    async with receiving() as receiver, prepared(tmp_path, receiver.port, ending(5)) as webhook:
        webhook.watch.states.append(type(webhook.watch.states[0])(ListSource("slow")))
        assert await webhook.check() is None
        assert [] == receiver.requests
        webhook.watch.states[1].problem = "it was not read within 60 s"
        assert await webhook.check() is None
    assert 1 == len(receiver.requests)


async def test_the_loop(tmp_path):
    """It announces when a source was read, and when a threshold is crossed without a reading."""
    clock = FakeClock(material.NOW)
    async with receiving() as receiver, prepared(tmp_path, receiver.port, ending(8), clock=clock) as webhook:
        running = asyncio.ensure_future(webhook.run())
        while len(receiver.requests) < 1:
            await asyncio.to_thread(lambda: None)
        for _ in range(2000):
            if len(receiver.requests) == 2:
                break
            await clock.advance(60)
            await asyncio.to_thread(lambda: None)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert ["30d", "7d"] == [json.loads(body)["certificates"][0]["threshold"] for _, _, body in receiver.requests]
