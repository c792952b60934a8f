"""Requests that nobody's library writes: issued as Kubernetes issues them, or refused in words."""

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
    """The certificate for a request, and the rules that have something to say."""
    issuer = material.new_issuer()
    prepared = issuer.prepare(certificaterequest.verified(text), usages, None, NOW)
    certificate = x509.load_pem_x509_certificate(issuer.issue(prepared))
    certificate.verify_directly_issued_by(issuer.authority.certificate)
    return certificate, [finding.rule for finding in material.own(prepared.findings)]


def refused(text):
    """What is said to whoever sends such a request, or when it is to be signed."""
    with pytest.raises((certificaterequest.RequestError, issue.IssueError, weakkeys.WeakKey)) as caught:
        issued(text)
    return str(caught.value)


def sans(*parts):
    value = asn1.encode(0x30, b"".join(parts))
    return material.requested(template.Extension(oids.SUBJECT_ALT_NAME, critical=False, value=value))


def dns(name):
    return asn1.encode(0x82, name if isinstance(name, bytes) else name.encode("ascii"))


def rdn(*pairs):
    """A name with one RDN; each pair is an OID and the DER of a value."""
    return asn1.encode(
        0x30, asn1.encode(0x31, b"".join(asn1.encode(0x30, template.encode_oid(oid) + value) for oid, value in pairs))
    )


def names(certificate):
    return certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)


def common_names(certificate):
    return [each.value for each in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]


# --- attributes and extensions ------------------------------------------------------------------------------------


def test_requested_extensions_are_ignored_but_for_the_names():
    """Known or not, critical or not: what the certificate says is the signer's to decide."""
    wanted = material.requested(
        template.Extension("1.3.6.1.4.1.99999.1", critical=True, value=b"anything"),
        template.basic_constraints(ca=True),
        template.key_usage(("key_cert_sign",)),
        template.subject_key_id(b"mine"),
    )
    certificate, findings = issued(material.odd_request(JANE, wanted))
    kinds = [each.oid for each in certificate.extensions]
    assert kinds == [
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
        pytest.param(b"\x30\x03\x02\x01\x01", id="an attribute that is none"),
    ],
)
def test_other_attributes_are_ignored(attributes):
    """Passwords of other protocols among them: they do not get into the certificate."""
    certificate, findings = issued(material.odd_request(JANE, attributes))
    assert (common_names(certificate), findings) == (["jane"], [])
    assert b"secret" not in certificate.tbs_certificate_bytes


def test_an_extension_may_be_requested_once():
    """In one attribute or in two."""
    expected = "x509: certificate request contains duplicate requested extensions"
    name = template.subject_alt_name(template.AltNames(dns=("a",)), critical=False)
    assert refused(material.odd_request(JANE, material.requested(name, name))) == expected
    assert refused(material.odd_request(JANE, material.requested(name) * 2)) == expected


def extension(*parts):
    """The attribute that requests one extension, of these parts."""
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
    """In the words of a Go server."""
    assert expected in refused(material.odd_request(JANE, attributes))


@pytest.mark.parametrize(
    "attributes",
    [
        pytest.param(extension(SAN, b"\x01\x01\x00", A_EXAMPLE), id="FALSE, which DER would leave out"),
        pytest.param(extension(SAN, A_EXAMPLE, b"\xff"), id="something behind the value"),
        pytest.param(
            sans(dns("a"))[:1] + bytes([len(sans(dns("a")))]) + sans(dns("a"))[2:] + b"\x05\0", id="behind the values"
        ),
    ],
)
def test_what_stands_behind_is_not_read(attributes):
    """As Go's reader of sequences does not."""
    certificate, _ = issued(material.odd_request(JANE, attributes))
    assert names(certificate).value.get_values_for_type(x509.DNSName) == ["a"]


def test_two_attributes_may_request_different_extensions():
    """They are read as one."""
    name = template.subject_alt_name(template.AltNames(dns=("a",)), critical=False)
    attributes = material.requested(name) + material.requested(template.subject_key_id(b"x"))
    certificate, _ = issued(material.odd_request(JANE, attributes))
    assert names(certificate).value.get_values_for_type(x509.DNSName) == ["a"]


# --- names --------------------------------------------------------------------------------------------------------


def test_a_thousand_names():
    """All of them are in the certificate."""
    hosts = [f"host-{number}.example" for number in range(500)]
    addresses = [ipaddress.ip_address(0x0A000000 + number) for number in range(500)]
    attributes = sans(*map(dns, hosts), *(asn1.encode(0x87, each.packed) for each in addresses))
    certificate, findings = issued(material.odd_request(JANE, attributes))
    assert names(certificate).value.get_values_for_type(x509.DNSName) == hosts
    assert names(certificate).value.get_values_for_type(x509.IPAddress) == addresses
    assert findings == []


def test_only_short_requests_are_remembered():
    """Whoever sends long ones does not fill the memory."""
    short, long = (material.odd_request(JANE, sans(*[dns("a" * 60 + ".example")] * count)) for count in (1, 1000))
    assert certificaterequest.parse(short) is certificaterequest.parse(short)
    assert certificaterequest.parse(long) is not certificaterequest.parse(long)
    assert certificaterequest.verified(short) is certificaterequest.verified(short)
    assert certificaterequest.verified(short).request is certificaterequest.parse(short)
    assert certificaterequest.verified(long) is not certificaterequest.verified(long)


def test_international_names():
    """In their encoded form they are issued; as they are written they are no names."""
    certificate, findings = issued(material.odd_request(JANE, sans(dns("xn--bcher-kva.example"))))
    assert (names(certificate).value.get_values_for_type(x509.DNSName), findings) == (["xn--bcher-kva.example"], [])
    raw = material.odd_request(JANE, sans(dns("bücher.example".encode())))
    assert refused(raw) == "x509: SAN dNSName is malformed"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a_b.example", ["dns-syntax"]),
        ("a.example.", ["dns-syntax"]),
        ("", ["names-empty"]),
        ("*", ["dns-wildcard"]),
        ("*.*.example", ["dns-wildcard"]),
        ("x" * 300, ["dns-syntax"]),
        ("xn--.example", ["dns-syntax", "dns-punycode"]),
        ("a b\n", ["dns-syntax"]),
    ],
)
def test_odd_hosts_are_issued_and_remarked(name, expected):
    """Kubernetes issues them."""
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
def test_names_that_are_none_are_refused(part, expected):
    """In the words of a Go server."""
    assert expected in refused(material.odd_request(JANE, sans(part)))


def test_uris_are_issued_as_go_prints_them():
    """With the scheme in lower case, what is odd escaped, and an empty fragment left out."""
    wanted = sans(*(asn1.encode(0x86, each) for each in (b"HTTPS://A/b c", b"spiffe://td/ns/x", b"https://a/#")))
    certificate, _ = issued(material.odd_request(JANE, wanted))
    found = names(certificate).value.get_values_for_type(x509.UniformResourceIdentifier)
    assert found == ["https://A/b%20c", "spiffe://td/ns/x", "https://a/"]


def test_other_kinds_of_names_are_dropped():
    """A directory name, a registered identifier, another name."""
    directory = asn1.encode(0xA4, JANE)
    other = asn1.encode(0xA0, template.encode_oid("1.3.6.1.4.1.311.20.2.3") + asn1.encode(0xA0, b"\x0c\x04jane"))
    # The tags of DNS names and addresses, but of other classes, or constructed.
    strange = b"\x02\x01a" + b"\x42\x01a" + b"\xc2\x01a" + b"\xa2\x01a" + b"\x07\x04\1\2\3\4"
    certificate, findings = issued(
        material.odd_request(JANE, sans(directory, other, b"\x88\x01\x2a", strange, dns("a")))
    )
    assert (list(names(certificate).value), findings) == ([x509.DNSName("a")], [])
    certificate, _ = issued(material.odd_request(JANE, sans(directory)))
    assert ExtensionOID.SUBJECT_ALTERNATIVE_NAME not in [each.oid for each in certificate.extensions]


# --- subjects -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param(asn1.encode(0x1E, "jäne".encode("utf-16-be")), ["jäne"], id="BMPString"),
        pytest.param(asn1.encode(0x1E, b"\0j\0\0"), ["j"], id="BMPString with an end"),
        pytest.param(asn1.encode(0x14, b"j\xe4ne"), ["jäne"], id="TeletexString is Latin-1"),
        pytest.param(asn1.encode(0x16, b"jane@a.example"), ["jane@a.example"], id="IA5String"),
        pytest.param(asn1.encode(0x12, b"123 456"), ["123 456"], id="NumericString"),
        pytest.param(asn1.encode(0x0C, "jäne".encode()), ["jäne"], id="UTF8String"),
        pytest.param(asn1.encode(0x1C, "jane".encode("utf-32-be")), [], id="UniversalString is not read"),
        pytest.param(asn1.encode(0x1A, b"jane"), [], id="nor VisibleString"),
        pytest.param(asn1.encode(0x2C, b"\x0c\x04jane"), [], id="nor a constructed string"),
        pytest.param(asn1.encode(0x02, b"\1"), [], id="no string at all"),
        pytest.param(asn1.encode(0x17, b"260102030405Z"), [], id="a time"),
    ],
)
def test_string_types(value, expected):
    """Names are written anew, as PrintableString or UTF8String; what cannot be read is left out."""
    certificate, _ = issued(material.odd_request(rdn((COMMON_NAME, value))))
    assert common_names(certificate) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param(asn1.encode(0x1E, b"\0a\0"), "invalid BMPString", id="half a letter"),
        pytest.param(asn1.encode(0x1E, b"\xd8\x3d\xde\0"), "invalid BMPString", id="surrogates"),
        pytest.param(asn1.encode(0x1E, b"\xff\xfe"), "invalid BMPString", id="no character"),
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
def test_strings_that_are_none_are_refused(value, expected):
    """In the words of a Go server."""
    assert refused(material.odd_request(rdn((COMMON_NAME, value)))) == expected


def test_the_same_value_twice_stays_twice():
    """In the one RDN that all values of an attribute share."""
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


def test_of_several_common_names_the_last_one_counts():
    """Of one RDN or of several."""
    both = rdn((COMMON_NAME, b"\x13\x04jane"), (COMMON_NAME, b"\x13\x04jack"))
    assert common_names(issued(material.odd_request(both))[0]) == ["jack"]


def test_other_attributes_of_a_subject_are_dropped():
    """Domain components, and the UID by which Kubernetes would know a user."""
    name = rdn((COMMON_NAME, b"\x13\x04jane"), (DOMAIN_COMPONENT, b"\x16\x01a"), (USER_UID, b"\x0c\x01u"))
    certificate, findings = issued(material.odd_request(name))
    assert ([each.oid for each in certificate.subject], findings) == ([NameOID.COMMON_NAME], [])


def test_a_request_without_a_subject():
    """With names these are critical; without, the certificate names nobody, and that is remarked."""
    certificate, findings = issued(material.odd_request(attributes=sans(dns("a.example"))))
    assert (names(certificate).critical, list(certificate.subject), findings) == (True, [], [])
    certificate, findings = issued(material.odd_request())
    assert (list(certificate.subject), findings) == ([], ["nobody"])


def test_a_long_common_name_is_issued():
    """Names of nodes may be longer than X.520 has it."""
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
        asn1.encode(0x02, each.to_bytes(each.bit_length() // 8 + 1, "big", signed=True)) for each in (modulus, exponent)
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
def test_numbers_that_no_rsa_key_has(modulus, exponent, expected):
    """In the words of a Go server."""
    public = rsa_spki(modulus, exponent)
    assert expected in refused(material.odd_request(JANE, private=material.key("RSA-2048"), spki=public))


def test_a_small_key_is_the_last_thing_that_is_said():
    """The names are read before the signature is verified, and with it the size of the key is."""
    public = rsa_spki((1 << 511) + 1, 3)
    text = material.odd_request(JANE, sans(dns("é".encode())), material.key("RSA-2048"), public)
    assert refused(text) == "x509: SAN dNSName is malformed"


def test_a_key_is_read_before_the_subject():
    """So that what is said of several problems is what a Go server says."""
    public = rsa_spki((1 << 2048) + 1, 3, parameters=b"")
    assert refused(material.odd_request(b"\x05\0", spki=public)) == "x509: RSA key missing NULL parameters"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        pytest.param(lambda _: b"", "ecdsa: invalid uncompressed public key", id="nothing"),
        pytest.param(lambda point: b"\2" + point[1:33], "ecdsa: invalid uncompressed public key", id="compressed"),
        pytest.param(lambda point: point[:-1], "invalid P256 point encoding", id="short"),
        pytest.param(
            lambda point: point[:-1] + bytes([point[-1] ^ 1]), "P256 point not on curve", id="beside the curve"
        ),
        pytest.param(lambda _: b"\4" + b"\xff" * 64, "invalid P256 element encoding", id="beyond the field"),
    ],
)
def test_points_that_are_none(change, expected):
    """Compressed ones among them."""
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
def test_dsa_keys(parameters, bits, expected):
    """They are read, but nothing is verified with them."""
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
def test_weak_keys_with_a_good_signature(primes, expected):
    """The request proves possession, and is refused for its key."""
    assert expected in refused(material.odd_request(JANE, private=material.rsa_key(*primes())))


def test_a_request_that_another_key_signed():
    """Possession is not proven."""
    text = material.odd_request(JANE, private=material.key(), spki=material.public_der(material.key("P-256", 1)))
    assert refused(text) == "x509: ECDSA verification failure"
    with pytest.raises(certificaterequest.RequestError):
        certificaterequest.VerifiedRequest(text)
    with pytest.raises(certificaterequest.RequestError):
        certificaterequest.verify(certificaterequest.parse(text))


def test_a_verified_request_says_what_was_signed():
    """It is made from bytes only: fields that were changed after parsing are proven by nothing."""
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


@pytest.mark.parametrize(
    ("salt", "expected"),
    [
        pytest.param(32, "", id="as long as the hash"),
        pytest.param(20, "x509: cannot verify signature: algorithm unimplemented", id="of another length"),
    ],
)
def test_a_signature_with_rsa_pss_is_verified_by_its_parameters(salt, expected):
    """As Go has it: the salt is as long as the hash, and the parameters say so."""
    private = material.key("RSA-2048")
    builder = x509.CertificateSigningRequestBuilder().subject_name(
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "jane")])
    )
    scheme = padding.PSS(padding.MGF1(hashes.SHA256()), salt)
    pkcs10 = builder.sign(private, hashes.SHA256(), rsa_padding=scheme)
    text = pkcs10.public_bytes(serialization.Encoding.PEM)
    if expected:
        assert refused(text) == expected
    else:
        certificate, _ = issued(text)
        assert common_names(certificate) == ["jane"]


# --- authorities --------------------------------------------------------------------------------------------------

CA_USAGES = ("cert sign", "crl sign")
ASKS_FOR_CA = material.requested(template.basic_constraints(ca=True))


def test_whoever_asks_for_a_ca_gets_none():
    """Also with the usages of one; that is remarked."""
    certificate, findings = issued(material.odd_request(JANE, ASKS_FOR_CA), CA_USAGES)
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert findings == ["usage-meaning"]


def test_a_signer_of_authorities_gives_one_to_whoever_asks():
    """Under it there are no others; who does not ask gets none."""
    issuer = material.new_issuer(issues_ca=True)
    request = certificaterequest.verified(material.odd_request(JANE, ASKS_FOR_CA))
    prepared = issuer.prepare(request, CA_USAGES, None, NOW)
    assert issuer.resume(prepared.to_be_signed, request, CA_USAGES, None, NOW).to_be_signed == prepared.to_be_signed
    text = issuer.issue(prepared)
    certificate = x509.load_pem_x509_certificate(text)
    constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    assert (constraints.ca, constraints.path_length, material.own(prepared.findings)) == (True, 0, ())
    below = authority.Authority(pem.first_block(text).data, material.key())
    assert (below.is_authority, below.key_id) == (True, template.key_id(material.public_der(material.key())))
    other = issuer.prepare(certificaterequest.verified(material.odd_request(JANE)), CA_USAGES, None, NOW)
    assert [finding.rule for finding in material.own(other.findings)] == ["usage-meaning"]
    with pytest.raises(issue.IssueError) as caught:
        issue.Issuer(below, material.YEAR, issues_ca=True).prepare(request, CA_USAGES, None, NOW)
    assert str(caught.value) == "the CA may not issue CA certificates: its path length is 0"


def test_a_record_of_a_ca_is_not_taken_back_by_a_signer_of_none():
    """The signer was declared anew in between, or somebody writes records."""
    request = certificaterequest.verified(material.odd_request(JANE, ASKS_FOR_CA))
    recorded = material.new_issuer(issues_ca=True).prepare(request, CA_USAGES, None, NOW).to_be_signed
    with pytest.raises(issue.LintError) as caught:
        material.new_issuer().resume(recorded, request, CA_USAGES, None, NOW)
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
def test_what_asks_for_a_ca(constraints, expected):
    """What does not parse asks for nothing, as Go does not look at it."""
    wanted = material.requested(template.Extension(oids.BASIC_CONSTRAINTS, critical=True, value=constraints))
    assert certificaterequest.parse(material.odd_request(JANE, wanted)).requests_ca == expected


MOST = asn1.MAX_VALUES
MANY = {
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


@pytest.mark.parametrize("kind", MANY)
def test_there_may_be_so_many_of_everything(kind):
    """A hundred thousand names took seconds."""
    attributes, subject, why = MANY[kind]
    assert why in refused(material.odd_request(subject, attributes))


def test_a_request_has_a_size():
    """It is read several times on its way to a certificate."""
    assert (
        refused(b"\n" * certificaterequest.MAX_REQUEST_BYTES + material.odd_request(JANE))
        == "may not be more than 262144 bytes"
    )
    text = material.odd_request(JANE)
    filler = b"\n" * (certificaterequest.MAX_REQUEST_BYTES - len(text))
    assert certificaterequest.parse(filler + text).common_name == "jane"
    assert refused(b"\n" + filler + text) == "may not be more than 262144 bytes"


def test_as_many_as_there_may_be_are_read():
    """That is more than anybody needs."""
    assert len(certificaterequest.parse(material.odd_request(JANE, sans(*[dns("a")] * MOST))).dns_names) == MOST
