"""The servers that a client trusts, by the CA certificates of its kubeconfig. The handshake is done in memory."""

from __future__ import annotations

import contextlib
import datetime
import ssl

import pytest
from cryptography.hazmat.primitives import serialization

from certplane.client import credentials, kubeconfig
from certplane.golang import pem
from tests.unit.x509 import chains

ROOT = {"subject": "root", "issuer": "root", "key": 0, "signer": 0, "ca": True, "skid": "r"}
ISSUING = {"subject": "issuing", "issuer": "root", "key": 1, "signer": 0, "ca": True, "skid": "i", "akid": "r"}
SERVER = {
    "subject": "server",
    "issuer": "issuing",
    "key": 8,
    "signer": 1,
    "akid": "i",
    "purposes": ["server"],
    "san": [["dns", "localhost"]],
}
BARE = {name: value for name, value in SERVER.items() if name != "akid"}
#: OpenSSL uses the system clock.
NOW = datetime.datetime.now(datetime.UTC)
_CERTIFICATES = {}


def certificate(fields):
    """The same certificate, in PEM, for the same fields."""
    key = repr(fields)
    if key not in _CERTIFICATES:
        _CERTIFICATES[key] = pem.encode("CERTIFICATE", chains.certificate(fields | {"around": NOW}))
    return _CERTIFICATES[key]


def server(tmp_path, leaf, *others):
    """The TLS settings of a server with this chain."""
    private = chains.key(leaf["key"]).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path = tmp_path / "server.pem"
    path.write_bytes(private + b"".join(map(certificate, (leaf, *others))))
    settings = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    settings.load_cert_chain(path)
    return settings


def handshake(client, serving):
    """Raises ssl.SSLError if the client does not trust the server."""
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(down, up, server_hostname="localhost"),
        serving.wrap_bio(up, down, server_side=True),
    ]
    for _ in range(4):
        for end in ends:
            with contextlib.suppress(ssl.SSLWantReadError):
                end.do_handshake()
    assert ends[0].version() is not None


def client(*trusted):
    access = kubeconfig.ClientConfig("https://localhost", credentials.StoredCredentials())
    return access.tls_context(b"".join(map(certificate, trusted)), b"", b"")


@pytest.mark.parametrize(
    ("leaf", "sent", "trusted"),
    [
        pytest.param(SERVER, [], [ISSUING], id="the issuing CA alone"),
        pytest.param(SERVER, [ISSUING], [ISSUING], id="the issuing CA alone, and sent"),
        pytest.param(SERVER, [ISSUING], [ROOT], id="the root alone"),
        pytest.param(SERVER, [], [ISSUING, ROOT], id="both"),
        pytest.param(SERVER, [], [SERVER], id="the certificate itself"),
        pytest.param(BARE, [], [ISSUING], id="without the identifier of a key"),
    ],
)
def test_a_server_is_trusted_as_by_kubectl(tmp_path, leaf, sent, trusted):
    """Every certificate of the CA file is a trust anchor."""
    handshake(client(*trusted), server(tmp_path, leaf, *sent))


@pytest.mark.parametrize(
    ("leaf", "trusted"),
    [
        pytest.param(SERVER, [ROOT], id="the issuing CA was not sent"),
        pytest.param(SERVER | {"signer": 9}, [ISSUING], id="another key"),
        pytest.param(SERVER | {"to": -1}, [ISSUING], id="expired"),
        pytest.param(SERVER | {"san": [["dns", "elsewhere"]]}, [ISSUING], id="another name"),
    ],
)
def test_other_servers_are_not_trusted(tmp_path, leaf, trusted):
    """An anchor is trusted for what its key signed."""
    with pytest.raises(ssl.SSLError):
        handshake(client(*trusted), server(tmp_path, leaf))
