"""An authority vouches for no more than its own certificate allows: RFC 5280 section 4.2.1.10, and purposes."""

from __future__ import annotations

import datetime
import ipaddress

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from certplane.x509 import certificatenames
from certplane.x509.issuance import authority, issue
from certplane.x509.pkcs10 import certificaterequest
from certplane.x509.tbs import template
from tests.unit.x509 import material

DAY = datetime.timedelta(days=1)
DNS, IP, EMAIL, URI = x509.DNSName, x509.IPAddress, x509.RFC822Name, x509.UniformResourceIdentifier


def directory(*organizations):
    return x509.DirectoryName(
        x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, each) for each in organizations])
    )


def network(text):
    return IP(ipaddress.ip_network(text))


def issuer(permitted=(), excluded=(), purposes=None):
    """One that signs under a CA certificate with such limits."""
    private = material.key()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "limited")])
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(1)
        .not_valid_before(material.NOW - DAY)
        .not_valid_after(material.NOW + material.YEAR)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    )
    if permitted or excluded:
        builder = builder.add_extension(
            x509.NameConstraints(list(permitted) or None, list(excluded) or None), critical=True
        )
    if purposes is not None:
        builder = builder.add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
    encoded = builder.sign(private, hashes.SHA256()).public_bytes(serialization.Encoding.DER)
    return issue.Issuer(authority.Authority(encoded, private), material.YEAR)


def prepare(issuer, usages=("client auth",), organizations=(), **names):
    """Ask for a certificate with such names."""
    alternative = template.subject_alt_name(template.AltNames(**names), critical=False)
    attributes = material.requested(alternative) if any(names.values()) else b""
    subject = template.encode_name(certificatenames.Subject(organization=organizations, common_name="jane"))
    request = certificaterequest.verified(material.odd_request(subject, attributes))
    return issuer.prepare(request, usages, None, material.NOW)


def refused(issuer, **requested):
    """Which rules stop it."""
    try:
        prepare(issuer, **requested)
    except issue.LintError as error:
        return sorted({finding.rule for finding in error.findings})
    return []


NAMES = [
    (DNS("a.example"), {"dns": ["a.example", "A.EXAMPLE", "b.a.example", "*.a.example"]}),
    (DNS(".a.example"), {"dns": ["b.a.example"]}),
    (DNS(""), {"dns": ["anything"]}),
    (network("10.0.0.0/8"), {"ip": ["10.1.2.3"]}),
    (network("fd00::/8"), {"ip": ["fd00::1"]}),
    (EMAIL("a.example"), {"email": ["jane@a.example", "jane@A.example"]}),
    (EMAIL(".a.example"), {"email": ["jane@b.a.example"]}),
    (EMAIL("jane@a.example"), {"email": ["jane@a.example"]}),
    (URI("a.example"), {"uri": ["https://a.example/path", "spiffe://a.example/ns/x"]}),
    (URI(".a.example"), {"uri": ["https://b.a.example:8443"]}),
]  # fmt: skip
OTHERS = [
    (DNS("a.example"), {"dns": ["example", "ba.example", "a.example.org"]}),
    (DNS(".a.example"), {"dns": ["a.example"]}),
    (network("10.0.0.0/8"), {"ip": ["11.0.0.1"]}),
    (network("fd00::/8"), {"ip": ["fe80::1", "10.0.0.1"]}),
    (EMAIL("a.example"), {"email": ["jane@b.a.example", "jane@example"]}),
    (EMAIL(".a.example"), {"email": ["jane@a.example"]}),
    (EMAIL("jane@a.example"), {"email": ["Jane@a.example", "joe@a.example"]}),
    (URI("a.example"), {"uri": ["https://b.a.example/", "https://a.example.org/"]}),
    (URI(".a.example"), {"uri": ["https://a.example/"]}),
]  # fmt: skip


def one_by_one(table):
    for subtree, names in table:
        for kind, texts in names.items():
            for text in texts:
                value = ipaddress.ip_address(text) if kind == "ip" else text
                yield pytest.param(subtree, {kind: [value]}, id=f"{subtree.value}-{text}")


@pytest.mark.parametrize(("subtree", "names"), list(one_by_one(NAMES)))
def test_names_within_a_subtree(subtree, names):
    """Where the subtree is permitted they are issued, where it is excluded they are not."""
    assert refused(issuer(permitted=[subtree]), **names) == []
    assert refused(issuer(excluded=[subtree]), **names) == ["names-of-authority"]


@pytest.mark.parametrize(("subtree", "names"), list(one_by_one(OTHERS)))
def test_names_outside_a_subtree(subtree, names):
    """Where the subtree is permitted they are not issued, where it is excluded they are."""
    assert refused(issuer(permitted=[subtree]), **names) == ["names-of-authority"]
    assert refused(issuer(excluded=[subtree]), **names) == []


def test_a_subtree_is_about_names_of_its_own_type():
    """Where only DNS names are permitted, addresses and subjects are as free as before."""
    limited = issuer(permitted=[DNS("a.example")])
    assert refused(limited, ip=[ipaddress.ip_address("10.0.0.1")]) == []
    assert refused(limited) == []


def test_a_wildcard_stands_for_what_is_excluded():
    """`*.a.example` would be good for the name that the authority must not vouch for."""
    limited = issuer(excluded=[DNS("bad.a.example")])
    assert refused(limited, dns=["*.a.example"]) == ["names-of-authority"]
    assert refused(limited, dns=["*.good.a.example"]) == []


def test_a_uri_without_a_host_is_in_no_subtree():
    """Nor is it outside of one: RFC 5280 has it rejected either way."""
    assert refused(issuer(permitted=[URI("a.example")]), uri=["urn:uuid:1"]) == ["names-of-authority"]
    assert refused(issuer(excluded=[URI("a.example")]), uri=["urn:uuid:1"]) == ["names-of-authority"]
    assert refused(issuer(permitted=[DNS("a.example")]), uri=["urn:uuid:1"]) == []


def test_one_name_outside_is_enough():
    """The reason names it."""
    limited = issuer(permitted=[DNS("a.example"), DNS("b.example")], excluded=[DNS("c.a.example")])
    with pytest.raises(issue.LintError, match=r"'d\.example' is in no subtree .* \[names-of-authority: 4\.2\.1\.10\]"):
        prepare(limited, dns=["a.example", "b.example", "d.example"])
    with pytest.raises(issue.LintError, match=r"'x\.c\.a\.example' is in a subtree"):
        prepare(limited, dns=["x.c.a.example"])


def test_subjects_in_directory_subtrees():
    """Part by part from the left; case and blanks do not count."""
    limited = issuer(permitted=[directory("Example  Corp")])
    assert refused(limited, organizations=("example corp",)) == []
    assert refused(limited, organizations=("other",)) == ["names-of-authority"]
    assert refused(issuer(excluded=[directory("other")]), organizations=("other",)) == ["names-of-authority"]


def test_an_authority_for_servers_vouches_for_no_clients():
    """Verifiers hold what it signs to the purposes that it has itself."""
    limited = issuer(purposes=[ExtendedKeyUsageOID.SERVER_AUTH])
    assert refused(limited, usages=("client auth",)) == ["usage-of-authority"]
    assert refused(limited, usages=("server auth",)) == []
    assert refused(limited, usages=("digital signature",)) == []
    assert refused(issuer(purposes=[ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE])) == []
