"""One file per kind: shape, validation, life-cycle, columns, subresources. Here is the catalogue."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from certplane import errors
from certplane.meta import resource
from certplane.resources import (
    certificatesigningrequests,
    clustertrustbundles,
    configmaps,
    events,
    leases,
    namespaces,
    nodes,
    podcertificaterequests,
    rbac,
    reviews,
    secrets,
    serviceaccounts,
)

#: What is stored and served.
DEFAULT: Final[tuple[resource.Resource, ...]] = (
    configmaps.RESOURCE,
    events.RESOURCE,
    namespaces.RESOURCE,
    nodes.RESOURCE,
    secrets.RESOURCE,
    serviceaccounts.RESOURCE,
    events.NEW_RESOURCE,
    certificatesigningrequests.RESOURCE,
    leases.RESOURCE,
    *rbac.RESOURCES,
)
#: What is served where somebody asks for it.
OPTIONAL: Final[tuple[resource.Resource, ...]] = (
    clustertrustbundles.RESOURCE_V1,
    podcertificaterequests.RESOURCE_V1,
    clustertrustbundles.RESOURCE,
    podcertificaterequests.RESOURCE,
)
ALL: Final = (*DEFAULT, *OPTIONAL)
#: What is answered and not stored.
ACTIONS: Final[tuple[resource.Action, ...]] = (*reviews.ACTIONS, serviceaccounts.TOKEN_REQUESTS)


def served(wanted: Mapping[str, bool]) -> tuple[resource.Resource, ...]:
    """The kinds to serve, by kube-apiserver's --runtime-config: keys are GROUP/VERSION/RESOURCE, GROUP/VERSION,
    api/beta and api/all; the most exact one counts. Raises SetupError for a key that is about nothing here, and for
    turning off what is always served.
    """
    known = {_key(each) for each in ALL} | {each.api_version for each in ALL} | {"api/all", "api/beta", "api/ga"}
    unknown = sorted(set(wanted) - known)
    if unknown:
        raise errors.SetupError(
            f"--runtime-config: nothing here is called {unknown[0]}",
            (_can_be_turned_on(),),
        )
    for each in DEFAULT:
        if wanted.get(_key(each), wanted.get(each.api_version)) is False:
            raise errors.SetupError(f"--runtime-config: {_key(each)} cannot be turned off", (_can_be_turned_on(),))
    return (*DEFAULT, *(each for each in OPTIONAL if _is_wanted(each, wanted)))


def _can_be_turned_on() -> str:
    return f"what can be turned on: {', '.join(_key(each) for each in OPTIONAL)}"


def _key(of: resource.Resource) -> str:
    return f"{of.api_version}/{of.plural}"


def _is_wanted(of: resource.Resource, wanted: Mapping[str, bool]) -> bool:
    stage = "api/beta" if "beta" in of.version else "api/ga"
    return next((wanted[key] for key in (_key(of), of.api_version, stage, "api/all") if key in wanted), False)
