"""What the operations of a JSON patch may cost together."""

import pytest

from certplane import errors
from certplane.meta import codec, gojson, patches


def _patched(document, operations):
    tree = patches.json_patch(codec.parse_json(document.encode()), codec.parse_json(operations.encode()))
    return gojson.text(patches.closed(tree))


def test_items_that_make_room_are_counted():
    """Each operation in front of a long list moves all of it."""
    document = '{"a":[' + ",".join(["1"] * 2_000) + "]}"
    operation = '{"op":"add","path":"/a/0","value":1}'
    with pytest.raises(errors.RequestEntityTooLarge, match="list items that the operations of a JSON patch may shift"):
        _patched(document, "[" + ",".join([operation] * 9_000) + "]")
    assert _patched('{"a":[1,2]}', '[{"op":"move","from":"/a/1","path":"/a/0"}]') == '{"a":[2,1]}'


def test_what_moves_have_nested_is_not_copied():
    """Nobody walks what is nested as deep as a patch is long."""
    wrap = (
        '{"op":"add","path":"/t","value":{}},{"op":"move","from":"/x","path":"/t/a"},'
        '{"op":"move","from":"/t","path":"/x"},'
    )
    with pytest.raises(errors.BadRequest, match="exceeded max depth"):
        _patched('{"x":{}}', "[" + wrap * 1_000 + '{"op":"copy","from":"/x","path":"/y"}]')


@pytest.mark.parametrize(
    ("value", "holds"),
    [
        ('{"c":2,"b":1}', True),
        ('{"b":1}', False),
        ('{"b":1,"c":2,"d":3}', False),
        ('{"b":1,"c":3}', False),
        ("[1]", False),
        ("null", False),
    ],
)
def test_objects_are_tested_by_their_members(value, holds):
    """Of those that are there twice the last counts, on both sides."""
    operations = f'[{{"op":"test","path":"/a","value":{value}}}]'
    if holds:
        # What was looked into is written with its members sorted, as Go's library does it.
        assert _patched('{"a":{"c":0,"c":2,"b":1}}', operations) == '{"a":{"b":1,"c":2}}'
    else:
        with pytest.raises(errors.Unprocessable):
            _patched('{"a":{"c":0,"c":2,"b":1}}', operations)


def test_what_is_not_there_is_null():
    """And only null is what is not there."""
    assert _patched('{"a":1}', '[{"op":"test","path":"/b","value":null}]') == '{"a":1}'
    with pytest.raises(errors.Unprocessable):
        _patched('{"a":1}', '[{"op":"test","path":"/b","value":1}]')
