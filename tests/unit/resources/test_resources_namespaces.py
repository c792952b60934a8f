"""Namespace: validation and deletion."""

from __future__ import annotations

import datetime

from certplane.meta import objects
from certplane.resources import namespaces

NOW = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)


def namespace(phase="Active", finalizers=("kubernetes",), deleted=None):
    return namespaces.Namespace(
        metadata=objects.ObjectMeta(name="team", deletion_timestamp=deleted),
        spec=namespaces.NamespaceSpec(finalizers=list(finalizers)),
        status=namespaces.NamespaceStatus(phase=phase),
    )


def problems(subresource, new):
    validate = namespaces.RESOURCE.subresource(subresource).validate
    return [str(problem) for problem in validate(new, namespace(), NOW)]


UNKNOWN = "name is neither a standard finalizer name nor is it fully qualified"


def test_invalid_finalizers_are_refused():
    """The error has the field on create, and the item in the subresource finalize."""
    new = namespace(finalizers=("kubernetes", "mine"))
    assert [str(problem) for problem in namespaces.RESOURCE.validate(new)] == [
        f'spec.finalizers: Invalid value: "mine": {UNKNOWN}'
    ]
    assert problems("finalize", new) == [f'spec.finalizers[1]: Invalid value: "mine": {UNKNOWN}']


def test_the_phase_must_match_the_deletion_timestamp():
    """With a deletionTimestamp only Terminating is valid, and without one it is not."""
    assert problems("status", namespace("Active")) == []
    assert problems("status", namespace("Terminating")) == [
        "status.Phase: Invalid value: \"Terminating\": may only be 'Active' if `deletionTimestamp` is empty"
    ]
    deleted = "2026-01-01T00:00:00Z"
    assert problems("status", namespace("Terminating", deleted=deleted)) == []
    assert problems("status", namespace("", deleted=deleted)) == [
        "status.Phase: Invalid value: \"\": may only be 'Terminating' if `deletionTimestamp` is not empty"
    ]


def test_the_subresource_finalize_has_update_only():
    """It cannot be read or patched."""
    assert namespaces.RESOURCE.subresource("finalize").verbs == ("update",)


def test_the_first_deletion_sets_the_timestamp_only():
    """Even without finalizers, so that the namespace controller can empty the namespace."""
    assert namespaces.RESOURCE.blocks_deletion(namespace(finalizers=()))
    assert not namespaces.RESOURCE.blocks_deletion(namespace(finalizers=(), deleted="2026-01-01T00:00:00Z"))
