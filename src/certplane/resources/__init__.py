"""One file per kind: shape, validation, life-cycle, columns, subresources. Here is the catalogue."""

from __future__ import annotations

from typing import Final

from certplane.meta import resource
from certplane.resources import (
    certificatesigningrequests,
    configmaps,
    events,
    leases,
    namespaces,
    rbac,
    reviews,
    secrets,
    serviceaccounts,
)

#: What is stored and served.
ALL: Final[tuple[resource.Resource, ...]] = (
    configmaps.RESOURCE,
    events.RESOURCE,
    namespaces.RESOURCE,
    secrets.RESOURCE,
    serviceaccounts.RESOURCE,
    events.NEW_RESOURCE,
    certificatesigningrequests.RESOURCE,
    leases.RESOURCE,
    *rbac.RESOURCES,
)
#: What is answered and not stored.
ACTIONS: Final[tuple[resource.Action, ...]] = (*reviews.ACTIONS, serviceaccounts.TOKEN_REQUESTS)
