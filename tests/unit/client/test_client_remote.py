"""Connections to a server elsewhere."""

from __future__ import annotations

import contextlib
import socket

from certplane.client import remote


def test_a_connection_is_asked_whether_anybody_is_there():
    """After half a minute of silence, so that a watch that something between has forgotten is begun anew."""
    address = (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ("127.0.0.1", 443))
    with contextlib.closing(remote._socket(address)) as made:
        assert (made.family, made.type) == (socket.AF_INET, socket.SOCK_STREAM)
        assert made.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        if hasattr(socket, "TCP_KEEPIDLE"):
            assert made.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 30
