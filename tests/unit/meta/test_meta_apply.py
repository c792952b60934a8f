"""managedFields: who owns what after a write."""

from __future__ import annotations

from certplane.meta import apply, shape
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
