"""Stores compared with a model: a dictionary that keeps all its earlier states."""

from __future__ import annotations

import asyncio
import contextlib
import pathlib
import tempfile

import hypothesis
import pytest
from hypothesis import strategies as st

from certplane.store import contract, memory, sqlite

KEYS = st.sampled_from(["/a", "/a/1", "/a/2", "/b", "/é"])
OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("create"), KEYS, st.binary(max_size=4)),
        st.tuples(st.just("update"), KEYS, st.binary(max_size=4)),
        st.tuples(st.just("stale"), KEYS, st.binary(max_size=4)),
        st.tuples(st.just("delete"), KEYS, st.just(b"")),
        st.tuples(st.just("compact"), KEYS, st.just(b"")),
        st.tuples(st.just("reopen"), KEYS, st.just(b"")),
    ),
    max_size=25,
)


class Model:
    """States by revision; keys hold (value, mod_revision)."""

    def __init__(self):
        self.states = {1: {}}
        self.changes = []
        self.oldest = 1

    @property
    def revision(self):
        return max(self.states)

    @property
    def current(self):
        return self.states[self.revision]

    def write(self, key, value):
        revision = self.revision + 1
        state = dict(self.current)
        if value is None:
            del state[key]
        else:
            state[key] = (value, revision)
        self.states[revision] = state
        self.changes.append((revision, key, value))


async def _step(store, model, kind, key, value):
    held = model.current.get(key)
    if kind == "create":
        if held is None:
            await store.create(key, value)
            model.write(key, value)
        else:
            with pytest.raises(contract.KeyExists):
                await store.create(key, value)
    elif kind == "update" and held is not None:
        await store.update(key, value, held[1])
        model.write(key, value)
    elif kind == "delete" and held is not None:
        await store.delete(key, held[1])
        model.write(key, None)
    elif kind == "compact":
        model.oldest = max(model.oldest, model.revision - 2)
        await store.compact(model.oldest)
    elif kind == "stale":
        with pytest.raises(contract.RevisionMismatch):
            await store.update(key, value, (held[1] if held else 0) + 1)


async def _check(store, model):
    """The store has the readable states and the changes of the model."""
    assert await store.revision() == model.revision
    for revision in range(model.oldest, model.revision + 1):
        listed = await store.list("/", revision=revision)
        expected = sorted(model.states[revision].items(), key=lambda item: item[0].encode())
        assert [(item.key, (item.value, item.mod_revision)) for item in listed.items] == expected
    if model.oldest > 1:
        with pytest.raises(contract.Compacted):
            await store.list("/", revision=model.oldest - 1)
    changes = []
    watch = await store.watch("/", model.oldest, changes.extend, lambda _: None)
    watch.close()
    expected = [change for change in model.changes if change[0] > model.oldest]
    assert [
        (change.revision, change.key, change.current.value if change.current else None) for change in changes
    ] == expected


async def _run(operations, directory):
    def open_store():
        return sqlite.open_store(directory / "store.sqlite") if directory else memory.MemoryStore()

    model, store = Model(), open_store()
    try:
        for kind, key, value in operations:
            if kind == "reopen" and directory:
                await store.close()
                store = open_store()
            await _step(store, model, kind, key, value)
        await _check(store, model)
    finally:
        await store.close()


@hypothesis.settings(max_examples=100, deadline=None)
@hypothesis.given(OPERATIONS)
def test_the_memory_store_equals_the_model(operations):
    """After any operations, all readable states and all changes of a watch are those of the model."""
    asyncio.run(_run(operations, None))


@hypothesis.settings(max_examples=60, deadline=None)
@hypothesis.given(OPERATIONS)
def test_the_sqlite_store_equals_the_model(operations):
    """The store is also closed and opened again between operations."""
    with contextlib.ExitStack() as stack:
        directory = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
        asyncio.run(_run(operations, directory))
