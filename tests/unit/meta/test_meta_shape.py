"""Reflection on wire types."""

from certplane.meta import objects, shape


def test_fields_in_order():
    """The fields of a type come under their wire names, in wire order."""
    expected = ["name", "generateName", "namespace", "selfLink", "uid", "resourceVersion", "generation"]

    assert expected == list(shape.of(objects.ObjectMeta).fields)[:7]


def test_kinds_of_values():
    """JSON's types are told apart as Go tells them apart."""
    fields = shape.of(objects.ObjectMeta).fields

    assert ("integer", "int64") == (fields["generation"].shape.kind, fields["generation"].shape.format)
    assert "time" == fields["creationTimestamp"].shape.kind
    assert "map[string]string" == fields["labels"].shape.go
    assert "types.UID" == fields["uid"].shape.go


def test_merge_rules():
    """List types and patch strategies are read from the annotations."""
    owners = shape.of(objects.ObjectMeta).fields["ownerReferences"]

    assert ("map", ("uid",), "merge", "uid") == (
        owners.list_type,
        owners.keys,
        owners.patch_strategy,
        owners.patch_merge_key,
    )


def test_presence():
    """Fields that are written even when empty are told from those that are left out."""
    fields = shape.of(objects.OwnerReference).fields

    assert (False, True) == (fields["name"].omitempty, fields["controller"].omitempty)
    assert fields["controller"].nullable
