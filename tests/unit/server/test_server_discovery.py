"""Further documents of a server, such as an issuer's keys."""

import pytest

from certplane import errors, testing
from certplane.server import discovery, exchange

KEYS = discovery.Document(200, "application/jwk-set+json", b"{}")


def respond(path, method="GET", accept=""):
    others = {"/keys": KEYS}
    documents = discovery.Discovery((), (), server_address="a:1", clock=testing.FakeClock(), others=others)
    return documents.respond(exchange.Request(method, path, "", exchange.Headers([(b"accept", accept.encode())])))


@pytest.mark.parametrize("path", ["/keys", "/keys/"])
@pytest.mark.parametrize("accept", ["", "*/*", "text/html,application/jwk-set+json"])
def test_other_documents_are_served(path, accept):
    """If their media type is accepted."""
    assert respond(path, accept=accept) is KEYS


def test_other_documents_have_one_media_type():
    """The error names it."""
    with pytest.raises(errors.NotAcceptable, match=r"Available representations: application/jwk-set\+json$"):
        respond("/keys", accept="application/*")


def test_other_documents_take_get_only():
    """The method is checked before the Accept header."""
    with pytest.raises(errors.MethodNotAllowed):
        respond("/keys", "HEAD", "text/html")


def test_unknown_path():
    """There is no document."""
    assert respond("/nope") is None
