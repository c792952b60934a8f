"""A right that is missing is said with the rule that grants it."""

from __future__ import annotations

import json
import logging

import pytest

from certplane.client import rights


@pytest.mark.parametrize(
    ("message", "rule"),
    [
        (
            (
                'certificatesigningrequests.certificates.k8s.io "a" is forbidden: User "jane" cannot update resource '
                '"certificatesigningrequests/approval" in API group "certificates.k8s.io" at the cluster scope'
            ),
            (
                '- {apiGroups: ["certificates.k8s.io"], resources: ["certificatesigningrequests/approval"], '
                'verbs: ["update"]}'
            ),
        ),
        (
            (
                'leases.coordination.k8s.io "x" is forbidden: User "jane" cannot get resource "leases" in API group '
                '"coordination.k8s.io" in the namespace "kube-system"'
            ),
            '- {apiGroups: ["coordination.k8s.io"], resources: ["leases"], verbs: ["get"]}',
        ),
        (
            'csrs "a" is forbidden: user not permitted to sign requests with signerName "example.com/a"',
            (
                '- {apiGroups: ["certificates.k8s.io"], resources: ["signers"], resourceNames: ["example.com/a"], '
                'verbs: ["sign"]}'
            ),
        ),
        (
            (
                'clustertrustbundles.certificates.k8s.io "a" is forbidden: user not permitted to attest for signerName '
                '"example.com/a"'
            ),
            (
                '- {apiGroups: ["certificates.k8s.io"], resources: ["signers"], resourceNames: ["example.com/a"], '
                'verbs: ["attest"]}'
            ),
        ),
        ("a webhook does not like it", ""),
    ],
)
def test_a_refusal_names_its_rule(message, rule):
    """Whatever the verb, the kind or the signer; other refusals name none."""
    assert rights.rule_for(message) == rule


class Refusing:
    """A server that refuses everything."""

    status = 403
    headers: dict[str, str] = {}  # noqa: RUF012 - never changed

    def __init__(self, message):
        self.body = json.dumps({"kind": "Status", "message": message}).encode()

    async def request(self, *arguments, **named):
        return self


async def test_it_is_said_once(caplog):
    """However often it is refused."""
    transport = rights.Watchful(Refusing('User "a" cannot list resource "nodes" in API group "" at the cluster scope'))
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            await transport.request("GET", "/api/v1/nodes")
    assert [each.rule for each in caplog.records] == ['- {apiGroups: [""], resources: ["nodes"], verbs: ["list"]}']


async def test_a_refusal_that_is_no_status_is_passed_on(caplog):
    """Such as the page of a proxy."""
    refusing = Refusing("")
    refusing.body = b"<html>no</html>"
    assert await rights.Watchful(refusing).request("GET", "/") is refusing
    assert not caplog.records
