"""Classify the sections of a kernel object by name and flags."""

from __future__ import annotations

import re
from enum import Enum

from klpbuild.elf.constants import SHF, SHT
from klpbuild.elf.reader import ElfFile, Section
from klpbuild.extract.names import is_limit, is_made_by_compiler, is_named_by_macro
from klpbuild.extract.sizes import EntrySizes


class SectionKind(Enum):
    """How extraction treats a section.

    CODE and DATA are cut into atoms.  LITERALS are strings and constants, used by
    content.  A TABLE has entries that belong to functions.  METADATA is read by the
    build, the boot or the module loader only, so that a livepatch cannot change what
    it did.  DROPPED says nothing about behaviour.
    """

    CODE = "code"
    DATA = "data"
    LITERALS = "literals"
    TABLE = "table"
    METADATA = "metadata"
    DROPPED = "dropped"


class Memory(Enum):
    """Kind of a variable's memory: how it is protected, and how code reaches it."""

    ORDINARY = "written"
    PER_CPU = "one for each processor"
    AFTER_INIT = "read only once the kernel or the module has started"
    READ_ONLY = "read only"


#: Tables with the field of `EntrySizes` that holds their entry size, or the size itself.
_TABLES: dict[str, str | int] = {
    ".altinstructions": "alt_instr",
    "__bug_table": "bug_entry",
    "__ex_table": "exception_table_entry",
    "__jump_table": "jump_entry",
    ".parainstructions": "paravirt_patch_site",
    ".smp_locks": 4,
    ".kcfi_traps": 4,
    # Where the kernel takes expolines out that it does not need (arch/s390/kernel/nospec-branch.c).
    ".s390_indirect_branches": 4,
    ".s390_indirect_call": 4,
    ".s390_indirect_jump": 4,
    ".s390_return_mem": 4,
    ".s390_return_reg": 4,
    "__mcount_loc": 8,
    "__patchable_function_entries": 8,
}

#: Places in code where the kernel writes a constant at boot, in vmlinux only
#: (include/asm-generic/vmlinux.lds.h, RUNTIME_CONST); the rest of the name is a variable.
RUNTIME_POINTER = "runtime_ptr_"
RUNTIME = (RUNTIME_POINTER, "runtime_shift_", "runtime_mask_")

#: objtool writes these (tools/objtool/check.c and orc_gen.c), and does it again for the result.
OBJTOOL_TABLES = frozenset(
    {
        ".orc_unwind",
        ".orc_unwind_ip",
        ".retpoline_sites",
        ".return_sites",
        ".call_sites",
        ".ibt_endbr_seal",
        ".static_call_sites",
    }
)

#: Sections of hints for objtool (tools/objtool/check.c), which the linker leaves out.
READ_BY_OBJTOOL = frozenset(
    f".discard.{name}"
    for name in (
        *("addressable", "annotate_data", "annotate_insn", "func_stack_frame_non_standard"),
        *("ibt_endbr_noseal", "ignore_alts", "instr_begin", "instr_end"),
        *("intra_function_calls", "ksym", "noendbr", "nop", "reachable", "retpoline_safe"),
        *("sym", "unreachable", "unwind_hints", "validate_unret"),
    )
)

_METADATA = re.compile(
    r"""
    _{2,3}k(symtab|crctab)|\.export_symbol|\.modinfo$|__param$|__modver$|__obsparm$
    |\.(con_)?initcall|\.exitcall|\.init\.setup|\.init_array|\.ctors
    |_ftrace_e|__tracepoints_ptrs|__bpf_raw_tp_map|__syscalls_metadata|\.printk_index
    |___srcu_struct_ptrs|\.static_call_tramp_key|_error_injection_whitelist|_kprobe_blacklist
    |\.x86_cpu_dev\.init|\.apicdrivers|__\w+_of_table|\.kunit|\.gnu\.
    """,
    re.VERBOSE,
)
#: Which variables a file has, and the functions that tell KASAN when it is loaded and unloaded:
#: without them it does not watch what lies between those of a livepatch.
OF_KASAN = re.compile(r"\.\.LASAN|\._sub_[ID]_\d+_\d+$")
#: Of the labels that its objects keep: beside its tables, one of each function with a frame.
_WATCHED = b".LASAN"
_INIT = re.compile(r"\.(init|head)\.|\.(initcall|con_initcall)|\.x86_cpu_dev")
_EXIT = re.compile(r"\.exit\.|\.exitcall")
#: Where compilers and the kernel's macros put ordinary variables.
_VARIABLES = re.compile(
    r"\.(rodata|data|bss|ref\.data|sdata|sbss)($|[._])|__dyndbg|__tracepoints"
    # Formats of trace_printk(), which the kernel takes over from each module that it loads
    # (kernel/trace/trace_printk.c, module_trace_bprintk_format_notify).
    r"|__trace_printk_fmt$"
)
#: Flags that something was done: a warning once more is what the livepatch's own lead to
#: (include/linux/once_lite.h; ``unlikely`` before v4.14, "..once" since v6.13).
_ONCE = re.compile(r"\.data\.(\.?once|unlikely)$")
_ORDINARY = re.compile(r"\.(data|bss)($|\.)")
#: Of a number or a pointer: a rate limit has more.
_WORD = 8


def kind_of(section: Section) -> SectionKind:
    """Classify a section."""
    name, flags = section.name, section.sh_flags
    if section.sh_type not in (SHT.PROGBITS, SHT.NOBITS) or OF_KASAN.search(name):
        return SectionKind.DROPPED
    if name in _TABLES or name.startswith((".discard.", *RUNTIME)):
        return SectionKind.TABLE
    if name in OBJTOOL_TABLES or not flags & SHF.ALLOC:
        return SectionKind.DROPPED
    if _METADATA.match(name):
        return SectionKind.METADATA
    if flags & SHF.MERGE:
        return SectionKind.LITERALS
    return SectionKind.CODE if flags & SHF.EXECINSTR else SectionKind.DATA


def is_watched(elf: ElfFile) -> bool:
    """Tell whether an object was compiled for KASAN, and keeps its labels."""
    return _WATCHED in elf.strtab


def entry_size(name: str, sizes: EntrySizes) -> int | None:
    """Return the size in bytes of a table's entries.

    None for a table where each entry has one relocation, so that these tell it
    (``.discard.*``), and for one that this kernel does not have.
    """
    if name.startswith(RUNTIME):
        return 4
    field = _TABLES.get(name)
    size = getattr(sizes, field) if isinstance(field, str) else field
    return int(size) if size is not None else None


def is_init(name: str) -> bool:
    """Tell whether the kernel frees the section once it or the module has started."""
    return _INIT.match(name) is not None


def is_exit(name: str) -> bool:
    """Tell whether the section is left out of vmlinux, and run once when a module is removed."""
    return _EXIT.match(name) is not None


def holds_variables(name: str) -> bool:
    """Tell whether the section holds variables, rather than entries that something collects."""
    return _VARIABLES.match(name) is not None


def memory_of(section: Section) -> Memory:
    """Classify the memory of a section of variables."""
    if section.name.startswith(".data..percpu"):
        return Memory.PER_CPU
    if section.name.startswith(".data..ro_after_init"):
        return Memory.AFTER_INIT
    return Memory.ORDINARY if is_writable(section) else Memory.READ_ONLY


def is_writable(section: Section) -> bool:
    """Tell whether anything but the linker and the loader writes to a section."""
    return bool(section.sh_flags & SHF.WRITE) and not section.name.startswith(".data.rel.ro")


def is_special_static(name: str, section: Section, size: int) -> bool:
    """Tell whether it is a static variable of which a livepatch takes its own copy.

    Macros make these, once for each use, under names that tell little: they are known by what
    they are.  Nothing writes them; they are entries of a section of their own, such as a
    descriptor of pr_debug(); flags of WARN_ONCE() and its kin; or rate limits.  Another variable
    of such a name holds state.
    """
    if is_made_by_compiler(name):
        return True
    if not is_named_by_macro(name):
        return False
    if not is_writable(section) or _ONCE.match(section.name) or not _ORDINARY.match(section.name):
        return True
    return is_limit(name) and not 0 < size <= _WORD
