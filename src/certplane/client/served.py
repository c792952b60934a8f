"""Which of some kinds a server has."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from certplane import errors
from certplane.client import api
from certplane.meta import resource


async def served(client: api.Client, kinds: Iterable[resource.Resource]) -> Sequence[resource.Resource]:
    """Those of `kinds` that the server lists. Raises errors.APIError other than NotFound, api.Unreachable."""
    known: dict[str, set[str]] = {}
    found = []
    for each in kinds:
        if each.api_version not in known:
            known[each.api_version] = await _plurals(client, each)
        if each.plural in known[each.api_version]:
            found.append(each)
    return found


async def _plurals(client: api.Client, of: resource.Resource) -> set[str]:
    root = f"/apis/{of.group}/{of.version}" if of.group else f"/api/{of.version}"
    try:
        listed = await client.read(root)
    except errors.NotFound:
        return set()
    resources = listed.get("resources") if isinstance(listed, dict) else None
    return {str(each.get("name")) for each in resources or () if isinstance(each, dict)}
