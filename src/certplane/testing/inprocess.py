"""A control plane in the test's own process: everything but the socket, the disk and the clock is real."""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import Any, Final

from certplane.client.api import Client
from certplane.controllers.signing.signer import Signer
from certplane.meta.context import User
from certplane.plane import assembly
from certplane.plane.controllerconfig import ControllerConfig
from certplane.resources import certificatesigningrequests as csrs
from certplane.resources import rbac
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


class Plane:
    """An asynchronous context manager: a control plane with its own CA, the signers of Kubernetes, all controllers, a
    store in memory, and a clock that stands still until the test moves it.
    """

    def __init__(self, clock: FakeClock | None = None) -> None:
        self.clock = clock or FakeClock()
        self._store = MemoryStore()
        key = builders.new_key()
        #: The certificate of the CA, in PEM.
        self.ca_certificate = selfsigned.self_signed_ca("kubernetes", key, self.clock.now(), _CA_LIFETIME)
        issuer = Issuer(authority.from_pem(self.ca_certificate, keys.to_pem(key)), _LONGEST_LIFETIME)
        signers = {name: Signer(profile, issuer) for name, profile in profiles.BUILT_IN.items()}
        controllers = ControllerConfig(signers=signers, root_ca=self.ca_certificate.decode("ascii"))
        config = assembly.PlaneConfig(controllers)
        self._plane = assembly.Plane(self._store, self.clock, config)

    async def __aenter__(self) -> Plane:
        await self._plane.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._plane.stop()
        await self._store.close()

    def client(self, as_user: User = ADMIN) -> Client:
        """The API as a user sees it, with RBAC, admission and audit. Errors are those of `certplane.errors`."""
        return self._plane.client(as_user)

    async def grant(self, to: User, *verbs: str, resource: str = "certificatesigningrequests") -> None:
        """Grant a user verbs on a resource of certificates.k8s.io, cluster-wide, by a ClusterRole and its binding. New
        users have no rights.
        """
        name = f"{to.name}-{resource.replace('/', '-')}-{'-'.join(verbs)}"
        rule = rbac.PolicyRule(api_groups=[csrs.RESOURCE.group], resources=[resource], verbs=list(verbs))
        role = rbac.ClusterRole(rules=[rule])
        binding = rbac.ClusterRoleBinding(
            subjects=[rbac.Subject(kind="User", api_group=rbac.GROUP, name=to.name)],
            role_ref=rbac.RoleRef(api_group=rbac.GROUP, kind="ClusterRole", name=name),
        )
        role.metadata.name = binding.metadata.name = name
        await self.client().create(rbac.CLUSTER_ROLES, role)
        await self.client().create(rbac.CLUSTER_ROLE_BINDINGS, binding)

    async def approve(self, name: str, as_user: User = ADMIN) -> None:
        """Approve a CertificateSigningRequest."""
        await self._decide(name, csrs.APPROVED, as_user)

    async def deny(self, name: str, as_user: User = ADMIN) -> None:
        """Deny a CertificateSigningRequest."""
        await self._decide(name, csrs.DENIED, as_user)

    async def certificate(self, name: str) -> bytes:
        """The certificate that was issued for a CertificateSigningRequest, in PEM. Waits for the signer, and raises
        AssertionError if nothing is issued.
        """
        client = self.client()

        async def issued() -> bytes | None:
            certificate: bytes | None = (await client.get(csrs.RESOURCE, name)).status.certificate
            return certificate

        certificate: bytes = await eventually(issued)
        return certificate

    async def requests(self) -> Sequence[csrs.CertificateSigningRequest]:
        """All CertificateSigningRequests."""
        items: Sequence[csrs.CertificateSigningRequest] = (await self.client().list(csrs.RESOURCE)).items
        return items

    async def _decide(self, name: str, decision: str, as_user: User) -> None:
        client = self.client(as_user)
        csr = await client.get(csrs.RESOURCE, name)
        await client.update(csrs.RESOURCE, csrs.with_condition(csr, decision, "Test", ""), "approval")
