"""Make mutants of good modules: one change each, of what the kernel's module loader reads.

A kind of change and a random generator give one mutant; the same seed gives the same ones.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from klpbuild.elf.constants import SHF, SHN_ABS, SHN_COMMON, SHN_LIVEPATCH, SHN_UNDEF, SHT
from klpbuild.elf.reader import ElfFile, Section
from klpbuild.elf.tables import rela_dtype, symbol_dtype
from tests.check.editor import Editor, header, section_header

ENTRIES = {
    "__jump_table": 16, "__bug_table": 12, "__ex_table": 12, ".altinstructions": 12,
    ".static_call_sites": 8, ".parainstructions": 16, "__mcount_loc": 8, "__param": 40,
    ".orc_unwind": 6,
}  # fmt: skip
#: Sections of fixed-size entries: those above, and what has an address of 4 bytes in each.
TABLES = (
    *ENTRIES, ".orc_unwind_ip", ".return_sites", ".retpoline_sites", ".call_sites",
    ".ibt_endbr_seal", ".smp_locks", "__patchable_function_entries",
)  # fmt: skip
_TYPES = (0, 1, 2, 4, 10, 11, 24, 99)
_ADDENDS = (1, -1, 2, -2, 4, -4, 8, -8, 16, 0x24, 0x100, 0x100000, -0x100000, 1 << 31, -(1 << 40))
_FLAGS = (SHF.WRITE, SHF.ALLOC, SHF.EXECINSTR, SHF.MERGE, SHF.STRINGS, SHF.RELA_LIVEPATCH)


@dataclass(frozen=True)
class Mutant:
    """A module with one change.

    :ivar number: in its campaign.
    :ivar base: the good module's name.
    :ivar kind: of the change.
    :ivar what: the change, in words.
    :ivar data: the file.
    :ivar meaning: whether the change may make another module that somebody could have meant:
        nothing in the file tells it from a right one.
    """

    number: int
    base: str
    kind: str
    what: str
    data: bytes
    meaning: bool = False


class Made(NamedTuple):
    """A change in words, the file, and whether somebody could have meant it."""

    what: str
    data: bytes
    meaning: bool = False


class Good:
    """A good module and its parts.

    :ivar name: of the sample.
    """

    def __init__(self, name: str, data: bytes) -> None:
        self.name = name
        self.data = data
        self.elf = ElfFile(data, f"{name}.ko")

    def sections(self, wanted: Callable[[Section], bool]) -> list[Section]:
        return [s for s in self.elf.sections if s.index and wanted(s)]

    def relocations(self) -> list[Section]:
        """Relocation sections that are applied; those of tables are there three times."""
        found = []
        for section in self.sections(lambda s: s.sh_type == SHT.RELA and s.sh_size > 0):
            target = self.elf.sections[section.sh_info]
            if target.sh_flags & SHF.ALLOC:
                known = target.name in TABLES or section.name.startswith(".klp.rela")
                found += [section] * (3 if known or target.name == ".data" else 1)
        return found

    def row(self, section: Section, number: int, **fields: int) -> bytes:
        """The file with another record in a relocation section."""
        changed = bytearray(self.data)
        count = section.sh_size // rela_dtype("<").itemsize
        rows = np.frombuffer(changed, rela_dtype("<"), count, section.sh_offset)
        for name, value in fields.items():
            rows[number][name] = value
        return bytes(changed)

    def symbol(self, number: int, **fields: int) -> bytes:
        """The file with another symbol."""
        changed = bytearray(self.data)
        assert self.elf.symtab is not None
        count, start = len(self.elf.symbols), self.elf.symtab.sh_offset
        rows = np.frombuffer(changed, symbol_dtype("<"), count, start)
        for name, value in fields.items():
            rows[number][name] = value
        return bytes(changed)

    def poked(self, section: Section, at: int, data: bytes) -> bytes:
        """The file with other bytes in a section."""
        changed = bytearray(self.data)
        changed[section.sh_offset + at : section.sh_offset + at + len(data)] = data
        return bytes(changed)


Kind = Callable[[Good, random.Random], Made]


def _free(good: Good, section: Section) -> bool:
    """Whether relocations of a section lead where the author likes: those of code and plain data.

    Those of the livepatch's own structures are in such a section, too; check knows them, and
    what it passes of them is no damage that can be told.
    """
    target = good.elf.sections[section.sh_info]
    code = bool(target.sh_flags & SHF.EXECINSTR)
    return code or target.name.startswith((".data", ".rodata", ".init.data", ".exit.data"))


def _pick(good: Good, rng: random.Random) -> tuple[Section, int, tuple[int, int, int, int]]:
    section = rng.choice(good.relocations())
    rows = good.elf.relocations(section).tolist()
    number = rng.randrange(len(rows))
    return section, number, rows[number]


def _called(good: Good, section: Section, row: tuple[int, int, int, int]) -> str:
    offset, _, symbol, addend = row
    name = (
        good.elf.symbol_name(symbol)
        or good.elf.sections[
            int(good.elf.symbols[symbol]["st_shndx"]) % len(good.elf.sections)
        ].name
    )
    return f"{section.name}: {offset:#x} -> {name}{addend:+#x}"


def relocation_type(good: Good, rng: random.Random) -> Made:
    section, number, row = _pick(good, rng)
    kind = rng.choice([k for k in _TYPES if k != row[1]])
    what = f"{_called(good, section, row)}: type {row[1]} -> {kind}"
    return Made(what, good.row(section, number, r_type=kind), kind == 0 and _free(good, section))


def relocation_addend(good: Good, rng: random.Random) -> Made:
    section, number, row = _pick(good, rng)
    shift = rng.choice(_ADDENDS)
    what = f"{_called(good, section, row)}: addend {shift:+#x}"
    data = good.row(section, number, r_addend=row[3] + shift)
    return Made(what, data, _free(good, section))


def relocation_symbol(good: Good, rng: random.Random) -> Made:
    section, number, row = _pick(good, rng)
    symbol = rng.choice([n for n in range(len(good.elf.symbols)) if n != row[2]])
    what = f"{_called(good, section, row)}: symbol {good.elf.symbol_name(symbol) or symbol}"
    return Made(what, good.row(section, number, r_sym=symbol), _free(good, section))


def relocation_offset(good: Good, rng: random.Random) -> Made:
    section, number, row = _pick(good, rng)
    shift = rng.choice((1, -1, 2, 4, -4, 8, 16, 0x100, 0x10000))
    what = f"{_called(good, section, row)}: offset {shift:+#x}"
    data = good.row(section, number, r_offset=(row[0] + shift) % 2**64)
    return Made(what, data, _free(good, section))


def _with_rows(good: Good, section: Section, rows: np.ndarray) -> bytes:
    editor = Editor(good.data)
    editor.object.set_relocations(section.index, rows)
    return editor.data()


def relocation_removed(good: Good, rng: random.Random) -> Made:
    section, number, row = _pick(good, rng)
    rows = np.delete(good.elf.relocations(section), number)
    what = f"{_called(good, section, row)}: removed"
    return Made(what, _with_rows(good, section, rows), _free(good, section))


def relocation_doubled(good: Good, rng: random.Random) -> Made:
    section, number, row = _pick(good, rng)
    rows = good.elf.relocations(section)
    again = np.concatenate([rows, rows[number : number + 1]])
    return Made(f"{_called(good, section, row)}: doubled", _with_rows(good, section, again))


def relocations_swapped(good: Good, rng: random.Random) -> Made:
    """Two records change places with their targets."""
    section = rng.choice(good.relocations())
    rows = good.elf.relocations(section).copy()
    first, second = rng.randrange(len(rows)), rng.randrange(len(rows))
    offsets = rows["r_offset"][[second, first]]
    rows["r_offset"][[first, second]] = offsets
    what = f"{section.name}: records {first} and {second} swapped"
    # Each of two static branches of a function may have the place, target or key of the other.
    entries = section.name == ".rela__jump_table" and (first - second) % 3 == 0
    return Made(what, _with_rows(good, section, rows), entries or _free(good, section))


def _tables(good: Good) -> list[Section]:
    return good.sections(lambda s: s.name in TABLES and s.sh_size > 0)


def _size(table: Section) -> int:
    return ENTRIES.get(table.name, 4)


def _resized(good: Good, table: Section, data: bytes, drop: Callable[[int], bool]) -> bytes:
    """The file with other contents of a table; relocations at dropped offsets go."""
    editor = Editor(good.data)
    editor.object.sections[table.index].data = data
    for section in good.elf.relocation_sections:
        if section.sh_info == table.index:
            rows = good.elf.relocations(section)
            kept = [not drop(int(at)) for at in rows["r_offset"]]
            if not all(kept):
                editor.object.set_relocations(section.index, rows[np.array(kept)])
    return editor.data()


def entries_cut(good: Good, rng: random.Random) -> Made:
    """Bytes off the end of a table, with or without their relocations."""
    table = rng.choice(_tables(good))
    by = rng.choice((1, 2, 4, _size(table)))
    data = left = bytes(good.elf.contents(table))[:-by]
    kept = rng.random() < 0.5
    what = f"{table.name}: {by} bytes cut off, relocations {'kept' if kept else 'gone'}"
    data = _resized(good, table, data, lambda at: at >= len(left) and not kept)
    return Made(what, data, meaning=not kept)


def entries_added(good: Good, rng: random.Random) -> Made:
    """Bytes behind a table."""
    table = rng.choice(_tables(good))
    by = rng.choice((1, 2, 4, _size(table)))
    data = bytes(good.elf.contents(table)) + bytes(by)
    return Made(f"{table.name}: {by} bytes added", _resized(good, table, data, lambda at: False))


def entry_removed(good: Good, rng: random.Random) -> Made:
    """A whole entry with its relocations; those behind it move up."""
    table = rng.choice([t for t in _tables(good) if t.name != ".orc_unwind"])
    size, data = _size(table), bytes(good.elf.contents(table))
    if table.name == ".altinstructions" and len(data) % 14 == 0 and len(data) % 12:
        size = 14
    number = rng.randrange(max(len(data) // size, 1))
    start, end = number * size, (number + 1) * size
    editor = Editor(good.data)
    editor.object.sections[table.index].data = data[:start] + data[end:]
    for section in good.elf.relocation_sections:
        if section.sh_info == table.index:
            rows = good.elf.relocations(section).copy()
            offsets = rows["r_offset"]
            rows = rows[(offsets < start) | (offsets >= end)]
            rows["r_offset"] -= np.where(rows["r_offset"] >= end, size, 0).astype(np.uint64)
            editor.object.set_relocations(section.index, rows)
    return Made(f"{table.name}: entry {number} removed", editor.data(), meaning=True)


def entry_bytes(good: Good, rng: random.Random) -> Made:
    """A byte that no relocation writes."""
    table = rng.choice(_tables(good))
    taken = {
        int(at) + n
        for section in good.elf.relocation_sections
        if section.sh_info == table.index
        for at in good.elf.relocations(section)["r_offset"]
        for n in range(4 if table.name not in ("__mcount_loc", ".parainstructions") else 8)
    }
    free = [n for n in range(table.sh_size) if n not in taken] or [0]
    at, value = rng.choice(free), rng.choice((1, 2, 4, 8, 0x10, 0x40, 0x80, 0xFF))
    old = bytes(good.elf.contents(table))[at]
    what = f"{table.name}+{at:#x}: byte {old:#x} -> {old ^ value:#x}"
    return Made(what, good.poked(table, at, bytes((old ^ value,))), meaning=True)


def _loaded(good: Good) -> list[Section]:
    return good.sections(lambda s: bool(s.sh_flags & SHF.ALLOC) or s.sh_type == SHT.RELA)


def section_flags(good: Good, rng: random.Random) -> Made:
    section, flag = rng.choice(_loaded(good)), rng.choice(_FLAGS)
    changed = section_header(section.index, sh_flags=section.sh_flags ^ flag)(good.data)
    return Made(f"{section.name}: flag {flag:#x} changed", changed)


def section_type(good: Good, rng: random.Random) -> Made:
    section = rng.choice(_loaded(good))
    kind = rng.choice([k for k in (0, 1, 7, 8, 9, 14) if k != section.sh_type])
    return Made(
        f"{section.name}: type {kind}", section_header(section.index, sh_type=kind)(good.data)
    )


def section_size(good: Good, rng: random.Random) -> Made:
    section = rng.choice(_loaded(good))
    size = max(section.sh_size + rng.choice((-24, -8, -4, -1, 1, 4, 8, 24, 1 << 20)), 0)
    what = f"{section.name}: size {section.sh_size:#x} -> {size:#x}"
    return Made(what, section_header(section.index, sh_size=size)(good.data))


def section_alignment(good: Good, rng: random.Random) -> Made:
    section = rng.choice(_loaded(good))
    align = rng.choice([a for a in (0, 1, 2, 3, 4, 8, 4096, 1 << 31) if a != section.sh_addralign])
    what = f"{section.name}: alignment {align}"
    return Made(what, section_header(section.index, sh_addralign=align)(good.data))


def section_links(good: Good, rng: random.Random) -> Made:
    section = rng.choice(good.sections(lambda s: s.sh_type in (SHT.RELA, SHT.SYMTAB)))
    field = rng.choice(("sh_info", "sh_link", "sh_entsize"))
    value = rng.randrange(len(good.elf.sections) + 2)
    what = f"{section.name}: {field} {getattr(section, field)} -> {value}"
    return Made(what, section_header(section.index, **{field: value})(good.data))


def section_name(good: Good, rng: random.Random) -> Made:
    section = rng.choice(_loaded(good))
    other = rng.choice([s for s in good.elf.sections if s.name != section.name])
    names = {s.name: int(good.elf._headers[s.index]["sh_name"]) for s in good.elf.sections}
    what = f"{section.name}: called {other.name!r}"
    return Made(what, section_header(section.index, sh_name=names[other.name])(good.data))


def _symbols(good: Good) -> list[int]:
    """Symbols that relocations use; livepatch ones three times."""
    used = {
        int(n)
        for section in set(good.relocations())
        for n in np.unique(good.elf.relocations(section)["r_sym"])
    }
    late = np.flatnonzero(good.elf.symbols["st_shndx"] == SHN_LIVEPATCH).tolist()
    return sorted(used - {0}) + late * 3


def symbol_place(good: Good, rng: random.Random) -> Made:
    number = rng.choice(_symbols(good))
    known = (SHN_UNDEF, SHN_ABS, SHN_COMMON, SHN_LIVEPATCH, 0xFF30)
    place = rng.choice((*known, rng.randrange(1, len(good.elf.sections))))
    what = f"symbol {good.elf.symbol_name(number) or number}: section {place:#x}"
    return Made(what, good.symbol(number, st_shndx=place), meaning=True)


def symbol_value(good: Good, rng: random.Random) -> Made:
    number = rng.choice(_symbols(good))
    shift = rng.choice(_ADDENDS)
    value = (int(good.elf.symbols[number]["st_value"]) + shift) % 2**64
    what = f"symbol {good.elf.symbol_name(number) or number}: value {shift:+#x}"
    return Made(what, good.symbol(number, st_value=value), meaning=True)


def symbol_info(good: Good, rng: random.Random) -> Made:
    number = rng.choice(_symbols(good))
    info = rng.choice((0x00, 0x01, 0x02, 0x03, 0x10, 0x12, 0x20, 0x22, 0x23))
    what = f"symbol {good.elf.symbol_name(number) or number}: info {info:#x}"
    return Made(what, good.symbol(number, st_info=info))


def symbol_name(good: Good, rng: random.Random) -> Made:
    """One letter of a name; what the module itself defines may be called so."""
    number = rng.choice(_symbols(good))
    name = good.elf.symbol_name(number)
    if not name:
        return symbol_name(good, rng)
    at = rng.randrange(len(name))
    changed = name[:at] + rng.choice("_x0,.") + name[at + 1 :]
    editor = Editor(good.data)
    editor.object.rename_symbol(number, changed)
    own = 0 < int(good.elf.symbols[number]["st_shndx"]) < len(good.elf.sections)
    return Made(f"symbol {name}: called {changed}", editor.data(), own)


def modinfo(good: Good, rng: random.Random) -> Made:
    section = good.sections(lambda s: s.name == ".modinfo")[0]
    data = bytes(good.elf.contents(section))
    texts = [t for t in data.split(b"\0") if b"=" in t]
    text = rng.choice(texts)
    at = data.index(text) + rng.randrange(len(text) + 1)
    what = f".modinfo+{at:#x} ({text.split(b'=')[0].decode()}): {data[at]:#x} -> "
    value = rng.choice((0, ord("x"), ord("="), 0xFF))
    return Made(what + f"{value:#x}", good.poked(section, at, bytes((value,))))


def versions(good: Good, rng: random.Random) -> Made:
    section = good.sections(lambda s: s.name == "__versions")[0]
    data = bytes(good.elf.contents(section))
    entry = rng.randrange(section.sh_size // 64) * 64
    at = entry + rng.choice((0, 3, 4, 7, 8, 9, 63))
    value = rng.choice((1, 0x80, 0xFF))
    what = f"__versions+{at:#x}: {data[at]:#x} -> {data[at] ^ value:#x}"
    return Made(what, good.poked(section, at, bytes((data[at] ^ value,))))


def this_module(good: Good, rng: random.Random) -> Made:
    section = good.sections(lambda s: s.name == ".gnu.linkonce.this_module")[0]
    at = rng.choice((0, 8, 23, 24, 30, 80, rng.randrange(section.sh_size)))
    value = rng.choice((1, 0x80, 0xFF))
    old = bytes(good.elf.contents(section))[at]
    what = f"{section.name}+{at:#x}: {old:#x} -> {old ^ value:#x}"
    return Made(what, good.poked(section, at, bytes((old ^ value,))))


def livepatch_tables(good: Good, rng: random.Random) -> Made:
    """A byte of struct klp_patch, klp_object or klp_func that no relocation writes."""
    names = ("patch", "objects", "functions_")
    symbols = [s for s in good.elf.symbol_list if s.name.startswith(names) and s.st_size]
    found = rng.choice(symbols)
    if found.is_function:  # patched() and unpatched() of the exercise
        return livepatch_tables(good, rng)
    at = found.st_value + rng.randrange(found.st_size)
    section = good.elf.sections[found.st_shndx]
    taken = [
        int(row)
        for rows in good.elf.relocation_sections
        if rows.sh_info == section.index
        for row in good.elf.relocations(rows)["r_offset"]
    ]
    if any(start <= at < start + 8 for start in taken):
        return livepatch_tables(good, rng)
    value = rng.choice((1, 2, 0x80, 0xFF))
    what = f"{found.name}+{at - found.st_value:#x}: byte 0 -> {value:#x}"
    return Made(what, good.poked(section, at, bytes((value,))))


def file_header(good: Good, rng: random.Random) -> Made:
    field = rng.choice(("e_type", "e_machine", "e_version", "e_shnum", "e_shstrndx", "e_shentsize"))
    value = int(good.elf.header[field]) + rng.choice((-1, 1))
    return Made(f"{field}: {value}", header(**{field: value % 65536})(good.data))


#: Each kind of change, and how often it is tried.
KINDS: dict[Kind, int] = {
    relocation_type: 8,
    relocation_addend: 16,
    relocation_symbol: 10,
    relocation_offset: 8,
    relocation_removed: 8,
    relocation_doubled: 4,
    relocations_swapped: 3,
    entries_cut: 5,
    entries_added: 4,
    entry_removed: 5,
    entry_bytes: 8,
    section_flags: 8,
    section_type: 4,
    section_size: 5,
    section_alignment: 4,
    section_links: 5,
    section_name: 4,
    symbol_place: 5,
    symbol_value: 4,
    symbol_info: 3,
    symbol_name: 6,
    modinfo: 5,
    versions: 4,
    this_module: 3,
    livepatch_tables: 6,
    file_header: 1,
}


def mutants(good: dict[str, bytes], count: int, seed: int) -> Iterator[Mutant]:
    """Mutants of good modules, each different from the others; the first module half the time."""
    modules = [Good(name, data) for name, data in good.items()]
    rng = random.Random(seed)
    seen = {module.data for module in modules}
    kinds, weights = zip(*KINDS.items(), strict=True)
    number = 0
    while number < count:
        chosen = modules[0] if rng.random() < 0.5 else rng.choice(modules)
        kind: Kind = rng.choices(kinds, weights)[0]
        made = kind(chosen, rng)
        if made.data not in seen:
            seen.add(made.data)
            number += 1
            yield Mutant(number, chosen.name, kind.__name__, *made)
