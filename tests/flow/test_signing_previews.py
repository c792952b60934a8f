"""SigningPreviews: what the signer would make of a request, before anybody approves it."""

from __future__ import annotations

import datetime

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from certplane import errors, testing
from certplane.controllers.signing.signer import Signer
from certplane.resources import certificatesigningrequests as csrs
from certplane.resources import signingpreviews
from certplane.resources.signingpreviews import SigningPreview, SigningPreviewSpec
from certplane.x509.issuance import profiles
from certplane.x509.issuance.issue import Issuer
from certplane.x509.issuance.profiles import Approval, Profile
from tests.flow import plane as flow

WEB = Profile(
    signer="example.com/web", description="Servers.", usages=("digital signature", "server auth"),
    required_usages=("server auth",), dns=("**.example.com",), max_lifetime=datetime.timedelta(days=30),
    approval=(Approval(groups=("web",)),),
)  # fmt: skip


def signers(clock, *custom):
    """The signers of Kubernetes and custom ones, with a new CA."""
    issuer = Issuer(testing.new_authority(clock), datetime.timedelta(days=365))
    return {profile.signer: Signer(profile, issuer) for profile in (*profiles.BUILT_IN.values(), *custom)}


async def preview(plane, user=flow.ADMIN, **spec):
    values = {"request": flow.pkcs10(), "signer_name": flow.CLIENT, "usages": ["client auth"], **spec}
    asked = SigningPreview(spec=SigningPreviewSpec(**values))
    return (await plane.client(user).create(signingpreviews.RESOURCE, asked)).status


async def test_the_preview_is_what_is_then_issued():
    """Its end is that of the certificate that is issued after the approval; nothing is stored for it."""
    async with flow.running() as plane:
        request = flow.pkcs10()
        status = await preview(plane, flow.JANE, request=request, expiration_seconds=3600)
        assert (status.result, status.lifetime_seconds, status.messages) == (signingpreviews.ISSUE, 3600, [])
        assert (status.ca_subject, status.ca_issuer) == ("CN=kubernetes", "CN=kubernetes")
        assert await plane.requests() == []
        await plane.client().create(csrs.RESOURCE, flow.new_csr(request=request, expiration_seconds=3600))
        await plane.approve("a")
        certificate = await flow.issued(plane.client(), "a")
        assert certificate.not_valid_after_utc.isoformat().replace("+00:00", "Z") == status.not_after


async def test_a_lifetime_is_shortened_to_the_maximum():
    """The lifetime is the one that the certificate would have."""
    clock = testing.FakeClock()
    async with flow.running(clock=clock, signers=signers(clock, WEB)) as plane:
        request = flow.pkcs10("a", dns=("a.example.com",))
        status = await preview(
            plane, request=request, signer_name=WEB.signer, usages=["server auth"], expiration_seconds=10**8
        )
    assert status.max_lifetime_seconds == 30 * 86400
    assert status.warnings == ["signer example.com/web: maximum lifetime is 720h; the request will be shortened"]
    assert [rule.groups for rule in status.automatic_approvals] == [["web"]]


@pytest.mark.parametrize(
    ("spec", "message", "remedy"),
    [
        ({"usages": ["digital signature"]}, "missing required usage for client certificate: client auth",
         "request the usages digital signature, client auth"),
        ({"usages": ["client auth", "server auth"], "request": flow.pkcs10("a", dns=("a.example.com",))},
         "invalid usage for client certificate: server auth",
         "use signer example.com/web instead, with the usages server auth"),
        ({"request": b"no request"}, "PEM block type must be CERTIFICATE REQUEST", ""),
        ({"request": flow.pkcs10(key=rsa.generate_private_key(65537, 1024))},
         "weak public key: the RSA modulus has 1024 bits", "use another key"),
    ],
    ids=["usages", "web server", "unreadable", "weak key"],
)  # fmt: skip
async def test_what_the_signer_would_refuse(spec, message, remedy):
    """The message is that of the Failed condition, and the remedy is what to change."""
    clock = testing.FakeClock()
    async with flow.running(clock=clock, signers=signers(clock, WEB)) as plane:
        status = await preview(plane, **spec)
    assert (status.result, status.remedy) == (signingpreviews.FAIL, remedy)
    assert status.messages[0].startswith(message)


async def test_a_signer_without_ca():
    """The problem is the one in /readyz?verbose."""
    problem = "no CA certificate and key configured"
    broken = {name: Signer(profile, problem=problem) for name, profile in profiles.BUILT_IN.items()}
    async with flow.running(signers=broken) as plane:
        status = await preview(plane)
    assert (status.result, status.messages) == (signingpreviews.CANNOT_SIGN, [problem])


async def test_an_unknown_signer():
    """The most similar one is proposed."""
    async with flow.running() as plane:
        status = await preview(plane, signer_name="kubernetes.io/kube-apiserver-clients")
    assert (status.result, status.remedy) == (
        signingpreviews.UNKNOWN_SIGNER,
        'did you mean "kubernetes.io/kube-apiserver-client"?',
    )


@pytest.mark.parametrize(
    "spec", [{"signer_name": "a" * 5000}, {"usages": ["any"] * 101}, {"username": "a" * 1025}], ids=lambda spec: [*spec]
)
async def test_what_is_asked_is_bounded(spec):
    """A preview costs no more than a request."""
    async with flow.running() as plane:
        with pytest.raises(errors.Invalid):
            await preview(plane, **spec)


async def test_previews_are_served_with_the_hints_only():
    """Without hints the server has what Kubernetes has."""
    async with flow.running(creation_hints=False) as plane:
        with pytest.raises(errors.NotFound):
            await preview(plane)
