"""Name constraints on client certificates: which names match which constraints, as in Go."""

from __future__ import annotations

import pytest

from certplane.golang import asn1, dertags
from certplane.x509 import certificatenames
from certplane.x509.trust import nameconstraints
from tests.unit.x509 import chains


def check(names, permitted=(), excluded=()):
    """The error for some names under constraints, each a type and a text; empty if they are allowed."""
    subtrees = [{}, {}]
    for values, typed in zip(subtrees, (permitted, excluded), strict=True):
        for kind, value in typed:
            name = asn1.Reader(chains.general_name(kind, value)).read_any()
            values.setdefault(chains.TYPES[kind], []).append(name.content)
    encoded = b"".join(chains.general_name(*typed) for typed in names)
    parsed = certificatenames.parse_alternative_names(asn1.encode(dertags.SEQUENCE, encoded))
    try:
        nameconstraints.Checker(nameconstraints.Constraints(*subtrees, has_other_types=False)).check(parsed)
    except nameconstraints.NameConstraintError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("kind", "constraint", "name", "matches"),
    [
        ("dns", "example.com", "example.com", True),
        ("dns", "example.com", "a.b.example.com", True),
        ("dns", "Example.com", "a.EXAMPLE.com", True),
        ("dns", "example.com", "xexample.com", False),
        ("dns", "example.com", "com", False),
        ("dns", "example.com", "example.com.evil", False),
        ("dns", ".example.com", "a.example.com", True),
        ("dns", ".example.com", "example.com", False),
        ("dns", "", "anything.example", True),
        ("email", "example.com", "jane@example.com", True),
        ("email", "example.com", "jane@EXAMPLE.com", True),
        ("email", "example.com", "jane@a.example.com", True),
        ("email", "example.com", "jane@xexample.com", False),
        ("email", ".example.com", "jane@a.example.com", True),
        ("email", ".example.com", "jane@example.com", False),
        ("email", "jane@example.com", "jane@Example.com", True),
        ("email", "jane@Example.com", "jane@example.com", True),
        ("email", "jane@example.com", "Jane@example.com", False),
        ("email", "jane@example.com", "john@example.com", False),
        ("email", "jane@example.com", "jane@a.example.com", False),
        ("uri", "example.com", "https://example.com/x", True),
        ("uri", "example.com", "https://jane@a.example.com:8443/x", True),
        ("uri", "example.com", "spiffe://other/example.com", False),
        ("uri", "example.com", "https://other.org/?example.com", False),
        ("uri", ".example.com", "https://example.com", False),
        ("ip", "10.1.0.0/16", "10.1.255.255", True),
        ("ip", "10.1.0.0/16", "10.2.0.0", False),
        ("ip", "10.1.2.3/32", "10.1.2.3", True),
        ("ip", "10.1.2.3/32", "10.1.2.2", False),
        ("ip", "0.0.0.0/0", "192.0.2.1", True),
        ("ip", "0.0.0.0/0", "2001:db8::1", False),
        ("ip", "2001:db8::/32", "2001:db8:ffff::1", True),
        ("ip", "2001:db8::/32", "2001:db9::1", False),
        ("ip", "::/0", "10.0.0.1", False),
    ],
)
def test_a_name_matches_a_constraint(kind, constraint, name, matches):
    """Permitted subtrees allow only the names that match; excluded ones only those that do not."""
    allowed = check([(kind, name)], permitted=[(kind, constraint)])
    refused = check([(kind, name)], excluded=[(kind, constraint)])
    assert (not allowed, bool(refused)) == (matches, matches)
    if not matches:
        assert allowed.endswith("is not permitted by any constraint")


@pytest.mark.parametrize(
    ("kind", "constraint", "name", "text"),
    [
        ("dns", ".Example.com", "a.example.com", 'DNS name "a.example.com" is excluded by constraint ".Example.com"'),
        ("dns", "a.example.com", "*.example.com", 'DNS name "*.example.com" is excluded by constraint "a.example.com"'),
        ("email", "a@B.c", "a@b.c", 'email address "a@b.c" is excluded by constraint "a@b.c"'),
        ("email", "b.c", "a@b.c", 'email address "a@b.c" is excluded by constraint "b.c"'),
        ("uri", "b.c", "https://b.c/x", 'URI "https://b.c/x" is excluded by constraint "b.c"'),
        ("ip", "10.0.0.0/8", "10.1.2.3", 'IP address "10.1.2.3" is excluded by constraint "10.0.0.0/8"'),
        ("ip", "2001:db8::/32", "2001:db8::1", 'IP address "2001:db8::1" is excluded by constraint "2001:db8::/32"'),
    ],
)
def test_the_error_names_the_constraint(kind, constraint, name, text):
    """As in Go."""
    assert check([(kind, name)], excluded=[(kind, constraint)]) == text


@pytest.mark.parametrize("constraint", ["a.example.com", "example.com"])
def test_a_wildcard_is_excluded_with_any_name_that_it_matches(constraint):
    """It is permitted only as a whole."""
    wildcard = [("dns", "*.example.com")]
    assert check(wildcard, excluded=[("dns", constraint)])
    assert bool(check(wildcard, permitted=[("dns", constraint)])) is (constraint == "a.example.com")
    assert not check(wildcard, excluded=[("dns", "a.b.example.com")])


def test_one_constraint_of_several_permits_a_name_and_one_excludes_it():
    """Constraints of another type do not concern it."""
    networks = [("ip", "10.0.0.0/8"), ("ip", "192.0.2.0/24"), ("dns", "example.com")]
    assert not check([("ip", "192.0.2.1"), ("ip", "10.0.0.1"), ("uri", "https://x.y")], permitted=networks)
    assert check([("ip", "192.0.2.1"), ("ip", "11.0.0.1")], permitted=networks)
    assert check([("ip", "11.0.0.1"), ("ip", "192.0.2.1")], excluded=networks)
    assert check([("ip", "10.0.0.1")], permitted=networks, excluded=[("ip", "10.0.0.0/16")])


@pytest.mark.parametrize(
    ("kind", "name", "text"),
    [
        ("email", "jane", 'cannot parse rfc822Name "jane"'),
        ("email", "a b@c.d", 'cannot parse rfc822Name "a b@c.d"'),
        ("uri", "mailto:a@b.c", 'URI with empty host ("mailto:a@b.c") cannot be matched against constraints'),
        ("uri", "https://10.0.0.1/", 'URI with IP ("https://10.0.0.1/") cannot be matched against constraints'),
        ("uri", "https://10.0.0.1:443/", 'URI with IP ("https://10.0.0.1:443/") cannot be matched against constraints'),
        ("uri", "https://[::1]/", 'URI with IP ("https://[::1]/") cannot be matched against constraints'),
        ("uri", "https://[::1]:443/", 'URI with IP ("https://[::1]:443/") cannot be matched against constraints'),
    ],
)
def test_a_name_that_cannot_be_compared_is_refused(kind, name, text):
    """Also if constraints of its type would not concern it: it must not get around them."""
    for constraints in ({"permitted": [("dns", "example.com")]}, {"excluded": [(kind, "example.com")]}):
        assert check([(kind, name)], **constraints) == text
