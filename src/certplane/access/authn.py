"""Authentication: the user of a request from its client certificate or bearer token, or the anonymous user.

The methods form a chain. The first one that accepts its credential wins; a method that rejects does not stop the next.
A client certificate is checked for every request, because it may expire in between: the result for its chain, good or
bad, is cached together with the time span in which it holds. The caller gets the same 401 for every failure. The log
gives the reason, once a minute for the same cause and source, and metrics count every rejected certificate.

Source: `k8s.io/apiserver/pkg/authentication/request/{x509,bearertoken,union,anonymous}`.
"""

from __future__ import annotations

import csv
import dataclasses
import datetime
import hashlib
import hmac
import io
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol

from certplane import errors, loglimit
from certplane.boundedcache import BoundedCache
from certplane.meta import context
from certplane.meta.context import User
from certplane.x509.trust import clientcertificates

_log = logging.getLogger("certplane.access")

AUTHENTICATED: Final = "system:authenticated"
UNAUTHENTICATED: Final = "system:unauthenticated"
CREDENTIAL_ID: Final = "authentication.kubernetes.io/credential-id"
#: Bytes of the cache of valid chains: enough for about two thousand chains of three certificates each.
_VALID_BYTES: Final = 64 << 20
#: Memory per byte of DER: a name in Python takes up to four times its DER, is held by two objects, and so is the chain.
_EXPANSION: Final = 9
#: Bytes of the cache of refusals, which holds about four thousand; and the maximum of one refusal.
_REFUSED_BYTES: Final = 8 << 20
_REFUSAL_BYTES: Final = 2048
#: Characters of a reason in the log.
_MAX_REASON: Final = 1024
_STRAY_SPACE: Final = "the provided Authorization header contains extra space before the bearer token, and is ignored"


@dataclasses.dataclass(frozen=True, slots=True)
class Credentials:
    """The credentials of a request. `peer_chain` is DER, leaf first; `authorization` the header, empty if there is
    none; `source` the address for the log; `warn` adds a warning to the response.
    """

    peer_chain: Sequence[bytes] = ()
    authorization: str = ""
    source: str = ""
    warn: Callable[[str], None] = lambda _: None


class Rejected(ValueError):
    """The credential is not valid. The text and `fields` are for the log."""

    def __init__(self, text: str, fields: Mapping[str, str] | None = None) -> None:
        super().__init__(text)
        self.fields = fields or {}


class Method(Protocol):
    """One authentication method."""

    def authenticate(self, credentials: Credentials, now: datetime.datetime) -> User | None:
        """The user; None if there is no credential of this kind. Raises Rejected if the credential is not valid."""
        ...


class ClientCertificates:
    """Client certificates from the TLS handshake. It accepts any bytes, so they are parsed and verified here."""

    def __init__(
        self,
        verifier: clientcertificates.ClientVerifier,
        observe: Callable[[float], None] = lambda _: None,
        count_refusal: Callable[[str], None] = lambda _: None,
    ) -> None:
        """`observe` gets the remaining seconds of a valid certificate at each request; `count_refusal` the reason of
        each refusal.
        """
        self._verifier = verifier
        self.observe = observe
        self._count_refusal = count_refusal
        # Two caches, so that invalid chains cannot evict valid ones.
        self._valid: BoundedCache[_Client] = BoundedCache(_VALID_BYTES, _EXPANSION)
        self._refused: BoundedCache[clientcertificates.Refusal] = BoundedCache(_REFUSED_BYTES, expansion=1)

    def authenticate(self, credentials: Credentials, now: datetime.datetime) -> User | None:
        if not credentials.peer_chain:
            return None
        chain = tuple(credentials.peer_chain)
        client = self._valid.get(chain)
        if client is None or now not in client.verified.span:
            client = self._verify(chain, now)
        self.observe((client.verified.not_after - now).total_seconds())
        return client.user

    def _verify(self, chain: tuple[bytes, ...], now: datetime.datetime) -> _Client:
        digest = _digest(chain)
        refusal = self._refused.get(digest)
        if refusal is None or now not in refusal.span:
            try:
                verified = self._verifier.verify(chain[0], chain[1:], now)
            except clientcertificates.VerificationError as error:
                refusal = error.refusal
                self._refused.put(digest, refusal, _REFUSAL_BYTES)
            else:
                client = _Client(verified, _user(verified))
                self._valid.put(chain, client, sum(map(len, chain)))
                return client
        self._count_refusal(refusal.reason.value)
        fields = dataclasses.asdict(refusal.identifiers) if refusal.identifiers is not None else {}
        raise Rejected(f"client certificate: {refusal.text}", {"cause": refusal.reason.value, **fields})

    def replace(self, verifier: clientcertificates.ClientVerifier) -> None:
        """Use another pool of CAs from now on, and clear the caches."""
        self._verifier = verifier
        self._valid.clear()
        self._refused.clear()


@dataclasses.dataclass(frozen=True, slots=True)
class _Client:
    """A valid client certificate and its user; None if it has no common name."""

    verified: clientcertificates.VerifiedClient
    user: User | None


def _digest(chain: Sequence[bytes]) -> bytes:
    lengths = ",".join(str(len(certificate)) for certificate in chain)
    return hashlib.sha256(b"".join((lengths.encode("ascii"), b":", *chain))).digest()


def _user(client: clientcertificates.VerifiedClient) -> User | None:
    if not client.common_name:
        return None
    extra = {CREDENTIAL_ID: (f"X509SHA256={client.sha256}",)}
    return with_implied_groups(User(client.common_name, client.uid, client.organizations, extra))


def with_implied_groups(user: User) -> User:
    """The user with the group system:authenticated, unless it is the anonymous user."""
    if AUTHENTICATED in user.groups or UNAUTHENTICATED in user.groups or user.name == context.ANONYMOUS.name:
        return user
    return dataclasses.replace(user, groups=(*user.groups, AUTHENTICATED))


@dataclasses.dataclass(frozen=True, slots=True)
class TokenUser:
    """The user of a token. `audiences` are the requested audiences that the token is valid for; None if tokens of this
    kind have no audiences: such a token is valid for this server's own audiences.
    """

    user: User
    audiences: tuple[str, ...] | None = None


class TokenSource(Protocol):
    """Authenticates one kind of bearer tokens."""

    def authenticate(self, token: str, audiences: Sequence[str], now: datetime.datetime) -> TokenUser | None:
        """The user of a token; None if it is of another kind. Raises Rejected if it is not valid."""
        ...


class StaticTokens:
    """Tokens from a file, as kube-apiserver's --token-auth-file."""

    def __init__(self, users: Mapping[str, User]) -> None:
        self._users: Mapping[bytes, User] = {}
        self.replace(users)

    def replace(self, users: Mapping[str, User]) -> None:
        """Accept these tokens from now on, and no others."""
        # Digests, so that the time of a comparison does not depend on the token.
        self._users = {hashlib.sha256(token.encode("utf-8")).digest(): user for token, user in users.items()}

    def authenticate(self, token: str, audiences: Sequence[str], now: datetime.datetime) -> TokenUser | None:
        del audiences, now
        digest = hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
        for known, user in self._users.items():
            if hmac.compare_digest(known, digest):
                return TokenUser(user)
        return None


def parse_tokens(content: bytes) -> dict[str, User]:
    """Users by token, from CSV: token, user name, user UID, and groups in quotes. Raises ValueError; its text does not
    contain tokens.
    """
    users: dict[str, User] = {}
    try:
        for row in csv.reader(io.StringIO(content.decode("utf-8")), skipinitialspace=True):
            if not row:
                continue
            if len(row) < 3:
                raise ValueError(f"a line has {len(row)} fields; {_FORMAT}")
            token, name, uid = (field.strip() for field in row[:3])
            if not token or not name:
                raise ValueError(f"a line has no token or no user; {_FORMAT}")
            groups = tuple(group.strip() for group in row[3].split(",") if group.strip()) if len(row) > 3 else ()
            users[token] = with_implied_groups(User(name, uid, groups))
    except UnicodeDecodeError:
        raise ValueError("not UTF-8") from None
    except csv.Error as error:
        raise ValueError(f"not valid CSV: {error}") from error
    return users


_FORMAT: Final = 'the format is: token,user,uid,"group1,group2" (groups are optional)'


class BearerTokens:
    """Tokens in the Authorization header. `audiences` are those of this server; a token must be valid for one."""

    def __init__(self, audiences: Sequence[str] = (), *sources: TokenSource) -> None:
        self.audiences = tuple(audiences)
        self._sources = sources

    def authenticate(self, credentials: Credentials, now: datetime.datetime) -> User | None:
        token = bearer_token(credentials.authorization)
        if not token and _has_stray_space(credentials.authorization):
            credentials.warn(_STRAY_SPACE)
        return self.authenticate_token(token, self.audiences, now).user if token else None

    def authenticate_token(self, token: str, audiences: Sequence[str], now: datetime.datetime) -> TokenUser:
        """The user of a token, and the audiences that it is valid for. Raises Rejected with all reasons."""
        reasons = ["invalid bearer token"]
        for source in self._sources:
            try:
                token_user = source.authenticate(token, audiences, now)
            except Rejected as error:
                reasons.append(str(error))
                continue
            if token_user is None:
                continue
            if token_user.audiences is not None:
                return token_user
            shared = tuple(audience for audience in self.audiences if audience in audiences)
            if shared or not self.audiences:
                return TokenUser(token_user.user, shared)
        raise Rejected(f"[{', '.join(reasons)}]" if len(reasons) > 1 else reasons[0])


def bearer_token(authorization: str) -> str:
    """The token in an Authorization header; empty if there is none."""
    parts = _bearer_parts(authorization)
    return parts[1] if len(parts) > 1 else ""


def _bearer_parts(authorization: str) -> list[str]:
    parts = authorization.strip().split(" ")
    return parts if parts[0].lower() == "bearer" else []


def _has_stray_space(authorization: str) -> bool:
    """Whether there is more than one space between "Bearer" and the token."""
    parts = _bearer_parts(authorization)
    return len(parts) > 2 and not parts[1]


class Authenticator:
    """The authentication methods, in order."""

    def __init__(self, methods: Sequence[Method], *, anonymous: bool) -> None:
        self._methods = tuple(methods)
        self._anonymous = anonymous
        self._log_limit = loglimit.LogLimit()

    def authenticate(self, credentials: Credentials, now: datetime.datetime) -> User:
        """The user of a request. Raises Unauthorized; the reason goes to the log."""
        rejections: list[Rejected] = []
        for method in self._methods:
            try:
                user = method.authenticate(credentials, now)
            except Rejected as error:
                rejections.append(error)
                continue
            if user is not None:
                return user
        if not rejections and self._anonymous:
            return context.ANONYMOUS
        self._log_failure(rejections, credentials, now)
        raise errors.Unauthorized

    def _log_failure(self, rejections: Sequence[Rejected], credentials: Credentials, now: datetime.datetime) -> None:
        """Log why authentication failed; repetitions are counted."""
        fields = {name: value for rejection in rejections for name, value in rejection.fields.items()}
        # By source and cause, not by credential: a source may send any number of different bad credentials.
        repetitions = self._log_limit.admit((credentials.source, len(rejections), fields.get("cause")), now)
        if repetitions is not None:
            reason = "; ".join(map(str, rejections)) or "no credentials, and anonymous requests are disabled"
            _log.warning(
                "unauthorized",
                extra={"error": reason[:_MAX_REASON], "source": credentials.source, **fields, **repetitions},
            )
