"""Reserved names: which names signers under the client CA do not issue, whatever is approved."""

from __future__ import annotations

import dataclasses
import datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import NameOID

from certplane import errors, testing
from certplane.config.signing import PairFiles, SigningSettings
from certplane.controllers.signing import signersfile
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
CUSTOM = "example.com/custom"
NODE_USAGES = ("client auth", "digital signature")
DEFINITION = """\
apiVersion: signers.certplane.dev/v1alpha1
kind: SignerList
signers:
- name: example.com/custom
  authority: {certFile: CA.crt, keyFile: CA.key}
  usages: {allowed: [client auth, server auth, digital signature]}
"""
ANY_SUBJECT = '  subject: {commonName: ["*"], organizations: ["*"]}\n'


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
class Setup:
    """The parts of a plane whose signers have their CA in files, as in `certplane serve`."""

    directory: object
    clock: object
    reservations: object
    signers_file: object = None

    def running(self):
        return flow.running(
            clock=self.clock,
            signers=built_in_signers(self.directory, self.reservations),
            signers_file=self.signers_file,
            client_ca=verifier(self.directory, "ca"),
            reservations=self.reservations,
        )


def built_in_signers(directory, reservations):
    """The signers of Kubernetes, which sign with `ca`."""
    settings = SigningSettings(PairFiles(directory / "ca.crt", directory / "ca.key"), {}, YEAR, None)
    return controllerconfig.built_in_signers(settings, reservations=reservations)


def verifier(directory, name):
    return clientcertificates.ClientVerifier((directory / f"{name}.crt").read_bytes())


def new_setup(directory, definition="", custom_ca="ca", client_ca="ca"):
    """`client_ca` authenticates clients; the built-in signers sign with `ca`, a custom signer with `custom_ca`."""
    clock = testing.FakeClock()
    root = write_ca(directory, clock)
    write_ca(directory, clock, "other")
    write_ca(directory, clock, "below", root)
    server_names = ("localhost", "10.0.0.1", "api.example.com")
    reservations = reservednames.Reservations(clock.now, verifier(directory, client_ca), server_names)
    setup = Setup(directory, clock, reservations)
    built_in_signers(directory, reservations)
    if definition:
        path = directory / "signers.yaml"
        path.write_text(definition.replace("CA", custom_ca))
        setup.signers_file = signersfile.SignersFile(path, YEAR, reservations)
        setup.signers_file.load()
    return setup


async def outcome(plane, signer_name, usages, request):
    """The result of an approved request: an empty text if it is issued, otherwise the message of its failure."""
    admin = plane.client(flow.ADMIN)
    await admin.create(csrs.RESOURCE, flow.new_csr("a", signer_name, usages, request))
    await flow.decide(admin, "a")

    async def result():
        status = (await admin.get(csrs.RESOURCE, "a")).status
        failed = [condition.message for condition in status.conditions if condition.type == csrs.FAILED]
        return failed or ([""] if status.certificate else None)

    return (await flow.eventually(result))[0]


UNDER = " is reserved: the signer uses the CA of the cluster's clients"


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
def test_built_in_signers_refuse_reserved_names(tmp_path, signer_name, usages, request_, why):
    """Only the kubelet signers issue names of nodes; no signer issues system:masters, or names of the API server."""
    name, organizations, *names = request_
    signers = built_in_signers(tmp_path, new_setup(tmp_path).reservations)
    request = certificaterequest.parse(flow.pkcs10(name, organizations, dns=names[0] if names else ()))
    violations = "; ".join(
        profiles.violations(signers[signer_name].profile, profiles.RequestedCertificate(request, usages))
    )
    assert why in violations
    assert bool(why) == bool(violations)


async def test_an_approved_request_for_a_reserved_name_fails(tmp_path):
    """The Failed condition has the reason, and nothing is signed."""
    async with new_setup(tmp_path).running() as plane:
        message = await outcome(plane, flow.CLIENT, ("client auth",), flow.pkcs10("system:node:n1", ["system:nodes"]))
        assert message == f'subject common name "system:node:n1"{UNDER}'


@pytest.mark.parametrize("custom_ca", ["ca", "below"])
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
async def test_custom_signers_under_the_client_ca_refuse_system_names(tmp_path, custom_ca, name, organizations):
    """This applies to the client CA and to a CA below it, whatever the definition permits."""
    async with new_setup(tmp_path, DEFINITION + ANY_SUBJECT, custom_ca).running() as plane:
        assert UNDER in await outcome(plane, CUSTOM, ("client auth",), flow.pkcs10(name, organizations))


async def test_a_custom_signer_under_another_ca_is_not_restricted(tmp_path):
    """Its certificates do not authenticate clients of this cluster."""
    async with new_setup(tmp_path, DEFINITION, "other").running() as plane:
        assert await outcome(plane, CUSTOM, ("client auth",), flow.pkcs10("jane", ["system:masters"])) == ""


async def test_a_custom_signer_under_the_client_ca_issues_other_names(tmp_path):
    """These are the names that the definition permits."""
    async with new_setup(tmp_path, DEFINITION + ANY_SUBJECT).running() as plane:
        assert await outcome(plane, CUSTOM, ("client auth",), flow.pkcs10("jane", ["dev"])) == ""


async def test_a_mapped_address_of_the_api_server_is_reserved(tmp_path):
    """An IPv4-mapped IPv6 address is treated as the IPv4 address."""
    async with new_setup(tmp_path, DEFINITION + ANY_SUBJECT).running() as plane:
        assert '"10.0.0.1" is reserved' in await outcome(
            plane, CUSTOM, ("server auth",), flow.pkcs10("x", addresses=["::ffff:10.0.0.1"])
        )


@pytest.mark.parametrize("custom_ca", ["ca", "below"])
@pytest.mark.parametrize(
    ("definition", "why"),
    [
        (DEFINITION, "subject.commonName and subject.organizations are required"),
        (DEFINITION + '  subject: {commonName: ["*"]}\n', "subject.organizations are required"),
        (DEFINITION + "  subject: {organizations: []}\n", "subject.commonName"),
        (DEFINITION + ANY_SUBJECT + "  certificateAuthority: true\n", "certificateAuthority must not be true"),
    ],
)
def test_a_definition_without_subjects_under_the_client_ca_is_refused(tmp_path, custom_ca, definition, why):
    """The file cannot be loaded, and the error has what is missing."""
    with pytest.raises(errors.SetupError, match=why):
        new_setup(tmp_path, definition, custom_ca)


def test_the_ca_of_the_built_in_client_signers_is_a_client_ca(tmp_path):
    """This applies even if the client CA file has another CA."""
    with pytest.raises(errors.SetupError, match="commonName"):
        new_setup(tmp_path, DEFINITION, "ca", client_ca="other")


async def test_a_reloaded_signers_file_is_checked_for_reserved_names(tmp_path):
    """The previous signers stay in use, and the problem has the reason."""
    setup = new_setup(tmp_path, DEFINITION + ANY_SUBJECT)
    setup.signers_file._path.write_text(DEFINITION.replace("CA", "ca") + "# changed\n")
    assert not setup.signers_file.reload(is_requested=True)
    assert "are required" in setup.signers_file.problem
    async with setup.running() as plane:
        assert UNDER in await outcome(plane, CUSTOM, ("client auth",), flow.pkcs10("jane", ["system:masters"]))


def test_a_refused_signers_file_is_used_when_its_ca_becomes_acceptable(tmp_path):
    """Although the signers file itself is unchanged: the client CA or a CA file was corrected."""
    setup = new_setup(tmp_path, DEFINITION, "other")
    setup.signers_file._path.write_text(DEFINITION.replace("CA", "below").replace("/custom", "/new"))
    assert not setup.signers_file.reload(is_requested=True)
    assert "are required" in setup.signers_file.problem
    assert not setup.signers_file.reload()
    setup.reservations.replace_client_ca(verifier(tmp_path, "other"))
    assert setup.signers_file.reload()
    assert (list(setup.signers_file.signers), setup.signers_file.problem) == (["example.com/new"], "")


async def test_a_new_client_ca_restricts_the_signers_that_use_it(tmp_path):
    """From the replacement on, a definition without subjects signs nothing more."""
    setup = new_setup(tmp_path, DEFINITION, "other")
    async with setup.running() as plane:
        assert await outcome(plane, CUSTOM, ("client auth",), flow.pkcs10("jane", ["system:masters"])) == ""
        plane.replace_client_ca(verifier(tmp_path, "other"))
        state = setup.signers_file.signers[CUSTOM].current(setup.clock.now())
        assert state.issuer is None
        assert "are required" in state.problem


async def test_a_ca_file_that_is_replaced_by_the_client_ca_is_restricted(tmp_path):
    """The files are checked at signatures, once a second."""
    setup = new_setup(tmp_path, DEFINITION + ANY_SUBJECT, "other")
    async with setup.running() as plane:
        for kind in ("crt", "key"):
            (tmp_path / f"other.{kind}").write_bytes((tmp_path / f"ca.{kind}").read_bytes())
        await setup.clock.advance(cafiles.CHECK_INTERVAL.total_seconds())
        assert UNDER in await outcome(plane, CUSTOM, ("client auth",), flow.pkcs10("jane", ["system:masters"]))
