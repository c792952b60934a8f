"""Who may approve or sign a request, and by which roles, from the RBAC objects of a server.

Approving takes two permissions: `update` on the subresource `/approval`, and `approve` on the signer. They may come
from two roles; who has only one of them is listed apart, because that is a frequent mistake. Signing takes `update` on
`/status` and `sign` on the signer.

What is not known: members of groups, other authorizers of the server (Node, webhooks), and `system:masters`, which
every server allows everything.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Final

from certplane.access import rbac as authorization
from certplane.access.rbac import CompiledRule
from certplane.client import permissions
from certplane.explain.facts import Roles
from certplane.meta.context import Attributes, User
from certplane.resources import certificatesigningrequests as csrs
from certplane.resources import rbac

_GROUP: Final = csrs.RESOURCE.group
_PLURAL: Final = csrs.RESOURCE.plural
_NOBODY: Final = User("")
MASTERS: Final = authorization.MASTERS
#: The roles of the controllers of Kubernetes and of certplane.
_CONTROLLER_ROLES: Final = ("system:controller:", "certplane:")
#: The verbs on a signer, and the subresource that each of them is about.
SUBRESOURCES: Final = {"approve": "approval", "sign": "status"}


@dataclasses.dataclass(frozen=True, slots=True)
class Grant:
    """A binding and its role."""

    binding: str
    role: str
    #: Whether the rule names the signer, or its domain: `*` is granted to administrators, not to controllers.
    is_specific: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Holder:
    """A subject with one or both of the permissions, and what grants them; None for one that it does not have."""

    kind: str
    name: str
    subresource: Grant | None
    signer: Grant | None

    @property
    def is_complete(self) -> bool:
        return self.subresource is not None and self.signer is not None


def find_holders(roles: Roles, verb: str, signer: str, name: str) -> Sequence[Holder]:
    """The subjects of ClusterRoleBindings with permissions to approve or sign (`verb`) the request called `name`, those
    with both first. Those of every server are left out: system:masters, and controllers with half of the permissions.
    """
    subresource: dict[tuple[str, str], Grant] = {}
    on_signer: dict[tuple[str, str], Grant] = {}
    tests = _Tests(verb, signer, name)
    rules = {role.metadata.name: _relevant_rules(role) for role in roles.cluster_roles}
    for binding in roles.bindings:
        ref = binding.role_ref
        granted = tests.of_role(rules.get(ref.name, ())) if ref.kind == "ClusterRole" else _NOTHING
        grant = Grant(binding.metadata.name, ref.name, granted.is_specific)
        for key in _subject_keys(binding.subjects) if granted != _NOTHING else ():
            if granted.has_subresource:
                subresource.setdefault(key, grant)
            # A rule that names the signer says more than one for all signers.
            if granted.has_signer and (key not in on_signer or grant.is_specific):
                on_signer[key] = grant
    holders = [
        Holder(kind, subject, subresource.get((kind, subject)), grant) for (kind, subject), grant in on_signer.items()
    ]
    if verb == "approve":
        holders += [Holder(*key, grant, None) for key, grant in subresource.items() if key not in on_signer]
    holders = [holder for holder in holders if not _is_default(holder)]
    return sorted(holders, key=lambda holder: (not holder.is_complete, holder.kind, holder.name))


def _is_default(holder: Holder) -> bool:
    """Whether a holder is one of every server: system:masters, and controllers that may update every subresource."""
    if (holder.kind, holder.name) == ("Group", MASTERS):
        return True
    grants = (holder.subresource, holder.signer)
    is_controllers = all(grant is None or grant.role.startswith(_CONTROLLER_ROLES) for grant in grants)
    return is_controllers and not holder.is_complete


def _relevant_rules(role: rbac.ClusterRole) -> Sequence[CompiledRule]:
    """Those that may be about requests and signers: a cluster has thousands of others."""
    return [CompiledRule(rule) for rule in role.rules or () if _GROUP in rule.api_groups or "*" in rule.api_groups]


@dataclasses.dataclass(frozen=True, slots=True)
class _Granted:
    """What a role grants of the two permissions."""

    has_subresource: bool = False
    has_signer: bool = False
    is_specific: bool = False


_NOTHING: Final = _Granted()


class _Tests:
    """The attributes of the two permissions."""

    def __init__(self, verb: str, signer: str, name: str) -> None:
        subresource = SUBRESOURCES[verb]
        self._subresource = Attributes(
            _NOBODY, "update", _GROUP, "v1", resource=_PLURAL, subresource=subresource, name=name
        )
        self._names = (signer, f"{signer.partition('/')[0]}/*")
        self._signers = [Attributes(_NOBODY, verb, _GROUP, "*", resource="signers", name=text) for text in self._names]

    def of_role(self, rules: Sequence[CompiledRule]) -> _Granted:
        on_signer = [rule for rule in rules if any(map(rule.allows, self._signers))]
        return _Granted(
            any(rule.allows(self._subresource) for rule in rules),
            bool(on_signer),
            any(rule.names for rule in on_signer),
        )


def _subject_keys(subjects: Sequence[rbac.Subject]) -> Iterator[tuple[str, str]]:
    for subject in subjects:
        if subject.kind == "ServiceAccount":
            yield subject.kind, f"{subject.namespace}/{subject.name}"
        else:
            yield subject.kind, subject.name


def missing_rules(verb: str, signer: str, *, has_subresource: bool, has_signer: bool) -> Sequence[str]:
    """The rules of a ClusterRole that are missing to approve or sign, as lines of YAML."""
    rules = []
    if not has_subresource:
        resource = f"{_PLURAL}/{SUBRESOURCES[verb]}"
        rules.append(f"- {{apiGroups: ['{_GROUP}'], resources: [{resource}], verbs: [update]}}")
    if not has_signer:
        rules.append(permissions.signer_rule(verb, signer))
    return rules


def is_administrator(holder: Holder) -> bool:
    """Whether a holder has the permission as one of all permissions, and not for this purpose."""
    return holder.signer is not None and not holder.signer.is_specific
