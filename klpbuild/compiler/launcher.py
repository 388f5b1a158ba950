"""Compiler launchers: programs that cache what a compiler makes, or run it on other machines."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from klpbuild.errors import KlpError, did_you_mean
from klpbuild.kernel.tree import Kernel

#: Programs that are called with the compiler's command line, and make what it would make.
LAUNCHERS = ("ccache", "distcc", "icecc", "sccache")

#: Variables that configure them; compilers read none of these.
_THEIRS = re.compile(r"(CCACHE|DISTCC|ICECC|SCCACHE|XDG|AWS|ACTIONS)_\w+")


def with_launcher(kernel: Kernel, launcher: str) -> Kernel:
    """Set the program that starts a kernel's compiler.

    The results are the same as without it, so nothing is built anew for its sake.

    :param launcher: one of `LAUNCHERS`, or the path of one; empty for none.
    :raises KlpError: when it is not known, or not on this machine.
    """
    if not launcher:
        return kernel
    name = Path(launcher).name
    if name not in LAUNCHERS:
        raise KlpError(
            f"launcher {launcher!r} is not known",
            why=did_you_mean(name, LAUNCHERS),
            hint=f"Known: {', '.join(LAUNCHERS)}.",
        )
    if shutil.which(launcher) is None:
        raise KlpError(
            f"launcher {launcher!r} is not on this machine", hint=f"Install the package {name}."
        )
    return replace(kernel, toolchain=replace(kernel.toolchain, launcher=launcher))


def launched(launcher: str, command: Sequence[str]) -> list[str]:
    """Put the launcher before a compiler's command line if it has none."""
    if not launcher or Path(command[0]).name in LAUNCHERS:
        return list(command)
    return [launcher, *command]


def unlaunched(command: Sequence[str]) -> list[str]:
    """Strip the launcher from a compiler's command line."""
    return list(command[1:] if Path(command[0]).name in LAUNCHERS else command)


def launcher_environment(launcher: str) -> dict[str, str]:
    """Select the user's environment variables that a launcher reads, beside the compiler's."""
    if not launcher:
        return {}
    return {name: value for name, value in os.environ.items() if _THEIRS.fullmatch(name)}
