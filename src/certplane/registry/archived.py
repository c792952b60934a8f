"""Reads of a kind whose objects are in the archive of the store.

Lists are in the order of their end, and have pages, but are no snapshots: objects that are added while a client reads
page after page may appear on a later page. The fields `endsAfter` and `endsBefore` of a field selector select by the
end: by a time, or by a duration from now.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final, Generic, TypeAlias, TypeVar

from certplane import errors, timestamps
from certplane.clock import Clock
from certplane.golang import formatting
from certplane.meta import resource, selectors
from certplane.meta.objects import Object
from certplane.meta.options import ListOptions
from certplane.meta.resource import ArchivedResource
from certplane.meta.selectors import Term
from certplane.registry import paging
from certplane.registry.encodedobjects import EncodedObject
from certplane.registry.reads import Listing, Stream
from certplane.store import archive, contract

T = TypeVar("T", bound=Object)

#: Objects in one response, at most. A list without a limit that has more is refused: it would not be complete.
MAX_PAGE: Final = 10_000

#: Requirements in a field selector: each is a test on every entry that is examined.
_MAX_REQUIREMENTS: Final = 20

ENDS_AFTER: Final = "endsAfter"
ENDS_BEFORE: Final = "endsBefore"
_DURATION: Final = re.compile(r"(-?)([0-9]{1,6})(s|m|h|d)")
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class ArchiveReader(Generic[T]):
    """Reads objects of one kind. Has the methods of `reads.Reader`."""

    def __init__(self, kind: ArchivedResource[T], store: contract.Store, clock: Clock) -> None:
        self._kind = kind
        self._resource = kind.resource
        self._store = store
        self._clock = clock

    async def get(self, namespace: str, name: str, resource_version: str = "") -> EncodedObject[T]:
        """Raises NotFound."""
        del namespace, resource_version
        stored = await self._read(name)
        if stored is None:
            raise errors.NotFound(*self._resource.identity, name)
        return stored

    async def _read(self, name: str) -> EncodedObject[T] | None:
        try:
            stored = await self._store.archive.get(self._kind.collection, name)
        except contract.StoreClosed as error:
            raise errors.ServiceUnavailable(str(error)) from error
        return self._document(stored) if stored is not None else None

    async def list(self, namespace: str, options: ListOptions) -> Listing[T]:
        """Raises BadRequest for bad selectors and tokens, and without a limit if there are more than MAX_PAGE."""
        del namespace
        fields = selectors.parse_fields(options.field_selector).terms if options.field_selector else ()
        labels = selectors.parse_labels(options.label_selector) if options.label_selector else None
        query, names = self._query(fields, _position(options.continue_token))
        limit = min(options.limit, MAX_PAGE) if options.limit > 0 else MAX_PAGE
        try:
            revision = await self._store.archive.newest() or 1
            if labels is not None and not labels.matches({}):
                # The objects have no labels.
                return Listing((), revision)
            if names:
                return Listing(await self._named(query, names), revision)
            found = await self._store.archive.find(query, limit)
        except contract.StoreClosed as error:
            raise errors.ServiceUnavailable(str(error)) from error
        if found.next is None:
            return Listing([self._document(entry) for entry in found.entries], revision)
        if options.limit <= 0:
            raise errors.BadRequest(
                f"there are too many {self._resource.plural} for one response: set a limit of at most {MAX_PAGE}, "
                "continue with the token in the response, or select fewer"
            )
        documents = [self._document(entry) for entry in found.entries]
        return Listing(documents, revision, paging.encode(f"{found.next.ends},{found.next.sequence}", revision))

    async def watch(self, namespace: str, options: ListOptions) -> Stream[T]:
        """Raises MethodNotAllowed: the archive reports no changes."""
        del namespace, options
        raise errors.MethodNotAllowed

    async def _named(self, query: archive.Query, names: Sequence[str]) -> Sequence[EncodedObject[T]]:
        """The object of a name, if it is selected: `names` are what the selector requires of metadata.name."""
        document = await self._read(names[0]) if len(set(names)) == 1 else None
        if document is None:
            return ()
        terms, ends = set(self._kind.terms(document.object)), self._kind.ends(document.object)
        if not set(query.terms) <= terms or set(query.without) & terms:
            return ()
        is_late = query.ends_before is not None and ends >= query.ends_before
        is_early = query.ends_from is not None and ends < query.ends_from
        return () if is_late or is_early else (document,)

    def _query(self, fields: Sequence[Term], after: archive.Position | None) -> tuple[archive.Query, Sequence[str]]:
        """The search for a field selector, and the values that metadata.name must have."""
        if len(fields) > _MAX_REQUIREMENTS:
            raise errors.BadRequest(f"a field selector of this kind has at most {_MAX_REQUIREMENTS} requirements")
        names: list[str] = []
        terms: list[str] = []
        without: list[str] = []
        bounds: dict[str, list[int]] = {ENDS_AFTER: [], ENDS_BEFORE: []}
        for requirement in fields:
            label, value = requirement.field, requirement.value
            if label in bounds and requirement.operator == "=":
                bounds[label].append(self._moment(label, value))
            elif label == "metadata.name" and requirement.operator == "=":
                names.append(value)
            elif label in self._kind.index:
                wanted = terms if requirement.operator == "=" else without
                wanted.append(resource.term(label, self._kind.normalise(label, value)))
            else:
                known = ", ".join(("metadata.name", *sorted((*self._kind.index, *bounds))))
                raise errors.BadRequest(
                    f"{formatting.quote(label)} is not a known field selector, or not with {requirement.operator}: "
                    f"only {known}"
                )
        query = archive.Query(
            self._kind.collection,
            tuple(terms),
            tuple(without),
            ends_from=max(bounds[ENDS_AFTER], default=None),
            ends_before=min(bounds[ENDS_BEFORE], default=None),
            after=after,
        )
        return query, names

    def _moment(self, label: str, value: str) -> int:
        """A time in seconds since 1970: an RFC 3339 time, a date, or a duration from now."""
        match = _DURATION.fullmatch(value)
        if match is not None:
            seconds = int(match[2]) * _SECONDS[match[3]]
            return int(self._clock.now().timestamp()) + (-seconds if match[1] else seconds)
        try:
            text = value if "T" in value else f"{value}T00:00:00Z"
            return int(timestamps.parse_rfc3339(text).timestamp())
        except ValueError as error:
            raise errors.BadRequest(
                f"{label}: {formatting.quote(formatting.shorten(value, 100))} is neither a time such as "
                "2026-01-31T12:00:00Z, nor a date, nor a duration from now such as 30d"
            ) from error

    def _document(self, stored: archive.Stored) -> EncodedObject[T]:
        return EncodedObject(self._resource, stored.value, stored.position.sequence)


#: A reader of a kind that is not known here.
AnyArchiveReader: TypeAlias = ArchiveReader[Any]


def _position(token: str) -> archive.Position | None:
    """The position in a continue token. Raises BadRequest."""
    if not token:
        return None
    start = paging.decode(token).start
    match = re.fullmatch(r"(-?[0-9]{1,18}),([0-9]{1,18})", start)
    if match is None:
        raise errors.BadRequest("invalid continue token: continue key is not valid: it is for another kind")
    return archive.Position(int(match[1]), int(match[2]))
