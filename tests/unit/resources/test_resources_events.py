"""Event: one kind of object in two forms."""

from __future__ import annotations

from certplane.meta import objects
from certplane.resources import events

NEW = events.NEW_RESOURCE
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


def test_what_happened_is_not_changed_afterwards():
    """Each field is reported by its stored name and printed as Go prints it; the reason is checked twice."""
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


def test_errors_name_the_group_that_was_asked():
    """Errors of events.k8s.io have its group, but the Kind of the stored form."""
    assert NEW.identity == ("events", "events.k8s.io")
    assert (NEW.stored.group, events.RESOURCE.identity) == ("", ("events", ""))
