"""Acting as somebody else: `kubectl --as`, each part of whom is a right of its own.

Five modes are tried in their order; the first that allows wins, and if none does, the first refusal is the answer. Four
are constrained: one right says whom (`impersonate:MODE` on the identity), another what may be done meanwhile
(`impersonate-on:MODE:VERB` on what the request is about). The last is the old one, where `impersonate` allows
everything that the other may do. The mode that worked last for somebody is tried first, as it will work again.

Source: KEP-5284; `k8s.io/apiserver/pkg/endpoints/filters/impersonation`.
"""

from __future__ import annotations

import dataclasses
import re
import urllib.parse
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from msgspec import structs

from certplane import boundedcache, errors, gotext
from certplane.access import authn, rbac
from certplane.meta import context, names

PREFIX: Final = b"impersonate-"
_EXTRA_PREFIX: Final = "impersonate-extra-"
_GROUP: Final = "authentication.k8s.io"
_NODE: Final = "system:node:"
_NODES: Final = "system:nodes"
_NODE_NAME: Final = "authentication.kubernetes.io/node-name"
_ASSOCIATED: Final = "authentication.kubernetes.io/associated-node-keys"
#: From so many groups or extra values on, one question about all of them comes first.
_MANY: Final = 4
_PATH: Final = r"[A-Za-z0-9/\-._~%!$&'()*+,;=:]+"

#: Fields that may be there once.
_SINGLE: Final = {"impersonate-user": "Impersonate-User", "impersonate-uid": "Impersonate-Uid"}

Authorize = Callable[[context.Attributes], rbac.Decision]


def requested(headers: Iterable[tuple[bytes, bytes]]) -> context.User | None:
    """Whom the header fields ask to act as, as they say it; None if nobody. Raises BadRequest.

    Of several names Kubernetes takes the first, and an empty one for none, so that the request is done with the rights
    of the one who asks. What a proxy has looked at may be another one: nothing is guessed here.
    """
    single: dict[str, str] = {}
    groups: list[str] = []
    extra: dict[str, list[str]] = {}
    asked = False
    for raw_field, raw_value in headers:
        if not raw_field.startswith(PREFIX):
            continue
        field, value = raw_field.decode("latin-1"), raw_value.strip(b" \t").decode("utf-8", "replace")
        if field in _SINGLE:
            if field in single:
                raise errors.BadRequest(f"the header {_SINGLE[field]} is there more than once")
            single[field] = value
        elif field == "impersonate-group":
            asked = True
            groups.append(value)
        elif field.startswith(_EXTRA_PREFIX):
            asked = True
            extra.setdefault(urllib.parse.unquote(field.removeprefix(_EXTRA_PREFIX)), []).append(value)
    name, uid = single.get("impersonate-user"), single.get("impersonate-uid", "")
    if name == "":
        raise errors.BadRequest("the header Impersonate-User is empty: there is no user to act as")
    if not (name or asked or uid):
        return None
    wanted = context.User(name or "", uid, tuple(groups), {key: tuple(values) for key, values in extra.items()})
    if not name:
        raise errors.BadRequest(f"requested {_go_user(wanted)} without impersonating a user name")
    return wanted


def _go_user(of: context.User) -> str:
    def strings(values: Sequence[str]) -> str:
        return "[]string{" + ", ".join(map(gotext.quote, values)) + "}" if values else "[]string(nil)"

    extra = "map[string][]string(nil)"
    if of.extra:
        pairs = (f"{gotext.quote(key)}:{strings(values)}" for key, values in sorted(of.extra.items()))
        extra = "map[string][]string{" + ", ".join(pairs) + "}"
    name, uid = gotext.quote(of.name), gotext.quote(of.uid)
    return f"&user.DefaultInfo{{Name:{name}, UID:{uid}, Groups:{strings(of.groups)}, Extra:{extra}}}"


class Impersonation:
    """Judges who may act as whom."""

    def __init__(self, authorize: Authorize) -> None:
        self._authorize = authorize
        self._worked: boundedcache.BoundedCache[_Mode] = boundedcache.BoundedCache()

    def judge(self, wanted: context.User, of: context.Attributes) -> tuple[context.User, str]:
        """The user to go on as, for a request `of` the one who asks, and the constrained right that allows it (empty
        for the unconstrained one). Raises Forbidden.
        """
        last = self._worked.get(of.user.name)
        order = [*((last,) if last is not None else ()), *(mode for mode in _MODES if mode is not last)]
        first: errors.Forbidden | None = None
        for mode in order:
            if not mode.applies(wanted, of.user):
                continue
            try:
                user = self._try(mode, wanted, of)
            except errors.Forbidden as error:
                first = first or error
                continue
            self._worked.put(of.user.name, mode, len(of.user.name))
            return user, mode.verb if mode.constrained else ""
        # The last mode applies to everybody, so there is a refusal by now.
        raise first if first is not None else rbac.refusal(of)

    def _try(self, mode: _Mode, wanted: context.User, of: context.Attributes) -> context.User:
        asker = mode.asker(of.user)
        if mode.constrained:
            self._require(structs.replace(of, user=asker, verb=f"impersonate-on:{mode.name}:{of.verb}"))
        questions = _Questions(mode, asker, self._require)
        groups = questions.name(wanted)
        questions.uid(wanted.uid)
        questions.groups(wanted.groups)
        questions.extras(wanted.extra)
        return _completed(wanted, groups)

    def _require(self, of: context.Attributes) -> None:
        decision = self._authorize(of)
        if not decision.allowed:
            raise rbac.refusal(of, decision.reason)


def _completed(wanted: context.User, groups: tuple[str, ...]) -> context.User:
    if wanted.name == context.ANONYMOUS.name:
        implied = authn.UNAUTHENTICATED
    elif authn.UNAUTHENTICATED in groups:
        return dataclasses.replace(wanted, groups=groups)
    else:
        implied = authn.AUTHENTICATED
    return dataclasses.replace(wanted, groups=groups if implied in groups else (*groups, implied))


@dataclasses.dataclass(frozen=True, slots=True)
class _Mode:
    """A way to be allowed. `asker` gives what of the one who asks is shown to the authorizer."""

    name: str
    applies: Callable[[context.User, context.User], bool]
    constrained: bool = True
    any_node: bool = False

    @property
    def verb(self) -> str:
        return f"impersonate:{self.name}" if self.constrained else "impersonate"

    def asker(self, user: context.User) -> context.User:
        if not self.any_node:
            return user
        return dataclasses.replace(user, extra={_ASSOCIATED: tuple(sorted(user.extra))})


class _Questions:
    """What the one who asks has to be allowed, part by part of the one who is asked for."""

    def __init__(self, mode: _Mode, asker: context.User, require: Callable[[context.Attributes], None]) -> None:
        self._mode = mode
        self._asker = asker
        self._require = require

    def _attributes(self, group: str, resource: str, name: str) -> context.Attributes:
        return context.Attributes(self._asker, self._mode.verb, group=group, version="v1", resource=resource, name=name)

    @property
    def _name_group(self) -> str:
        return _GROUP if self._mode.constrained else ""

    def name(self, wanted: context.User) -> tuple[str, ...]:
        """Ask for the name; the groups that go with it."""
        question = self._attributes(self._name_group, "users", wanted.name)
        groups = wanted.groups
        node, account = _node(wanted.name), _service_account(wanted.name)
        if self._mode.constrained and node:
            name = "*" if self._mode.any_node else node
            question = structs.replace(question, resource="nodes", name=name)
            groups = (_NODES,)
        if account is not None:
            namespace, name = account
            question = structs.replace(question, resource="serviceaccounts", namespace=namespace, name=name)
            groups = groups or ("system:serviceaccounts", f"system:serviceaccounts:{namespace}")
        self._require(question)
        return groups

    def uid(self, uid: str) -> None:
        if uid:
            self._require(self._attributes(_GROUP, "uids", uid))

    def groups(self, wanted: Sequence[str]) -> None:
        if self._mode.constrained and wanted:
            question = self._attributes(self._name_group, "groups", "")
            if "" in wanted:
                raise rbac.refusal(question, "impersonating the empty string group is not allowed")
            if rbac.MASTERS in wanted:
                question = structs.replace(question, name=rbac.MASTERS)
                raise rbac.refusal(question, "impersonating the system:masters group is not allowed")
            if len(wanted) >= _MANY and self._allowed(structs.replace(question, name="*")):
                return
        for group in wanted:
            self._require(self._attributes(self._name_group, "groups", group))

    def extras(self, wanted: Mapping[str, Sequence[str]]) -> None:
        question = self._attributes(_GROUP, "userextras", "")
        if self._mode.constrained:
            problem = _extra_problem(wanted)
            if problem:
                raise rbac.refusal(question, problem)
            many = len(wanted) >= _MANY or sum(map(len, wanted.values())) >= _MANY
            if many and self._allowed(structs.replace(question, subresource="*", name="*")):
                return
        for key, values in sorted(wanted.items()):
            for value in values:
                self._require(structs.replace(question, subresource=key, name=value))

    def _allowed(self, question: context.Attributes) -> bool:
        try:
            self._require(question)
        except errors.Forbidden:
            return False
        return True


def _extra_problem(wanted: Mapping[str, Sequence[str]]) -> str:
    for key, values in sorted(wanted.items()):
        if not key:
            return "impersonating the empty string key in extra is not allowed"
        problems = _extra_key_problems(key)
        if problems:
            return f"impersonating an invalid key in extra is not allowed: {rbac.aggregate(list(map(str, problems)))}"
        if key != key.lower():
            return f"impersonating a non-lowercase key in extra is not allowed: {gotext.quote(key)}"
        if "" in values:
            return "impersonating the empty string value in extra is not allowed"
    return ""


def _extra_key_problems(key: str) -> list[errors.FieldProblem]:
    """What is wrong with a key that should be a domain and a path."""
    host, _, path = key.partition("/")
    if not host or not path:
        return [errors.invalid("extra.key", key, 'must be a domain-prefixed path (such as "acme.io/foo")')]
    problems = [errors.invalid("extra.key", host, why) for why in names.dns1123_subdomain_problems(host)]
    if re.fullmatch(_PATH, path) is None:
        problems.append(errors.invalid("extra.key", path, f"Invalid path (regex used for validation is '{_PATH}')"))
    return problems


def _node(name: str) -> str:
    """The node whose user name this is; empty if it is none."""
    node = name.removeprefix(_NODE)
    return node if node != name and not names.dns1123_subdomain_problems(node) else ""


def _service_account(name: str) -> tuple[str, str] | None:
    """Namespace and name of the service account whose user name this is."""
    parts = name.split(":")
    if len(parts) != 4 or parts[:2] != ["system", "serviceaccount"]:
        return None
    if names.dns1123_label_problems(parts[2]) or names.dns1123_subdomain_problems(parts[3]):
        return None
    return parts[2], parts[3]


def _only_name(wanted: context.User) -> bool:
    return not (wanted.uid or wanted.groups or wanted.extra)


def _is_own_node(wanted: context.User, asker: context.User) -> bool:
    node = _node(wanted.name)
    is_account = _service_account(asker.name) is not None
    return bool(node) and _only_name(wanted) and is_account and asker.extra.get(_NODE_NAME) == (node,)


_MODES: Final = (
    _Mode("associated-node", _is_own_node, any_node=True),
    _Mode("arbitrary-node", lambda wanted, _: _only_name(wanted) and bool(_node(wanted.name))),
    _Mode("serviceaccount", lambda wanted, _: _only_name(wanted) and _service_account(wanted.name) is not None),
    _Mode("user-info", lambda wanted, _: not _node(wanted.name) and _service_account(wanted.name) is None),
    _Mode("legacy", lambda _, __: True, constrained=False),
)
