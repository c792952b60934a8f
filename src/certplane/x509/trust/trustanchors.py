"""Trust anchors, as ClusterTrustBundles hold them: PEM certificates of CAs.

Source: kubernetes, `pkg/apis/certificates/validation`, whose error texts these are.
"""

from __future__ import annotations

from certplane.golang import pem
from certplane.x509.trust import certificates, pathcertificate


def find_problems(text: bytes) -> list[str]:
    """What is wrong with a list of trust anchors in PEM. Entries are counted from 0; text between blocks is ignored."""
    problems: list[str] = []
    indices_by_data: dict[bytes, list[int]] = {}
    for index, block in enumerate(pem.blocks(text)):
        problem = _entry_problem(block)
        if problem:
            problems.append(f"entry {index} {problem}")
        indices_by_data.setdefault(block.data, []).append(index)
    if problems:
        return problems
    if not indices_by_data:
        return ["at least one trust anchor must be provided"]
    return [
        f"duplicate trust anchor (indices [{' '.join(map(str, indices))}])"
        for indices in indices_by_data.values()
        if len(indices) > 1
    ]


def _entry_problem(block: pem.Block) -> str:
    if block.label != certificates.PEM_LABEL:
        return f"has bad block type: {block.label}"
    if block.headers:
        return "has PEM block headers"
    try:
        certificate = pathcertificate.parse(block.data)
    except pathcertificate.CertificateParseError:
        # This includes basic constraints that cannot be parsed. Go refuses the whole certificate for them, so
        # Kubernetes' message "has invalid basic constraints" never occurs.
        return "does not parse as X.509"
    return "" if certificate.is_ca else "does not have the CA bit set"
