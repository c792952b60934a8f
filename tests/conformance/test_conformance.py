"""Every recorded case of a real API server is played against certplane, and the answers are compared.

A case that is on the list of known failures has to fail: once it passes, it comes off the list.
"""

from __future__ import annotations

import contextlib

import pytest

from tests.conformance import corpus, player, wire

#: A polled step gives up after so many seconds. Nothing here takes longer; what is not there would be waited for.
PATIENCE = 3


@pytest.fixture(scope="module")
def conversation(server, tmp_path_factory):
    pki = server.data / "pki"
    clients = wire.Identities(
        corpus.identities(), pki / "ca.crt", pki / "ca.key", tmp_path_factory.mktemp("identities")
    )
    with contextlib.closing(player.Player(server.url, clients, timeout=10, patience=PATIENCE)) as conversation:
        yield conversation


# The cases of a topic share a server and run one after the other.
@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=name, marks=pytest.mark.xdist_group(name.partition("/")[0]))
        for name, case in corpus.cases().items()
    ],
)
def test_the_wire_is_what_it_was_recorded_as(case, conversation):
    """The answers to a case are those of the real server, or the case is known to fail and does."""
    differences = corpus.differences(case, conversation)
    reason = corpus.known_failures().get(case["id"])
    if reason is None:
        assert not differences, corpus.described(differences)
    else:
        assert differences, f"passes now: take it off known_failures.txt ({reason})"
