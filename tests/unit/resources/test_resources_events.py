"""Event: one kind in two API groups."""

from __future__ import annotations

from certplane.meta import objects
from certplane.resources import events

NEW = events.EVENTS_V1_RESOURCE
ABOUT = objects.ObjectReference(kind="Node", name="n1", namespace="default")


def event(**values):
    """An event as clients of the newer form make it, in that form."""
    stored = events.Event(
        metadata=objects.ObjectMeta(name="e", namespace="default"),
        involved_object=values.pop("about", ABOUT),
        event_time="2026-01-01T00:00:00.000000Z",
        reporting_component="example.com/c",
        reporting_instance="i",
        **{"action": "Act", "reason": "Reason", "message": "note", "type": "Normal", **values},
    )
    return NEW.hub.from_hub(stored)


def test_events_are_immutable():
    """Each field is reported by its stored name and printed as Go prints it. The reason is reported twice, as in
    Kubernetes.
    """
    other = objects.ObjectReference(kind="Node", name="n2", namespace="default", uid="u")
    new = event(about=other, reason="Other", message="other", source=events.EventSource(component="c"), related=other)
    named = '{"Kind":"Node","Namespace":"default","Name":"n2","UID":"u",'
    reference = named + '"APIVersion":"","ResourceVersion":"","FieldPath":""}'
    assert [str(problem) for problem in NEW.validate_update(new, event())] == [
        f"{path}: Invalid value: {value}: field is immutable"
        for path, value in (
            ("involvedObject", reference),
            ("reason", '"Other"'),
            ("message", '"other"'),
            ("source", '{"Component":"c","Host":""}'),
            ("reason", '"Other"'),
            ("related", reference),
        )
    ]
    assert NEW.validate_update(event(), event()) == []


def test_errors_have_the_requested_group():
    """Errors of events.k8s.io have its group, although the stored form is that of the core group."""
    assert NEW.identity == ("events", "events.k8s.io")
    assert (NEW.storage_resource.group, events.RESOURCE.identity) == ("", ("events", ""))
