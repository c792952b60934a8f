"""Method and path to RequestInfo."""

import pytest

from certplane.server import requestinfo

CSRS = "/apis/certificates.k8s.io/v1/certificatesigningrequests"


def _fields(info):
    return info.verb, info.group, info.version, info.namespace, info.resource, info.subresource, info.name


@pytest.mark.parametrize(
    ("method", "path", "query", "expected"),
    [
        ("GET", CSRS, {}, ("list", "certificates.k8s.io", "v1", "", "certificatesigningrequests", "", "")),
        ("GET", CSRS + "/", {}, ("list", "certificates.k8s.io", "v1", "", "certificatesigningrequests", "", "")),
        ("GET", CSRS + "/a", {}, ("get", "certificates.k8s.io", "v1", "", "certificatesigningrequests", "", "a")),
        ("POST", CSRS, {}, ("create", "certificates.k8s.io", "v1", "", "certificatesigningrequests", "", "")),
        (
            "PUT",
            CSRS + "/a/approval",
            {},
            ("update", "certificates.k8s.io", "v1", "", "certificatesigningrequests", "approval", "a"),
        ),
        (
            "DELETE",
            CSRS,
            {},
            ("deletecollection", "certificates.k8s.io", "v1", "", "certificatesigningrequests", "", ""),
        ),
        (
            "GET",
            CSRS,
            {"watch": ["true"]},
            ("watch", "certificates.k8s.io", "v1", "", "certificatesigningrequests", "", ""),
        ),
        (
            "GET",
            CSRS,
            {"watch": ["0"]},
            ("list", "certificates.k8s.io", "v1", "", "certificatesigningrequests", "", ""),
        ),
        (
            "GET",
            CSRS + "/a",
            {"watch": ["true"]},
            ("get", "certificates.k8s.io", "v1", "", "certificatesigningrequests", "", "a"),
        ),
        (
            "GET",
            CSRS,
            {"fieldSelector": ["metadata.name=a"]},
            ("list", "certificates.k8s.io", "v1", "", "certificatesigningrequests", "", "a"),
        ),
        ("GET", "/api/v1/namespaces", {}, ("list", "", "v1", "", "namespaces", "", "")),
        ("GET", "/api/v1/namespaces/x", {}, ("get", "", "v1", "x", "namespaces", "", "x")),
        ("PUT", "/api/v1/namespaces/x/finalize", {}, ("update", "", "v1", "x", "namespaces", "finalize", "x")),
        ("GET", "/api/v1/namespaces/x/events/e", {}, ("get", "", "v1", "x", "events", "", "e")),
        (
            "GET",
            "/apis/rbac.authorization.k8s.io/v1/namespaces/x/roles",
            {},
            ("list", "rbac.authorization.k8s.io", "v1", "x", "roles", "", ""),
        ),
        (
            "GET",
            "/apis/certificates.k8s.io/v1/watch/certificatesigningrequests/a",
            {},
            ("watch", "certificates.k8s.io", "v1", "", "certificatesigningrequests", "", "a"),
        ),
    ],
)
def test_resource_paths(method, path, query, expected):
    """Method and path give verb, kind, namespace, name and subresource."""
    info = requestinfo.parse(method, path, query)

    assert info.is_resource
    assert expected == _fields(info)


@pytest.mark.parametrize(
    "path", ["/", "/api", "/apis", "/api/v1", "/apis/certificates.k8s.io/v1", "/healthz", "/x/y/z"]
)
def test_non_resource_paths(path):
    """The verb is the method."""
    info = requestinfo.parse("GET", path, {})

    assert (False, "get", path) == (info.is_resource, info.verb, info.path)


@pytest.mark.parametrize(
    ("method", "path", "query", "expected"),
    [
        ("GET", CSRS, {}, ("list", "a")),
        ("GET", CSRS, {"watch": ["1"]}, ("watch", "a")),
        ("GET", CSRS.replace("v1", "v1/watch"), {}, ("watch", "")),
        ("DELETE", CSRS, {}, ("deletecollection", "")),
    ],
)
def test_selected_name(method, path, query, expected):
    """A field selector for one name sets the name of a list or watch by query only."""
    info = requestinfo.parse(method, path, {**query, "fieldSelector": ["metadata.name=a"]})
    assert (info.verb, info.name) == expected
    assert requestinfo.parse("GET", CSRS, {"fieldSelector": ["metadata.name=.."]}).name == ""


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/api/v1/configmaps", ("a", "b=c")),
        ("/api/v1/watch/configmaps", None),
        ("/api/v1/namespaces/x/configmaps/a", None),
    ],
)
def test_the_field_selector_of_a_collection(path, expected):
    """It is parsed into its terms; for a single object or a watch path it is ignored."""
    selector = requestinfo.parse("GET", path, {"fieldSelector": [r"metadata.name=a,spec.x=b\=c"]}).field_selector
    assert tuple(term.value for term in selector.terms) == (expected or ())


def test_an_invalid_field_selector_selects_everything():
    """Authorizers then see no restriction. The handler refuses the request after authorization."""
    info = requestinfo.parse("GET", "/api/v1/configmaps", {"fieldSelector": ["metadata.name=a,b"]})
    assert (info.name, info.field_selector.terms) == ("", ())
