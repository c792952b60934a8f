"""`certplane agent check`: whether the files that a configuration names can be used, before the agent runs."""

from __future__ import annotations

from collections.abc import Iterator

from certplane import files
from certplane.agent import hooks, outputs, trustbundles
from certplane.agent.access import Access
from certplane.agent.pairstore import PairStore
from certplane.agent.rotation import Credentials
from certplane.agent.settings import AgentSettings
from certplane.agent.status import AgentDirectory
from certplane.client.credentials import CredentialProblem
from certplane.clock import SystemClock
from certplane.errors import SetupError


def find_problems(settings: AgentSettings) -> list[str]:
    """Everything that would keep an agent from working; each problem begins with the path of a field."""
    return [*_server_problems(settings), *_directory_problems(settings), *_certificate_problems(settings)]


def _server_problems(settings: AgentSettings) -> Iterator[str]:
    try:
        Access(settings.server, lambda: None, SystemClock()).config(Credentials.BOOTSTRAP)
    except (SetupError, CredentialProblem) as error:
        yield f"server: {error}"
    for field, path in (("kubeconfig", settings.server.kubeconfig), ("tokenFile", settings.server.token_file)):
        if path is None:
            continue
        try:
            problem = files.readable_by_others(path)
        except OSError as error:
            # The server's own problem has been reported: a token file is not read before it is used.
            if field == "tokenFile":
                yield f"server.{field}: {path}: {files.error_text(error)}"
            continue
        if problem is not None:
            yield f"server.{field}: other users can read {path}: {problem}"


def _directory_problems(settings: AgentSettings) -> Iterator[str]:
    try:
        AgentDirectory(settings.directory).check()
    except SetupError as error:
        yield f"directory: {error}"
        return
    for number, certificate in enumerate(settings.certificates):
        try:
            PairStore(settings.directory, certificate.name).check()
        except SetupError as error:
            yield f"certificates[{number}]: {error}"


def _certificate_problems(settings: AgentSettings) -> Iterator[str]:
    for number, certificate in enumerate(settings.certificates):
        for problem in outputs.find_problems(certificate.outputs):
            yield f"certificates[{number}].outputs.{problem}"
        for index, hook in enumerate(certificate.hooks):
            for problem in hooks.find_problems(hook):
                yield f"certificates[{number}].hooks[{index}].{problem}"
    for number, bundle in enumerate(settings.trust_bundles):
        for problem in trustbundles.find_problems(bundle):
            yield f"trustBundles[{number}].{problem}"
