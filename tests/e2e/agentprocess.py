"""Run as a program: `certplane agent run`, in a process that is killed after, or in the middle of, a step.

    agentprocess.py STEP CONFIG

STEP is a command of `certplane.agent.rotation`, `created` (the CSR exists, its name is not stored yet) or `never`.
"""

from __future__ import annotations

import os
import pathlib
import signal
import sys

from certplane.agent import pairstore, process, rotation, worker


def die():
    os.kill(os.getpid(), signal.SIGKILL)


class DyingStore(pairstore.PairStore):
    """Ends the process instead of storing the name of the CSR."""

    def submitted(self, csr_name, csr_uid):
        die()


class DyingWorker(worker.Worker):
    """Ends the process after a step that was successful."""

    step = ""

    async def _carry_out(self, command):
        event = await super()._carry_out(command)
        has_failed = isinstance(event, rotation.StoreFailed | rotation.Unreachable | rotation.Refused)
        is_pending = isinstance(event, rotation.Fetched) and event.outcome is not rotation.Outcome.ISSUED
        if type(command).__name__ == self.step and not has_failed and not is_pending:
            die()
        return event


def main(step, config):
    if step == "created":
        process.PairStore = DyingStore
    elif step != "never":
        DyingWorker.step = step
        process.Worker = DyingWorker
    return process.run(pathlib.Path(config))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
