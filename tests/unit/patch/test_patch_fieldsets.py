"""Field sets: their order in FieldsV1."""

from certplane.patch import fieldsets


class _Incomparable(str):
    """A path element that must not be compared itself."""

    __slots__ = ()
    __hash__ = str.__hash__

    def __eq__(self, other):
        raise AssertionError

    def __lt__(self, other):
        raise AssertionError


def test_many_fields_are_sorted_by_one_text_each():
    """The order is names, keys, values, positions, and containers before their content. Comparing paths element by
    element would block all threads for seconds if there are hundreds of thousands.
    """
    expected = [
        ("f:a",), ("f:a", "f:b"), ("f:a", 'k:{"uid":"1"}'), ("f:a", "v:1"), ("f:a", "i:0"), ("f:a-b",), ("f:ab",),
    ]  # fmt: skip
    paths = [tuple(map(_Incomparable, path)) for path in reversed(expected)]
    assert [tuple(map(str, path)) for path in fieldsets.sort_paths(paths)] == expected
