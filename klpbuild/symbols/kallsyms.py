"""Select and order the symbols of vmlinux as scripts/kallsyms.c does.

The build lists vmlinux with ``nm -n``, drops lines (scripts/mksysmap), drops
more and sorts the rest (scripts/kallsyms.c).  The rules here are those of
Linux 6.1 and 6.12 together; between the two, patterns only moved from one file
to the other.  CONFIG_LIVEPATCH depends on CONFIG_KALLSYMS_ALL, so data counts
as text does.  Not covered: kernels built with Clang's LTO that compare names
without their ``.llvm.`` suffix (cleanup_symbol_name() of kernel/kallsyms.c).
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from klpbuild.names import symbol_name_max
from klpbuild.symbols.lines import Lines, Numbers

#: Prefixes of names that are left out; with a line end they are whole names.
_IGNORED = (
    *(b"$", b".L"),  # mapping symbols, local labels
    *(b"__crc_", b"__kstrtab_", b"__kstrtabns_"),  # of EXPORT_SYMBOL
    *(b"__efistub_", b"__pi_$", b"__pi_.L", b"__kvm_nvhe_$", b"__kvm_nvhe_.L"),
    *(b"__kcfi_typeid_", b"____kcfi_typeid_"),
    *(b"__kvm_nvhe_kcfi_typeid_", b"__kvm_nvhe___kcfi_typeid_"),
    *(b"__pi_kcfi_typeid_", b"__pi___kcfi_typeid_"),
    *(b"L0\n", b"_SDA_BASE_\n", b"_SDA2_BASE_\n"),
)
#: The table's own symbols, before Linux 6.12.
_OWN = tuple(
    b"kallsyms_%s\n" % part
    for part in b"addresses offsets relative_base num_syms names markers token_table "
    b"token_index seqs_of_names".split()
)
_THUNK = re.compile(rb"\n__(?:[A-Z][A-Za-z0-9]*|microLA25)Thunk_")

#: Suffixes and parts of names that are left out.
_IGNORED_PARTS = (b"_from_arm\n", b"_from_thumb\n", b"_veneer\n", b".long_branch.", b".plt_branch.")

#: Absolute, debugging, undefined and unique global symbols.
_UNWANTED = np.isin(np.arange(256), list(b"aANnUuvw"))


def select(
    names: Lines,
    addresses: npt.NDArray[np.uint64],
    kinds: npt.NDArray[np.bytes_],
    version: tuple[int, ...],
) -> Numbers:
    """Select the symbols that kallsyms holds, and put them in its order.

    :param names: n names.
    :param addresses: shape (n,).
    :param kinds: letters as ``nm`` prints them, shape (n,).
    :param version: the kernel's; the first two numbers count.
    :returns: indexes into the input, shape (m,), m <= n.
    """
    held = ~_UNWANTED[kinds.view(np.uint8)]
    held &= names.lengths <= symbol_name_max((version[0], version[1]))
    held[_ignored(names, version)] = False
    chosen = np.flatnonzero(held)
    order = chosen[np.argsort(addresses[chosen], kind="stable")]
    _settle_ties(order, names, addresses, kinds)
    return order


def _ignored(names: Lines, version: tuple[int, ...]) -> Numbers:
    """Find the names that kallsyms leaves out, whatever their address and kind."""
    prefixes = _IGNORED + (_OWN if version < (6, 12) else ())
    places = []
    if b"Thunk_" in names.text:
        places += [found.start() for found in _THUNK.finditer(b"\n" + names.text)]
    for part in _IGNORED_PARTS:
        places += _places(names.text, part)
    inside = np.searchsorted(names.starts, places, "right") - 1
    return np.concatenate([inside, *map(names.beginning_with, prefixes)])


def _places(text: bytes, part: bytes) -> Iterator[int]:
    place = text.find(part)
    while place >= 0:
        yield place
        place = text.find(part, place + 1)


def _settle_ties(
    order: Numbers, names: Lines, addresses: npt.NDArray[np.uint64], kinds: npt.NDArray[np.bytes_]
) -> None:
    """Sort the symbols at one address as compare_symbols() of scripts/kallsyms.c does.

    Its last resort is the order of the input, and ``nm -n`` goes by name there.
    """
    by_address = addresses[order]
    same = np.flatnonzero(by_address[1:] == by_address[:-1])
    tied = np.union1d(same, same + 1)
    starts, ends = names.starts, names.starts + names.lengths

    def rank(row: int) -> tuple[int, bool, bool, int, bytes]:
        name = names.text[starts[row] : ends[row]]
        underscores = len(name) - len(name.lstrip(b"_"))
        weak = bool(kinds[row] in (b"w", b"W"))
        return int(addresses[row]), weak, _linker_may_provide(name), underscores, name

    order[tied] = sorted(order[tied].tolist(), key=rank)


def _linker_may_provide(name: bytes) -> bool:
    return (
        len(name) >= 8
        and name.startswith(b"__")
        and (
            name[2:].startswith((b"start_", b"stop_", b"end_"))
            or name.endswith((b"_start", b"_end"))
        )
    )
