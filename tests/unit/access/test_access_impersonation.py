"""Who may act as whom: one table, and never more than was granted."""

from __future__ import annotations

import pytest

from certplane import errors
from certplane.access import impersonation, rbac
from certplane.meta import context

ASKER = context.User("asker", groups=("system:authenticated",))
TARGET = context.Attributes(ASKER, "list", group="certificates.k8s.io", resource="certificatesigningrequests")


def judge(grants, wanted, asker=ASKER):
    """Judge with an authorizer that knows exactly these (verb, resource[/sub], name)."""

    def authorize(of):
        resource = f"{of.resource}/{of.subresource}" if of.subresource else of.resource
        return rbac.Decision((of.verb, resource, of.name) in grants)

    attributes = context.Attributes(asker, TARGET.verb, group=TARGET.group, resource=TARGET.resource)
    return impersonation.Impersonation(authorize).judge(wanted, attributes)[0]


def on(mode):
    return (f"impersonate-on:{mode}:list", "certificatesigningrequests", "")


JANE = context.User("jane")
NODE = context.User("system:node:n1")
ROBOT = context.User("system:serviceaccount:ns:robot")


@pytest.mark.parametrize(
    ("grants", "wanted", "groups"),
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
def test_who_may_becomes_the_other(grants, wanted, groups):
    """With the groups that were asked for, or those that go with the name."""
    user = judge(grants, wanted)
    assert (user.name, user.groups, user.extra) == (wanted.name, groups, wanted.extra)


@pytest.mark.parametrize(
    ("grants", "wanted"),
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
def test_who_may_not_does_not(grants, wanted):
    """Every part that is asked for needs its own right."""
    with pytest.raises(errors.Forbidden):
        judge(grants, wanted)


def test_an_agent_may_act_as_its_own_node_only():
    """The node that its token is bound to, whatever its name, and no other."""
    grants = {on("associated-node"), ("impersonate:associated-node", "nodes", "*")}
    agent = context.User(ROBOT.name, extra={"authentication.kubernetes.io/node-name": ("n1",)})
    assert judge(grants, NODE, agent).groups == ("system:nodes", "system:authenticated")
    with pytest.raises(errors.Forbidden):
        judge(grants, context.User("system:node:n2"), agent)


def test_headers_without_a_user_are_refused():
    """Groups, UID or extra alone are a mistake, and none of them is no request at all."""
    assert impersonation.requested([(b"accept", b"x")]) is None
    for field in (b"impersonate-group", b"impersonate-uid", b"impersonate-extra-scopes"):
        with pytest.raises(errors.BadRequest, match="without impersonating a user name"):
            impersonation.requested([(field, b"x")])


def test_headers_say_who_is_wanted():
    """Keys of extra are unescaped and in lower case; several fields are several values."""
    wanted = impersonation.requested(
        [
            (b"impersonate-user", b"jane"),
            (b"impersonate-group", b"a"),
            (b"impersonate-group", b"b"),
            (b"impersonate-extra-acme.io%2fkey", b"x"),
        ]
    )
    assert wanted == context.User("jane", groups=("a", "b"), extra={"acme.io/key": ("x",)})


@pytest.mark.parametrize(
    ("key", "value", "why"),
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
def test_what_is_wrong_with_extra(key, value, why):
    """Whoever may act as the user only hears what is wrong with the rest."""
    grants = {on("user-info"), ("impersonate:user-info", "users", "jane")}
    with pytest.raises(errors.Forbidden) as caught:
        judge(grants, context.User("jane", extra={key: (value,)}))
    assert why in caught.value.message


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ([(b"impersonate-user", b"")], "the header Impersonate-User is empty: there is no user to act as"),
        ([(b"impersonate-user", b" \t")], "the header Impersonate-User is empty: there is no user to act as"),
        ([(b"impersonate-user", b""), (b"impersonate-group", b"g")], "the header Impersonate-User is empty"),
        ([(b"impersonate-user", b"a"), (b"impersonate-user", b"b")], "the header Impersonate-User is there more than"),
        ([(b"impersonate-user", b"a"), (b"impersonate-user", b"a")], "the header Impersonate-User is there more than"),
        ([(b"impersonate-user", b""), (b"impersonate-user", b"a")], "the header Impersonate-User is there more than"),
        (
            [(b"impersonate-user", b"a"), (b"impersonate-uid", b"1"), (b"impersonate-uid", b"2")],
            "the header Impersonate-Uid is there more than once",
        ),
    ],
)
def test_a_name_that_is_empty_or_there_twice_is_refused(fields, why):
    """Whoever looked at the request before may have read another one; and nobody means himself by an empty name."""
    with pytest.raises(errors.BadRequest, match=why):
        impersonation.requested(fields)
