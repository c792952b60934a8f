"""Who is asking: the client certificate, a token, or nobody in particular.

A chain of methods; the first that recognises its credential wins, and a method that fails does not stop the next. A
client certificate is judged anew for every request, because time passes: what the judgement of its chain found, good or
bad, is kept with the time in which it holds. Every failure is the same 401 to the caller; the log says why, once a
minute for the same reason and source, and metrics count each certificate that is refused.

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
from certplane.x509 import certificates

_log = logging.getLogger("certplane.access")

AUTHENTICATED: Final = "system:authenticated"
UNAUTHENTICATED: Final = "system:unauthenticated"
CREDENTIAL_ID: Final = "authentication.kubernetes.io/credential-id"
#: Bytes that are remembered of good chains: enough for some two thousand of three certificates each.
_KNOWN_BYTES: Final = 64 << 20
#: A name in Python takes up to four times what it takes in DER, and stands in two objects; and there is the chain.
_EXPANSION: Final = 9
#: Bytes that are remembered of refusals, some four thousand, each of so many at the most.
_REFUSED_BYTES: Final = 8 << 20
_REFUSAL_BYTES: Final = 2048
_LONGEST_REASON: Final = 1024
_STRAY_SPACE: Final = "the provided Authorization header contains extra space before the bearer token, and is ignored"


@dataclasses.dataclass(frozen=True, slots=True)
class Credentials:
    """What a request offers. `peer_chain` is DER, leaf first; `authorization` the header, empty if there is none;
    `warn` tells whoever asks what is odd about it.
    """

    peer_chain: Sequence[bytes] = ()
    authorization: str = ""
    source: str = ""
    warn: Callable[[str], None] = lambda _: None


class Rejected(ValueError):
    """A credential that identifies nobody; the text is for the log, and so are `fields`."""

    def __init__(self, text: str, fields: Mapping[str, str] | None = None) -> None:
        super().__init__(text)
        self.fields = fields or {}


class Method(Protocol):
    """One way to recognise somebody."""

    def recognise(self, offered: Credentials, now: datetime.datetime) -> context.User | None:
        """The user; None if there is no credential of this kind. Raises Rejected if it is no good."""
        ...


class ClientCertificates:
    """Certificates that the handshake delivered: whatever the client sent, also what is none."""

    def __init__(
        self,
        verifier: certificates.ClientVerifier,
        observe: Callable[[float], None] = lambda _: None,
        count_refusal: Callable[[str], None] = lambda _: None,
    ) -> None:
        """`observe` is told, for each request, how many seconds its certificate is still valid; `count_refusal` the
        reason for each that is refused.
        """
        self._verifier = verifier
        self.observe = observe
        self._count_refusal = count_refusal
        # Two, so that strangers push nobody out.
        self._known: BoundedCache[_Client] = BoundedCache(_KNOWN_BYTES, _EXPANSION)
        self._refused: BoundedCache[certificates.Refusal] = BoundedCache(_REFUSED_BYTES, expansion=1)

    def recognise(self, offered: Credentials, now: datetime.datetime) -> context.User | None:
        if not offered.peer_chain:
            return None
        chain = tuple(offered.peer_chain)
        known = self._known.get(chain)
        if known is None or now not in known.client.span:
            known = self._judge(chain, now)
        self.observe((known.client.not_after - now).total_seconds())
        return known.user

    def _judge(self, chain: tuple[bytes, ...], now: datetime.datetime) -> _Client:
        digest = _digest(chain)
        refusal = self._refused.get(digest)
        if refusal is None or now not in refusal.span:
            try:
                client = self._verifier.verify(chain[0], chain[1:], now)
            except certificates.VerificationError as error:
                refusal = error.refusal
                self._refused.put(digest, refusal, _REFUSAL_BYTES)
            else:
                known = _Client(client, _user(client))
                self._known.put(chain, known, sum(map(len, chain)))
                return known
        self._count_refusal(refusal.reason.value)
        fields = dataclasses.asdict(refusal.identifiers) if refusal.identifiers is not None else {}
        raise Rejected(f"client certificate: {refusal.text}", {"cause": refusal.reason.value, **fields})

    def replace(self, verifier: certificates.ClientVerifier) -> None:
        """Trust another pool from now on; nothing is remembered of the old one."""
        self._verifier = verifier
        self._known.clear()
        self._refused.clear()


@dataclasses.dataclass(frozen=True, slots=True)
class _Client:
    """A certificate that is good, and whom it makes."""

    client: certificates.VerifiedClient
    user: context.User | None


def _digest(chain: Sequence[bytes]) -> bytes:
    lengths = ",".join(str(len(each)) for each in chain)
    return hashlib.sha256(b"".join((lengths.encode("ascii"), b":", *chain))).digest()


def _user(client: certificates.VerifiedClient) -> context.User | None:
    if not client.common_name:
        return None
    extra = {CREDENTIAL_ID: (f"X509SHA256={client.sha256}",)}
    return with_implied_groups(context.User(client.common_name, client.uid, client.organizations, extra))


def with_implied_groups(user: context.User) -> context.User:
    """Everybody who was recognised is in system:authenticated."""
    if AUTHENTICATED in user.groups or UNAUTHENTICATED in user.groups or user.name == context.ANONYMOUS.name:
        return user
    return dataclasses.replace(user, groups=(*user.groups, AUTHENTICATED))


@dataclasses.dataclass(frozen=True, slots=True)
class Recognised:
    """Whose token it is. `audiences` are those of the wanted ones that it is meant for; None: it says nothing of that,
    and is good wherever this server's own name is among them.
    """

    user: context.User
    audiences: tuple[str, ...] | None = None


class TokenSource(Protocol):
    """Knows tokens of one sort."""

    def recognise(self, token: str, audiences: Sequence[str], now: datetime.datetime) -> Recognised | None:
        """Whose token it is; None if it is none of this sort. Raises Rejected if it is, and is no good."""
        ...


class StaticTokens:
    """Tokens from a file, as kube-apiserver's --token-auth-file has them."""

    def __init__(self, users: Mapping[str, context.User]) -> None:
        self._users: Mapping[bytes, context.User] = {}
        self.replace(users)

    def replace(self, users: Mapping[str, context.User]) -> None:
        """Know these tokens from now on, and no others."""
        # Looked up by digest, so that the time it takes says nothing about a token.
        self._users = {hashlib.sha256(token.encode("utf-8")).digest(): user for token, user in users.items()}

    def recognise(self, token: str, audiences: Sequence[str], now: datetime.datetime) -> Recognised | None:
        """Whose token this is."""
        del audiences, now
        digest = hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
        for known, user in self._users.items():
            if hmac.compare_digest(known, digest):
                return Recognised(user)
        return None


def parse_tokens(content: bytes) -> dict[str, context.User]:
    """Users by their tokens, from CSV: token, user name, user UID, and, quoted, groups. Raises ValueError, whose text
    quotes no token.
    """
    users: dict[str, context.User] = {}
    try:
        for row in csv.reader(io.StringIO(content.decode("utf-8")), skipinitialspace=True):
            if not row:
                continue
            if len(row) < 3:
                raise ValueError(f"it has a line with {len(row)} fields; {_FIELDS}")
            token, name, uid = (each.strip() for each in row[:3])
            if not token or not name:
                raise ValueError(f"it has a line without a token or without a user; {_FIELDS}")
            groups = tuple(each.strip() for each in row[3].split(",") if each.strip()) if len(row) > 3 else ()
            users[token] = with_implied_groups(context.User(name, uid, groups))
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8") from None
    except csv.Error as error:
        raise ValueError(f"it is no CSV: {error}") from error
    return users


_FIELDS: Final = 'each line is: token,user,uid,"group1,group2" (the groups may be left out)'


class BearerTokens:
    """Tokens in the Authorization header. `audiences` are the names of this server, to which they must be meant."""

    def __init__(self, audiences: Sequence[str] = (), *sources: TokenSource) -> None:
        self.audiences = tuple(audiences)
        self._sources = sources

    def recognise(self, offered: Credentials, now: datetime.datetime) -> context.User | None:
        token = bearer_token(offered.authorization)
        if not token and _has_stray_space(offered.authorization):
            offered.warn(_STRAY_SPACE)
        return self.judge(token, self.audiences, now).user if token else None

    def judge(self, token: str, audiences: Sequence[str], now: datetime.datetime) -> Recognised:
        """Whose token it is, and for which of the audiences. Raises Rejected with everything that speaks against it."""
        reasons = ["invalid bearer token"]
        for source in self._sources:
            try:
                found = source.recognise(token, audiences, now)
            except Rejected as error:
                reasons.append(str(error))
                continue
            if found is None:
                continue
            if found.audiences is not None:
                return found
            shared = tuple(each for each in self.audiences if each in audiences)
            if shared or not self.audiences:
                return Recognised(found.user, shared)
        raise Rejected(f"[{', '.join(reasons)}]" if len(reasons) > 1 else reasons[0])


def bearer_token(authorization: str) -> str:
    """The token in an Authorization header; empty if it is of another kind, or has none."""
    parts = _bearer_parts(authorization)
    return parts[1] if len(parts) > 1 else ""


def _bearer_parts(authorization: str) -> list[str]:
    parts = authorization.strip().split(" ")
    return parts if parts[0].lower() == "bearer" else []


def _has_stray_space(authorization: str) -> bool:
    """Whether there would be a token if it stood where it belongs."""
    parts = _bearer_parts(authorization)
    return len(parts) > 2 and not parts[1]


class Authenticator:
    """The methods, in their order."""

    def __init__(self, methods: Sequence[Method], *, anonymous: bool) -> None:
        self._methods = tuple(methods)
        self._anonymous = anonymous
        self._log_limit = loglimit.LogLimit()

    def authenticate(self, offered: Credentials, now: datetime.datetime) -> context.User:
        """Who is asking. Raises Unauthorized; the reason goes to the log."""
        rejected: list[Rejected] = []
        for method in self._methods:
            try:
                user = method.recognise(offered, now)
            except Rejected as error:
                rejected.append(error)
                continue
            if user is not None:
                return user
        if not rejected and self._anonymous:
            return context.ANONYMOUS
        self._tell(rejected, offered, now)
        raise errors.Unauthorized

    def _tell(self, rejected: Sequence[Rejected], offered: Credentials, now: datetime.datetime) -> None:
        """Say in the log why somebody is not let in; what is repeated is counted."""
        fields = {name: value for each in rejected for name, value in each.fields.items()}
        # A source may have as many bad credentials as it likes: of one kind one is told.
        left_out = self._log_limit.admit((offered.source, len(rejected), fields.get("cause")), now)
        if left_out is not None:
            why = "; ".join(map(str, rejected)) or "no credentials, and anonymous requests are off"
            _log.warning(
                "unauthorized",
                extra={"reason": why[:_LONGEST_REASON], "source": offered.source, **fields, **left_out},
            )
