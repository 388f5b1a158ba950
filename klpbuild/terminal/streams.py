"""Keep the standard streams usable: closed ones, full disks and readers that leave."""

from __future__ import annotations

import os
import sys


def open_streams() -> None:
    """Open closed streams, and let all that can be printed be printed.

    The next file that is opened would get the number of a closed one, and what is printed.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    sys.stdout, sys.stderr = sys.stdout or os.fdopen(1, "w"), sys.stderr or os.fdopen(2, "w")
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]


def flush_output() -> OSError | None:
    """Write what is not yet written, so that nothing is left to fail when Python ends.

    :returns: why it cannot be written.
    """
    try:
        sys.stdout.flush()
    except OSError as error:
        close_output()
        return error
    return None


def close_output() -> None:
    """Discard all that is printed from here on."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
