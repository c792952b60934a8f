"""Who is a node."""

from __future__ import annotations

import pytest

from certplane.access import nodes
from certplane.meta import context


@pytest.mark.parametrize(
    ("name", "groups", "expected"),
    [
        ("system:node:n1", ("system:nodes",), True),
        ("system:node:n1", ("system:authenticated",), False),
        ("n1", ("system:nodes",), False),
        ("system:nodes:n1", ("system:nodes",), False),
        ("system:bootstrap:abc", ("system:nodes",), False),
    ],
)
def test_name_and_group_make_a_node(name, groups, expected):
    """Neither alone does."""
    assert nodes.is_node(context.User(name, groups=groups)) is expected
