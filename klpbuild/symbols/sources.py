"""Read the symbols of vmlinux, in the order in which the kernel counts them.

They come from the ELF file, from ``System.map`` or from a copy of ``/proc/kallsyms``;
all give the same.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from klpbuild.errors import KlpError, reading
from klpbuild.names import VMLINUX
from klpbuild.symbols import kallsyms
from klpbuild.symbols.lines import Bytes, Lines, Numbers
from klpbuild.symbols.objects import scan
from klpbuild.symbols.table import ROW, Flag, ObjectSymbols
from klpbuild.symbols.tables import SymbolTables


def vmlinux_symbols(tables: SymbolTables, version: tuple[int, ...]) -> ObjectSymbols:
    """Select the symbols of vmlinux from the tables of the linked ELF file.

    :param version: the kernel's, which decides what kallsyms leaves out.
    :raises KlpError: when the file is not linked, or is broken.
    """
    if not tables.linked:
        raise KlpError(
            "is not linked",
            where=str(tables.path),
            why="Positions in vmlinux are counted by address, which the link decides.",
            hint="Give vmlinux itself, not vmlinux.o.",
        )
    found = scan([tables])
    (listed,) = found.objects()
    return _as_kallsyms_has_them(listed, found.names, version)


def read_system_map(path: Path, version: tuple[int, ...]) -> ObjectSymbols:
    """Read the symbols of vmlinux from ``System.map``, which ``nm -n`` made.

    :param version: the kernel's, which decides what kallsyms leaves out.
    :raises KlpError: when it is Debian's stub, or no System.map.
    """
    data = _read(path)
    if b"The real System.map" in data[:200]:
        raise KlpError(
            "is Debian's stub, not a System.map",
            where=str(path),
            why="Debian ships /boot/System.map-* with one line, so that nobody learns addresses.",
            hint="The real one is in the package linux-image-<release>-dbg.\n"
            "vmlinux with symbols or a copy of /proc/kallsyms will do as well.",
        )
    listing = _Listing.parse(data, path)
    if listing.module_lines.any():
        raise KlpError(
            "is not a System.map: it lists modules",
            where=f"{path}:{int(listing.module_lines.argmax()) + 1}",
            hint="Give it as a copy of /proc/kallsyms.",
        )
    symbols, names = listing.symbols(VMLINUX, ~listing.module_lines)
    return _as_kallsyms_has_them(symbols, names, version)


def read_kallsyms(path: Path) -> ObjectSymbols:
    """Read the symbols of vmlinux from a copy of ``/proc/kallsyms``.

    The modules in it are those that happened to be loaded, without the symbols that
    counted while they were loading: take them from their ``.ko`` files.

    :raises KlpError: when it was copied without privileges, is sorted in another
        way or is something else.
    """
    listing = _Listing.parse(_read(path), path)
    core = ~listing.module_lines
    addresses = listing.addresses[core]
    if not addresses.any():
        raise KlpError(
            "holds no addresses",
            where=str(path),
            why="The kernel shows zeros to those who may not see addresses "
            "(sysctl kernel.kptr_restrict).",
            hint="Copy /proc/kallsyms again as root, after: sysctl kernel.kptr_restrict=1",
        )
    falling = np.flatnonzero(addresses[1:] < addresses[:-1])
    if len(falling):
        raise KlpError(
            "is not in the order of /proc/kallsyms",
            where=f"{path}:{int(np.flatnonzero(core)[falling[0] + 1]) + 1}",
            why="A symbol's position is counted in that order, which goes by address.",
            hint="Copy /proc/kallsyms as it is, do not sort it.",
        )
    return _with_flags(*listing.symbols(VMLINUX, core))


def _as_kallsyms_has_them(
    symbols: ObjectSymbols, names: Lines, version: tuple[int, ...]
) -> ObjectSymbols:
    order = kallsyms.select(names, symbols.rows["address"], symbols.rows["kind"], version)
    names = names.take(order)
    chosen = replace(symbols, object=VMLINUX, rows=symbols.rows.take(order), names=names.text)
    return _with_flags(chosen, names)


def _with_flags(vmlinux: ObjectSymbols, names: Lines) -> ObjectSymbols:
    """Set the flags of vmlinux: all symbols stay, those between two marks lose their memory.

    Per-CPU variables, which some architectures have there, are copied for each processor.
    """
    addresses, flags = vmlinux.rows["address"], vmlinux.rows["flags"]
    flags[:] = Flag.LIVE

    def between(first: bytes, last: bytes) -> npt.NDArray[np.bool_]:
        begin, end = names.beginning_with(first), names.beginning_with(last)
        if not len(begin) or not len(end):
            return np.zeros(len(addresses), bool)
        inside: npt.NDArray[np.bool_] = addresses >= addresses[begin[0]]
        inside[addresses >= addresses[end[0]]] = False
        return inside

    freed = between(b"__init_begin\n", b"__init_end\n")
    copied = between(b"__per_cpu_start\n", b"__per_cpu_end\n")
    flags[freed & ~copied] = Flag.LIVE | Flag.INIT
    return vmlinux


def _read(path: Path) -> bytes:
    with reading(path):
        return path.read_bytes()


@dataclass(frozen=True, eq=False)
class _Listing:
    """Lines of sixteen hexadecimal digits, a letter, a name and perhaps ``[module]``.

    :ivar starts: where each name begins in `data`, shape (n,).
    :ivar lengths: length of each name in bytes.
    :ivar module_lines: whether a line names a module.
    """

    data: Bytes
    addresses: npt.NDArray[np.uint64]
    kinds: npt.NDArray[np.bytes_]
    starts: Numbers
    lengths: Numbers
    module_lines: npt.NDArray[np.bool_]
    path: Path

    @classmethod
    def parse(cls, text: bytes, path: Path) -> _Listing:
        """Parse a listing into its columns.

        :raises KlpError: with the number of the first other line.
        """
        data = np.frombuffer(text, np.uint8)
        ends = np.flatnonzero(data == ord("\n"))
        if len(data) and data[-1] != ord("\n"):
            ends = np.append(ends, len(data))
        firsts = np.concatenate([[0], ends[:-1] + 1]) if len(ends) else ends
        _check_shape(data, firsts, ends, path)

        digits = _DIGIT_VALUES[data[firsts[:, None] + np.arange(_DIGITS)]]
        wrong = (digits > 15).any(axis=1)
        if wrong.any():
            raise _not_a_listing(path, int(wrong.argmax()))
        addresses = np.zeros(len(firsts), np.uint64)
        for place in range(_DIGITS):
            addresses = addresses << np.uint64(4) | digits[:, place]

        starts = firsts + _NAME_AT
        tabs = np.flatnonzero(data == ord("\t"))
        module_lines = np.zeros(len(firsts), np.bool_)
        module_lines[np.searchsorted(ends, tabs)] = True
        name_ends = ends.copy()
        name_ends[np.searchsorted(ends, tabs)] = tabs
        kinds = data[firsts + _KIND_AT].view("S1")
        return cls(data, addresses, kinds, starts, name_ends - starts, module_lines, path)

    def symbols(self, object: str, chosen: npt.NDArray[np.bool_]) -> tuple[ObjectSymbols, Lines]:
        """Return the symbols of these lines, in their order, and their names."""
        try:
            names = Lines.gather(self.data, self.starts[chosen], self.lengths[chosen])
        except ValueError as error:
            raise KlpError(f"is broken: {error}", where=str(self.path)) from error
        rows = np.zeros(len(names), ROW)
        rows["address"] = self.addresses[chosen]
        rows["kind"] = self.kinds[chosen]
        rows["hash"] = names.hashes()
        rows["length"] = names.lengths
        return ObjectSymbols(object, rows, names.text), names


_DIGITS, _KIND_AT, _NAME_AT = 16, 17, 19
_DIGIT_VALUES = np.full(256, 255, np.uint8)
for _value, _digit in enumerate("0123456789abcdef"):
    _DIGIT_VALUES[ord(_digit)] = _value


def _check_shape(data: Bytes, firsts: Numbers, ends: Numbers, path: Path) -> None:
    short = ends - firsts <= _NAME_AT
    if short.any() or not len(firsts):
        raise _not_a_listing(path, int(short.argmax()) if len(firsts) else 0)
    wrong = (data[firsts + _KIND_AT - 1] != ord(" ")) | (data[firsts + _NAME_AT - 1] != ord(" "))
    if wrong.any():
        raise _not_a_listing(path, int(wrong.argmax()))


def _not_a_listing(path: Path, line: int) -> KlpError:
    return KlpError(
        "is not a line of System.map or /proc/kallsyms",
        where=f"{path}:{line + 1}",
        why="Every line is an address of sixteen digits, a letter and a name.",
        hint="Give the whole file, as it is.",
    )
