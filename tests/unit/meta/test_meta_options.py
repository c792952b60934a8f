"""Options in the query: what a client gives a request in time."""

from __future__ import annotations

import pytest

from certplane import errors, gotext
from certplane.meta import options


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("", None), ("1s", 1), ("+1m", 60), ("1h30m", 5400), ("0", 0), ("0s", 0), ("-1s", None), ("5\u03bcs", 5e-6)],
)
def test_a_timeout_is_a_go_duration(text, seconds):
    """With or without a sign; a negative one is none."""
    assert options.timeout({"timeout": [text]}) == seconds


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("abc", "invalid"),
        ("s", "invalid"),
        ("-", "invalid"),
        ("99999999999999999999h", "invalid"),
        ("99999999999999999999", "invalid"),
        ("1", "missing unit in"),
        ("-1.5", "missing unit in"),
        ("1h2", "missing unit in"),
        ("1 s", 'unknown unit " s" in'),
        ("1e9s", 'unknown unit "e" in'),
        ("1h2d", 'unknown unit "d" in'),
    ],
)
def test_what_is_no_duration_is_refused(text, why):
    """With the first thing that Go finds, and without a fault of ours however large it is."""
    with pytest.raises(errors.BadRequest) as caught:
        options.timeout({"timeout": [text]})
    told = f'invalid timeout specified in the request URL - time: {why} duration "{text}"'
    assert caught.value.message == told


@pytest.mark.parametrize(("text", "hours"), [("2562047h", 2562047), ("2562048h", None), ("999999999999h", None)])
def test_durations_end_where_gos_do(text, hours):
    """292 years of nanoseconds fit into 63 bits."""
    found = gotext.parse_duration(text)
    assert (found and found.total_seconds() / 3600) == hours


@pytest.mark.parametrize("text", ["0" * 60_000 + "x", "1ns" * 20_000 + "x", "1" * 60_000, "." * 60_000, "+-1s"])
def test_long_ones_are_read_once(text):
    """They are read before anybody has said who he is: zeros were tried in all ways, which took a minute."""
    with pytest.raises(errors.BadRequest, match="duration"):
        options.timeout({"timeout": [text]})
