"""Deletes PodCertificateRequests 15 minutes after their creation, whether they are finished or not.

Source: kubernetes, `pkg/controller/certificates/cleaner/pcrcleaner.go`.
"""

from __future__ import annotations

import datetime
from typing import Final

from certplane import timestamps
from certplane.controllers.runtime.periodiccleaner import CleanupRule
from certplane.meta.resource import Resource
from certplane.resources.podcertificaterequests import PodCertificateRequest

NAME: Final = "podcertificaterequest-cleaner-controller"
ACCOUNT: Final = "podcertificaterequestcleaner"
_MAX_AGE: Final = datetime.timedelta(minutes=15)


def reason_to_delete(pod_request: PodCertificateRequest, now: datetime.datetime) -> str:
    """Why to delete a request; empty to keep it. Raises ValueError if its time cannot be read."""
    created = pod_request.metadata.creation_timestamp
    is_old = created is not None and timestamps.parse_rfc3339(created) <= now - _MAX_AGE
    return "created more than 15 minutes ago" if is_old else ""


def rule(resource: Resource[PodCertificateRequest]) -> CleanupRule[PodCertificateRequest]:
    """The rule for the version of the kind that the server has. It is applied every five minutes."""
    return CleanupRule(resource, reason_to_delete, 300.0)
