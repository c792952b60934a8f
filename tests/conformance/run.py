"""`make conformance ARGS="[--server URL --pki DIR] [--case GLOB]..."`: send the recorded
requests to a server and print the differences.

Without --server, a control plane is started in a temporary directory.
"""

from __future__ import annotations

import argparse
import contextlib
import fnmatch
import pathlib
import sys
import tempfile

import demo
from tests.conformance import corpus, player, wire


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--server", help="https://HOST:PORT of a running server")
    parser.add_argument("--pki", type=pathlib.Path, help="directory of its ca.crt and ca.key")
    parser.add_argument("--case", action="append", default=[], help="play only cases whose id matches")
    parser.add_argument("--lines", type=int, default=8, help="differences shown of each case")
    parser.add_argument("--patience", type=float, default=3, help="seconds for a polled step")
    args = parser.parse_args()
    with contextlib.ExitStack() as stack:
        directory = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server, pki = args.server, args.pki
        if server is None:
            # The recorded server has no creation hints.
            started = demo.running(directory / "data", directory / "server.log", "--creation-hints=false")
            port = stack.enter_context(started)
            server, pki = f"https://127.0.0.1:{port}", directory / "data" / "pki"
        clients = wire.Identities(corpus.identities(), pki / "ca.crt", pki / "ca.key", directory)
        return show(player.Player(server, clients, timeout=10, patience=args.patience), args)


def show(conversation, args):
    chosen = [
        case
        for name, case in corpus.cases().items()
        if not args.case or any(fnmatch.fnmatch(name, pattern) for pattern in args.case)
    ]
    failed = 0
    for case in chosen:
        differences = corpus.differences(case, conversation)
        if differences:
            failed += 1
            known = corpus.known_failures().get(case["id"])
            print(f"FAIL {case['id']}" + (f" (known: {known})" if known else ""))
            print(corpus.described(differences, args.lines))
    print(f"{len(chosen) - failed} passed, {failed} failed")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
