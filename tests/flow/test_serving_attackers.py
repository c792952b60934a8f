"""What somebody tries who wants a serving certificate that is not his: a row of docs/attackers.md each."""

from __future__ import annotations

import re

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from certplane import errors, testing
from certplane.client import api
from certplane.controllers import decisions, proofs, serving, servingrules, verdicts
from certplane.meta import context
from certplane.resources import certificatesigningrequests as csrs
from certplane.server import local
from certplane.x509 import der, pem, profiles
from tests import kubelets
from tests.flow import plane as flow
from tests.flow.approving import ACCOUNT, approving, grant, node_user

APPROVED = (decisions.APPROVED, verdicts.PROVEN)
CREATE = ("certificates.k8s.io", "certificatesigningrequests", ("create",), ())
#: Somebody with a bootstrap token; the role that kubeadm gives to it lets it ask.
TOKEN = context.User(
    "system:bootstrap:abcdef",
    groups=("system:bootstrappers", "system:bootstrappers:kubeadm:default-node-token", "system:authenticated"),
)
JANE = context.User("jane", groups=("system:authenticated",))


def _id(of):
    """Without addresses in memory: both processes have to call a test the same."""
    return re.sub(" object at 0x[0-9a-f]+", "", str(of))


def denied(reason):
    return decisions.DENIED, reason


def left(reason):
    return decisions.NOT_APPROVED, reason


async def _nothing_issued(given, *names):
    """It stays so, whatever time passes; denied requests are kept for an hour."""
    await given.clock.advance(1800)
    await testing.settle(500)
    for name in names or ("a",):
        found = await given.admin.get(csrs.RESOURCE, name)
        assert csrs.APPROVED not in [each.type for each in found.status.conditions]
        assert found.status.certificate == b""


# --- who asks -----------------------------------------------------------------------------------------------------


async def test_stolen_bootstrap_token():
    """It may ask for a client certificate of a node, and for no serving certificate."""
    async with approving() as given:
        await given.register()
        await given.ask(user=TOKEN)
        assert await given.decision() == denied(verdicts.NOT_A_NODE)
        await _nothing_issued(given)


async def test_stolen_bootstrap_token_that_becomes_a_node():
    """A token can make a node of any name; no name of a node makes it the API server, or what others are."""
    async with approving({"forbidden": ["vault.example.com"]}) as given:
        for name, wanted, reason in (
            ("kubernetes", "kubernetes", verdicts.FORBIDDEN_NAME),
            ("kubernetes.default.svc", "kubernetes.default.svc", verdicts.FORBIDDEN_NAME),
            ("vault", "vault.example.com", verdicts.FORBIDDEN_NAME),
            ("vault2", "vault.example.org", verdicts.NAME_NOT_PROVEN),
        ):
            await given.register(name, ("Hostname", wanted), ("InternalIP", "10.0.0.7"))
            await given.ask(name, node_user(name), common_name=f"system:node:{name}", dns=(wanted,), ips=())
            assert await given.decision(name) == denied(reason)


async def test_user_who_only_looks_like_a_node():
    """The organization and the name in a request say nothing about who sent it."""
    async with approving() as given:
        await given.register()
        await grant(given.admin, JANE, CREATE)
        await given.ask(user=JANE)
        assert await given.decision() == denied(verdicts.NOT_A_NODE)
        await _nothing_issued(given)


async def test_group_forged_in_the_body():
    """Who asks, and in which groups that is, the server writes."""
    async with approving() as given:
        await given.register()
        await grant(given.admin, JANE, CREATE)
        sent = await given.ask(user=JANE, username="system:node:n1", groups=["system:nodes"])
        assert (sent.spec.username, sent.spec.groups) == ("jane", ["system:authenticated"])
        assert await given.decision() == denied(verdicts.NOT_A_NODE)


async def test_node_user_without_the_group():
    """A user that has the name of a node, from another authenticator, is none without the group."""
    async with approving() as given:
        await given.register()
        user = context.User("system:node:n1", groups=("system:authenticated",))
        await grant(given.admin, user, CREATE)
        await given.ask(user=user)
        assert await given.decision() == denied(verdicts.NOT_A_NODE)


async def test_node_without_a_name():
    """The server lets it create nothing; a request that came by another way is denied."""
    async with approving() as given:
        nobody = node_user("")
        with pytest.raises(errors.Forbidden):
            await given.ask(user=nobody, common_name="system:node:")
        nobody = context.User("system:node:", groups=("system:authenticated",))
        await grant(given.admin, nobody, CREATE)
        await given.ask(user=nobody, common_name="system:node:")
        assert await given.decision() == denied(verdicts.NOT_A_NODE)


async def test_node_in_the_name_of_another():
    """The server refuses a common name that is not the node's; and so does the approver, where a server does not."""
    async with approving() as given:
        await given.register("n2", ("Hostname", "n2"), ("InternalIP", "10.0.0.2"))
        with pytest.raises(errors.Forbidden, match="can only create a node CSR with CN=system:node:n1"):
            await given.ask(common_name="system:node:n2", dns=("n2",), ips=())
    request = kubelets.pkcs10("system:node:n2", ("n2",), ())
    known = proofs.Evidence(claims=frozenset({"n2"}))
    rules = servingrules.parse({"sources": ["node"]}).rules
    found = verdicts.judge(verdicts.read(request), kubelets.spec(request), known, rules)
    assert (found.kind, found.reason) == (verdicts.Kind.DENY, verdicts.IDENTITY_MISMATCH)


async def test_two_common_names():
    """Of two the last counts for a signer: a request with two is not what it seems."""
    async with approving() as given:
        await given.register()
        more = [x509.NameAttribute(NameOID.COMMON_NAME, "system:node:n1")]
        await given.ask(common_name="system:node:n2", attributes=more)
        assert await given.decision() == denied(verdicts.SUBJECT_NOT_ALLOWED)


async def test_further_organization():
    """Serving certificates carry the organization too, and a careless authenticator would take it for a group."""
    async with approving() as given:
        await given.register()
        await given.ask(organizations=("system:nodes", "system:masters"))
        assert await given.decision() == denied(verdicts.IDENTITY_MISMATCH)


# --- what for -----------------------------------------------------------------------------------------------------


async def test_another_signer():
    """What is not for kubelets' serving certificates is not looked at, let alone approved."""
    async with approving() as given:
        await given.register()
        usages = ("digital signature", "client auth")
        await given.ask("a", signer=profiles.KUBE_APISERVER_CLIENT, usages=usages)
        await given.ask("b", flow.ADMIN, signer="example.com/serving")
        await given.ask("c")
        await flow.issued(given.admin, "c")
        await _nothing_issued(given, "a", "b")
        assert {name for name, *_ in given.told} == {"c"}


@pytest.mark.parametrize(
    "usages", [(*kubelets.USAGES, "client auth"), (*kubelets.USAGES, "cert sign"), ("client auth",), ("any",)]
)
async def test_extra_usages(usages):
    """With client auth, a server's certificate would be the node's identity as well."""
    async with approving() as given:
        await given.register()
        await given.ask(usages=usages)
        assert await given.decision() == denied(verdicts.USAGES_NOT_ALLOWED)
        await _nothing_issued(given)


async def test_extra_usages_inside_the_request():
    """The signer would ignore them; whoever asks for them is no kubelet."""
    async with approving() as given:
        await given.register()
        await given.ask(extensions=[x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])])
        assert await given.decision() == denied(verdicts.EXTENSION_NOT_ALLOWED)


async def test_ca_certificate():
    """The signer would ignore it; whoever asks for it is no kubelet."""
    async with approving() as given:
        await given.register()
        await given.ask(extensions=[x509.BasicConstraints(ca=True, path_length=None)])
        assert await given.decision() == denied(verdicts.CA_NOT_ALLOWED)
        await _nothing_issued(given)


async def test_very_long_lifetime():
    """It would outlive whatever is done about the theft."""
    async with approving({"longest-lifetime": "720h"}) as given:
        await given.register()
        await given.ask(expiration_seconds=10 * 365 * 86400)
        assert await given.decision() == denied(verdicts.LIFETIME_TOO_LONG)


async def test_weak_key():
    """Others could find the private key."""
    async with approving() as given:
        await given.register()
        await given.ask(key=rsa.generate_private_key(65537, 1024))
        assert await given.decision() == denied(verdicts.WEAK_KEY)


# --- which names --------------------------------------------------------------------------------------------------


async def test_name_of_another_node():
    """Even if the node says that it has it: the other says so too."""
    async with approving({"sources": ["node"]}) as given:
        await given.register("n2", ("Hostname", "n2"), ("InternalIP", "10.0.0.2"))
        await given.register("n1", ("Hostname", "n2"), ("InternalIP", "10.0.0.1"))
        await given.ask(dns=("n2",), ips=())
        assert await given.decision() == left(verdicts.CLAIMED_BY_ANOTHER)
        await _nothing_issued(given)


async def test_two_nodes_claim_one_address():
    """Neither gets it, until one of them gives it up."""
    async with approving({"sources": ["node"]}) as given:
        await given.register("n1", ("InternalIP", "10.0.0.1"))
        await given.register("n2", ("InternalIP", "10.0.0.1"))
        await given.ask("a", dns=())
        await given.ask("b", node_user("n2"), common_name="system:node:n2", dns=())
        assert await given.decision("a") == await given.decision("b") == left(verdicts.CLAIMED_BY_ANOTHER)
        await given.register("n2", ("InternalIP", "10.0.0.2"))
        await flow.issued(given.admin, "a")
        assert await given.conditions("b") == []


async def test_node_that_claims_what_is_anothers_to_block_it(tmp_path):
    """What the inventory gives to a node is the node's, whoever else says that it has it."""
    path = tmp_path / "nodes.yaml"
    path.write_text("n1: [n1, 10.0.0.1]\n")
    async with approving({"inventory": str(path)}, inventory=path) as given:
        await given.register("n2", ("Hostname", "n1"), ("InternalIP", "10.0.0.1"))
        await given.ask("a")
        assert await given.decision("a") == APPROVED
        await given.ask("b", node_user("n2"), common_name="system:node:n2", dns=("n1",))
        assert await given.decision("b") == denied(verdicts.BELONGS_TO_ANOTHER)


async def test_stolen_node_credential_claims_any_name():
    """A kubelet writes its own status: where another source has to agree, that proves nothing."""
    async with approving() as given:
        await given.register("n1", ("Hostname", "vault.example.org"), ("InternalIP", "192.0.2.1"))
        await given.ask("a", dns=("vault.example.org",), ips=())
        await given.ask("b", dns=(), ips=("192.0.2.1",))
        assert await given.decision("a") == denied(verdicts.NAME_NOT_PROVEN)
        assert await given.decision("b") == denied(verdicts.ADDRESS_NOT_PROVEN)


@pytest.mark.parametrize("name", ["*", "*.example.com", "n1.*"])
async def test_wildcard(name):
    """Whatever it is proven by."""
    async with approving({"sources": ["node"]}) as given:
        await given.register("n1", ("Hostname", name), ("InternalIP", "10.0.0.1"))
        await given.ask(dns=("n1", name))
        assert await given.decision() == denied(verdicts.WILDCARD_NAME)
        await _nothing_issued(given)


@pytest.mark.parametrize(
    "wanted",
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
async def test_api_server(wanted):
    """Neither its names nor its addresses, though the node says that it has them and that suffices."""
    said = {
        "sources": ["node"],
        "api-server": ["api.example.com", "10.0.0.100"],
        "service-cidrs": ["10.96.0.0/12"],
    }
    async with approving(said) as given:
        claimed = [("Hostname", each) for each in (*wanted.get("dns", ()), *wanted.get("ips", ()))]
        await given.register("n1", *claimed)
        await given.ask(**{"dns": (), "ips": (), **wanted})
        reason = verdicts.FORBIDDEN_NAME if "dns" in wanted else verdicts.FORBIDDEN_ADDRESS
        assert await given.decision() == denied(reason)
        await _nothing_issued(given)


async def test_service_of_the_cluster():
    """Names in a cluster are Services', and no node's."""
    async with approving({"sources": ["node"]}) as given:
        await given.register("n1", ("Hostname", "vault.vault.svc"))
        await given.ask(dns=("vault.vault.svc",), ips=())
        assert await given.decision() == denied(verdicts.FORBIDDEN_NAME)


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "::ffff:127.0.0.1", "169.254.169.254", "fe80::1", "224.0.0.1"])
async def test_loopback_and_the_like(address):
    """They are everybody's, so that a certificate for one is good on every machine."""
    async with approving({"sources": ["node"]}) as given:
        await given.register("n1", ("InternalIP", address))
        await given.ask(dns=(), ips=(address,))
        assert await given.decision() == denied(verdicts.FORBIDDEN_ADDRESS)


async def test_localhost():
    """The name of it as well."""
    async with approving({"sources": ["node"]}) as given:
        await given.register("n1", ("Hostname", "localhost"))
        await given.ask(dns=("localhost",), ips=())
        assert await given.decision() == denied(verdicts.FORBIDDEN_NAME)


async def test_name_in_the_subject_alone():
    """Old clients would look for it there: a certificate without alternative names is none."""
    async with approving() as given:
        await given.register()
        await given.ask(dns=(), ips=())
        assert await given.decision() == denied(verdicts.NAMES_MISSING)


@pytest.mark.parametrize(
    "name",
    [
        x509.RFC822Name("root@example.com"),
        x509.UniformResourceIdentifier("spiffe://example.com/vault"),
        x509.OtherName(x509.ObjectIdentifier("1.3.6.1.4.1.311.20.2.3"), b"\x0c\x04root"),
        x509.DirectoryName(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "root")])),
    ],
    ids=lambda each: type(each).__name__,
)
async def test_names_of_other_kinds(name):
    """An address of mail or a SPIFFE identity has no place beside the names of a machine."""
    async with approving() as given:
        await given.register()
        await given.ask(names=[name])
        assert await given.decision() == denied(verdicts.NAME_KIND_NOT_ALLOWED)


async def test_a_thousand_names():
    """Nobody is asked about any of them."""
    table = kubelets.Table()
    async with approving({"dns": True, "sources": ["cidrs", "dns"]}, resolver=table) as given:
        await given.register()
        await given.ask(dns=[f"n{number}.example.org" for number in range(1000)])
        assert await given.decision() == denied(verdicts.TOO_MANY_NAMES)
        assert table.asked == []


@pytest.mark.parametrize(
    "name", ["n1.", "kubernetes.", "n1..example.com", "n1\0.example.org", "n1 ", "10.0.0.1", "127.1"]
)
async def test_odd_spellings(name):
    """What some client could take for another name than we do is no name."""
    async with approving({"sources": ["node"]}) as given:
        await given.register("n1", ("Hostname", "n1"), ("InternalDNS", name))
        await given.ask(dns=(name,), ips=())
        assert await given.decision() == denied(verdicts.MALFORMED_NAME)


async def test_upper_case():
    """Compared as DNS compares, what is forbidden stays forbidden."""
    async with approving({"sources": ["node"]}) as given:
        await given.register("n1", ("Hostname", "KUBERNETES.Default.svc"))
        await given.ask(dns=("Kubernetes.Default.SVC",), ips=())
        assert await given.decision() == denied(verdicts.FORBIDDEN_NAME)


async def test_homograph():
    """A name with letters that only look like others is another name, in the form in which DNS has it."""
    async with approving() as given:
        await given.register()
        # The first letter is a Cyrillic one.
        await given.ask(dns=("xn--1-6tb.example.com",), ips=())
        assert await given.decision() == denied(verdicts.NAME_NOT_PROVEN)


async def test_bytes_that_are_no_ascii():
    """The server does not take them; the approver would not either."""
    request = _with_raw_name(b"n\xd1\x96")
    async with approving() as given:
        new = flow.new_csr("a", profiles.KUBELET_SERVING, kubelets.USAGES, request)
        with pytest.raises(errors.APIError, match="SAN dNSName is malformed"):
            await given.kubelet().create(csrs.RESOURCE, new)
    with pytest.raises(verdicts.csr.RequestError):
        verdicts.read(request)


def _with_raw_name(name):
    value = der.encode(0x30, der.encode(0x82, name))
    extension = x509.UnrecognizedExtension(x509.ObjectIdentifier("2.5.29.17"), value)
    return kubelets.pkcs10(dns=(), ips=(), extensions=[extension])


async def test_ipv4_inside_ipv6():
    """It is the IPv4 address, for what is proven and for whose it is."""
    async with approving({"sources": ["node"]}) as given:
        await given.register("n2", ("InternalIP", "10.0.0.2"))
        await given.register("n1", ("InternalIP", "::ffff:10.0.0.2"))
        await given.ask(dns=(), ips=("::ffff:10.0.0.2",))
        assert await given.decision() == left(verdicts.CLAIMED_BY_ANOTHER)


# --- the sources --------------------------------------------------------------------------------------------------


async def test_dns_spoofed_forward():
    """Where a pattern has to agree, an answer that leads to the thief's machine proves nothing."""
    table = kubelets.Table({"vault.example.org": ["10.0.0.1"]})
    said = {"dns": True, "sources": ["node+cidrs", "patterns+dns"]}
    async with approving(said, resolver=table) as given:
        await given.register()
        await given.ask(dns=("vault.example.org",), ips=())
        assert await given.decision() == denied(verdicts.NAME_NOT_PROVEN)
        assert table.asked == []


async def test_dns_spoofed_forward_alone():
    """Where DNS has to lead back, whoever can answer for names alone proves nothing."""
    table = kubelets.Table({"vault.example.org": ["10.0.0.1"], "10.0.0.1": ["n1.example.com"]})
    said = {"dns": True, "dns-reverse": True, "sources": ["node+cidrs", "patterns", "dns"]}
    async with approving(said, resolver=table) as given:
        await given.register()
        await given.ask(dns=("vault.example.org",), ips=())
        assert await given.decision() == left(verdicts.NAME_NOT_PROVEN)
        await _nothing_issued(given)


async def test_dns_spoofed_reverse():
    """Whoever has the reverse zone of an address can call it anything; the name does not lead to it."""
    table = kubelets.Table({"192.0.2.1": ["n1.example.com"], "n1.example.com": ["10.0.0.1"]})
    said = {"dns": True, "dns-reverse": True, "sources": ["patterns", "dns"]}
    async with approving(said, resolver=table) as given:
        await given.register()
        await given.ask(dns=(), ips=("192.0.2.1",))
        assert await given.decision() == left(verdicts.ADDRESS_NOT_PROVEN)
        await _nothing_issued(given)


@pytest.mark.parametrize("sources", [["node+cidrs", "dns"], ["cidrs", "dns"]])
async def test_name_of_a_neighbour_in_dns(sources):
    """It leads into the network of the nodes, as all their names do, but to an address that is another's."""
    table = kubelets.Table({"n2.example.org": ["10.0.0.2"]})
    async with approving({"dns": True, "sources": sources}, resolver=table) as given:
        await given.register("n2", ("Hostname", "n2"), ("InternalIP", "10.0.0.2"))
        await given.register()
        await given.ask(dns=("n2.example.org",), ips=())
        assert await given.decision() == left(verdicts.NAME_NOT_PROVEN)
        await _nothing_issued(given)


async def test_dns_made_silent():
    """Whoever can silence DNS gets nobody denied, and nothing approved."""
    table = kubelets.Table({"n1.example.org": proofs.Unanswered("no answer within 5s")})
    async with approving({"dns": True, "sources": ["node+cidrs", "dns"]}, resolver=table) as given:
        await given.register()
        await given.ask(dns=("n1.example.org",), ips=())
        assert await given.decision() == left(verdicts.SOURCE_UNAVAILABLE)
        assert await given.conditions() == []
        await _nothing_issued(given)


async def test_inventory_made_unreadable(tmp_path):
    """What it gave to a node stays the node's, and what it gave to nobody is not up for grabs."""
    path = tmp_path / "nodes.yaml"
    path.write_text("n1: [n1, 10.0.0.1]\n")
    async with approving({"inventory": str(path)}, inventory=path) as given:
        path.write_text("n1: [")
        await given.clock.advance(10)
        await given.register("n2", ("Hostname", "n2"), ("InternalIP", "10.0.0.1"))
        await given.ask("a", node_user("n2"), common_name="system:node:n2", dns=())
        assert await given.decision("a") == denied(verdicts.BELONGS_TO_ANOTHER)
        await given.ask("b")
        assert await given.decision("b") == APPROVED


async def test_inventory_kept_away_from_the_start(tmp_path):
    """As long as nobody knows whose a name is, nobody gets it, whatever the other sources say."""
    path = tmp_path / "nodes.yaml"
    async with approving({"inventory": str(path)}, inventory=path) as given:
        await given.register()
        await given.ask()
        assert await given.decision() == left(verdicts.SOURCE_UNAVAILABLE)


async def test_control_characters():
    """What a stranger wrote does not reach a log or a terminal as it is."""
    async with approving() as given:
        await given.register()
        await given.ask(dns=("n1\n2026 INFO decision=Approved\x1b[2K",), ips=())
        _, reason, message = await given.explained()
        assert reason == verdicts.MALFORMED_NAME
        assert message.isprintable()


# --- races --------------------------------------------------------------------------------------------------------


class _Meddler(local.Transport):
    """Between the judgement and the approval something happens."""

    def __init__(self, *arguments, happens):
        super().__init__(*arguments)
        self._happens = happens

    async def request(self, method, path, **named):
        happens, self._happens = self._happens, None
        if happens is not None:
            await happens()
        return await super().request(method, path, **named)


async def _race(happens):
    """An approver that has judged a good request finds that it has changed when it writes."""
    async with flow.running() as plane:
        admin = plane.client(flow.ADMIN)
        await grant(admin, ACCOUNT, *_RIGHTS)
        seen = await plane.client(node_user()).create(csrs.RESOURCE, _good())
        transport = _Meddler(plane.handler, ACCOUNT, "approver", happens=lambda: happens(plane))
        rules = servingrules.parse({"cidrs": ["10.0.0.0/16"], "patterns": ["{node}"], "sources": ["cidrs", "patterns"]})
        sources = serving.Sources(proofs.Claims(_NoMachines()))
        approver = serving.Approver(api.Client(transport), rules, sources, lambda *_: None)
        with pytest.raises(errors.Conflict):
            await approver.handle(seen)
        found = await admin.get(csrs.RESOURCE, "a")
        return [each.type for each in found.status.conditions]


_RIGHTS = (
    ("certificates.k8s.io", "certificatesigningrequests/approval", ("update",), ()),
    ("certificates.k8s.io", "signers", ("approve",), (profiles.KUBELET_SERVING,)),
)


class _NoMachines:
    def get(self, name):
        return None


def _good():
    return flow.new_csr("a", profiles.KUBELET_SERVING, kubelets.USAGES, kubelets.pkcs10())


async def test_denied_meanwhile():
    """Somebody denied it while it was judged: it stays denied."""

    async def deny(plane):
        await flow.decide(plane.client(flow.ADMIN), "a", csrs.DENIED)

    assert await _race(deny) == [csrs.DENIED]


async def test_replaced_meanwhile():
    """The approval is of the request that was judged, not of another that got its name."""

    async def replace(plane):
        admin = plane.client(flow.ADMIN)
        await admin.delete(csrs.RESOURCE, "a")
        other = flow.new_csr(
            "a", profiles.KUBELET_SERVING, kubelets.USAGES, kubelets.pkcs10(dns=("vault.example.org",))
        )
        await plane.client(node_user()).create(csrs.RESOURCE, other)

    assert await _race(replace) == []


async def test_decided_before():
    """What is approved, denied or issued is not touched again."""
    async with approving() as given:
        await given.register()
        first = _good()
        await given.kubelet("n1").create(csrs.RESOURCE, first)
        await flow.issued(given.admin, "a")
        await given.ask("b", dns=("*",))
        await flow.eventually(lambda: [each for each in given.told if each[0] == "b"])
        told = len(given.told)
        await given.register("n1", ("InternalIP", "10.0.0.5"))
        await given.clock.advance(60)
        assert len(given.told) == told


async def test_request_of_another_key():
    """A request that was not signed by its own key proves nothing about who has it."""
    broken = bytearray(pem.first(kubelets.pkcs10()).data)
    broken[-1] ^= 1
    text = pem.encode("CERTIFICATE REQUEST", bytes(broken))
    async with approving() as given:
        new = flow.new_csr("a", profiles.KUBELET_SERVING, kubelets.USAGES, text)
        with pytest.raises(errors.Invalid, match="verification failure"):
            await given.kubelet().create(csrs.RESOURCE, new)
    with pytest.raises(verdicts.csr.RequestError):
        verdicts.read(text)
