"""Certificates comply with the name constraints and the extended key usages of their CA (RFC 5280 section 4.2.1.10)."""

from __future__ import annotations

import datetime
import ipaddress

import pytest
from cryptography import x509
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
        x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization) for organization in organizations])
    )


def network(text):
    return IP(ipaddress.ip_network(text))


def issuer(permitted=(), excluded=(), purposes=None):
    """An issuer whose CA certificate has these name constraints and extended key usages."""
    extensions = [(x509.BasicConstraints(ca=True, path_length=None), True)]
    if permitted or excluded:
        extensions.append((x509.NameConstraints(list(permitted) or None, list(excluded) or None), True))
    if purposes is not None:
        extensions.append((x509.ExtendedKeyUsage(purposes), False))
    validity = (material.NOW - DAY, material.NOW + material.YEAR)
    encoded = material.certificate(material.key(), material.key(), "limited", validity, extensions)
    return issue.Issuer(authority.Authority(encoded, material.key()), material.YEAR)


def prepare(issuer, usages=("client auth",), organizations=(), **names):
    """Prepare a certificate with these names."""
    alternative = template.subject_alt_name(template.AltNames(**names), critical=False)
    attributes = material.requested(alternative) if any(names.values()) else b""
    subject = template.encode_name(certificatenames.Subject(organization=organizations, common_name="jane"))
    request = certificaterequest.verified(material.odd_request(subject, attributes))
    return issuer.prepare(request, usages, None, material.NOW)


def refused(issuer, **requested):
    """The rules that refuse it."""
    try:
        prepare(issuer, **requested)
    except issue.LintError as error:
        return sorted({finding.rule for finding in error.findings})
    return []


WITHIN = [
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
OUTSIDE = [
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


@pytest.mark.parametrize(("subtree", "names"), list(one_by_one(WITHIN)))
def test_names_within_a_subtree(subtree, names):
    """They are issued if the subtree is permitted, and refused if it is excluded."""
    assert refused(issuer(permitted=[subtree]), **names) == []
    assert refused(issuer(excluded=[subtree]), **names) == ["name-constraints"]


@pytest.mark.parametrize(("subtree", "names"), list(one_by_one(OUTSIDE)))
def test_names_outside_a_subtree(subtree, names):
    """They are refused if the subtree is permitted, and issued if it is excluded."""
    assert refused(issuer(permitted=[subtree]), **names) == ["name-constraints"]
    assert refused(issuer(excluded=[subtree]), **names) == []


def test_a_subtree_constrains_names_of_its_type_only():
    """Permitted DNS names do not restrict addresses and subjects."""
    limited = issuer(permitted=[DNS("a.example")])
    assert refused(limited, ip=[ipaddress.ip_address("10.0.0.1")]) == []
    assert refused(limited) == []


def test_a_wildcard_that_covers_an_excluded_name_is_refused():
    """`*.a.example` would be valid for `bad.a.example`."""
    limited = issuer(excluded=[DNS("bad.a.example")])
    assert refused(limited, dns=["*.a.example"]) == ["name-constraints"]
    assert refused(limited, dns=["*.good.a.example"]) == []


def test_a_uri_without_a_host_is_refused_under_uri_constraints():
    """RFC 5280 requires this for permitted and for excluded subtrees."""
    assert refused(issuer(permitted=[URI("a.example")]), uri=["urn:uuid:1"]) == ["name-constraints"]
    assert refused(issuer(excluded=[URI("a.example")]), uri=["urn:uuid:1"]) == ["name-constraints"]
    assert refused(issuer(permitted=[DNS("a.example")]), uri=["urn:uuid:1"]) == []


def test_one_name_outside_the_constraints_is_enough():
    """The error has that name."""
    limited = issuer(permitted=[DNS("a.example"), DNS("b.example")], excluded=[DNS("c.a.example")])
    with pytest.raises(issue.LintError, match=r"'d\.example' is in no subtree .* \[name-constraints: 4\.2\.1\.10\]"):
        prepare(limited, dns=["a.example", "b.example", "d.example"])
    with pytest.raises(issue.LintError, match=r"'x\.c\.a\.example' is in a subtree"):
        prepare(limited, dns=["x.c.a.example"])


def test_subjects_in_directory_subtrees():
    """RDNs are compared from the left, without regard to case and repeated spaces."""
    limited = issuer(permitted=[directory("Example  Corp")])
    assert refused(limited, organizations=("example corp",)) == []
    assert refused(limited, organizations=("other",)) == ["name-constraints"]
    assert refused(issuer(excluded=[directory("other")]), organizations=("other",)) == ["name-constraints"]


def test_the_extended_key_usages_of_the_ca_restrict_its_certificates():
    """Verifiers apply them to the whole chain."""
    limited = issuer(purposes=[ExtendedKeyUsageOID.SERVER_AUTH])
    assert refused(limited, usages=("client auth",)) == ["ca-extended-key-usage"]
    assert refused(limited, usages=("server auth",)) == []
    assert refused(limited, usages=("digital signature",)) == []
    assert refused(issuer(purposes=[ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE])) == []
