"""Find which functions each of several patches changes, and which patches change nothing.

Where only one patch touches an object, the object's change is that patch's.  Else the object
is compiled as it is before and after each patch, and as all the others would make it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from klpbuild.elf.reader import ElfFile
from klpbuild.errors import KlpError
from klpbuild.kernel.cache import locked
from klpbuild.patch.diff import Side, read_diff
from klpbuild.patch.idle import Idle
from klpbuild.patch.members import in_place
from klpbuild.patch.pair import CompiledPatch, ObjectPair
from klpbuild.patch.patched import PatchedFile
from klpbuild.patch.patchfile import files_after
from klpbuild.patch.recompile import SECTION_FLAGS, Recompiler
from klpbuild.patch.shadow import make_shadow
from klpbuild.terminal.stopwatch import measured


@dataclass(frozen=True)
class Effect:
    """Effect of a patch on the kernel that it is built for.

    :ivar functions: those that it changes, ``object:function``.
    :ivar idle: why it changes nothing; None if it does change something.
    """

    functions: tuple[str, ...] = ()
    idle: Idle | None = None


#: The functions that a livepatch would take from an object that changed; None if it takes
#: nothing at all.
Changes = Callable[[ObjectPair], frozenset[str] | None]

#: Limit on objects shared with other patches in which a patch's functions are told apart.
_MANY_SHARED = 20


@measured("tell patches apart")
def patch_effects(
    compiled: CompiledPatch,
    patches: Sequence[Path],
    used: Mapping[str, Sequence[str]],
    changes: Changes,
    architecture: str,
) -> dict[str, Effect]:
    """Find the effect of each patch on the kernel, by name; a cover letter has none.

    :param patches: in their order, all of them.
    :param used: targets of the objects from which the livepatch takes anything, each with its
        functions that change.
    :param changes: asked of objects that several patches touch.
    :param architecture: kbuild's name of it.
    """
    effects = _Effects(compiled, patches, used, changes, architecture)
    return {
        patch.name: effects.of(number)
        for number, patch in enumerate(patches)
        if not effects.is_cover_letter(patch.name)
    }


def patches_of(compiled: CompiledPatch, pair: ObjectPair) -> list[str]:
    """Name the patches that touch what an object is made from."""
    files = _files(compiled)
    return list(dict.fromkeys(name for path in pair.files for name in files[path].patches))


def _files(compiled: CompiledPatch) -> dict[str, PatchedFile]:
    patched = compiled.patched
    return {file.path: file for file in (*patched.files, *patched.makefiles)}


@dataclass(frozen=True)
class _Effects:
    compiled: CompiledPatch
    patches: Sequence[Path]
    used: Mapping[str, Sequence[str]]
    changes: Changes
    architecture: str
    compilers: dict[tuple[Path, ...], Recompiler] = field(default_factory=dict)

    @cached_property
    def files(self) -> dict[str, PatchedFile]:
        return _files(self.compiled)

    def is_cover_letter(self, name: str) -> bool:
        return name in self.compiled.patched.cover_letters

    def touching(self, pair: ObjectPair) -> list[str]:
        return patches_of(self.compiled, pair)

    @cached_property
    def taken_back(self) -> dict[int, str]:
        """Patches of which another one is the reverse, and the reason that is told of each."""
        found: dict[int, str] = {}
        open_: dict[Hashable, list[int]] = defaultdict(list)
        for number, patch in enumerate(self.patches):
            lines = sorted(_changed_lines(patch))
            former = open_[tuple((path, new, old) for path, old, new in lines)]
            if former and self._as_without(former[-1], number):
                back = former.pop()
                found[back] = f"{patch.name} takes it back"
                found[number] = f"it takes {self.patches[back].name} back"
            else:
                open_[tuple(lines)].append(number)
        return found

    def _as_without(self, one: int, other: int) -> bool:
        """Tell whether the files come out as they do without two patches.

        The lines that they change may be the same, and stand in two places.
        """
        others = [p for number, p in enumerate(self.patches) if number not in (one, other)]
        whole, changed = self._files_after(self.patches), []
        try:
            for files in (whole, self._files_after(others)):
                changed.append({f.path: f.patched for f in files if f.patched != f.original})
        except KlpError:  # others have lines of the first one around theirs
            name = self.patches[one].name
            return not any(line.origin.startswith(f"{name}:") for f in whole for line in f.lines)
        return changed[0] == changed[1]

    def _files_after(self, patches: Sequence[Path]) -> tuple[PatchedFile, ...]:
        return files_after(patches, self.compiled.tree.source, self.architecture)

    def of(self, number: int) -> Effect:
        """Find the effect of a patch."""
        name = self.patches[number].name
        if number in self.taken_back:
            return Effect((), Idle(self.taken_back[number], sure=False))
        found = list(self._changed(number))
        left = [each for each in found if each is not None]
        if not left:
            return Effect((), Idle(self.reason(name), not found and self.is_sure(name)))
        return Effect(tuple(dict.fromkeys(function for each in left for function in each)))

    def _changed(self, number: int) -> Iterator[list[str] | None]:
        """List the functions that a patch changes in each object that the livepatch takes from.

        None stands for an object in which others undo what it changes.
        """
        name = self.patches[number].name
        pairs = [p for p in self.compiled.pairs if p.target in self.used]
        touched = [(pair, self.touching(pair)) for pair in pairs]
        shared = [pair for pair, names in touched if name in names and len(names) > 1]
        for pair, names in touched:
            if names == [name]:
                yield self._named(pair, None)
        for count, pair in enumerate(shared, 1):
            changed = self._changes(number, pair) if count <= _MANY_SHARED else frozenset()
            if changed is not None:
                undone = self._as_before(pair, changed)
                yield None if undone else self._named(pair, changed or None)

    def _as_before(self, pair: ObjectPair, changed: frozenset[str]) -> bool:
        """Tell whether the functions that a patch changes are in the end as the kernel has them.

        One that the patched object lacks may be in another one now, inlined.
        """
        here = (s.name for s in ElfFile.read(pair.patched).symbol_list if s.is_function)
        groups = (here, changed, self.used[pair.target])  # without the suffixes of clones
        there, names, used = ({name.partition(".")[0] for name in group} for group in groups)
        return bool(names) and names <= there and names.isdisjoint(used)

    def _named(self, pair: ObjectPair, only: frozenset[str] | None) -> list[str]:
        functions = self.used[pair.target]
        return [f"{pair.owner}:{f}" for f in functions if only is None or f in only]

    def _changes(self, number: int, pair: ObjectPair) -> frozenset[str] | None:
        """Find the functions that a patch changes in an object that other patches touch, too.

        :returns: None if it changes nothing there; an empty set if that cannot be told apart
            from what the others change.
        """
        first = tuple(self.patches[: number + 1])
        before, after = (self._compiled(patches, pair) for patches in (first[:-1], first))
        if before is None or after is None:
            return frozenset()  # one alone does not compile: they belong together
        changed = self._difference(pair, before, after)
        if changed is not None:
            return changed
        others = tuple(patch for patch in self.patches if patch != first[-1])
        try:
            without = self._compiled(others, pair)
        except KlpError:  # they do not apply to other comments, say
            return None
        return frozenset() if without is None else self._difference(pair, without, pair.patched)

    def _difference(self, pair: ObjectPair, one: Path, other: Path) -> frozenset[str] | None:
        """Find the functions that a livepatch would take from the difference of two objects."""
        if one.read_bytes() == other.read_bytes():
            return None
        return self.changes(replace(pair, original=one, patched=other, plain=one))

    def _compiled(self, patches: tuple[Path, ...], pair: ObjectPair) -> Path | None:
        """Compile the object with some of the patches only; None if that does not compile.

        :raises KlpError: when these patches cannot be applied without the others.
        """
        compiler = self._compiler(patches)
        try:
            with locked(compiler.workdir):
                patched = compiler.patched(pair.command, False)
                return patched or compiler.kept(pair.command, "sections", SECTION_FLAGS)
        except KlpError:
            return None

    def _compiler(self, patches: tuple[Path, ...]) -> Recompiler:
        """Make a compiler for the source with some of the patches only."""
        if patches not in self.compilers:
            whole = self.compiled.compiler
            files = self._files_after(patches)
            for path, name in self.compiled.moved:
                files = tuple(
                    (file.path == path and in_place(file, name, ())) or file for file in files
                )
            workdir = whole.workdir / f"some-{len(self.compilers)}"
            shadow = workdir / "shadow"
            make_shadow(shadow, whole.tree.source, files, whole.real)
            self.compilers[patches] = replace(whole, files=files, workdir=workdir, shadow=shadow)
        return self.compilers[patches]

    def is_sure(self, name: str) -> bool:
        """Tell whether nothing but objects that were compiled is made from a patch's files.

        What comes out as it was may have been undone, where others change the file, too.
        """
        files = [file for file in self.files.values() if name in file.patches]
        return not any(
            file.path in self.compiled.assembled
            or "vdso" in file.path
            or (len(file.patches) > 1 and self.compiled.same.get(file.path))
            for file in files
        )

    def reason(self, name: str) -> str:
        """Explain why a patch changes nothing."""
        paths = [path for path, file in self.files.items() if name in file.patches]
        if not paths:
            return "it changes no code"
        touched = [pair.target for pair in self.compiled.pairs if name in self.touching(pair)]
        if touched:
            return f"no function that runs changes in {_list(touched)}"
        same = [target for path in paths for target in self.compiled.same.get(path, ())]
        if same:
            return f"the compiler makes the same of {_list(same)}"
        return f"no object is made from {_list(paths)}"


def _changed_lines(patch: Path) -> Iterator[tuple[bytes, tuple[bytes, ...], tuple[bytes, ...]]]:
    """List the files that a patch changes, each with the lines that go and those that come."""
    for file in read_diff(patch).files:
        lines = [line for hunk in file.hunks for line in hunk.lines]
        gone, come = (
            tuple(x.text for x in lines if x.side is side) for side in (Side.OLD, Side.NEW)
        )
        yield file.names[0].partition(b"/")[2], gone, come


def _list(names: Sequence[str]) -> str:
    names = list(dict.fromkeys(names))
    return ", ".join(names[:3]) + (f" and {len(names) - 3} others" if len(names) > 3 else "")
