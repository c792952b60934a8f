"""Rights that we lack, said once each, with the rule of a role that would grant them.

A controller that may not do something goes on trying, as somebody may grant it. This tells whoever reads the log what
to grant. It goes by the text of the refusal, which all API servers share. A rule has no double quotes in it, so that
the log need not escape it and it can be pasted as it stands there.

A server that has just begun refuses what it permits as soon as it knows its roles. So nothing is said of a refusal that
does not come again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Final

import msgspec

from certplane import clock as clocks
from certplane.client import api

_log = logging.getLogger("certplane.client")

_REFUSED: Final = re.compile(r'cannot (\w+) resource "([^"]+)" in API group "([^"]*)"(?: in the namespace "([^"]+)")?')
_SIGNER: Final = re.compile(r'user not permitted to (\w+) requests with signerName "([^"]+)"')
_ATTEST: Final = re.compile(r'user not permitted to attest for signerName "([^"]+)"')


def rule_for(message: str) -> tuple[str, str]:
    """The rule, as a line of a role's YAML, that a refusal asks for, and the namespace of which a Role would do; both
    empty if it is about something else.
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
    """The rule of a ClusterRole that lets somebody approve, sign or attest for a signer."""
    what = f"resources: [signers], resourceNames: ['{name}'], verbs: [{verb}]"
    return f"- {{apiGroups: ['certificates.k8s.io'], {what}}}"


#: A refusal that comes again after so many seconds is meant; one that comes after hours is another one.
_BEGINNING: Final = 5.0
_LONG_AGO: Final = 2 * 3600.0


@dataclasses.dataclass(frozen=True, slots=True)
class _Read:
    """An answer that was read already. Implements `api.Chunks`."""

    status: int
    headers: Mapping[str, str]
    chunks: AsyncIterator[bytes]


async def _once(body: bytes) -> AsyncIterator[bytes]:
    yield body


class Watchful:
    """A transport that says which rights are missing. Implements `api.Transport`."""

    def __init__(self, transport: api.Transport, clock: clocks.Clock) -> None:
        self._transport = transport
        self._clock = clock
        self._first: dict[tuple[str, str], float] = {}
        self._said: set[tuple[str, str]] = set()

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Sequence[tuple[str, str]] = (),
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
    ) -> api.Response:
        answer = await self._transport.request(method, path, query=query, headers=headers, body=body)
        if answer.status == 403:
            self._say(answer.body)
        return answer

    @contextlib.asynccontextmanager
    async def stream(
        self,
        method: str,
        path: str,
        *,
        query: Sequence[tuple[str, str]] = (),
        headers: Mapping[str, str] | None = None,
    ) -> AsyncIterator[api.Chunks]:
        async with self._transport.stream(method, path, query=query, headers=headers) as answer:
            if answer.status != 403:
                yield answer
                return
            body = b"".join([chunk async for chunk in answer.chunks])
            self._say(body)
            yield _Read(answer.status, answer.headers, _once(body))

    def _say(self, body: bytes) -> None:
        try:
            message = str(msgspec.json.decode(body)["message"])
        except (msgspec.DecodeError, KeyError, TypeError):
            return
        found = rule, namespace = rule_for(message)
        if not rule or found in self._said or not self._is_meant(found):
            return
        self._said.add(found)
        if namespace:
            _log.error(
                "a right is missing: grant it with a rule of a Role in the namespace, or of a ClusterRole",
                extra={"namespace": namespace, "rule": rule},
            )
        else:
            _log.error("a right is missing: grant it with a rule of a ClusterRole", extra={"rule": rule})

    def _is_meant(self, found: tuple[str, str]) -> bool:
        now = self._clock.monotonic()
        ago = now - self._first.setdefault(found, now)
        if ago > _LONG_AGO:
            self._first[found] = now
        return _BEGINNING <= ago <= _LONG_AGO
