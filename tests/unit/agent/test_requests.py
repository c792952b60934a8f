"""The agent's CertificateSigningRequests, against a server: created once, and read with suspicion."""

from __future__ import annotations

import base64
import dataclasses

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from certplane import errors
from certplane.agent import access, certificatefacts, pairstore, requests
from certplane.agent.rotation import Credentials, Outcome
from certplane.golang import pem
from certplane.testing import FakeClock
from certplane.x509 import keys
from certplane.x509.certificatenames import Subject
from certplane.x509.tbs.template import AltNames
from tests.unit.agent import apiserver, pairs
from tests.unit.agent.apiserver import SETTINGS


@pytest.fixture(scope="module")
def ca():
    return pairs.CA()


@pytest.fixture
def key():
    return pairs.key_pem(pairs.new_key())


@pytest.fixture
async def server():
    async with apiserver.APIServer().listening() as listening:
        yield listening


@pytest.fixture
async def client(server, tmp_path):
    reached = access.Access(server.kubeconfig(tmp_path), lambda: None, FakeClock())
    async with reached.client(Credentials.BOOTSTRAP) as made:
        yield made


def _issued(ca, key):
    return ca.issue(load_pem_private_key(key, None))


async def test_what_is_requested_is_what_is_configured(server, client, key):
    """The PKCS#10 has the subject, the names and the key."""
    settings = dataclasses.replace(SETTINGS, expiration_seconds=3600)
    name, uid = await requests.submit(client, settings, key)
    spec = server.csr["spec"]
    request = x509.load_pem_x509_csr(base64.b64decode(spec.pop("request")))
    assert request.subject.rfc4514_string() == "CN=web"
    names = request.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert ["localhost"] == names.get_values_for_type(x509.DNSName)
    assert load_pem_private_key(key, None).public_key() == request.public_key()
    usages = ["digital signature", "server auth"]
    assert spec == {"signerName": apiserver.SIGNER, "expirationSeconds": 3600, "usages": usages}
    assert (server.csr["metadata"]["name"], "uid-1") == (name, uid)
    assert [apiserver.TOKEN] == server.tokens


async def test_an_rsa_key_may_encipher_keys(server, client):
    """As the kubelet requests it."""
    settings = dataclasses.replace(SETTINGS, key_kind="RSA-2048")
    await requests.submit(client, settings, keys.to_pem(keys.generate("RSA-2048")))
    assert ["digital signature", "key encipherment", "server auth"] == server.csr["spec"]["usages"]


async def test_a_lost_answer_leads_to_no_second_request(server, client, key):
    """The request is found by its name, which is derived from the key."""
    assert await requests.submit(client, SETTINGS, key) == await requests.submit(client, SETTINGS, key)
    assert server.created == 1


@pytest.mark.parametrize("content", [None, "", "bm9uZQ==", "another"])
async def test_a_request_of_others_with_our_name_is_noticed(server, client, key, content):
    """Whoever knows the public key can take the name first. Nothing is obtained from their request."""
    await requests.submit(client, SETTINGS, key)
    ours = server.csr
    if content == "another":
        await requests.submit(client, SETTINGS, pairs.key_pem(pairs.new_key()))
        content = server.csr["spec"]["request"]
    ours["spec"]["request"] = content
    with pytest.raises(requests.NotOurs):
        await requests.submit(client, SETTINGS, key)
    name, uid = ours["metadata"]["name"], ours["metadata"]["uid"]
    assert (Outcome.REPLACED, "", b"", None) == await requests.fetch(client, name, uid, key)


@pytest.mark.parametrize(
    "change",
    [
        {"signer_name": "example.com/other"},
        {"expiration_seconds": 600},
        {"usages": ("digital signature", "client auth")},
        {"subject": Subject(common_name="other")},
        {"names": AltNames(dns=("other",))},
        {"name": "other"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_the_name_depends_on_everything_that_is_requested(change, key):
    """A changed configuration must not find the request of the former one; nor must another key."""
    name = requests.csr_name(SETTINGS, key)
    assert name == requests.csr_name(SETTINGS, key)
    assert name != requests.csr_name(dataclasses.replace(SETTINGS, **change), key)
    assert name != requests.csr_name(SETTINGS, pairs.key_pem(pairs.new_key()))


async def test_the_states_of_a_request(server, client, ca, key):
    """Pending, approved, issued; gone, if it is deleted; replaced, if it was deleted and created again."""
    name, uid = await requests.submit(client, SETTINGS, key)
    certificate = _issued(ca, key)
    assert (Outcome.PENDING, "", b"", None) == await requests.fetch(client, name, uid, key)
    server.csr["status"]["certificate"] = base64.b64encode(certificate).decode()
    assert (Outcome.PENDING, "", b"", None) == await requests.fetch(client, name, uid, key), "nobody approved it"
    del server.csr["status"]["certificate"]
    server.decide("Approved")
    assert (Outcome.APPROVED, "", b"", None) == await requests.fetch(client, name, uid, key)
    server.issue(certificate)
    facts = certificatefacts.read(pem.first_block(certificate).data)
    assert (Outcome.ISSUED, "", certificate, facts) == await requests.fetch(client, name, uid, key)
    assert (Outcome.REPLACED, "", b"", None) == await requests.fetch(client, name, "uid-0", key)
    server.csrs.clear()
    assert (Outcome.GONE, "", b"", None) == await requests.fetch(client, name, uid, key)


@pytest.mark.parametrize(("kind", "outcome"), [("Denied", Outcome.DENIED), ("Failed", Outcome.FAILED)])
async def test_a_denial_has_the_reason_on_one_line(server, client, ca, key, kind, outcome):
    """Also if the request has a certificate."""
    name, uid = await requests.submit(client, SETTINGS, key)
    server.issue(_issued(ca, key))
    server.decide(kind, "Policy", "no\x1b[2J\nway")
    assert (outcome, "Policy: no [2J way", b"", None) == await requests.fetch(client, name, uid, key)


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda ca, _: b"nonsense", "it holds no certificate in PEM"),
        (lambda ca, _: ca.issue(pairs.new_key()), "private key does not match public key"),
        (lambda ca, _: pem.encode("CERTIFICATE", b"0"), "malformed certificate"),
        (
            lambda ca, key: _issued(ca, key) + b"\n" * pairstore.MAX_CERTIFICATE,
            f"it has more than {pairstore.MAX_CERTIFICATE} bytes",
        ),
    ],
    ids=["no certificate", "another key", "no DER", "too large"],
)
async def test_a_certificate_that_cannot_be_used(server, client, ca, key, make, problem):
    """The reason is given, and no certificate: what cannot be saved must not be fetched again and again."""
    name, uid = await requests.submit(client, SETTINGS, key)
    server.issue(make(ca, key))
    outcome, message, certificate, facts = await requests.fetch(client, name, uid, key)
    assert (Outcome.ISSUED, b"", None) == (outcome, certificate, facts)
    assert problem in message


async def test_a_refusal_is_raised(server, client, key):
    """The rotation decides what follows."""
    server.refusal = 403
    with pytest.raises(errors.APIError, match="refused"):
        await requests.submit(client, SETTINGS, key)
    with pytest.raises(errors.APIError, match="refused"):
        await requests.fetch(client, "web-1", "uid-1", key)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, True),
        ({"names": AltNames()}, True),
        ({"names": AltNames(dns=("localhost", "other"))}, False),
        ({"subject": Subject(common_name="other")}, False),
        ({"subject": Subject(common_name="web", organization=("o",))}, False),
    ],
)
def test_a_certificate_may_have_more_names_but_not_fewer(ca, key, change, expected):
    """Signers may add names; one that is missing is requested again."""
    facts = certificatefacts.read(pem.first_block(_issued(ca, key)).data)
    assert expected is requests.is_as_configured(facts, dataclasses.replace(SETTINGS, **change))


def test_texts_of_a_server_are_short_and_on_one_line():
    """They are shown on terminals."""
    assert requests.printable("a\r\n\x1b]0;b\u202e") == "a   ]0;b "
    assert len(requests.printable("x" * 100_000)) < 400
