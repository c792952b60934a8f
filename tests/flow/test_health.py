"""The contents of the health checks, for different users."""

from __future__ import annotations

import pytest

from certplane.controllers.signing import signer
from certplane.meta import context
from certplane.x509.issuance import profiles
from tests.flow import plane as flow

MONITORING = context.User("prometheus", groups=("system:monitoring", "system:authenticated"))


@pytest.mark.parametrize(
    ("user", "sees_reasons"),
    [(context.ANONYMOUS, False), (flow.JANE, False), (MONITORING, True), (flow.ADMIN, True)],
    ids=lambda value: getattr(value, "name", None),
)
@pytest.mark.parametrize("path", ["/readyz", "/livez", "/healthz"])
async def test_reasons_are_shown_to_users_who_may_read_metrics(user, sees_reasons, path):
    """All users see which checks fail; only operators see the reasons, which may contain file names."""
    reason = "/etc/kubernetes/pki/ca.key cannot be read"
    broken = {name: signer.Signer(profile, problem=reason) for name, profile in profiles.BUILT_IN.items()}
    async with flow.running(signers=broken) as plane:
        plane.cache.failure = "the disk /dev/sda1 is full"
        flow.replace_services(plane, authenticate=lambda _: user)
        text = (await flow.respond(plane, "GET", f"{path}?verbose", user=None)).body.decode()
        assert "[-]etcd failed: " in text
        assert sees_reasons == ("/dev/sda1" in text)
        if path == "/readyz":
            assert "[!]signer-kube-apiserver-client failed, ignored: " in text
            assert sees_reasons == (reason in text)
