"""Where the certificates come from whose end is announced."""

from __future__ import annotations

import dataclasses

import pytest

from certplane import testing
from certplane.client import kubeconfig as clientconfigs
from certplane.config.servesettings import DEFAULTS
from certplane.config.signing import PairFiles
from certplane.kubeadm import kubeconfig, pki
from certplane.plane import certificatesources, controllerconfig
from certplane.plane.controllerconfig import ControllerConfig
from certplane.plane.expirations import Unreadable
from certplane.x509.trust import validity

NOW = testing.FakeClock().now()
SERVER = "https://127.0.0.1:6443"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    data = tmp_path_factory.mktemp("data")
    paths = pki.ensure(data / "pki", ("localhost",), "ECDSA-P256", NOW)
    kubeconfig.ensure(data, paths, SERVER, "ECDSA-P256", NOW)
    return data


async def found(source):
    """The names and serial numbers of certificates, and the problems."""
    items = await source()
    return [(item.name, item.problem if isinstance(item, Unreadable) else item.validity.serial) for item in items]


def serial(path):
    return validity.from_pem(path.read_bytes())[0].serial


async def test_a_file_has_all_its_certificates(data, tmp_path):
    """A file that does not exist has none; one that cannot be used is a problem."""
    path = tmp_path / "bundle"
    assert [] == await found(certificatesources.from_file("client-ca", path, ""))
    pair = [data / "pki" / name for name in ("ca.crt", "apiserver.crt")]
    path.write_bytes(b"".join(part.read_bytes() for part in pair))
    # In the order of their ends.
    assert [("client-ca", serial(pair[1])), ("client-ca", serial(pair[0]))] == (
        await found(certificatesources.from_file("client-ca", path, ""))
    )
    path.write_bytes(path.read_bytes().replace(b"MII", b"MIX"))
    ((name, problem),) = await found(certificatesources.from_file("client-ca", path, ""))
    assert "client-ca" == name
    assert problem.startswith(f"{path} cannot be used: ")
    path.unlink()
    path.mkdir()
    assert [("client-ca", f"{path} cannot be read: it is not a regular file")] == (
        await found(certificatesources.from_file("client-ca", path, ""))
    )


@pytest.mark.parametrize(
    "text", ["", "users: [", "kind: Config\nusers: [{name: kubernetes-admin, user: {client-certificate-data: '?'}}]"]
)
async def test_a_damaged_kubeconfig_is_a_problem(text, data, tmp_path):
    """The other certificates are announced all the same."""
    path = tmp_path / "admin.conf"
    path.write_text(text)
    ((name, problem),) = await found(certificatesources.from_kubeconfig(path, kubeconfig.ADMIN, ""))
    assert "admin.conf" == name
    assert str(path) in problem


async def test_a_kubeconfig_has_the_certificate_of_its_user(data):
    """The user that certplane created."""
    content = (data / "admin.conf").read_bytes()
    certificate = kubeconfig.client_certificate(data / "admin.conf", content, kubeconfig.ADMIN)
    (expected,) = validity.from_pem(certificate)
    source = certificatesources.from_kubeconfig(data / "admin.conf", kubeconfig.ADMIN, "")
    assert [("admin.conf", expected.serial)] == await found(source)


async def test_a_client_has_its_certificate(data, tmp_path):
    """With a token there is none, and a file that is missing is a problem."""
    config = clientconfigs.load(data / "admin.conf")
    ((name, _),) = await found(certificatesources.from_client(config, ""))
    assert "client" == name
    path = tmp_path / "token.conf"
    path.write_text(
        "clusters: [{name: a, cluster: {server: 'https://127.0.0.1:1'}}]\nusers: [{name: a, user: {token: abc}}]\n"
        "contexts: [{name: a, context: {cluster: a, user: a}}]\ncurrent-context: a\n"
    )
    assert [] == await found(certificatesources.from_client(clientconfigs.load(path), ""))


async def test_the_cas_of_signers_are_announced_after_their_end_too(data):
    """When the signer cannot use them any more."""
    settings = DEFAULTS.controllers.signing
    pair = PairFiles(data / "pki" / "ca.crt", data / "pki" / "ca.key")
    signers = controllerconfig.built_in_signers(dataclasses.replace(settings, common=pair))
    config = ControllerConfig(signers=signers)
    assert [] == await found(certificatesources.from_signers(config))
    clock = testing.FakeClock()
    for years in (0, 11):
        await clock.advance(years * 365 * 86400)
        for signer in signers.values():
            signer.current(clock.now())
        assert {(f"signer:{name}", serial(pair.cert_file)) for name in signers} == (
            set(await found(certificatesources.from_signers(config)))
        )


async def test_a_certificate_in_use_that_cannot_be_parsed_is_a_problem(tmp_path):
    """OpenSSL accepts some that Go does not."""
    source = certificatesources.from_memory("serving", tmp_path / "a", lambda: b"", "")
    assert [] == await found(source)
    broken = b"-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n"
    ((name, problem),) = await found(certificatesources.from_memory("serving", tmp_path / "a", lambda: broken, ""))
    assert "serving" == name
    assert "cannot be used" in problem
