"""Find the kernel that is named, and the symbols that the user gives for it.

Also for a build in which nothing is to be done, so that this imports little.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from klpbuild.errors import KlpError, Problems
from klpbuild.files.given import is_file
from klpbuild.kernel.cache import cached_kernels
from klpbuild.kernel.further import with_modules
from klpbuild.kernel.locate import locate
from klpbuild.kernel.ofmachine import check_debug_modules, check_vmlinux
from klpbuild.kernel.tree import Kernel
from klpbuild.request.target import with_variables
from klpbuild.request.variables import Variables

NO_VARIABLES = Variables()


@dataclass(frozen=True)
class Parts:
    """Parts of a kernel that the user names, in place of those found; None: what was found."""

    source: Path | None = None
    vmlinux: Path | None = None
    debug_modules: Path | None = None
    image: Path | None = None


def with_parts(kernel: Kernel, parts: Parts) -> Kernel:
    """Set the parts of a kernel that the user names.

    :raises KlpError: for each that is not there, and for what is of another version or machine.
    """
    problems = Problems()
    named = {key: path for key, path in vars(parts).items() if path is not None}
    for key, path in named.items():
        wants_directory = key in ("source", "debug_modules")
        if not (path.is_dir() if wants_directory else path.is_file()):
            kind = "directory" if wants_directory else "file"
            option = f"--{key.replace('_', '-')}"
            problems.add(f"there is no such {kind}", where=f"{option} {path}")
        elif key == "vmlinux":
            with problems.collect():
                check_vmlinux(path, kernel, f"--vmlinux {path}")
        elif key == "debug_modules":
            with problems.collect():
                check_debug_modules(path, kernel, "--debug-modules ")
    problems.check()
    with_source = with_variables(kernel, Variables(source=parts.source, toolchain=kernel.toolchain))
    return replace(with_source, **{key: path.absolute() for key, path in named.items()})


def locate_kernel(
    text: str,
    fixtures: Path,
    build: Path,
    variables: Variables = NO_VARIABLES,
    modules: Sequence[Path] = (),
) -> Kernel:
    """Find the kernel that ``kernel=`` names; the fixtures are built when they changed.

    Nothing is written outside of `build`, unless KLPBUILD_CACHE says where, or into the place
    of a fetched kernel.

    :param variables: KVER beside KDIR, KSRC, the tools, and sources of vmlinux' symbols: what is
        named is taken, and nothing else.
    :param modules: further modules, see `klpbuild.kernel.further.with_modules`.
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
    if modules:
        kernel = with_modules(kernel, modules)
    named = variables.symbols
    problems = Problems()
    for key, path in named.items():
        if not is_file(path):
            problems.add("there is no such file", where=f"{key}={path}")
        elif key == "vmlinux":
            with problems.collect():
                check_vmlinux(path, kernel, f"vmlinux={path}")
    problems.check()
    if not named:
        return kernel
    return replace(
        kernel,
        vmlinux=named.get("vmlinux"),
        system_map=named.get("system_map"),
        kallsyms=named.get("kallsyms"),
    )


def newest_kernel(word: str = "--kernel ") -> str:
    """Name the newest of the fetched kernels, for users who name none.

    :param word: before a kernel's name, as the user would write it.
    :raises KlpError: when no kernel is fetched.
    """
    kernels = cached_kernels()
    if kernels:
        return kernels[0].release
    raise KlpError(
        "no kernel is fetched, and none is named",
        hint=f"Run `klpbuild kernel fetch --source`, or name one: {word}RELEASE.",
    )
