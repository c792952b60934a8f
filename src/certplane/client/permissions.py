"""Logs permissions that this process lacks, once each, with the RBAC rule that would grant them.

A controller that is refused goes on trying, as the permission may be granted at any time. The rule is derived from the
text of the refusal, which all API servers share. It has no double quotes, so that the log does not escape it and it
can be pasted as it is.

A server that has just started may refuse what it permits once it has loaded its roles. So a refusal is logged only
when it is repeated.
"""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import AsyncIterator
from typing import Final

import msgspec

from certplane.client import api
from certplane.clock import Clock

_log = logging.getLogger("certplane.client")

_REFUSED: Final = re.compile(r'cannot (\w+) resource "([^"]+)" in API group "([^"]*)"(?: in the namespace "([^"]+)")?')
_SIGNER: Final = re.compile(r'user not permitted to (\w+) requests with signerName "([^"]+)"')
_ATTEST: Final = re.compile(r'user not permitted to attest for signerName "([^"]+)"')


def rule_for(message: str) -> tuple[str, str]:
    """The rule, as a line of a role's YAML, that would permit what a message refuses; and the namespace, if a Role in
    it is enough. Both are empty for other messages.
    """
    refused = _REFUSED.search(message)
    if refused is not None:
        verb, resource, group, namespace = refused.groups()
        return f"- {{apiGroups: ['{group}'], resources: [{resource}], verbs: [{verb}]}}", namespace or ""
    signer, attest = _SIGNER.search(message), _ATTEST.search(message)
    if signer is None and attest is None:
        return "", ""
    verb, name = signer.groups() if signer is not None else ("attest", attest[1] if attest is not None else "")
    return signer_rule(verb, name), ""


def signer_rule(verb: str, name: str) -> str:
    """The rule of a ClusterRole that permits to approve, sign or attest for a signer."""
    resources = f"resources: [signers], resourceNames: ['{name}']"
    return f"- {{apiGroups: ['certificates.k8s.io'], {resources}, verbs: [{verb}]}}"


#: A refusal is reported if it is repeated after so many seconds, and within so many.
_STARTUP_SECONDS: Final = 5.0
_FORGET_SECONDS: Final = 2 * 3600.0


class PermissionReportingTransport:
    """A transport that logs which permissions are missing. Implements `api.Transport`."""

    def __init__(self, transport: api.Transport, clock: Clock) -> None:
        self._transport = transport
        self._clock = clock
        #: Rule and namespace of refusals, and when they were seen first.
        self._first_seen: dict[tuple[str, str], float] = {}
        self._reported: set[tuple[str, str]] = set()

    async def send(self, request: api.Request) -> api.Response:
        response = await self._transport.send(request)
        if response.status == 403:
            self._report(response.body)
        return response

    @contextlib.asynccontextmanager
    async def stream(self, request: api.Request) -> AsyncIterator[api.Response]:
        async with self._transport.stream(request) as response:
            if response.status != 403:
                yield response
                return
            body = await response.read()
            self._report(body)
            yield api.Response(response.status, response.headers, body)

    def _report(self, body: bytes) -> None:
        try:
            message = str(msgspec.json.decode(body)["message"])
        except (ValueError, KeyError, TypeError, RecursionError):
            return
        permission = rule, namespace = rule_for(message)
        if not rule or permission in self._reported or not self._is_repeated(permission):
            return
        self._reported.add(permission)
        if namespace:
            _log.error(
                "permission missing: add the rule to a Role in the namespace, or to a ClusterRole",
                extra={"namespace": namespace, "rule": rule},
            )
        else:
            _log.error("permission missing: add the rule to a ClusterRole", extra={"rule": rule})

    def _is_repeated(self, permission: tuple[str, str]) -> bool:
        now = self._clock.monotonic()
        age = now - self._first_seen.setdefault(permission, now)
        if age > _FORGET_SECONDS:
            self._first_seen[permission] = now
        return _STARTUP_SECONDS <= age <= _FORGET_SECONDS
