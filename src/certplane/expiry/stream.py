"""A source that another part of the program provides: certificates as they come, such as those of an inventory."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterable, Callable

from certplane.expiry import cluster
from certplane.expiry.findings import Collector


@dataclasses.dataclass(frozen=True, slots=True)
class StreamedCertificate:
    """A certificate with its chain, in PEM. `name` is what people call it, such as the name of the CSR; `signer` is the
    name of its signer, or empty.
    """

    name: str
    certificate: bytes
    signer: str = ""


class InventorySource:
    """Implements `Source`. `open_stream` begins a new pass over all certificates that have not ended for long; it may
    raise SourceProblem. Only the first certificate of each chain counts: a CA would be repeated with each of them.
    """

    kind = "inventory"

    def __init__(self, name: str, open_stream: Callable[[], AsyncIterable[StreamedCertificate]]) -> None:
        self.name = name
        self._open_stream = open_stream

    async def read(self, findings: Collector) -> None:
        """See `Source.read`."""
        async for streamed in self._open_stream():
            labels = (("csr_name", streamed.name), ("signer_name", streamed.signer))
            first = next(cluster.inspect(streamed.name, "", labels, streamed.certificate))
            findings.add(dataclasses.replace(first, place=""))
