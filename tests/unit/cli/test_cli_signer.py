"""`certplane signer init`: the definition, the CA, and what is left alone."""

from __future__ import annotations

import contextlib
import datetime
import os
import ssl

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from certplane import errors, testing
from certplane.cli import main, newrequests, signer
from certplane.controllers.signing import signersfile
from certplane.golang import goyaml
from certplane.resources import certificatesigningrequests as csrs
from certplane.x509 import keys
from certplane.x509.issuance import profiles, selfsigned

NAME = "example.com/web"
KEY = keys.generate("ECDSA-P256")


@pytest.fixture(autouse=True)
def directory(tmp_path, monkeypatch):
    """The working directory."""
    monkeypatch.chdir(tmp_path)
    tmp_path.chmod(0o755)
    return tmp_path


def init(*arguments):
    """Run the command; SetupError is raised to the test."""
    main.cli.main(["signer", "init", *arguments], standalone_mode=False)


def refused(*arguments):
    with pytest.raises(errors.SetupError) as caught:
        init(*arguments)
    assert caught.value.hints
    return caught.value.message


def files_of(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def requested(dns=("shop.web.example.com",), ip=(), usages=None):
    names = newrequests.alt_names(dns, ip)
    common_name = newrequests.default_common_name("web", NAME, names)
    return csrs.requested_certificate(
        newrequests.build(
            "web",
            newrequests.Contents(
                NAME, newrequests.subject(common_name), names, usages or newrequests.usages((), NAME, names, KEY), 3600
            ),
            KEY,
        )
    )


def test_the_signer_permits_the_names_and_nothing_else(directory):
    """Requests of `csr create` with its defaults."""
    init(NAME, "--dns", "*.web.example.com", "--ip", "10.0.0.0/8")
    (definition,) = signersfile.parse((directory / "signers.yaml").read_bytes()).signers
    profile = signersfile.profile_from(definition)
    assert profiles.permits(profile, requested())
    assert profiles.permits(profile, requested(dns=(), ip=("10.1.2.3",)))
    assert not profiles.permits(profile, requested(dns=("www.example.org",)))
    assert not profiles.permits(profile, requested(dns=(), ip=("192.0.2.1",)))
    assert not profiles.permits(profile, requested(usages=("client auth",)))
    assert (profile.default_lifetime, profile.max_lifetime) == (
        datetime.timedelta(hours=24),
        datetime.timedelta(hours=720),
    )
    assert definition.approval == []


def test_the_ca_can_be_loaded_and_its_key_read_by_nobody_else(directory):
    """The signers file names both by relative paths."""
    init(NAME, "--dns", "*.web.example.com", "--file", "sub/signers.yaml")
    signersfile.SignersFile(directory / "sub" / "signers.yaml", datetime.timedelta(days=365)).load()
    assert (directory / "sub" / "web-ca.key").stat().st_mode & 0o777 == 0o600
    assert (directory / "sub").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    ("arguments", "permitted", "excluded"),
    [
        (["--dns", "*.a.b", "--dns", "**.a.b", "--dns", "c.d"], ["a.b", "c.d"], ["0.0.0.0/0", "::/0"]),
        (["--ip", "10.0.0.0/8"], ["10.0.0.0/8"], ["", "::/0"]),
        (["--dns", "a.b", "--ip", "::1"], ["a.b", "::1/128"], ["0.0.0.0/0"]),
    ],
)
def test_the_ca_is_constrained_to_the_names(directory, arguments, permitted, excluded):
    """Those who trust it trust it for these names only."""
    init(NAME, *arguments)
    certificate = x509.load_pem_x509_certificate((directory / "web-ca.crt").read_bytes())
    extension = certificate.extensions.get_extension_for_class(x509.NameConstraints)
    assert extension.critical
    assert [str(name.value) for name in extension.value.permitted_subtrees] == permitted
    assert [str(name.value) for name in extension.value.excluded_subtrees] == excluded
    basic = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    assert (basic.ca, basic.path_length) == (True, 0)


def _handshake(client, server, name):
    """A TLS handshake in memory. Raises ssl.SSLError if the client does not trust the server."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(to_client, to_server, server_hostname=name),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    for _ in range(10):
        for end in ends:
            with contextlib.suppress(ssl.SSLWantReadError):
                end.do_handshake()


@pytest.mark.parametrize(("name", "is_trusted"), [("shop.web.example.com", True), ("www.example.org", False)])
def test_clients_do_not_trust_the_ca_for_other_names(directory, name, is_trusted):
    """Also if its key signs a certificate for one."""
    init(NAME, "--dns", "*.web.example.com")
    ca_key = serialization.load_pem_private_key((directory / "web-ca.key").read_bytes(), None)
    ca_certificate = x509.load_pem_x509_certificate((directory / "web-ca.crt").read_bytes())
    key, now = testing.new_key(), datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(ca_certificate.subject, x509.Name([]), key.public_key(), 1)
        .not_valid_before(now - datetime.timedelta(minutes=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=True)
        .sign(ca_key, hashes.SHA256())
    )
    (directory / "pair").write_bytes(certificate.public_bytes(serialization.Encoding.PEM) + keys.to_pem(key))
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(directory / "pair")
    client = ssl.create_default_context(cafile=directory / "web-ca.crt")
    if is_trusted:
        _handshake(client, server, name)
    else:
        with pytest.raises(ssl.SSLCertVerificationError, match="subtree"):
            _handshake(client, server, name)


def test_the_same_command_again_changes_nothing(directory):
    """No file is written."""
    arguments = (NAME, "--dns", "*.web.example.com", "--ip", "10.0.0.0/8")
    init(*arguments)
    before = files_of(directory)
    init(*arguments)
    assert files_of(directory) == before


@pytest.mark.parametrize(
    ("arguments", "difference"),
    [
        (["--dns", "www.example.org"], "names"),
        (["--dns", "a.example.com", "--ip", "10.0.0.0/8"], "names"),
        (["--dns", "a.example.com", "--max-duration", "48h"], "lifetime"),
        (["--dns", "a.example.com", "--description", "x"], "description"),
    ],
)
def test_other_settings_for_an_existing_signer_are_an_error(directory, arguments, difference):
    """Nothing is changed."""
    init(NAME, "--dns", "a.example.com")
    before = files_of(directory)
    message = refused(NAME, *arguments)
    assert "exists in signers.yaml with other settings" in message
    assert difference in message
    assert files_of(directory) == before


def test_a_start_that_was_interrupted_is_completed(directory):
    """The CA exists, the definition does not."""
    init(NAME, "--dns", "a.example.com")
    before = files_of(directory)
    (directory / "signers.yaml").unlink()
    init(NAME, "--dns", "a.example.com")
    assert files_of(directory) == before


# --- other files --------------------------------------------------------------------------------------------------

FILE = """\
# Signers of the company.
apiVersion: signers.certplane.dev/v1alpha1
kind: SignerList
signers:  # all
  # The first one.
  - name: example.com/first   # keep
    authority: {certFile: a.crt, keyFile: a.key}
    usages: {allowed: [any]}
"""


@pytest.mark.parametrize("text", [FILE, FILE.rstrip("\n"), FILE.replace("  - ", "- ").replace("    ", "  ")])
def test_other_signers_and_comments_stay(directory, text):
    """With either indentation of lists."""
    (directory / "signers.yaml").write_text(text)
    init(NAME, "--dns", "a.example.com")
    written = (directory / "signers.yaml").read_text()
    assert written.startswith(text)
    assert [item.name for item in signersfile.parse(written.encode()).signers] == ["example.com/first", NAME]


@pytest.mark.parametrize("empty", ["signers: []", "signers: [] ", "signers:"])
def test_an_empty_list_is_extended(directory, empty):
    """In block style."""
    (directory / "signers.yaml").write_text(f"apiVersion: {signersfile.API_VERSION}\nkind: SignerList\n{empty}\n")
    init(NAME, "--dns", "a.example.com")
    assert len(signersfile.parse((directory / "signers.yaml").read_bytes()).signers) == 1


@pytest.mark.parametrize(
    "text",
    [
        (
            "apiVersion: signers.certplane.dev/v1alpha1\nkind: SignerList\n"
            "signers: [{name: a.b/c, authority: {certFile: a, keyFile: b}, usages: {allowed: [any]}}]\n"
        ),
        "{apiVersion: signers.certplane.dev/v1alpha1, kind: SignerList, signers: []}\n",
        FILE.replace("kind: SignerList\n", "") + "kind: SignerList\n",
    ],
)
def test_a_file_that_cannot_be_extended_is_left_alone(directory, text):
    """The hint has the definition to add."""
    (directory / "signers.yaml").write_text(text)
    with pytest.raises(errors.SetupError) as caught:
        init(NAME, "--dns", "a.example.com")
    assert "cannot be extended" in caught.value.message
    assert "\n- name: example.com/web\n" in caught.value.hints[0]
    assert (directory / "signers.yaml").read_text() == text


@pytest.mark.parametrize("text", ["signers: {", "kind: Other\n", "\x00", "a: *b\n"])
def test_an_invalid_file_is_left_alone(directory, text):
    """And no CA is created."""
    (directory / "signers.yaml").write_text(text)
    assert "is invalid" in refused(NAME, "--dns", "a.example.com")
    assert set(files_of(directory)) == {"signers.yaml"}


def test_the_ca_of_another_signer_is_not_shared_by_accident(directory):
    """With --ca-cert and --ca-key it is."""
    init(NAME, "--dns", "a.example.com")
    assert "is the CA of another signer, example.com/web" in refused("example.org/web", "--dns", "b.example.com")
    init("example.org/web", "--dns", "a.example.com", "--ca-cert", "web-ca.crt", "--ca-key", "web-ca.key")
    first, second = signersfile.parse((directory / "signers.yaml").read_bytes()).signers
    assert first.authority == second.authority


def test_half_a_ca_is_an_error(directory):
    """A new CA beside the old certificate would be trusted by nobody."""
    init(NAME, "--dns", "a.example.com")
    (directory / "web-ca.key").unlink()
    assert "web-ca.key does not exist" in refused(NAME, "--dns", "a.example.com")
    (directory / "signers.yaml").unlink()
    assert "web-ca.key does not exist" in refused(NAME, "--dns", "a.example.com")


def ca(days=10, **settings):
    now = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=10)
    key = settings.get("key") or testing.new_key()
    return selfsigned.self_signed_ca("x", key, now, datetime.timedelta(days=10 + days)), keys.to_pem(key)


@pytest.mark.parametrize(
    ("certificate", "key", "problem"),
    [
        (*ca(days=-1), "it has expired: valid until"),
        (ca()[0], ca()[1], "private key does not match public key"),
        (b"", ca()[1], "failed to find any PEM data in certificate input"),
        (ca()[0], b"nonsense", "failed to find any PEM data in key input"),
    ],
)
def test_an_unusable_ca_is_an_error(directory, certificate, key, problem):
    """Before the definition is written."""
    (directory / "c").write_bytes(certificate)
    (directory / "k").write_bytes(key)
    (directory / "k").chmod(0o600)
    assert problem in refused(NAME, "--dns", "a.example.com", "--ca-cert", "c", "--ca-key", "k")
    assert not (directory / "signers.yaml").exists()


def test_a_ca_key_that_others_can_read_is_an_error(directory):
    """As at the start of a server."""
    init(NAME, "--dns", "a.example.com")
    (directory / "web-ca.key").chmod(0o640)
    assert "other users can read the CA key" in refused(NAME, "--dns", "a.example.com")


def test_a_directory_that_others_can_write_is_an_error(directory):
    """They could replace the CA."""
    directory.chmod(0o777)
    assert "other users can create files in the directory" in refused(NAME, "--dns", "a.example.com")


@pytest.mark.parametrize("name", ["signers.yaml", "web-ca.key"])
def test_links_are_not_followed(directory, tmp_path_factory, name):
    """Whoever planted one would choose where the key is written."""
    target = tmp_path_factory.mktemp("other") / "target"
    os.symlink(target, directory / name)
    refused(NAME, "--dns", "a.example.com")
    assert not target.exists()
    assert set(os.listdir(directory)) == {name}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["web", "--dns", "a.b"], "requests for the signer web are not possible"),
        (["example.com/web"], "a signer needs the names that it permits"),
        (["kubernetes.io/web", "--dns", "a.b"], "is in a domain of Kubernetes"),
        ([NAME, "--dns", "a.*.b"], 'invalid pattern "a.*.b"'),
        ([NAME, "--dns", ""], "invalid pattern"),
        ([NAME, "--dns", "bücher.example"], "not a DNS name"),
        ([NAME, "--ip", "10.0.0.1/8"], 'not a network: "10.0.0.1/8"'),
        ([NAME, "--ip", "localhost"], "not a network"),
        ([NAME, "--dns", "a.b", "--duration", "soon"], "not a duration: soon"),
        ([NAME, "--dns", "a.b", "--duration", "48h", "--max-duration", "24h"], "lifetime.default: must not be more"),
        ([NAME, "--dns", "a.b", "--max-duration", "1m", "--duration", "1m"], "must be at least 10m"),
        ([NAME, "--dns", "a.b", "--ca-cert", "x"], "--ca-cert and --ca-key belong together"),
        ([NAME, "--dns", "a.b", "--ca-cert", "x", "--ca-key", "y"], "does not exist"),
        ([NAME, "--dns", "a.b", "--key-algorithm", "DSA"], "unknown key algorithm: DSA"),
    ],
)
def test_invalid_arguments_are_refused_before_anything_is_written(directory, arguments, message):
    """With the field that is wrong."""
    assert message in refused(*arguments)
    assert files_of(directory) == {}


def test_the_output_can_be_applied(directory, capsys):
    """Three roles; everything else is on standard error."""
    init(NAME, "--dns", "*.web.example.com")
    output = capsys.readouterr()
    documents = [goyaml.load(text) for text in output.out.split("---\n")]
    assert [document["metadata"]["name"] for document in documents] == [
        "example.com:web:requester", "example.com:web:approver", "example.com:web:signer",
    ]  # fmt: skip
    assert documents[1]["rules"][-1] == {
        "apiGroups": ["certificates.k8s.io"], "resources": ["signers"], "resourceNames": [NAME], "verbs": ["approve"],
    }  # fmt: skip
    assert "certplane serve --signers signers.yaml" in output.err
    assert "certplane csr create web --signer example.com/web --dns www.web.example.com --wait" in output.err


def test_long_signer_names_fit_into_the_subject_of_the_ca(directory):
    """A common name has at most 64 bytes."""
    name = f"{'a' * 60}.example.com/{'b' * 60}"
    init(name, "--dns", "a.example.com")
    certificate = x509.load_pem_x509_certificate((directory / f"{'b' * 60}-ca.crt").read_bytes())
    assert len(certificate.subject.rfc4514_string()) <= len("CN=") + 64


def test_adding_to_an_empty_text_makes_a_file():
    """The name is the first field of the definition."""
    definition = {"name": NAME, "authority": {"certFile": "a", "keyFile": "b"}, "usages": {"allowed": ["any"]}}
    text = signer.add_signer("", definition)
    assert text.splitlines()[3] == f"- name: {NAME}"
    assert signersfile.parse(text.encode()).signers[0].name == NAME
