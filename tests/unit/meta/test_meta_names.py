"""Validation of names."""

from __future__ import annotations

from certplane.meta import names

KEYS = (
    "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  "
    "or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')"
)


def test_all_problems_of_a_config_key_are_reported():
    """In the order of Kubernetes."""
    assert names.config_key_problems("..a b" + "x" * 250) == [
        "must be no more than 253 characters",
        KEYS,
        "must not start with '..'",
    ]
    assert names.config_key_problems("..") == ["must not be '..'"]
