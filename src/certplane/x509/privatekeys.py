"""Private keys where they do not belong: in a request, a header, an argument. Whoever sends one has mixed up two files.

What is looked for is what people send by mistake: PEM with any label of a private key, PKCS#8, PKCS#1, SEC1 and PKCS#12
in DER, and all of these in base64, once or twice. Nothing is decrypted and no key is loaded: the first bytes tell.
A key that somebody hides on purpose is not found, and need not be. The time is linear in the text.
RFC 5958 (PKCS#8), RFC 8017 appendix A.1.2 (PKCS#1), RFC 5915 (SEC1), RFC 7292 (PKCS#12), RFC 7468 (PEM).
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator, Sequence
from typing import Final

from certplane import boundedcache

#: What whoever sent one is told. Nothing that was sent is repeated.
FOUND: Final = (
    "what was sent is a private key, or holds one, where others may see it. It is not kept, but it has left its owner: "
    "consider it exposed, and make a new one"
)

#: No private key is shorter: Ed25519 in PKCS#8 has 48 bytes.
SHORTEST: Final = 48
#: How often what is encoded may be encoded again: a manifest does that.
_ENCODINGS: Final = 1

# In a query a space is a plus. Labels have up to three words before these two.
_SPACE: Final = rb"[ +]"
_LABEL: Final = re.compile(
    rb"-BEGIN" + _SPACE + rb"(?:[A-Za-z0-9]{1,20}" + _SPACE + rb"){0,3}PRIVATE" + _SPACE + rb"KEY"
)
#: Base64, of both alphabets, as far as it stands in one line, without what is filled in at its end: a byte for each
#: byte of a text, so that a run is found as fast as any bytes are.
_BASE64_MASK: Final = bytes(re.fullmatch(rb"[A-Za-z0-9+/_-]", bytes([byte])) is not None for byte in range(256))
_BASE64_RUN: Final = b"\1" * 60
_URL_SAFE: Final = bytes.maketrans(b"-_", b"+/")
#: What base64 makes of the end of a label, at each of the three places that it may have in a text, without the letters
#: that depend on what is beside it: for PEM that does not begin with its block.
_ENCODED_LABEL: Final = tuple(
    base64.b64encode(b"\0" * shift + b"PRIVATE KEY-----")[first:-4] for shift, first in enumerate((0, 2, 3))
)

# Of an outer SEQUENCE, the beginnings of what holds a private key.
_VERSIONS: Final = (b"\x02\x01\x00", b"\x02\x01\x01")
_INTEGER: Final = 0x02
_OCTETS: Final = 0x04
_SEQUENCE: Final = 0x30
#: Of PKCS#5 and of PKCS#12: with a password.
_ENCRYPTIONS: Final = (b"\x2a\x86\x48\x86\xf7\x0d\x01\x05", b"\x2a\x86\x48\x86\xf7\x0d\x01\x0c\x01")
_PKCS12: Final = b"\x02\x01\x03"
_PKCS7: Final = b"\x2a\x86\x48\x86\xf7\x0d\x01\x07"


def is_in(text: bytes) -> bool:
    """Whether there is a private key anywhere in a text, or in bytes."""
    return len(text) >= SHORTEST and (_is_der(text) or _is_in(text, _ENCODINGS))


def may_be_in(texts: Sequence[bytes]) -> bool:
    """Whether it is worth looking at several texts one by one: a look at all of them together costs less."""
    return _is_in(b"\n" + b"\n".join(texts), _ENCODINGS) or any(map(_is_der, texts))


def _is_in(text: bytes, encodings: int) -> bool:
    first, second, third = _ENCODED_LABEL
    if _LABEL.search(text) is not None or first in text or second in text or third in text:
        return True
    if text.startswith(b"-----BEGIN "):
        # PEM of something else, as nearly always: what is in it has been told by its label.
        return False
    try:
        for run in _base64_runs(text):
            _check_run(run, encodings)
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
    """What was looked at is one."""


# The same request stands in every body about it, from its creation until it is signed. Errors are not remembered, so
# that no key is.
@boundedcache.remember(expansion=1)
def _check_run(run: bytes, encodings: int) -> None:
    run = run.translate(_URL_SAFE)
    decoded = binascii.a2b_base64(run[: len(run) & ~3])
    if _is_der(decoded) or (encodings and _is_in(decoded, encodings - 1)):
        raise _PrivateKey


def _is_der(data: bytes) -> bool:
    """Whether bytes begin as a private key does: with a version and what follows it, or with how it is encrypted."""
    content = _content(data, _SEQUENCE)
    if content is None:
        return False
    if content.startswith(_VERSIONS):
        following = content[3:4]
        if following == bytes([_SEQUENCE]):
            # PKCS#8, if an algorithm and a key follow. A certification request has a name here, of other SEQUENCEs.
            return _begins_with_oid(content[3:])
        return following in (bytes([_INTEGER]), bytes([_OCTETS]))
    if content.startswith(_PKCS12):
        return _begins_with_oid(content[3:], (_PKCS7,))
    return _begins_with_oid(content, _ENCRYPTIONS)


def _begins_with_oid(data: bytes, prefixes: tuple[bytes, ...] = (b"",)) -> bool:
    content = _content(data, _SEQUENCE)
    return content is not None and content[:1] == b"\x06" and content[2:].startswith(prefixes)


def _content(data: bytes, tag: int) -> bytes | None:
    """The first bytes of the content of a value; None if it has another tag, or is too long to be any key."""
    if len(data) < 2 or data[0] != tag:
        return None
    size = data[1] - 0x80
    at = 2 if size < 0 else 2 + size
    return data[at : at + 32] if size <= 3 else None
