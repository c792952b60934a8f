"""The signers file: its fields, its errors, and its reload."""

from __future__ import annotations

import datetime
import os

import pytest

from certplane import errors
from certplane.controllers.signing import signersfile
from certplane.x509.issuance import profiles

HEAD = f"apiVersion: {signersfile.API_VERSION}\nkind: {signersfile.KIND}\nsigners:\n"
MINIMAL = """\
- name: example.com/web
  authority: {certFile: ca.crt, keyFile: ca.key}
  usages: {allowed: [server auth]}
"""
YEAR = datetime.timedelta(days=365)


def parse(text):
    return signersfile.parse((HEAD + text).encode())


def test_all_fields():
    """Each field is in the profile."""
    document = parse("""\
- name: example.com/web
  description: Web servers.
  authority: {certFile: ca.crt, keyFile: ca.key}
  keys: [ECDSA-P256, RSA-3072]
  usages: {allowed: [server auth, digital signature], required: [server auth]}
  subject: {commonName: ["*.web"], organizations: []}
  names: {dns: ["*.web.example.com"], ip: [10.0.0.0/8], email: [], uri: ["spiffe://example.com/*"],
          required: [dns], max: 5, wildcards: true}
  lifetime: {min: 1h, default: 24h, max: 168h}
  certificateAuthority: true
  approval:
  - {users: [jane], groups: [makers]}
""")
    assert signersfile.profile_from(document.signers[0]) == profiles.Profile(
        signer="example.com/web",
        description="Web servers.",
        keys=("ECDSA-P256", "RSA-3072"),
        usages=("server auth", "digital signature"),
        required_usages=("server auth",),
        common_name=("*.web",),
        organizations=(),
        dns=("*.web.example.com",),
        ip=("10.0.0.0/8",),
        email=(),
        uri=("spiffe://example.com/*",),
        required_names=("dns",),
        max_names=5,
        allow_wildcards=True,
        min_lifetime=datetime.timedelta(hours=1),
        default_lifetime=datetime.timedelta(hours=24),
        max_lifetime=datetime.timedelta(days=7),
        ca_requests=profiles.CARequests.ALLOW,
        approval=(profiles.Approval(("jane",), ("makers",)),),
    )


def test_defaults():
    """Keys and names are not restricted. CA certificates, wildcards and automatic approval must be configured."""
    profile = signersfile.profile_from(parse(MINIMAL).signers[0])
    assert (profile.keys, profile.dns, profile.common_name) == (None, None, None)
    assert (profile.ca_requests, profile.allow_wildcards, profile.approval) == (profiles.CARequests.REFUSE, False, ())


def changed(old, new):
    assert old in MINIMAL
    return MINIMAL.replace(old, new)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (changed("example.com/web", "web"), "signers[0].name: Invalid value"),
        (changed("example.com/web", "kubernetes.io/web"), "is in a domain of Kubernetes"),
        (changed("example.com/web", "signers.k8s.io/web"), "is in a domain of Kubernetes"),
        (changed("certFile: ca.crt, ", ""), "signers[0].authority.certFile: required"),
        (changed("[server auth]", "[]"), "signers[0].usages.allowed: at least one usage is required"),
        (changed("[server auth]", "[serving]"), 'signers[0].usages.allowed: unknown usage "serving"'),
        (
            changed("[server auth]", "[server auth], required: [any]"),
            'signers[0].usages.required: "any" is not in usages.allowed',
        ),
        (MINIMAL + MINIMAL, "signers[1].name: duplicate signer example.com/web"),
        (MINIMAL + "  keys: [DSA]", 'signers[0].keys: unknown kind of key "DSA"'),
        (MINIMAL + "  names: {dns: [a.*.b]}", 'signers[0].names.dns: invalid pattern "a.*.b"'),
        (MINIMAL + "  names: {dns: [a*.b]}", 'signers[0].names.dns: invalid pattern "a*.b"'),
        (MINIMAL + "  names: {ip: [10.0.0.1/8]}", "names.ip: 10.0.0.1/8 has host bits set; did you mean 10.0.0.0/8?"),
        (MINIMAL + "  names: {ip: [10.0.0.0/33]}", "signers[0].names.ip: '10.0.0.0/33' does not appear to be"),
        (MINIMAL + "  names: {required: [name]}", 'signers[0].names.required: unknown kind of name "name"'),
        (MINIMAL + "  names: {max: -1}", "signers[0].names.max: must be 0 or more"),
        (MINIMAL + "  lifetime: {max: long}", 'signers[0].lifetime.max: invalid duration "long"'),
        (MINIMAL + "  lifetime: {max: 5m}", "signers[0].lifetime.max: must be at least 10m"),
        (
            MINIMAL + "  lifetime: {max: 1h, min: 2h}",
            "signers[0].lifetime.min: must not be more than lifetime.max",
        ),
        (MINIMAL + "  approval: [{}]", "signers[0].approval[0]: users or groups are required"),
        (MINIMAL + "  colour: red", "colour"),
    ],
)
def test_invalid_fields_are_refused(text, error):
    """The error has the path of the field."""
    with pytest.raises(signersfile.SignersFileError) as caught:
        parse(text)
    assert error in str(caught.value)


@pytest.mark.parametrize("data", [b"", b"a: [", b"[]", b"\xff", b"apiVersion: v1\nkind: List\n"])
def test_other_documents_are_refused(data):
    """An empty file, invalid YAML, invalid UTF-8, and other kinds."""
    with pytest.raises(signersfile.SignersFileError):
        signersfile.parse(data)


def write(path, text):
    path.with_suffix(".new").write_text(HEAD + text)
    os.replace(path.with_suffix(".new"), path)


def reload(signers):
    """Two checks, after which new content counts as complete."""
    return (signers.reload(), signers.reload())[1]


def test_a_changed_file_is_reloaded(tmp_path):
    """An invalid file changes nothing and is reported. The problem is cleared by a valid file."""
    path = tmp_path / "signers.yaml"
    write(path, MINIMAL)
    signers = signersfile.SignersFile(path, YEAR)
    signers.load()
    assert list(signers.signers) == ["example.com/web"]
    assert not reload(signers)
    write(path, MINIMAL.replace("/web", "/mail"))
    assert reload(signers)
    assert list(signers.signers) == ["example.com/mail"]
    write(path, "- name: bad")
    assert not reload(signers)
    assert list(signers.signers) == ["example.com/mail"]
    assert "signers[0].name" in signers.problem
    path.unlink()
    assert not signers.reload()
    assert signers.problem == "cannot read the file: No such file or directory"
    write(path, MINIMAL)
    assert reload(signers)
    assert (list(signers.signers), signers.problem) == (["example.com/web"], "")


def test_a_file_that_is_being_written_is_not_used(tmp_path):
    """Its content differs from check to check. On SIGHUP it is used at once."""
    path = tmp_path / "signers.yaml"
    write(path, MINIMAL)
    signers = signersfile.SignersFile(path, YEAR)
    signers.load()
    for name in ("/a", "/b"):
        write(path, MINIMAL.replace("/web", name))
        assert not signers.reload()
    assert list(signers.signers) == ["example.com/web"]
    write(path, MINIMAL.replace("/web", "/c"))
    assert signers.reload(is_requested=True)
    assert list(signers.signers) == ["example.com/c"]


def test_changes_are_detected_by_content(tmp_path):
    """Also if inode, size and times are the same."""
    path = tmp_path / "signers.yaml"
    write(path, MINIMAL)
    signers = signersfile.SignersFile(path, YEAR)
    signers.load()
    before = path.stat()
    with path.open("r+") as file:
        file.write(HEAD + MINIMAL.replace("/web", "/www"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_ino, path.stat().st_size) == (before.st_ino, before.st_size)
    assert reload(signers)
    assert list(signers.signers) == ["example.com/www"]


def test_an_unusable_file_is_refused_at_startup(tmp_path):
    """All errors are reported at once."""
    with pytest.raises(errors.SetupError, match="No such file"):
        signersfile.SignersFile(tmp_path / "none", YEAR).load()
    write(tmp_path / "invalid", MINIMAL + "  keys: [DSA]\n  approval: [{}]\n")
    with pytest.raises(errors.SetupError, match=r"(?s)signers\[0\]\.keys: .*signers\[0\]\.approval\[0\]: "):
        signersfile.SignersFile(tmp_path / "invalid", YEAR).load()


def test_domains_of_signers():
    """As RBAC names all signers of a domain."""
    assert signersfile.domains(["example.com/a", "example.com/b", "example.org/a"]) == [
        "example.com/*",
        "example.org/*",
    ]
