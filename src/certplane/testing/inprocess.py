"""A control plane in the test's own process: everything but the socket, the disk and the clock is real."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import Any, Final

from certplane.client.api import Client
from certplane.config.servesettings import DEFAULTS, APISettings
from certplane.config.sharedsettings import ControllerSettings
from certplane.controllers.signing.signer import Signer
from certplane.golang import pem
from certplane.meta.context import User
from certplane.plane import assembly
from certplane.plane.controllerconfig import ControllerConfig
from certplane.resources import certificatesigningrequests as csrs
from certplane.resources import rbac
from certplane.store.contract import Store
from certplane.store.memory import MemoryStore
from certplane.testing import builders
from certplane.testing.fakeclock import FakeClock
from certplane.x509 import keys
from certplane.x509.issuance import authority, profiles, selfsigned
from certplane.x509.issuance.issue import Issuer

#: May do everything.
ADMIN: Final = User("admin", groups=("system:masters", "system:authenticated"))
#: Turns of the event loop that anything takes at most; signatures are made in a thread meanwhile.
_TURNS: Final = 200_000
_CA_LIFETIME: Final = datetime.timedelta(days=3650)
_LONGEST_LIFETIME: Final = datetime.timedelta(days=365)


def user(name: str, *groups: str) -> User:
    """An authenticated user."""
    return User(name, groups=(*groups, "system:authenticated"))


async def eventually(condition: Callable[[], Any | Awaitable[Any]]) -> Any:
    """Let all tasks work until `condition`, a function or a coroutine function, returns something true; return that.
    Raises AssertionError if it never does. No time passes on the clock.
    """
    for _ in range(_TURNS):
        result = condition()
        if asyncio.iscoroutine(result):
            result = await result
        if result:
            return result
        await asyncio.sleep(0)
    raise AssertionError("the condition did not become true")


def plane_config(**settings: Any) -> assembly.PlaneConfig:
    """The configuration of a control plane. `settings` are fields of PlaneConfig or of one of its sections
    (ControllerSettings, ControllerConfig, APISettings), by name; fields of AuditConfig have the prefix `audit_`. All
    others have the defaults of `certplane serve`, and without `audit_` fields nothing is recorded. Raises TypeError for
    an unknown name.
    """
    controllers = ControllerConfig(
        dataclasses.replace(DEFAULTS.controllers, **_take(ControllerSettings, settings)),
        **_take(ControllerConfig, settings),
    )
    api = dataclasses.replace(DEFAULTS.api, **_take(APISettings, settings))
    audit = _take(assembly.AuditConfig, settings, "audit_")
    return assembly.PlaneConfig(
        controllers=controllers,
        api=api,
        audit=assembly.AuditConfig(**{"sink": _discard, **audit}) if audit else None,
        **settings,
    )


def _take(section: type[Any], settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Remove the fields of a section from the settings, and return them."""
    names = [field.name for field in dataclasses.fields(section) if f"{prefix}{field.name}" in settings]
    return {name: settings.pop(f"{prefix}{name}") for name in names}


def _discard(line: bytes, *, may_wait: bool) -> None:
    """An audit sink without output."""


def new_authority(clock: FakeClock) -> authority.Authority:
    """A new CA, valid for ten years from now."""
    key = builders.new_key()
    certificate = selfsigned.self_signed_ca("kubernetes", key, clock.now(), _CA_LIFETIME)
    return authority.from_pem(certificate, keys.to_pem(key))


class Plane(assembly.Plane):
    """An asynchronous context manager: a control plane with its own CA, the signers of Kubernetes, all controllers, a
    store in memory, and a clock that stands still until the test moves it.

    A `store` that is passed is not closed at the end, so that another plane can continue with it. `settings` are those
    of `plane_config`; `signers` replaces the signers of Kubernetes, and `root_ca` the bundle that is published.
    """

    clock: FakeClock

    def __init__(self, clock: FakeClock | None = None, *, store: Store | None = None, **settings: Any) -> None:
        clock = clock or FakeClock()
        self._owns_store = store is None
        ca = new_authority(clock)
        #: The certificate of the CA, in PEM.
        self.ca_certificate = pem.encode("CERTIFICATE", ca.raw)
        issuer = Issuer(ca, _LONGEST_LIFETIME)
        signers = {name: Signer(profile, issuer) for name, profile in profiles.BUILT_IN.items()}
        defaults = {"signers": signers, "root_ca": self.ca_certificate.decode("ascii")}
        super().__init__(store if store is not None else MemoryStore(), clock, plane_config(**{**defaults, **settings}))

    async def __aenter__(self) -> Plane:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop()
        if self._owns_store:
            await self.store.close()

    def client(self, user: User = ADMIN, user_agent: str = "certplane") -> Client:
        """The API as a user sees it, with RBAC, admission and audit. Errors are those of `certplane.errors`."""
        return super().client(user, user_agent)

    async def grant(self, to: User, *verbs: str, resource: str = "certificatesigningrequests") -> None:
        """Grant a user verbs on a resource of certificates.k8s.io, cluster-wide, by a ClusterRole and its binding. New
        users have no permissions.
        """
        rule = rbac.PolicyRule(api_groups=[csrs.RESOURCE.group], resources=[resource], verbs=list(verbs))
        await self.grant_rules(to, rule)

    async def grant_rules(self, to: User, *rules: rbac.PolicyRule) -> rbac.ClusterRole:
        """Grant a user rules of RBAC, cluster-wide. Returns the ClusterRole."""
        role = rbac.ClusterRole(rules=list(rules))
        role.metadata.generate_name = f"{to.name}-"
        created: rbac.ClusterRole = await self.client().create(rbac.CLUSTER_ROLES, role)
        await self.bind(created.metadata.name, to)
        return created

    async def bind(self, role: str, to: User | str) -> None:
        """Bind a ClusterRole to a user, or to a group given by its name. The ClusterRole need not exist."""
        kind, name = ("Group", to) if isinstance(to, str) else ("User", to.name)
        binding = rbac.ClusterRoleBinding(
            subjects=[rbac.Subject(kind=kind, api_group=rbac.GROUP, name=name)],
            role_ref=rbac.RoleRef(api_group=rbac.GROUP, kind="ClusterRole", name=role),
        )
        binding.metadata.generate_name = f"{role}-"
        await self.client().create(rbac.CLUSTER_ROLE_BINDINGS, binding)

    async def approve(self, name: str, as_user: User = ADMIN) -> None:
        """Approve a CertificateSigningRequest."""
        await decide(self.client(as_user), name, csrs.APPROVED)

    async def deny(self, name: str, as_user: User = ADMIN) -> None:
        """Deny a CertificateSigningRequest."""
        await decide(self.client(as_user), name, csrs.DENIED)

    async def certificate(self, name: str) -> bytes:
        """The certificate that was issued for a CertificateSigningRequest, in PEM. Waits for the signer, and raises
        AssertionError if nothing is issued.
        """
        return await issued_certificate(self.client(), name)

    async def requests(self) -> Sequence[csrs.CertificateSigningRequest]:
        """All CertificateSigningRequests."""
        items: Sequence[csrs.CertificateSigningRequest] = (await self.client().list(csrs.RESOURCE)).items
        return items


async def decide(client: Client, name: str, decision: str = csrs.APPROVED) -> csrs.CertificateSigningRequest:
    """Approve or deny a CertificateSigningRequest as the user of a client. Returns the stored object."""
    csr = await client.get(csrs.RESOURCE, name)
    new = csrs.with_condition(csr, decision, "Test", "")
    stored: csrs.CertificateSigningRequest = await client.update(csrs.RESOURCE, new, "approval")
    return stored


async def issued_certificate(client: Client, name: str) -> bytes:
    """The certificate of a CertificateSigningRequest, in PEM, as soon as there is one. Raises AssertionError if nothing
    is issued.
    """

    async def get() -> bytes | None:
        certificate: bytes | None = (await client.get(csrs.RESOURCE, name)).status.certificate
        return certificate

    certificate: bytes = await eventually(get)
    return certificate
