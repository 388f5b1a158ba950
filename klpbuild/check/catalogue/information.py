"""2xx: what a module says of itself, and 3xx: its ordinary symbols."""

from __future__ import annotations

from klpbuild.check.catalogue.words import DAMAGED, REBUILD, says
from klpbuild.check.rule import Effect, Needs, Rule, Severity

# fmt: off
UNSIGNED = Rule(
    "KLP201", "not signed, and the kernel wants a signature",
    "With CONFIG_MODULE_SIG_FORCE the module loader takes signed modules only.",
    "Sign it with scripts/sign-file and a key that the kernel knows.",
    says("Loading of unsigned module is rejected"), needs=Needs.HEADERS,
)
VERMAGIC = Rule(
    "KLP202", "built for another kernel",
    "vermagic must be the kernel's; with CRCs in the module the release is not compared.",
    "Build the module for this kernel.",
    says("{module}: version magic '{found}' should be '{wanted}'"), needs=Needs.HEADERS,
)
NO_VERMAGIC = Rule(
    "KLP203", "no vermagic",
    "Without CONFIG_MODULE_FORCE_LOAD the module loader refuses it and says nothing.", REBUILD,
    says("{module}: bad vermagic: kernel tainted."), Severity.WARNING, Effect.WARNED,
    Needs.HEADERS,
)
NO_LIVEPATCH_SUPPORT = Rule(
    "KLP204", "the kernel has no livepatch support",
    "check_modinfo_livepatch() refuses MODULE_INFO(livepatch) without CONFIG_LIVEPATCH.",
    "Use a kernel that was built with CONFIG_LIVEPATCH=y.",
    says("{module}: module is marked as livepatch module, but livepatch support is disabled"),
    needs=Needs.HEADERS,
)
NOT_MARKED = Rule(
    "KLP205", "not marked as a livepatch", 'klp_enable_patch() wants MODULE_INFO(livepatch, "Y").',
    'Add MODULE_INFO(livepatch, "Y"); to the source.',
    says("module {module} is not marked as a livepatch module"), after="KLP499",
)
NOT_LIVEPATCH = Rule(
    "KLP206", "not a livepatch",
    "A livepatch says livepatch=Y and calls klp_enable_patch(), or it patches nothing.",
    "Name the livepatch module.", effect=Effect.ACCEPTED,
)
LICENCE = Rule(
    "KLP207", "the licence is not compatible with the GPL",
    "klp_enable_patch() and other symbols are for GPL-compatible modules only.",
    'Write MODULE_LICENSE("GPL").', says("{module}: Unknown symbol klp_enable_patch (err -2)"),
)
NO_RETPOLINE = Rule(
    "KLP208", "compiled without retpolines",
    "Its indirect calls are open to Spectre v2 on a kernel that is protected.",
    "Compile it with the kernel's flags.",
    says("{module}: loading module not compiled with retpoline compiler."), Severity.WARNING,
    Effect.WARNED, Needs.HEADERS,
)
DEPENDS_LACKS = Rule(
    "KLP209", "modinfo depends lacks a module whose exports it uses",
    "modprobe will not load that module first; insmod fails unless it is loaded.", REBUILD,
    says("{module}: Unknown symbol {symbol} (err -2)"), needs=Needs.HEADERS,
)
HARD_DEPENDENCY = Rule(
    "KLP210", "uses a module's exports by ordinary relocations",
    "That module is loaded with the livepatch and cannot be unloaded while it is there.",
    "Refer to its symbols by livepatch relocations.", severity=Severity.NOTE,
    effect=Effect.ACCEPTED, needs=Needs.HEADERS,
)
WRITABLE_CODE = Rule(
    "KLP211", "a section is writable and executable",
    "module_enforce_rwx_sections() refuses one, loaded or not, with CONFIG_STRICT_MODULE_RWX.",
    "Give code and data sections of their own.",
    says("{module}: section {section} (index {index}) has invalid WRITE|EXEC flags"),
    since=(5, 8),
)
BAD_SIGNATURE = Rule(
    "KLP212", "its signature is not one",
    "mod_check_sig() reads what stands before '~Module signature appended~'; what it cannot read"
    " is refused even where signatures are not wanted.",
    "Sign the module again with scripts/sign-file.", says("{said}"), needs=Needs.HEADERS,
)

UNKNOWN_SYMBOL = Rule(
    "KLP301", "needs a symbol that nobody exports",
    "simplify_symbols() resolves undefined symbols among exported ones only.",
    "Make it a livepatch symbol: convert the module, or annotate the symbol.",
    says("{module}: Unknown symbol {symbol} (err -2)"), needs=Needs.HEADERS,
)
CRC = Rule(
    "KLP302", "built against another version of a symbol",
    "The CRC in __versions differs from the one in the kernel's Module.symvers.",
    "Build the module with this kernel's headers.",
    says("{module}: disagrees about version of symbol {symbol}"), needs=Needs.HEADERS,
)
NO_CRC = Rule(
    "KLP303", "has no CRC for an exported symbol",
    "With CONFIG_MODVERSIONS every used export needs its CRC in __versions.", REBUILD,
    says("{module}: no symbol version for {symbol}"), needs=Needs.HEADERS,
)
NO_VERSIONS = Rule(
    "KLP304", "has no CRCs at all",
    "The kernel has CONFIG_MODVERSIONS; without CONFIG_MODULE_FORCE_LOAD it refuses the module.",
    "Build it with the kernel's Module.symvers at hand.",
    says("{module}: module_layout: kernel tainted."), Severity.WARNING, Effect.WARNED,
    Needs.HEADERS,
)
NAMESPACE = Rule(
    "KLP305", "uses a symbol of a namespace that it does not import",
    "verify_namespace_is_imported() looks for import_ns in .modinfo.",
    "Add MODULE_IMPORT_NS({namespace}).",
    says("{module}: module uses symbol ({symbol}) from namespace {namespace},"
     " but does not import it."
     ),
    needs=Needs.HEADERS, since=(5, 4),
)
COMMON = Rule(
    "KLP306", "has a common symbol", "The module loader allocates no common symbols.",
    "Compile with -fno-common.", says("{module}: please compile with -fno-common"),
)
SECTION_INDEX = Rule(
    "KLP307", "a symbol is in a section that is not there",
    "simplify_symbols() knows sections of the file, SHN_ABS and SHN_LIVEPATCH.", DAMAGED,
    says("{module}: Symbol {symbol} has an invalid section index {section} (max {last})"),
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
    says("{module}: Unknown symbol {symbol} (err -2)"),
)
# fmt: on
