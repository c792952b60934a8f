"""The kinds, one file each: fields, validation, lifecycle, columns, subresources. This file is the catalogue."""

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
    issuedcertificates,
    leases,
    namespaces,
    nodes,
    podcertificaterequests,
    rbac,
    reviews,
    secrets,
    serviceaccounts,
    signingpreviews,
)

#: The kinds that are always served.
DEFAULT: Final[tuple[resource.AnyResource, ...]] = (
    configmaps.RESOURCE,
    events.RESOURCE,
    namespaces.RESOURCE,
    nodes.RESOURCE,
    secrets.RESOURCE,
    serviceaccounts.RESOURCE,
    events.EVENTS_V1_RESOURCE,
    certificatesigningrequests.RESOURCE,
    leases.RESOURCE,
    *rbac.RESOURCES,
)
#: The kinds that are served if --runtime-config enables them.
OPTIONAL: Final[tuple[resource.AnyResource, ...]] = (
    clustertrustbundles.RESOURCE_V1,
    podcertificaterequests.RESOURCE_V1,
    clustertrustbundles.RESOURCE,
    podcertificaterequests.RESOURCE,
)
ALL: Final = (*DEFAULT, *OPTIONAL)
#: The kinds whose objects are in the archive: they can be read, but not written.
ARCHIVED: Final[tuple[resource.AnyArchivedResource, ...]] = (issuedcertificates.ARCHIVED,)
#: The kinds that are answered and not stored.
VIRTUAL: Final[tuple[resource.AnyVirtualResource, ...]] = (
    *reviews.VIRTUAL,
    serviceaccounts.TOKEN_REQUESTS,
    signingpreviews.RESOURCE,
)


def served(runtime_config: Mapping[str, bool]) -> tuple[resource.AnyResource, ...]:
    """The kinds to serve. The keys of --runtime-config are those of kube-apiserver: GROUP/VERSION/RESOURCE,
    GROUP/VERSION, api/beta, api/ga and api/all; the most specific one applies. Raises SetupError for an unknown key,
    and for disabling a kind that is always served.
    """
    known = {"api/all", "api/beta", "api/ga"}
    known |= {_key(kind) for kind in ALL} | {kind.api_version for kind in ALL}
    unknown = sorted(set(runtime_config) - known)
    hints = (f"these can be enabled: {', '.join(_key(kind) for kind in OPTIONAL)}",)
    if unknown:
        raise errors.SetupError(f'--runtime-config: unknown key "{unknown[0]}"', hints)
    for kind in DEFAULT:
        if runtime_config.get(_key(kind), runtime_config.get(kind.api_version)) is False:
            raise errors.SetupError(f"--runtime-config: {_key(kind)} cannot be disabled", hints)
    return (*DEFAULT, *(kind for kind in OPTIONAL if _is_enabled(kind, runtime_config)))


def _key(kind: resource.AnyResource) -> str:
    return f"{kind.api_version}/{kind.plural}"


def _is_enabled(kind: resource.AnyResource, runtime_config: Mapping[str, bool]) -> bool:
    stage = "api/beta" if "beta" in kind.version else "api/ga"
    keys = (_key(kind), kind.api_version, stage, "api/all")
    return next((runtime_config[key] for key in keys if key in runtime_config), False)
