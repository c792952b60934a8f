"""JSON patch: limits on the cost of its operations, and the test operation."""

import pytest

from certplane import errors
from certplane.golang import gojson
from certplane.patch import jsonpatch
from certplane.wire import codec


def _patched(document, operations):
    tree = jsonpatch.json_patch(codec.parse_json(document.encode()), codec.parse_json(operations.encode()))
    return gojson.encode(jsonpatch.sort_members(tree))


def test_shifted_items_are_limited():
    """Each operation at the start of a long list shifts all its items."""
    document = '{"a":[' + ",".join(["1"] * 2_000) + "]}"
    operation = '{"op":"add","path":"/a/0","value":1}'
    with pytest.raises(errors.RequestEntityTooLarge, match="list items that the operations of a JSON patch may shift"):
        _patched(document, "[" + ",".join([operation] * 9_000) + "]")
    assert _patched('{"a":[1,2]}', '[{"op":"move","from":"/a/1","path":"/a/0"}]') == '{"a":[2,1]}'


def test_values_that_moves_have_nested_too_deep_are_not_copied():
    """Move operations can nest a value as deep as the patch is long; recursive code must not walk it."""
    wrap = (
        '{"op":"add","path":"/t","value":{}},{"op":"move","from":"/x","path":"/t/a"},'
        '{"op":"move","from":"/t","path":"/x"},'
    )
    with pytest.raises(errors.BadRequest, match="exceeded max depth"):
        _patched('{"x":{}}', "[" + wrap * 1_000 + '{"op":"copy","from":"/x","path":"/y"}]')


@pytest.mark.parametrize(
    ("value", "is_equal"),
    [
        ('{"c":2,"b":1}', True),
        ('{"b":1}', False),
        ('{"b":1,"c":2,"d":3}', False),
        ('{"b":1,"c":3}', False),
        ("[1]", False),
        ("null", False),
    ],
)
def test_objects_are_compared_by_their_members(value, is_equal):
    """The last of several equal keys counts, on both sides."""
    operations = f'[{{"op":"test","path":"/a","value":{value}}}]'
    if is_equal:
        # An object that was compared is written with sorted keys, as by Go's library.
        assert _patched('{"a":{"c":0,"c":2,"b":1}}', operations) == '{"a":{"b":1,"c":2}}'
    else:
        with pytest.raises(errors.Unprocessable):
            _patched('{"a":{"c":0,"c":2,"b":1}}', operations)


def test_a_missing_member_equals_null():
    """It equals no other value."""
    assert _patched('{"a":1}', '[{"op":"test","path":"/b","value":null}]') == '{"a":1}'
    with pytest.raises(errors.Unprocessable):
        _patched('{"a":1}', '[{"op":"test","path":"/b","value":1}]')
