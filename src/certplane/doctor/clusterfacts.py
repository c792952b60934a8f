"""What a running server says: each question on its own, so that what is forbidden does not hide the rest."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime
from collections.abc import Awaitable, Mapping, Sequence
from typing import Any, Final, Generic, TypeVar

from certplane import clock, errors
from certplane.client import api
from certplane.client.api import Client
from certplane.clock import Clock
from certplane.doctor.permissionchecks import RBACFacts
from certplane.resources import certificatesigningrequests as csrs
from certplane.resources import leases, rbac
from certplane.resources.certificatesigningrequests import CertificateSigningRequest
from certplane.resources.leases import Lease

_T = TypeVar("_T")

_NAMESPACE: Final = "kube-system"
#: How long one question may take.
_SECONDS: Final = 15.0
#: Characters of a problem.
_MAX_REASON: Final = 300


@dataclasses.dataclass(frozen=True, slots=True)
class Answer(Generic[_T]):
    """The answer to a question; without a `value`, `reason` says why there is none."""

    value: _T | None = None
    reason: str = ""


NOT_ASKED: Final[Answer[Any]] = Answer(reason="the server was not asked")


@dataclasses.dataclass(frozen=True, slots=True)
class Health:
    """The response of /readyz?verbose."""

    status: int
    text: str


@dataclasses.dataclass(frozen=True, slots=True)
class ClusterFacts:
    """What a server says. `unreachable` says why there was no response at all; then nothing else is known. `date` is
    the Date header of a response, and `received` when it came.
    """

    received: datetime.datetime
    unreachable: str = ""
    date: str = ""
    health: Answer[Health] = NOT_ASKED
    requests: Answer[Sequence[CertificateSigningRequest]] = NOT_ASKED
    leases: Answer[Mapping[str, Lease]] = NOT_ASKED
    rbac: Answer[RBACFacts] = NOT_ASKED


async def gather(client: Client, timer: Clock) -> ClusterFacts:
    """Ask a server everything. Never raises for what the server answers."""
    answer = await attempt(read_health(client), timer)
    response = answer.value
    if response is None:
        return ClusterFacts(timer.now(), unreachable=answer.reason)
    received = timer.now()
    health = health_answer(response)
    requests, found_leases, permissions = await asyncio.gather(
        attempt(read_requests(client), timer), attempt(read_leases(client), timer), attempt(_permissions(client), timer)
    )
    date = response.headers.get("date", "")
    return ClusterFacts(received, "", date, health, requests, found_leases, permissions)


def health_answer(response: api.Response) -> Answer[Health]:
    """The answer in a response of /readyz."""
    if response.status in (401, 403):
        return Answer(reason=f"the server responds to /readyz with {response.status}")
    return Answer(Health(response.status, response.body.decode("utf-8", "replace")))


async def read_health(client: Client) -> api.Response:
    """The response of /readyz?verbose. Raises api.Unreachable."""
    return await client.transport.send(api.Request("GET", "/readyz", [("verbose", "")]))


async def attempt(question: Awaitable[_T], timer: Clock) -> Answer[_T]:
    """The answer of a server, or why there is none: somebody waits for it, so it must come soon."""
    try:
        return Answer(await clock.wait_for(timer, question, _SECONDS))
    except TimeoutError:
        return Answer(reason=f"the server does not respond within {_SECONDS:.0f}s")
    except errors.APIError as error:
        return Answer(reason=error.message[:_MAX_REASON])
    except api.Unreachable as error:
        return Answer(reason=str(error)[:_MAX_REASON])


async def read_requests(client: Client) -> Sequence[CertificateSigningRequest]:
    """All requests. Raises errors.APIError, api.Unreachable."""
    return (await client.list(csrs.RESOURCE)).items


async def read_leases(client: Client) -> Mapping[str, Lease]:
    """The Leases of kube-system, by name. Raises errors.APIError, api.Unreachable."""
    listing = await client.list(leases.RESOURCE, _NAMESPACE)
    return {lease.metadata.name: lease for lease in listing.items}


async def _permissions(client: Client) -> RBACFacts:
    async def items(resource: Any) -> Any:
        return (await client.list(resource)).items

    kinds = (rbac.CLUSTER_ROLES, rbac.CLUSTER_ROLE_BINDINGS, rbac.ROLES, rbac.ROLE_BINDINGS)
    return RBACFacts(*await asyncio.gather(*map(items, kinds)))
