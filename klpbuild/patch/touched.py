"""Find the kernel's compile units that patched files go into."""

from __future__ import annotations

import posixpath
import re
from dataclasses import dataclass

from klpbuild.patch.csource import blank_lines, directive_lines, function_lines
from klpbuild.patch.fix import IdleError
from klpbuild.patch.includes import IncludeGraph
from klpbuild.patch.makefiles import added_sources
from klpbuild.patch.patched import PatchedFile, PatchedSource
from klpbuild.patch.paths import PROGRAMS
from klpbuild.patch.units import Unit, Units
from klpbuild.terminal.stopwatch import measured

_NOTHING_TO_REPLACE = "There is nothing that a livepatch could replace."


@dataclass(frozen=True)
class Touched:
    """The compile units that patches touch.

    :ivar units: all of them.
    :ivar by_file: those that each patched file goes into.
    :ivar unsure: those that only may change: they include a header of which the
        patches change preprocessor lines, and may not use what these define.
    :ivar including: directories of files that may include a patched one.
    :ivar assembled: patched files that assembly includes.
    """

    units: tuple[Unit, ...]
    by_file: dict[str, tuple[Unit, ...]]
    unsure: frozenset[Unit]
    including: frozenset[str]
    assembled: frozenset[str]


@measured("find the objects")
def touched_units(
    units: Units, includes: IncludeGraph, patched: PatchedSource, notes: list[str]
) -> Touched:
    """Find the compile units that patched files go into.

    :param notes: takes what is remarkable and no fault.
    :raises KlpError: when nothing is touched.
    """
    absent: list[PatchedFile] = []
    by_file: dict[str, tuple[Unit, ...]] = {}
    sure: dict[Unit, None] = {}
    unsure: dict[Unit, None] = {}
    including: set[str] = set()
    in_assembly: set[str] = set()
    added = added_sources(patched.files)
    for file in patched.files:
        if file in added:
            by_file[file.path] = ()
            continue
        mentioning = units.mentioning(file.path)
        found = tuple(unit for unit in mentioning if _is_compiled(unit.source))
        assembled = [unit.source for unit in mentioning if unit.source.endswith(".S")]
        if assembled:
            in_assembly.add(file.path)
            notes.append(f"{file.where}: not looked at in assembly: {', '.join(assembled[:3])}")
        sources = [] if _only_function_bodies(file) else _includers(units, includes, file)
        included = [u for s in sources if _is_compiled(s) for u in units.compiled_from(s)]
        by_file[file.path] = tuple(dict.fromkeys((*found, *included)))
        including |= units.directories(unit for unit in found if unit.source != file.path)
        including |= {posixpath.dirname(path) for path in sources}
        (unsure if _only_directives(file) else sure).update(dict.fromkeys(by_file[file.path]))
        if not by_file[file.path]:
            _without_object(file, notes, absent)
    everything = tuple(dict.fromkeys((*sure, *unsure)))
    if everything or added:
        notes += [f"{f.where}: no object is made from {f.path}; left out" for f in absent]
    else:
        names = ", ".join(file.path for file in absent)
        why = f"no object is made from {names}" if absent else "it changes no code of it"
        raise IdleError(
            f"the patch changes nothing in this kernel: {why}",
            where=(absent or patched.files)[0].where,
            why="The kernel's configuration leaves it out." if absent else "",
            hint=_NOTHING_TO_REPLACE,
        )
    only_unsure = frozenset(unsure.keys() - sure.keys())
    return Touched(everything, by_file, only_unsure, frozenset(including), frozenset(in_assembly))


def _is_compiled(source: str) -> bool:
    """Tell whether kbuild makes an object from a file, and not modpost's or the linker's."""
    return source.endswith(".c") and not re.search(r"\.mod\.c$|(^|/)\.[^/]*$", source)


def _includers(units: Units, includes: IncludeGraph, file: PatchedFile) -> list[str]:
    """List files that may include a header without its being in their debug information."""
    if not file.path.endswith(".h") or file.original is None:
        return []
    return includes.includers(file.path, [s for s in sorted(units.sources) if s.endswith(".c")])


def _without_object(file: PatchedFile, notes: list[str], absent: list[PatchedFile]) -> None:
    if file.path.startswith(PROGRAMS):
        notes.append(f"{file.where}: {file.path} is not part of the kernel; left out")
    elif file.original is None:
        notes.append(f"{file.where}: {file.path} is new")
    else:
        absent.append(file)


def changed_lines(file: PatchedFile) -> tuple[set[int], set[int]]:
    """List the numbers of lines that go, in the original, and that come, in the patched file."""
    kept = {line.old for line in file.lines if line.old is not None}
    count = len((file.original or b"").splitlines())
    gone = {number for number in range(1, count + 1) if number not in kept}
    come = {number for number, line in enumerate(file.lines, 1) if line.old is None}
    return gone, come


def _only_directives(file: PatchedFile) -> bool:
    """Tell whether all that changes are preprocessor lines, continued ones included."""
    gone, come = changed_lines(file)
    for text, numbers in (((file.original or b""), gone), (file.patched, come)):
        if not numbers <= directive_lines(text) | blank_lines(text):
            return False
    return True


def _only_function_bodies(file: PatchedFile) -> bool:
    """Tell whether all changes are in bodies of functions, whose users debug data has.

    A function's body stands between braces in the first column, below its parameters.
    """
    gone, come = changed_lines(file)
    for text, numbers in (((file.original or b""), gone), (file.patched, come)):
        if not numbers <= function_lines(text):
            return False
    return True
