"""Documents that a server has besides its own."""

import pytest

from certplane import errors, testing
from certplane.server import discovery, exchange

KEYS = discovery.Document(200, "application/jwk-set+json", b"{}")


def ask(path, method="GET", accept=""):
    others = {"/keys": KEYS}
    found = discovery.Discovery((), (), server_address="a:1", clock=testing.FakeClock(), others=others)
    return found.answer(exchange.Exchange(method, path, "", exchange.Headers([(b"accept", accept.encode())])))


@pytest.mark.parametrize("path", ["/keys", "/keys/"])
@pytest.mark.parametrize("accept", ["", "*/*", "text/html,application/jwk-set+json"])
def test_one_form_for_who_takes_it(path, accept):
    """Others have routes of their own, with the one type that they come in."""
    assert ask(path, accept=accept) is KEYS


def test_who_takes_no_such_form():
    """The refusal names the one that there is."""
    with pytest.raises(errors.NotAcceptable, match=r"Available representations: application/jwk-set\+json$"):
        ask("/keys", accept="application/*")


def test_other_methods():
    """They are judged before the form is."""
    with pytest.raises(errors.MethodNotAllowed):
        ask("/keys", "HEAD", "text/html")


def test_what_is_none_of_ours():
    """A path that leads nowhere has no document."""
    assert ask("/nope") is None
