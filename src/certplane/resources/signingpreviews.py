"""SigningPreview: what a signer of this server would make of a request, before anybody approves it.

It is answered at once and never stored, like the reviews of authorization.k8s.io. Kubernetes has nothing like it: there
a request is approved first, and the signer's objections become its Failed condition, which is final.
"""

from __future__ import annotations

from typing import Annotated, Final

from msgspec import field

from certplane import errors
from certplane.errors import Problems
from certplane.meta import objects, resource, validation
from certplane.meta.objects import always, doc

GROUP: Final = "explain.certplane.io"
#: The results.
ISSUE: Final = "Issue"
FAIL: Final = "Fail"
CANNOT_SIGN: Final = "CannotSign"
UNKNOWN_SIGNER: Final = "UnknownSigner"
#: Usages, as in a CertificateSigningRequest, and characters of a user name: patterns are matched against it.
_MAX_USAGES: Final = 100
_MAX_USERNAME: Final = 1024


class SigningPreviewSpec(objects.Type):
    """SigningPreviewSpec is the request, with the fields of a CertificateSigningRequest."""

    request: Annotated[bytes | None, doc("The PKCS#10 certificate request, in PEM.", required=True)] = always(
        lambda: None
    )
    signer_name: Annotated[str, doc("Name of the signer, as domain/path.", required=True)] = always(str)
    usages: Annotated[list[str], doc("Requested key usages.", list_type="atomic")] = field(default_factory=list)
    expiration_seconds: Annotated[objects.Int32 | None, doc("Requested lifetime in seconds.")] = None
    username: Annotated[str, doc("Name of the user who requests the certificate.")] = ""


class AutomaticApproval(objects.Type):
    """AutomaticApproval is a rule of the signer: its requestors are approved without a person."""

    users: Annotated[list[str], doc("User names.", list_type="atomic")] = field(default_factory=list)
    groups: Annotated[list[str], doc("Groups; one of them is enough.", list_type="atomic")] = field(
        default_factory=list
    )


class SigningPreviewStatus(objects.Type):
    """SigningPreviewStatus is what the signer would do."""

    result: Annotated[
        str,
        doc(
            "Issue: it would issue a certificate. Fail: it would refuse the request for good. CannotSign: the request "
            "would wait, as the signer cannot sign now. UnknownSigner: this server has no such signer."
        ),
    ] = always(str)
    messages: Annotated[
        list[str],
        doc("Why nothing is issued; the first one would be the message of the condition.", list_type="atomic"),
    ] = field(default_factory=list)
    remedy: Annotated[str, doc("What to change in the request, if that would help.")] = ""
    warnings: Annotated[list[str], doc("What may surprise the requestor.", list_type="atomic")] = field(
        default_factory=list
    )
    description: Annotated[str, doc("Purpose of the signer.")] = ""
    lifetime_seconds: Annotated[
        objects.Int64 | None, doc("Lifetime of the certificate: the requested one, shortened by signer and CA.")
    ] = None
    max_lifetime_seconds: Annotated[objects.Int64 | None, doc("Maximum lifetime of the signer's certificates.")] = None
    not_after: Annotated[objects.Time | None, doc("When the certificate would end.")] = None
    ca_subject: Annotated[str, doc("Subject of the signer's CA.")] = ""
    ca_issuer: Annotated[str, doc("Issuer of the signer's CA; differs from its subject if it is an intermediate.")] = ""
    ca_not_after: Annotated[objects.Time | None, doc("When the signer's CA ends.")] = None
    suitable_signers: Annotated[
        list[str], doc("Signers of this server that would issue the certificate.", list_type="atomic")
    ] = field(default_factory=list)
    automatic_approvals: Annotated[
        list[AutomaticApproval], doc("The signer's rules for automatic approval.", list_type="atomic")
    ] = field(default_factory=list)


class SigningPreview(objects.Object):
    """SigningPreview says what a signer would make of a request. Nothing is stored, and the CA key is not used."""

    spec: Annotated[SigningPreviewSpec, doc("The request.", required=True)] = always(SigningPreviewSpec)
    status: Annotated[SigningPreviewStatus, doc("What the signer would do.")] = always(SigningPreviewStatus)


def _validate(new: SigningPreview) -> Problems:
    """What the answer costs must be bounded, as that of a CertificateSigningRequest is."""
    spec = new.spec
    problems = [
        *validation.signer_name_problems(spec.signer_name, "spec.signerName"),
        *validation.count_problems(spec.usages, "spec.usages", _MAX_USAGES),
    ]
    if len(spec.username) > _MAX_USERNAME:
        problems.append(errors.too_long("spec.username", _MAX_USERNAME))
    return problems


RESOURCE: Final[resource.VirtualResource[SigningPreview]] = resource.VirtualResource(
    group=GROUP, version="v1alpha1", kind="SigningPreview", plural="signingpreviews", type=SigningPreview,
    namespaced=False, validate=_validate,
)  # fmt: skip
