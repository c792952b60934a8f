"""PKCS#12: a certificate, its chain and its key in one file, encrypted with a password. RFC 7292.

The encryption is PBES2 with AES-256 and PBKDF2 with SHA-256, and the integrity check is HMAC with SHA-256: what current
OpenSSL and Java (8u301, 11.0.12 and later) read and write.

The library is imported when it is used: agents, which have to be small, need two megabytes less without it.
"""

from __future__ import annotations

from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization

from certplane.golang import asn1, dertags
from certplane.x509 import keys

#: Iterations of PBKDF2.
_ROUNDS: Final = 20_000


#: Iterations that a file may ask for: a second of work. Whoever made the file chose the number.
_MAX_ROUNDS: Final = 5_000_000

#: Of tags: values that consist of others; a string in pieces, which only BER has.
_CONSTRUCTED: Final = 0x20
_CONSTRUCTED_OCTETS: Final = 0x24
_MAX_DEPTH: Final = 24

#: What a ContentInfo of type data starts with: 1.2.840.113549.1.7.1. Its content follows. RFC 5652 sections 3 and 4.
_DATA: Final = bytes.fromhex("06092a864886f70d010701")
_CONTENT: Final = dertags.context_constructed(0)


class PKCS12Error(ValueError):
    """A PKCS#12 that cannot be read. The text quotes nothing of it."""


def create(name: str, certificate: bytes, key: bytes, password: bytes) -> bytes:
    """A PKCS#12 of a certificate with its chain, leaf first, and its key, both in PEM. `name` is its friendly name, or
    alias. Salts are random, so every result is another one. Raises ValueError.
    """
    from cryptography import x509  # noqa: PLC0415 - see above
    from cryptography.hazmat.primitives.serialization import pkcs12  # noqa: PLC0415 - see above

    leaf, *chain = x509.load_pem_x509_certificates(certificate)
    encryption = (
        serialization.PrivateFormat.PKCS12.encryption_builder()
        .kdf_rounds(_ROUNDS)
        .key_cert_algorithm(pkcs12.PBES.PBESv2SHA256AndAES256CBC)
        .hmac_hash(hashes.SHA256())
        .build(password)
    )
    return pkcs12.serialize_key_and_certificates(name.encode(), keys.from_pem(key), leaf, chain or None, encryption)


def holds(content: bytes, certificate: bytes, key: bytes, password: bytes) -> bool:
    """Whether a PKCS#12 that can be opened with the password has exactly this certificate, chain and key."""
    from cryptography import x509  # noqa: PLC0415 - see above
    from cryptography.hazmat.primitives.serialization import pkcs12  # noqa: PLC0415 - see above

    try:
        store = pkcs12.load_pkcs12(content, password)
        expected = x509.load_pem_x509_certificates(certificate)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return False
    if store.cert is None or not isinstance(store.key, keys.PrivateKey):
        return False
    present = [store.cert.certificate, *(extra.certificate for extra in store.additional_certs)]
    return present == expected and keys.spki(store.key) == keys.spki(keys.from_pem(key))


def certificates(content: bytes, password: bytes) -> list[bytes]:
    """The certificates in a PKCS#12, in DER, that of the key first. Raises PKCS12Error."""
    from cryptography.hazmat.primitives.serialization import Encoding, pkcs12  # noqa: PLC0415 - see above

    _check_work(content)
    try:
        # Keys are decrypted too: the format has no way around it. They are dropped at once.
        store = pkcs12.load_pkcs12(content, password or None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise PKCS12Error("a PKCS#12 that is damaged, or has another password") from error
    stored = [store.cert] if store.cert is not None else []
    return [item.certificate.public_bytes(Encoding.DER) for item in (*stored, *store.additional_certs)]


def _check_work(content: bytes) -> None:
    """Refuse a file that asks for too many iterations of a key derivation. In all three forms they follow the salt: an
    INTEGER after an OCTET STRING. What is encrypted is not searched: it takes the password to make it. Raises
    PKCS12Error, also for a structure that cannot be searched, such as BER: the library that reads it cannot be stopped.
    """
    # Only the OCTET STRINGs of data hold further DER. Salts and digests are bytes that may look like it.
    pending = [(content, 0, False)]
    while pending:
        data, depth, is_data = pending.pop()
        try:
            elements = asn1.Reader(data).read_all()
        except asn1.DERError as error:
            raise PKCS12Error("a PKCS#12 that is not DER") from error
        former: asn1.Element | None = None
        for element in elements:
            tag = element.raw[0]
            if tag == _CONSTRUCTED_OCTETS or depth > _MAX_DEPTH:
                raise PKCS12Error("a PKCS#12 that is not DER")
            follows_salt = former is not None and former.raw[0] == dertags.OCTET_STRING
            if follows_salt and tag == dertags.INTEGER and int.from_bytes(element.content[:16]) > _MAX_ROUNDS:
                raise PKCS12Error(f"a PKCS#12 that asks for more than {_MAX_ROUNDS} iterations")
            if tag & _CONSTRUCTED or (is_data and tag == dertags.OCTET_STRING):
                follows_type = former is not None and former.raw == _DATA
                pending.append((element.content, depth + 1, tag == _CONTENT and follows_type))
            former = element
