"""Detection of private keys that a client sends by mistake: in a request, a header, an argument.

Detected are PEM with any label of a private key; PKCS#8, PKCS#1, SEC1 and PKCS#12 in DER; and all of these in base64,
encoded once or twice. Nothing is decrypted and no key is loaded: only the first bytes are compared. A key that is
hidden on purpose is not detected. The time is linear in the length of the text.

Source: RFC 5958 (PKCS#8), RFC 8017 appendix A.1.2 (PKCS#1), RFC 5915 (SEC1), RFC 7292 (PKCS#12), RFC 7468 (PEM).
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator, Sequence
from typing import Final

from certplane import boundedcache
from certplane.golang import dertags

#: The error message for the client. It must not repeat any of the input.
EXPOSED_MESSAGE: Final = (
    "the input contains a private key in a place that others can read. It was refused and not stored, but must be "
    "considered compromised: generate a new key"
)

#: Bytes. The shortest private key is Ed25519 in PKCS#8.
MIN_LENGTH: Final = 48
#: How many further layers of base64 are decoded: in a manifest, base64 may hold base64.
_FURTHER_LAYERS: Final = 1

# Query strings have a plus for a space. Labels have up to three words before "PRIVATE KEY".
_SPACE: Final = rb"[ +]"
_LABEL: Final = re.compile(
    rb"-BEGIN" + _SPACE + rb"(?:[A-Za-z0-9]{1,20}" + _SPACE + rb"){0,3}PRIVATE" + _SPACE + rb"KEY"
)
#: Translates each byte to 1 if it belongs to either base64 alphabet (without padding), else to 0, so a run of base64 is
#: found by a plain search for bytes.
_BASE64_MASK: Final = bytes(re.fullmatch(rb"[A-Za-z0-9+/_-]", bytes([byte])) is not None for byte in range(256))
_BASE64_RUN: Final = b"\1" * 60
_URL_SAFE: Final = bytes.maketrans(b"-_", b"+/")
#: The end of a label in base64, at each of the three possible alignments, without the characters that depend on the
#: neighbouring bytes. For PEM with text before the block.
_ENCODED_LABEL: Final = tuple(
    base64.b64encode(b"\0" * shift + b"PRIVATE KEY-----")[first:-4] for shift, first in enumerate((0, 2, 3))
)

# The content of the outer SEQUENCE of a private key begins with one of these.
_VERSIONS: Final = (b"\x02\x01\x00", b"\x02\x01\x01")
#: OID prefixes of password-based encryption in PKCS#5 and PKCS#12.
_ENCRYPTION_OIDS: Final = (b"\x2a\x86\x48\x86\xf7\x0d\x01\x05", b"\x2a\x86\x48\x86\xf7\x0d\x01\x0c\x01")
_PKCS12_VERSION: Final = b"\x02\x01\x03"
_PKCS7_DATA_OID: Final = b"\x2a\x86\x48\x86\xf7\x0d\x01\x07"


def contains_key(text: bytes) -> bool:
    """Whether a text, or DER, contains a private key."""
    return len(text) >= MIN_LENGTH and (_is_der_key(text) or _contains_text_key(text, _FURTHER_LAYERS))


def may_contain_key(texts: Sequence[bytes]) -> bool:
    """Whether any of several texts may contain a private key. One search over all of them costs less than one for each;
    False is certain, True is not.
    """
    return _contains_text_key(b"\n" + b"\n".join(texts), _FURTHER_LAYERS) or any(map(_is_der_key, texts))


def _contains_text_key(text: bytes, further_layers: int) -> bool:
    first, second, third = _ENCODED_LABEL
    if _LABEL.search(text) is not None or first in text or second in text or third in text:
        return True
    if text.startswith(b"-----BEGIN "):
        # The usual case: PEM with another label, whose content needs no search.
        return False
    try:
        for run in _base64_runs(text):
            _check_run(run, further_layers)
    except _PrivateKey:
        return True
    return False


def _base64_runs(text: bytes) -> Iterator[bytes]:
    mask = text.translate(_BASE64_MASK)
    start = mask.find(_BASE64_RUN)
    while start >= 0:
        end = mask.find(b"\0", start)
        if end < 0:
            end = len(text)
        yield text[start:end]
        start = mask.find(_BASE64_RUN, end)


class _PrivateKey(Exception):
    """The input is a private key."""


# Every write of a CSR, from its creation until it is signed, sends the same PKCS#10 request. Errors are not cached, so
# no key is kept in memory.
@boundedcache.memoize(expansion=1)
def _check_run(run: bytes, further_layers: int) -> None:
    run = run.translate(_URL_SAFE)
    decoded = binascii.a2b_base64(run[: len(run) & ~3])
    if _is_der_key(decoded) or (further_layers and _contains_text_key(decoded, further_layers - 1)):
        raise _PrivateKey


def _is_der_key(data: bytes) -> bool:
    """Whether bytes begin like a private key: with its version and the type of the next field, or with an encryption
    algorithm.
    """
    content = _content_start(data, dertags.SEQUENCE)
    if content is None:
        return False
    if content.startswith(_VERSIONS):
        next_tag = content[3:4]
        if next_tag == bytes([dertags.SEQUENCE]):
            # PKCS#8 has an algorithm identifier here; a certification request has a name, which begins with a SET.
            return _begins_with_oid(content[3:])
        return next_tag in (bytes([dertags.INTEGER]), bytes([dertags.OCTET_STRING]))
    if content.startswith(_PKCS12_VERSION):
        return _begins_with_oid(content[3:], (_PKCS7_DATA_OID,))
    return _begins_with_oid(content, _ENCRYPTION_OIDS)


def _begins_with_oid(data: bytes, prefixes: tuple[bytes, ...] = (b"",)) -> bool:
    content = _content_start(data, dertags.SEQUENCE)
    return content is not None and content[:1] == bytes([dertags.OID]) and content[2:].startswith(prefixes)


def _content_start(data: bytes, tag: int) -> bytes | None:
    """The first 32 bytes of the content of a value; None if it has another tag, or is too long for any key."""
    if len(data) < 2 or data[0] != tag:
        return None
    length_bytes = data[1] - 0x80
    start = 2 if length_bytes < 0 else 2 + length_bytes
    return data[start : start + 32] if length_bytes <= 3 else None
