"""CertificateSigningRequests of the agent: created under names that are derived from their content, and read.

Creation can be repeated: the name is a digest of the public key and of everything that is requested. A CSR that exists
already is ours if its public key is.
"""

from __future__ import annotations

import datetime
import hashlib
from typing import Final

from certplane import errors
from certplane.agent import certificatefacts, kinds, pairstore
from certplane.agent.certificatefacts import Facts, PairError
from certplane.agent.kinds import CSR
from certplane.agent.rotation import Outcome
from certplane.agent.schedule import Validity
from certplane.agent.settings import CertificateSettings
from certplane.client.api import Client
from certplane.golang import asn1, formatting, pem
from certplane.x509 import keys
from certplane.x509.pkcs10 import newrequest
from certplane.x509.trust.pathcertificate import CertificateParseError

#: Characters of a text of the server that is repeated.
_MAX_TEXT: Final = 300
_DIGITS: Final = 20


class NotOurs(Exception):
    """A CSR of this name exists, for another key."""


def csr_name(settings: CertificateSettings, key: bytes) -> str:
    """The name of the CSR for a key, in PEM: that of the certificate, and a digest of all that is requested."""
    requested = [settings.signer_name, settings.expiration_seconds, settings.usages, repr(settings.subject)]
    digest = hashlib.sha256(keys.spki(keys.from_pem(key)))
    digest.update(repr([*requested, settings.names]).encode())
    return f"{settings.name}-{digest.hexdigest()[:_DIGITS]}"


async def submit(client: Client, settings: CertificateSettings, key: bytes) -> tuple[str, str]:
    """Create a CSR for a key, unless it exists. Returns its name and UID. Raises NotOurs, and what `Client` raises."""
    csr = CSR()
    csr.metadata.name = csr_name(settings, key)
    csr.spec.request = newrequest.create(keys.from_pem(key), settings.subject, settings.names)
    csr.spec.signer_name = settings.signer_name
    csr.spec.expiration_seconds = settings.expiration_seconds
    csr.spec.usages = list(settings.usages)
    if settings.key_kind.startswith("RSA-") and "key encipherment" not in csr.spec.usages:
        # As the kubelet: an RSA key may also be used for the key exchange of TLS 1.2.
        csr.spec.usages.insert(1, "key encipherment")
    try:
        created = await client.create(kinds.CSRS, csr)
    except errors.AlreadyExists:
        created = await client.get(kinds.CSRS, csr.metadata.name)
        if not _is_for(created, key):
            raise NotOurs from None
    return created.metadata.name, created.metadata.uid


async def fetch(client: Client, name: str, uid: str, key: bytes) -> tuple[Outcome, str, bytes, Facts | None]:
    """The state of a CSR: its outcome; the reason for a denial or a failure; the certificate, and facts about it, which
    are None if it cannot be used, for the reason given. Raises what `Client` raises, but NotFound.

    As in client-go, a certificate counts only if the CSR is approved.
    """
    try:
        csr = await client.get(kinds.CSRS, name)
    except errors.NotFound:
        return Outcome.GONE, "", b"", None
    if csr.metadata.uid != uid or not _is_for(csr, key):
        return Outcome.REPLACED, "", b"", None
    for type_, outcome in ((kinds.DENIED, Outcome.DENIED), (kinds.FAILED, Outcome.FAILED)):
        condition = csr.condition(type_)
        if condition is not None:
            reason = ": ".join(text for text in (condition.reason, condition.message) if text)
            return outcome, printable(reason), b"", None
    if csr.condition(kinds.APPROVED) is None:
        return Outcome.PENDING, "", b"", None
    if not csr.status.certificate:
        return Outcome.APPROVED, "", b"", None
    try:
        facts = _check(csr.status.certificate, key)
    except (PairError, CertificateParseError) as error:
        return Outcome.ISSUED, printable(str(error)), b"", None
    return Outcome.ISSUED, "", csr.status.certificate, facts


def _check(certificate: bytes, key: bytes) -> Facts:
    """Facts about the first certificate of a text. Raises PairError, CertificateParseError."""
    if len(certificate) > pairstore.MAX_CERTIFICATE:
        # It could never be saved, and would be fetched for ever.
        raise PairError(f"it has more than {pairstore.MAX_CERTIFICATE} bytes")
    certificatefacts.check_pair(certificate, key)
    block = next(block for block in pem.blocks(certificate) if block.label == certificatefacts.PEM_LABEL)
    return certificatefacts.read(block.data)


def _is_for(csr: CSR, key: bytes) -> bool:
    """Whether a CSR requests a certificate for a key. The server has verified its signature."""
    block = pem.first_block(csr.spec.request or b"")
    if block is None:
        return False
    try:
        request = asn1.Reader(block.data).read(asn1.TAG_SEQUENCE, "CertificationRequest")
        information = asn1.Reader(request.content).read(asn1.TAG_SEQUENCE, "CertificationRequestInfo")
        fields = [element.raw for element in asn1.Reader(information.content)]
    except asn1.DERError:
        return False
    # Version, subject, SubjectPublicKeyInfo, attributes.
    return len(fields) > 2 and fields[2] == keys.spki(keys.from_pem(key))


def validity(facts: Facts, obtained: datetime.datetime) -> Validity:
    """What the rotation needs to know about a certificate. `obtained` is when it was stored."""
    return Validity(facts.serial, facts.not_before.timestamp(), facts.not_after.timestamp(), obtained.timestamp())


def is_as_configured(facts: Facts, settings: CertificateSettings) -> bool:
    """Whether a certificate has the names that are configured. It may have more."""
    return (
        facts.common_name == settings.subject.common_name
        and set(settings.subject.organization) <= set(facts.organizations)
        and set(settings.names.dns) <= set(facts.dns_names)
        and set(map(str, settings.names.ip)) <= set(facts.ip_addresses)
    )


def printable(text: str) -> str:
    """A text of the server for log and terminal: bounded, on one line, without control characters."""
    one_line = "".join(character if character.isprintable() else " " for character in text)
    return formatting.shorten(one_line, _MAX_TEXT)
