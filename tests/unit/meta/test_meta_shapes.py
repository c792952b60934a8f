"""Reflection on wire types."""

from certplane.meta import objects, shapes


def test_fields_in_order():
    """Fields have their JSON names, in wire order."""
    expected = ["name", "generateName", "namespace", "selfLink", "uid", "resourceVersion", "generation"]

    assert expected == list(shapes.shape_of(objects.ObjectMeta).fields)[:7]


def test_kinds_of_values():
    """Types that share a JSON type are distinguished as in Go."""
    fields = shapes.shape_of(objects.ObjectMeta).fields

    assert ("integer", "int64") == (fields["generation"].shape.kind, fields["generation"].shape.format)
    assert "time" == fields["creationTimestamp"].shape.kind
    assert "map[string]string" == fields["labels"].shape.go
    assert "types.UID" == fields["uid"].shape.go


def test_merge_rules():
    """List types and patch strategies come from the annotations."""
    owners = shapes.shape_of(objects.ObjectMeta).fields["ownerReferences"]

    assert ("map", ("uid",), "merge", "uid") == (
        owners.list_type,
        owners.keys,
        owners.patch_strategy,
        owners.patch_merge_key,
    )


def test_presence():
    """Fields that are always written are distinguished from those that are omitted when empty."""
    fields = shapes.shape_of(objects.OwnerReference).fields

    assert (False, True) == (fields["name"].omitempty, fields["controller"].omitempty)
    assert fields["controller"].nullable
