"""What clients learn of a server before they use it, and what they get on paths that are not served."""

from __future__ import annotations

import json

import pytest

from certplane.meta.pb import apidiscovery_v2_pb2, runtime_pb2
from certplane.server import exchange
from tests.flow import plane as flow

GROUP = "/apis/certificates.k8s.io"
AGGREGATED = "{};g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
PROTOBUF = "application/vnd.kubernetes.protobuf"


async def answer(plane, path, method="GET", **headers):
    """The reply to one request, and its headers by name."""
    path, _, query = path.partition("?")
    fields = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    of = exchange.Exchange(method, path, query, exchange.Headers(fields), identity=flow.ADMIN)
    reply = await flow.assembled(plane)(of)
    return reply, {name.decode(): value.decode() for name, value in reply.headers}


@pytest.mark.parametrize("path", ["/api", "/api/v1", f"{GROUP}/v1", "/version"])
@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "POST", "DELETE"])
async def test_routes_take_one_method(path, method):
    """Only GET leads to a document that has a route, and nothing is negotiated before that is clear."""
    async with flow.running() as plane:
        reply, _ = await answer(plane, path, method, accept="text/html")
    assert reply.status == 405


@pytest.mark.parametrize("path", ["/", "/apis", "/apis/", GROUP, "/openapi/v2", "/openapi/v3", "/healthz", "/metrics"])
@pytest.mark.parametrize("method", ["HEAD", "POST"])
async def test_documents_without_routes_take_any_method(path, method):
    """As those of the real server that are older than routes."""
    async with flow.running() as plane:
        reply, _ = await answer(plane, path, method)
    assert reply.status == 200


@pytest.mark.parametrize(
    ("path", "is_status"),
    [
        ("/api/v2", True),
        ("/api/v2/x", True),
        (f"{GROUP}/v9", True),
        (f"{GROUP}/v9/x", True),
        (f"{GROUP}/v1/nopes", True),
        ("/apis/example.com", False),
        ("/apis/example.com/v1", False),
        ("/healthz/", False),
        ("/healthzz", False),
        ("/nope", False),
    ],
)
async def test_what_is_not_served(path, is_status):
    """Within a group that there is, a Status says so; elsewhere plain text."""
    async with flow.running() as plane:
        reply, _ = await answer(plane, path)
    assert reply.status == 404
    assert (reply.content_type == "application/json") == is_status


async def test_aggregated_discovery_in_protobuf():
    """The same document as in JSON, under a content type that says what it is."""
    async with flow.running() as plane:
        binary, _ = await answer(plane, "/apis", accept=AGGREGATED.format(PROTOBUF))
        plain, _ = await answer(plane, "/apis", accept=AGGREGATED.format("application/json"))
    assert binary.content_type == AGGREGATED.format(PROTOBUF)
    envelope = runtime_pb2.Unknown.FromString(binary.body[4:])
    assert (envelope.typeMeta.apiVersion, envelope.typeMeta.kind) == ("apidiscovery.k8s.io/v2", "APIGroupDiscoveryList")
    found = apidiscovery_v2_pb2.APIGroupDiscoveryList.FromString(envelope.raw)
    expected = json.loads(plain.body)["items"]
    assert [each.metadata.name for each in found.items] == [each["metadata"]["name"] for each in expected]
    names = [[kind.resource for kind in version.resources] for each in found.items for version in each.versions]
    assert names == [[kind["resource"] for kind in each["resources"]] for item in expected for each in item["versions"]]


@pytest.mark.parametrize(
    ("path", "accept", "status"),
    [
        ("/api", AGGREGATED.format("application/yaml"), 200),
        ("/api", AGGREGATED.format("application/*"), 406),
        ("/apis", AGGREGATED.format("application/*"), 200),
        ("/version", "application/yaml", 406),
        ("/version", "text/html,application/json;q=0", 200),
        ("/openapi/v2", "*", 200),
        ("/openapi/v2", "text/html", 406),
    ],
)
async def test_what_is_accepted(path, accept, status):
    """A route compares names of types; what has none takes ranges."""
    async with flow.running() as plane:
        reply, _ = await answer(plane, path, accept=accept)
    assert reply.status == status


async def test_the_slash_knows_no_aggregated_form():
    """`/apis/` is the plain list, whatever is accepted besides."""
    async with flow.running() as plane:
        reply, _ = await answer(plane, "/apis/", accept=f"{AGGREGATED.format('application/json')},application/json")
    assert json.loads(reply.body)["kind"] == "APIGroupList"


async def test_aggregated_discovery_is_compared_as_a_whole():
    """304 for the very tag alone: neither for a list of tags nor for a star."""
    accept = AGGREGATED.format("application/json")
    async with flow.running() as plane:
        _, headers = await answer(plane, "/apis", accept=accept)
        tag = headers["etag"]
        codes = [
            (await answer(plane, "/apis", accept=accept, if_none_match=each))[0].status
            for each in (tag, f"W/{tag}", f'"x", {tag}', "*")
        ]
    assert codes == [304, 200, 200, 200]


@pytest.mark.parametrize("path", ["/openapi/v2", "/openapi/v3", "/openapi/v3/apis/certificates.k8s.io/v1"])
async def test_openapi_is_sent_again_only_if_it_changed(path):
    """By tag if one is sent, else by time; what is no date counts for nothing."""
    future = "Fri, 01 Jan 2100 00:00:00 GMT"
    async with flow.running() as plane:
        asked = [{"if_none_match": "*"}, {"if_modified_since": future}]
        unchanged = [await answer(plane, path, **each) for each in asked]
        asked = [{"if_none_match": '"x"', "if_modified_since": future}, {"if_modified_since": "then"}]
        changed = [await answer(plane, path, **each) for each in asked]
    assert [(reply.status, reply.body) for reply, _ in unchanged] == [(304, b"")] * 2
    assert [reply.status for reply, _ in changed] == [200] * 2


async def schemas(plane, path):
    reply, _ = await answer(plane, f"/openapi/v3/{path}")
    return json.loads(reply.body)


async def test_what_schemas_say_of_requests():
    """Usages are those of a list, and bytes are no list."""
    async with flow.running() as plane:
        found = (await schemas(plane, "apis/certificates.k8s.io/v1"))["components"]["schemas"]
    spec = found["io.k8s.api.certificates.v1.CertificateSigningRequestSpec"]["properties"]
    assert spec["usages"]["items"]["enum"][:3] == ["any", "cert sign", "client auth"]
    assert "x-kubernetes-list-type" not in spec["request"]


@pytest.mark.parametrize(
    ("path", "name", "required"),
    [
        ("api/v1", "io.k8s.api.core.v1.Event", ["metadata", "involvedObject"]),
        ("apis/rbac.authorization.k8s.io/v1", "io.k8s.api.rbac.v1.RoleRef", ["kind", "name"]),
        ("apis/authentication.k8s.io/v1", "io.k8s.api.authentication.v1.TokenReviewSpec", ["token"]),
        (
            "version",
            "io.k8s.apimachinery.pkg.version.Info",
            [
                "major",
                "minor",
                "gitVersion",
                "gitCommit",
                "gitTreeState",
                "buildDate",
                "goVersion",
                "compiler",
                "platform",
            ],
        ),
    ],
)
async def test_required_fields(path, name, required):
    """As clients know them."""
    async with flow.running() as plane:
        found = (await schemas(plane, path))["components"]["schemas"][name]
    assert found["required"] == required


@pytest.mark.parametrize(
    ("name", "field", "values"),
    [
        ("NamespaceStatus", "phase", ["Active", "Terminating"]),
        ("NodeStatus", "phase", ["Pending", "Running", "Terminated"]),
        ("Taint", "effect", ["NoExecute", "NoSchedule", "PreferNoSchedule"]),
    ],
)
async def test_values_that_are_enumerated(name, field, values):
    """All of them, sorted."""
    async with flow.running() as plane:
        found = (await schemas(plane, "api/v1"))["components"]["schemas"][f"io.k8s.api.core.v1.{name}"]
    assert found["properties"][field]["enum"] == values


async def test_the_version_is_as_its_schema_says():
    """No field more and none less."""
    async with flow.running() as plane:
        found = (await schemas(plane, "version"))["components"]["schemas"]["io.k8s.apimachinery.pkg.version.Info"]
        reply, _ = await answer(plane, "/version")
    assert set(found["properties"]) == set(json.loads(reply.body))


async def test_groups_are_found_by_their_kind():
    """Also where they stand in a list."""
    async with flow.running() as plane:
        found = (await schemas(plane, "apis"))["components"]["schemas"]["io.k8s.apimachinery.pkg.apis.meta.v1.APIGroup"]
    assert found["x-kubernetes-group-version-kind"] == [{"group": "", "kind": "APIGroup", "version": "v1"}]


@pytest.mark.parametrize(("plural", "schema"), [("serviceaccounts", "ServiceAccount"), ("secrets", "Status")])
async def test_what_a_deletion_answers(plural, schema):
    """A Status, or for some the object."""
    async with flow.running() as plane:
        paths = (await schemas(plane, "api/v1"))["paths"]
    operation = paths[f"/api/v1/namespaces/{{namespace}}/{plural}/{{name}}"]["delete"]
    assert operation["responses"]["200"]["content"]["application/json"]["schema"]["$ref"].endswith(f".v1.{schema}")
