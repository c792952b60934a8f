"""Caches with a limit in bytes: what they keep, what they forget, and that what they keep weighs what they think."""

from __future__ import annotations

import gc
import tracemalloc

import pytest

from certplane import boundedcache
from certplane.access import hints
from certplane.meta import protobuf, selectors
from certplane.server import audit, negotiation
from certplane.x509 import candidate, csr, der, profiles, template, wishes
from tests.unit.x509 import material

ENTRY = boundedcache.ENTRY_BYTES


def test_what_is_put_in_is_found_again():
    """A value of None counts as one."""
    cache = boundedcache.BoundedCache()
    cache.put("a", None, 1)

    assert (cache.get("a", "nothing"), cache.get("b", "nothing")) == (None, "nothing")


def test_the_limit_holds_however_many_come():
    """Entries and keys both count; the newest is there."""
    cache = boundedcache.BoundedCache(limit=100 * ENTRY, expansion=1)
    for number in range(10_000):
        cache.put(number, number, ENTRY)

    assert 20 <= len(cache) <= 50
    assert cache.get(9_999) == 9_999


def test_what_is_asked_for_again_stays():
    """A flood of other keys does not push out what is in use."""
    cache = boundedcache.BoundedCache(limit=100 * ENTRY)
    cache.put("used", 1, 0)
    for number in range(1_000):
        cache.put(number, number, 0)
        assert cache.get("used") == 1


def test_one_text_does_not_push_out_all_others():
    """What weighs a large part of the limit is not remembered."""
    cache = boundedcache.BoundedCache(limit=100 * ENTRY, expansion=1)
    cache.put("large", 1, 10 * ENTRY)

    assert cache.get("large") is None


def test_an_entry_that_is_put_in_again_weighs_once():
    """The same key, another value."""
    cache = boundedcache.BoundedCache(limit=100 * ENTRY)
    cache.put("other", 0, 0)
    for number in range(1_000):
        cache.put("same", number, 0)

    assert (cache.get("same"), cache.get("other"), len(cache)) == (999, 0, 2)


def test_a_function_is_called_once_for_the_same_arguments():
    """Results are remembered, errors are not; so are arguments in tuples by their bytes."""
    calls = []

    @boundedcache.remember(limit=100 * ENTRY, expansion=1)
    def joined(text, more):
        calls.append(text)
        return text + "".join(more)

    assert [joined("a", ("b",)), joined("a", ("b",))] == ["ab", "ab"]
    assert calls == ["a"]
    joined("c", ("d" * 10 * ENTRY,))
    joined("c", ("d" * 10 * ENTRY,))
    assert calls == ["a", "c", "c"]
    with pytest.raises(TypeError):
        joined("e", (1,))


SIZE = 1500
#: For each remembered function, what makes the most of its bytes: a text, and a piece with how often it may be there.
WORST = [
    (negotiation.clauses, "*{},a/b;a=b", ",*", 20),
    (negotiation.clauses, "a/b{}", ";é=é", 8),
    (selectors.parse_labels, "a{}", ",b", 90),
    (selectors.parse_labels, "a{}", ",!a", 90),
    (selectors.parse_labels, "a in (a{})", ",a", SIZE),
    (selectors.parse_fields, "a=b{}", ",é=é", 90),
    (selectors.parse_fields, "a=b{}", ",a=", 90),
    (profiles._matcher, "{}", "*", SIZE),
    (profiles._matcher, "a{}", "(*", SIZE),
    (template.oid, "1.2{}", ".1", SIZE),
]


@pytest.mark.parametrize(("function", "frame", "piece", "most"), WORST)
def test_results_weigh_no_more_than_is_thought(function, frame, piece, most):
    """For each byte of the argument no more than EXPANSION bytes are kept."""
    texts = [frame.format(piece * (most + number)) for number in range(1, 9)]

    assert _bytes_kept(function.__wrapped__, texts) <= boundedcache.EXPANSION


@pytest.mark.parametrize("function", [candidate._purposes, der._dotted])
def test_results_of_bytes_weigh_no_more_than_is_thought(function):
    """The same where the argument is DER."""
    content = b"\x2a" + b"\x03" * 120
    if function is candidate._purposes:
        content = der.encode(0x30, b"\x06\x01\x2a" * (SIZE // 3))

    assert _bytes_kept(function.__wrapped__, [content]) <= boundedcache.EXPANSION


@pytest.mark.parametrize("name", [b"\x82\x01a", b"\x87\x04\x01\x02\x03\x04", b"\x81\x02ab", b"\x86\x02/a"])
def test_requests_weigh_no_more_than_is_thought(name):
    """Thousands of shortest names, read and asked about."""
    names = template.Extension(template.SUBJECT_ALT_NAME, False, der.encode(0x30, name * (SIZE * 4 // len(name))))
    text = material.odd_request(attributes=material.requested(names))

    assert _bytes_kept(_read, [text]) <= csr.EXPANSION


def test_requests_with_many_attributes_weigh_no_more_than_is_thought():
    """Each of the shortest extensions and attributes becomes several objects."""
    pair = der.encode(0x31, der.encode(0x30, b"\x06\x03\x55\x04\x0a" + b"\x0c\x02\xc3\xa9"))
    extensions = [template.Extension(f"1.2.{number}", False, b"") for number in range(SIZE)]
    subject = der.encode(0x30, pair * SIZE)
    text = material.odd_request(subject, material.requested(*extensions))

    assert _bytes_kept(_read, [text]) <= csr.EXPANSION


def _read(text):
    request = csr.parse.__wrapped__(text)
    return request, wishes.read.__wrapped__(request)


def _bytes_kept(function, arguments):
    """Bytes that the results take, for each byte of the arguments."""
    function(arguments[0])
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        kept = [function(argument) for argument in arguments]
        gc.collect()
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    del kept
    return taken / sum(map(len, arguments))


def test_all_that_strangers_text_reaches_is_remembered_like_this():
    """Not by a cache of another make: these were once."""
    for function in (
        negotiation.negotiate, negotiation.check_route, audit._sources, hints._alike, hints._nearest,
        protobuf.message_name, protobuf._descriptor, csr.parse, wishes.read, candidate._read_extension,
    ):  # fmt: skip
        assert not hasattr(function, "cache_info")
