"""Warnings: the rule that would permit a request, its expected result, and what was kept."""

from __future__ import annotations

import json

import pytest
import yaml

from certplane import resources, testing
from certplane.resources import certificatesigningrequests as csrs
from certplane.resources import clustertrustbundles as bundles
from certplane.resources import podcertificaterequests as pcrs
from certplane.resources import rbac
from certplane.wire import codec
from tests.flow import plane as flow

PATH = "/apis/certificates.k8s.io/v1/certificatesigningrequests"
SOMEONE = testing.user("someone")
MERGE = "application/merge-patch+json"


async def send(plane, user, method, path, body, kind="application/json"):
    """The status of a response, and the texts of its warnings."""
    response = await flow.respond(plane, method, path, body, user=user, content_type=kind)
    return response.status, flow.warning_texts(response)


async def grant(plane, *rules):
    """Grant rules in their YAML form to SOMEONE."""
    parsed = [codec.decode(json.dumps(rule).encode(), rbac.PolicyRule) for rule in rules]
    await plane.grant_rules(SOMEONE, *parsed)


def all_of(plural, *subresources):
    """A rule for all verbs on a resource, and none on its signers."""
    return {"apiGroups": ["certificates.k8s.io"], "resources": [plural, *subresources], "verbs": ["*"]}


def _approving(csr):
    csr["status"]["conditions"] = [{"type": "Approved", "status": "True", "reason": "Test"}]


def _signing(csr):
    csr["status"]["conditions"] = [{"type": "Failed", "status": "True", "reason": "Test"}]


@pytest.mark.parametrize(("subresource", "change"), [("approval", _approving), ("status", _signing)])
async def test_a_missing_signer_permission_is_warned_of_with_the_rule(subresource, change, caplog):
    """The warning has the rule that permits the request, and a ClusterRole with exactly that rule does."""
    caplog.set_level("INFO", "certplane.access")
    async with flow.running(controllers=frozenset()) as plane:
        await grant(plane, all_of("certificatesigningrequests", f"certificatesigningrequests/{subresource}"))
        csr = json.loads(codec.encode(await plane.client(flow.ADMIN).create(csrs.RESOURCE, flow.new_csr())))
        csr.setdefault("status", {})
        change(csr)
        status, (warning,) = await send(plane, SOMEONE, "PUT", f"{PATH}/a/{subresource}", csr)
        verb = "approve" if subresource == "approval" else "sign"
        rule = (
            "- {apiGroups: ['certificates.k8s.io'], resources: [signers], "
            f"resourceNames: ['kubernetes.io/kube-apiserver-client'], verbs: [{verb}]}}"
        )
        assert (status, warning) == (403, f"a ClusterRole with this rule would permit it: {rule}")
        (logged,) = [record for record in caplog.records if "permission for the signer missing" in record.message]
        assert (logged.rule, logged.user, logged.object) == (rule, "someone", "a")
        await grant(plane, *yaml.safe_load(rule))
        assert await send(plane, SOMEONE, "PUT", f"{PATH}/a/{subresource}", csr) == (200, [])


async def test_a_missing_attest_permission_is_warned_of_with_the_rule():
    """The warning has the form of those for approve and sign."""
    path = "/apis/certificates.k8s.io/v1beta1/clustertrustbundles"
    async with flow.running(kinds=(*resources.DEFAULT, *resources.OPTIONAL)) as plane:
        await grant(plane, all_of("clustertrustbundles"))
        bundle = flow.trust_bundle("example.com:web:roots", "example.com/web")
        bundle.kind, bundle.api_version = bundles.RESOURCE.kind, bundles.RESOURCE.api_version
        status, (warning,) = await send(plane, SOMEONE, "POST", path, codec.encode(bundle))
        assert status == 403
        assert warning.endswith("resources: [signers], resourceNames: ['example.com/web'], verbs: [attest]}")
        await grant(plane, *yaml.safe_load(warning.partition(": ")[2]))
        assert await send(plane, SOMEONE, "POST", path, codec.encode(bundle)) == (201, [])


async def test_a_missing_pod_signing_permission_is_warned_of_with_the_rule():
    """The response has the warning although it is a 422."""
    path = "/apis/certificates.k8s.io/v1beta1/namespaces/default/podcertificaterequests/r/status"
    async with flow.running(kinds=(*resources.DEFAULT, *resources.OPTIONAL)) as plane:
        await grant(plane, all_of("podcertificaterequests", "podcertificaterequests/status"))
        created = await plane.client(flow.ADMIN).create(pcrs.RESOURCE, flow.pod_request(), "default")
        now = "2026-01-01T00:00:00Z"
        denied = {"type": "Denied", "status": "True", "reason": "No", "message": "", "lastTransitionTime": now}
        body = {**json.loads(codec.encode(created)), "status": {"conditions": [denied]}}
        status, (warning,) = await send(plane, SOMEONE, "PUT", path, body)
        assert status == 422
        assert warning.endswith("resources: [signers], resourceNames: ['example.com/pods'], verbs: [sign]}")
        await grant(plane, *yaml.safe_load(warning.partition(": ")[2]))
        assert await send(plane, SOMEONE, "PUT", path, body) == (200, [])


async def test_hints_can_be_disabled():
    """Then there is no warning, as from a real API server."""
    async with flow.running(creation_hints=False) as plane:
        await grant(plane, all_of("certificatesigningrequests", "certificatesigningrequests/approval"))
        csr = json.loads(codec.encode(await plane.client(flow.ADMIN).create(csrs.RESOURCE, flow.new_csr())))
        csr["status"] = {}
        _approving(csr)
        assert await send(plane, SOMEONE, "PUT", f"{PATH}/a/approval", csr) == (403, [])
        assert await send(plane, flow.ADMIN, "PATCH", f"{PATH}/a", {"spec": {"usages": ["any"]}}, MERGE) == (200, [])


# --- expected results -------------------------------------------------------------------------------------------------


def server_request():
    """A request of a web server, with its DNS names."""
    return flow.pkcs10("vault-server", dns=("vault-0", "vault-1"))


WILL_NOT = (
    "signer kubernetes.io/kube-apiserver-client will not sign this request: invalid usage for client certificate: "
    "server auth; no signer of this server accepts it; define one with certplane serve --signers"
)


async def test_the_approver_gets_the_same_warning_as_the_requestor():
    """A request of a web server to the client signer will fail after approval."""
    async with flow.running() as plane:
        csr = flow.new_csr("vault", usages=("client auth", "server auth"), request=server_request())
        csr.kind, csr.api_version = csrs.RESOURCE.kind, csrs.RESOURCE.api_version
        assert await send(plane, flow.ADMIN, "POST", PATH, codec.encode(csr)) == (201, [WILL_NOT])
        stored = json.loads(codec.encode(await plane.client(flow.ADMIN).get(csrs.RESOURCE, "vault")))
        stored["status"] = {}
        _approving(stored)
        assert await send(plane, flow.ADMIN, "PUT", f"{PATH}/vault/approval", stored) == (200, [WILL_NOT])
        # Repeating an approval, or denying, causes no warning.
        again = json.loads(codec.encode(await plane.client(flow.ADMIN).get(csrs.RESOURCE, "vault")))
        again["status"]["conditions"][0]["message"] = "again"
        assert await send(plane, flow.ADMIN, "PUT", f"{PATH}/vault/approval", again) == (200, [])


async def test_a_denial_has_no_warning():
    """There is nothing to warn of."""
    async with flow.running() as plane:
        admin = plane.client(flow.ADMIN)
        await admin.create(csrs.RESOURCE, flow.new_csr(usages=("client auth", "server auth")))
        csr = json.loads(codec.encode(await admin.get(csrs.RESOURCE, "a")))
        csr["status"] = {"conditions": [{"type": "Denied", "status": "True", "reason": "Test"}]}
        assert await send(plane, flow.ADMIN, "PUT", f"{PATH}/a/approval", csr) == (200, [])


# --- ignored changes --------------------------------------------------------------------------------------------------


#: Placeholder for a request with another key: test ids must be the same in each run.
ANOTHER = "another key"


def as_builtins(spec):
    return json.loads(codec.encode(csrs.CertificateSigningRequest(spec=spec)))["spec"]


@pytest.mark.parametrize(
    ("change", "changes"),
    [
        ({}, None),
        ({"request": ANOTHER}, "request; the certificate will not match the new key"),
        ({"expiration_seconds": 1200}, "expirationSeconds"),
        ({"expiration_seconds": None}, None),
        ({"usages": ["client auth", "digital signature"]}, "usages"),
        ({"usages": ["client auth", "client auth"]}, None),
        ({"signer_name": "example.com/a"}, "signerName"),
        ({"request": ANOTHER, "usages": ["any"]}, "request, usages; the certificate will not match the new key"),
        ({"request": b"no request"}, "request"),
    ],
    ids=str,
)
@pytest.mark.parametrize("method", ["PUT", "PATCH"])
async def test_ignored_changes_of_the_spec_are_warned_of(method, change, changes):
    """The stored request is kept, as in Kubernetes; the certificate will not match a new key."""
    async with flow.running() as plane:
        admin = plane.client(flow.ADMIN)
        created = await admin.create(csrs.RESOURCE, flow.new_csr("rerun", expiration_seconds=600))
        spec = csrs.CertificateSigningRequestSpec(
            request=created.spec.request,
            signer_name=created.spec.signer_name,
            usages=["client auth"],
            expiration_seconds=600,
        )
        for name, value in change.items():
            setattr(spec, name, flow.pkcs10("a") if value is ANOTHER else value)
        sent = {"metadata": {"annotations": {"a": "b"}}, "spec": as_builtins(spec)}
        kind = MERGE
        if method == "PUT":
            kind = "application/json"
            sent = {"apiVersion": "certificates.k8s.io/v1", "kind": csrs.RESOURCE.kind, **sent}
            sent["metadata"]["name"] = "rerun"
        status, warnings = await send(plane, flow.ADMIN, method, f"{PATH}/rerun", sent, kind)
        expected = [
            (
                f"the spec of rerun is immutable; ignored changes to {changes}; to submit a new request, run kubectl "
                "delete csr rerun first or use another name"
            )
        ]
        assert (status, warnings) == (200, expected if changes else [])
        after = await admin.get(csrs.RESOURCE, "rerun")
        assert after.spec == created.spec
        assert after.metadata.annotations == {"a": "b"}
