"""Find inline copies of patched functions that a livepatch does not replace.

Debug information has them as DW_TAG_inlined_subroutine (DWARF 5, section 3.3.8).  Without
link-time optimisation a function is inlined in its own compile unit only, so one unit is
read for each function; a header's inline functions have no entry and cannot be patched.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from klpbuild.check import catalogue
from klpbuild.check.kernelside import KernelSide
from klpbuild.check.patched import Patched, PatchedFunction
from klpbuild.check.subject import Subject
from klpbuild.elf.dwarf import Dwarf, Entry, Unit
from klpbuild.errors import KlpError
from klpbuild.kernel.debug import debug_information
from klpbuild.names import VMLINUX

_SUBPROGRAM, _INLINED = 0x2E, 0x1D
_NAME, _LOW_PC, _INLINE, _ORIGIN, _SPECIFICATION, _RANGES = 0x03, 0x11, 0x20, 0x31, 0x47, 0x55
_CALL_FILE, _CALL_LINE = 0x58, 0x59
_FUNCTIONS = {_SUBPROGRAM: frozenset({_NAME, _LOW_PC, _INLINE, _ORIGIN, _SPECIFICATION})}
_WANTED = {
    **_FUNCTIONS,
    _INLINED: frozenset({_ORIGIN, _LOW_PC, _RANGES, _CALL_FILE, _CALL_LINE}),
}
#: Ends the name of a function that was compiled from the kernel's source and patches.
_OF_SOURCE = re.compile(r"\.livepatch\d+$")
#: Limit on callers in a finding.
_NAMED_MAX = 8


@dataclass(frozen=True)
class Copy:
    """A copy of a function inside of another one.

    :ivar holder: the function that it is in.
    :ivar address: of that function; None when it has several parts.
    :ivar call: ``file:line`` of the call that it stands for.
    """

    holder: str
    address: int | None
    call: str


def copies(unit: Unit, name: str, address: int) -> tuple[Copy, ...]:
    """Find the inline copies of a function in its compile unit, each call in each holder once.

    :param address: of the function, as the unit has it.
    :raises KlpError: when the unit is broken.
    """
    functions = {e.offset: e for e in unit.listed(_FUNCTIONS, outermost=True)}
    here = {_root(e, functions) for e in functions.values() if e.values.get(_LOW_PC) == address}
    plain = name.split(".")[0]
    named = {_root(e, functions) for e in functions.values() if e.values.get(_NAME) == plain}
    # In a module's file addresses repeat; an alias has another name.
    roots = here & named or named or here
    # DW_AT_inline says of a function whether it was inlined (DWARF 5, section 3.3.8.1).
    if not any(functions[r].values.get(_INLINE) for r in roots):
        return ()
    entries = unit.listed(_WANTED)
    functions = {e.offset: e for e in entries if e.tag == _SUBPROGRAM}
    files = unit.file_names()
    copied: dict[Copy, None] = {}
    holder: Entry | None = None
    for entry in entries:
        if entry.tag == _SUBPROGRAM:
            if holder is None or entry.depth <= holder.depth:  # others are declared inside of it
                holder = entry
        elif holder is not None and _has_code(entry) and entry.values.get(_ORIGIN) in roots:
            root = functions.get(_root(holder, functions), holder)
            start = holder.values.get(_LOW_PC)
            called = str(root.values.get(_NAME, "?"))
            copy = Copy(called, start if isinstance(start, int) else None, _call(entry, files))
            if root.offset not in roots:
                copied[copy] = None
    return tuple(copied)


def _root(entry: Entry, functions: dict[int, Entry]) -> int:
    """Find the entry that an out-of-line copy or a definition refers to."""
    for _ in range(4):
        origin = entry.values.get(_ORIGIN, entry.values.get(_SPECIFICATION))
        if not isinstance(origin, int) or origin not in functions:
            break
        entry = functions[origin]
    return entry.offset


def _has_code(entry: Entry) -> bool:
    return _LOW_PC in entry.values or _RANGES in entry.values


def _call(entry: Entry, files: tuple[str, ...]) -> str:
    number, line = entry.values.get(_CALL_FILE, -1), entry.values.get(_CALL_LINE, 0)
    known = isinstance(number, int) and 0 <= number < len(files)
    return f"{files[int(number)] if known else '?'}:{line}"


def check_inlined(subject: Subject) -> None:
    """Find inline copies of each patched function in functions that are not patched."""
    if not subject.applies(catalogue.INLINED) or not subject.patched or not subject.kernel:
        return
    for patched in subject.patched:
        if not patched.functions:
            continue
        if patched.object not in (VMLINUX, *subject.kernel.modules):
            why = f"this kernel has no module {patched.object}"
            subject.not_checked(catalogue.INLINED, why, patched.object)
            continue
        try:
            dwarf = debug_information(subject.kernel.kernel, patched.object)
        except KlpError as error:
            subject.not_checked(catalogue.INLINED, error.problems[0].what, patched.object)
            continue
        units = _Units(dwarf)
        for function in patched.functions:
            if ".part." not in function.old:  # the rest of it is where it was inlined
                _check_function(subject, subject.kernel, units, patched, function)


class _Units:
    """Reads the compile units of a file and keeps the last: functions come file by file."""

    def __init__(self, dwarf: Dwarf) -> None:
        self._dwarf = dwarf
        self._last: Unit | None = None

    def at(self, address: int, section: str) -> Unit | None:
        """Read the unit whose code has an address.

        :param section: in a module the section that `address` counts from; else empty.
        :raises KlpError: when it is broken.
        """
        place = self._dwarf.elf.section(section) if section else None
        offset = self._dwarf.unit_offset(address, place.index if place else 0)
        if offset is None:
            return None
        if self._last is None or self._last.offset != offset:
            self._last = Unit(self._dwarf, offset)
        return self._last


def _check_function(
    subject: Subject, kernel: KernelSide, units: _Units, patched: Patched, function: PatchedFunction
) -> None:
    found = kernel.old_function(patched.object, function)
    where = f"{patched.object}:{function.old}"
    if found is None:
        return
    if found.address is None:
        subject.not_checked(catalogue.INLINED, "its address is not known", where)
        return
    try:
        unit = units.at(found.address, "" if patched.object == VMLINUX else found.section)
        if unit is None:
            why = "its debug information is not at hand"
            subject.not_checked(catalogue.INLINED, why, where)
            return
        every = copies(unit, function.old, found.address)
    except KlpError as error:
        subject.not_checked(catalogue.INLINED, error.problems[0].what, where)
        return
    left = [c for c in every if not _replaced(kernel, patched, function, c)]
    if left:
        callers = list(dict.fromkeys(f"{c.holder}() ({c.call})" for c in left))
        more = len(callers) - _NAMED_MAX
        listed = ", ".join(callers[:_NAMED_MAX]) + (f" and {more} more" if more > 0 else "")
        names = ", ".join(dict.fromkeys(c.holder for c in left))
        what = f"{function.old}() is inlined into {listed}, where the old code stays"
        subject.find(catalogue.INLINED, what, where, callers=names)


def _replaced(kernel: KernelSide, patched: Patched, inlined: PatchedFunction, copy: Copy) -> bool:
    """Tell whether the livepatch replaces the holder of a copy, or nobody runs it after boot.

    What is compiled from the kernel's source has nothing of a function that a C file replaces.
    """
    by_hand = not _OF_SOURCE.search(inlined.new)
    for function in patched.functions or ():
        if function.old.split(".")[0] != copy.holder:
            continue
        if by_hand and _OF_SOURCE.search(function.new):
            continue
        found = kernel.old_function(patched.object, function)
        if copy.address is None or (found is not None and found.address == copy.address):
            return True
    if kernel.database is None:
        return False
    same = kernel.database.in_object(patched.object, copy.holder)
    here = [c for c in same if copy.address is None or c.address == copy.address]
    return bool(here) and all(c.init for c in here)
