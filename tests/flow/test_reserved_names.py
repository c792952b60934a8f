"""Signers under the CA of the cluster's clients: which names they do not give, whatever a person approves."""

from __future__ import annotations

import dataclasses
import datetime
import ipaddress

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from certplane import errors, testing
from certplane.config.signing import PairFiles, SigningSettings
from certplane.controllers.signing import signerfile
from certplane.golang import pem
from certplane.plane import controllerconfig
from certplane.resources import certificatesigningrequests as csrs
from certplane.x509 import keys
from certplane.x509.issuance import authority, cafiles, profiles, reservednames, selfsigned
from certplane.x509.pkcs10 import certificaterequest
from certplane.x509.trust import clientcertificates
from tests.flow import plane as flow

YEAR = datetime.timedelta(days=365)
KUBELET = "kubernetes.io/kube-apiserver-client-kubelet"
SERVING = "kubernetes.io/kubelet-serving"
LEGACY = "kubernetes.io/legacy-unknown"
OWN = "example.com/own"
NODE_USAGES = ("client auth", "digital signature")
DECLARED = """\
apiVersion: signers.certplane.dev/v1alpha1
kind: SignerList
signers:
- name: example.com/own
  authority: {certFile: CA.crt, keyFile: CA.key}
  usages: {allowed: [client auth, server auth, digital signature]}
"""
ANYBODY = '  subject: {commonName: ["*"], organizations: ["*"]}\n'


def write_ca(directory, clock, name="ca", parent=None):
    """A CA in two files; below another one, if that is given."""
    key = keys.generate("ECDSA-P256")
    text = selfsigned.self_signed_ca(name, key, clock.now(), 10 * YEAR)
    if parent is not None:
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(parent.certificate.subject)
            .public_key(key.public_key())
            .serial_number(7)
            .not_valid_before(clock.now())
            .not_valid_after(clock.now() + YEAR)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        )
        text = builder.sign(parent._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    (directory / f"{name}.crt").write_bytes(text)
    (directory / f"{name}.key").write_bytes(keys.to_pem(key))
    (directory / f"{name}.key").chmod(0o600)
    return authority.Authority(pem.first_block(text).data, key)


@dataclasses.dataclass
class Given:
    """A plane whose signers have their CA in files, as `certplane serve` has it."""

    directory: object
    clock: object
    reservations: object
    declared: object = None

    def running(self):
        pair = PairFiles(self.directory / "ca.crt", self.directory / "ca.key")
        said = SigningSettings(pair, {}, YEAR, None)
        return flow.running(
            clock=self.clock,
            signers=controllerconfig.built_in_signers(said, reservations=self.reservations),
            signer_file=self.declared,
            client_ca=verifier(self.directory, "ca"),
            reservations=self.reservations,
        )


def verifier(directory, name):
    return clientcertificates.ClientVerifier((directory / f"{name}.crt").read_bytes())


def given(directory, declared="", own_ca="ca", client_ca="ca"):
    """`client_ca` lets clients in, `ca` is what the built-in signers sign with, `own_ca` what the declared one does."""
    clock = testing.FakeClock()
    root = write_ca(directory, clock)
    write_ca(directory, clock, "other")
    write_ca(directory, clock, "below", root)
    made = Given(
        directory,
        clock,
        reservednames.Reservations(
            clock.now, verifier(directory, client_ca), ("localhost", "10.0.0.1", "api.example.com")
        ),
    )
    pair = PairFiles(directory / "ca.crt", directory / "ca.key")
    controllerconfig.built_in_signers(SigningSettings(pair, {}, YEAR, None), reservations=made.reservations)
    if declared:
        path = directory / "signers.yaml"
        path.write_text(declared.replace("CA", own_ca))
        made.declared = signerfile.SignerFile(path, YEAR, made.reservations)
        made.declared.load()
    return made


def pkcs10(common_name="jane", organizations=(), names=()):
    key = ec.generate_private_key(ec.SECP256R1())
    attributes = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, each) for each in organizations]
    attributes.append(x509.NameAttribute(NameOID.COMMON_NAME, common_name))
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(attributes))
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


async def outcome(plane, signer_name, usages, request):
    """What becomes of an approved request: empty if it is issued, else why it failed."""
    admin = plane.client(flow.ADMIN)
    await admin.create(csrs.RESOURCE, flow.new_csr("a", signer_name, usages, request))
    await flow.decide(admin, "a")

    async def found():
        status = (await admin.get(csrs.RESOURCE, "a")).status
        failed = [each.message for each in status.conditions if each.type == csrs.FAILED]
        return failed or ([""] if status.certificate else None)

    return (await flow.eventually(found))[0]


UNDER = " is reserved: the signer uses the CA of the cluster's clients"
DNS = x509.DNSName


@pytest.mark.parametrize(
    ("signer_name", "usages", "request_", "why"),
    [
        (LEGACY, NODE_USAGES, ("jane", ["system:masters"]), f'subject organization "system:masters"{UNDER}'),
        (LEGACY, NODE_USAGES, ("jane", ["dev", "system:nodes"]), f'subject organization "system:nodes"{UNDER}'),
        (LEGACY, NODE_USAGES, ("system:node:n1", []), f'subject common name "system:node:n1"{UNDER}'),
        (LEGACY, NODE_USAGES, ("jane", ["dev"]), ""),
        (LEGACY, ("server auth",), ("x", [], ["web.example.com"]), ""),
        (LEGACY, ("server auth",), ("x", [], ["kubernetes.default.svc"]), "kubernetes.default.svc"),
        (LEGACY, ("server auth",), ("x", [], ["API.example.com"]), "API.example.com"),
        (LEGACY, ("server auth",), ("x", [], ["*.example.com"]), "*.example.com"),
        (LEGACY, ("digital signature",), ("x", [], ["localhost"]), "localhost"),
        (LEGACY, ("server auth",), ("localhost", []), "localhost"),
        (flow.CLIENT, ("client auth",), ("system:node:n1", ["dev"]), f'subject common name "system:node:n1"{UNDER}'),
        (flow.CLIENT, ("client auth",), ("jane", ["system:nodes"]), f'subject organization "system:nodes"{UNDER}'),
        (flow.CLIENT, ("client auth",), ("system:kube-scheduler", []), ""),
        (flow.CLIENT, ("client auth",), ("jane", ["dev"], ["localhost"]), ""),
        (KUBELET, NODE_USAGES, ("system:node:n1", ["system:nodes"]), ""),
        (SERVING, ("server auth", "digital signature"), ("system:node:n1", ["system:nodes"], ["localhost"]), ""),
        (SERVING, ("server auth", "digital signature"), ("system:node:n1", ["system:nodes"], ["kubernetes"]), "name"),
    ],
)
def test_built_in_signers_give_what_their_rules_name(tmp_path, signer_name, usages, request_, why):
    """Nodes their group, by the signers of kubelets; nobody system:masters; nobody the names of the API server."""
    name, organizations, *names = request_
    made = given(tmp_path)
    pair = PairFiles(tmp_path / "ca.crt", tmp_path / "ca.key")
    signers = controllerconfig.built_in_signers(SigningSettings(pair, {}, YEAR, None), reservations=made.reservations)
    request = certificaterequest.parse(pkcs10(name, organizations, [DNS(each) for each in (names[0] if names else [])]))
    found = "; ".join(profiles.violations(signers[signer_name].profile, profiles.RequestedCertificate(request, usages)))
    assert why in found
    assert bool(why) == bool(found)


async def test_what_a_person_approves_fails(tmp_path):
    """The request says why; nothing is signed."""
    async with given(tmp_path).running() as plane:
        found = await outcome(plane, flow.CLIENT, ("client auth",), pkcs10("system:node:n1", ["system:nodes"]))
        assert found == f'subject common name "system:node:n1"{UNDER}'


@pytest.mark.parametrize("own_ca", ["ca", "below"])
@pytest.mark.parametrize(
    ("name", "organizations"),
    [
        ("jane", ["system:masters"]),
        ("jane", ["kubeadm:cluster-admins"]),
        ("system:node:n1", ["system:nodes"]),
        ("system:kube-controller-manager", []),
        ("system:serviceaccount:kube-system:certificate-controller", []),
    ],
)
async def test_declared_signers_give_no_name_of_kubernetes(tmp_path, own_ca, name, organizations):
    """Under the client CA, or a CA below it, whatever the declaration permits."""
    async with given(tmp_path, DECLARED + ANYBODY, own_ca).running() as plane:
        assert UNDER in await outcome(plane, OWN, ("client auth",), pkcs10(name, organizations))


async def test_a_declared_signer_under_another_ca_gives_what_it_declares(tmp_path):
    """Nobody becomes a client of this cluster by it."""
    async with given(tmp_path, DECLARED, "other").running() as plane:
        assert await outcome(plane, OWN, ("client auth",), pkcs10("jane", ["system:masters"])) == ""


async def test_a_declared_signer_under_the_client_ca_gives_other_names(tmp_path):
    """Those that it declares."""
    async with given(tmp_path, DECLARED + ANYBODY).running() as plane:
        assert await outcome(plane, OWN, ("client auth",), pkcs10("jane", ["dev"])) == ""


async def test_a_wildcard_address_or_mapped_address_of_the_api_server_is_not_given(tmp_path):
    """An IPv6 address that stands for an IPv4 address is that one."""
    mapped = x509.IPAddress(ipaddress.ip_address("::ffff:10.0.0.1"))
    async with given(tmp_path, DECLARED + ANYBODY).running() as plane:
        assert '"10.0.0.1" is reserved' in await outcome(plane, OWN, ("server auth",), pkcs10("x", [], [mapped]))


@pytest.mark.parametrize("own_ca", ["ca", "below"])
@pytest.mark.parametrize(
    ("declaration", "why"),
    [
        (DECLARED, "subject.commonName and subject.organizations are required"),
        (DECLARED + '  subject: {commonName: ["*"]}\n', "subject.organizations are required"),
        (DECLARED + "  subject: {organizations: []}\n", "subject.commonName"),
        (DECLARED + ANYBODY + "  certificateAuthority: true\n", "certificateAuthority must not be true"),
    ],
)
def test_a_declaration_without_subjects_under_the_client_ca_is_refused(tmp_path, own_ca, declaration, why):
    """When the file is read: the message says what is missing."""
    with pytest.raises(errors.SetupError, match=why):
        given(tmp_path, declaration, own_ca)


def test_the_ca_of_the_client_signers_makes_clients_whatever_the_file_holds(tmp_path):
    """What the built-in signers of clients sign with is a client CA, or nobody could use their certificates."""
    with pytest.raises(errors.SetupError, match="commonName"):
        given(tmp_path, DECLARED, "ca", client_ca="other")


async def test_a_reload_of_the_signers_is_held_to_it_too(tmp_path):
    """The former ones stay, and the problem says why."""
    made = given(tmp_path, DECLARED + ANYBODY)
    made.declared._path.write_text(DECLARED.replace("CA", "ca") + "# changed\n")
    assert not made.declared.reload()
    assert "are required" in made.declared.problem
    async with made.running() as plane:
        assert UNDER in await outcome(plane, OWN, ("client auth",), pkcs10("jane", ["system:masters"]))


async def test_another_client_ca_restricts_signers_that_were_free(tmp_path):
    """From the moment on in which it lets clients in: a declaration without subjects signs nothing more."""
    made = given(tmp_path, DECLARED, "other")
    async with made.running() as plane:
        assert await outcome(plane, OWN, ("client auth",), pkcs10("jane", ["system:masters"])) == ""
        plane.replace_client_ca(verifier(tmp_path, "other"))
        state = made.declared.signers[OWN].current(made.clock.now())
        assert state.issuer is None
        assert "are required" in state.problem


async def test_a_ca_file_that_becomes_the_client_ca_is_restricted(tmp_path):
    """The files are looked at when something is signed, once a second."""
    made = given(tmp_path, DECLARED + ANYBODY, "other")
    async with made.running() as plane:
        for kind in ("crt", "key"):
            (tmp_path / f"other.{kind}").write_bytes((tmp_path / f"ca.{kind}").read_bytes())
        await made.clock.advance(cafiles.CHECK_INTERVAL.total_seconds())
        assert UNDER in await outcome(plane, OWN, ("client auth",), pkcs10("jane", ["system:masters"]))
