"""TLS without I/O: ciphertext in, plaintext out, and the certificates that the client presented.

The handshake requests a client certificate and accepts any, as Go's `tls.RequestClientCert` does: it proves that the
client holds the key, and nothing else. `certplane.access` verifies the chain and the identity for each request
(docs/adr/0013). That needs a verify callback, which pyOpenSSL has and the standard library's `ssl` lacks. OpenSSL is
the one of the `cryptography` wheel.

Sessions are not resumed: a ticket would store the client certificate without the intermediates sent with it.

This module knows nothing of HTTP, sockets, time, and authentication.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from OpenSSL import SSL, crypto

from certplane.golang import pem
from certplane.x509 import keys
from certplane.x509.trust import certificates, keypairs
from certplane.x509.trust.certificates import Certificate

#: The TLS 1.2 cipher suites of Go's `crypto/tls` that are AEADs with forward secrecy. TLS 1.3 has OpenSSL's defaults.
_CIPHERS: Final = (
    b"ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384:"
    b"ECDHE-RSA-AES256-GCM-SHA384:ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305"
)
_ALPN: Final = b"http/1.1"
_RECORD_HEADER: Final = 5
#: Maximum bytes of a record's content, with the expansion that TLS 1.2 allows (RFC 5246 section 6.2.3).
_RECORD_LIMIT: Final = 16384 + 2048
#: Maximum bytes of plaintext in a record, and of what encryption adds to it.
_RECORD_PLAINTEXT: Final = 16384
_RECORD_OVERHEAD: Final = 64
#: Consecutive records without application data, as many as Go's `crypto/tls` allows. For each key update a key is
#: derived and a reply written, so a client that sends nothing else would block all other connections.
_MAX_EMPTY_RECORDS: Final = 16
#: Bytes that are read at once of OpenSSL's handshake output.
_FLIGHT: Final = 16384


class TLSError(Exception):
    """The handshake failed or a record was invalid; the connection cannot be used. The text is OpenSSL's."""


class ServingContext:
    """The TLS configuration of new connections: certificate, key, and the subjects of the client CAs."""

    def __init__(self, certificate: bytes, key: bytes, client_ca: bytes) -> None:
        """Three PEM texts: a chain, leaf first; its key; the client CA certificates. Raises ValueError."""
        self._context = _context(certificate, key, client_ca)

    def load(self, certificate: bytes, key: bytes, client_ca: bytes) -> None:
        """Replace the configuration for new connections. Raises ValueError, and then keeps the previous one."""
        self._context = _context(certificate, key, client_ca)

    def session(self) -> Session:
        """The server's side of a new connection."""
        return Session(SSL.Connection(self._context))


def _context(certificate: bytes, key: bytes, client_ca: bytes) -> SSL.Context:
    keypairs.check(certificate, key)
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    context.set_min_proto_version(SSL.TLS1_2_VERSION)
    context.set_cipher_list(_CIPHERS)
    context.set_options(SSL.OP_NO_RENEGOTIATION | SSL.OP_NO_TICKET | SSL.OP_NO_COMPRESSION)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.set_alpn_select_callback(_select_protocol)
    context.set_verify(SSL.VERIFY_PEER, _accept_any)
    try:
        leaf, *others = _certificates(certificate)
        context.use_certificate(leaf)
        for other in others:
            context.add_extra_chain_cert(other)
        context.use_privatekey(keys.from_pem(key))
        context.check_privatekey()
        # As Go's server does: clients with several certificates choose by the subjects of these CAs.
        for authority in _certificates(client_ca):
            context.add_client_ca(authority)
    except (SSL.Error, crypto.Error) as error:
        raise ValueError(_text(error)) from error
    return context


def _certificates(text: bytes) -> list[Certificate]:
    return [
        certificates.parse_without_extensions(block.data) for block in pem.blocks(text) if block.label == "CERTIFICATE"
    ]


def _accept_any(*_: object) -> bool:
    return True


def _select_protocol(_: SSL.Connection, protocols: list[bytes]) -> Any:
    return _ALPN if _ALPN in protocols else SSL.NO_OVERLAPPING_PROTOCOLS


def _text(error: Exception) -> str:
    """The last reason of an OpenSSL error."""
    queue = error.args[0] if error.args and isinstance(error.args[0], list) else []
    return str(queue[-1][-1]) if queue else "the client closed the connection"


class Session:
    """The TLS session of one connection. `receive` decrypts, `send` encrypts; `take_outgoing` returns the bytes that
    TLS itself has to send.
    """

    def __init__(self, connection: SSL.Connection) -> None:
        self._connection = connection
        connection.set_accept_state()
        #: The bytes of an incomplete record.
        self._partial = bytearray()
        self._outgoing: list[bytes] = []
        #: Consecutive records without application data.
        self._empty_records = 0
        #: The client has sent something.
        self.has_begun = False
        #: The handshake is complete.
        self.is_established = False
        #: The client has sent close_notify.
        self.is_ended = False
        #: The certificates that the client presented, in DER, leaf first; empty without a client certificate.
        self.peer_chain: Sequence[bytes] = ()

    def receive(self, data: bytes) -> bytes:
        """The plaintext of the records that the bytes complete. Raises TLSError; then there may be an alert to send."""
        self.has_begun = True
        if self._partial:
            self._partial += data
            data = bytes(self._partial)
        groups, size = _complete_records(data)
        if size < len(data):
            if self._partial:
                del self._partial[:size]
            else:
                self._partial += data[size:]
            data = data[:size]
        elif self._partial:
            self._partial.clear()
        try:
            if len(groups) == 1:
                return self._decrypt(data, *groups[0])
            return self._decrypt_groups(data, groups)
        except SSL.Error as error:
            self._collect()
            raise TLSError(_text(error)) from error

    def _decrypt_groups(self, data: bytes, groups: Sequence[tuple[int, int]]) -> bytes:
        pieces: list[bytes] = []
        position = 0
        for records, size in groups:
            pieces.append(self._decrypt(data[position : position + size], records, size))
            position += size
            if self.is_ended:
                break
        return b"".join(pieces)

    def _decrypt(self, data: bytes, records: int, size: int) -> bytes:
        """The plaintext of a group of records. OpenSSL skips those without application data in one call."""
        self._connection.bio_write(data)
        try:
            if not self.is_established:
                return self._handshake(size)
            plaintext = self._read(records, size)
        except SSL.ZeroReturnError:
            self.is_ended = True
            return b""
        self._empty_records = 0 if plaintext else self._empty_records + records
        if self._empty_records > _MAX_EMPTY_RECORDS and not self.is_ended:
            raise TLSError("too many records without application data")
        return plaintext

    def _handshake(self, size: int) -> bytes:
        try:
            self._connection.do_handshake()
        except SSL.WantReadError:
            self._collect()
            return b""
        self._collect()
        self.is_established = True
        self.peer_chain = _peer_chain(self._connection)
        # A request may have arrived with the last flight; the number of its records is unknown.
        return self._read(size, size)

    def _read(self, records: int, size: int) -> bytes:
        """The plaintext of so many records. Each is read by itself: reading more than there is costs an exception."""
        if records == 1:
            try:
                return self._connection.recv(size)
            except SSL.WantReadError:
                self._collect()
                return b""
        pieces: list[bytes] = []
        try:
            for _ in range(records):
                pieces.append(self._connection.recv(min(size, _RECORD_LIMIT)))  # noqa: PERF401 - what came before an exception is kept
        except SSL.WantReadError:
            # Some records have no application data.
            self._collect()
        except SSL.ZeroReturnError:
            self.is_ended = True
        return b"".join(pieces)

    def send(self, data: bytes) -> bytes:
        """The records of some plaintext. Raises TLSError."""
        if not data:
            return b""
        try:
            self._connection.sendall(data)
            size = len(data) + _RECORD_OVERHEAD * (len(data) // _RECORD_PLAINTEXT + 1)
            return self._connection.bio_read(size)
        except SSL.Error as error:
            raise TLSError(_text(error)) from error

    def end(self) -> None:
        """Send close_notify."""
        if self.is_established:
            try:
                self._connection.shutdown()
            except SSL.Error:
                # The session is already shut down.
                return
            self._collect()

    def take_outgoing(self) -> bytes:
        """The bytes that TLS itself has to send to the client: handshake messages and alerts."""
        outgoing, self._outgoing = b"".join(self._outgoing), []
        return outgoing

    def _collect(self) -> None:
        try:
            while True:
                self._outgoing.append(self._connection.bio_read(_FLIGHT))
        except SSL.Error:
            # WantReadError: there is no more output.
            return


def _complete_records(data: bytes) -> tuple[list[tuple[int, int]], int]:
    """The complete records as groups of (number of records, bytes); and the bytes of all groups."""
    groups: list[tuple[int, int]] = []
    records = position = start = 0
    length = len(data)
    while length - position >= _RECORD_HEADER:
        content = data[position + 3] << 8 | data[position + 4]
        if content > _RECORD_LIMIT:
            # The record is invalid: pass it to OpenSSL, which sends the alert.
            return [*groups, (records + 1, length - start)], length
        end = position + _RECORD_HEADER + content
        if end > length:
            break
        records += 1
        position = end
        if records == _MAX_EMPTY_RECORDS:
            groups.append((records, position - start))
            records, start = 0, position
    if records:
        groups.append((records, position - start))
    return groups, position


def _peer_chain(connection: SSL.Connection) -> Sequence[bytes]:
    leaf = connection.get_peer_certificate()
    if leaf is None:
        return ()
    chain = [leaf, *(connection.get_peer_cert_chain() or ())]
    # On the server side, OpenSSL's chain may or may not begin with the leaf.
    return tuple(dict.fromkeys(crypto.dump_certificate(crypto.FILETYPE_ASN1, certificate) for certificate in chain))
