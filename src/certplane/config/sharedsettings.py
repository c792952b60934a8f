"""Settings that `serve` and `controllers` have in common: the section of the controllers."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Final

from certplane.config import controllernames, options, signing
from certplane.config.options import Option
from certplane.config.signing import SigningSettings

SERVING_APPROVER: Final = Option(
    "serving-approver",
    "Rules for approving kubelet serving certificates (docs/kubelet-serving.md); if not set, an "
    "administrator must approve them.",
    "path",
    None,
)
DECISION_EVENTS: Final = Option(
    "decision-events", "Record the controllers' decisions about requests as Events.", "flag", True
)


@dataclasses.dataclass(frozen=True, slots=True)
class ControllerSettings:
    """What the controllers need to know, whichever command runs them. `controllers` are the names of the enabled ones.
    `root_ca_file` is the bundle to publish; None: the command chooses it.
    """

    controllers: frozenset[str]
    signing: SigningSettings
    root_ca_file: pathlib.Path | None
    serving_approver: pathlib.Path | None
    decision_events: bool


def read_controllers(values: options.Values) -> ControllerSettings:
    return ControllerSettings(
        controllers=controllernames.select(values.names("controllers"), values.problems),
        signing=signing.read_signing(values),
        root_ca_file=values.path("root_ca_file"),
        serving_approver=values.path("serving_approver"),
        decision_events=values.flag("decision_events"),
    )
