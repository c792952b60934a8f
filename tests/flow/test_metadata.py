"""Metadata is judged by what holds of all kinds, and by some kinds once more: the causes of a refusal show it."""

from __future__ import annotations

import pytest

from certplane import errors
from certplane.meta import objects
from certplane.resources import configmaps, events, leases, namespaces, nodes
from tests.flow import plane as flow

ABOUT = objects.ObjectReference(kind="Node", name="n", namespace="default")


@pytest.mark.parametrize(
    ("kind", "new", "door", "times"),
    [
        (configmaps.RESOURCE, configmaps.ConfigMap(), "", 4),
        (leases.RESOURCE, leases.Lease(), "", 3),
        (events.RESOURCE, events.Event(involved_object=ABOUT), "", 2),
        (nodes.RESOURCE, nodes.Node(), "", 4),
        (nodes.RESOURCE, nodes.Node(), "status", 3),
        (namespaces.RESOURCE, namespaces.Namespace(), "", 4),
        (namespaces.RESOURCE, namespaces.Namespace(), "status", 3),
        (namespaces.RESOURCE, namespaces.Namespace(), "finalize", 3),
    ],
    ids=lambda value: getattr(value, "plural", None) or str(value) if not isinstance(value, objects.Object) else "",
)
async def test_a_wrong_label_is_told_as_often_as_it_is_looked_at(kind, new, door, times):
    """Once by each look; the message tells it once."""
    async with flow.running() as plane:
        client = plane.client(flow.ADMIN)
        new.metadata.name = "a"
        new = await client.create(kind, new, "default" if kind.namespaced else "")
        new.metadata.labels = {"a b": ""}
        with pytest.raises(errors.Invalid) as refused:
            await client.update(kind, new, door)
        assert [each["field"] for each in refused.value.details["causes"]] == ["metadata.labels"] * times
        assert refused.value.message.count("Invalid value") == 1
