"""Namespace: what its parts may say."""

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


def problems(door, new):
    validate = namespaces.RESOURCE.subresource(door).validate
    return [str(problem) for problem in validate(new, namespace(), NOW)]


UNKNOWN = "name is neither a standard finalizer name nor is it fully qualified"


def test_finalizers_are_names():
    """Reported for the list on create, and for the index through /finalize."""
    new = namespace(finalizers=("kubernetes", "mine"))
    assert [str(problem) for problem in namespaces.RESOURCE.validate(new)] == [
        f'spec.finalizers: Invalid value: "mine": {UNKNOWN}'
    ]
    assert problems("finalize", new) == [f'spec.finalizers[1]: Invalid value: "mine": {UNKNOWN}']


def test_the_phase_follows_the_deletion():
    """Nobody writes Terminating into a namespace that nobody deletes, nor anything else into one that is going."""
    assert problems("status", namespace("Active")) == []
    assert problems("status", namespace("Terminating")) == [
        "status.Phase: Invalid value: \"Terminating\": may only be 'Active' if `deletionTimestamp` is empty"
    ]
    gone = "2026-01-01T00:00:00Z"
    assert problems("status", namespace("Terminating", deleted=gone)) == []
    assert problems("status", namespace("", deleted=gone)) == [
        "status.Phase: Invalid value: \"\": may only be 'Terminating' if `deletionTimestamp` is not empty"
    ]


def test_the_finalizers_are_replaced_and_never_read_alone():
    """Their door takes PUT and nothing else."""
    assert namespaces.RESOURCE.subresource("finalize").verbs == ("update",)


def test_the_first_deletion_only_marks():
    """Whoever empties namespaces sees it go, even if nothing keeps it."""
    assert namespaces.RESOURCE.blocks_deletion(namespace(finalizers=()))
    assert not namespaces.RESOURCE.blocks_deletion(namespace(finalizers=(), deleted="2026-01-01T00:00:00Z"))
