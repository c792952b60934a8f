"""Parameters of reads: selectors, limits, continue tokens, watches, representations."""

from __future__ import annotations

import asyncio
import base64
import json

import pytest

from certplane import testing
from certplane.meta import context, objects
from certplane.resources import certificatesigningrequests as csrs
from certplane.resources import events
from tests.flow import plane as flow

GROUP = "/apis/certificates.k8s.io/v1"
CSRS = f"{GROUP}/certificatesigningrequests"


async def filled(plane, *names):
    for name in names:
        await plane.client(flow.ADMIN).create(csrs.RESOURCE, flow.new_csr(name))


async def test_watches_of_events_have_the_version_of_their_group():
    """Events are served in two groups; each watch gets the version of its group."""
    async with flow.running() as plane:
        client = plane.client(flow.ADMIN)
        version = (await client.list(events.RESOURCE)).resource_version
        core_event = events.Event(involved_object=objects.ObjectReference(kind="Node", name="n1"), reason="Tested")
        core_event.metadata.name = "a"
        core_event.metadata.namespace = core_event.involved_object.namespace = "default"
        async with (
            client.watch(events.RESOURCE, version) as old,
            client.watch(events.EVENTS_V1_RESOURCE, version) as new_watch,
        ):
            await client.create(events.RESOURCE, core_event, "default")
            seen = [(await anext(watch)).object for watch in (old, new_watch)]
    assert [event.api_version for event in seen] == ["v1", "events.k8s.io/v1"]
    assert seen[0].involved_object.name == seen[1].regarding.name == "n1"


@pytest.mark.parametrize(
    ("selector", "status"), [("", 200), ("metadata.name=a", 200), ("metadata.name=b", 400), ("spec.signerName=x", 400)]
)
async def test_a_watch_of_one_object_shows_no_other(selector, status):
    """A selector for another name than that in the path is refused, because authorization used the path."""
    async with flow.running() as plane:
        await filled(plane, "a", "b")
        code, body = await flow.ask(plane, f"{GROUP}/watch/certificatesigningrequests/a?fieldSelector={selector}")
    assert code == status
    if status == 200:
        assert [json.loads(line)["object"]["metadata"]["name"] for line in body.splitlines()] == ["a"]
    else:
        assert json.loads(body)["message"] == "fieldSelector metadata.name doesn't match requested name"


@pytest.mark.parametrize(
    ("query", "bookmarks"),
    [
        ("", 1),
        ("&resourceVersion=0", 1),
        ("&resourceVersion=1", 0),
        ("&sendInitialEvents=false&resourceVersionMatch=NotOlderThan", 0),
    ],
)
async def test_when_a_watch_sends_the_initial_events_bookmark(query, bookmarks):
    """It is sent if the resourceVersion is missing or 0."""
    async with flow.running() as plane:
        await filled(plane, "a")
        _, body = await flow.ask(plane, f"{CSRS}?watch=true&allowWatchBookmarks=true{query}")
    assert body.count(b'"k8s.io/initial-events-end":"true"') == bookmarks


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (f"{CSRS}?watch=1&continue=x", "resourceVersionMatch is forbidden when continue is provided"),
        (f"{CSRS}?watch=1&continue=x&resourceVersion=1", ""),
        (f"{GROUP}/watch/certificatesigningrequests?sendInitialEvents=true", "sendInitialEvents is forbidden for list"),
        (f"{GROUP}/watch/certificatesigningrequests?allowWatchBookmarks=true", ""),
    ],
)
async def test_invalid_options_of_a_watch(path, message):
    """A continue token without a resourceVersion is refused, and list options below /watch/."""
    async with flow.running() as plane:
        await filled(plane, "a")
        code, body = await flow.ask(plane, path)
    assert code == (422 if message else 200)
    assert message.encode() in body


def token(document):
    return base64.urlsafe_b64encode(json.dumps(document).encode()).rstrip(b"=").decode()


async def test_an_expired_continue_token_can_be_replaced():
    """The error for an expired token contains another one, for an inconsistent list after the same object."""
    async with flow.running() as plane:
        await filled(plane, "a", "b")
        _, body = await flow.ask(plane, f"{CSRS}?limit=1")
        old = json.loads(body)["metadata"]["continue"]
        await filled(plane, "c")
        await plane.store.compact(await plane.store.revision())
        code, body = await flow.ask(plane, f"{CSRS}?limit=2&continue={old}")
        refusal = json.loads(body)
        assert (code, refusal["reason"]) == (410, "Expired")
        assert "use the continue token in this response to retrieve the remainder" in refusal["message"]
        code, body = await flow.ask(plane, f"{CSRS}?limit=2&continue={refusal['metadata']['continue']}")
        assert [item["metadata"]["name"] for item in json.loads(body)["items"]] == ["b", "c"]
        code, body = await flow.ask(plane, f"{CSRS}?resourceVersion=1&resourceVersionMatch=Exact")
        assert (code, json.loads(body)["metadata"]) == (410, {})


VERSION = "meta.k8s.io/v1"


@pytest.mark.parametrize(
    ("document", "why"),
    [
        ({"v": VERSION, "rv": 5}, "encoded start key empty (version meta.k8s.io/v1)"),
        ({"v": VERSION, "rv": 5, "start": "a/"}, "a/"),
        ({"v": VERSION, "rv": 5, "start": "//a"}, "//a"),
        (
            {"v": VERSION, "rv": "5", "start": "a"},
            "json: cannot unmarshal string into Go struct field continueToken.rv of type int64",
        ),
        (
            {"v": VERSION, "rv": 1.5, "start": "a"},
            "json: cannot unmarshal number 1.5 into Go struct field continueToken.rv of type int64",
        ),
        ({"v": 1}, "json: cannot unmarshal number into Go struct field continueToken.v of type string"),
        ("text", "json: cannot unmarshal string into Go value of type storage.continueToken"),
        (None, "server does not recognize this encoded version "),
    ],
)
async def test_invalid_continue_tokens(document, why):
    """Token errors have the text of Go, and precede errors about the resourceVersion."""
    async with flow.running() as plane:
        code, body = await flow.ask(plane, f"{CSRS}?resourceVersion=5&continue={token(document)}")
    assert code == 400
    assert json.loads(body)["message"] == f"invalid continue token: continue key is not valid: {why}"


AGGREGATED = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        (AGGREGATED, "APIGroupDiscoveryList"),
        (f"application/json,{AGGREGATED};q=0.1", "APIGroupDiscoveryList"),
        (AGGREGATED.replace("application/json", "*/*"), "APIGroupDiscoveryList"),
        (f"{AGGREGATED.replace('v2', 'v2beta1')},application/json", "APIGroupList"),
        (AGGREGATED.replace("v2", "v2beta1"), "Status"),
    ],
)
async def test_aggregated_discovery(accept, kind):
    """It is served at any position in the header; v2beta1 is not supported."""
    async with flow.running() as plane:
        code, body = await flow.ask(plane, "/apis", accept=accept)
    assert (code, json.loads(body)["kind"]) == (406 if kind == "Status" else 200, kind)


REVIEW = b'{"spec": {"nonResourceAttributes": {"path": "/x", "verb": "get"}}}'


@pytest.mark.parametrize("options", [{"query": "?pretty=1"}, {"user_agent": "curl/8.1"}])
@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", CSRS, b""),
        ("GET", f"{CSRS}/none", b""),
        ("DELETE", f"{CSRS}/a", b""),
        ("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", REVIEW),
        ("GET", "/apis", b""),
    ],
)
async def test_responses_for_people_are_indented(options, method, path, body):
    """This applies to objects, errors, reviews and discovery; other clients get one line."""
    headers = {name: value for name, value in options.items() if name != "query"}
    async with flow.running() as plane:
        await filled(plane, "a")
        _, answer = await flow.ask(plane, path + options.get("query", ""), method, body=body, **headers)
        assert answer.startswith(b'{\n  "kind": ')
        assert answer.endswith(b"\n}")
        await filled(plane, *(["a"] if method == "DELETE" else []))
        _, answer = await flow.ask(plane, f"{path}?pretty=0", method, body=body, **headers)
        assert answer.index(b"\n") == len(answer) - 1


@pytest.mark.parametrize("accept", ["application/json", "application/json;as=Table;v=v1;g=meta.k8s.io;pretty=1"])
async def test_a_watch_has_one_line_for_each_event(accept):
    """Watches are never indented, because clients read them by line."""
    async with flow.running() as plane:
        await filled(plane, "a", "b")
        _, body = await flow.ask(plane, f"{CSRS}?watch=true&pretty=true", accept=accept, user_agent="curl/8")
    assert [json.loads(line)["type"] for line in body.splitlines()] == ["ADDED", "ADDED"]


@pytest.mark.parametrize(
    ("query", "why"),
    [
        ("limit=", 'strconv.ParseInt: parsing "": invalid syntax'),
        ("timeoutSeconds=", 'strconv.ParseInt: parsing "": invalid syntax'),
        ("resourceVersion=18446744073709551616", 'parsing "18446744073709551616": value out of range'),
        ('resourceVersion="', r'Invalid value: "\"": strconv.ParseUint: parsing "\"": invalid syntax'),
    ],
)
async def test_invalid_numbers_in_a_query(query, why):
    """An empty number, too large numbers and invalid ones have different errors."""
    async with flow.running() as plane:
        code, body = await flow.ask(plane, f"{CSRS}?{query}")
    assert (code, json.loads(body)["message"][-len(why) :]) == (400, why)


async def test_a_node_keeps_its_lease():
    """A kubelet can create, renew and delete its own lease, and cannot access another."""
    node = context.User("system:node:n1", groups=("system:nodes", "system:authenticated"))
    leases = "/apis/coordination.k8s.io/v1/namespaces/{}/leases"
    document, path = b'{"metadata": {"name": "n1"}, "spec": {}}', leases.format("kube-node-lease")
    async with flow.running() as plane:
        assert (await flow.ask(plane, path, "POST", node, document))[0] == 201
        _, created = await flow.ask(plane, f"{path}/n1", user=node)
        assert (await flow.ask(plane, f"{path}/n1", "PUT", node, created))[0] == 200
        code, answer = await flow.ask(plane, path, "POST", node, document.replace(b"n1", b"n2"))
        assert code == 403
        why = "can only access node lease with the same name as the requesting node"
        assert json.loads(answer)["message"] == f'leases.coordination.k8s.io "n2" is forbidden: {why}'
        for other in (f"{path}/n2", f"{leases.format('kube-system')}/n1", path):
            assert (await flow.ask(plane, other, "GET", node))[0] == 403
        assert (await flow.ask(plane, f"{path}/n1", "DELETE", node))[0] == 200


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"fieldSelector": {"requirements": [{"key": "a", "operator": "In", "values": ["x"]}]}}, ""),
        (
            {"fieldSelector": {"requirements": [{"key": "a", "operator": "In", "values": ["x", "y"]}]}},
            "spec.resourceAttributes.fieldSelector ignored due to parse error",
        ),
        (
            {"fieldSelector": {"requirements": [{"key": "a", "operator": "Exists"}]}},
            "spec.resourceAttributes.fieldSelector ignored due to parse error",
        ),
        (
            {
                "labelSelector": {
                    "requirements": [
                        {"key": "a", "operator": "Later"},
                        {"key": "b", "operator": "Exists", "values": []},
                    ]
                }
            },
            "spec.resourceAttributes.labelSelector partially ignored due to parse error",
        ),
        (
            {"fieldSelector": {"rawSelector": "a"}, "labelSelector": {"rawSelector": "a=>"}},
            (
                "spec.resourceAttributes.fieldSelector ignored due to parse error; "
                "spec.resourceAttributes.labelSelector ignored due to parse error"
            ),
        ),
    ],
)
async def test_selectors_of_a_review(attributes, message):
    """Requirements that cannot be used are reported."""
    review = {"spec": {"resourceAttributes": {"verb": "list", "resource": "secrets", **attributes}}}
    async with flow.running() as plane:
        path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
        _, body = await flow.ask(plane, path, "POST", body=json.dumps(review).encode())
    assert json.loads(body)["status"].get("evaluationError", "") == message


@pytest.mark.parametrize(("seconds", "times"), [(2, []), (10, [8]), (130, [60, 120, 128])])
async def test_times_of_bookmarks(seconds, times):
    """There is one each minute, and one two seconds before the end."""
    clock = testing.FakeClock()
    async with flow.running(clock=clock) as plane:
        query = f"watch=true&resourceVersion=1&allowWatchBookmarks=true&timeoutSeconds={seconds}"
        reply = await flow.respond(plane, "GET", f"{CSRS}?{query}")
        begun, seen = clock.monotonic(), []

        async def read():
            async for piece in reply.stream:
                seen.extend([clock.monotonic() - begun] * piece.count(b"BOOKMARK"))

        reader = asyncio.ensure_future(read())
        for _ in range(seconds + 1):
            await clock.advance(1)
        await flow.eventually(reader.done)
        reader.result()
    assert seen == times


@pytest.mark.parametrize("path", ["?watch=1", "", "/a"])
async def test_the_first_accept_header_counts(path):
    """Of several headers, only the first is used."""
    async with flow.running() as plane:
        await filled(plane, "a")
        fields = [(b"accept", b"text/html"), (b"accept", b"application/json")]
        reply = await flow.respond(plane, "GET", CSRS + path, fields=fields)
    assert reply.status == 406


PARTIAL = "application/json;as=PartialObjectMetadata{};v=v1;g=meta.k8s.io"


async def test_a_watch_as_partial_object_metadata_list_is_empty():
    """The response is 200 without events, as in Kubernetes."""
    async with flow.running() as plane:
        await filled(plane, "a")
        reply = await flow.respond(plane, "GET", f"{CSRS}?watch=1", accept=PARTIAL.format("List"))
        assert reply.status == 200
        assert [piece async for piece in reply.stream] == []


async def test_partial_metadata_of_reviews_and_of_deleted_collections():
    """A review has metadata; the list of deleted objects cannot be returned as a single object."""
    async with flow.running() as plane:
        await filled(plane, "a")
        path = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
        code, body = await flow.ask(plane, path, "POST", body=b"{}", accept=PARTIAL.format(""))
        assert (code, json.loads(body)["kind"]) == (201, "PartialObjectMetadata")
        code, body = await flow.ask(plane, path, "POST", body=b"{}", accept=PARTIAL.format("List"))
        assert (code, json.loads(body)["message"].rpartition(" ")[2]) == (406, "(*authentication.SelfSubjectReview)")
        code, body = await flow.ask(plane, CSRS, "DELETE", accept=PARTIAL.format(""))
        assert (code, json.loads(body)["message"].rpartition(" ")[2]) == (
            406,
            "(*certificates.CertificateSigningRequestList)",
        )


@pytest.mark.parametrize(
    ("name", "why"), [(".", "may not be '.'"), ("..", "may not be '..'"), ("%", "may not contain '%'")]
)
@pytest.mark.parametrize("method", ["GET", "DELETE"])
async def test_invalid_names_in_a_path(name, why, method):
    """They are refused before the lookup."""
    async with flow.running() as plane:
        code, body = await flow.ask(plane, f"{CSRS}/{name}", method)
    assert (code, json.loads(body)["message"]) == (400, f'Name parameter invalid: "{name}": {why}')


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/api/v1/namespaces/default/finalize", 405),
        ("PATCH", "/api/v1/namespaces/default/finalize", 405),
        ("POST", "/apis/authorization.k8s.io/v1/localsubjectaccessreviews", 404),
        ("GET", f"{GROUP}/watch/certificatesigningrequests/a/status", 404),
        ("OPTIONS", f"{GROUP}/watch/certificatesigningrequests", 405),
        ("POST", f"{GROUP}/watch/certificatesigningrequests", 405),
    ],
)
async def test_paths_that_do_not_support_the_method(method, path, status):
    """The status is 404 for unknown paths, 405 for known ones."""
    async with flow.running() as plane:
        await filled(plane, "a")
        code, _ = await flow.ask(plane, path, method, body=b"{}")
    assert code == status


@pytest.mark.parametrize(("query", "count"), [("limit=1;continue=x", 2), ("limit=1&limit=%zz", 1), ("limit=%zz", 2)])
async def test_malformed_query_parameters_are_ignored(query, count):
    """A semicolon is not a separator, and invalidates a parameter like an invalid escape."""
    async with flow.running() as plane:
        await filled(plane, "a", "b")
        _, body = await flow.ask(plane, f"{CSRS}?{query}")
    assert len(json.loads(body)["items"]) == count


@pytest.mark.parametrize(("version", "count"), [("0", 2), ("00", 1), ("", 1)])
async def test_resource_version_0_ignores_the_limit(version, count):
    """The limit is ignored with resourceVersion 0, a continue token is not."""
    async with flow.running() as plane:
        await filled(plane, "a", "b", "c")
        _, body = await flow.ask(plane, f"{CSRS}?limit=1")
        more = json.loads(body)["metadata"]["continue"]
        _, body = await flow.ask(plane, f"{CSRS}?limit=1&resourceVersion={version}")
        assert len(json.loads(body)["items"]) == (3 if version == "0" else 1)
        if version != "00":
            _, body = await flow.ask(plane, f"{CSRS}?limit=1&resourceVersion={version}&continue={more}")
            assert len(json.loads(body)["items"]) == count


@pytest.mark.parametrize(
    ("token", "why"),
    [
        ("YQ%0A", "invalid character 'a' looking for beginning of value"),
        ("YR", "invalid character 'a' looking for beginning of value"),
        ("Y", "illegal base64 data at input byte 0"),
        ("YQ=", "illegal base64 data at input byte 2"),
    ],
)
async def test_encoding_of_continue_tokens(token, why):
    """Line ends and trailing bits are ignored, padding is checked."""
    async with flow.running() as plane:
        code, body = await flow.ask(plane, f"{CSRS}?continue={token}")
    assert (code, json.loads(body)["message"].rpartition("not valid: ")[2]) == (400, why)


async def test_members_of_a_token_are_read_in_any_case():
    """As Go finds them."""
    async with flow.running() as plane:
        await filled(plane, "a", "b")
        code, body = await flow.ask(plane, f"{CSRS}?continue={token({'V': VERSION, 'RV': -1, 'Start': 'b'})}")
    assert (code, len(json.loads(body)["items"])) == (200, 1)


async def watched(plane, query, meanwhile):
    """The events of a watch up to its end, while the coroutine `meanwhile` runs."""
    reply = await flow.respond(plane, "GET", f"{CSRS}?watch=1&{query}")
    assert reply.status == 200

    async def read():
        return [json.loads(line) async for piece in reply.stream for line in piece.splitlines()]

    reader = asyncio.ensure_future(read())
    await meanwhile
    await flow.eventually(reader.done)
    return reader.result()


async def test_a_watch_from_a_future_revision():
    """It opens at once; earlier events and bookmarks are not sent."""
    clock = testing.FakeClock()
    async with flow.running(clock=clock) as plane:

        async def later():
            await filled(plane, "a", "b")
            await _let_five_seconds_pass(clock)

        future = await plane.store.revision() + 1
        query = f"resourceVersion={future}&timeoutSeconds=4&allowWatchBookmarks=true"
        events = await watched(plane, query, later())
        assert [event["object"]["metadata"].get("name") for event in events][:1] == ["b"]
        query = "resourceVersion=1000000&timeoutSeconds=4&allowWatchBookmarks=true"
        assert await watched(plane, query, _let_five_seconds_pass(clock)) == []


async def _let_five_seconds_pass(clock):
    for _ in range(5):
        await clock.advance(1)


async def test_a_watch_with_a_negative_timeout():
    """It is not an error; the watch ends at once."""
    async with flow.running() as plane:
        await filled(plane, "a")
        assert await watched(plane, "timeoutSeconds=-1", asyncio.sleep(0)) == []


async def test_the_initial_events_bookmark_is_in_tables_without_objects():
    """Also in a table without objects, in its metadata."""
    accept = "application/json;as=Table;v=v1;g=meta.k8s.io"
    initial = "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"
    async with flow.running() as plane:
        await filled(plane, "a")
        _, body = await flow.ask(plane, f"{CSRS}?watch=1&{initial}&includeObject=None", accept=accept)
    first, mark = (json.loads(line)["object"]["rows"][0]["object"] for line in body.splitlines())
    assert first is None
    assert mark["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}


async def test_the_deleted_service_account_is_returned():
    """It is returned in the requested representation; for most other kinds the response is a Status."""
    path = "/api/v1/namespaces/default/serviceaccounts"
    async with flow.running() as plane:
        for accept, kind in (("", "ServiceAccount"), (PARTIAL.format(""), "PartialObjectMetadata")):
            await flow.ask(plane, path, "POST", body=b'{"metadata":{"name":"a"}}')
            code, body = await flow.ask(plane, f"{path}/a", "DELETE", accept=accept)
            assert (code, json.loads(body)["kind"], json.loads(body)["metadata"]["name"]) == (200, kind, "a")


@pytest.mark.parametrize(
    ("selector", "why"),
    [
        ("metadata.name%3Da%3Db", "invalid field selector: unescaped character in value: 61"),
        ("a%22b%3Dc", r'"a\"b" is not a known field selector: only "metadata.name", "metadata.namespace"'),
    ],
)
async def test_characters_in_field_selectors(selector, why):
    """The error names an unescaped character by its number; a field is quoted as Go does."""
    async with flow.running() as plane:
        _, body = await flow.ask(plane, f"/api/v1/configmaps?fieldSelector={selector}")
    assert json.loads(body)["message"] == why


async def test_errors_name_the_resource_of_the_path():
    """An Event is not found in the group of the path, although both groups store the same objects."""
    async with flow.running() as plane:
        for group, named in (("/apis/events.k8s.io/v1", "events.events.k8s.io"), ("/api/v1", "events")):
            _, body = await flow.ask(plane, f"{group}/namespaces/default/events/a")
            assert json.loads(body)["message"] == f'{named} "a" not found'


@pytest.mark.parametrize("method", ["DELETE", "POST", "PUT", "PATCH"])
async def test_watch_paths_accept_only_get(method):
    """Other methods get a 405."""
    async with flow.running() as plane:
        path = "/apis/certificates.k8s.io/v1/watch/certificatesigningrequests/a"
        reply = await flow.respond(plane, method, path)
        assert reply.status == 405


async def test_a_path_without_a_resource_is_forbidden():
    """Two slashes leave the resource empty; the following segment is not a name."""
    async with flow.running() as plane:
        path = "/api/v1/namespaces/default//configmaps"
        reply = await flow.respond(plane, "GET", path, user=flow.JANE)
        assert json.loads(reply.body)["message"].startswith('forbidden: User "jane" cannot get resource ""')
