"""What clients get who ask for more, or for less, than a plain list."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json

import pytest

from certplane import testing
from certplane.meta import context, objects
from certplane.resources import certificatesigningrequests as csrs
from certplane.resources import events
from certplane.server import exchange
from tests.flow import plane as flow

GROUP = "/apis/certificates.k8s.io/v1"
CSRS = f"{GROUP}/certificatesigningrequests"


def _chunks(body):
    async def chunks():
        yield body

    return chunks


async def ask(plane, path, method="GET", user=flow.ADMIN, body=b"", **headers):
    """One request: status, and the body."""
    path, _, query = path.partition("?")
    fields = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    of = exchange.Exchange(method, path, query, exchange.Headers(fields), _chunks(body), identity=user)
    reply = await flow.assembled(plane)(of)
    if reply.stream is None:
        return reply.status, reply.body
    async with contextlib.aclosing(reply.stream) as stream:
        return reply.status, await anext(stream)


async def filled(plane, *names):
    for name in names:
        await plane.client(flow.ADMIN).create(csrs.RESOURCE, flow.new_csr(name))


async def test_two_forms_of_one_object_are_watched_apart():
    """Events are served in two groups: each watch sees them as its own group has them, whoever was first."""
    async with flow.running() as plane:
        client = plane.client(flow.ADMIN)
        version = (await client.list(events.RESOURCE)).resource_version
        made = events.Event(involved_object=objects.ObjectReference(kind="Node", name="n1"), reason="Tested")
        made.metadata.name = "a"
        made.metadata.namespace = made.involved_object.namespace = "default"
        async with (
            client.watch(events.RESOURCE, version) as old,
            client.watch(events.NEW_RESOURCE, version) as new,
        ):
            await client.create(events.RESOURCE, made, "default")
            seen = [(await anext(each)).object for each in (old, new)]
    assert [each.api_version for each in seen] == ["v1", "events.k8s.io/v1"]
    assert seen[0].involved_object.name == seen[1].regarding.name == "n1"


@pytest.mark.parametrize(
    ("selector", "status"), [("", 200), ("metadata.name=a", 200), ("metadata.name=b", 400), ("spec.signerName=x", 400)]
)
async def test_watch_of_one_object_shows_no_other(selector, status):
    """A selector that does not name the object of the path is refused: the right to watch was judged for that name."""
    async with flow.running() as plane:
        await filled(plane, "a", "b")
        code, body = await ask(plane, f"{GROUP}/watch/certificatesigningrequests/a?fieldSelector={selector}")
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
async def test_watch_from_anywhere_tells_when_it_has_shown_all(query, bookmarks):
    """A watch without a version that takes bookmarks gets the one behind the initial events without asking for them."""
    async with flow.running() as plane:
        await filled(plane, "a")
        _, body = await ask(plane, f"{CSRS}?watch=true&allowWatchBookmarks=true{query}")
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
async def test_which_options_of_a_watch_are_refused(path, message):
    """A continue token only where it would start from the beginning; below /watch/ what a list refuses, too."""
    async with flow.running() as plane:
        await filled(plane, "a")
        code, body = await ask(plane, path)
    assert code == (422 if message else 200)
    assert message.encode() in body


def token(document):
    return base64.urlsafe_b64encode(json.dumps(document).encode()).rstrip(b"=").decode()


async def test_page_of_a_forgotten_revision_can_be_had_at_the_newest():
    """The refusal of a token that is too old has another one, which goes on inconsistently behind the same object."""
    async with flow.running() as plane:
        await filled(plane, "a", "b")
        _, body = await ask(plane, f"{CSRS}?limit=1")
        old = json.loads(body)["metadata"]["continue"]
        await filled(plane, "c")
        await plane.store.compact(await plane.store.revision())
        code, body = await ask(plane, f"{CSRS}?limit=2&continue={old}")
        refusal = json.loads(body)
        assert (code, refusal["reason"]) == (410, "Expired")
        assert "use the continue token in this response to retrieve the remainder" in refusal["message"]
        code, body = await ask(plane, f"{CSRS}?limit=2&continue={refusal['metadata']['continue']}")
        assert [each["metadata"]["name"] for each in json.loads(body)["items"]] == ["b", "c"]
        code, body = await ask(plane, f"{CSRS}?resourceVersion=1&resourceVersionMatch=Exact")
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
async def test_bad_tokens(document, why):
    """What is wrong with a token is told in Go's words, even where a version is given that it excludes."""
    async with flow.running() as plane:
        code, body = await ask(plane, f"{CSRS}?resourceVersion=5&continue={token(document)}")
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
    """Whoever takes it gets it, wherever it stands in the header; v2beta1 is as unknown as any other version."""
    async with flow.running() as plane:
        code, body = await ask(plane, "/apis", accept=accept)
    assert (code, json.loads(body)["kind"]) == (406 if kind == "Status" else 200, kind)


REVIEW = b'{"spec": {"nonResourceAttributes": {"path": "/x", "verb": "get"}}}'


@pytest.mark.parametrize("how", [{"query": "?pretty=1"}, {"user_agent": "curl/8.1"}])
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
async def test_people_get_indented_answers(how, method, path, body):
    """Objects, refusals, answers to actions and discovery alike; clients that do not ask get one line."""
    headers = {name: value for name, value in how.items() if name != "query"}
    async with flow.running() as plane:
        await filled(plane, "a")
        _, answer = await ask(plane, path + how.get("query", ""), method, body=body, **headers)
        assert answer.startswith(b'{\n  "kind": ')
        assert answer.endswith(b"\n}")
        await filled(plane, *(["a"] if method == "DELETE" else []))
        _, answer = await ask(plane, f"{path}?pretty=0", method, body=body, **headers)
        assert answer.index(b"\n") == len(answer) - 1


@pytest.mark.parametrize("accept", ["application/json", "application/json;as=Table;v=v1;g=meta.k8s.io;pretty=1"])
async def test_watch_has_one_line_for_each_event(accept):
    """Even for people: readers of a watch go by lines."""
    async with flow.running() as plane:
        await filled(plane, "a", "b")
        _, body = await ask(plane, f"{CSRS}?watch=true&pretty=true", accept=accept, user_agent="curl/8")
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
async def test_numbers_that_are_none(query, why):
    """An empty number is none, and one that is too large is told apart from one that is no number."""
    async with flow.running() as plane:
        code, body = await ask(plane, f"{CSRS}?{query}")
    assert (code, json.loads(body)["message"][-len(why) :]) == (400, why)


async def test_node_keeps_its_lease():
    """A kubelet makes, renews and drops the lease of its name in the namespace of leases, and sees no other."""
    node = context.User("system:node:n1", groups=("system:nodes", "system:authenticated"))
    leases = "/apis/coordination.k8s.io/v1/namespaces/{}/leases"
    own, path = b'{"metadata": {"name": "n1"}, "spec": {}}', leases.format("kube-node-lease")
    async with flow.running() as plane:
        assert (await ask(plane, path, "POST", node, own))[0] == 201
        _, made = await ask(plane, f"{path}/n1", user=node)
        assert (await ask(plane, f"{path}/n1", "PUT", node, made))[0] == 200
        code, answer = await ask(plane, path, "POST", node, own.replace(b"n1", b"n2"))
        assert code == 403
        why = "can only access node lease with the same name as the requesting node"
        assert json.loads(answer)["message"] == f'leases.coordination.k8s.io "n2" is forbidden: {why}'
        for other in (f"{path}/n2", f"{leases.format('kube-system')}/n1", path):
            assert (await ask(plane, other, "GET", node))[0] == 403
        assert (await ask(plane, f"{path}/n1", "DELETE", node))[0] == 200


@pytest.mark.parametrize(
    ("attributes", "told"),
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
                    "requirements": [{"key": "a", "operator": "In"}, {"key": "b", "operator": "Exists", "values": []}]
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
async def test_selectors_of_a_review(attributes, told):
    """What of them cannot be used is told: fields take one value, labels what any selector takes."""
    asked = {"spec": {"resourceAttributes": {"verb": "list", "resource": "secrets", **attributes}}}
    async with flow.running() as plane:
        path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
        _, body = await ask(plane, path, "POST", body=json.dumps(asked).encode())
    assert json.loads(body)["status"].get("evaluationError", "") == told


@pytest.mark.parametrize(("seconds", "times"), [(2, []), (10, [8]), (130, [60, 120, 128])])
async def test_last_bookmark_comes_before_the_end(seconds, times):
    """One each minute, and the last two seconds before the watch ends; none at the end itself."""
    clock = testing.FakeClock()
    async with flow.running(clock=clock) as plane:
        query = f"watch=true&resourceVersion=1&allowWatchBookmarks=true&timeoutSeconds={seconds}"
        of = exchange.Exchange("GET", CSRS, query, exchange.Headers([]), identity=flow.ADMIN)
        reply = await flow.assembled(plane)(of)
        begun, seen = clock.monotonic(), []

        async def read():
            async for piece in reply.stream:
                seen.extend([clock.monotonic() - begun] * piece.count(b"BOOKMARK"))

        reader = asyncio.ensure_future(read())
        for _ in range(seconds + 1):
            await clock.advance(1)
        await asyncio.wait_for(reader, 5)
    assert seen == times
