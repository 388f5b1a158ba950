"""A small kernel and livepatches for it, as files that the real code reads."""

from __future__ import annotations

from pathlib import Path

from klpbuild.convert.annotations import read_annotations
from klpbuild.convert.converter import convert
from klpbuild.elf.reader import ElfFile
from klpbuild.graph.build import Livepatch
from klpbuild.graph.modules import LivepatchReference
from klpbuild.graph.tables import read_livepatch, read_patches
from klpbuild.resolve.fate import Resolver
from klpbuild.symbols.database import SymbolDatabase
from klpbuild.symbols.symvers import Exports

from ..objects import compile_c, module_symvers, symbols_klp

#: The structures begin as the kernel's do; what follows differs between kernels.
TABLES = """
typedef unsigned long long u64;
struct module { char name[56]; };
struct klp_func { const char *old_name; void *new_func; u64 old_sympos; u64 internal[%d]; };
struct klp_callbacks { void *pre_patch, *post_patch, *pre_unpatch, *post_unpatch; };
struct klp_object { const char *name; struct klp_func *funcs; struct klp_callbacks callbacks; };
struct klp_patch { struct module *mod; struct klp_object *objs; };
#define INFO(tag, text) \\
    static const char tag##_info[] __attribute__((section(".modinfo"), used)) = #tag "=" text
struct module __attribute__((section(".gnu.linkonce.this_module"))) __this_module;
extern int klp_enable_patch(struct klp_patch *);
"""

SOURCE = """
INFO(name, "%s");
INFO(livepatch, "Y");
INFO(depends, "%s");

extern int _printk(const char *, ...);          /* exported by vmlinux */
extern int jbd2_journal_start(int) %s;          /* exported by jbd2 */
extern char *saved_command_line;                /* one, in vmlinux */
extern int ext4_free_blocks(int);               /* one, in ext4 */
extern int optional(void) __attribute__((weak));
%s

int new_show(int v) { return _printk("%%s", saved_command_line) + (optional ? optional() : v); }
int new_store(int v) { return ext4_free_blocks(v) + jbd2_journal_start(v) %s; }
static int before(void) { return 0; }

static struct klp_func vmlinux_funcs[] = { { "cmdline_proc_show", new_show }, {} };
static struct klp_func ext4_funcs[] = {
    { "ext4_attr_store", new_store }, { "state_show", new_show, 2 }, {} };
static struct klp_func no_funcs[] = { {} };
static struct klp_object objs[] = {
    { 0, vmlinux_funcs }, { "ext4", ext4_funcs }, { "btrfs", no_funcs, { before } }, {} };
static struct klp_patch patch = { &__this_module, objs };
int init_module(void) { return klp_enable_patch(&patch); }
"""

#: Names that are not what they seem: a table that has the form of klp_func.
DECOY = """
struct decoy { const char *name; int (*call)(int); };
struct decoy decoys[] = { { "not_patched", new_show }, { "ext4", new_store } };
struct decoy *pointer_to_decoys[] = { decoys };
"""


class SmallKernel:
    """vmlinux and four modules; `state_show` is twice in ext4, `helper` twice in vmlinux."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.exports = Exports.read(
            module_symvers(
                directory,
                vmlinux="_printk klp_enable_patch kmalloc",
                fs__jbd2__jbd2="jbd2_journal_start jbd2_journal_stop",
                fs__ext4__ext4="ext4_export",
            )
        )
        self.symbols = symbols_klp(
            directory,
            vmlinux="_printk saved_command_line cmdline_proc_show helper kmalloc helper",
            ext4="ext4_attr_store state_show ext4_free_blocks state_show ext4_export",
            jbd2="jbd2_journal_start jbd2_journal_stop jbd2_secret",
            btrfs="btrfs_ioctl helper",
            crc16="crc16",
        )
        self.database = SymbolDatabase.read(self.symbols)

    def link(
        self,
        name: str = "livepatch_demo",
        *,
        declare: str = "",
        add: str = "",
        depends: str = "",
        journal: str = "",
        internal: int = 9,
        more: str = "",
    ) -> ElfFile:
        """A livepatch as kbuild links it, not converted."""
        text = TABLES % internal + SOURCE % (name, depends, journal, declare, add)
        text += more
        return ElfFile.read(compile_c(self.directory, text, name=name))

    def read(self, elf: ElfFile) -> Livepatch:
        """A livepatch with its annotations, as the command reads it."""
        said = read_annotations(elf).by_symbol.values()
        annotations = tuple(
            LivepatchReference("", a.owner, a.symbol, a.sympos) for a in said if a.gate is None
        )
        return read_livepatch(elf, "file-name.ko", annotations)

    def loadable(self, **words: str) -> ElfFile:
        """A converted livepatch: of the patched modules, ext4 is the one that needs jbd2."""
        journal = "KLP_RELOC_SYMBOL(ext4, jbd2, jbd2_journal_start)"
        return self.convert(self.link(journal=journal, **words))

    def convert(self, elf: ElfFile) -> ElfFile:
        """The livepatch as it is loaded."""
        patched = frozenset(patch.object for patch in read_patches(elf))
        resolver = Resolver(self.database, self.exports, patched)
        return ElfFile(convert(elf, resolver).data, "converted.ko")
