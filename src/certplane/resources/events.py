"""Event: a human-readable report about an object. The same stored objects are served in two API groups.

Events are stored as `v1`, the older form; `events.k8s.io/v1` has other names for the same fields and a stricter
validation. Events are deleted an hour after their last change.
Source: kubernetes, `pkg/registry/core/event`, `pkg/apis/core/validation/events.go`, `pkg/apis/events/v1/conversion.go`.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable
from typing import Annotated, Concatenate, Final, ParamSpec, TypeVar

from certplane import errors, timestamps
from certplane.errors import Problems
from certplane.golang import formatting
from certplane.meta import names, objects, resource
from certplane.meta.objects import always, doc

GROUP: Final = "events.k8s.io"
_MAX_TEXT: Final = 128
_MAX_NOTE: Final = 1024


def _none() -> None:
    return None


class EventSource(objects.Type):
    """EventSource is the component that reported an event, and its host."""

    component: Annotated[str, doc("Component that reported the event.")] = ""
    host: Annotated[str, doc("Host on which the component runs.")] = ""


class EventSeries(objects.Type):
    """EventSeries counts the occurrences of an event."""

    count: Annotated[objects.Int32, doc("Number of occurrences.")] = 0
    last_observed_time: Annotated[objects.MicroTime | None, doc("Time of the last occurrence.")] = always(_none)


class Event(objects.Object):
    """Event is a human-readable report about an object. Events may be lost, so programs should not rely on them."""

    metadata: Annotated[objects.ObjectMeta, doc("Standard object metadata.", required=True)] = always(
        objects.ObjectMeta
    )
    involved_object: Annotated[objects.ObjectReference, doc("The object that the event is about.", required=True)] = (
        always(objects.ObjectReference)
    )
    reason: Annotated[str, doc("Reason for the event, as a code for programs.")] = ""
    message: Annotated[str, doc("Human-readable description of the event.")] = ""
    source: Annotated[EventSource, doc("Component that reported the event.")] = always(EventSource)
    first_timestamp: Annotated[objects.Time | None, doc("Time of the first occurrence.")] = always(_none)
    last_timestamp: Annotated[objects.Time | None, doc("Time of the last occurrence.")] = always(_none)
    count: Annotated[objects.Int32, doc("Number of occurrences.")] = 0
    type: Annotated[str, doc("Type of the event: Normal or Warning. New types may be added.")] = ""
    event_time: Annotated[
        objects.MicroTime | None, doc("Time of the first occurrence, for clients of events.k8s.io.")
    ] = always(_none)
    series: Annotated[
        EventSeries | None,
        doc("Series of which this event is one, for clients of events.k8s.io; unset for a single event."),
    ] = None
    action: Annotated[str, doc("Action that was taken or failed.")] = ""
    related: Annotated[objects.ObjectReference | None, doc("A second object that the event is about.")] = None
    reporting_component: Annotated[
        str, doc("Name of the controller that reported the event, such as example.com/approver.")
    ] = always(str)
    reporting_instance: Annotated[str, doc("ID of the controller instance that reported the event.")] = always(str)


class _EventsV1EventSeries(objects.Type):
    """EventSeries counts the occurrences of an event."""

    count: Annotated[objects.Int32, doc("Number of occurrences.", required=True)] = always(int)
    last_observed_time: Annotated[objects.MicroTime | None, doc("Time of the last occurrence.", required=True)] = (
        always(_none)
    )


# Both forms have the same name in decoding errors, schemas and protobuf.
_EventsV1EventSeries.__name__ = "EventSeries"


class _EventsV1Event(objects.Object):
    """Event is a human-readable report about an object. Events may be lost, so programs should not rely on them."""

    event_time: Annotated[objects.MicroTime | None, doc("Time of the first occurrence.", required=True)] = always(_none)
    series: Annotated[
        _EventsV1EventSeries | None, doc("Series of which this event is one; unset for a single event.")
    ] = None
    reporting_controller: Annotated[
        str, doc("Name of the controller that reported the event, such as example.com/approver.")
    ] = ""
    reporting_instance: Annotated[str, doc("ID of the controller instance that reported the event.")] = ""
    action: Annotated[str, doc("Action that was taken or failed.")] = ""
    reason: Annotated[str, doc("Reason for the action, as a code for programs.")] = ""
    regarding: Annotated[objects.ObjectReference, doc("The object that the event is about.")] = always(
        objects.ObjectReference
    )
    related: Annotated[objects.ObjectReference | None, doc("A second object that the event is about.")] = None
    note: Annotated[str, doc("Human-readable description of the event.")] = ""
    type: Annotated[str, doc("Type of the event: Normal or Warning. New types may be added.")] = ""
    deprecated_source: Annotated[EventSource, doc("Component that reported the event. For compatibility with v1.")] = (
        always(EventSource)
    )
    deprecated_first_timestamp: Annotated[
        objects.Time | None, doc("Time of the first occurrence. For compatibility with v1.")
    ] = always(_none)
    deprecated_last_timestamp: Annotated[
        objects.Time | None, doc("Time of the last occurrence. For compatibility with v1.")
    ] = always(_none)
    deprecated_count: Annotated[objects.Int32, doc("Number of occurrences. For compatibility with v1.")] = 0


_EventsV1Event.__name__ = "Event"

#: The fields that have another name in events.k8s.io, and their names in the stored form.
_RENAMED: Final = {
    "reporting_controller": "reporting_component",
    "regarding": "involved_object",
    "note": "message",
    "deprecated_source": "source",
    "deprecated_first_timestamp": "first_timestamp",
    "deprecated_last_timestamp": "last_timestamp",
    "deprecated_count": "count",
}
_SAME: Final = ("metadata", "event_time", "reporting_instance", "action", "reason", "related", "type")


def _to_stored(event: _EventsV1Event) -> Event:
    values = {name: getattr(event, name) for name in _SAME}
    values |= {stored: getattr(event, name) for name, stored in _RENAMED.items()}
    if event.series is not None:
        values["series"] = EventSeries(count=event.series.count, last_observed_time=event.series.last_observed_time)
    return Event(kind="Event", api_version="v1", **values)


def _from_stored(stored: Event) -> _EventsV1Event:
    values = {name: getattr(stored, name) for name in _SAME}
    values |= {name: getattr(stored, source) for name, source in _RENAMED.items()}
    if stored.series is not None:
        values["series"] = _EventsV1EventSeries(
            count=stored.series.count, last_observed_time=stored.series.last_observed_time
        )
    return _EventsV1Event(**values)


# --- validation ---------------------------------------------------------------------------------------------------


def _validate(event: Event) -> Problems:
    return _common_problems(event, "reportingComponent")


def _common_problems(event: Event, controller: str) -> Problems:
    """The rules of both forms. An event with an eventTime was created by a client of events.k8s.io."""
    namespace, about = event.metadata.namespace, event.involved_object.namespace
    problems: Problems = []
    if event.event_time is None:
        if namespace != about and (about or namespace not in ("", "default")):
            problems.append(errors.invalid("involvedObject.namespace", about, "does not match event.namespace"))
        return problems
    if not about and namespace not in ("default", "kube-system"):
        problems.append(errors.invalid("involvedObject.namespace", about, "does not match event.namespace"))
    reporter = event.reporting_component
    if not reporter:
        problems.append(errors.required(controller))
    problems += [errors.invalid(controller, reporter, detail) for detail in names.qualified_name_problems(reporter)]
    problems += _text_problems("reportingInstance", event.reporting_instance)
    problems += _text_problems("action", event.action)
    problems += _text_problems("reason", event.reason)
    if len(event.message.encode("utf-8", "replace")) > _MAX_NOTE:
        problems.append(errors.invalid("message", "", f"can have at most {_MAX_NOTE} characters"))
    return problems


def _text_problems(path: str, text: str) -> Problems:
    if not text:
        return [errors.required(path)]
    if len(text.encode("utf-8", "replace")) > _MAX_TEXT:
        return [errors.invalid(path, "", f"can have at most {_MAX_TEXT} characters")]
    return []


def _validate_new(event: _EventsV1Event) -> Problems:
    stored = _to_stored(event)
    problems = [*_common_problems(stored, "reportingController"), *_series_problems(stored)]
    if stored.event_time is None:
        problems.append(errors.required("eventTime"))
    if stored.type not in ("Normal", "Warning"):
        problems.append(errors.invalid("type", "", f"has invalid value: {stored.type}"))
    old_fields = {
        "firstTimestamp": stored.first_timestamp,
        "lastTimestamp": stored.last_timestamp,
        "count": stored.count,
        "source": stored.source.component or stored.source.host,
    }
    return problems + [errors.invalid(path, "", "needs to be unset") for path, value in old_fields.items() if value]


def _series_problems(event: Event) -> Problems:
    problems: Problems = []
    if event.series is not None:
        if event.series.count < 2:
            problems.append(errors.invalid("series.count", "", "should be at least 2"))
        if event.series.last_observed_time is None:
            problems.append(errors.required("series.lastObservedTime"))
    return problems


#: The immutable fields of events.k8s.io, by wire name and by attribute of the stored form, in the order in which
#: Kubernetes checks them; it checks the reason twice.
_IMMUTABLE: Final = (
    ("involvedObject", "involved_object"), ("reason", "reason"), ("message", "message"), ("source", "source"),
    ("firstTimestamp", "first_timestamp"), ("lastTimestamp", "last_timestamp"), ("count", "count"),
    ("reason", "reason"), ("type", "type"), ("eventTime", "event_time"), ("action", "action"), ("related", "related"),
    ("reportingController", "reporting_component"), ("reportingInstance", "reporting_instance"),
)  # fmt: skip


def _validate_new_update(new_event: _EventsV1Event, old_event: _EventsV1Event) -> Problems:
    new, old = _to_stored(new_event), _to_stored(old_event)
    problems = _common_problems(new, "reportingController")
    if new.series != old.series:
        problems += _series_problems(new)
    for path, attribute in _IMMUTABLE:
        value = getattr(new, attribute)
        if value != getattr(old, attribute):
            problems.append(errors.invalid(path, _go_value(value), "field is immutable"))
    return problems


def _go_value(value: object) -> object:
    """A value as Go prints the struct of Kubernetes: with Go's field names, and without leaving out empty ones."""
    if isinstance(value, objects.ObjectReference):
        return {
            "Kind": value.kind,
            "Namespace": value.namespace,
            "Name": value.name,
            "UID": value.uid,
            "APIVersion": value.api_version,
            "ResourceVersion": value.resource_version,
            "FieldPath": value.field_path,
        }
    return {"Component": value.component, "Host": value.host} if isinstance(value, EventSource) else value


# --- columns and selectors ----------------------------------------------------------------------------------------


def _age(time: str | None, now: datetime.datetime) -> str:
    return formatting.human_duration((now - timestamps.parse_rfc3339(time)).total_seconds()) if time else "<unknown>"


def _first_seen(event: Event, now: datetime.datetime) -> str:
    return _age(event.first_timestamp or event.event_time, now)


def _last_seen(event: Event, now: datetime.datetime) -> str:
    if event.series is not None:
        return _age(event.series.last_observed_time, now)
    return _age(event.last_timestamp, now) if event.last_timestamp else _first_seen(event, now)


def _object(event: Event, now: datetime.datetime) -> str:
    del now
    kind, name = event.involved_object.kind.lower(), event.involved_object.name
    return f"{kind}/{name}" if name else kind


def _source(event: Event, now: datetime.datetime) -> str:
    del now
    component, host = event.source.component or event.reporting_component, event.source.host or event.reporting_instance
    return f"{component}, {host}" if host else component


def _count(event: Event, now: datetime.datetime) -> int:
    del now
    return event.series.count if event.series is not None else event.count or 1


_COLUMNS: Final[tuple[resource.Column[Event], ...]] = (
    resource.Column("Last Seen", "Time since the last occurrence.", _last_seen),
    resource.Column("Type", "Normal or Warning.", lambda obj, _: obj.type),
    resource.Column("Reason", "Reason for the event.", lambda obj, _: obj.reason),
    resource.Column("Object", "The object that the event is about.", _object),
    resource.Column(
        "Subobject", "Field path within the object.", lambda obj, _: obj.involved_object.field_path, priority=1
    ),
    resource.Column("Source", "Component that reported the event, and its host.", _source, priority=1),
    resource.Column("Message", "Description of the event.", lambda obj, _: obj.message.strip()),
    resource.Column("First Seen", "Time since the first occurrence.", _first_seen, priority=1),
    resource.Column("Count", "Number of occurrences.", _count, priority=1),
    resource.Column("Name", "Name of the event.", lambda obj, _: obj.metadata.name, format="name", priority=1),
)

_Selectable = dict[str, Callable[[Event], str]]


def _selectable(about: str, reporter: str) -> _Selectable:
    """The fields by which events are selected. `about` and `reporter` are names that differ between the forms."""
    attributes = {"kind": "kind", "namespace": "namespace", "name": "name", "uid": "uid", "apiVersion": "api_version",
                  "resourceVersion": "resource_version", "fieldPath": "field_path"}  # fmt: skip

    def read_attribute(attribute: str) -> Callable[[Event], str]:
        return lambda obj: str(getattr(obj.involved_object, attribute))

    fields: _Selectable = {f"{about}.{name}": read_attribute(attribute) for name, attribute in attributes.items()}
    fields["reason"] = lambda obj: str(obj.reason)
    fields[reporter] = lambda obj: str(obj.reporting_component)
    fields["type"] = lambda obj: str(obj.type)
    return fields


def _unknown_selector(label: str) -> str:
    return f"field label not supported: {label}"


RESOURCE: Final[resource.Resource[Event]] = resource.Resource(
    group="",
    version="v1",
    kind="Event",
    plural="events",
    short_names=("ev",),
    type=Event,
    namespaced=True,
    owns=(
        "involvedObject", "reason", "message", "source", "firstTimestamp", "lastTimestamp", "count", "type",
        "eventTime", "series", "action", "related", "reportingComponent", "reportingInstance",
    ),
    validate=_validate,
    validate_update=lambda new, _: _validate(new),
    metadata_validation=resource.MetadataValidation.NOTHING,
    selectable={
        **_selectable("involvedObject", "reportingComponent"),
        "source": lambda obj: obj.source.component or obj.reporting_component,
    },
    unknown_selector=_unknown_selector,
    allow_create_on_update=True,
    has_ttl=True,
    columns=_COLUMNS,
)  # fmt: skip


_P = ParamSpec("_P")
_T = TypeVar("_T")


def _on_stored(read: Callable[Concatenate[Event, _P], _T]) -> Callable[Concatenate[_EventsV1Event, _P], _T]:
    """A function of the stored form, for objects of events.k8s.io."""

    def read_new(obj: _EventsV1Event, /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        return read(_to_stored(obj), *args, **kwargs)

    return read_new


def _new_column(column: resource.Column[Event]) -> resource.Column[_EventsV1Event]:
    """The same column, for objects of events.k8s.io."""
    return resource.Column(
        column.name, column.description, _on_stored(column.cell), column.type, column.format, column.priority
    )


EVENTS_V1_RESOURCE: Final[resource.Resource[_EventsV1Event]] = resource.Resource(
    group=GROUP,
    version="v1",
    former_versions=("v1beta1",),
    kind="Event",
    plural="events",
    short_names=("ev",),
    type=_EventsV1Event,
    namespaced=True,
    owns=(
        "eventTime", "series", "reportingController", "reportingInstance", "action", "reason", "regarding", "related",
        "note", "type", "deprecatedSource", "deprecatedFirstTimestamp", "deprecatedLastTimestamp", "deprecatedCount",
    ),
    name_problems=names.dns1123_subdomain_problems,
    validate=_validate_new,
    validate_update=_validate_new_update,
    metadata_validation=resource.MetadataValidation.CHANGE,
    selectable={
        path: _on_stored(read) for path, read in _selectable("regarding", "reportingController").items()
    },
    unknown_selector=_unknown_selector,
    allow_create_on_update=True,
    has_ttl=True,
    columns=tuple(map(_new_column, _COLUMNS)),
    hub=resource.Hub(RESOURCE, _to_stored, _from_stored),
)  # fmt: skip
