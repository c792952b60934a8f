"""Discovery documents, OpenAPI, /version, and unknown paths."""

from __future__ import annotations

import json

import pytest

from certplane.wire.pb import apidiscovery_v2_pb2, runtime_pb2
from tests.flow import plane as flow

GROUP = "/apis/certificates.k8s.io"
AGGREGATED = "{};g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
PROTOBUF = "application/vnd.kubernetes.protobuf"


async def respond(plane, path, method="GET", **headers):
    """The response to one request, and its headers by name."""
    response = await flow.respond(plane, method, path, **headers)
    return response, {name.decode(): value.decode() for name, value in response.headers}


@pytest.mark.parametrize("path", ["/api", "/api/v1", f"{GROUP}/v1", "/version"])
@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "POST", "DELETE"])
async def test_api_routes_accept_only_get(path, method):
    """The method is checked before the Accept header."""
    async with flow.running() as plane:
        response, _ = await respond(plane, path, method, accept="text/html")
    assert response.status == 405


@pytest.mark.parametrize("path", ["/", "/apis", "/apis/", GROUP, "/openapi/v2", "/openapi/v3", "/healthz", "/metrics"])
@pytest.mark.parametrize("method", ["HEAD", "POST"])
async def test_other_documents_accept_any_method(path, method):
    """As in kube-apiserver."""
    async with flow.running() as plane:
        response, _ = await respond(plane, path, method)
    assert response.status == 200


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
async def test_unknown_paths(path, is_status):
    """In an existing group the error is a Status; elsewhere it is plain text."""
    async with flow.running() as plane:
        response, _ = await respond(plane, path)
    assert response.status == 404
    assert (response.content_type == "application/json") == is_status


async def test_aggregated_discovery_in_protobuf():
    """It is the same document as in JSON."""
    async with flow.running() as plane:
        binary, _ = await respond(plane, "/apis", accept=AGGREGATED.format(PROTOBUF))
        plain, _ = await respond(plane, "/apis", accept=AGGREGATED.format("application/json"))
    assert binary.content_type == AGGREGATED.format(PROTOBUF)
    envelope = runtime_pb2.Unknown.FromString(binary.body[4:])
    assert (envelope.typeMeta.apiVersion, envelope.typeMeta.kind) == ("apidiscovery.k8s.io/v2", "APIGroupDiscoveryList")
    groups = apidiscovery_v2_pb2.APIGroupDiscoveryList.FromString(envelope.raw)
    expected = json.loads(plain.body)["items"]
    assert [group.metadata.name for group in groups.items] == [group["metadata"]["name"] for group in expected]
    names = [[kind.resource for kind in version.resources] for group in groups.items for version in group.versions]
    assert names == [
        [kind["resource"] for kind in version["resources"]] for group in expected for version in group["versions"]
    ]


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
async def test_accepted_media_types(path, accept, status):
    """API routes compare names of media types; other documents accept ranges."""
    async with flow.running() as plane:
        response, _ = await respond(plane, path, accept=accept)
    assert response.status == status


async def test_apis_with_a_trailing_slash_has_no_aggregated_form():
    """`/apis/` is the plain list, whatever else is accepted."""
    async with flow.running() as plane:
        response, _ = await respond(plane, "/apis/", accept=f"{AGGREGATED.format('application/json')},application/json")
    assert json.loads(response.body)["kind"] == "APIGroupList"


async def test_if_none_match_of_aggregated_discovery():
    """The response is a 304 for the exact tag only, neither for a list of tags nor for a wildcard."""
    accept = AGGREGATED.format("application/json")
    async with flow.running() as plane:
        _, headers = await respond(plane, "/apis", accept=accept)
        tag = headers["etag"]
        codes = [
            (await respond(plane, "/apis", accept=accept, if_none_match=if_none_match))[0].status
            for if_none_match in (tag, f"W/{tag}", f'"x", {tag}', "*")
        ]
    assert codes == [304, 200, 200, 200]


@pytest.mark.parametrize("path", ["/openapi/v2", "/openapi/v3", "/openapi/v3/apis/certificates.k8s.io/v1"])
async def test_conditional_requests_for_openapi(path):
    """The tag decides if there is one, otherwise the time; an invalid date is ignored."""
    future = "Fri, 01 Jan 2100 00:00:00 GMT"
    async with flow.running() as plane:
        conditions = [{"if_none_match": "*"}, {"if_modified_since": future}]
        unchanged = [await respond(plane, path, **headers) for headers in conditions]
        conditions = [{"if_none_match": '"x"', "if_modified_since": future}, {"if_modified_since": "then"}]
        changed = [await respond(plane, path, **headers) for headers in conditions]
    assert [(response.status, response.body) for response, _ in unchanged] == [(304, b"")] * 2
    assert [response.status for response, _ in changed] == [200] * 2


async def schemas(plane, path):
    response, _ = await respond(plane, f"/openapi/v3/{path}")
    return json.loads(response.body)


async def test_schema_of_certificate_requests():
    """Usages have an enum of their items, and bytes are not a list."""
    async with flow.running() as plane:
        components = (await schemas(plane, "apis/certificates.k8s.io/v1"))["components"]["schemas"]
    spec = components["io.k8s.api.certificates.v1.CertificateSigningRequestSpec"]["properties"]
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
    """They are those of Kubernetes."""
    async with flow.running() as plane:
        schema = (await schemas(plane, path))["components"]["schemas"][name]
    assert schema["required"] == required


@pytest.mark.parametrize(
    ("name", "field", "values"),
    [
        ("NamespaceStatus", "phase", ["Active", "Terminating"]),
        ("NodeStatus", "phase", ["Pending", "Running", "Terminated"]),
        ("Taint", "effect", ["NoExecute", "NoSchedule", "PreferNoSchedule"]),
    ],
)
async def test_enums_have_all_values_sorted(name, field, values):
    """All values, sorted."""
    async with flow.running() as plane:
        schema = (await schemas(plane, "api/v1"))["components"]["schemas"][f"io.k8s.api.core.v1.{name}"]
    assert schema["properties"][field]["enum"] == values


async def test_the_version_matches_its_schema():
    """It has exactly the fields of the schema."""
    async with flow.running() as plane:
        schema = (await schemas(plane, "version"))["components"]["schemas"]["io.k8s.apimachinery.pkg.version.Info"]
        response, _ = await respond(plane, "/version")
    assert set(schema["properties"]) == set(json.loads(response.body))


async def test_schemas_have_their_group_version_kind():
    """This includes kinds that occur only in a list."""
    async with flow.running() as plane:
        schema = (await schemas(plane, "apis"))["components"]["schemas"][
            "io.k8s.apimachinery.pkg.apis.meta.v1.APIGroup"
        ]
    assert schema["x-kubernetes-group-version-kind"] == [{"group": "", "kind": "APIGroup", "version": "v1"}]


@pytest.mark.parametrize(("plural", "schema"), [("serviceaccounts", "ServiceAccount"), ("secrets", "Status")])
async def test_schema_of_a_deletion_response(plural, schema):
    """It is a Status, and for some kinds the object."""
    async with flow.running() as plane:
        paths = (await schemas(plane, "api/v1"))["paths"]
    operation = paths[f"/api/v1/namespaces/{{namespace}}/{plural}/{{name}}"]["delete"]
    assert operation["responses"]["200"]["content"]["application/json"]["schema"]["$ref"].endswith(f".v1.{schema}")
