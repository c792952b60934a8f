"""The cleaner of CertificateSigningRequests."""

from __future__ import annotations

import datetime

import pytest

from certplane.controllers.cleanup import csrcleaner
from certplane.resources import certificatesigningrequests as csrs
from tests.unit.controllers import cases

HOUR, DAY, MINUTE = datetime.timedelta(hours=1), datetime.timedelta(days=1), datetime.timedelta(minutes=1)


@pytest.mark.parametrize(
    ("case", "is_deleted"),
    [
        (cases.Case(age=DAY - MINUTE), False),
        (cases.Case(age=DAY + MINUTE), True),
        (cases.Case(age=2 * DAY, conditions=(cases.condition(csrs.DENIED, HOUR - MINUTE),)), False),
        (cases.Case(age=2 * DAY, conditions=(cases.condition(csrs.DENIED, HOUR + MINUTE),)), True),
        (cases.Case(age=2 * DAY, conditions=(cases.condition(csrs.APPROVED, HOUR + MINUTE),)), False),
        (cases.Case(age=2 * DAY, conditions=(cases.condition(csrs.APPROVED, DAY + MINUTE),)), True),
        (cases.Case(age=2 * DAY, conditions=(cases.condition(csrs.APPROVED, HOUR - MINUTE),), certificate=b"x"), False),
        (cases.Case(age=2 * DAY, conditions=(cases.condition(csrs.APPROVED, HOUR + MINUTE),), certificate=b"x"), True),
        (cases.Case(conditions=(cases.condition(csrs.APPROVED), cases.condition(csrs.FAILED, HOUR + MINUTE))), True),
        (cases.Case(conditions=(cases.condition(csrs.APPROVED), cases.condition(csrs.FAILED, HOUR - MINUTE))), False),
        (cases.Case(age=9 * DAY, conditions=(cases.condition("Other", 8 * DAY),)), False),
    ],
)
def test_the_age_of_deletion(case, is_deleted):
    """An hour after a request was issued or denied or has failed. A pending one is deleted a day after its creation, an
    approved one a day after its approval.
    """
    assert bool(csrcleaner.reason_to_delete(case.csr(), cases.NOW)) is is_deleted
