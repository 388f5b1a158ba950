"""Read the kernel's files for the checks, each when it is first asked for."""

from __future__ import annotations

from contextlib import suppress
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from klpbuild.check.patched import PatchedFunction
from klpbuild.check.rule import Version
from klpbuild.check.structmodule import EXIT, INIT, THIS_MODULE, places_in
from klpbuild.check.vmlinux import Vmlinux
from klpbuild.elf.constants import EM, SHF
from klpbuild.elf.reader import ElfFile, Section
from klpbuild.elf.tables import distinct
from klpbuild.errors import KlpError
from klpbuild.kernel.config import Config
from klpbuild.kernel.dependencies import Dependencies
from klpbuild.kernel.tree import Kernel
from klpbuild.names import VMLINUX, object_name
from klpbuild.symbols.database import Candidate, SymbolDatabase
from klpbuild.symbols.entries import EntryPoints
from klpbuild.symbols.symvers import Exports

#: elf_validity_cache_index_info() does not look at flags.
_ANY_MODINFO = (6, 12)
#: Sections of modules that are read only once they have started (kernel/module/strict_rwx.c).
READ_ONLY = (".rodata", ".data..ro_after_init", "__jump_table", ".data.rel.ro")
#: Nearly every module has both functions.
_MODULES_READ = 20


def found_section(elf: ElfFile, name: str) -> Section | None:
    """Find the section that find_sec() of the module loader finds: the first with SHF_ALLOC."""
    same = (s for s in elf.sections if s.name == name and s.sh_flags & SHF.ALLOC)
    return next(same, None)


def modinfo(elf: ElfFile, version: Version | None = None) -> dict[str, list[str]]:
    """Parse ``.modinfo``: each tag with its values in order.

    :param version: of the kernel that reads it: old ones want the flag SHF_ALLOC.
    """
    tags: dict[str, list[str]] = {}
    old = version is not None and version < _ANY_MODINFO
    section = found_section(elf, ".modinfo") if old else elf.section(".modinfo")
    if section is not None:
        end = section.sh_offset + section.sh_size
        held = bytes(elf.data[section.sh_offset : end])  # whatever its type says
        if held and not held.endswith(b"\0"):  # next_string() reads on behind the section
            held += bytes(elf.data[end:]).partition(b"\0")[0]
        for text in held.split(b"\0"):
            tag, equals, value = text.decode(errors="replace").partition("=")
            if equals:
                tags.setdefault(tag, []).append(value)
    return tags


def arch_vermagic(machine: int, config: Config) -> str:
    """Make MODULE_ARCH_VERMAGIC of arch/*/include/asm/vermagic.h."""
    if machine == EM.PPC64:
        words = ["patchable-function-entry"] * config.enabled("ARCH_USING_PATCHABLE_FUNCTION_ENTRY")
        words = words or ["mprofile-kernel"] * config.enabled("MPROFILE_KERNEL")
        words += ["relocatable"] * config.enabled("RELOCATABLE")
        return "".join(f"{word} " for word in words)
    known = {EM.AARCH64: "aarch64", EM.RISCV: "riscv", EM.LOONGARCH: "LOONGARCH 64BIT "}
    return known.get(EM(machine), "")


class KernelSide:
    """A kernel, as the checks of a module ask about it.

    :ivar kernel: the kernel.
    """

    def __init__(self, kernel: Kernel, symbols: Path | None) -> None:
        """Note the kernel; nothing is read before it is asked for.

        :param symbols: its symbols.klp, None when only its headers are at hand.
        """
        self.kernel = kernel
        self._symbols = symbols
        self._known: dict[tuple[str, str], npt.NDArray[np.uint64]] = {}

    @property
    def version(self) -> tuple[int, int]:
        """The first two numbers of its version."""
        return self.kernel.version[0], self.kernel.version[1]

    @cached_property
    def config(self) -> Config:
        """Its configuration.

        :raises KlpError: when it cannot be read.
        """
        return Config.read(self.kernel.config)

    @cached_property
    def exports(self) -> Exports:
        """Its exported symbols.

        :raises KlpError: when Module.symvers cannot be read.
        """
        return Exports.read(self.kernel.module_symvers)

    @cached_property
    def database(self) -> SymbolDatabase | None:
        """The symbols, None when they are not at hand.

        :raises KlpError: when symbols.klp is broken.
        """
        return SymbolDatabase.read(self._symbols) if self._symbols else None

    @cached_property
    def vmlinux(self) -> Vmlinux | None:
        """The shipped vmlinux, None when it or its symbols are not at hand.

        :raises KlpError: when it cannot be read.
        """
        path = self.kernel.vmlinux
        return Vmlinux(path, self.database) if path and self.database else None

    def address_of(self, symbol: str, owner: str = "", sympos: int = 0) -> int | None:
        """Look up the address of a symbol of vmlinux, None when it is not known.

        :param owner: empty when its export says so.
        """
        if self.database is None or owner not in ("", VMLINUX):
            return None
        found = self.database.in_object(VMLINUX, symbol)
        number = max(sympos - 1, 0)
        return found[number].address if number < len(found) else None

    def extent(self, symbol: str, owner: str = "", sympos: int = 0) -> int:
        """Compute the bytes from a symbol to the next one behind it; 0 when not known."""
        if self.database is None:
            return 0
        owner = owner or self.exporter(symbol)
        found = self.database.in_object(owner, symbol)
        number = max(sympos - 1, 0)
        if number >= len(found) or found[number].address is None:
            return 0
        start, section = found[number].address, found[number].section
        after = self._addresses(owner, section)
        place = int(np.searchsorted(after, np.uint64(start or 0), side="right"))
        return int(after[place]) - (start or 0) if place < len(after) else 0

    def size(self, symbol: str, owner: str = "", sympos: int = 0) -> int:
        """Return the bytes of a variable; without vmlinux those up to the next symbol."""
        address = self.address_of(symbol, owner, sympos)
        known = self.vmlinux.size_at(address) if self.vmlinux and address is not None else 0
        return known or self.extent(symbol, owner, sympos)

    def section_of(self, symbol: str, owner: str = "", sympos: int = 0) -> str:
        """Name the section of a symbol; empty when not known."""
        if self.database is None:
            return ""
        found = self.database.in_object(owner or self.exporter(symbol), symbol)
        number = max(sympos - 1, 0)
        return found[number].section if number < len(found) else ""

    def is_read_only(self, symbol: str, owner: str = "", sympos: int = 0) -> bool:
        """Tell whether a variable is in memory that nothing writes once its object has started.

        vmlinux has ``.rodata`` and the like between two symbols (include/asm-generic/sections.h).
        """
        if (owner or self.exporter(symbol)) != VMLINUX:
            return self.section_of(symbol, owner, sympos).startswith(READ_ONLY)
        place, start, end = (
            self.address_of(*each)
            for each in ((symbol, owner, sympos), ("__start_rodata",), ("__end_rodata",))
        )
        return place is not None and start is not None and end is not None and start <= place < end

    def exporter(self, symbol: str) -> str:
        """Name the object that exports a symbol; vmlinux if none does."""
        export = self.exports.find(symbol)
        return export.owner if export else VMLINUX

    def _addresses(self, owner: str, section: str) -> npt.NDArray[np.uint64]:
        """List where symbols begin: all of vmlinux, those of one section of a module."""
        if (owner, section) not in self._known:
            assert self.database is not None
            rows = self.database.rows(owner)
            rows = rows if self.database.addressed(owner) else rows[:0]
            if owner != VMLINUX:
                number = self.database.section_names(owner).index(section)
                rows = rows[rows["section"] == number]
            self._known[owner, section] = distinct(rows["address"])
        return self._known[owner, section]

    def old_function(self, owner: str, function: PatchedFunction) -> Candidate | None:
        """Find the function that is replaced; None when it is not there, or without symbols."""
        if self.database is None or owner not in self.database.objects:
            return None
        found = self.database.in_object(owner, function.old)
        number = max(function.sympos - 1, 0)
        return found[number] if number < len(found) else None

    @cached_property
    def entries(self) -> EntryPoints | None:
        """Which functions ftrace can enter; None without symbols."""
        if self.database is None:
            return None
        kernel = self.kernel
        return EntryPoints(
            self.database,
            filter_functions=kernel.filter_functions,
            vmlinux=kernel.vmlinux,
            modules=kernel.modules,
        )

    @cached_property
    def modules(self) -> dict[str, Path]:
        """Its modules' files by name."""
        return {object_name(path.name): path for path in self.kernel.modules}

    @cached_property
    def dependencies(self) -> Dependencies:
        """The dependencies of its modules."""
        return Dependencies(self.kernel.modules)

    @cached_property
    def _a_module(self) -> ElfFile | None:
        """A module of its own, which it surely takes."""
        for path in self.kernel.modules[:1]:
            try:
                return ElfFile.read(path)
            except KlpError:
                return None
        return None

    @cached_property
    def vermagic(self) -> str:
        """The vermagic of its modules; without one as include/linux/vermagic.h makes it."""
        if self._a_module is not None:
            said = modinfo(self._a_module).get("vermagic")
            if said:
                return said[0]
        config = self.config
        words = [self.kernel.release]
        words += ["SMP"] * config.enabled("SMP")
        if config.enabled("PREEMPT_RT"):
            words.append("preempt_rt")
        elif config.enabled("PREEMPT_BUILD") or config.enabled("PREEMPT"):
            words.append("preempt")
        words += ["mod_unload"] * config.enabled("MODULE_UNLOAD")
        words += ["modversions"] * config.enabled("MODVERSIONS")
        return " ".join(words) + " " + arch_vermagic(self.kernel.arch.machine, config)

    @cached_property
    def module_size(self) -> int | None:
        """The size of struct module, from a module of its own; None without one."""
        section = self._a_module.section(THIS_MODULE) if self._a_module else None
        return section.sh_size if section else None

    @cached_property
    def module_entries(self) -> dict[str, int]:
        """The offsets of ``init_module`` and ``cleanup_module`` in struct module, if known."""
        found: dict[str, int] = {}
        for path in self.kernel.modules[:_MODULES_READ]:
            if {INIT, EXIT} <= found.keys():
                break
            with suppress(KlpError):
                found |= places_in(ElfFile.read(path))
        return found
