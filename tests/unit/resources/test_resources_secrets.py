"""Secrets and ConfigMaps: what their values may be."""

from __future__ import annotations

import pytest

from certplane.meta import names
from certplane.resources import configmaps, secrets

KEYS = (
    "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  "
    "or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')"
)
REDACTED = 'data[.dockercfg]: Invalid value: "<secret contents redacted>": '
WRONG_TYPE = "into Go value of type map[string]interface {}"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"{}", ""),
        (b" null ", ""),
        (b"", "unexpected end of JSON input"),
        (b"[]", f"json: cannot unmarshal array {WRONG_TYPE}"),
        (b'"x"', f"json: cannot unmarshal string {WRONG_TYPE}"),
        (b"1", f"json: cannot unmarshal number {WRONG_TYPE}"),
        (b"true", f"json: cannot unmarshal bool {WRONG_TYPE}"),
        (b"{} x", "invalid character 'x' after top-level value"),
        (b'{"a": NaN}', "invalid character 'N' looking for beginning of value"),
    ],
)
def test_credentials_of_registries_are_an_object(text, expected):
    """The problem is reported in the words of Go, without any part of the text."""
    secret = secrets.Secret(type="kubernetes.io/dockercfg", data={".dockercfg": text})
    assert [str(problem) for problem in secrets.RESOURCE.validate(secret)] == (
        [REDACTED + expected] if expected else []
    )


def test_a_certificate_without_its_key_is_taken_with_a_warning():
    """A Secret of type TLS is kept whatever is in it; other types may hold what they like."""
    data = {"tls.crt": b"", "tls.key": b""}
    secret = secrets.Secret(type="kubernetes.io/tls", data=data)
    assert secrets.RESOURCE.validate(secret) == []
    assert secrets.RESOURCE.warnings(secret) == ("tls: failed to find any PEM data in certificate input",)
    assert secrets.RESOURCE.warnings(secrets.Secret(type="Opaque", data=data)) == ()


def test_a_key_may_be_wrong_in_several_ways():
    """Each of them is reported."""
    assert names.config_key_problems("..a b" + "x" * 250) == [
        "must be no more than 253 characters",
        KEYS,
        "must not start with '..'",
    ]
    assert names.config_key_problems("..") == ["must not be '..'"]


def test_the_size_of_a_config_map_is_that_of_all_its_values():
    """It is reported without a field."""
    config_map = configmaps.ConfigMap(data={"a": "x" * 2**20}, binary_data={"b": b"x"})
    assert [str(problem) for problem in configmaps.RESOURCE.validate(config_map)] == [
        "[]: Too long: may not be more than 1048576 bytes"
    ]
