"""Certificates and damage in files of any format."""

from __future__ import annotations

import datetime

import pytest
from cryptography.hazmat.primitives import serialization

from certplane.golang import pem
from certplane.x509.issuance import selfsigned
from certplane.x509.trust import inventory
from certplane.x509.trust.inventory import Item
from tests.unit.x509 import material

CA = material.new_authority()
LEAF = selfsigned.issue_leaf(selfsigned.Leaf("jane"), material.key(), CA, material.NOW, material.YEAR)
DER = pem.first_block(LEAF).data
ENCRYPTED = material.key().private_bytes(
    serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"x")
)
OLD_ENCRYPTED = material.key().private_bytes(
    serialization.Encoding.PEM,
    serialization.PrivateFormat.TraditionalOpenSSL,
    serialization.BestAvailableEncryption(b"x"),
)
PLAIN = material.key().private_bytes(
    serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
)


def summary(content, *, needs_pem=True):
    """Subjects, or what is said instead."""
    return [item.subject or item.problem or item.note for item in inventory.inspect(content, needs_pem=needs_pem)]


def test_a_certificate_is_described():
    """Names, serial number, validity; and whether it is a CA."""
    (item,) = inventory.inspect(LEAF, needs_pem=True)
    assert ("jane", "ca-0", False, "", "") == (item.subject, item.issuer, item.is_ca, item.problem, item.note)
    minutes = datetime.timedelta(minutes=5)
    assert (material.NOW - minutes, material.NOW + material.YEAR) == (item.not_before, item.not_after)
    (item,) = inventory.inspect(pem.encode("CERTIFICATE", CA.raw), needs_pem=True)
    assert item.is_ca
    assert f"{CA.certificate.serial_number:x}" == item.serial


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", []),
        (b"some text", []),
        (PLAIN, []),
        (LEAF + PLAIN, ["jane"]),
        (b"text before\n" + LEAF + LEAF, ["jane", "jane"]),
        (LEAF.replace(b"\n", b"\r\n"), ["jane"]),
        (ENCRYPTED, ["an encrypted private key"]),
        (LEAF + OLD_ENCRYPTED, ["jane", "an encrypted private key"]),
        (LEAF[: len(LEAF) // 2], ["a damaged PEM block"]),
        (LEAF + LEAF[:100], ["jane", "a damaged PEM block"]),
        (LEAF[:100] + b"\n" + LEAF, ["jane", "a damaged PEM block"]),
        (LEAF.replace(b"MII", b"M!I") * 2, ["2 damaged PEM blocks"]),
        (LEAF + pem.encode("CERTIFICATE", b"\x30\x00") + LEAF, ["jane", "a certificate that cannot be parsed", "jane"]),
        (pem.encode("CERTIFICATE", b""), ["a certificate that cannot be parsed"]),
        (pem.encode("CERTIFICATE", DER + DER), ["a certificate that cannot be parsed"]),
        (pem.encode("TRUSTED CERTIFICATE", DER), ["a PEM block TRUSTED CERTIFICATE, which Kubernetes does not read"]),
        (DER[:200], ["a certificate that cannot be parsed"]),
    ],
)  # fmt: skip
def test_each_part_of_a_file_is_an_item(content, expected):
    """Also if others are damaged."""
    assert expected == summary(content)


def test_der_is_a_problem_where_pem_is_expected():
    """It is described all the same."""
    (item,) = inventory.inspect(DER, needs_pem=True)
    assert ("jane", "DER, but Kubernetes reads PEM") == (item.subject, item.problem)
    (item,) = inventory.inspect(DER, needs_pem=False)
    assert ("jane", "") == (item.subject, item.problem)


def test_other_der_is_no_certificate():
    """A key or a request, in a file whose name does not promise PEM."""
    key = material.key().private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    assert [] == summary(key, needs_pem=False)


@pytest.mark.parametrize("rare", sorted(material.RARE_NAMES))
def test_certificates_that_the_library_refuses_are_items(rare):
    """Its exceptions have no common base."""
    content = pem.encode("CERTIFICATE", material.ca_with_rare_names(material.key(), rare))
    assert [1] == [len(inventory.inspect(content, needs_pem=True))]


def test_names_longer_than_x520_allows_are_no_problem():
    """The library would warn about them, and the test fails if it does."""
    leaf = selfsigned.issue_leaf(selfsigned.Leaf("n" * 300), material.key(), CA, material.NOW, material.YEAR)
    assert ["n" * 300] == summary(leaf)


def test_items_are_empty_by_default():
    """Builders state only what differs."""
    assert Item() == Item(subject="", issuer="", serial="", not_before=None, not_after=None)
