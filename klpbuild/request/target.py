"""Apply the variables to a kernel: check its release, set source and tools."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from klpbuild.errors import KlpError, Problems
from klpbuild.kernel.kbuild import check_toolchain
from klpbuild.kernel.tree import Kernel, Toolchain
from klpbuild.request.variables import Variables


def with_variables(kernel: Kernel, variables: Variables) -> Kernel:
    """Apply KSRC, ARCH, CROSS_COMPILE, CC and KCFLAGS to a kernel.

    :raises KlpError: with everything of it that is not for the kernel.
    """
    problems = Problems()
    if variables.release and variables.release != kernel.release:
        problems.add(
            f"is of release {kernel.release}",
            where=f"KDIR={variables.kernel}",
            why=f"KVER={variables.release} is asked for.",
        )
    with problems.collect():
        _check_source(kernel, variables.source)
    given = variables.toolchain
    toolchain = (
        given
        if given.cc or given.cross_compile
        else replace(given, cc=kernel.toolchain.cc, cross_compile=kernel.toolchain.cross_compile)
    )
    changed = replace(kernel, source=variables.source or kernel.source, toolchain=toolchain)
    if variables.toolchain != Toolchain():
        with problems.collect():
            check_toolchain(changed)
    problems.check()
    return changed


def _check_source(kernel: Kernel, source: Path | None) -> None:
    """Refuse a source tree of another version."""
    if source is None:
        return
    if not (source / "Makefile").is_file():
        raise KlpError("is not the source of a kernel: it has no Makefile", where=f"KSRC={source}")
    text = (source / "Makefile").read_text(errors="replace")
    numbers = dict(re.findall(r"^(VERSION|PATCHLEVEL|SUBLEVEL) *= *(\d+)$", text, re.M))
    found = ".".join(numbers.get(name, "?") for name in ("VERSION", "PATCHLEVEL", "SUBLEVEL"))
    wanted = ".".join(map(str, kernel.version))
    if found != wanted:
        raise KlpError(
            f"is the source of Linux {found}",
            where=f"KSRC={source}",
            why=f"{kernel.release} is Linux {wanted}.",
        )
