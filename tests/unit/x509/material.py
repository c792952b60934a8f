"""Keys, requests and authorities for the tests of this folder, all made at run time."""

from __future__ import annotations

import datetime
import functools
import ipaddress
import math
import secrets

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa, x25519
from cryptography.x509.oid import NameOID

from certplane.golang import asn1, dertags, pem
from certplane.x509 import certificatenames, oids
from certplane.x509.issuance import authority, issue, selfsigned
from certplane.x509.pkcs10 import certificaterequest
from certplane.x509.tbs import signing, template

NOW = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
SMALL_PRIMES = math.prod(
    number for number in range(3, 2000, 2) if all(number % divisor for divisor in range(3, 45, 2) if divisor < number)
)
YEAR = datetime.timedelta(days=365)
MAKE = {
    "RSA-1024": lambda: rsa.generate_private_key(65537, 1024),
    "RSA-2048": lambda: rsa.generate_private_key(65537, 2048),
    "RSA-3072": lambda: rsa.generate_private_key(65537, 3072),
    "P-224": lambda: ec.generate_private_key(ec.SECP224R1()),
    "P-256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "P-384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "P-521": lambda: ec.generate_private_key(ec.SECP521R1()),
    "secp256k1": lambda: ec.generate_private_key(ec.SECP256K1()),
    "Ed25519": ed25519.Ed25519PrivateKey.generate,
    "X25519": x25519.X25519PrivateKey.generate,
    "DSA": lambda: dsa.generate_private_key(1024),
}


def _sequence(content):
    return asn1.encode(dertags.SEQUENCE, content)


#: Extensions with kinds of GeneralName that Go ignores, and that `cryptography` refuses with an exception of its own.
#: The contents are empty sequences. RFC 5280 section 4.2.1.6: x400Address has tag 3, ediPartyName tag 5.
RARE_NAMES = {
    "x400Address": template.Extension(oids.SUBJECT_ALT_NAME, critical=False, value=_sequence(b"\xa3\x02\x30\x00")),
    "ediPartyName": template.Extension(oids.SUBJECT_ALT_NAME, critical=False, value=_sequence(b"\xa5\x02\x30\x00")),
    "name constraints": template.Extension(
        oids.NAME_CONSTRAINTS, critical=False, value=_sequence(asn1.encode(0xA0, _sequence(b"\xa3\x02\x30\x00")))
    ),
}


def ca_with_rare_names(private, name):
    """A CA certificate in DER, with one of RARE_NAMES."""
    extensions = [template.key_usage(("key_cert_sign",)), template.basic_constraints(ca=True), RARE_NAMES[name]]
    return ca_certificate(private, extensions=extensions)


def key(kind="P-256", number=0):
    """The same key for the same arguments."""
    return _key(kind, number)


@functools.cache
def _key(kind, number):
    del number
    return MAKE[kind]()


def hash_for(private):
    return None if isinstance(private, ed25519.Ed25519PrivateKey) else hashes.SHA256()


# --- authorities --------------------------------------------------------------------------------------------------


def new_authority(kind="P-256", number=0):
    """The same authority for the same arguments."""
    return _authority(kind, number)


@functools.cache
def _authority(kind, number):
    private = key(kind, number + 100)
    certificate = selfsigned.self_signed_ca(f"ca-{number}", private, NOW, 10 * YEAR)
    return authority.Authority(pem.first_block(certificate).data, private)


def new_issuer(kind="P-256", number=0, **options):
    return issue.Issuer(new_authority(kind, number), YEAR, **options)


#: The context of records.
UID = "uid"


def recorded(issuer, to_be_signed):
    """The record of any bytes, as an issuer with the same key would make it."""
    return issuer.authority.mac(UID, to_be_signed) + to_be_signed


def renewed(own, private):
    """An authority with the name of another and with another key."""
    certificate = selfsigned.self_signed_ca(
        own.certificate.subject.rfc4514_string().removeprefix("CN="), private, NOW, 10 * YEAR
    )
    return authority.Authority(pem.first_block(certificate).data, private)


def ca_certificate(private, raw_serial=b"\x01", **changes):
    """A CA certificate in DER. `changes` are fields of a Template, `raw_serial` is any DER content."""
    name = template.encode_name(certificatenames.Subject(common_name="odd"))
    fields = {
        "serial": 1,
        "issuer": name,
        "not_before": NOW,
        "not_after": NOW + 10 * YEAR,
        "subject": name,
        "spki": public_der(private),
        "extensions": [template.key_usage(("key_cert_sign",)), template.basic_constraints(ca=True)],
        "algorithm": signing.algorithm_identifier(private),
    }
    parts = list(asn1.Reader(asn1.Reader(template.Template(**(fields | changes)).to_be_signed()).read_any().content))
    serial = asn1.encode(0x02, raw_serial)
    to_be_signed = asn1.encode(0x30, parts[0].raw + serial + b"".join(part.raw for part in parts[2:]))
    return template.assemble(to_be_signed, fields["algorithm"], signing.sign(private, to_be_signed))


def certificate(subject_key, signer, common_name, validity, extensions=()):
    """A certificate in DER, whose subject is also its issuer. `validity` is a pair of times, and `extensions` are pairs
    of an extension and whether it is critical.
    """
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    begins, ends = validity
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(subject_key.public_key())
        .serial_number(1)
        .not_valid_before(begins)
        .not_valid_after(ends)
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    return builder.sign(signer, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def public_der(private):
    return private.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def own(findings):
    """The findings of certplane's own rules. With pkilint installed there are more."""
    return tuple(finding for finding in findings if finding.citation != "pkilint")


# --- requests -----------------------------------------------------------------------------------------------------


def request(private=None, common_name="jane", organizations=(), dns=(), addresses=(), *, names=(), extensions=()):
    """A verified request. `names` are further general names, and `extensions` further extensions."""
    private = private or key()
    attributes = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, name) for name in organizations]
    if common_name:
        attributes.append(x509.NameAttribute(NameOID.COMMON_NAME, common_name))
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(attributes))
    names = [
        *map(x509.DNSName, dns),
        *(x509.IPAddress(ipaddress.ip_address(address)) for address in addresses),
        *names,
    ]
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    for extension in extensions:
        builder = builder.add_extension(extension, critical=True)
    pkcs10 = builder.sign(private, hash_for(private))
    return certificaterequest.verified(pkcs10.public_bytes(serialization.Encoding.PEM))


def stub_request(private):
    """A request in DER with an empty subject."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return builder.sign(private, hash_for(private)).public_bytes(serialization.Encoding.DER)


def odd_request(subject=b"\x30\x00", attributes=b"", private=None, spki=None):
    """A request, in PEM, with a subject and attributes in DER that no library would write."""
    private = private or key()
    public = spki or public_der(private)
    information = asn1.encode(0x30, asn1.encode(0x02, b"\0") + subject + public + asn1.encode(0xA0, attributes))
    algorithm = signing.algorithm_identifier(private)
    return pem.encode(
        "CERTIFICATE REQUEST", template.assemble(information, algorithm, signing.sign(private, information))
    )


def attribute(dotted, *values):
    return asn1.encode(0x30, template.encode_oid(dotted) + asn1.encode(0x31, b"".join(values)))


def requested(*extensions):
    """The attribute that requests some extensions."""
    encoded = b"".join(
        asn1.encode(
            0x30,
            template.encode_oid(extension.oid)
            + (b"\x01\x01\xff" if extension.critical else b"")
            + asn1.encode(0x04, extension.value),
        )
        for extension in extensions
    )
    return attribute("1.2.840.113549.1.9.14", asn1.encode(0x30, encoded))


# --- weak keys ----------------------------------------------------------------------------------------------------


def is_prime(number):
    if math.gcd(number, SMALL_PRIMES) != 1:
        return False
    return all(pow(base, number - 1, number) == 1 for base in (2, 3, 5))


def _prime_from(start, step=2):
    while not is_prime(start):
        start += step
    return start


def rsa_key(p, q, exponent=65537):
    """A private key from its primes."""
    d = pow(exponent, -1, math.lcm(p - 1, q - 1))
    public = rsa.RSAPublicNumbers(exponent, p * q)
    return rsa.RSAPrivateNumbers(p, q, d, d % (p - 1), d % (q - 1), pow(q, -1, p), public).private_key()


@functools.cache
def close_primes():
    """Two consecutive primes of 1024 bits."""
    p = _prime_from((3 << 1022) | secrets.randbits(1000) | 1)
    return p, _prime_from(p + 2)


@functools.cache
def roca_primes():
    """Two primes of 1024 bits like those of the faulty generator: k * M + (65537 ** a mod M)."""
    return _roca_prime(), _roca_prime()


def _roca_prime():
    product = math.prod(number for number in range(2, 702) if all(number % divisor for divisor in range(2, number)))
    while True:
        power = pow(65537, secrets.randbits(64), product)
        prime = ((3 << 1022) // product + secrets.randbits(40)) * product + power
        if is_prime(prime):
            return prime
