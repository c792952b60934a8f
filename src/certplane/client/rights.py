"""Rights that we lack, said once each, with the rule of a ClusterRole that would grant them.

A controller that may not do something goes on trying, as somebody may grant it. This tells whoever reads the log what
to grant. It goes by the text of the refusal, which all API servers share.
"""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Final

import msgspec

from certplane.client import api

_log = logging.getLogger("certplane.client")

_REFUSED: Final = re.compile(r'cannot (\w+) resource "([^"]+)" in API group "([^"]*)"')
_SIGNER: Final = re.compile(r'user not permitted to (\w+) requests with signerName "([^"]+)"')
_ATTEST: Final = re.compile(r'user not permitted to attest for signerName "([^"]+)"')


def rule_for(message: str) -> str:
    """The rule, as a line of a ClusterRole's YAML, that a refusal asks for; empty if it is about something else."""
    refused = _REFUSED.search(message)
    if refused is not None:
        verb, resource, group = refused.groups()
        return f'- {{apiGroups: ["{group}"], resources: ["{resource}"], verbs: ["{verb}"]}}'
    signer, attest = _SIGNER.search(message), _ATTEST.search(message)
    if signer is None and attest is None:
        return ""
    verb, name = signer.groups() if signer is not None else ("attest", attest[1] if attest is not None else "")
    what = f'resources: ["signers"], resourceNames: ["{name}"], verbs: ["{verb}"]'
    return f'- {{apiGroups: ["certificates.k8s.io"], {what}}}'


class Watchful:
    """A transport that says which rights are missing. Implements `api.Transport`."""

    def __init__(self, transport: api.Transport) -> None:
        self._transport = transport
        self._said: set[str] = set()

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
            yield answer

    def _say(self, body: bytes) -> None:
        try:
            message = str(msgspec.json.decode(body)["message"])
        except (msgspec.DecodeError, KeyError, TypeError):
            return
        rule = rule_for(message)
        if rule and rule not in self._said:
            self._said.add(rule)
            _log.error("a right is missing: grant it with a rule of a ClusterRole", extra={"rule": rule})
