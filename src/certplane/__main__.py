"""The entry point of `certplane` and of `python -m certplane`.

To import the program takes some tenths of a second, and a signal may arrive in that time. So the long-running commands
install their signal handlers here, before anything else is imported; `signals.Signals` replaces them later.
"""

from __future__ import annotations

import os
import signal
import sys

_LONG_RUNNING = (["agent", "run"], ["controllers"], ["serve"])
#: Options that may precede the command. `cli.options` defines them.
_OPTIONS = ("--kubeconfig", "--context")
_STOPPING = {signal.SIGTERM, signal.SIGINT}


def main() -> None:
    """Run the command of `sys.argv`, and exit with its exit code."""
    words = _words(sys.argv[1:])
    is_long_running = any(words[: len(command)] == command for command in _LONG_RUNNING) or _is_watch(words)
    if is_long_running:
        _install_handlers()
    try:
        from certplane.cli import main as commands  # noqa: PLC0415 - signal handlers are installed first
    except KeyboardInterrupt:
        sys.exit(130)
    try:
        commands.main()
    finally:
        if is_long_running:
            # The work is done. Python replaces its handlers with the default ones while it finalizes: a second SIGTERM
            # would then turn a graceful exit into a failure. Ignored signals stay ignored, in all threads.
            for number in _STOPPING:
                signal.signal(number, signal.SIG_IGN)


def _is_watch(words: list[str]) -> bool:
    """Whether the expiry watch runs until it is stopped."""
    return words[:1] == ["watch"] and words[1:2] != ["check"] and not {"--once", "-h", "--help"} & set(sys.argv)


def _words(arguments: list[str]) -> list[str]:
    """The arguments without options: first the command, which options with a value may precede."""
    words = []
    left = iter(arguments)
    for argument in left:
        if argument in _OPTIONS:
            next(left, None)
        elif not argument.startswith("-"):
            words.append(argument)
    return words


def _install_handlers() -> None:
    """Make SIGTERM and SIGINT exit with code 0 while the program loads, and ignore SIGHUP. Unblock all three: a signal
    mask is inherited from the parent, and a process with blocked signals could not be stopped.
    """
    for number in _STOPPING:
        signal.signal(number, lambda *_: _exit())
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPPING | {signal.SIGHUP})


def _exit() -> None:
    # Not SystemExit: an exception in a callback of the import system is printed and dropped. Nothing is open yet.
    os._exit(0)


if __name__ == "__main__":
    main()
