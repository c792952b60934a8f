"""Tests of decisions as playbooks: which command follows which event."""

from __future__ import annotations

import math

from certplane.agent import rotation
from certplane.agent.rotation import Moment

#: The first moment of a playbook.
START = Moment(1_767_225_600.0, 1000.0)


class Playbook:
    """Runs a generator of commands. `random` is a constant."""

    def __init__(self, steps):
        self._steps = steps
        self.now = START
        self.command = next(steps)

    def jump(self, seconds):
        """Set the wall clock forth or back."""
        self.now = Moment(self.now.wall + seconds, self.now.steady)

    def send(self, event, *values, after=0.0, **fields):
        """Answer the command with an event some seconds later. Returns the next command."""
        self.now = Moment(self.now.wall + after, self.now.steady + after)
        self.command = self._steps.send(event(self.now, *values, **fields))
        return self.command

    def wake(self):
        """Answer a Wait when its time has come. Returns the seconds waited, and the next command."""
        assert isinstance(self.command, rotation.Wait), self.command
        seconds = min(self.command.wall - self.now.wall, self.command.steady - self.now.steady)
        assert math.isfinite(seconds)
        return seconds, self.send(rotation.Woken, after=seconds)

    def wake_until(self, kind):
        """Answer waits until a command of another kind follows. Returns the seconds waited."""
        start = self.now.steady
        while not isinstance(self.command, kind):
            self.wake()
        return self.now.steady - start
