"""The admission hooks of a write, and the order in which they run.

`mutate` hooks run before the kind's own preparation and validation; `check` hooks run last, on the finished object,
just before it is stored. Both refuse by raising an `errors.APIError`. They see the stored object as it is at the moment
of the write: when a write is retried after a conflict, they run again. `archive` returns what is archived with an
update, in the same transaction; it is not called for dry runs. `after` hooks run once for each update that was stored,
and not for dry runs or for updates without a change. They must not raise.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable, Sequence

from certplane.meta.context import VerbContext
from certplane.meta.resource import AnyObject, AnyResource
from certplane.store.archive import Entry


@dataclasses.dataclass(frozen=True, slots=True)
class AdmissionAttributes:
    """A write to be admitted. `operation` is create, update or delete; `new` is None on delete, `old` on create.

    `subresource` is empty for the object itself. `name` is the object's name; in `mutate` hooks of a create with
    generateName it is the prefix.
    """

    operation: str
    resource: AnyResource
    subresource: str
    namespace: str
    name: str
    new: AnyObject
    old: AnyObject
    call: VerbContext


Hook = Callable[[AdmissionAttributes], None]
Archive = Callable[[AdmissionAttributes], Awaitable[Sequence[Entry]]]


async def _nothing(write: AdmissionAttributes) -> Sequence[Entry]:
    del write
    return ()


@dataclasses.dataclass(frozen=True, slots=True)
class Admission:
    """The hooks of a server, each tuple in the order of execution."""

    mutate: tuple[Hook, ...] = ()
    check: tuple[Hook, ...] = ()
    archive: Archive = _nothing
    after: tuple[Hook, ...] = ()
