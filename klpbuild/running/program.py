"""The program ``livepatch``: the one place that knows how livepatches come and go.

It is a POSIX shell script, for packages bring it to machines that have no Python; its
help says what it does and what its exit statuses mean.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from importlib.resources import as_file, files

from klpbuild.errors import KlpError
from klpbuild.run import run

#: Exit statuses.
DONE, FAILED, MISUSED, NOT_ENDED = range(4)


def program_text() -> str:
    """Read the script."""
    return files("klpbuild.running").joinpath("livepatch.sh").read_text()


def run_program(words: Sequence[str]) -> int:
    """Run the script on this machine, its output going where ours goes.

    :param words: its arguments.
    :returns: its exit status.
    """
    with as_file(files("klpbuild.running").joinpath("livepatch.sh")) as script:
        return subprocess.run(["sh", str(script), *words], check=False).returncode


def status_text(name: str = "") -> str:
    """Run the script's ``status`` and return what it prints.

    :param name: a module; else all livepatches.
    :raises KlpError: when the livepatch is not loaded, or the kernel has no livepatch support.
    """
    with as_file(files("klpbuild.running").joinpath("livepatch.sh")) as script:
        command = ["sh", str(script), "status", *([name] if name else [])]
        done = run(command)
    if done.returncode:
        raise KlpError(done.stderr.strip().removeprefix("livepatch: error: "))
    return done.stdout
