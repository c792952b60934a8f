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


def test_all_checks_pass():
    """The response is a bare ok."""
    assert health.Result(200, "ok") == checks().run("/readyz", {})


def test_failure_withholds_the_reason():
    """The response is a 500 without the reason."""
    result = checks("disk full").run("/livez", {})

    assert 500 == result.status
    assert "[-]store failed: reason withheld" in result.text
    assert "disk full" not in result.text


def test_excluded_check():
    """It does not count."""
    assert 200 == checks("disk full").run("/livez", {"exclude": ["store"]}).status


def test_advisory_check():
    """Its failure shows in ?verbose and does not fail the whole."""
    result = checks(advice="/etc/ca.key is missing").run("/readyz", {"verbose": [""]})

    assert 200 == result.status
    assert "[!]signing failed, ignored: reason withheld" in result.text


def test_reasons_are_shown_if_allowed():
    """They name files of the machine."""
    health_checks = checks("disk full", "/etc/ca.key is missing")
    text = health_checks.run("/readyz", {"verbose": [""]}, shows_reasons=True).text

    assert "[-]store failed: disk full" in text
    assert "[!]signing failed, ignored: /etc/ca.key is missing" in text


def test_single_check():
    """Each check has a path; an unknown one does not."""
    assert health.Result(200, "ok", is_single=True) == checks().run("/livez/store", {})
    assert checks().run("/livez/nope", {}) is None
    assert checks().run("/livez/synced", {}) is None
