"""What every architecture is asked for: one record each.

Entry calls, flags and relocation numbers are the kernel's (arch/*/Makefile,
arch/*/kernel/module*.c).
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple


class Field(NamedTuple):
    """What a relocation type writes.

    :ivar size: in bytes.
    :ivar relative: whether the field's own place is subtracted.
    :ivar signed: whether a short field is extended by its sign.
    """

    size: int
    relative: bool
    signed: bool


@dataclass(frozen=True)
class Qemu:
    """How QEMU runs a kernel, and how the kernel talks.

    :ivar program: QEMU's program.
    :ivar package: the Debian package that holds it.
    :ivar emulated_cpu: ``-cpu`` under emulation.
    :ivar devices: options for a machine without devices other than serial ports.
    :ivar console: the kernel's name of the first serial port, for its log.
    :ivar channel: the guest's device file of the second serial port, for the results.
    :ivar parameters: kernel parameters that only this architecture needs.
    """

    program: str
    package: str
    emulated_cpu: str
    devices: tuple[str, ...]
    console: str
    channel: str
    parameters: tuple[str, ...] = ()


@dataclass(frozen=True)
class Architecture:
    """An architecture that can be livepatched.

    :ivar name: the compiler's name of it (``x86_64``).
    :ivar kernel_name: ``ARCH=`` of kbuild, the directory under arch/.
    :ivar debian_name: Debian's name of it.
    :ivar rpm_name: rpm's name of it.
    :ivar machine: ``e_machine``.
    :ivar big_endian: byte order of its objects.
    :ivar options: the options that are all on in its kernels' configuration.
    :ivar ftrace_flags: compiler flags that make the entry call of every function.
    :ivar entry_sections: sections that hold one address for each entry call.
    :ivar entry_symbol: the function that the entry calls, empty where it is
        made of no-operation instructions only.
    :ivar entry_opcode: bytes of the entry call's instruction before its relocated field, where
        the compiler records no entries by itself; None where it does.
    :ivar entry_offsets: where the entry call may be, in bytes from the function's start.
    :ivar entry_farthest: how far behind a function's start its entry may be in a linked kernel.
        What is farther belongs to a weak function that was overridden and has no symbol.
    :ivar entry_before: bytes before the function that an entry's address may name instead.
    :ivar absolute_64: relocation type of a 64-bit address.
    :ivar none: relocation type that does nothing.
    :ivar fields: what each relocation type writes; empty where this is not known, and
        code cannot be extracted from patches.
    :ivar qemu: how to boot it; None where this is not known.
    """

    name: str
    kernel_name: str
    debian_name: str
    rpm_name: str
    machine: int
    big_endian: bool
    options: tuple[str, ...]
    ftrace_flags: tuple[str, ...]
    entry_sections: tuple[str, ...]
    entry_symbol: str
    absolute_64: int
    none: int = 0
    entry_opcode: int | None = None
    #: A landing pad, a TOC set-up or a moved link register may come first.
    entry_offsets: frozenset[int] = frozenset({0, 4, 8, 12, 16})
    entry_farthest: int = 16
    entry_before: int = 0
    fields: Mapping[int, Field] = field(default_factory=dict, hash=False)
    qemu: Qemu | None = None

    @property
    def is_native(self) -> bool:
        """Whether this computer is of it."""
        return platform.machine() in (self.name, self.rpm_name)


#: Tables of entry calls: of gcc's and the kernel's own making.
PATCHABLE = ("__patchable_function_entries",)
MCOUNT = ("__mcount_loc",)
