"""Bytes that are no PKCS#10: a warning names what they are, beside the text of Kubernetes, which stays."""

from __future__ import annotations

import base64
import gzip
import json

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from certplane import testing
from certplane.golang import pem
from certplane.resources import certificatesigningrequests as csrs
from certplane.x509 import privatekeys
from tests.flow import plane as flow

PATH = "/apis/certificates.k8s.io/v1/certificatesigningrequests"
KEY = testing.new_key()
PEM = testing.new_pkcs10(key=KEY)
DER = x509.load_pem_x509_csr(PEM).public_bytes(serialization.Encoding.DER)
BASE64 = base64.b64encode(PEM).decode()
CERTIFICATE = pem.encode("CERTIFICATE", testing.new_authority(testing.FakeClock()).raw)
PUBLIC = KEY.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
SSH = KEY.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)


def encoded(data):
    return base64.b64encode(data).decode()


def changed():
    """A request with another signature."""
    return pem.encode("CERTIFICATE REQUEST", DER[:-8] + testing.new_pkcs10()[100:108])


#: What is sent in spec.request, and how the warning begins after "spec.request is ".
MISTAKES = {
    "empty": ("", "empty: the file that was encoded is empty"),
    "DER": (encoded(DER), "DER, not PEM"),
    "base64 twice": (encoded(BASE64.encode()), "encoded with base64 twice"),
    "PEM without its lines": (encoded(base64.b64encode(DER)), "the content of PEM without its BEGIN and END lines"),
    "base64 of DER, decoded once": (encoded(encoded(DER).encode()), "the content of PEM without its BEGIN and END"),
    "not encoded": (PEM.decode(), "PEM itself; the field has the base64 of it"),
    "shell command": ("$(cat jane.csr | base64)", "a shell command that was not run"),
    "backticks": ("`base64 jane.csr`", "a shell command that was not run"),
    "shell variable": ("${CSR}", "a shell variable that was not replaced"),
    "encoded shell command": (encoded(b"$(cat jane.csr)\n"), "a shell command that was not run"),
    "template": ("{{ .Values.request }}", "a template that was not rendered"),
    "placeholder": ("<base64 of the CSR>", "a placeholder of an example"),
    "wrapped": (" ".join(BASE64[i : i + 64] for i in range(0, len(BASE64), 64)), "base64 that was wrapped"),
    "line breaks as \\n": (BASE64[:64] + "\\n" + BASE64[64:], "base64 with the two characters"),
    "base64url": (encoded(b"\xff\xfe" + PEM).replace("/", "_").replace("+", "-"), "base64url"),
    "cut off": (BASE64[:-5].rstrip("="), "base64 that was cut off"),
    "file name": ("./jane.csr", "the name of a file"),
    "encoded file name": (encoded(b"jane.csr\n"), "the name of a file"),
    "percent-encoded": (BASE64[:-4] + "%3D%3D", "percent-encoded"),
    "data URL": (f"data:application/pkcs10;base64,{BASE64}", "a data URL"),
    "inner quotes": (f"'{BASE64}'", "base64 in quotes of its own"),
    "NEW": (encoded(PEM.replace(b"CERTIFICATE REQUEST", b"NEW CERTIFICATE REQUEST")), "a PEM block of the old type"),
    "certificate": (encoded(CERTIFICATE), "a certificate, not a request"),
    "certificate in DER": (encoded(pem.first_block(CERTIFICATE).data), "a certificate in DER"),
    "certificate under the label": (
        encoded(pem.encode("CERTIFICATE REQUEST", pem.first_block(CERTIFICATE).data)),
        "a certificate under the label of a request",
    ),
    "public key": (encoded(PUBLIC), "a public key, not a request"),
    "SSH key": (encoded(SSH), "an SSH public key"),
    "several blocks": (encoded(CERTIFICATE + PEM), "several PEM blocks"),
    "another block": (encoded(pem.encode("DH PARAMETERS", b"a")), "a PEM block of type"),
    "line breaks lost": (encoded(PEM.replace(b"\n", b" ")), "PEM whose line breaks were lost"),
    "line breaks escaped": (encoded(PEM.replace(b"\n", b"\\n")), "PEM with the two characters"),
    "indented": (encoded(b"\n".join(b"  " + line for line in PEM.splitlines())), "PEM that is indented"),
    "no END line": (encoded(PEM.rpartition(b"-----END")[0]), "PEM that was cut off"),
    "damaged": (encoded(PEM.replace(b"MI", b"!!", 1)), "PEM that is damaged"),
    "typographic dashes": (encoded(PEM.decode().replace("-----", "—–").encode()), "PEM whose BEGIN line does not have"),
    "UTF-16": (encoded(PEM.decode().encode("utf-16")), "text in UTF-16"),
    "byte order mark": (encoded(b"\xef\xbb\xbf" + PEM), "PEM with a byte order mark"),
    "gzip": (encoded(gzip.compress(PEM)), "compressed with gzip"),
    "hexadecimal": (encoded(DER.hex().encode()), "hexadecimal"),
    "openssl -text": (encoded(b"Certificate Request:\n    Data:\n"), "the description of a request"),
    "manifest": (encoded(b"apiVersion: certificates.k8s.io/v1\n"), "a manifest"),
    "HTML": (encoded(b"<html><body>404</body></html>"), "HTML or XML"),
    "changed after signing": (encoded(changed()), "a request whose signature is not that of its key"),
}


async def post(plane, request):
    body = {
        "apiVersion": "certificates.k8s.io/v1",
        "kind": csrs.RESOURCE.kind,
        "metadata": {"name": "a"},
        "spec": {"signerName": flow.CLIENT, "usages": ["client auth"], "request": request},
    }
    response = await flow.respond(plane, "POST", PATH, body, content_type="application/json")
    return response, flow.warning_texts(response)


@pytest.mark.parametrize("name", MISTAKES)
async def test_what_is_no_request_is_named(name):
    """The warning says what it is; the Status is the same as without the hints, byte for byte."""
    request, expected = MISTAKES[name]
    async with flow.running() as plane:
        response, warnings = await post(plane, request)
    async with flow.running(creation_hints=False) as plane:
        plain, without = await post(plane, request)
    (warning,) = warnings
    assert warning.startswith(f"spec.request is {expected}")
    assert without == []
    assert (response.status, response.body) == (plain.status, plain.body)
    assert json.loads(plain.body)["kind"] == "Status"


@pytest.mark.parametrize("encode", [lambda data: data.decode(), encoded], ids=["as it is", "encoded"])
async def test_a_private_key_is_named_by_the_refusal(encode):
    """Nothing of it is repeated; there is no warning besides."""
    key = KEY.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    async with flow.running() as plane:
        response, warnings = await post(plane, encode(key))
    assert (warnings, privatekeys.EXPOSED_MESSAGE in response.body.decode()) == ([], True)


async def test_other_fields_have_no_hint():
    """The value of a Secret is nobody's business."""
    body = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "a"}, "data": {"request": "$(cat a)"}}
    async with flow.running() as plane:
        response = await flow.respond(plane, "POST", "/api/v1/namespaces/default/secrets", body)
    assert (response.status, flow.warning_texts(response)) == (400, [])
