"""Connections to a remote server."""

from __future__ import annotations

import contextlib
import socket
import types

import multidict

from certplane.client import remote


def test_idle_connections_have_keepalive():
    """After 30 seconds, so that a watch is restarted if its connection was silently dropped."""
    address = (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ("127.0.0.1", 443))
    with contextlib.closing(remote._socket(address)) as connection:
        assert (connection.family, connection.type) == (socket.AF_INET, socket.SOCK_STREAM)
        assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        if hasattr(socket, "TCP_KEEPIDLE"):
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 30


def test_the_values_of_a_repeated_header_are_joined():
    """A response may have several warnings."""
    headers = multidict.CIMultiDict([("Warning", "one"), ("Date", "today"), ("warning", "two")])
    assert remote._fields(types.SimpleNamespace(headers=headers)) == {"warning": "one, two", "date": "today"}
