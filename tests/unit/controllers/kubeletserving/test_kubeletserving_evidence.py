"""The sources of evidence: Node objects, the inventory, DNS."""

from __future__ import annotations

import asyncio
import socket
import threading

import pytest

from certplane import errors, reload, testing
from certplane.clock import SystemClock
from certplane.controllers.approving.kubeletserving import evidence
from tests import kubelets
from tests.unit.controllers.kubeletserving import nodeinformer


def sans(*texts):
    return frozenset(map(evidence.parse_san, texts))


# --- Node objects -------------------------------------------------------------------------------------------------


def test_claims_are_what_a_kubelet_requests():
    """A hostname may be an address; entries whose value does not fit their type are ignored."""
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
    assert evidence.requested_sans(node) == sans("n1", "10.0.0.9", "10.0.0.1", "2001:db8::1", "10.0.0.2", "n1.internal")


def test_claims_of_two_nodes():
    """A name is disputed while both claim it; a node always claims its own name."""
    informer = nodeinformer.NodeInformer(
        kubelets.node("n1", ("InternalIP", "10.0.0.1")), kubelets.node("n2", ("InternalIP", "10.0.0.1"))
    )
    claims = evidence.NodeClaims(informer)
    assert claims.update("n1") == sans("n1", "10.0.0.1")
    assert claims.update("n2") == sans("n2", "10.0.0.1")
    assert claims.update("n2") == frozenset()
    shared = evidence.parse_san("10.0.0.1")
    assert (claims.other_claimants(shared, "n1"), claims.other_claimants(shared, "n2")) == (("n2",), ("n1",))
    assert claims.other_claimants("n2", "n1") == ("n2",)
    assert claims.other_claimants("n1", "n1") == ()
    informer.put(kubelets.node("n2", ("InternalIP", "10.0.0.2")))
    assert claims.update("n2") == sans("10.0.0.1", "10.0.0.2")
    assert claims.other_claimants(shared, "n1") == ()
    del informer.objects["n2"]
    assert claims.update("n2") == sans("n2", "10.0.0.2")
    assert claims.other_claimants("n2", "n1") == ()
    assert (claims.of_node("n1"), claims.of_node("n2")) == (sans("10.0.0.1"), None)


# --- the inventory ------------------------------------------------------------------------------------------------

VALID = b"n1: [N1, n1.example.com, 10.0.0.1]\nn2: [10.0.0.2, fd00::2]\nn3: []\n"


def test_a_valid_inventory():
    """Each name and address belongs to one node."""
    inventory = evidence.parse_inventory(VALID)
    assert inventory.entries["n1"] == sans("n1", "n1.example.com", "10.0.0.1")
    assert inventory.owners[evidence.parse_san("fd00::2")] == "n2"
    assert inventory.entries["n3"] == frozenset()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (b"- n1", "must be a mapping"),
        (b"", "must be a mapping"),
        (b"n1: [", "yaml"),
        (b"\xff", "yaml"),
        (b"n1: 10.0.0.1", "n1: must be a list"),
        (b"n1: [10]", "n1: 10 is not a string"),
        (b"n1: ['*.example.com']", "is neither an IP address nor a DNS name"),
        (b"n1: [10.0.0.0/8]", "is neither an IP address nor a DNS name"),
        (b"N1: [n1]", "N1 is not a valid node name"),
        (b"n1: [10.0.0.1]\nn2: ['::ffff:10.0.0.1']", "10.0.0.1 is assigned to both n1 and n2"),
        (b"n1: [a]\nn1: [b]", "n1"),
        (b"a: &a [b, *a]", ""),
    ],
)
def test_an_invalid_inventory_is_rejected(text, problem):
    """As a whole: half of it could assign a name to the wrong node."""
    with pytest.raises(errors.SetupError) as caught:
        evidence.parse_inventory(text)
    assert problem in caught.value.message


def test_the_previous_inventory_is_kept(tmp_path, caplog):
    """A file that becomes invalid or disappears is logged once, and changes nothing; a corrected one is used."""
    path = tmp_path / "nodes.yaml"
    path.write_bytes(VALID)
    file = evidence.InventoryFile(path, testing.FakeClock())
    assert (file.inventory.owners[evidence.parse_san("10.0.0.1")], file.problem) == ("n1", "")
    path.write_bytes(b"n1: nonsense")
    assert (file.reload(), file.reload(), file.reload()) == (False, False, False)
    assert file.inventory.owners[evidence.parse_san("10.0.0.1")] == "n1"
    assert file.problem == "n1: must be a list of names and addresses"
    assert [record.message for record in caplog.records] == ["inventory reload failed; keeping the previous inventory"]
    path.unlink()
    assert not file.reload()
    assert "No such file" in file.problem
    path.write_bytes(VALID)
    assert (file.reload(), file.problem) == (False, "")
    path.write_bytes(b"n1: [10.0.0.3]")
    assert (file.reload(), file.reload(), file.reload()) == (False, True, False)
    assert list(file.inventory.owners) == [evidence.parse_san("10.0.0.3")]


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.mkdir(), lambda path: path.write_bytes(b"a: b")])
def test_an_inventory_that_was_never_valid_is_a_problem(tmp_path, make):
    """It is not taken for an empty one."""
    make(tmp_path / "nodes.yaml")
    file = evidence.InventoryFile(tmp_path / "nodes.yaml", testing.FakeClock())
    assert file.inventory is None
    assert file.problem


def test_the_size_of_the_file_is_limited(tmp_path):
    """It is read into memory."""
    (tmp_path / "nodes.yaml").write_bytes(b"#" * (8 << 20) + b"\n")
    assert "larger than" in evidence.InventoryFile(tmp_path / "nodes.yaml", testing.FakeClock()).problem


def test_an_inventory_that_is_being_written_is_not_used(tmp_path):
    """Its content differs from check to check. On SIGHUP it is used at once."""
    path = tmp_path / "nodes.yaml"
    path.write_bytes(VALID)
    file = evidence.InventoryFile(path, testing.FakeClock())
    for content in (b"n1: [a]", b"n1: [a, b]"):
        path.write_bytes(content)
        assert not file.reload()
    assert file.inventory == evidence.parse_inventory(VALID)
    path.write_bytes(b"n1: [c]")
    assert file.reload(is_requested=True)
    assert file.inventory == evidence.parse_inventory(b"n1: [c]")


async def test_a_changed_inventory_is_reported(tmp_path):
    """The callback runs once for each change of the content, after two checks."""
    path, clock, changes = tmp_path / "nodes.yaml", testing.FakeClock(), []
    path.write_bytes(VALID)
    task = asyncio.ensure_future(evidence.InventoryFile(path, clock).run(lambda: changes.append(clock.monotonic())))
    path.write_bytes(b"n1: [10.0.0.9]")
    for _ in range(4):
        await _until_asleep(clock)
        await clock.advance(reload.INTERVAL_SECONDS)
    await _until_asleep(clock)
    task.cancel()
    assert changes == [2 * reload.INTERVAL_SECONDS]


async def _until_asleep(clock):
    for _ in range(100_000):
        if clock.sleepers:
            return
        await asyncio.sleep(0)
    raise AssertionError("it never slept")


# --- DNS ----------------------------------------------------------------------------------------------------------


async def test_answers_are_normalized():
    """Sorted, without duplicates, in lower case."""
    table = kubelets.TableResolver({"a.b": ["10.0.0.2", "::ffff:10.0.0.1", "10.0.0.1"], "10.0.0.1": ["B.c.", "a.b"]})
    answer = await evidence.resolve(table, "a.b")
    assert answer == evidence.DNSAnswer((evidence.parse_san("10.0.0.1"), evidence.parse_san("10.0.0.2")))
    assert await evidence.resolve(table, evidence.parse_san("10.0.0.1")) == evidence.DNSAnswer(("a.b", "b.c"))


async def test_a_failed_lookup_is_not_an_empty_answer():
    """It has a problem instead."""
    table = kubelets.TableResolver({"a.b": evidence.ResolutionFailed("servers are down")})
    assert await evidence.resolve(table, "a.b") == evidence.DNSAnswer(problem="servers are down")
    assert (await evidence.resolve(None, "a.b")).problem


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
async def test_the_system_resolver_tells_negative_answers_from_failures(monkeypatch, error, expected):
    """A name that does not exist has no addresses; a server that does not answer is a failure."""
    monkeypatch.setattr(socket, "getaddrinfo", _raising(error))
    assert await _answer("a.b") == expected


@pytest.mark.parametrize(
    ("error", "expected"),
    [(socket.herror(1, "unknown"), ()), (socket.herror(4, "no data"), ()), (socket.herror(2, "again"), "again")],
)
async def test_negative_answers_and_failures_for_addresses(monkeypatch, error, expected):
    """By the numbers of netdb.h."""
    monkeypatch.setattr(socket, "gethostbyaddr", _raising(error))
    assert await _answer(evidence.parse_san("10.0.0.1")) == expected


async def _answer(question):
    resolver = evidence.SystemResolver(SystemClock(), 60.0)
    try:
        answer = await evidence.resolve(resolver, question)
    finally:
        resolver.close()
    return answer.problem or answer.records


async def test_lookups_use_absolute_names(monkeypatch):
    """The search list of a pod would add the domains of Services."""
    lookups = []

    def answer(name, *_, **__):
        lookups.append(name)
        return [(socket.AF_INET, 1, 6, "", ("10.0.0.1", 0)), (socket.AF_INET6, 1, 6, "", ("fe80::1%eth0", 0, 0, 2))]

    monkeypatch.setattr(socket, "getaddrinfo", answer)
    assert await _answer("a.b") == (evidence.parse_san("10.0.0.1"), evidence.parse_san("fe80::1"))
    assert lookups == ["a.b."]


async def test_all_names_of_an_address_are_returned(monkeypatch):
    """The first and the others."""
    monkeypatch.setattr(socket, "gethostbyaddr", lambda _: ("a.b", ["c.d"], ["10.0.0.1"]))
    assert await _answer(evidence.parse_san("10.0.0.1")) == ("a.b", "c.d")


async def test_a_lookup_times_out(monkeypatch):
    """It is a failure then; the next lookup is not affected."""
    clock, release = testing.FakeClock(), threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: release.wait(60) and [])
    resolver = evidence.SystemResolver(clock, 5.0)
    lookup = asyncio.ensure_future(evidence.resolve(resolver, "a.b"))
    await testing.settle()
    await clock.advance(5)
    assert await lookup == evidence.DNSAnswer(problem="no answer within 5s")
    release.set()
    assert await evidence.resolve(resolver, "c.d") == evidence.DNSAnswer()
    resolver.close()
