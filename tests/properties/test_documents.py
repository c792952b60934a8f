"""JSON, YAML, selectors, patches and apply: any input is decoded correctly, or refused."""

from __future__ import annotations

import contextlib
import json

import hypothesis
import jsonpatch as reference
import msgspec
import pytest
from hypothesis import strategies as st

from certplane import errors
from certplane.golang import gojson, goyaml
from certplane.meta import selectors, shapes
from certplane.patch import apply, jsonpatch, strategic
from certplane.resources import certificatesigningrequests as csrs
from certplane.wire import codec

CSR = shapes.shape_of(csrs.CertificateSigningRequest)
NAMES = st.text("abcde", min_size=1, max_size=2)
LEAVES = st.one_of(st.none(), st.booleans(), st.integers(-(2**53), 2**53), st.text(max_size=6))
TREES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(NAMES, inner, max_size=3)),
    max_leaves=12,
)
OBJECTS = st.dictionaries(NAMES, TREES, max_size=4)


def _plain(tree):
    return json.loads(json.dumps(tree))


@hypothesis.given(TREES)
def test_json_is_parsed_like_by_the_standard_library(tree):
    """A document that the standard library writes is parsed to the same values."""
    assert gojson.to_builtins(codec.parse_json(json.dumps(tree).encode()), numbers=True) == tree


@hypothesis.given(st.binary(max_size=60))
def test_any_bytes_are_json_or_a_syntax_error(data):
    """The parser raises nothing else."""
    with contextlib.suppress(gojson.JSONSyntaxError):
        codec.parse_json(data)


@hypothesis.given(st.text(' {}[]",:0123456789.eE+-truefalsnu\\/', max_size=30))
def test_both_json_parsers_agree(text):
    """The fast path through the standard library and `gojson` accept and refuse the same texts."""
    data = text.encode()
    try:
        tree = gojson.parse(data)
    except gojson.JSONSyntaxError:
        with pytest.raises(gojson.JSONSyntaxError):
            codec.parse_json(data)
    else:
        assert codec.parse_json(data) == tree


@hypothesis.given(st.binary(max_size=60))
def test_any_bytes_are_yaml_or_an_error(data):
    """The parser raises nothing else."""
    with contextlib.suppress(goyaml.YAMLError):
        goyaml.parse(data)


LABEL = st.text("abcxyz0189.-_", min_size=1, max_size=8).filter(lambda text: text[0].isalnum() and text[-1].isalnum())
REQUIREMENTS = st.one_of(
    st.builds("{}={}".format, LABEL, LABEL),
    st.builds("{}!={}".format, LABEL, LABEL),
    st.builds("{} in ({},{})".format, LABEL, LABEL, LABEL),
    st.builds("{} notin ({})".format, LABEL, LABEL),
    LABEL,
    st.builds("!{}".format, LABEL),
)


@hypothesis.given(st.lists(REQUIREMENTS, max_size=4), st.dictionaries(LABEL, LABEL, max_size=4))
def test_a_printed_selector_selects_the_same(requirements, labels):
    """A selector that is printed and parsed again is the same."""
    selector = selectors.parse_labels(",".join(requirements))
    again = selectors.parse_labels(str(selector))
    assert str(again) == str(selector)
    assert again.matches(labels) == selector.matches(labels)


@hypothesis.given(st.text(max_size=30))
def test_any_text_is_a_selector_or_a_bad_request(text):
    """Label selectors and field selectors raise nothing else."""
    for parse in (selectors.parse_labels, selectors.parse_fields):
        with contextlib.suppress(errors.BadRequest):
            str(parse(text))


@hypothesis.given(LABEL, st.text(max_size=10))
def test_field_selectors_can_have_any_value(field, value):
    """A value that is escaped and parsed again is the same."""
    text = str(selectors.FieldSelector((selectors.Term(field, "=", value),)))
    assert selectors.parse_fields(text).required_value(field) == value


@hypothesis.given(OBJECTS, OBJECTS)
def test_a_merge_patch_follows_rfc_7396(document, patch):
    """Members are replaced, null removes, and a second time changes nothing. Beyond the RFC, new lists lose nulls."""

    def without_nulls(new):
        if isinstance(new, dict):
            return {key: without_nulls(value) for key, value in new.items() if value is not None}
        return [without_nulls(item) for item in new] if isinstance(new, list) else new

    def expected(old, new):
        if not isinstance(new, dict):
            return new if isinstance(old, dict) else without_nulls(new)
        merged = dict(old) if isinstance(old, dict) else {}
        for key, value in new.items():
            if value is None:
                merged.pop(key, None)
            else:
                merged[key] = expected(merged.get(key), value)
        return merged

    once = jsonpatch.merge_patch(_plain(document), _plain(patch))
    assert once == expected(document, patch)
    assert without_nulls(jsonpatch.merge_patch(_plain(once), _plain(patch))) == without_nulls(once)


@hypothesis.given(OBJECTS, OBJECTS)
def test_a_json_patch_of_another_library_is_applied(before, after):
    """The patch that another library makes of two documents turns one into the other."""
    operations = reference.make_patch(before, after).patch
    assert jsonpatch.json_patch(_plain(before), operations) == after


OPERATIONS = st.lists(
    st.fixed_dictionaries(
        {
            "op": st.sampled_from(["add", "remove", "replace", "move", "copy", "test", "x"]),
            "path": st.text("/ab01-~", max_size=6),
        },
        optional={"value": TREES, "from": st.text("/ab01-~", max_size=6)},
    ),
    max_size=4,
)


@hypothesis.given(OBJECTS, OPERATIONS)
def test_any_json_patch_works_or_is_refused(document, operations):
    """An invalid patch is an APIError, and the document is never changed."""
    original = _plain(document)
    with contextlib.suppress(errors.APIError):
        jsonpatch.json_patch(document, operations)
    assert document == original


CONDITIONS = st.lists(
    st.fixed_dictionaries({"type": st.sampled_from(["A", "B", "C"]), "status": st.sampled_from(["True", "False"])}),
    max_size=3,
    unique_by=lambda condition: condition["type"],
)
LABELS = st.dictionaries(NAMES, st.text("xyz", max_size=2), max_size=3)
DOCUMENTS = st.fixed_dictionaries(
    {
        "apiVersion": st.just("certificates.k8s.io/v1"),
        "kind": st.just("CertificateSigningRequest"),
        "metadata": st.fixed_dictionaries({"name": st.just("a"), "labels": LABELS}),
        "status": st.fixed_dictionaries({"conditions": CONDITIONS}),
    }
)


@hypothesis.given(DOCUMENTS, DOCUMENTS)
def test_a_strategic_merge_patch_merges_maps(document, patch):
    """Labels are added to the existing ones; an empty patch changes nothing, and neither does a second time."""
    assert strategic.merge(_plain(document), {}, CSR) == document
    once = strategic.merge(_plain(document), _plain(patch), CSR)
    assert once["metadata"]["labels"] == {**document["metadata"]["labels"], **patch["metadata"]["labels"]}
    assert strategic.merge(_plain(once), _plain(patch), CSR) == once


@hypothesis.given(DOCUMENTS, OBJECTS)
def test_any_strategic_merge_patch_works_or_is_refused(document, patch):
    """An invalid patch is an APIError."""
    with contextlib.suppress(errors.APIError):
        strategic.merge(document, {**patch, "metadata": patch}, CSR)


def _writer(manager):
    return apply.FieldManager(name=manager, api_version="certificates.k8s.io/v1", now="2026-01-01T00:00:00Z")


def _label_owners(document):
    owners = {}
    for entry in document["metadata"].get("managedFields", []):
        fields = entry["fieldsV1"]
        fields = msgspec.json.decode(fields) if isinstance(fields, str | bytes) else fields
        labels = fields.get("f:metadata", {}).get("f:labels", {})
        owners[entry["manager"]] = {name.removeprefix("f:") for name in labels if name != "."}
    return owners


@hypothesis.given(DOCUMENTS)
def test_apply_is_idempotent(config):
    """The second apply of the same configuration changes nothing, not even managedFields."""
    once = apply.apply(None, config, CSR, _writer("a"), force=False)
    assert apply.apply(once, config, CSR, _writer("a"), force=False) == once


@hypothesis.given(DOCUMENTS, LABELS, LABELS)
def test_managers_own_what_they_applied(config, first_labels, second_labels):
    """Each manager owns the labels that it applied; a different value is a conflict, and force takes it over."""
    first = {**config, "metadata": {"name": "a", "labels": first_labels}}
    second = {**config, "metadata": {"name": "a", "labels": second_labels}}
    live = apply.apply(None, first, CSR, _writer("a"), force=False)
    disputed = {
        name for name in first_labels.keys() & second_labels.keys() if first_labels[name] != second_labels[name]
    }
    if disputed:
        with pytest.raises(errors.ApplyConflict):
            apply.apply(live, second, CSR, _writer("b"), force=False)
    both = apply.apply(live, second, CSR, _writer("b"), force=True)
    assert both["metadata"].get("labels", {}) == {**first_labels, **second_labels}
    owners = _label_owners(both)
    assert owners.get("b", set()) == set(second_labels)
    assert owners.get("a", set()) == set(first_labels) - disputed


@hypothesis.given(DOCUMENTS, LABELS, LABELS)
def test_fields_that_are_no_longer_applied_are_removed(config, before, after):
    """A label is removed when its only owner omits it."""
    live = apply.apply(None, {**config, "metadata": {"name": "a", "labels": before}}, CSR, _writer("a"), force=False)
    live = apply.apply(live, {**config, "metadata": {"name": "a", "labels": after}}, CSR, _writer("a"), force=False)
    assert live["metadata"].get("labels", {}) == after
