"""Waiting for a certificate: what is reported, and what ends the wait. Against a control plane in this process."""

from __future__ import annotations

import asyncio

import pytest

from certplane import errors, testing
from certplane.cli import certificatewait, exitcodes
from certplane.cli.certificatewait import CertificateWait
from certplane.client import api
from certplane.resources import certificatesigningrequests as csrs


class Failing:
    """A transport that fails until `error` is None; then it passes requests on."""

    def __init__(self, transport):
        self.transport = transport
        self.error = None

    async def send(self, request):
        if self.error is not None:
            raise self.error
        return await self.transport.send(request)


class Waiter:
    """A wait under way."""

    def __init__(self, plane, name="jane", seconds=300.0, uid=""):
        self.lines = []
        self.clock = plane.clock
        self.transport = Failing(plane.client().transport)
        messages = certificatewait.Messages(self.lines.append, "--context c ")
        wait = CertificateWait(api.Client(self.transport), name, plane.clock, messages, uid=uid)
        self.task = asyncio.ensure_future(wait.until_issued(seconds))

    async def let_pass(self, seconds):
        await self.clock.advance(seconds)
        await testing.settle(200)

    async def outcome(self):
        """The result, at most ten minutes from now."""
        for _ in range(600):
            if self.task.done():
                return self.task.result()
            await self.let_pass(1.0)
        self.task.cancel()
        raise AssertionError("the wait did not end")

    async def failure(self):
        """The error that ends the wait."""
        with pytest.raises(exitcodes.Failure) as caught:
            await self.outcome()
        return caught.value


@pytest.fixture
async def plane():
    async with testing.Plane() as running:
        yield running


async def test_each_state_is_reported_once_and_the_certificate_returned(plane):
    """Pending, approved, issued."""
    await plane.client().create(csrs.RESOURCE, testing.new_csr())
    waiter = Waiter(plane)
    await waiter.let_pass(20.0)
    (line,) = waiter.lines
    assert line.startswith("jane is waiting for approval, by somebody who may approve for signer kubernetes.io/kube-ap")
    assert line.endswith(": kubectl --context c certificate approve jane")
    await plane.approve("jane")
    certificate = await plane.certificate("jane")
    await waiter.let_pass(6.0)
    assert waiter.task.done()
    assert (await waiter.outcome()).status.certificate == certificate


async def test_an_approved_request_waits_for_its_signer(plane):
    """And the hint of the timeout names it."""
    await plane.client().create(csrs.RESOURCE, testing.new_csr("jane", "example.com/nobody"))
    await plane.approve("jane")
    waiter = Waiter(plane)
    await waiter.let_pass(1.0)
    assert waiter.lines == ["jane is approved (Test); waiting for signer example.com/nobody"]
    failure = await waiter.failure()
    assert (failure.exit_code, failure.message) == (6, "jane is approved, but has no certificate after 5m")
    assert "permission sign" in failure.hints[0]
    assert failure.hints[1:] == (
        "certplane explain csr --context c jane says why",
        "wait again with certplane csr wait --context c jane",
    )


async def test_without_approval_the_wait_ends_with_the_command_for_an_approver(plane):
    """Exit code 6."""
    await plane.client().create(csrs.RESOURCE, testing.new_csr())
    failure = await Waiter(plane, seconds=60.0).failure()
    assert (failure.exit_code, failure.message) == (6, "jane is not approved after 60s")
    assert "kubectl --context c certificate approve jane" in failure.hints[0]


async def test_a_denial_ends_the_wait(plane):
    """With its reason."""
    await plane.client().create(csrs.RESOURCE, testing.new_csr())
    waiter = Waiter(plane)
    await plane.deny("jane")
    failure = await waiter.failure()
    assert (failure.exit_code, failure.message) == (5, "jane was denied (Test)")


async def test_a_failure_of_the_signer_ends_the_wait(plane):
    """With the message of the signer."""
    await plane.client().create(csrs.RESOURCE, testing.new_csr(usages=("server auth",)))
    waiter = Waiter(plane)
    await plane.approve("jane")
    failure = await waiter.failure()
    assert failure.exit_code == 5
    assert "the signer kubernetes.io/kube-apiserver-client refuses jane (SignerValidationFailure" in failure.message


async def test_a_deleted_request_ends_the_wait(plane):
    """Also if another one of the same name was created since."""
    created = await plane.client().create(csrs.RESOURCE, testing.new_csr())
    waiter = Waiter(plane)
    await waiter.let_pass(1.0)
    await plane.client().delete(csrs.RESOURCE, "jane")
    assert (await waiter.failure()).message == "jane was deleted before it had a certificate"
    await plane.client().create(csrs.RESOURCE, testing.new_csr())
    failure = await Waiter(plane, uid=created.metadata.uid).failure()
    assert (failure.exit_code, failure.message) == (5, "jane was deleted before it had a certificate")


async def test_a_request_that_never_existed_is_not_found(plane):
    """There is nothing to wait for."""
    waiter = Waiter(plane)
    with pytest.raises(errors.NotFound):
        await waiter.outcome()


@pytest.mark.parametrize("error", [api.Unreachable("no route\x1b[2J"), errors.TooManyRequests(), errors.Timeout("x")])
async def test_a_server_that_does_not_respond_is_reported_once_and_waited_for(plane, error):
    """And that it responds again."""
    await plane.client().create(csrs.RESOURCE, testing.new_csr())
    waiter = Waiter(plane)
    await waiter.let_pass(1.0)
    waiter.transport.error = error
    await waiter.let_pass(30.0)
    waiter.transport.error = None
    await waiter.let_pass(10.0)
    assert [line.partition(":")[0] for line in waiter.lines[1:]] == ["still waiting", "the server responds again"]
    assert all(line.isprintable() for line in waiter.lines)
    waiter.task.cancel()


async def test_a_server_that_never_responds_times_out(plane):
    """Each request for the object has a limit of its own."""

    class Silent:
        async def send(self, request):
            await asyncio.Event().wait()

    waiter = Waiter(plane, seconds=100.0)
    waiter.transport.transport = Silent()
    failure = await waiter.failure()
    assert (failure.exit_code, failure.message) == (6, "the server did not respond for 100s")


async def test_a_refusal_is_not_waited_for(plane):
    """Permissions do not appear by waiting."""
    waiter = Waiter(plane)
    waiter.transport.error = errors.Forbidden("no")
    with pytest.raises(errors.Forbidden):
        await waiter.outcome()


async def test_without_a_timeout_the_request_is_checked_once(plane):
    """`--timeout 0`."""
    await plane.client().create(csrs.RESOURCE, testing.new_csr())
    waiter = Waiter(plane, seconds=0.0)
    await testing.settle(200)
    assert waiter.task.done()
    assert (await waiter.failure()).exit_code == 6
