"""The server's side of TLS, spoken to by the standard library's client through memory alone."""

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

from certplane.server.connection import tls
from certplane.x509 import keys, mint, pem, template
from tests.unit.server.connection import memory
from tests.unit.server.connection.memory import LIFETIME, NOW, Client


@pytest.fixture(scope="module")
def ca():
    return memory.CA("clients")


@pytest.fixture(scope="module")
def context(ca):
    names = template.AltNames(dns=("localhost",), ip=(ipaddress.ip_address("127.0.0.1"),))
    return tls.ServingContext(*ca.issue(mint.Leaf("server", names=names)), ca.pem)


def identity(tmp_path, certificate, key):
    path = tmp_path / "client.pem"
    path.write_bytes(certificate + key)
    return path


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("cut", [1 << 20, 1, 7])
def test_what_is_sent_arrives(context, ca, version, cut):
    """In both directions, in both versions, however the bytes are cut."""
    client = Client(context.session(), ca, version=version).shake_hands(cut)
    assert client.session.is_established
    assert client.session.peer_chain == ()
    for size in (1, 100, 16384, 16385, 100_000):
        client.tls.write(b"x" * size)
        assert client.flight(max(cut, 100)) == b"x" * size
        assert client.read(client.session.send(b"y" * size)) == b"y" * size


def test_old_versions_are_refused_with_an_alert(context, ca):
    """TLS 1.1 ends in an alert that tells the client why."""
    with pytest.warns(DeprecationWarning, match="deprecated"):
        client = Client(context.session(), ca, version=ssl.TLSVersion.TLSv1_1)
    with pytest.raises(tls.TLSError, match="protocol"):
        client.shake_hands()
    client._incoming.write(client.session.take_outgoing())
    with pytest.raises(ssl.SSLError, match=r"(?i)alert protocol version"):
        client.tls.do_handshake()


def _made(ca, key=None, **changed):
    """A certificate with the odd things that clients come with."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    end = changed.get("end", NOW + LIFETIME)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "jane")]))
        .issuer_name(x509.load_pem_x509_certificate(ca.pem).subject)
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(end - LIFETIME)
        .not_valid_after(end)
    )
    for extension, critical in changed.get("extensions", ()):
        builder = builder.add_extension(extension, critical)
    made = builder.sign(changed.get("signer", ca.key), hashes.SHA256())
    return made, pem.encode("CERTIFICATE", made.public_bytes(serialization.Encoding.DER)), keys.to_pem(key)


def _usage(*bits):
    names = ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement")
    rest = ("key_cert_sign", "crl_sign", "encipher_only", "decipher_only")
    return x509.KeyUsage(**{name: name in bits for name in (*names, *rest)}), True


NS_CERT_TYPE_SERVER = x509.UnrecognizedExtension(x509.ObjectIdentifier("2.16.840.1.113730.1.1"), b"\x03\x02\x06\x40")
CLIENT = x509.ExtendedKeyUsage([x509.ExtendedKeyUsageOID.CLIENT_AUTH]), False
SERVER = x509.ExtendedKeyUsage([x509.ExtendedKeyUsageOID.SERVER_AUTH]), False

SHOWN = {
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
@pytest.mark.parametrize("name", SHOWN)
def test_the_handshake_takes_whatever_certificate_comes(name, version, context, ca, tmp_path):
    """Who it is, and whether that is believed, is judged elsewhere: here it is handed on as it came."""
    made, certificate, key = _made(ca, **SHOWN[name])

    client = Client(context.session(), ca, identity(tmp_path, certificate, key), version).shake_hands()

    assert client.session.is_established
    assert client.session.peer_chain[0] == made.public_bytes(serialization.Encoding.DER)


def test_a_chain_comes_as_it_was_sent(context, ca, tmp_path):
    """Leaf first, then what the client sent along, related or not."""
    _, certificate, key = _made(ca)
    unrelated = memory.CA("unrelated").pem

    session = Client(context.session(), ca, identity(tmp_path, certificate + unrelated, key)).shake_hands().session

    assert pem.first(certificate).data == session.peer_chain[0]
    assert pem.first(unrelated).data in session.peer_chain


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


def test_whoever_does_not_hold_the_key_is_refused(context, ca, tmp_path):
    """The one thing that the handshake judges: the signature of the client's key over it."""
    _, certificate, key = _made(ca)
    client = Client(context.session(), ca, identity(tmp_path, certificate, key), ssl.TLSVersion.TLSv1_2)
    client.tamper = _forge_proof

    with pytest.raises(tls.TLSError, match="signature"):
        client.shake_hands()

    assert not client.session.is_established


def test_clients_are_told_whose_certificates_are_wanted(context, ca):
    """By the names of the CAs, as Go's server does."""
    session = context.session()
    Client(session, ca).shake_hands()

    assert ["clients"] == [name.CN for name in session._connection.get_client_ca_list()]


def test_what_is_no_record_ends_the_connection_with_an_alert(context, ca):
    """Damaged bytes after the handshake: nothing of them is believed."""
    client = Client(context.session(), ca).shake_hands()
    with pytest.raises(tls.TLSError):
        client.session.receive(b"\x17\x03\x03\x00\x20" + b"\x00" * 32)
    assert client.session.take_outgoing()


def test_a_client_that_says_goodbye_is_heard(context, ca):
    """The end that TLS knows is told apart from silence."""
    client = Client(context.session(), ca).shake_hands()
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


def test_a_client_that_only_asks_for_new_keys_is_refused(context, ca, tmp_path):
    """As by Go's server, which takes sixteen in a row: OpenSSL would make keys for as long as somebody asks."""
    client = Client(context.session(), ca, version=ssl.TLSVersion.TLSv1_3)
    client.tls.context.keylog_filename = str(tmp_path / "secrets")
    client.tls = client.tls.context.wrap_bio(client._incoming, client._outgoing, server_hostname="localhost")
    client.shake_hands()
    lines = (tmp_path / "secrets").read_text().splitlines()
    (secret,) = [line.split()[2] for line in lines if line.startswith("CLIENT_TRAFFIC_SECRET_0 ")]
    updates = _key_updates(bytes.fromhex(secret))

    assert client.session.receive(b"".join(itertools.islice(updates, 16))) == b""
    assert client.read(client.session.take_outgoing()) == b""
    with pytest.raises(tls.TLSError, match="too many records without content"):
        client.session.receive(b"".join(itertools.islice(updates, 10_000)))
    assert len(client.session.take_outgoing()) <= 40 * 30


def test_there_is_no_resumption(context, ca):
    """A second connection proves anew who it is: a ticket would forget the intermediates of a chain."""
    first = Client(context.session(), ca, version=ssl.TLSVersion.TLSv1_2).shake_hands()
    assert not first.tls.session.has_ticket
    assert first.tls.session.id == b""


def test_only_http_1_1_is_agreed_on(context, ca):
    """A client that knows HTTP/2 as well speaks HTTP/1.1; one that knows nothing else finds out by itself."""
    assert Client(context.session(), ca, alpn=["h2", "http/1.1"]).shake_hands().tls.selected_alpn_protocol() == (
        "http/1.1"
    )
    assert Client(context.session(), ca, alpn=["h2"]).shake_hands().tls.selected_alpn_protocol() is None


def test_new_connections_are_served_with_what_was_loaded_last(ca):
    """Open connections go on; what cannot be used changes nothing."""
    names = template.AltNames(dns=("localhost",))
    context = tls.ServingContext(*ca.issue(mint.Leaf("first", names=names)), ca.pem)
    old = Client(context.session(), ca).shake_hands()
    context.load(*ca.issue(mint.Leaf("second", names=names)), ca.pem)
    new = Client(context.session(), ca).shake_hands()
    certificate, _ = ca.issue(mint.Leaf("third", names=names))
    _, key = ca.issue(mint.Leaf("fourth", names=names))
    with pytest.raises(ValueError, match="private key does not match"):
        context.load(certificate, key, ca.pem)

    def name(client):
        (((_, common_name),),) = client.tls.getpeercert()["subject"]
        return common_name

    assert (name(old), name(new), name(Client(context.session(), ca).shake_hands())) == ("first", "second", "second")
    old.tls.write(b"still here")
    assert old.flight() == b"still here"
