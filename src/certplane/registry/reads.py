"""What get, list and watch mean, once, for every kind.

Reads come from the watch cache, which in one process is never behind the store. Only pages and lists *at* an older
revision go to the store. A watch with a selector sees a world in which other objects do not exist: an object that
begins to match is ADDED, one that ceases to is DELETED with its last matching content and the revision of the change.

Source: `k8s.io/apiserver/pkg/storage/cacher`; api-concepts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Final

from certplane import clock, errors, gotext
from certplane.meta import options, selectors
from certplane.registry import document, paging, verbs
from certplane.store import contract, watchcache

PATIENCE: Final = 3.0
_TOO_OLD: Final = "The resourceVersion for the provided list is too old."
_PAGE_TOO_OLD: Final = (
    "The provided continue parameter is too old to display a consistent list result. You can start a new list without "
    "the continue parameter, or use the continue token in this response to retrieve the remainder of the results. "
    "Continuing with the provided token results in an inconsistent list - objects that were created, modified, or "
    "deleted between the time the first chunk was returned and now may show up in the list."
)

Predicate = Callable[[document.Document], bool]


class Notice:
    """One event as a watcher sees it. `frames` holds its encoded forms, made once for all watchers of a form."""

    __slots__ = ("document", "frames", "type")

    def __init__(self, type_: str, of: document.Document) -> None:
        self.type = type_
        self.document = of
        self.frames: dict[Any, bytes] = {}


@dataclasses.dataclass(frozen=True, slots=True)
class Listing:
    """A part of a collection at one revision. `continue_` is empty on the last page."""

    documents: Sequence[document.Document]
    revision: int
    continue_: str = ""
    remaining: int | None = None


@dataclasses.dataclass(slots=True)
class Stream:
    """A watch under way. `initial` are the objects to begin with; `initial_end` asks for the bookmark behind them.

    `notices` yields batches; an empty one says that somebody woke the watcher.
    """

    initial: Sequence[document.Document]
    revision: int
    initial_end: bool
    notices: AsyncIterator[Sequence[Notice]]
    watcher: watchcache.Watcher


class Reader:
    """Reads of one kind, beside the `verbs.Registry` that writes it."""

    def __init__(self, registry: verbs.Registry, waiting: clock.Clock) -> None:
        self._registry = registry
        self._resource = registry.resource
        self._collection = registry.collection
        self._clock = waiting

    async def get(self, namespace: str, name: str, resource_version: str = "") -> document.Document:
        """Raises NotFound; Timeout if `resource_version` is in the future."""
        of, cache = self._resource, self._registry.cache
        wanted = _late_revision(resource_version)
        await cache.fresh()
        if wanted > cache.revision:
            await self._wait_for(wanted)
        entry = self._collection.get(of.key(namespace, name))
        if entry is None:
            raise self._registry.missing(namespace, name)
        return document.of_entry(of, entry)

    async def list(self, namespace: str, how: options.ListOptions) -> Listing:
        """Raises BadRequest for bad selectors, tokens and revisions; Expired; Timeout."""
        matches = self._predicate(how)
        # "Whatever is at hand" comes whole; another spelling of the number does not mean that.
        limit = 0 if how.resource_version == "0" else max(how.limit, 0)
        if how.continue_token:
            token = paging.decode(how.continue_token)
            if how.resource_version not in ("", "0"):
                raise errors.BadRequest("specifying resource version is not allowed when using continue")
            return await self._page(namespace, limit, matches, token.start, max(token.revision, 0))
        wanted = paging.parse_revision(how.resource_version)
        await self._registry.cache.fresh()
        if not wanted:
            only = self._only(namespace, how)
            if only:
                return self._page_of_one(only, matches)
            return await self._page(namespace, limit, matches, "", 0)
        if wanted > self._registry.cache.revision:
            await self._wait_for(wanted)
        exact = how.resource_version_match == "Exact" or (limit > 0 and not how.resource_version_match)
        return await self._page(namespace, limit, matches, "", wanted if exact else 0)

    async def watch(self, namespace: str, how: options.ListOptions) -> Stream:
        """Raises BadRequest; Expired when the revision is too old; Timeout when there should be objects of the future.

        A watch from a revision that is yet to come begins there.
        """
        collection, cache = self._collection, self._registry.cache
        matches = self._predicate(how)
        wanted = _late_revision(how.resource_version)
        await cache.fresh()
        if how.send_initial_events and wanted > cache.revision:
            await self._wait_for(wanted, how.timeout_seconds or PATIENCE)
        from_start = how.send_initial_events if how.send_initial_events is not None else wanted == 0
        after = None if from_start or wanted == 0 else wanted
        prefix = self._only(namespace, how) or self._prefix(namespace)
        try:
            watcher = collection.watch(after, prefix)
        except contract.Compacted as error:
            raise errors.Expired(f"too old resource version: {wanted} ({error.oldest - 1})") from error
        initial: list[document.Document] = []
        if from_start:
            entries, _ = collection.list(prefix)
            initial = [each for each in map(self._document, entries) if matches is None or matches(each)]
        return Stream(
            initial,
            cache.revision,
            bool(how.send_initial_events) and how.allow_watch_bookmarks,
            self._notices(watcher, matches),
            watcher,
        )

    async def _notices(self, watcher: watchcache.Watcher, matches: Predicate | None) -> AsyncIterator[Sequence[Notice]]:
        async for events in watcher:
            notices = [each for event in events if (each := self._notice(event, matches)) is not None]
            if notices or not events:
                yield notices

    def _notice(self, event: watchcache.Event, matches: Predicate | None) -> Notice | None:
        now = event.current is not None
        before = event.previous is not None
        if matches is not None:
            now = event.current is not None and matches(self._document(event.current))
            before = event.previous is not None and matches(self._document(event.previous))
        if now:
            return self._shared(event, "MODIFIED" if before else "ADDED")
        return self._shared(event, "DELETED") if before else None

    def _shared(self, event: watchcache.Event, type_: str) -> Notice:
        # Several kinds may be forms of the same objects: each has notices of its own.
        notices: dict[tuple[str, str], Notice] | None = event.memo
        if notices is None:
            notices = event.memo = {}
        key = self._resource.api_version, type_
        notice = notices.get(key)
        if notice is None:
            if type_ == "DELETED":
                assert event.previous is not None  # noqa: S101 - only what was there can leave
                of = document.Document(self._resource, event.previous.value, event.revision)
            else:
                assert event.current is not None  # noqa: S101 - only what is there can come
                of = self._document(event.current)
            notice = notices[key] = Notice(type_, of)
        return notice

    # --- pages ----------------------------------------------------------------------------------------------------

    async def _page(self, namespace: str, limit: int, matches: Predicate | None, start: str, revision: int) -> Listing:
        """`start` is relative to the prefix; `revision` 0 is the newest, which the cache has."""
        prefix = self._prefix(namespace)
        begin = prefix + start if start else ""
        if revision in (0, self._registry.cache.revision):
            return self._page_from_cache(prefix, begin, limit, matches)
        found: list[document.Document] = []
        while True:
            want = limit - len(found) if limit else 0
            try:
                page = await self._registry.store.list(prefix, start=begin, limit=want, revision=revision)
            except contract.Compacted as error:
                if start:
                    raise errors.Expired.of_page(_PAGE_TOO_OLD, paging.encode(start, -1)) from error
                raise errors.Expired(_TOO_OLD) from error
            except contract.FutureRevision as error:
                raise errors.Timeout.too_large_revision(error.revision, error.current) from error
            except contract.StoreClosed as error:
                raise errors.ServiceUnavailable(str(error)) from error
            for item in page.items:
                if item.key in self._collection.damaged:
                    continue
                of = document.Document(self._resource, item.value, item.mod_revision)
                if matches is None or matches(of):
                    found.append(of)
            if not page.remaining or (limit and len(found) >= limit):
                more = page.items[-1].key if page.remaining else ""
                return _listing(found, revision, prefix, more, page.remaining if matches is None else None)
            begin = page.items[-1].key + "\x00"

    def _page_of_one(self, key: str, matches: Predicate | None) -> Listing:
        entry = self._collection.get(key)
        found = [self._document(entry)] if entry is not None else []
        return Listing([each for each in found if matches is None or matches(each)], self._registry.cache.revision)

    def _page_from_cache(self, prefix: str, begin: str, limit: int, matches: Predicate | None) -> Listing:
        revision = self._registry.cache.revision
        if matches is None:
            entries, remaining = self._collection.list(prefix, begin, limit)
            found = [self._document(each) for each in entries]
            return _listing(found, revision, prefix, entries[-1].key if remaining else "", remaining)
        entries, _ = self._collection.list(prefix, begin)
        found = []
        for position, entry in enumerate(entries):
            of = self._document(entry)
            if matches(of):
                found.append(of)
                if limit and len(found) == limit and position + 1 < len(entries):
                    return _listing(found, revision, prefix, entry.key, None)
        return _listing(found, revision, prefix, "", None)

    # --- selection ------------------------------------------------------------------------------------------------

    def _prefix(self, namespace: str) -> str:
        return f"{self._resource.prefix}{namespace}/" if namespace else self._resource.prefix

    def _only(self, namespace: str, how: options.ListOptions) -> str:
        """The key of the one object that can be selected, where a name is asked for: clients wait for single objects
        with a list and a watch. Empty if there can be more.
        """
        of = self._resource
        if not how.field_selector or (of.namespaced and not namespace):
            return ""
        name = selectors.parse_fields(how.field_selector).exact("metadata.name")
        return of.key(namespace, name) if name else ""

    def _document(self, entry: watchcache.Entry) -> document.Document:
        return document.of_entry(self._resource, entry)

    def _predicate(self, how: options.ListOptions) -> Predicate | None:
        tests: list[Predicate] = []
        if how.field_selector:
            fields = selectors.parse_fields(how.field_selector)
            getters = self._getters(fields)
            tests.append(lambda of: fields.matches(lambda label: getters[label](of.object)))
        if how.label_selector:
            labels = selectors.parse_labels(how.label_selector)
            if labels.requirements:
                tests.append(lambda of: labels.matches(of.object.metadata.labels))
        if not tests:
            return None
        return tests[0] if len(tests) == 1 else lambda of: all(test(of) for test in tests)

    def _getters(self, fields: selectors.FieldSelector) -> dict[str, Callable[[Any], str]]:
        of = self._resource
        known: dict[str, Callable[[Any], str]] = {"metadata.name": lambda value: value.metadata.name, **of.selectable}
        if of.selects_namespace:
            known["metadata.namespace"] = lambda value: value.metadata.namespace
        for term in fields.terms:
            if term.field not in known:
                raise errors.BadRequest(_unknown_label(of.unknown_selector, term.field))
        return known

    async def _wait_for(self, revision: int, patience: float = PATIENCE) -> None:
        cache = self._registry.cache
        if not await cache.wait_for(revision, self._clock, min(patience, PATIENCE)):
            raise errors.Timeout.too_large_revision(revision, cache.revision)


def _unknown_label(text: Callable[[str], str] | None, label: str) -> str:
    if text is not None:
        return text(label)
    return f'{gotext.quote(label)} is not a known field selector: only "metadata.name", "metadata.namespace"'


def _late_revision(text: str) -> int:
    try:
        return paging.parse_revision(text)
    except errors.BadRequest as error:
        # Gets and watches check later than lists, where the text no longer has a reason (500).
        raise errors.UnreasonedError(error.message.removeprefix("invalid resource version: ")) from error


def _listing(
    found: Sequence[document.Document], revision: int, prefix: str, last: str, remaining: int | None
) -> Listing:
    """`last` is the key behind which there is more; empty if there is not."""
    if not last:
        return Listing(found, revision)
    return Listing(found, revision, paging.encode(last.removeprefix(prefix) + "\x00", revision), remaining)
