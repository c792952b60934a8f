"""managedFields: which manager owns which field after a write."""

from __future__ import annotations

from certplane.meta import shapes
from certplane.patch import apply
from certplane.resources import namespaces

NOW = "2026-01-01T00:00:00Z"
NAMESPACE = shapes.shape_of(namespaces.Namespace)
SPEC = {"finalizers": ["kubernetes"]}
STATUS = {"phase": "Active"}


def writer(manager, subresource="", reset_fields=()):
    return apply.FieldManager(
        name=manager, api_version="v1", subresource=subresource, reset_fields=reset_fields, now=NOW
    )


def document(managed_fields, **fields):
    return {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": "n", "managedFields": managed_fields},
        **fields,
    }


def owners(managed_fields):
    return {entry["manager"]: entry["fieldsV1"] for entry in managed_fields}


def test_fields_that_a_writer_cannot_change_keep_their_owners():
    """A write to another subresource that omits the status does not remove its owner; a write to the status subresource
    does.
    """
    created = apply.update(None, document([], spec=SPEC), NAMESPACE, writer("creator"))
    with_status = document(created, spec=SPEC, status=STATUS)
    both = apply.update(document(created, spec=SPEC), with_status, NAMESPACE, writer("reporter", "status", ("spec",)))
    assert owners(both) == {
        "creator": {"f:spec": {"f:finalizers": {}}},
        "reporter": {"f:status": {".": {}, "f:phase": {}}},
    }

    without_status = document(both, spec=SPEC)
    live = document(both, spec=SPEC, status=STATUS)
    finalized = apply.update(live, without_status, NAMESPACE, writer("other", "finalize", ("status",)))
    assert owners(finalized) == owners(both)
    removed = apply.update(live, without_status, NAMESPACE, writer("other", "status", ("spec",)))
    assert "reporter" not in owners(removed)


def test_managers_of_another_group_are_dropped():
    """Their fields cannot be converted to this version."""
    elsewhere = apply.FieldManager(name="elsewhere", api_version="example.com/v1", now=NOW)
    created = apply.update(None, document([], spec=SPEC), NAMESPACE, elsewhere)
    live = document(created, spec=SPEC)
    assert owners(apply.update(live, live, NAMESPACE, writer("here"))) == {}
    changed = document(created, spec=SPEC, status=STATUS)
    assert owners(apply.update(live, changed, NAMESPACE, writer("here"))) == {
        "here": {"f:status": {".": {}, "f:phase": {}}},
    }
    config = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "n"}, "spec": {"finalizers": ["other"]}}
    applied = apply.apply(live, config, NAMESPACE, writer("here"), force=False)
    assert owners(applied["metadata"]["managedFields"]) == {"here": {"f:spec": {"f:finalizers": {}}}}


def test_the_oldest_of_many_updaters_share_one_entry():
    """A client may send any number of entries: their fields are merged in one step."""
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
    entries = apply.update(document([]), document(sent), NAMESPACE, writer("w"))
    managers = [entry["manager"] for entry in entries]
    assert managers == ["ancient-changes", *(f"m{number:04}" for number in range(991, 1_000))]
    (shared,) = [entry for entry in entries if entry["manager"] == "ancient-changes"]
    assert len(shared["fieldsV1"]["f:metadata"]["f:labels"]) == 991


def test_the_depth_of_field_sets_is_limited():
    """No type has fields that deep, and every path holds all its elements."""
    deep = {}
    for _ in range(100):
        deep = {"f:a": deep}
    entry = {"manager": "m", "operation": "Update", "apiVersion": "v1", "fieldsType": "FieldsV1", "fieldsV1": deep}
    assert apply.update(document([]), document([entry]), NAMESPACE, writer("w")) == []
