"""Object identifiers, in dotted form, each defined once for the whole project."""

from __future__ import annotations

from typing import Final

#: Attributes of a name. RFC 5280 appendix A.1, X.520.
COMMON_NAME: Final = "2.5.4.3"
SERIAL_NUMBER: Final = "2.5.4.5"
COUNTRY: Final = "2.5.4.6"
LOCALITY: Final = "2.5.4.7"
PROVINCE: Final = "2.5.4.8"
STREET_ADDRESS: Final = "2.5.4.9"
ORGANIZATION: Final = "2.5.4.10"
ORGANIZATIONAL_UNIT: Final = "2.5.4.11"
POSTAL_CODE: Final = "2.5.4.17"
#: The UID of a user, in subjects: Kubernetes `AllowParsingUserUIDFromCertAuth`.
KUBERNETES_UID: Final = "1.3.6.1.4.1.57683.2"

#: Extensions. RFC 5280 sections 4.2.1 and 4.2.2.
SUBJECT_KEY_ID: Final = "2.5.29.14"
KEY_USAGE: Final = "2.5.29.15"
SUBJECT_ALT_NAME: Final = "2.5.29.17"
BASIC_CONSTRAINTS: Final = "2.5.29.19"
NAME_CONSTRAINTS: Final = "2.5.29.30"
CRL_DISTRIBUTION_POINTS: Final = "2.5.29.31"
CERTIFICATE_POLICIES: Final = "2.5.29.32"
POLICY_MAPPINGS: Final = "2.5.29.33"
AUTHORITY_KEY_ID: Final = "2.5.29.35"
POLICY_CONSTRAINTS: Final = "2.5.29.36"
EXTENDED_KEY_USAGE: Final = "2.5.29.37"
INHIBIT_ANY_POLICY: Final = "2.5.29.54"
AUTHORITY_INFORMATION_ACCESS: Final = "1.3.6.1.5.5.7.1.1"

#: Purposes of an extended key usage. RFC 5280 section 4.2.1.12.
ANY_EXTENDED_KEY_USAGE: Final = "2.5.29.37.0"
SERVER_AUTH: Final = "1.3.6.1.5.5.7.3.1"
CLIENT_AUTH: Final = "1.3.6.1.5.5.7.3.2"
CODE_SIGNING: Final = "1.3.6.1.5.5.7.3.3"
EMAIL_PROTECTION: Final = "1.3.6.1.5.5.7.3.4"
IPSEC_END_SYSTEM: Final = "1.3.6.1.5.5.7.3.5"
IPSEC_TUNNEL: Final = "1.3.6.1.5.5.7.3.6"
IPSEC_USER: Final = "1.3.6.1.5.5.7.3.7"
TIME_STAMPING: Final = "1.3.6.1.5.5.7.3.8"
OCSP_SIGNING: Final = "1.3.6.1.5.5.7.3.9"

#: PKCS#9 attribute of a certification request. RFC 2985 section 5.4.2.
EXTENSION_REQUEST: Final = "1.2.840.113549.1.9.14"

#: Public keys. RFC 3279 section 2.3, RFC 5480 section 2, RFC 8410.
EC_PUBLIC_KEY: Final = "1.2.840.10045.2.1"
DSA: Final = "1.2.840.10040.4.1"
X25519: Final = "1.3.101.110"
#: The key, and its signatures.
ED25519: Final = "1.3.101.112"

#: Named curves. RFC 5480 section 2.1.1.1.
SECP224R1: Final = "1.3.132.0.33"
SECP256R1: Final = "1.2.840.10045.3.1.7"
SECP384R1: Final = "1.3.132.0.34"
SECP521R1: Final = "1.3.132.0.35"

#: RSA keys and signatures. RFC 8017 appendix A.
RSA_ENCRYPTION: Final = "1.2.840.113549.1.1.1"
MD5_WITH_RSA: Final = "1.2.840.113549.1.1.4"
SHA1_WITH_RSA: Final = "1.2.840.113549.1.1.5"
MGF1: Final = "1.2.840.113549.1.1.8"
RSASSA_PSS: Final = "1.2.840.113549.1.1.10"
SHA256_WITH_RSA: Final = "1.2.840.113549.1.1.11"
SHA384_WITH_RSA: Final = "1.2.840.113549.1.1.12"
SHA512_WITH_RSA: Final = "1.2.840.113549.1.1.13"
#: Another OID of SHA-1 with RSA, from ISO. Go accepts both.
ISO_SHA1_WITH_RSA: Final = "1.3.14.3.2.29"

#: DSA and ECDSA signatures. RFC 3279 section 2.2, RFC 5758 section 3.
DSA_WITH_SHA1: Final = "1.2.840.10040.4.3"
DSA_WITH_SHA256: Final = "2.16.840.1.101.3.4.3.2"
ECDSA_WITH_SHA1: Final = "1.2.840.10045.4.1"
ECDSA_WITH_SHA256: Final = "1.2.840.10045.4.3.2"
ECDSA_WITH_SHA384: Final = "1.2.840.10045.4.3.3"
ECDSA_WITH_SHA512: Final = "1.2.840.10045.4.3.4"

#: Hash functions. RFC 5754 section 2.
SHA256: Final = "2.16.840.1.101.3.4.2.1"
SHA384: Final = "2.16.840.1.101.3.4.2.2"
SHA512: Final = "2.16.840.1.101.3.4.2.3"

#: Bits of KeyUsage, in the order of RFC 5280 section 4.2.1.3.
KEY_USAGE_BITS: Final = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
    "encipher_only",
    "decipher_only",
)
