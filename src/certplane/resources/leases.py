"""Lease: a lock with an expiry, for leader election and heartbeats.

Source: kubernetes, `pkg/registry/coordination/lease`, `pkg/apis/coordination/validation`.
"""

from __future__ import annotations

from typing import Annotated, Final

from certplane import errors
from certplane.errors import Problems
from certplane.meta import names, objects, resource
from certplane.meta.context import VerbContext
from certplane.meta.objects import always, doc


class LeaseSpec(objects.Type):
    """LeaseSpec is the holder of a lease and its times."""

    holder_identity: Annotated[str | None, doc("Identity of the holder of the lease.")] = None
    lease_duration_seconds: Annotated[
        objects.Int32 | None, doc("Seconds after renewTime until another candidate may take the lease.")
    ] = None
    acquire_time: Annotated[objects.MicroTime | None, doc("Time when the holder acquired the lease.")] = None
    renew_time: Annotated[objects.MicroTime | None, doc("Time when the holder last renewed the lease.")] = None
    lease_transitions: Annotated[objects.Int32 | None, doc("Number of transitions between holders.")] = None
    strategy: Annotated[
        str | None,
        doc("Strategy of a coordinated leader election. Ignored: coordinated leader election is disabled.",
            go="v1.CoordinatedLeaseStrategy"),
    ] = None  # fmt: skip
    preferred_holder: Annotated[
        str | None, doc("Preferred next holder. Ignored: coordinated leader election is disabled.")
    ] = None


class Lease(objects.Object):
    """Lease is a lock that expires unless its holder renews it. It is used for leader election and heartbeats."""

    spec: Annotated[LeaseSpec, doc("The holder of the lease and its times.")] = always(LeaseSpec)


def _drop_gated(lease: Lease) -> None:
    """Clear the fields of a disabled feature gate, CoordinatedLeaderElection."""
    lease.spec.strategy = lease.spec.preferred_holder = None


def _prepare_create(new: Lease, call: VerbContext) -> None:
    del call
    _drop_gated(new)


def _prepare_update(new: Lease, old: Lease, call: VerbContext) -> None:
    del old, call
    _drop_gated(new)


def _validate(lease: Lease) -> Problems:
    problems: Problems = []
    seconds, transitions = lease.spec.lease_duration_seconds, lease.spec.lease_transitions
    if seconds is not None and seconds <= 0:
        problems.append(errors.invalid("spec.leaseDurationSeconds", seconds, "must be greater than 0"))
    if transitions is not None and transitions < 0:
        problems.append(errors.invalid("spec.leaseTransitions", transitions, "must be greater than or equal to 0"))
    return problems


RESOURCE: Final[resource.Resource[Lease]] = resource.Resource(
    group="coordination.k8s.io",
    version="v1",
    former_versions=("v1beta1",),
    kind="Lease",
    plural="leases",
    type=Lease,
    namespaced=True,
    owns=("spec",),
    prepare_create=_prepare_create,
    prepare_update=_prepare_update,
    name_problems=names.dns1123_subdomain_problems,
    validate=_validate,
    validate_update=lambda new, _: _validate(new),
    metadata_validation=resource.MetadataValidation.CHANGE,
    allow_create_on_update=True,
    allow_unconditional_update=False,
    columns=(
        resource.Column("Name", "Name of the lease.", lambda obj, _: obj.metadata.name, format="name"),
        resource.Column("Holder", "Identity of the holder.", lambda obj, _: obj.spec.holder_identity or ""),
        resource.Column("Age", "Time since the lease was created.", resource.age),
    ),
)
