"""Transcripts: commands and their output.

# a comment
$ a command, which bash runs in a new directory
> the next line of the command
its output; ... matches any text within a line, a line of ... matches any number of lines
@1.20: a line that only this version of kubectl prints
@!1.20: a line that all others print
[1]     its exit code, if it is not 0
"""

from __future__ import annotations

import dataclasses
import re
import subprocess


@dataclasses.dataclass
class Step:
    line: int
    command: str
    expected: list[str] = dataclasses.field(default_factory=list)
    code: int = 0


def parse(text, version):
    """The steps of a transcript, with the output that this version of kubectl should print."""
    steps = []
    for number, line in enumerate(text.splitlines(), 1):
        only = re.match(r"@(!?)([\d.]+): ?", line)
        if only is not None:
            if (only[2] == version) == bool(only[1]):
                continue
            line = line[only.end() :]
        if line.startswith("$ "):
            steps.append(Step(number, line[2:]))
        elif line.startswith("> "):
            steps[-1].command += "\n" + line[2:]
        elif re.fullmatch(r"\[\d+\]", line):
            steps[-1].code = int(line[1:-1])
        elif line and not line.startswith("# "):
            steps[-1].expected.append(line)
    return steps


def matches(expected, printed):
    """Whether the printed lines are the expected ones."""
    pattern = "".join(r"(?:[^\n]*\n)*?" if line == "..." else _line(line) + r"\n" for line in expected)
    return re.fullmatch(pattern, "".join(line.rstrip() + "\n" for line in printed.splitlines() if line.strip()))


def _line(expected):
    # The width of a column depends on the other rows, so any number of spaces matches any other.
    parts = [re.escape(part) for part in expected.split("...")]
    return re.sub(r"(?:\\ )+", r"\\ +", r"[^\n]*".join(parts))


def play(text, version, directory, environment):
    """Run a transcript; a description of the first step with different output, or None."""
    for step in parse(text, version):
        answer = subprocess.run(
            ["bash", "-uo", "pipefail", "-c", step.command],
            cwd=directory,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
            check=False,
        )
        if answer.returncode != step.code or not matches(step.expected, answer.stdout):
            expected = "\n".join(step.expected)
            return (
                f"line {step.line}: $ {step.command}\n--- expected [{step.code}]\n{expected}\n"
                f"--- answered [{answer.returncode}]\n{answer.stdout}"
            )
    return None
