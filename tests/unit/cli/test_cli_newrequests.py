"""New certificate requests: options, defaults, and the manifest."""

from __future__ import annotations

import ipaddress
import json

import pytest

from certplane import errors, signernames
from certplane.cli import newrequests
from certplane.golang import goyaml
from certplane.resources import certificatesigningrequests as csrs
from certplane.wire import codec
from certplane.x509 import keys
from certplane.x509.pkcs10 import certificaterequest
from certplane.x509.tbs.template import AltNames

CLIENT = signernames.KUBE_APISERVER_CLIENT
WEB = "example.com/web"
KEY = keys.generate("ECDSA-P256")


def contents(**values):
    settings = {
        "signer": WEB,
        "subject": newrequests.subject("web", ("ops",)),
        "names": newrequests.alt_names(("www.example.com",), ("192.0.2.1",), ("spiffe://a/b",), ("a@example.com",)),
        "usages": ("server auth",),
        "seconds": 3600,
    }
    return newrequests.Contents(**{**settings, **values})


def test_the_request_has_what_the_options_say():
    """The server accepts the object, and reads the same names."""
    csr = newrequests.build("web", contents(), KEY)
    assert csrs.validate(csr) == []
    assert (csr.metadata.name, csr.spec.signer_name, csr.spec.expiration_seconds) == ("web", WEB, 3600)
    pkcs10 = certificaterequest.parse(csr.spec.request)
    assert (pkcs10.subject.common_name, pkcs10.subject.organization) == ("web", ("ops",))
    assert pkcs10.dns_names == ("www.example.com",)
    assert pkcs10.ip_addresses == (ipaddress.ip_address("192.0.2.1"),)
    assert (pkcs10.uris, pkcs10.email_addresses) == (("spiffe://a/b",), ("a@example.com",))


def test_the_manifest_is_the_same_request():
    """As kubectl would send it."""
    csr = newrequests.build("web", contents(), KEY)
    document = goyaml.load(newrequests.manifest(csr))
    parsed = codec.decode(json.dumps(document).encode(), csrs.CertificateSigningRequest)
    assert (parsed.metadata.name, parsed.spec) == ("web", csr.spec)
    assert (document["apiVersion"], document["kind"]) == ("certificates.k8s.io/v1", "CertificateSigningRequest")


def test_the_description_names_everything_that_is_approved():
    """In one line."""
    text = newrequests.describe(contents(seconds=None))
    for part in (WEB, '"web"', '"ops"', '"www.example.com"', '"192.0.2.1"', '"server auth"', "that of the signer"):
        assert part in text


@pytest.mark.parametrize(
    ("signer", "names", "algorithm", "expected"),
    [
        (CLIENT, AltNames(), "ECDSA-P256", ("digital signature", "client auth")),
        (CLIENT, AltNames(dns=("a.b",)), "RSA-2048", ("digital signature", "key encipherment", "client auth")),
        (signernames.KUBE_APISERVER_CLIENT_KUBELET, AltNames(), "ECDSA-P256", ("digital signature", "client auth")),
        (signernames.KUBELET_SERVING, AltNames(), "ECDSA-P256", ("digital signature", "server auth")),
        (WEB, AltNames(dns=("a.b",)), "ECDSA-P256", ("digital signature", "server auth")),
        (WEB, AltNames(uri=("spiffe://a/b",)), "ECDSA-P256", ("digital signature", "client auth")),
    ],
)
def test_the_default_usages_suit_the_signer_and_the_key(signer, names, algorithm, expected):
    """Key encipherment is for RSA only."""
    assert expected == tuple(newrequests.usages((), signer, names, keys.generate(algorithm)))


@pytest.mark.parametrize(
    ("signer", "dns", "expected"),
    [
        (CLIENT, (), "name"),
        (CLIENT, ("www.example.com",), "name"),
        (WEB, ("www.example.com", "other"), "www.example.com"),
        (WEB, (f"{'x' * 60}.example.com",), ""),
    ],
)
def test_the_default_common_name(signer, dns, expected):
    """A common name has at most 64 bytes."""
    assert expected == newrequests.default_common_name("name", signer, AltNames(dns=dns))


@pytest.mark.parametrize(
    ("check", "hint"),
    [
        (lambda: newrequests.alt_names(dns=["bücher.example"]), "xn--"),
        (lambda: newrequests.alt_names(dns=["https://www.example.com"]), "without scheme"),
        (lambda: newrequests.alt_names(dns=["www.*.com"]), "write it as www.example.com"),
        (lambda: newrequests.alt_names(dns=["a\nb"]), "write it as"),
        (lambda: newrequests.alt_names(dns=[""]), "write it as"),
        (lambda: newrequests.alt_names(ip=["localhost"]), "use --dns for names"),
        (lambda: newrequests.alt_names(ip=["10.0.0.0/8"]), "192.0.2.1"),
        (lambda: newrequests.alt_names(ip=["fe80::1%eth0"]), "write fe80::1"),
        (lambda: newrequests.alt_names(uri=["no scheme"]), "scheme"),
        (lambda: newrequests.alt_names(uri=["spiffe://bücher"]), "ASCII"),
        (lambda: newrequests.alt_names(email=["nobody"]), "user@example.com"),
        (lambda: newrequests.usages(["server_auth"], WEB, AltNames(), KEY), 'write --usage "server auth"'),
        (lambda: newrequests.usages(["everything else"], WEB, AltNames(), KEY), "known usages are"),
        (lambda: newrequests.subject("x" * 65), "shorten it"),
        (lambda: newrequests.subject("a\x1bb"), "control characters"),
        (lambda: newrequests.subject("\udcff"), "UTF-8"),
        (lambda: newrequests.subject("x", [""]), "leave out --organization"),
        (lambda: newrequests.lifetime_seconds("9m"), "10m"),
        (lambda: newrequests.lifetime_seconds("600000h"), "596523h"),
        (lambda: newrequests.lifetime_seconds("3600"), "write 3600s"),
        (lambda: newrequests.check_signer("web"), "DOMAIN/NAME"),
        (lambda: newrequests.check_signer(signernames.LEGACY_UNKNOWN), "DOMAIN/NAME"),
        (lambda: newrequests.check_name("../x"), "letters"),
        (lambda: newrequests.check_name("-x"), "letters"),
        (lambda: newrequests.check_name(""), "letters"),
        (lambda: newrequests.check_name("x" * 201), "letters"),
    ],
)
def test_invalid_options_are_errors_with_hints(check, hint):
    """Before anything is sent or written."""
    with pytest.raises(errors.SetupError) as caught:
        check()
    assert hint in caught.value.hints[0]
    assert caught.value.message.isprintable()


@pytest.mark.parametrize("text", ["", "10m", "596523h"])
def test_lifetimes(text):
    """Without one, the signer chooses."""
    seconds = newrequests.lifetime_seconds(text)
    assert seconds == {"": None, "10m": 600, "596523h": 596523 * 3600}[text]


def test_repeated_values_count_once():
    """Duplicate usages would be refused by the server."""
    assert newrequests.usages(["any", "any"], WEB, AltNames(), KEY) == ["any"]
    assert newrequests.alt_names(dns=["a", "a"], ip=["::1", "0:0::1"]).ip == [ipaddress.ip_address("::1")]
