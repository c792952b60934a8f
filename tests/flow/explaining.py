"""Explanations of requests of a plane in this process."""

from __future__ import annotations

import dataclasses

from certplane.cli import explain as command
from certplane.explain import diagnosis, explanation, gathering
from certplane.explain.diagnosis import Answer
from certplane.explain.explanation import Findings
from tests.flow import plane as flow


@dataclasses.dataclass(frozen=True)
class Explained:
    """The findings about a request, the answer, and the text for people."""

    findings: Findings
    answer: Answer

    @property
    def code(self):
        return self.answer.code

    @property
    def sentence(self):
        return self.answer.text

    @property
    def fixes(self):
        return list(self.answer.fixes)

    @property
    def text(self):
        return "\n".join(command.render(self.findings, self.answer))


async def explain(plane, name="a", user=flow.ADMIN):
    """What `certplane explain csr NAME` says to a user."""
    return of_facts(await gathering.gather(plane.client(user), name, plane.clock))


def of_facts(facts):
    """The explanation of facts."""
    findings = explanation.find(facts)
    return Explained(findings, diagnosis.diagnose(findings))
