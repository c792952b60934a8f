"""Writes the keys and requests of `certplane certs generate-csr`, and prints what it writes.

A module of its own because it imports all of signing, which takes longer than everything else in `certs`.
"""

from __future__ import annotations

import dataclasses
import pathlib
import socket
from typing import Final

import click

from certplane import files
from certplane.errors import SetupError
from certplane.kubeadm import certificaterequests
from certplane.kubeadm.certificaterequests import Plan
from certplane.kubeadm.clusterconfig import ClusterConfig

#: An address for documentation (RFC 5737): nothing is sent there, the system only chooses a route.
_ROUTED: Final = ("192.0.2.1", 9)


def plan_own(data_directory: pathlib.Path) -> Plan:
    """The requests of a data directory of certplane on this host. Raises SetupError."""
    return certificaterequests.plan_own(data_directory, socket.gethostname())


def plan_kubeadm(settings: ClusterConfig, directory: pathlib.Path, kubeconfig_directory: pathlib.Path) -> Plan:
    """The requests of a kubeadm control plane; this host has the name and the address that are not set. Raises
    SetupError.
    """
    settings = dataclasses.replace(
        settings,
        node_name=settings.node_name or socket.gethostname().strip().lower(),
        advertise_address=settings.advertise_address or _local_address(),
    )
    return certificaterequests.plan_kubeadm(settings, directory, kubeconfig_directory)


def _local_address() -> str:
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect(_ROUTED)
            return str(probe.getsockname()[0])
    except OSError as error:
        raise SetupError(
            f"the address of this host cannot be determined: {files.error_text(error)}",
            ("set localAPIEndpoint.advertiseAddress of an InitConfiguration in the file that --config names",),
        ) from error


def write(plan: Plan, key_algorithm: str) -> None:
    """Write the files of a plan, with kubeadm's lines. Raises SetupError, before anything is written if one exists."""
    certificaterequests.check(plan)
    click.echo(f"generating keys and CSRs in {plan.directory}")
    for certificate in plan.certificates:
        certificaterequests.write_certificate(plan, certificate, key_algorithm)
        click.echo(f"  {certificate.name}")
    click.echo(f"generating keys and CSRs in {plan.kubeconfig_directory}")
    for kubeconfig in plan.kubeconfigs:
        certificaterequests.write_kubeconfig(plan, kubeconfig, key_algorithm)
        click.echo(f"  {kubeconfig.name}")
