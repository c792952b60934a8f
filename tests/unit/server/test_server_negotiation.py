"""Accept headers and content types."""

import pytest

from certplane import errors
from certplane.golang import goyaml
from certplane.server import negotiation
from certplane.server.negotiation import ALL_TRANSFORMS, JSON, NO_TRANSFORMS, PROTOBUF, YAML, Representation

TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io"


@pytest.mark.parametrize(
    ("accept", "transforms", "expected"),
    [
        ("", ALL_TRANSFORMS, Representation(JSON)),
        ("*/*", ALL_TRANSFORMS, Representation(JSON)),
        ("application/yaml", ALL_TRANSFORMS, Representation(YAML)),
        ("application/vnd.kubernetes.protobuf,application/json", ALL_TRANSFORMS, Representation(PROTOBUF)),
        ("text/html;q=0.9,application/json;q=0.1", ALL_TRANSFORMS, Representation(JSON)),
        ("application/json;q=0.2,application/yaml;q=0.8", ALL_TRANSFORMS, Representation(YAML)),
        (TABLE, ALL_TRANSFORMS, Representation(JSON, "Table")),
        (TABLE + ",application/json", NO_TRANSFORMS, Representation(JSON)),
        ("application/json;as=Table;v=v9;g=meta.k8s.io,application/json", ALL_TRANSFORMS, Representation(JSON)),
        ("application/json;as=Table;v=v1beta1;g=meta.k8s.io", ALL_TRANSFORMS, Representation(JSON, "Table", "v1beta1")),
    ],
)
def test_first_acceptable_clause(accept, transforms, expected):
    """The media_range with the highest quality that can be served wins; the order breaks ties."""
    assert expected == negotiation.negotiate(accept, transforms)


@pytest.mark.parametrize(
    "accept", ["text/html", "application/*", "application/cbor", "*", "APPLICATION/JSON", "application/", "/", ","]
)
def test_unsupported_media_types(accept):
    """The error lists the media types of the route; the only wildcard is */*."""
    with pytest.raises(errors.NotAcceptable, match="Available representations: application/json, application/yaml"):
        negotiation.check_media_types(accept, negotiation.MEDIA_TYPES)


@pytest.mark.parametrize(
    "accept", ["", "text/html;q=1, */*;q=0.1", "application/json;q=0", "text/html, application/yaml"]
)
def test_supported_media_types(accept):
    """One supported type is enough, at any place and quality."""
    negotiation.check_media_types(accept, negotiation.MEDIA_TYPES)


def test_watch_has_no_yaml():
    """The error lists the stream types."""
    negotiation.check_watch_form(Representation(JSON))

    with pytest.raises(errors.APIError, match="application/json;stream=watch, application/vnd"):
        negotiation.check_watch_form(Representation(YAML))


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
    """By quality, but ranges with a wildcard come last; an invalid quality is 0."""
    assert expected == negotiation.negotiate(accept, NO_TRANSFORMS).media_type


def test_unsupported_transform():
    """A supported media type in an unsupported form has another error text."""
    with pytest.raises(negotiation.UnsupportedForm, match="only the following media types are accepted"):
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
def test_unsupported_parameters(parameters):
    """The media_range is skipped: a version without a kind, another stream than watch, another group."""
    with pytest.raises(negotiation.UnsupportedForm):
        negotiation.negotiate(f"application/json;{parameters}", ALL_TRANSFORMS)

    form = negotiation.negotiate(f"application/json;{parameters},{YAML};stream=watch", ALL_TRANSFORMS)
    assert form == Representation(YAML)


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
def test_body_media_types(content_type, expected):
    """Parameters and case do not matter; empty means JSON."""
    assert expected == negotiation.body_media_type(content_type)


@pytest.mark.parametrize(
    "content_type", ["*/*", "text/plain", "application/cbor", ";", "application/json;x", 'application/json;a="b']
)
def test_unsupported_body_media_types(content_type):
    """They are refused before the body is read."""
    with pytest.raises(errors.UnsupportedMediaType, match="unknown format"):
        negotiation.body_media_type(content_type)


def test_status_falls_back_to_json():
    """A Status has the first acceptable type without a transform, otherwise JSON."""
    assert (YAML, JSON) == (
        negotiation.negotiate_status("text/html,application/yaml").media_type,
        negotiation.negotiate_status("text/html").media_type,
    )


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("", Representation(JSON)),
        ("*/*,application/yaml", Representation(YAML)),
        ("application/yaml,*/*;q=0.1", Representation(YAML)),
        (TABLE + ",application/json", Representation(JSON)),
        (f"{PROTOBUF};as=PartialObjectMetadata;v=v1;g=meta.k8s.io,application/json", Representation(JSON)),
        (TABLE, Representation(JSON, pretty=True)),
        ("text/html", Representation(JSON, pretty=True)),
    ],
)
def test_form_of_a_status(accept, expected):
    """By the first media_range without a transform; otherwise indented JSON."""
    assert expected == negotiation.negotiate_status(accept)


def test_long_texts_in_yaml():
    """They are folded at the first space after 80 columns, as in Go."""
    text = goyaml.dump({"message": "ab " * 30})
    assert [len(line) for line in text.splitlines()] == [81, 21]


def test_the_number_of_ranges_is_limited():
    """Sorting sixteen thousand took ten seconds, before authentication."""
    ranges = [f"a/{number}" for number in range(negotiation.MAX_RANGES - 1)]
    assert negotiation.negotiate(",".join([*ranges, YAML]), NO_TRANSFORMS) == Representation(YAML)
    with pytest.raises(negotiation.UnsupportedForm):
        negotiation.negotiate(",".join([*ranges, "a/b", YAML]), NO_TRANSFORMS)
    with pytest.raises(errors.NotAcceptable):
        negotiation.check_media_types(",".join([*ranges, "a/b", YAML]), negotiation.MEDIA_TYPES)
    assert len(negotiation.parse_accept(",".join(["a/*"] * 5_000 + ["a/b"] * 5_000))) == negotiation.MAX_RANGES


def test_the_number_of_parameters_is_limited():
    """Further ones are ignored."""
    parameters = ";a=b" * (negotiation.MAX_PARAMETERS - 1)
    assert negotiation.parse_accept(f"a/b{parameters};q=0.5")[0].quality == 0.5
    assert negotiation.parse_accept(f"a/b{parameters};a=b;q=0.5")[0].quality == 1.0


def test_the_cost_of_a_quality_is_linear():
    """Backtracking over sixty thousand digits would take a minute; an invalid quality is 0."""
    assert negotiation.parse_accept("a/b;q=" + "0" * 60_000 + "@")[0].quality == 0.0
    media_ranges = negotiation.parse_accept("a/b;q=1.50,a/b;q=2.,a/b;q=.5,a/b;q=1e-1")
    assert [media_range.quality for media_range in media_ranges] == [
        2,
        1.5,
        0.5,
        0.1,
    ]
