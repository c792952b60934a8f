"""certplane.meta.objects: what every object shares."""

from __future__ import annotations

import datetime

import pytest

from certplane import clock
from certplane.meta import codec, objects

LEAP_YEAR = [
    datetime.datetime(2028, 1, 1, 23, 59, 59, tzinfo=datetime.UTC) + datetime.timedelta(days) for days in range(366)
]


@pytest.mark.parametrize("moment", LEAP_YEAR, ids=clock.rfc3339)
def test_an_object_made_on_any_day_can_be_read_again(moment):
    """What was stored is read, whatever the day of the month was (the 30th and 31st once were not)."""
    stored = objects.Object(metadata=objects.ObjectMeta(name="x", creation_timestamp=clock.rfc3339(moment)))
    assert codec.decode(codec.encode(stored), objects.Object) == stored
