"""What is read from an API server to explain a request. Pure values; `gathering` reads them.

Each part may be missing: a server may not have it, or the user may not read it. Then it is an `Unread` that says why,
and the explanation goes on without it.
"""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Mapping, Sequence

from certplane.resources import rbac
from certplane.resources.certificatesigningrequests import CertificateSigningRequest
from certplane.resources.events import Event
from certplane.resources.signingpreviews import SigningPreviewStatus


@dataclasses.dataclass(frozen=True, slots=True)
class Unread:
    """Something that could not be read. `rule` is the RBAC rule that would permit it, empty if that is not known."""

    reason: str
    rule: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Roles:
    """What grants permissions cluster-wide. Permissions of signers are never granted in a namespace."""

    cluster_roles: Sequence[rbac.ClusterRole]
    bindings: Sequence[rbac.ClusterRoleBinding]


@dataclasses.dataclass(frozen=True, slots=True)
class OwnPermissions:
    """What the user who asks may do: update `/approval`, and approve requests of the signer. `user` is its name, empty
    if the server does not say.
    """

    user: str
    may_update_approval: bool
    may_approve_signer: bool


@dataclasses.dataclass(frozen=True, slots=True)
class Facts:
    """All that was read. `checks` are the failed checks in /readyz?verbose by name, with their reasons; `siblings` are
    the other requests for the signer, and empty if they were not needed. `flags` are the options of the connection for
    commands in texts, with a space at the end unless empty.
    """

    csr: CertificateSigningRequest
    now: datetime.datetime
    events: Sequence[Event] | Unread
    roles: Roles | Unread
    permissions: OwnPermissions | Unread
    preview: SigningPreviewStatus | Unread
    checks: Mapping[str, str] | Unread
    siblings: Sequence[CertificateSigningRequest] | Unread = ()
    flags: str = ""
