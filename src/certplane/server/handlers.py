"""Verb <-> HTTP, for every kind: options and body in, the registry's verbs, the answer in the form asked for.

Knows no kind; it is given the endpoints. The order in which a request is judged is the real server's: Accept, options
of the query, body size, content type, decoding, names against the path, and then whatever the registry says.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

import msgspec
from msgspec import structs

from certplane import clock as clocks
from certplane import errors, gotext, offload
from certplane.meta import codec, context, names, options, resource, selectors, shape
from certplane.registry import document, ownership, reads, verbs
from certplane.server import bodies, exchange, negotiation, patching, rendering, tables, watches

#: Answers an action: gets the decoded object and the call, returns the object to send.
Answer = Callable[[Any, context.Call], Awaitable[Any]]

#: The kinds that each group has in every version, and some that every Kubernetes server knows: what does not belong to
#: this server, or not here, is told from what is not there at all.
_COMMON: Final = (
    "CreateOptions", "DeleteOptions", "GetOptions", "ListOptions", "PatchOptions", "UpdateOptions", "WatchEvent",
)  # fmt: skip
_ELSEWHERE: Final = (("v1", "List"), ("v1", "Pod"), ("v1", "Service"), ("v1", "Status"), ("apps/v1", "Deployment"))


@dataclasses.dataclass(frozen=True, slots=True)
class Endpoint:
    """A stored kind, as it is served."""

    registry: verbs.Registry
    reader: reads.Reader

    @property
    def resource(self) -> resource.Resource:
        return self.registry.resource


@dataclasses.dataclass(frozen=True, slots=True)
class ActionEndpoint:
    """A kind that is answered, not stored."""

    action: resource.Action
    answer: Answer


class Request(msgspec.Struct, frozen=True):
    """What the verbs below share: the exchange, its endpoint, and the form of the answer."""

    exchange: exchange.Exchange
    endpoint: Endpoint
    form: negotiation.Form
    call: context.Call

    @property
    def info(self) -> context.RequestInfo:
        return self.exchange.info

    @property
    def view(self) -> rendering.View:
        include = ""
        if self.form.transform == "Table":
            include = tables.check_include(self.exchange.parameter("includeObject"))
        return rendering.View(self.form, include, self.call.now)

    @property
    def target(self) -> verbs.Target:
        """What the path names. Raises BadRequest for a name that no object can have."""
        problems = names.path_segment_problems(self.info.name)
        if problems:
            raise errors.BadRequest(f"Name parameter invalid: {gotext.quote(self.info.name)}: {';'.join(problems)}")
        door = self.endpoint.resource.subresource(self.info.subresource) if self.info.subresource else None
        return verbs.Target(self.info.namespace, self.info.name, door)


class API:
    """All resource paths of a server."""

    def __init__(
        self,
        endpoints: Sequence[Endpoint],
        actions: Sequence[ActionEndpoint],
        clock: clocks.Clock,
        watching: watches.Watches,
    ) -> None:
        self._endpoints = {_path_key(each.resource): each for each in endpoints}
        self._actions = {each.action.path: each for each in actions}
        self._versions = {key[:2] for key in (*self._endpoints, *self._actions)}
        self._known = set(_ELSEWHERE)
        for each in endpoints:
            kinds = (each.resource.kind, each.resource.list_kind, *_COMMON)
            self._known |= {(version, kind) for version in each.resource.api_versions for kind in kinds}
        self._known |= {(each.action.api_version, each.action.kind) for each in actions}
        self._clock = clock
        self._watches = watching
        self._verbs: Mapping[str, Callable[[Request], Awaitable[exchange.Reply]]] = {
            "create": self._create,
            "get": self._get,
            "list": self._list,
            "watch": self._watch,
            "update": self._update,
            "patch": self._patch,
            "delete": self._delete,
            "deletecollection": self._delete_collection,
        }

    async def handle(self, of: exchange.Exchange) -> exchange.Reply:
        """Answer one request on a resource path."""
        info = of.info
        key = (info.group, info.version, info.resource)
        if len(info.parts) > 3:
            raise errors.NoSuchPath
        action = self._actions.get((*key, info.subresource))
        if action is not None:
            return await self._act(of, action)
        endpoint = self._endpoints.get(key)
        if endpoint is None:
            if (*key, "") in self._actions:
                raise errors.NoSuchPath
            if any(group == info.group for group, _ in self._versions):
                raise errors.NoSuchPath
            raise errors.PageNotFound
        return await self._dispatch(of, endpoint)

    async def _dispatch(self, of: exchange.Exchange, endpoint: Endpoint) -> exchange.Reply:
        info, kind = of.info, endpoint.resource
        if not kind.namespaced and info.namespace and not _is_namespace_itself(info):
            raise errors.NoSuchPath
        if (
            kind.namespaced
            and not info.namespace
            and info.name
            and info.verb not in ("list", "watch", "deletecollection")
        ):
            raise errors.NoSuchPath
        door = kind.subresource(info.subresource) if info.subresource else None
        if info.subresource and (door is None or info.verb == "watch"):
            raise errors.NoSuchPath
        verb = self._verbs.get(info.verb)
        # HEAD is no read, and not all that comes to a path of watches is a watch.
        reads_otherwise = info.verb in ("get", "list", "watch") and of.method != "GET"
        if verb is None or reads_otherwise or not _is_served(kind, door, info):
            raise errors.MethodNotAllowed
        if info.verb == "patch":
            # What is no patch at all is refused before anybody asks how to answer it.
            patching.patch_type(of.headers.get(b"content-type"))
        transforms = negotiation.ALL_TRANSFORMS if door is None or door.has_table else negotiation.PARTIAL
        accept = of.headers.get(b"accept")
        lists = info.verb in ("list", "watch")
        negotiation.check_route(accept, negotiation.LISTED_WITH_STREAMS if lists else negotiation.LISTED)
        form = negotiation.negotiate(accept, transforms)
        if of.wants_pretty:
            form = dataclasses.replace(form, pretty=True)
        return await verb(Request(of, endpoint, form, self._call(of)))

    def _call(self, of: exchange.Exchange) -> context.Call:
        return context.Call(
            user=of.user,
            info=of.info,
            clock=self._clock,
            now=of.received,
            request_id=of.request_id,
            user_agent=of.headers.get(b"user-agent"),
            warnings=of.warnings,
            annotations=of.annotations,
        )

    # --- reads ----------------------------------------------------------------------------------------------------

    async def _get(self, request: Request) -> exchange.Reply:
        target, revision = request.target, request.exchange.parameter("resourceVersion")
        found = await request.endpoint.reader.get(target.namespace, target.name, revision)
        return await self._reply(200, found, request)

    async def _list(self, request: Request) -> exchange.Reply:
        how = options.list_options(request.exchange.query)
        view = request.view
        found = await request.endpoint.reader.list(request.info.namespace, how)
        return await self._listed(found, view, request)

    async def _watch(self, request: Request) -> exchange.Reply:
        how = options.list_options(request.exchange.query)
        negotiation.check_stream(request.form)
        if request.info.name:
            how = _of_one(how, request.info.name)
        framer = rendering.Framer(request.endpoint.resource, request.view)
        content_type = rendering.stream_type(request.form)
        try:
            stream = await request.endpoint.reader.watch(request.info.namespace, how)
        except errors.Expired as error:
            return exchange.Reply(200, content_type, framer.error(error.status()))
        except errors.Timeout as error:
            # The watch may have had less time than the revision: then it just ends.
            short = 0 < how.timeout_seconds <= reads.PATIENCE
            return exchange.Reply(200, content_type, b"" if short else framer.error(error.status()))
        feed = self._watches.feed(stream, framer, how, request.info)
        return exchange.Reply(200, content_type, stream=feed)

    # --- writes ---------------------------------------------------------------------------------------------------

    async def _create(self, request: Request) -> exchange.Reply:
        info = request.info
        if info.name:
            raise errors.MethodNotAllowed
        kind = request.endpoint.resource
        if kind.namespaced and not info.namespace:
            raise errors.MethodNotAllowed
        media_type = negotiation.body_type(request.exchange.headers.get(b"content-type"))
        body = await bodies.receive(request.exchange)
        call = _apply_options(request.call, options.create_options(request.exchange.query))
        call.size = bodies.weight(body, media_type)
        new = await offload.run(call.size, bodies.read, body, media_type, self._expected(kind), call)
        _note_object(request.exchange, kind, new)
        _check_namespace(kind, info, new)
        made = await request.endpoint.registry.create(call, info.namespace, new)
        return await self._reply(201, made, request)

    async def _update(self, request: Request) -> exchange.Reply:
        info, kind = request.info, request.endpoint.resource
        body = await bodies.receive(request.exchange)
        call = _apply_options(request.call, options.update_options(request.exchange.query))
        media_type = negotiation.body_type(request.exchange.headers.get(b"content-type"))
        expected = self._expected(kind)
        call.size = bodies.weight(body, media_type)
        first = await offload.run(call.size, bodies.read, body, media_type, expected, call)
        _note_object(request.exchange, kind, first)
        _check_name(kind, info, first)
        ready = [first]

        def make(_: document.Document | None) -> Any:
            # Hooks change what they are given, so another try needs another copy.
            return ready.pop() if ready else bodies.read(body, media_type, expected, _silent(call))

        outcome = await request.endpoint.registry.update(call, request.target, make, verbs.Style.REPLACE)
        return await self._reply(201 if outcome.created else 200, outcome.document, request)

    async def _patch(self, request: Request) -> exchange.Reply:
        kind = request.endpoint.resource
        patch_type = patching.patch_type(request.exchange.headers.get(b"content-type"))
        applies = patch_type == patching.APPLY
        body = await bodies.receive(request.exchange)
        call = _apply_options(request.call, options.patch_options(request.exchange.query, applies=applies))
        _note(request.exchange, body)
        call.size = bodies.weight(body, negotiation.YAML if applies else negotiation.JSON)
        patch = patching.Patch(patch_type, body, self._expected(kind), kind, call)

        def make(stored: document.Document | None) -> Any:
            new = patch.apply_to(stored, request.target)
            _check_name(kind, request.info, new)
            return new

        style = verbs.Style.APPLY if applies else verbs.Style.PATCH
        outcome = await request.endpoint.registry.update(call, request.target, make, style)
        return await self._reply(201 if outcome.created else 200, outcome.document, request)

    async def _delete(self, request: Request) -> exchange.Reply:
        call, how = await self._deletion(request)
        outcome = await request.endpoint.registry.delete(call, request.target, _conditions(how))
        if not outcome.deleted:
            return await self._reply(202 if how.is_patient else 200, outcome.document, request)
        if request.endpoint.resource.returns_deleted:
            return await self._reply(200, outcome.document, request)
        return self._deleted(outcome.document, request)

    def _deleted(self, gone: document.Document, request: Request) -> exchange.Reply:
        kind = request.endpoint.resource
        details = {"name": gone.object.metadata.name, "group": kind.group, "kind": kind.plural}
        details["uid"] = gone.object.metadata.uid
        done = rendering.succeeded({key: value for key, value in details.items() if value})
        # Forms are for objects: a Status comes in the type that was negotiated, as it is.
        form = dataclasses.replace(request.form, transform="")
        return exchange.Reply(200, form.media_type, rendering.status(done, form), outcome=done)

    async def _delete_collection(self, request: Request) -> exchange.Reply:
        if request.endpoint.resource.namespaced and not request.info.namespace:
            raise errors.MethodNotAllowed
        which = options.list_options(request.exchange.query)
        call, how = await self._deletion(request)
        conditions = _conditions(how)
        found = await request.endpoint.reader.list(request.info.namespace, which)
        for each in found.documents:
            meta = each.object.metadata
            try:
                await request.endpoint.registry.delete(call, verbs.Target(meta.namespace, meta.name), conditions)
            except errors.NotFound:
                continue
        return await self._listed(found, request.view, request)

    async def _listed(self, found: reads.Listing, view: rendering.View, request: Request) -> exchange.Reply:
        kind = request.endpoint.resource
        _refuse_wrong_partial(request.form, kind.group, kind.list_kind, is_list=True)
        if request.exchange.note_response is not None:
            request.exchange.note_response(lambda: rendering.listing(kind, found, _as_json(view)))
        body = await offload.run(rendering.weight(found.documents, view.form), rendering.listing, kind, found, view)
        return exchange.Reply(200, request.form.media_type, body)

    async def _deletion(self, request: Request) -> tuple[context.Call, options.DeleteOptions]:
        body = await bodies.receive(request.exchange)
        sent = None
        if body:
            media_type = negotiation.body_type(request.exchange.headers.get(b"content-type"))
            sent = await offload.run(bodies.weight(body, media_type), bodies.read_options, body, media_type)
            sent.kind, sent.api_version = "DeleteOptions", _INTERNAL
            _note(request.exchange, sent)
        how = options.delete_options(request.exchange.query, sent)
        call = request.call
        call.dry_run = how.dry_run
        return call, how

    # --- actions --------------------------------------------------------------------------------------------------

    async def _act(self, of: exchange.Exchange, endpoint: ActionEndpoint) -> exchange.Reply:
        action, info = endpoint.action, of.info
        if bool(info.name) != (action.parent is not None) or bool(info.namespace) != action.namespaced:
            raise errors.NoSuchPath
        if info.verb != "create":
            raise errors.MethodNotAllowed
        accept = of.headers.get(b"accept")
        negotiation.check_route(accept, negotiation.LISTED)
        form = negotiation.negotiate(accept, negotiation.PARTIAL)
        if of.wants_pretty:
            form = dataclasses.replace(form, pretty=True)
        media_type = negotiation.body_type(of.headers.get(b"content-type"))
        body = await bodies.receive(of)
        call = _apply_options(self._call(of), options.create_options(of.query))
        expected = bodies.Expected(action.type, action.api_version, action.kind, self._is_known)
        call.size = bodies.weight(body, media_type)
        asked = await offload.run(call.size, bodies.read, body, media_type, expected, call)
        _note_object(of, action, asked)
        asked.kind, asked.api_version = action.kind, action.api_version
        _check_namespace(action, info, asked)
        asked.metadata.namespace = info.namespace
        if action.parent is None:
            verbs.clear_system_metadata(asked.metadata)
        action.default(asked)
        by = ownership.writer(call, action.api_version, info.subresource)
        await offload.run(call.size, ownership.record, None, asked, shape.of(action.type), by)
        answered = await endpoint.answer(asked, call)
        if of.note_response is not None:
            of.note_response(lambda: codec.encode(answered))
        _refuse_wrong_partial(form, action.group, action.kind, is_list=False)
        rendered = await offload.run(call.size, rendering.answer, answered, action, form)
        return exchange.Reply(201, form.media_type, rendered)

    # --- what they share ------------------------------------------------------------------------------------------

    def _is_known(self, api_version: str, kind: str) -> bool:
        return (api_version, kind) in self._known

    def _expected(self, kind: resource.Resource) -> bodies.Expected:
        return bodies.Expected(kind.type, kind.api_version, kind.kind, self._is_known)

    async def _reply(self, code: int, of: document.Document, request: Request) -> exchange.Reply:
        _refuse_wrong_partial(request.form, of.resource.group, of.resource.kind, is_list=False)
        view = request.view
        if request.exchange.note_response is not None:
            request.exchange.note_response(lambda: rendering.one(of, _as_json(view)))
        body = await offload.run(rendering.weight((of,), view.form), rendering.one, of, view)
        return exchange.Reply(code, request.form.media_type, body)


#: The version under which Kubernetes records how something is to be deleted.
_INTERNAL: Final = "meta.k8s.io/__internal"


def _as_json(view: rendering.View) -> rendering.View:
    """The same view, for the record: in JSON, whatever was negotiated."""
    return structs.replace(view, form=dataclasses.replace(view.form, media_type=negotiation.JSON, pretty=False))


def _note_object(of: exchange.Exchange, kind: resource.Resource | resource.Action, sent: Any) -> None:
    """Have an object recorded, where that is wanted, as Kubernetes reads it: with its type and what may be left out."""
    if of.note_request is not None:
        sent.kind, sent.api_version = kind.kind, kind.api_version
        kind.default(sent)
        of.note_request(sent)


def _note(of: exchange.Exchange, sent: Any) -> None:
    """Have what was sent recorded, where that is wanted."""
    if of.note_request is not None:
        of.note_request(sent)


def _path_key(of: resource.Resource) -> tuple[str, str, str]:
    return of.group, of.version, of.plural


def _is_namespace_itself(info: context.RequestInfo) -> bool:
    return info.resource == "namespaces" and not info.group


def _is_served(kind: resource.Resource, door: resource.Subresource | None, info: context.RequestInfo) -> bool:
    if door is not None:
        return info.verb in door.verbs
    if info.verb in ("update", "patch", "delete") and not info.name:
        return False
    return info.verb in kind.verbs


def _of_one(how: options.ListOptions, name: str) -> options.ListOptions:
    """The options of a watch on one object: access to others was not asked for. Raises BadRequest."""
    selected = selectors.parse_fields(how.field_selector)
    if not selected.terms:
        return dataclasses.replace(how, field_selector=str(selectors.FieldSelector.of_one("metadata.name", name)))
    if selected.exact("metadata.name") != name:
        raise errors.BadRequest("fieldSelector metadata.name doesn't match requested name")
    return how


def _conditions(how: options.DeleteOptions) -> verbs.Deletion:
    return verbs.Deletion(how.uid, how.resource_version, how.propagation)


def _apply_options(call: context.Call, how: options.WriteOptions) -> context.Call:
    call.dry_run = how.dry_run
    call.field_manager = how.field_manager
    call.field_validation = how.field_validation
    call.force = how.force
    return call


def _silent(call: context.Call) -> context.Call:
    """The same call, whose warnings nobody sees: they have been given once."""
    return structs.replace(call, warnings=[])


def _check_name(kind: resource.Resource, info: context.RequestInfo, new: Any) -> None:
    _check_namespace(kind, info, new)
    name = new.metadata.name
    if not name:
        raise errors.BadRequest(
            f"the name of the object ({info.name} based on URL) was undeterminable: name must be provided"
        )
    if name != info.name:
        raise errors.BadRequest(f"the name of the object ({name}) does not match the name on the URL ({info.name})")


def _check_namespace(kind: resource.Resource | resource.Action, info: context.RequestInfo, new: Any) -> None:
    sent = new.metadata.namespace
    if kind.namespaced and sent and sent != info.namespace:
        raise errors.BadRequest("the namespace of the provided object does not match the namespace sent on the request")


def _refuse_wrong_partial(form: negotiation.Form, group: str, kind: str, *, is_list: bool) -> None:
    name = f"*{group.partition('.')[0] or 'core'}.{kind}"
    if is_list and form.transform == "PartialObjectMetadata":
        raise errors.NotAcceptable(f"you requested PartialObjectMetadata, but the requested object is a list ({name})")
    if not is_list and form.transform == "PartialObjectMetadataList":
        raise errors.NotAcceptable(
            f"you requested PartialObjectMetadataList, but the requested object is not a list ({name})"
        )
