"""Attacks on the kubelet-serving approver: one test for each row of docs/attackers.md."""

from __future__ import annotations

import re

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from certplane import errors, signernames, testing
from certplane.client import api
from certplane.controllers.approving.kubeletserving import approver, evidence, policy, rules
from certplane.controllers.runtime import decisions
from certplane.golang import asn1, pem
from certplane.meta import context
from certplane.resources import certificatesigningrequests as csrs
from certplane.server import local
from tests import kubelets
from tests.flow import plane as flow
from tests.flow.approving import ACCOUNT, approver_plane, grant, node_user

APPROVED = (decisions.APPROVED, policy.PROVEN)
CREATE = ("certificates.k8s.io", "certificatesigningrequests", ("create",), ())
#: The user of a bootstrap token; the role that kubeadm gives to it permits creating requests.
TOKEN = context.User(
    "system:bootstrap:abcdef",
    groups=("system:bootstrappers", "system:bootstrappers:kubeadm:default-node-token", "system:authenticated"),
)


def _id(value):
    """Without memory addresses: test names must be the same in all processes."""
    return re.sub(" object at 0x[0-9a-f]+", "", str(value))


def denied(reason):
    return decisions.DENIED, reason


def pending(reason):
    return decisions.NOT_APPROVED, reason


async def _nothing_issued(cluster, *names):
    """The requests stay without approval and certificate. Denied ones are kept for an hour."""
    await cluster.clock.advance(1800)
    await testing.settle(500)
    for name in names or ("a",):
        csr = await cluster.admin.get(csrs.RESOURCE, name)
        assert csrs.APPROVED not in [condition.type for condition in csr.status.conditions]
        assert csr.status.certificate == b""


# --- the requestor ----------------------------------------------------------------------------------------------------


async def test_stolen_bootstrap_token():
    """A token can request a client certificate of a node, but no serving certificate."""
    async with approver_plane() as cluster:
        await cluster.register()
        await cluster.request(user=TOKEN)
        assert await cluster.decision() == denied(policy.NOT_A_NODE)
        await _nothing_issued(cluster)


async def test_stolen_bootstrap_token_that_becomes_a_node():
    """A token can create a node of any name, but not get the names of the API server or of other services."""
    async with approver_plane({"forbidden": ["vault.example.com"]}) as cluster:
        for name, hostname, reason in (
            ("kubernetes", "kubernetes", policy.FORBIDDEN_NAME),
            ("kubernetes.default.svc", "kubernetes.default.svc", policy.FORBIDDEN_NAME),
            ("vault", "vault.example.com", policy.FORBIDDEN_NAME),
            ("vault2", "vault.example.org", policy.NAME_NOT_PROVEN),
        ):
            await cluster.register(name, ("Hostname", hostname), ("InternalIP", "10.0.0.7"))
            await cluster.request(name, node_user(name), common_name=f"system:node:{name}", dns=(hostname,), ips=())
            assert await cluster.decision(name) == denied(reason)


async def test_user_with_the_subject_of_a_node():
    """The subject of a request does not show who sent it."""
    async with approver_plane() as cluster:
        await cluster.register()
        await grant(cluster.plane, flow.JANE, CREATE)
        await cluster.request(user=flow.JANE)
        assert await cluster.decision() == denied(policy.NOT_A_NODE)
        await _nothing_issued(cluster)


async def test_group_forged_in_the_body():
    """The server sets the user and the groups."""
    async with approver_plane() as cluster:
        await cluster.register()
        await grant(cluster.plane, flow.JANE, CREATE)
        sent = await cluster.request(user=flow.JANE, username="system:node:n1", groups=["system:nodes"])
        assert (sent.spec.username, sent.spec.groups) == ("jane", ["system:authenticated"])
        assert await cluster.decision() == denied(policy.NOT_A_NODE)


async def test_node_user_without_the_group():
    """A user of another authenticator with the name of a node is not a node without the group."""
    async with approver_plane() as cluster:
        await cluster.register()
        user = context.User("system:node:n1", groups=("system:authenticated",))
        await grant(cluster.plane, user, CREATE)
        await cluster.request(user=user)
        assert await cluster.decision() == denied(policy.NOT_A_NODE)


async def test_node_without_a_name():
    """NodeRestriction forbids its requests; where a server does not, the approver denies them."""
    async with approver_plane() as cluster:
        nameless = node_user("")
        with pytest.raises(errors.Forbidden):
            await cluster.request(user=nameless, common_name="system:node:")
        nameless = context.User("system:node:", groups=("system:authenticated",))
        await grant(cluster.plane, nameless, CREATE)
        await cluster.request(user=nameless, common_name="system:node:")
        assert await cluster.decision() == denied(policy.NOT_A_NODE)


async def test_node_in_the_name_of_another():
    """NodeRestriction forbids a common name of another node; where a server does not, the approver denies it."""
    async with approver_plane() as cluster:
        await cluster.register("n2", ("Hostname", "n2"), ("InternalIP", "10.0.0.2"))
        with pytest.raises(errors.Forbidden, match="can only create a node CSR with CN=system:node:n1"):
            await cluster.request(common_name="system:node:n2", dns=("n2",), ips=())
    request = kubelets.pkcs10("system:node:n2", ("n2",), ())
    known = evidence.Evidence(claims=frozenset({"n2"}))
    parsed = rules.parse({"sources": ["node"]}).rules
    decision = policy.evaluate(policy.parse_request(request), kubelets.spec(request), known, parsed)
    assert (decision.action, decision.reason) == (policy.Action.DENY, policy.IDENTITY_MISMATCH)


async def test_two_common_names():
    """A signer would use the last one."""
    async with approver_plane() as cluster:
        await cluster.register()
        more = [x509.NameAttribute(NameOID.COMMON_NAME, "system:node:n1")]
        await cluster.request(common_name="system:node:n2", attributes=more)
        assert await cluster.decision() == denied(policy.SUBJECT_NOT_ALLOWED)


async def test_further_organization():
    """Serving certificates have organizations as well, which a careless authenticator would read as groups."""
    async with approver_plane() as cluster:
        await cluster.register()
        await cluster.request(organizations=("system:nodes", "system:masters"))
        assert await cluster.decision() == denied(policy.IDENTITY_MISMATCH)


# --- the request ------------------------------------------------------------------------------------------------------


async def test_another_signer():
    """Requests for other signers are ignored."""
    async with approver_plane() as cluster:
        await cluster.register()
        usages = ("digital signature", "client auth")
        await cluster.request("a", signer=signernames.KUBE_APISERVER_CLIENT, usages=usages)
        await cluster.request("b", flow.ADMIN, signer="example.com/serving")
        await cluster.request("c")
        await flow.issued(cluster.admin, "c")
        await _nothing_issued(cluster, "a", "b")
        assert {name for name, *_ in cluster.recorded} == {"c"}


@pytest.mark.parametrize(
    "usages", [(*kubelets.USAGES, "client auth"), (*kubelets.USAGES, "cert sign"), ("client auth",), ("any",)]
)
async def test_extra_usages(usages):
    """With client auth, a serving certificate would also be the identity of the node."""
    async with approver_plane() as cluster:
        await cluster.register()
        await cluster.request(usages=usages)
        assert await cluster.decision() == denied(policy.USAGES_NOT_ALLOWED)
        await _nothing_issued(cluster)


async def test_extra_usages_inside_the_request():
    """The signer would ignore them, but no kubelet requests them."""
    async with approver_plane() as cluster:
        await cluster.register()
        await cluster.request(extensions=[x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])])
        assert await cluster.decision() == denied(policy.EXTENSION_NOT_ALLOWED)


async def test_ca_certificate():
    """The signer would ignore it, but no kubelet requests it."""
    async with approver_plane() as cluster:
        await cluster.register()
        await cluster.request(extensions=[x509.BasicConstraints(ca=True, path_length=None)])
        assert await cluster.decision() == denied(policy.CA_NOT_ALLOWED)
        await _nothing_issued(cluster)


async def test_very_long_lifetime():
    """It would outlast the reaction to a theft."""
    async with approver_plane({"max-lifetime": "720h"}) as cluster:
        await cluster.register()
        await cluster.request(expiration_seconds=10 * 365 * 86400)
        assert await cluster.decision() == denied(policy.LIFETIME_TOO_LONG)


async def test_weak_key():
    """An attacker could compute the private key."""
    async with approver_plane() as cluster:
        await cluster.register()
        await cluster.request(key=rsa.generate_private_key(65537, 1024))
        assert await cluster.decision() == denied(policy.WEAK_KEY)


# --- the names --------------------------------------------------------------------------------------------------------


async def test_name_of_another_node():
    """It is not proven, even if both Nodes claim it."""
    async with approver_plane({"sources": ["node"]}) as cluster:
        await cluster.register("n2", ("Hostname", "n2"), ("InternalIP", "10.0.0.2"))
        await cluster.register("n1", ("Hostname", "n2"), ("InternalIP", "10.0.0.1"))
        await cluster.request(dns=("n2",), ips=())
        assert await cluster.decision() == pending(policy.CLAIMED_BY_ANOTHER)
        await _nothing_issued(cluster)


async def test_two_nodes_claim_one_address():
    """Neither gets it until one of them releases it."""
    async with approver_plane({"sources": ["node"]}) as cluster:
        await cluster.register("n1", ("InternalIP", "10.0.0.1"))
        await cluster.register("n2", ("InternalIP", "10.0.0.1"))
        await cluster.request("a", dns=())
        await cluster.request("b", node_user("n2"), common_name="system:node:n2", dns=())
        assert await cluster.decision("a") == await cluster.decision("b") == pending(policy.CLAIMED_BY_ANOTHER)
        await cluster.register("n2", ("InternalIP", "10.0.0.2"))
        await flow.issued(cluster.admin, "a")
        assert await cluster.conditions("b") == []


async def test_node_claims_a_name_to_block_its_owner(tmp_path):
    """A claim does not block what the inventory assigns to another node."""
    path = tmp_path / "nodes.yaml"
    path.write_text("n1: [n1, 10.0.0.1]\n")
    async with approver_plane({"inventory": str(path)}, inventory=path) as cluster:
        await cluster.register("n2", ("Hostname", "n1"), ("InternalIP", "10.0.0.1"))
        await cluster.request("a")
        assert await cluster.decision("a") == APPROVED
        await cluster.request("b", node_user("n2"), common_name="system:node:n2", dns=("n1",))
        assert await cluster.decision("b") == denied(policy.BELONGS_TO_ANOTHER)


async def test_stolen_node_credential_claims_any_name():
    """A kubelet writes its own status, so another source has to agree."""
    async with approver_plane() as cluster:
        await cluster.register("n1", ("Hostname", "vault.example.org"), ("InternalIP", "192.0.2.1"))
        await cluster.request("a", dns=("vault.example.org",), ips=())
        await cluster.request("b", dns=(), ips=("192.0.2.1",))
        assert await cluster.decision("a") == denied(policy.NAME_NOT_PROVEN)
        assert await cluster.decision("b") == denied(policy.ADDRESS_NOT_PROVEN)


@pytest.mark.parametrize("name", ["*", "*.example.com", "n1.*"])
async def test_wildcard(name):
    """It is denied whatever the evidence."""
    async with approver_plane({"sources": ["node"]}) as cluster:
        await cluster.register("n1", ("Hostname", name), ("InternalIP", "10.0.0.1"))
        await cluster.request(dns=("n1", name))
        assert await cluster.decision() == denied(policy.WILDCARD_NAME)
        await _nothing_issued(cluster)


@pytest.mark.parametrize(
    "names",
    [
        {"ips": ("10.96.0.1",)},
        {"ips": ("10.0.0.100",)},
        {"ips": ("::ffff:10.0.0.100",)},
        {"dns": ("api.example.com",)},
        {"dns": ("kubernetes",)},
        {"dns": ("kubernetes.default.svc.cluster.local",)},
    ],
    ids=_id,
)
async def test_names_and_addresses_of_the_api_server(names):
    """They are denied, even if the Node object is sufficient evidence."""
    settings = {
        "sources": ["node"],
        "api-server": ["api.example.com", "10.0.0.100"],
        "service-cidrs": ["10.96.0.0/12"],
    }
    async with approver_plane(settings) as cluster:
        claimed = [("Hostname", name) for name in (*names.get("dns", ()), *names.get("ips", ()))]
        await cluster.register("n1", *claimed)
        await cluster.request(**{"dns": (), "ips": (), **names})
        reason = policy.FORBIDDEN_NAME if "dns" in names else policy.FORBIDDEN_ADDRESS
        assert await cluster.decision() == denied(reason)
        await _nothing_issued(cluster)


async def test_service_of_the_cluster():
    """Names of Services never belong to a node."""
    async with approver_plane({"sources": ["node"]}) as cluster:
        await cluster.register("n1", ("Hostname", "vault.vault.svc"))
        await cluster.request(dns=("vault.vault.svc",), ips=())
        assert await cluster.decision() == denied(policy.FORBIDDEN_NAME)


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "::ffff:127.0.0.1", "169.254.169.254", "fe80::1", "224.0.0.1"])
async def test_loopback_link_local_and_multicast_addresses(address):
    """A certificate for such an address would be valid on every machine."""
    async with approver_plane({"sources": ["node"]}) as cluster:
        await cluster.register("n1", ("InternalIP", address))
        await cluster.request(dns=(), ips=(address,))
        assert await cluster.decision() == denied(policy.FORBIDDEN_ADDRESS)


async def test_localhost():
    """The name is denied, as is the address."""
    async with approver_plane({"sources": ["node"]}) as cluster:
        await cluster.register("n1", ("Hostname", "localhost"))
        await cluster.request(dns=("localhost",), ips=())
        assert await cluster.decision() == denied(policy.FORBIDDEN_NAME)


async def test_name_only_in_the_subject():
    """Old clients would read it there."""
    async with approver_plane() as cluster:
        await cluster.register()
        await cluster.request(dns=(), ips=())
        assert await cluster.decision() == denied(policy.NAMES_MISSING)


@pytest.mark.parametrize(
    "name",
    [
        x509.RFC822Name("root@example.com"),
        x509.UniformResourceIdentifier("spiffe://example.com/vault"),
        x509.OtherName(x509.ObjectIdentifier("1.3.6.1.4.1.311.20.2.3"), b"\x0c\x04root"),
        x509.DirectoryName(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "root")])),
    ],
    ids=lambda name: type(name).__name__,
)
async def test_names_of_other_kinds(name):
    """A kubelet has no email address and no SPIFFE ID."""
    async with approver_plane() as cluster:
        await cluster.register()
        await cluster.request(names=[name])
        assert await cluster.decision() == denied(policy.NAME_KIND_NOT_ALLOWED)


async def test_too_many_names():
    """They are denied without any DNS lookup."""
    table = kubelets.TableResolver()
    async with approver_plane({"dns": True, "sources": ["cidrs", "dns"]}, resolver=table) as cluster:
        await cluster.register()
        await cluster.request(dns=[f"n{number}.example.org" for number in range(1000)])
        assert await cluster.decision() == denied(policy.TOO_MANY_NAMES)
        assert table.lookups == []


@pytest.mark.parametrize(
    "name", ["n1.", "kubernetes.", "n1..example.com", "n1\0.example.org", "n1 ", "10.0.0.1", "127.1"]
)
async def test_odd_spellings(name):
    """A spelling that a client may read as another name is denied."""
    async with approver_plane({"sources": ["node"]}) as cluster:
        await cluster.register("n1", ("Hostname", "n1"), ("InternalDNS", name))
        await cluster.request(dns=(name,), ips=())
        assert await cluster.decision() == denied(policy.MALFORMED_NAME)


async def test_upper_case():
    """Forbidden names are compared without case."""
    async with approver_plane({"sources": ["node"]}) as cluster:
        await cluster.register("n1", ("Hostname", "KUBERNETES.Default.svc"))
        await cluster.request(dns=("Kubernetes.Default.SVC",), ips=())
        assert await cluster.decision() == denied(policy.FORBIDDEN_NAME)


async def test_homograph():
    """A name with similar letters is another name in its ASCII form."""
    async with approver_plane() as cluster:
        await cluster.register()
        # The first letter is a Cyrillic one.
        await cluster.request(dns=("xn--1-6tb.example.com",), ips=())
        assert await cluster.decision() == denied(policy.NAME_NOT_PROVEN)


async def test_name_that_is_not_ascii():
    """The server rejects it, and so would the approver."""
    request = _with_raw_name(b"n\xd1\x96")
    async with approver_plane() as cluster:
        new = flow.new_csr("a", signernames.KUBELET_SERVING, kubelets.USAGES, request)
        with pytest.raises(errors.APIError, match="SAN dNSName is malformed"):
            await cluster.kubelet().create(csrs.RESOURCE, new)
    with pytest.raises(policy.certificaterequest.RequestError):
        policy.parse_request(request)


def _with_raw_name(name):
    value = asn1.encode(0x30, asn1.encode(0x82, name))
    extension = x509.UnrecognizedExtension(x509.ObjectIdentifier("2.5.29.17"), value)
    return kubelets.pkcs10(dns=(), ips=(), extensions=[extension])


async def test_ipv4_inside_ipv6():
    """It is treated as the IPv4 address."""
    async with approver_plane({"sources": ["node"]}) as cluster:
        await cluster.register("n2", ("InternalIP", "10.0.0.2"))
        await cluster.register("n1", ("InternalIP", "::ffff:10.0.0.2"))
        await cluster.request(dns=(), ips=("::ffff:10.0.0.2",))
        assert await cluster.decision() == pending(policy.CLAIMED_BY_ANOTHER)


# --- the sources ------------------------------------------------------------------------------------------------------


async def test_dns_spoofed_forward():
    """A forged forward record proves nothing if a pattern has to agree."""
    table = kubelets.TableResolver({"vault.example.org": ["10.0.0.1"]})
    settings = {"dns": True, "sources": ["node+cidrs", "patterns+dns"]}
    async with approver_plane(settings, resolver=table) as cluster:
        await cluster.register()
        await cluster.request(dns=("vault.example.org",), ips=())
        assert await cluster.decision() == denied(policy.NAME_NOT_PROVEN)
        assert table.lookups == []


async def test_dns_spoofed_forward_alone():
    """With dns-reverse, a forged forward record alone proves nothing."""
    table = kubelets.TableResolver({"vault.example.org": ["10.0.0.1"], "10.0.0.1": ["n1.example.com"]})
    settings = {"dns": True, "dns-reverse": True, "sources": ["node+cidrs", "patterns", "dns"]}
    async with approver_plane(settings, resolver=table) as cluster:
        await cluster.register()
        await cluster.request(dns=("vault.example.org",), ips=())
        assert await cluster.decision() == pending(policy.NAME_NOT_PROVEN)
        await _nothing_issued(cluster)


async def test_dns_spoofed_reverse():
    """A forged reverse record proves nothing without the forward record."""
    table = kubelets.TableResolver({"192.0.2.1": ["n1.example.com"], "n1.example.com": ["10.0.0.1"]})
    settings = {"dns": True, "dns-reverse": True, "sources": ["patterns", "dns"]}
    async with approver_plane(settings, resolver=table) as cluster:
        await cluster.register()
        await cluster.request(dns=(), ips=("192.0.2.1",))
        assert await cluster.decision() == pending(policy.ADDRESS_NOT_PROVEN)
        await _nothing_issued(cluster)


@pytest.mark.parametrize("sources", [["node+cidrs", "dns"], ["cidrs", "dns"]])
async def test_name_of_a_neighbour_in_dns(sources):
    """It resolves to an address in the network of the nodes, but of another node."""
    table = kubelets.TableResolver({"n2.example.org": ["10.0.0.2"]})
    async with approver_plane({"dns": True, "sources": sources}, resolver=table) as cluster:
        await cluster.register("n2", ("Hostname", "n2"), ("InternalIP", "10.0.0.2"))
        await cluster.register()
        await cluster.request(dns=("n2.example.org",), ips=())
        assert await cluster.decision() == pending(policy.NAME_NOT_PROVEN)
        await _nothing_issued(cluster)


async def test_dns_is_blocked():
    """An attacker who blocks DNS causes neither denials nor approvals."""
    table = kubelets.TableResolver({"n1.example.org": evidence.ResolutionFailed("no answer within 5s")})
    async with approver_plane({"dns": True, "sources": ["node+cidrs", "dns"]}, resolver=table) as cluster:
        await cluster.register()
        await cluster.request(dns=("n1.example.org",), ips=())
        assert await cluster.decision() == pending(policy.SOURCE_UNAVAILABLE)
        assert await cluster.conditions() == []
        await _nothing_issued(cluster)


async def test_inventory_becomes_unreadable(tmp_path):
    """The previous inventory stays in use."""
    path = tmp_path / "nodes.yaml"
    path.write_text("n1: [n1, 10.0.0.1]\n")
    async with approver_plane({"inventory": str(path)}, inventory=path) as cluster:
        path.write_text("n1: [")
        cluster.inventory.reload(is_requested=True)
        assert cluster.inventory.problem
        await cluster.register("n2", ("Hostname", "n2"), ("InternalIP", "10.0.0.1"))
        await cluster.request("a", node_user("n2"), common_name="system:node:n2", dns=())
        assert await cluster.decision("a") == denied(policy.BELONGS_TO_ANOTHER)
        await cluster.request("b")
        assert await cluster.decision("b") == APPROVED


async def test_inventory_is_missing_at_startup(tmp_path):
    """Nothing is approved without it, whatever the other evidence."""
    path = tmp_path / "nodes.yaml"
    async with approver_plane({"inventory": str(path)}, inventory=path) as cluster:
        await cluster.register()
        await cluster.request()
        assert await cluster.decision() == pending(policy.SOURCE_UNAVAILABLE)


async def test_control_characters():
    """Names from a request are escaped in logs and messages."""
    async with approver_plane() as cluster:
        await cluster.register()
        await cluster.request(dns=("n1\n2026 INFO decision=Approved\x1b[2K",), ips=())
        _, reason, message = await cluster.recorded_decision()
        assert reason == policy.MALFORMED_NAME
        assert message.isprintable()


# --- races ------------------------------------------------------------------------------------------------------------


class _InterferingTransport(local.InProcessTransport):
    """Runs something before its first request: between the decision and the approval."""

    def __init__(self, *arguments, interfere):
        super().__init__(*arguments)
        self._interfere = interfere

    async def send(self, request):
        interfere, self._interfere = self._interfere, None
        if interfere is not None:
            await interfere()
        return await super().send(request)


async def _race(interfere):
    """An approver decides to approve a request that changes before the approval is written."""
    async with flow.running() as plane:
        admin = plane.client(flow.ADMIN)
        await grant(plane, ACCOUNT, *_RIGHTS)
        seen = await plane.client(node_user()).create(csrs.RESOURCE, _good())
        transport = _InterferingTransport(plane.handler, ACCOUNT, "approver", interfere=lambda: interfere(plane))
        settings = rules.parse({"cidrs": ["10.0.0.0/16"], "patterns": ["{node}"], "sources": ["cidrs", "patterns"]})
        sources = approver.Sources(evidence.NodeClaims(_NoNodes()))
        racing = approver.Approver(api.Client(transport), settings, sources, lambda *_: None)
        with pytest.raises(errors.Conflict):
            await racing.handle(seen)
        csr = await admin.get(csrs.RESOURCE, "a")
        return [condition.type for condition in csr.status.conditions]


_RIGHTS = (
    ("certificates.k8s.io", "certificatesigningrequests/approval", ("update",), ()),
    ("certificates.k8s.io", "signers", ("approve",), (signernames.KUBELET_SERVING,)),
)


class _NoNodes:
    def get(self, name):
        return None


def _good():
    return flow.new_csr("a", signernames.KUBELET_SERVING, kubelets.USAGES, kubelets.pkcs10())


async def test_denied_meanwhile():
    """A request that was denied during the evaluation stays denied."""

    async def deny(plane):
        await flow.decide(plane.client(flow.ADMIN), "a", csrs.DENIED)

    assert await _race(deny) == [csrs.DENIED]


async def test_replaced_meanwhile():
    """The approval does not apply to another request of the same name."""

    async def replace(plane):
        admin = plane.client(flow.ADMIN)
        await admin.delete(csrs.RESOURCE, "a")
        other = flow.new_csr(
            "a", signernames.KUBELET_SERVING, kubelets.USAGES, kubelets.pkcs10(dns=("vault.example.org",))
        )
        await plane.client(node_user()).create(csrs.RESOURCE, other)

    assert await _race(replace) == []


async def test_decided_before():
    """Approved, denied and issued requests are not changed."""
    async with approver_plane() as cluster:
        await cluster.register()
        first = _good()
        await cluster.kubelet("n1").create(csrs.RESOURCE, first)
        await flow.issued(cluster.admin, "a")
        await cluster.request("b", dns=("*",))
        await flow.eventually(lambda: [decision for decision in cluster.recorded if decision[0] == "b"])
        count = len(cluster.recorded)
        await cluster.register("n1", ("InternalIP", "10.0.0.5"))
        await cluster.clock.advance(60)
        assert len(cluster.recorded) == count


async def test_request_of_another_key():
    """The sender of a request with a wrong signature does not have the private key."""
    broken = bytearray(pem.first_block(kubelets.pkcs10()).data)
    broken[-1] ^= 1
    text = pem.encode("CERTIFICATE REQUEST", bytes(broken))
    async with approver_plane() as cluster:
        new = flow.new_csr("a", signernames.KUBELET_SERVING, kubelets.USAGES, text)
        with pytest.raises(errors.Invalid, match="verification failure"):
            await cluster.kubelet().create(csrs.RESOURCE, new)
    with pytest.raises(policy.certificaterequest.RequestError):
        policy.parse_request(text)
