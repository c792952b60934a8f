"""Validation of Secrets."""

from __future__ import annotations

import pytest

from certplane.resources import secrets

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
def test_registry_credentials_are_a_json_object(text, expected):
    """The error has Go's text, and no part of the value."""
    secret = secrets.Secret(type="kubernetes.io/dockercfg", data={".dockercfg": text})
    assert [str(problem) for problem in secrets.RESOURCE.validate(secret)] == (
        [REDACTED + expected] if expected else []
    )


def test_an_invalid_tls_secret_causes_a_warning():
    """It is accepted. Secrets of other types are not checked."""
    data = {"tls.crt": b"", "tls.key": b""}
    secret = secrets.Secret(type="kubernetes.io/tls", data=data)
    assert secrets.RESOURCE.validate(secret) == []
    assert secrets.RESOURCE.warnings(secret) == ("tls: failed to find any PEM data in certificate input",)
    assert secrets.RESOURCE.warnings(secrets.Secret(type="Opaque", data=data)) == ()
