"""Where the evidence about names comes from: Node objects, the inventory, DNS."""

from __future__ import annotations

import asyncio
import socket
import threading

import pytest

from certplane import clock as clocks
from certplane import errors, testing
from certplane.controllers import proofs
from tests import kubelets


class Machines:
    """Node objects, as an informer has them."""

    def __init__(self, *found):
        self.objects = {each.metadata.name: each for each in found}

    def get(self, name):
        return self.objects.get(name)

    def put(self, node):
        self.objects[node.metadata.name] = node


def sans(*texts):
    return frozenset(map(proofs.san, texts))


# --- Node objects -------------------------------------------------------------------------------------------------


def test_claims_are_what_a_kubelet_would_ask_for():
    """A hostname may be an address; an address is no name, and a name no address; the rest is not looked at."""
    node = kubelets.node(
        "n1",
        ("Hostname", "N1"),
        ("Hostname", "10.0.0.9"),
        ("InternalIP", "10.0.0.1"),
        ("ExternalIP", "2001:DB8::1"),
        ("InternalIP", "::ffff:10.0.0.2"),
        ("InternalIP", "fe80::1%eth0"),
        ("InternalIP", "nonsense"),
        ("InternalDNS", "n1.internal"),
        ("ExternalDNS", "10.0.0.3"),
        ("ExternalDNS", ""),
        ("Other", "other.example.com"),
    )
    assert proofs.claims_of(node) == sans("n1", "10.0.0.9", "10.0.0.1", "2001:db8::1", "10.0.0.2", "n1.internal")


def test_what_two_nodes_claim_is_known_of_both():
    """For as long as both claim it; and the name of a node is claimed by it in any case."""
    machines = Machines(
        kubelets.node("n1", ("InternalIP", "10.0.0.1")), kubelets.node("n2", ("InternalIP", "10.0.0.1"))
    )
    claims = proofs.Claims(machines)
    assert claims.changed("n1") == sans("n1", "10.0.0.1")
    assert claims.changed("n2") == sans("n2", "10.0.0.1")
    assert claims.changed("n2") == frozenset()
    shared = proofs.san("10.0.0.1")
    assert (claims.others(shared, "n1"), claims.others(shared, "n2")) == (("n2",), ("n1",))
    assert claims.others("n2", "n1") == ("n2",)
    assert claims.others("n1", "n1") == ()
    machines.put(kubelets.node("n2", ("InternalIP", "10.0.0.2")))
    assert claims.changed("n2") == sans("10.0.0.1", "10.0.0.2")
    assert claims.others(shared, "n1") == ()
    del machines.objects["n2"]
    assert claims.changed("n2") == sans("n2", "10.0.0.2")
    assert claims.others("n2", "n1") == ()
    assert (claims.of("n1"), claims.of("n2")) == (sans("10.0.0.1"), None)


# --- the inventory ------------------------------------------------------------------------------------------------

GOOD = b"n1: [N1, n1.example.com, 10.0.0.1]\nn2: [10.0.0.2, fd00::2]\nn3: []\n"


def test_an_inventory_gives_names_to_nodes():
    """Each name and address belongs to one."""
    found = proofs.read_listing(GOOD)
    assert found.entries["n1"] == sans("n1", "n1.example.com", "10.0.0.1")
    assert found.owners[proofs.san("fd00::2")] == "n2"
    assert found.entries["n3"] == frozenset()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (b"- n1", "no mapping"),
        (b"", "no mapping"),
        (b"n1: [", "yaml"),
        (b"\xff", "yaml"),
        (b"n1: 10.0.0.1", "n1 has no list"),
        (b"n1: [10]", "n1: 10 is no text"),
        (b"n1: ['*.example.com']", "is neither an address nor a DNS name"),
        (b"n1: [10.0.0.0/8]", "is neither an address nor a DNS name"),
        (b"N1: [n1]", "N1 cannot be the name of a node"),
        (b"n1: [10.0.0.1]\nn2: ['::ffff:10.0.0.1']", "10.0.0.1 is given to both n1 and n2"),
        (b"n1: [a]\nn1: [b]", "n1"),
        (b"a: &a [b, *a]", ""),
    ],
)
def test_an_inventory_that_makes_no_sense_is_refused(text, problem):
    """As a whole: half of it could give a name to the wrong node."""
    with pytest.raises(errors.SetupError) as caught:
        proofs.read_listing(text)
    assert problem in caught.value.message


def test_the_last_good_inventory_counts(tmp_path, caplog):
    """A file that becomes bad or goes away is told once, and changes nothing; one that is mended is believed."""
    path = tmp_path / "nodes.yaml"
    path.write_bytes(GOOD)
    made = proofs.Inventory(path, testing.FakeClock())
    assert (made.listing.owners[proofs.san("10.0.0.1")], made.problem) == ("n1", "")
    path.write_bytes(b"n1: nonsense")
    assert (made.look(), made.look()) == (False, False)
    assert made.listing.owners[proofs.san("10.0.0.1")] == "n1"
    assert made.problem == "n1 has no list of names and addresses"
    assert [each.message for each in caplog.records] == ["inventory cannot be read"]
    path.unlink()
    assert not made.look()
    assert "No such file" in made.problem
    path.write_bytes(GOOD)
    assert (made.look(), made.problem) == (False, "")
    path.write_bytes(b"n1: [10.0.0.3]")
    assert made.look()
    assert list(made.listing.owners) == [proofs.san("10.0.0.3")]


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.mkdir(), lambda path: path.write_bytes(b"a: b")])
def test_an_inventory_that_was_never_good_lists_nothing(tmp_path, make):
    """And says so, instead of being taken for empty."""
    make(tmp_path / "nodes.yaml")
    made = proofs.Inventory(tmp_path / "nodes.yaml", testing.FakeClock())
    assert made.listing is None
    assert made.problem


def test_a_file_without_an_end_is_not_read(tmp_path):
    """It is read into memory, so it must not be as long as it likes."""
    (tmp_path / "nodes.yaml").write_bytes(b"#" * (8 << 20) + b"\n")
    assert "has more than" in proofs.Inventory(tmp_path / "nodes.yaml", testing.FakeClock()).problem


async def test_an_inventory_is_followed(tmp_path):
    """Whoever waits for it is told when it says something else, and not otherwise."""
    path, clock, told = tmp_path / "nodes.yaml", testing.FakeClock(), []
    path.write_bytes(GOOD)
    task = asyncio.ensure_future(proofs.Inventory(path, clock).run(lambda: told.append(clock.monotonic())))
    path.write_bytes(b"n1: [10.0.0.9]")
    for _ in range(3):
        await _until_asleep(clock)
        await clock.advance(10)
    await _until_asleep(clock)
    task.cancel()
    assert told == [10.0]


async def _until_asleep(clock):
    for _ in range(100_000):
        if clock.sleepers:
            return
        await asyncio.sleep(0)
    raise AssertionError("it never slept")


# --- DNS ----------------------------------------------------------------------------------------------------------


async def test_answers_are_brought_into_one_form():
    """In order, without repetitions, as names and addresses are compared."""
    table = kubelets.Table({"a.b": ["10.0.0.2", "::ffff:10.0.0.1", "10.0.0.1"], "10.0.0.1": ["B.c.", "a.b"]})
    found = await proofs.ask(table, "a.b")
    assert found == proofs.Answer((proofs.san("10.0.0.1"), proofs.san("10.0.0.2")))
    assert await proofs.ask(table, proofs.san("10.0.0.1")) == proofs.Answer(("a.b", "b.c"))


async def test_no_answer_is_a_problem_and_not_an_empty_answer():
    """What DNS does not say is not what it denies."""
    table = kubelets.Table({"a.b": proofs.Unanswered("servers are down")})
    assert await proofs.ask(table, "a.b") == proofs.Answer(problem="servers are down")
    assert (await proofs.ask(None, "a.b")).problem


def _raising(error):
    def fail(*_, **__):
        raise error

    return fail


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (socket.gaierror(socket.EAI_NONAME, "unknown"), ()),
        (socket.gaierror(socket.EAI_AGAIN, "try again"), "try again"),
        (socket.gaierror(socket.EAI_FAIL, "failure"), "failure"),
        (OSError(5, "broken"), "broken"),
    ],
)
async def test_the_machines_resolver_tells_nothing_from_no_answer(monkeypatch, error, expected):
    """A name that does not exist has no addresses; a server that is silent has said nothing."""
    monkeypatch.setattr(socket, "getaddrinfo", _raising(error))
    assert await _answer("a.b") == expected


@pytest.mark.parametrize(
    ("error", "expected"),
    [(socket.herror(1, "unknown"), ()), (socket.herror(4, "no data"), ()), (socket.herror(2, "again"), "again")],
)
async def test_and_so_it_does_for_addresses(monkeypatch, error, expected):
    """By the numbers of netdb.h."""
    monkeypatch.setattr(socket, "gethostbyaddr", _raising(error))
    assert await _answer(proofs.san("10.0.0.1")) == expected


async def _answer(question):
    resolver = proofs.SystemResolver(clocks.SystemClock(), 60.0)
    try:
        found = await proofs.ask(resolver, question)
    finally:
        resolver.close()
    return found.problem or found.found


async def test_names_are_asked_for_absolutely(monkeypatch):
    """The search list of a pod would lead to whoever has a Service of that name."""
    asked = []

    def answer(name, *_, **__):
        asked.append(name)
        return [(socket.AF_INET, 1, 6, "", ("10.0.0.1", 0)), (socket.AF_INET6, 1, 6, "", ("fe80::1%eth0", 0, 0, 2))]

    monkeypatch.setattr(socket, "getaddrinfo", answer)
    assert await _answer("a.b") == (proofs.san("10.0.0.1"), proofs.san("fe80::1"))
    assert asked == ["a.b."]


async def test_all_names_of_an_address_are_told(monkeypatch):
    """The first and the others."""
    monkeypatch.setattr(socket, "gethostbyaddr", lambda _: ("a.b", ["c.d"], ["10.0.0.1"]))
    assert await _answer(proofs.san("10.0.0.1")) == ("a.b", "c.d")


async def test_dns_that_is_silent_is_waited_for_so_long(monkeypatch):
    """And then it has not answered; the next question is asked all the same."""
    clock, release = testing.FakeClock(), threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: release.wait(60) and [])
    resolver = proofs.SystemResolver(clock, 5.0)
    asked = asyncio.ensure_future(proofs.ask(resolver, "a.b"))
    await testing.settle()
    await clock.advance(5)
    assert await asked == proofs.Answer(problem="no answer within 5s")
    release.set()
    assert await proofs.ask(resolver, "c.d") == proofs.Answer()
    resolver.close()
