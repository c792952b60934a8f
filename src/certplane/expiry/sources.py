"""The sources of a configuration."""

from __future__ import annotations

from collections.abc import Iterator

from certplane.clock import Clock
from certplane.expiry import cluster, files, settings
from certplane.expiry.endpoints import EndpointSource
from certplane.expiry.findings import Source
from certplane.expiry.settings import SourceSettings
from certplane.kubeadm import layout


def build(source: SourceSettings, timer: Clock) -> Iterator[Source]:
    """The sources of one entry: a cluster has several."""
    name, place = source.name, source.place
    match place:
        case settings.ControlPlane():
            if place.data_dir is not None:
                yield files.control_plane(name, layout.own(place.data_dir))
            else:
                yield files.control_plane(name, layout.kubeadm(place.cert_dir, place.kubeconfig_dir))
        case settings.Directory():
            yield files.directory(name, place.path)
        case settings.Files():
            yield files.patterns(name, place.patterns, place.pkcs12_password_file)
        case settings.Kubeconfigs():
            yield files.kubeconfigs(name, place.patterns)
        case settings.Cluster():
            yield from cluster.sources(name, place, timer)
        case settings.Endpoints():
            yield EndpointSource(name, place.endpoints, timer)
