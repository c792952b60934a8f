"""The validators of `pkilint` for RFC 5280, where that package is installed (extra `pkilint`).

A second opinion by another hand. It knows nothing of what the Kubernetes signers issue, so that its word stops nothing;
and it takes some milliseconds a certificate, all of them in the interpreter.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import threading
from typing import Any, Final

_lock: Final = threading.Lock()


def findings(certificate: bytes) -> list[tuple[str, str]]:
    """What violates a MUST of RFC 5280 in a DER certificate: pkilint's code, and its text. Nothing if it is not
    installed.
    """
    if not is_installed():
        return []
    # Nothing says that its validators may be used by several threads.
    with _lock:
        try:
            return _findings(certificate)
        except Exception as error:
            # Whatever a stranger's parser does with odd bytes must stop nothing.
            return [("unreadable", f"pkilint cannot read the certificate: {error}")]


@functools.cache
def is_installed() -> bool:
    """Whether the package is there. Asked once."""
    return importlib.util.find_spec("pkilint") is not None


def _findings(certificate: bytes) -> list[tuple[str, str]]:
    loader, validator, worst = _tools()
    document = loader.load_der_document(certificate)
    return [
        (described.finding.code, described.message or described.finding.code)
        for result in validator.validate(document.root)
        for described in result.finding_descriptions
        if described.finding.severity in worst
    ]


@functools.cache
def _tools() -> tuple[Any, Any, frozenset[Any]]:
    """Its loader, its validator for certificates, and the severities that violate something."""
    part = importlib.import_module
    certificate = part("pkilint.pkix.certificate")
    decoders = certificate.create_decoding_validators(
        part("pkilint.pkix.name").ATTRIBUTE_TYPE_MAPPINGS, part("pkilint.pkix.extension").EXTENSION_MAPPINGS
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
    severity = part("pkilint.validation").ValidationFindingSeverity
    loader = part("pkilint.loader").RFC5280CertificateDocumentLoader()
    return loader, validator, frozenset((severity.FATAL, severity.ERROR))
