"""Each lint rule finds its violations, and none has findings in certificates as the signers issue them."""

from __future__ import annotations

import dataclasses
import datetime
import ipaddress

import pytest

from certplane.golang import asn1
from certplane.x509 import certificatenames, oids
from certplane.x509.lint import linter
from certplane.x509.tbs import template
from tests.unit.x509 import material

KEY_ID = b"\x01" * 20
ISSUER = template.encode_name(certificatenames.Subject(common_name="ca"))
JANE = template.encode_name(certificatenames.Subject(organization=("dev",), common_name="jane"))
ALGORITHM = asn1.encode(0x30, template.encode_oid("1.2.840.10045.4.3.2"))
BEGIN, END = material.NOW, material.NOW + material.YEAR
POLICY = linter.IssuerPolicy(ISSUER, KEY_ID, ALGORITHM, END + material.YEAR, material.YEAR)
USAGE = template.key_usage(("digital_signature",))
PURPOSE = template.extended_key_usage(("1.3.6.1.5.5.7.3.2",))
CONSTRAINTS = template.basic_constraints(ca=False)
AUTHORITY = template.authority_key_id(KEY_ID)


def names(*, critical=False, **kinds):
    return template.subject_alt_name(template.AltNames(**kinds), critical=critical)


ORDINARY = (USAGE, PURPOSE, CONSTRAINTS, AUTHORITY, names(dns=("a.example",)))


def with_extension(*added):
    """The ordinary extensions, of which some are replaced by others of the same type."""
    kinds = {extension.oid for extension in added}
    return {"extensions": [*(extension for extension in ORDINARY if extension.oid not in kinds), *added]}


def without(oid):
    return {"extensions": [extension for extension in ORDINARY if extension.oid != oid]}


def new(**changes):
    """A valid template with changed fields."""
    fields = {
        "serial": 1 << 127 | 5,
        "issuer": ISSUER,
        "not_before": BEGIN,
        "not_after": END,
        "subject": JANE,
        "spki": material.public_der(material.key()),
        "extensions": ORDINARY,
        "algorithm": ALGORITHM,
    }
    return template.Template(**(fields | changes))


def assembled(to_be_signed, algorithm=ALGORITHM):
    return template.assemble(to_be_signed, algorithm, b"any")


def lint(certificate):
    """The rules with findings, and their severities."""
    findings = linter.run(certificate, POLICY).findings
    return {(finding.rule, finding.severity.value) for finding in material.own(findings)}


def value(extension, content):
    """An extension with another value."""
    return dataclasses.replace(extension, value=content)


def subject(**fields):
    return {"subject": template.encode_name(certificatenames.Subject(**fields))}


def ec_parameters(parameters):
    point = asn1.encode(0x03, b"\0\x04" + bytes(64))
    return asn1.encode(0x30, asn1.encode(0x30, template.encode_oid("1.2.840.10045.2.1") + parameters) + point)


def rsa_numbers(modulus, exponent, parameters=b"\x05\x00"):
    def number(value):
        return asn1.encode(0x02, value.to_bytes(value.bit_length() // 8 + 1, "big"))

    numbers = asn1.encode(0x30, number(modulus) + number(exponent))
    algorithm = asn1.encode(0x30, template.encode_oid("1.2.840.113549.1.1.1") + parameters)
    return asn1.encode(0x30, algorithm + asn1.encode(0x03, b"\0" + numbers))


def host(name):
    return with_extension(names(dns=(name,)))


def raw_names(*parts):
    return with_extension(value(names(dns=("a",)), asn1.encode(0x30, b"".join(parts))))


RSA = {"spki": rsa_numbers(1 << 2047 | 1, 65537)}
PUBLIC, UNIQUE = material.public_der(material.key()), asn1.encode(0x81, b"\0\1")
X25519 = asn1.encode(0x30, template.encode_oid("1.3.101.110"))
CA_USAGE = template.key_usage(("key_cert_sign",))

VIOLATIONS = [
    ("serial-size serial-entropy", "error", {"serial": 0}),
    ("serial-size", "error", {"serial": 1 << 160}),
    ("serial-entropy", "error", {"serial": 20260101120000}),
    ("signature-algorithm", "error", {"algorithm": asn1.encode(0x30, template.encode_oid("1.3.101.112"))}),
    ("issuer", "error", {"issuer": template.encode_name(certificatenames.Subject(common_name="Ca"))}),
    ("time-order", "error", {"not_before": END, "not_after": BEGIN}),
    ("lifetime", "error", {"not_after": END + datetime.timedelta(seconds=1)}),
    ("lifetime", "error", {"not_before": END + material.YEAR, "not_after": END + 2 * material.YEAR}),
    ("subject-attributes", "warning", subject(common_name="x" * 65)),
    ("subject-attributes", "warning", subject(common_name="jane", country=("Deutschland",))),
    ("subject-attributes", "warning", subject(common_name="jane", organization=("",))),
    ("nul-character", "error", subject(common_name="admin\0.example")),
    ("nul-character", "error", host("bank.example\0.evil.example")),
    ("empty-identity", "warning", {"subject": b"\x30\x00", **without(oids.SUBJECT_ALT_NAME)}),
    ("subject-is-issuer", "warning", {"subject": ISSUER, **without(oids.AUTHORITY_KEY_ID)}),
    ("key-encoding", "error", {"spki": rsa_numbers(1 << 2047 | 1, 65537, b"")}),
    ("key-encoding", "error", {"spki": ec_parameters(b"\x05\x00")}),
    (
        "key-encoding",
        "error",
        {"spki": asn1.encode(0x30, asn1.encode(0x30, template.encode_oid("1.3.101.110")) + b"\x03\x01\0")},
    ),
    ("rsa-exponent", "warning", {"spki": rsa_numbers(1 << 2047 | 1, 3)}),
    ("extension-duplicate", "error", {"extensions": [*ORDINARY, CONSTRAINTS]}),
    ("extension-unknown", "error", with_extension(template.subject_key_id(KEY_ID))),
    ("extension-criticality", "error", with_extension(dataclasses.replace(USAGE, critical=False))),
    ("extension-criticality", "error", with_extension(dataclasses.replace(PURPOSE, critical=True))),
    ("usage-empty", "error", with_extension(value(USAGE, b"\x03\x01\x00"))),
    ("usage-empty", "error", with_extension(value(PURPOSE, b"\x30\x00"))),
    ("usage-combination", "warning", with_extension(template.key_usage(("encipher_only",)))),
    ("usage-combination", "warning", with_extension(CA_USAGE)),
    ("usage-for-key-type", "warning", with_extension(template.key_usage(("digital_signature", "key_encipherment")))),
    ("usage-for-key-type", "warning", RSA | with_extension(template.key_usage(("key_agreement",)))),
    ("any-extended-key-usage", "warning", with_extension(template.extended_key_usage(("2.5.29.37.0",)))),
    ("basic-constraints", "error", without(oids.BASIC_CONSTRAINTS)),
    ("basic-constraints", "error", with_extension(template.basic_constraints(ca=True))),
    ("authority-key-identifier", "error", without(oids.AUTHORITY_KEY_ID)),
    ("authority-key-identifier", "error", with_extension(template.authority_key_id(b"\x02" * 20))),
    ("alternative-names-criticality", "error", with_extension(names(dns=("a.example",), critical=True))),
    ("alternative-names-criticality", "error", {"subject": b"\x30\x00"}),
    ("alternative-name-type", "error", raw_names()),
    ("alternative-name-type", "error", raw_names(asn1.encode(0x88, b"\x2a"))),
    ("alternative-name-type", "error", raw_names(asn1.encode(0x87, b"\x0a\x00\x00"))),
    ("alternative-name-type", "error", raw_names(asn1.encode(0x82, "bücher.example".encode()))),
    ("alternative-name-empty", "warning", host("")),
    ("alternative-name-empty", "warning", host(" ")),
    ("dns-syntax", "warning", host("a_b.example")),
    ("dns-syntax", "warning", host("a.example.")),
    ("dns-syntax", "warning", host("-a.example")),
    ("dns-syntax", "warning", host("a..example")),
    ("dns-syntax", "warning", host("x" * 64)),
    ("dns-syntax", "warning", host(".".join(["x" * 60] * 5))),
    ("dns-syntax", "warning", host("a b.example")),
    ("dns-wildcard", "warning", host("*")),
    ("dns-wildcard", "warning", host("a*.example")),
    ("dns-wildcard", "warning", host("*.*.example")),
    ("dns-punycode", "warning", host("xn--a.example")),
    ("dns-punycode", "warning", host("xn--99999999999.example")),
    ("email-syntax", "warning", with_extension(names(email=("jane",)))),
    ("email-syntax", "warning", with_extension(names(email=("Jane Doe <jane@a.example>",)))),
    ("uri-syntax", "warning", with_extension(names(uri=("a.example/path",)))),
    ("uri-syntax", "warning", with_extension(names(uri=("spiffe:///path",)))),
]


@pytest.mark.parametrize(
    ("rules", "severity", "changes"),
    VIOLATIONS,
    ids=[f"{rules}-{number}" for number, (rules, *_) in enumerate(VIOLATIONS)],
)
def test_each_violation_is_found(rules, severity, changes):
    """No other rule of the same severity has a finding."""
    findings = lint(assembled(new(**changes).to_be_signed()))
    assert {rule for rule, level in findings if level == severity} == set(rules.split())


def test_ca_certificates_are_accepted_if_the_signer_issues_them():
    """A key usage without cert sign is then a finding."""
    policy = dataclasses.replace(POLICY, issues_ca=True)
    extensions = (template.basic_constraints(ca=True, path_length=0), template.subject_key_id(KEY_ID))
    valid = assembled(new(**with_extension(*extensions, CA_USAGE)).to_be_signed())
    assert material.own(linter.run(valid, policy).findings) == ()
    without_cert_sign = assembled(new(**with_extension(*extensions)).to_be_signed())
    assert [finding.rule for finding in material.own(linter.run(without_cert_sign, policy).findings)] == [
        "usage-combination"
    ]
    assert lint(valid) == {("basic-constraints", "error")}


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({}, id="an ordinary certificate"),
        pytest.param({"serial": (1 << 128) - 1}, id="a serial number of 17 octets"),
        pytest.param(RSA | with_extension(template.key_usage(("digital_signature", "key_encipherment"))), id="RSA"),
        pytest.param({"subject": b"\x30\x00"} | with_extension(names(dns=("a",), critical=True)), id="names alone"),
        pytest.param(host("*.a.example"), id="a wildcard"),
        pytest.param(host("xn--bcher-kva.example"), id="an international name"),
        pytest.param(
            with_extension(names(ip=(ipaddress.ip_address("32.32.32.32"),))), id="an address with the bytes of spaces"
        ),
        pytest.param(with_extension(names(email=("jane@a.example",))), id="an email address"),
        pytest.param(with_extension(names(uri=("spiffe://a.example/jane", "urn:uuid:1"))), id="URIs"),
        pytest.param(without(oids.SUBJECT_ALT_NAME), id="no names"),
        pytest.param(without(oids.EXTENDED_KEY_USAGE), id="no purpose"),
        pytest.param({"subject": ISSUER} | without(oids.AUTHORITY_KEY_ID), id="the authority's own name"),
    ],
)
def test_certificates_of_the_signers_have_no_findings(changes):
    """Except for the warning about the name of the issuer."""
    findings = lint(assembled(new(**changes).to_be_signed()))
    assert findings <= {("subject-is-issuer", "warning")}


def test_a_not_after_from_2050_on_is_a_generalized_time():
    """RFC 5280 section 4.1.2.5."""
    late = datetime.datetime(2051, 1, 1, tzinfo=datetime.UTC)
    policy = dataclasses.replace(POLICY, not_after=late, max_lifetime=late - BEGIN)
    assert material.own(linter.run(assembled(new(not_after=late).to_be_signed()), policy).findings) == ()


def edited(position, content):
    """A TBSCertificate with one field replaced, or with one appended."""
    fields = [field.raw for field in asn1.Reader(asn1.Reader(new().to_be_signed()).read_any().content)]
    fields[position : position + 1] = [content]
    return asn1.encode(0x30, b"".join(fields))


def times(begins, ends):
    return asn1.encode(0x30, begins + ends)


UTC, GENERALIZED = asn1.encode(0x17, b"260101000000Z"), asn1.encode(0x18, b"20270101000000Z")


MALFORMED = [
    pytest.param("version", edited(0, b"\xa0\x03\x02\x01\x01"), id="version 2"),
    pytest.param("version", edited(0, b""), id="version 1"),
    pytest.param(
        "unexpected-fields",
        edited(6, PUBLIC + UNIQUE),
        id="a unique identifier",
    ),
    pytest.param("time-encoding", edited(4, times(UTC, GENERALIZED)), id="the wrong type of time"),
    pytest.param("structure", edited(4, times(UTC, asn1.encode(0x17, b"2701010000Z"))), id="a time without seconds"),
    pytest.param("structure", edited(4, times(UTC, asn1.encode(0x17, b"271301000000Z"))), id="month 13"),
    pytest.param("structure", edited(4, times(UTC, b"")), id="one time"),
    pytest.param("structure", edited(1, b"\x02\x02\x00\x01"), id="a serial number that is not minimal"),
    pytest.param("structure", edited(6, b""), id="no key"),
    pytest.param("structure", b"\x30\x00", id="nothing"),
    pytest.param("structure", b"", id="no bytes"),
]


@pytest.mark.parametrize(("rule", "to_be_signed"), MALFORMED)
def test_malformed_certificates_are_found(rule, to_be_signed):
    """The rules read the encoded bytes, so that they also find errors of the encoder."""
    assert (rule, "error") in lint(assembled(to_be_signed))


@pytest.mark.parametrize(
    "extension",
    [
        pytest.param(value(CONSTRAINTS, b"\x30\x03\x01\x01\x00"), id="explicit FALSE"),
        pytest.param(value(CONSTRAINTS, b"\x30\x03\x02\x01\x00"), id="a path length"),
        pytest.param(value(USAGE, b"\x03\x01\x09"), id="padding"),
        pytest.param(value(USAGE, b"\x03\x03\x00\x00\x01"), id="unknown bits"),
        pytest.param(value(AUTHORITY, b"\x30\x03\x82\x01\x01"), id="another key identifier"),
        pytest.param(value(names(dns=("a",)), b"\x30\x03\x02\x01\x01"), id="no names"),
        pytest.param(value(PURPOSE, b""), id="no value"),
    ],
)
def test_malformed_extensions_are_found(extension):
    """No other rule runs then."""
    certificate = assembled(new(**with_extension(extension)).to_be_signed())
    assert lint(certificate) == {("structure", "error")}


def test_the_two_signature_algorithms_must_be_equal():
    """The signed one, and the one of the signature."""
    other = asn1.encode(0x30, template.encode_oid("1.2.840.10045.4.3.3"))
    assert lint(assembled(new().to_be_signed(), other)) == {("signature-algorithm", "error")}


def test_every_rule_has_a_test():
    """Those about the issuer are in test_x509_issuerconstraints.py. Each rule has a unique name and a citation."""
    ids = [rule.id for rule in linter.RULES if rule.id not in ("name-constraints", "ca-extended-key-usage")]
    tried = {rule for rules, _, _ in VIOLATIONS for rule in rules.split()}
    # A certificate that cannot be parsed is a finding of the linter itself.
    tried |= {case.values[0] for case in MALFORMED} - {"structure"}
    assert sorted(ids) == sorted(tried)
    assert all(rule.citation for rule in linter.RULES)


def test_the_text_of_findings_is_limited():
    """A thousand names cause five findings of a rule, and each has a part of its name."""
    many = names(dns=[f"{'a' * 200}_{number}.example" for number in range(1000)])
    findings = linter.run(assembled(new(**with_extension(many)).to_be_signed()), POLICY).findings
    quoted = "a" * 80
    assert [str(finding) for finding in material.own(findings)] == 5 * [
        f"the DNS name '{quoted}'... is not in the preferred syntax [dns-syntax: 4.2.1.6, RFC 1034 3.5]"
    ]
