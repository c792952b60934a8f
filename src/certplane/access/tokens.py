"""Bearer tokens that the API itself gives out: those of service accounts, and bootstrap tokens.

A service account's token is a JWT (RFC 7519) that this server signs. It is good as long as its time, its account and
the object that it is bound to last: the account is looked up at every use, so that deleting it ends its tokens.

A bootstrap token is kept as a Secret of its own in kube-system. It lets a machine without any identity ask for its
first certificate, and nothing more: its user has the rights that its groups are given.

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

from certplane import clock, errors, gotext
from certplane.access import authn
from certplane.meta import context, names, objects
from certplane.registry import lifecycle
from certplane.resources import secrets, serviceaccounts
from certplane.x509 import keys

_log = logging.getLogger("certplane.access")

#: An object by plural, namespace and name; None if there is none.
Find = Callable[[str, str, str], Any | None]

_LEEWAY: Final = datetime.timedelta(seconds=60)
#: Names, in the audit record, the token that was given out.
_ISSUED: Final = "authentication.kubernetes.io/issued-credential-id"
_ACCOUNT: Final = "system:serviceaccount:"
#: What a token may be bound to. Of pods there are none here.
_BINDABLE: Final = {"Pod": "pods", "Node": "nodes", "Secret": "secrets"}
_PRIVATE: Final = "kubernetes.io"
_NODE: Final = "authentication.kubernetes.io/node-"

BOOTSTRAP_GROUP: Final = "system:bootstrappers"
_BOOTSTRAP: Final = re.compile(r"\A([a-z0-9]{6})\.([a-z0-9]{16})\Z")
_EXTRA_GROUP: Final = re.compile(r"\Asystem:bootstrappers:[a-z0-9:-]{0,255}[a-z0-9]\Z")


# --- service accounts ---------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class Issuer:
    """Who signs the tokens of service accounts. `audiences` are the names that this server answers to; `verifying`
    are further public keys whose tokens are still good; `longest` caps the lifetime of new ones, in seconds.
    """

    name: str
    key: keys.PrivateKey
    audiences: tuple[str, ...]
    verifying: Sequence[keys.PublicKey] = ()
    longest: int = 0


class ServiceAccountTokens:
    """Signs tokens of service accounts, and knows them again."""

    def __init__(self, issuer: Issuer, find: Find) -> None:
        self._issuer = issuer
        self._find = find
        self._algorithm = keys.jwt_algorithm(issuer.key.public_key())
        public = [issuer.key.public_key(), *issuer.verifying]
        self._public = {_key_id(each): each for each in public}
        self._kid = _key_id(issuer.key.public_key())

    @property
    def audiences(self) -> tuple[str, ...]:
        return self._issuer.audiences

    def key_set(self) -> dict[str, Any]:
        """The public keys as a JSON Web Key Set (RFC 7517)."""
        return {"keys": [_jwk(kid, key) for kid, key in self._public.items()]}

    def configuration(self, address: str) -> dict[str, Any]:
        """The discovery document (OpenID Connect Discovery 1.0, section 3). `address` is host and port."""
        used = sorted({keys.jwt_algorithm(key) for key in self._public.values()})
        return {
            "issuer": self._issuer.name,
            "jwks_uri": f"https://{address}/openid/v1/jwks",
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": used,
        }

    # --- asking for one -------------------------------------------------------------------------------------------

    def answer(self, asked: serviceaccounts.TokenRequest, call: context.Call) -> serviceaccounts.TokenRequest:
        """A TokenRequest with its token. Raises NotFound, Invalid, BadRequest, Conflict."""
        namespace, name = call.info.namespace, call.info.name
        lifecycle.require(self._find("namespaces", "", namespace), namespace, serviceaccounts.RESOURCE.identity, name)
        meta = asked.metadata
        if meta.name and meta.name != name:
            problem = errors.invalid("metadata.name", meta.name, "must match the service account name if specified")
            raise errors.Invalid(asked.kind, serviceaccounts.TOKEN_REQUESTS.group, name, [problem])
        account = self._find("serviceaccounts", namespace, name)
        if account is None:
            raise errors.NotFound("serviceaccounts", "", name)
        uid = account.metadata.uid
        if meta.uid and meta.uid != uid:
            why = f"the UID in the token request ({meta.uid}) does not match the UID of the service account ({uid})"
            raise errors.Conflict.of(asked.kind, serviceaccounts.TOKEN_REQUESTS.group, name, why)
        asked.spec.audiences = asked.spec.audiences or list(self._issuer.audiences)
        meta.name, meta.uid = name, uid
        meta.creation_timestamp = clock.rfc3339(call.now)
        problems = serviceaccounts.TOKEN_REQUESTS.validate(asked)
        if problems:
            raise errors.Invalid(asked.kind, serviceaccounts.TOKEN_REQUESTS.group, "", problems)
        bound = self._bound(asked.spec.bound_object_ref, namespace)
        seconds = asked.spec.expiration_seconds or 0
        if 0 < self._issuer.longest < seconds:
            shortened = self._issuer.longest
            call.warnings.append(f"requested expiration of {seconds} seconds shortened to {shortened} seconds")
            asked.spec.expiration_seconds = seconds = shortened
        until = call.now + datetime.timedelta(seconds=seconds)
        # A dry run is no exception: nothing is stored either way.
        claims = self._told(account, bound, asked.spec.audiences, (call.now, until))
        call.annotations[_ISSUED] = f"JTI={claims['jti']}"
        # The header has no typ: clients compare it with what Kubernetes sends.
        token = jwt.encode(claims, self._issuer.key, self._algorithm, headers={"kid": self._kid, "typ": ""})
        asked.status = serviceaccounts.TokenRequestStatus(token=token, expiration_timestamp=clock.rfc3339(until))
        return asked

    def _bound(self, ref: serviceaccounts.BoundObjectReference | None, namespace: str) -> Mapping[str, Any]:
        """The claim about the object that the token ends with."""
        if ref is None:
            return {}
        group, _, version = ref.api_version.rpartition("/")
        plural = "" if group else _BINDABLE.get(ref.kind, "")
        if not plural:
            raise errors.BadRequest(f"cannot bind token to object of type {group}/{version}, Kind={ref.kind}")
        problem = names.lookup_problem(ref.name)
        if problem:
            raise errors.BadRequest(problem)
        found = self._find(plural, "" if ref.kind == "Node" else namespace, ref.name)
        if found is None:
            raise errors.NotFound(plural, "", ref.name)
        uid = found.metadata.uid
        if ref.uid and ref.uid != uid:
            why = (
                f"the UID in the bound object reference ({ref.uid}) does not match the UID in record. "
                "The object might have been deleted and then recreated"
            )
            raise errors.Conflict.of(ref.kind, "", ref.name, why)
        return {ref.kind.lower(): {"name": ref.name, "uid": uid}}

    def _told(
        self,
        account: serviceaccounts.ServiceAccount,
        bound: Mapping[str, Any],
        audiences: Sequence[str],
        lifetime: tuple[datetime.datetime, datetime.datetime],
    ) -> dict[str, Any]:
        """What a new token says."""
        since, until = (int(each.timestamp()) for each in lifetime)
        meta = account.metadata
        about = {"namespace": meta.namespace, "serviceaccount": {"name": meta.name, "uid": meta.uid}, **bound}
        return {
            "aud": list(audiences),
            "exp": until,
            "iat": since,
            "iss": self._issuer.name,
            "jti": objects.new_uid(),
            _PRIVATE: about,
            "nbf": since,
            "sub": f"{_ACCOUNT}{meta.namespace}:{meta.name}",
        }

    # --- knowing one again ----------------------------------------------------------------------------------------

    def recognise(self, token: str, audiences: Sequence[str], now: datetime.datetime) -> authn.Recognised | None:
        """Whose token it is, and for which of the audiences; None if it is none of ours. Raises Rejected."""
        claims = self._claims(token)
        if claims is None:
            return None
        meant = _texts(claims.get("aud"))
        wanted, known = list(audiences), frozenset(meant)
        shared = tuple(each for each in wanted if each in known)
        if not shared:
            listed = f"{gotext.quote_all(meant)} is invalid for the target audiences {gotext.quote_all(wanted)}"
            raise authn.Rejected(f"token audiences {listed}")
        _check_times(claims, now)
        return authn.Recognised(self._user(claims, now), shared)

    def _claims(self, token: str) -> dict[str, Any] | None:
        """The verified claims; None if the token is no JWT of this issuer. Time and audience are judged elsewhere."""
        try:
            if jwt.decode(token, options={"verify_signature": False}).get("iss") != self._issuer.name:
                return None
            header = jwt.get_unverified_header(token)
        except jwt.PyJWTError:
            return None
        kid = header.get("kid", "")
        candidates = [self._public[kid]] if kid in self._public else list(self._public.values())
        later: Options = {"verify_aud": False, "verify_exp": False, "verify_nbf": False, "verify_iat": False}
        for key in candidates:
            try:
                claims: dict[str, Any] = jwt.decode(token, key, [keys.jwt_algorithm(key)], options=later)
            except jwt.PyJWTError:
                continue
            return claims
        # None of the keys has made the signature; in the words of the library that the real server verifies with.
        raise authn.Rejected("go-jose/go-jose: error in cryptographic primitive")

    def _user(self, claims: Mapping[str, Any], now: datetime.datetime) -> context.User:
        about = claims.get(_PRIVATE)
        account = about.get("serviceaccount") if isinstance(about, dict) else None
        if not isinstance(about, dict) or not isinstance(account, dict):
            raise authn.Rejected("service account token has no claim about its account")
        namespace, name, uid = str(about.get("namespace", "")), str(account.get("name", "")), str(account.get("uid"))
        if claims.get("sub") != f"{_ACCOUNT}{namespace}:{name}":
            raise authn.Rejected("service account token is for somebody else than its subject")
        found = self._find("serviceaccounts", namespace, name)
        if found is None:
            raise authn.Rejected(f'serviceaccounts "{name}" not found')
        if found.metadata.uid != uid:
            raise authn.Rejected(f"service account UID ({found.metadata.uid}) does not match claim ({uid})")
        if _is_gone(found, now):
            raise authn.Rejected(f"service account {namespace}/{name} has been deleted")
        extra = {authn.CREDENTIAL_ID: (f"JTI={claims.get('jti', '')}",)}
        for kind in ("secret", "node"):
            ref = about.get(kind)
            if isinstance(ref, dict):
                self._check_bound(kind, namespace, ref, now)
                if kind == "node":
                    extra |= {f"{_NODE}name": (str(ref.get("name")),), f"{_NODE}uid": (str(ref.get("uid")),)}
        if "pod" in about:
            raise authn.Rejected("service account token has been invalidated")
        groups = ("system:serviceaccounts", f"system:serviceaccounts:{namespace}", authn.AUTHENTICATED)
        return context.User(f"{_ACCOUNT}{namespace}:{name}", uid, groups, extra)

    def _check_bound(self, kind: str, namespace: str, ref: Mapping[str, Any], now: datetime.datetime) -> None:
        found = self._find(f"{kind}s", "" if kind == "node" else namespace, str(ref.get("name")))
        if found is None or _is_gone(found, now):
            raise authn.Rejected("service account token has been invalidated")
        if found.metadata.uid != ref.get("uid"):
            raise authn.Rejected(
                f"{kind} UID ({found.metadata.uid}) does not match service account {kind} ref claim ({ref.get('uid')})"
            )


def _texts(value: Any) -> list[str]:
    """The texts in a claim that may be one or a list; whatever else is there counts for nothing."""
    found = value if isinstance(value, list) else [value]
    return [each for each in found if isinstance(each, str)]


def _is_gone(of: Any, now: datetime.datetime) -> bool:
    """Whether something has been on its way out for longer than clocks may differ."""
    ended = of.metadata.deletion_timestamp
    return ended is not None and clock.parse_rfc3339(ended) < now - _LEEWAY


def _check_times(claims: Mapping[str, Any], now: datetime.datetime) -> None:
    """The bounds of a token's life, with a minute of patience for clocks that differ."""
    moment, leeway = now.timestamp(), _LEEWAY.total_seconds()
    until, since, made = (_seconds(claims.get(name)) for name in ("exp", "nbf", "iat"))
    if until is None or moment - leeway > until:
        raise authn.Rejected("service account token has expired")
    if since is not None and moment + leeway < since:
        raise authn.Rejected("service account token is not valid yet")
    if made is not None and moment + leeway < made:
        raise authn.Rejected("service account token is issued in the future")


def _seconds(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _key_id(of: keys.PublicKey) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(keys.public_der(of)).digest()).rstrip(b"=").decode("ascii")


def _jwk(kid: str, of: keys.PublicKey) -> dict[str, Any]:
    name = keys.jwt_algorithm(of)
    made: Any = algorithms.get_default_algorithms()[name]
    key = {item: value for item, value in made.to_jwk(of, as_dict=True).items() if item != "key_ops"}
    return {"use": "sig", "kty": key.pop("kty"), "kid": kid, "alg": name, **key}


# --- bootstrap tokens ---------------------------------------------------------------------------------------------


class BootstrapTokens:
    """Knows the tokens that are kept as Secrets of type bootstrap.kubernetes.io/token."""

    def __init__(self, find: Find) -> None:
        self._find = find

    def recognise(self, token: str, audiences: Sequence[str], now: datetime.datetime) -> authn.Recognised | None:
        """The bootstrap user of a token; None if it is no good, whatever the reason: the log tells."""
        del audiences
        match = _BOOTSTRAP.match(token)
        if match is None:
            return None
        id_, secret = match.groups()
        problem, groups = self._judge(id_, secret, now)
        if problem:
            _log.warning("bootstrap token refused", extra={"token_id": id_, "reason": problem})
            return None
        user = context.User(f"system:bootstrap:{id_}", "", tuple(sorted({BOOTSTRAP_GROUP, *groups})))
        return authn.Recognised(authn.with_implied_groups(user))

    def _judge(self, id_: str, secret: str, now: datetime.datetime) -> tuple[str, Sequence[str]]:
        """What speaks against a token, and the groups that it gives."""
        found = self._find("secrets", secrets.BOOTSTRAP_NAMESPACE, secrets.BOOTSTRAP_PREFIX + id_)
        if found is None:
            return "there is no such token", ()
        if found.metadata.deletion_timestamp is not None:
            return "it is being deleted", ()
        if found.type != secrets.BOOTSTRAP_TOKEN:
            return f"its secret is of type {found.type}", ()
        data: Mapping[str, bytes] = found.data
        if not hmac.compare_digest(data.get("token-secret", b""), secret.encode("ascii")):
            return "the secret part is wrong", ()
        if data.get("token-id", b"").decode("utf-8", "replace") != id_:
            return "its secret holds another token-id", ()
        if secrets.time_left(found, now) == 0:
            return "it has expired", ()
        if data.get("usage-bootstrap-authentication") != b"true":
            return "it is not meant for authentication", ()
        groups = extra_groups(data)
        if groups is None:
            return "auth-extra-groups names a group outside system:bootstrappers", ()
        return "", groups


def extra_groups(data: Mapping[str, bytes]) -> Sequence[str] | None:
    """The further groups of a bootstrap token; None if one of them is not allowed to it."""
    text = data.get("auth-extra-groups", b"").decode("utf-8", "replace")
    groups = text.split(",") if text else []
    return groups if all(_EXTRA_GROUP.match(each) for each in groups) else None
