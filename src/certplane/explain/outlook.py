"""What a signer would make of a request, before anybody approves it.

`judge` asks the signers that a server really has. It goes through everything that happens after an approval, up to
the moment at which the CA key would be used: the rules of the signer, the strength of the key, the CA, the linter.
`estimate` is for servers that do not answer such a question: it knows the rules of Kubernetes' own signers, and no CA.
"""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Callable, Mapping
from typing import Final, Protocol

from certplane import timestamps
from certplane.access import csrwarnings
from certplane.golang import asn1
from certplane.resources import signingpreviews
from certplane.resources.certificatesigningrequests import CertificateSigningRequest
from certplane.resources.signingpreviews import SigningPreviewSpec, SigningPreviewStatus
from certplane.x509 import certificatenames
from certplane.x509.certificatenames import Subject
from certplane.x509.issuance import cafiles, issue, profiles
from certplane.x509.issuance.issue import Issuer
from certplane.x509.issuance.profiles import Profile, RequestedCertificate
from certplane.x509.pkcs10 import certificaterequest, weakkeys
from certplane.x509.pkcs10.certificaterequest import RequestError
from certplane.x509.trust import certificates


def question(csr: CertificateSigningRequest) -> SigningPreviewSpec:
    """The question that a request is for its signer."""
    spec = csr.spec
    return SigningPreviewSpec(
        request=spec.request,
        signer_name=spec.signer_name,
        usages=list(spec.usages),
        expiration_seconds=spec.expiration_seconds,
        username=spec.username,
    )


class Signer(Protocol):
    """What a preview needs to know about a signer."""

    @property
    def profile(self) -> Profile: ...

    def current(self, now: datetime.datetime) -> cafiles.IssuerState: ...


@dataclasses.dataclass(frozen=True, slots=True)
class _Rules:
    """A signer of which nothing but the rules is known."""

    profile: Profile


SERVER_AUTH: Final = "server auth"
_BUILT_IN: Final = {name: _Rules(profile) for name, profile in profiles.BUILT_IN.items()}


@dataclasses.dataclass(frozen=True, slots=True)
class Judgement:
    """What is known without preparing the certificate. `prepare` completes it, and may be called in any thread."""

    prepare: Callable[[], SigningPreviewStatus]


def judge(spec: SigningPreviewSpec, signers: Mapping[str, Signer], now: datetime.datetime) -> Judgement:
    """What the signer of a request would do now, if it was approved. `signers` are all signers by name."""
    try:
        requested = _requested(spec)
        verified = certificaterequest.verified(spec.request or b"")
    except RequestError as error:
        refused = SigningPreviewStatus(result=signingpreviews.FAIL, messages=[str(error)])
        return Judgement(lambda: refused)
    status = _apply_rules(spec.signer_name, requested, signers)
    signer = signers.get(spec.signer_name)
    if signer is None:
        return Judgement(lambda: status)
    state = signer.current(now)
    if state.issuer is not None:
        _add_ca(status, state.issuer)
    if status.result != signingpreviews.ISSUE:
        return Judgement(lambda: status)
    issuer = state.issuer
    if issuer is None:
        status.result, status.messages = signingpreviews.CANNOT_SIGN, [state.problem]
        return Judgement(lambda: status)
    if state.problem:
        status.warnings.append(f"the signer keeps using its previous CA: {state.problem}")
    seconds = signer.profile.lifetime_seconds(spec.expiration_seconds)
    return Judgement(lambda: _prepare(status, issuer, verified, spec.usages, seconds, now))


def _prepare(
    status: SigningPreviewStatus,
    issuer: Issuer,
    verified: certificaterequest.VerifiedRequest,
    usages: list[str],
    seconds: int | None,
    now: datetime.datetime,
) -> SigningPreviewStatus:
    """Prepare the certificate as the signer does. The CA key is not used for that."""
    try:
        prepared = issuer.prepare(verified, usages, seconds, now)
    except (weakkeys.WeakKey, issue.LintError) as error:
        status.result, status.messages = signingpreviews.FAIL, [str(error)]
    except issue.IssueError as error:
        status.result, status.messages = signingpreviews.CANNOT_SIGN, [str(error)]
    else:
        not_after = prepared.template.not_after
        status.not_after = timestamps.rfc3339(not_after)
        status.lifetime_seconds = int((not_after - now).total_seconds())
        status.warnings += [f"the linter says: {finding}" for finding in prepared.findings]
    return status


def estimate(spec: SigningPreviewSpec) -> SigningPreviewStatus | None:
    """What a signer of Kubernetes would do, by its rules alone; None for another signer."""
    if spec.signer_name not in _BUILT_IN:
        return None
    try:
        requested = _requested(spec)
        certificaterequest.verified(spec.request or b"")
    except RequestError as error:
        return SigningPreviewStatus(result=signingpreviews.FAIL, messages=[str(error)])
    status = _apply_rules(spec.signer_name, requested, _BUILT_IN)
    if status.result == signingpreviews.ISSUE:
        status.lifetime_seconds = spec.expiration_seconds
    return status


def _requested(spec: SigningPreviewSpec) -> RequestedCertificate:
    pkcs10 = certificaterequest.parse(spec.request or b"")
    return RequestedCertificate(pkcs10, spec.usages, spec.username, spec.expiration_seconds)


def _apply_rules(
    name: str, requested: RequestedCertificate, signers: Mapping[str, csrwarnings.Signer]
) -> SigningPreviewStatus:
    """What the rules of the signer say, and its remedy if they do not permit the request."""
    suitable = list(csrwarnings.suitable_signers(requested, signers))
    status = SigningPreviewStatus(result=signingpreviews.ISSUE, suitable_signers=suitable)
    signer = signers.get(name)
    if signer is None:
        status.result = signingpreviews.UNKNOWN_SIGNER
        status.messages = [f'unknown signer "{name}"']
        status.remedy = csrwarnings.closest_signer(name, requested, signers)
        return status
    profile = signer.profile
    status.description = profile.description
    status.automatic_approvals = [
        signingpreviews.AutomaticApproval(list(rule.users), list(rule.groups)) for rule in profile.approval
    ]
    if profile.max_lifetime is not None:
        status.max_lifetime_seconds = int(profile.max_lifetime.total_seconds())
    violations = list(profiles.violations(profile, requested))
    weaknesses = weakkeys.problems(requested.pkcs10.public_key)
    if violations:
        status.remedy = csrwarnings.find_remedy(name, requested, signers)
    elif weaknesses:
        violations = [f"weak public key: {'; '.join(weaknesses)}"]
        status.remedy = "use another key"
    if violations:
        status.result, status.messages = signingpreviews.FAIL, violations
        return status
    if is_for_clients_only(requested):
        for_servers = dataclasses.replace(requested, usages=[*requested.usages, SERVER_AUTH])
        status.remedy = csrwarnings.find_remedy(name, for_servers, signers)
    status.warnings = list(csrwarnings.lifetime_warnings(name, requested, profile))
    if requested.pkcs10.requests_ca and profile.ca_requests is profiles.CARequests.IGNORE:
        status.warnings.append("the signer does not issue CA certificates; the certificate will not be a CA")
    return status


def is_for_clients_only(requested: RequestedCertificate) -> bool:
    """Whether a request has names of a server, and usages that no server can use."""
    pkcs10, usages = requested.pkcs10, requested.usages
    return bool(pkcs10.dns_names or pkcs10.ip_addresses) and "client auth" in usages and SERVER_AUTH not in usages


def _add_ca(status: SigningPreviewStatus, signing: Issuer) -> None:
    authority = signing.authority
    issuer, subject = certificates.issuer_and_subject(authority.certificate)
    status.ca_subject, status.ca_issuer = _name(subject), _name(issuer)
    status.ca_not_after = timestamps.rfc3339(authority.not_after)


def _name(encoded: bytes) -> str:
    try:
        return subject_text(certificatenames.parse_name(encoded))
    except asn1.DERError:
        return ""


def subject_text(subject: Subject) -> str:
    """A name as `openssl` and people write it: `CN=jane,O=dev`. Commas in values are not escaped; this is no syntax."""
    attributes = (
        ("CN", (subject.common_name,)),
        ("O", subject.organization),
        ("OU", subject.organizational_unit),
        ("STREET", subject.street_address),
        ("L", subject.locality),
        ("ST", subject.province),
        ("C", subject.country),
        ("serialNumber", (subject.serial_number,)),
    )
    return ",".join(f"{name}={value}" for name, values in attributes for value in values if value)
