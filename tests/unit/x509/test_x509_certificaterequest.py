"""PKCS#10 requests that libraries do not write: issued as Kubernetes issues them, or refused with Go's errors."""

from __future__ import annotations

import dataclasses
import ipaddress

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.x509.oid import ExtensionOID, NameOID

from certplane.golang import asn1, pem
from certplane.x509 import certificatenames, oids
from certplane.x509.issuance import authority, issue
from certplane.x509.pkcs10 import certificaterequest, weakkeys
from certplane.x509.tbs import template
from tests.unit.x509 import material

NOW = material.NOW
CHALLENGE_PASSWORD, UNSTRUCTURED_NAME = "1.2.840.113549.1.9.7", "1.2.840.113549.1.9.2"
EXTENSION_REQUEST = "1.2.840.113549.1.9.14"
COMMON_NAME, DOMAIN_COMPONENT, USER_UID = "2.5.4.3", "0.9.2342.19200300.100.1.25", "1.3.6.1.4.1.57683.2"
JANE = template.encode_name(certificatenames.Subject(common_name="jane"))


def issued(text, usages=("client auth",)):
    """The certificate for a request, and the names of the lint rules with findings."""
    issuer = material.new_issuer()
    prepared = issuer.prepare(certificaterequest.verified(text), usages, None, NOW)
    certificate = x509.load_pem_x509_certificate(issuer.issue(prepared))
    certificate.verify_directly_issued_by(issuer.authority.certificate)
    return certificate, [finding.rule for finding in material.own(prepared.findings)]


def refused(text):
    """The error when a request is parsed, or when its certificate is prepared."""
    with pytest.raises((certificaterequest.RequestError, issue.IssueError, weakkeys.WeakKey)) as caught:
        issued(text)
    return str(caught.value)


def sans(*parts):
    value = asn1.encode(0x30, b"".join(parts))
    return material.requested(template.Extension(oids.SUBJECT_ALT_NAME, critical=False, value=value))


def dns(name):
    return asn1.encode(0x82, name if isinstance(name, bytes) else name.encode("ascii"))


def rdn(*pairs):
    """A name with one RDN. Each pair is an OID and the DER of a value."""
    return asn1.encode(
        0x30, asn1.encode(0x31, b"".join(asn1.encode(0x30, template.encode_oid(oid) + value) for oid, value in pairs))
    )


def names(certificate):
    return certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)


def common_names(certificate):
    return [attribute.value for attribute in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]


# --- attributes and extensions ------------------------------------------------------------------------------------


def test_requested_extensions_other_than_names_are_ignored():
    """Known or not, critical or not: the signer decides what the certificate contains."""
    attributes = material.requested(
        template.Extension("1.3.6.1.4.1.99999.1", critical=True, value=b"anything"),
        template.basic_constraints(ca=True),
        template.key_usage(("key_cert_sign",)),
        template.subject_key_id(b"mine"),
    )
    certificate, findings = issued(material.odd_request(JANE, attributes))
    oids_issued = [extension.oid for extension in certificate.extensions]
    assert oids_issued == [
        ExtensionOID.EXTENDED_KEY_USAGE, ExtensionOID.BASIC_CONSTRAINTS, ExtensionOID.AUTHORITY_KEY_IDENTIFIER
    ]  # fmt: skip
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert findings == []


@pytest.mark.parametrize(
    "attributes",
    [
        pytest.param(material.attribute(CHALLENGE_PASSWORD, b"\x13\x06secret"), id="a challenge password"),
        pytest.param(material.attribute(CHALLENGE_PASSWORD, b"\x1e\x04\0a\0b", b"\x0c\x01c"), id="two of them"),
        pytest.param(material.attribute(CHALLENGE_PASSWORD, b"\x13\x01a") * 2, id="the attribute twice"),
        pytest.param(material.attribute(UNSTRUCTURED_NAME, b"\x16\x04jane"), id="an unstructured name"),
        pytest.param(material.attribute(CHALLENGE_PASSWORD), id="no value"),
        pytest.param(material.attribute(EXTENSION_REQUEST), id="a request for no extensions"),
        pytest.param(material.requested(), id="a request for an empty list of extensions"),
        pytest.param(b"\x30\x03\x02\x01\x01", id="a malformed attribute"),
    ],
)
def test_other_attributes_are_ignored(attributes):
    """Such as challenge passwords: they are not in the certificate."""
    certificate, findings = issued(material.odd_request(JANE, attributes))
    assert (common_names(certificate), findings) == (["jane"], [])
    assert b"secret" not in certificate.tbs_certificate_bytes


def test_duplicate_requested_extensions_are_refused():
    """In one attribute or in two."""
    expected = "x509: certificate request contains duplicate requested extensions"
    name = template.subject_alt_name(template.AltNames(dns=("a",)), critical=False)
    assert refused(material.odd_request(JANE, material.requested(name, name))) == expected
    assert refused(material.odd_request(JANE, material.requested(name) * 2)) == expected


def extension(*parts):
    """The attribute that requests one extension with these parts, in DER."""
    return material.attribute(EXTENSION_REQUEST, asn1.encode(0x30, asn1.encode(0x30, b"".join(parts))))


SAN, A_EXAMPLE = template.encode_oid(oids.SUBJECT_ALT_NAME), asn1.encode(0x04, asn1.encode(0x30, b"\x82\x01a"))


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        (extension(), "asn1: syntax error: sequence truncated"),
        (extension(SAN), "asn1: syntax error: sequence truncated"),
        (extension(SAN, b"\x01\x01\x01", A_EXAMPLE), "asn1: syntax error: invalid boolean"),
        (extension(SAN, b"\x0c\x01a"), "tags don't match (4 vs {class:0 tag:12 length:1 isCompound:false})"),
        (extension(SAN, b"\x24" + A_EXAMPLE[1:]), "tags don't match (4 vs {class:0 tag:4 length:5 isCompound:true})"),
        (material.attribute(EXTENSION_REQUEST, b"\x30\x02\x02\x00"), "asn1: structure error: sequence tag mismatch"),
        (material.attribute(EXTENSION_REQUEST, b"\x30\x02\x30\x05"), "asn1: syntax error: truncated sequence"),
        (b"\x30\x05\x06", "asn1: syntax error: truncated sequence"),
    ],
)
def test_malformed_extensions_are_refused(attributes, expected):
    """With Go's error."""
    assert expected in refused(material.odd_request(JANE, attributes))


@pytest.mark.parametrize(
    "attributes",
    [
        pytest.param(extension(SAN, b"\x01\x01\x00", A_EXAMPLE), id="explicit FALSE"),
        pytest.param(extension(SAN, A_EXAMPLE, b"\xff"), id="data after the value"),
        pytest.param(
            sans(dns("a"))[:1] + bytes([len(sans(dns("a")))]) + sans(dns("a"))[2:] + b"\x05\0",
            id="data after the names",
        ),
    ],
)
def test_explicit_defaults_and_trailing_data_are_accepted(attributes):
    """As by Go's reader of ASN.1 sequences."""
    certificate, _ = issued(material.odd_request(JANE, attributes))
    assert names(certificate).value.get_values_for_type(x509.DNSName) == ["a"]


def test_two_attributes_may_request_different_extensions():
    """They are read as one list."""
    name = template.subject_alt_name(template.AltNames(dns=("a",)), critical=False)
    attributes = material.requested(name) + material.requested(template.subject_key_id(b"x"))
    certificate, _ = issued(material.odd_request(JANE, attributes))
    assert names(certificate).value.get_values_for_type(x509.DNSName) == ["a"]


# --- names --------------------------------------------------------------------------------------------------------


def test_a_thousand_names_are_issued():
    """All of them, in the requested order."""
    hosts = [f"host-{number}.example" for number in range(500)]
    addresses = [ipaddress.ip_address(0x0A000000 + number) for number in range(500)]
    attributes = sans(*map(dns, hosts), *(asn1.encode(0x87, address.packed) for address in addresses))
    certificate, findings = issued(material.odd_request(JANE, attributes))
    assert names(certificate).value.get_values_for_type(x509.DNSName) == hosts
    assert names(certificate).value.get_values_for_type(x509.IPAddress) == addresses
    assert findings == []


def test_only_short_requests_are_cached():
    """Long ones would fill the memory."""
    short, long = (material.odd_request(JANE, sans(*[dns("a" * 60 + ".example")] * count)) for count in (1, 1000))
    assert certificaterequest.parse(short) is certificaterequest.parse(short)
    assert certificaterequest.parse(long) is not certificaterequest.parse(long)
    assert certificaterequest.verified(short) is certificaterequest.verified(short)
    assert certificaterequest.verified(short).request is certificaterequest.parse(short)
    assert certificaterequest.verified(long) is not certificaterequest.verified(long)


def test_internationalized_names_must_be_encoded():
    """The encoded form is issued, raw UTF-8 is refused."""
    certificate, findings = issued(material.odd_request(JANE, sans(dns("xn--bcher-kva.example"))))
    assert (names(certificate).value.get_values_for_type(x509.DNSName), findings) == (["xn--bcher-kva.example"], [])
    raw = material.odd_request(JANE, sans(dns("bücher.example".encode())))
    assert refused(raw) == "x509: SAN dNSName is malformed"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a_b.example", ["dns-syntax"]),
        ("a.example.", ["dns-syntax"]),
        ("", ["alternative-name-empty"]),
        ("*", ["dns-wildcard"]),
        ("*.*.example", ["dns-wildcard"]),
        ("x" * 300, ["dns-syntax"]),
        ("xn--.example", ["dns-syntax", "dns-punycode"]),
        ("a b\n", ["dns-syntax"]),
    ],
)
def test_unusual_dns_names_are_issued_with_findings(name, expected):
    """Kubernetes issues them as well."""
    certificate, findings = issued(material.odd_request(JANE, sans(dns(name))))
    assert (names(certificate).value.get_values_for_type(x509.DNSName), findings) == ([name], expected)


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        (asn1.encode(0x87, b"\x0a\0\0\0\1"), "x509: cannot parse IP address of length 5"),
        (asn1.encode(0x86, b"https://a/%zz/"), 'parse "https://a/%zz/": invalid URL escape "%zz"'),
        (asn1.encode(0x86, b"http://[::1"), "missing ']' in host"),
        (asn1.encode(0x86, b"https://a..b/"), 'x509: cannot parse URI "https://a..b/": invalid domain'),
        (asn1.encode(0x86, b"https://a."), 'x509: cannot parse URI "https://a.": invalid domain'),
        (b"\x9f\x1f\x01a", "x509: invalid subject alternative name"),
        (b"\x82\x05a", "x509: invalid subject alternative name"),
        (asn1.encode(0x81, b"j\xe4ne@a.example"), "x509: SAN rfc822Name is malformed"),
    ],
)
def test_malformed_names_are_refused(part, expected):
    """With Go's error."""
    assert expected in refused(material.odd_request(JANE, sans(part)))


def test_uris_are_issued_as_go_prints_them():
    """The scheme is in lower case, special characters are escaped, and an empty fragment is removed."""
    attributes = sans(*(asn1.encode(0x86, uri) for uri in (b"HTTPS://A/b c", b"spiffe://td/ns/x", b"https://a/#")))
    certificate, _ = issued(material.odd_request(JANE, attributes))
    uris = names(certificate).value.get_values_for_type(x509.UniformResourceIdentifier)
    assert uris == ["https://A/b%20c", "spiffe://td/ns/x", "https://a/"]


def test_other_types_of_names_are_dropped():
    """Such as directory names and registered identifiers."""
    directory = asn1.encode(0xA4, JANE)
    other = asn1.encode(0xA0, template.encode_oid("1.3.6.1.4.1.311.20.2.3") + asn1.encode(0xA0, b"\x0c\x04jane"))
    # The tags of DNS names and addresses, but of other classes, or constructed.
    other_tags = b"\x02\x01a" + b"\x42\x01a" + b"\xc2\x01a" + b"\xa2\x01a" + b"\x07\x04\1\2\3\4"
    certificate, findings = issued(
        material.odd_request(JANE, sans(directory, other, b"\x88\x01\x2a", other_tags, dns("a")))
    )
    assert (list(names(certificate).value), findings) == ([x509.DNSName("a")], [])
    certificate, _ = issued(material.odd_request(JANE, sans(directory)))
    assert ExtensionOID.SUBJECT_ALTERNATIVE_NAME not in [extension.oid for extension in certificate.extensions]


# --- subjects -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param(asn1.encode(0x1E, "jäne".encode("utf-16-be")), ["jäne"], id="BMPString"),
        pytest.param(asn1.encode(0x1E, b"\0j\0\0"), ["j"], id="BMPString with a terminating NUL"),
        pytest.param(asn1.encode(0x14, b"j\xe4ne"), ["jäne"], id="TeletexString is Latin-1"),
        pytest.param(asn1.encode(0x16, b"jane@a.example"), ["jane@a.example"], id="IA5String"),
        pytest.param(asn1.encode(0x12, b"123 456"), ["123 456"], id="NumericString"),
        pytest.param(asn1.encode(0x0C, "jäne".encode()), ["jäne"], id="UTF8String"),
        pytest.param(asn1.encode(0x1C, "jane".encode("utf-32-be")), [], id="UniversalString is not read"),
        pytest.param(asn1.encode(0x1A, b"jane"), [], id="VisibleString is not read"),
        pytest.param(asn1.encode(0x2C, b"\x0c\x04jane"), [], id="a constructed string is not read"),
        pytest.param(asn1.encode(0x02, b"\1"), [], id="an integer is not read"),
        pytest.param(asn1.encode(0x17, b"260102030405Z"), [], id="a time is not read"),
    ],
)
def test_string_types(value, expected):
    """Values are encoded again, as PrintableString or UTF8String. Values of other types are dropped."""
    certificate, _ = issued(material.odd_request(rdn((COMMON_NAME, value))))
    assert common_names(certificate) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param(asn1.encode(0x1E, b"\0a\0"), "invalid BMPString", id="half a character"),
        pytest.param(asn1.encode(0x1E, b"\xd8\x3d\xde\0"), "invalid BMPString", id="surrogates"),
        pytest.param(asn1.encode(0x1E, b"\xff\xfe"), "invalid BMPString", id="a noncharacter"),
        pytest.param(asn1.encode(0x02, b"\0\1"), "asn1: structure error: integer not minimally-encoded", id="integer"),
        pytest.param(asn1.encode(0x02, b"\1" * 9), "asn1: structure error: integer too large", id="large integer"),
        pytest.param(asn1.encode(0x01, b"\1"), "asn1: syntax error: invalid boolean", id="boolean"),
        pytest.param(asn1.encode(0x03, b""), "asn1: syntax error: zero length BIT STRING", id="bits"),
        pytest.param(
            asn1.encode(0x17, b"261302030405Z"),
            "asn1: time did not serialize back to the original value and may be invalid",
            id="thirteenth month",
        ),
        pytest.param(asn1.encode(0x0C, b"\xff\xfe"), "asn1: invalid UTF-8 string", id="no UTF-8"),
        pytest.param(asn1.encode(0x16, b"\xe4"), "asn1: syntax error: IA5String contains invalid character", id="IA5"),
    ],
)
def test_malformed_strings_are_refused(value, expected):
    """With Go's error."""
    assert refused(material.odd_request(rdn((COMMON_NAME, value)))) == expected


def test_repeated_organizations_are_kept():
    """In the sorted RDN that all organizations share."""
    prepared = material.new_issuer().prepare(
        certificaterequest.verified(
            material.odd_request(template.encode_name(certificatenames.Subject(organization=("b", "a", "b"))))
        ),
        ("client auth",),
        None,
        NOW,
    )
    one = asn1.encode(0x30, template.encode_oid("2.5.4.10") + b"\x13\x01a")
    two = asn1.encode(0x30, template.encode_oid("2.5.4.10") + b"\x13\x01b")
    assert asn1.encode(0x30, asn1.encode(0x31, one + two + two)) in prepared.to_be_signed


def test_the_last_of_several_common_names_counts():
    """In one RDN or in several."""
    jane, jack = (COMMON_NAME, b"\x13\x04jane"), (COMMON_NAME, b"\x13\x04jack")
    in_two = asn1.encode(0x30, b"".join(asn1.Reader(rdn(pair)).read_any().content for pair in (jane, jack)))
    for subject in (rdn(jane, jack), in_two):
        assert common_names(issued(material.odd_request(subject))[0]) == ["jack"]


def test_other_subject_attributes_are_dropped():
    """Domain components, and the attribute that Kubernetes reads as the UID of a user."""
    name = rdn((COMMON_NAME, b"\x13\x04jane"), (DOMAIN_COMPONENT, b"\x16\x01a"), (USER_UID, b"\x0c\x01u"))
    certificate, findings = issued(material.odd_request(name))
    assert ([attribute.oid for attribute in certificate.subject], findings) == ([NameOID.COMMON_NAME], [])


def test_an_empty_subject_is_issued():
    """If there are names, they are critical. A certificate without any name has a finding."""
    certificate, findings = issued(material.odd_request(attributes=sans(dns("a.example"))))
    assert (names(certificate).critical, list(certificate.subject), findings) == (True, [], [])
    certificate, findings = issued(material.odd_request())
    assert (list(certificate.subject), findings) == ([], ["empty-identity"])


def test_a_long_common_name_is_issued():
    """Node names can be longer than X.520 allows."""
    long = "system:node:" + "x" * 253
    certificate, findings = issued(
        material.odd_request(template.encode_name(certificatenames.Subject(common_name=long)))
    )
    # The library warns of the length when it reads the name.
    assert long.encode() in certificate.tbs_certificate_bytes
    assert findings == ["subject-attributes"]


# --- keys ---------------------------------------------------------------------------------------------------------


def rsa_spki(modulus, exponent, parameters=b"\x05\0"):
    numbers = (
        asn1.encode(0x02, number.to_bytes(number.bit_length() // 8 + 1, "big", signed=True))
        for number in (modulus, exponent)
    )
    key = asn1.encode(0x30, b"".join(numbers))
    algorithm = asn1.encode(0x30, template.encode_oid("1.2.840.113549.1.1.1") + parameters)
    return asn1.encode(0x30, algorithm + asn1.encode(0x03, b"\0" + key))


@pytest.mark.parametrize(
    ("modulus", "exponent", "expected"),
    [
        (0, 3, "x509: RSA modulus is not a positive number"),
        ((1 << 2048) + 1, 0, "x509: RSA public exponent is not a positive number"),
        ((1 << 2048) + 1, 1 << 63, "x509: invalid RSA public exponent"),
        ((1 << 511) + 1, 3, "512-bit keys are insecure"),
        (1 << 2047, 3, "crypto/rsa: public modulus is even"),
        ((1 << 2048) + 1, 1, "crypto/rsa: public exponent too small or negative"),
        ((1 << 2048) + 1, 2, "crypto/rsa: public exponent is even"),
        ((1 << 2048) + 1, (1 << 31) + 1, "crypto/rsa: public exponent too large"),
        ((1 << 2048) + 1, 65537, "crypto/rsa: verification error"),
    ],
)
def test_invalid_rsa_keys_are_refused(modulus, exponent, expected):
    """With Go's error."""
    public = rsa_spki(modulus, exponent)
    assert expected in refused(material.odd_request(JANE, private=material.key("RSA-2048"), spki=public))


def test_the_size_of_an_rsa_key_is_checked_last():
    """With the signature, and therefore after the names."""
    public = rsa_spki((1 << 511) + 1, 3)
    text = material.odd_request(JANE, sans(dns("é".encode())), material.key("RSA-2048"), public)
    assert refused(text) == "x509: SAN dNSName is malformed"


def test_the_key_is_parsed_before_the_subject():
    """So that the first of several errors is the same as Go's."""
    public = rsa_spki((1 << 2048) + 1, 3, parameters=b"")
    assert refused(material.odd_request(b"\x05\0", spki=public)) == "x509: RSA key missing NULL parameters"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        pytest.param(lambda _: b"", "ecdsa: invalid uncompressed public key", id="empty"),
        pytest.param(lambda point: b"\2" + point[1:33], "ecdsa: invalid uncompressed public key", id="compressed"),
        pytest.param(lambda point: point[:-1], "invalid P256 point encoding", id="short"),
        pytest.param(
            lambda point: point[:-1] + bytes([point[-1] ^ 1]), "P256 point not on curve", id="not on the curve"
        ),
        pytest.param(lambda _: b"\4" + b"\xff" * 64, "invalid P256 element encoding", id="beyond the field"),
    ],
)
def test_invalid_points_are_refused(change, expected):
    """Compressed points as well."""
    *_, bits = asn1.Reader(asn1.Reader(material.public_der(material.key())).read_any().content)
    algorithm = asn1.encode(0x30, template.encode_oid("1.2.840.10045.2.1") + template.encode_oid("1.2.840.10045.3.1.7"))
    public = asn1.encode(0x30, algorithm + asn1.encode(0x03, b"\0" + change(asn1.decode_bit_string(bits))))
    assert refused(material.odd_request(JANE, spki=public)) == expected


@pytest.mark.parametrize(
    ("parameters", "bits", "expected"),
    [
        (b"\x30\x09\x02\1\x17\x02\1\x0b\x02\1\4", b"\x02\1\x08", "cannot verify signature: algorithm unimplemented"),
        (b"\x30\x09\x02\1\x17\x02\1\x0b\x02\1\0", b"\x02\1\x08", "x509: zero or negative DSA parameter"),
        (b"", b"\x02\1\x08", "x509: invalid DSA parameters"),
        (b"", b"", "x509: invalid DSA public key"),
    ],
)
def test_dsa_keys_are_refused(parameters, bits, expected):
    """They are parsed, but their signatures are not verified."""
    algorithm = asn1.encode(0x30, template.encode_oid("1.2.840.10040.4.1") + parameters)
    public = asn1.encode(0x30, algorithm + asn1.encode(0x03, b"\0" + bits))
    assert expected in refused(material.odd_request(JANE, spki=public))


@pytest.mark.parametrize(
    ("primes", "expected"),
    [
        pytest.param(material.close_primes, "too close to each other", id="close primes"),
        pytest.param(material.roca_primes, "ROCA", id="ROCA"),
    ],
)
def test_weak_keys_with_a_valid_signature_are_refused(primes, expected):
    """The signature proves possession, but the key is not certified."""
    assert expected in refused(material.odd_request(JANE, private=material.rsa_key(*primes())))


def test_a_signature_of_another_key_is_refused():
    """Possession of the key is not proven."""
    text = material.odd_request(JANE, private=material.key(), spki=material.public_der(material.key("P-256", 1)))
    assert refused(text) == "x509: ECDSA verification failure"
    with pytest.raises(certificaterequest.RequestError):
        certificaterequest.VerifiedRequest(text)
    with pytest.raises(certificaterequest.RequestError):
        certificaterequest.verify(certificaterequest.parse(text))


def test_a_verified_request_is_made_from_bytes_only():
    """The signature does not cover fields that were changed after parsing."""
    text = material.odd_request(JANE)
    forged = dataclasses.replace(
        certificaterequest.parse(text),
        subject=certificatenames.Subject(common_name="root"),
        dns_names=("evil.example",),
    )
    with pytest.raises((TypeError, certificaterequest.RequestError)):
        certificaterequest.VerifiedRequest(forged)
    assert certificaterequest.verify(forged) is None
    verified = certificaterequest.VerifiedRequest(text)
    assert (verified.request.common_name, verified.request.dns_names) == ("jane", ())
    with pytest.raises(AttributeError):
        verified.request = forged
    with pytest.raises(TypeError):
        dataclasses.replace(verified, request=forged)
    with pytest.raises(TypeError):
        verified.request.extensions[oids.BASIC_CONSTRAINTS] = template.basic_constraints(ca=True).value


def pss_request(salt_length):
    builder = x509.CertificateSigningRequestBuilder().subject_name(
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "jane")])
    )
    scheme = padding.PSS(padding.MGF1(hashes.SHA256()), salt_length)
    request = builder.sign(material.key("RSA-2048"), hashes.SHA256(), rsa_padding=scheme)
    return request.public_bytes(serialization.Encoding.PEM)


def test_rsa_pss_signatures_are_verified():
    """Their salt is as long as the hash."""
    certificate, _ = issued(pss_request(32))
    assert common_names(certificate) == ["jane"]


def test_rsa_pss_signatures_with_another_salt_are_refused():
    """As in Go, even if the parameters have its length."""
    assert refused(pss_request(20)) == "x509: cannot verify signature: algorithm unimplemented"


# --- authorities --------------------------------------------------------------------------------------------------

CA_USAGES = ("cert sign", "crl sign")
REQUESTS_CA = material.requested(template.basic_constraints(ca=True))


def test_requested_ca_certificates_are_not_issued():
    """A signer that does not issue CA certificates ignores the request. The CA usages have a finding."""
    certificate, findings = issued(material.odd_request(JANE, REQUESTS_CA), CA_USAGES)
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert findings == ["usage-combination"]


def test_ca_certificates_are_issued_if_allowed_and_requested():
    """Their path length is 0. Without the request, an end-entity certificate is issued."""
    issuer = material.new_issuer(issues_ca=True)
    request = certificaterequest.verified(material.odd_request(JANE, REQUESTS_CA))
    prepared = issuer.prepare(request, CA_USAGES, None, NOW)
    record = issuer.record(prepared, material.UID)
    resumed = issuer.resume(record, material.UID, request, CA_USAGES, None, NOW)
    assert resumed.to_be_signed == prepared.to_be_signed
    text = issuer.issue(prepared)
    certificate = x509.load_pem_x509_certificate(text)
    constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    assert (constraints.ca, constraints.path_length, material.own(prepared.findings)) == (True, 0, ())
    below = authority.Authority(pem.first_block(text).data, material.key())
    assert (below.is_ca, below.key_id) == (True, template.key_id(material.public_der(material.key())))
    other = issuer.prepare(certificaterequest.verified(material.odd_request(JANE)), CA_USAGES, None, NOW)
    assert [finding.rule for finding in material.own(other.findings)] == ["usage-combination"]
    with pytest.raises(issue.IssueError) as caught:
        issue.Issuer(below, material.YEAR, issues_ca=True).prepare(request, CA_USAGES, None, NOW)
    assert str(caught.value) == "the CA may not issue CA certificates: its path length is 0"


def test_a_recorded_ca_certificate_is_refused_if_the_signer_issues_none():
    """The configuration of the signer was changed in between."""
    request = certificaterequest.verified(material.odd_request(JANE, REQUESTS_CA))
    former = material.new_issuer(issues_ca=True)
    record = former.record(former.prepare(request, CA_USAGES, None, NOW), material.UID)
    with pytest.raises(issue.LintError) as caught:
        material.new_issuer().resume(record, material.UID, request, CA_USAGES, None, NOW)
    assert [finding.rule for finding in caught.value.findings] == ["basic-constraints"]


@pytest.mark.parametrize(
    ("constraints", "expected"),
    [
        (b"\x30\x03\x01\x01\xff", True),
        (b"\x30\x06\x01\x01\xff\x02\x01\x00", True),
        (b"\x30\x00", False),
        (b"\x30\x03\x02\x01\x00", False),
        (b"\x30\x03\x01\x01\x01", False),
        (b"nonsense", False),
        (b"", False),
    ],
)
def test_requests_for_a_ca_certificate_are_recognized(constraints, expected):
    """A malformed extension requests nothing, because Go does not parse it."""
    attributes = material.requested(template.Extension(oids.BASIC_CONSTRAINTS, critical=True, value=constraints))
    assert certificaterequest.parse(material.odd_request(JANE, attributes)).requests_ca == expected


MOST = asn1.MAX_VALUES
TOO_MANY = {
    "names": (sans(*[dns("a")] * (MOST + 1)), b"\x30\x00", "more than 2000 subject alternative names"),
    "attributes": (material.attribute(CHALLENGE_PASSWORD, b"") * (MOST + 1), b"\x30\x00", "more than 2000 values"),
    "extensions": (
        material.attribute(EXTENSION_REQUEST, asn1.encode(0x30, asn1.encode(0x30, SAN + A_EXAMPLE) * (MOST + 1))),
        b"\x30\x00",
        "more than 2000 values",
    ),
    "subject": (
        b"",
        asn1.encode(0x30, rdn((COMMON_NAME, asn1.encode(0x0C, b"a")))[2:] * (MOST + 1)),
        "more than 2000 values",
    ),
    "subject in few parts": (
        b"",
        asn1.encode(0x30, rdn(*[(COMMON_NAME, asn1.encode(0x0C, b"a"))] * (MOST // 2 + 1))[4:] * 2),
        "more than 2000 attributes of a name",
    ),
    "arcs": (
        b"",
        asn1.encode(
            0x30, asn1.encode(0x31, asn1.encode(0x30, asn1.encode(0x06, b"\x01" * 1_000) + asn1.encode(0x0C, b"a")))
        ),
        "OBJECT IDENTIFIER has more than 128 arcs",
    ),
}


@pytest.mark.parametrize("kind", TOO_MANY)
def test_the_number_of_parts_is_limited(kind):
    """A request with a hundred thousand names once took seconds."""
    attributes, subject, error = TOO_MANY[kind]
    assert error in refused(material.odd_request(subject, attributes))


def test_the_size_of_a_request_is_limited():
    """It is parsed several times before its certificate is issued."""
    assert (
        refused(b"\n" * certificaterequest.MAX_REQUEST_BYTES + material.odd_request(JANE))
        == "may not be more than 262144 bytes"
    )
    text = material.odd_request(JANE)
    filler = b"\n" * (certificaterequest.MAX_REQUEST_BYTES - len(text))
    assert certificaterequest.parse(filler + text).common_name == "jane"
    assert refused(b"\n" + filler + text) == "may not be more than 262144 bytes"


def test_the_maximum_number_of_names_is_accepted():
    """The limit is inclusive."""
    assert len(certificaterequest.parse(material.odd_request(JANE, sans(*[dns("a")] * MOST))).dns_names) == MOST
