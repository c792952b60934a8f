"""With which files signers sign: the --cluster-signing-* flags of kube-controller-manager, and what they exclude."""

from __future__ import annotations

import dataclasses
import datetime
import pathlib
from collections.abc import Mapping
from typing import Final

from certplane.config import options


def _pair_options(signer: str, what: str) -> tuple[options.Option, options.Option]:
    infix = f"-{signer}" if signer else ""
    return (
        options.Option(
            f"cluster-signing{infix}-cert-file", f"CA certificate with which {what} are signed, in PEM.", "path", None
        ),
        options.Option(f"cluster-signing{infix}-key-file", "The key that belongs to it.", "path", None),
    )


OPTIONS: Final = (
    *_pair_options("", "the certificates of all signers"),
    options.Option("cluster-signing-duration", "The longest lifetime of signed certificates.", "duration", "8760h0m0s"),
    *_pair_options("kubelet-serving", "kubernetes.io/kubelet-serving certificates"),
    *_pair_options("kubelet-client", "kubernetes.io/kube-apiserver-client-kubelet certificates"),
    *_pair_options("kube-apiserver-client", "kubernetes.io/kube-apiserver-client certificates"),
    *_pair_options("legacy-unknown", "kubernetes.io/legacy-unknown certificates"),
    options.Option(
        "signers", "File that declares further signers (docs/signers.md); read again when it changes.", "path", None
    ),
)

#: The infix of the flags of each signer, and what kube-controller-manager calls it in errors.
_SIGNERS: Final[Mapping[str, tuple[str, str]]] = {
    "kubernetes.io/kubelet-serving": ("kubelet_serving", "cluster-signing-kubelet-serving"),
    "kubernetes.io/kube-apiserver-client-kubelet": ("kubelet_client", "cluster-signing-kube-apiserver-client"),
    "kubernetes.io/kube-apiserver-client": ("kube_apiserver_client", "cluster-signing-kube-apiserver"),
    "kubernetes.io/legacy-unknown": ("legacy_unknown", "cluster-signing-legacy-unknown"),
}


@dataclasses.dataclass(frozen=True, slots=True)
class Pair:
    """A certificate file and a key file, as far as they are named."""

    certificate: pathlib.Path | None = None
    key: pathlib.Path | None = None

    @property
    def is_complete(self) -> bool:
        return is_given(self.certificate) and is_given(self.key)


@dataclasses.dataclass(frozen=True, slots=True)
class Signing:
    """What is said about signing. `common` is for all signers, `own` for each by its name; `longest` is the longest
    lifetime; `declared` is a file of further signers.
    """

    common: Pair
    own: Mapping[str, Pair]
    longest: datetime.timedelta
    declared: pathlib.Path | None = None

    def pair(self, signer: str) -> Pair:
        """The files of a signer. As soon as one has its own, those without have none."""
        if any(is_given(each.certificate) for each in self.own.values()):
            return self.own.get(signer, Pair())
        return self.common

    @property
    def is_silent(self) -> bool:
        """Whether nothing was said, not even that there is to be no file."""
        return self.common == Pair() and all(each == Pair() for each in self.own.values())


def read(values: options.Values) -> Signing:
    """What a command's values say about signing."""
    common = _pair(values, "cluster_signing_")
    own = {name: _pair(values, f"cluster_signing_{infix}_") for name, (infix, _) in _SIGNERS.items()}
    _check(common, own, values.problems)
    longest = values.duration("cluster_signing_duration", positive=True)
    return Signing(common, own, longest, values.path("signers"))


def _pair(values: options.Values, prefix: str) -> Pair:
    """An empty name is a name too: it says that there is to be no such file."""
    certificate, key = values[prefix + "cert_file"], values[prefix + "key_file"]
    return Pair(
        None if certificate is None else pathlib.Path(str(certificate)),
        None if key is None else pathlib.Path(str(key)),
    )


def is_given(path: pathlib.Path | None) -> bool:
    """Whether a file name was given that is not empty."""
    return path is not None and path != pathlib.Path()


def _check(common: Pair, own: Mapping[str, Pair], problems: options.Problems) -> None:
    """The exclusions of kube-controller-manager, in its words."""
    specific = False
    for name, pair in own.items():
        infix, label = _SIGNERS[name]
        flag = f"--cluster-signing-{infix.replace('_', '-')}"
        if is_given(pair.key) and not is_given(pair.certificate):
            problems.append(f'"{label}": cannot specify key without cert: {flag}-cert-file is missing')
        if is_given(pair.certificate) and not is_given(pair.key):
            problems.append(f'"{label}": cannot specify cert without key: {flag}-key-file is missing')
        specific = specific or is_given(pair.certificate) or is_given(pair.key)
    if is_given(common.key) != is_given(common.certificate):
        given, missing = ("key", "cert") if is_given(common.key) else ("cert", "key")
        problems.append(f"--cluster-signing-{given}-file is given, and --cluster-signing-{missing}-file is missing")
    if specific and (is_given(common.certificate) or is_given(common.key)):
        problems.append(
            "cannot specify --cluster-signing-{cert,key}-file and other --cluster-signing-*-file flags at the same time"
        )
