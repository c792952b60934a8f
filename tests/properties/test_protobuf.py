"""Objects of all kinds are unchanged when they are encoded as protobuf and decoded again."""

from __future__ import annotations

import contextlib
import datetime
import string
from typing import Annotated, Any

import hypothesis
import msgspec
import pytest
from hypothesis import strategies as st

from certplane import errors, resources
from certplane.meta import objects, shapes
from certplane.meta.resource import Resource, VirtualResource
from certplane.meta.shapes import Field, Shape
from certplane.wire import codec, protobuf


class Subject(objects.Type):
    kind: Annotated[str, objects.doc("")] = objects.always(str)
    api_group: Annotated[str, objects.doc("")] = ""
    name: Annotated[str, objects.doc("")] = objects.always(str)


class PolicyRule(objects.Type):
    verbs: Annotated[list[str] | None, objects.doc("")] = objects.always(lambda: None)


class ServiceAccount(objects.Object):
    automount_service_account_token: Annotated[bool | None, objects.doc("")] = None


class ClusterRole(objects.Object):
    rules: Annotated[list[PolicyRule] | None, objects.doc("")] = objects.always(lambda: None)


class Event(objects.Object):
    event_time: Annotated[objects.MicroTime | None, objects.doc("")] = objects.always(lambda: None)
    deprecated_first_timestamp: Annotated[objects.Time | None, objects.doc("")] = objects.always(lambda: None)
    deprecated_count: Annotated[objects.Int32, objects.doc("")] = 0


class Secret(objects.Object):
    data: Annotated[dict[str, bytes], objects.doc("")] = msgspec.field(default_factory=dict)


class UserInfo(objects.Type):
    extra: Annotated[dict[str, list[str]], objects.doc("")] = msgspec.field(default_factory=dict)


class SelfSubjectReviewStatus(objects.Type):
    user_info: Annotated[UserInfo, objects.doc("")] = objects.always(UserInfo)


class SelfSubjectReview(objects.Object):
    status: Annotated[SelfSubjectReviewStatus, objects.doc("")] = objects.always(SelfSubjectReviewStatus)


#: Small kinds that together have all kinds of fields.
SAMPLES = (
    ("v1", ServiceAccount),
    ("v1", Secret),
    ("rbac.authorization.k8s.io/v1", ClusterRole),
    ("events.k8s.io/v1", Event),
    ("authentication.k8s.io/v1", SelfSubjectReview),
)
CATALOGUE: tuple[Resource | VirtualResource, ...] = (*resources.ALL, *resources.VIRTUAL)
KINDS = [
    pytest.param(api_version, type_, id=f"{type_.__name__}, {api_version}, {origin}")
    for origin, kinds in (("sample", SAMPLES), ("served", [(kind.api_version, kind.type) for kind in CATALOGUE]))
    for api_version, type_ in kinds
]

TEXTS = st.text(max_size=12)
BITS = {"int32": 31, "int64": 63}
#: Field sets: trees of objects.
TREES = st.recursive(
    st.just({}),
    lambda inner: st.dictionaries(st.text(string.ascii_letters, max_size=4), inner, max_size=2),
    max_leaves=4,
)


def times(digits: int) -> st.SearchStrategy[str]:
    moments = st.datetimes(min_value=datetime.datetime(1000, 1, 1))  # noqa: DTZ001 - the strategy wants naive ones
    return moments.map(lambda moment: f"{moment.isoformat(timespec='microseconds' if digits else 'seconds')}Z")


def values(shape: Shape) -> st.SearchStrategy[Any]:
    """Any value of a shape."""
    if shape.struct is not None:
        return structs(shape.struct)
    if shape.kind == "list":
        assert shape.element is not None
        return st.lists(values(shape.element), max_size=3)
    if shape.kind == "map":
        assert shape.element is not None
        # Decoders sort the keys of a map, as Go does when it writes JSON.
        return st.dictionaries(TEXTS, values(shape.element), max_size=3).map(lambda items: dict(sorted(items.items())))
    if shape.kind == "integer":
        bits = BITS[shape.format]
        return st.integers(-(1 << bits), (1 << bits) - 1)
    simple = {
        "string": TEXTS,
        "boolean": st.booleans(),
        "bytes": st.binary(max_size=12),
        "time": times(0),
        "microtime": times(6),
        "quantity": st.sampled_from(["0", "4", "500m", "1Gi", "1e3"]),
        "raw": st.one_of(st.just(objects.EMPTY_RAW), TREES.map(msgspec.json.encode).map(msgspec.Raw)),
    }
    return simple[shape.kind]


def field_values(field: Field) -> st.SearchStrategy[Any]:
    """Any value of a field. In protobuf an empty list equals None."""
    strategy = values(field.shape)
    if not field.nullable:
        return strategy
    if field.shape.kind in ("list", "map"):
        return strategy.map(lambda value: value or None)
    return st.one_of(st.none(), strategy)


def structs(struct: type[msgspec.Struct]) -> st.SearchStrategy[Any]:
    fields = {
        field.attribute: field_values(field)
        for field in shapes.shape_of(struct).fields.values()
        if not (field.name in ("kind", "apiVersion") and issubclass(struct, objects.Object | objects.DeleteOptions))
    }
    return st.builds(struct, **fields)


@pytest.mark.parametrize(("api_version", "type_"), KINDS)
@hypothesis.settings(max_examples=25, deadline=None)
@hypothesis.given(data=st.data())
def test_objects_are_unchanged(api_version: str, type_: type[objects.Object], data: st.DataObject) -> None:
    """An object that is encoded and decoded again is the same, also in JSON."""
    obj = data.draw(structs(type_))
    obj.kind, obj.api_version = type_.__name__, api_version
    body = protobuf.encode(obj, api_version, obj.kind)
    decoded = protobuf.decode(body, type_, api_version).object
    assert codec.encode(obj) == codec.encode(decoded)
    assert body == protobuf.encode(decoded, api_version, obj.kind)


@hypothesis.settings(max_examples=200, deadline=None)
@hypothesis.given(st.one_of(st.binary(max_size=64), st.binary(max_size=64).map(lambda data: protobuf.PREFIX + data)))
def test_any_bytes_are_an_object_or_a_bad_request(data: bytes) -> None:
    """The decoder raises nothing else."""
    with contextlib.suppress(errors.BadRequest):
        obj = protobuf.decode(data, Event, "events.k8s.io/v1").object
        assert codec.decode(codec.encode(obj), Event) == obj


@hypothesis.settings(max_examples=100, deadline=None)
@hypothesis.given(data=st.data(), obj=structs(Event))
def test_damaged_bodies_are_an_object_or_a_bad_request(data: st.DataObject, obj: Event) -> None:
    """A body in which one byte was changed is decoded or refused."""
    body = bytearray(protobuf.encode(obj, "events.k8s.io/v1", "Event"))
    position = data.draw(st.integers(0, len(body) - 1))
    body[position] = data.draw(st.integers(0, 255))
    with contextlib.suppress(errors.BadRequest):
        obj = protobuf.decode(bytes(body), Event, "events.k8s.io/v1").object
        assert codec.decode(codec.encode(obj), Event) == obj
