"""Define the record that every architecture has, and the class of its instructions.

Entry calls, flags and relocation numbers are the kernel's (arch/*/Makefile,
arch/*/kernel/module*.c).
"""

from __future__ import annotations

import platform
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import ClassVar, Literal, NamedTuple

from klpbuild.errors import KlpError


class Part(Enum):
    """The part of an address that a field holds."""

    ALL = "all"
    PAGE = "its page of 4 KiB"
    LOW = "its place in the page"
    ENTRY = "a table's entry that holds it"


class Field(NamedTuple):
    """The field that a relocation type writes.

    :ivar size: in bytes.
    :ivar relative: whether the field's own place is subtracted.
    :ivar signed: whether a short field is extended by its sign.
    :ivar behind: how far behind the field lies what code counts from.
    :ivar scale: what its number is multiplied by.
    :ivar bits: first bit and width of its pieces, the low ones first; none for all bytes.
    """

    size: int
    relative: bool
    signed: bool
    behind: int = 0
    scale: int = 1
    bits: tuple[tuple[int, int], ...] = ()
    part: Part = Part.ALL

    def value(self, data: bytes | memoryview, order: Literal["little", "big"]) -> int:
        """Read the number that the field holds."""
        whole = int.from_bytes(data, order)
        number, width = (0, 0) if self.bits else (whole, self.size * 8)
        for first, length in self.bits:
            number |= (whole >> first & (1 << length) - 1) << width
            width += length
        if self.signed:
            number -= (number >> width - 1) << width
        return number * self.scale

    def mask(self, order: Literal["little", "big"]) -> bytes:
        """Make bytes in which the bits of the field are set."""
        bits = sum(((1 << length) - 1) << first for first, length in self.bits)
        return bits.to_bytes(self.size, order) if self.bits else b"\xff" * self.size


@dataclass(frozen=True)
class Branch:
    """A direct jump or call.

    :ivar start: offset of the instruction.
    :ivar end: offset behind it.
    :ivar target: offset that it goes to, before relocation.
    :ivar is_short: whether no relocation may lead it to another section.
    """

    start: int
    end: int
    target: int
    is_short: bool = False

    @property
    def field(self) -> int:
        """Offset of the 4 bytes with its displacement, of a branch that is not short."""
        return self.end - 4


class Instructions(ABC):
    """Decoder of an architecture's instructions, for extraction and the choice of gates.

    :cvar relative: the relocation type of a 32-bit field that counts from its own place.
    :cvar branch: that of a direct branch.
    :cvar branch_types: those that only direct branches have.
    :cvar counted: those that code counts from another place than the field.
    :cvar behind: how far behind the field that is.
    :cvar to_end: whether it is where the instruction ends, which may be farther.
    :cvar based: those of addresses to which code adds an index, so that they may lie beside
        what is meant.
    :cvar landing: instructions one of which begins each function that may be called by its
        address, if the processor wants that.
    :cvar landing_note: the type of the property whose lowest bit says that it does
        (``.note.gnu.property``); None where it always may.
    :cvar return_thunk: the function that returns jump to, if the compiler makes them do so.
    :cvar has_objtool: whether the kernel's objtool reads its code.
    :cvar leaves: mnemonics of instructions behind which code does not go on.
    :cvar registers: whether it is known which registers its instructions read and write.
    """

    relative: ClassVar[int]
    branch: ClassVar[int]
    branch_types: ClassVar[frozenset[int]]
    counted: ClassVar[frozenset[int]]
    behind: ClassVar[int]
    to_end: ClassVar[bool] = False
    based: ClassVar[frozenset[int]]
    landing: ClassVar[tuple[bytes, ...]] = ()
    landing_note: ClassVar[int | None] = None
    return_thunk: ClassVar[str] = ""
    has_objtool: ClassVar[bool] = False
    leaves: ClassVar[frozenset[str]] = frozenset()
    registers: ClassVar[bool] = False

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
    def aim(self, step: tuple[int, int, str, str], code: bytes) -> int | None:
        """Compute the offset that a decoded instruction without relocation names."""

    @abstractmethod
    def leading(self, code: bytes, start: int, place: int) -> list[int]:
        """Find the offsets in linked code of all that may lead to a function.

        Short branches, which the assembler makes inside of one object, are left out.

        :param start: the code's address.
        :param place: the function's address.
        """

    def without_aim(self, code: bytes) -> bytes:
        """Take the displacement out of a direct branch that is not short."""
        return code[:-4] + bytes(4)

    def is_memory_operand(self, code: bytes, field: int) -> bool:
        """Tell whether the field at an offset is surely the address of memory that is accessed."""
        return False

    def as_load(self, code: bytes, field: int) -> bytes | None:
        """Make a load from memory of the instruction with a 64-bit constant at an offset.

        :returns: an instruction of the same length; None for one that has no such constant.
        """
        return None

    def returns(self, code: bytes, thunks: frozenset[int], calls_out: frozenset[int]) -> bool:
        """Tell whether a function may return to its caller; only objtool wants to know.

        :param thunks: offsets of displacements that lead to `return_thunk`.
        :param calls_out: offsets of displacements that lead to other functions which return.
        """
        return True

    def is_beside(self, type: int, operands: str, at_end: bool) -> bool:
        """Tell whether a field may be the address of a place before what is meant.

        :param at_end: whether the field is the last of its instruction.
        """
        return type in self.based

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


_NO_PATCHES = "Source patches are built for x86-64, s390x and arm64 only."


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
    :ivar relocated: relocation type by which a linked kernel that moves holds its own addresses;
        None where it holds them itself.
    :ivar none: relocation type that does nothing.
    :ivar takes_none: whether the module loader knows it.
    :ivar fields: what each relocation type writes; empty where this is not known, and
        code cannot be extracted from patches.
    :ivar instructions: its instructions; None where they are not known: then source patches are
        refused, and a relocation's gate is not found by who runs its code.
    :ivar section_flags: compiler flags of its own for functions and variables in sections of
        their own: each variable is to be reached by its own address, wherever it is.
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
    relocated: int | None = None
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
    section_flags: tuple[str, ...] = ()
    qemu: Qemu | None = None

    @property
    def order(self) -> Literal["little", "big"]:
        """The byte order of its objects."""
        return "big" if self.big_endian else "little"

    def decoded(self, where: str) -> Instructions:
        """Return the instructions; refuse an architecture without a decoder.

        :param where: the object or kernel that is in question.
        :raises KlpError: where they are not known.
        """
        if self.instructions is None:
            raise KlpError(
                f"is for {self.name}",
                where=where,
                why=_NO_PATCHES,
                hint="Write the livepatch by hand: that works on every architecture.",
            )
        return self.instructions

    @property
    def is_native(self) -> bool:
        """Whether this computer has this architecture."""
        return platform.machine() in (self.name, self.rpm_name)


#: Tables of entry calls: of gcc's and the kernel's own making.
PATCHABLE = ("__patchable_function_entries",)
MCOUNT = ("__mcount_loc",)
