"""managedFields: who owns what after a write."""

from __future__ import annotations

from certplane.meta import apply, fieldsets, shape
from certplane.resources import namespaces

NOW = "2026-01-01T00:00:00Z"


def writer(manager, subresource="", ignored=()):
    return apply.Writer(manager=manager, api_version="v1", subresource=subresource, ignored=ignored, now=NOW)


def document(managed, **parts):
    return {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": "n", "managedFields": managed},
        **parts,
    }


def owners(managed):
    return {each["manager"]: each["fieldsV1"] for each in managed}


def test_what_a_writer_cannot_change_stays_with_its_owner():
    """Leaving out a status through a door that does not lead to it takes the status from nobody; through its own door
    it does.
    """
    of = shape.of(namespaces.Namespace)
    made = apply.update(None, document([], spec={"finalizers": ["kubernetes"]}), of, writer("maker"))
    told = document(made, spec={"finalizers": ["kubernetes"]}, status={"phase": "Active"})
    both = apply.update(document(made, spec=told["spec"]), told, of, writer("teller", "status", ("spec",)))
    assert owners(both) == {"maker": {"f:spec": {"f:finalizers": {}}}, "teller": {"f:status": {".": {}, "f:phase": {}}}}

    silent = document(both, spec={"finalizers": ["kubernetes"]})
    live = document(both, spec=told["spec"], status=told["status"])
    finalized = apply.update(live, silent, of, writer("other", "finalize", ("status",)))
    assert owners(finalized) == owners(both)
    taken = apply.update(live, silent, of, writer("other", "status", ("spec",)))
    assert "teller" not in owners(taken)


def test_who_wrote_under_another_group_is_forgotten():
    """Its fields have other names there, and cannot be told in this form."""
    of = shape.of(namespaces.Namespace)
    elsewhere = apply.Writer(manager="elsewhere", api_version="example.com/v1", now=NOW)
    spec = {"finalizers": ["kubernetes"]}
    made = apply.update(None, document([], spec=spec), of, elsewhere)
    live = document(made, spec=spec)
    assert owners(apply.update(live, live, of, writer("here"))) == {}
    changed = document(made, spec=spec, status={"phase": "Active"})
    assert owners(apply.update(live, changed, of, writer("here"))) == {
        "here": {"f:status": {".": {}, "f:phase": {}}},
    }
    config = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "n"}, "spec": {"finalizers": ["other"]}}
    applied = apply.apply(live, config, of, writer("here"), force=False)
    assert owners(applied["metadata"]["managedFields"]) == {"here": {"f:spec": {"f:finalizers": {}}}}


def test_of_many_updaters_the_oldest_share_one_entry():
    """However many a client sends: what they own is put together once."""
    sent = [
        {
            "manager": f"m{number:04}",
            "operation": "Update",
            "apiVersion": "v1",
            "time": f"2026-01-01T00:{number // 60:02}:{number % 60:02}Z",
            "fieldsType": "FieldsV1",
            "fieldsV1": {"f:metadata": {"f:labels": {f"f:k{number}": {}}}},
        }
        for number in range(1_000)
    ]
    kept = apply.update(document([]), document(sent), shape.of(namespaces.Namespace), writer("w"))
    assert [each["manager"] for each in kept] == ["ancient-changes", *(f"m{number:04}" for number in range(991, 1_000))]
    (shared,) = [each for each in kept if each["manager"] == "ancient-changes"]
    assert len(shared["fieldsV1"]["f:metadata"]["f:labels"]) == 991


def test_paths_have_an_end():
    """Fields of no type here are so deep; each step on the way is kept for each of them."""
    deep = {}
    for _ in range(100):
        deep = {"f:a": deep}
    entry = {"manager": "m", "operation": "Update", "apiVersion": "v1", "fieldsType": "FieldsV1", "fieldsV1": deep}
    assert apply.update(document([]), document([entry]), shape.of(namespaces.Namespace), writer("w")) == []


class _Incomparable(str):
    """A step of a path that is not compared by itself."""

    __slots__ = ()
    __hash__ = str.__hash__

    def __eq__(self, other):
        raise AssertionError

    def __lt__(self, other):
        raise AssertionError


def test_many_fields_are_sorted_by_one_text_each():
    """Names, keys, values, positions; what holds something before what is in it. To compare paths step by step holds up
    everybody else for seconds where there are hundreds of thousands.
    """
    wanted = [
        ("f:a",), ("f:a", "f:b"), ("f:a", 'k:{"uid":"1"}'), ("f:a", "v:1"), ("f:a", "i:0"), ("f:a-b",), ("f:ab",),
    ]  # fmt: skip
    paths = [tuple(map(_Incomparable, path)) for path in reversed(wanted)]
    assert [tuple(map(str, path)) for path in fieldsets.in_order(paths)] == wanted
