"""Child processes that end, or run out of disk space, at a chosen system call."""

from __future__ import annotations

import os
import resource
import sys
import traceback

#: The system calls that change files; a process is interrupted before one of them.
CALLS = ("open", "fsync", "rename", "symlink", "unlink", "fchmod", "fchown", "mkdir", "close")
KILLED, FAILED = 77, 78


def run(function, interrupted_call=None, file_size=None):
    """Run a function in a child process, which ends before the system call of that number (counted from 0) without any
    clean-up, as by kill -9. `file_size` limits the size of files in bytes, as a full disk does. Returns the exit code:
    0 when the function returned, KILLED when it was interrupted.
    """
    process = os.fork()
    if process:
        _, status = os.waitpid(process, 0)
        return os.waitstatus_to_exitcode(status)
    code = FAILED
    try:
        if file_size is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, resource.RLIM_INFINITY))
        if interrupted_call is not None:
            _interrupt(interrupted_call)
        function()
        code = 0
    except BaseException:
        # The child must not return into the test runner.
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(code)


def _interrupt(number):
    count = 0

    def counted(call):
        def wrapper(*arguments, **options):
            nonlocal count
            if count == number:
                os._exit(KILLED)
            count += 1
            return call(*arguments, **options)

        return wrapper

    for name in CALLS:
        setattr(os, name, counted(getattr(os, name)))
