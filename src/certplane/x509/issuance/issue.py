"""prepare -> (record) -> issue -> check. Every certificate for a client's request is signed with the CA key here.

`prepare` decides what the certificate says. The bytes to be signed are first signed with a lint key, which is random
and temporary, and `linter` inspects the result: if it finds an error, issuance ends there, before the CA key is used.
The result is a `Prepared` certificate with a `SigningToken`, which holds those bytes and stands for exactly one
signature by the issuer that made it. `issue` redeems the token, signs its bytes and nothing else, reads the certificate
back with another library's parser and compares it with what was prepared. A certificate that fails this check is never
returned.

A failed check stops the signer, so a client must not be able to cause one. `prepare` therefore reads the certificate
with the lint key's signature back in the same way, and refuses what cannot be read or is read differently. The bytes
are the same at the second time; only the signature is another.

The bytes may be recorded between the two steps, so that every signature has a record; after a crash `resume` makes
a new token for recorded bytes. A record may be kept where others can write. So it has a MAC, which needs the CA key,
over the bytes and the request that they are for. Bytes that are signed twice have one serial number and say the same;
with ECDSA, whose signatures are random, they give two encodings.

Contents follow kube-controller-manager's signer (kubernetes, `pkg/controller/certificates/authority`): back-dated by
five minutes, never valid for longer than the CA, all requested extensions ignored but the alternative names.
"""

from __future__ import annotations

import dataclasses
import datetime
import hmac
import secrets
import threading
from collections.abc import Sequence
from typing import Final, NoReturn

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization

from certplane.golang import asn1, formatting, pem
from certplane.x509 import certificatenames, keys, oids
from certplane.x509.issuance import authority as authorities
from certplane.x509.issuance.authority import Authority, LintKey
from certplane.x509.lint import issuerconstraints, linter
from certplane.x509.pkcs10 import weakkeys
from certplane.x509.pkcs10.certificaterequest import CertificateRequest, VerifiedRequest
from certplane.x509.tbs import tbscertificate, template
from certplane.x509.tbs.tbscertificate import TBSCertificate
from certplane.x509.tbs.template import Template
from certplane.x509.trust import certificates

#: For clocks of clients that are slow; kube-controller-manager's `DefaultBackdate`.
BACKDATE: Final = datetime.timedelta(minutes=5)
#: Shorter requests get this; the API does not take less in `spec.expirationSeconds` either.
MIN_LIFETIME: Final = datetime.timedelta(minutes=10)
#: Shorter lifetimes are counted from now, not from the back-dated start; kube-controller-manager's `Short`.
_SHORT_LIVED: Final = datetime.timedelta(hours=8)
#: As in kube-controller-manager; BR 7.1 asks for 64 or more, and 20 octets are the limit of RFC 5280 section 4.1.2.2.
_SERIAL_BITS: Final = 128

#: Usages of the API that become bits of KeyUsage. "signing" is another name for the same bit.
KEY_USAGES: Final = {
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
#: Usages of the API that become an ExtendedKeyUsage, in the order in which they are written.
EXTENDED_KEY_USAGES: Final = {
    "any": oids.ANY_EXTENDED_KEY_USAGE,
    "server auth": oids.SERVER_AUTH,
    "client auth": oids.CLIENT_AUTH,
    "code signing": oids.CODE_SIGNING,
    "email protection": oids.EMAIL_PROTECTION,
    "s/mime": oids.EMAIL_PROTECTION,
    "ipsec end system": oids.IPSEC_END_SYSTEM,
    "ipsec tunnel": oids.IPSEC_TUNNEL,
    "ipsec user": oids.IPSEC_USER,
    "timestamping": oids.TIME_STAMPING,
    "ocsp signing": oids.OCSP_SIGNING,
    "microsoft sgc": "1.3.6.1.4.1.311.10.3.3",
    "netscape sgc": "2.16.840.1.113730.4.1",
}


class IssueError(ValueError):
    """A certificate that cannot be issued now. A retry may help: the CA may be renewed."""


class LintError(IssueError):
    """A certificate that must not be issued as requested; the CA key was not used. A retry gives the same result."""

    def __init__(self, findings: Sequence[linter.Finding]) -> None:
        super().__init__(f"the certificate failed linting: {'; '.join(map(str, findings))}")
        self.findings = tuple(findings)


class CheckFailed(RuntimeError):
    """The signed certificate is not the one that was prepared. A fault of certplane or of the key; the certificate was
    not returned, and the signer must not be used again.
    """


class SigningToken:
    """Stands for exactly one signature over `to_be_signed` by the issuer that made it. Only `Issuer.prepare` and
    `Issuer.resume` make tokens; they cannot be copied. Safe to use from several threads: of those that redeem a token
    at once, one succeeds.
    """

    __slots__ = ("_issuer", "_lock", "_redeemed", "_to_be_signed")

    def __init__(self, issuer: Issuer, to_be_signed: bytes, maker: object = None) -> None:
        if maker is not _TOKEN_MAKER:
            raise TypeError("only Issuer.prepare and Issuer.resume make signing tokens")
        self._issuer = issuer
        self._to_be_signed = to_be_signed
        self._lock = threading.Lock()
        self._redeemed = False

    @property
    def to_be_signed(self) -> bytes:
        return self._to_be_signed

    def __reduce__(self) -> NoReturn:
        # A copy could be redeemed once more. `copy` and `pickle` both end here.
        raise TypeError("a signing token cannot be copied")

    def redeem(self, issuer: Issuer) -> bytes:
        """The bytes to sign, once. Raises IssueError if the token is another issuer's, or was redeemed before."""
        if issuer is not self._issuer:
            raise IssueError("the certificate was prepared by another issuer")
        with self._lock:
            if self._redeemed:
                raise IssueError("the certificate was issued already")
            self._redeemed = True
        return self._to_be_signed


#: The argument with which `Issuer` makes tokens; nothing outside this module has it.
_TOKEN_MAKER: Final = object()


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """A certificate that is ready to be signed. `parsed` is what was read back from the bytes to be signed, `findings`
    are the linter's warnings.
    """

    template: Template
    parsed: TBSCertificate
    findings: tuple[linter.Finding, ...]
    token: SigningToken

    @property
    def to_be_signed(self) -> bytes:
        """The DER TBSCertificate."""
        return self.token.to_be_signed


@dataclasses.dataclass(frozen=True, slots=True)
class _Linted:
    """A certificate with the signature of the lint key, in DER and parsed, and what the linter found."""

    encoded: bytes
    certificate: TBSCertificate
    findings: tuple[linter.Finding, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class _Validity:
    not_before: datetime.datetime
    not_after: datetime.datetime


def remaining_lifetime(ttl: datetime.timedelta) -> datetime.timedelta:
    """How long after it was issued a certificate with a lifetime ends, if its CA does not end earlier."""
    return ttl if ttl < _SHORT_LIVED else ttl - BACKDATE


class Issuer:
    """Issues certificates under one authority. `max_ttl` is the maximum lifetime, `min_rsa_bits` the minimum size of
    RSA keys in requests. Safe to use from several threads.

    With `issues_ca` a request that asks for a CA certificate gets one, with path length 0; without, as in Kubernetes,
    it gets an end-entity certificate.
    """

    def __init__(
        self,
        authority: Authority,
        max_ttl: datetime.timedelta,
        min_rsa_bits: int = weakkeys.MIN_RSA_BITS,
        *,
        issues_ca: bool = False,
    ) -> None:
        self.authority = authority
        self._max_ttl = max_ttl
        self._min_rsa_bits = min_rsa_bits
        self._lint_key = LintKey(authority)
        self._policy = linter.IssuerPolicy(
            issuer=authority.subject,
            key_id=authority.key_id,
            algorithm=authority.algorithm,
            not_after=authority.not_after,
            max_lifetime=max(max_ttl, MIN_LIFETIME) + BACKDATE,
            issues_ca=issues_ca,
            constraints=issuerconstraints.from_certificate(authority.certificate),
        )

    def prepare(
        self,
        verified: VerifiedRequest,
        usages: Sequence[str],
        expiration_seconds: int | None,
        now: datetime.datetime,
    ) -> Prepared:
        """Decide what the certificate says, and lint it. Raises IssueError, LintError, weakkeys.WeakKey."""
        request = verified.request
        weakkeys.check(request.public_key, self._min_rsa_bits)
        validity = self._validity(self._ttl(expiration_seconds), now.replace(microsecond=0))
        # A serial number must be positive.
        contents = self._template(request, usages, secrets.randbits(_SERIAL_BITS) or 1, validity)
        to_be_signed = contents.to_be_signed()
        linted = self._lint(to_be_signed)
        _raise_errors(linted.findings)
        return self._prepared(contents, to_be_signed, linted)

    def record(self, prepared: Prepared, context: str) -> bytes:
        """The record of a prepared certificate, for `resume`: a MAC of `authorities.MAC_SIZE` bytes, and the bytes to
        be signed. `context` identifies the request; the requestor must not be able to choose it.
        """
        return self.authority.mac(context, prepared.to_be_signed) + prepared.to_be_signed

    def resume(
        self,
        record: bytes,
        context: str,
        verified: VerifiedRequest,
        usages: Sequence[str],
        expiration_seconds: int | None,
        now: datetime.datetime,
    ) -> Prepared:
        """Take back a certificate that was recorded for the request `context`, perhaps by another process, and perhaps
        signed already. `record` is what the method of that name returned.

        The certificate is built anew from the request, with the recorded serial number and validity; only what
        `prepare` would have built at that moment is accepted. Raises IssueError, with the reason, if the record cannot
        be used, and what `prepare` raises.
        """
        to_be_signed = self._read_record(record, context)
        request = verified.request
        weakkeys.check(request.public_key, self._min_rsa_bits)
        linted = self._lint_record(to_be_signed)
        recorded = linted.certificate
        if (recorded.issuer, recorded.key_id) != (self.authority.subject, self._key_id(recorded.subject)):
            raise IssueError("the recorded certificate is for another authority")
        validity = _Validity(recorded.not_before.moment, recorded.not_after.moment)
        if now >= validity.not_after:
            raise IssueError(
                f"the recorded certificate has expired: NotAfter={formatting.format_time(validity.not_after)}"
            )
        _raise_errors(linted.findings)
        prepared_at = validity.not_before + BACKDATE
        if validity.not_before > now or self._validity(self._ttl(expiration_seconds), prepared_at) != validity:
            raise IssueError("the recorded certificate has a lifetime that the request would not get")
        contents = self._template(request, usages, recorded.serial_number, validity)
        if recorded.spki != contents.spki:
            raise IssueError("the recorded certificate is for another key")
        if contents.to_be_signed() != to_be_signed:
            raise IssueError("the recorded certificate differs from what would be issued for the request")
        return self._prepared(contents, to_be_signed, linted)

    def issue(self, prepared: Prepared) -> bytes:
        """Sign a prepared certificate, check it, and return it as one PEM block. Works once for each token. Raises
        IssueError, CheckFailed.
        """
        to_be_signed = prepared.token.redeem(self)
        signature = self.authority.sign(to_be_signed)
        encoded = template.assemble(to_be_signed, self.authority.algorithm, signature)
        _check(encoded, prepared, self.authority)
        return pem.encode("CERTIFICATE", encoded)

    def _prepared(self, contents: Template, to_be_signed: bytes, linted: _Linted) -> Prepared:
        """Raises LintError if the certificate could not be checked after signing."""
        token = SigningToken(self, to_be_signed, _TOKEN_MAKER)
        prepared = Prepared(contents, linted.certificate, linted.findings, token)
        _raise_errors(_read_back_findings(linted, prepared, self.authority))
        return prepared

    def _read_record(self, record: bytes, context: str) -> bytes:
        """The bytes to be signed. Raises IssueError unless an issuer with the same key has recorded them for `context`:
        whoever can write a record could else choose the serial number and the start of validity.
        """
        mac, to_be_signed = record[: authorities.MAC_SIZE], record[authorities.MAC_SIZE :]
        if not hmac.compare_digest(mac, self.authority.mac(context, to_be_signed)):
            raise IssueError("the record was not made for this request with the key of this CA")
        return to_be_signed

    def _lint_record(self, to_be_signed: bytes) -> _Linted:
        try:
            tbscertificate.parts(to_be_signed)
        except asn1.DERError as error:
            raise IssueError("the record is not a certificate") from error
        try:
            return self._lint(to_be_signed)
        except LintError as error:
            raise IssueError("the record is not a certificate") from error

    def _template(
        self, request: CertificateRequest, usages: Sequence[str], serial: int, validity: _Validity
    ) -> Template:
        subject = template.encode_name(request.subject)
        return Template(
            serial=serial,
            issuer=self.authority.subject,
            not_before=validity.not_before,
            not_after=validity.not_after,
            subject=subject,
            spki=_spki(request),
            extensions=self._extensions(request, usages, subject),
            algorithm=self.authority.algorithm,
        )

    def _lint(self, to_be_signed: bytes) -> _Linted:
        """Raises LintError if the bytes cannot be parsed."""
        encoded = template.assemble(to_be_signed, self.authority.algorithm, self._lint_key.sign(to_be_signed))
        result = linter.run(encoded, self._policy)
        if result.certificate is None:
            raise LintError(result.findings)
        return _Linted(encoded, result.certificate, result.findings)

    def _key_id(self, subject: bytes) -> bytes | None:
        """The authority key identifier of a certificate for a subject. As in Go, a certificate that bears its issuer's
        name has none.
        """
        return self.authority.key_id if subject != self.authority.subject else None

    def _basic_constraints(self, request: CertificateRequest) -> list[template.Extension]:
        if not (request.requests_ca and self._policy.issues_ca):
            return [template.basic_constraints(ca=False)]
        if self.authority.path_length == 0:
            raise IssueError("the CA may not issue CA certificates: its path length is 0")
        key_id = template.key_id(_spki(request))
        return [template.basic_constraints(ca=True, path_length=0), template.subject_key_id(key_id)]

    def _ttl(self, expiration_seconds: int | None) -> datetime.timedelta:
        if expiration_seconds is None:
            return self._max_ttl
        ttl = datetime.timedelta(seconds=expiration_seconds)
        return self._max_ttl if ttl > self._max_ttl else max(ttl, MIN_LIFETIME)

    def _validity(self, ttl: datetime.timedelta, now: datetime.datetime) -> _Validity:
        ca_not_after = self.authority.not_after
        not_before = now - BACKDATE
        if not_before >= ca_not_after:
            raise IssueError(f"the signer has expired: NotAfter={formatting.format_time(ca_not_after)}")
        if now >= ca_not_after:
            end = formatting.format_time(ca_not_after)
            raise IssueError(f"refusing to sign a certificate that expired in the past: NotAfter={end}")
        not_after = (now + remaining_lifetime(ttl)).replace(microsecond=0)
        return _Validity(not_before, min(not_after, ca_not_after))

    def _extensions(
        self, request: CertificateRequest, usages: Sequence[str], subject: bytes
    ) -> list[template.Extension]:
        key_usages, extended_key_usages = _split_usages(usages)
        extensions = []
        if key_usages:
            extensions.append(template.key_usage(key_usages))
        if extended_key_usages:
            extensions.append(template.extended_key_usage(extended_key_usages))
        extensions += self._basic_constraints(request)
        key_id = self._key_id(subject)
        if key_id is not None:
            extensions.append(template.authority_key_id(key_id))
        names = template.AltNames(request.dns_names, request.email_addresses, request.ip_addresses, request.uris)
        if names:
            critical = request.subject == certificatenames.Subject()
            extensions.append(template.subject_alt_name(names, critical=critical))
        return extensions


def _spki(request: CertificateRequest) -> bytes:
    """The public key, encoded anew: bytes that a request hides in its encoding are not copied."""
    return keys.public_der(request.public_key) if request.public_key is not None else request.spki


def _raise_errors(findings: Sequence[linter.Finding]) -> None:
    errors = [finding for finding in findings if finding.severity is linter.Severity.ERROR]
    if errors:
        raise LintError(errors)


def _split_usages(usages: Sequence[str]) -> tuple[list[str], list[str]]:
    """The bits of KeyUsage, and the OIDs of ExtendedKeyUsage, in the order in which they are written."""
    unknown = [usage for usage in usages if usage not in KEY_USAGES and usage not in EXTENDED_KEY_USAGES]
    if unknown:
        raise IssueError(f"unrecognized usage values: {formatting.quote_all(unknown)}")
    bits = [KEY_USAGES[usage] for usage in usages if usage in KEY_USAGES]
    requested = {EXTENDED_KEY_USAGES[usage] for usage in usages if usage in EXTENDED_KEY_USAGES}
    return bits, [oid for oid in dict.fromkeys(EXTENDED_KEY_USAGES.values()) if oid in requested]


# --- the check ----------------------------------------------------------------------------------------------------


#: What `cryptography` raises for a certificate, or a key in it, that it does not accept.
_REJECTIONS: Final = (*certificates.PARSE_ERRORS, TypeError)


def _check(encoded: bytes, prepared: Prepared, authority: Authority) -> None:
    """Verify the signed certificate, and compare it with what was prepared. Raises CheckFailed."""
    try:
        certificate = x509.load_der_x509_certificate(encoded)
        certificate.verify_directly_issued_by(authority.certificate)
        differences = _differences(certificate, prepared, authority)
    except (*_REJECTIONS, InvalidSignature) as error:
        # InvalidSignature has no text.
        raise CheckFailed(f"the new certificate does not verify: {str(error) or type(error).__name__}") from error
    if differences:
        raise CheckFailed(f"the new certificate differs from what was prepared in {', '.join(differences)}")


def _read_back_findings(linted: _Linted, prepared: Prepared, authority: Authority) -> list[linter.Finding]:
    """Why `_check` would refuse the certificate whatever its signature is."""
    try:
        certificate = x509.load_der_x509_certificate(linted.encoded)
        differences = _differences(certificate, prepared, authority)
        spki = certificate.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        if spki != prepared.template.spki:
            differences.append("the public key")
    except _REJECTIONS as error:
        return [_read_back_error(f"the certificate cannot be read back: {str(error) or type(error).__name__}")]
    return [_read_back_error(f"{field} differs after it was read back") for field in differences]


def _read_back_error(text: str) -> linter.Finding:
    return linter.Finding("read-back", linter.Severity.ERROR, "certplane", text)


def _differences(certificate: x509.Certificate, prepared: Prepared, authority: Authority) -> list[str]:
    """The fields in which a certificate is not what was prepared. The signature has no influence on the result. Raises
    one of `_REJECTIONS` if the certificate cannot be read.

    The public key and the extensions are compared as our own parser has read them: `cryptography` reads all extensions
    or none, and rejects some that Kubernetes issues, such as the key usage "encipher only" without "key agreement".
    What was read before the signature holds for the certificate, because its signed bytes are the same.
    """
    expected = prepared.template
    not_after = certificate.not_valid_after_utc
    checks = {
        "the signed bytes": certificate.tbs_certificate_bytes == prepared.to_be_signed,
        "the serial number": certificate.serial_number == expected.serial,
        "the public key": prepared.parsed.spki == expected.spki,
        "the start of validity": certificate.not_valid_before_utc == expected.not_before,
        "the end of validity": not_after == expected.not_after <= authority.not_after,
        "the list of extensions": prepared.parsed.extensions == tuple(expected.extensions),
    }
    return [field for field, is_equal in checks.items() if not is_equal]
