"""Bearer tokens that the API issues: service account tokens and bootstrap tokens.

A service account token is a JWT (RFC 7519) that this server signs. It is valid until it expires, or until its account
or the object that it is bound to is deleted: both are looked up at every use.

A bootstrap token is a Secret in kube-system. A machine without an identity uses it to request its first certificate.
Its user has no other permissions than those of its groups.

Source: kubernetes, `pkg/serviceaccount`, `pkg/registry/core/serviceaccount/storage/token.go`,
`plugin/pkg/auth/authenticator/token/bootstrap`; rbac-defaults 10 and 11.
"""

from __future__ import annotations

import base64
import dataclasses
import datetime
import hashlib
import hmac
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import jwt
from jwt import algorithms
from jwt.types import Options

from certplane import errors, timestamps
from certplane.access import authn
from certplane.config.servesettings import ServiceAccountSettings
from certplane.golang import formatting
from certplane.meta import names, objects
from certplane.meta.context import User, VerbContext
from certplane.meta.objects import Object
from certplane.meta.resource import AnyObject
from certplane.registry import namespacelifecycle
from certplane.resources import secrets, serviceaccounts
from certplane.x509 import keys

_log = logging.getLogger("certplane.access")

#: Returns an object by plural, namespace and name; None if there is none.
Find = Callable[[str, str, str], AnyObject | None]

#: The claims of a JWT (RFC 7519): whatever its issuer has put there.
Claims = dict[str, Any]

_LEEWAY: Final = datetime.timedelta(seconds=60)
#: The audit annotation with the ID of the issued token.
_ISSUED: Final = "authentication.kubernetes.io/issued-credential-id"
_ACCOUNT: Final = "system:serviceaccount:"
#: Kinds that a token can be bound to. This server has no pods, so a Pod is never found.
_BINDABLE: Final = {"Pod": "pods", "Node": "nodes", "Secret": "secrets"}
_PRIVATE: Final = "kubernetes.io"
_NODE: Final = "authentication.kubernetes.io/node-"

BOOTSTRAP_GROUP: Final = "system:bootstrappers"
_BOOTSTRAP: Final = re.compile(r"\A([a-z0-9]{6})\.([a-z0-9]{16})\Z")
_EXTRA_GROUP: Final = re.compile(r"\Asystem:bootstrappers:[a-z0-9:-]{0,255}[a-z0-9]\Z")


# --- service accounts ---------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class Issuer:
    """The issuer of service account tokens: its settings, and what was read from the files that they name. `key` signs
    new tokens; tokens of the public keys `verifying` are accepted, too.
    """

    settings: ServiceAccountSettings
    key: keys.PrivateKey
    verifying: Sequence[keys.PublicKey] = ()


class ServiceAccountTokens:
    """Issues and authenticates service account tokens."""

    def __init__(self, issuer: Issuer, find: Find) -> None:
        self._settings = issuer.settings
        self._key = issuer.key
        self._find = find
        self._algorithm = keys.jwt_algorithm(issuer.key.public_key())
        public = [issuer.key.public_key(), *issuer.verifying]
        self._public = {_key_id(key): key for key in public}
        self._kid = _key_id(issuer.key.public_key())

    @property
    def audiences(self) -> tuple[str, ...]:
        return self._settings.api_audiences

    def key_set(self) -> dict[str, object]:
        """The public keys as a JSON Web Key Set (RFC 7517)."""
        return {"keys": [_jwk(kid, key) for kid, key in self._public.items()]}

    def configuration(self, address: str) -> dict[str, object]:
        """The discovery document (OpenID Connect Discovery 1.0, section 3). `address` is host and port."""
        algorithms_used = sorted({keys.jwt_algorithm(key) for key in self._public.values()})
        return {
            "issuer": self._settings.issuer,
            "jwks_uri": f"https://{address}/openid/v1/jwks",
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": algorithms_used,
        }

    # --- issuing --------------------------------------------------------------------------------------------------

    def answer(self, request: serviceaccounts.TokenRequest, call: VerbContext) -> serviceaccounts.TokenRequest:
        """A TokenRequest with its token. Raises NotFound, Invalid, BadRequest, Conflict."""
        namespace, name = call.info.namespace, call.info.name
        namespacelifecycle.check_namespace(
            self._find("namespaces", "", namespace), namespace, serviceaccounts.RESOURCE.identity, name
        )
        meta = request.metadata
        if meta.name and meta.name != name:
            problem = errors.invalid("metadata.name", meta.name, "must match the service account name if specified")
            raise errors.Invalid(request.kind, serviceaccounts.TOKEN_REQUESTS.group, name, [problem])
        account = self._find("serviceaccounts", namespace, name)
        if account is None:
            raise errors.NotFound("serviceaccounts", "", name)
        uid = account.metadata.uid
        if meta.uid and meta.uid != uid:
            why = f"the UID in the token request ({meta.uid}) does not match the UID of the service account ({uid})"
            raise errors.Conflict.for_object(request.kind, serviceaccounts.TOKEN_REQUESTS.group, name, why)
        request.spec.audiences = request.spec.audiences or list(self._settings.api_audiences)
        meta.name, meta.uid = name, uid
        meta.creation_timestamp = timestamps.rfc3339(call.now)
        problems = serviceaccounts.TOKEN_REQUESTS.validate(request)
        if problems:
            raise errors.Invalid(request.kind, serviceaccounts.TOKEN_REQUESTS.group, "", problems)
        bound = self._bound_claim(request.spec.bound_object_ref, namespace)
        seconds = request.spec.expiration_seconds or 0
        shortened = int(self._settings.max_token_expiration.total_seconds())
        if 0 < shortened < seconds:
            call.warnings.append(f"requested expiration of {seconds} seconds shortened to {shortened} seconds")
            request.spec.expiration_seconds = seconds = shortened
        until = call.now + datetime.timedelta(seconds=seconds)
        # A dry run gets a token as well, because nothing is stored in either case.
        claims = self._new_claims(account, bound, request.spec.audiences, (call.now, until))
        call.annotations[_ISSUED] = f"JTI={claims['jti']}"
        # No typ in the header, as in Kubernetes.
        token = jwt.encode(claims, self._key, self._algorithm, headers={"kid": self._kid, "typ": ""})
        request.status = serviceaccounts.TokenRequestStatus(token=token, expiration_timestamp=timestamps.rfc3339(until))
        return request

    def _bound_claim(self, ref: serviceaccounts.BoundObjectReference | None, namespace: str) -> Mapping[str, object]:
        """The claim about the object that the token is bound to; empty if there is none."""
        if ref is None:
            return {}
        group, _, version = ref.api_version.rpartition("/")
        plural = "" if group else _BINDABLE.get(ref.kind, "")
        if not plural:
            raise errors.BadRequest(f"cannot bind token to object of type {group}/{version}, Kind={ref.kind}")
        problem = names.lookup_problem(ref.name)
        if problem:
            raise errors.BadRequest(problem)
        bound = self._find(plural, "" if ref.kind == "Node" else namespace, ref.name)
        if bound is None:
            raise errors.NotFound(plural, "", ref.name)
        uid = bound.metadata.uid
        if ref.uid and ref.uid != uid:
            why = (
                f"the UID in the bound object reference ({ref.uid}) does not match the UID in record. "
                "The object might have been deleted and then recreated"
            )
            raise errors.Conflict.for_object(ref.kind, "", ref.name, why)
        return {ref.kind.lower(): {"name": ref.name, "uid": uid}}

    def _new_claims(
        self,
        account: serviceaccounts.ServiceAccount,
        bound: Mapping[str, object],
        audiences: Sequence[str],
        lifetime: tuple[datetime.datetime, datetime.datetime],
    ) -> Claims:
        """The claims of a new token."""
        since, until = (int(moment.timestamp()) for moment in lifetime)
        meta = account.metadata
        private = {"namespace": meta.namespace, "serviceaccount": {"name": meta.name, "uid": meta.uid}, **bound}
        return {
            "aud": list(audiences),
            "exp": until,
            "iat": since,
            "iss": self._settings.issuer,
            "jti": objects.new_uid(),
            _PRIVATE: private,
            "nbf": since,
            "sub": f"{_ACCOUNT}{meta.namespace}:{meta.name}",
        }

    # --- authenticating -------------------------------------------------------------------------------------------

    def authenticate(self, token: str, audiences: Sequence[str], now: datetime.datetime) -> authn.TokenUser | None:
        """The user of a token; None if it is not a JWT of this issuer. Raises Rejected."""
        claims = self._claims(token)
        if claims is None:
            return None
        token_audiences = _texts(claims.get("aud"))
        valid_for = frozenset(token_audiences)
        shared = tuple(audience for audience in audiences if audience in valid_for)
        if not shared:
            actual, target = formatting.quote_all(token_audiences), formatting.quote_all(audiences)
            raise authn.Rejected(f"token audiences {actual} is invalid for the target audiences {target}")
        _check_times(claims, now)
        return authn.TokenUser(self._user(claims, now), shared)

    def _claims(self, token: str) -> Claims | None:
        """The claims of a token with a valid signature; None if it is not a JWT of this issuer. Does not check times
        and audiences. Raises Rejected.
        """
        try:
            if jwt.decode(token, options={"verify_signature": False}).get("iss") != self._settings.issuer:
                return None
            header = jwt.get_unverified_header(token)
        except jwt.PyJWTError:
            return None
        kid = header.get("kid", "")
        keys_to_try = [self._public[kid]] if kid in self._public else list(self._public.values())
        signature_only: Options = {"verify_aud": False, "verify_exp": False, "verify_nbf": False, "verify_iat": False}
        for key in keys_to_try:
            try:
                claims: Claims = jwt.decode(token, key, [keys.jwt_algorithm(key)], options=signature_only)
            except jwt.PyJWTError:
                continue
            return claims
        # The text of kube-apiserver's JWT library for a signature by an unknown key.
        raise authn.Rejected("go-jose/go-jose: error in cryptographic primitive")

    def _user(self, claims: Mapping[str, object], now: datetime.datetime) -> User:
        private = claims.get(_PRIVATE)
        claim = private.get("serviceaccount") if isinstance(private, dict) else None
        if not isinstance(private, dict) or not isinstance(claim, dict):
            raise authn.Rejected("service account token has no serviceaccount claim")
        namespace, name, uid = str(private.get("namespace", "")), str(claim.get("name", "")), str(claim.get("uid"))
        if claims.get("sub") != f"{_ACCOUNT}{namespace}:{name}":
            raise authn.Rejected("sub claim of the service account token does not match its serviceaccount claim")
        account = self._find("serviceaccounts", namespace, name)
        if account is None:
            raise authn.Rejected(f'serviceaccounts "{name}" not found')
        if account.metadata.uid != uid:
            raise authn.Rejected(f"service account UID ({account.metadata.uid}) does not match claim ({uid})")
        if _is_deleted(account, now):
            raise authn.Rejected(f"service account {namespace}/{name} has been deleted")
        extra = {authn.CREDENTIAL_ID: (f"JTI={claims.get('jti', '')}",)}
        for kind in ("secret", "node"):
            ref = private.get(kind)
            if isinstance(ref, dict):
                self._check_bound(kind, namespace, ref, now)
                if kind == "node":
                    extra |= {f"{_NODE}name": (str(ref.get("name")),), f"{_NODE}uid": (str(ref.get("uid")),)}
        if "pod" in private:
            raise authn.Rejected("service account token has been invalidated")
        groups = ("system:serviceaccounts", f"system:serviceaccounts:{namespace}", authn.AUTHENTICATED)
        return User(f"{_ACCOUNT}{namespace}:{name}", uid, groups, extra)

    def _check_bound(self, kind: str, namespace: str, ref: Mapping[str, object], now: datetime.datetime) -> None:
        bound = self._find(f"{kind}s", "" if kind == "node" else namespace, str(ref.get("name")))
        if bound is None or _is_deleted(bound, now):
            raise authn.Rejected("service account token has been invalidated")
        if bound.metadata.uid != ref.get("uid"):
            raise authn.Rejected(
                f"{kind} UID ({bound.metadata.uid}) does not match service account {kind} ref claim ({ref.get('uid')})"
            )


def _texts(value: object) -> list[str]:
    """The strings of a claim that is a string or a list; other values are ignored."""
    values = value if isinstance(value, list) else [value]
    return [text for text in values if isinstance(text, str)]


def _is_deleted(obj: Object, now: datetime.datetime) -> bool:
    """Whether the deletionTimestamp of an object has passed, with a minute of clock skew."""
    timestamp = obj.metadata.deletion_timestamp
    return timestamp is not None and timestamps.parse_rfc3339(timestamp) < now - _LEEWAY


def _check_times(claims: Mapping[str, object], now: datetime.datetime) -> None:
    """Check exp, nbf and iat, with a minute of clock skew. Raises Rejected."""
    moment, leeway = now.timestamp(), _LEEWAY.total_seconds()
    until, since, issued = (_seconds(claims.get(name)) for name in ("exp", "nbf", "iat"))
    if until is None or moment - leeway > until:
        raise authn.Rejected("service account token has expired")
    if since is not None and moment + leeway < since:
        raise authn.Rejected("service account token is not valid yet")
    if issued is not None and moment + leeway < issued:
        raise authn.Rejected("service account token is issued in the future")


def _seconds(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _key_id(key: keys.PublicKey) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(keys.public_der(key)).digest()).rstrip(b"=").decode("ascii")


def _jwk(kid: str, public_key: keys.PublicKey) -> dict[str, object]:
    name = keys.jwt_algorithm(public_key)
    algorithm: Any = algorithms.get_default_algorithms()[name]
    jwk = {member: value for member, value in algorithm.to_jwk(public_key, as_dict=True).items() if member != "key_ops"}
    return {"use": "sig", "kty": jwk.pop("kty"), "kid": kid, "alg": name, **jwk}


# --- bootstrap tokens ---------------------------------------------------------------------------------------------


class BootstrapTokens:
    """Authenticates tokens in Secrets of type bootstrap.kubernetes.io/token."""

    def __init__(self, find: Find) -> None:
        self._find = find

    def authenticate(self, token: str, audiences: Sequence[str], now: datetime.datetime) -> authn.TokenUser | None:
        """The bootstrap user of a token; None if the token is not valid. The log gives the reason."""
        del audiences
        match = _BOOTSTRAP.match(token)
        if match is None:
            return None
        id_, secret = match.groups()
        problem, groups = self._check_secret(id_, secret, now)
        if problem:
            _log.warning("bootstrap token refused", extra={"token_id": id_, "error": problem})
            return None
        user = User(f"system:bootstrap:{id_}", "", tuple(sorted({BOOTSTRAP_GROUP, *groups})))
        return authn.TokenUser(authn.with_implied_groups(user))

    def _check_secret(self, id_: str, secret: str, now: datetime.datetime) -> tuple[str, Sequence[str]]:
        """Why a token is not valid, empty if it is; and its extra groups."""
        stored = self._find("secrets", secrets.BOOTSTRAP_NAMESPACE, secrets.BOOTSTRAP_PREFIX + id_)
        if stored is None:
            return "token not found", ()
        if stored.metadata.deletion_timestamp is not None:
            return "token is being deleted", ()
        if stored.type != secrets.BOOTSTRAP_TOKEN:
            return f"Secret has type {stored.type}", ()
        data: Mapping[str, bytes] = stored.data
        if not hmac.compare_digest(data.get("token-secret", b""), secret.encode("ascii")):
            return "token secret does not match", ()
        if data.get("token-id", b"").decode("utf-8", "replace") != id_:
            return "Secret has another token-id", ()
        if secrets.time_left(stored, now) == 0:
            return "token has expired", ()
        if data.get("usage-bootstrap-authentication") != b"true":
            return "usage-bootstrap-authentication is not true", ()
        groups = extra_groups(data)
        if groups is None:
            return "auth-extra-groups has a group without the prefix system:bootstrappers:", ()
        return "", groups


def extra_groups(data: Mapping[str, bytes]) -> Sequence[str] | None:
    """The extra groups of a bootstrap token; None if one of them is not allowed."""
    text = data.get("auth-extra-groups", b"").decode("utf-8", "replace")
    groups = text.split(",") if text else []
    return groups if all(_EXTRA_GROUP.match(group) for group in groups) else None
