"""Accept headers and content types."""

import pytest

from certplane import errors
from certplane.meta import goyaml
from certplane.server import negotiation
from certplane.server.negotiation import ALL_TRANSFORMS, JSON, NO_TRANSFORMS, PROTOBUF, YAML, Form

TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io"


@pytest.mark.parametrize(
    ("accept", "transforms", "expected"),
    [
        ("", ALL_TRANSFORMS, Form(JSON)),
        ("*/*", ALL_TRANSFORMS, Form(JSON)),
        ("application/yaml", ALL_TRANSFORMS, Form(YAML)),
        ("application/vnd.kubernetes.protobuf,application/json", ALL_TRANSFORMS, Form(PROTOBUF)),
        ("text/html;q=0.9,application/json;q=0.1", ALL_TRANSFORMS, Form(JSON)),
        ("application/json;q=0.2,application/yaml;q=0.8", ALL_TRANSFORMS, Form(YAML)),
        (TABLE, ALL_TRANSFORMS, Form(JSON, "Table")),
        (TABLE + ",application/json", NO_TRANSFORMS, Form(JSON)),
        ("application/json;as=Table;v=v9;g=meta.k8s.io,application/json", ALL_TRANSFORMS, Form(JSON)),
        ("application/json;as=Table;v=v1beta1;g=meta.k8s.io", ALL_TRANSFORMS, Form(JSON, "Table", "v1beta1")),
    ],
)
def test_first_acceptable_clause(accept, transforms, expected):
    """The clause with the highest quality that can be served decides; its order breaks ties."""
    assert expected == negotiation.negotiate(accept, transforms)


@pytest.mark.parametrize(
    "accept", ["text/html", "application/*", "application/cbor", "*", "APPLICATION/JSON", "application/", "/", ","]
)
def test_unserved_types(accept):
    """What names no type that a route has is refused with the list of those; the only star that counts takes all."""
    with pytest.raises(errors.NotAcceptable, match="Available representations: application/json, application/yaml"):
        negotiation.check_route(accept, negotiation.LISTED)


@pytest.mark.parametrize(
    "accept", ["", "text/html;q=1, */*;q=0.1", "application/json;q=0", "text/html, application/yaml"]
)
def test_served_types(accept):
    """One that a route has is enough, wherever it stands and however little it is wanted."""
    negotiation.check_route(accept, negotiation.LISTED)


def test_watch_has_no_yaml():
    """A watch cannot be had in YAML, and the refusal lists the streams."""
    negotiation.check_stream(Form(JSON))

    with pytest.raises(errors.APIError, match="application/json;stream=watch, application/vnd"):
        negotiation.check_stream(Form(YAML))


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("application/json;q=0.5,application/yaml;q=0.5", JSON),
        ("*/*,application/yaml;q=0.1", YAML),
        ("application/json;q=abc,application/yaml;q=0.1", YAML),
        ("application/json; q = 0.9,application/yaml;q=0.1", YAML),
        ("application/json;x;q=0.1;=,application/yaml;q=0.2", YAML),
        ("application/*;q=0.5,application/yaml;q=0.1", YAML),
        ("*", JSON),
    ],
)
def test_order_of_ranges(accept, expected):
    """The best quality first, but a range with a star behind one without; a quality that is none is the lowest."""
    assert expected == negotiation.negotiate(accept, NO_TRANSFORMS).media_type


def test_unknown_transformation():
    """A known type in an unknown shape gets the other text of a 406."""
    with pytest.raises(negotiation.NoSuchForm, match="only the following media types are accepted"):
        negotiation.negotiate("application/json;as=Table;v=v1;g=example.com", ALL_TRANSFORMS)


@pytest.mark.parametrize(
    "parameters",
    [
        "v=v1;g=meta.k8s.io",
        "v=v1",
        "stream=events",
        "sv=v2",
        'as="Table";v="v1";g="meta.k8s.io"',
        "as=table;v=v1;g=meta.k8s.io",
        "AS=Table;v=v1;g=meta.k8s.io",
    ],
)
def test_parameters_that_ask_for_something_else(parameters):
    """A clause is skipped that names a version but no form, another stream than that of a watch, or another server."""
    with pytest.raises(negotiation.NoSuchForm):
        negotiation.negotiate(f"application/json;{parameters}", ALL_TRANSFORMS)

    found = negotiation.negotiate(f"application/json;{parameters},{YAML};stream=watch", ALL_TRANSFORMS)
    assert found == Form(YAML)


@pytest.mark.parametrize(
    ("content_type", "expected"),
    [
        ("", JSON),
        ("application/json; charset=utf-8", JSON),
        ("Application/YAML", YAML),
        (PROTOBUF, PROTOBUF),
        ('application/json;a="b;c\\"" ;d=e;', JSON),
    ],
)
def test_body_types(content_type, expected):
    """Parameters and case do not matter; nothing means JSON."""
    assert expected == negotiation.body_type(content_type)


@pytest.mark.parametrize(
    "content_type", ["*/*", "text/plain", "application/cbor", ";", "application/json;x", 'application/json;a="b']
)
def test_unknown_body_types(content_type):
    """Other bodies are refused before they are read."""
    with pytest.raises(errors.UnsupportedMediaType, match="unknown format"):
        negotiation.body_type(content_type)


def test_status_falls_back_to_json():
    """A Status comes in the first plain type of the header, else as JSON."""
    assert (YAML, JSON) == (
        negotiation.status_form("text/html,application/yaml").media_type,
        negotiation.status_form("text/html").media_type,
    )


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("", Form(JSON)),
        ("*/*,application/yaml", Form(YAML)),
        ("application/yaml,*/*;q=0.1", Form(YAML)),
        (TABLE + ",application/json", Form(JSON)),
        (f"{PROTOBUF};as=PartialObjectMetadata;v=v1;g=meta.k8s.io,application/json", Form(JSON)),
        (TABLE, Form(JSON, pretty=True)),
        ("text/html", Form(JSON, pretty=True)),
    ],
)
def test_form_of_a_status(accept, expected):
    """The first clause that asks for no transformation decides; without one it is JSON for people."""
    assert expected == negotiation.status_form(accept)


def test_long_texts_in_yaml():
    """They are folded at the first space behind 80 columns, as Go does."""
    text = goyaml.dump({"message": "ab " * 30})
    assert [len(line) for line in text.splitlines()] == [81, 21]


def test_so_many_ranges_are_looked_at_and_no_more():
    """Sixteen thousand of them took ten seconds, before anybody had said who he was."""
    ranges = [f"a/{number}" for number in range(negotiation.MOST_RANGES - 1)]
    assert negotiation.negotiate(",".join([*ranges, YAML]), NO_TRANSFORMS) == Form(YAML)
    with pytest.raises(negotiation.NoSuchForm):
        negotiation.negotiate(",".join([*ranges, "a/b", YAML]), NO_TRANSFORMS)
    with pytest.raises(errors.NotAcceptable):
        negotiation.check_route(",".join([*ranges, "a/b", YAML]), negotiation.LISTED)
    assert len(negotiation.clauses(",".join(["a/*"] * 5_000 + ["a/b"] * 5_000))) == negotiation.MOST_RANGES


def test_so_many_parameters_are_looked_at_and_no_more():
    """Those behind count for nothing."""
    parameters = ";a=b" * (negotiation.MOST_PARAMETERS - 1)
    assert negotiation.clauses(f"a/b{parameters};q=0.5")[0].quality == 0.5
    assert negotiation.clauses(f"a/b{parameters};a=b;q=0.5")[0].quality == 1.0


def test_digits_of_a_quality_are_read_once():
    """What is none counts as 0, and is not tried in all ways: sixty thousand digits would have taken a minute."""
    assert negotiation.clauses("a/b;q=" + "0" * 60_000 + "@")[0].quality == 0.0
    assert [each.quality for each in negotiation.clauses("a/b;q=1.50,a/b;q=2.,a/b;q=.5,a/b;q=1e-1")] == [
        2,
        1.5,
        0.5,
        0.1,
    ]
