"""The timeout parameter of requests."""

from __future__ import annotations

import pytest

from certplane import errors
from certplane.golang import formatting
from certplane.meta import options


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("", None), ("1s", 1), ("+1m", 60), ("1h30m", 5400), ("0", 0), ("0s", 0), ("-1s", None), ("5\u03bcs", 5e-6)],
)
def test_a_timeout_is_a_go_duration(text, seconds):
    """With or without a sign; a negative one means none."""
    assert options.timeout({"timeout": [text]}) == seconds


@pytest.mark.parametrize(
    ("text", "error"),
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
def test_an_invalid_timeout_is_refused(text, error):
    """With the first error that Go finds, however large the number is."""
    with pytest.raises(errors.BadRequest) as caught:
        options.timeout({"timeout": [text]})
    message = f'invalid timeout specified in the request URL - time: {error} duration "{text}"'
    assert caught.value.message == message


@pytest.mark.parametrize(("text", "hours"), [("2562047h", 2562047), ("2562048h", None), ("999999999999h", None)])
def test_the_maximum_duration_is_that_of_go(text, hours):
    """63 bits of nanoseconds are 292 years."""
    duration = formatting.parse_duration(text)
    assert (duration and duration.total_seconds() / 3600) == hours


@pytest.mark.parametrize("text", ["0" * 60_000 + "x", "1ns" * 20_000 + "x", "1" * 60_000, "." * 60_000, "+-1s"])
def test_long_timeouts_are_parsed_in_linear_time(text):
    """They are parsed before authentication: backtracking over zeros once took a minute."""
    with pytest.raises(errors.BadRequest, match="duration"):
        options.timeout({"timeout": [text]})
