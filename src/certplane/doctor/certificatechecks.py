"""Certificates and CAs: when they end, whether they are damaged, whether a CA can sign, and whether its chain is whole.

The urgency of an end is that of the server's own announcements (`plane/expirations`).
"""

from __future__ import annotations

import dataclasses
import datetime
import shlex
from collections.abc import Iterator, Sequence
from typing import Final, Protocol

from certplane import timestamps
from certplane.config.signing import PairFiles
from certplane.doctor import findings
from certplane.doctor.findings import Finding, Severity
from certplane.golang import formatting, pem
from certplane.kubeadm.certificatefiles import FileItem
from certplane.kubeadm.expiration import Report
from certplane.plane import expirations
from certplane.plane.expirations import Urgency
from certplane.x509.pkcs10 import weakkeys
from certplane.x509.trust import certificates, clientcertificates, keypairs, pathcertificate
from certplane.x509.trust.pathcertificate import PathCertificate
from certplane.x509.trust.validity import Validity

#: CAs above one another that are followed: a chain may be a cycle.
_MAX_CHAIN: Final = 8
_BROKEN_HASHES: Final = ("md5", "sha1")
_RENEW: Final = "certplane certs renew all"


# --- ends ---------------------------------------------------------------------------------------------------------


def check_ends(items: Sequence[FileItem], now: datetime.datetime, renew: str = _RENEW) -> list[Finding]:
    """Check certificates in files. `renew` is the command that renews them."""
    found = [finding for item in items for finding in _check_item(item, now, renew)]
    count = sum(item.item.not_after is not None for item in items)
    ends = min((item.item.not_after for item in items if item.item.not_after is not None), default=None)
    first = f"; the first one ends at {timestamps.rfc3339(ends)}" if ends is not None else ""
    return findings.with_ok("certificate-end", found, f"{count} certificates are valid{first}")


def _check_item(item: FileItem, now: datetime.datetime, renew: str) -> Iterator[Finding]:
    details = item.item
    name = " ".join(filter(None, (item.path, item.place)))
    quoted = shlex.quote(item.path)
    if details.problem:
        text = f"{name}: {details.problem}"
        fix = (f"restore {quoted} from a backup, or renew it: {renew}",)
        yield Finding("certificate-unreadable", Severity.ERROR, text, item.path, fix)
    if details.not_before is None or details.not_after is None:
        return
    validity = Validity(details.subject, details.serial, "", details.not_before, details.not_after)
    what = f"{'the CA certificate' if details.is_ca else 'the certificate'} {details.subject} in {name}"
    fix = ("replace the CA before it ends: docs/operations.md",) if details.is_ca else (renew,)
    yield from end_findings(what, item.path, validity, now, fix)


def end_findings(
    what: str, subject: str, validity: Validity, now: datetime.datetime, fix: tuple[str, ...]
) -> Iterator[Finding]:
    """What is to be said about the validity of a certificate, if anything."""
    urgency = expirations.urgency(validity, now)
    end = timestamps.rfc3339(validity.not_after)
    if urgency is Urgency.NOT_YET_VALID:
        text = f"{what} is not valid before {timestamps.rfc3339(validity.not_before)}"
        clock = ("check the clock of this machine: timedatectl status",)
        yield Finding("certificate-not-yet-valid", Severity.ERROR, text, subject, clock)
    elif urgency is Urgency.EXPIRED:
        yield Finding("certificate-end", Severity.ERROR, f"{what} ended at {end}", subject, fix)
    elif urgency is not Urgency.NONE:
        left = formatting.human_duration((validity.not_after - now).total_seconds())
        severity = Severity.ERROR if urgency is Urgency.URGENT else Severity.WARNING
        yield Finding("certificate-end", severity, f"{what} ends in {left}, at {end}", subject, fix)


def check_pairs(report: Report, flags: str) -> list[Finding]:
    """Whether the keys of a layout are those of its certificates. `flags` are those of `certplane certs renew`."""
    found = []
    for row in report.rows:
        fix = (f"certplane certs renew {row.name}{flags}",)
        if row.is_mismatched:
            text = f"the key of {row.name} is not that of its certificate"
            found.append(Finding("certificate-key", Severity.ERROR, text, row.name, fix))
        elif row.problem:
            found.append(Finding("certificate-unreadable", Severity.ERROR, row.problem, row.name, fix))
    count = sum(row.not_after is not None for row in report.certificates)
    return findings.with_ok("certificate-key", found, f"{count} certificates have their keys")


# --- CAs ----------------------------------------------------------------------------------------------------------


class _NewFinding(Protocol):
    """Makes a finding about one CA, whose name precedes the text."""

    def __call__(self, id_: str, text: str, fix: tuple[str, ...], severity: Severity = ..., /) -> Finding: ...


@dataclasses.dataclass(frozen=True, slots=True)
class CAFacts:
    """A CA: whose it is; its files; their contents, None for a file that does not exist, `problem` for one
    that cannot be read. `key_is_required` if the CA has to sign. `bundles` are the CA certificates that are published
    or trusted, in PEM. `issues_ca` if it may have to sign CA certificates.
    """

    name: str
    files: PairFiles
    certificate: bytes | None = None
    key: bytes | None = dataclasses.field(default=None, repr=False)
    problem: str = ""
    key_is_required: bool = True
    bundles: bytes = b""
    issues_ca: bool = False

    @property
    def certificate_path(self) -> str:
        return str(self.files.cert_file or "")

    @property
    def key_path(self) -> str:
        return str(self.files.key_file or "")


def check_authorities(authorities: Sequence[CAFacts], now: datetime.datetime) -> list[Finding]:
    """Check CAs."""
    found = [finding for facts in authorities for finding in _check_authority(facts, now)]
    names = ", ".join(facts.name for facts in authorities)
    return findings.with_ok("ca-key", found, f"{names}: a CA, with its key, and a whole chain")


def _check_authority(facts: CAFacts, now: datetime.datetime) -> Iterator[Finding]:
    path = facts.certificate_path
    show = (f"openssl x509 -noout -text -in {shlex.quote(path)}",)

    def finding(id_: str, text: str, fix: tuple[str, ...], severity: Severity = Severity.ERROR, /) -> Finding:
        return Finding(id_, severity, f"{facts.name}: {text}", path, fix)

    if facts.problem:
        yield finding("file-access", facts.problem, ("check the path and its permissions",), Severity.WARNING)
        return
    if facts.certificate is None:
        yield finding("ca-unreadable", f"{path} does not exist", (f"restore {shlex.quote(path)} from a backup",))
        return
    parsed = _parse_all(facts.certificate)
    if isinstance(parsed, str):
        yield finding("ca-unreadable", f"{path} cannot be used: {parsed}", show)
        return
    certificate = parsed[0]
    if len(parsed) > 1 and facts.key_is_required:
        text = f"{path} holds {len(parsed)} certificates; a signer uses a file with one"
        yield finding("ca-unreadable", text, (f"grep -c BEGIN {shlex.quote(path)}",))
    if not certificate.is_ca or not certificate.may_sign:
        what = "has no CA bit" if not certificate.is_ca else "has a key usage without keyCertSign"
        yield finding("ca-not-ca", f"{path} is not a CA certificate: it {what}", show)
    yield from _check_key(facts, finding)
    yield from _check_strength(facts, finding)
    validity = Validity("", "", "", certificate.not_before, certificate.not_after)
    replace = ("replace the CA before it ends: docs/operations.md",)
    yield from end_findings(f"{facts.name}: the CA certificate {path}", path, validity, now, replace)
    known = [certificate, *parsed[1:], *_parse_known(facts.bundles)]
    yield from _check_chain(facts, certificate, known, finding)


def _parse_all(text: bytes) -> list[PathCertificate] | str:
    """The certificates in a PEM text; a text that says why there is none."""
    try:
        parsed = [pathcertificate.parse(block.data) for block in _blocks(text)]
    except pathcertificate.CertificateParseError as error:
        return str(error)
    return parsed or "it holds no certificate in PEM"


def _parse_known(text: bytes) -> Iterator[PathCertificate]:
    """The certificates in a bundle that can be parsed."""
    for block in _blocks(text):
        try:
            yield pathcertificate.parse(block.data)
        except pathcertificate.CertificateParseError:
            continue


def _blocks(text: bytes) -> Iterator[pem.Block]:
    return (block for block in pem.blocks(text) if block.label == certificates.PEM_LABEL)


def _check_key(facts: CAFacts, finding: _NewFinding) -> Iterator[Finding]:
    if facts.key is None:
        if facts.key_is_required:
            text = f"the key {facts.key_path} does not exist: nothing can be signed"
            yield finding("ca-key", text, ("provide the key, or correct the setting that names it",))
        elif facts.key_path:
            text = f"the key {facts.key_path} is not here; what it signs must be renewed elsewhere"
            yield finding("ca-key", text, (), Severity.INFO)
    elif not keypairs.is_key(facts.key):
        yield finding("ca-key", f"{facts.key_path} holds no private key that can be loaded", ("restore the key",))
    elif not keypairs.matches(facts.certificate or b"", facts.key):
        text = f"the key {facts.key_path} is not that of {facts.certificate_path}"
        command = (
            f"openssl x509 -noout -pubkey -in {shlex.quote(facts.certificate_path)} | "
            f"diff - <(openssl pkey -pubout -in {shlex.quote(facts.key_path)})"
        )
        yield finding("ca-key", text, ("restore the pair from one backup", command))


def _check_strength(facts: CAFacts, finding: _NewFinding) -> Iterator[Finding]:
    certificate = certificates.parse_first(facts.certificate or b"")
    if certificate is None:
        return
    fix = ("create a new CA with a stronger key: docs/operations.md",)
    for problem in weakkeys.problems(certificate.public_key()):
        yield finding("ca-key-weak", problem, fix)
    algorithm = certificate.signature_hash_algorithm
    issuer, subject = certificates.issuer_and_subject(certificate)
    if algorithm is not None and algorithm.name in _BROKEN_HASHES and issuer != subject:
        yield finding("ca-key-weak", f"the certificate is signed with {algorithm.name.upper()}", fix)


def _check_chain(
    facts: CAFacts, certificate: PathCertificate, known: Sequence[PathCertificate], finding: _NewFinding
) -> Iterator[Finding]:
    if facts.issues_ca and certificate.path_length == 0:
        text = "it issues CA certificates, but has path length 0, so none of them is valid"
        yield finding("ca-path-length", text, ("issue the CA anew with a longer path length, or without one",))
    child, depth = certificate, 0
    while child.issuer != child.subject and depth < _MAX_CHAIN:
        parent = next((ca for ca in known if ca.subject == child.issuer), None)
        if parent is None:
            issuer = clientcertificates.format_name(child.issuer)
            text = f"it is an intermediate, and the CA above it, {issuer}, is in no bundle that is trusted or published"
            fix = ("publish the root: set --root-ca-file and --client-ca-file to a bundle with the root",)
            yield finding("ca-chain", text, fix, Severity.WARNING)
            return
        depth += 1
        if parent.path_length is not None and parent.path_length < depth:
            name = clientcertificates.format_name(parent.subject)
            text = f"{name} has path length {parent.path_length}, and {depth} CAs are below it"
            yield finding("ca-path-length", text, ("have the CA above issued anew with a longer path length",))
        child = parent
