"""Builds chains of certificates from descriptions, such as those of `chains.json`.

A description has `subject` and `issuer` (names), `key` and `signer` (numbers of keys), and optional fields: `ca`,
`path`, `usage` (the byte of the key usage), `purposes`, `from` and `to` (days from now), `san`,
`permitted` and `excluded` (lists of [type, value]), `policies`, `mappings`, `explicit`, `inhibit_mapping`,
`inhibit_any`, `qualifiers`, `skid`, `akid`, `critical` (an unknown extension), `nscert`, `version`, `hash`, `damaged`.
"""

from __future__ import annotations

import datetime
import ipaddress
import sys

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding

from certplane.golang import asn1, dertags
from certplane.x509 import certificatenames
from certplane.x509.tbs import template
from tests.unit.x509 import material

NOW = datetime.datetime(2026, 6, 1, 12, tzinfo=datetime.UTC)
#: The kinds of the keys, by number.
KINDS = ("P-256", "P-256", "P-256", "P-256", "P-384", "Ed25519", "RSA-2048", "RSA-1024", "P-256", "P-256")
PURPOSES = {
    "client": "1.3.6.1.5.5.7.3.2",
    "server": "1.3.6.1.5.5.7.3.1",
    "any": "2.5.29.37.0",
    "odd": "1.2.3.4.5",
}
TYPES = {
    "email": certificatenames.EMAIL,
    "dns": certificatenames.DNS,
    "uri": certificatenames.URI,
    "ip": certificatenames.IP,
    "other": dertags.context(8),
}


def key(number):
    return material.key(KINDS[number], 500 + number)


def build(case):
    """The certificates of one case, in DER, by name."""
    return {name: certificate(fields) for name, fields in case["certs"].items()}


def certificate(fields):
    """A certificate, in DER."""
    signer = key(fields["signer"])
    algorithm, sign = _signer(signer, fields.get("hash", "sha256"))
    now = fields.get("around", NOW)
    times = (now + datetime.timedelta(days=fields.get(field, default)) for field, default in (("from", -9), ("to", 9)))
    version = fields.get("version", 3)
    parts = [
        asn1.encode(0xA0, asn1.encode(2, bytes((version - 1,)))) if version > 1 else b"",
        asn1.encode(2, b"\x01"),
        algorithm,
        name(fields["issuer"]),
        asn1.encode(0x30, b"".join(asn1.encode(dertags.UTC_TIME, f"{time:%y%m%d%H%M%SZ}".encode()) for time in times)),
        name(fields["subject"]),
        material.public_der(key(fields["key"])),
    ]
    extensions = b"".join(_extensions(fields))
    if extensions and version == 3:
        parts.append(asn1.encode(0xA3, asn1.encode(0x30, extensions)))
    to_be_signed = asn1.encode(0x30, b"".join(parts))
    signature = sign(to_be_signed + (b"!" if fields.get("damaged") else b""))
    return template.assemble(to_be_signed, algorithm, signature)


def name(text):
    """A DER name with a common name, or, for a text that begins with O=, with an organization."""
    if text.startswith("O="):
        return template.encode_name(certificatenames.Subject(organization=(text[2:],)))
    return template.encode_name(certificatenames.Subject(common_name=text)) if text else b"\x30\x00"


def _signer(private, hash_name):
    """The AlgorithmIdentifier of a key's signatures, in DER, and a function that signs."""
    if isinstance(private, ed25519.Ed25519PrivateKey):
        return asn1.encode(0x30, template.encode_oid("1.3.101.112")), private.sign
    if isinstance(private, ec.EllipticCurvePrivateKey):
        oids = {"sha1": ("1.2.840.10045.4.1", hashes.SHA1()), "sha256": ("1.2.840.10045.4.3.2", hashes.SHA256())}
        oid, algorithm = oids.get(hash_name, oids["sha256"])
        return asn1.encode(0x30, template.encode_oid(oid)), lambda data: private.sign(data, ec.ECDSA(algorithm))
    oids = {
        "sha1": ("1.2.840.113549.1.1.5", hashes.SHA1()),
        "md5": ("1.2.840.113549.1.1.4", hashes.MD5()),
        "sha256": ("1.2.840.113549.1.1.11", hashes.SHA256()),
    }
    oid, algorithm = oids[hash_name]
    return (
        asn1.encode(0x30, template.encode_oid(oid) + dertags.ENCODED_NULL),
        lambda data: private.sign(data, padding.PKCS1v15(), algorithm),
    )


def _extension(oid, value, *, critical=False):
    flag = b"\x01\x01\xff" if critical else b""
    return asn1.encode(0x30, template.encode_oid(oid) + flag + asn1.encode(4, value))


def _integer(tag, value):
    return asn1.encode(tag, bytes((value,)))


def _sequence(items):
    return asn1.encode(0x30, b"".join(items))


def general_name(kind, value):
    if kind == "ip":
        address, _, length = value.partition("/")
        packed = ipaddress.ip_address(address).packed
        if length:
            packed += ipaddress.ip_network(f"{'::' if ':' in address else '0.0.0.0'}/{length}").netmask.packed
        return asn1.encode(TYPES[kind], packed)
    return asn1.encode(TYPES[kind], value.encode())


def _extensions(fields):
    if "ca" in fields:
        flag = b"\x01\x01\xff" if fields["ca"] else b""
        length = _integer(2, fields["path"]) if "path" in fields else b""
        yield _extension("2.5.29.19", asn1.encode(0x30, flag + length), critical=True)
    if "usage" in fields:
        yield _extension("2.5.29.15", asn1.encode(3, b"\0" + bytes((fields["usage"],))), critical=True)
    if "purposes" in fields:
        yield _extension(
            "2.5.29.37", _sequence(template.encode_oid(PURPOSES[purpose]) for purpose in fields["purposes"])
        )
    if "san" in fields:
        names = _sequence(general_name(*typed) for typed in fields["san"])
        yield _extension("2.5.29.17", names, critical=fields.get("san_critical", False))
    subtrees = [
        asn1.encode(tag, b"".join(asn1.encode(0x30, general_name(*typed)) for typed in fields[field]))
        for tag, field in ((0xA0, "permitted"), (0xA1, "excluded"))
        if fields.get(field)
    ]
    if subtrees:
        yield _extension("2.5.29.30", _sequence(subtrees), critical=fields.get("constraints_critical", True))
    yield from _policies(fields)
    if "skid" in fields:
        yield _extension("2.5.29.14", asn1.encode(4, fields["skid"].encode()))
    if "akid" in fields:
        yield _extension("2.5.29.35", _sequence([asn1.encode(0x80, fields["akid"].encode())]))
    if "nscert" in fields:
        yield _extension("2.16.840.1.113730.1.1", asn1.encode(3, bytes((0, fields["nscert"]))))
    if "critical" in fields:
        yield _extension("1.2.3.4", dertags.ENCODED_NULL, critical=fields["critical"])


def _policies(fields):
    if "policies" in fields:
        # Any bytes may take the place of the qualifiers.
        qualifiers = bytes.fromhex(fields.get("qualifiers", ""))
        policies = (_sequence([template.encode_oid(policy), qualifiers]) for policy in fields["policies"])
        yield _extension("2.5.29.32", _sequence(policies))
    if "mappings" in fields:
        mappings = (_sequence(map(template.encode_oid, mapping)) for mapping in fields["mappings"])
        yield _extension("2.5.29.33", _sequence(mappings))
    limits = [
        _integer(tag, fields[field])
        for tag, field in ((0x80, "explicit"), (0x81, "inhibit_mapping"))
        if field in fields
    ]
    if limits:
        yield _extension("2.5.29.36", _sequence(limits), critical=True)
    if "inhibit_any" in fields:
        yield _extension("2.5.29.54", _integer(2, fields["inhibit_any"]), critical=True)


def count_lines(function):
    """The number of lines of Python that a function runs, with all that it calls."""
    count = 0

    def trace(frame, event, argument):
        nonlocal count
        del frame, argument
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        function()
    finally:
        sys.settrace(before)
    return count


def resign(raw, change, signer=0):
    """A certificate with its TBSCertificate changed in place by `change`, and with a valid signature of a key."""
    to_be_signed = bytearray(asn1.Reader(asn1.Reader(raw).read_any().content).read_any().raw)
    change(to_be_signed)
    algorithm, sign = _signer(key(signer), "sha256")
    return template.assemble(bytes(to_be_signed), algorithm, sign(bytes(to_be_signed)))
