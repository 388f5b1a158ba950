"""Add modules that the user names to those that a kernel has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from klpbuild.errors import KlpError, Problems
from klpbuild.kernel.modules import is_module_file, module_files, plain_module
from klpbuild.kernel.ofmachine import check_machine
from klpbuild.kernel.tree import Kernel
from klpbuild.names import object_name


def with_modules(kernel: Kernel, named: Sequence[Path]) -> Kernel:
    """Add further modules to a kernel, in the place of its own of the same names.

    :param named: module files, compressed or not, and directories.  What a directory holds for
        other kernels, and livepatches in it, are left out.
    :raises KlpError: for what is not there, is no module, or is for another kernel.
    """
    found: dict[str, Path] = {}
    problems = Problems()
    for path in named:
        with problems.collect():
            for module in _modules(kernel, path):
                first = found.setdefault(object_name(module.name), module)
                if first != module:
                    raise KlpError(
                        f"another module is called {object_name(module.name)}, too",
                        where=str(module),
                        why=f"The kernel loads one of a name: {first}.",
                        hint="Name one of them.",
                    )
    problems.check()
    own = (path for path in kernel.modules if object_name(path.name) not in found)
    further = tuple(sorted(found.values()))
    return replace(kernel, modules=tuple(sorted((*own, *further))), further=further)


def _modules(kernel: Kernel, named: Path) -> list[Path]:
    if not named.exists():
        raise KlpError("there is no such file or directory", where=str(named))
    kept = kernel.cache / "further"
    if named.is_dir():
        plain = [plain_module(path, kept) for path in sorted(module_files(named))]
        said = {path: _release(path) for path in plain}
        found = [path for path in plain if said[path] == kernel.release]
        others = sorted({release for release in said.values() if release})
        if not found:
            raise KlpError(
                f"holds no module for Linux {kernel.release}",
                where=str(named),
                why=f"It holds modules for: {', '.join(others)}." if others else "",
            )
        for path in found:
            check_machine(path, kernel.arch)
        return found
    if not is_module_file(named):
        raise KlpError("is not called like a module", where=str(named), hint="MODULE.ko")
    plain_file = plain_module(named, kept)
    check_machine(plain_file, kernel.arch, str(named))
    release = _release(plain_file)
    if release != kernel.release:
        raise KlpError(
            f"is a module for Linux {release}, not for {kernel.release}"
            if release
            else "is not a module that a livepatch can patch",
            where=str(named),
            why="Positions of symbols belong to the very file that the kernel loads."
            if release
            else "It is a livepatch, or does not say for which kernel it is.",
        )
    return [plain_file]


def _release(path: Path) -> str:
    """Read the release that a module is for; empty for none, and for a livepatch."""
    from klpbuild.elf.modinfo import modinfo  # numpy takes longer than all the rest here
    from klpbuild.elf.reader import ElfFile

    tags = modinfo(ElfFile.read(path))
    return "" if "livepatch" in tags else tags.get("vermagic", [""])[0].partition(" ")[0]
