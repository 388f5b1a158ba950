"""5xx: what it patches, and 6xx: what works on one day and not on another."""

from __future__ import annotations

from klpbuild.check.catalogue.words import ARM64, DAMAGED, MODELLED, S390, X86_64, says
from klpbuild.check.rule import Effect, Needs, Rule, Severity
from klpbuild.kernel.accepting import HINT, WHY

# fmt: off
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
    says("sysfs: cannot create duplicate filename '/kernel/livepatch/{module}/{object}'"),
)
DUPLICATE_FUNCTION = Rule(
    "KLP505", "a function is listed twice",
    "The second one cannot have its directory in sysfs: -EEXIST; positions 0 and 1 are the same.",
    "List it once.",
    says("sysfs: cannot create duplicate filename"
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
    "The functions are looked up when a module of that name is loaded, and not before.",
    "Name the module's file by modules= or --modules, or correct the object's name.",
    severity=Severity.WARNING, effect=Effect.ACCEPTED, needs=Needs.SYMBOLS,
)
FUNCTION_NOT_FOUND = Rule(
    "KLP508", "an old function does not exist",
    "klp_find_object_symbol() looks it up in kallsyms; compilers rename and inline functions.",
    "Take old_name from the kernel's own symbols: `grep NAME symbols.klp`.",
    says("symbol '{symbol}' not found in symbol table"), needs=Needs.SYMBOLS,
)
FUNCTION_AMBIGUOUS = Rule(
    "KLP509", "an old function's name is not unique", "Position 0 says that it is unique.",
    "Write its old_sympos, 1 to {count}.",
    says("unresolvable ambiguity for symbol '{symbol}' in object '{object}'"),
    needs=Needs.SYMBOLS,
)
FUNCTION_NO_POSITION = Rule(
    "KLP510", "an old function's position does not exist",
    "The object has fewer symbols of that name.",
    "Write an old_sympos from 1 to {count}; 0 if the name is unique.",
    says("symbol position {position} for symbol '{symbol}' in object '{object}' not found"),
    needs=Needs.SYMBOLS,
)
NO_ENTRY = Rule(
    "KLP511", "an old function has no ftrace entry",
    "It is notrace, assembler, __init or data: klp_patch_func() cannot redirect it.",
    "Patch its callers instead.", says("failed to find location for function '{symbol}'"),
    needs=Needs.SYMBOLS,
)
BAD_ENTRY = Rule(
    "KLP512", "__mcount_loc names a place that is no ftrace entry",
    "ftrace_bug(): ftrace shuts down for the whole system, and with it every livepatch.", DAMAGED,
    says("ftrace failed to modify"), machines=MODELLED,
)
STRAY = Rule(
    "KLP513", "a table has something where the kernel keeps its own",
    "The kernel takes struct klp_patch, klp_object and klp_func as they are: lists, kobjects and"
    " counters must begin as zeros, and pointers be whole.",
    "Set the fields that the kernel's livepatch document names, and no others.",
    effect=Effect.UNFORESEEN,
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
    says("x86/modules: Skipping invalid relocation target, existing value is nonzero for type"),
    Severity.WARNING, Effect.LATE, Needs.HEADERS, until=(6, 3), only=X86_64,
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
    needs=Needs.CODE, machines=X86_64 | ARM64 | S390,
)
INLINED = Rule(
    "KLP609", "a patched function is inlined into others, which are not patched",
    "The compiler put copies of it into other functions; ftrace redirects its entry alone.",
    "Patch these functions, too: {callers}.", severity=Severity.WARNING, effect=Effect.ACCEPTED,
    needs=Needs.SYMBOLS,
)
THREAD = Rule(
    "KLP610", "patches a function in which a kernel thread stays",
    f"{WHY}.", HINT, effect=Effect.ACCEPTED, needs=Needs.CODE, machines=X86_64,
)
ORDER = Rule(
    "KLP606", "livepatches stacked in an order that nobody tested",
    "The newest replacement of a function wins; without `replace` the order matters.",
    "Use cumulative livepatches with `replace`.", severity=Severity.NOTE, effect=Effect.ACCEPTED,
    needs=Needs.SYSTEM,
)
KRETPROBES = Rule(
    "KLP607", "a kretprobe or another tool holds the function's entry, or ftrace is off",
    "Only one user of ftrace may change the instruction pointer, and kernel.ftrace_enabled=0"
    " allows none.", "Remove the probe before; sysctl kernel.ftrace_enabled=1.",
    says("failed to register ftrace handler for function '{symbol}' (-16)"), needs=Needs.SYSTEM,
)
SEMANTICS = Rule(
    "KLP608", "old and new code disagree about data",
    "Both run at the same time during the transition, on the same data.",
    "Keep the meaning of data, or use shadow variables and callbacks.", severity=Severity.NOTE,
    effect=Effect.ACCEPTED, needs=Needs.SYSTEM,
)
# fmt: on
