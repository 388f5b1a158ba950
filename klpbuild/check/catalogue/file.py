"""1xx: the file, as elf_validity_check() and setup_load_info() of kernel/module/main.c see it."""

from __future__ import annotations

from klpbuild.check.catalogue.words import DAMAGED, REBUILD, says
from klpbuild.check.rule import Effect, Needs, Rule, Severity, Wording

# fmt: off
NOT_ELF = Rule(
    "KLP101", "not an ELF file",
    "elf_validity_check() of the module loader wants ELF's magic number.",
    "Name a .ko file; decompress a .ko.xz, .ko.zst or .ko.gz first.",
    says("{said}"),
)
NOT_RELOCATABLE = Rule(
    "KLP102", "not a relocatable object", "The module loader links e_type ET_REL only.", REBUILD,
    says("Invalid ELF header type: {type} != 1"),
)
WRONG_MACHINE = Rule(
    "KLP103", "for another architecture", "The module loader compares e_machine with its own.",
    "Build the module for the kernel's architecture.",
    says("Invalid architecture in ELF header: {machine}"),
)
SECTION_HEADERS = Rule(
    "KLP104", "section headers are missing or have a wrong size",
    "e_shoff, e_shnum and e_shentsize must describe a table inside of the file.", REBUILD,
    says("Invalid ELF section header {said}"),
)
SECTION_NAMES = Rule(
    "KLP105", "no usable table of section names",
    "e_shstrndx must name a table that ends with a zero byte.", REBUILD, says("{said}"),
)
NULL_SECTION = Rule(
    "KLP106", "section 0 is not the null section",
    "The module loader relies on section 0 being empty.", REBUILD,
    says("ELF Spec violation: section 0 type({type})!=SH_NULL or non-zero len or addr"),
)
TRUNCATED = Rule(
    "KLP107", "a section lies outside of the file",
    "Every section with contents must lie inside of the file; this one may be truncated.",
    REBUILD, says("Invalid ELF section in module (section {section} type {type})"),
)
NO_SYMBOLS = Rule(
    "KLP108", "no symbol table", "The module loader resolves relocations by the symbol table.",
    DAMAGED, says("{module}: module has no symbols (stripped?)"),
)
NO_THIS_MODULE = Rule(
    "KLP109", "not a module: it has no .gnu.linkonce.this_module to be loaded",
    "modpost adds struct module to what is linked to a .ko file.",
    "Link the objects with kbuild; `klpbuild build` does.",
    (Wording("{module}: No module found in object"),
     Wording("module {module}: {said}", (6, 4)),
     ),
)
BROKEN = Rule(
    "KLP110", "a table names what is not there",
    "The kernel does not check this, and reads or writes memory of others.", REBUILD,
    effect=Effect.UNFORESEEN,
)
MODULE_SIZE = Rule(
    "KLP111", "struct module has another size",
    "The module was built with other headers or another configuration.",
    "Build it with this kernel's headers.",
    says("module {module}: .gnu.linkonce.this_module section size must match the kernel's built"
     " struct module size at run time"
     ),
    needs=Needs.SYMBOLS, since=(6, 4),
)
SECTION_NAME = Rule(
    "KLP112", "a section's name is not in the table of section names",
    "Each sh_name must lie in the table that e_shstrndx names.", REBUILD,
    says("Invalid ELF section name in module (section {section} type {type})"),
)
NO_STRINGS = Rule(
    "KLP113", "the symbol table has no names",
    "Its sh_link must be the section of a table of strings.", REBUILD, says("{said}"),
)
TWO_MODINFO = Rule(
    "KLP114", "has two sections .modinfo", "The module loader reads one only.",
    "Link the objects with kbuild, whose linker script joins them.",
    says("Only one .modinfo section must exist."), since=(6, 12),
)
IDENTITY = Rule(
    "KLP115", "another ELF class or byte order than its machine's",
    "The kernel does not look at e_ident; depmod, modprobe and other programs refuse the file.",
    REBUILD, severity=Severity.WARNING, effect=Effect.ACCEPTED,
)
DAMAGED_MODULE = Rule(
    "KLP116", "struct module is not as modpost made it",
    "The kernel calls what stands at the offsets of `init` and `exit`, and relies on zeros.",
    "Link the objects with kbuild; strip and objcopy must not touch the module.",
    effect=Effect.UNFORESEEN,
)
NO_EXIT = Rule(
    "KLP117", "has no cleanup_module()", "A module without `exit` stays until the next boot.",
    "Write module_exit().", severity=Severity.WARNING, effect=Effect.ACCEPTED,
)
LENIENT = Rule(
    "KLP118", "a section header is damaged where the kernel does not read it",
    "The module loader looks at few fields; readelf, objtool, kmod and signing tools at more.",
    DAMAGED, severity=Severity.WARNING, effect=Effect.ACCEPTED,
)
ROLE = Rule(
    "KLP119", "a section is not what it is used as",
    "The kernel places sections by their flags, and finds tables by their names.", DAMAGED,
    effect=Effect.UNFORESEEN,
)
SAME_NAME = Rule(
    "KLP120", "two sections that are loaded have the same name",
    "sysfs shows each as a file in /sys/module/NAME/sections; before 6.12 there are none, then.",
    "Link the objects with kbuild; strip and objcopy must not touch the module.",
    says("sysfs: cannot create duplicate filename '/module/{module}/sections/{section}'"),
    after="KLP499",
)
# fmt: on
