"""The default roles and bindings of a Kubernetes control plane, and their reconciliation at each start.

The tables are data: names, rules, subjects. `ensure` creates missing objects and restores removed rules and subjects,
once at each start. It keeps what users added, and skips objects with the annotation
`rbac.authorization.kubernetes.io/autoupdate: "false"`. Source: kubernetes,
`plugin/pkg/auth/authorizer/rbac/bootstrappolicy`, `k8s.io/component-helpers/auth/rbac/reconciliation`; kubeadm for the
bindings that are called kubeadm:*.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from typing import Final, TypeVar

from certplane import signernames
from certplane.access import escalation
from certplane.meta import objects
from certplane.meta.objects import Object
from certplane.meta.resource import AnyObject
from certplane.resources import namespaces, rbac
from certplane.wire import codec

AUTOUPDATE: Final = "rbac.authorization.kubernetes.io/autoupdate"
_LABELS: Final = {"kubernetes.io/bootstrapping": "rbac-defaults"}
_AGGREGATE: Final = "rbac.authorization.k8s.io/aggregate-to-"

NAMESPACES: Final = ("default", "kube-node-lease", "kube-public", "kube-system")

_CERTIFICATES: Final = "certificates.k8s.io"
_CSRS: Final = "certificatesigningrequests"
_AUTHORIZATION: Final = "authorization.k8s.io"
_AUTHENTICATION: Final = "authentication.k8s.io"
_COORDINATION: Final = "coordination.k8s.io"
_READ: Final = ("get", "list", "watch")
_WRITE: Final = ("create", "delete", "deletecollection", "patch", "update")
_ALL_EIGHT: Final = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")


def _rule(
    verbs: Iterable[str], group: str | Iterable[str], *resources: str, names: Iterable[str] = ()
) -> rbac.PolicyRule:
    groups = [group] if isinstance(group, str) else sorted(group)
    return rbac.PolicyRule(
        verbs=sorted(verbs), api_groups=groups, resources=sorted(resources), resource_names=sorted(names)
    )


def _paths(*paths: str) -> rbac.PolicyRule:
    return rbac.PolicyRule(verbs=["get"], non_resource_urls=sorted(paths))


_EVENT_GROUPS: Final = ("", "events.k8s.io")
_EVENTS: Final = _rule(("create", "patch", "update"), _EVENT_GROUPS, "events")
_Rules = tuple[rbac.PolicyRule, ...]

# --- cluster roles ------------------------------------------------------------------------------------------------

_ROLES: Final[Mapping[str, _Rules]] = {
    "cluster-admin": (
        rbac.PolicyRule(verbs=["*"], api_groups=["*"], resources=["*"]),
        rbac.PolicyRule(verbs=["*"], non_resource_urls=["*"]),
    ),
    "system:discovery": (
        _paths(
            "/api", "/api/*", "/apis", "/apis/*", "/healthz", "/livez", "/openapi", "/openapi/*", "/readyz",
            "/version", "/version/",
        ),
    ),
    "system:public-info-viewer": (_paths("/healthz", "/livez", "/readyz", "/version", "/version/"),),
    "system:basic-user": (
        _rule(("create",), _AUTHORIZATION, "selfsubjectaccessreviews", "selfsubjectrulesreviews"),
        _rule(("create",), _AUTHENTICATION, "selfsubjectreviews"),
    ),
    "system:monitoring": (
        _paths(
            "/flagz", "/healthz", "/healthz/*", "/livez", "/livez/*", "/metrics", "/metrics/slis", "/readyz",
            "/readyz/*", "/statusz",
        ),
        _rule(("get",), "", "nodes/metrics"),
    ),
    "system:service-account-issuer-discovery": (
        _paths(
            "/.well-known/openid-configuration", "/.well-known/openid-configuration/", "/openid/v1/jwks",
            "/openid/v1/jwks/",
        ),
    ),
    "system:kube-controller-manager": (
        _EVENTS,
        _rule(("create",), _COORDINATION, "leases"),
        _rule(("get", "update"), _COORDINATION, "leases", names=("kube-controller-manager",)),
        _rule(("create",), "", "secrets", "serviceaccounts"),
        _rule(("delete",), "", "secrets"),
        _rule(("get",), "", "configmaps", "namespaces", "secrets", "serviceaccounts"),
        _rule(("update",), "", "secrets", "serviceaccounts"),
        _rule(("create",), _AUTHENTICATION, "tokenreviews"),
        _rule(("create",), _AUTHORIZATION, "subjectaccessreviews"),
        _rule(("list", "watch"), "*", "*"),
        _rule(("create",), "", "serviceaccounts/token"),
    ),
    "system:node-proxier": (
        _rule(("list", "watch"), "", "endpoints", "services"),
        _rule(_READ, "", "nodes"),
        _EVENTS,
        _rule(("list", "watch"), "networking.k8s.io", "servicecidrs"),
        _rule(("list", "watch"), "discovery.k8s.io", "endpointslices"),
    ),
    "system:kube-dns": (_rule(("list", "watch"), "", "endpoints", "services"),),
    "system:node-bootstrapper": (_rule(("create", *_READ), _CERTIFICATES, _CSRS),),
    f"system:{_CERTIFICATES}:{_CSRS}:nodeclient": (_rule(("create",), _CERTIFICATES, f"{_CSRS}/nodeclient"),),
    f"system:{_CERTIFICATES}:{_CSRS}:selfnodeclient": (_rule(("create",), _CERTIFICATES, f"{_CSRS}/selfnodeclient"),),
    **{
        f"system:{_CERTIFICATES}:{name.partition('/')[2]}-approver": (
            _rule(("approve",), _CERTIFICATES, "signers", names=(name,)),
        )
        for name in signernames.BUILT_IN
    },
    "system:auth-delegator": (
        _rule(("create",), _AUTHENTICATION, "tokenreviews"),
        _rule(("create",), _AUTHORIZATION, "subjectaccessreviews"),
    ),
    "system:kubelet-api-admin": (
        _rule(_READ, "", "nodes"),
        _rule(("proxy",), "", "nodes"),
        _rule(("*",), "", "nodes/log", "nodes/metrics", "nodes/proxy", "nodes/stats"),
        _rule(("*",), "", "nodes/configz", "nodes/healthz", "nodes/pods"),
    ),
    "system:node": (
        _rule(("create",), _AUTHENTICATION, "tokenreviews"),
        _rule(("create",), _AUTHORIZATION, "localsubjectaccessreviews", "subjectaccessreviews"),
        _rule(_READ, "", "services"),
        _rule(("create", *_READ), "", "nodes"),
        _rule(("patch", "update"), "", "nodes/status"),
        _rule(("patch", "update"), "", "nodes"),
        _EVENTS,
        _rule(_READ, "", "pods"),
        _rule(("create", "delete"), "", "pods"),
        _rule(("patch", "update"), "", "pods/status"),
        _rule(("create",), "", "pods/eviction"),
        _rule(_READ, "", "configmaps", "secrets"),
        _rule(("get",), "", "persistentvolumeclaims", "persistentvolumes"),
        _rule(("get",), "", "endpoints"),
        _rule(("create", *_READ), _CERTIFICATES, _CSRS),
        _rule(("create", "delete", "get", "patch", "update"), _COORDINATION, "leases"),
        _rule(("get",), "storage.k8s.io", "volumeattachments"),
        _rule(("create",), "", "serviceaccounts/token"),
        _rule(("get", "patch", "update"), "", "persistentvolumeclaims/status"),
        _rule(_READ, "storage.k8s.io", "csidrivers"),
        _rule(("create", "delete", "get", "patch", "update"), "storage.k8s.io", "csinodes"),
        _rule(_READ, "node.k8s.io", "runtimeclasses"),
        _rule(("get",), "resource.k8s.io", "resourceclaims"),
        _rule(("deletecollection",), "resource.k8s.io", "resourceslices"),
    ),
}  # fmt: skip

_AGGREGATED: Final = ("admin", "edit", "view")
#: Includes rules for kinds that this server does not serve: the roles are those of any cluster, and a
#: SubjectAccessReview about another server's kinds gets the same answer.
_WORKLOADS: Final = (
    "daemonsets",
    "deployments",
    "deployments/scale",
    "replicasets",
    "replicasets/scale",
)
_NETWORK: Final = ("ingresses", "networkpolicies")
_USER_ROLES: Final[Mapping[str, _Rules]] = {
    "view": (
        _rule(
            _READ, "", "configmaps", "endpoints", "persistentvolumeclaims", "persistentvolumeclaims/status", "pods",
            "replicationcontrollers", "replicationcontrollers/scale", "serviceaccounts", "services", "services/status",
        ),
        _rule(
            _READ, "", "bindings", "limitranges", "namespaces/status", "pods/log", "pods/status",
            "replicationcontrollers/status", "resourcequotas", "resourcequotas/status",
        ),
        _rule(_READ, "", "namespaces"),
        _rule(_READ, _EVENT_GROUPS, "events"),
        _rule(_READ, "discovery.k8s.io", "endpointslices"),
        _rule(
            _READ, "apps", *_WORKLOADS, "controllerrevisions", "daemonsets/status", "deployments/status",
            "replicasets/status", "statefulsets", "statefulsets/scale", "statefulsets/status",
        ),
        _rule(_READ, "autoscaling", "horizontalpodautoscalers", "horizontalpodautoscalers/status"),
        _rule(_READ, "batch", "cronjobs", "cronjobs/status", "jobs", "jobs/status"),
        _rule(
            _READ, "extensions", *_WORKLOADS, *_NETWORK, "daemonsets/status", "deployments/status", "ingresses/status",
            "replicasets/status", "replicationcontrollers/scale",
        ),
        _rule(_READ, "policy", "poddisruptionbudgets", "poddisruptionbudgets/status"),
        _rule(_READ, "networking.k8s.io", *_NETWORK, "ingresses/status"),
        _rule(_READ, "resource.k8s.io", "resourceclaims", "resourceclaims/status", "resourceclaimtemplates"),
    ),
    "edit": (
        _rule(
            _READ, "", "pods/attach", "pods/exec", "pods/portforward", "pods/proxy", "secrets", "services/proxy",
        ),
        _rule(("impersonate",), "", "serviceaccounts"),
        _rule(_WRITE, "", "pods", "pods/attach", "pods/exec", "pods/portforward", "pods/proxy"),
        _rule(("create",), "", "pods/eviction"),
        _rule(
            _WRITE, "", "configmaps", "persistentvolumeclaims", "replicationcontrollers",
            "replicationcontrollers/scale", "secrets", "serviceaccounts", "services", "services/proxy",
        ),
        _rule(("create",), "", "serviceaccounts/token"),
        _rule(_WRITE, _EVENT_GROUPS, "events"),
        _rule(_WRITE, "apps", *_WORKLOADS, "deployments/rollback", "statefulsets", "statefulsets/scale"),
        _rule(_WRITE, "autoscaling", "horizontalpodautoscalers"),
        _rule(_WRITE, "batch", "cronjobs", "jobs"),
        _rule(
            _WRITE, "extensions", *_WORKLOADS, *_NETWORK, "deployments/rollback", "replicationcontrollers/scale",
        ),
        _rule(_WRITE, "policy", "poddisruptionbudgets"),
        _rule(_WRITE, "networking.k8s.io", *_NETWORK),
        _rule(_ALL_EIGHT, _COORDINATION, "leases"),
        _rule(_WRITE, "resource.k8s.io", "resourceclaims", "resourceclaimtemplates"),
    ),
    "admin": (
        _rule(("create",), _AUTHORIZATION, "localsubjectaccessreviews"),
        _rule(_ALL_EIGHT, rbac.GROUP, "rolebindings", "roles"),
    ),
}  # fmt: skip

_CONTROLLERS: Final[Mapping[str, _Rules]] = {
    "certificate-controller": (
        _rule(("delete", *_READ), _CERTIFICATES, _CSRS),
        _rule(("update",), _CERTIFICATES, f"{_CSRS}/approval", f"{_CSRS}/status"),
        _rule(("approve",), _CERTIFICATES, "signers", names=(signernames.KUBE_APISERVER_CLIENT_KUBELET,)),
        _rule(("sign",), _CERTIFICATES, "signers", names=signernames.BUILT_IN),
        _rule(("create",), _AUTHORIZATION, "subjectaccessreviews"),
        _EVENTS,
    ),
    "root-ca-cert-publisher": (_rule(("create", "update"), "", "configmaps"), _EVENTS),
    "clusterrole-aggregation-controller": (
        _rule(("escalate", "get", "list", "patch", "update", "watch"), rbac.GROUP, "clusterroles"),
    ),
    "service-account-controller": (_rule(("create",), "", "serviceaccounts"), _EVENTS),
    "legacy-service-account-token-cleaner": (
        _rule(("get",), "", "configmaps", names=("kube-apiserver-legacy-service-account-token-tracking",)),
        _rule(("delete", "patch"), "", "secrets"),
    ),
    "namespace-controller": (
        _rule(("delete", *_READ), "", "namespaces"),
        _rule(("update",), "", "namespaces/finalize", "namespaces/status"),
        _rule(("delete", "deletecollection", *_READ), "*", "*"),
    ),
    "generic-garbage-collector": (_rule(("delete", "get", "list", "patch", "update", "watch"), "*", "*"), _EVENTS),
}

#: Roles for kinds that are off by default, by the plural of the kind.
_OPTIONAL: Final[Mapping[str, Mapping[str, _Rules]]] = {
    "clustertrustbundles": {
        "system:cluster-trust-bundle-discovery": (_rule(_READ, _CERTIFICATES, "clustertrustbundles"),),
    },
    # The answer has nothing that the warnings at the creation of a request do not have.
    "signingpreviews": {
        "certplane:signing-previews": (_rule(("create",), "explain.certplane.io", "signingpreviews"),),
    },
}
#: Service accounts of the controllers for such kinds, by the plural of the kind.
_OPTIONAL_CONTROLLERS: Final[Mapping[str, Mapping[str, _Rules]]] = {
    "clustertrustbundles": {
        "kube-apiserver-serving-clustertrustbundle-publisher": (
            _rule(("attest",), _CERTIFICATES, "signers", names=("kubernetes.io/kube-apiserver-serving",)),
            _rule(("create", "update", "delete", "list", "watch"), _CERTIFICATES, "clustertrustbundles"),
            _EVENTS,
        ),
    },
    "podcertificaterequests": {
        "podcertificaterequestcleaner": (_rule(("delete", *_READ), _CERTIFICATES, "podcertificaterequests"),),
    },
}
_OPTIONAL_NAMES: Final = frozenset(name for roles in _OPTIONAL.values() for name in roles)

_NODE: Final = "system:node"


def node_rules(kinds: Collection[str]) -> _Rules:
    """What the node authorizer grants to every node, without a binding, where `kinds` (plurals) are served."""
    rules = [*_ROLES[_NODE]]
    if "clustertrustbundles" in kinds:
        rules.append(_rule(_READ, _CERTIFICATES, "clustertrustbundles"))
    rules.append(_rule(("get",), "", "serviceaccounts"))
    if "podcertificaterequests" in kinds:
        rules.append(_rule(("create", *_READ), _CERTIFICATES, "podcertificaterequests"))
    return tuple(rules)


#: Bindings that have the name of their ClusterRole: users and groups.
_BINDINGS: Final[Mapping[str, tuple[tuple[str, str], ...]]] = {
    "cluster-admin": (("Group", "system:masters"),),
    "system:discovery": (("Group", "system:authenticated"),),
    "system:public-info-viewer": (("Group", "system:authenticated"), ("Group", "system:unauthenticated")),
    "system:basic-user": (("Group", "system:authenticated"),),
    "system:monitoring": (("Group", "system:monitoring"),),
    "system:service-account-issuer-discovery": (("Group", "system:serviceaccounts"),),
    "system:kube-controller-manager": (("User", "system:kube-controller-manager"),),
    "system:node-proxier": (("User", "system:kube-proxy"),),
    "system:kube-dns": (("ServiceAccount", "kube-dns"),),
    "system:node": (),
    "system:cluster-trust-bundle-discovery": (("Group", "system:serviceaccounts"),),
    "certplane:signing-previews": (("Group", "system:authenticated"),),
}

#: Bindings that kubeadm adds: name, role, subject. They do not have the labels and annotations of the defaults.
_KUBEADM: Final = (
    ("kubeadm:cluster-admins", "cluster-admin", ("Group", "kubeadm:cluster-admins")),
    (
        "kubeadm:kubelet-bootstrap",
        "system:node-bootstrapper",
        ("Group", "system:bootstrappers:kubeadm:default-node-token"),
    ),
    (
        "kubeadm:node-autoapprove-bootstrap",
        f"system:{_CERTIFICATES}:{_CSRS}:nodeclient",
        ("Group", "system:bootstrappers:kubeadm:default-node-token"),
    ),
    (
        "kubeadm:node-autoapprove-certificate-rotation",
        f"system:{_CERTIFICATES}:{_CSRS}:selfnodeclient",
        ("Group", "system:nodes"),
    ),
)

# --- namespaced roles ---------------------------------------------------------------------------------------------

_LEADER: Final = ("create", "get", "list", "update", "watch")


def _leader_rules() -> _Rules:
    return (_rule(_LEADER, _COORDINATION, "leases"), _rule(_LEADER, _COORDINATION, "leasecandidates"))


_Subjects = tuple[tuple[str, str], ...]
#: Namespace, role, its rules, the binding, its subjects.
_NAMESPACED: Final[tuple[tuple[str, str, _Rules, str, _Subjects], ...]] = (
    (
        "kube-system",
        "extension-apiserver-authentication-reader",
        (_rule(_READ, "", "configmaps", names=("extension-apiserver-authentication",)),),
        "system::extension-apiserver-authentication-reader",
        (("User", "system:kube-controller-manager"), ("User", "system:kube-scheduler")),
    ),
    *(
        (
            "kube-system",
            f"system::leader-locking-{name}",
            _leader_rules(),
            f"system::leader-locking-{name}",
            (("User", f"system:{name}"), *(("ServiceAccount", account) for account in (name, *accounts))),
        )
        for name, accounts in (("kube-controller-manager", ("leader-election-controller",)), ("kube-scheduler", ()))
    ),
    *(
        (namespace, f"system:controller:{name}", rules, f"system:controller:{name}", (("ServiceAccount", name),))
        for namespace, name, rules in (
            ("kube-system", "bootstrap-signer", (_rule(_READ, "", "secrets"),)),
            ("kube-system", "token-cleaner", (_rule(("delete", *_READ), "", "secrets"), _EVENTS)),
            ("kube-system", "cloud-provider", (_rule(("create", *_READ), "", "configmaps"),)),
            (
                "kube-public",
                "bootstrap-signer",
                (
                    _rule(_READ, "", "configmaps"),
                    _rule(("update",), "", "configmaps", names=("cluster-info",)),
                    _EVENTS,
                ),
            ),
        )
    ),
)


# --- the objects --------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class DefaultObject:
    """An object that should exist. `plural` names its kind; `namespace` is empty for cluster-scoped kinds."""

    plural: str
    namespace: str
    object: rbac.ClusterRole | rbac.Role | rbac.ClusterRoleBinding | rbac.RoleBinding


def default_objects(
    kinds: Collection[str] = (), signer_domains: Sequence[str] = (), *, approves_serving: bool = False
) -> list[DefaultObject]:
    """All default roles and bindings, in the order of their creation. `kinds` are the plurals that are served: optional
    kinds add roles. `signer_domains` (as example.com/*) are those of custom signers, for which the controllers sign.
    `approves_serving`: a controller approves kubelets' serving certificates.
    """
    extra = {name: rules for plural, roles in _OPTIONAL.items() if plural in kinds for name, rules in roles.items()}
    extra[_NODE] = node_rules(kinds)
    accounts = dict(_CONTROLLERS)
    for plural in kinds:
        accounts |= _OPTIONAL_CONTROLLERS.get(plural, {})
    defaults = [DefaultObject("clusterroles", "", role) for role in _cluster_roles(extra, accounts)]
    defaults += [
        DefaultObject("clusterrolebindings", "", binding) for binding in _cluster_role_bindings(extra, accounts)
    ]
    for namespace, name, rules, _, _ in _NAMESPACED:
        role = rbac.Role(rules=list(rules))
        defaults.append(DefaultObject("roles", namespace, _as_default(role, name, namespace)))
    for namespace, role_name, _, name, subjects in _NAMESPACED:
        binding = rbac.RoleBinding(
            subjects=[_subject(*subject) for subject in subjects], role_ref=_role_ref("Role", role_name)
        )
        defaults.append(DefaultObject("rolebindings", namespace, _as_default(binding, name, namespace)))
    defaults += _certplane_objects(signer_domains, approves_serving=approves_serving)
    for name, role_name, subject in _KUBEADM:
        kubeadm_binding = rbac.ClusterRoleBinding(
            subjects=[_subject(*subject)], role_ref=_role_ref("ClusterRole", role_name)
        )
        kubeadm_binding.metadata.name = name
        defaults.append(DefaultObject("clusterrolebindings", "", kubeadm_binding))
    return defaults


def _certplane_objects(signer_domains: Sequence[str], *, approves_serving: bool) -> Iterable[DefaultObject]:
    """Roles and bindings for the controllers that Kubernetes does not have."""
    update_approval = _rule(("update",), _CERTIFICATES, f"{_CSRS}/approval")
    roles: dict[str, tuple[str, _Rules]] = {}
    if signer_domains:
        sign = _rule(("sign",), _CERTIFICATES, "signers", names=signer_domains)
        roles["certplane:custom-signers"] = "certificate-controller", (sign,)
        approve = _rule(("approve",), _CERTIFICATES, "signers", names=signer_domains)
        roles["certplane:signer-rule-approver"] = "signer-rule-approver", (approve, update_approval)
    if approves_serving:
        approve = _rule(("approve",), _CERTIFICATES, "signers", names=(signernames.KUBELET_SERVING,))
        roles["certplane:kubelet-serving-approver"] = "kubelet-serving-approver", (approve, update_approval)
    for name, (account, rules) in roles.items():
        yield DefaultObject("clusterroles", "", _as_default(rbac.ClusterRole(rules=list(rules)), name))
        yield DefaultObject("clusterrolebindings", "", _as_default(_account_binding(account, name), name))


def _cluster_roles(extra: Mapping[str, _Rules], accounts: Mapping[str, _Rules]) -> Iterable[rbac.ClusterRole]:
    for name, rules in {**_ROLES, **extra}.items():
        yield _as_default(rbac.ClusterRole(rules=list(rules)), name)
    for name, rules in accounts.items():
        yield _as_default(rbac.ClusterRole(rules=list(rules)), f"system:controller:{name}")
    for position, name in enumerate(_AGGREGATED):
        source = _as_default(rbac.ClusterRole(rules=list(_USER_ROLES[name])), f"system:aggregate-to-{name}")
        source.metadata.labels[_AGGREGATE + name] = "true"
        yield source
        selector = rbac.AggregationRule(
            cluster_role_selectors=[objects.LabelSelector(match_labels={_AGGREGATE + name: "true"})]
        )
        aggregating = _as_default(rbac.ClusterRole(aggregation_rule=selector), name)
        if position:
            aggregating.metadata.labels[_AGGREGATE + _AGGREGATED[position - 1]] = "true"
        yield aggregating


def _cluster_role_bindings(extra: Mapping[str, _Rules], accounts: Iterable[str]) -> Iterable[rbac.ClusterRoleBinding]:
    for name, subjects in _BINDINGS.items():
        if name in _OPTIONAL_NAMES and name not in extra:
            continue
        binding = rbac.ClusterRoleBinding(
            subjects=[_subject(*subject) for subject in subjects], role_ref=_role_ref("ClusterRole", name)
        )
        yield _as_default(binding, name)
    for account in accounts:
        name = f"system:controller:{account}"
        yield _as_default(_account_binding(account, name), name)


def _account_binding(account: str, role: str) -> rbac.ClusterRoleBinding:
    """The binding of a controller's service account to a ClusterRole."""
    return rbac.ClusterRoleBinding(
        subjects=[_subject("ServiceAccount", account)], role_ref=_role_ref("ClusterRole", role)
    )


def _subject(kind: str, name: str) -> rbac.Subject:
    if kind == "ServiceAccount":
        return rbac.Subject(kind=kind, name=name, namespace="kube-system")
    return rbac.Subject(kind=kind, api_group=rbac.GROUP, name=name)


def _role_ref(kind: str, name: str) -> rbac.RoleRef:
    return rbac.RoleRef(api_group=rbac.GROUP, kind=kind, name=name)


T = TypeVar("T", bound=Object)


def _as_default(obj: T, name: str, namespace: str = "") -> T:
    """Name an object, and give it the label and annotation of the defaults."""
    obj.metadata.name = name
    obj.metadata.namespace = namespace
    obj.metadata.labels = dict(_LABELS)
    obj.metadata.annotations = {AUTOUPDATE: "true"}
    return obj


# --- reconciliation -----------------------------------------------------------------------------------------------


def reconcile(stored: AnyObject, default: AnyObject) -> AnyObject | None:
    """A copy of a stored object with everything added that the default has; None if nothing is missing.

    The role of a binding is immutable. If it differs, the result has the default's role, and the caller has to delete
    the stored binding and create it again.
    """
    if stored.metadata.annotations.get(AUTOUPDATE) == "false":
        return None
    updated = codec.decode(codec.encode(stored), type(stored))
    for field in ("labels", "annotations"):
        setattr(updated.metadata, field, {**getattr(default.metadata, field), **getattr(stored.metadata, field)})
    if hasattr(updated, "rules"):
        missing = list(escalation.missing(default.rules or (), stored.rules or ()))
        if missing:
            updated.rules = [*(stored.rules or ()), *map(escalation.as_rule, missing)]
        if hasattr(updated, "aggregation_rule"):
            updated.aggregation_rule = _aggregation(stored, default)
    else:
        updated.role_ref = default.role_ref
        added = [subject for subject in default.subjects if subject not in stored.subjects]
        updated.subjects = [*stored.subjects, *added]
    return None if codec.encode(updated) == codec.encode(stored) else updated


def _aggregation(stored: rbac.ClusterRole, default: rbac.ClusterRole) -> rbac.AggregationRule | None:
    if default.aggregation_rule is None:
        return None
    present = stored.aggregation_rule.cluster_role_selectors if stored.aggregation_rule is not None else []
    added = [selector for selector in default.aggregation_rule.cluster_role_selectors if selector not in present]
    return rbac.AggregationRule(cluster_role_selectors=[*present, *added])


@dataclasses.dataclass(frozen=True, slots=True)
class Writer:
    """How the reconciler reads and writes objects. The first two arguments of each function are plural and namespace;
    the third is the name for `find`, else the object.
    """

    find: Callable[[str, str, str], AnyObject | None]
    create: Callable[[str, str, Object], Awaitable[None]]
    replace: Callable[[str, str, Object], Awaitable[None]]
    delete: Callable[[str, str, Object], Awaitable[None]]


async def ensure(writer: Writer, defaults: Sequence[DefaultObject]) -> None:
    """Create missing objects and complete existing ones: the four namespaces first, then the given defaults."""
    for name in NAMESPACES:
        if writer.find("namespaces", "", name) is None:
            namespace = namespaces.Namespace()
            namespace.metadata.name = name
            await writer.create("namespaces", "", namespace)
    for default in defaults:
        stored = writer.find(default.plural, default.namespace, default.object.metadata.name)
        if stored is None:
            await writer.create(default.plural, default.namespace, default.object)
            continue
        updated = reconcile(stored, default.object)
        if updated is None:
            continue
        if hasattr(updated, "role_ref") and updated.role_ref != stored.role_ref:
            await writer.delete(default.plural, default.namespace, stored)
            await writer.create(default.plural, default.namespace, default.object)
        else:
            await writer.replace(default.plural, default.namespace, updated)
