"""Connections: TLS and HTTP/1.1, ours from the socket to the request.

`http1` and `tls` are machines without I/O: bytes in, events out, so that every rule of framing and of the handshake is
tested with bytes alone. `peer` is the thin asyncio shell around one connection, `listener` owns the listening socket,
the clockwork and the end. Why this is not a library's server: docs/adr/0001.
"""
