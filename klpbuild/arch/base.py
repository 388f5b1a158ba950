"""Define the record that every architecture has, and the class of its instructions.

Entry calls, flags and relocation numbers are the kernel's (arch/*/Makefile,
arch/*/kernel/module*.c).
"""

from __future__ import annotations

import platform
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

from klpbuild.errors import KlpError


class Field(NamedTuple):
    """The field that a relocation type writes.

    :ivar size: in bytes.
    :ivar relative: whether the field's own place is subtracted.
    :ivar signed: whether a short field is extended by its sign.
    """

    size: int
    relative: bool
    signed: bool


@dataclass(frozen=True)
class Branch:
    """A direct jump or call.

    :ivar start: offset of the instruction.
    :ivar end: offset behind it.
    :ivar target: offset that it goes to, before relocation.
    :ivar is_call: whether it is a call.
    """

    start: int
    end: int
    target: int
    is_call: bool

    @property
    def field(self) -> int:
        """Offset of its displacement, which is 1 byte wide in a short jump, else 4."""
        return self.end - (1 if self.is_short else 4)

    @property
    def is_short(self) -> bool:
        return self.end - self.start == 2


class Instructions(ABC):
    """Decoder of an architecture's instructions, for extraction and the choice of gates.

    :cvar relative: the relocation type of a 32-bit field that counts from its own place.
    :cvar branch: that of a direct branch.
    :cvar signed: that of a 32-bit address that is extended by its sign.
    :cvar return_thunk: the function that returns jump to, if the compiler makes them do so.
    """

    relative: ClassVar[int]
    branch: ClassVar[int]
    signed: ClassVar[int]
    return_thunk: ClassVar[str]

    @property
    def counted(self) -> frozenset[int]:
        """The relocation types whose fields count from where the instruction ends."""
        return frozenset((self.relative, self.branch))

    @abstractmethod
    def decode(self, code: bytes) -> Iterator[tuple[int, int, str, str]]:
        """Decode offset, length, mnemonic and operands of each instruction."""

    @abstractmethod
    def branches(self, code: bytes) -> list[Branch]:
        """Find the direct jumps and calls in a piece of code, in order."""

    @abstractmethod
    def is_branch_field(self, code: bytes | memoryview, offset: int) -> bool:
        """Tell whether the field at an offset is the displacement of a direct branch."""

    @abstractmethod
    def is_call_field(self, code: bytes, offset: int) -> bool:
        """Tell whether the field at an offset is the displacement of a direct call."""

    @abstractmethod
    def is_memory_operand(self, code: bytes, field: int) -> bool:
        """Tell whether the field at an offset is the address of memory that is accessed."""

    @abstractmethod
    def as_load(self, code: bytes, field: int) -> bytes | None:
        """Make a load from memory of the instruction with a 64-bit constant at an offset.

        :returns: an instruction of the same length; None for one that has no such constant.
        """

    @abstractmethod
    def returns(self, code: bytes, thunks: frozenset[int], calls_out: frozenset[int]) -> bool:
        """Tell whether a function may return to its caller.

        :param thunks: offsets of displacements that lead to `return_thunk`.
        :param calls_out: offsets of displacements that lead to other functions which return.
        """

    def at(self, code: bytes, field: int) -> tuple[str, str]:
        """Decode mnemonic and operands of the instruction that has a field at an offset."""
        for offset, size, mnemonic, operands in self.decode(code):
            if offset <= field < offset + size:
                return mnemonic, operands
        return "", ""


@dataclass(frozen=True)
class Qemu:
    """How QEMU runs a kernel of the architecture, and the guest's devices.

    :ivar program: QEMU's program.
    :ivar package: the Debian package that holds it.
    :ivar emulated_cpu: ``-cpu`` under emulation.
    :ivar devices: options for a machine without devices other than serial ports.
    :ivar console: the kernel's name of the first serial port, for its log.
    :ivar channel: the guest's device file for the results.
    :ivar parameters: kernel parameters that only this architecture needs.
    :ivar results: options that connect QEMU's character device ``results`` with that file; a
        second serial port where the machine has two.
    """

    program: str
    package: str
    emulated_cpu: str
    devices: tuple[str, ...]
    console: str
    channel: str
    parameters: tuple[str, ...] = ()
    results: tuple[str, ...] = ("-serial", "chardev:results")


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
    :ivar takes_none: whether the module loader knows it.
    :ivar fields: what each relocation type writes; empty where this is not known, and
        code cannot be extracted from patches.
    :ivar instructions: its instructions; None where they are not known: then source patches are
        refused, and a relocation's gate is not found by who runs its code.
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
    takes_none: bool = True
    entry_opcode: int | None = None
    #: A landing pad, a TOC set-up or a moved link register may come first.
    entry_offsets: frozenset[int] = frozenset({0, 4, 8, 12, 16})
    entry_farthest: int = 16
    entry_before: int = 0
    fields: Mapping[int, Field] = field(default_factory=dict, hash=False)
    #: Left out of the text, by which descriptions of packages are compared.
    instructions: Instructions | None = field(default=None, repr=False)
    qemu: Qemu | None = None

    def decoded(self, where: str) -> Instructions:
        """Return the instructions; refuse an architecture without a decoder.

        :param where: the object that is in question.
        :raises KlpError: where they are not known.
        """
        if self.instructions is None:
            raise KlpError(
                "is not an x86-64 object",
                where=where,
                why="Source patches are built for x86-64 only.",
                hint="Write the livepatch by hand: that works on every architecture.",
            )
        return self.instructions

    def check_patches(self, kernel: str) -> None:
        """Refuse to build source patches for an architecture without a decoder.

        :param kernel: the kernel that they are for.
        :raises KlpError: where its instructions are not known.
        """
        if self.instructions is None:
            raise KlpError(
                f"source patches are built for x86-64 kernels, and this one is for {self.name}",
                where=kernel,
                hint="Write the livepatch by hand: that works on every architecture.",
            )

    @property
    def is_native(self) -> bool:
        """Whether this computer has this architecture."""
        return platform.machine() in (self.name, self.rpm_name)


#: Tables of entry calls: of gcc's and the kernel's own making.
PATCHABLE = ("__patchable_function_entries",)
MCOUNT = ("__mcount_loc",)
