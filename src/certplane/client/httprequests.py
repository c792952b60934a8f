"""What is the same for every transport over HTTPS: targets, header fields, limits, and when a request is sent again."""

from __future__ import annotations

import base64
import dataclasses
import os
import socket
import ssl
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from certplane.client import api
from certplane.client.credentials import Identity
from certplane.client.kubeconfig import ClientConfig

_PATH_SAFE: Final = "/:@!$&'()*+,;=-._~"
#: TCP keep-alive: the first probe after 30 s of silence, then every 10 s; three without a reply close the connection.
_KEEPALIVE: Final = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3}


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
    body: int = 64 << 20

    def check_body(self, length: int, config: ClientConfig) -> None:
        """Raises api.ResponseTooLarge."""
        if length > self.body:
            raise api.ResponseTooLarge(f"the server at {config.host} sends more than {self.body} bytes")


def target(config: ClientConfig, request: api.Request) -> str:
    """The URL of a request, escaped, without a user and password."""
    base = urllib.parse.urlsplit(config.base)
    path = urllib.parse.quote(base.path, safe=f"%{_PATH_SAFE}") + urllib.parse.quote(request.path, safe=_PATH_SAFE)
    query = f"?{urllib.parse.urlencode(request.query)}" if request.query else ""
    return f"https://{config.host}{path}{query}"


def header_fields(
    config: ClientConfig, identity: Identity, request: api.Request, user_agent: str
) -> Sequence[tuple[str, str]]:
    """One pair for each value of each header field."""
    fields: dict[str, str | Sequence[str]] = {"user-agent": user_agent, **config.impersonation, **request.headers}
    base = urllib.parse.urlsplit(config.base)
    if identity.authorization:
        fields["authorization"] = identity.authorization
    elif base.username:
        fields["authorization"] = basic_authorization(base)
    return list(_flattened(fields))


def basic_authorization(url: urllib.parse.SplitResult) -> str:
    """The value of an Authorization field for the user and password in a URL."""
    pair = f"{urllib.parse.unquote(url.username or '')}:{urllib.parse.unquote(url.password or '')}"
    return f"Basic {base64.b64encode(pair.encode()).decode('ascii')}"


def _flattened(fields: Mapping[str, str | Sequence[str]]) -> Iterator[tuple[str, str]]:
    for name, values in fields.items():
        for value in (values,) if isinstance(values, str) else values:
            yield name, value


def has_new_credentials(configured: ClientConfig, used: ClientConfig) -> bool:
    """Whether a request that was refused with 401 should be sent again: a plugin may print other credentials, or the
    files have changed since.
    """
    return used.source.reject() or configured.current() is not used


def set_keepalive(connection: socket.socket) -> None:
    """Enable TCP keep-alive: a watch may be silent for long, and must notice that its connection was dropped by
    something in between.
    """
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE.items():
        # Not every system has each of them.
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def problem(error: Exception) -> str:
    """Why there was no response, to follow "the server at ..."."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"is not trusted: {error.verify_message or error}"
    if isinstance(error, ssl.SSLError):
        return f"cannot be reached: TLS failed: {error.reason or error}"
    return f"cannot be reached: {reason(error)}"


def reason(error: Exception) -> str:
    """The text of the system for an error, without names and numbers."""
    if isinstance(error, TimeoutError) and not error.errno:
        return "no response in time"
    if isinstance(error, socket.gaierror | ssl.SSLError):
        return str(error.strerror)
    text = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
    return text or type(error).__name__
