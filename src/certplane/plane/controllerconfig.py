"""What the controllers work with: their settings, and what the files that these name contain.

Both commands load it here: `serve` for the controllers of its own control plane, `controllers` for another one.
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Final

from certplane import errors, files
from certplane.clock import Clock
from certplane.config.servesettings import DEFAULTS
from certplane.config.sharedsettings import ControllerSettings
from certplane.config.signing import PairFiles, SigningSettings
from certplane.controllers.approving.kubeletserving import rules
from certplane.controllers.publishing import rootcacertpublisher
from certplane.controllers.signing.signer import Signer
from certplane.controllers.signing.signersfile import SignersFile
from certplane.golang import goyaml
from certplane.server.health import Check
from certplane.x509.issuance import profiles
from certplane.x509.issuance.cafiles import CAFiles
from certplane.x509.issuance.profiles import Profile
from certplane.x509.issuance.reservednames import Reservations

_SERVING_HINT: Final = "see docs/kubelet-serving.md for the format"
_ROOT_CA_HINT: Final = "set --root-ca-file to CA certificates in PEM"


@dataclasses.dataclass(frozen=True, slots=True)
class ControllerConfig:
    """`signers` are the built-in ones, by name; `signers_file` has the custom ones. `serving_rules` are those of the
    approver of kubelet serving certificates. `root_ca` is the bundle to publish, in PEM; empty: publish none.
    """

    settings: ControllerSettings = DEFAULTS.controllers
    signers: Mapping[str, Signer] = dataclasses.field(default_factory=dict)
    signers_file: SignersFile | None = None
    serving_rules: rules.Settings | None = None
    root_ca: str = ""

    def all_signers(self) -> Mapping[str, Signer]:
        """The built-in signers, and the current ones of the signers file."""
        return self.signers if self.signers_file is None else {**self.signers, **self.signers_file.signers}


def signer_checks(config: ControllerConfig, clock: Clock) -> Sequence[Check]:
    """Health checks of signers: one for each that is built in, and one for all custom signers. They do not make a
    server unready: it can still do everything else.
    """

    def problem_of(signer: Signer) -> str | None:
        return signer.current(clock.now()).problem or None

    def custom_problem() -> str | None:
        signers_file = config.signers_file
        if signers_file is None:
            return None
        problems = [(name, problem_of(signer)) for name, signer in sorted(signers_file.signers.items())]
        texts = [f"{name}: {problem}" for name, problem in problems if problem is not None]
        return "; ".join([signers_file.problem, *texts] if signers_file.problem else texts) or None

    check = functools.partial(Check, ready_only=True, advisory=True)
    built_in = [
        check(f"signer-{name.rpartition('/')[2]}", functools.partial(problem_of, signer))
        for name, signer in sorted(config.signers.items())
    ]
    return [*built_in, check("custom-signers", custom_problem)]


def load_controllers(
    settings: ControllerSettings,
    root_ca: str,
    reservations: Reservations | None = None,
    default_ca: PairFiles | None = None,
) -> ControllerConfig:
    """Read the files that the settings name. Raises SetupError.

    `root_ca` is published; `reservations` has the names that signers must not certify; `default_ca` signs if no
    --cluster-signing-* file was set.
    """
    return ControllerConfig(
        settings=settings,
        signers=built_in_signers(settings.signing, reservations, default_ca),
        signers_file=_load_signers_file(settings.signing, reservations),
        serving_rules=_load_serving_rules(settings.serving_approver),
        root_ca=root_ca,
    )


def load_root_ca(path: pathlib.Path) -> str:
    """The bundle in a file. Raises SetupError."""
    return rootcacertpublisher.decode_bundle(
        files.read(path, "the root CA file", _ROOT_CA_HINT), f"the CA certificates in {path}"
    )


def built_in_signers(
    settings: SigningSettings, reservations: Reservations | None = None, default_ca: PairFiles | None = None
) -> dict[str, Signer]:
    """The four signers of Kubernetes; one without CA files has the problem instead."""
    if default_ca is not None and settings.is_default:
        pairs = dict.fromkeys(profiles.BUILT_IN, default_ca)
    else:
        pairs = {name: settings.pair(name) for name in profiles.BUILT_IN}
    return {
        name: _built_in_signer(profile, pairs[name], settings, reservations)
        for name, profile in profiles.BUILT_IN.items()
    }


def _built_in_signer(
    profile: Profile, pair: PairFiles, settings: SigningSettings, reservations: Reservations | None
) -> Signer:
    if pair.cert_file is None or pair.key_file is None or not pair.is_complete:
        return Signer(profile, problem="no CA certificate and key configured: see the --cluster-signing-* flags")
    ca_files = CAFiles(pair.cert_file, pair.key_file, settings.duration)
    # The profile has the maximum lifetime, so that requesters can be warned about it.
    profile = dataclasses.replace(profile, max_lifetime=settings.duration)
    if reservations is not None:
        reservations.add_built_in(profile.signer, ca_files)
        violations = functools.partial(reservations.violations, profile.signer, ca_files)
        profile = dataclasses.replace(profile, reserved_names=violations)
    return Signer(profile, files=ca_files)


def _load_signers_file(settings: SigningSettings, reservations: Reservations | None) -> SignersFile | None:
    if settings.signers is None:
        return None
    signers_file = SignersFile(settings.signers, settings.duration, reservations)
    signers_file.load()
    return signers_file


def _load_serving_rules(path: pathlib.Path | None) -> rules.Settings | None:
    if path is None:
        return None
    try:
        document = goyaml.load(files.read_text(path, "the serving approver's rules", _SERVING_HINT))
    except goyaml.YAMLError as error:
        raise errors.SetupError(
            f"the serving approver's rules in {path} are not valid YAML: {error}", (_SERVING_HINT,)
        ) from error
    if not isinstance(document, dict):
        raise errors.SetupError(f"the serving approver's rules in {path} are not a YAML mapping", (_SERVING_HINT,))
    return rules.parse(document)
