"""Trust anchors of ClusterTrustBundles."""

from __future__ import annotations

import functools

import pytest

from certplane.golang import pem
from certplane.x509.tbs import template
from certplane.x509.trust import trustanchors
from tests.unit.x509 import material


def block(data, label="CERTIFICATE"):
    return pem.encode(label, data)


def with_headers(data):
    return block(data).replace(b"CERTIFICATE-----\n", b"CERTIFICATE-----\nColour: blue\n\n", 1)


def with_extensions(*extensions):
    return material.ca_certificate(material.key(), extensions=list(extensions))


FIRST = functools.cache(lambda: material.ca_certificate(material.key("P-256", 1)))
SECOND = functools.cache(lambda: material.ca_certificate(material.key("P-256", 2)))


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        pytest.param(lambda: block(FIRST()), [], id="one"),
        pytest.param(lambda: b"mine:\n" + block(FIRST()) + b"yours:\n" + block(SECOND()), [], id="text between"),
        pytest.param(lambda: b"", ["at least one trust anchor must be provided"], id="none"),
        *(
            pytest.param(lambda name=name: block(material.ca_with_rare_names(material.key(), name)), [], id=name)
            for name in material.RARE_NAMES
        ),
        pytest.param(
            lambda: block(FIRST(), "X509 CRL"), ["entry 0 has bad block type: X509 CRL"], id="another type of block"
        ),
        pytest.param(lambda: with_headers(FIRST()), ["entry 0 has PEM block headers"], id="headers"),
        pytest.param(lambda: block(b"\x30\x00"), ["entry 0 does not parse as X.509"], id="no certificate"),
        pytest.param(lambda: block(b""), ["entry 0 does not parse as X.509"], id="an empty block"),
        pytest.param(
            lambda: block(FIRST() + SECOND()), ["entry 0 does not parse as X.509"], id="two certificates in one block"
        ),
        pytest.param(
            lambda: block(with_extensions(template.basic_constraints(ca=False))),
            ["entry 0 does not have the CA bit set"],
            id="no authority",
        ),
        pytest.param(
            lambda: block(with_extensions()), ["entry 0 does not have the CA bit set"], id="no basic constraints"
        ),
        pytest.param(
            lambda: block(FIRST()) + block(b"x") + block(FIRST(), "KEY"),
            ["entry 1 does not parse as X.509", "entry 2 has bad block type: KEY"],
            id="each bad block is named",
        ),
        pytest.param(
            lambda: block(FIRST()) + block(SECOND()) + block(FIRST()),
            ["duplicate trust anchor (indices [0 2])"],
            id="twice the same",
        ),
        pytest.param(
            lambda: block(FIRST()) + block(FIRST()) + block(b"x"),
            ["entry 2 does not parse as X.509"],
            id="bad blocks come before duplicates",
        ),
    ],
)
def test_trust_anchors_are_ca_certificates(make, expected):
    """Each block must be a different CA certificate; there is one problem for each bad block."""
    assert trustanchors.find_problems(make()) == expected
