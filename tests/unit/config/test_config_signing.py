"""The CA files of the signers: which pair a signer uses, and which combinations of flags are refused."""

from __future__ import annotations

import pathlib

import pytest

from certplane import errors, signernames
from certplane.config import servesettings
from certplane.config.signing import PairFiles

A, B = PairFiles(pathlib.Path("a.crt"), pathlib.Path("a.key")), PairFiles(pathlib.Path("b.crt"), pathlib.Path("b.key"))
COMMON = {"cluster_signing_cert_file": "a.crt", "cluster_signing_key_file": "a.key"}
SERVING = {"cluster_signing_kubelet_serving_cert_file": "b.crt", "cluster_signing_kubelet_serving_key_file": "b.key"}


def read(**flags):
    return servesettings.read(flags, {}).controllers.signing


@pytest.mark.parametrize(
    ("flags", "serving", "client"),
    [
        ({}, PairFiles(), PairFiles()),
        (COMMON, A, A),
        (SERVING, B, PairFiles()),
    ],
)
def test_the_pair_of_a_signer(flags, serving, client):
    """If one signer has a pair of its own, the others do not use the common one."""
    settings = read(**flags)
    assert settings.pair(signernames.KUBELET_SERVING) == serving
    assert settings.pair(signernames.KUBE_APISERVER_CLIENT) == client
    assert settings.is_default is not bool(flags)


def test_an_empty_file_name_is_not_the_default():
    """It disables a signer, as in kube-controller-manager."""
    settings = read(cluster_signing_cert_file="", cluster_signing_key_file="")
    assert not settings.is_default
    assert not settings.pair(signernames.LEGACY_UNKNOWN).is_complete


@pytest.mark.parametrize(
    ("flags", "error"),
    [
        ({"cluster_signing_cert_file": "a"}, "--cluster-signing-cert-file is set, but --cluster-signing-key-file is"),
        ({"cluster_signing_key_file": "a"}, "--cluster-signing-key-file is set, but --cluster-signing-cert-file is"),
        (
            {"cluster_signing_kubelet_client_key_file": "a"},
            '"cluster-signing-kube-apiserver-client": cannot specify key without cert',
        ),
        (
            {"cluster_signing_legacy_unknown_cert_file": "a"},
            '"cluster-signing-legacy-unknown": cannot specify cert without key',
        ),
        (COMMON | SERVING, "other --cluster-signing-*-file flags at the same time"),
        ({"cluster_signing_duration": "0s"}, "--cluster-signing-duration: must be longer than 0s"),
    ],
)
def test_invalid_combinations_are_refused(flags, error):
    """With the texts of kube-controller-manager."""
    with pytest.raises(errors.SetupError) as caught:
        read(**flags)
    assert error in caught.value.message
