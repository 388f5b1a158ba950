"""A kernel of a few functions, and two good livepatches for it: no kernel tree is needed."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np

from klpbuild.arch import X86_64
from klpbuild.check.kernelside import KernelSide
from klpbuild.elf.constants import SHF, SHN_LIVEPATCH
from klpbuild.kernel.tree import Kernel
from klpbuild.symbols.write import SymbolSources, write_symbols
from tests.check.breaks import (
    HOMONYM,
    INIT,
    INLINED,
    LID,
    NAMESPACED,
    NOTRACE,
    OF_A_MODULE,
    SWAPINFO,
    THREAD,
)
from tests.check.editor import Editor
from tests.symbols.inputs import compile_object, link_module, link_vmlinux

KERNEL_KEY, CALL_KEY = ".klp.sym.vmlinux.kernel_key,0", ".klp.sym.vmlinux.__SCK__call,0"
RELEASE = "6.1.0-miniature"
VERMAGIC = f"{RELEASE} SMP preempt mod_unload modversions "
CONFIG = """
CONFIG_X86_64=y
CONFIG_LIVEPATCH=y
CONFIG_MODVERSIONS=y
CONFIG_MODULE_FORCE_LOAD=y
CONFIG_RETPOLINE=y
CONFIG_UNWINDER_ORC=y
CONFIG_KALLSYMS_ALL=y
CONFIG_STRICT_MODULE_RWX=y
CONFIG_MODULE_SIG=y
"""

VMLINUX = f"""
int __attribute__((noinline)) si_swapinfo(void *i) {{ asm(""); return 0; }}
int __attribute__((noinline)) si_meminfo(void *i) {{ asm(""); return 0; }}
static int __attribute__((used, noinline)) {HOMONYM}(void) {{ return 1; }}
const int __start_rodata[1] = {{ 1 }}, si_limits[2] = {{ 1 }}, si_limit = 3;
const int __end_rodata[1] = {{ 1 }};
int meminfo_proc_show(void *m)
{{
    asm("testb $0, si_limits+4(%%rip)" : : "r" (m));
    return si_meminfo(m) + si_swapinfo(m) + {HOMONYM}();
}}
int __attribute__((noinline)) reboot_work(int v) {{ asm(""); return v; }}
int {INLINED}(int force) {{ return reboot_work(force) + 1; }}
int hw_protection_shutdown(int force) {{ return {INLINED}(force) + 2; }}
void __attribute__((noinline)) schedule(void) {{ asm(""); }}
int __attribute__((noinline)) kernel_thread(void *function, void *data) {{ asm(""); return 0; }}
int {THREAD}(void *data) {{ for (;;) schedule(); }}
int rest_init(void) {{ return kernel_thread({THREAD}, 0); }}
__attribute__((no_instrument_function)) int {NOTRACE}(void) {{ return 2; }}
__attribute__((section(".init.text"))) int {INIT}(void) {{ return 3; }}
void __fentry__(void) {{ }}
struct {{ int enabled; long type; }} kernel_key = {{ 1, 1 }}, no_key[8] = {{ {{ 7, 7 }} }};
int of_processor __attribute__((section(".data..percpu"))) = 1;
void __SCT__call(void) {{ }}
void *__SCK__call = __SCT__call;
asm(".pushsection .rodata; .globl __start___jump_table, __stop___jump_table; .balign 8;"
    "__start___jump_table: .long __fentry__ - .; .long __fentry__ - .; .quad kernel_key - .;"
    "__stop___jump_table: .popsection");
"""
HOMONYMS = f"static int __attribute__((used, noinline)) {HOMONYM}(void) {{ return 4; }}"

STRUCT_MODULE = """
struct module {
    int state; void *list[2]; char name[56], rest[232];
    int (*init)(void); char more[464]; void (*exit)(void); char last[104];
} __this_module __attribute__((section(".gnu.linkonce.this_module"), used)) = {
    .name = "%s", .init = init_module, .exit = cleanup_module
};
"""

BUTTON = (
    """
static long __attribute__((used)) lid_init_state;
const char lid_table[8] = { 1 }, lid_texts[8] = { 2 };
int param_get_lid_init_state(char *buffer)
{ asm("testb $0, lid_table+0x40(%%rip)" : : "r" (buffer)); return lid_init_state; }
static const char info[] __attribute__((section(".modinfo"), used)) =
    "name=button\\0vermagic=VERMAGIC";
__attribute__((section(".init.text"))) int init_module(void) { return 0; }
__attribute__((section(".exit.text"))) void cleanup_module(void) { }
"""
    + STRUCT_MODULE % "button"
)

#: A name twice in a module, first in code that is freed: running, it has it once.
TWIN = "twin"
BUTTON_INIT = f"""
__attribute__((section(".init.text"), used, noinline)) static int {TWIN}(void) {{ return 5; }}
"""
BUTTON_TWIN = f"""
__attribute__((used, noinline)) static int {TWIN}(void) {{ return 6; }}
"""

IMPORTS = (
    "module_layout", "klp_enable_patch", "si_meminfo", "__fentry__", "__x86_return_thunk",
    "__SCT__call",
)  # fmt: skip

LIVEPATCH = r"""
#define INFO(n, text) \
    static const char info_##n[] __attribute__((section(".modinfo"), used, aligned(1))) = text
INFO(0, "livepatch=Y"); INFO(1, "license=GPL"); INFO(2, "depends="); INFO(3, "retpoline=Y");
INFO(4, "name=%(name)s"); INFO(5, "vermagic=%(vermagic)s");

struct version { unsigned long crc; char name[56]; };
static const struct version versions[] __attribute__((section("__versions"), used)) = {
    %(versions)s
};
int init_module(void); void cleanup_module(void);
%(struct_module)s
static const char orc[6] __attribute__((section(".orc_unwind"), used)) = { 8, 0, 0, 0, 5, 0 };
asm(".pushsection .orc_unwind_ip, \"a\"; .long init_module - .; .popsection");
asm(".pushsection .return_sites, \"a\"; .long return_site - .; .popsection");
asm(".pushsection .text.return, \"ax\"; return_site: jmp __x86_return_thunk; .popsection");

struct klp_func { const char *old_name; void *new_func; unsigned long old_sympos, rest[16]; };
struct klp_object {
    const char *name; struct klp_func *funcs; void (*callbacks[4])(void); unsigned long rest[15];
};
struct klp_patch { struct module *mod; struct klp_object *objs; unsigned long rest[23]; };

extern int si_meminfo(void *), klp_enable_patch(struct klp_patch *), klp_si_swapinfo(void *);
extern long klp_lid_init_state;
extern void print(const char *);

%(code)s

static struct klp_patch patch = { .mod = &__this_module, .objs = objects };
__attribute__((section(".init.text"))) int init_module(void) { return klp_enable_patch(&patch); }
__attribute__((section(".exit.text"))) void cleanup_module(void) { }
"""

#: As kpatch-build's and klp-build's modules: the tables are made at run time.
AT_RUN_TIME = LIVEPATCH.replace(
    "static struct klp_patch patch = { .mod = &__this_module, .objs = objects };",
    "struct klp_patch *patch;",
).replace("klp_enable_patch(&patch)", "klp_enable_patch(patch)")
KPATCH_CODE = """
int livepatch_meminfo_proc_show(void *m) { return si_meminfo(m) + klp_si_swapinfo(m) + 1; }
static struct {
    void *new; unsigned long size, old, old_size, sympos; const char *name, *object;
} functions[] __attribute__((section(".kpatch.funcs"), used)) = {
    { livepatch_meminfo_proc_show, 20, 0, 0, 2, "meminfo_proc_show", "vmlinux" },
    { livepatch_meminfo_proc_show, 20, 0, 0, 0, "power", "button" },
};
static struct { void *callback; const char *object; } after[]
    __attribute__((section(".kpatch.callbacks.post_unpatch"), used)) = {
    { cleanup_module, "button" },
};
"""
KLP_BUILD_CODE = """
int livepatch_meminfo_proc_show(void *m) { return si_meminfo(m) + klp_si_swapinfo(m) + 1; }
static struct function { const char *old; void *new; unsigned long sympos; } functions[]
    __attribute__((section("__klp_funcs"), used)) = {
    { "meminfo_proc_show", livepatch_meminfo_proc_show, 2 },
    { "power", livepatch_meminfo_proc_show, 0 },
};
static struct {
    const char *name; struct function *functions;
    struct { void *each[4]; _Bool enabled; } callbacks; unsigned int count;
} objects[] __attribute__((section("__klp_objects"), used)) = {
    { 0, functions, { { 0 }, 0 }, 1 },
    { "button", functions + 1, { { 0, 0, 0, cleanup_module }, 0 }, 1 },
};
"""

MEMINFO_CODE = """
volatile const char *said;
int livepatch_meminfo_proc_show(void *m)
{ said = "livepatch"; return si_meminfo(m) + klp_si_swapinfo(m) + 1; }
static struct klp_func functions_vmlinux[] = {
    { "meminfo_proc_show", livepatch_meminfo_proc_show }, { }
};
static struct klp_object objects[] = { { .funcs = functions_vmlinux }, { } };
"""

#: One entry in each of the tables that the loader reads.
TABLES_CODE = r"""
struct key { int enabled; long type; } own_key, true_key = { 1, 1 }, more_keys[2];
extern char kernel_key[];
int __attribute__((noinline)) inner(void *m) { asm(""); return m != 0; }
int livepatch_meminfo_proc_show(void *m)
{
    asm goto("1: .byte 0x0f, 0x1f, 0x44, 0, 0; .pushsection __jump_table, \"aw\"; .balign 8;"
             ".long 1b - .; .long %l[yes] - .; .quad own_key + 2 - .; .popsection" : : : : yes);
    asm goto("1: jmp %l[yes]; .pushsection __jump_table, \"aw\";"
             ".long 1b - .; .long %l[yes] - .; .quad kernel_key - .; .popsection" : : : : yes);
    asm("1: ud2; .pushsection .rodata.str, \"a\"; 2: .asciz \"mm/memory.c\"; .popsection;"
        ".pushsection __bug_table, \"aw\"; .long 1b - .; .long 2b - .; .word 7, 0x901;"
        ".popsection");
    asm goto("1: movl $0, (%0); .pushsection __ex_table, \"a\";"
             ".long 1b - .; .long %l[fixup] - .; .long 1; .popsection" : : "r" (m) : : fixup);
    asm("1: call __SCT__call; .pushsection .static_call_sites, \"aw\";"
        ".long 1b - .; .long __SCK__call - .; .popsection");
    asm("1: lock incl (%0); .pushsection .smp_locks, \"a\"; .long 1b - .; .popsection" : : "r" (m));
    asm("1: .byte 0x0f, 0x1f, 0x40, 0; .pushsection .altinstr_replacement, \"ax\"; 2: stac;"
        ".popsection; .pushsection .altinstructions, \"a\"; .long 1b - .; .long 2b - .;"
        ".word 0x134; .byte 4, 3; .popsection");
    asm("endbr64");
yes:
    return si_meminfo(m) + klp_si_swapinfo(m) + inner(m);
fixup:
    return -14;
}
static struct klp_func functions_vmlinux[] = {
    { "meminfo_proc_show", livepatch_meminfo_proc_show }, { }
};
static struct klp_object objects[] = { { .funcs = functions_vmlinux }, { } };
"""

BUTTON_CODE = """
volatile const char *said;
int livepatch_param_get_lid_init_state(char *buffer) { return klp_lid_init_state + 1; }
static void forget(void) { said = "gone"; }
static struct klp_func functions_button[] = {
    { "param_get_lid_init_state", livepatch_param_get_lid_init_state }, { }
};
static struct klp_object objects[] = {
    { .name = "button", .funcs = functions_button, .callbacks = { 0, 0, 0, forget } }, { }
};
"""

_FTRACE = (
    "-pg", "-mfentry", "-mrecord-mcount", "-O2", "-fno-toplevel-reorder", "-g",
    "-mno-sse", "-mpreferred-stack-boundary=3",
)  # fmt: skip


def crc_of(symbol: str) -> int:
    """Any number that differs between symbols."""
    return zlib.crc32(symbol.encode())


def make_kernel(directory: Path) -> KernelSide:
    """The miniature kernel with its symbols.klp."""
    first = compile_object(directory, "meminfo.c", VMLINUX, *_FTRACE)
    second = compile_object(directory, "other.c", HOMONYMS, *_FTRACE)
    vmlinux = link_vmlinux(directory, first, second)
    init = compile_object(directory, "button-init.c", BUTTON_INIT, *_FTRACE)
    button = compile_object(
        directory, "button.c", BUTTON.replace("VERMAGIC", VERMAGIC) + BUTTON_TWIN, *_FTRACE
    )
    button = link_module(directory, "button.ko", init, button)
    lines = [f"{crc_of(n):#010x}\t{n}\tvmlinux\tEXPORT_SYMBOL_GPL\t" for n in IMPORTS]
    lines.append(f"{crc_of(NAMESPACED):#010x}\t{NAMESPACED}\tvmlinux\tEXPORT_SYMBOL_GPL\tSECRET")
    lines.append(
        f"{crc_of(OF_A_MODULE):#010x}\t{OF_A_MODULE}\tnet/netfilter/nf_tables\tEXPORT_SYMBOL\t"
    )
    symvers, config = directory / "Module.symvers", directory / ".config"
    symvers.write_text("\n".join(lines) + "\n")
    config.write_text(CONFIG)
    kernel = Kernel(
        RELEASE, RELEASE, (6, 1, 0), directory, X86_64, config, symvers, (button,), vmlinux,
        None, None, None, None, None, directory / "cache",
    )  # fmt: skip
    symbols = directory / "symbols.klp"
    sources = SymbolSources(kernel.version, kernel.modules, vmlinux)
    write_symbols(symbols, sources, directory / "fragments")
    return KernelSide(kernel, symbols)


def make_livepatch(directory: Path, name: str) -> bytes:
    """The good livepatch ``meminfo`` or ``button``."""
    symbols = {"klp_si_swapinfo": SWAPINFO}
    if name == "tables":
        keys = {"kernel_key": KERNEL_KEY, "__SCK__call": CALL_KEY}
        return make_from(directory, "meminfo", TABLES_CODE, symbols | keys, "vmlinux")
    if name == "meminfo":
        return make_from(directory, name, MEMINFO_CODE, {"klp_si_swapinfo": SWAPINFO}, "vmlinux")
    return make_from(directory, name, BUTTON_CODE, {"klp_lid_init_state": LID}, "button")


def make_from(
    directory: Path,
    name: str,
    code: str,
    symbols: dict[str, str],
    gate: str,
    template: str = LIVEPATCH,
) -> bytes:
    """A livepatch with the functions and tables in `code`.

    :param symbols: names in the code that become livepatch symbols.
    """
    versions = ", ".join(f'{{ {crc_of(n)}, "{n}" }}' for n in IMPORTS)
    source = template % {
        "name": f"livepatch_{name}",
        "struct_module": STRUCT_MODULE % f"livepatch_{name}",
        "vermagic": VERMAGIC,
        "versions": versions,
        "code": code,
    }
    compiled = compile_object(directory, f"livepatch-{name}.c", source, *_FTRACE)
    editor = Editor(compiled.read_bytes())
    numbers = [editor.symbol(symbol) for symbol in symbols]
    for symbol, new in symbols.items():
        editor.rename(symbol, new)
    editor.object.symbols["st_shndx"][numbers] = SHN_LIVEPATCH
    moved = [_make_late(editor, s.name, numbers, gate) for s in [*editor.object.sections]]
    assert any(moved)
    return editor.data()


def _make_late(editor: Editor, name: str, symbols: list[int], gate: str) -> bool:
    """Move the relocations to livepatch symbols out of a section; tells whether there are some."""
    if not name.startswith(".rela"):
        return False
    rows = editor.rows(name)
    late = np.isin(rows["r_sym"], symbols)
    if late.any():
        editor.set_rows(name, rows[~late])
        target = name.removeprefix(".rela")
        flags = SHF.ALLOC | SHF.INFO_LINK | SHF.RELA_LIVEPATCH
        section = f".klp.rela.{gate}.{target.removeprefix('.')}"
        number = editor.number(target)
        editor.object.add_relocations(section, number, np.array(rows[late]), flags)
    return bool(late.any())
