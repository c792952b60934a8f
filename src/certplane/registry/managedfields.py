"""managedFields of every write besides server-side apply: of stored objects and of objects that are only returned."""

from __future__ import annotations

from collections.abc import Sequence

from certplane import timestamps
from certplane.meta import objects
from certplane.meta.context import VerbContext
from certplane.meta.objects import Object
from certplane.meta.shapes import Shape
from certplane.patch import apply
from certplane.wire import codec


def field_manager(
    call: VerbContext, api_version: str, subresource: str = "", ignored: Sequence[str] = ()
) -> apply.FieldManager:
    """The field manager of a call: the name in its `fieldManager` parameter, or the program in its User-Agent."""
    return apply.FieldManager(
        name=call.field_manager or call.user_agent.partition("/")[0] or "unknown",
        api_version=api_version,
        subresource=subresource,
        reset_fields=tuple(ignored),
        now=timestamps.rfc3339(call.now),
    )


def record(old: Object | None, new: Object, shape: Shape, manager: apply.FieldManager) -> None:
    """Set the managedFields of `new` after a write by `manager`. `old` is None for an object that is created."""
    old_tree = codec.to_builtins(old) if old is not None else None
    trees = apply.update(old_tree, codec.to_builtins(new), shape, manager)
    entries = [codec.decode_tree(tree, objects.ManagedFieldsEntry).object for tree in trees]
    new.metadata.managed_fields = entries or None
