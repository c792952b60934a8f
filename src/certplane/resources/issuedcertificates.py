"""IssuedCertificate: what is kept of a certificate after its request is deleted. Kubernetes has no such kind.

The objects are in the archive of the store (`store.archive`). They are never changed, and removed some time after the
certificate has ended.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from typing import Annotated, Final

from msgspec import field

from certplane import timestamps
from certplane.golang import formatting
from certplane.meta import objects, resource
from certplane.meta.objects import always, doc

#: How somebody approved a request.
PERSON: Final = "Person"
SERVICE_ACCOUNT: Final = "ServiceAccount"
CONTROLLER: Final = "Controller"
RULE: Final = "Rule"
#: How a certificate came into the inventory.
ISSUED: Final = "Issued"
IMPORTED: Final = "Imported"


class CertificateFacts(objects.Type):
    """CertificateFacts is what the certificate says, for searches and tables."""

    serial_number: Annotated[str, doc("Serial number, in lower-case hexadecimal digits.")] = always(str)
    fingerprint: Annotated[str, doc("SHA-256 of the certificate in DER, in lower-case hexadecimal digits.")] = always(
        str
    )
    issuer: Annotated[str, doc("Name of the issuer, as RFC 4514 writes it.")] = ""
    authority_key_identifier: Annotated[
        str, doc("Identifier of the key that signed the certificate, in lower-case hexadecimal digits.")
    ] = ""
    subject: Annotated[str, doc("Name of the subject, as RFC 4514 writes it: CN=jane,O=developers.")] = ""
    common_name: Annotated[str, doc("Common name of the subject: in a client certificate, the name of the user.")] = ""
    organizations: Annotated[
        list[str],
        doc("Organizations of the subject: in a client certificate, the groups of the user.", list_type="atomic"),
    ] = field(default_factory=list)
    dns_names: Annotated[list[str], doc("DNS names that the certificate is for.", list_type="atomic")] = field(
        default_factory=list
    )
    ip_addresses: Annotated[list[str], doc("IP addresses that the certificate is for.", list_type="atomic")] = field(
        default_factory=list
    )
    email_addresses: Annotated[list[str], doc("Email addresses that the certificate is for.", list_type="atomic")] = (
        field(default_factory=list)
    )
    uris: Annotated[list[str], doc("URIs that the certificate is for.", list_type="atomic")] = field(
        default_factory=list
    )
    key: Annotated[str, doc("Kind and size of the public key, such as RSA 2048 or ECDSA P-256.")] = ""
    not_before: Annotated[objects.Time | None, doc("When the certificate begins to be valid.")] = None
    not_after: Annotated[objects.Time | None, doc("When the certificate ends.")] = None
    pem: Annotated[str, doc("The certificate in PEM, with the intermediates that were published with it.")] = ""


class CertificateRequest(objects.Type):
    """CertificateRequest identifies the request that the certificate was issued for, and what it asked for."""

    kind: Annotated[str, doc("Kind of the request.")] = ""
    namespace: Annotated[str, doc("Namespace of the request, if its kind has namespaces.")] = ""
    name: Annotated[str, doc("Name of the request.")] = ""
    uid: Annotated[str, doc("UID of the request.", go="types.UID")] = ""
    usages: Annotated[list[str], doc("Key usages that were requested.", list_type="atomic")] = field(
        default_factory=list
    )
    expiration_seconds: Annotated[objects.Int32 | None, doc("Lifetime that was requested, in seconds.")] = None


class Requester(objects.Type):
    """Requester is the user who created the request, as the server authenticated it."""

    username: Annotated[str, doc("Name of the user.")] = ""
    uid: Annotated[str, doc("UID of the user.")] = ""
    groups: Annotated[list[str], doc("Groups of the user.", list_type="atomic")] = field(default_factory=list)


class Approval(objects.Type):
    """Approval is who approved the request, and how."""

    username: Annotated[str, doc("Name of the user who approved the request, as the server authenticated it.")] = ""
    method: Annotated[
        str,
        doc(
            "How the request was approved: Person (a user), ServiceAccount (a program of a user), Controller (a "
            "controller of the control plane), Rule (the approver for serving certificates of kubelets, by its rules). "
            "Empty if it is not known."
        ),
    ] = ""
    reason: Annotated[str, doc("Reason in the condition Approved.")] = ""
    message: Annotated[str, doc("Message in the condition Approved.")] = ""
    time: Annotated[objects.Time | None, doc("When the request was approved.")] = None


class Source(objects.Type):
    """Source is how the certificate came into the inventory."""

    type: Annotated[
        str,
        doc("Issued: recorded when it was published. Imported: added later; only the certificate itself is certain."),
    ] = ""
    username: Annotated[str, doc("Name of the user who published or imported the certificate.")] = ""
    origin: Annotated[str, doc("Of an imported certificate: where it was found.")] = ""


class IssuedCertificate(objects.Object):
    """IssuedCertificate is a certificate that was issued, with who requested and who approved it. It is kept after its
    request is deleted.
    """

    signer_name: Annotated[str, doc("Name of the signer.")] = ""
    certificate: Annotated[CertificateFacts, doc("What the certificate says.")] = always(CertificateFacts)
    request: Annotated[CertificateRequest, doc("The request that the certificate was issued for.")] = always(
        CertificateRequest
    )
    requester: Annotated[Requester, doc("The user who created the request.")] = always(Requester)
    approval: Annotated[Approval, doc("Who approved the request, and how.")] = always(Approval)
    source: Annotated[Source, doc("How the certificate came into the inventory.")] = always(Source)


_Values = Callable[[IssuedCertificate], Sequence[str]]


def alternative_names(obj: IssuedCertificate) -> Sequence[str]:
    """All subject alternative names, as texts."""
    facts = obj.certificate
    return [*facts.dns_names, *facts.ip_addresses, *facts.email_addresses, *facts.uris]


def title(obj: IssuedCertificate) -> str:
    """What people call a certificate by: its common name, or else its first other name."""
    facts = obj.certificate
    return facts.common_name or next(iter(alternative_names(obj)), "") or facts.subject or "<none>"


def _one(value: Callable[[IssuedCertificate], str]) -> _Values:
    return lambda obj: [text] if (text := value(obj)) else []


#: The fields of field selectors, and the values of an object.
INDEX: Final[dict[str, _Values]] = {
    "approver": _one(lambda obj: obj.approval.username),
    "commonName": _one(lambda obj: obj.certificate.common_name),
    "fingerprint": _one(lambda obj: obj.certificate.fingerprint),
    "organization": lambda obj: obj.certificate.organizations,
    "request": _one(lambda obj: obj.request.name),
    "requestUID": _one(lambda obj: obj.request.uid),
    "requester": _one(lambda obj: obj.requester.username),
    "san": lambda obj: [name.lower() for name in alternative_names(obj)],
    "serialNumber": _one(lambda obj: obj.certificate.serial_number),
    "signerName": _one(lambda obj: obj.signer_name),
    "subject": _one(lambda obj: obj.certificate.subject),
}


def _normalised(label: str, value: str) -> str:
    """A value of a field selector in the form of the index: people copy serial numbers and fingerprints from OpenSSL,
    which writes capital letters, colons and leading zeros.
    """
    if label in ("fingerprint", "serialNumber"):
        value = value.replace(":", "").lower()
        return value.lstrip("0") or value[:1] if label == "serialNumber" else value
    return value.lower() if label == "san" else value


def _ends(obj: IssuedCertificate, now: datetime.datetime) -> str:
    not_after = obj.certificate.not_after
    if not_after is None:
        return "<unknown>"
    seconds = (timestamps.parse_rfc3339(not_after) - now).total_seconds()
    return formatting.human_duration(seconds) if seconds > 0 else f"ended {formatting.human_duration(-seconds)} ago"


#: The longest cell: a certificate may have thousands of names.
_MAX_CELL: Final = 200


def _cell(text: str) -> str:
    return formatting.truncate(text, _MAX_CELL)


RESOURCE: Final[resource.Resource[IssuedCertificate]] = resource.Resource(
    group="inventory.certplane.io",
    version="v1alpha1",
    kind="IssuedCertificate",
    plural="issuedcertificates",
    short_names=("issued",),
    type=IssuedCertificate,
    namespaced=False,
    verbs=("get", "list"),
    columns=(
        resource.Column(
            "Name",
            "Beginnings of the fingerprint and of the UID of the request.",
            lambda obj, _: obj.metadata.name,
            format="name",
        ),
        resource.Column("Subject", "Common name, or else the first other name.", lambda obj, _: _cell(title(obj))),
        resource.Column("SignerName", "Name of the signer.", lambda obj, _: _cell(obj.signer_name or "<unknown>")),
        resource.Column(
            "Requestor", "User who created the request.", lambda obj, _: _cell(obj.requester.username or "<unknown>")
        ),
        resource.Column(
            "Approver", "User who approved the request.", lambda obj, _: _cell(obj.approval.username or "<unknown>")
        ),
        resource.Column("Ends", "Time until the certificate ends.", _ends),
        resource.Column("Age", "Time since the certificate was issued.", resource.age),
        resource.Column("Request", "Name of the request.", lambda obj, _: _cell(obj.request.name), priority=1),
        resource.Column("SerialNumber", "Serial number.", lambda obj, _: obj.certificate.serial_number, priority=1),
        resource.Column(
            "Names", "Subject alternative names.", lambda obj, _: _cell(",".join(alternative_names(obj))), priority=1
        ),
    ),
)

#: The number of hexadecimal digits in a name: of the fingerprint 96 bits, which are unique, and the first of the UID.
_FINGERPRINT_LENGTH: Final = 24
_UID_LENGTH: Final = 8


def name_of(fingerprint: str, uid: str) -> str:
    """The name of the object for a certificate with this fingerprint that was published for the request with this UID:
    a signer may publish one certificate for several requests.
    """
    return f"{fingerprint[:_FINGERPRINT_LENGTH]}-{uid[:_UID_LENGTH]}"


def ends_of(obj: IssuedCertificate) -> int:
    """When the certificate ends, in seconds since 1970, or when it was published, if that is later or the end is not
    known: a signer cannot make it vanish by a date in the past.
    """
    times = [time for time in (obj.certificate.not_after, obj.metadata.creation_timestamp) if time is not None]
    return max((int(timestamps.parse_rfc3339(time).timestamp()) for time in times), default=0)


ARCHIVED: Final = resource.ArchivedResource(
    RESOURCE, collection="issued", index=INDEX, normalise=_normalised, ends=ends_of
)
