"""The declaration of a kind.

A kind is one `Resource`: discovery, OpenAPI, tables, RBAC names, REST paths and storage keys are derived from it, and
the verbs in `certplane.registry` call its hooks. Hooks are plain functions; they may change the new objects that they
get, but not the stored ones.
"""

from __future__ import annotations

import base64
import copy
import dataclasses
import datetime
import enum
import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Generic, TypeAlias, TypeVar

from certplane import timestamps
from certplane.errors import Problems
from certplane.golang import formatting
from certplane.meta import shapes
from certplane.meta.context import VerbContext
from certplane.meta.objects import Object
from certplane.meta.shapes import Shape

T = TypeVar("T", bound=Object)
T_contra = TypeVar("T_contra", bound=Object, contravariant=True)


def _nothing(*_: object) -> None:
    return None


def _no_problems(*_: object) -> Problems:
    return []


class MetadataValidation(enum.Enum):
    """Which metadata rules the strategy of a kind repeats on update, after the rules for all kinds. A repeated rule
    shows as a second cause in a 422.
    """

    NOTHING = enum.auto()
    CHANGE = enum.auto()
    ALL = enum.auto()


@dataclasses.dataclass(frozen=True, slots=True)
class Column(Generic[T_contra]):
    """A column of the tables that the server prints. `cell` maps an object and the time to a value.

    A column with a `priority` above 0 is shown by `kubectl get -o wide` only. `type` and `format` are OpenAPI's.
    """

    name: str
    description: str
    cell: Callable[[T_contra, datetime.datetime], str | int | None]
    type: str = "string"
    format: str = ""
    priority: int = 0


def age(obj: Object, now: datetime.datetime) -> str:
    """The cell of every Age column: the time since an object was created, in kubectl's format."""
    created = obj.metadata.creation_timestamp
    if created is None:
        return "<unknown>"
    return formatting.human_duration((now - timestamps.parse_rfc3339(created)).total_seconds())


@dataclasses.dataclass(frozen=True, slots=True)
class Subresource(Generic[T_contra]):
    """A subresource of a kind: a path through which only some fields of the object can be written.

    `owns` are the dotted paths that a write to this subresource may change (besides metadata); the registry restores
    everything else from the stored object. `prepare(new, old, call)` runs after that; `validate(new, old, now)` runs
    instead of the resource's `validate_update`. `reset_fields` are the paths that a write to this subresource never
    records in managedFields. `verbs` are in the order of discovery.
    """

    name: str
    owns: tuple[str, ...]
    prepare: Callable[[T_contra, T_contra, VerbContext], None] = _nothing
    validate: Callable[[T_contra, T_contra, datetime.datetime], Problems] = _no_problems
    reset_fields: tuple[str, ...] = ()
    has_table: bool = False
    verbs: tuple[str, ...] = ("get", "patch", "update")
    metadata_validation: MetadataValidation = MetadataValidation.ALL


@dataclasses.dataclass(frozen=True, slots=True)
class Hub(Generic[T]):
    """The declaration in whose version the objects of another version are stored (the hub of hub-and-spoke conversion).

    `to_hub` converts an object of the other version to the hub's, `from_hub` the other way; neither changes its
    argument.
    """

    resource: AnyResource
    to_hub: Callable[[T], Object]
    from_hub: Callable[[Any], T]


@dataclasses.dataclass(frozen=True, slots=True)
class Resource(Generic[T]):
    """A kind that is stored and served; its objects are of class T.

    * `owns`: the dotted paths, besides metadata, that PUT and PATCH on the object itself may change.
    * `default(new)` fills in fields that a client may omit.
    * `validate(new)` runs on create, `validate_update(new, old)` on update; `name_problems(name)` are the errors of a
      name.
    * `prepare_delete(new)` runs when an object with finalizers is marked as being deleted. `blocks_deletion(obj)` says
      whether something besides finalizers keeps the object, so that a deletion only marks it.
    * `selectable`: the fields of field selectors besides metadata.name (and metadata.namespace, if
      `selects_namespace`), each with a function that reads it. `unknown_selector(field)` is the text of the 400 for any
      other field.
    * `hub` is set if the objects are stored in another version.
    * `former_versions` once served the kind: a patch may still name one.
    * `has_ttl`: objects are deleted some time after their last change.
    * `return_deleted_object`: a deletion returns the object instead of a Status.
    """

    group: str
    version: str
    kind: str
    plural: str
    type: type[T]
    namespaced: bool
    short_names: tuple[str, ...] = ()
    owns: tuple[str, ...] = ()
    reset_fields: tuple[str, ...] = ()
    prepare_create: Callable[[T, VerbContext], None] = _nothing
    prepare_update: Callable[[T, T, VerbContext], None] = _nothing
    prepare_delete: Callable[[T], None] = _nothing
    blocks_deletion: Callable[[T], bool] = lambda _: False
    default: Callable[[T], None] = _nothing
    validate: Callable[[T], Problems] = _no_problems
    validate_update: Callable[[T, T], Problems] = _no_problems
    metadata_validation: MetadataValidation = MetadataValidation.ALL
    canonicalise: Callable[[T], None] = _nothing
    warnings: Callable[[T], Sequence[str]] = lambda _: ()
    name_problems: Callable[[str], Sequence[str]] = lambda _: ()
    selectable: Mapping[str, Callable[[T], str]] = dataclasses.field(default_factory=dict)
    selects_namespace: bool = True
    unknown_selector: Callable[[str], str] | None = None
    subresources: tuple[Subresource[T], ...] = ()
    columns: tuple[Column[T], ...] = ()
    allow_create_on_update: bool = False
    allow_unconditional_update: bool = True
    return_deleted_object: bool = False
    hub: Hub[T] | None = None
    former_versions: tuple[str, ...] = ()
    has_ttl: bool = False
    verbs: tuple[str, ...] = (
        "create", "delete", "deletecollection", "get", "list", "patch", "update", "watch",
    )  # fmt: skip

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def api_versions(self) -> tuple[str, ...]:
        """All apiVersions that documents of this kind may have."""
        versions = (self.version, *self.former_versions)
        return tuple(f"{self.group}/{version}" if self.group else version for version in versions)

    @property
    def shape(self) -> Shape:
        return shapes.shape_of(self.type)

    @property
    def list_kind(self) -> str:
        return self.kind + "List"

    @property
    def singular_name(self) -> str:
        return self.kind.lower()

    @property
    def qualified(self) -> str:
        """`plural.group`, or `plural` in the core group."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    @property
    def prefix(self) -> str:
        """The prefix of the storage keys; without the group, as in kube-apiserver."""
        return f"/registry/{self.storage_resource.plural}/"

    @property
    def storage_resource(self) -> AnyResource:
        """The declaration in whose version the objects are stored, and whose group errors print with the kind."""
        return self.hub.resource if self.hub is not None else self

    @property
    def storage_version_hash(self) -> str:
        """The hash of the storage version in discovery: it changes when the version does."""
        stored = self.storage_resource
        digest = hashlib.sha256(f"{stored.group}/{stored.version}/{stored.kind}".encode()).digest()
        return base64.b64encode(digest[:8]).decode("ascii")

    @property
    def identity(self) -> tuple[str, str]:
        """Plural and group of the request, which errors print."""
        return self.plural, self.group

    def key(self, namespace: str, name: str) -> str:
        return f"{self.prefix}{namespace}/{name}" if self.namespaced else f"{self.prefix}{name}"

    def subresource(self, name: str) -> Subresource[T] | None:
        return next((subresource for subresource in self.subresources if subresource.name == name), None)


#: An object whose class depends on the request. The code that reads its fields has checked the kind.
AnyObject: TypeAlias = Any
#: A kind whose class is not known here: in a collection of kinds, or where the kind comes with the request.
AnyResource: TypeAlias = Resource[Any]
AnySubresource: TypeAlias = Subresource[Any]


@dataclasses.dataclass(frozen=True, slots=True)
class ArchivedResource(Generic[T]):
    """A kind whose objects are in the archive of the store: they can be read, but not written by clients.

    `index`: the fields of field selectors besides metadata.name, each with a function that returns its values in an
    object. `normalise(field, value)` brings the value of a selector into the form of the index. `ends(obj)` is when the
    object ends, in seconds since 1970: the order of lists.
    """

    resource: Resource[T]
    collection: str
    index: Mapping[str, Callable[[T], Sequence[str]]]
    normalise: Callable[[str, str], str]
    ends: Callable[[T], int]

    def terms(self, obj: T) -> Sequence[str]:
        """The terms by which the archive finds an object."""
        return [term(label, value) for label, values in self.index.items() for value in values(obj)]


AnyArchivedResource: TypeAlias = ArchivedResource[Any]


def term(label: str, value: str) -> str:
    """The term for the value of a field. A long value is replaced by its digest."""
    if len(value) > _MAX_TERM:
        value = hashlib.sha256(value.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{label}={value}".replace("\0", "\N{REPLACEMENT CHARACTER}")


#: Characters of a value in a term. Whoever requests a certificate chooses some of them.
_MAX_TERM: Final = 253


def later_version(resource: Resource[T], version: str) -> Resource[T]:
    """Another version of a kind, whose fields are the same."""

    def set_version(api_version: str) -> Callable[[T], T]:
        def convert(obj: T) -> T:
            converted = copy.copy(obj)
            converted.api_version = api_version
            return converted

        return convert

    api_version = f"{resource.group}/{version}" if resource.group else version
    hub = Hub(resource, set_version(resource.api_version), set_version(api_version))
    return dataclasses.replace(resource, version=version, hub=hub)


@dataclasses.dataclass(frozen=True, slots=True)
class VirtualResource(Generic[T]):
    """A kind that is not stored: a POST is answered at once (the reviews of authorization and authentication).

    This is the declaration; the composition root gives the handler to the registry. `parent` is set for a subresource
    of a stored kind (`serviceaccounts/token`): then `plural` is the last segment of its path. `default(new)` fills in
    fields that a client may omit.
    """

    group: str
    version: str
    kind: str
    plural: str
    type: type[T]
    namespaced: bool
    default: Callable[[T], None] = _nothing
    validate: Callable[[T], Problems] = _no_problems
    parent: AnyResource | None = None

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def shape(self) -> Shape:
        return shapes.shape_of(self.type)

    @property
    def path(self) -> tuple[str, str, str, str]:
        """Group, version, resource and subresource of its path."""
        parent = self.parent
        if parent is None:
            return self.group, self.version, self.plural, ""
        return parent.group, parent.version, parent.plural, self.plural


AnyVirtualResource: TypeAlias = VirtualResource[Any]
#: A kind that is stored, or one that is only answered.
AnyKind: TypeAlias = AnyResource | AnyVirtualResource
