"""PKCS#10 requests and certificates of any size, in their objects: rows for `growing`."""

from __future__ import annotations

import base64

from certplane.golang import asn1
from certplane.x509 import oids
from certplane.x509.tbs import template
from tests.fuzz import documents, growing
from tests.fuzz.growing import Growing
from tests.unit.x509 import material

_CSRS = "/apis/certificates.k8s.io/v1/certificatesigningrequests"
_REQUEST, _COMMON_NAME, _UNKNOWN = "1.2.840.113549.1.9.14", "2.5.4.3", "1.2.3.4"
_RSA = b"\x30\x0d\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01\x05\x00"
_EMPTY = b"\x30\x00"


def _text(data):
    return base64.b64encode(data).decode()


def _posted(text):
    document = documents.document(next(kind for kind in documents.KINDS if kind.plural == "certificatesigningrequests"))
    document["metadata"] = {"name": "x"}
    document["spec"]["request"] = _text(text)
    return growing.send("POST", f"{_CSRS}?dryRun=All", document)


def _request(subject=lambda count: _EMPTY, attributes=lambda count: b"", spki=lambda count: None):
    return lambda count: _posted(material.odd_request(subject(count), attributes(count), spki=spki(count)))


def _names(first, text):
    """A request for a number of alternative names of a type."""

    def attributes(count):
        names = [asn1.encode(first, text.replace("#", str(at)).encode()) for at in range(count)]
        return _with_names(names)

    return _request(attributes=attributes)


def _name(first, text, end=""):
    """A request for one long alternative name."""
    return _request(attributes=lambda count: _with_names([asn1.encode(first, (text * count + end).encode())]))


def _with_names(names):
    value = asn1.encode(0x30, b"".join(names))
    return material.requested(template.Extension(oids.SUBJECT_ALT_NAME, critical=False, value=value))


def _attribute(value, oid=None):
    return asn1.encode(0x30, (oid or template.encode_oid(_COMMON_NAME)) + value)


def _subject(*parts):
    return asn1.encode(0x30, b"".join(asn1.encode(0x31, part) for part in parts))


def _long_value(tag, text):
    return _request(lambda count: _subject(_attribute(asn1.encode(tag, text * count))))


def _rsa(modulus, exponent=b"\x01\x00\x01"):
    numbers = asn1.encode(0x30, asn1.encode(0x02, b"\x01" + modulus) + asn1.encode(0x02, exponent))
    return asn1.encode(0x30, _RSA + asn1.encode(0x03, b"\x00" + numbers))


def _oid(arcs):
    return asn1.encode(0x06, b"\x2a" + b"\x83\x01" * arcs)


def _extensions(count):
    extensions = (asn1.encode(0x30, template.encode_oid(f"1.2.3.{at}") + asn1.encode(0x04, b"")) for at in range(count))
    return material.attribute(_REQUEST, asn1.encode(0x30, b"".join(extensions)))


def _block(label, data, headers=""):
    return f"-----BEGIN {label}-----\n{headers}{_text(data)}\n-----END {label}-----\n".encode()


_GOOD = material.odd_request()
_REQUESTS = (
    Growing("pkcs10 dns names", _names(0x82, "a#.example"), 13),
    Growing("pkcs10 emails", _names(0x81, "a#@b.example"), 15),
    Growing("pkcs10 uris", _names(0x86, "https://a#.example/b?c#d"), 26),
    Growing("pkcs10 addresses", _names(0x87, "abcd"), 6),
    Growing("pkcs10 other names", _names(0xA0, ""), 2),
    Growing("pkcs10 dns name", _name(0x82, "a."), 2),
    Growing("pkcs10 email", _name(0x81, "a", "@b"), 1),
    Growing("pkcs10 uri escapes", _name(0x86, "%41"), 3),
    Growing("pkcs10 uri slashes", _name(0x86, "/"), 1),
    Growing("pkcs10 uri colons", _name(0x86, "a:"), 2),
    Growing("pkcs10 uri brackets", _name(0x86, "a://[", "]"), 5),
    Growing(
        "pkcs10 uri host",
        _request(attributes=lambda count: _with_names([asn1.encode(0x86, b"a://" + b"b." * count + b"c")])),
        2,
    ),
    Growing(
        "pkcs10 uri user",
        _request(attributes=lambda count: _with_names([asn1.encode(0x86, b"a://" + b"b:" * count + b"@c")])),
        2,
    ),
    Growing(
        "pkcs10 organizations",
        _request(
            lambda count: _subject(
                *[_attribute(asn1.encode(0x0C, b"o%d" % at), template.encode_oid("2.5.4.10")) for at in range(count)]
            )
        ),
        14,
    ),
    Growing(
        "pkcs10 parts of one name",
        _request(lambda count: _subject(b"".join(_attribute(asn1.encode(0x0C, b"o%d" % at)) for at in range(count)))),
        14,
    ),
    Growing("pkcs10 utf8 value", _long_value(0x0C, "é".encode()), 2),
    Growing("pkcs10 printable value", _long_value(0x13, b"a"), 1),
    Growing("pkcs10 bmp value", _long_value(0x1E, b"\0a"), 2),
    Growing("pkcs10 integer value", _long_value(0x02, b"\x01"), 1),
    Growing("pkcs10 time value", _long_value(0x18, b"0"), 1),
    Growing("pkcs10 arcs", _request(lambda count: _subject(_attribute(asn1.encode(0x0C, b"a"), _oid(count)))), 2),
    Growing(
        "pkcs10 attributes", _request(attributes=lambda count: material.attribute(_UNKNOWN, b"\x05\x00") * count), 12
    ),
    Growing(
        "pkcs10 attribute values",
        _request(attributes=lambda count: material.attribute(_UNKNOWN, b"\x05\x00" * count)),
        2,
    ),
    Growing("pkcs10 extensions", _request(attributes=_extensions), 10),
    Growing(
        "pkcs10 extension value",
        _request(
            attributes=lambda count: material.requested(
                template.Extension(_UNKNOWN, critical=False, value=b"a" * count)
            )
        ),
        1,
    ),
    Growing("pkcs10 modulus", _request(spki=lambda count: _rsa(b"\xff" * count)), 1),
    Growing("pkcs10 exponent", _request(spki=lambda count: _rsa(b"\xff" * 256, b"\x01" * count)), 1),
    Growing("pkcs10 lengths", _request(lambda count: b"\x30" + b"\x80" * count), 1),
    Growing("pem blocks", lambda count: _posted(_block("A", b"abc") * count + _GOOD), 46),
    Growing(
        "pem blocks that are none",
        lambda count: _posted(b"-----BEGIN A-----\n*\n-----END A-----\n" * count + _GOOD),
        36,
    ),
    Growing("pem beginnings", lambda count: _posted(b"-----BEGIN A-----\n" * count + _GOOD), 18),
    Growing("pem ends", lambda count: _posted(b"\n-----END A-----" * count + _GOOD), 16),
    Growing("pem headers", lambda count: _posted(_GOOD.replace(b"\n", b"\n" + b"a: b\n" * count, 1)), 5),
    Growing("pem lines before", lambda count: _posted(b"a\n" * count + _GOOD), 2),
    Growing("pem line ends", lambda count: _posted(_GOOD.replace(b"\n", b"\n" * count)), 8),
)


def _certificate(**changes):
    return material.ca_certificate(material.key(), **changes)


def _extension(oid, value):
    return {"extensions": [template.Extension(oid, critical=False, value=value)]}


def _issued(data):
    """The status of a request with a large certificate."""

    def make(count):
        document = documents.document(
            next(kind for kind in documents.KINDS if kind.plural == "certificatesigningrequests"), "seed"
        )
        document["status"]["certificate"] = _text(data(count))
        return growing.send("PUT", f"{_CSRS}/seed/status?dryRun=All", document)

    return make


def _one(changes):
    return _issued(lambda count: _block("CERTIFICATE", _certificate(**changes(count))))


def _constraints(count):
    subtrees = b"".join(asn1.encode(0x30, asn1.encode(0x82, b"a%d.example" % at)) for at in range(count))
    return _extension("2.5.29.30", asn1.encode(0x30, asn1.encode(0xA0, subtrees)))


def _policies(count):
    policies = (asn1.encode(0x30, template.encode_oid(f"1.2.3.{at}")) for at in range(count))
    return _extension("2.5.29.32", asn1.encode(0x30, b"".join(policies)))


def _bundle(count):
    return documents.CERTIFICATE_PEM * count


def _trusted(count):
    document = documents.document(next(kind for kind in documents.KINDS if kind.plural == "clustertrustbundles"), "x")
    document["spec"]["trustBundle"] = _bundle(count).decode()
    return growing.send("POST", "/apis/certificates.k8s.io/v1/clustertrustbundles?dryRun=All", document)


def _secret(count):
    data = {"tls.crt": _text(_bundle(count)), "tls.key": _text(_block("A PRIVATE", b"a") * count)}
    document = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "x"},
        "type": "kubernetes.io/tls",
        "data": data,
    }
    return growing.send("POST", "/api/v1/namespaces/fuzz/secrets?dryRun=All", document)


def _docker(count):
    inner = "{" + ",".join(f'"k{at}":{{"auth":"v"}}' for at in range(count)) + "}"
    document = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "x"}, "type": "kubernetes.io/dockercfg",
                "data": {".dockercfg": _text(inner.encode())}}  # fmt: skip
    return growing.send("POST", "/api/v1/namespaces/fuzz/secrets?dryRun=All", document)


_CERTIFICATES = (
    Growing("certificate bundle", _issued(_bundle), 500),
    Growing(
        "certificate names",
        _one(
            lambda count: _extension(
                "2.5.29.17", asn1.encode(0x30, b"".join(asn1.encode(0x82, b"a%d" % at) for at in range(count)))
            )
        ),
        6,
    ),
    Growing("certificate name constraints", _one(_constraints), 14),
    Growing("certificate policies", _one(_policies), 8),
    Growing(
        "certificate purposes",
        _one(lambda count: _extension("2.5.29.37", asn1.encode(0x30, template.encode_oid("1.2.3") * count))),
        4,
    ),
    Growing(
        "certificate distribution points",
        _one(
            lambda count: _extension(
                "2.5.29.31",
                asn1.encode(
                    0x30, asn1.encode(0x30, asn1.encode(0xA0, asn1.encode(0xA0, asn1.encode(0x86, b"a")))) * count
                ),
            )
        ),
        9,
    ),
    Growing(
        "certificate extensions",
        _one(
            lambda count: {
                "extensions": [template.Extension(f"1.2.3.{at}", critical=False, value=b"") for at in range(count)]
            }
        ),
        10,
    ),
    Growing(
        "certificate subject",
        _one(lambda count: {"subject": _subject(*[_attribute(asn1.encode(0x0C, b"a%d" % at)) for at in range(count)])}),
        13,
    ),
    Growing(
        "certificate serial number",
        _issued(lambda count: _block("CERTIFICATE", material.ca_certificate(material.key(), b"\x01" * count))),
        1,
    ),
    Growing("certificate key", _one(lambda count: {"spki": _rsa(b"\xff" * count)}), 1),
    Growing("trust bundle", _trusted, 500),
    Growing("tls secret", _secret, 500),
    Growing("docker secret", _docker, 20),
)

ALL = (*_REQUESTS, *_CERTIFICATES)
