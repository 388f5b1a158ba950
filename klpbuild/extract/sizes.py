"""Measure the entries of the kernel's special tables by compiling a probe against its headers."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from klpbuild.elf.reader import ElfFile
from klpbuild.errors import KlpError

_PREFIX = "klpbuild_size_"

#: C to compile with the kernel's own flags; `EntrySizes.from_probe` reads the object.
#: What a kernel does not have is left out.
PROBE = """\
#include <linux/version.h>
#include <linux/kconfig.h>
#include <linux/module.h>
#define SIZE(name, value) const unsigned int klpbuild_size_##name = (value)
SIZE(pointer, sizeof(void *));
#if __has_include(<asm/alternative.h>)
#include <asm/alternative.h>
#if defined(CONFIG_X86)
SIZE(alt_instr, sizeof(struct alt_instr));
SIZE(alt_replacement_length, __builtin_offsetof(struct alt_instr, replacementlen));
#elif defined(CONFIG_S390)
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 1, 0)
SIZE(alt_instr, sizeof(struct alt_instr));
SIZE(alt_replacement_length, __builtin_offsetof(struct alt_instr, instrlen));
#endif
#elif defined(CONFIG_ARM64)
SIZE(alt_instr, sizeof(struct alt_instr));
SIZE(alt_replacement_length, __builtin_offsetof(struct alt_instr, alt_len));
#endif
#endif
#if defined(CONFIG_GENERIC_BUG) && __has_include(<linux/bug.h>)
#include <linux/bug.h>
SIZE(bug_entry, sizeof(struct bug_entry));
#ifdef CONFIG_DEBUG_BUGVERBOSE
SIZE(bug_line, __builtin_offsetof(struct bug_entry, line));
#endif
#endif
#if __has_include(<asm/extable.h>) && __has_include(<linux/sched.h>)
#include <linux/sched.h>
#include <asm/extable.h>
SIZE(exception_table_entry, sizeof(struct exception_table_entry));
#endif
#if defined(CONFIG_JUMP_LABEL) && __has_include(<linux/jump_label.h>)
#include <linux/jump_label.h>
SIZE(jump_entry, sizeof(struct jump_entry));
SIZE(static_key, sizeof(struct static_key));
SIZE(jump_key, __builtin_offsetof(struct jump_entry, key));
#endif
#if defined(CONFIG_PARAVIRT) && __has_include(<asm/paravirt_types.h>)
#include <asm/paravirt_types.h>
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 8, 0)
SIZE(paravirt_patch_site, sizeof(struct paravirt_patch_site));
#endif
#endif
"""


@dataclass(frozen=True)
class EntrySizes:
    """Sizes and offsets in bytes; None where the kernel has no such table.

    :ivar alt_instr: an entry of ``.altinstructions``.
    :ivar alt_replacement_length: offset in it of the byte with the replacement's length.
    :ivar bug_entry: an entry of ``__bug_table``.
    :ivar bug_line: offset in it of the 16-bit line number.
    :ivar exception_table_entry: an entry of ``__ex_table``.
    :ivar jump_entry: an entry of ``__jump_table``.
    :ivar jump_key: offset in it of the key.
    :ivar static_key: a ``struct static_key``.
    :ivar paravirt_patch_site: an entry of ``.parainstructions``; none since v6.8.
    """

    alt_instr: int | None = None
    alt_replacement_length: int | None = None
    bug_entry: int | None = None
    bug_line: int | None = None
    exception_table_entry: int | None = None
    jump_entry: int | None = None
    jump_key: int | None = None
    static_key: int | None = None
    paravirt_patch_site: int | None = None

    @classmethod
    def from_probe(cls, probe: ElfFile) -> EntrySizes:
        """Read the sizes from `PROBE`, compiled with the flags of the kernel.

        :param probe: the object file.
        :raises KlpError: when it is not the probe.
        """
        found: dict[str, int] = {}
        for symbol in probe.symbol_list:
            if symbol.name.startswith(_PREFIX) and symbol.is_defined:
                data = probe.contents(probe.sections[symbol.st_shndx])
                value = bytes(data[symbol.st_value : symbol.st_value + 4])
                size = np.frombuffer(value, probe.order + "u4")[0]
                found[symbol.name.removeprefix(_PREFIX)] = int(size)
        known = {field.name for field in fields(cls)}
        if not found:
            raise KlpError("does not hold the sizes of the kernel's tables", where=probe.name)
        return cls(**{name: size for name, size in found.items() if name in known})
