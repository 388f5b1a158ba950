"""Find which modules a module depends on: ``depends`` of its ``.modinfo``."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from klpbuild.elf.modinfo import depends, modinfo
from klpbuild.elf.reader import ElfFile
from klpbuild.names import VMLINUX, object_name
from klpbuild.reach import reached


class Dependencies:
    """Dependencies of a kernel's modules; a module is read when it is first asked for.

    The module loader refuses a module whose symbols are not there (kernel/module/main.c,
    resolve_symbol), and keeps those that define them (use_module); modpost writes who they
    are into ``depends``.
    """

    def __init__(self, modules: Iterable[Path] = ()) -> None:
        """Note the modules' files.

        :param modules: the ``.ko`` files.
        """
        self._files = {object_name(path.name): path for path in modules}
        self._direct: dict[str, tuple[str, ...] | None] = {}

    def needs(self, name: str, other: str) -> bool | None:
        """Tell whether a module is loaded only while another one is; None when that is not known.

        An object needs itself, and all need vmlinux.

        :raises KlpError: when a module's file is broken.
        """
        if other in (name, VMLINUX):
            return True
        needed, whole = self._needed(name)
        return True if other in needed else False if whole else None

    def all_of(self, name: str) -> tuple[str, ...]:
        """List the modules that a module needs, directly and through others, sorted.

        :raises KlpError: when a module's file is broken.
        """
        return tuple(sorted(self._needed(name)[0]))

    def _needed(self, name: str) -> tuple[set[str], bool]:
        """Collect what a module needs, as far as is known, and tell whether that is all."""
        found = reached(self._read(name) or (), lambda needed: self._read(needed) or ())
        return set(found), all(self._read(each) is not None for each in (name, *found))

    def _read(self, name: str) -> tuple[str, ...] | None:
        """Read a module's ``depends``; None when its file is not at hand."""
        if name == VMLINUX:
            return ()
        if name not in self._direct:
            path = self._files.get(name)
            self._direct[name] = None if path is None else depends(modinfo(ElfFile.read(path)))
        return self._direct[name]
