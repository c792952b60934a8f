"""CA files of the signers: the --cluster-signing-* flags of kube-controller-manager, and how they may be combined."""

from __future__ import annotations

import dataclasses
import datetime
import pathlib
from collections.abc import Mapping
from typing import Final

from certplane import signernames
from certplane.config import options
from certplane.config.options import Option

#: The infix of each signer's flags, and its name in kube-controller-manager's error messages.
_SIGNERS: Final[Mapping[str, tuple[str, str]]] = {
    signernames.KUBELET_SERVING: ("kubelet-serving", "cluster-signing-kubelet-serving"),
    signernames.KUBE_APISERVER_CLIENT_KUBELET: ("kubelet-client", "cluster-signing-kube-apiserver-client"),
    signernames.KUBE_APISERVER_CLIENT: ("kube-apiserver-client", "cluster-signing-kube-apiserver"),
    signernames.LEGACY_UNKNOWN: ("legacy-unknown", "cluster-signing-legacy-unknown"),
}


def _pair_options(infix: str, signers: str) -> tuple[Option, Option]:
    infix = f"-{infix}" if infix else ""
    return (
        Option(f"cluster-signing{infix}-cert-file", f"CA certificate of {signers}, in PEM.", "path", None),
        Option(f"cluster-signing{infix}-key-file", "Key of the CA certificate.", "path", None),
    )


OPTIONS: Final = (
    *_pair_options("", "all signers"),
    Option("cluster-signing-duration", "Maximum lifetime of signed certificates.", "duration", "8760h0m0s"),
    *(option for name, (infix, _) in _SIGNERS.items() for option in _pair_options(infix, name)),
    Option("signers", "File with custom signers (docs/signers.md); reloaded when it changes.", "path", None),
)


@dataclasses.dataclass(frozen=True, slots=True)
class PairFiles:
    """A certificate file and a key file. None: the flag was not set; an empty path: it was set to no file."""

    cert_file: pathlib.Path | None = None
    key_file: pathlib.Path | None = None

    @property
    def is_complete(self) -> bool:
        return is_named(self.cert_file) and is_named(self.key_file)


@dataclasses.dataclass(frozen=True, slots=True)
class SigningSettings:
    """`common` is the CA of all signers, `by_signer` that of single ones; `duration` is the maximum lifetime of
    certificates; `signers` is the file with custom signers.
    """

    common: PairFiles
    by_signer: Mapping[str, PairFiles]
    duration: datetime.timedelta
    signers: pathlib.Path | None = None

    def pair(self, signer: str) -> PairFiles:
        """The files of a signer. If any signer has files of its own, those without have none."""
        if any(is_named(pair.cert_file) for pair in self.by_signer.values()):
            return self.by_signer.get(signer, PairFiles())
        return self.common

    @property
    def is_default(self) -> bool:
        """Whether no file flag was set, not even to an empty name."""
        return self.common == PairFiles() and all(pair == PairFiles() for pair in self.by_signer.values())


def file_flags(signer: str) -> tuple[str, ...]:
    """The flags with the CA certificate and the CA key of a signer alone; none for a custom signer."""
    if signer not in _SIGNERS:
        return ()
    infix, _ = _SIGNERS[signer]
    return f"--cluster-signing-{infix}-cert-file", f"--cluster-signing-{infix}-key-file"


def read_signing(values: options.Values) -> SigningSettings:
    common = _pair(values, "cluster_signing_")
    by_signer = {
        name: _pair(values, f"cluster_signing_{infix.replace('-', '_')}_") for name, (infix, _) in _SIGNERS.items()
    }
    _check(common, by_signer, values.problems)
    duration = values.duration("cluster_signing_duration", positive=True)
    return SigningSettings(common, by_signer, duration, values.path("signers"))


def _pair(values: options.Values, prefix: str) -> PairFiles:
    # Not Values.path: an empty name is different from an unset flag.
    certificate, key = values[prefix + "cert_file"], values[prefix + "key_file"]
    return PairFiles(
        None if certificate is None else pathlib.Path(str(certificate)),
        None if key is None else pathlib.Path(str(key)),
    )


def is_named(path: pathlib.Path | None) -> bool:
    """Whether a flag was set to a file name that is not empty."""
    return path is not None and path != pathlib.Path()


def _check(common: PairFiles, by_signer: Mapping[str, PairFiles], problems: options.Problems) -> None:
    """The combinations that kube-controller-manager refuses, in its words."""
    specific = False
    for name, pair in by_signer.items():
        infix, label = _SIGNERS[name]
        flag = f"--cluster-signing-{infix}"
        if is_named(pair.key_file) and not is_named(pair.cert_file):
            problems.append(f'"{label}": cannot specify key without cert: {flag}-cert-file is missing')
        if is_named(pair.cert_file) and not is_named(pair.key_file):
            problems.append(f'"{label}": cannot specify cert without key: {flag}-key-file is missing')
        specific = specific or is_named(pair.cert_file) or is_named(pair.key_file)
    if is_named(common.key_file) != is_named(common.cert_file):
        present, missing = ("key", "cert") if is_named(common.key_file) else ("cert", "key")
        problems.append(f"--cluster-signing-{present}-file is set, but --cluster-signing-{missing}-file is missing")
    if specific and (is_named(common.cert_file) or is_named(common.key_file)):
        problems.append(
            "cannot specify --cluster-signing-{cert,key}-file and other --cluster-signing-*-file flags at the same time"
        )
