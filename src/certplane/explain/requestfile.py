"""A request in a file, before it is sent: a manifest, or a PKCS#10. Pure.

A server that is not certplane refuses what is no PKCS#10 in one sentence for all mistakes; here they are named without
one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from certplane.golang import goyaml
from certplane.resources import certificatesigningrequests as csrs
from certplane.resources.certificatesigningrequests import CertificateSigningRequest
from certplane.wire import codec
from certplane.x509 import privatekeys
from certplane.x509.pkcs10 import certificaterequest, mistakes
from certplane.x509.pkcs10.certificaterequest import RequestError

#: Bytes of a file that is read.
MAX_SIZE: Final = 1 << 20


class RequestFileError(ValueError):
    """A file that is no acceptable request. `reason` is what a server would say; empty if it is the same text."""

    def __init__(self, message: str, reason: str = "") -> None:
        super().__init__(message)
        self.reason = reason


def read(data: bytes) -> CertificateSigningRequest:
    """The request in a manifest; one without a signer if the file has a PKCS#10. Raises RequestFileError."""
    if privatekeys.contains_key(data):
        raise RequestFileError(privatekeys.EXPOSED_MESSAGE)
    if b"apiVersion" not in data or b"spec" not in data:
        _check(data, "it")
        return CertificateSigningRequest(spec=csrs.CertificateSigningRequestSpec(request=data))
    try:
        csr = codec.decode_tree(goyaml.parse(data), CertificateSigningRequest).object
    except goyaml.YAMLError as error:
        raise RequestFileError(f"the manifest is not valid YAML: {error}") from error
    except codec.DecodeError as error:
        mistake = mistakes.describe_base64(error.not_base64[1]) if error.not_base64 is not None else ""
        raise RequestFileError(*_texts("spec.request", mistake, str(error))) from error
    if csr.kind != csrs.RESOURCE.kind:
        raise RequestFileError(f"the manifest is not a {csrs.RESOURCE.kind}")
    _check(csr.spec.request or b"", "spec.request")
    problems = csrs.validate(csr)
    if problems:
        raise RequestFileError("; ".join(map(str, problems)))
    return csr


def _check(text: bytes, what: str) -> None:
    try:
        certificaterequest.verified(text)
    except RequestError as error:
        raise RequestFileError(*_texts(what, mistakes.describe(text), str(error))) from error


def _texts(what: str, mistake: str, reason: str) -> Sequence[str]:
    return (f"{what} is {mistake}", reason) if mistake else (f"{what} is not acceptable: {reason}", "")
