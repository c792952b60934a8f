"""API discovery: which resources a server has."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from certplane import errors
from certplane.client.api import Client
from certplane.meta.resource import AnyResource


async def served_resources(client: Client, resources: Iterable[AnyResource]) -> Sequence[AnyResource]:
    """Those of `resources` that the server has. Raises errors.APIError other than NotFound, api.Unreachable."""
    plurals: dict[str, set[str]] = {}
    served = []
    for resource in resources:
        if resource.api_version not in plurals:
            plurals[resource.api_version] = await _plurals(client, resource)
        if resource.plural in plurals[resource.api_version]:
            served.append(resource)
    return served


async def _plurals(client: Client, resource: AnyResource) -> set[str]:
    """The plural names of all resources in the group and version of one."""
    root = f"/apis/{resource.group}/{resource.version}" if resource.group else f"/api/{resource.version}"
    try:
        document = await client.read(root)
    except errors.NotFound:
        return set()
    entries = document.get("resources") if isinstance(document, dict) else None
    return {str(entry.get("name")) for entry in entries or () if isinstance(entry, dict)}
