"""The server's side of TLS against the standard library's client, in memory."""

from __future__ import annotations

import datetime
import ipaddress
import itertools
import ssl

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from certplane.golang import pem
from certplane.server.connection import tls
from certplane.x509 import keys
from certplane.x509.issuance import selfsigned
from certplane.x509.tbs import template
from tests.unit.server.connection import memory
from tests.unit.server.connection.memory import LIFETIME, NOW, Client
from tests.unit.x509 import material


@pytest.fixture(scope="module")
def ca():
    return memory.CA("clients")


@pytest.fixture(scope="module")
def context(ca):
    names = template.AltNames(dns=("localhost",), ip=(ipaddress.ip_address("127.0.0.1"),))
    return tls.ServingContext(*ca.issue(selfsigned.Leaf("server", names=names)), ca.pem)


def identity(tmp_path, certificate, key):
    path = tmp_path / "client.pem"
    path.write_bytes(certificate + key)
    return path


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("cut", [1 << 20, 1, 7])
def test_data_arrives(context, ca, version, cut):
    """In both directions and both TLS versions, however the bytes are split."""
    client = Client(context.session(), ca, version=version).handshake(cut)
    assert client.session.is_established
    assert client.session.peer_chain == ()
    for size in (1, 100, 16384, 16385, 100_000):
        client.tls.write(b"x" * size)
        assert client.flight(max(cut, 100)) == b"x" * size
        assert client.read(client.session.send(b"y" * size)) == b"y" * size


def test_old_versions_are_refused_with_an_alert(context, ca):
    """TLS 1.1 ends with an alert."""
    with pytest.warns(DeprecationWarning, match="deprecated"):
        client = Client(context.session(), ca, version=ssl.TLSVersion.TLSv1_1)
    with pytest.raises(tls.TLSError, match="protocol"):
        client.handshake()
    client._incoming.write(client.session.take_outgoing())
    with pytest.raises(ssl.SSLError, match=r"(?i)alert protocol version"):
        client.tls.do_handshake()


def _client_certificate(ca, key=None, **fields):
    """A client certificate with unusual fields."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    end = fields.get("end", NOW + LIFETIME)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "jane")]))
        .issuer_name(x509.load_pem_x509_certificate(ca.pem).subject)
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(end - LIFETIME)
        .not_valid_after(end)
    )
    for extension, critical in fields.get("extensions", ()):
        builder = builder.add_extension(extension, critical)
    certificate = builder.sign(fields.get("signer", ca.key), hashes.SHA256())
    return (
        certificate,
        pem.encode("CERTIFICATE", certificate.public_bytes(serialization.Encoding.DER)),
        keys.to_pem(key),
    )


def _usage(*bits):
    names = ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement")
    rest = ("key_cert_sign", "crl_sign", "encipher_only", "decipher_only")
    return x509.KeyUsage(**{name: name in bits for name in (*names, *rest)}), True


NS_CERT_TYPE_SERVER = x509.UnrecognizedExtension(x509.ObjectIdentifier("2.16.840.1.113730.1.1"), b"\x03\x02\x06\x40")
CLIENT = x509.ExtendedKeyUsage([x509.ExtendedKeyUsageOID.CLIENT_AUTH]), False
SERVER = x509.ExtendedKeyUsage([x509.ExtendedKeyUsageOID.SERVER_AUTH]), False

CERTIFICATES = {
    "plain": {},
    "keyEncipherment only": {"extensions": [_usage("key_encipherment"), CLIENT]},
    "keyEncipherment and dataEncipherment": {"extensions": [_usage("key_encipherment", "data_encipherment"), CLIENT]},
    "nonRepudiation": {"extensions": [_usage("content_commitment"), CLIENT]},
    "a CA": {"extensions": [(x509.BasicConstraints(True, None), True)]},
    "any use": {"extensions": [(x509.ExtendedKeyUsage([x509.ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE]), False)]},
    "nsCertType server": {"extensions": [(NS_CERT_TYPE_SERVER, False), CLIENT]},
    "servers only": {"extensions": [SERVER]},
    "expired": {"end": NOW - datetime.timedelta(days=1)},
    "not yet valid": {"end": NOW + LIFETIME * 3},
    "an unknown critical extension": {
        "extensions": [(x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00"), True)]
    },
    "another CA": {"signer": ec.generate_private_key(ec.SECP256R1())},
    "a small key": {"key": rsa.generate_private_key(65537, 1024)},
}


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("name", CERTIFICATES)
def test_the_handshake_accepts_any_client_certificate(name, version, context, ca, tmp_path):
    """It is verified elsewhere, and passed on unchanged."""
    expected, certificate, key = _client_certificate(ca, **CERTIFICATES[name])

    client = Client(context.session(), ca, identity(tmp_path, certificate, key), version).handshake()

    assert client.session.is_established
    assert client.session.peer_chain[0] == expected.public_bytes(serialization.Encoding.DER)


def test_the_client_chain_is_passed_on_unchanged(context, ca, tmp_path):
    """Leaf first, then the other certificates, related or not."""
    _, certificate, key = _client_certificate(ca)
    unrelated = memory.CA("unrelated").pem

    session = Client(context.session(), ca, identity(tmp_path, certificate + unrelated, key)).handshake().session

    assert pem.first_block(certificate).data == session.peer_chain[0]
    assert pem.first_block(unrelated).data in session.peer_chain


CERTIFICATE_VERIFY = 15


def _forge_proof(flight):
    """The flight of a TLS 1.2 client, with another signature than its key made."""
    forged, at = bytearray(flight), 0
    while at < len(forged):
        end = at + 5 + int.from_bytes(forged[at + 3 : at + 5], "big")
        if forged[at] == 22 and forged[at + 5] == CERTIFICATE_VERIFY:
            forged[end - 1] ^= 1
            return bytes(forged)
        at = end
    return flight


def test_a_client_without_the_private_key_is_refused(context, ca, tmp_path):
    """The handshake verifies the signature of the client's key."""
    _, certificate, key = _client_certificate(ca)
    client = Client(context.session(), ca, identity(tmp_path, certificate, key), ssl.TLSVersion.TLSv1_2)
    client.tamper = _forge_proof

    with pytest.raises(tls.TLSError, match="signature"):
        client.handshake()

    assert not client.session.is_established


def test_the_client_cas_are_sent(context, ca):
    """By their subjects, as Go's server does."""
    session = context.session()
    Client(session, ca).handshake()

    assert ["clients"] == [name.CN for name in session._connection.get_client_ca_list()]


@pytest.mark.parametrize("name", material.RARE_NAMES)
def test_a_client_ca_may_have_rare_kinds_of_names(ca, name):
    """As in Go: a server reads the subjects of client CAs only."""
    rare = pem.encode("CERTIFICATE", material.ca_with_rare_names(material.key(), name))
    names = template.AltNames(dns=("localhost",))
    session = tls.ServingContext(*ca.issue(selfsigned.Leaf("server", names=names)), rare).session()
    Client(session, ca).handshake()
    assert ["odd"] == [name.CN for name in session._connection.get_client_ca_list()]


def test_invalid_records_end_the_connection_with_an_alert(context, ca):
    """Corrupt bytes after the handshake."""
    client = Client(context.session(), ca).handshake()
    with pytest.raises(tls.TLSError):
        client.session.receive(b"\x17\x03\x03\x00\x20" + b"\x00" * 32)
    assert client.session.take_outgoing()


def test_close_notify_ends_the_session(context, ca):
    """It is told apart from silence."""
    client = Client(context.session(), ca).handshake()
    client.tls.write(b"last words")
    with pytest.raises(ssl.SSLWantReadError):
        client.tls.unwrap()
    assert client.flight() == b"last words"
    assert client.session.is_ended


def _labelled(digest, secret, label, length):
    info = length.to_bytes(2, "big") + bytes([len(label) + 6]) + b"tls13 " + label + b"\0"
    return HKDFExpand(digest, length, info).derive(secret)


def _key_updates(secret):
    """The records by which a client of TLS 1.3 asks for new keys, again and again (RFC 8446 sections 4.6.3, 7.2)."""
    digest, length = (hashes.SHA384(), 32) if len(secret) == 48 else (hashes.SHA256(), 16)
    head, message = b"\x17\x03\x03\x00\x16", b"\x18\x00\x00\x01\x01"
    while True:
        cipher = AESGCM(_labelled(digest, secret, b"key", length))
        yield head + cipher.encrypt(_labelled(digest, secret, b"iv", 12), message + b"\x16", head)
        secret = _labelled(digest, secret, b"traffic upd", len(secret))


def test_consecutive_key_updates_are_limited(context, ca, tmp_path):
    """To sixteen, as in Go's server."""
    client = Client(context.session(), ca, version=ssl.TLSVersion.TLSv1_3)
    client.tls.context.keylog_filename = str(tmp_path / "secrets")
    client.tls = client.tls.context.wrap_bio(client._incoming, client._outgoing, server_hostname="localhost")
    client.handshake()
    lines = (tmp_path / "secrets").read_text().splitlines()
    (secret,) = [line.split()[2] for line in lines if line.startswith("CLIENT_TRAFFIC_SECRET_0 ")]
    updates = _key_updates(bytes.fromhex(secret))

    assert client.session.receive(b"".join(itertools.islice(updates, 16))) == b""
    assert client.read(client.session.take_outgoing()) == b""
    with pytest.raises(tls.TLSError, match="too many records without application data"):
        client.session.receive(b"".join(itertools.islice(updates, 10_000)))
    assert len(client.session.take_outgoing()) <= 40 * 30


def test_sessions_are_not_resumed(context, ca):
    """A ticket would lose the intermediates of the client's chain."""
    first = Client(context.session(), ca, version=ssl.TLSVersion.TLSv1_2).handshake()
    assert not first.tls.session.has_ticket
    assert first.tls.session.id == b""


def test_alpn_selects_http_1_1_only(context, ca):
    """A client that offers HTTP/2 as well uses HTTP/1.1."""
    assert Client(context.session(), ca, alpn=["h2", "http/1.1"]).handshake().tls.selected_alpn_protocol() == (
        "http/1.1"
    )
    assert Client(context.session(), ca, alpn=["h2"]).handshake().tls.selected_alpn_protocol() is None


def test_new_connections_use_the_reloaded_certificate(ca):
    """Open connections go on; invalid files change nothing."""
    names = template.AltNames(dns=("localhost",))
    context = tls.ServingContext(*ca.issue(selfsigned.Leaf("first", names=names)), ca.pem)
    old = Client(context.session(), ca).handshake()
    context.load(*ca.issue(selfsigned.Leaf("second", names=names)), ca.pem)
    new = Client(context.session(), ca).handshake()
    certificate, _ = ca.issue(selfsigned.Leaf("third", names=names))
    _, key = ca.issue(selfsigned.Leaf("fourth", names=names))
    with pytest.raises(ValueError, match="private key does not match"):
        context.load(certificate, key, ca.pem)

    def name(client):
        (((_, common_name),),) = client.tls.getpeercert()["subject"]
        return common_name

    assert (name(old), name(new), name(Client(context.session(), ca).handshake())) == ("first", "second", "second")
    old.tls.write(b"still here")
    assert old.flight() == b"still here"
