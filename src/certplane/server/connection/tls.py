"""TLS without I/O: ciphertext in, plaintext out, and the certificates that the client showed.

The handshake asks for a client certificate and takes whatever comes, as Go's `tls.RequestClientCert` does: it proves
that the client holds the key, and nothing else. Whom the certificate names, and whether it is believed, is judged for
each request by `certplane.access` (docs/adr/0013). That takes a verdict of our own on the chain, for which the standard
library's `ssl` has no callback and pyOpenSSL has one. OpenSSL is that of the `cryptography` wheel.

There is no resumption: a ticket would keep a client certificate without the intermediates that were sent with it.

What this module does not know: HTTP, sockets, time, and who may come.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from OpenSSL import SSL, crypto

from certplane.x509 import certificates, keys, pairs, pem
from certplane.x509.certificates import Certificate

#: The cipher suites of Go's `crypto/tls` for TLS 1.2 that have forward secrecy and are AEADs; those of TLS 1.3 are
#: OpenSSL's own.
_CIPHERS: Final = (
    b"ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384:"
    b"ECDHE-RSA-AES256-GCM-SHA384:ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305"
)
_ALPN: Final = b"http/1.1"
_RECORD_HEAD: Final = 5
#: Bytes of a record's content at the most, with what TLS 1.2 may add (RFC 5246 section 6.2.3).
_RECORD_LIMIT: Final = 16384 + 2048
#: Of plaintext in a record, and what a record adds to it at the most.
_RECORD_PLAIN: Final = 16384
_RECORD_OVERHEAD: Final = 64
#: Records in a row that bring nothing for us, as many as Go's `crypto/tls` takes. A client that goes on asking for new
#: keys, and nothing else, would have a key made and an answer written at each of them, while everybody else waits.
_MOST_USELESS: Final = 16
#: What is read at once of what OpenSSL has to say in a handshake.
_FLIGHT: Final = 16384


class TLSError(Exception):
    """The connection is over: no handshake came about, or a record was damaged. The text is OpenSSL's."""


class ServingContext:
    """What new connections are served with: certificate, key, and the names of the CAs of clients."""

    def __init__(self, certificate: bytes, key: bytes, client_ca: bytes) -> None:
        """Three PEM texts: a chain, leaf first; its key; CA certificates. Raises ValueError."""
        self._context = _context(certificate, key, client_ca)

    def load(self, certificate: bytes, key: bytes, client_ca: bytes) -> None:
        """Serve new connections with these from now on. Raises ValueError, and goes on with the former ones."""
        self._context = _context(certificate, key, client_ca)

    def session(self) -> Session:
        """The server's side of a new connection."""
        return Session(SSL.Connection(self._context))


def _context(certificate: bytes, key: bytes, client_ca: bytes) -> SSL.Context:
    pairs.check(certificate, key)
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    context.set_min_proto_version(SSL.TLS1_2_VERSION)
    context.set_cipher_list(_CIPHERS)
    context.set_options(SSL.OP_NO_RENEGOTIATION | SSL.OP_NO_TICKET | SSL.OP_NO_COMPRESSION)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.set_alpn_select_callback(_select_protocol)
    context.set_verify(SSL.VERIFY_PEER, _take_any)
    try:
        leaf, *others = _certificates(certificate)
        context.use_certificate(leaf)
        for other in others:
            context.add_extra_chain_cert(other)
        context.use_privatekey(keys.from_pem(key))
        context.check_privatekey()
        # As Go's server does: clients that hold several certificates choose by these names.
        for authority in _certificates(client_ca):
            context.add_client_ca(authority)
    except (SSL.Error, crypto.Error) as error:
        raise ValueError(_text(error)) from error
    return context


def _certificates(text: bytes) -> list[Certificate]:
    return [certificates.parse(block.data) for block in pem.blocks(text) if block.label == "CERTIFICATE"]


def _take_any(*_: object) -> bool:
    return True


def _select_protocol(_: SSL.Connection, offered: list[bytes]) -> Any:
    return _ALPN if _ALPN in offered else SSL.NO_OVERLAPPING_PROTOCOLS


def _text(error: Exception) -> str:
    """What OpenSSL says of an error: its last reason."""
    queue = error.args[0] if error.args and isinstance(error.args[0], list) else []
    return str(queue[-1][-1]) if queue else "the connection was closed"


class Session:
    """One connection. `receive` and `send` translate; what has to go to the client besides, `take_outgoing` gives."""

    def __init__(self, connection: SSL.Connection) -> None:
        self._connection = connection
        connection.set_accept_state()
        #: Of a record that is not complete yet.
        self._partial = bytearray()
        self._outgoing: list[bytes] = []
        #: Records since the last one that brought something.
        self._useless = 0
        #: Whether anything came yet.
        self.has_begun = False
        self.is_established = False
        #: Whether the client said that nothing more comes.
        self.is_ended = False
        #: What the client showed, in DER, leaf first, as it came; nothing if it showed nothing.
        self.peer_chain: Sequence[bytes] = ()

    def receive(self, data: bytes) -> bytes:
        """The plaintext in the records that the bytes complete. Raises TLSError; there may be an alert to send then."""
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
                return self._take(data, *groups[0])
            return self._take_all(data, groups)
        except SSL.Error as error:
            self._collect()
            raise TLSError(_text(error)) from error

    def _take_all(self, data: bytes, groups: Sequence[tuple[int, int]]) -> bytes:
        pieces: list[bytes] = []
        position = 0
        for records, size in groups:
            pieces.append(self._take(data[position : position + size], records, size))
            position += size
            if self.is_ended:
                break
        return b"".join(pieces)

    def _take(self, data: bytes, records: int, size: int) -> bytes:
        """The plaintext in a group of records. OpenSSL goes on by itself through all that bring nothing."""
        self._connection.bio_write(data)
        try:
            if not self.is_established:
                return self._shake_hands(size)
            plain = self._read(records, size)
        except SSL.ZeroReturnError:
            self.is_ended = True
            return b""
        self._useless = 0 if plain else self._useless + records
        if self._useless > _MOST_USELESS and not self.is_ended:
            raise TLSError("too many records without content")
        return plain

    def _shake_hands(self, size: int) -> bytes:
        try:
            self._connection.do_handshake()
        except SSL.WantReadError:
            self._collect()
            return b""
        self._collect()
        self.is_established = True
        self.peer_chain = _peer_chain(self._connection)
        # A request may have come along with the last flight; how many records are left of it nobody says.
        return self._read(size, size)

    def _read(self, records: int, size: int) -> bytes:
        """What is in as many records. One by one: to ask OpenSSL for more than there is costs an exception."""
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
            # Not every record has content for us.
            self._collect()
        except SSL.ZeroReturnError:
            self.is_ended = True
        return b"".join(pieces)

    def send(self, data: bytes) -> bytes:
        """The records that carry a piece of plaintext. Raises TLSError."""
        if not data:
            return b""
        try:
            self._connection.sendall(data)
            size = len(data) + _RECORD_OVERHEAD * (len(data) // _RECORD_PLAIN + 1)
            return self._connection.bio_read(size)
        except SSL.Error as error:
            raise TLSError(_text(error)) from error

    def end(self) -> None:
        """Say that nothing more comes."""
        if self.is_established:
            try:
                self._connection.shutdown()
            except SSL.Error:
                # Already over; there is nothing to say then.
                return
            self._collect()

    def take_outgoing(self) -> bytes:
        """What has to be sent to the client by itself: handshake, alerts."""
        outgoing, self._outgoing = b"".join(self._outgoing), []
        return outgoing

    def _collect(self) -> None:
        try:
            while True:
                self._outgoing.append(self._connection.bio_read(_FLIGHT))
        except SSL.Error:
            # WantReadError: there is no more.
            return


def _complete_records(data: bytes) -> tuple[list[tuple[int, int]], int]:
    """The complete records, in groups of so many with so many bytes; and the bytes of all of them."""
    groups: list[tuple[int, int]] = []
    records = position = begun = 0
    length = len(data)
    while length - position >= _RECORD_HEAD:
        content = data[position + 3] << 8 | data[position + 4]
        if content > _RECORD_LIMIT:
            # That is no record; OpenSSL knows the alert for it.
            return [*groups, (records + 1, length - begun)], length
        end = position + _RECORD_HEAD + content
        if end > length:
            break
        records += 1
        position = end
        if records == _MOST_USELESS:
            groups.append((records, position - begun))
            records, begun = 0, position
    if records:
        groups.append((records, position - begun))
    return groups, position


def _peer_chain(connection: SSL.Connection) -> Sequence[bytes]:
    leaf = connection.get_peer_certificate()
    if leaf is None:
        return ()
    chain = [leaf, *(connection.get_peer_cert_chain() or ())]
    # The chain of a server's peer may or may not begin with the leaf.
    return tuple(dict.fromkeys(crypto.dump_certificate(crypto.FILETYPE_ASN1, certificate) for certificate in chain))
