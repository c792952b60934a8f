"""What bytes are that should be a PKCS#10 request and are not, in one sentence with the remedy.

Kubernetes says `PEM block type must be CERTIFICATE REQUEST` or `illegal base64 data at input byte 0` about all of them.
This is a hint beside that text. It quotes nothing of the input but the label of a PEM block. The time is linear.

Source of the ways to go wrong: public reports about CertificateSigningRequests; RFC 7468, RFC 2986.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Sequence
from typing import Final

from certplane.golang import dertags, formatting, pem
from certplane.x509 import privatekeys
from certplane.x509.pkcs10 import certificaterequest
from certplane.x509.pkcs10.certificaterequest import RequestError

_LABEL: Final = "CERTIFICATE REQUEST"
_ENCODE: Final = "base64 FILE | tr -d '\\n'"
_PLACEHOLDER: Final = re.compile(r"\s*<[^<>]{1,200}>\s*")
#: A name of a file, perhaps with the @ of curl.
_FILE_NAME: Final = re.compile(r"\s*@?[\w./~-]{1,250}\.(?:csr|pem|req|p10|crt|der|txt|b64)\s*")
_BASE64: Final = re.compile(r"[A-Za-z0-9+/]+={0,2}")
_HEX: Final = re.compile(r"(?:[0-9a-fA-F]{2})+")
_SEQUENCE: Final = rb"\x30(?:[\x00-\x7f]|\x81.|\x82..|\x83...)"
#: The two outer SEQUENCEs of a certificate, and its version.
_CERTIFICATE: Final = re.compile(_SEQUENCE + _SEQUENCE + rb"\xa0\x03\x02\x01", re.DOTALL)
#: Characters of a text that are looked at where a longer one would say no more.
_PREFIX: Final = 4096
_NEW_LABEL: Final = "NEW CERTIFICATE REQUEST"
_OTHER_LABELS: Final = {
    _NEW_LABEL: (
        f"a PEM block of the old type {_NEW_LABEL}: remove the word NEW from its BEGIN and END lines, or write it anew "
        "with openssl req -in FILE -out NEW"
    ),
    "CERTIFICATE": "a certificate, not a request for one: create one with openssl req -new -key KEY -subj /CN=NAME",
    "TRUSTED CERTIFICATE": "a certificate, not a request for one: create one with openssl req -new -key KEY",
    "X509 CRL": "a revocation list, not a request",
    "PUBLIC KEY": "a public key, not a request: create one with openssl req -new -key KEY -subj /CN=NAME",
    "RSA PUBLIC KEY": "a public key, not a request: create one with openssl req -new -key KEY -subj /CN=NAME",
    "PKCS7": "a PKCS#7 container, not a request",
}


def describe(data: bytes) -> str:
    """What the content of `spec.request` is, if it is no request; empty if that is not known, and for a private key,
    of which another message warns.
    """
    if privatekeys.contains_key(data):
        return ""
    for recognise in _RECOGNISERS:
        text = recognise(data)
        if text:
            return text
    return ""


def describe_base64(value: str) -> str:
    """What a value of `spec.request` is that is not base64; empty if that is not known."""
    start = value[:_PREFIX]
    if "-----BEGIN " in start:
        return f"PEM itself; the field has the base64 of it: {_ENCODE}"
    if text := _unexpanded(start):
        return text
    if start.startswith("data:"):
        return "a data URL; the field has what comes after the comma"
    if "\\n" in start:
        return f"base64 with the two characters \\n for line breaks; encode it as {_ENCODE}"
    if re.search("%[0-9A-Fa-f]{2}", start):
        return f"percent-encoded; encode it as {_ENCODE}"
    if start.strip()[:1] in "\"'" and start.strip():
        return "base64 in quotes of its own; remove the inner ones"
    if _FILE_NAME.fullmatch(value[:300]):
        return f"the name of a file, not its content: {_ENCODE}"
    compact = "".join(value.split())
    if compact != value.strip("\r\n") and _BASE64.fullmatch(compact):
        return f"base64 that was wrapped, with blanks in it; encode it as {_ENCODE}"
    if _BASE64.fullmatch(compact.translate(_TO_STANDARD)) and not _BASE64.fullmatch(compact):
        return f"base64url, with - and _ for + and /; encode it as {_ENCODE}"
    if _BASE64.fullmatch(compact):
        return f"base64 that was cut off, or has lost the = at its end; encode it as {_ENCODE}"
    return ""


_TO_STANDARD: Final = str.maketrans("-_", "+/")


def _unexpanded(text: str) -> str:
    """A text that some program should have replaced, and did not."""
    if "$(" in text or "`" in text:
        return (
            "a shell command that was not run: kubectl runs none; let the shell write the manifest, in a here-document "
            "whose EOF is not quoted"
        )
    if "${" in text or re.search(r"\$[A-Za-z_]", text):
        return "a shell variable that was not replaced; let the shell or envsubst write the manifest"
    if "{{" in text:
        return "a template that was not rendered"
    if _PLACEHOLDER.fullmatch(text):
        return f"a placeholder of an example; replace it with the output of {_ENCODE}"
    return ""


# --- bytes --------------------------------------------------------------------------------------------------------


def _empty(data: bytes) -> str:
    return "" if data.strip() else "empty: the file that was encoded is empty or does not exist"


def _encoding(data: bytes) -> str:
    if data.startswith((b"\xff\xfe", b"\xfe\xff", b"-\0-\0", b"\0-\0-")):
        return "text in UTF-16, as PowerShell writes it with >; write it as ASCII: Set-Content -Encoding ascii"
    if data.startswith(b"\xef\xbb\xbf"):
        return "PEM with a byte order mark in front of it; save the file without one"
    return "compressed with gzip" if data.startswith(b"\x1f\x8b") else ""


def _der(data: bytes) -> str:
    if data[:1] != bytes([dertags.SEQUENCE]):
        return ""
    if _is_request(data):
        return "DER, not PEM: convert it with openssl req -inform DER -in FILE -out NEW"
    kind = _der_kind(data)
    return f"{kind} in DER, not a request in PEM" if kind else ""


def _der_kind(data: bytes) -> str:
    """What a DER document is that is no request, by its first bytes."""
    head = data[:64]
    if _CERTIFICATE.match(head):
        return "a certificate"
    if b"\x2a\x86\x48\x86\xf7\x0d\x01\x07" in head[:32]:
        return "a PKCS#7 container"
    return ""


def _is_request(data: bytes) -> bool:
    try:
        certificaterequest.parse_der(data)
    except RequestError:
        return False
    return True


def _block(data: bytes) -> str:
    """A PEM block, but not the right one."""
    block = pem.first_block(data)
    if block is None:
        return ""
    if block.label == _LABEL:
        if _is_request(block.data):
            return "a request whose signature is not that of its key: it was changed after it was signed"
        kind = _der_kind(block.data)
        return f"{kind} under the label of a request" if kind else "a request that is damaged: create it anew"
    later = any(other.label == _LABEL for other in pem.blocks(data))
    if later:
        label = formatting.quote(formatting.shorten(block.label, 40))
        return f"several PEM blocks, the first of type {label}; only the first counts: send the request alone"
    known = _OTHER_LABELS.get(block.label)
    return known or f"a PEM block of type {formatting.quote(formatting.shorten(block.label, 40))}, not a request"


def _damaged_pem(data: bytes) -> str:
    """PEM that is none, because its lines are not right."""
    begin = data.find(b"-----BEGIN ")
    if begin < 0:
        if re.search(rb"BEGIN (?:NEW )?CERTIFICATE", data[:_PREFIX]):
            return "PEM whose BEGIN line does not have five hyphens on each side: an editor has changed them"
        return ""
    if b"-----END " not in data:
        return "PEM that was cut off: its END line is missing"
    if b"\\n" in data:
        return "PEM with the two characters \\n for line breaks; use printf '%b' to write the file"
    if b"\n" not in data.strip():
        return 'PEM whose line breaks were lost: quote the shell variable, as in echo "$CSR"'
    if begin and data[begin - 1 : begin] != b"\n":
        return "PEM that is indented or in quotes: its BEGIN line must start in the first column"
    return "PEM that is damaged: its BEGIN and END lines differ, or its content is not base64"


def _text(data: bytes) -> str:
    """Text that is not PEM."""
    start = data[:_PREFIX].decode("utf-8", "replace").lstrip()
    if text := _unexpanded(start):
        return text
    if start.startswith("Certificate Request:"):
        return "the description of a request: encode the file itself, not the output of openssl req -text -noout"
    if re.match(r"(?:ssh-(?:rsa|ed25519|dss)|ecdsa-sha2-\S+) ", start):
        return "an SSH public key, not a request: create one with openssl req -new -key KEY -subj /CN=NAME"
    if start.startswith("SPKAC="):
        return "an SPKAC, not a PKCS#10"
    if start[:1] == "{" or start.startswith(("apiVersion:", "---\napiVersion:")):
        return "a manifest, not a request: spec.request is the base64 of the .csr file"
    if start[:1] == "<":
        return "HTML or XML, not a request: a download may have failed"
    if _FILE_NAME.fullmatch(start):
        return f"the name of a file, not its content: {_ENCODE}"
    return ""


def _encoded(data: bytes) -> str:
    """Base64 or hexadecimal of something."""
    try:
        compact = b"".join(data.split()).decode("ascii")
    except UnicodeDecodeError:
        return ""
    if _HEX.fullmatch(compact):
        return "hexadecimal; the field has the base64 of PEM"
    if not _BASE64.fullmatch(compact):
        return ""
    try:
        inner = base64.b64decode(compact, validate=True)
    except (binascii.Error, ValueError):
        return ""
    if inner.lstrip().startswith(b"-----BEGIN "):
        return "encoded with base64 twice; encode it once"
    if _is_request(inner):
        return "the content of PEM without its BEGIN and END lines"
    return "encoded with base64 twice, and no PEM" if _BASE64.fullmatch(inner.decode("ascii", "replace")) else ""


_RECOGNISERS: Final[Sequence[Callable[[bytes], str]]] = (_empty, _encoding, _der, _block, _damaged_pem, _text, _encoded)
