"""Where the program begins: `certplane`, and `python -m certplane`.

To load it takes some tenths of a second, and a signal may come in that time. So the commands that run until a signal
ends them take their signals here, with nothing loaded yet; `signals.Signals` takes over on the event loop.
"""

from __future__ import annotations

import os
import signal
import sys

_LONG = ("controllers", "serve")
_STOPPING = {signal.SIGTERM, signal.SIGINT}


def main() -> None:
    """Run the command of `sys.argv`, and end with its exit code."""
    is_long = sys.argv[1:2] and sys.argv[1] in _LONG
    if is_long:
        _take_signals()
    try:
        from certplane.cli import main as commands  # noqa: PLC0415 - signals are taken first
    except KeyboardInterrupt:
        sys.exit(130)
    try:
        commands.main()
    finally:
        if is_long:
            # Done. Python gives signals that have a handler back their usual meaning while it ends: an impatient second
            # one would be told as a failure.
            for number in _STOPPING:
                signal.signal(number, signal.SIG_IGN)


def _take_signals() -> None:
    """From now on SIGTERM and SIGINT end a program that has not begun, with exit code 0, and SIGHUP ends nothing. Those
    that whoever started us had blocked come through: a mask is inherited, and nothing could end us.
    """
    for number in _STOPPING:
        signal.signal(number, lambda *_: _leave())
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPPING | {signal.SIGHUP})


def _leave() -> None:
    # No SystemExit: what is raised in a callback of the import system is printed and forgotten. Nothing is open yet.
    os._exit(0)


if __name__ == "__main__":
    main()
