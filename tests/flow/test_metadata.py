"""Metadata is validated for all kinds, and again by some kinds, which causes repeated errors."""

from __future__ import annotations

import pytest

from certplane import errors
from certplane.meta import names, objects
from certplane.registry import verbs
from certplane.resources import configmaps, events, leases, namespaces, nodes
from tests.flow import plane as flow

INVOLVED_OBJECT = objects.ObjectReference(kind="Node", name="n", namespace="default")


@pytest.mark.parametrize(
    ("kind", "obj", "subresource", "times"),
    [
        (configmaps.RESOURCE, configmaps.ConfigMap(), "", 4),
        (leases.RESOURCE, leases.Lease(), "", 3),
        (events.RESOURCE, events.Event(involved_object=INVOLVED_OBJECT), "", 2),
        (nodes.RESOURCE, nodes.Node(), "", 4),
        (nodes.RESOURCE, nodes.Node(), "status", 3),
        (namespaces.RESOURCE, namespaces.Namespace(), "", 4),
        (namespaces.RESOURCE, namespaces.Namespace(), "status", 3),
        (namespaces.RESOURCE, namespaces.Namespace(), "finalize", 3),
    ],
    ids=lambda value: getattr(value, "plural", None) or str(value) if not isinstance(value, objects.Object) else "",
)
async def test_an_invalid_label_is_reported_for_each_validation(kind, obj, subresource, times):
    """The message contains it once."""
    async with flow.running() as plane:
        client = plane.client(flow.ADMIN)
        obj.metadata.name = "a"
        created = await client.create(kind, obj, "default" if kind.namespaced else "")
        created.metadata.labels = {"a b": ""}
        with pytest.raises(errors.Invalid) as refused:
            await client.update(kind, created, subresource)
        assert [cause["field"] for cause in refused.value.details["causes"]] == ["metadata.labels"] * times
        assert refused.value.message.count("Invalid value") == 1


@pytest.mark.parametrize(
    ("prefix", "kept"),
    [
        ("a-", "a-"),
        ("a" * 58, "a" * 58),
        ("a" * 59, "a" * 58),
        ("a" * 57 + "é", "a" * 57),
    ],
)
def test_a_generated_name_is_the_prefix_and_five_characters(prefix, kept):
    """It has at most 63 bytes, so that it fits in a DNS label, and no character is cut in half."""
    generated = [verbs.generate_name(prefix) for _ in range(200)]
    assert {name[:-5] for name in generated} == {kept}
    assert len(set(generated)) > 190
    characters = {character for name in generated for character in name[-5:]}
    assert characters == set("bcdfghjklmnpqrstvwxz2456789")
    assert not any(names.dns1123_label_problems(name) for name in generated)


async def test_a_taken_generated_name_is_generated_again(monkeypatch):
    """After eight attempts, the client gets an error."""
    draws = iter("x" * 5 + "x" * 5 * 8 + "x" * 5 * 7 + "z" * 5)
    monkeypatch.setattr(verbs.secrets, "choice", lambda _: next(draws))
    async with flow.running() as plane:
        client = plane.client(flow.ADMIN)

        async def create():
            obj = configmaps.ConfigMap(metadata=objects.ObjectMeta(generate_name="a-"))
            return (await client.create(configmaps.RESOURCE, obj, "default")).metadata.name

        assert await create() == "a-xxxxx"
        with pytest.raises(errors.AlreadyExists, match="the server was not able to generate a unique name"):
            await create()
        assert await create() == "a-zzzzz"
