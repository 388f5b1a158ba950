"""Find the objects that C files added by a patch belong to, and how kbuild makes them.

kbuild itself is asked: it reads the patched Makefile in the shadow tree.
"""

from __future__ import annotations

import posixpath
import re
from dataclasses import replace
from pathlib import Path

from klpbuild.errors import KlpError, Problems
from klpbuild.kernel.prepare import Log, PreparedTree
from klpbuild.names import VMLINUX
from klpbuild.patch.commands import CompileCommand, ask_kbuild
from klpbuild.patch.makefiles import added_sources
from klpbuild.patch.patched import PatchedSource
from klpbuild.patch.units import Unit, Units
from klpbuild.run import run

_MODNAME = re.compile(r"^-DKBUILD_MODNAME=\"?(\w+)\"?$")


def added_units(
    tree: PreparedTree,
    shadow: Path,
    source: PatchedSource,
    units: Units,
    log: Log,
) -> list[tuple[Unit, CompileCommand]]:
    """Find the objects of new files, as kbuild would make them.

    :param shadow: the tree with the patched Makefiles and the new files.
    :raises KlpError: for files that the Makefiles do not make part of an object that runs.
    """
    added = added_sources(source.files)
    if not added:
        return []
    patched = replace(tree, source=shadow)
    environment = {
        name: value.replace(str(tree.source), str(shadow))
        for name, value in tree.environment.items()
    }
    listed: dict[str, tuple[str, str, bool]] = {}
    for directory in sorted(listing_directories(source, units)):
        for name, in_module in _listed(patched, environment, directory, log).items():
            listed[posixpath.normpath(name)] = name, directory, in_module
    problems = Problems()
    found = []
    for file in added:
        if f"{file.path[:-2]}.o" not in listed:
            problems.add(
                f"the new file {file.path} is in no object of this kernel",
                where=file.where,
                why="No Makefile names it in this configuration, with the patch.",
                hint="Add it to a Makefile, or #include it in the file that calls it.",
            )
            continue
        target, directory, in_module = listed[f"{file.path[:-2]}.o"]
        commands = [
            c for c in ask_kbuild(patched, environment, [target], log) if c.target == target
        ]
        if not commands:
            raise KlpError(f"kbuild does not say how it makes {target}", where=file.where)
        command = commands[0]
        owner = _module(command) if in_module else VMLINUX
        if not units.has(owner, "" if in_module else directory):
            problems.add(
                f"the new file {file.path} would be part of {owner}, "
                "which this kernel does not have",
                where=file.where,
                why="A livepatch changes objects that the kernel has.",
                hint="Build a new module as a module of its own.",
            )
            continue
        arguments = (word.replace(str(shadow), str(tree.source)) for word in command.arguments)
        command = replace(
            command,
            source=command.source.replace(str(shadow), str(tree.source)),
            arguments=tuple(arguments),
        )
        found.append((Unit(owner, file.path, (target,)), command))
    problems.check()
    return found


def listing_directories(source: PatchedSource, units: Units) -> set[str]:
    """Find the directories whose objects the patched Makefiles list.

    virt/kvm/Makefile.kvm is included by those of arch/x86/kvm, where its objects are made.
    """
    found = set()
    for makefile in source.makefiles:
        directory, _, name = makefile.path.rpartition("/")
        if name in ("Makefile", "Kbuild"):
            found.add(directory or ".")
            continue
        beside = (path for path in units.sources if posixpath.dirname(path) == directory)
        made = (unit.objects[0] for path in beside for unit in units.compiled_from(path))
        found.update(target.partition("/../")[0] for target in made if "/../" in target)
    return found


def _module(command: CompileCommand) -> str:
    """Name the module that an object is made for."""
    return next(match[1] for word in command.arguments if (match := _MODNAME.match(word)))


_PROBE = "klpbuild-listed: ; @echo vmlinux: $(real-obj-y) $(lib-y) && echo modules: $(real-obj-m)"


def _listed(
    tree: PreparedTree, environment: dict[str, str], directory: str, log: Log
) -> dict[str, bool]:
    """List the objects that a directory's Makefile names, and whether each is a module's."""
    command = ["make", "-rR", "-s", f"-I{tree.source}", f"--eval={_PROBE}"]
    command += ["-f", f"{tree.source}/scripts/Makefile.build", f"obj={directory}"]
    done = run([*command, "klpbuild-listed"], environment, tree.build)
    log(" ".join(command) + f"\n{done.stdout}{done.stderr}")
    found: dict[str, bool] = {}
    for line in done.stdout.splitlines():
        kind, _, names = line.partition(": ")
        if kind in ("vmlinux", "modules"):
            plain = (name.removeprefix("./") for name in names.split())
            found |= dict.fromkeys(plain, kind == "modules")
    return found
