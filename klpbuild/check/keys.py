"""Check static keys, which ``__jump_table`` entries depend on (include/linux/jump_label.h)."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from klpbuild.check import catalogue
from klpbuild.check.entries import Target, called
from klpbuild.check.rule import Needs
from klpbuild.check.subject import Subject
from klpbuild.elf.constants import EM, SHF, SHT

#: struct static_key: ``atomic_t enabled`` and, 8 bytes behind, a pointer with bits; it begins so.
_SIZE = 16
_FALSE = bytes(_SIZE)
_TRUE = {
    "<": struct.pack("<ixxxxq", 1, 1),
    ">": struct.pack(">ixxxxq", 1, 1),
}
#: Low bits of an entry's key: whether the branch is the likely one, and objtool's mark of a nop.
_BRANCH, _NOP = 1, 2
_FLAGS = 3
#: First kernel in which objtool makes the nops.
_OBJTOOL = (5, 14)
#: struct tracepoint has its key behind the name.
_TRACEPOINT, _IN_TRACEPOINT = "__tracepoint_", 8
#: Without a kernel: no array of keys is as long.
_FAR = 1 << 16


@dataclass(frozen=True)
class Keys:
    """The static keys that a module uses."""

    subject: Subject

    def faults(self, target: Target, jump: bool) -> Iterator[str]:
        """Find what is wrong with an entry's key.

        :param target: what the entry holds: the key with two bits.
        :param jump: whether a jump stands in the code, or a nop.
        """
        flags = target.offset & _FLAGS
        key = Target(
            target.section, target.offset - flags, target.symbol, target.owner, target.sympos
        )
        version = self.subject.version
        marked = self.subject.elf.e_machine == EM.X86_64
        marked &= version is None or version >= _OBJTOOL
        if marked and bool(flags & _NOP) == jump:
            yield f"is marked as a {'nop' if jump else 'jump'}"
            return
        if not self._is_key(key):
            yield f"leads to {called(self.subject, key)}, where no static key is"
            return
        first = self._begins_true(key)
        if first is not None and jump != first ^ bool(flags & _BRANCH):
            yield f"is for a key that begins in the other state than {called(self.subject, key)}"

    def _is_key(self, key: Target) -> bool:
        if not key.section:
            return self._is_foreign_key(key)
        section = self.subject.elf.sections[key.section]
        start, size = self.subject.pointers.variable_at(key.place)
        if section.sh_flags & (SHF.ALLOC | SHF.EXECINSTR) != SHF.ALLOC or key.offset % 8:
            return False
        if (self.subject.offsets.get(key.section, 0) + key.offset) & _FLAGS:
            return False
        known = size or self.subject.pointers.has_locals
        outside = key.offset - start + _SIZE > size or (size == _SIZE and key.offset != start)
        if known and outside:
            return False
        return self._contents(key) in (_FALSE, self._true)

    @property
    def _true(self) -> bytes:
        return _TRUE[self.subject.elf.order]

    def _contents(self, key: Target) -> bytes:
        """Read a key of the module as it begins."""
        section = self.subject.elf.sections[key.section]
        if section.sh_type == SHT.NOBITS:
            return _FALSE
        data = bytes(self.subject.elf.contents(section)[key.offset : key.offset + _SIZE])
        rows = self.subject.applied.get(key.section, {})
        return b"" if any(key.offset + n in rows for n in range(_SIZE)) else data

    def _is_foreign_key(self, key: Target) -> bool:
        begins = key.offset % _SIZE == 0
        if not key.symbol:
            return False  # an address without relocation
        if key.symbol.startswith(_TRACEPOINT):
            return key.offset == _IN_TRACEPOINT
        kernel = self.subject.kernel
        address = kernel.address_of(key.symbol, key.owner, key.sympos) if kernel else None
        if kernel is None or address is None:
            return begins and 0 <= key.offset < _FAR
        extent = kernel.extent(key.symbol, key.owner, key.sympos)
        if key.offset < 0 or key.offset + _SIZE > extent:
            return False
        if kernel.vmlinux is None or not kernel.vmlinux.static_keys:
            self.subject.not_checked(catalogue.KEY, Needs.CODE.missing, called(self.subject, key))
            return begins
        # Modules alone may use a key, or one of an array; then it is exported.
        exported = kernel.exports.find(key.symbol) is not None and begins
        data = kernel.vmlinux.read(address + key.offset, _SIZE)
        known = address + key.offset in kernel.vmlinux.static_keys
        return known or (exported and data in (_FALSE, self._true))

    def _begins_true(self, key: Target) -> bool | None:
        if key.section:
            return self._contents(key) == self._true
        kernel = self.subject.kernel
        if kernel is None or kernel.vmlinux is None:
            return None
        address = kernel.address_of(key.symbol, key.owner, key.sympos)
        if address is None:
            return None
        return kernel.vmlinux.static_keys.get(address + key.offset)
