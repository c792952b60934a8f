"""PKCS#12: a certificate, its chain and its key in one file, encrypted with a password. RFC 7292.

The encryption is PBES2 with AES-256 and PBKDF2 with SHA-256, and the integrity check is HMAC with SHA-256: what current
OpenSSL and Java (8u301, 11.0.12 and later) read and write.

The library is imported when it is used: agents, which have to be small, need two megabytes less without it.
"""

from __future__ import annotations

from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization

from certplane.x509 import keys

#: Iterations of PBKDF2.
_ROUNDS: Final = 20_000


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
