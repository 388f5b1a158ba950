"""The record of a livepatch: sources, and the functions of objects that they replace."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from klpbuild.errors import KlpError
from klpbuild.module.accepted import NOTHING, Accepted
from klpbuild.names import MODULE_NAME_MAX, check_object_name, object_name

FILE_NAME = "livepatch.toml"

#: The callbacks of a ``struct klp_object`` (Documentation/livepatch/callbacks.rst).
CALLBACKS = ("pre_patch", "post_patch", "pre_unpatch", "post_unpatch")


@dataclass(frozen=True)
class Function:
    """A function that is replaced.

    :ivar old: its name in the object's symbol table.
    :ivar new: the function of the livepatch that takes its place.
    :ivar sympos: 0 if `old` is unique in the object, else its 1-based place
        among the object's symbols of that name in kallsyms order.
    :ivar where: ``file:line`` that names it.
    :ivar condition: of C's preprocessor: without it the kernel's function stays; see
        `klpbuild.module.listed`.
    """

    old: str
    new: str
    sympos: int = 0
    where: str = field(default="", compare=False, repr=False)
    condition: str = ""


#: Tag of modinfo: the kernel keeps the module when it is disabled.
STAYS_TAG = "klpbuild_stays"


@dataclass(frozen=True)
class Words:
    """A list of words of the kernel's variables that the livepatch writes.

    :ivar symbol: of the list, an array of ``struct klpbuild_word``.
    :ivar count: how many there are.
    :ivar stays: whether one of them is a pointer into the livepatch, which somebody may keep: it
        cannot be unloaded.
    :ivar variables: what the variables are called in all versions of a livepatch.
    """

    symbol: str
    count: int
    stays: bool = False
    variables: tuple[str, ...] = ()


@dataclass(frozen=True)
class State:
    """Something that a livepatch leaves behind when another one takes its place.

    :ivar name: the livepatch's, or that of a part.
    :ivar version: one with an older version cannot take over; 0: nothing is left behind.
    """

    name: str
    version: int = 1


@dataclass(frozen=True)
class PatchedObject:
    """vmlinux or a module whose functions are replaced.

    :ivar name: the kernel's name of it.
    :ivar functions: those that are replaced.
    :ivar callbacks: name of the callback (one of `CALLBACKS`) to the livepatch's function.
    :ivar words: lists of words of its variables that are written with it.
    :ivar further: the callbacks of further parts of the livepatch, in their order.
    """

    name: str
    functions: tuple[Function, ...]
    callbacks: Mapping[str, str] = field(default_factory=dict)
    where: str = field(default="", compare=False, repr=False)
    words: tuple[Words, ...] = ()
    further: tuple[Mapping[str, str], ...] = ()

    @property
    def all_callbacks(self) -> tuple[Mapping[str, str], ...]:
        """Return the callbacks of each part that has any."""
        return tuple(each for each in (self.callbacks, *self.further) if each)

    @property
    def called(self) -> tuple[str, ...]:
        """Return the livepatch's functions that are callbacks."""
        return tuple(name for each in self.all_callbacks for name in each.values())


@dataclass(frozen=True)
class Skipped:
    """A source patch, or a part, that is left out on purpose.

    :ivar patch: its file's name, or its directory's.
    :ivar reason: may be empty.
    :ivar where: ``file:line`` that names it.
    """

    patch: str
    reason: str = ""
    where: str = field(default="", compare=False, repr=False)


@dataclass(frozen=True)
class PartName:
    """A directory in a livepatch that is a part of it.

    :ivar where: ``file:line`` that names it.
    """

    name: str
    where: str = field(default="", compare=False, repr=False)


@dataclass(frozen=True)
class Livepatch:
    """Description of a livepatch.

    :ivar name: its directory's name.
    :ivar sources: its C files, in the order of the link; not those that another one includes.
    :ivar objects: empty when the sources bring their own tables.
    :ivar description: one line; it goes into the module's information.
    :ivar license: one with which a module may use GPL-only symbols; ``GPL``.
    :ivar references: what it is for, such as a CVE's number, one text each.
    :ivar replace: whether it takes the place of every livepatch before it.
    :ivar kernels: patterns of kernel names and releases that it is for; empty: all.
    :ivar own_tables: whether the sources bring ``struct klp_patch`` and the
        module's init function themselves; then they are left alone.
    :ivar accepted: what would be refused.
    :ivar version: numbers with dots between; part of the module's name, since the kernel
        loads a newer version beside the older one that it replaces.
    :ivar skip: source patches of its directory, or parts, that are left out.
    :ivar parts: directories in it whose fixes it is made of, in their order.
    :ivar has_list: whether its functions are those of a ``patched_funcs.csv``.
    :ivar calls: names of the fixes whose own functions are called before it is enabled, and when
        it is gone.
    :ivar states: the version of what stays behind when another livepatch takes its place, such
        as shadow variables: an older one cannot take over.
    """

    name: str
    sources: tuple[Path, ...]
    objects: tuple[PatchedObject, ...] = ()
    description: str = ""
    license: str = "GPL"
    references: tuple[str, ...] = ()
    replace: bool = True
    kernels: tuple[str, ...] = ()
    own_tables: bool = False
    accepted: Accepted = NOTHING
    version: str = ""
    skip: tuple[Skipped, ...] = ()
    parts: tuple[PartName, ...] = ()
    has_list: bool = False
    calls: tuple[str, ...] = ()
    states: tuple[State, ...] = ()

    @property
    def stem(self) -> str:
        """The module's file without suffix, ``livepatch-meminfo`` or ``livepatch-meminfo-1_2``."""
        return module_stem(self.name, self.version)

    @property
    def content(self) -> str:
        """The description as text for a cache key: without places in files and directories."""
        return repr(replace(self, sources=tuple(Path(path.name) for path in self.sources)))

    @property
    def file_name(self) -> str:
        """The module's file, ``livepatch-meminfo.ko``."""
        return f"{self.stem}.ko"

    @property
    def module_name(self) -> str:
        """KBUILD_MODNAME, ``livepatch_meminfo``."""
        return object_name(self.file_name)

    def is_for(self, kernel: str, release: str) -> bool:
        """Tell whether it may be built for a kernel of this name and release."""
        return not self.kernels or any(
            fnmatch.fnmatchcase(text, pattern)
            for pattern in self.kernels
            for text in (kernel, release)
        )


def module_stem(name: str, version: str = "") -> str:
    """Make the name of a livepatch's module file without suffix."""
    return f"livepatch-{name}" + (f"-{version.replace('.', '_')}" if version else "")


def check_name(name: str, version: str = "", hint: str = "Rename its directory.") -> None:
    """Refuse a livepatch name that cannot be a module's."""
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        raise KlpError(
            f"livepatch name {name!r} cannot be a module's",
            why="A module's name has letters, digits, '-' and '_' only.",
            hint=hint,
        )
    size = len(module_stem(name, version))
    if size > MODULE_NAME_MAX:
        after = " and the version after it" if version else ""
        raise KlpError(
            f"livepatch name {name!r} is too long",
            why=f"With livepatch- before it{after}, it has {size} bytes of {MODULE_NAME_MAX}.",
            hint=hint,
        )


def check_object(name: str) -> None:
    """Refuse an object that a livepatch's tables cannot name.

    :raises KlpError: when a livepatch's tables cannot name such an object.

    The kernel would take more; but the name stands in the C code of the tables.
    """
    check_object_name(name)
    if not re.fullmatch(r"[A-Za-z0-9_]+", name):
        raise KlpError(
            f"object name {name!r} cannot be a module's",
            why="A module's name has letters, digits and '_' only; '-' is written '_'.",
        )


def check_for_kernel(livepatch: Livepatch, kernel: str, release: str) -> None:
    """Refuse a kernel that the livepatch is not for."""
    if livepatch.is_for(kernel, release):
        return
    raise KlpError(
        f"livepatch {livepatch.name} is not for kernel {kernel}",
        why=f"Its {FILE_NAME} restricts it to: {', '.join(livepatch.kernels)}.",
        hint="Take another kernel, or change the key kernels.",
    )
