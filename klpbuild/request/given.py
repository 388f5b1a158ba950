"""What a build starts from: the kernel that is named, and the symbols that stand for it.

Also for a build in which nothing is to be done, so that this imports little.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

from klpbuild.errors import Problems
from klpbuild.kernel.locate import locate
from klpbuild.kernel.tree import Kernel
from klpbuild.request.target import with_variables
from klpbuild.request.variables import Variables

NO_VARIABLES = Variables()


@dataclass(frozen=True)
class GivenSymbols:
    """Sources of vmlinux' symbols that the user names, in place of those found."""

    vmlinux: str = ""
    system_map: str = ""
    kallsyms: str = ""


def locate_kernel(
    text: str,
    fixtures: Path,
    build: Path,
    given: GivenSymbols = GivenSymbols(),
    variables: Variables = NO_VARIABLES,
) -> Kernel:
    """The kernel that ``kernel=`` names; the fixtures are built when they changed.

    Nothing is written outside of `build`, unless KLPBUILD_CACHE says where, or into the place
    of a fetched kernel.

    :param given: what is named is taken, and nothing else for vmlinux' symbols.
    :param variables: KVER beside KDIR, KSRC and the tools.
    :raises KlpError: see `klpbuild.kernel.locate.locate`; also for a named file that is
        not there, and for variables that are not for this kernel.
    """
    output, learned = build / "fixtures" / "kernel", build / "learned"
    kernel = locate(
        text,
        fixtures=fixtures,
        output=output,
        learned=None if os.environ.get("KLPBUILD_CACHE") else learned,
    )
    kernel = with_variables(kernel, variables)
    named = {key: Path(value) for key, value in vars(given).items() if value}
    problems = Problems()
    for key, path in named.items():
        if not path.is_file():
            problems.add("there is no such file", where=f"{key}={path}")
    problems.check()
    if not named:
        return kernel
    return replace(
        kernel,
        vmlinux=named.get("vmlinux"),
        system_map=named.get("system_map"),
        kallsyms=named.get("kallsyms"),
    )
