"""Authentication by service account tokens and bootstrap tokens."""

from __future__ import annotations

import contextlib
import datetime
import json

import jwt
import pytest

from certplane import errors, testing
from certplane.access import authn, tokens
from certplane.config.servesettings import ServiceAccountSettings
from certplane.meta import context
from certplane.resources import reviews, secrets, serviceaccounts
from certplane.x509 import keys
from tests.flow import plane as flow
from tests.flow.tokens import request_token

ISSUER = "https://kubernetes.default.svc"


def _issuer(max_lifetime=datetime.timedelta(0), **changes):
    settings = ServiceAccountSettings(ISSUER, (ISSUER,), max_token_expiration=max_lifetime)
    return tokens.Issuer(**{"settings": settings, "key": keys.generate("ECDSA-P256"), **changes})


async def _token(plane, account="robot", **spec):
    client = plane.client(flow.ADMIN)
    robot = serviceaccounts.ServiceAccount()
    robot.metadata.name = account
    with contextlib.suppress(errors.AlreadyExists):
        await client.create(serviceaccounts.RESOURCE, robot, "default")
    token_request = serviceaccounts.TokenRequest(spec=serviceaccounts.TokenRequestSpec(**spec))
    return await request_token(client, token_request, account, "default")


async def _review(plane, token, audiences=()):
    review = reviews.TokenReview(spec=reviews.TokenReviewSpec(token=token, audiences=list(audiences)))
    return (await plane.client(flow.ADMIN).create(reviews.TOKEN_REVIEWS, review)).status


async def test_a_service_account_token_identifies_its_account():
    """The review has user, groups and token id; the token has the requested lifetime."""
    clock = testing.FakeClock()
    async with flow.running(clock=clock, issuer=_issuer()) as plane:
        token_request = await _token(plane, expiration_seconds=1200)
        review = await _review(plane, token_request.status.token)
        assert review.authenticated
        assert review.audiences == [ISSUER]
        assert review.user.username == "system:serviceaccount:default:robot"
        assert review.user.groups == [
            "system:serviceaccounts",
            "system:serviceaccounts:default",
            "system:authenticated",
        ]
        claims = jwt.decode(token_request.status.token, options={"verify_signature": False})
        assert claims["exp"] - claims["iat"] == 1200
        assert review.user.extra == {authn.CREDENTIAL_ID: [f"JTI={claims['jti']}"]}


@pytest.mark.parametrize(
    ("seconds", "error"),
    [(1255, ""), (1262, "service account token has expired"), (-61, "service account token is not valid yet")],
)
async def test_a_token_is_valid_for_its_lifetime_and_one_minute(seconds, error):
    """Clocks may differ by at most a minute."""
    clock = testing.FakeClock()
    issuer = _issuer()
    async with flow.running(clock=clock, issuer=issuer) as plane:
        token_request = await _token(plane, expiration_seconds=1200)
        then = clock.now() + datetime.timedelta(seconds=seconds)
        source = tokens.ServiceAccountTokens(issuer, plane._find)
        if error:
            with pytest.raises(authn.Rejected, match=error):
                source.authenticate(token_request.status.token, (ISSUER,), then)
        else:
            assert source.authenticate(token_request.status.token, (ISSUER,), then) is not None


async def test_a_token_is_invalid_after_deletion_of_its_account_or_bound_object():
    """It stays invalid if an account with the same name is created again."""
    async with flow.running(issuer=_issuer()) as plane:
        client = plane.client(flow.ADMIN)
        kept = secrets.Secret()
        kept.metadata.name = "s"
        await client.create(secrets.RESOURCE, kept, "default")
        ref = serviceaccounts.BoundObjectReference(kind="Secret", api_version="v1", name="s")
        bound = (await _token(plane, bound_object_ref=ref)).status.token
        unbound = (await _token(plane)).status.token
        assert (await _review(plane, bound)).authenticated
        await client.delete(secrets.RESOURCE, "s", "default")
        assert (
            await _review(plane, bound)
        ).error == "[invalid bearer token, service account token has been invalidated]"
        assert (await _review(plane, unbound)).authenticated
        await client.delete(serviceaccounts.RESOURCE, "robot", "default")
        assert 'serviceaccounts "robot" not found' in (await _review(plane, unbound)).error
        await _token(plane)
        assert "does not match claim" in (await _review(plane, unbound)).error


async def test_foreign_tokens_are_refused():
    """Tokens of another key, for another audience or without a signature are refused."""
    async with flow.running(issuer=_issuer()) as plane:
        good = (await _token(plane)).status.token
        claims = jwt.decode(good, options={"verify_signature": False})
        forged = jwt.encode(claims, keys.generate("ECDSA-P256"), "ES256")
        unsigned = jwt.encode(claims, None, "none")
        for token in (forged, unsigned, good[:-4], "a.b.c"):
            assert not (await _review(plane, token)).authenticated
        assert "is invalid for the target audiences" in (await _review(plane, good, ["https://elsewhere"])).error


@pytest.mark.parametrize("audience", [None, [None], [1, {}], {"a": 1}, 7, True])
async def test_claims_of_the_wrong_type_are_refused(audience):
    """This applies even if the key of the server has signed them."""
    issuer = _issuer()
    async with flow.running(issuer=issuer) as plane:
        claims = jwt.decode((await _token(plane)).status.token, options={"verify_signature": False})
        odd = jwt.encode({**claims, "aud": audience}, issuer.key, "ES256")
        assert "is invalid for the target audiences" in (await _review(plane, odd)).error


async def test_a_lifetime_above_the_maximum_is_shortened():
    """The response and the token have the actual lifetime."""
    async with flow.running(issuer=_issuer(datetime.timedelta(hours=1))) as plane:
        token_request = await _token(plane, expiration_seconds=7200)
        assert token_request.spec.expiration_seconds == 3600
        claims = jwt.decode(token_request.status.token, options={"verify_signature": False})
        assert claims["exp"] - claims["iat"] == 3600


async def test_tokens_of_replaced_keys_are_accepted():
    """A replaced key that is configured for verification is accepted and published; without that, its tokens are
    refused.
    """
    old, new_key = keys.generate("ECDSA-P256"), keys.generate("RSA-2048")
    async with flow.running(issuer=_issuer(key=old)) as plane:
        token = (await _token(plane)).status.token
        now = plane.clock.now()
        later = tokens.ServiceAccountTokens(_issuer(key=new_key, verifying=(old.public_key(),)), plane._find)
        assert later.authenticate(token, (ISSUER,), now) is not None
        with pytest.raises(authn.Rejected):
            tokens.ServiceAccountTokens(_issuer(key=new_key), plane._find).authenticate(token, (ISSUER,), now)
        assert sorted(key["kty"] for key in later.key_set()["keys"]) == ["EC", "RSA"]
        assert '"d"' not in json.dumps(later.key_set())


def _bootstrap(**changes):
    values = {"token-id": "abcdef", "token-secret": "0123456789abcdef", "usage-bootstrap-authentication": "true"}
    data = {key: text.encode() for key, text in {**values, **changes}.items() if text is not None}
    secret = secrets.Secret(type=secrets.BOOTSTRAP_TOKEN, data=data)
    secret.metadata.name, secret.metadata.namespace = "bootstrap-token-abcdef", "kube-system"
    return secret


@pytest.mark.parametrize(
    ("changes", "groups"),
    [
        ({}, ("system:bootstrappers", "system:authenticated")),
        (
            {"auth-extra-groups": "system:bootstrappers:b,system:bootstrappers:a"},
            ("system:bootstrappers", "system:bootstrappers:a", "system:bootstrappers:b", "system:authenticated"),
        ),
        ({"auth-extra-groups": "system:masters"}, None),
        ({"auth-extra-groups": "system:bootstrappers:a,system:masters"}, None),
        ({"usage-bootstrap-authentication": "True"}, None),
        ({"usage-bootstrap-authentication": None}, None),
        ({"token-secret": "0123456789abcdee"}, None),
        ({"token-id": "abcdeg"}, None),
        ({"expiration": "2001-01-01T00:00:00Z"}, None),
        ({"expiration": "tomorrow"}, None),
        ({"expiration": "2999-01-01T00:00:00Z"}, ("system:bootstrappers", "system:authenticated")),
    ],
)
def test_a_bootstrap_token_with_any_invalid_field_is_refused(changes, groups):
    """The groups of a valid token are below system:bootstrappers."""
    stored = _bootstrap(**changes)
    source = tokens.BootstrapTokens(lambda plural, namespace, name: stored if name.endswith("abcdef") else None)
    user = source.authenticate("abcdef.0123456789abcdef", (), testing.FakeClock().now())
    expected = None if groups is None else context.User("system:bootstrap:abcdef", "", groups)
    assert (user and user.user) == expected


async def test_a_token_request_with_another_uid_is_refused():
    """The UID must be that of the account; another one belongs to a deleted account."""
    async with flow.running(issuer=_issuer()) as plane:
        created = await _token(plane)
        account = await plane.client(flow.ADMIN).get(serviceaccounts.RESOURCE, "robot", "default")
        assert created.metadata.uid == account.metadata.uid
        token_request = serviceaccounts.TokenRequest()
        token_request.metadata.uid = "other"
        with pytest.raises(errors.Conflict, match=r"the UID in the token request \(other\) does not match the UID of"):
            await request_token(plane.client(flow.ADMIN), token_request, "robot", "default")


@pytest.mark.parametrize(
    ("ref", "error", "message"),
    [
        ({"kind": "Secret"}, errors.BadRequest, "Name parameter required."),
        ({"kind": "Pod", "name": "a/b"}, errors.BadRequest, "Name parameter invalid: \"a/b\": may not contain '/'"),
        ({"kind": "Pod", "name": "p"}, errors.NotFound, 'pods "p" not found'),
        (
            {"kind": "Secret", "name": "s", "api_version": "apps/v1"},
            errors.BadRequest,
            "cannot bind token to object of type apps/v1, Kind=Secret",
        ),
    ],
)
async def test_the_bound_object_of_a_token_must_exist(ref, error, message):
    """The apiVersion of core kinds may be missing."""
    async with flow.running(issuer=_issuer()) as plane:
        with pytest.raises(error) as caught:
            await _token(plane, bound_object_ref=serviceaccounts.BoundObjectReference(**ref))
        assert caught.value.message == message


async def test_a_token_request_in_a_missing_namespace_is_refused():
    """The error is about the namespace."""
    async with flow.running(issuer=_issuer()) as plane:
        token_request = serviceaccounts.TokenRequest()
        with pytest.raises(errors.NotFound, match='namespaces "gone" not found'):
            await request_token(plane.client(flow.ADMIN), token_request, "robot", "gone")


@pytest.mark.parametrize(
    ("groups", "expected"),
    [
        (b"", []),
        (b"system:bootstrappers:a,system:bootstrappers:b", ["system:bootstrappers:a", "system:bootstrappers:b"]),
        (b"system:bootstrappers:a,", None),
        (b"system:bootstrappers:a, system:bootstrappers:b", None),
        (b"system:masters", None),
        (b"system:bootstrappers:a\n", None),
    ],
)
def test_an_invalid_group_invalidates_a_bootstrap_token(groups, expected):
    """This includes an empty group, as in a list that ends with a comma."""
    extra = tokens.extra_groups({"auth-extra-groups": groups})
    assert (extra if extra is None else list(extra)) == expected


@pytest.mark.parametrize(("header", "warned"), [("Bearer  x", True), ("Bearer", False), ("Basic  x", False)])
def test_a_token_after_two_spaces_is_ignored_with_a_warning(header, warned):
    """The client is anonymous, and the warning says why."""
    warnings = []
    offered = authn.Credentials(authorization=header, warn=warnings.append)
    assert authn.BearerTokens((ISSUER,)).authenticate(offered, testing.FakeClock().now()) is None
    assert bool(warnings) is warned


async def test_creation_with_a_deprecated_annotation_is_warned_of():
    """Updates of the object have no warning."""
    key = "kubernetes.io/enforce-mountable-secrets"
    text = f"metadata.annotations[{key}]: deprecated in v1.32+; prefer separate namespaces to isolate access to mounted"
    body = {"metadata": {"name": "robot", "annotations": {key: "true"}}}
    patch = {"metadata": {"labels": {"a": "b"}}}

    async with flow.running() as plane:
        path = "/api/v1/namespaces/default/serviceaccounts"
        created = await flow.respond(plane, "POST", path, body, content_type="application/json")
        (warning,) = flow.warning_texts(created)
        assert text in warning
        patched = await flow.respond(
            plane, "PATCH", f"{path}/robot", patch, content_type="application/merge-patch+json"
        )
        assert (patched.status, flow.warning_texts(patched)) == (200, [])
