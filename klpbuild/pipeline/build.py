"""Describe the build of one livepatch for one kernel."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from klpbuild.compiler.log import BuildLog
from klpbuild.files.given import is_file
from klpbuild.files.records import from_json, read_output
from klpbuild.kernel.tree import Kernel
from klpbuild.module.listed import FLAGS, read_flags, with_conditions
from klpbuild.module.livepatch import Livepatch, State
from klpbuild.patch.fix import Fault
from klpbuild.pipeline.extracted import Extracted, described
from klpbuild.pipeline.paths import Paths
from klpbuild.request.chosen import Chosen, Part, joined


@dataclass(frozen=True)
class Failed:
    """What is wrong with parts of C files, by their names; also in place of an object."""

    parts: Mapping[str, tuple[Fault, ...]]


@dataclass(frozen=True)
class Build:
    """One livepatch to be built for one kernel.

    :ivar strip: whether debug data is left out of the module.
    :ivar source: the kernel's source, if the user names one.
    :ivar keep_going: whether patches and parts may be left out that cannot be in a livepatch.
    """

    kernel: Kernel
    chosen: Chosen
    paths: Paths
    log: BuildLog
    strip: bool = True
    source: Path | None = None
    keep_going: bool = False

    @property
    def record(self) -> tuple[Path, ...]:
        """The record of what was extracted: one file, or none for a livepatch of C files."""
        return (self.paths.record,) if self.chosen.patches else ()

    @property
    def lists(self) -> tuple[Part, ...]:
        """The parts whose functions depend on the kernel's configuration."""
        return tuple(p for p in self.chosen.parts if p.taken and p.chosen.livepatch.has_list)

    @property
    def tried(self) -> tuple[Part, ...]:
        """The parts of C files that are left out if something is wrong with them."""
        parts = (p for p in self.chosen.parts if p.name and p.taken and p.chosen.livepatch.sources)
        return tuple(parts) if self.keep_going else ()

    @property
    def found(self) -> tuple[Path, ...]:
        """The files that say what the livepatch replaces in this kernel."""
        conditions = (self.paths.conditions(part.name) for part in self.lists)
        return (*self.record, *conditions, *([self.paths.left_out] if self.tried else ()))

    def failed(self) -> Mapping[str, tuple[Fault, ...]]:
        """Return what is wrong with the parts that are left out for it."""
        if not self.tried:
            return {}
        return read_output(self.paths.left_out, partial(from_json, Failed)).parts

    def without_failed(self, objects: Iterable[Path]) -> list[Path]:
        """Leave out the objects of parts that are left out."""
        places = [self.paths.part(name) for name in self.failed()]
        return [path for path in objects if not any(map(path.is_relative_to, places))]

    def for_kernel(self) -> Chosen:
        """Return the livepatch with the functions whose conditions hold for the kernel.

        A part of which none does mends nothing there.  Parts with which something is wrong are
        not taken.
        """
        failed = self.failed()
        if not self.lists and not failed:
            return self.chosen
        each = (replace(part, faults=failed.get(part.name, ())) for part in self.chosen.parts)
        parts = [self.with_conditions(part) if part.taken else part for part in each]
        found = joined(self.chosen, parts)
        replaces = self.chosen.livepatch.replace  # the user's word may be another than its own
        return replace(found, livepatch=replace(found.livepatch, replace=replaces))

    def with_conditions(self, part: Part) -> Part:
        """Return a part with the functions whose conditions hold for the kernel."""
        if part not in self.lists:
            return part
        text = read_output(self.paths.conditions(part.name), bytes.decode)
        livepatch = with_conditions(part.chosen.livepatch, text)
        if not livepatch.objects:
            livepatch = replace(livepatch, references=())
        return replace(part, chosen=replace(part.chosen, livepatch=livepatch))

    def livepatch(self) -> Livepatch:
        """Return the livepatch, with the functions that were found in patches."""
        livepatch = self.for_kernel().livepatch
        if not self.chosen.patches:
            return livepatch
        found = described(livepatch, self.paths.record)
        parts = [part.chosen for part in self.chosen.parts if part.taken and part.chosen.patches]
        said = any(each.livepatch.states for each in parts or [self.chosen])
        if said or not Extracted.read(self.paths.record).allocates:
            return found
        return replace(found, states=(*found.states, State(livepatch.name)))

    def object_of(self, source: Path) -> Path:
        """Name the object of a C source, the user's or the tables."""
        part = self.chosen.part_of(source)
        return self.paths.object_of(source, part.name if part else "")


def source_flags(chosen: Chosen, source: Path) -> tuple[str, ...]:
    """Return the flags for a C file, behind the kernel's own: see `flags_of`."""
    return flags_of(chosen, chosen.part_of(source), source)


def flags_of(chosen: Chosen, part: Part | None, source: Path | None = None) -> tuple[str, ...]:
    """Return the flags for a C file of a part, behind the kernel's own.

    The headers of the livepatch's directory are for all parts.

    :param source: None for a file that klpbuild writes.
    :raises KlpError: when those of a fix are not understood.
    """
    if part is None or not part.name:
        return ()
    above, own = chosen.directory.absolute(), part.chosen.directory.absolute()
    flags = [f"-I{above}", f"-ffile-prefix-map={above}/="]
    if part.chosen.livepatch.has_list:
        # The symbols of the kernel are declared as such, and not looked up by the fix.
        flags += [f"-I{own}", "-DUSE_KLP_CONVERT"]
        if source is not None and is_file(part.chosen.directory / FLAGS):
            flags += read_flags(part.chosen.directory / FLAGS, source)
    return tuple(flags)
