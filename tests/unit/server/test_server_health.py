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
    verdict = checks(advice="no signing certificate was given").answer("/readyz", {"verbose": [""]})

    assert 200 == verdict.status
    assert "[!]signing not working, tolerated: no signing certificate was given" in verdict.text


def test_single_check():
    """A check can be asked alone; an unknown one is no path."""
    assert health.Verdict(200, "ok", single=True) == checks().answer("/livez/store", {})
    assert checks().answer("/livez/nope", {}) is None
    assert checks().answer("/livez/synced", {}) is None
