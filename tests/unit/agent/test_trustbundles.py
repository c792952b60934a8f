"""The CA certificates on disk while CAs are replaced, and bundles that cannot be used."""

from __future__ import annotations

import os
import stat

import pytest

from certplane.agent import kinds, trustbundles
from certplane.agent.settings import ConfigMapKey, TrustBundle
from certplane.agent.trustbundles import BundleProblem
from certplane.errors import NotFound
from certplane.golang import pem
from tests.unit.agent import pairs

NOT_PARSABLE = pem.encode("CERTIFICATE", b"\x30\x03\x02\x01\x05")


@pytest.fixture(scope="module")
def old():
    return pairs.CA("kubernetes")


@pytest.fixture(scope="module")
def new():
    # As kubeadm's CAs, both have the same name.
    return pairs.CA("kubernetes")


@pytest.fixture(scope="module")
def other():
    return pairs.CA("other")


def _leaf(ca):
    return ca.issue(pairs.new_key())


def test_a_new_bundle_is_taken_over(old, new):
    """Without text between the blocks and without duplicates, in the published order."""
    merged = trustbundles.merge(b"", b"# old\n" + old.pem + new.pem + old.pem, [])
    assert trustbundles.Merged(old.pem + new.pem, 2) == merged


def test_a_ca_is_replaced_without_a_gap(old, new):
    """Playbook: the new CA is published beside the old one; the old one is withdrawn before the host has renewed; the
    host renews; a program is restarted last.
    """
    before, after = _leaf(old), _leaf(new)
    on_disk = old.pem
    for published, in_use, expected in (
        (old.pem + new.pem, [before], old.pem + new.pem),
        (new.pem, [before], new.pem + old.pem),
        (new.pem, [before], new.pem + old.pem),
        (new.pem, [after, before], new.pem + old.pem),
        (new.pem, [after, after], new.pem),
    ):
        on_disk = trustbundles.merge(on_disk, published, in_use).content
        assert expected == on_disk


def test_a_ca_that_is_withdrawn_at_once_is_retained(old, new):
    """The result says how many there are."""
    assert trustbundles.Merged(new.pem + old.pem, 2, 1) == trustbundles.merge(old.pem, new.pem, [_leaf(old)])


def test_a_certificate_with_another_ca_retains_nothing(old, new, other):
    """It depends on neither: a serving certificate of a service, beside the CA of the API server. Nor does the name of
    a CA count: both have the same.
    """
    for in_use in ([], [_leaf(other)], [_leaf(new)]):
        assert new.pem == trustbundles.merge(old.pem, new.pem, in_use).content


def test_chains_with_intermediates_are_followed(old, new):
    """In any order, and also if an intermediate is the anchor."""
    intermediate = pairs.CA("intermediate", parent=old)
    lower = pairs.CA("lower", parent=intermediate)
    leaf = _leaf(lower)
    for chain in (leaf + lower.pem + intermediate.pem, leaf + intermediate.pem + lower.pem):
        assert new.pem + old.pem == trustbundles.merge(old.pem, new.pem, [chain]).content
        assert new.pem + intermediate.pem == trustbundles.merge(intermediate.pem, new.pem, [chain]).content
    assert new.pem == trustbundles.merge(old.pem, new.pem, [leaf]).content


def test_a_cross_signed_chain_does_not_depend_on_the_old_ca(old, new):
    """It leads to the new one as well."""
    cross = pairs.CA("kubernetes", parent=old, key=new.key)
    leaf = _leaf(new)
    unrelated = pairs.CA("other").pem
    assert unrelated + old.pem == trustbundles.merge(old.pem, unrelated, [leaf + cross.pem]).content
    assert new.pem == trustbundles.merge(old.pem, new.pem, [leaf + cross.pem]).content


def test_chains_that_lead_in_circles_end(old, new):
    """Each certificate is followed once."""
    chain = _leaf(old) + b"".join(pairs.CA("kubernetes").pem for _ in range(20)) + old.pem
    assert new.pem + old.pem == trustbundles.merge(old.pem, new.pem, [chain]).content


def test_garbage_in_use_and_on_disk_is_ignored(old, new):
    """Neither may keep new certificates from being written."""
    assert new.pem == trustbundles.merge(b"garbage" + NOT_PARSABLE, new.pem, [b"", b"garbage", NOT_PARSABLE]).content


@pytest.mark.parametrize(
    ("published", "problem"),
    [
        (b"", "the published bundle has no certificate"),
        (b"# the CA of the cluster\n", "the published bundle has no certificate"),
        (NOT_PARSABLE, "the published bundle has no certificate"),
        (pem.encode("EC PRIVATE KEY", b"secret"), "the published bundle has PEM blocks that are no certificates"),
        (b"#" * 1_100_000, "the published bundle has more than 1048576 bytes"),
    ],
)
def test_an_unsuitable_bundle_is_refused(published, problem, old):
    """The file stays as it is."""
    with pytest.raises(BundleProblem) as caught:
        trustbundles.merge(old.pem, published, [])
    assert problem == str(caught.value)


def test_a_key_that_is_published_by_mistake_is_refused(old):
    """Also beside certificates."""
    with pytest.raises(BundleProblem, match="no certificates"):
        trustbundles.merge(b"", old.pem + pairs.key_pem(old.key), [])


def test_a_bundle_that_is_partly_unparsable_removes_nothing(old, new):
    """The old CA may be the one that cannot be parsed any more."""
    merged = trustbundles.merge(old.pem, new.pem + NOT_PARSABLE, [])
    assert trustbundles.Merged(new.pem + old.pem, 2, 1, 1) == merged


# --- fetching and writing -----------------------------------------------------------------------------------------


class _Server:
    """The reads of a client, over objects in memory. `version` is the one of ClusterTrustBundles, if there are any."""

    def __init__(self, version="v1", config_map=None, bundles=()):
        self._version = version
        self._config_map = config_map
        self._bundles = bundles

    async def get(self, kind, name, namespace=""):
        if kind is kinds.CONFIG_MAPS and (namespace, name) == ("default", "kube-root-ca.crt"):
            return kinds.ConfigMap(data=self._config_map)
        for bundle in await self._listed(kind, name):
            if bundle.metadata.name == name:
                return bundle
        raise NotFound(kind.plural, kind.group, name)

    async def list(self, kind, page):
        return type("Listing", (), {"items": await self._listed(kind, "")})

    async def _listed(self, kind, name):
        if kind.version != self._version:
            raise NotFound(kind.plural, kind.group, name)
        return self._bundles


def _bundle(name, signer_name, text):
    bundle = kinds.ClusterTrustBundle(spec=kinds.ClusterTrustBundleSpec(signer_name=signer_name, trust_bundle=text))
    bundle.metadata.name = name
    return bundle


CONFIG_MAP = ConfigMapKey("default", "kube-root-ca.crt")


async def test_the_file_is_written_when_it_differs(old, tmp_path):
    """Everybody may read it."""
    settings = TrustBundle(tmp_path / "ca.crt", config_map=CONFIG_MAP)
    server = _Server(config_map={"ca.crt": old.pem.decode()})
    updated = await trustbundles.update(server, settings, [])
    assert trustbundles.Updated(True, trustbundles.Merged(old.pem, 1)) == updated
    assert old.pem == settings.path.read_bytes()
    assert 0o644 == stat.S_IMODE(settings.path.stat().st_mode)
    inode = settings.path.stat().st_ino
    assert not (await trustbundles.update(server, settings, [])).is_changed
    assert inode == settings.path.stat().st_ino


async def test_an_empty_bundle_does_not_replace_the_file(old, tmp_path):
    """Nor does one without the key."""
    settings = TrustBundle(tmp_path / "ca.crt", config_map=CONFIG_MAP)
    settings.path.write_bytes(old.pem)
    with pytest.raises(BundleProblem, match="no certificate"):
        await trustbundles.update(_Server(config_map={"ca.crt": ""}), settings, [])
    with pytest.raises(BundleProblem, match=r'the ConfigMap default/kube-root-ca.crt has no key "ca.crt"'):
        await trustbundles.update(_Server(config_map={}), settings, [])
    assert old.pem == settings.path.read_bytes()


async def test_a_file_that_cannot_be_read_is_not_replaced(old, tmp_path):
    """It may hold a CA that is needed."""
    settings = TrustBundle(tmp_path / "ca.crt", config_map=CONFIG_MAP)
    os.mkfifo(settings.path)
    with pytest.raises(BundleProblem, match="it is not a regular file"):
        await trustbundles.update(_Server(config_map={"ca.crt": old.pem.decode()}), settings, [])


@pytest.mark.parametrize("version", ["v1", "v1beta1"])
async def test_cluster_trust_bundles_are_found(version, old, new, other):
    """By name, or all of a signer, in the version that the server has."""
    bundles = [
        _bundle("example.com:web:b", "example.com/web", new.pem.decode().rstrip()),
        _bundle("example.com:web:a", "example.com/web", old.pem.decode().rstrip()),
        _bundle("mine", "", other.pem.decode()),
    ]
    server = _Server(version, bundles=bundles)
    assert other.pem == await trustbundles.fetch(server, TrustBundle(None, cluster_trust_bundle="mine"))
    found = await trustbundles.fetch(server, TrustBundle(None, signer_name="example.com/web"))
    assert old.pem + new.pem == trustbundles.merge(b"", found, []).content


async def test_missing_bundles_are_problems():
    """Which the text names."""
    for version, settings, problem in (
        ("v1", {"cluster_trust_bundle": "mine"}, "there is no ClusterTrustBundle mine"),
        ("v1", {"signer_name": "a.com/b"}, "there is no ClusterTrustBundle of the signer a.com/b"),
        ("none", {"signer_name": "a.com/b"}, "the API server has no ClusterTrustBundles"),
    ):
        with pytest.raises(BundleProblem) as caught:
            await trustbundles.fetch(_Server(version), TrustBundle(None, **settings))
        assert problem == str(caught.value)


def test_the_directory_is_checked(tmp_path):
    """By `agent check`."""
    assert [] == trustbundles.find_problems(TrustBundle(tmp_path / "new" / "ca.crt"))
    missing = tmp_path / "a" / "b" / "ca.crt"
    assert [f"path: {tmp_path}/a: No such file or directory"] == trustbundles.find_problems(TrustBundle(missing))
    assert [f"path: {tmp_path} is a directory"] == trustbundles.find_problems(TrustBundle(tmp_path))


def test_a_certificate_in_der_is_in_use(old, new):
    """As a probe returns it."""
    leaf = next(pem.blocks(_leaf(old))).data
    merged = trustbundles.merge(old.pem, new.pem, [trustbundles.as_chain(leaf)])
    assert new.pem + old.pem == merged.content
