"""Event: what happened to an object, for people to read. One kind of stored object in two forms.

`v1` is the older form, in which events are stored; `events.k8s.io/v1` names the same fields differently and is
stricter about what it takes. Events are forgotten an hour after their last change.
Source: kubernetes, `pkg/registry/core/event`, `pkg/apis/core/validation/events.go`, `pkg/apis/events/v1/conversion.go`.
"""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Callable
from typing import Annotated, Any, Final

from certplane import clock, errors, gotext
from certplane.meta import names, objects, resource
from certplane.meta.objects import always, doc

Problems = list[errors.FieldProblem]

GROUP: Final = "events.k8s.io"
_LONGEST: Final = 128
_LONGEST_NOTE: Final = 1024


def _none() -> None:
    return None


class EventSource(objects.Type):
    """EventSource says which program reported an event, and where it runs."""

    component: Annotated[str, doc("The program.")] = ""
    host: Annotated[str, doc("The machine it runs on.")] = ""


class EventSeries(objects.Type):
    """EventSeries counts how often the same thing happened."""

    count: Annotated[objects.Int32, doc("How often it happened.")] = 0
    last_observed_time: Annotated[objects.MicroTime | None, doc("When it last happened.")] = always(_none)


class Event(objects.Object):
    """Event tells people what happened to an object. Programs should not act on events: they may be lost."""

    metadata: Annotated[objects.ObjectMeta, doc("What every object has.", required=True)] = always(objects.ObjectMeta)
    involved_object: Annotated[objects.ObjectReference, doc("The object that it happened to.", required=True)] = always(
        objects.ObjectReference
    )
    reason: Annotated[str, doc("What happened, in one word for programs.")] = ""
    message: Annotated[str, doc("What happened, in a sentence for people.")] = ""
    source: Annotated[EventSource, doc("Which program reported it.")] = always(EventSource)
    first_timestamp: Annotated[objects.Time | None, doc("When it first happened.")] = always(_none)
    last_timestamp: Annotated[objects.Time | None, doc("When it last happened.")] = always(_none)
    count: Annotated[objects.Int32, doc("How often it happened.")] = 0
    type: Annotated[str, doc("Normal or Warning; others may come.")] = ""
    event_time: Annotated[objects.MicroTime | None, doc("When it first happened, in the newer form.")] = always(_none)
    series: Annotated[EventSeries | None, doc("How often it happened, in the newer form; unset if once.")] = None
    action: Annotated[str, doc("What was done or tried.")] = ""
    related: Annotated[objects.ObjectReference | None, doc("A second object that it has to do with.")] = None
    reporting_component: Annotated[str, doc("Which controller reported it, such as example.com/approver.")] = always(
        str
    )
    reporting_instance: Annotated[str, doc("Which copy of the controller reported it.")] = always(str)


class _NewEventSeries(objects.Type):
    """EventSeries counts how often the same thing happened."""

    count: Annotated[objects.Int32, doc("How often it happened.", required=True)] = always(int)
    last_observed_time: Annotated[objects.MicroTime | None, doc("When it last happened.", required=True)] = always(
        _none
    )


# Clients know both forms by the same name: in decoding errors, in schemas, as protobuf messages.
_NewEventSeries.__name__ = "EventSeries"


class _NewEvent(objects.Object):
    """Event tells people what happened to an object. Programs should not act on events: they may be lost."""

    event_time: Annotated[objects.MicroTime | None, doc("When it first happened.", required=True)] = always(_none)
    series: Annotated[_NewEventSeries | None, doc("How often it happened; unset if once.")] = None
    reporting_controller: Annotated[str, doc("Which controller reported it, such as example.com/approver.")] = ""
    reporting_instance: Annotated[str, doc("Which copy of the controller reported it.")] = ""
    action: Annotated[str, doc("What was done or tried.")] = ""
    reason: Annotated[str, doc("Why it was done, in one word for programs.")] = ""
    regarding: Annotated[objects.ObjectReference, doc("The object that it happened to.")] = always(
        objects.ObjectReference
    )
    related: Annotated[objects.ObjectReference | None, doc("A second object that it has to do with.")] = None
    note: Annotated[str, doc("What happened, in a sentence for people.")] = ""
    type: Annotated[str, doc("Normal or Warning; others may come.")] = ""
    deprecated_source: Annotated[EventSource, doc("Which program reported it, in the older form.")] = always(
        EventSource
    )
    deprecated_first_timestamp: Annotated[objects.Time | None, doc("When it first happened, in the older form.")] = (
        always(_none)
    )
    deprecated_last_timestamp: Annotated[objects.Time | None, doc("When it last happened, in the older form.")] = (
        always(_none)
    )
    deprecated_count: Annotated[objects.Int32, doc("How often it happened, in the older form.")] = 0


_NewEvent.__name__ = "Event"

#: The fields that have another name in the newer form: its name, and the one in which events are stored.
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


def _inward(new: Any) -> Event:
    values = {name: getattr(new, name) for name in _SAME}
    values |= {stored: getattr(new, name) for name, stored in _RENAMED.items()}
    if new.series is not None:
        values["series"] = EventSeries(count=new.series.count, last_observed_time=new.series.last_observed_time)
    return Event(kind="Event", api_version="v1", **values)


def _outward(stored: Event) -> Any:
    values = {name: getattr(stored, name) for name in _SAME}
    values |= {name: getattr(stored, from_) for name, from_ in _RENAMED.items()}
    if stored.series is not None:
        values["series"] = _NewEventSeries(
            count=stored.series.count, last_observed_time=stored.series.last_observed_time
        )
    return _NewEvent(**values)


# --- validation ---------------------------------------------------------------------------------------------------


def _validate(new: Event) -> Problems:
    return _common_problems(new, "reportingComponent")


def _common_problems(new: Event, controller: str) -> Problems:
    """What holds in both forms. An event with an eventTime was made by a client that knows the newer form."""
    home, of = new.metadata.namespace, new.involved_object.namespace
    problems: Problems = []
    if new.event_time is None:
        if home != of and (of or home not in ("", "default")):
            problems.append(errors.invalid("involvedObject.namespace", of, "does not match event.namespace"))
        return problems
    if not of and home not in ("default", "kube-system"):
        problems.append(errors.invalid("involvedObject.namespace", of, "does not match event.namespace"))
    reporter = new.reporting_component
    if not reporter:
        problems.append(errors.required(controller))
    problems += [errors.invalid(controller, reporter, why) for why in names.qualified_name_problems(reporter)]
    problems += _text_problems("reportingInstance", new.reporting_instance)
    problems += _text_problems("action", new.action)
    problems += _text_problems("reason", new.reason)
    if len(new.message.encode("utf-8", "replace")) > _LONGEST_NOTE:
        problems.append(errors.invalid("message", "", f"can have at most {_LONGEST_NOTE} characters"))
    return problems


def _text_problems(path: str, text: str) -> Problems:
    if not text:
        return [errors.required(path)]
    if len(text.encode("utf-8", "replace")) > _LONGEST:
        return [errors.invalid(path, "", f"can have at most {_LONGEST} characters")]
    return []


def _validate_new(given: Any) -> Problems:
    new = _inward(given)
    problems = [*_common_problems(new, "reportingController"), *_series_problems(new)]
    if new.event_time is None:
        problems.append(errors.required("eventTime"))
    if new.type not in ("Normal", "Warning"):
        problems.append(errors.invalid("type", "", f"has invalid value: {new.type}"))
    old_fields = {
        "firstTimestamp": new.first_timestamp,
        "lastTimestamp": new.last_timestamp,
        "count": new.count,
        "source": new.source.component or new.source.host,
    }
    return problems + [errors.invalid(path, "", "needs to be unset") for path, value in old_fields.items() if value]


def _series_problems(new: Event) -> Problems:
    problems: Problems = []
    if new.series is not None:
        if new.series.count < 2:
            problems.append(errors.invalid("series.count", "", "should be at least 2"))
        if new.series.last_observed_time is None:
            problems.append(errors.required("series.lastObservedTime"))
    return problems


#: What cannot be changed through the newer form: the fields of the stored one, by their wire names, in the order in
#: which they are looked at; the reason twice.
_IMMUTABLE: Final = (
    ("involvedObject", "involved_object"), ("reason", "reason"), ("message", "message"), ("source", "source"),
    ("firstTimestamp", "first_timestamp"), ("lastTimestamp", "last_timestamp"), ("count", "count"),
    ("reason", "reason"), ("type", "type"), ("eventTime", "event_time"), ("action", "action"), ("related", "related"),
    ("reportingController", "reporting_component"), ("reportingInstance", "reporting_instance"),
)  # fmt: skip


def _validate_new_update(given: Any, before: Any) -> Problems:
    new, old = _inward(given), _inward(before)
    problems = _common_problems(new, "reportingController")
    if new.series != old.series:
        problems += _series_problems(new)
    for path, attribute in _IMMUTABLE:
        value = getattr(new, attribute)
        if value != getattr(old, attribute):
            problems.append(errors.invalid(path, _go_value(value), "field is immutable"))
    return problems


def _go_value(of: Any) -> Any:
    """A value as Go prints what Kubernetes holds it in: the names of fields are Go's, and none is left out."""
    if isinstance(of, objects.ObjectReference):
        return {
            "Kind": of.kind,
            "Namespace": of.namespace,
            "Name": of.name,
            "UID": of.uid,
            "APIVersion": of.api_version,
            "ResourceVersion": of.resource_version,
            "FieldPath": of.field_path,
        }
    return {"Component": of.component, "Host": of.host} if isinstance(of, EventSource) else of


# --- columns and selectors ----------------------------------------------------------------------------------------


def _since(moment: str | None, now: datetime.datetime) -> str:
    return gotext.human_duration((now - clock.parse_rfc3339(moment)).total_seconds()) if moment else "<unknown>"


def _first_seen(of: Event, now: datetime.datetime) -> str:
    return _since(of.first_timestamp or of.event_time, now)


def _last_seen(of: Event, now: datetime.datetime) -> str:
    if of.series is not None:
        return _since(of.series.last_observed_time, now)
    return _since(of.last_timestamp, now) if of.last_timestamp else _first_seen(of, now)


def _object(of: Event, now: datetime.datetime) -> str:
    del now
    kind, name = of.involved_object.kind.lower(), of.involved_object.name
    return f"{kind}/{name}" if name else kind


def _source(of: Event, now: datetime.datetime) -> str:
    del now
    program, place = of.source.component or of.reporting_component, of.source.host or of.reporting_instance
    return f"{program}, {place}" if place else program


def _count(of: Event, now: datetime.datetime) -> int:
    del now
    return of.series.count if of.series is not None else of.count or 1


_COLUMNS: Final = (
    resource.Column("Last Seen", "Time since it last happened.", _last_seen),
    resource.Column("Type", "Normal or Warning.", lambda of, _: of.type),
    resource.Column("Reason", "What happened, in one word.", lambda of, _: of.reason),
    resource.Column("Object", "The object that it happened to.", _object),
    resource.Column("Subobject", "The part of the object.", lambda of, _: of.involved_object.field_path, priority=1),
    resource.Column("Source", "Which program reported it, and where it runs.", _source, priority=1),
    resource.Column("Message", "What happened.", lambda of, _: of.message.strip()),
    resource.Column("First Seen", "Time since it first happened.", _first_seen, priority=1),
    resource.Column("Count", "How often it happened.", _count, priority=1),
    resource.Column("Name", "Name of the event.", lambda of, _: of.metadata.name, format="name", priority=1),
)

_Selectable = dict[str, Callable[[Any], str]]


def _selectable(about: str, reporter: str) -> _Selectable:
    """The fields of the stored form by which events are selected. `about` and `reporter` differ between the forms."""
    parts = {"kind": "kind", "namespace": "namespace", "name": "name", "uid": "uid", "apiVersion": "api_version",
             "resourceVersion": "resource_version", "fieldPath": "field_path"}  # fmt: skip

    def part(attribute: str) -> Callable[[Any], str]:
        return lambda of: str(getattr(of.involved_object, attribute))

    found: _Selectable = {f"{about}.{name}": part(attribute) for name, attribute in parts.items()}
    found["reason"] = lambda of: str(of.reason)
    found[reporter] = lambda of: str(of.reporting_component)
    found["type"] = lambda of: str(of.type)
    return found


def _not_known(label: str) -> str:
    return f"field label not supported: {label}"


RESOURCE: Final = resource.Resource(
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
    rechecks=resource.Recheck.NOTHING,
    selectable={
        **_selectable("involvedObject", "reportingComponent"),
        "source": lambda of: of.source.component or of.reporting_component,
    },
    unknown_selector=_not_known,
    creates_on_update=True,
    perishable=True,
    columns=_COLUMNS,
)  # fmt: skip


def _of_stored(look: Callable[..., Any]) -> Callable[..., Any]:
    """What looks at the stored form, for the newer one."""
    return lambda of, *rest: look(_inward(of), *rest)


NEW_RESOURCE: Final = resource.Resource(
    group=GROUP,
    version="v1",
    former=("v1beta1",),
    kind="Event",
    plural="events",
    short_names=("ev",),
    type=_NewEvent,
    namespaced=True,
    owns=(
        "eventTime", "series", "reportingController", "reportingInstance", "action", "reason", "regarding", "related",
        "note", "type", "deprecatedSource", "deprecatedFirstTimestamp", "deprecatedLastTimestamp", "deprecatedCount",
    ),
    name_problems=names.dns1123_subdomain_problems,
    validate=_validate_new,
    validate_update=_validate_new_update,
    rechecks=resource.Recheck.CHANGE,
    selectable={
        path: _of_stored(look) for path, look in _selectable("regarding", "reportingController").items()
    },
    unknown_selector=_not_known,
    creates_on_update=True,
    perishable=True,
    columns=tuple(dataclasses.replace(each, cell=_of_stored(each.cell)) for each in _COLUMNS),
    hub=resource.Hub(RESOURCE, _inward, _outward),
)  # fmt: skip
