"""What is about to be signed, kept until it is published: the signer's memory across crashes.

Before the CA key is used for a request, the bytes to be signed are here, under the request's UID, durably; so nothing
is ever signed that nobody knows of, and whoever goes on after a crash signs the same bytes again instead of others.
An engine is whatever `contract.Store` says: it decides how durable "kept" is, and who else sees it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from certplane.store import contract

_PREFIX: Final = "/certplane/issuance/"


class Journal:
    """Bytes under UIDs. Raises contract.StoreError."""

    def __init__(self, store: contract.Store) -> None:
        self._store = store
        #: What this process has written, so that it need not be looked up to be changed.
        self._revisions: dict[str, int] = {}

    async def keep(self, uid: str, to_be_signed: bytes) -> bytes:
        """Keep what is to be signed, and return it; or what was kept before for this UID."""
        try:
            kept = await self._store.create(_PREFIX + uid, to_be_signed)
        except contract.KeyExists as error:
            kept = error.current
        self._revisions[uid] = kept.mod_revision
        return kept.value

    async def replace(self, uid: str, to_be_signed: bytes) -> None:
        """Keep something else instead: what was kept cannot be signed any more."""
        kept = await self._store.update(_PREFIX + uid, to_be_signed, self._revisions[uid])
        self._revisions[uid] = kept.mod_revision

    async def forget(self, uid: str) -> None:
        """It is published, or will never be."""
        revision = self._revisions.pop(uid, None)
        if revision is not None:
            await self._store.delete(_PREFIX + uid, revision)

    async def kept(self) -> Sequence[tuple[str, bytes]]:
        """Everything that is kept, by UID."""
        found = (await self._store.list(_PREFIX)).items
        self._revisions |= {each.key.removeprefix(_PREFIX): each.mod_revision for each in found}
        return [(each.key.removeprefix(_PREFIX), each.value) for each in found]
