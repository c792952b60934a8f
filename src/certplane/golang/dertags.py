"""Identifier octets of DER values: class, constructed bit and tag number in one byte, as in Go's `cryptobyte/asn1`.

`asn1.TAG_SEQUENCE` and its neighbours are bare tag numbers. Source: ITU-T X.690 section 8.1.2.
"""

from __future__ import annotations

from typing import Final

BOOLEAN: Final = 0x01
INTEGER: Final = 0x02
BIT_STRING: Final = 0x03
OCTET_STRING: Final = 0x04
OID: Final = 0x06
UTF8_STRING: Final = 0x0C
NUMERIC_STRING: Final = 0x12
PRINTABLE_STRING: Final = 0x13
T61_STRING: Final = 0x14
IA5_STRING: Final = 0x16
UTC_TIME: Final = 0x17
GENERALIZED_TIME: Final = 0x18
BMP_STRING: Final = 0x1E
SEQUENCE: Final = 0x30
SET: Final = 0x31

#: A whole value: NULL, the parameters of an RSA algorithm identifier.
ENCODED_NULL: Final = b"\x05\x00"


def context(number: int) -> int:
    """The octet of a primitive value with a context-specific tag."""
    return 0x80 | number


def context_constructed(number: int) -> int:
    """The octet of a constructed value with a context-specific tag."""
    return 0xA0 | number
