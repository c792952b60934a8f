"""prepare -> issue -> check. The only caller of the CA key.

`prepare` decides what the certificate will say and returns it as the bytes to be signed, inside a token that can be
redeemed once, by the issuer that made it. `issue` signs those bytes and nothing else. What comes out is then read back
with another library's parser and compared with what was prepared: the check does not trust the builder. A certificate
that fails it is never handed out.

Contents follow kube-controller-manager's signer (kubernetes, `pkg/controller/certificates/authority`): back-dated by
five minutes, never longer than the CA, all requested extensions ignored but the alternative names.
"""

from __future__ import annotations

import dataclasses
import datetime
import secrets
from collections.abc import Sequence
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization

from certplane import gotext
from certplane.x509 import authority as authorities
from certplane.x509 import csr, pem, template

BACKDATE: Final = datetime.timedelta(minutes=5)
SHORTEST: Final = datetime.timedelta(minutes=10)
#: Lifetimes below this are counted from now, not from the back-dated beginning.
_SHORT_LIVED: Final = datetime.timedelta(hours=8)

_KEY_USAGES: Final = {
    "signing": "digital_signature",
    "digital signature": "digital_signature",
    "content commitment": "content_commitment",
    "key encipherment": "key_encipherment",
    "data encipherment": "data_encipherment",
    "key agreement": "key_agreement",
    "cert sign": "key_cert_sign",
    "crl sign": "crl_sign",
    "encipher only": "encipher_only",
    "decipher only": "decipher_only",
}
#: In the order in which they are written.
_EXTENDED_KEY_USAGES: Final = {
    "any": "2.5.29.37.0",
    "server auth": "1.3.6.1.5.5.7.3.1",
    "client auth": "1.3.6.1.5.5.7.3.2",
    "code signing": "1.3.6.1.5.5.7.3.3",
    "email protection": "1.3.6.1.5.5.7.3.4",
    "s/mime": "1.3.6.1.5.5.7.3.4",
    "ipsec end system": "1.3.6.1.5.5.7.3.5",
    "ipsec tunnel": "1.3.6.1.5.5.7.3.6",
    "ipsec user": "1.3.6.1.5.5.7.3.7",
    "timestamping": "1.3.6.1.5.5.7.3.8",
    "ocsp signing": "1.3.6.1.5.5.7.3.9",
    "microsoft sgc": "1.3.6.1.4.1.311.10.3.3",
    "netscape sgc": "2.16.840.1.113730.4.1",
}


class IssueError(ValueError):
    """A certificate that cannot be issued now. Retrying may help: the CA may be renewed, the usages may not."""


class CheckFailed(RuntimeError):
    """A certificate came out that is not the one that was prepared. A fault of ours; it was not handed out."""


@dataclasses.dataclass(slots=True, eq=False)
class Prepared:
    """A certificate that is ready to be signed. `to_be_signed` may be recorded before the key is used."""

    template: template.Template
    to_be_signed: bytes
    _issuer: Issuer | None


class Issuer:
    """Issues under one authority. `max_ttl` is the longest lifetime. Safe to use from several threads."""

    def __init__(self, authority: authorities.Authority, max_ttl: datetime.timedelta) -> None:
        self.authority = authority
        self._max_ttl = max_ttl

    def prepare(
        self,
        request: csr.CertificateRequest,
        usages: Sequence[str],
        expiration_seconds: int | None,
        now: datetime.datetime,
    ) -> Prepared:
        """Decide what the certificate says. Raises IssueError."""
        try:
            csr.verify(request)
        except csr.RequestError as error:
            raise IssueError(f"unable to verify certificate request signature: {error}") from error
        not_before, not_after = self._validity(self._ttl(expiration_seconds), now.replace(microsecond=0))
        subject = template.name(request.subject)
        made = template.Template(
            serial=secrets.randbits(128) or 1,
            issuer=self.authority.subject,
            not_before=not_before,
            not_after=not_after,
            subject=subject,
            spki=request.spki,
            extensions=self._extensions(request, usages, subject),
            algorithm=self.authority.algorithm,
        )
        return Prepared(made, made.to_be_signed(), self)

    def issue(self, prepared: Prepared) -> bytes:
        """Sign what was prepared, check it, and return it as one PEM block. A token is good once, here."""
        if prepared._issuer is not self:
            raise IssueError("this certificate was not prepared here, or was issued already")
        prepared._issuer = None
        signature = self.authority.sign(prepared.to_be_signed)
        encoded = template.assemble(prepared.to_be_signed, self.authority.algorithm, signature)
        _check(encoded, prepared, self.authority)
        return pem.encode("CERTIFICATE", encoded)

    def _ttl(self, expiration_seconds: int | None) -> datetime.timedelta:
        if expiration_seconds is None:
            return self._max_ttl
        wanted = datetime.timedelta(seconds=expiration_seconds)
        if wanted > self._max_ttl:
            return self._max_ttl
        return max(wanted, SHORTEST)

    def _validity(self, ttl: datetime.timedelta, now: datetime.datetime) -> tuple[datetime.datetime, datetime.datetime]:
        end = self.authority.not_after
        not_before = now - BACKDATE
        if not_before >= end:
            raise IssueError(f"the signer has expired: NotAfter={gotext.time_text(end)}")
        if now >= end:
            raise IssueError(
                f"refusing to sign a certificate that expired in the past: NotAfter={gotext.time_text(end)}"
            )
        not_after = now + ttl if ttl < _SHORT_LIVED else now + ttl - BACKDATE
        return not_before, min(not_after, end)

    def _extensions(
        self, request: csr.CertificateRequest, usages: Sequence[str], subject: bytes
    ) -> list[template.Extension]:
        bits, purposes = _usages(usages)
        made = []
        if bits:
            made.append(template.key_usage(bits))
        if purposes:
            made.append(template.extended_key_usage(purposes))
        made.append(template.basic_constraints(ca=False))
        if self.authority.key_id is not None and subject != self.authority.subject:
            made.append(template.authority_key_id(self.authority.key_id))
        names = template.AltNames(request.dns_names, request.email_addresses, request.ip_addresses, request.uris)
        if names:
            made.append(template.subject_alt_name(names, critical=request.subject == csr.Subject()))
        return made


def _usages(usages: Sequence[str]) -> tuple[list[str], list[str]]:
    unknown = [each for each in usages if each not in _KEY_USAGES and each not in _EXTENDED_KEY_USAGES]
    if unknown:
        raise IssueError(f"unrecognized usage values: {gotext.quote_all(unknown)}")
    bits = [_KEY_USAGES[each] for each in usages if each in _KEY_USAGES]
    wanted = {_EXTENDED_KEY_USAGES[each] for each in usages if each in _EXTENDED_KEY_USAGES}
    return bits, [each for each in dict.fromkeys(_EXTENDED_KEY_USAGES.values()) if each in wanted]


# --- the check ----------------------------------------------------------------------------------------------------


def _check(encoded: bytes, prepared: Prepared, authority: authorities.Authority) -> None:
    """Compare what came out with what went in. Raises CheckFailed."""
    wanted = prepared.template
    try:
        made = x509.load_der_x509_certificate(encoded)
        made.verify_directly_issued_by(authority.certificate)
    except (ValueError, TypeError, InvalidSignature) as error:
        raise CheckFailed(f"the new certificate does not verify: {error}") from error
    spki = made.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    constraints = made.extensions.get_extension_for_class(x509.BasicConstraints)
    facts = {
        "the signed bytes": made.tbs_certificate_bytes == prepared.to_be_signed,
        "the serial number": made.serial_number == wanted.serial,
        "the public key": spki == wanted.spki,
        "the beginning": made.not_valid_before_utc == wanted.not_before,
        "the end": made.not_valid_after_utc == wanted.not_after <= authority.not_after,
        "the CA bit": not constraints.value.ca,
    }
    wrong = [what for what, holds in facts.items() if not holds]
    if wrong:
        raise CheckFailed(f"the new certificate differs from what was prepared in {', '.join(wrong)}")
