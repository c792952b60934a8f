"""An informer against a scripted server: answers to lists and watches, and subscribers that fail."""

from __future__ import annotations

import asyncio
import contextlib
import json

import pytest

from certplane import testing
from certplane.client import api, informer
from certplane.resources import configmaps

EXPIRED = {"kind": "Status", "status": "Failure", "reason": "Expired", "code": 410, "message": "too old"}
EXPIRED_EVENT = {"type": "ERROR", "object": EXPIRED}
FORBIDDEN = {"kind": "Status", "status": "Failure", "reason": "Forbidden", "code": 403, "message": "no"}


def config_map(name, version, uid=""):
    return {"metadata": {"name": name, "namespace": "default", "uid": uid or name, "resourceVersion": version}}


def event(type_, name, version, uid=""):
    return {"type": type_, "object": config_map(name, version, uid)}


class Server:
    """Answers lists and watches from scripts, and records the revisions that were asked for. The last watch does not
    end. Implements `api.Transport`.
    """

    def __init__(self, lists, watches):
        self._lists = iter(lists)
        self._watches = iter(watches)
        self.asked = []

    async def send(self, request):
        self.asked.append("list")
        answer = next(self._lists)
        if isinstance(answer, dict):
            return api.Response(answer["code"], {}, json.dumps(answer).encode())
        version, *objects = answer
        body = {"metadata": {"resourceVersion": version}, "items": objects}
        return api.Response(200, {}, json.dumps(body).encode())

    @contextlib.asynccontextmanager
    async def stream(self, request):
        self.asked.append(dict(request.query)["resourceVersion"])
        answer = next(self._watches, None)
        if isinstance(answer, dict):
            yield api.Response(answer["code"], {}, chunks=self._chunks([answer]))
        else:
            yield api.Response(200, {}, chunks=self._chunks(answer))

    async def _chunks(self, documents):
        if documents is None:
            await asyncio.get_running_loop().create_future()
        for document in documents:
            encoded = json.dumps(document).encode() + b"\n"
            # A chunk may end anywhere.
            yield encoded[:7]
            yield encoded[7:]


class Subscriber:
    """Records the names and revisions of changes, and raises for the events in `failures`."""

    def __init__(self, failures=()):
        self.seen = []
        self._failures = list(failures)

    def __call__(self, before, after):
        change = tuple(obj and f"{obj.metadata.name}{obj.metadata.resource_version}" for obj in (before, after))
        self.seen.append(change)
        if change in self._failures:
            self._failures.remove(change)
            raise RuntimeError("a subscriber failed")

    def known(self):
        """The objects that the changes add up to."""
        objects = {}
        for before, after in self.seen:
            objects.pop((before or after)[0], None)
            if after:
                objects[after[0]] = after
        return sorted(objects.values())


@contextlib.asynccontextmanager
async def following(server, *subscribers, attempts=1):
    """An informer that runs until `server` has no more answers; it is started again after a failure of a subscriber."""
    clock = testing.FakeClock()
    copy = informer.Informer(api.Client(server), configmaps.RESOURCE, clock)
    for subscriber in subscribers:
        copy.subscribe(subscriber)

    async def run():
        for _ in range(attempts - 1):
            with pytest.raises(RuntimeError, match="a subscriber failed"):
                await copy.run()
        await copy.run()

    running = asyncio.ensure_future(run())

    async def settle(asked):
        async def has_asked():
            assert not running.done() or running.result()
            await clock.advance(1)
            return len(server.asked) >= asked

        await testing.eventually(has_asked)

    try:
        yield copy, settle
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running


def known(copy):
    return sorted(f"{obj.metadata.name}{obj.metadata.resource_version}" for obj in copy.objects.values())


@pytest.mark.parametrize(
    ("answer", "asked"),
    [
        pytest.param(EXPIRED, ["list", "1", "list", "5"], id="the revision is too old"),
        pytest.param([{"type": "ERROR", "object": EXPIRED}], ["list", "1", "list", "5"], id="it became too old"),
        pytest.param(FORBIDDEN, ["list", "1", "list", "5"], id="refused"),
        pytest.param([{"type": "ERROR", "object": FORBIDDEN}], ["list", "1", "list", "5"], id="ended by an error"),
        pytest.param([event("ADDED", "b", "2")], ["list", "1", "2"], id="ended"),
        pytest.param([event("BOOKMARK", "", "4")], ["list", "1", "4"], id="ended after a bookmark"),
        pytest.param([], ["list", "1", "1"], id="ended at once"),
    ],
)
async def test_a_watch_that_ends_is_resumed_or_starts_from_a_list(answer, asked):
    """Resumed at the last revision that was seen; after an error the collection is listed."""
    server = Server([("1", config_map("a", "1")), ("5", config_map("a", "5"))], [answer])
    async with following(server) as (_, settle):
        await settle(len(asked))
        assert server.asked == asked


async def test_a_refused_list_is_repeated():
    """Until then the informer has not synced."""
    server = Server([FORBIDDEN, ("1", config_map("a", "1"))], [])
    async with following(server) as (copy, settle):
        assert not copy.synced.is_set()
        await settle(3)
        assert copy.synced.is_set()
        assert server.asked == ["list", "list", "1"]


async def test_subscribers_see_each_difference_once():
    """Those of a list are the differences from what was known before."""
    server = Server(
        [
            ("3", config_map("a", "1"), config_map("b", "2"), config_map("c", "3")),
            ("9", config_map("a", "1"), config_map("b", "7"), config_map("d", "8")),
        ],
        [[event("MODIFIED", "c", "4"), event("DELETED", "a", "5"), event("ADDED", "a", "1"), EXPIRED_EVENT]],
    )
    subscriber = Subscriber()
    async with following(server, subscriber) as (copy, settle):
        await settle(4)
        assert subscriber.seen == [
            (None, "a1"), (None, "b2"), (None, "c3"),
            ("c3", "c4"), ("a1", None), (None, "a1"),
            ("c4", None), ("b2", "b7"), (None, "d8"),
        ]  # fmt: skip
        assert known(copy) == ["a1", "b7", "d8"]


RECREATED = [("a1", None), (None, "a3")]


@pytest.mark.parametrize(
    ("lists", "changes"),
    [
        pytest.param([], [event("MODIFIED", "a", "3", "another")], id="an event"),
        pytest.param([("3", config_map("a", "3", "another"))], [EXPIRED_EVENT], id="a list"),
    ],
)
async def test_a_recreated_object_is_a_deletion_and_an_addition(lists, changes):
    """Subscribers that keep something for a UID would otherwise keep it for ever."""
    server = Server([("1", config_map("a", "1")), *lists], [changes])
    subscriber = Subscriber()
    async with following(server, subscriber) as (copy, settle):
        await settle(4 if lists else 3)
        assert subscriber.seen == [(None, "a1"), *RECREATED]
        assert known(copy) == ["a3"]


@pytest.mark.parametrize(
    ("failure", "repeated"),
    [
        pytest.param(RECREATED[0], [("a1", None), ("a3", "a3")], id="the deletion"),
        pytest.param(RECREATED[1], [("a3", "a3")], id="the addition"),
    ],
)
async def test_a_failed_change_of_a_recreated_object_is_repeated(failure, repeated):
    """After a repeated deletion the new object follows again: a subscriber may know both by their name."""
    new = ("3", config_map("a", "3", "another"))
    server = Server([("1", config_map("a", "1")), new, new], [[EXPIRED_EVENT]])
    subscriber = Subscriber([failure])
    async with following(server, subscriber, attempts=2) as (copy, settle):
        await settle(5)
        assert subscriber.seen == [(None, "a1"), *RECREATED, *repeated]
        assert subscriber.known() == known(copy) == ["a3"]


async def test_a_failure_for_one_object_does_not_delay_others():
    """All subscribers get all objects of a list, although one of them fails for one object in every attempt."""
    objects = [config_map(name, "1") for name in "abc"]
    server = Server([("1", *objects)] * 3, [])
    failing, other = Subscriber([(None, "a1"), ("a1", "a1")]), Subscriber()
    async with following(server, failing, other, attempts=3) as (copy, settle):
        await settle(4)
        assert failing.seen == other.seen == [(None, "a1"), (None, "b1"), (None, "c1"), ("a1", "a1"), ("a1", "a1")]
        assert known(copy) == ["a1", "b1", "c1"]


async def test_an_informer_syncs_although_a_subscriber_fails():
    """Its copy is complete; otherwise one object would keep all controllers from starting."""
    server = Server([("1", config_map("a", "1"))], [])
    copy = informer.Informer(api.Client(server), configmaps.RESOURCE, testing.FakeClock())
    copy.subscribe(Subscriber([(None, "a1")]))
    with pytest.raises(RuntimeError, match="a subscriber failed"):
        await copy.run()
    assert copy.synced.is_set()


@pytest.mark.parametrize(
    "failure",
    [
        pytest.param((None, "a1"), id="an object that was listed"),
        pytest.param(("a1", "a2"), id="a changed object"),
        pytest.param((None, "b3"), id="a new object"),
        pytest.param(("a2", None), id="a deleted object"),
        pytest.param(("c1", None), id="an object that was not listed again"),
    ],
)
async def test_no_change_is_lost_when_a_subscriber_fails(failure):
    """The informer runs again, and all subscribers get the change that one of them failed for."""
    first = ("1", config_map("a", "1"), config_map("c", "1"))
    changes = [event("MODIFIED", "a", "2"), event("ADDED", "b", "3"), event("DELETED", "a", "4")]
    last = ("5", config_map("b", "3"))
    earlier, failing, later = Subscriber(), Subscriber([failure]), Subscriber()
    server = Server([first, last, last], [[*changes, EXPIRED_EVENT]])
    async with following(server, earlier, failing, later, attempts=2) as (copy, settle):
        await settle(4 if failure == (None, "a1") else 5 if failure == ("c1", None) else 4)
        assert known(copy) == ["b3"]
        assert [subscriber.known() for subscriber in (earlier, failing, later)] == [["b3"]] * 3
