"""Lease: who leads, and since when it was last heard of.

Source: kubernetes, `pkg/registry/coordination/lease`, `pkg/apis/coordination/validation`.
"""

from __future__ import annotations

from typing import Annotated, Final

from certplane import errors
from certplane.meta import context, names, objects, resource
from certplane.meta.objects import always, doc

Problems = list[errors.FieldProblem]


class LeaseSpec(objects.Type):
    """LeaseSpec says who holds a lease and for how long."""

    holder_identity: Annotated[str | None, doc("Who holds the lease.")] = None
    lease_duration_seconds: Annotated[
        objects.Int32 | None, doc("Seconds after renewTime until others may take the lease.")
    ] = None
    acquire_time: Annotated[objects.MicroTime | None, doc("When the holder got the lease.")] = None
    renew_time: Annotated[objects.MicroTime | None, doc("When the holder last said that it is still there.")] = None
    lease_transitions: Annotated[objects.Int32 | None, doc("How often the lease went to another holder.")] = None
    strategy: Annotated[
        str | None,
        doc("How a coordinated election chooses. Dropped: coordinated elections are off.",
            go="v1.CoordinatedLeaseStrategy"),
    ] = None  # fmt: skip
    preferred_holder: Annotated[
        str | None, doc("Who should get the lease next. Dropped: coordinated elections are off.")
    ] = None


class Lease(objects.Object):
    """Lease is a lock that ends by itself unless its holder renews it: for elections and heartbeats."""

    spec: Annotated[LeaseSpec, doc("Who holds the lease.")] = always(LeaseSpec)


def _drop_gated(new: Lease) -> None:
    """As in a server whose gate CoordinatedLeaderElection is off."""
    new.spec.strategy = new.spec.preferred_holder = None


def _prepare_create(new: Lease, call: context.Call) -> None:
    del call
    _drop_gated(new)


def _prepare_update(new: Lease, old: Lease, call: context.Call) -> None:
    del old, call
    _drop_gated(new)


def _validate(new: Lease) -> Problems:
    problems: Problems = []
    seconds, transitions = new.spec.lease_duration_seconds, new.spec.lease_transitions
    if seconds is not None and seconds <= 0:
        problems.append(errors.invalid("spec.leaseDurationSeconds", seconds, "must be greater than 0"))
    if transitions is not None and transitions < 0:
        problems.append(errors.invalid("spec.leaseTransitions", transitions, "must be greater than or equal to 0"))
    return problems


RESOURCE: Final = resource.Resource(
    group="coordination.k8s.io",
    version="v1",
    former=("v1beta1",),
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
    rechecks=resource.Recheck.CHANGE,
    creates_on_update=True,
    unconditional_update=False,
    columns=(
        resource.Column("Name", "Name of the lease.", lambda of, _: of.metadata.name, format="name"),
        resource.Column("Holder", "Who holds the lease.", lambda of, _: of.spec.holder_identity or ""),
        resource.Column("Age", "Time since the lease was created.", resource.age),
    ),
)
