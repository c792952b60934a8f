"""Validation of ConfigMaps."""

from __future__ import annotations

from certplane.resources import configmaps


def test_the_total_size_of_the_values_is_limited():
    """The error has no field."""
    config_map = configmaps.ConfigMap(data={"a": "x" * 2**20}, binary_data={"b": b"x"})
    assert [str(problem) for problem in configmaps.RESOURCE.validate(config_map)] == [
        "[]: Too long: may not be more than 1048576 bytes"
    ]
