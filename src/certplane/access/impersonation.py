"""User impersonation: `kubectl --as`. Each part of the impersonated identity needs its own permission.

Five modes are tried in order. The first that allows the impersonation wins; if none does, the first refusal is
returned. Four modes are constrained: they need the verb `impersonate:MODE` on the identity, and
`impersonate-on:MODE:VERB` on the resource of the request. The legacy mode needs the verb `impersonate` on the identity,
and then allows everything that the impersonated user may do. The mode that last worked for a user is tried first.

Source: KEP-5284; `k8s.io/apiserver/pkg/endpoints/filters/impersonation`.
"""

from __future__ import annotations

import dataclasses
import re
import urllib.parse
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from msgspec import structs

from certplane import boundedcache, errors
from certplane.access import authn, rbac
from certplane.golang import formatting
from certplane.meta import context, names
from certplane.meta.context import Attributes, User

PREFIX: Final = b"impersonate-"
_EXTRA_PREFIX: Final = "impersonate-extra-"
_GROUP: Final = "authentication.k8s.io"
_NODE: Final = "system:node:"
_NODES: Final = "system:nodes"
_NODE_NAME: Final = "authentication.kubernetes.io/node-name"
_ASSOCIATED: Final = "authentication.kubernetes.io/associated-node-keys"
#: From this number of groups or extra values on, a single check for "*" comes first.
_MANY: Final = 4
_PATH: Final = r"[A-Za-z0-9/\-._~%!$&'()*+,;=:]+"

#: Headers that may occur once.
_SINGLE: Final = {"impersonate-user": "Impersonate-User", "impersonate-uid": "Impersonate-Uid"}

Authorize = Callable[[Attributes], rbac.Decision]


def parse_headers(headers: Iterable[tuple[bytes, bytes]]) -> User | None:
    """The user in the impersonation headers, without implied groups; None if there is none. Raises BadRequest.

    Unlike Kubernetes, this refuses a repeated or an empty Impersonate-User. Kubernetes uses the first of several, and
    ignores an empty one, so the request runs with the caller's own permissions; a proxy may have checked another value.
    """
    single: dict[str, str] = {}
    groups: list[str] = []
    extra: dict[str, list[str]] = {}
    has_groups_or_extra = False
    for raw_field, raw_value in headers:
        if not raw_field.startswith(PREFIX):
            continue
        field, value = raw_field.decode("latin-1"), raw_value.strip(b" \t").decode("utf-8", "replace")
        if field in _SINGLE:
            if field in single:
                raise errors.BadRequest(f"header {_SINGLE[field]} occurs more than once")
            single[field] = value
        elif field == "impersonate-group":
            has_groups_or_extra = True
            groups.append(value)
        elif field.startswith(_EXTRA_PREFIX):
            has_groups_or_extra = True
            extra.setdefault(urllib.parse.unquote(field.removeprefix(_EXTRA_PREFIX)), []).append(value)
    name, uid = single.get("impersonate-user"), single.get("impersonate-uid", "")
    if name == "":
        raise errors.BadRequest("header Impersonate-User is empty")
    if not (name or has_groups_or_extra or uid):
        return None
    impersonated = User(name or "", uid, tuple(groups), {key: tuple(values) for key, values in extra.items()})
    if not name:
        raise errors.BadRequest(f"requested {_go_user(impersonated)} without impersonating a user name")
    return impersonated


def _go_user(user: User) -> str:
    def strings(values: Sequence[str]) -> str:
        return "[]string{" + ", ".join(map(formatting.quote, values)) + "}" if values else "[]string(nil)"

    extra = "map[string][]string(nil)"
    if user.extra:
        pairs = (f"{formatting.quote(key)}:{strings(values)}" for key, values in sorted(user.extra.items()))
        extra = "map[string][]string{" + ", ".join(pairs) + "}"
    name, uid = formatting.quote(user.name), formatting.quote(user.uid)
    return f"&user.DefaultInfo{{Name:{name}, UID:{uid}, Groups:{strings(user.groups)}, Extra:{extra}}}"


class Impersonation:
    """Decides who may impersonate whom."""

    def __init__(self, authorize: Authorize) -> None:
        self._authorize = authorize
        #: By user name, the mode that last allowed an impersonation.
        self._last_modes: boundedcache.BoundedCache[_Mode] = boundedcache.BoundedCache()

    def authorize(self, impersonated: User, attributes: Attributes) -> tuple[User, str]:
        """The impersonated user with implied groups, and the verb of the constrained mode that allows it (empty for the
        legacy mode). `attributes` are those of the caller's request. Raises Forbidden.
        """
        last = self._last_modes.get(attributes.user.name)
        order = [*((last,) if last is not None else ()), *(mode for mode in _MODES if mode is not last)]
        first_refusal: errors.Forbidden | None = None
        for mode in order:
            if not mode.applies(impersonated, attributes.user):
                continue
            try:
                user = self._authorize_in_mode(mode, impersonated, attributes)
            except errors.Forbidden as error:
                first_refusal = first_refusal or error
                continue
            self._last_modes.put(attributes.user.name, mode, len(attributes.user.name))
            return user, mode.verb if mode.constrained else ""
        # The legacy mode applies to all users, so there is a refusal.
        raise first_refusal if first_refusal is not None else rbac.refusal(attributes)

    def _authorize_in_mode(self, mode: _Mode, impersonated: User, attributes: Attributes) -> User:
        caller = mode.caller(attributes.user)
        if mode.constrained:
            verb = f"impersonate-on:{mode.name}:{attributes.verb}"
            self._require(structs.replace(attributes, user=caller, verb=verb))
        checks = _IdentityChecks(mode, caller, self._require)
        groups = checks.check_name(impersonated)
        checks.check_uid(impersonated.uid)
        checks.check_groups(impersonated.groups)
        checks.check_extra(impersonated.extra)
        return _with_groups(impersonated, groups)

    def _require(self, attributes: Attributes) -> None:
        decision = self._authorize(attributes)
        if not decision.allowed:
            raise rbac.refusal(attributes, decision.reason)


def _with_groups(impersonated: User, groups: tuple[str, ...]) -> User:
    """The impersonated user with these groups, and system:authenticated or system:unauthenticated."""
    if impersonated.name == context.ANONYMOUS.name:
        implied = authn.UNAUTHENTICATED
    elif authn.UNAUTHENTICATED in groups:
        return dataclasses.replace(impersonated, groups=groups)
    else:
        implied = authn.AUTHENTICATED
    return dataclasses.replace(impersonated, groups=groups if implied in groups else (*groups, implied))


@dataclasses.dataclass(frozen=True, slots=True)
class _Mode:
    """A mode of impersonation. `applies` gets the impersonated user and the caller."""

    name: str
    applies: Callable[[User, User], bool]
    constrained: bool = True
    any_node: bool = False

    @property
    def verb(self) -> str:
        return f"impersonate:{self.name}" if self.constrained else "impersonate"

    def caller(self, user: User) -> User:
        """The caller as the authorizer sees it in this mode."""
        if not self.any_node:
            return user
        return dataclasses.replace(user, extra={_ASSOCIATED: tuple(sorted(user.extra))})


class _IdentityChecks:
    """The permissions that a caller needs for each part of the impersonated identity."""

    def __init__(self, mode: _Mode, caller: User, require: Callable[[Attributes], None]) -> None:
        self._mode = mode
        self._caller = caller
        self._require = require

    def _attributes(self, group: str, resource: str, name: str) -> Attributes:
        return Attributes(self._caller, self._mode.verb, group=group, version="v1", resource=resource, name=name)

    @property
    def _name_group(self) -> str:
        return _GROUP if self._mode.constrained else ""

    def check_name(self, impersonated: User) -> tuple[str, ...]:
        """Check the user name. Returns the groups of the user: those in the headers, or those that the name implies."""
        attributes = self._attributes(self._name_group, "users", impersonated.name)
        groups = impersonated.groups
        node, account = _node(impersonated.name), _service_account(impersonated.name)
        if self._mode.constrained and node:
            name = "*" if self._mode.any_node else node
            attributes = structs.replace(attributes, resource="nodes", name=name)
            groups = (_NODES,)
        if account is not None:
            namespace, name = account
            attributes = structs.replace(attributes, resource="serviceaccounts", namespace=namespace, name=name)
            groups = groups or ("system:serviceaccounts", f"system:serviceaccounts:{namespace}")
        self._require(attributes)
        return groups

    def check_uid(self, uid: str) -> None:
        if uid:
            self._require(self._attributes(_GROUP, "uids", uid))

    def check_groups(self, groups: Sequence[str]) -> None:
        if self._mode.constrained and groups:
            attributes = self._attributes(self._name_group, "groups", "")
            if "" in groups:
                raise rbac.refusal(attributes, "impersonating the empty string group is not allowed")
            if rbac.MASTERS in groups:
                attributes = structs.replace(attributes, name=rbac.MASTERS)
                raise rbac.refusal(attributes, "impersonating the system:masters group is not allowed")
            if len(groups) >= _MANY and self._is_allowed(structs.replace(attributes, name="*")):
                return
        for group in groups:
            self._require(self._attributes(self._name_group, "groups", group))

    def check_extra(self, extra: Mapping[str, Sequence[str]]) -> None:
        attributes = self._attributes(_GROUP, "userextras", "")
        if self._mode.constrained:
            problem = _extra_problem(extra)
            if problem:
                raise rbac.refusal(attributes, problem)
            many = len(extra) >= _MANY or sum(map(len, extra.values())) >= _MANY
            if many and self._is_allowed(structs.replace(attributes, subresource="*", name="*")):
                return
        for key, values in sorted(extra.items()):
            for value in values:
                self._require(structs.replace(attributes, subresource=key, name=value))

    def _is_allowed(self, attributes: Attributes) -> bool:
        try:
            self._require(attributes)
        except errors.Forbidden:
            return False
        return True


def _extra_problem(extra: Mapping[str, Sequence[str]]) -> str:
    for key, values in sorted(extra.items()):
        if not key:
            return "impersonating the empty string key in extra is not allowed"
        problems = _extra_key_problems(key)
        if problems:
            return f"impersonating an invalid key in extra is not allowed: {rbac.aggregate(list(map(str, problems)))}"
        if key != key.lower():
            return f"impersonating a non-lowercase key in extra is not allowed: {formatting.quote(key)}"
        if "" in values:
            return "impersonating the empty string value in extra is not allowed"
    return ""


def _extra_key_problems(key: str) -> list[errors.FieldProblem]:
    """What is wrong with an extra key, which has to be a domain and a path."""
    host, _, path = key.partition("/")
    if not host or not path:
        return [errors.invalid("extra.key", key, 'must be a domain-prefixed path (such as "acme.io/foo")')]
    problems = [errors.invalid("extra.key", host, why) for why in names.dns1123_subdomain_problems(host)]
    if re.fullmatch(_PATH, path) is None:
        problems.append(errors.invalid("extra.key", path, f"Invalid path (regex used for validation is '{_PATH}')"))
    return problems


def _node(name: str) -> str:
    """The node name in a node's user name; empty if it is another user name."""
    node = name.removeprefix(_NODE)
    return node if node != name and not names.dns1123_subdomain_problems(node) else ""


def _service_account(name: str) -> tuple[str, str] | None:
    """Namespace and name in a service account's user name; None if it is another user name."""
    parts = name.split(":")
    if len(parts) != 4 or parts[:2] != ["system", "serviceaccount"]:
        return None
    if names.dns1123_label_problems(parts[2]) or names.dns1123_subdomain_problems(parts[3]):
        return None
    return parts[2], parts[3]


def _has_name_only(user: User) -> bool:
    return not (user.uid or user.groups or user.extra)


def _is_associated_node(impersonated: User, caller: User) -> bool:
    """Whether the user is the node that the caller's service account token is bound to."""
    node = _node(impersonated.name)
    is_account = _service_account(caller.name) is not None
    return bool(node) and _has_name_only(impersonated) and is_account and caller.extra.get(_NODE_NAME) == (node,)


_MODES: Final = (
    _Mode("associated-node", _is_associated_node, any_node=True),
    _Mode("arbitrary-node", lambda user, _: _has_name_only(user) and bool(_node(user.name))),
    _Mode("serviceaccount", lambda user, _: _has_name_only(user) and _service_account(user.name) is not None),
    _Mode("user-info", lambda user, _: not _node(user.name) and _service_account(user.name) is None),
    _Mode("legacy", lambda _, __: True, constrained=False),
)
