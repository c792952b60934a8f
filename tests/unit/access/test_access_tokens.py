"""Which service account tokens are accepted: every claim and every object that they refer to is checked."""

from __future__ import annotations

import datetime
import json

import jwt
import pytest

from certplane import errors, testing, timestamps
from certplane.access import authn, tokens
from certplane.config.servesettings import ServiceAccountSettings
from certplane.meta import context, objects
from certplane.resources import namespaces, nodes, secrets, serviceaccounts
from certplane.x509 import keys

ISSUER = "https://issuer.example"
KEY = keys.generate("ECDSA-P256")
NOW = testing.FakeClock().now()


def stored(type_, name, namespace="", uid="1", deleted=None):
    """An object with this UID, which was deleted some seconds ago."""
    deletion_timestamp = timestamps.rfc3339(NOW - datetime.timedelta(seconds=deleted)) if deleted is not None else None
    meta = objects.ObjectMeta(name=name, namespace=namespace, uid=uid, deletion_timestamp=deletion_timestamp)
    return type_(metadata=meta)


def objects_in_store(**changes):
    """The objects that tokens may refer to, by plural, namespace and name; None in `changes` removes one."""
    known = {
        ("namespaces", "", "team"): stored(namespaces.Namespace, "team"),
        ("serviceaccounts", "team", "robot"): stored(serviceaccounts.ServiceAccount, "robot", "team", "a1"),
        ("secrets", "team", "s"): stored(secrets.Secret, "s", "team", "s1"),
        ("nodes", "", "n"): stored(nodes.Node, "n", "", "n1"),
    }
    for plural, obj in changes.items():
        key = next(key for key in known if key[0] == plural)
        known[key] = obj
    return known


def source(**changes):
    settings = ServiceAccountSettings(ISSUER, (ISSUER,), max_token_expiration=datetime.timedelta(0))
    known = objects_in_store(**changes)
    return tokens.ServiceAccountTokens(tokens.Issuer(settings, KEY), lambda *key: known.get(key))


def token(key=KEY, headers=None, private=None, **changes):
    """A token of the account; `changes` are other claims, None removes one; `private` are those of Kubernetes."""
    moment = int(NOW.timestamp())
    claims = {
        "aud": [ISSUER],
        "exp": moment + 600,
        "iat": moment,
        "nbf": moment,
        "iss": ISSUER,
        "sub": "system:serviceaccount:team:robot",
        "jti": "x",
        "kubernetes.io": {"namespace": "team", "serviceaccount": {"name": "robot", "uid": "a1"}, **(private or {})},
    }
    claims = {name: value for name, value in (claims | changes).items() if value is not None}
    # Not with `jwt.encode`, which checks the claims.
    return jwt.PyJWS().encode(json.dumps(claims).encode(), key, "ES256", headers=headers)


def rejection(text, **changes):
    with pytest.raises(authn.Rejected) as caught:
        source(**changes).authenticate(text, (ISSUER,), NOW)
    return str(caught.value)


def test_a_token_identifies_its_account():
    """With the groups of accounts, and the ID of the token."""
    accepted = source().authenticate(token(), ("other", ISSUER), NOW)
    assert accepted.audiences == (ISSUER,)
    assert accepted.user == context.User(
        "system:serviceaccount:team:robot",
        "a1",
        ("system:serviceaccounts", "system:serviceaccounts:team", "system:authenticated"),
        {"authentication.kubernetes.io/credential-id": ("JTI=x",)},
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a.b.c",
        "not a token",
        token(iss="https://other.example"),
        token(iss=None),
        token(iss=[ISSUER]),
        token() + ".x",
        token()[:-1] + "\u00e4",
    ],
)
def test_a_token_of_another_issuer_is_left_to_other_methods(text):
    """None, so that another method of authentication may accept it."""
    assert source().authenticate(text, (ISSUER,), NOW) is None


SIGNATURE = "go-jose/go-jose: error in cryptographic primitive"


def test_a_token_that_another_key_signed_is_rejected():
    """Whatever key its header names; nor is it accepted without a signature."""
    own_kid = source().key_set()["keys"][0]["kid"]
    other = keys.generate("ECDSA-P256")
    for headers in (None, {"kid": own_kid}, {"kid": "unknown"}):
        assert rejection(token(other, headers)) == SIGNATURE
        assert source().authenticate(token(headers=headers), (ISSUER,), NOW) is not None
    header, claims, signature = token().split(".")
    assert rejection(f"{header}.{token(sub='x').split('.')[1]}.{signature}") == SIGNATURE
    unsigned = jwt.encode({"iss": ISSUER, "aud": ISSUER}, "", "none")
    assert rejection(unsigned) == SIGNATURE
    assert rejection(f"{unsigned.split('.')[0]}.{claims}.") == SIGNATURE


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"aud": None}, f'token audiences [] is invalid for the target audiences ["{ISSUER}"]'),
        ({"aud": "other"}, f'token audiences ["other"] is invalid for the target audiences ["{ISSUER}"]'),
        ({"aud": [5, {}]}, f'token audiences [] is invalid for the target audiences ["{ISSUER}"]'),
        ({"exp": None}, "service account token has expired"),
        ({"exp": True}, "service account token has expired"),
        ({"exp": int(NOW.timestamp()) - 61}, "service account token has expired"),
        ({"nbf": int(NOW.timestamp()) + 61}, "service account token is not valid yet"),
        ({"iat": int(NOW.timestamp()) + 61}, "service account token is issued in the future"),
        ({"kubernetes.io": None}, "service account token has no serviceaccount claim"),
        ({"kubernetes.io": "x"}, "service account token has no serviceaccount claim"),
        ({"kubernetes.io": {"namespace": "team"}}, "service account token has no serviceaccount claim"),
        ({"private": {"serviceaccount": "robot"}}, "service account token has no serviceaccount claim"),
        (
            {"sub": "system:serviceaccount:team:other"},
            "sub claim of the service account token does not match its serviceaccount claim",
        ),
        (
            {"private": {"namespace": "kube-system"}},
            "sub claim of the service account token does not match its serviceaccount claim",
        ),
        ({"private": {"pod": {"name": "p", "uid": "1"}}}, "service account token has been invalidated"),
        ({"private": {"secret": {"name": "gone", "uid": "1"}}}, "service account token has been invalidated"),
        (
            {"private": {"secret": {"name": "s", "uid": "2"}}},
            "secret UID (s1) does not match service account secret ref claim (2)",
        ),
        (
            {"private": {"secret": {"name": "s"}}},
            "secret UID (s1) does not match service account secret ref claim (None)",
        ),
        (
            {"private": {"node": {"name": "n", "uid": "2"}}},
            "node UID (n1) does not match service account node ref claim (2)",
        ),
    ],
)
def test_a_token_whose_claims_do_not_hold_is_rejected(changes, message):
    """The log gets the reason. A clock may be wrong by a minute."""
    assert rejection(token(**changes)) == message


@pytest.mark.parametrize("claim", ["exp", "nbf", "iat"])
def test_clocks_may_differ_by_a_minute(claim):
    """In either direction."""
    moment = int(NOW.timestamp()) + (-60 if claim == "exp" else 60)
    assert source().authenticate(token(**{claim: moment}), (ISSUER,), NOW) is not None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"serviceaccounts": None}, 'serviceaccounts "robot" not found'),
        (
            {"serviceaccounts": stored(serviceaccounts.ServiceAccount, "robot", "team", "a2")},
            "service account UID (a2) does not match claim (a1)",
        ),
        (
            {"serviceaccounts": stored(serviceaccounts.ServiceAccount, "robot", "team", "a1", deleted=61)},
            "service account team/robot has been deleted",
        ),
        ({"secrets": None}, "service account token has been invalidated"),
        (
            {"secrets": stored(secrets.Secret, "s", "team", "s1", deleted=61)},
            "service account token has been invalidated",
        ),
        ({"nodes": None}, "service account token has been invalidated"),
        ({"nodes": stored(nodes.Node, "n", "", "n1", deleted=61)}, "service account token has been invalidated"),
    ],
)
def test_a_token_ends_with_the_objects_that_it_refers_to(changes, message):
    """An object that is being deleted counts for one more minute."""
    bound = token(private={"secret": {"name": "s", "uid": "s1"}, "node": {"name": "n", "uid": "n1"}})
    accepted = source().authenticate(bound, (ISSUER,), NOW)
    assert accepted.user.extra["authentication.kubernetes.io/node-name"] == ("n",)
    assert accepted.user.extra["authentication.kubernetes.io/node-uid"] == ("n1",)
    assert rejection(bound, **changes) == message
    recent = {
        plural: stored(type(obj), obj.metadata.name, obj.metadata.namespace, obj.metadata.uid, deleted=60)
        for plural, obj in changes.items()
        if obj is not None and obj.metadata.deletion_timestamp is not None
    }
    assert source(**recent).authenticate(bound, (ISSUER,), NOW) is not None


# --- requests for tokens ------------------------------------------------------------------------------------------


def answer(name="robot", ref=None, **meta):
    info = context.RequestInfo("", "create", True, "", "v1", "team", "serviceaccounts", "token", name)
    call = context.VerbContext(context.User("jane"), info, NOW)
    spec = serviceaccounts.TokenRequestSpec(expiration_seconds=600, bound_object_ref=ref)
    return source().answer(serviceaccounts.TokenRequest(spec=spec, metadata=objects.ObjectMeta(**meta)), call)


def reference(kind, name, uid="", api_version="v1"):
    return serviceaccounts.BoundObjectReference(kind=kind, api_version=api_version, name=name, uid=uid)


@pytest.mark.parametrize(
    ("request_", "error", "message"),
    [
        ({"name": "gone"}, errors.NotFound, 'serviceaccounts "gone" not found'),
        (
            {"uid": "a2"},
            errors.Conflict,
            "the UID in the token request (a2) does not match the UID of the service account",
        ),
        (
            {"ref": reference("Secret", "s", "s2")},
            errors.Conflict,
            "the UID in the bound object reference (s2) does not match",
        ),
        ({"ref": reference("Secret", "gone")}, errors.NotFound, 'secrets "gone" not found'),
        ({"ref": reference("Pod", "p")}, errors.NotFound, 'pods "p" not found'),
        ({"ref": reference("Secret", "a/b")}, errors.BadRequest, "Name parameter invalid"),
        (
            {"ref": reference("ConfigMap", "c")},
            errors.BadRequest,
            "cannot bind token to object of type /v1, Kind=ConfigMap",
        ),
        (
            {"ref": reference("Secret", "s", api_version="apps/v1")},
            errors.BadRequest,
            "cannot bind token to object of type apps/v1, Kind=Secret",
        ),
    ],
)
def test_a_token_that_cannot_be_issued(request_, error, message):
    """The account and the object that it would be bound to have to exist, and to be those that are meant."""
    with pytest.raises(error) as caught:
        answer(**request_)
    assert message in caught.value.message


@pytest.mark.parametrize(
    "ref", [None, reference("Secret", "s"), reference("Secret", "s", "s1"), reference("Node", "n")]
)
def test_an_issued_token_is_accepted(ref):
    """Also one that is bound to an object; its claims name that object with its UID."""
    issued = answer(ref=ref).status.token
    assert source().authenticate(issued, (ISSUER,), NOW).user.name == "system:serviceaccount:team:robot"
    private = jwt.decode(issued, options={"verify_signature": False})["kubernetes.io"]
    if ref is not None:
        assert private[ref.kind.lower()] == {"name": ref.name, "uid": {"Secret": "s1", "Node": "n1"}[ref.kind]}


def test_a_request_for_a_token_of_another_account_is_refused():
    """The name in the body has to be that in the path."""
    info = context.RequestInfo("", "create", True, "", "v1", "team", "serviceaccounts", "token", "robot")
    call = context.VerbContext(context.User("jane"), info, NOW)
    request = serviceaccounts.TokenRequest(metadata=objects.ObjectMeta(name="other"))
    with pytest.raises(errors.Invalid, match="must match the service account name if specified"):
        source().answer(request, call)


# --- bootstrap tokens ---------------------------------------------------------------------------------------------


def bootstrap_secret(deleted=None, type_="bootstrap.kubernetes.io/token", **data):
    """The Secret of the token abcdef.0123456789abcdef."""
    values = {"token-id": "abcdef", "token-secret": "0123456789abcdef", "usage-bootstrap-authentication": "true"}
    secret = stored(secrets.Secret, "bootstrap-token-abcdef", "kube-system", deleted=deleted)
    secret.type, secret.data = type_, {name: value.encode() for name, value in (values | data).items()}
    return secret


@pytest.mark.parametrize(
    ("secret", "accepted"),
    [
        (bootstrap_secret(), True),
        (None, False),
        (bootstrap_secret(deleted=0), False),
        (bootstrap_secret(type_="Opaque"), False),
        (bootstrap_secret(**{"token-secret": "fedcba9876543210"}), False),
        (bootstrap_secret(**{"token-secret": ""}), False),
        (bootstrap_secret(**{"token-id": "other1"}), False),
        (bootstrap_secret(**{"usage-bootstrap-authentication": "yes"}), False),
        (bootstrap_secret(**{"auth-extra-groups": "system:masters"}), False),
    ],
)
def test_a_bootstrap_token_is_accepted_if_its_secret_is_valid(secret, accepted):
    """Every field counts. The log has the reason, and not the token."""
    looked_up = []

    def find(*key):
        looked_up.append(key)
        return secret

    accepted_user = tokens.BootstrapTokens(find).authenticate("abcdef.0123456789abcdef", (), NOW)
    assert looked_up == [("secrets", "kube-system", "bootstrap-token-abcdef")]
    assert (accepted_user is not None) is accepted
    if accepted:
        assert accepted_user.user == context.User(
            "system:bootstrap:abcdef", groups=("system:bootstrappers", "system:authenticated")
        )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "abcdef",
        "abcdef.0123456789abcde",
        "abcdef.0123456789abcdef\n",
        "ABCDEF.0123456789abcdef",
        "../../x.0123456789abcdef",
    ],
)
def test_a_text_that_is_not_a_bootstrap_token_is_not_looked_up(text):
    """Its ID becomes part of the name of a Secret."""

    def find(*key):
        raise AssertionError(key)

    assert tokens.BootstrapTokens(find).authenticate(text, (), NOW) is None
