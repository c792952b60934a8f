"""The publisher of the root CA: the ConfigMap of a namespace."""

from __future__ import annotations

from certplane.controllers.publishing import rootcacertpublisher


def test_a_changed_description_is_replaced_only_with_the_data():
    """A missing description is restored."""
    config_map = rootcacertpublisher.decide(None, "team", "bundle")
    standard = config_map.metadata.annotations["kubernetes.io/description"]
    config_map.metadata.annotations = {"kubernetes.io/description": "mine", "example.com/a": "b"}
    assert rootcacertpublisher.decide(config_map, "team", "bundle") is None
    changed = rootcacertpublisher.decide(config_map, "team", "other")
    assert changed.data == {"ca.crt": "other"}
    assert changed.metadata.annotations == {"kubernetes.io/description": standard, "example.com/a": "b"}
    config_map.metadata.annotations = {}
    assert rootcacertpublisher.decide(config_map, "team", "bundle").metadata.annotations == {
        "kubernetes.io/description": standard
    }
