"""Documents from strangers: JSON, selectors, patches, apply. What comes is read as meant, or refused in words."""

from __future__ import annotations

import contextlib
import json

import hypothesis
import jsonpatch
import msgspec
import pytest
from hypothesis import strategies as st

from certplane import errors
from certplane.meta import apply, codec, gojson, goyaml, patches, selectors, shape, strategic
from certplane.resources import certificatesigningrequests as csrs

CSR = shape.of(csrs.CertificateSigningRequest)
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
def test_json_is_what_it_is(tree):
    """A document that anybody can write is read as everybody reads it."""
    assert gojson.plain(codec.parse_json(json.dumps(tree).encode()), numbers=True) == tree


@hypothesis.given(st.binary(max_size=60))
def test_any_bytes_are_json_or_a_syntax_problem(data):
    """Nothing else ever comes out of the reader, and what it accepts without bad UTF-8 is JSON to others too."""
    with contextlib.suppress(gojson.SyntaxProblem):
        codec.parse_json(data)


@hypothesis.given(st.text(' {}[]",:0123456789.eE+-truefalsnu\\/', max_size=30))
def test_the_two_scanners_agree(text):
    """The fast way through the standard library and the exact one read the same, or refuse the same."""
    data = text.encode()
    try:
        exact = gojson.parse(data)
    except gojson.SyntaxProblem:
        with pytest.raises(gojson.SyntaxProblem):
            codec.parse_json(data)
    else:
        assert codec.parse_json(data) == exact


@hypothesis.given(st.binary(max_size=60))
def test_any_bytes_are_yaml_or_a_problem(data):
    """The YAML reader fails in its own words only."""
    with contextlib.suppress(goyaml.Problem):
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
    """Parsing what was printed gives the same selector."""
    selector = selectors.parse_labels(",".join(requirements))
    again = selectors.parse_labels(str(selector))
    assert str(again) == str(selector)
    assert again.matches(labels) == selector.matches(labels)


@hypothesis.given(st.text(max_size=30))
def test_any_text_is_a_selector_or_a_bad_request(text):
    """Labels and fields alike."""
    for parse in (selectors.parse_labels, selectors.parse_fields):
        with contextlib.suppress(errors.BadRequest):
            str(parse(text))


@hypothesis.given(LABEL, st.text(max_size=10))
def test_field_selectors_carry_any_value(field, value):
    """What is escaped when it is printed is the same value when it is read."""
    text = str(selectors.FieldSelector((selectors.Term(field, "=", value),)))
    assert selectors.parse_fields(text).exact(field) == value


@hypothesis.given(OBJECTS, OBJECTS)
def test_a_merge_patch_does_what_rfc_7396_says(document, patch):
    """Members are replaced, null removes, and doing it again changes nothing. Beyond the RFC, new lists lose nulls."""

    def without_nulls(new):
        if isinstance(new, dict):
            return {key: without_nulls(value) for key, value in new.items() if value is not None}
        return [without_nulls(each) for each in new] if isinstance(new, list) else new

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

    once = patches.merge_patch(_plain(document), _plain(patch))
    assert once == expected(document, patch)
    assert without_nulls(patches.merge_patch(_plain(once), _plain(patch))) == without_nulls(once)


@hypothesis.given(OBJECTS, OBJECTS)
def test_a_json_patch_leads_where_it_was_made_for(before, after):
    """The difference that another library found leads from one document to the other."""
    operations = jsonpatch.make_patch(before, after).patch
    assert patches.json_patch(_plain(before), operations) == after


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
    """A patch that makes no sense is the client's mistake, and the document stays what it was."""
    original = _plain(document)
    with contextlib.suppress(errors.APIError):
        patches.json_patch(document, operations)
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
    """Labels are added to those that are there; an empty patch changes nothing; twice is once."""
    assert strategic.merge(_plain(document), {}, CSR) == document
    once = strategic.merge(_plain(document), _plain(patch), CSR)
    assert once["metadata"]["labels"] == {**document["metadata"]["labels"], **patch["metadata"]["labels"]}
    assert strategic.merge(_plain(once), _plain(patch), CSR) == once


@hypothesis.given(DOCUMENTS, OBJECTS)
def test_any_strategic_merge_patch_works_or_is_refused(document, patch):
    """It never fails in a way of its own."""
    with contextlib.suppress(errors.APIError):
        strategic.merge(document, {**patch, "metadata": patch}, CSR)


def _by(manager):
    return apply.Writer(manager=manager, api_version="certificates.k8s.io/v1", now="2026-01-01T00:00:00Z")


def _owners(of):
    found = {}
    for entry in of["metadata"].get("managedFields", []):
        fields = entry["fieldsV1"]
        fields = msgspec.json.decode(fields) if isinstance(fields, str | bytes) else fields
        labels = fields.get("f:metadata", {}).get("f:labels", {})
        found[entry["manager"]] = {name.removeprefix("f:") for name in labels if name != "."}
    return found


@hypothesis.given(DOCUMENTS)
def test_applying_twice_is_applying_once(config):
    """The second apply of the same configuration changes nothing, not even who owns what since when."""
    once = apply.apply(None, config, CSR, _by("a"), force=False)
    assert apply.apply(once, config, CSR, _by("a"), force=False) == once


@hypothesis.given(DOCUMENTS, LABELS, LABELS)
def test_owners_own_what_they_applied(config, mine, yours):
    """Each owns the labels it set; a value that differs is a conflict, and force takes it over."""
    first = {**config, "metadata": {"name": "a", "labels": mine}}
    second = {**config, "metadata": {"name": "a", "labels": yours}}
    live = apply.apply(None, first, CSR, _by("a"), force=False)
    disputed = {name for name in mine.keys() & yours.keys() if mine[name] != yours[name]}
    if disputed:
        with pytest.raises(errors.ApplyConflict):
            apply.apply(live, second, CSR, _by("b"), force=False)
    both = apply.apply(live, second, CSR, _by("b"), force=True)
    assert both["metadata"].get("labels", {}) == {**mine, **yours}
    owners = _owners(both)
    assert owners.get("b", set()) == set(yours)
    assert owners.get("a", set()) == set(mine) - disputed


@hypothesis.given(DOCUMENTS, LABELS, LABELS)
def test_what_is_no_longer_applied_goes(config, before, after):
    """A label that its only owner leaves out is removed."""
    live = apply.apply(None, {**config, "metadata": {"name": "a", "labels": before}}, CSR, _by("a"), force=False)
    live = apply.apply(live, {**config, "metadata": {"name": "a", "labels": after}}, CSR, _by("a"), force=False)
    assert live["metadata"].get("labels", {}) == after
