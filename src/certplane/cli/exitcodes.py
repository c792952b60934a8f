"""Exit codes of commands that end with neither success nor an error of the operator. `main` lists all codes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from certplane.errors import SetupError

#: A certificate ends too soon, or cannot be read.
EXPIRING: Final = 4
#: `doctor` has found something that will break if nobody acts: the same code, as it means the same to a monitor.
WARNINGS: Final = EXPIRING
#: A certificate request was denied, has failed, or was deleted: there will be no certificate.
REFUSED: Final = 5
#: There is no certificate yet; there may be one later.
TIMED_OUT: Final = 6
#: `doctor` has found something that is broken or open, or `status` a server that is not ready.
ERRORS: Final = 7


class Failure(SetupError):
    """An error with an exit code of its own."""

    def __init__(self, exit_code: int, message: str, hints: Sequence[str]) -> None:
        super().__init__(message, hints)
        self.exit_code = exit_code
