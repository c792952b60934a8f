"""The hooks of a write, and the order in which they run.

`mutate` hooks run before the kind's own preparation and validation; `check` hooks run last, on the finished object,
just before it is stored. Both refuse by raising an `errors.APIError`. Checks see the stored object as it is at the
moment of the write: when a write is retried after a conflict, they run again. `after` hooks hear of updates that are
stored, once each; dry runs and updates that changed nothing are none. They must not fail.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from certplane.meta import context, resource


@dataclasses.dataclass(frozen=True, slots=True)
class Review:
    """A write under way. `operation` is create, update or delete; `new` is None on delete, `old` on create.

    `name` is the object's (on a create with generateName, in `mutate` hooks, the prefix).
    """

    operation: str
    resource: resource.Resource
    subresource: str
    namespace: str
    name: str
    new: Any
    old: Any
    call: context.Call


Hook = Callable[[Review], None]


@dataclasses.dataclass(frozen=True, slots=True)
class Admission:
    """The hooks of a server, in order."""

    mutate: tuple[Hook, ...] = ()
    check: tuple[Hook, ...] = ()
    after: tuple[Hook, ...] = ()
