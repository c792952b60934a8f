"""The requests that were recorded from a real API server are sent to certplane, and the responses are compared.

A case in the list of known failures must fail; when it passes, it has to be removed from the list.
"""

from __future__ import annotations

import contextlib

import pytest

from tests.conformance import corpus, player, wire

#: Timeout of a polled step in seconds. It is short, because known failures wait for the whole time.
PATIENCE = 3


@pytest.fixture(scope="module")
def conversation(server, tmp_path_factory):
    pki = server.data / "pki"
    clients = wire.Identities(
        corpus.identities(), pki / "ca.crt", pki / "ca.key", tmp_path_factory.mktemp("identities")
    )
    with contextlib.closing(player.Player(server.url, clients, timeout=10, patience=PATIENCE)) as conversation:
        yield conversation


# The cases of a topic share a server, so they run in one process.
@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=name, marks=pytest.mark.xdist_group(name.partition("/")[0]))
        for name, case in corpus.cases().items()
    ],
)
def test_responses_match_the_recorded_ones(case, conversation):
    """The responses are those of the real server, or the case is a known failure and fails."""
    differences = corpus.differences(case, conversation)
    reason = corpus.known_failures().get(case["id"])
    if reason is None:
        assert not differences, corpus.described(differences)
    else:
        assert differences, f"passes now: take it off known_failures.txt ({reason})"
