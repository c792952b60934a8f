"""The HTTP handlers of the verbs, for every kind: read options and body, call the registry, render the response.

Imports no kind; it is given the endpoints. Requests are checked in the order of kube-apiserver, which depends on the
verb. A create checks Accept header, content type, body size, query options, decoding, names against the path, and then
what the registry checks; an update checks body size, query options and content type in this order.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

import msgspec
from msgspec import structs

from certplane import errors, offload
from certplane.golang import formatting
from certplane.meta import context, names, options, selectors
from certplane.meta.objects import Object
from certplane.meta.resource import AnyKind, AnyObject, AnyResource, AnySubresource, AnyVirtualResource
from certplane.registry import archived, managedfields, reads, verbs
from certplane.registry.encodedobjects import AnyEncodedObject
from certplane.server import bodies, negotiation, patching, rendering, tables, watches
from certplane.server.exchange import Request, Response
from certplane.wire import codec

#: Handles a virtual resource: takes the decoded object and the call, returns the object of the response.
VirtualHandler = Callable[[AnyObject, context.VerbContext], Awaitable[Object]]

#: The kinds that each group has in every version, and some that every Kubernetes server knows. The error for a body of
#: a known kind differs from the one for an unknown kind.
_COMMON: Final = (
    "CreateOptions", "DeleteOptions", "GetOptions", "ListOptions", "PatchOptions", "UpdateOptions", "WatchEvent",
)  # fmt: skip
_ELSEWHERE: Final = (("v1", "List"), ("v1", "Pod"), ("v1", "Service"), ("v1", "Status"), ("apps/v1", "Deployment"))


@dataclasses.dataclass(frozen=True, slots=True)
class Endpoint:
    """A stored kind and its verbs. Without a writer, its verbs are get and list."""

    resource: AnyResource
    reader: reads.AnyReader | archived.AnyArchiveReader
    writer: verbs.AnyRegistry | None = None

    @property
    def registry(self) -> verbs.AnyRegistry:
        """Raises MethodNotAllowed if the kind has no writer."""
        if self.writer is None:
            raise errors.MethodNotAllowed
        return self.writer


@dataclasses.dataclass(frozen=True, slots=True)
class VirtualEndpoint:
    """A kind that is not stored: a create returns a result."""

    virtual: AnyVirtualResource
    handler: VirtualHandler


class ResourceRequest(msgspec.Struct, frozen=True):
    """A request on a stored kind: the HTTP request, its endpoint, and the negotiated form of the response."""

    http: Request
    endpoint: Endpoint
    form: negotiation.Representation
    call: context.VerbContext

    @property
    def info(self) -> context.RequestInfo:
        return self.http.info

    @property
    def view(self) -> rendering.View:
        include = ""
        if self.form.transform == "Table":
            include = tables.check_include(self.http.parameter("includeObject"))
        return rendering.View(self.form, include, self.call.now)

    @property
    def target(self) -> verbs.Target:
        """The object that the path names. Raises BadRequest for an invalid name."""
        problems = names.path_segment_problems(self.info.name)
        if problems:
            raise errors.BadRequest(f"Name parameter invalid: {formatting.quote(self.info.name)}: {';'.join(problems)}")
        subresource = self.endpoint.resource.subresource(self.info.subresource) if self.info.subresource else None
        return verbs.Target(self.info.namespace, self.info.name, subresource)


class API:
    """All resource paths of a server."""

    def __init__(
        self,
        endpoints: Sequence[Endpoint],
        virtuals: Sequence[VirtualEndpoint],
        open_watches: watches.Watches,
        describe_value: Callable[[AnyResource, str, str], str] = lambda *_: "",
    ) -> None:
        """`describe_value` says what the value of a field is that is not base64: resource, path and value to the text
        of a warning.
        """
        self._describe_value = describe_value
        self._endpoints = {_path_key(endpoint.resource): endpoint for endpoint in endpoints}
        self._virtuals = {endpoint.virtual.path: endpoint for endpoint in virtuals}
        self._versions = {key[:2] for key in (*self._endpoints, *self._virtuals)}
        self._known = set(_ELSEWHERE)
        for endpoint in endpoints:
            kinds = (endpoint.resource.kind, endpoint.resource.list_kind, *_COMMON)
            self._known |= {(version, kind) for version in endpoint.resource.api_versions for kind in kinds}
        self._known |= {(endpoint.virtual.api_version, endpoint.virtual.kind) for endpoint in virtuals}
        self._watches = open_watches
        self._verbs: Mapping[str, Callable[[ResourceRequest], Awaitable[Response]]] = {
            "create": self._create,
            "get": self._get,
            "list": self._list,
            "watch": self._watch,
            "update": self._update,
            "patch": self._patch,
            "delete": self._delete,
            "deletecollection": self._delete_collection,
        }

    async def handle(self, request: Request) -> Response:
        """Handle a request on a resource path."""
        info = request.info
        key = (info.group, info.version, info.resource)
        if len(info.parts) > 3:
            raise errors.NoSuchPath
        virtual = self._virtuals.get((*key, info.subresource))
        if virtual is not None:
            return await self._create_virtual(request, virtual)
        endpoint = self._endpoints.get(key)
        if endpoint is None:
            if (*key, "") in self._virtuals:
                raise errors.NoSuchPath
            if any(group == info.group for group, _ in self._versions):
                raise errors.NoSuchPath
            raise errors.PageNotFound
        return await self._dispatch(request, endpoint)

    async def _dispatch(self, request: Request, endpoint: Endpoint) -> Response:
        info, resource = request.info, endpoint.resource
        if not resource.namespaced and info.namespace and not _is_namespace_itself(info):
            raise errors.NoSuchPath
        if (
            resource.namespaced
            and not info.namespace
            and info.name
            and info.verb not in ("list", "watch", "deletecollection")
        ):
            raise errors.NoSuchPath
        subresource = resource.subresource(info.subresource) if info.subresource else None
        if info.subresource and (subresource is None or info.verb == "watch"):
            raise errors.NoSuchPath
        verb = self._verbs.get(info.verb)
        # Reads must use GET: a HEAD request, or another method on a watch path, is refused.
        is_wrong_method = info.verb in ("get", "list", "watch") and request.method != "GET"
        if verb is None or is_wrong_method or not _is_served(resource, subresource, info):
            raise errors.MethodNotAllowed
        if info.verb == "patch":
            # An unknown patch type is refused before the response is negotiated.
            patching.patch_type(request.headers.get(b"content-type"))
        transforms = negotiation.ALL_TRANSFORMS if subresource is None or subresource.has_table else negotiation.PARTIAL
        accept = request.headers.get(b"accept")
        is_list = info.verb in ("list", "watch")
        media_types = negotiation.MEDIA_TYPES_WITH_STREAMS if is_list else negotiation.MEDIA_TYPES
        negotiation.check_media_types(accept, media_types)
        form = negotiation.negotiate(accept, transforms)
        if request.wants_pretty:
            form = dataclasses.replace(form, pretty=True)
        return await verb(ResourceRequest(request, endpoint, form, self._call(request)))

    def _call(self, request: Request) -> context.VerbContext:
        return context.VerbContext(
            user=request.user,
            info=request.info,
            now=request.received,
            request_id=request.request_id,
            user_agent=request.headers.get(b"user-agent"),
            warnings=request.warnings,
            annotations=request.annotations,
        )

    # --- reads ----------------------------------------------------------------------------------------------------

    async def _get(self, request: ResourceRequest) -> Response:
        target, revision = request.target, request.http.parameter("resourceVersion")
        document = await request.endpoint.reader.get(target.namespace, target.name, revision)
        return await self._respond(200, document, request)

    async def _list(self, request: ResourceRequest) -> Response:
        list_options = options.list_options(request.http.query)
        view = request.view
        listing = await request.endpoint.reader.list(request.info.namespace, list_options)
        return await self._respond_list(listing, view, request)

    async def _watch(self, request: ResourceRequest) -> Response:
        list_options = options.list_options(request.http.query)
        negotiation.check_watch_form(request.form)
        if request.info.name:
            list_options = _select_one(list_options, request.info.name)
        framer = rendering.Framer(request.endpoint.resource, request.view)
        content_type = rendering.stream_type(request.form)
        try:
            stream = await request.endpoint.reader.watch(request.info.namespace, list_options)
        except errors.Expired as error:
            return Response(200, content_type, framer.error(error.status()))
        except errors.Timeout as error:
            # If timeoutSeconds has expired, the watch just ends.
            has_timed_out = 0 < list_options.timeout_seconds <= reads.MAX_WAIT_SECONDS
            return Response(200, content_type, b"" if has_timed_out else framer.error(error.status()))
        events = self._watches.stream_events(stream, framer, list_options, request.info)
        return Response(200, content_type, stream=events)

    # --- writes ---------------------------------------------------------------------------------------------------

    async def _create(self, request: ResourceRequest) -> Response:
        info = request.info
        if info.name:
            raise errors.MethodNotAllowed
        resource = request.endpoint.resource
        if resource.namespaced and not info.namespace:
            raise errors.MethodNotAllowed
        media_type = negotiation.body_media_type(request.http.headers.get(b"content-type"))
        body = await bodies.receive(request.http)
        call = _apply_options(request.call, options.create_options(request.http.query))
        call.size = bodies.decoding_cost(body, media_type)
        obj = await offload.run(call.size, bodies.decode, body, media_type, self._expected(resource), call)
        _note_object(request.http, resource, obj)
        _check_namespace(resource, info, obj)
        document = await request.endpoint.registry.create(call, info.namespace, obj)
        return await self._respond(201, document, request)

    async def _update(self, request: ResourceRequest) -> Response:
        info, resource = request.info, request.endpoint.resource
        body = await bodies.receive(request.http)
        call = _apply_options(request.call, options.update_options(request.http.query))
        media_type = negotiation.body_media_type(request.http.headers.get(b"content-type"))
        expected = self._expected(resource)
        call.size = bodies.decoding_cost(body, media_type)
        first = await offload.run(call.size, bodies.decode, body, media_type, expected, call)
        _note_object(request.http, resource, first)
        _check_name(resource, info, first)
        decoded = [first]

        def next_object(_: AnyEncodedObject | None) -> AnyObject:
            # Hooks modify the object, so a retry needs a fresh copy.
            return decoded.pop() if decoded else bodies.decode(body, media_type, expected, _silent(call))

        outcome = await request.endpoint.registry.update(call, request.target, next_object, verbs.UpdateMethod.REPLACE)
        return await self._respond(201 if outcome.created else 200, outcome.document, request)

    async def _patch(self, request: ResourceRequest) -> Response:
        resource = request.endpoint.resource
        patch_type = patching.patch_type(request.http.headers.get(b"content-type"))
        applies = patch_type == patching.APPLY
        body = await bodies.receive(request.http)
        call = _apply_options(request.call, options.patch_options(request.http.query, is_apply=applies))
        _note(request.http, body)
        call.size = bodies.decoding_cost(body, negotiation.YAML if applies else negotiation.JSON)
        patch = patching.Patch(patch_type, body, self._expected(resource), resource, call)

        def next_object(stored: AnyEncodedObject | None) -> AnyObject:
            obj = patch.apply_to(stored, request.target)
            _check_name(resource, request.info, obj)
            return obj

        method = verbs.UpdateMethod.APPLY if applies else verbs.UpdateMethod.PATCH
        outcome = await request.endpoint.registry.update(call, request.target, next_object, method)
        return await self._respond(201 if outcome.created else 200, outcome.document, request)

    async def _delete(self, request: ResourceRequest) -> Response:
        call, delete_options = await self._read_delete_options(request)
        outcome = await request.endpoint.registry.delete(call, request.target, _deletion(delete_options))
        if not outcome.deleted:
            return await self._respond(202 if delete_options.is_legacy_cascade else 200, outcome.document, request)
        if request.endpoint.resource.return_deleted_object:
            return await self._respond(200, outcome.document, request)
        return self._respond_deleted(outcome.document, request)

    def _respond_deleted(self, deleted: AnyEncodedObject, request: ResourceRequest) -> Response:
        resource = request.endpoint.resource
        details = {"name": deleted.object.metadata.name, "group": resource.group, "kind": resource.plural}
        details["uid"] = deleted.object.metadata.uid
        status = rendering.succeeded({key: value for key, value in details.items() if value})
        # Transforms apply to objects: a Status is sent as it is, in the negotiated media type.
        form = dataclasses.replace(request.form, transform="")
        return Response(200, form.media_type, rendering.render_status(status, form), status_object=status)

    async def _delete_collection(self, request: ResourceRequest) -> Response:
        if request.endpoint.resource.namespaced and not request.info.namespace:
            raise errors.MethodNotAllowed
        list_options = options.list_options(request.http.query)
        call, delete_options = await self._read_delete_options(request)
        deletion = _deletion(delete_options)
        listing = await request.endpoint.reader.list(request.info.namespace, list_options)
        for document in listing.documents:
            meta = document.object.metadata
            try:
                await request.endpoint.registry.delete(call, verbs.Target(meta.namespace, meta.name), deletion)
            except errors.NotFound:
                continue
        return await self._respond_list(listing, request.view, request)

    async def _respond_list(
        self, listing: reads.AnyListing, view: rendering.View, request: ResourceRequest
    ) -> Response:
        resource = request.endpoint.resource
        _refuse_wrong_partial(request.form, resource.group, resource.list_kind, is_list=True)
        if request.http.note_response is not None:
            request.http.note_response(lambda: rendering.render_list(resource, listing, _as_json(view)))
        body = await offload.run(
            rendering.rendering_cost(listing.documents, view.form), rendering.render_list, resource, listing, view
        )
        return Response(200, request.form.media_type, body)

    async def _read_delete_options(self, request: ResourceRequest) -> tuple[context.VerbContext, options.DeleteOptions]:
        body = await bodies.receive(request.http)
        body_options = None
        if body:
            media_type = negotiation.body_media_type(request.http.headers.get(b"content-type"))
            body_options = await offload.run(
                bodies.decoding_cost(body, media_type), bodies.decode_delete_options, body, media_type
            )
            body_options.kind, body_options.api_version = "DeleteOptions", _INTERNAL
            _note(request.http, body_options)
        delete_options = options.delete_options(request.http.query, body_options)
        call = request.call
        call.dry_run = delete_options.dry_run
        return call, delete_options

    # --- virtual resources ----------------------------------------------------------------------------------------

    async def _create_virtual(self, request: Request, endpoint: VirtualEndpoint) -> Response:
        virtual, info = endpoint.virtual, request.info
        if bool(info.name) != (virtual.parent is not None) or bool(info.namespace) != virtual.namespaced:
            raise errors.NoSuchPath
        if info.verb != "create":
            raise errors.MethodNotAllowed
        accept = request.headers.get(b"accept")
        negotiation.check_media_types(accept, negotiation.MEDIA_TYPES)
        form = negotiation.negotiate(accept, negotiation.PARTIAL)
        if request.wants_pretty:
            form = dataclasses.replace(form, pretty=True)
        media_type = negotiation.body_media_type(request.headers.get(b"content-type"))
        body = await bodies.receive(request)
        call = _apply_options(self._call(request), options.create_options(request.query))
        expected = bodies.Expected(virtual.type, virtual.api_version, virtual.kind, self._is_known)
        call.size = bodies.decoding_cost(body, media_type)
        obj = await offload.run(call.size, bodies.decode, body, media_type, expected, call)
        _note_object(request, virtual, obj)
        obj.kind, obj.api_version = virtual.kind, virtual.api_version
        _check_namespace(virtual, info, obj)
        obj.metadata.namespace = info.namespace
        if virtual.parent is None:
            verbs.clear_system_metadata(obj.metadata)
        virtual.default(obj)
        manager = managedfields.field_manager(call, virtual.api_version, info.subresource)
        await offload.run(call.size, managedfields.record, None, obj, virtual.shape, manager)
        result = await endpoint.handler(obj, call)
        if request.note_response is not None:
            request.note_response(lambda: codec.encode(result))
        _refuse_wrong_partial(form, virtual.group, virtual.kind, is_list=False)
        rendered = await offload.run(call.size, rendering.render_result, result, virtual, form)
        return Response(201, form.media_type, rendered)

    # --- shared ---------------------------------------------------------------------------------------------------

    def _is_known(self, api_version: str, kind: str) -> bool:
        return (api_version, kind) in self._known

    def _expected(self, resource: AnyResource) -> bodies.Expected[Any]:
        describe = functools.partial(self._describe_value, resource)
        return bodies.Expected(resource.type, resource.api_version, resource.kind, self._is_known, describe)

    async def _respond(self, code: int, document: AnyEncodedObject, request: ResourceRequest) -> Response:
        _refuse_wrong_partial(request.form, document.resource.group, document.resource.kind, is_list=False)
        view = request.view
        if request.http.note_response is not None:
            request.http.note_response(lambda: rendering.render_object(document, _as_json(view)))
        body = await offload.run(
            rendering.rendering_cost((document,), view.form), rendering.render_object, document, view
        )
        return Response(code, request.form.media_type, body)


#: The apiVersion of DeleteOptions in kube-apiserver's audit records.
_INTERNAL: Final = "meta.k8s.io/__internal"


def _as_json(view: rendering.View) -> rendering.View:
    """The same view in JSON, for the audit record."""
    return structs.replace(view, form=dataclasses.replace(view.form, media_type=negotiation.JSON, pretty=False))


def _note_object(request: Request, resource: AnyKind, obj: Object) -> None:
    """Add an object to the audit record, if there is one, as kube-apiserver does: with its type and its defaults."""
    if request.note_request is not None:
        obj.kind, obj.api_version = resource.kind, resource.api_version
        resource.default(obj)
        request.note_request(obj)


def _note(request: Request, body: object) -> None:
    """Add a body to the audit record, if there is one."""
    if request.note_request is not None:
        request.note_request(body)


def _path_key(resource: AnyResource) -> tuple[str, str, str]:
    return resource.group, resource.version, resource.plural


def _is_namespace_itself(info: context.RequestInfo) -> bool:
    return info.resource == "namespaces" and not info.group


def _is_served(resource: AnyResource, subresource: AnySubresource | None, info: context.RequestInfo) -> bool:
    if subresource is not None:
        return info.verb in subresource.verbs
    if info.verb in ("update", "patch", "delete") and not info.name:
        return False
    return info.verb in resource.verbs


def _select_one(list_options: options.ListOptions, name: str) -> options.ListOptions:
    """The options of a watch on one object, which must not select others. Raises BadRequest."""
    selector = selectors.parse_fields(list_options.field_selector)
    if not selector.terms:
        return dataclasses.replace(
            list_options, field_selector=str(selectors.FieldSelector.equals("metadata.name", name))
        )
    if selector.required_value("metadata.name") != name:
        raise errors.BadRequest("fieldSelector metadata.name doesn't match requested name")
    return list_options


def _deletion(delete_options: options.DeleteOptions) -> verbs.Deletion:
    return verbs.Deletion(delete_options.uid, delete_options.resource_version, delete_options.propagation)


def _apply_options(call: context.VerbContext, write_options: options.WriteOptions) -> context.VerbContext:
    call.dry_run = write_options.dry_run
    call.field_manager = write_options.field_manager
    call.field_validation = write_options.field_validation
    call.force = write_options.force
    return call


def _silent(call: context.VerbContext) -> context.VerbContext:
    """The same call with its warnings discarded: they were added in the first attempt."""
    return structs.replace(call, warnings=[])


def _check_name(resource: AnyResource, info: context.RequestInfo, obj: Object) -> None:
    _check_namespace(resource, info, obj)
    name = obj.metadata.name
    if not name:
        raise errors.BadRequest(
            f"the name of the object ({info.name} based on URL) was undeterminable: name must be provided"
        )
    if name != info.name:
        raise errors.BadRequest(f"the name of the object ({name}) does not match the name on the URL ({info.name})")


def _check_namespace(resource: AnyKind, info: context.RequestInfo, obj: Object) -> None:
    namespace = obj.metadata.namespace
    if resource.namespaced and namespace and namespace != info.namespace:
        raise errors.BadRequest("the namespace of the provided object does not match the namespace sent on the request")


def _refuse_wrong_partial(form: negotiation.Representation, group: str, kind: str, *, is_list: bool) -> None:
    name = f"*{group.partition('.')[0] or 'core'}.{kind}"
    if is_list and form.transform == "PartialObjectMetadata":
        raise errors.NotAcceptable(f"you requested PartialObjectMetadata, but the requested object is a list ({name})")
    if not is_list and form.transform == "PartialObjectMetadataList":
        raise errors.NotAcceptable(
            f"you requested PartialObjectMetadataList, but the requested object is not a list ({name})"
        )
