"""Caches with a limit in bytes: hits, eviction, and whether entries take no more memory than they are charged for."""

from __future__ import annotations

import gc
import tracemalloc

import pytest

from certplane import boundedcache
from certplane.access import csrwarnings
from certplane.golang import asn1
from certplane.meta import selectors
from certplane.server import audit, negotiation
from certplane.wire import protobuf
from certplane.x509 import oids
from certplane.x509.issuance import profiles
from certplane.x509.pkcs10 import certificaterequest, requestedextensions
from certplane.x509.tbs import tbscertificate, template
from tests.unit.x509 import material

ENTRY = boundedcache.ENTRY_BYTES


def test_a_stored_value_is_found():
    """None is a value as well."""
    cache = boundedcache.BoundedCache()
    cache.put("a", None, 1)

    assert (cache.get("a", "nothing"), cache.get("b", "nothing")) == (None, "nothing")


def test_the_limit_holds_for_any_number_of_entries():
    """Entries and keys are charged; the newest entry is found."""
    cache = boundedcache.BoundedCache(limit=100 * ENTRY, expansion=1)
    for number in range(10_000):
        cache.put(number, number, ENTRY)

    assert 20 <= len(cache) <= 50
    assert cache.get(9_999) == 9_999


def test_entries_in_use_stay():
    """A flood of other keys does not evict an entry that is hit."""
    cache = boundedcache.BoundedCache(limit=100 * ENTRY)
    cache.put("used", 1, 0)
    for number in range(1_000):
        cache.put(number, number, 0)
        assert cache.get("used") == 1


def test_a_very_large_entry_is_not_stored():
    """It would evict all others."""
    cache = boundedcache.BoundedCache(limit=100 * ENTRY, expansion=1)
    cache.put("large", 1, 10 * ENTRY)

    assert cache.get("large") is None


def test_a_replaced_entry_is_charged_once():
    """The same key, another value."""
    cache = boundedcache.BoundedCache(limit=100 * ENTRY)
    cache.put("other", 0, 0)
    for number in range(1_000):
        cache.put("same", number, 0)

    assert (cache.get("same"), cache.get("other"), len(cache)) == (999, 0, 2)


def test_a_function_is_called_once_for_the_same_arguments():
    """Results are cached, errors are not. Strings in tuples are charged by their bytes."""
    calls = []

    @boundedcache.memoize(limit=100 * ENTRY, expansion=1)
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
#: For each memoized function its worst input: a text, a repeated piece, and the maximum number of repetitions.
WORST = [
    (negotiation.parse_accept, "*{},a/b;a=b", ",*", 20),
    (negotiation.parse_accept, "a/b{}", ";é=é", 8),
    (selectors.parse_labels, "a{}", ",b", 90),
    (selectors.parse_labels, "a{}", ",!a", 90),
    (selectors.parse_labels, "a in (a{})", ",a", SIZE),
    (selectors.parse_fields, "a=b{}", ",é=é", 90),
    (selectors.parse_fields, "a=b{}", ",a=", 90),
    (profiles._matcher, "{}", "*", SIZE),
    (profiles._matcher, "a{}", "(*", SIZE),
    (template.encode_oid, "1.2{}", ".1", SIZE),
]


@pytest.mark.parametrize(("function", "template_text", "piece", "maximum"), WORST)
def test_results_take_no_more_than_they_are_charged_for(function, template_text, piece, maximum):
    """At most EXPANSION bytes for each byte of the argument."""
    texts = [template_text.format(piece * (maximum + number)) for number in range(1, 9)]

    assert _bytes_kept(function.__wrapped__, texts) <= boundedcache.EXPANSION


@pytest.mark.parametrize("function", [tbscertificate._extended_key_usages, asn1._decode_oid])
def test_results_of_der_take_no_more_than_they_are_charged_for(function):
    """The same for arguments in DER."""
    content = b"\x2a" + b"\x03" * 120
    if function is tbscertificate._extended_key_usages:
        content = asn1.encode(0x30, b"\x06\x01\x2a" * (SIZE // 3))

    assert _bytes_kept(function.__wrapped__, [content]) <= boundedcache.EXPANSION


@pytest.mark.parametrize("name", [b"\x82\x01a", b"\x87\x04\x01\x02\x03\x04", b"\x81\x02ab", b"\x86\x02/a"])
def test_requests_take_no_more_than_they_are_charged_for(name):
    """Thousands of names of minimum length."""
    names = template.Extension(oids.SUBJECT_ALT_NAME, False, asn1.encode(0x30, name * (SIZE * 4 // len(name))))
    text = material.odd_request(attributes=material.requested(names))

    assert _bytes_kept(_read, [text]) <= certificaterequest.EXPANSION


def test_requests_with_many_attributes_take_no_more_than_they_are_charged_for():
    """Each extension and attribute of minimum length becomes several objects."""
    pair = asn1.encode(0x31, asn1.encode(0x30, b"\x06\x03\x55\x04\x0a" + b"\x0c\x02\xc3\xa9"))
    extensions = [template.Extension(f"1.2.{number}", False, b"") for number in range(SIZE)]
    subject = asn1.encode(0x30, pair * SIZE)
    text = material.odd_request(subject, material.requested(*extensions))

    assert _bytes_kept(_read, [text]) <= certificaterequest.EXPANSION


def _read(text):
    request = certificaterequest.parse.__wrapped__(text)
    return request, requestedextensions.read.__wrapped__(request)


def _bytes_kept(function, arguments):
    """Bytes of the results for each byte of the arguments."""
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


def test_parsers_of_untrusted_input_use_no_other_cache():
    """These once used functools.lru_cache, whose entries are not limited in bytes."""
    for function in (
        negotiation.negotiate,
        negotiation.check_media_types,
        audit._sources,
        csrwarnings._similar,
        csrwarnings._most_similar,
        protobuf.message_name,
        protobuf._descriptor,
        certificaterequest.parse,
        certificaterequest.verified,
        requestedextensions.read,
        tbscertificate._parse_extension,
    ):  # fmt: skip assert
        not hasattr(function, "cache_info")
