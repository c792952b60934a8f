"""Renders the chart in its argument with Helm. Reads values as JSON, and writes the files by name or the error as JSON.

This is a separate program because Helm's library contains a Go runtime, which the test process should not have.
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
