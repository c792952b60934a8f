"""The issuance journal: what is to be signed for a request, recorded until the certificate is published.

The signer writes a record under the request's UID before it uses the CA key. So every signature has a record, and
after a crash the signer signs the same bytes again instead of others. The content of a record is the signer's
(`Issuer.record`). Durability is that of the store.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from certplane.store import contract

_PREFIX: Final = "/certplane/issuance/"


class Journal:
    """The records of unpublished certificates, by UID. All methods raise contract.StoreError."""

    def __init__(self, store: contract.Store) -> None:
        self._store = store
        #: The revision of each entry, for the next compare-and-swap.
        self._revisions: dict[str, int] = {}

    async def record(self, uid: str, content: bytes) -> bytes:
        """Record the bytes for a UID if it has no entry yet. Returns the recorded bytes."""
        try:
            stored = await self._store.create(_PREFIX + uid, content)
        except contract.KeyExists as error:
            stored = error.current
        self._revisions[uid] = stored.mod_revision
        return stored.value

    async def replace(self, uid: str, content: bytes) -> None:
        """Replace the entry of a UID, because the recorded bytes can no longer be signed."""
        stored = await self._store.update(_PREFIX + uid, content, self._revisions[uid])
        self._revisions[uid] = stored.mod_revision

    async def delete(self, uid: str) -> None:
        """Delete the entry of a UID: its certificate is published, or never will be."""
        revision = self._revisions.pop(uid, None)
        if revision is not None:
            await self._store.delete(_PREFIX + uid, revision)

    async def entries(self) -> Sequence[tuple[str, bytes]]:
        """All entries: UID and bytes."""
        items = (await self._store.list(_PREFIX)).items
        for item in items:
            uid = item.key.removeprefix(_PREFIX)
            # An entry may have been written since it was listed.
            self._revisions[uid] = max(item.mod_revision, self._revisions.get(uid, 0))
        return [(item.key.removeprefix(_PREFIX), item.value) for item in items]
