"""The explanation as a document for programs: `-o json`.

The document is versioned like an API object. Fields may be added within a version; none is removed or changes its
meaning.
"""

from __future__ import annotations

from typing import Any, Final

from certplane import timestamps
from certplane.explain.approval import Grant, Holder
from certplane.explain.diagnosis import Answer
from certplane.explain.explanation import Findings
from certplane.explain.facts import Unread
from certplane.resources import certificatesigningrequests as csrs
from certplane.resources import signingpreviews
from certplane.wire import codec

API_VERSION: Final = f"{signingpreviews.GROUP}/v1alpha1"
KIND: Final = "Explanation"


def build(findings: Findings, answer: Answer) -> dict[str, Any]:
    """The document. What could not be read is in `unread`, with the reason."""
    obj, requested, look = findings.csr, findings.requested, findings.outlook
    retry = findings.next_retry
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {"name": obj.metadata.name, "uid": obj.metadata.uid},
        "state": csrs.condition_text(obj),
        "answer": {"code": answer.code, "message": answer.text, "fixes": list(answer.fixes)},
        "requested": {
            "signerName": requested.signer,
            "subject": requested.subject,
            "subjectAltNames": list(requested.names),
            "key": requested.key,
            "certificateAuthority": requested.is_ca,
            "usages": list(requested.usages),
            "expirationSeconds": requested.lifetime_seconds,
            "username": requested.username,
            "groups": list(requested.groups),
            "creationTimestamp": requested.created or None,
        },
        "checks": [
            {"name": check.name, "result": check.result.value, "message": check.message} for check in findings.checks
        ],
        "approval": _approval(findings),
        "signer": {
            "source": look.source,
            "preview": codec.to_builtins(look.status) if look.status is not None else None,
            "maySign": [_holder(holder) for holder in findings.signers],
        },
        "nextRetry": timestamps.rfc3339(retry) if retry is not None else None,
        "events": [
            {
                "time": report.time or None,
                "type": report.type,
                "reason": report.reason,
                "message": report.message,
                "count": report.count,
            }
            for report in findings.reports
        ],
        "unread": _unread(findings),
    }


def _approval(findings: Findings) -> dict[str, Any]:
    asked = findings.approval
    return {
        "mayApprove": [_holder(holder) for holder in asked.holders],
        "you": None
        if asked.own is None
        else {
            "username": asked.own.user,
            "mayApprove": not asked.missing_rules,
            "missingRules": list(asked.missing_rules),
        },
    }


def _holder(holder: Holder) -> dict[str, Any]:
    return {
        "kind": holder.kind,
        "name": holder.name,
        "subresource": _grant(holder.subresource),
        "signer": _grant(holder.signer),
    }


def _grant(grant: Grant | None) -> dict[str, str] | None:
    return {"clusterRole": grant.role, "clusterRoleBinding": grant.binding} if grant is not None else None


def _unread(findings: Findings) -> list[dict[str, str]]:
    facts = findings.facts
    parts = {
        "events": facts.events,
        "roles": facts.roles,
        "permissions": facts.permissions,
        "preview": facts.preview,
        "readiness": facts.checks,
        "otherRequests": facts.siblings,
    }
    return [
        {"what": name, "reason": part.reason, "rule": part.rule}
        for name, part in parts.items()
        if isinstance(part, Unread)
    ]
