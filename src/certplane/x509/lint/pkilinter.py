"""The validators of `pkilint` for RFC 5280, where that package is installed (extra `pkilint`).

A second opinion. It does not know what the Kubernetes signers issue, so its findings are warnings. It takes some
milliseconds a certificate, during which it holds the interpreter's lock.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import threading
from typing import Any, Final

_lock: Final = threading.Lock()


def findings(certificate: bytes) -> list[tuple[str, str]]:
    """Violations of a MUST of RFC 5280 in a DER certificate: pkilint's code and text. Empty if it is not installed."""
    if not is_installed():
        return []
    # pkilint does not document whether its validators are thread-safe.
    with _lock:
        try:
            return _findings(certificate)
        except Exception as error:
            # Its parsers may raise anything on unusual bytes, and must not stop issuance.
            return [("unreadable", f"pkilint cannot parse the certificate: {error}")]


@functools.cache
def is_installed() -> bool:
    """Whether the package is installed; looked up once in a process."""
    return importlib.util.find_spec("pkilint") is not None


def _findings(certificate: bytes) -> list[tuple[str, str]]:
    loader, validator, violations = _validators()
    document = loader.load_der_document(certificate)
    return [
        (described.finding.code, described.message or described.finding.code)
        for result in validator.validate(document.root)
        for described in result.finding_descriptions
        if described.finding.severity in violations
    ]


@functools.cache
def _validators() -> tuple[Any, Any, frozenset[Any]]:
    """Pkilint's loader, its validator for certificates, and the severities that are violations."""
    load = importlib.import_module
    certificate = load("pkilint.pkix.certificate")
    decoders = certificate.create_decoding_validators(
        load("pkilint.pkix.name").ATTRIBUTE_TYPE_MAPPINGS, load("pkilint.pkix.extension").EXTENSION_MAPPINGS
    )
    validator = certificate.create_pkix_certificate_validator_container(
        decoders,
        [
            certificate.create_issuer_validator_container([]),
            certificate.create_validity_validator_container(),
            certificate.create_subject_validator_container([]),
            certificate.create_extensions_validator_container([]),
            certificate.create_spki_validator_container([]),
        ],
    )
    severity = load("pkilint.validation").ValidationFindingSeverity
    loader = load("pkilint.loader").RFC5280CertificateDocumentLoader()
    return loader, validator, frozenset((severity.FATAL, severity.ERROR))
