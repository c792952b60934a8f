"""Health paths."""

from certplane.server import health


def checks(problem=None, advice=None):
    return health.Health(
        [
            health.Check("ping", lambda: None),
            health.Check("store", lambda: problem),
            health.Check("synced", lambda: None, ready_only=True),
            health.Check("signing", lambda: advice, ready_only=True, advisory=True),
        ]
    )


def test_all_well():
    """If nothing is wrong, the answer is a bare ok."""
    assert health.Verdict(200, "ok") == checks().answer("/readyz", {})


def test_failure_withholds_the_reason():
    """A failing check makes the whole 500 and does not tell strangers why."""
    verdict = checks("disk full").answer("/livez", {})

    assert 500 == verdict.status
    assert "[-]store failed: reason withheld" in verdict.text
    assert "disk full" not in verdict.text


def test_excluded():
    """An excluded check does not count."""
    assert 200 == checks("disk full").answer("/livez", {"exclude": ["store"]}).status


def test_advisory():
    """What does not work, though the server does, is told by ?verbose and fails nothing."""
    verdict = checks(advice="/etc/ca.key is missing").answer("/readyz", {"verbose": [""]})

    assert 200 == verdict.status
    assert "[!]signing not working, tolerated: reason withheld" in verdict.text


def test_reasons_are_for_those_who_may_know():
    """They name files of the machine."""
    health_ = checks("disk full", "/etc/ca.key is missing")
    text = health_.answer("/readyz", {"verbose": [""]}, tells_reasons=True).text

    assert "[-]store failed: disk full" in text
    assert "[!]signing not working, tolerated: /etc/ca.key is missing" in text


def test_single_check():
    """A check can be asked alone; an unknown one is no path."""
    assert health.Verdict(200, "ok", single=True) == checks().answer("/livez/store", {})
    assert checks().answer("/livez/nope", {}) is None
    assert checks().answer("/livez/synced", {}) is None
