"""prepare -> (record) -> issue -> check. The only caller of the CA key.

`prepare` decides what the certificate will say. The bytes to be signed are signed with a throw-away key first, and
`lint` judges what came out: a finding that is an error ends it there, before the CA key is used. The result is a token
that holds those bytes and can be redeemed once, by the issuer that made it; `issue` signs them and nothing else. What
comes out is then read back with another library's parser and compared with what was prepared: the check does not trust
the builder. A certificate that fails it is never handed out.

The bytes may be recorded between the two steps, so that nothing is signed that nobody knows of; after a crash `resume`
makes a token of what was recorded. Signing the same bytes twice gives one certificate, with the same serial number.

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
from certplane.x509 import candidate, csr, der, keys, limits, lint, pem, template, weak

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


class LintError(IssueError):
    """A certificate that must not be issued as it is; the CA key was not used. Trying again will find the same."""

    def __init__(self, findings: Sequence[lint.Finding]) -> None:
        super().__init__(f"the certificate would not be good: {'; '.join(map(str, findings))}")
        self.findings = tuple(findings)


class CheckFailed(RuntimeError):
    """A certificate came out that is not the one that was prepared. A fault of ours; it was not handed out."""


@dataclasses.dataclass(slots=True, eq=False)
class Prepared:
    """A certificate that is ready to be signed. `to_be_signed` may be recorded before the key is used: `resume` takes
    it back. `findings` are lint's warnings.
    """

    template: template.Template
    to_be_signed: bytes
    findings: tuple[lint.Finding, ...]
    _issuer: Issuer | None


class Issuer:
    """Issues under one authority. `max_ttl` is the longest lifetime, `smallest_rsa` the size in bits from which RSA
    keys are signed for. Safe to use from several threads.

    With `issues_authorities` a request that asks for a CA certificate gets one, under which there can be no further
    CAs; without, which is what Kubernetes signers do, it gets one that is no CA's.
    """

    def __init__(
        self,
        authority: authorities.Authority,
        max_ttl: datetime.timedelta,
        smallest_rsa: int = weak.SMALLEST_RSA,
        *,
        issues_authorities: bool = False,
    ) -> None:
        self.authority = authority
        self._max_ttl = max_ttl
        self._smallest_rsa = smallest_rsa
        self._stand_in = authorities.StandIn(authority)
        self._contract = lint.Contract(
            issuer=authority.subject,
            key_id=authority.key_id,
            algorithm=authority.algorithm,
            not_after=authority.not_after,
            longest=max(max_ttl, SHORTEST) + BACKDATE,
            issues_authorities=issues_authorities,
            limits=limits.of_certificate(authority.certificate),
        )

    def prepare(
        self,
        request: csr.CertificateRequest,
        usages: Sequence[str],
        expiration_seconds: int | None,
        now: datetime.datetime,
    ) -> Prepared:
        """Decide what the certificate says, and look at it. Raises IssueError, LintError, weak.WeakKey."""
        self._prove(request)
        not_before, not_after = self._validity(self._ttl(expiration_seconds), now.replace(microsecond=0))
        made = self._template(request, usages, secrets.randbits(128) or 1, (not_before, not_after))
        to_be_signed = made.to_be_signed()
        _, findings = self._lint(to_be_signed)
        _check_findings(findings)
        return Prepared(made, to_be_signed, findings, self)

    def resume(
        self,
        to_be_signed: bytes,
        request: csr.CertificateRequest,
        usages: Sequence[str],
        expiration_seconds: int | None,
        now: datetime.datetime,
    ) -> Prepared:
        """Take back bytes that were prepared for a request, perhaps by another process, and perhaps signed already.

        They are made again from the request, with the serial number and the moment that they say: only what `prepare`
        would have made at that moment is signed. Raises IssueError, with the reason, if they are no longer good, and
        what `prepare` does.
        """
        self._prove(request)
        try:
            candidate.parts(to_be_signed)
        except der.DERProblem as error:
            raise IssueError("what was recorded for the request is no certificate") from error
        read, findings = self._lint(to_be_signed)
        if read is None:
            raise IssueError("what was recorded for the request is no certificate")
        if (read.issuer, read.key_id) != (self.authority.subject, self._key_id(read.subject)):
            raise IssueError("what was recorded for the request is of another authority")
        begins, ends = read.not_before.moment, read.not_after.moment
        if now >= ends:
            raise IssueError(f"what was recorded for the request is over: NotAfter={gotext.time_text(ends)}")
        _check_findings(findings)
        if begins > now or self._validity(self._ttl(expiration_seconds), begins + BACKDATE) != (begins, ends):
            raise IssueError("what was recorded for the request has another lifetime than it would get")
        made = self._template(request, usages, read.serial_number, (begins, ends))
        if read.spki != made.spki:
            raise IssueError("what was recorded for the request is for another key")
        if made.to_be_signed() != to_be_signed:
            raise IssueError("what was recorded for the request is not what would be issued for it")
        return Prepared(made, to_be_signed, findings, self)

    def issue(self, prepared: Prepared) -> bytes:
        """Sign what was prepared, check it, and return it as one PEM block. A token is good once, here."""
        if prepared._issuer is not self:
            raise IssueError("this certificate was not prepared here, or was issued already")
        prepared._issuer = None
        signature = self.authority.sign(prepared.to_be_signed)
        encoded = template.assemble(prepared.to_be_signed, self.authority.algorithm, signature)
        _check(encoded, prepared, self.authority)
        return pem.encode("CERTIFICATE", encoded)

    def _prove(self, request: csr.CertificateRequest) -> None:
        """The request was signed with its key, and the key is no weak one. Raises IssueError, weak.WeakKey."""
        try:
            csr.verify(request)
        except csr.RequestError as error:
            raise IssueError(f"unable to verify certificate request signature: {error}") from error
        weak.check(request.public_key, self._smallest_rsa)

    def _template(
        self,
        request: csr.CertificateRequest,
        usages: Sequence[str],
        serial: int,
        validity: tuple[datetime.datetime, datetime.datetime],
    ) -> template.Template:
        subject = template.name(request.subject)
        return template.Template(
            serial=serial,
            issuer=self.authority.subject,
            not_before=validity[0],
            not_after=validity[1],
            subject=subject,
            spki=_spki(request),
            extensions=self._extensions(request, usages, subject),
            algorithm=self.authority.algorithm,
        )

    def _lint(self, to_be_signed: bytes) -> tuple[candidate.Candidate | None, tuple[lint.Finding, ...]]:
        signature = self._stand_in.sign(to_be_signed)
        return lint.run(template.assemble(to_be_signed, self.authority.algorithm, signature), self._contract)

    def _key_id(self, subject: bytes) -> bytes | None:
        """The authority key identifier of a certificate for a subject, if it has one."""
        return self.authority.key_id if subject != self.authority.subject else None

    def _constraints(self, request: csr.CertificateRequest) -> list[template.Extension]:
        if not (request.wants_authority and self._contract.issues_authorities):
            return [template.basic_constraints(ca=False)]
        if self.authority.path_length == 0:
            raise IssueError("the authority may sign for no other authorities: its path length is 0")
        key_id = template.key_id(_spki(request))
        return [template.basic_constraints(ca=True, path_length=0), template.subject_key_id(key_id)]

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
        return not_before, min(not_after.replace(microsecond=0), end)

    def _extensions(
        self, request: csr.CertificateRequest, usages: Sequence[str], subject: bytes
    ) -> list[template.Extension]:
        bits, purposes = _usages(usages)
        made = []
        if bits:
            made.append(template.key_usage(bits))
        if purposes:
            made.append(template.extended_key_usage(purposes))
        made += self._constraints(request)
        key_id = self._key_id(subject)
        if key_id is not None:
            made.append(template.authority_key_id(key_id))
        names = template.AltNames(request.dns_names, request.email_addresses, request.ip_addresses, request.uris)
        if names:
            made.append(template.subject_alt_name(names, critical=request.subject == csr.Subject()))
        return made


def _spki(request: csr.CertificateRequest) -> bytes:
    """The public key, encoded anew: what else the request may have written into it is not copied."""
    return keys.public_der(request.public_key) if request.public_key is not None else request.spki


def _is_for_authority(of: template.Template) -> bool:
    """Whether a template has basic constraints that say anything: those of others are empty."""
    return any(each.oid == template.BASIC_CONSTRAINTS and each.value != _NOTHING for each in of.extensions)


_NOTHING: Final = template.basic_constraints(ca=False).value


def _check_findings(findings: Sequence[lint.Finding]) -> None:
    errors = [each for each in findings if each.severity is lint.Severity.ERROR]
    if errors:
        raise LintError(errors)


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
    facts = {
        "the signed bytes": made.tbs_certificate_bytes == prepared.to_be_signed,
        "the serial number": made.serial_number == wanted.serial,
        "the public key": spki == wanted.spki,
        "the beginning": made.not_valid_before_utc == wanted.not_before,
        "the end": made.not_valid_after_utc == wanted.not_after <= authority.not_after,
        "the CA bit": _is_authority(made) == _is_for_authority(wanted),
    }
    wrong = [what for what, holds in facts.items() if not holds]
    if wrong:
        raise CheckFailed(f"the new certificate differs from what was prepared in {', '.join(wrong)}")


def _is_authority(made: x509.Certificate) -> bool:
    """What another library makes of the CA bit, which lint has read in the same bytes."""
    try:
        return made.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except ValueError:
        # It does not take every key usage that Kubernetes issues: "encipher only" without "key agreement".
        return False
