"""4xx: livepatch relocations, and the places that relocations change."""

from __future__ import annotations

from klpbuild.check.catalogue.words import (
    ARM64,
    DAMAGED,
    KEPT_WHOLE,
    MODELLED,
    PPC64,
    REBUILD,
    S390,
    X86_64,
    says,
)
from klpbuild.check.rule import Effect, Needs, Rule, Severity, Wording

# fmt: off
SECTION_FORMAT = Rule(
    "KLP401", "a livepatch section has an unreadable name",
    "klp_apply_section_relocs() reads .klp.rela.%55[^.].",
    "Name it .klp.rela.<object>.<section>; an object's name has 1 to 55 bytes and no dot.",
    says("section {section} has an incorrectly formatted name"),
)
NOT_LIVEPATCH_SYMBOL = Rule(
    "KLP402", "a livepatch relocation names a symbol that is not SHN_LIVEPATCH",
    "klp_resolve_symbols() takes symbols with st_shndx 0xff20 only.", DAMAGED,
    (Wording("symbol {symbol} is not marked as a livepatch symbol"),
     Wording("symbol {symbol} at rela sec", (6, 19))),
)
SYMBOL_FORMAT = Rule(
    "KLP403", "a livepatch symbol has an unreadable name",
    "klp_resolve_symbols() reads .klp.sym.%55[^.].%511[^,],%lu; before 6.1 %127[^,].",
    "Name it .klp.sym.<object>.<symbol>,<position>.",
    says("symbol {symbol} has an incorrectly formatted name"),
)
VMLINUX_IN_MODULE = Rule(
    "KLP404", "a module's livepatch section refers to a vmlinux symbol",
    "Linux 5.8 applies relocations to vmlinux symbols early, and refuses late ones.",
    "Put the relocation into .klp.rela.vmlinux.<section>.",
    says("invalid access to vmlinux symbol '{symbol}' from module-specific livepatch relocation"
     " section"
     ),
    effect=Effect.LATE, since=(5, 8),
)
SYMBOL_NOT_FOUND = Rule(
    "KLP405", "a livepatch symbol does not exist",
    "klp_find_object_symbol() looks it up among the owner's symbols.",
    "Look for a renamed or inlined function: `grep NAME symbols.klp`.",
    says("symbol '{symbol}' not found in symbol table"), needs=Needs.SYMBOLS,
)
AMBIGUOUS = Rule(
    "KLP406", "a livepatch symbol is not unique",
    "Position 0 says that it is unique; klp_find_object_symbol() refuses to guess.",
    "Write its position, 1 to {count}.",
    says("unresolvable ambiguity for symbol '{symbol}' in object '{object}'"),
    needs=Needs.SYMBOLS,
)
NO_POSITION = Rule(
    "KLP407", "a livepatch symbol's position does not exist",
    "The owner has fewer symbols of that name.",
    "Write a position from 1 to {count}; 0 if the name is unique.",
    says("symbol position {position} for symbol '{symbol}' in object '{object}' not found"),
    needs=Needs.SYMBOLS,
)
MODULE_IN_VMLINUX = Rule(
    "KLP408", "a vmlinux livepatch section refers to a module's symbol",
    "It is resolved when the livepatch loads, and fails unless the module is there already.",
    "Put the relocation into .klp.rela.{owner}.<section>.",
    says("symbol '{symbol}' not found in symbol table"),
)
FLAG_LOST = Rule(
    "KLP409", "a livepatch section lost its flag",
    "Without SHF_RELA_LIVEPATCH its relocations are applied to address 0: a call crashes.",
    DAMAGED, effect=Effect.ACCEPTED,
)
ORDINARY_USE = Rule(
    "KLP410", "an ordinary relocation names a livepatch symbol",
    "The module loader skips SHN_LIVEPATCH symbols: the address stays 0, and a use crashes.",
    "Move the relocation to a livepatch section.", effect=Effect.ACCEPTED,
)
UNALLOCATED = Rule(
    "KLP411", "a livepatch section is not SHF_ALLOC",
    "It is gone when its object loads: the kernel reads freed memory.", DAMAGED,
    effect=Effect.ACCEPTED,
)
TARGET_UNALLOCATED = Rule(
    "KLP412", "livepatch relocations for a section that is not in memory",
    "Those for vmlinux are skipped; those for a module are written to freed memory.",
    "Leave relocations of debug information out.", effect=Effect.ACCEPTED,
)
TARGET_FREED = Rule(
    "KLP413", "a module's livepatch relocations for code that runs only once",
    "The livepatch's .init sections are freed before the module loads.",
    "Do not refer to symbols of modules in the livepatch's __init functions.",
    effect=Effect.ACCEPTED,
)
NONZERO = Rule(
    "KLP414", "a relocation's place is not zero",
    "apply_relocate_add() of x86 refuses to write over anything but zeros.",
    "Clear the place; two relocations for one place are one too many.",
    (Wording("x86/modules: Skipping invalid relocation target, existing value is nonzero"
     " for type {type}"
     ),
     Wording("x86/modules: Invalid relocation target, existing value is nonzero for", (6, 3)),
     ), only=X86_64,
)
UNKNOWN_TYPE = Rule(
    "KLP415", "a relocation type that the kernel does not know",
    "x86 knows NONE, 64, PC32, PLT32, 32, 32S and PC64; ppc64le does not know NONE.",
    "Compile with the kernel's flags, such as -fno-pic -mcmodel=kernel.",
    (Wording("{module}: Unknown rela relocation: {type}", machines=X86_64),
     Wording("{module}: Unknown ADD relocation: {type}", machines=PPC64),
     Wording("module {module}: unknown relocation: {type}", machines=S390),
     Wording("module {module}: unsupported RELA relocation: {type}", machines=ARM64),
     ), machines=MODELLED,
)
OVERFLOW = Rule(
    "KLP416", "an address does not fit into its relocation",
    "Modules and the kernel are in the upper 2 GiB: R_X86_64_32 cannot hold such an address;"
     " R_X86_64_PC32 and PLT32 reach no others, and the kernel does not check those. Branches of"
     " other machines count in steps of 2 or 4 bytes.",
    "Compile with the kernel's flags: -mcmodel=kernel.",
    (Wording("overflow in relocation type {type} val", machines=X86_64 | ARM64),
     Wording("module {module}: relocation error for symbol {symbol} (r_type {type}, value",
             machines=S390),
     Wording("{module}: REL24", machines=PPC64),
     ), machines=MODELLED,
)
REL = Rule(
    "KLP417", "relocations without addends", "Livepatch works with SHT_RELA only.",
    "Compile with the kernel's flags.", says("module {module}: REL relocation unsupported"),
)
GATE_WITHOUT_OBJECT = Rule(
    "KLP418", "livepatch relocations for an object that the livepatch does not patch",
    "The kernel applies them with that klp_object; without one the addresses stay 0.",
    "Give the section the name of an object that is patched, or patch {object}.",
    effect=Effect.ACCEPTED,
)
LATE_SPECIAL = Rule(
    "KLP419", "a table that the kernel reads at once has a module's livepatch relocations",
    "Jump labels, static calls and alternatives are read when the livepatch loads.",
    "Use the key's plain functions (static_key_enabled()) in the patched function.",
    effect=Effect.ACCEPTED,
)
FREED_SYMBOL = Rule(
    "KLP420", "refers to memory that is freed after boot", "The symbol is in an .init section.",
    "Do not use __init functions and data.", severity=Severity.WARNING, effect=Effect.ACCEPTED,
    needs=Needs.SYMBOLS,
)
ARCH_SECTION = Rule(
    "KLP421", "a .klp.arch section is ignored",
    "Linux 5.8 removed them and applies vmlinux relocations before alternatives.",
    "Use the ordinary section.", severity=Severity.WARNING, effect=Effect.ACCEPTED, since=(5, 8),
)
SITE = Rule(
    "KLP422", "a table of places in the code leads elsewhere",
    "The kernel changes the code at these places as it loads the module,"
    " or goes there after a fault.",
    KEPT_WHOLE, effect=Effect.UNFORESEEN, machines=MODELLED,
)
INSIDE = Rule(
    "KLP423", "a call or a pointer leads into the middle of a function",
    "A call's relocation has one addend on each machine, on x86 -4; another one leads elsewhere.",
    REBUILD, effect=Effect.UNFORESEEN, machines=MODELLED,
)
KEY = Rule(
    "KLP424", "an entry of a table has no key, or a wrong one",
    "The kernel writes to the static key or static call that a jump or call belongs to,"
    " and changes the code when that changes.",
    KEPT_WHOLE, effect=Effect.UNFORESEEN, machines=MODELLED,
)
UNLISTED = Rule(
    "KLP425", "an instruction is in no table",
    "The kernel looks it up as it loads the module or when it is run: a trap (ud2 of x86, mc of"
    " s390, brk of arm64, twi of ppc64le) that __bug_table does not have is an invalid one.",
    KEPT_WHOLE, effect=Effect.UNFORESEEN, machines=MODELLED,
)
NO_EFFECT = Rule(
    "KLP426", "something in a table has no effect",
    "The kernel passes over it, or writes over it.", REBUILD, severity=Severity.WARNING,
    effect=Effect.ACCEPTED,
)
MISFIT = Rule(
    "KLP427", "a relocation does not fit its instruction",
    "The module loader writes where r_offset says, what r_type says: it does not look at code.",
    f"{DAMAGED}\nDeclare variables with the kernel's types, per-CPU ones by DECLARE_PER_CPU(), and"
    " write none that the kernel only reads.",
    effect=Effect.UNFORESEEN, machines=MODELLED,
)
UNWIND = Rule(
    "KLP428", "unwind data do not follow the code",
    "Transitions end when the stacks of all tasks are known to be free of old functions:"
    " ORC data say where the stack is at each instruction.",
    "Let the kernel's objtool process the objects; strip and objcopy must not touch the module.",
    effect=Effect.ACCEPTED, only=X86_64,
)
OWNER_ABSENT = Rule(
    "KLP430", "a livepatch symbol's owner need not be loaded when it is looked up",
    "klp_find_object_symbol() finds symbols of loaded modules only, and a module is loaded without"
    " those that it does not depend on.",
    "Use what {gate} depends on. What is exported with EXPORT_SYMBOL_GPL can be asked for while"
    " running: symbol_get().",
    says("symbol '{symbol}' not found in symbol table"), effect=Effect.LATE, needs=Needs.HEADERS,
)
EARLY_CODE = Rule(
    "KLP431", "code runs before the object loads for which its relocations wait",
    "A relocation of .klp.rela.<object> is applied when the object loads. Until then its place"
    " holds zeros: a call goes to the next instruction, a pointer is NULL.",
    "Use it only in functions and callbacks of {gate}, or of what depends on {gate}.",
    effect=Effect.ACCEPTED, machines=MODELLED,
)
NO_NOP = Rule(
    "KLP432", "a call to another object has no nop behind it",
    "ppc64le puts an instruction there that restores the pointer to the TOC: restore_r2().",
    "Declare what is called as extern: the compiler leaves the nop.",
    says("{module}: Expected nop after call, got {found}"), only=PPC64,
)
NOT_FILLED = Rule(
    "KLP433", "a section that the module loader fills is missing",
    "It puts code into .stubs or .plt, for calls that are too far for the instruction.",
    "Link the module with the kernel's scripts/module.lds.",
    (Wording("{module}: doesn't contain .stubs.", machines=PPC64),
     Wording("{module}: module PLT section(s) missing", machines=ARM64),
     ), after="KLP299", only=PPC64 | ARM64,
)
KEEPS_ADDRESS = Rule(
    "KLP434", "addresses of a module stay when it goes and comes again",
    "s390x keeps them in a GOT and in stubs, and writes each once: apply_rela(). Loaded again at"
    " another address, the module is not where the livepatch looks for it.",
    "Clear got_initialized and plt_initialized in a post_unpatch callback; `klpbuild` generates"
    " one.", severity=Severity.WARNING, effect=Effect.ACCEPTED, only=S390,
)
# fmt: on
