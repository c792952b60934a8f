"""The signing controller: its decisions, and a fault of the CA key, which stops a signer at once."""

from __future__ import annotations

import asyncio
import concurrent.futures
import dataclasses
import datetime
import threading

import pytest

from certplane import signernames, telemetry, testing
from certplane.controllers.runtime import controller, decisions
from certplane.controllers.signing import records, signer
from certplane.resources import certificatesigningrequests as csrs
from certplane.x509.issuance import authority, issue, profiles
from tests.flow import plane as flow
from tests.unit.controllers import cases

SIGNER = signernames.KUBE_APISERVER_CLIENT
SERVING = ("digital signature", "server auth")
JANE = cases.pkcs10("jane", ())


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        (cases.Case(), signer.ActionKind.ISSUE),
        (
            cases.Case(signer=signernames.KUBE_APISERVER_CLIENT, pkcs10=JANE, usages=("client auth",)),
            signer.ActionKind.ISSUE,
        ),
        (
            cases.Case(signer=signernames.KUBE_APISERVER_CLIENT, pkcs10=JANE, usages=("server auth",)),
            signer.ActionKind.FAIL,
        ),
        (cases.Case(signer=signernames.KUBE_APISERVER_CLIENT, pkcs10=JANE, usages=()), signer.ActionKind.FAIL),
        (
            cases.Case(signer=signernames.KUBELET_SERVING, pkcs10=cases.pkcs10(dns=("n1",)), usages=SERVING),
            signer.ActionKind.ISSUE,
        ),
        (cases.Case(signer=signernames.KUBELET_SERVING, usages=SERVING), signer.ActionKind.FAIL),
        (cases.Case(signer=signernames.KUBELET_SERVING, pkcs10=cases.pkcs10(dns=("n1",))), signer.ActionKind.FAIL),
        (
            cases.Case(signer=signernames.KUBELET_SERVING, pkcs10=cases.pkcs10("n1", dns=("n1",)), usages=SERVING),
            signer.ActionKind.FAIL,
        ),
        (cases.Case(pkcs10=cases.pkcs10("jane")), signer.ActionKind.FAIL),
        (cases.Case(pkcs10=cases.pkcs10(organizations=("system:masters",))), signer.ActionKind.FAIL),
        (cases.Case(pkcs10=cases.pkcs10(dns=("n1",))), signer.ActionKind.FAIL),
        (cases.Case(signer=signernames.LEGACY_UNKNOWN, pkcs10=JANE, usages=("code signing",)), signer.ActionKind.ISSUE),
        (cases.Case(certificate=b"x"), signer.ActionKind.NOTHING),
        (
            cases.Case(conditions=(cases.condition(csrs.APPROVED), cases.condition(csrs.DENIED))),
            signer.ActionKind.NOTHING,
        ),
        (
            cases.Case(conditions=(cases.condition(csrs.APPROVED), cases.condition(csrs.FAILED))),
            signer.ActionKind.NOTHING,
        ),
        (cases.Case(conditions=(cases.condition(csrs.DENIED),)), signer.ActionKind.NOTHING),
    ],
)
def test_approved_requests_that_the_profile_permits_are_issued(case, expected):
    """An approved request is issued or fails permanently. Others are not handled."""
    if not case.conditions:
        case = dataclasses.replace(case, conditions=(cases.condition(csrs.APPROVED),))
    assert signer.decide(case.csr(), profiles.BUILT_IN[case.signer]).kind is expected


def test_nothing_is_issued_without_approval():
    """A pending request is not handled, even if the profile permits it."""
    assert signer.decide(cases.Case().csr(), profiles.BUILT_IN[cases.Case().signer]).kind is signer.ActionKind.NOTHING


def test_requests_for_other_signers_are_not_handled():
    """Even if they are approved."""
    case = cases.Case(conditions=(cases.condition(csrs.APPROVED),)).csr()
    assert signer.decide(case, profiles.BUILT_IN[signernames.LEGACY_UNKNOWN]).kind is signer.ActionKind.NOTHING


def test_a_request_that_cannot_be_parsed_is_retried():
    """The server accepted it, so nothing is decided about it."""
    csr = cases.Case(pkcs10=b"nonsense", conditions=(cases.condition(csrs.APPROVED),)).csr()
    with pytest.raises(controller.Retry):
        signer.decide(csr, profiles.BUILT_IN[csr.spec.signer_name])


# --- a fault of the key -------------------------------------------------------------------------------------------


class PublishedNames:
    """Records that keep only the names of published requests."""

    def __init__(self):
        self.published = []

    async def record(self, csr, content):
        return records.Record(csr, content)

    async def publish(self, csr):
        self.published.append(csr.metadata.name)


class FaultyAuthority(authority.Authority):
    """Makes one bad signature, the first. `concurrent`: the first two signatures are made at the same time, and the
    second is complete only after `stopped` is set.
    """

    __slots__ = ("_concurrent", "_second_begun", "signed", "stopped")

    def __init__(self, sound, *, concurrent):
        super().__init__(sound.raw, sound._key)
        self.signed = []
        self.stopped = threading.Event()
        self._concurrent = concurrent
        self._second_begun = threading.Event()

    def sign(self, data):
        self.signed.append(data)
        if data is self.signed[0]:
            assert not self._concurrent or self._second_begun.wait(60)
            return super().sign(data + b"x")
        self._second_begun.set()
        assert self.stopped.wait(60)
        return super().sign(data)


def approved(name):
    csr = flow.new_csr(name)
    csr.metadata.uid = name
    return csrs.with_condition(csr, csrs.APPROVED, "Test", "")


@pytest.mark.parametrize(
    ("threads", "signatures"),
    [pytest.param(1, 1, id="waiting for the thread"), pytest.param(2, 2, id="signed in another thread")],
)
async def test_a_fault_of_the_key_stops_concurrent_requests(threads, signatures):
    """After the first bad signature nothing is signed, and a signature that was in progress is not published."""
    clock = testing.FakeClock()
    faulty = FaultyAuthority(flow.new_authority(clock), concurrent=threads > 1)
    stopping = signer.Signer(profiles.BUILT_IN[SIGNER], issue.Issuer(faulty, datetime.timedelta(days=365)))
    names, decided = PublishedNames(), []

    def record_decision(_csr, outcome, reason, _message):
        decided.append((outcome, reason))
        faulty.stopped.set()

    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        context = signer.SigningContext(clock, names, pool, record_decision)
        signing = signer.SigningController(lambda: {SIGNER: stopping}, context, telemetry.Telemetry())
        await asyncio.gather(*(signing.handle(approved(name)) for name in "abcd"))
    assert (names.published, decided) == ([], [(decisions.NOT_ISSUED, signer.STOPPED)] * 4)
    assert len(faulty.signed) == signatures
