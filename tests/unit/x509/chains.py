"""Chains of certificates made from descriptions: what `chains.json` holds, with what Go says of each.

A certificate is described by `subject` and `issuer` (names), `key` and `signer` (keys, by number), and by what it has
besides: `ca`, `path`, `usage` (the byte of the key usage), `purposes`, `from` and `to` (days from now), `san`,
`permitted` and `excluded` (lists of [type, value]), `policies`, `mappings`, `explicit`, `inhibit_mapping`,
`inhibit_any`, `qualifiers`, `skid`, `akid`, `critical` (an unknown extension), `nscert`, `version`, `hash`, `damaged`.
"""

from __future__ import annotations

import datetime
import ipaddress
import sys

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding

from certplane.x509 import csr, der, template
from tests.unit.x509 import material

NOW = datetime.datetime(2026, 6, 1, 12, tzinfo=datetime.UTC)
#: The kinds of the keys, by their number.
KINDS = ("P-256", "P-256", "P-256", "P-256", "P-384", "Ed25519", "RSA-2048", "RSA-1024", "P-256", "P-256")
PURPOSES = {
    "client": "1.3.6.1.5.5.7.3.2",
    "server": "1.3.6.1.5.5.7.3.1",
    "any": "2.5.29.37.0",
    "odd": "1.2.3.4.5",
}
TYPES = {"email": 0x81, "dns": 0x82, "uri": 0x86, "ip": 0x87, "other": 0x88}
NULL = b"\x05\x00"


def key(number):
    return material.key(KINDS[number], 500 + number)


def build(chains):
    """The certificates of one case, in DER, by name."""
    return {name: certificate(fields) for name, fields in chains["certs"].items()}


def certificate(fields):
    signer = key(fields["signer"])
    algorithm, sign = _signing(signer, fields.get("hash", "sha256"))
    around = fields.get("around", NOW)
    times = (around + datetime.timedelta(days=fields.get(name, default)) for name, default in (("from", -9), ("to", 9)))
    version = fields.get("version", 3)
    parts = [
        der.encode(0xA0, der.encode(2, bytes((version - 1,)))) if version > 1 else b"",
        der.encode(2, b"\x01"),
        algorithm,
        name(fields["issuer"]),
        der.encode(0x30, b"".join(der.encode(0x17, f"{each:%y%m%d%H%M%SZ}".encode()) for each in times)),
        name(fields["subject"]),
        material.public_der(key(fields["key"])),
    ]
    extensions = b"".join(_extensions(fields))
    if extensions and version == 3:
        parts.append(der.encode(0xA3, der.encode(0x30, extensions)))
    to_be_signed = der.encode(0x30, b"".join(parts))
    signature = sign(to_be_signed + (b"!" if fields.get("damaged") else b""))
    return template.assemble(to_be_signed, algorithm, signature)


def name(text):
    """A name; of one that begins with O= the organization."""
    if text.startswith("O="):
        return template.name(csr.Subject(organization=(text[2:],)))
    return template.name(csr.Subject(common_name=text)) if text else b"\x30\x00"


def _signing(private, hash_name):
    """The algorithm of the signatures of a key, and what makes them."""
    if isinstance(private, ed25519.Ed25519PrivateKey):
        return der.encode(0x30, template.oid("1.3.101.112")), private.sign
    if isinstance(private, ec.EllipticCurvePrivateKey):
        oids = {"sha1": ("1.2.840.10045.4.1", hashes.SHA1()), "sha256": ("1.2.840.10045.4.3.2", hashes.SHA256())}
        oid, algorithm = oids.get(hash_name, oids["sha256"])
        return der.encode(0x30, template.oid(oid)), lambda data: private.sign(data, ec.ECDSA(algorithm))
    oids = {
        "sha1": ("1.2.840.113549.1.1.5", hashes.SHA1()),
        "md5": ("1.2.840.113549.1.1.4", hashes.MD5()),
        "sha256": ("1.2.840.113549.1.1.11", hashes.SHA256()),
    }
    oid, algorithm = oids[hash_name]
    return (
        der.encode(0x30, template.oid(oid) + NULL),
        lambda data: private.sign(data, padding.PKCS1v15(), algorithm),
    )


def _extension(oid, value, *, critical=False):
    flag = b"\x01\x01\xff" if critical else b""
    return der.encode(0x30, template.oid(oid) + flag + der.encode(4, value))


def _integer(tag, value):
    return der.encode(tag, bytes((value,)))


def _sequence(items):
    return der.encode(0x30, b"".join(items))


def general_name(kind, value):
    if kind == "ip":
        address, _, length = value.partition("/")
        packed = ipaddress.ip_address(address).packed
        if length:
            packed += ipaddress.ip_network(f"{'::' if ':' in address else '0.0.0.0'}/{length}").netmask.packed
        return der.encode(TYPES[kind], packed)
    return der.encode(TYPES[kind], value.encode())


def _extensions(fields):
    if "ca" in fields:
        flag = b"\x01\x01\xff" if fields["ca"] else b""
        length = _integer(2, fields["path"]) if "path" in fields else b""
        yield _extension("2.5.29.19", der.encode(0x30, flag + length), critical=True)
    if "usage" in fields:
        yield _extension("2.5.29.15", der.encode(3, b"\0" + bytes((fields["usage"],))), critical=True)
    if "purposes" in fields:
        yield _extension("2.5.29.37", _sequence(template.oid(PURPOSES[each]) for each in fields["purposes"]))
    if "san" in fields:
        names = _sequence(general_name(*each) for each in fields["san"])
        yield _extension("2.5.29.17", names, critical=fields.get("san_critical", False))
    subtrees = [
        der.encode(tag, b"".join(der.encode(0x30, general_name(*each)) for each in fields[field]))
        for tag, field in ((0xA0, "permitted"), (0xA1, "excluded"))
        if fields.get(field)
    ]
    if subtrees:
        yield _extension("2.5.29.30", _sequence(subtrees), critical=fields.get("constraints_critical", True))
    yield from _policies(fields)
    if "skid" in fields:
        yield _extension("2.5.29.14", der.encode(4, fields["skid"].encode()))
    if "akid" in fields:
        yield _extension("2.5.29.35", _sequence([der.encode(0x80, fields["akid"].encode())]))
    if "nscert" in fields:
        yield _extension("2.16.840.1.113730.1.1", der.encode(3, bytes((0, fields["nscert"]))))
    if "critical" in fields:
        yield _extension("1.2.3.4", NULL, critical=fields["critical"])


def _policies(fields):
    if "policies" in fields:
        # Qualifiers, or what stands in their place.
        rest = bytes.fromhex(fields.get("qualifiers", ""))
        yield _extension("2.5.29.32", _sequence(_sequence([template.oid(each), rest]) for each in fields["policies"]))
    if "mappings" in fields:
        rows = (_sequence(map(template.oid, each)) for each in fields["mappings"])
        yield _extension("2.5.29.33", _sequence(rows))
    limits = [
        _integer(tag, fields[field])
        for tag, field in ((0x80, "explicit"), (0x81, "inhibit_mapping"))
        if field in fields
    ]
    if limits:
        yield _extension("2.5.29.36", _sequence(limits), critical=True)
    if "inhibit_any" in fields:
        yield _extension("2.5.29.54", _integer(2, fields["inhibit_any"]), critical=True)


def lines(act):
    """How many lines of Python an act runs."""
    count = 0

    def trace(frame, event, argument):
        nonlocal count
        del frame, argument
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        act()
    finally:
        sys.settrace(before)
    return count


def signed_again(raw, change, signer=0):
    """A certificate whose signed bytes are changed, under a good signature of one of the keys."""
    to_be_signed = bytearray(der.Reader(der.Reader(raw).any().content).any().raw)
    change(to_be_signed)
    algorithm, sign = _signing(key(signer), "sha256")
    return template.assemble(bytes(to_be_signed), algorithm, sign(bytes(to_be_signed)))
