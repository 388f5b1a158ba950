"""Find the functions that ftrace can enter: only those can be replaced.

The compiler makes the entry and a table of all entries, ``__mcount_loc``.  The
running kernel's word is tracefs' ``available_filter_functions``.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from klpbuild.arch import by_machine
from klpbuild.elf.constants import SHF
from klpbuild.elf.reader import ElfFile, Section
from klpbuild.elf.tables import distinct
from klpbuild.errors import KlpError, broken, reading
from klpbuild.names import VMLINUX, object_name
from klpbuild.symbols.database import Candidate, SymbolDatabase
from klpbuild.symbols.table import ObjectSymbols

Addresses = npt.NDArray[np.uint64]

_TEXT_KINDS = frozenset("tTwW")
_BROKEN = "has a broken table of ftrace entries"
_INVALID = "__ftrace_invalid_address__"

#: Section (empty in vmlinux) and address.
_Place = tuple[str, int]


@dataclass(frozen=True)
class _Entries:
    """Where an object's functions with an ftrace entry begin.

    :ivar known: set of places, in vmlinux' case the addresses in order.
    :ivar unclear: functions of which it cannot be told, `why` says why.
    """

    known: frozenset[_Place] | Addresses
    unclear: frozenset[_Place] = frozenset()
    why: str = ""

    def has(self, place: _Place) -> bool:
        """Tell whether the function at a place has an entry."""
        if isinstance(self.known, frozenset):
            return place in self.known
        at = int(np.searchsorted(self.known, np.uint64(place[1])))
        return at < len(self.known) and int(self.known[at]) == place[1]


class EntryPoints:
    """Looks up which functions of a kernel have an ftrace entry."""

    def __init__(
        self,
        database: SymbolDatabase,
        *,
        filter_functions: Path | None = None,
        vmlinux: Path | None = None,
        modules: Sequence[Path] = (),
    ) -> None:
        """Note the sources; nothing is read before it is asked for.

        :param database: of the same kernel.
        :param filter_functions: a copy of tracefs' ``available_filter_functions``;
            for vmlinux the first choice, since a kernel may refuse what has an entry.
        :param vmlinux: the linked ELF file.
        :param modules: the ``.ko`` files.
        """
        self._database = database
        self._filter_functions = filter_functions
        self._vmlinux = vmlinux
        self._modules = {object_name(path.name): path for path in modules}
        self._entries: dict[str, _Entries | str] = {}

    def has(self, object: str, symbol: str, position: int) -> bool | None:
        """Tell whether a function has an entry; None when that is not known.

        :param position: 1-based, or 0 for a unique symbol.
        :raises KlpError: when a file that tells is broken or another kernel's.
        """
        return self._answer(object, symbol, position)[0]

    def why_unknown(self, object: str, symbol: str, position: int) -> str:
        """Explain why `has` gives None; empty when it does not."""
        return self._answer(object, symbol, position)[1]

    def _answer(self, object: str, symbol: str, position: int) -> tuple[bool | None, str]:
        found = self._database.in_object(object, symbol)
        if not found or position > len(found):
            return None, f"{object}:{symbol} is not in symbols.klp"
        if position == 0 and len(found) > 1:
            return None, f"{object} has {len(found)} symbols {symbol}"
        if object == VMLINUX and len(found) == 1 and f"\n{symbol}\n" in self._listing:
            return True, ""
        candidate = found[max(position - 1, 0)]
        if candidate.address is None:
            return None, "symbols.klp has no addresses: make it from vmlinux and the modules"
        if candidate.kind not in _TEXT_KINDS or candidate.init:
            return False, ""
        if object not in self._entries:
            self._entries[object] = self._read(object)
        entries = self._entries[object]
        if isinstance(entries, str):
            return None, entries
        place = _place(object, candidate)
        if place in entries.unclear:
            return None, entries.why
        return entries.has(place), ""

    @cached_property
    def _listing(self) -> str:
        """The text of ``available_filter_functions``, enough for a unique name that is in it."""
        if self._filter_functions is None:
            return ""
        return "\n" + _read_text(self._filter_functions)

    def _read(self, object: str) -> _Entries | str:
        """Read the entries of an object; a text says why they cannot be had."""
        if object != VMLINUX:
            module = self._modules.get(object)
            return _of_module(module) if module else f"the file of module {object} is not at hand"
        if self._filter_functions is not None:
            return _listed(self._filter_functions, self._database.symbols(VMLINUX))
        if self._vmlinux is not None:
            return _of_vmlinux(self._vmlinux, self._database)
        return "neither vmlinux nor a copy of available_filter_functions is at hand"


def _place(object: str, candidate: Candidate) -> _Place:
    return "" if object == VMLINUX else candidate.section, candidate.address or 0


def _of_vmlinux(path: Path, database: SymbolDatabase) -> _Entries | str:
    """Read the table between ``__start_mcount_loc`` and ``__stop_mcount_loc``."""
    with broken(_BROKEN, str(path)):
        return _between_marks(path, database)


def _between_marks(path: Path, database: SymbolDatabase) -> _Entries | str:
    elf = ElfFile.read(path)
    begin, end, own_text = (
        _first_address(elf, name) for name in ("__start_mcount_loc", "__stop_mcount_loc", "_text")
    )
    candidates = database.in_object(VMLINUX, "_text")
    text = candidates[0].address if candidates else None
    if begin is None or end is None or text is None or own_text is None:
        return "vmlinux has no table of ftrace entries"
    entries = _table(elf, begin, end)
    entries = entries[entries != 0]  # scripts/sorttable.c clears those of overridden functions
    # The addresses of a copy of /proc/kallsyms may be moved (CONFIG_RANDOMIZE_BASE).
    moved = np.uint64((text - own_text) % 2**64)
    starts = distinct(database.rows(VMLINUX)["address"])
    return _Entries(_starts_with_entry(starts, entries + moved, elf.e_machine))


def _first_address(elf: ElfFile, name: str) -> int | None:
    """Find the address of the first defined symbol of a name."""
    found = [row for row in elf.symbols[elf.symbols_named(name)] if row["st_shndx"]]
    return int(found[0]["st_value"]) if found else None


def _table(elf: ElfFile, begin: int, end: int) -> Addresses:
    """Read the addresses in a part of a linked file, also those that relocations write."""
    for section in elf.sections:
        first = begin - section.sh_addr
        if section.sh_addr <= begin < section.sh_addr + section.sh_size and section.sh_addr:
            part = elf.contents(section)[first : first + end - begin]
            break
    else:
        raise KlpError("has no section with the table of ftrace entries", where=elf.name)
    found = np.frombuffer(part, elf.order + "u8").astype(np.uint64)
    for section in elf.relocation_sections:
        if section.sh_flags & SHF.ALLOC and not found.all():
            made = elf.relocations(section)
            made = made[(made["r_offset"] >= begin) & (made["r_offset"] < end)]
            numbers = (made["r_offset"] - np.uint64(begin)) // np.uint64(8)
            found[numbers] = made["r_addend"].astype(np.uint64)
    return found


def _starts_with_entry(starts: Addresses, entries: Addresses, machine: int) -> Addresses:
    """Select the function starts that have an entry.

    :param starts: sorted, without repeats.
    """
    arch = by_machine(machine)
    if arch.entry_before:
        behind = entries + np.uint64(arch.entry_before)
        entries = np.where(np.isin(behind, starts), behind, entries)
    number = np.searchsorted(starts, entries, "right") - 1
    inside = number >= 0
    owners = starts[number[inside]]
    near = entries[inside] - owners <= arch.entry_farthest
    return distinct(owners[near])


def _of_module(path: Path) -> _Entries:
    """Read the relocations of ``__mcount_loc``, one for each entry."""
    with broken(_BROKEN, str(path)):
        return _from_relocations(path)


def _from_relocations(path: Path) -> _Entries:
    elf = ElfFile.read(path)
    names = by_machine(elf.e_machine, str(path)).entry_sections
    entries: dict[int, list[int]] = defaultdict(list)
    for section in elf.relocation_sections:
        if _target(elf, section).name not in names:
            continue
        relocations = elf.relocations(section)
        symbols = elf.symbols[relocations["r_sym"]]
        addresses = symbols["st_value"].astype(np.int64) + relocations["r_addend"]
        for shndx, address in zip(symbols["st_shndx"].tolist(), addresses.tolist(), strict=True):
            entries[shndx].append(address)

    known: set[_Place] = set()
    for shndx, addresses in entries.items():
        inside = elf.symbols["st_shndx"] == shndx
        starts = distinct(elf.symbols["st_value"][inside].astype(np.uint64))
        owners = _starts_with_entry(starts, np.array(addresses, np.uint64), elf.e_machine)
        known.update((elf.sections[shndx].name, address) for address in owners.tolist())
    return _Entries(frozenset(known))


def _target(elf: ElfFile, relocations: Section) -> Section:
    return elf.sections[relocations.sh_info if relocations.sh_info < len(elf.sections) else 0]


def _listed(path: Path, symbols: ObjectSymbols) -> _Entries:
    """Match the names in ``available_filter_functions`` with the functions of vmlinux.

    They come by address, and for each address the first name that kallsyms has
    there.  So a name that several functions have is settled by its neighbours.
    """
    starts, first = np.unique(symbols.rows["address"], return_index=True)
    all_names = symbols.name_list
    numbers: dict[str, list[int]] = defaultdict(list)
    for number, row in enumerate(first.tolist()):
        numbers[all_names[row]].append(number)

    listed = _vmlinux_names(path, numbers)
    anchors = [numbers[name][0] if len(numbers[name]) == 1 else None for name in listed]
    in_order = [a for a in anchors if a is not None]
    sorted_anchors = in_order == sorted(in_order)
    known = set(in_order)
    times: Counter[tuple[str, int, int]] = Counter()
    passed = 0
    for name, anchor in zip(listed, anchors, strict=True):
        if anchor is not None:
            passed += 1
        elif sorted_anchors:
            low = in_order[passed - 1] if passed else -1
            high = in_order[passed] if passed < len(in_order) else len(starts)
            times[name, low, high] += 1
        else:
            times[name, -1, len(starts)] += 1

    unclear: set[int] = set()
    for (name, low, high), count in times.items():
        alike = numbers[name]
        between = alike[bisect_right(alike, low) : bisect_left(alike, high)]
        (known if count >= len(between) else unclear).update(between)
    return _Entries(
        frozenset(("", int(starts[n])) for n in known),
        frozenset(("", int(starts[n])) for n in unclear - known),
        f"{path.name} has the name fewer times than vmlinux",
    )


def _read_text(path: Path) -> str:
    with reading(path):
        return path.read_text(errors="surrogateescape")


def _vmlinux_names(path: Path, known: dict[str, list[int]]) -> list[str]:
    names = []
    for number, line in enumerate(_read_text(path).splitlines(), start=1):
        name, _, module = line.partition(" ")
        if module or name.startswith(_INVALID):
            continue
        if name not in known:
            raise KlpError(
                f"lists {name!r}, which vmlinux does not have",
                where=f"{path}:{number}",
                hint="Copy available_filter_functions of this kernel.",
            )
        names.append(name)
    if not names:
        raise KlpError("lists no function of vmlinux", where=str(path))
    return names
