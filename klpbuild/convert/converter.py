"""Convert a linked module into a livepatch module.

Sections and symbols keep their indexes.  A symbol that is resolved by the
livepatch core gets the name ``.klp.sym.<owner>.<symbol>,<sympos>`` and
SHN_LIVEPATCH; its relocations leave ``.rela.<section>`` for
``.klp.rela.<gate>.<section>``.  Nothing may touch the file afterwards but a
signature: binutils' strip and objcopy damage such sections.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from klpbuild.arch import Architecture, by_machine
from klpbuild.convert.annotations import Annotations, read_annotations
from klpbuild.elf.constants import ET, SHF, SHN_LIVEPATCH, SHN_UNDEF, SHT, STB
from klpbuild.elf.reader import ElfFile, Section
from klpbuild.elf.tables import Table
from klpbuild.elf.writer import ElfObject
from klpbuild.errors import KlpError, Problems
from klpbuild.names import SYMBOL_NAME_MAX, VMLINUX, LivepatchSection
from klpbuild.resolve.fate import Decision, Fate, Reference, Resolver

# Symbols that the linker or the module loader makes, not the kernel.
_NOT_REFERENCES = frozenset({"_GLOBAL_OFFSET_TABLE_", ".TOC."})

# Sections that may be written when a patched module loads, long after the
# livepatch: the kernel has read all others (jump labels, static calls,
# alternatives, ...) by then, and .init ones are gone.
_LATE_SECTIONS = (".text", ".data", ".rodata", ".sdata", ".toc", ".sched.text", ".noinstr.text")


@dataclass(frozen=True)
class LivepatchRelocation:
    """A group of livepatch relocations: one symbol, one target section.

    :ivar section: name of the section that they change.
    :ivar count: how many.
    """

    section: str
    decision: Decision
    count: int


@dataclass(frozen=True)
class Conversion:
    """A converted module.

    :ivar data: the bytes of the file.
    :ivar decisions: what became of each undefined symbol, in symbol-table order.
    :ivar relocations: the livepatch relocations, in section order.
    """

    data: bytes
    decisions: tuple[Decision, ...]
    relocations: tuple[LivepatchRelocation, ...]


def convert(elf: ElfFile, resolver: Resolver, name_max: int = SYMBOL_NAME_MAX) -> Conversion:
    """Convert a linked module.  Converted input comes out as it is.

    :param resolver: decides the references.
    :param name_max: longest symbol name of the kernel, see `names.symbol_name_max`.
    :raises KlpError: with every reference that cannot be resolved.
    """
    architecture = _check_input(elf)
    annotations = read_annotations(elf)
    uses = _Uses(elf, annotations)
    problems = Problems()
    decisions: dict[int, Decision] = {}
    for index in uses.undefined:
        with problems.collect():
            decision = resolver.decide(uses.reference(index))
            if decision.target is not None:
                decision.target.format(name_max)
            decisions[index] = decision
    for index in annotations.by_symbol.keys() - set(uses.undefined):
        annotation = annotations.by_symbol[index]
        problems.add(
            f"annotated symbol {annotation.symbol!r} is not used",
            where=annotation.where,
            hint="Take the annotation away, or use the symbol.",
        )
    problems.check()

    moved = {index: d for index, d in decisions.items() if d.fate is Fate.LIVEPATCH}
    if not moved and not annotations.sections:
        return Conversion(bytes(elf.data), tuple(decisions.values()), ())
    out = ElfObject.from_elf(elf)
    relocations = _move(elf, out, uses, moved, architecture, problems)
    problems.check()
    for index in annotations.sections:
        _neutralise_entries(elf, out, index, architecture)
    _name_symbols(out, moved, name_max)
    _clear_depends(elf, out)
    return Conversion(out.to_bytes(), tuple(decisions.values()), tuple(relocations))


def _check_input(elf: ElfFile) -> Architecture:
    architecture = by_machine(elf.e_machine, elf.name)
    if elf.e_type != ET.REL:
        raise KlpError("is not a kernel module", where=elf.name, hint="Give a linked .ko file.")
    for section in elf.sections:
        if section.sh_type == SHT.REL:
            raise KlpError(
                f"section {section.name} holds relocations without addends",
                where=elf.name,
                why="The kernel applies livepatch relocations from SHT_RELA sections only.",
            )
    return architecture


class _Uses:
    """Where the undefined symbols of a file are used."""

    def __init__(self, elf: ElfFile, annotations: Annotations) -> None:
        self.elf = elf
        self.annotations = annotations
        #: (relocation section, target section, records, mask of records to undefined symbols)
        self.sections: list[tuple[Section, Section, Table, np.ndarray]] = []
        shndx, names = elf.symbols["st_shndx"], elf.symbols["st_name"]
        candidates = (shndx == SHN_UNDEF) & (names != 0)
        first: dict[int, tuple[Section, int]] = {}
        for section in elf.relocation_sections:
            if section.sh_flags & SHF.RELA_LIVEPATCH:
                continue
            if section.sh_info >= len(elf.sections):
                raise KlpError(f"section {section.name} changes no section", where=elf.name)
            target = elf.sections[section.sh_info]
            rows = elf.relocations(section)
            if len(rows) and int(rows["r_sym"].max()) >= len(elf.symbols):
                raise KlpError(f"section {section.name} names a missing symbol", where=elf.name)
            mask = candidates[rows["r_sym"]] if len(rows) else np.zeros(0, bool)
            self.sections.append((section, target, rows, mask))
            if target.index in annotations.sections:
                continue
            indexes, places = np.unique(rows["r_sym"][mask], return_index=True)
            offsets = rows["r_offset"][mask][places]
            for index, offset in zip(indexes.tolist(), offsets.tolist(), strict=True):
                # A use in code or data tells more than one in debug information.
                if index not in first or not first[index][0].sh_flags & SHF.ALLOC:
                    first[index] = (target, offset)
        self._first = first
        #: Indexes of the undefined symbols that loaded sections use.
        self.undefined = [
            index
            for index in sorted(first)
            if first[index][0].sh_flags & SHF.ALLOC
            and elf.symbol_name(index) not in _NOT_REFERENCES
        ]

    def reference(self, index: int) -> Reference:
        symbol = self.elf.symbol(index)
        target, offset = self._first[index]
        return Reference(
            symbol.name,
            f"{self.elf.name}:{target.name}+0x{offset:x}",
            symbol.bind == STB.WEAK,
            self.annotations.by_symbol.get(index),
        )


def _move(
    elf: ElfFile,
    out: ElfObject,
    uses: _Uses,
    moved: dict[int, Decision],
    architecture: Architecture,
    problems: Problems,
) -> list[LivepatchRelocation]:
    """Move the relocations of the decided symbols to livepatch sections."""
    gates = sorted({decision.gate for decision in moved.values()})
    gate_of = np.zeros(len(elf.symbols), np.uint32)
    for index, decision in moved.items():
        gate_of[index] = gates.index(decision.gate) + 1
    found: list[LivepatchRelocation] = []
    for section, target, rows, mask in uses.sections:
        if target.index in uses.annotations.sections or not mask.any():
            continue
        gate_of_row = gate_of[rows["r_sym"]]
        if not gate_of_row.any():
            continue
        if not target.sh_flags & SHF.ALLOC:
            # The kernel never applies these; debuggers must not see the symbols.
            rest = rows.copy()
            rest["r_type"][gate_of_row != 0] = architecture.none
            rest["r_sym"][gate_of_row != 0] = 0
            out.set_relocations(section.index, rest)
            continue
        out.set_relocations(section.index, rows[gate_of_row == 0])
        for number, gate in enumerate(gates, 1):
            chosen = rows[gate_of_row == number]
            if not len(chosen):
                continue
            for index, count in zip(*np.unique(chosen["r_sym"], return_counts=True), strict=True):
                found.append(LivepatchRelocation(target.name, moved[int(index)], int(count)))
            if gate != VMLINUX and not _can_wait(target):
                first = moved[int(chosen["r_sym"][0])]
                problems.add(
                    f"symbol {first.reference.name!r} of module {gate} is used in {target.name}",
                    where=f"{elf.name}:{target.name}+0x{int(chosen['r_offset'][0]):x}",
                    why="The kernel reads this section when the livepatch loads, "
                    f"before {gate} is there.",
                    hint="Use static_key_enabled() for a static key, a plain call through "
                    "a function pointer for a static call.",
                )
                continue
            out.add_relocations(
                LivepatchSection(gate, target.name).format(),
                target.index,
                chosen,
                SHF.ALLOC | SHF.INFO_LINK | SHF.RELA_LIVEPATCH,
            )
    return found


def _can_wait(target: Section) -> bool:
    return any(target.name == n or target.name.startswith(n + ".") for n in _LATE_SECTIONS)


def _neutralise_entries(
    elf: ElfFile, out: ElfObject, section: int, architecture: Architecture
) -> None:
    """The entries stay where they are and mean nothing any more."""
    for rela in elf.relocation_sections:
        if rela.sh_info == section:
            rows = elf.relocations(rela).copy()
            rows["r_type"], rows["r_sym"], rows["r_addend"] = architecture.none, 0, 0
            out.set_relocations(rela.index, rows)
            out.sections[rela.index].name = ".rela.data.klp_module_relocs"
    # Under its own name a second conversion would read it again.
    out.sections[section].name = ".data.klp_module_relocs"


def _name_symbols(out: ElfObject, moved: dict[int, Decision], name_max: int) -> None:
    for index, decision in moved.items():
        assert decision.target is not None
        out.rename_symbol(index, decision.target.format(name_max))
        out.symbols[index]["st_shndx"] = SHN_LIVEPATCH


def _clear_depends(elf: ElfFile, out: ElfObject) -> None:
    """Empty ``depends=``: modpost fills it with the modules whose exports are used.

    Those references are livepatch relocations now, and the livepatch must load
    before the modules.  Other strings keep their offsets, which symbols name;
    the kernel skips zero bytes between strings (kernel/module/main.c, next_string).
    """
    section = elf.section(".modinfo")
    if section is None:
        return
    data = bytes(elf.contents(section))
    strings = data.split(b"\0")
    cleared = [
        b"depends=" + bytes(len(text) - len(b"depends=")) if text.startswith(b"depends=") else text
        for text in strings
    ]
    out.sections[section.index].data = b"\0".join(cleared)
