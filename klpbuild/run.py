"""Run programs whose output is text: make, compilers, objtool and others."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from klpbuild.files.locks import held_locks


def run(
    command: Sequence[str],
    environment: Mapping[str, str] | None = None,
    directory: Path | None = None,
    *,
    input: str | None = None,
    together: bool = False,
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end, whatever its exit status.

    It shares what is locked here: should this process be killed, the next one waits for it,
    too, and nobody writes where another one still writes.

    :param environment: all of it; None: this process's own.
    :param input: what it reads; nothing by default.
    :param together: whether its errors come in its output, in their order.
    :returns: with output and errors as text.
    :raises OSError: when it does not run.
    """
    return subprocess.run(
        command,
        cwd=directory,
        env=environment,
        input=input,
        stdin=subprocess.DEVNULL if input is None else None,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT if together else subprocess.PIPE,
        text=True,
        errors="replace",
        check=False,
        pass_fds=_shared(command),
    )


def _shared(command: Sequence[str]) -> tuple[int, ...]:
    """List the locks that a program keeps; none for sccache, whose server would keep them."""
    if any("sccache" in word for word in command):
        return ()
    return tuple(dict.fromkeys(held_locks()))
