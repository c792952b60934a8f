"""Authentication by tokens, and their end."""

from __future__ import annotations

import contextlib
import datetime
import json

import jwt
import pytest

from certplane import errors, testing
from certplane.access import authn, tokens
from certplane.meta import context
from certplane.resources import reviews, secrets, serviceaccounts
from certplane.server import exchange
from certplane.x509 import keys
from tests.flow import plane as flow

ISSUER = "https://kubernetes.default.svc"


def _issuer(**changes):
    return tokens.Issuer(**{"name": ISSUER, "key": keys.generate("ECDSA-P256"), "audiences": (ISSUER,), **changes})


async def _token(plane, account="robot", **spec):
    client = plane.client(flow.ADMIN)
    robot = serviceaccounts.ServiceAccount()
    robot.metadata.name = account
    with contextlib.suppress(errors.AlreadyExists):
        await client.create(serviceaccounts.RESOURCE, robot, "default")
    token_request = serviceaccounts.TokenRequest(spec=serviceaccounts.TokenRequestSpec(**spec))
    return await client.create_subresource(serviceaccounts.TOKEN_REQUESTS, token_request, account, "default")


async def _review(plane, token, audiences=()):
    review = reviews.TokenReview(spec=reviews.TokenReviewSpec(token=token, audiences=list(audiences)))
    return (await plane.client(flow.ADMIN).create(reviews.TOKEN_REVIEWS, review)).status


async def test_a_token_of_an_account_identifies_it():
    """User, UID, groups and token id come from the token, and its lifetime is the requested one."""
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
async def test_a_token_is_good_for_its_time_and_a_minute(seconds, error):
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


async def test_a_token_ends_with_its_account_and_with_what_it_is_bound_to():
    """Deleting either is enough, also if an account with the same name is created again."""
    async with flow.running(issuer=_issuer()) as plane:
        client = plane.client(flow.ADMIN)
        kept = secrets.Secret()
        kept.metadata.name = "s"
        await client.create(secrets.RESOURCE, kept, "default")
        ref = serviceaccounts.BoundObjectReference(kind="Secret", api_version="v1", name="s")
        bound = (await _token(plane, bound_object_ref=ref)).status.token
        free = (await _token(plane)).status.token
        assert (await _review(plane, bound)).authenticated
        await client.delete(secrets.RESOURCE, "s", "default")
        assert (
            await _review(plane, bound)
        ).error == "[invalid bearer token, service account token has been invalidated]"
        assert (await _review(plane, free)).authenticated
        await client.delete(serviceaccounts.RESOURCE, "robot", "default")
        assert 'serviceaccounts "robot" not found' in (await _review(plane, free)).error
        await _token(plane)
        assert "does not match claim" in (await _review(plane, free)).error


async def test_tokens_of_others_are_refused():
    """Another key, another audience, no signature."""
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
    """Even if our own key has signed them."""
    issuer = _issuer()
    async with flow.running(issuer=issuer) as plane:
        claims = jwt.decode((await _token(plane)).status.token, options={"verify_signature": False})
        odd = jwt.encode({**claims, "aud": audience}, issuer.key, "ES256")
        assert "is invalid for the target audiences" in (await _review(plane, odd)).error


async def test_a_lifetime_beyond_the_longest_is_cut_with_a_warning():
    """The response and the token contain the actual lifetime."""
    async with flow.running(issuer=_issuer(max_seconds=3600)) as plane:
        token_request = await _token(plane, expiration_seconds=7200)
        assert token_request.spec.expiration_seconds == 3600


async def test_keys_that_were_replaced_are_still_good_where_they_are_named():
    """Tokens of the previous key are valid until they expire."""
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
def test_a_bootstrap_token_is_good_if_all_of_it_is(changes, groups):
    """One invalid entry invalidates the token; its groups are under system:bootstrappers."""
    stored = _bootstrap(**changes)
    source = tokens.BootstrapTokens(lambda plural, namespace, name: stored if name.endswith("abcdef") else None)
    user = source.authenticate("abcdef.0123456789abcdef", (), testing.FakeClock().now())
    expected = None if groups is None else context.User("system:bootstrap:abcdef", "", groups)
    assert (user and user.user) == expected


async def test_a_request_for_a_token_names_its_account_or_nothing():
    """The UID must be that of the account; another one belongs to a deleted account."""
    async with flow.running(issuer=_issuer()) as plane:
        created = await _token(plane)
        account = await plane.client(flow.ADMIN).get(serviceaccounts.RESOURCE, "robot", "default")
        assert created.metadata.uid == account.metadata.uid
        token_request = serviceaccounts.TokenRequest()
        token_request.metadata.uid = "other"
        with pytest.raises(errors.Conflict, match=r"the UID in the token request \(other\) does not match the UID of"):
            await plane.client(flow.ADMIN).create_subresource(
                serviceaccounts.TOKEN_REQUESTS, token_request, "robot", "default"
            )


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
async def test_a_token_is_bound_to_what_can_be_found(ref, error, message):
    """The apiVersion of core kinds may be missing; the object must exist."""
    async with flow.running(issuer=_issuer()) as plane:
        with pytest.raises(error) as caught:
            await _token(plane, bound_object_ref=serviceaccounts.BoundObjectReference(**ref))
        assert caught.value.message == message


async def test_there_are_no_tokens_in_a_namespace_that_is_not_there():
    """The error is about the namespace."""
    async with flow.running(issuer=_issuer()) as plane:
        token_request = serviceaccounts.TokenRequest()
        with pytest.raises(errors.NotFound, match='namespaces "gone" not found'):
            await plane.client(flow.ADMIN).create_subresource(
                serviceaccounts.TOKEN_REQUESTS, token_request, "robot", "gone"
            )


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
def test_a_group_that_a_bootstrap_token_must_not_give_spoils_it(groups, expected):
    """Also an empty one, as in a list that ends with a comma."""
    extra = tokens.extra_groups({"auth-extra-groups": groups})
    assert (extra if extra is None else list(extra)) == expected


@pytest.mark.parametrize(("header", "warned"), [("Bearer  x", True), ("Bearer", False), ("Basic  x", False)])
def test_a_token_behind_two_blanks_is_ignored_with_a_warning(header, warned):
    """Because its sender is anonymous."""
    warnings = []
    offered = authn.Credentials(authorization=header, warn=warnings.append)
    assert authn.BearerTokens((ISSUER,)).authenticate(offered, testing.FakeClock().now()) is None
    assert bool(warnings) is warned


async def test_who_deletes_an_account_gets_it_back():
    """With its UID; other kinds return a Status."""
    async with flow.running(issuer=_issuer()) as plane:
        await _token(plane)
        path = "/api/v1/namespaces/default/serviceaccounts/robot"
        reply = await plane.handler(exchange.Request("DELETE", path, "", exchange.Headers([]), identity=flow.ADMIN))
        assert json.loads(reply.body)["kind"] == "ServiceAccount"


async def test_a_deprecated_annotation_is_warned_of_when_it_is_set():
    """Only at creation."""
    key = "kubernetes.io/enforce-mountable-secrets"
    text = f"metadata.annotations[{key}]: deprecated in v1.32+; prefer separate namespaces to isolate access to mounted"
    body = json.dumps({"metadata": {"name": "robot", "annotations": {key: "true"}}}).encode()
    patch = json.dumps({"metadata": {"labels": {"a": "b"}}}).encode()

    async def send(plane, method, path, media_type, body):
        async def chunks():
            yield body

        fields = exchange.Headers([(b"content-type", media_type)])
        reply = await plane.handler(exchange.Request(method, path, "", fields, chunks, identity=flow.ADMIN))
        return [value.decode() for name, value in reply.headers if name == b"warning"]

    async with flow.running() as plane:
        path = "/api/v1/namespaces/default/serviceaccounts"
        (warning,) = await send(plane, "POST", path, b"application/json", body)
        assert text in warning
        assert await send(plane, "PATCH", f"{path}/robot", b"application/merge-patch+json", patch) == []
