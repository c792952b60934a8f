"""Controllers that do not handle certificates, and the expiry of Events."""

from __future__ import annotations

import datetime

import pytest

from certplane import errors, testing, timestamps
from certplane.resources import configmaps, events, namespaces, rbac, secrets, serviceaccounts
from tests.flow import plane as flow

BUNDLE = "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n"


def _getter(client, kind, name, namespace=""):
    """A coroutine function that returns the object, or None."""

    async def get():
        try:
            return await client.get(kind, name, namespace)
        except errors.NotFound:
            return None

    return get


async def test_every_namespace_gets_the_root_ca_and_a_service_account():
    """If they are deleted or changed, they are restored, except in a terminating namespace."""
    async with flow.running(root_ca=BUNDLE) as plane:
        client = plane.client(flow.ADMIN)
        namespace = namespaces.Namespace()
        namespace.metadata.name = "team"
        await client.create(namespaces.RESOURCE, namespace)
        published = _getter(client, configmaps.RESOURCE, "kube-root-ca.crt", "team")
        assert (await flow.eventually(published)).data == {"ca.crt": BUNDLE}
        account = _getter(client, serviceaccounts.RESOURCE, "default", "team")
        await flow.eventually(account)
        changed = await published()
        changed.data = {"ca.crt": "another"}
        changed.metadata.labels = {"mine": "yes"}
        await client.update(configmaps.RESOURCE, changed)

        async def restored():
            now = await published()
            return now.data == {"ca.crt": BUNDLE} and now

        assert (await flow.eventually(restored)).metadata.labels == {"mine": "yes"}
        await client.delete(serviceaccounts.RESOURCE, "default", "team")
        await flow.eventually(account)
        await client.delete(namespaces.RESOURCE, "team")

        async def gone():
            return await _getter(client, namespaces.RESOURCE, "team")() is None

        await flow.eventually(gone)
        assert await published() is None


def _role(name, labels=None, rules=(), selector=None):
    role = rbac.ClusterRole(rules=list(rules))
    if selector is not None:
        role.aggregation_rule = rbac.AggregationRule(
            cluster_role_selectors=[rbac.objects.LabelSelector(match_labels=selector)]
        )
    role.metadata.name = name
    role.metadata.labels = labels or {}
    return role


async def test_aggregated_roles_follow_the_selected_roles():
    """The rules of a selected role are added, and removed when it is deleted."""
    rule = rbac.PolicyRule(verbs=["get"], api_groups=["example.com"], resources=["things"])
    async with flow.running() as plane:
        client = plane.client(flow.ADMIN)
        await client.create(rbac.CLUSTER_ROLES, _role("aggregated", selector={"selected": "yes"}))
        await client.create(rbac.CLUSTER_ROLES, _role("selected", {"selected": "yes"}, [rule]))

        async def rules():
            return (await client.get(rbac.CLUSTER_ROLES, "aggregated")).rules

        assert await flow.eventually(rules) == [rule]
        await client.delete(rbac.CLUSTER_ROLES, "selected")

        async def none_left():
            return not await rules()

        await flow.eventually(none_left)


async def test_initial_rules_stay_until_a_role_is_selected():
    """A role that selects nothing keeps its initial rules; aggregated rules replace them."""
    initial_rule = rbac.PolicyRule(verbs=["get"], api_groups=["example.com"], resources=["own"])
    rule = rbac.PolicyRule(verbs=["get"], api_groups=["example.com"], resources=["things"])
    async with flow.running() as plane:
        client = plane.client(flow.ADMIN)
        await client.create(rbac.CLUSTER_ROLES, _role("aggregated", selector={"selected": "yes"}, rules=[initial_rule]))
        await testing.settle()
        role = await client.get(rbac.CLUSTER_ROLES, "aggregated")
        assert role.rules == [initial_rule]
        assert [entry.manager for entry in role.metadata.managed_fields] == ["certplane"]
        await client.create(rbac.CLUSTER_ROLES, _role("selected", {"selected": "yes"}, [rule]))

        async def collected():
            return (await client.get(rbac.CLUSTER_ROLES, "aggregated")).rules == [rule]

        await flow.eventually(collected)
        await client.delete(rbac.CLUSTER_ROLES, "selected")

        async def none_left():
            return (await client.get(rbac.CLUSTER_ROLES, "aggregated")).rules is None

        await flow.eventually(none_left)


async def test_the_default_roles_for_users_are_aggregated():
    """The role admin contains edit, and edit contains view."""
    async with flow.running() as plane:
        client = plane.client(flow.ADMIN)

        async def complete():
            roles = [(await client.get(rbac.CLUSTER_ROLES, name)).rules or [] for name in ("view", "edit", "admin")]
            view, edit, admin = roles
            return view and all(rule in edit for rule in view) and all(rule in admin for rule in edit) and admin

        admin = await flow.eventually(complete)
        assert any("rolebindings" in rule.resources for rule in admin)


def _token(id_, expiration):
    secret = secrets.Secret(type=secrets.BOOTSTRAP_TOKEN, data={"expiration": expiration.encode()})
    secret.metadata.name = secrets.BOOTSTRAP_PREFIX + id_
    return secret


async def test_expired_bootstrap_tokens_are_deleted():
    """An expired token is deleted at once, others when they expire; one without expiration is kept."""
    clock = testing.FakeClock()
    async with flow.running(clock=clock) as plane:
        client = plane.client(flow.ADMIN)
        later = timestamps.rfc3339(clock.now() + datetime.timedelta(minutes=10))
        await client.create(secrets.RESOURCE, _token("aaaaaa", "2001-01-01T00:00:00Z"), "kube-system")
        await client.create(secrets.RESOURCE, _token("bbbbbb", later), "kube-system")
        await client.create(secrets.RESOURCE, _token("cccccc", ""), "kube-system")

        async def names():
            return [secret.metadata.name[-6:] for secret in (await client.list(secrets.RESOURCE, "kube-system")).items]

        async def first_is_gone():
            return await names() == ["bbbbbb", "cccccc"]

        await flow.eventually(first_is_gone)
        await testing.settle()
        await clock.advance(601)

        async def second_is_gone():
            return await names() == ["cccccc"]

        await flow.eventually(second_is_gone)


async def test_an_event_is_served_in_both_groups():
    """An Event that is created in events.k8s.io can be read and changed in the core group, and the reverse."""
    async with flow.running() as plane:
        client = plane.client(flow.ADMIN)
        new_event = events.EVENTS_V1_RESOURCE.type(
            event_time="2026-01-01T00:00:00.123456Z", reporting_controller="example.com/c", reporting_instance="i",
            action="Approve", reason="Approved", note="done", type="Normal",
            regarding=events.objects.ObjectReference(kind="CertificateSigningRequest", name="a"),
        )  # fmt: skip
        new_event.metadata.name = "e"
        await client.create(events.EVENTS_V1_RESOURCE, new_event, "default")
        old = await client.get(events.RESOURCE, "e", "default")
        assert (old.api_version, old.message, old.involved_object.name) == ("v1", "done", "a")
        assert old.event_time == "2026-01-01T00:00:00.123456Z"
        old.message = "changed"
        await client.update(events.RESOURCE, old)
        event = await client.get(events.EVENTS_V1_RESOURCE, "e", "default")
        assert (event.note, event.api_version) == ("changed", "events.k8s.io/v1")
        event.note = "again"
        with pytest.raises(errors.Invalid, match='message: Invalid value: "again": field is immutable'):
            await client.update(events.EVENTS_V1_RESOURCE, event)


async def test_events_expire_one_hour_after_their_last_change():
    """The times in the Event do not matter; other objects are kept."""
    clock = testing.FakeClock()
    async with flow.running(clock=clock) as plane:
        client = plane.client(flow.ADMIN)
        for name in ("old", "changed"):
            old_event = events.Event(last_timestamp="2999-01-01T00:00:00Z")
            old_event.metadata.name = name
            await client.create(events.RESOURCE, old_event, "default")
        kept = configmaps.ConfigMap()
        kept.metadata.name = "kept"
        await client.create(configmaps.RESOURCE, kept, "default")
        await clock.advance(1800)
        event = await client.get(events.RESOURCE, "changed", "default")
        event.message = "again"
        await client.update(events.RESOURCE, event)
        await clock.advance(1920)
        assert [event.metadata.name for event in (await client.list(events.RESOURCE)).items] == ["changed"]
        await clock.advance(1800)
        assert (await client.list(events.RESOURCE)).items == []
        assert await client.get(configmaps.RESOURCE, "kept", "default")
