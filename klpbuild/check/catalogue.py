"""Every rule that `klpbuild check` knows, in the order in which the kernel comes to them.

1xx the file, 2xx what it says of itself, 3xx its symbols, 4xx livepatch
relocations, 5xx what it patches, 6xx what works on one day and not on another.
The words are those of kernel/module/, kernel/livepatch/ and arch/x86/kernel/module.c.
"""

from __future__ import annotations

from klpbuild.check.rule import Effect, Needs, Rule, Severity, Wording

_REBUILD = "Build the module again."
_DAMAGED = "Use the module as it was built: strip and objcopy must not touch it."


def _says(*texts: str) -> tuple[Wording, ...]:
    return tuple(Wording(text) for text in texts)


# fmt: off
NOT_ELF = Rule(
    "KLP101", "not an ELF file",
    "elf_validity_check() of the module loader wants ELF's magic number.",
    "Name a .ko file; decompress a .ko.xz, .ko.zst or .ko.gz first.",
    _says("Invalid ELF header magic: != \x7fELF"),
)
NOT_RELOCATABLE = Rule(
    "KLP102", "not a relocatable object", "The module loader links e_type ET_REL only.", _REBUILD,
    _says("Invalid ELF header type: {type} != 1"),
)
WRONG_MACHINE = Rule(
    "KLP103", "for another architecture", "The module loader compares e_machine with its own.",
    "Build the module for the kernel's architecture.",
    _says("Invalid architecture in ELF header: {machine}"),
)
SECTION_HEADERS = Rule(
    "KLP104", "section headers are missing or have a wrong size",
    "e_shoff, e_shnum and e_shentsize must describe a table inside of the file.", _REBUILD,
    _says("Invalid ELF section header"),
)
SECTION_NAMES = Rule(
    "KLP105", "no usable table of section names",
    "e_shstrndx must name a table that ends with a zero byte.", _REBUILD, _says("{said}"),
)
NULL_SECTION = Rule(
    "KLP106", "section 0 is not the null section",
    "The module loader relies on section 0 being empty.", _REBUILD,
    _says("ELF Spec violation: section 0 type({type})!=SH_NULL or non-zero len or addr"),
)
TRUNCATED = Rule(
    "KLP107", "a section lies outside of the file",
    "Every section with contents must lie inside of the file; this one may be truncated.",
    _REBUILD, _says("Invalid ELF section in module (section {section} type {type})"),
)
NO_SYMBOLS = Rule(
    "KLP108", "no symbol table", "The module loader resolves relocations by the symbol table.",
    _DAMAGED, _says("{module}: module has no symbols (stripped?)"),
)
NO_THIS_MODULE = Rule(
    "KLP109", "not a module: it has no .gnu.linkonce.this_module",
    "modpost adds struct module to what is linked to a .ko file.",
    "Link the objects with kbuild; `klpbuild build` does.",
    (Wording("{module}: No module found in object"),
     Wording("module {module}: Exactly one .gnu.linkonce.this_module section must exist.",
     (6, 4)),
     ),
)
BROKEN = Rule(
    "KLP110", "a table names what is not there",
    "The kernel does not check this, and reads or writes memory of others.", _REBUILD,
    effect=Effect.ACCEPTED,
)
MODULE_SIZE = Rule(
    "KLP111", "struct module has another size",
    "The module was built with other headers or another configuration.",
    "Build it with this kernel's headers.",
    _says("module {module}: .gnu.linkonce.this_module section size must match the kernel's built"
     " struct module size at run time"
     ),
    needs=Needs.SYMBOLS, since=(6, 4),
)

UNSIGNED = Rule(
    "KLP201", "not signed, and the kernel wants a signature",
    "With CONFIG_MODULE_SIG_FORCE the module loader takes signed modules only.",
    "Sign it with scripts/sign-file and a key that the kernel knows.",
    _says("Loading of unsigned module is rejected"), needs=Needs.HEADERS,
)
VERMAGIC = Rule(
    "KLP202", "built for another kernel",
    "vermagic must be the kernel's; with CRCs in the module the release is not compared.",
    "Build the module for this kernel.",
    _says("{module}: version magic '{found}' should be '{wanted}'"), needs=Needs.HEADERS,
)
NO_VERMAGIC = Rule(
    "KLP203", "no vermagic",
    "Without CONFIG_MODULE_FORCE_LOAD the module loader refuses it and says nothing.", _REBUILD,
    _says("{module}: bad vermagic: kernel tainted."), Severity.WARNING, Effect.WARNED,
    Needs.HEADERS,
)
NO_LIVEPATCH_SUPPORT = Rule(
    "KLP204", "the kernel has no livepatch support",
    "check_modinfo_livepatch() refuses MODULE_INFO(livepatch) without CONFIG_LIVEPATCH.",
    "Use a kernel that was built with CONFIG_LIVEPATCH=y.",
    _says("{module}: module is marked as livepatch module, but livepatch support is disabled"),
    needs=Needs.HEADERS,
)
NOT_MARKED = Rule(
    "KLP205", "not marked as a livepatch", 'klp_enable_patch() wants MODULE_INFO(livepatch, "Y").',
    'Add MODULE_INFO(livepatch, "Y"); to the source.',
    _says("module {module} is not marked as a livepatch module"),
)
NOT_LIVEPATCH = Rule(
    "KLP206", "not a livepatch",
    "It neither says livepatch=Y nor calls klp_enable_patch(): it patches nothing.",
    "Name the livepatch module.", effect=Effect.ACCEPTED,
)
LICENCE = Rule(
    "KLP207", "the licence is not compatible with the GPL",
    "klp_enable_patch() and other symbols are for GPL-compatible modules only.",
    'Write MODULE_LICENSE("GPL").', _says("{module}: Unknown symbol klp_enable_patch (err -2)"),
)
NO_RETPOLINE = Rule(
    "KLP208", "compiled without retpolines",
    "Its indirect calls are open to Spectre v2 on a kernel that is protected.",
    "Compile it with the kernel's flags.",
    _says("{module}: loading module not compiled with retpoline compiler."), Severity.WARNING,
    Effect.WARNED, Needs.HEADERS,
)
DEPENDS_LACKS = Rule(
    "KLP209", "modinfo depends lacks a module whose exports it uses",
    "modprobe will not load that module first; insmod fails unless it is loaded.", _REBUILD,
    _says("{module}: Unknown symbol {symbol} (err -2)"), needs=Needs.HEADERS,
)
HARD_DEPENDENCY = Rule(
    "KLP210", "uses a module's exports by ordinary relocations",
    "That module is loaded with the livepatch and cannot be unloaded while it is there.",
    "Refer to its symbols by livepatch relocations.", severity=Severity.NOTE,
    effect=Effect.ACCEPTED, needs=Needs.HEADERS,
)

UNKNOWN_SYMBOL = Rule(
    "KLP301", "needs a symbol that nobody exports",
    "simplify_symbols() resolves undefined symbols among exported ones only.",
    "Make it a livepatch symbol: convert the module, or annotate the symbol.",
    _says("{module}: Unknown symbol {symbol} (err -2)"), needs=Needs.HEADERS,
)
CRC = Rule(
    "KLP302", "built against another version of a symbol",
    "The CRC in __versions differs from the one in the kernel's Module.symvers.",
    "Build the module with this kernel's headers.",
    _says("{module}: disagrees about version of symbol {symbol}"), needs=Needs.HEADERS,
)
NO_CRC = Rule(
    "KLP303", "has no CRC for an exported symbol",
    "With CONFIG_MODVERSIONS every used export needs its CRC in __versions.", _REBUILD,
    _says("{module}: no symbol version for {symbol}"), needs=Needs.HEADERS,
)
NO_VERSIONS = Rule(
    "KLP304", "has no CRCs at all",
    "The kernel has CONFIG_MODVERSIONS; without CONFIG_MODULE_FORCE_LOAD it refuses the module.",
    "Build it with the kernel's Module.symvers at hand.",
    _says("{module}: module_layout: kernel tainted."), Severity.WARNING, Effect.WARNED,
    Needs.HEADERS,
)
NAMESPACE = Rule(
    "KLP305", "uses a symbol of a namespace that it does not import",
    "verify_namespace_is_imported() looks for import_ns in .modinfo.",
    "Add MODULE_IMPORT_NS({namespace}).",
    _says("{module}: module uses symbol ({symbol}) from namespace {namespace},"
     " but does not import it."
     ),
    needs=Needs.HEADERS, since=(5, 4),
)
COMMON = Rule(
    "KLP306", "has a common symbol", "The module loader allocates no common symbols.",
    "Compile with -fno-common.", _says("{module}: please compile with -fno-common"),
)
SECTION_INDEX = Rule(
    "KLP307", "a symbol is in a section that is not there",
    "simplify_symbols() knows sections of the file, SHN_ABS and SHN_LIVEPATCH.", _DAMAGED,
    _says("{module}: Symbol {symbol} has an invalid section index {section} (max {last})"),
)
WEAK_ZERO = Rule(
    "KLP308", "a weak symbol will be zero",
    "Nobody exports it, and the kernel leaves an undefined weak symbol 0.",
    "Make sure that the code asks before it uses it.", severity=Severity.NOTE,
    effect=Effect.ACCEPTED, needs=Needs.HEADERS,
)

NOT_CONVERTED = Rule(
    "KLP309", "not converted", "An annotated symbol is still undefined, and nobody exports it.",
    "Convert the module: `klpbuild build` and scons do.",
    _says("{module}: Unknown symbol {symbol} (err -2)"),
)

SECTION_FORMAT = Rule(
    "KLP401", "a livepatch section has an unreadable name",
    "klp_apply_section_relocs() reads .klp.rela.%55[^.].",
    "Name it .klp.rela.<object>.<section>; an object's name has 1 to 55 bytes and no dot.",
    _says("section {section} has an incorrectly formatted name"),
)
NOT_LIVEPATCH_SYMBOL = Rule(
    "KLP402", "a livepatch relocation names a symbol that is not SHN_LIVEPATCH",
    "klp_resolve_symbols() takes symbols with st_shndx 0xff20 only.", _DAMAGED,
    _says("symbol {symbol} is not marked as a livepatch symbol"),
)
SYMBOL_FORMAT = Rule(
    "KLP403", "a livepatch symbol has an unreadable name",
    "klp_resolve_symbols() reads .klp.sym.%55[^.].%511[^,],%lu; before 6.1 %127[^,].",
    "Name it .klp.sym.<object>.<symbol>,<position>.",
    _says("symbol {symbol} has an incorrectly formatted name"),
)
VMLINUX_IN_MODULE = Rule(
    "KLP404", "a module's livepatch section refers to a vmlinux symbol",
    "Linux 5.8 applies relocations to vmlinux symbols early, and refuses late ones.",
    "Put the relocation into .klp.rela.vmlinux.<section>.",
    _says("invalid access to vmlinux symbol '{symbol}' from module-specific livepatch relocation"
     " section"
     ),
    effect=Effect.LATE, since=(5, 8),
)
SYMBOL_NOT_FOUND = Rule(
    "KLP405", "a livepatch symbol does not exist",
    "klp_find_object_symbol() looks it up among the owner's symbols.",
    "Look for a renamed or inlined function: `grep NAME symbols.klp`.",
    _says("symbol '{symbol}' not found in symbol table"), needs=Needs.SYMBOLS,
)
AMBIGUOUS = Rule(
    "KLP406", "a livepatch symbol is not unique",
    "Position 0 says that it is unique; klp_find_object_symbol() refuses to guess.",
    "Write its position, 1 to {count}.",
    _says("unresolvable ambiguity for symbol '{symbol}' in object '{object}'"),
    needs=Needs.SYMBOLS,
)
NO_POSITION = Rule(
    "KLP407", "a livepatch symbol's position does not exist",
    "The owner has fewer symbols of that name.",
    "Write a position from 1 to {count}; 0 if the name is unique.",
    _says("symbol position {position} for symbol '{symbol}' in object '{object}' not found"),
    needs=Needs.SYMBOLS,
)
MODULE_IN_VMLINUX = Rule(
    "KLP408", "a vmlinux livepatch section refers to a module's symbol",
    "It is resolved when the livepatch loads, and fails unless the module is there already.",
    "Put the relocation into .klp.rela.{owner}.<section>.",
    _says("symbol '{symbol}' not found in symbol table"),
)
FLAG_LOST = Rule(
    "KLP409", "a livepatch section lost its flag",
    "Without SHF_RELA_LIVEPATCH its relocations are applied to address 0: a call crashes.",
    _DAMAGED, effect=Effect.ACCEPTED,
)
ORDINARY_USE = Rule(
    "KLP410", "an ordinary relocation names a livepatch symbol",
    "The module loader skips SHN_LIVEPATCH symbols: the address stays 0, and a use crashes.",
    "Move the relocation to a livepatch section.", effect=Effect.ACCEPTED,
)
UNALLOCATED = Rule(
    "KLP411", "a livepatch section is not SHF_ALLOC",
    "It is gone when its object loads: the kernel reads freed memory.", _DAMAGED,
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
     ),
)
UNKNOWN_TYPE = Rule(
    "KLP415", "a relocation type that the kernel does not know",
    "x86 knows NONE, 64, PC32, PLT32, 32, 32S and PC64.",
    "Compile with the kernel's flags: -fno-pic -mcmodel=kernel.",
    _says("{module}: Unknown rela relocation: {type}"),
)
OVERFLOW = Rule(
    "KLP416", "an address does not fit into its relocation",
    "Modules and the kernel are in the upper 2 GiB: R_X86_64_32 cannot hold such an address;"
     " R_X86_64_PC32 and PLT32 reach no others, and the kernel does not check those.",
    "Compile with the kernel's flags: -mcmodel=kernel.",
    _says("overflow in relocation type {type} val"),
)
REL = Rule(
    "KLP417", "relocations without addends", "Livepatch works with SHT_RELA only.",
    "Compile with the kernel's flags.", _says("module {module}: REL relocation unsupported"),
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

NO_TABLES = Rule(
    "KLP501", "which functions it patches cannot be seen",
    "No static struct klp_patch names this module; kpatch-build makes it at run time.",
    "Make the tables static, so that they can be checked.", severity=Severity.NOTE,
    effect=Effect.ACCEPTED,
)
OBJECT_NAME = Rule(
    "KLP502", "an object's name cannot be a module's",
    "Modules are known by names of at most 55 bytes, without a dot, and with '_' for '-'.",
    "Write '{better}'.", effect=Effect.ACCEPTED,
)
NO_FUNCTIONS = Rule(
    "KLP503", "an object has no array of functions, or a function lacks one of its names",
    "klp_enable_patch() returns -EINVAL and says nothing.",
    "Give every klp_object an array, and every klp_func old_name and new_func.",
)
DUPLICATE_OBJECT = Rule(
    "KLP504", "an object is listed twice",
    "The second one cannot have its directory in sysfs: -EEXIST.",
    "List all functions of an object together.",
    _says("sysfs: cannot create duplicate filename '/kernel/livepatch/{module}/{object}'"),
)
DUPLICATE_FUNCTION = Rule(
    "KLP505", "a function is listed twice",
    "The second one cannot have its directory in sysfs: -EEXIST; positions 0 and 1 are the same.",
    "List it once.",
    _says("sysfs: cannot create duplicate filename"
     " '/kernel/livepatch/{module}/{object}/{symbol},{position}'"
     ),
)
LONG_NAME = Rule(
    "KLP506", "an old function's name is too long for the kernel",
    "klp_init_func() returns -EINVAL for KSYM_NAME_LEN bytes and says nothing.",
    "Patch one of its callers.",
)
OBJECT_UNKNOWN = Rule(
    "KLP507", "patches a module that this kernel does not have",
    "The functions wait for a module that never comes.",
    "Correct the object's name, or leave it out.", severity=Severity.WARNING,
    effect=Effect.ACCEPTED, needs=Needs.SYMBOLS,
)
FUNCTION_NOT_FOUND = Rule(
    "KLP508", "an old function does not exist",
    "klp_find_object_symbol() looks it up in kallsyms; compilers rename and inline functions.",
    "Take old_name from the kernel's own symbols: `grep NAME symbols.klp`.",
    _says("symbol '{symbol}' not found in symbol table"), needs=Needs.SYMBOLS,
)
FUNCTION_AMBIGUOUS = Rule(
    "KLP509", "an old function's name is not unique", "Position 0 says that it is unique.",
    "Write its old_sympos, 1 to {count}.",
    _says("unresolvable ambiguity for symbol '{symbol}' in object '{object}'"),
    needs=Needs.SYMBOLS,
)
FUNCTION_NO_POSITION = Rule(
    "KLP510", "an old function's position does not exist",
    "The object has fewer symbols of that name.",
    "Write an old_sympos from 1 to {count}; 0 if the name is unique.",
    _says("symbol position {position} for symbol '{symbol}' in object '{object}' not found"),
    needs=Needs.SYMBOLS,
)
NO_ENTRY = Rule(
    "KLP511", "an old function has no ftrace entry",
    "It is notrace, assembler, __init or data: klp_patch_func() cannot redirect it.",
    "Patch its callers instead.", _says("failed to find location for function '{symbol}'"),
    needs=Needs.SYMBOLS,
)

BAD_ENTRY = Rule(
    "KLP512", "__mcount_loc names a place that is no ftrace entry",
    "ftrace_bug(): ftrace shuts down for the whole system, and with it every livepatch.", _DAMAGED,
    _says("ftrace failed to modify"),
)
NO_ORC = Rule(
    "KLP601", "has code without unwind tables",
    "With CONFIG_UNWINDER_ORC a task in such code cannot be unwound reliably: transitions stall.",
    "Let the kernel's objtool process the objects.", severity=Severity.WARNING,
    effect=Effect.ACCEPTED, needs=Needs.HEADERS,
)
LOAD_AGAIN = Rule(
    "KLP602", "the patched module cannot be loaded a second time",
    "Before 6.3 nobody clears the relocations when the module goes (clear_relocate_add()).",
    "Clear the places in a post_unpatch callback; `klpbuild` generates one.",
    _says("x86/modules: Skipping invalid relocation target, existing value is nonzero for type"),
    Severity.WARNING, Effect.LATE, Needs.HEADERS, until=(6, 3),
)
SWITCHING = Rule(
    "KLP603", "patches a function that switches tasks",
    "A task sleeps in __schedule() for long: the transition would not end.",
    "Patch its callers instead.", severity=Severity.WARNING, effect=Effect.ACCEPTED,
)
POSITION_CHANGES = Rule(
    "KLP604", "a position differs between a loading and a running module",
    "A symbol of an .init section counts only while the module loads.",
    "Refer to the symbol through another one.", severity=Severity.WARNING, effect=Effect.ACCEPTED,
    needs=Needs.SYMBOLS,
)
ELSEWHERE = Rule(
    "KLP605", "unchanged code leads to another symbol of the same name",
    "Old and new instruction are the same, and so is the symbol's name, but not its address.",
    "Write the position of the symbol that the shipped function uses.", effect=Effect.ACCEPTED,
    needs=Needs.CODE,
)
ORDER = Rule(
    "KLP606", "livepatches stacked in an order that nobody tested",
    "The newest replacement of a function wins; without `replace` the order matters.",
    "Use cumulative livepatches with `replace`.", severity=Severity.NOTE, effect=Effect.ACCEPTED,
    needs=Needs.SYSTEM,
)
KRETPROBES = Rule(
    "KLP607", "a kretprobe or another livepatch tool holds the function's entry",
    "Only one user of ftrace may change the instruction pointer.", "Remove the probe before.",
    _says("failed to register ftrace handler for function '{symbol}' (-16)"), needs=Needs.SYSTEM,
)
SEMANTICS = Rule(
    "KLP608", "old and new code disagree about data",
    "Both run at the same time during the transition, on the same data.",
    "Keep the meaning of data, or use shadow variables and callbacks.", severity=Severity.NOTE,
    effect=Effect.ACCEPTED, needs=Needs.SYSTEM,
)
# fmt: on

_FOUND = [value for value in globals().values() if isinstance(value, Rule)]
RULES: tuple[Rule, ...] = tuple(sorted(_FOUND, key=lambda rule: rule.identifier))
