"""Run kbuild for an external module, outside of the kernel tree."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from klpbuild.errors import KlpError
from klpbuild.kernel.tree import Kernel

# Variables of an outer make, or of the user's shell, that would change the build.
_NOT_OURS = ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "CC", "LD", "ARCH", "O", "M", "V")
_NOT_OURS_PREFIX = ("KBUILD_", "KCFLAGS", "KCPPFLAGS", "KAFLAGS", "CFLAGS", "LDFLAGS")


@dataclass(frozen=True)
class MakeResult:
    """What make did.

    :ivar command: its command line.
    :ivar output: what it and its children wrote, both streams in order.
    """

    command: tuple[str, ...]
    returncode: int
    output: str

    def errors(self, most: int = 20) -> str:
        """The lines that tell what went wrong, or the last ones."""
        lines = self.output.splitlines()
        marked = [line for line in lines if "error" in line.lower() or "***" in line]
        return "\n".join((marked or lines)[:most] if marked else lines[-most:])


def run_make(kernel: Kernel, directory: Path, *arguments: str) -> MakeResult:
    """Run ``make -C <kernel> M=<directory>`` with arguments.

    :param directory: the module's directory, the only one that is written to.
    :param arguments: targets and variables.
    :raises KlpError: when make does not run, or kbuild cannot work in the directory.
    """
    # The kernel's Makefile takes $(words) of M= and refuses % and : in it.
    if any(c in " \t%:#$'\"\\" for c in str(directory.resolve())):
        raise KlpError(
            "kbuild cannot work in this directory",
            where=str(directory),
            why="Its name has a character that make gives a meaning to.",
            hint="Choose a path without spaces and without % : # $ ' \" \\.",
        )
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in _NOT_OURS and not name.startswith(_NOT_OURS_PREFIX)
    }
    environment["LC_ALL"] = "C"
    command = (
        "make",
        "-C",
        str(kernel.build),
        f"M={directory.resolve()}",
        # A headers tree has no vmlinux with BTF, and a livepatch module needs none.
        "CONFIG_DEBUG_INFO_BTF_MODULES=",
        "KBUILD_MODPOST_WARN=1",
        *arguments,
    )
    try:
        done = subprocess.run(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
        )
    except OSError as error:
        raise KlpError("make does not run", why=str(error), hint="Install make.") from error
    return MakeResult(command, done.returncode, done.stdout)
