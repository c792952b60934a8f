"""The contents of the health checks, for different users."""

from __future__ import annotations

import pytest

from certplane.controllers.signing import signer
from certplane.meta import context
from certplane.server import exchange
from certplane.x509.issuance import profiles
from tests.flow import plane as flow

MONITORING = context.User("prometheus", groups=("system:monitoring", "system:authenticated"))


@pytest.mark.parametrize(
    ("user", "knows"),
    [(context.ANONYMOUS, False), (flow.JANE, False), (MONITORING, True), (flow.ADMIN, True)],
    ids=lambda value: getattr(value, "name", None),
)
@pytest.mark.parametrize("path", ["/readyz", "/livez", "/healthz"])
async def test_paths_are_told_to_those_who_read_metrics(user, knows, path):
    """All users see which checks fail; only operators see the reasons, which may contain file names."""
    secret = "/etc/kubernetes/pki/ca.key cannot be read"
    broken = {name: signer.Signer(profile, problem=secret) for name, profile in profiles.BUILT_IN.items()}
    async with flow.running(signers=broken) as plane:
        plane.cache.failure = "the disk /dev/sda1 is full"
        plane.services.authenticate = lambda _: user
        answer = await flow.assembled(plane)(exchange.Request("GET", path, "verbose", exchange.Headers([])))
        text = answer.body.decode()
        assert "[-]etcd failed: " in text
        assert knows == ("/dev/sda1" in text)
        if path == "/readyz":
            assert "[!]signer-kube-apiserver-client failed, ignored: " in text
            assert knows == (secret in text)
