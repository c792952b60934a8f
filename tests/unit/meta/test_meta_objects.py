"""The metadata of objects."""

from __future__ import annotations

import datetime

import pytest

from certplane import timestamps
from certplane.meta import objects
from certplane.wire import codec

LEAP_YEAR = [
    datetime.datetime(2028, 1, 1, 23, 59, 59, tzinfo=datetime.UTC) + datetime.timedelta(days) for days in range(366)
]


@pytest.mark.parametrize("moment", LEAP_YEAR, ids=timestamps.rfc3339)
def test_creation_timestamps_of_all_days_can_be_decoded(moment):
    """Stored objects can be decoded whatever the day of the month is (the 30th and 31st once could not)."""
    stored = objects.Object(metadata=objects.ObjectMeta(name="x", creation_timestamp=timestamps.rfc3339(moment)))
    assert codec.decode(codec.encode(stored), objects.Object) == stored
