"""What is the same for every transport over HTTPS: targets, header fields, limits, and when a request is sent again."""

from __future__ import annotations

import dataclasses
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from certplane.client import api
from certplane.client.credentials import Identity
from certplane.client.kubeconfig import ClientConfig

_PATH_SAFE: Final = "/:@!$&'()*+,;=-._~"


@dataclasses.dataclass(frozen=True, slots=True)
class Limits:
    """How long a server may take, in seconds, and how much it may send, in bytes. The server may be a wrong one, or
    something in between.

    `connect` includes the TLS handshake. A server that sends nothing for `silence`, before a response or in the middle
    of it, is considered dead, and so is one whose response takes longer than `total` as a whole. The same for a watch:
    servers send a bookmark every minute, or end the watch after some minutes, an hour at most. `body` limits a
    response, not the sum of the events of a watch: `api` limits each event.
    """

    connect: float = 30.0
    silence: float = 75.0
    total: float = 300.0
    watch_silence: float = 900.0
    watch_total: float = 2 * 3600.0
    header: int = 64 << 10
    body: int = 128 << 20

    @property
    def body_problem(self) -> str:
        return f"sends more than {self.body} bytes"

    @property
    def time_problem(self) -> str:
        return f"did not send its whole response within {self.total:g}s"


def target(config: ClientConfig, request: api.Request) -> str:
    """The URL of a request, escaped."""
    query = f"?{urllib.parse.urlencode(request.query)}" if request.query else ""
    return config.base + urllib.parse.quote(request.path, safe=_PATH_SAFE) + query


def header_fields(
    config: ClientConfig, identity: Identity, request: api.Request, user_agent: str
) -> Sequence[tuple[str, str]]:
    """One pair for each value of each header field."""
    fields: dict[str, str | Sequence[str]] = {"user-agent": user_agent, **config.impersonation, **request.headers}
    if identity.authorization:
        fields["authorization"] = identity.authorization
    return list(_flattened(fields))


def _flattened(fields: Mapping[str, str | Sequence[str]]) -> Iterator[tuple[str, str]]:
    for name, values in fields.items():
        for value in (values,) if isinstance(values, str) else values:
            yield name, value


def has_new_credentials(configured: ClientConfig, used: ClientConfig) -> bool:
    """Whether a request that was refused with 401 should be sent again: a plugin may print other credentials, or the
    files have changed since.
    """
    return used.source.reject() or configured.current() is not used
