"""For tests of programs that ask for certificates.

`Plane` is a control plane in the test's own process, without a socket and with a clock that the test moves.
`ControlPlane` is a real `certplane serve` on a free port, with a kubeconfig: for kubectl, client-go and the like. The
pytest fixture `control_plane` gives one to all tests of a session. `new_key`, `new_pkcs10` and `new_csr` make what is
sent to them. See docs/testing.md.
"""

from __future__ import annotations

from certplane.testing.builders import new_csr, new_key, new_pkcs10
from certplane.testing.controlplane import ControlPlane, StartError
from certplane.testing.fakeclock import FakeClock, settle
from certplane.testing.inprocess import (
    ADMIN,
    Plane,
    decide,
    eventually,
    issued_certificate,
    new_authority,
    plane_config,
    user,
)

__all__ = [
    "ADMIN",
    "ControlPlane",
    "FakeClock",
    "Plane",
    "StartError",
    "decide",
    "eventually",
    "issued_certificate",
    "new_authority",
    "new_csr",
    "new_key",
    "new_pkcs10",
    "plane_config",
    "settle",
    "user",
]
