"""Connections: our own TLS and HTTP/1.1 server, from the socket to the request.

`http1` and `tls` are state machines without I/O: bytes in, events out, so that every rule of the framing and of the
handshake is tested with bytes alone. `protocol` is the asyncio protocol of one connection; `listener` owns the
listening socket, checks timeouts and drains connections. docs/adr/0001 says why no library's server is used.
"""
