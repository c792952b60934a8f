"""Reads the facts about a request from any API server, with as few permissions as it gets.

Only the request itself is required. Every other read may be refused, or be about something that the server does not
have; the explanation then says so.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Mapping, Sequence
from typing import Final, TypeVar

from certplane import errors
from certplane.client import api, permissions
from certplane.client.api import Client
from certplane.clock import Clock
from certplane.explain import outlook
from certplane.explain.facts import Facts, OwnPermissions, Roles, Unread
from certplane.golang import formatting
from certplane.meta.selectors import FieldSelector, Term
from certplane.resources import certificatesigningrequests as csrs
from certplane.resources import events, rbac, reviews, signingpreviews
from certplane.resources.certificatesigningrequests import CertificateSigningRequest
from certplane.resources.signingpreviews import SigningPreviewStatus

_T = TypeVar("_T")

#: The namespace of Events about objects without one.
_EVENTS_NAMESPACE: Final = "default"
_READINESS: Final = "/readyz"
#: A failed check in the response of /readyz?verbose.
_FAILED_CHECK: Final = re.compile(r"^\[[-!]\]([\w.-]+) failed(?:, ignored)?: (.*)$", re.MULTILINE)
#: What a server says instead of the reason to those who may not read it.
_WITHHELD: Final = "reason withheld"
_MAX_REASON: Final = 300


async def gather(client: Client, name: str, clock: Clock, flags: str = "") -> Facts:
    """The facts about the request called `name`. Raises errors.APIError and api.Unreachable if the request itself
    cannot be read.
    """
    csr = await client.get(csrs.RESOURCE, name)
    signer = csr.spec.signer_name
    return Facts(
        csr=csr,
        now=clock.now(),
        events=await _optional(_read_events(client, csr)),
        roles=await _optional(_read_roles(client)),
        permissions=await _optional(_read_permissions(client, name, signer)),
        preview=await _optional(_read_preview(client, csr)),
        checks=await _optional(_read_checks(client)),
        siblings=await _optional(_read_siblings(client, signer)) if _waits_for_signer(csr) else (),
        flags=flags,
    )


def _waits_for_signer(csr: CertificateSigningRequest) -> bool:
    return csrs.is_approved(csr) and not csr.status.certificate


async def _optional(read: Awaitable[_T]) -> _T | Unread:
    """What a read returns, or why there is nothing."""
    try:
        return await read
    except errors.Forbidden as error:
        rule, _ = permissions.rule_for(error.message)
        return Unread("you may not read this", rule)
    except (errors.NotFound, errors.MethodNotAllowed):
        return Unread("this server does not have it")
    except (errors.APIError, api.Unreachable) as error:
        return Unread(formatting.shorten(str(error), _MAX_REASON))


async def _read_events(client: Client, csr: CertificateSigningRequest) -> Sequence[events.Event]:
    """The Events about this very object: another one of the name may have left some."""
    selector = FieldSelector(
        (
            Term("involvedObject.kind", "=", csrs.RESOURCE.kind),
            Term("involvedObject.name", "=", csr.metadata.name),
        )
    )
    listing = await client.list(events.RESOURCE, _EVENTS_NAMESPACE, field_selector=str(selector))
    return [event for event in listing.items if event.involved_object.uid in ("", csr.metadata.uid)]


async def _read_roles(client: Client) -> Roles:
    roles = await client.list(rbac.CLUSTER_ROLES)
    bindings = await client.list(rbac.CLUSTER_ROLE_BINDINGS)
    return Roles(roles.items, bindings.items)


async def _read_permissions(client: Client, name: str, signer: str) -> OwnPermissions:
    group, domain = csrs.RESOURCE.group, signer.partition("/")[0]
    approval = reviews.ResourceAttributes(
        verb="update", group=group, resource=csrs.RESOURCE.plural, subresource="approval", name=name
    )
    may_update = await _is_allowed(client, approval)
    may_approve = False
    for signers in (signer, f"{domain}/*"):
        attributes = reviews.ResourceAttributes(verb="approve", group=group, resource="signers", name=signers)
        may_approve = may_approve or await _is_allowed(client, attributes)
    return OwnPermissions(await _user_name(client), may_update, may_approve)


async def _is_allowed(client: Client, attributes: reviews.ResourceAttributes) -> bool:
    spec = reviews.SelfSubjectAccessReviewSpec(resource_attributes=attributes)
    review = reviews.SelfSubjectAccessReview(spec=spec)
    answer = await client.create(reviews.SELF_SUBJECT_ACCESS_REVIEWS, review)
    return answer.status.allowed


async def _user_name(client: Client) -> str:
    """Servers before Kubernetes 1.28 do not say."""
    review = await _optional(client.create(reviews.SELF_SUBJECT_REVIEWS, reviews.SelfSubjectReview()))
    return "" if isinstance(review, Unread) else review.status.user_info.username


async def _read_preview(client: Client, csr: CertificateSigningRequest) -> SigningPreviewStatus:
    spec = outlook.question(csr)
    preview = await client.create(signingpreviews.RESOURCE, signingpreviews.SigningPreview(spec=spec))
    return preview.status


async def _read_checks(client: Client) -> Mapping[str, str]:
    """The failed checks of the server. One that is not ready answers with 500, and the same text."""
    request = api.Request("GET", _READINESS, [("verbose", "")])
    response = await client.transport.send(request)
    if response.status not in (200, 500):
        raise errors.from_status({}, response.status)
    failed = _FAILED_CHECK.findall(response.body.decode("utf-8", "replace"))
    return {name: "" if reason == _WITHHELD else reason for name, reason in failed}


async def _read_siblings(client: Client, signer: str) -> Sequence[CertificateSigningRequest]:
    selector = FieldSelector((Term("spec.signerName", "=", signer),))
    return (await client.list(csrs.RESOURCE, field_selector=str(selector))).items
