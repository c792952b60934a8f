"""Certificates that live TLS endpoints serve. An endpoint that cannot be reached is a problem of its own: it does not
make the others unknown.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Sequence
from typing import Final

from certplane import files
from certplane.client import tlshandshake
from certplane.client.tlshandshake import Endpoint, HandshakeError
from certplane.clock import Clock
from certplane.expiry.files import printable
from certplane.expiry.findings import Collector, Finding
from certplane.expiry.settings import EndpointSettings
from certplane.kubeadm.certificatefiles import MAX_FILE
from certplane.x509.trust import inventory
from certplane.x509.trust.inventory import Item

#: How many endpoints are asked at once.
_AT_ONCE: Final = 16


class EndpointSource:
    """Some endpoints."""

    kind = "endpoints"

    def __init__(self, name: str, endpoints: Sequence[EndpointSettings], timer: Clock) -> None:
        self.name = name
        self._endpoints = endpoints
        self._clock = timer

    async def read(self, findings: Collector) -> None:
        """See `Source.read`."""
        limit = asyncio.Semaphore(_AT_ONCE)

        async def ask(endpoint: EndpointSettings) -> None:
            async with limit:
                findings.add(await self._ask(endpoint))

        async with asyncio.TaskGroup() as group:
            for endpoint in self._endpoints:
                group.create_task(ask(endpoint))

    async def _ask(self, settings: EndpointSettings) -> Finding:
        address = settings.address
        host = f"[{address.host}]" if ":" in address.host else address.host
        path = f"{host}:{address.port}"
        endpoint = Endpoint(address.host, address.port, settings.server_name, settings.start_tls)
        labels = (("endpoint", path), ("server_name", settings.server_name))

        def finding(item: Item) -> Finding:
            return Finding(path, settings.server_name, labels, item)

        try:
            roots = files.read_regular(settings.ca_file, MAX_FILE) if settings.ca_file is not None else b""
            served = await tlshandshake.read(endpoint, self._clock, roots)
        except OSError as error:
            return finding(Item(problem=f"the file {settings.ca_file} cannot be read: {files.error_text(error)}"))
        except HandshakeError as error:
            return finding(Item(problem=f"it {printable(str(error))}"))
        items = inventory.inspect(served.certificate, needs_pem=False)
        item = items[0] if items else Item(problem="it serves a certificate that cannot be parsed")
        # That it has expired is no news: its end is shown.
        if served.distrust and not served.distrust.endswith("has expired"):
            item = dataclasses.replace(item, problem=f"it is not trusted: {printable(served.distrust)}")
        return finding(item)
