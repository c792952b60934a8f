"""Requests that contain a private key are refused; the key is not logged, recorded or stored."""

from __future__ import annotations

import base64
import json
import logging
import urllib.parse

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from certplane.resources import certificatesigningrequests as csrs
from certplane.resources import configmaps
from certplane.server import auditpolicy, exchange
from certplane.wire import protobuf
from certplane.x509 import privatekeys
from tests.flow import plane as flow

CSRS = "/apis/certificates.k8s.io/v1/certificatesigningrequests"
CONFIG_MAPS = "/api/v1/namespaces/default/configmaps"
REVIEWS = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
SECRETS = "/api/v1/namespaces/default/secrets"
EVERYTHING = auditpolicy.parse(
    json.dumps({"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "rules": [{"level": "RequestResponse"}]}).encode()
)
TYPE = {"apiVersion": "v1", "kind": "ConfigMap"}
EC = ec.generate_private_key(ec.SECP256R1())


def _pem(key=EC, form="PKCS8", password=None):
    encryption = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    private = getattr(serialization.PrivateFormat, form)
    return key.private_bytes(serialization.Encoding.PEM, private, encryption)


def _der(pem):
    return base64.b64decode(b"".join(pem.splitlines()[1:-1]))


def _text(data):
    return base64.b64encode(data).decode()


PEM = _pem()


def _csr(request):
    spec = {"request": request, "signerName": flow.CLIENT, "usages": ["client auth"]}
    return {"metadata": {"name": "a"}, "spec": spec}


def _config_map(value, **metadata):
    return {**TYPE, "metadata": {"name": "c", **metadata}, "data": {"a": value}}


def _folded(text):
    return "\n".join(["data:", "  a: >-", *(f"    {text[at : at + 60]}" for at in range(0, len(text), 60))])


def _protobuf():
    new = csrs.CertificateSigningRequest(spec=csrs.CertificateSigningRequestSpec(request=_der(PEM), usages=["a"]))
    new.metadata.name = "a"
    return protobuf.encode(new, csrs.RESOURCE.api_version, csrs.RESOURCE.kind)


JSON, YAML = b"application/json", b"application/yaml"
PATCHES = {
    b"application/merge-patch+json": {"data": {"a": PEM.decode()}},
    b"application/strategic-merge-patch+json": {"data": {"a": PEM.decode()}},
    b"application/json-patch+json": [{"op": "add", "path": "/data", "value": {"a": _text(PEM)}}],
    b"application/apply-patch+yaml": _config_map(PEM.decode()),
}
REQUESTS = [
    ("POST", CSRS, _csr(_text(PEM)), JSON),
    ("POST", CSRS, _csr(_text(_pem(form="TraditionalOpenSSL"))), JSON),
    ("POST", CSRS, _csr(_text(_der(PEM))), JSON),
    ("POST", CSRS, _csr(_text(_text(PEM).encode())), JSON),
    ("POST", CSRS, _csr(PEM.decode()), JSON),
    ("POST", CSRS, _csr(_text(flow.pkcs10() + PEM)), JSON),
    ("POST", CSRS, _protobuf(), b"application/vnd.kubernetes.protobuf"),
    ("POST", CONFIG_MAPS, _config_map(PEM.decode()), JSON),
    ("POST", CONFIG_MAPS, _config_map("x" + _text(b"Bag Attributes\n" + PEM)), JSON),
    ("POST", CONFIG_MAPS, _config_map("x", annotations={"a": PEM.decode()}), JSON),
    ("POST", CONFIG_MAPS, json.dumps(_config_map(PEM.decode())).replace("-", r"\u002d").encode(), JSON),
    ("POST", CONFIG_MAPS, ("metadata: {name: c}\n" + _folded(PEM.decode().replace("\n", " "))).encode(), YAML),
    ("POST", CONFIG_MAPS, {"metadata": {"name": PEM.decode()}}, JSON),
    ("POST", CONFIG_MAPS, PEM, JSON),
    ("PUT", CONFIG_MAPS + "/old", _config_map(PEM.decode()), JSON),
    ("DELETE", CONFIG_MAPS + "/old", {"preconditions": {"uid": PEM.decode()}}, JSON),
    ("POST", REVIEWS, {"spec": {"resourceAttributes": {"name": PEM.decode()}}}, JSON),
    *(("PATCH", CONFIG_MAPS + "/old", body, media_type) for media_type, body in PATCHES.items()),
]  # fmt: skip


async def _send(plane, method, path, *, body=b"", query="", headers=(), raw_path=""):
    async def chunks():
        yield body if isinstance(body, bytes) else json.dumps(body).encode()

    request = exchange.Request(method, path, query, exchange.Headers(list(headers)), chunks, raw_path=raw_path)
    request.identity = flow.ADMIN
    return await plane.handler(request)


def _parts(key):
    """Parts of a key that must not leak: in PEM, base64 and double base64."""
    lines = key.splitlines()[1:-1]
    return [lines[0][10:40], base64.b64encode(lines[0])[8:40], base64.b64encode(base64.b64encode(key))[100:140]]


async def _refused(caplog, method, path, **request):
    caplog.set_level(logging.DEBUG)
    log = []
    async with flow.running(audit_sink=lambda line, **_: log.append(line), audit_policy=EVERYTHING) as plane:
        old = configmaps.ConfigMap(data={"b": "c"})
        old.metadata.name = "old"
        await plane.client(flow.ADMIN).create(configmaps.RESOURCE, old, "default")
        response = await _send(plane, method, path, **request)
        assert (await plane.client(flow.ADMIN).get(configmaps.RESOURCE, "old", "default")).data == {"b": "c"}
    assert (response.status, json.loads(response.body)["message"]) == (400, privatekeys.EXPOSED_MESSAGE)
    log_lines = [str(vars(record)) for record in caplog.records]
    outputs = b"".join(log) + response.body + str(response.headers).encode() + "".join(log_lines).encode()
    for key in (PEM, _pem(form="TraditionalOpenSSL")):
        assert not [piece for piece in _parts(key) if piece in outputs]
    assert b"PRIVATE" not in outputs
    assert any("it contains a private key" in line for line in log_lines)


@pytest.mark.parametrize(("method", "path", "body", "media_type"), REQUESTS)
async def test_private_keys_in_bodies_are_refused(caplog, method, path, body, media_type):
    """This applies to any form, field and encoding. The key is in no response, audit event or log line."""
    query = "fieldManager=x" if media_type.startswith(b"application/apply") else ""
    await _refused(caplog, method, path, body=body, query=query, headers=[(b"content-type", media_type)])


LINE = PEM.replace(b"\n", b" ").strip()


@pytest.mark.parametrize(
    "request_",
    [
        {"headers": [(b"user-agent", LINE)]},
        {"headers": [(b"impersonate-user", base64.b64encode(PEM))]},
        {"headers": [(b"x-anything", base64.b64encode(_der(PEM)))]},
        {"query": "labelSelector=" + urllib.parse.quote(PEM)},
        {"query": "labelSelector=" + urllib.parse.quote_plus(PEM)},
        {"query": "fieldManager=" + urllib.parse.quote(base64.b64encode(_der(PEM)))},
        {"path": CONFIG_MAPS + "/" + PEM.decode()},
        # After a slash, which may also be a character of base64.
        *(
            {"path": f"{CONFIG_MAPS}/{name}", "raw_path": f"{CONFIG_MAPS}/{urllib.parse.quote(name, safe='')}"}
            for name in (_text(_der(PEM)), _text(_text(PEM).encode()))
        ),
    ],
)
async def test_private_keys_in_urls_and_headers_are_refused(caplog, request_):
    """They are refused before authentication and auditing."""
    await _refused(caplog, "GET", **{"path": CONFIG_MAPS, **request_})


async def test_secrets_may_contain_private_keys():
    """They are accepted in stringData and in data, and are not in the audit log."""
    log = []
    async with flow.running(audit_sink=lambda line, **_: log.append(line), audit_policy=EVERYTHING) as plane:
        secret = {"metadata": {"name": "s"}, "stringData": {"a": PEM.decode()}, "data": {"b": _text(PEM)}}
        json_ = [(b"content-type", JSON)]
        merge = [(b"content-type", b"application/merge-patch+json")]
        patch = {"stringData": {"c": PEM.decode()}}
        assert (await _send(plane, "POST", SECRETS, body=secret, headers=json_)).status == 201
        assert (await _send(plane, "PATCH", SECRETS + "/s", body=patch, headers=merge)).status == 200
    assert b"PRIVATE" not in b"".join(log)
    assert not [piece for piece in _parts(PEM) if piece in b"".join(log)]


KEYS = {
    "RSA": rsa.generate_private_key(65537, 2048),
    "EC": EC,
    "Ed25519": ed25519.Ed25519PrivateKey.generate(),
}
#: Ed25519 keys have no traditional form; writing encrypted OpenSSH keys needs another library.
FORMS = [
    (name, form, password)
    for name in KEYS
    for form, password in (
        ("PKCS8", None),
        ("PKCS8", b"x"),
        ("TraditionalOpenSSL", None),
        ("TraditionalOpenSSL", b"x"),
        ("OpenSSH", None),
    )
    if (name, form) != ("Ed25519", "TraditionalOpenSSL")
]


@pytest.mark.parametrize(("name", "form", "password"), FORMS)
def test_private_keys_are_detected(name, form, password):
    """They are detected with and without a password, in PEM, DER, base64, double base64 and URL-safe base64."""
    key = _pem(KEYS[name], form, password)
    assert privatekeys.contains_key(key)
    assert privatekeys.contains_key(base64.b64encode(key))
    assert privatekeys.contains_key(base64.b64encode(base64.b64encode(key)))
    for shift in range(4):
        assert privatekeys.contains_key(base64.b64encode(b"key\n"[shift:] + b"\n" + key))
    if form == "OpenSSH" or (password and form != "PKCS8"):
        return  # These forms do not contain DER of the key.
    der = _der(key)
    for encoded in (der, base64.b64encode(der), base64.urlsafe_b64encode(der), base64.b64encode(base64.b64encode(der))):
        assert privatekeys.contains_key(encoded)


def test_public_data_is_not_a_private_key():
    """This applies to requests, public keys, and text about keys."""
    for key in KEYS.values():
        public = key.public_key()
        form = serialization.PublicFormat.SubjectPublicKeyInfo
        for encoding in (serialization.Encoding.PEM, serialization.Encoding.DER):
            text = public.public_bytes(encoding, form)
            assert not privatekeys.contains_key(text)
            assert not privatekeys.contains_key(base64.b64encode(text))
    pkcs1 = KEYS["RSA"].public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.PKCS1)
    request = flow.pkcs10()
    for text in (pkcs1, request, _der(request), b"the PRIVATE KEY is not part of a request" * 3):
        assert not privatekeys.contains_key(text)
        assert not privatekeys.contains_key(base64.b64encode(text))


async def test_private_keys_in_headers_are_logged_at_a_limited_rate(caplog):
    """Clients need not be authenticated to send them. Long field names are truncated."""
    async with flow.running() as plane:
        for number in range(500):
            fields = exchange.Headers([(b"x-%d" % number + b"x" * 10_000, PEM.replace(b"\n", b" "))])
            response = await plane.handler(exchange.Request("GET", "/api", "", fields, source="192.0.2.1"))
            assert response.status == 400
    logged = [record for record in caplog.records if "private key" in record.getMessage()]
    assert 0 < len(logged) <= 60
    assert all(len(record.location) <= 64 for record in logged)
