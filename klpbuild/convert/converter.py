"""Convert a linked module into a livepatch module.

Sections and symbols keep their indexes.  A symbol that is resolved by the
livepatch core gets the name ``.klp.sym.<owner>.<symbol>,<sympos>`` and
SHN_LIVEPATCH; its relocations leave ``.rela.<section>`` for
``.klp.rela.<gate>.<section>``.  Nothing may touch the file afterwards but a
signature: binutils' strip and objcopy damage such sections.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from klpbuild.arch import Architecture, by_machine
from klpbuild.convert.annotations import read_annotations
from klpbuild.convert.uses import Placed, Uses
from klpbuild.elf.constants import ET, SHF, SHN_LIVEPATCH, SHT
from klpbuild.elf.reader import ElfFile
from klpbuild.elf.writer import ElfObject
from klpbuild.errors import KlpError, Problems
from klpbuild.names import SYMBOL_NAME_MAX, LivepatchSection
from klpbuild.resolve.fate import Decision, Resolver
from klpbuild.resolve.reach import Pointer, Reach


@dataclass(frozen=True)
class LivepatchRelocation:
    """A group of livepatch relocations: one symbol and gate, one target section.

    :ivar section: name of the section that they change.
    :ivar count: how many.
    """

    section: str
    decision: Decision
    count: int


@dataclass(frozen=True)
class Conversion:
    """A converted module, and how it was converted.

    :ivar data: the bytes of the file.
    :ivar decisions: how each undefined symbol was resolved, in symbol-table order; one for
        each gate that it has.
    :ivar relocations: the livepatch relocations, in section order.
    :ivar unchecked: what of their gates could not be told.
    """

    data: bytes
    decisions: tuple[Decision, ...]
    relocations: tuple[LivepatchRelocation, ...]
    unchecked: tuple[str, ...] = ()


def convert(
    elf: ElfFile,
    resolver: Resolver,
    entries: Sequence[Pointer] = (),
    name_max: int = SYMBOL_NAME_MAX,
) -> Conversion:
    """Convert a linked module.  A converted one is returned unchanged.

    :param resolver: decides the references.
    :param entries: the functions and callbacks that its tables name.
    :param name_max: longest symbol name of the kernel, see `names.symbol_name_max`.
    :raises KlpError: with every reference that cannot be resolved.
    """
    architecture = _check_input(elf)
    annotations = read_annotations(elf)
    uses = Uses(elf, annotations)
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
    placed = Placed(uses, decisions)
    placed.choose_gates(resolver, Reach(elf, entries), problems)
    problems.check()

    if not placed.decided and not annotations.sections:
        return Conversion(bytes(elf.data), tuple(decisions.values()), ())
    out = ElfObject.from_elf(elf)
    relocations = _move(out, uses, placed, architecture)
    for index in annotations.sections:
        _neutralise_entries(elf, out, index, architecture)
    _name_symbols(out, placed.decided, name_max)
    _clear_depends(elf, out)
    found = [d for index, one in decisions.items() for d in placed.of_symbol.get(index, [one])]
    unchecked = dict.fromkeys(d.unchecked for d in placed.decisions if d.unchecked)
    return Conversion(out.to_bytes(), tuple(found), tuple(relocations), tuple(unchecked))


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


def _move(
    out: ElfObject, uses: Uses, placed: Placed, architecture: Architecture
) -> list[LivepatchRelocation]:
    """Move the relocations of livepatch symbols to livepatch sections."""
    moved = np.zeros(len(uses.elf.symbols), np.bool_)
    moved[list(placed.decided)] = True
    gates = sorted({decision.gate for decision in placed.decisions})
    gate_of = np.array([-1, *(gates.index(d.gate) for d in placed.decisions)])
    found: list[LivepatchRelocation] = []
    for (section, target, rows), numbers in zip(uses.sections, placed.numbers, strict=True):
        if target.index in uses.annotations.sections:
            continue
        if not target.sh_flags & SHF.ALLOC:
            # The kernel never applies these; debuggers must not see the symbols.
            gone = moved[rows["r_sym"]]
            if gone.any():
                rest = rows.copy()
                rest["r_type"][gone], rest["r_sym"][gone] = architecture.none, 0
                out.set_relocations(section.index, rest)
            continue
        if not numbers.any():
            continue
        out.set_relocations(section.index, rows[numbers == 0])
        for number, count in zip(*np.unique(numbers[numbers > 0], return_counts=True), strict=True):
            decision = placed.decisions[number - 1]
            found.append(LivepatchRelocation(target.name, decision, int(count)))
        for number, gate in enumerate(gates):
            chosen = rows[gate_of[numbers] == number]
            if len(chosen):
                out.add_relocations(
                    LivepatchSection(gate, target.name).format(),
                    target.index,
                    chosen,
                    SHF.ALLOC | SHF.INFO_LINK | SHF.RELA_LIVEPATCH,
                )
    return found


def _neutralise_entries(
    elf: ElfFile, out: ElfObject, section: int, architecture: Architecture
) -> None:
    """Make annotation entries meaningless, and leave them in place."""
    for rela in elf.relocation_sections:
        if rela.sh_info == section:
            rows = elf.relocations(rela).copy()
            rows["r_type"], rows["r_sym"], rows["r_addend"] = architecture.none, 0, 0
            out.set_relocations(rela.index, rows if architecture.takes_none else rows[:0])
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
