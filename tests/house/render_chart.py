"""Renders the chart that is its argument as Helm does: values as JSON in, files by name as JSON out, or what is wrong.

A program of its own: Helm's library brings a Go runtime along, which the tests' process should not have.
"""

from __future__ import annotations

import json
import sys

import helm_python


def main(path: str) -> None:
    with helm_python.Chart.load(path) as chart:
        try:
            answer = {"files": chart.render(json.load(sys.stdin), name="certplane", namespace="certplane")}
        except helm_python.HelmError as error:
            answer = {"problem": str(error)}
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1])
