"""Custom signers whose CA is one of the CAs that authenticate clients.

Such a signer can issue certificates that log in to the server. `certplane serve` restricts its names (`reservednames`)
and refuses a signer without limits; other signers under the same CA, such as those of kube-controller-manager, and
whoever may approve for the signer, are not restricted by that.
"""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Iterator, Sequence

from certplane.doctor import findings
from certplane.doctor.findings import Finding, Severity
from certplane.golang import pem
from certplane.x509.trust import certificates
from certplane.x509.trust.clientcertificates import ClientVerifier


@dataclasses.dataclass(frozen=True, slots=True)
class SignerFacts:
    """A custom signer: its name, the path and the content of its CA certificate in PEM, and whether it limits the
    subjects, or issues CA certificates.
    """

    name: str
    path: str
    certificate: bytes
    limits_subject: bool = True
    issues_ca: bool = False


def check(signers: Sequence[SignerFacts], client_ca: bytes, now: datetime.datetime) -> list[Finding]:
    """Check custom signers; `client_ca` are the CA certificates that authenticate clients, in PEM."""
    try:
        verifier = ClientVerifier(client_ca)
    except certificates.CertificateError as error:
        return [findings.unchecked("signers-client-ca", "the CAs of custom signers", f"the client CA: {error}")]
    found = [finding for signer in signers for finding in _check_signer(signer, verifier, now)]
    text = f"none of {len(signers)} custom signers has a CA that authenticates clients"
    return findings.with_ok("signers-client-ca", found, text)


def _check_signer(signer: SignerFacts, verifier: ClientVerifier, now: datetime.datetime) -> Iterator[Finding]:
    block = next((block for block in pem.blocks(signer.certificate) if block.label == certificates.PEM_LABEL), None)
    if block is None:
        # Reported with the CA.
        return
    is_trusted, _ = verifier.trusts(block.data, now)
    if not is_trusted:
        return
    is_unlimited = signer.issues_ca or not signer.limits_subject
    power = "may be for any user and group" if is_unlimited else "log in to the server"
    text = f"the signer {signer.name} has a CA that authenticates clients, {signer.path}: its certificates {power}"
    fix = (
        "certplane signer init creates a signer with a CA of its own: docs/signers.md",
        "or set --client-ca-file to the CA of clients alone",
    )
    yield Finding("signers-client-ca", Severity.ERROR if is_unlimited else Severity.WARNING, text, signer.name, fix)
