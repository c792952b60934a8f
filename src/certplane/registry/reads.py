"""The verbs get, list and watch, once for all kinds.

Reads are served by the watch cache, which in one process is never behind the store. Only pages and lists *at* an older
revision read the store. In a watch with a selector, an object that starts to match is ADDED; one that stops matching is
DELETED, with its last matching content and the revision of the change.

Source: `k8s.io/apiserver/pkg/storage/cacher`; api-concepts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator, Callable, Hashable, Sequence
from typing import Any, Final, Generic, TypeAlias, TypeVar

from certplane import errors
from certplane.clock import Clock
from certplane.golang import formatting
from certplane.meta import selectors
from certplane.meta.objects import Object
from certplane.meta.options import ListOptions
from certplane.meta.selectors import FieldSelector
from certplane.registry import encodedobjects, paging
from certplane.registry.encodedobjects import EncodedObject
from certplane.registry.verbs import Registry
from certplane.store import contract
from certplane.store.watchcache import Entry, Event, Watcher

T = TypeVar("T", bound=Object)

#: How long a read waits for a resourceVersion that is still in the future, as in kube-apiserver.
MAX_WAIT_SECONDS: Final = 3.0
_TOO_OLD: Final = "The resourceVersion for the provided list is too old."
_PAGE_TOO_OLD: Final = (
    "The provided continue parameter is too old to display a consistent list result. You can start a new list without "
    "the continue parameter, or use the continue token in this response to retrieve the remainder of the results. "
    "Continuing with the provided token results in an inconsistent list - objects that were created, modified, or "
    "deleted between the time the first chunk was returned and now may show up in the list."
)

Predicate = Callable[[EncodedObject[T]], bool]


class WatchEvent(Generic[T]):
    """One watch event. `frames` holds its encoded forms, each made once for all watchers that want that form."""

    __slots__ = ("document", "frames", "type")

    def __init__(self, type_: str, document: EncodedObject[T]) -> None:
        self.type = type_
        self.document = document
        self.frames: dict[Hashable, bytes] = {}


@dataclasses.dataclass(frozen=True, slots=True)
class Listing(Generic[T]):
    """A part of a collection at one revision. `continue_` is empty on the last page."""

    documents: Sequence[EncodedObject[T]]
    revision: int
    continue_: str = ""
    remaining: int | None = None


@dataclasses.dataclass(slots=True)
class Stream(Generic[T]):
    """A running watch. `initial` are the objects to start with; if `initial_end`, a bookmark has to follow them.

    `events` yields batches; an empty batch means that `watcher.wake` was called.
    """

    initial: Sequence[EncodedObject[T]]
    revision: int
    initial_end: bool
    events: AsyncIterator[Sequence[WatchEvent[T]]]
    watcher: Watcher


class Reader(Generic[T]):
    """Reads objects of one kind; `Registry` writes them."""

    def __init__(self, registry: Registry[T], clock: Clock) -> None:
        self._registry = registry
        self._resource = registry.resource
        self._collection = registry.collection
        self._clock = clock

    async def get(self, namespace: str, name: str, resource_version: str = "") -> EncodedObject[T]:
        """The object, at `resource_version` or later. Raises NotFound; Timeout if that version does not come."""
        resource, cache = self._resource, self._registry.cache
        minimum = _parse_revision(resource_version)
        await cache.fresh()
        if minimum > cache.revision:
            await self._wait_for(minimum)
        entry = self._collection.get(resource.key(namespace, name))
        if entry is None:
            raise self._registry.missing(namespace, name)
        return encodedobjects.from_entry(resource, entry)

    async def list(self, namespace: str, options: ListOptions) -> Listing[T]:
        """Raises BadRequest for bad selectors, tokens and revisions; Expired; Timeout."""
        matches = self._predicate(options)
        # resourceVersion=0 (any version) is answered without pages. Kubernetes compares the text: "00" is not "0".
        limit = 0 if options.resource_version == "0" else max(options.limit, 0)
        if options.continue_token:
            token = paging.decode(options.continue_token)
            if options.resource_version not in ("", "0"):
                raise errors.BadRequest("specifying resource version is not allowed when using continue")
            return await self._page(namespace, limit, matches, token.start, max(token.revision, 0))
        revision = paging.parse_revision(options.resource_version)
        await self._registry.cache.fresh()
        if not revision:
            key = self._single_key(namespace, options)
            if key:
                return self._page_of_key(key, matches)
            return await self._page(namespace, limit, matches, "", 0)
        if revision > self._registry.cache.revision:
            await self._wait_for(revision)
        exact = options.resource_version_match == "Exact" or (limit > 0 and not options.resource_version_match)
        return await self._page(namespace, limit, matches, "", revision if exact else 0)

    async def watch(self, namespace: str, options: ListOptions) -> Stream[T]:
        """Start a watch. One that starts at a future revision skips all changes until then.

        Raises BadRequest; Expired if the revision is too old; Timeout if initial events are wanted at a revision that
        does not come.
        """
        collection, cache = self._collection, self._registry.cache
        matches = self._predicate(options)
        revision = _parse_revision(options.resource_version)
        await cache.fresh()
        if options.send_initial_events and revision > cache.revision:
            await self._wait_for(revision, options.timeout_seconds or MAX_WAIT_SECONDS)
        from_start = options.send_initial_events if options.send_initial_events is not None else revision == 0
        after = None if from_start or revision == 0 else revision
        prefix = self._single_key(namespace, options) or self._prefix(namespace)
        try:
            watcher = collection.watch(after, prefix)
        except contract.Compacted as error:
            raise errors.Expired(f"too old resource version: {revision} ({error.oldest - 1})") from error
        initial: list[EncodedObject[T]] = []
        if from_start:
            entries, _ = collection.list(prefix)
            documents = map(self._document, entries)
            initial = [document for document in documents if matches is None or matches(document)]
        return Stream(
            initial,
            cache.revision,
            bool(options.send_initial_events) and options.allow_watch_bookmarks,
            self._watch_events(watcher, matches),
            watcher,
        )

    async def _watch_events(
        self, watcher: Watcher, matches: Predicate[T] | None
    ) -> AsyncIterator[Sequence[WatchEvent[T]]]:
        async for changes in watcher:
            events = [event for change in changes if (event := self._watch_event(change, matches)) is not None]
            if events or not changes:
                yield events

    def _watch_event(self, change: Event, matches: Predicate[T] | None) -> WatchEvent[T] | None:
        now = change.current is not None
        before = change.previous is not None
        if matches is not None:
            now = change.current is not None and matches(self._document(change.current))
            before = change.previous is not None and matches(self._document(change.previous))
        if now:
            return self._shared(change, "MODIFIED" if before else "ADDED")
        return self._shared(change, "DELETED") if before else None

    def _shared(self, change: Event, type_: str) -> WatchEvent[T]:
        # Versions of a kind share the changes of the cache: each version has its own watch events.
        events: dict[tuple[str, str], WatchEvent[T]] | None = change.memo
        if events is None:
            events = change.memo = {}
        key = self._resource.api_version, type_
        event = events.get(key)
        if event is None:
            if type_ == "DELETED":
                assert change.previous is not None  # noqa: S101 - a deleted object had a previous value
                document = EncodedObject(self._resource, change.previous.value, change.revision)
            else:
                assert change.current is not None  # noqa: S101 - an added or modified object has a current value
                document = self._document(change.current)
            event = events[key] = WatchEvent(type_, document)
        return event

    # --- pages ----------------------------------------------------------------------------------------------------

    async def _page(
        self, namespace: str, limit: int, matches: Predicate[T] | None, start: str, revision: int
    ) -> Listing[T]:
        """One page at `revision` (0: the newest), from the key `start` on, relative to the prefix."""
        prefix = self._prefix(namespace)
        start_key = prefix + start if start else ""
        if revision in (0, self._registry.cache.revision):
            return self._page_from_cache(prefix, start_key, limit, matches)
        documents: list[EncodedObject[T]] = []
        while True:
            missing = limit - len(documents) if limit else 0
            try:
                page = await self._registry.store.list(prefix, start=start_key, limit=missing, revision=revision)
            except contract.Compacted as error:
                if start:
                    raise errors.Expired.with_continue(_PAGE_TOO_OLD, paging.encode(start, -1)) from error
                raise errors.Expired(_TOO_OLD) from error
            except contract.FutureRevision as error:
                raise errors.Timeout.too_large_revision(error.revision, error.current) from error
            except contract.StoreClosed as error:
                raise errors.ServiceUnavailable(str(error)) from error
            for item in page.items:
                if item.key in self._collection.corrupt:
                    continue
                document = EncodedObject(self._resource, item.value, item.mod_revision)
                if matches is None or matches(document):
                    documents.append(document)
            if not page.remaining or (limit and len(documents) >= limit):
                last = page.items[-1].key if page.remaining else ""
                return _listing(documents, revision, prefix, last, page.remaining if matches is None else None)
            start_key = page.items[-1].key + "\x00"

    def _page_of_key(self, key: str, matches: Predicate[T] | None) -> Listing[T]:
        entry = self._collection.get(key)
        documents = [self._document(entry)] if entry is not None else []
        matching = [document for document in documents if matches is None or matches(document)]
        return Listing(matching, self._registry.cache.revision)

    def _page_from_cache(self, prefix: str, start_key: str, limit: int, matches: Predicate[T] | None) -> Listing[T]:
        revision = self._registry.cache.revision
        if matches is None:
            entries, remaining = self._collection.list(prefix, start_key, limit)
            documents = [self._document(entry) for entry in entries]
            return _listing(documents, revision, prefix, entries[-1].key if remaining else "", remaining)
        entries, _ = self._collection.list(prefix, start_key)
        documents = []
        for position, entry in enumerate(entries):
            document = self._document(entry)
            if matches(document):
                documents.append(document)
                if limit and len(documents) == limit and position + 1 < len(entries):
                    return _listing(documents, revision, prefix, entry.key, None)
        return _listing(documents, revision, prefix, "", None)

    # --- selection ------------------------------------------------------------------------------------------------

    def _prefix(self, namespace: str) -> str:
        return f"{self._resource.prefix}{namespace}/" if namespace else self._resource.prefix

    def _single_key(self, namespace: str, options: ListOptions) -> str:
        """The key of the object if the field selector requires one metadata.name; else empty. Clients often wait for a
        single object with a list and a watch.
        """
        resource = self._resource
        if not options.field_selector or (resource.namespaced and not namespace):
            return ""
        name = selectors.parse_fields(options.field_selector).required_value("metadata.name")
        return resource.key(namespace, name) if name else ""

    def _document(self, entry: Entry) -> EncodedObject[T]:
        return encodedobjects.from_entry(self._resource, entry)

    def _predicate(self, options: ListOptions) -> Predicate[T] | None:
        tests: list[Predicate[T]] = []
        if options.field_selector:
            fields = selectors.parse_fields(options.field_selector)
            getters = self._getters(fields)
            tests.append(lambda document: fields.matches(lambda label: getters[label](document.object)))
        if options.label_selector:
            labels = selectors.parse_labels(options.label_selector)
            if labels.requirements:
                tests.append(lambda document: labels.matches(document.object.metadata.labels))
        if not tests:
            return None
        return tests[0] if len(tests) == 1 else lambda document: all(test(document) for test in tests)

    def _getters(self, fields: FieldSelector) -> dict[str, Callable[[T], str]]:
        resource = self._resource
        getters: dict[str, Callable[[T], str]] = {"metadata.name": lambda obj: obj.metadata.name}
        getters |= resource.selectable
        if resource.selects_namespace:
            getters["metadata.namespace"] = lambda obj: obj.metadata.namespace
        for term in fields.terms:
            if term.field not in getters:
                raise errors.BadRequest(_unknown_label(resource.unknown_selector, term.field))
        return getters

    async def _wait_for(self, revision: int, seconds: float = MAX_WAIT_SECONDS) -> None:
        cache = self._registry.cache
        if not await cache.wait_for(revision, self._clock, min(seconds, MAX_WAIT_SECONDS)):
            raise errors.Timeout.too_large_revision(revision, cache.revision)


#: A reader of a kind that is not known here, and what it returns.
AnyReader: TypeAlias = Reader[Any]
AnyListing: TypeAlias = Listing[Any]
AnyWatchEvent: TypeAlias = WatchEvent[Any]
AnyStream: TypeAlias = Stream[Any]


def _unknown_label(text: Callable[[str], str] | None, label: str) -> str:
    if text is not None:
        return text(label)
    return f'{formatting.quote(label)} is not a known field selector: only "metadata.name", "metadata.namespace"'


def _parse_revision(text: str) -> int:
    try:
        return paging.parse_revision(text)
    except errors.BadRequest as error:
        # In kube-apiserver, get and watch parse the version later than list does, and report a 500 without a reason.
        raise errors.UnknownReasonError(error.message.removeprefix("invalid resource version: ")) from error


def _listing(
    documents: Sequence[EncodedObject[T]], revision: int, prefix: str, last: str, remaining: int | None
) -> Listing[T]:
    """A page. `last` is the last key on it if more pages follow, else empty."""
    if not last:
        return Listing(documents, revision)
    return Listing(documents, revision, paging.encode(last.removeprefix(prefix) + "\x00", revision), remaining)
