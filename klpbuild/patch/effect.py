"""Which of several patches change nothing in the kernel that they are built for.

Where only one patch touches an object, the object's change is that patch's.  Else the object
is compiled as it is before and after each patch, and as all the others would make it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from klpbuild.errors import KlpError
from klpbuild.kernel.cache import locked
from klpbuild.patch.pair import CompiledPatch, ObjectPair
from klpbuild.patch.patched import PatchedFile
from klpbuild.patch.patchfile import files_after
from klpbuild.patch.recompile import Recompiler
from klpbuild.patch.shadow import make_shadow


@dataclass(frozen=True)
class Idle:
    """Why a patch changes nothing in the kernel that it is built for.

    :ivar sure: whether the kernel has nothing at all of it; False for a header that is
        also part of what no livepatch changes, such as assembly.
    """

    why: str
    sure: bool = True


#: Says whether a livepatch takes anything from an object that changed.
Changes = Callable[[ObjectPair], bool]


def idle_patches(
    compiled: CompiledPatch,
    patches: Sequence[Path],
    used: Collection[str],
    changes: Changes,
    architecture: str,
) -> dict[str, Idle]:
    """The patches that change nothing in this kernel, by name.

    :param patches: in their order, all of them.
    :param used: targets of the objects from which the livepatch takes anything.
    :param changes: asked of objects that several patches touch.
    :param architecture: kbuild's name of it.
    """
    effects = _Effects(compiled, patches, frozenset(used), changes, architecture)
    found = {}
    for number, patch in enumerate(patches):
        if not effects.is_cover_letter(patch.name) and not effects.has(number):
            found[patch.name] = Idle(effects.reason(patch.name), effects.is_sure(patch.name))
    return found


def patches_of(compiled: CompiledPatch, pair: ObjectPair) -> list[str]:
    """The names of the patches that touch what an object is made from."""
    files = _files(compiled)
    return list(dict.fromkeys(name for path in pair.files for name in files[path].patches))


def _files(compiled: CompiledPatch) -> dict[str, PatchedFile]:
    patched = compiled.patched
    return {file.path: file for file in (*patched.files, *patched.makefiles)}


@dataclass(frozen=True)
class _Effects:
    compiled: CompiledPatch
    patches: Sequence[Path]
    used: frozenset[str]
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

    def has(self, number: int) -> bool:
        """Whether a patch changes anything that the livepatch takes over."""
        name = self.patches[number].name
        touched = [pair for pair in self.compiled.pairs if name in self.touching(pair)]
        pairs = [pair for pair in touched if pair.target in self.used]
        if any(self.touching(pair) == [name] for pair in pairs):
            return True
        return any(self._changes(number, pair) for pair in pairs)

    def _changes(self, number: int, pair: ObjectPair) -> bool:
        """Whether a patch changes an object that other patches touch, too."""
        first = tuple(self.patches[: number + 1])
        before, after = (self._compiled(patches, pair) for patches in (first[:-1], first))
        if before is None or after is None or self._differ(pair, before, after):
            return True  # or one alone does not compile: they belong together
        others = tuple(patch for patch in self.patches if patch != first[-1])
        try:
            without = self._compiled(others, pair)
        except KlpError:  # they do not apply to other comments, say
            return False
        return without is None or self._differ(pair, without, pair.patched)

    def _differ(self, pair: ObjectPair, one: Path, other: Path) -> bool:
        """Whether a livepatch would take anything from the difference of two objects."""
        if one.read_bytes() == other.read_bytes():
            return False
        return self.changes(replace(pair, original=one, patched=other, plain=one))

    def _compiled(self, patches: tuple[Path, ...], pair: ObjectPair) -> Path | None:
        """The object with some of the patches only; None if that does not compile.

        :raises KlpError: when these patches cannot be applied without the others.
        """
        compiler = self._compiler(patches)
        try:
            with locked(compiler.workdir):
                return compiler.patched(pair.command, False)
        except KlpError:
            return None

    def _compiler(self, patches: tuple[Path, ...]) -> Recompiler:
        """A compiler for the source with some of the patches only."""
        if patches not in self.compilers:
            whole = self.compiled.compiler
            files = files_after(patches, whole.tree.source, self.architecture)
            workdir = whole.workdir / f"some-{len(self.compilers)}"
            shadow = workdir / "shadow"
            make_shadow(shadow, whole.tree.source, files, whole.real)
            self.compilers[patches] = replace(whole, files=files, workdir=workdir, shadow=shadow)
        return self.compilers[patches]

    def is_sure(self, name: str) -> bool:
        """Whether nothing but objects that were compiled is made from a patch's files."""
        paths = [path for path, file in self.files.items() if name in file.patches]
        return not any(path in self.compiled.assembled or "vdso" in path for path in paths)

    def reason(self, name: str) -> str:
        """Why a patch changes nothing."""
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


def _list(names: Sequence[str]) -> str:
    names = list(dict.fromkeys(names))
    return ", ".join(names[:3]) + (f" and {len(names) - 3} others" if len(names) > 3 else "")
