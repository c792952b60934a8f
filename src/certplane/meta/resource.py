"""The declaration that each kind fills in.

A kind is one `Resource`; discovery, OpenAPI, tables, RBAC names, REST paths and storage keys follow from it, and the
verbs in `certplane.registry` ask it the few questions below. Hooks are plain functions; they get new objects, which
they may change, and stored ones, which they must not.
"""

from __future__ import annotations

import base64
import copy
import dataclasses
import datetime
import enum
import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from certplane import clock, errors, gotext
from certplane.meta import context, objects

Problems = list[errors.FieldProblem]


def _nothing(*_: Any) -> None:
    return None


def _no_problems(*_: Any) -> Problems:
    return []


class Recheck(enum.Enum):
    """How much of the metadata a kind judges again when it is changed, after what holds of all kinds: the causes of a
    422 show it.
    """

    NOTHING = enum.auto()
    CHANGE = enum.auto()
    ALL = enum.auto()


@dataclasses.dataclass(frozen=True, slots=True)
class Column:
    """A column of the table that the server prints. `cell` gets the object and the time.

    `priority` above 0 is shown by `kubectl get -o wide` only. `type` and `format` as in OpenAPI.
    """

    name: str
    description: str
    cell: Callable[[Any, datetime.datetime], Any]
    type: str = "string"
    format: str = ""
    priority: int = 0


def age(of: Any, now: datetime.datetime) -> str:
    """The cell of every Age column: the time since an object was made, as kubectl writes it."""
    created = of.metadata.creation_timestamp
    if created is None:
        return "<unknown>"
    return gotext.human_duration((now - clock.parse_rfc3339(created)).total_seconds())


@dataclasses.dataclass(frozen=True, slots=True)
class Subresource:
    """A second door to the same object, which may write less of it.

    `owns` names the dotted paths that a write through this door may change (besides metadata); the registry restores
    everything else from the stored object. `prepare` runs after that, `validate` gets (new, old, now) and runs
    instead of the resource's `validate_update`. `ignored_fields` are the paths that never enter managedFields through
    this door. `verbs` is what can be done through it, in the order of discovery.
    """

    name: str
    owns: tuple[str, ...]
    prepare: Callable[[Any, Any, context.Call], None] = _nothing
    validate: Callable[[Any, Any, datetime.datetime], Problems] = _no_problems
    ignored_fields: tuple[str, ...] = ()
    has_table: bool = False
    verbs: tuple[str, ...] = ("get", "patch", "update")
    rechecks: Recheck = Recheck.ALL


@dataclasses.dataclass(frozen=True, slots=True)
class Hub:
    """Under which declaration objects are stored that this one shows in another form: a second version of a kind.

    `inward` turns an object of this form into one of the hub's, `outward` the other way; neither changes what it gets.
    """

    resource: Resource
    inward: Callable[[Any], Any]
    outward: Callable[[Any], Any]


@dataclasses.dataclass(frozen=True, slots=True)
class Resource:
    """A kind that is stored and served.

    `owns`: the dotted paths, besides metadata, that PUT and PATCH on the object itself may change. `validate(new)`
    runs on create; `validate_update(new, old)` on update. `name_problems(name)` are the texts of what is wrong with a
    name. `prepare_delete(new)` runs when an object with finalizers is marked as being deleted. `holds(it)` tells
    whether something besides finalizers keeps it, so that deleting only marks it. `default(new)` fills in
    what a client may leave out. `selectable` are the field selectors besides metadata.name (and metadata.namespace
    where `selects_namespace`). `unknown_selector(label)` is the text of the 400 for any other field. `hub` is set if
    the objects are stored in another form. `former` are versions that served the kind once: a patch may still say so.
    `perishable` objects are forgotten some time after their last change. An `optional` kind is served only where
    somebody asks for it. `returns_deleted`: who deletes an object gets it back.
    """

    group: str
    version: str
    kind: str
    plural: str
    type: type[objects.Object]
    namespaced: bool
    singular: str = ""
    short_names: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    description: str = ""
    owns: tuple[str, ...] = ()
    ignored_fields: tuple[str, ...] = ()
    prepare_create: Callable[[Any, context.Call], None] = _nothing
    prepare_update: Callable[[Any, Any, context.Call], None] = _nothing
    prepare_delete: Callable[[Any], None] = _nothing
    holds: Callable[[Any], bool] = lambda _: False
    default: Callable[[Any], None] = _nothing
    validate: Callable[[Any], Problems] = _no_problems
    validate_update: Callable[[Any, Any], Problems] = _no_problems
    rechecks: Recheck = Recheck.ALL
    canonicalise: Callable[[Any], None] = _nothing
    warnings: Callable[[Any], Sequence[str]] = lambda _: ()
    name_problems: Callable[[str], Sequence[str]] = lambda _: ()
    selectable: Mapping[str, Callable[[Any], str]] = dataclasses.field(default_factory=dict)
    selects_namespace: bool = True
    unknown_selector: Callable[[str], str] | None = None
    subresources: tuple[Subresource, ...] = ()
    columns: tuple[Column, ...] = ()
    creates_on_update: bool = False
    unconditional_update: bool = True
    returns_deleted: bool = False
    hub: Hub | None = None
    former: tuple[str, ...] = ()
    perishable: bool = False
    optional: bool = False
    verbs: tuple[str, ...] = (
        "create", "delete", "deletecollection", "get", "list", "patch", "update", "watch",
    )  # fmt: skip

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def api_versions(self) -> tuple[str, ...]:
        """All versions that documents of this kind may speak of."""
        return tuple(f"{self.group}/{each}" if self.group else each for each in (self.version, *self.former))

    @property
    def list_kind(self) -> str:
        return self.kind + "List"

    @property
    def singular_name(self) -> str:
        return self.singular or self.kind.lower()

    @property
    def qualified(self) -> str:
        """`plural.group`, or `plural` in the core group."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    @property
    def prefix(self) -> str:
        """Where objects of this kind are stored; as in a stock Kubernetes server, without the group."""
        return f"/registry/{self.stored.plural}/"

    @property
    def stored(self) -> Resource:
        """The declaration in whose form objects are stored, and under whose group the Kind is spoken of."""
        return self.hub.resource if self.hub is not None else self

    @property
    def storage_version_hash(self) -> str:
        """What discovery tells of the stored form: it changes when that does."""
        of = self.stored
        digest = hashlib.sha256(f"{of.group}/{of.version}/{of.kind}".encode()).digest()
        return base64.b64encode(digest[:8]).decode("ascii")

    @property
    def identity(self) -> tuple[str, str]:
        """Plural and group, as errors name the resource: as the request did."""
        return self.plural, self.group

    def key(self, namespace: str, name: str) -> str:
        return f"{self.prefix}{namespace}/{name}" if self.namespaced else f"{self.prefix}{name}"

    def subresource(self, name: str) -> Subresource | None:
        return next((each for each in self.subresources if each.name == name), None)


def later_version(of: Resource, version: str) -> Resource:
    """Another version of a kind that has the same shape."""

    def moved(to: str) -> Callable[[Any], Any]:
        def move(given: Any) -> Any:
            made = copy.copy(given)
            made.api_version = to
            return made

        return move

    api_version = f"{of.group}/{version}" if of.group else version
    return dataclasses.replace(of, version=version, hub=Hub(of, moved(of.api_version), moved(api_version)))


@dataclasses.dataclass(frozen=True, slots=True)
class Action:
    """A resource that is not stored: a POST is answered at once (the reviews of authorization and authentication).

    This declares what it looks like; who answers is given to the registry by the composition root. `parent` is set if
    it is asked of one object, at the parent's path: then `plural` is the last part of that path. `default(new)` fills
    in what a client may leave out.
    """

    group: str
    version: str
    kind: str
    plural: str
    type: type[objects.Object]
    namespaced: bool
    default: Callable[[Any], None] = _nothing
    validate: Callable[[Any], Problems] = _no_problems
    description: str = ""
    parent: Resource | None = None

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def path(self) -> tuple[str, str, str, str]:
        """Group, version, resource and subresource of the path that it is asked at."""
        of = self.parent
        if of is None:
            return self.group, self.version, self.plural, ""
        return of.group, of.version, of.plural, self.plural
