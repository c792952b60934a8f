"""ClusterTrustBundle: root certificates for everybody, perhaps those of one signer.

A bundle of a signer carries the signer's name in its own, so that it cannot be mistaken for another's; who may write it
is a right on that signer. Source: kubernetes, `pkg/apis/certificates/validation`, `pkg/apis/core/validation/names.go`,
`pkg/registry/certificates/clustertrustbundle`; KEP-3257.
"""

from __future__ import annotations

from typing import Annotated, Final

from certplane import errors
from certplane.meta import names, objects, resource, validation
from certplane.meta.objects import always, doc
from certplane.x509 import trust

Problems = list[errors.FieldProblem]

_LARGEST: Final = 1024 * 1024


class ClusterTrustBundleSpec(objects.Type):
    """ClusterTrustBundleSpec is whom to trust, and who says so."""

    signer_name: Annotated[
        str,
        doc(
            "Signer whose root certificates these are, as domain/path. Writing the bundle then takes the right to "
            "attest for that signer, and its name has to begin with the signer's, with colons for the slash and at "
            "the end: example.com:foo:bar for example.com/foo. Empty for a bundle of no signer, whose name must not "
            "have a colon. Cannot be changed."
        ),
    ] = ""
    trust_bundle: Annotated[
        str,
        doc(
            "The root certificates: X.509, in PEM, up to 1 MiB. Each must be that of an authority and may occur once; "
            "blocks have no headers. Order means nothing, and neither does text between the blocks.",
            required=True,
        ),
    ] = always(str)


class ClusterTrustBundle(objects.Object):
    """ClusterTrustBundle is a list of root certificates that every pod of the cluster may read, to verify whom it
    talks to. Every service account may read all of them: they are public.
    """

    spec: Annotated[ClusterTrustBundleSpec, doc("Whom to trust, and who says so.", required=True)] = always(
        ClusterTrustBundleSpec
    )


# --- names --------------------------------------------------------------------------------------------------------


def _name_problems(of: ClusterTrustBundle) -> Problems:
    """The rules for names depend on the signer, so they are not among the kind's `name_problems`."""
    meta, signer = of.metadata, of.spec.signer_name
    problems: Problems = []
    for path, name, is_prefix in (
        ("metadata.generateName", meta.generate_name, True),
        ("metadata.name", meta.name, False),
    ):
        if name:
            problems += [errors.invalid(path, name, why) for why in _name_texts(name, signer, is_prefix=is_prefix)]
    return problems


def _name_texts(name: str, signer: str, *, is_prefix: bool) -> list[str]:
    if not signer and ":" in name:
        return ['ClusterTrustBundle without signer name must not have ":" in its name']
    prefix = signer.replace("/", ":") + ":" if signer else ""
    if not name.startswith(prefix):
        return [f"ClusterTrustBundle for signerName {signer} must be named with prefix {prefix}"]
    rest = name.removeprefix(prefix)
    if is_prefix and len(rest) > 1 and rest.endswith("-"):
        # Letters will follow the hyphen.
        rest = rest[:-2] + "a"
    return names.dns1123_subdomain_problems(rest)


# --- validation ---------------------------------------------------------------------------------------------------


def _bundle_problems(bundle: str) -> Problems:
    path = "spec.trustBundle"
    text = bundle.encode("utf-8", "surrogatepass")
    if len(text) > _LARGEST:
        return [errors.too_long(path, _LARGEST)]
    return [errors.invalid(path, "<value omitted>", why) for why in trust.anchor_problems(text)]


def validate(new: ClusterTrustBundle) -> Problems:
    """A new bundle."""
    return _validate(new, parse=True)


def _validate(new: ClusterTrustBundle, *, parse: bool) -> Problems:
    signer = new.spec.signer_name
    return [
        *_name_problems(new),
        *(validation.signer_name_problems(signer, "spec.signerName") if signer else ()),
        *(_bundle_problems(new.spec.trust_bundle) if parse else ()),
    ]


def validate_update(new: ClusterTrustBundle, old: ClusterTrustBundle) -> Problems:
    """A changed bundle. What was once accepted stays acceptable, should the parser become stricter."""
    problems = _validate(new, parse=new.spec.trust_bundle != old.spec.trust_bundle)
    if new.spec.signer_name != old.spec.signer_name:
        problems.append(errors.invalid("spec.signerName", new.spec.signer_name, "field is immutable"))
    return problems


RESOURCE: Final = resource.Resource(
    group="certificates.k8s.io",
    version="v1beta1",
    kind="ClusterTrustBundle",
    plural="clustertrustbundles",
    type=ClusterTrustBundle,
    namespaced=False,
    owns=("spec",),
    validate=validate,
    validate_update=validate_update,
    selectable={"spec.signerName": lambda of: of.spec.signer_name},
    selects_namespace=False,
    unknown_selector=lambda label: f"field label not supported: {label}",
    unconditional_update=False,
    optional=True,
    columns=(
        resource.Column("Name", "Name of the bundle.", lambda of, _: of.metadata.name, format="name"),
        resource.Column(
            "SignerName", "Signer whose certificates these are.", lambda of, _: of.spec.signer_name or "<none>"
        ),
    ),
)
RESOURCE_V1: Final = resource.later_version(RESOURCE, "v1")
