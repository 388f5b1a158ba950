"""1xx: the file, as elf_validity_check() and setup_load_info() of kernel/module/main.c see it."""

from __future__ import annotations

from klpbuild.check.catalogue.words import DAMAGED, REBUILD, says
from klpbuild.check.rule import Effect, Needs, Rule, Wording

# fmt: off
NOT_ELF = Rule(
    "KLP101", "not an ELF file",
    "elf_validity_check() of the module loader wants ELF's magic number.",
    "Name a .ko file; decompress a .ko.xz, .ko.zst or .ko.gz first.",
    says("Invalid ELF header magic: != \x7fELF"),
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
    says("Invalid ELF section header"),
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
    "The kernel does not check this, and reads or writes memory of others.", REBUILD,
    effect=Effect.ACCEPTED,
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
# fmt: on
