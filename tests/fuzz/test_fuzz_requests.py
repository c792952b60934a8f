"""Whole requests through the whole pipeline: every response follows the rules of `world`."""

from __future__ import annotations

import hypothesis
import pytest
from hypothesis import strategies as st

from tests.fuzz import documents, strategies
from tests.fuzz.world import examples


@pytest.mark.parametrize("kind", documents.KINDS, ids=lambda kind: f"{kind.plural}, {kind.api_version}")
def test_the_world_has_an_object_of_every_kind(world, kind):
    """The world has an object of each kind, which can be read in every representation."""
    world.run(world.check_lists(kind))
    (reply,) = world.ask(documents.Request("GET", f"{documents.collection(kind)}/seed"))
    assert reply.status == 200


@examples(337)
@hypothesis.given(request_=strategies.writes(documents.JSON))
def test_json_bodies(world, request_):
    """Documents with a few wrong values, members or bytes are accepted or refused."""
    world.ask(request_)


@examples(270)
@hypothesis.given(request_=strategies.writes(documents.YAML))
def test_yaml_bodies(world, request_):
    """The same in YAML, with tags, anchors and unusual scalars."""
    world.ask(request_)


@examples(337)
@hypothesis.given(request_=strategies.writes(documents.PROTOBUF))
def test_protobuf_bodies(world, request_):
    """Truncated messages, wrong wire types, unknown, repeated and nested fields."""
    world.ask(request_)


@pytest.mark.parametrize("patch_type", [documents.JSON_PATCH, documents.MERGE, documents.STRATEGIC, documents.APPLY])
@examples(162)
@hypothesis.given(data=st.data())
def test_patches(world, patch_type, data):
    """Patches of all types, with invalid pointers and directives."""
    world.ask(data.draw(strategies.patches(patch_type)))


@examples(162)
@hypothesis.given(data=st.data())
def test_managed_fields(world, data):
    """Unusual managedFields are dropped or kept, and used by later applies."""
    number, request = data.draw(strategies.owned())
    then = [
        data.draw(strategies.patches(documents.APPLY, documents.KINDS[number]))
        for _ in range(data.draw(st.integers(0, 2)))
    ]
    world.ask(request, *then)


@examples(405)
@hypothesis.given(request_=strategies.reads())
def test_reads(world, request_):
    """Lists, gets and watches with unusual selectors, tokens, revisions, limits and times."""
    world.ask(request_)


@examples(162)
@hypothesis.given(request_=strategies.deletions())
def test_deletions(world, request_):
    """Deletions of objects and collections, with unusual options in query and body."""
    world.ask(request_)


@examples(540)
@hypothesis.given(request_=strategies.anonymous_requests())
def test_anonymous_requests(world, request_):
    """Any method on any path, with any header fields and any user."""
    world.ask(request_)


@examples(270)
@hypothesis.given(request_=strategies.identities())
def test_credentials(world, request_):
    """Tokens with valid or invalid signatures, and impersonation."""
    world.ask(request_)


SEQUENCES = st.lists(
    st.one_of(
        strategies.writes(documents.JSON),
        strategies.patches(documents.MERGE),
        strategies.patches(documents.JSON_PATCH),
        strategies.patches(documents.APPLY),
        strategies.deletions(),
        strategies.reads(),
    ),
    min_size=2,
    max_size=6,
)


@examples(81)
@hypothesis.given(requests=SEQUENCES)
def test_sequences_of_requests(world, requests):
    """The effects of one request do not break the next one."""
    world.ask(*requests)
