"""Members that a document has several times."""

import pytest

from certplane.meta import codec, objects
from certplane.resources import configmaps, reviews


def _read(text, type_):
    reading = codec.read(codec.parse_json(text.encode()), type_)
    return codec.to_builtins(reading.object), reading.strict


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"data":{"a":"1"},"data":{"b":"2"},"data":{"a":"3"}}', {"a": "3", "b": "2"}),
        ('{"data":{"a":"1"},"data":null,"data":{"b":"2"}}', {"b": "2"}),
        ('{"data":{"a":"1"},"data":{"b":"2"},"data":null}', None),
        ('{"data":null,"data":{"b":"2"}}', {"b": "2"}),
    ],
)
def test_objects_under_one_key_become_one(text, expected):
    """As Go reads on into what is there; a null empties it."""
    found, strict = _read(text, configmaps.ConfigMap)
    assert found.get("data") == expected
    assert set(strict) == {'duplicate field "data"'}


def test_inside_of_what_is_repeated_only_what_is_repeated_there_is_told():
    """One object does not double the members of another, though they become one."""
    found, strict = _read('{"labels":{"a":"1"},"labels":{"a":"2","b":"3","b":"4"}}', objects.ObjectMeta)
    assert found["labels"] == {"a": "2", "b": "4"}
    assert strict == ('duplicate field "labels"', 'duplicate field "labels.b"')


def test_of_many_equal_keys_the_last_counts():
    """However many there are, on several levels: ten kilobytes of them took seconds."""
    inner = ",".join(f'"resourceAttributes":{{"name":"{at}","verb":"v{at}"}}' for at in range(220))
    found, strict = _read(f'{{"spec":{{"spec":1}},"spec":{{{inner}}}}}', reviews.SelfSubjectAccessReview)
    assert found["spec"]["resourceAttributes"] == {"name": "219", "verb": "v219"}
    assert len(strict) == 3
