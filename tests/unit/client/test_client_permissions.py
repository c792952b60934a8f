"""A missing permission is logged with the rule that grants it."""

from __future__ import annotations

import contextlib
import json
import logging

import pytest
import yaml

from certplane import testing
from certplane.client import api, permissions


@pytest.mark.parametrize(
    ("message", "rule", "namespace"),
    [
        (
            (
                'certificatesigningrequests.certificates.k8s.io "a" is forbidden: User "jane" cannot update resource '
                '"certificatesigningrequests/approval" in API group "certificates.k8s.io" at the cluster scope'
            ),
            "- {apiGroups: ['certificates.k8s.io'], resources: [certificatesigningrequests/approval], verbs: [update]}",
            "",
        ),
        (
            (
                'leases.coordination.k8s.io "x" is forbidden: User "jane" cannot get resource "leases" in API group '
                '"coordination.k8s.io" in the namespace "kube-system"'
            ),
            "- {apiGroups: ['coordination.k8s.io'], resources: [leases], verbs: [get]}",
            "kube-system",
        ),
        (
            'csrs "a" is forbidden: user not permitted to sign requests with signerName "example.com/a"',
            (
                "- {apiGroups: ['certificates.k8s.io'], resources: [signers], resourceNames: ['example.com/a'], "
                "verbs: [sign]}"
            ),
            "",
        ),
        (
            (
                'clustertrustbundles.certificates.k8s.io "a" is forbidden: user not permitted to attest for signerName '
                '"example.com/a"'
            ),
            (
                "- {apiGroups: ['certificates.k8s.io'], resources: [signers], resourceNames: ['example.com/a'], "
                "verbs: [attest]}"
            ),
            "",
        ),
        ("a webhook does not like it", "", ""),
    ],
)
def test_the_rule_for_a_refusal(message, rule, namespace):
    """For every verb, kind and signer, with the namespace if a Role is enough. Other refusals have none. The rule has
    no quotes that the log would escape.
    """
    assert permissions.rule_for(message) == (rule, namespace)
    assert '"' not in rule
    assert not rule or {"apiGroups", "resources", "verbs"} <= set(yaml.safe_load(rule)[0])


class RefusingTransport:
    """A transport that answers every request with a 403."""

    def __init__(self, message):
        self.body = json.dumps({"kind": "Status", "message": message}).encode()

    async def send(self, request):
        return api.Response(403, {}, self.body)

    @contextlib.asynccontextmanager
    async def stream(self, request):
        yield api.Response(403, {}, chunks=self._chunks())

    async def _chunks(self):
        yield self.body[:10]
        yield self.body[10:]


@pytest.mark.parametrize(
    ("scope", "extra"),
    [("at the cluster scope", {}), ('in the namespace "a"', {"namespace": "a"})],
)
async def test_a_missing_rule_is_logged_once(scope, extra, caplog):
    """Further refusals of the same request are not logged. A refusal in a namespace is logged with the namespace."""
    clock = testing.FakeClock()
    refusing = RefusingTransport(f'User "a" cannot list resource "secrets" in API group "" {scope}')
    transport = permissions.PermissionReportingTransport(refusing, clock)
    with caplog.at_level(logging.ERROR):
        for _ in range(5):
            await transport.send(api.Request("GET", "/api/v1/secrets"))
            await clock.advance(3)
    (record,) = caplog.records
    assert record.rule == "- {apiGroups: [''], resources: [secrets], verbs: [list]}"
    assert {name: value for name, value in vars(record).items() if name == "namespace"} == extra


@pytest.mark.parametrize(("pauses", "times"), [((1, 1, 1), 0), ((8000, 1), 0), ((3600,), 1), ((8000, 10), 1)])
async def test_a_temporary_refusal_is_not_logged(pauses, times, caplog):
    """A server that has just started, or was restarted, may not have loaded its roles yet."""
    clock = testing.FakeClock()
    refusing = RefusingTransport('User "a" cannot list resource "nodes" in API group "" at')
    transport = permissions.PermissionReportingTransport(refusing, clock)
    await transport.send(api.Request("GET", "/api/v1/nodes"))
    for pause in pauses:
        await clock.advance(pause)
        await transport.send(api.Request("GET", "/api/v1/nodes"))
    assert len(caplog.records) == times


async def test_a_refused_watch_is_logged(caplog):
    """The caller reads the whole response."""
    clock = testing.FakeClock()
    refusing = RefusingTransport('User "a" cannot watch resource "nodes" in API group "" at the cluster scope')
    transport = permissions.PermissionReportingTransport(refusing, clock)
    for _ in range(2):
        async with transport.stream(api.Request("GET", "/api/v1/nodes")) as response:
            assert await response.read() == refusing.body
        await clock.advance(10)
    assert [record.rule for record in caplog.records] == ["- {apiGroups: [''], resources: [nodes], verbs: [watch]}"]


async def test_a_refusal_without_a_status_is_passed_on(caplog):
    """It may be the page of a proxy. Nothing is logged."""
    refusing = RefusingTransport("")
    refusing.body = b"<html>no</html>"
    transport = permissions.PermissionReportingTransport(refusing, testing.FakeClock())
    assert (await transport.send(api.Request("GET", "/"))).body == refusing.body
    assert not caplog.records
