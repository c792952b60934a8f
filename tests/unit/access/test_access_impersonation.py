"""Impersonation: which permissions allow what, and the headers."""

from __future__ import annotations

import pytest

from certplane import errors
from certplane.access import impersonation, rbac
from certplane.meta import context

CALLER = context.User("caller", groups=("system:authenticated",))
TARGET = context.Attributes(CALLER, "list", group="certificates.k8s.io", resource="certificatesigningrequests")


def impersonate(grants, impersonated, caller=CALLER):
    """The result with an authorizer that allows exactly these (verb, resource[/subresource], name)."""

    def authorize(request):
        resource = f"{request.resource}/{request.subresource}" if request.subresource else request.resource
        return rbac.Decision((request.verb, resource, request.name) in grants)

    attributes = context.Attributes(caller, TARGET.verb, group=TARGET.group, resource=TARGET.resource)
    return impersonation.Impersonation(authorize).authorize(impersonated, attributes)[0]


def on(mode):
    return (f"impersonate-on:{mode}:list", "certificatesigningrequests", "")


JANE = context.User("jane")
NODE = context.User("system:node:n1")
ROBOT = context.User("system:serviceaccount:ns:robot")


@pytest.mark.parametrize(
    ("grants", "impersonated", "groups"),
    [
        ({("impersonate", "users", "jane")}, JANE, ("system:authenticated",)),
        ({on("user-info"), ("impersonate:user-info", "users", "jane")}, JANE, ("system:authenticated",)),
        (
            {("impersonate", "users", "jane"), ("impersonate", "groups", "dev")},
            context.User("jane", groups=("dev",)),
            ("dev", "system:authenticated"),
        ),
        (
            {("impersonate", "serviceaccounts", "robot")},
            ROBOT,
            ("system:serviceaccounts", "system:serviceaccounts:ns", "system:authenticated"),
        ),
        (
            {on("arbitrary-node"), ("impersonate:arbitrary-node", "nodes", "n1")},
            NODE,
            ("system:nodes", "system:authenticated"),
        ),
        ({("impersonate", "users", "system:anonymous")}, context.User("system:anonymous"), ("system:unauthenticated",)),
        (
            {("impersonate", "users", "jane"), ("impersonate", "userextras/scopes", "a")},
            context.User("jane", extra={"scopes": ("a",)}),
            ("system:authenticated",),
        ),
        (
            {on("user-info"), ("impersonate:user-info", "users", "jane"), ("impersonate:user-info", "groups", "*")},
            context.User("jane", groups=("a", "b", "c", "d")),
            ("a", "b", "c", "d", "system:authenticated"),
        ),
    ],
)
def test_an_allowed_impersonation_gives_the_user_and_groups(grants, impersonated, groups):
    """With the groups in the headers, or those that the name implies."""
    user = impersonate(grants, impersonated)
    assert (user.name, user.groups, user.extra) == (impersonated.name, groups, impersonated.extra)


@pytest.mark.parametrize(
    ("grants", "impersonated"),
    [
        (set(), JANE),
        ({("impersonate", "users", "bob")}, JANE),
        ({on("user-info")}, JANE),
        ({("impersonate:user-info", "users", "jane")}, JANE),
        ({("impersonate", "users", "jane")}, context.User("jane", groups=("dev",))),
        ({("impersonate", "users", "jane")}, context.User("jane", uid="1")),
        ({("impersonate", "users", "jane")}, context.User("jane", extra={"scopes": ("a",)})),
        ({on("user-info"), ("impersonate:user-info", "users", NODE.name)}, NODE),
        (
            {on("user-info"), ("impersonate:user-info", "users", "jane"), ("impersonate:user-info", "groups", "*")},
            context.User("jane", groups=("a", "b", "c", "system:masters")),
        ),
        ({on("associated-node"), ("impersonate:associated-node", "nodes", "*")}, NODE),
    ],
)
def test_a_missing_permission_refuses_the_impersonation(grants, impersonated):
    """Every part of the identity needs its own permission."""
    with pytest.raises(errors.Forbidden):
        impersonate(grants, impersonated)


def permissions(impersonated, *verbs):
    """What is asked for with these verbs, if they are allowed and no other is."""
    asked = []

    def authorize(request):
        if request.verb in verbs:
            asked.append((request.verb, request.group, request.resource, request.subresource, request.name))
        return rbac.Decision(request.verb in verbs)

    impersonation.Impersonation(authorize).authorize(impersonated, TARGET)
    return asked


AUTHENTICATION = "authentication.k8s.io"
EVERYTHING = context.User("jane", "1", ("dev",), {"acme.io/key": ("x",)})


def test_the_legacy_mode_asks_for_users_groups_and_accounts_in_the_core_group():
    """UIDs and extra are in the group of authentication."""
    assert permissions(EVERYTHING, "impersonate") == [
        ("impersonate", "", "users", "", "jane"),
        ("impersonate", AUTHENTICATION, "uids", "", "1"),
        ("impersonate", "", "groups", "", "dev"),
        ("impersonate", AUTHENTICATION, "userextras", "acme.io/key", "x"),
    ]
    assert permissions(ROBOT, "impersonate") == [("impersonate", "", "serviceaccounts", "", "robot")]
    assert permissions(NODE, "impersonate") == [("impersonate", "", "users", "", NODE.name)]


@pytest.mark.parametrize(
    ("mode", "impersonated", "parts"),
    [
        (
            "user-info",
            EVERYTHING,
            [("users", "", "jane"), ("uids", "", "1"), ("groups", "", "dev"), ("userextras", "acme.io/key", "x")],
        ),
        ("serviceaccount", ROBOT, [("serviceaccounts", "", "robot")]),
        ("arbitrary-node", NODE, [("nodes", "", "n1")]),
    ],
)
def test_a_constrained_mode_asks_in_the_group_of_authentication(mode, impersonated, parts):
    """After the right to do what the request does."""
    verb, on_request = f"impersonate:{mode}", f"impersonate-on:{mode}:list"
    assert permissions(impersonated, verb, on_request) == [
        (on_request, TARGET.group, TARGET.resource, "", ""),
        *((verb, AUTHENTICATION, *part) for part in parts),
    ]


@pytest.mark.parametrize(
    "impersonated",
    [
        context.User("jane", groups=("a", "b", "c", "d")),
        context.User("jane", extra={"acme.io/key": ("a", "b", "c", "d")}),
        context.User("jane", extra={f"acme.io/{key}": ("x",) for key in "abcd"}),
    ],
)
def test_many_groups_or_values_need_a_permission_like_few(impersonated):
    """Without the one for all of them, each is checked."""
    user = {on("user-info"), ("impersonate:user-info", "users", "jane")}
    groups = {("impersonate:user-info", "groups", group) for group in impersonated.groups}
    values = {
        ("impersonate:user-info", f"userextras/{key}", value)
        for key, values in impersonated.extra.items()
        for value in values
    }
    with pytest.raises(errors.Forbidden):
        impersonate(user, impersonated)
    parts = groups | values
    with pytest.raises(errors.Forbidden):
        impersonate(user | parts - {max(parts)}, impersonated)
    assert impersonate(user | parts, impersonated).name == "jane"
    everything = {("impersonate:user-info", "groups", "*"), ("impersonate:user-info", "userextras/*", "*")}
    assert impersonate(user | everything, impersonated).name == "jane"


def test_a_service_account_impersonates_its_associated_node_only():
    """The node that its token is bound to."""
    grants = {on("associated-node"), ("impersonate:associated-node", "nodes", "*")}
    agent = context.User(ROBOT.name, extra={"authentication.kubernetes.io/node-name": ("n1",)})
    assert impersonate(grants, NODE, agent).groups == ("system:nodes", "system:authenticated")
    with pytest.raises(errors.Forbidden):
        impersonate(grants, context.User("system:node:n2"), agent)


def test_headers_without_a_user_are_refused():
    """Groups, UID or extra without a user name. Without all of them there is no impersonation."""
    assert impersonation.parse_headers([(b"accept", b"x")]) is None
    for field in (b"impersonate-group", b"impersonate-uid", b"impersonate-extra-scopes"):
        with pytest.raises(errors.BadRequest, match="without impersonating a user name"):
            impersonation.parse_headers([(field, b"x")])


def test_headers_give_the_impersonated_user():
    """Keys of extra are unescaped and in lower case; several fields are several values."""
    impersonated = impersonation.parse_headers(
        [
            (b"impersonate-user", b"jane"),
            (b"impersonate-group", b"a"),
            (b"impersonate-group", b"b"),
            (b"impersonate-extra-acme.io%2fkey", b"x"),
        ]
    )
    assert impersonated == context.User("jane", groups=("a", "b"), extra={"acme.io/key": ("x",)})


@pytest.mark.parametrize(
    ("key", "value", "error"),
    [
        ("", "x", "impersonating the empty string key in extra is not allowed"),
        ("scopes", "x", 'extra.key: Invalid value: "scopes": must be a domain-prefixed path (such as "acme.io/foo")'),
        ("/scopes", "x", 'extra.key: Invalid value: "/scopes": must be a domain-prefixed path (such as "acme.io/foo")'),
        ("ACME.io/a", "x", 'extra.key: Invalid value: "ACME.io": a lowercase RFC 1123 subdomain must consist of'),
        ("acme.io/a b", "x", 'extra.key: Invalid value: "a b": Invalid path (regex used for validation is'),
        ("A/ ", "x", 'not allowed: [extra.key: Invalid value: "A": a lowercase RFC 1123'),
        ("acme.io/A", "x", 'impersonating a non-lowercase key in extra is not allowed: "acme.io/A"'),
        ("acme.io/a", "", "impersonating the empty string value in extra is not allowed"),
    ],
)
def test_invalid_extra_keys_are_refused(key, value, error):
    """Even if the caller may impersonate the user."""
    grants = {on("user-info"), ("impersonate:user-info", "users", "jane")}
    with pytest.raises(errors.Forbidden) as caught:
        impersonate(grants, context.User("jane", extra={key: (value,)}))
    assert error in caught.value.message


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ([(b"impersonate-user", b"")], "header Impersonate-User is empty"),
        ([(b"impersonate-user", b" \t")], "header Impersonate-User is empty"),
        ([(b"impersonate-user", b""), (b"impersonate-group", b"g")], "header Impersonate-User is empty"),
        ([(b"impersonate-user", b"a"), (b"impersonate-user", b"b")], "header Impersonate-User occurs more than"),
        ([(b"impersonate-user", b"a"), (b"impersonate-user", b"a")], "header Impersonate-User occurs more than"),
        ([(b"impersonate-user", b""), (b"impersonate-user", b"a")], "header Impersonate-User occurs more than"),
        (
            [(b"impersonate-user", b"a"), (b"impersonate-uid", b"1"), (b"impersonate-uid", b"2")],
            "header Impersonate-Uid occurs more than once",
        ),
    ],
)
def test_empty_or_repeated_headers_are_refused(fields, error):
    """A proxy may have checked another value, and an empty name is not the caller."""
    with pytest.raises(errors.BadRequest, match=error):
        impersonation.parse_headers(fields)
