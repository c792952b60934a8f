"""managedFields, kept at every write that is no apply, of what is stored and of what is only answered."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from certplane import clock
from certplane.meta import apply, codec, context, objects, shape


def writer(call: context.Call, api_version: str, subresource: str = "", ignored: Sequence[str] = ()) -> apply.Writer:
    """Under which name a call owns what it writes: the one it gives, or the program it comes from."""
    return apply.Writer(
        manager=call.field_manager or call.user_agent.partition("/")[0] or "unknown",
        api_version=api_version,
        subresource=subresource,
        ignored=tuple(ignored),
        now=clock.rfc3339(call.now),
    )


def record(old: Any, new: Any, of: shape.Shape, by: apply.Writer) -> None:
    """Write into `new` who owns its fields now. `old` is None for an object that is created."""
    before = codec.to_builtins(old) if old is not None else None
    entries = apply.update(before, codec.to_builtins(new), of, by)
    found = [codec.read(each, objects.ManagedFieldsEntry).object for each in entries]
    new.metadata.managed_fields = found or None
