"""ClusterTrustBundle: public root certificates, optionally those of a signer.

The name of a signer's bundle begins with the name of the signer, and writing it needs a permission on that signer.
Source: kubernetes, `pkg/apis/certificates/validation`, `pkg/apis/core/validation/names.go`,
`pkg/registry/certificates/clustertrustbundle`; KEP-3257.
"""

from __future__ import annotations

from typing import Annotated, Final

from certplane import errors
from certplane.errors import Problems
from certplane.meta import names, objects, resource, validation
from certplane.meta.objects import always, doc
from certplane.x509.trust import trustanchors

_MAX_BYTES: Final = 1024 * 1024


class ClusterTrustBundleSpec(objects.Type):
    """ClusterTrustBundleSpec is a set of root certificates and the signer that they belong to."""

    signer_name: Annotated[
        str,
        doc(
            "Signer that the root certificates belong to, as domain/path. Writing the bundle then requires permission "
            "to attest for that signer, and the name of the bundle must begin with the name of the signer, with a "
            "colon instead of the slash and another one after it: example.com:foo:bar for example.com/foo. If empty, "
            "the bundle belongs to no signer, and its name must not contain a colon. Immutable."
        ),
    ] = ""
    trust_bundle: Annotated[
        str,
        doc(
            "The root certificates: X.509, in PEM, up to 1 MiB. Each must be a CA certificate; duplicates and PEM "
            "headers are not allowed. The order of the certificates and text between them have no meaning.",
            required=True,
        ),
    ] = always(str)


class ClusterTrustBundle(objects.Object):
    """ClusterTrustBundle is a set of root certificates with which clients in the cluster verify servers. All service
    accounts can read all bundles.
    """

    spec: Annotated[ClusterTrustBundleSpec, doc("The root certificates and their signer.", required=True)] = always(
        ClusterTrustBundleSpec
    )


# --- names --------------------------------------------------------------------------------------------------------


def _name_problems(bundle: ClusterTrustBundle) -> Problems:
    """Problems of the name. They depend on the signer, so they are not found by `Resource.name_problems`."""
    metadata, signer = bundle.metadata, bundle.spec.signer_name
    problems: Problems = []
    for path, name, is_prefix in (
        ("metadata.generateName", metadata.generate_name, True),
        ("metadata.name", metadata.name, False),
    ):
        if name:
            details = _name_details(name, signer, is_prefix=is_prefix)
            problems += [errors.invalid(path, name, detail) for detail in details]
    return problems


def _name_details(name: str, signer: str, *, is_prefix: bool) -> list[str]:
    if not signer and ":" in name:
        return ['ClusterTrustBundle without signer name must not have ":" in its name']
    prefix = signer.replace("/", ":") + ":" if signer else ""
    if not name.startswith(prefix):
        return [f"ClusterTrustBundle for signerName {signer} must be named with prefix {prefix}"]
    suffix = name.removeprefix(prefix)
    if is_prefix and len(suffix) > 1 and suffix.endswith("-"):
        # Random letters follow the hyphen of a generateName.
        suffix = suffix[:-2] + "a"
    return names.dns1123_subdomain_problems(suffix)


# --- validation ---------------------------------------------------------------------------------------------------


def _bundle_problems(bundle: str) -> Problems:
    path = "spec.trustBundle"
    text = bundle.encode("utf-8", "surrogatepass")
    if len(text) > _MAX_BYTES:
        return [errors.too_long(path, _MAX_BYTES)]
    return [errors.invalid(path, "<value omitted>", detail) for detail in trustanchors.find_problems(text)]


def validate(bundle: ClusterTrustBundle) -> Problems:
    """Validate a new bundle."""
    return _validate(bundle, check_certificates=True)


def _validate(bundle: ClusterTrustBundle, *, check_certificates: bool) -> Problems:
    signer = bundle.spec.signer_name
    return [
        *_name_problems(bundle),
        *(validation.signer_name_problems(signer, "spec.signerName") if signer else ()),
        *(_bundle_problems(bundle.spec.trust_bundle) if check_certificates else ()),
    ]


def validate_update(new: ClusterTrustBundle, old: ClusterTrustBundle) -> Problems:
    """Validate an update. Unchanged certificates are not checked again: the parser may have become stricter."""
    problems = _validate(new, check_certificates=new.spec.trust_bundle != old.spec.trust_bundle)
    if new.spec.signer_name != old.spec.signer_name:
        problems.append(errors.invalid("spec.signerName", new.spec.signer_name, "field is immutable"))
    return problems


RESOURCE: Final[resource.Resource[ClusterTrustBundle]] = resource.Resource(
    group="certificates.k8s.io",
    version="v1beta1",
    kind="ClusterTrustBundle",
    plural="clustertrustbundles",
    type=ClusterTrustBundle,
    namespaced=False,
    owns=("spec",),
    validate=validate,
    validate_update=validate_update,
    selectable={"spec.signerName": lambda obj: obj.spec.signer_name},
    selects_namespace=False,
    unknown_selector=lambda label: f"field label not supported: {label}",
    allow_unconditional_update=False,
    columns=(
        resource.Column("Name", "Name of the bundle.", lambda obj, _: obj.metadata.name, format="name"),
        resource.Column(
            "SignerName",
            "Signer that the root certificates belong to.",
            lambda obj, _: obj.spec.signer_name or "<none>",
        ),
    ),
)
RESOURCE_V1: Final = resource.later_version(RESOURCE, "v1")
