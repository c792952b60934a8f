"""New CertificateSigningRequests: their contents from options, the object, and its manifest for kubectl.

Source of the usages: kubernetes.io, "Certificates and Certificate Signing Requests", Kubernetes signers.
"""

from __future__ import annotations

import base64
import dataclasses
import difflib
import ipaddress
import re
from collections.abc import Sequence
from typing import Final

from certplane import signernames
from certplane.cli import durations
from certplane.config import options
from certplane.errors import SetupError
from certplane.golang import formatting, goyaml
from certplane.meta import names as objectnames
from certplane.meta import validation
from certplane.resources import certificatesigningrequests as csrs
from certplane.resources.certificatesigningrequests import CertificateSigningRequest
from certplane.x509 import keys
from certplane.x509.certificatenames import IPAddress, Subject
from certplane.x509.pkcs10 import certificaterequest, newrequest
from certplane.x509.tbs.template import AltNames

CLIENT_AUTH: Final = "client auth"
SERVER_AUTH: Final = "server auth"
_CLIENT_SIGNERS: Final = (signernames.KUBE_APISERVER_CLIENT, signernames.KUBE_APISERVER_CLIENT_KUBELET)
_DNS_NAME: Final = re.compile(r"(?:\*\.)?[A-Za-z0-9_-]{1,63}(?:\.[A-Za-z0-9_-]{1,63})*\.?")
#: Bytes of a common name: ub-common-name in RFC 5280 appendix A.1.
_MAX_COMMON_NAME: Final = 64
#: Characters of a request's name: it is also the name of files, which get a suffix.
_MAX_NAME: Final = 200


@dataclasses.dataclass(frozen=True, slots=True)
class Contents:
    """What is requested: the signer, the contents of the certificate, and its lifetime in seconds, None for that of
    the signer.
    """

    signer: str
    subject: Subject
    names: AltNames
    usages: Sequence[str]
    seconds: int | None


def build(name: str, contents: Contents, key: keys.PrivateKey) -> CertificateSigningRequest:
    """The object, with a PKCS#10 for a key. Raises SetupError if the server would refuse the PKCS#10."""
    try:
        request = newrequest.create(key, contents.subject, contents.names or None)
        certificaterequest.verified(request)
    except (certificaterequest.RequestError, keys.InvalidKeyError) as error:
        raise SetupError(
            f"the request cannot be created: {error}", ("check the names, and the key if it was not generated",)
        ) from error
    spec = csrs.CertificateSigningRequestSpec(
        request=request,
        signer_name=contents.signer,
        usages=list(contents.usages),
        expiration_seconds=contents.seconds,
    )
    csr = CertificateSigningRequest(spec=spec)
    csr.metadata.name = name
    return csr


def manifest(csr: CertificateSigningRequest) -> str:
    """A request as YAML, for `kubectl create -f -`."""
    spec: dict[str, object] = {
        "request": base64.b64encode(csr.spec.request or b"").decode("ascii"),
        "signerName": csr.spec.signer_name,
        "usages": list(csr.spec.usages),
    }
    if csr.spec.expiration_seconds is not None:
        spec["expirationSeconds"] = csr.spec.expiration_seconds
    document = {
        "apiVersion": csrs.RESOURCE.api_version,
        "kind": csrs.RESOURCE.kind,
        "metadata": {"name": csr.metadata.name},
        "spec": spec,
    }
    return goyaml.dump(document)


def describe(contents: Contents) -> str:
    """The contents of a request, in one line."""
    parts = [f"signer {contents.signer}", f"common name {formatting.quote(contents.subject.common_name)}"]
    if contents.subject.organization:
        parts.append(f"organizations {formatting.quote_all(contents.subject.organization)}")
    names = [*contents.names.dns, *map(str, contents.names.ip), *contents.names.uri, *contents.names.email]
    if names:
        parts.append(f"names {formatting.quote_all(names)}")
    parts.append(f"usages {formatting.quote_all(contents.usages)}")
    lifetime = "that of the signer" if contents.seconds is None else formatting.human_duration(contents.seconds)
    return ", ".join([*parts, f"lifetime {lifetime}"])


# --- options ------------------------------------------------------------------------------------------------------


def check_name(name: str) -> None:
    """Check the name of a request, which files are named after. Raises SetupError."""
    problems = objectnames.path_segment_problems(name)
    if not name or name.startswith((".", "-")) or len(name) > _MAX_NAME or not name.isprintable():
        problems = [f"must be 1 to {_MAX_NAME} printable characters and not begin with a dot or a dash"]
    if problems:
        quoted = formatting.quote(formatting.shorten(name, options.MAX_QUOTE))
        raise SetupError(
            f"invalid name of a certificate request: {quoted}: {'; '.join(problems)}",
            ("use letters, digits and dashes, such as web-1",),
        )


def check_signer(name: str) -> None:
    """Raises SetupError for an invalid signer name."""
    problems = validation.signer_name_problems(name, "name")
    if name == signernames.LEGACY_UNKNOWN or problems:
        quoted = formatting.shorten(name, options.MAX_QUOTE)
        reason = f": {formatting.shorten(problems[0].body, 200)}" if problems else ""
        raise SetupError(
            f"requests for the signer {quoted} are not possible{reason}",
            (f"write it as DOMAIN/NAME, such as {signernames.KUBE_APISERVER_CLIENT}",),
        )


def alt_names(
    dns: Sequence[str] = (), ip: Sequence[str] = (), uri: Sequence[str] = (), email: Sequence[str] = ()
) -> AltNames:
    """Subject alternative names, without duplicates. Raises SetupError."""
    for name in dns:
        check_dns_name(name)
    for text in email:
        if not text.isascii() or not text.isprintable() or not re.fullmatch(r"[^@\s]+@[^@\s]+", text):
            raise _invalid("an email address", text, "write it as user@example.com, in ASCII")
    for text in uri:
        if not text.isascii() or not text.isprintable() or not re.match(r"[A-Za-z][A-Za-z0-9+.-]*:.", text):
            raise _invalid("a URI", text, "write it with its scheme, such as spiffe://example.com/web, in ASCII")
    addresses = [_address(text) for text in ip]
    return AltNames(
        dns=list(dict.fromkeys(dns)),
        email=list(dict.fromkeys(email)),
        ip=list(dict.fromkeys(addresses)),
        uri=list(dict.fromkeys(uri)),
    )


def check_dns_name(name: str) -> None:
    """Raises SetupError for a text that is no DNS name, with or without a wildcard."""
    if _DNS_NAME.fullmatch(name) and len(name) <= 253:
        return
    hint = "write it as www.example.com or *.example.com"
    if not name.isascii():
        hint = "write an internationalized name in its ASCII form, which begins with xn--"
    elif "://" in name or ":" in name:
        hint = "write the name alone, without scheme and port; use --uri for URIs and --ip for addresses"
    raise _invalid("a DNS name", name, hint)


def _address(text: str) -> IPAddress:
    try:
        address = ipaddress.ip_address(text)
    except ValueError as error:
        raise _invalid("an IP address", text, "write it as 192.0.2.1 or 2001:db8::1; use --dns for names") from error
    if isinstance(address, ipaddress.IPv6Address) and address.scope_id is not None:
        raise _invalid("an IP address without a zone", text, f"write {str(address).partition('%')[0]}")
    return address


def _invalid(what: str, text: str, hint: str) -> SetupError:
    return SetupError(f"not {what}: {formatting.quote(formatting.shorten(text, options.MAX_QUOTE))}", (hint,))


def subject(common_name: str, organizations: Sequence[str] = ()) -> Subject:
    """A subject. Raises SetupError for a text that a certificate cannot have."""
    for text in (common_name, *organizations):
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise SetupError("a name in the subject is not valid UTF-8", ("write it in UTF-8",)) from error
        if not text.isprintable():
            raise _invalid("a printable name", text, "remove the control characters")
    if len(common_name.encode("utf-8")) > _MAX_COMMON_NAME:
        raise SetupError(
            f"the common name has more than {_MAX_COMMON_NAME} bytes",
            ("shorten it with --common-name; servers are identified by --dns and --ip",),
        )
    if any(not organization for organization in organizations):
        raise SetupError("an organization is empty", ("leave out --organization for none",))
    return Subject(organization=tuple(dict.fromkeys(organizations)), common_name=common_name)


def usages(requested: Sequence[str], signer: str, names: AltNames, key: keys.PrivateKey) -> Sequence[str]:
    """The requested usages, or by default those that suit signer, names and key. Raises SetupError."""
    for usage in requested:
        if usage not in csrs.USAGES:
            similar = difflib.get_close_matches(usage.replace("_", " "), csrs.USAGES, 1)
            hint = f'write --usage "{similar[0]}"' if similar else f"known usages are {', '.join(csrs.USAGES)}"
            raise SetupError(f"unknown usage: {formatting.shorten(usage, options.MAX_QUOTE)}", (hint,))
    if requested:
        return list(dict.fromkeys(requested))
    purpose = SERVER_AUTH if is_for_server(signer, names) else CLIENT_AUTH
    encipherment = ("key encipherment",) if keys.is_rsa(key) else ()
    return ("digital signature", *encipherment, purpose)


def is_for_server(signer: str, names: AltNames) -> bool:
    """Whether a request without usages is for a server: by the signer, or because it has DNS names or addresses."""
    if signer in _CLIENT_SIGNERS:
        return False
    return signer == signernames.KUBELET_SERVING or bool(names.dns or names.ip)


def default_common_name(name: str, signer: str, names: AltNames) -> str:
    """Of a client the name of the request; of a server its first DNS name, if that is short enough."""
    if not is_for_server(signer, names):
        return name
    first = next(iter(names.dns), "")
    return first if len(first) <= _MAX_COMMON_NAME else ""


def lifetime_seconds(text: str) -> int | None:
    """A lifetime as `spec.expirationSeconds`; None for an empty text. Raises SetupError."""
    if not text:
        return None
    seconds = int(durations.parse(text).total_seconds())
    if seconds < csrs.MIN_EXPIRATION_SECONDS:
        raise SetupError(f"the lifetime {text} is too short", ("the minimum of Kubernetes is 10m",))
    # An int32.
    if seconds >= 1 << 31:
        raise SetupError(f"the lifetime {text} is too long", ("write one of at most 596523h",))
    return seconds
