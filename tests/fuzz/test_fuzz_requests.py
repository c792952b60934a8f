"""Whole requests, through the whole pipeline: whatever comes, the answer keeps the law of `world.check`."""

from __future__ import annotations

import hypothesis
import pytest
from hypothesis import strategies as st

from tests.fuzz import documents, strategies
from tests.fuzz.world import examples


@pytest.mark.parametrize("of", documents.KINDS, ids=lambda of: f"{of.plural}, {of.api_version}")
def test_every_kind_is_there_to_be_changed(world, of):
    """The world begins with an object of each kind, which reads in every form."""
    world.run(world.check_lists(of))
    (reply,) = world.ask(documents.Request("GET", f"{documents.collection(of)}/seed"))
    assert reply.status == 200


@examples(337)
@hypothesis.given(request_=strategies.writes(documents.JSON))
def test_json_bodies(world, request_):
    """Documents with a few wrong values, members or bytes are stored, answered or refused."""
    world.ask(request_)


@examples(270)
@hypothesis.given(request_=strategies.writes(documents.YAML))
def test_yaml_bodies(world, request_):
    """The same in YAML, with its tags, anchors and odd scalars."""
    world.ask(request_)


@examples(337)
@hypothesis.given(request_=strategies.writes(documents.PROTOBUF))
def test_protobuf_bodies(world, request_):
    """Messages cut short, of wrong wire types, with unknown, repeated and nested fields."""
    world.ask(request_)


@pytest.mark.parametrize("patch_type", [documents.JSON_PATCH, documents.MERGE, documents.STRATEGIC, documents.APPLY])
@examples(162)
@hypothesis.given(data=st.data())
def test_patches(world, patch_type, data):
    """Patches of all types, with pointers and directives that lead nowhere."""
    world.ask(data.draw(strategies.patches(patch_type)))


@examples(162)
@hypothesis.given(data=st.data())
def test_owners_of_fields(world, data):
    """managedFields that say odd things are dropped or kept, and what is applied afterwards is judged by them."""
    number, request = data.draw(strategies.owned())
    then = [
        data.draw(strategies.patches(documents.APPLY, documents.KINDS[number]))
        for _ in range(data.draw(st.integers(0, 2)))
    ]
    world.ask(request, *then)


@examples(405)
@hypothesis.given(request_=strategies.reads())
def test_reads(world, request_):
    """Lists, gets and watches with odd selectors, tokens, revisions, limits and times."""
    world.ask(request_)


@examples(162)
@hypothesis.given(request_=strategies.deletions())
def test_deletions(world, request_):
    """Deletions of objects and of collections, with odd options in query and body."""
    world.ask(request_)


@examples(540)
@hypothesis.given(request_=strategies.strangers())
def test_strangers(world, request_):
    """Any method on any path, with any header fields, from anybody or nobody."""
    world.ask(request_)


@examples(270)
@hypothesis.given(request_=strategies.identities())
def test_credentials(world, request_):
    """Tokens of all sorts, well signed or not, and requests to be taken for somebody else."""
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
def test_one_after_the_other(world, requests):
    """What one request left behind does not break the next one."""
    world.ask(*requests)
