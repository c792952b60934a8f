"""Every client certificate, however malformed, is either accepted or refused with a VerificationError."""

from __future__ import annotations

import string

from hypothesis import given, settings
from hypothesis import strategies as st

from certplane.golang import pem
from certplane.x509.trust import clientcertificates
from tests.unit.x509 import chains

AUTHORITY = {
    "subject": "ca",
    "issuer": "ca",
    "key": 0,
    "signer": 0,
    "ca": True,
    "permitted": [["dns", "example.com"], ["ip", "10.0.0.0/8"], ["email", "example.com"], ["uri", ".example.com"]],
    "policies": ["1.2.3.1", "2.5.29.32.0"],
    "explicit": 2,
}
LEAF = {
    "subject": "jane",
    "issuer": "ca",
    "key": 8,
    "signer": 0,
    "ca": False,
    "usage": 0xA0,
    "purposes": ["client", "odd"],
    "san": [
        ["dns", "a.example.com"],
        ["ip", "10.0.0.1"],
        ["email", "j@example.com"],
        ["uri", "https://a.example.com/"],
    ],
    "policies": ["1.2.3.1"],
    "skid": "abc",
    "akid": "def",
    "critical": False,
}
ROOT, VALID = chains.certificate(AUTHORITY), chains.certificate(LEAF)
VERIFIER = clientcertificates.ClientVerifier(pem.encode("CERTIFICATE", ROOT))
#: Bytes, with a preference for those with a meaning in DER.
BYTES = st.sampled_from(b"\x00\x01\x02\x03\x04\x05\x06\x0c\x13\x17\x18\x30\x31\x80\x82\x86\x87\xa0\xff") | st.integers(
    0, 255
)
CHANGES = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), BYTES), min_size=1, max_size=4)


def is_accepted(leaf, *others):
    try:
        return VERIFIER.verify(leaf, others, chains.NOW).common_name != ""
    except clientcertificates.VerificationError as error:
        text = error.refusal.text
    assert 0 < len(text) <= 512
    return False


def mutate(raw, changes):
    def change(to_be_signed):
        for position, byte in changes:
            to_be_signed[int(position * len(to_be_signed))] = byte

    return chains.resign(raw, change)


@given(CHANGES)
@settings(max_examples=300)
def test_malformed_certificates_of_the_ca_are_accepted_or_refused(changes):
    """A CA may have signed malformed certificates."""
    is_accepted(mutate(VALID, changes))


@given(CHANGES)
@settings(max_examples=200)
def test_malformed_intermediates_of_the_ca_are_accepted_or_refused(changes):
    """A CA may have signed malformed intermediates."""
    is_accepted(VALID, mutate(ROOT, changes))


@given(st.binary(max_size=200), st.lists(st.binary(max_size=200), max_size=3))
def test_random_bytes_are_refused(leaf, others):
    """They are not signed by the CA."""
    assert not is_accepted(leaf, *others)


@given(
    st.lists(st.tuples(st.sampled_from(["dns", "email", "uri"]), st.text(string.printable, max_size=30)), max_size=5)
)
@settings(max_examples=200)
def test_names_with_any_characters_are_accepted_or_refused(names):
    """Whatever characters they have."""
    is_accepted(chains.certificate(LEAF | {"san": names}))
