"""The converter, from C to the sections and symbols that the kernel reads."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile

from klpbuild.convert.converter import Conversion, convert
from klpbuild.elf.reader import ElfFile
from klpbuild.errors import KlpError
from klpbuild.graph.tables import read_patches
from klpbuild.resolve.fate import Fate, Resolver
from klpbuild.symbols.database import SymbolDatabase
from klpbuild.symbols.symvers import Exports
from tests.objects import HEADER, compile_c, module_symvers, symbols_klp

SHF_ALLOC, SHF_INFO_LINK, SHF_RELA_LIVEPATCH = 0x2, 0x40, 0x100000

# What klpbuild generates for a livepatch of these objects.
TABLES = """
struct klp_func { const char *old_name; void (*new_func)(void); unsigned long old_sympos; };
struct klp_object { const char *name; struct klp_func *funcs; };
struct klp_patch { void *mod; struct klp_object *objs; };
char __this_module[64] __attribute__((section(".gnu.linkonce.this_module"))) = { 1 };
__attribute__((section(".text.klp_new"))) void klp_new(void) { }
static struct klp_func klp_funcs[] = { { "old", klp_new, 0 }, { } };
struct klp_object klp_objects[] = { OBJECTS { } };
struct klp_patch klp_patch = { __this_module, klp_objects };
"""


class Kernel:
    """A kernel of a few names, and conversions against it."""

    def __init__(self, directory: Path, exports: dict[str, str], **objects: str) -> None:
        self.directory = directory
        self.database = SymbolDatabase.read(symbols_klp(directory, **objects))
        self.exports = Exports.read(module_symvers(directory, **exports))

    def convert(self, source: str, *flags: str, patched: str = "") -> Conversion:
        entries = "".join(f'{{ "{name}", klp_funcs }},' for name in patched.split())
        text = TABLES.replace("OBJECTS", entries) + source
        elf = ElfFile.read(compile_c(self.directory, text, *flags))
        self.linked = elf
        found = frozenset(function.object for function in read_patches(elf))
        assert found == frozenset(patched.split())
        return convert(elf, Resolver(self.database, self.exports, found))

    def error(self, source: str, *flags: str, patched: str = "") -> str:
        with pytest.raises(KlpError) as caught:
            self.convert(source, *flags, patched=patched)
        return str(caught.value).replace(f"{self.directory}/", "")


@pytest.fixture
def kernel(tmp_path: Path) -> Kernel:
    return Kernel(
        tmp_path,
        {"vmlinux": "printk seq_printf", "fs__btrfs__btrfs": "btrfs_exported"},
        vmlinux="saved_command_line printk twin seq_printf twin counter.0 both clash.isra.0",
        btrfs="btrfs_ktype twin btrfs_exported other_btrfs",
        ext4="ext4_ktype both",
    )


class Readelf:
    """What pyelftools, which is not ours, reads from a converted module."""

    def __init__(self, conversion: Conversion, directory: Path) -> None:
        self.path = directory / "out.ko"
        self.path.write_bytes(conversion.data)
        self.elf = ELFFile(self.path.open("rb"))
        listing = subprocess.run(
            ["readelf", "-aW", self.path], capture_output=True, text=True, check=True
        )
        assert listing.stderr == ""
        self.symtab = self.elf.get_section_by_name(".symtab")

    def livepatch(self) -> dict[str, list[tuple[int, str, int]]]:
        """Section name to (offset, symbol name, addend) of its relocations."""
        found = {}
        for section in self.elf.iter_sections():
            if not section["sh_flags"] & SHF_RELA_LIVEPATCH:
                continue
            assert section["sh_type"] == "SHT_RELA"
            assert section["sh_flags"] == SHF_ALLOC | SHF_INFO_LINK | SHF_RELA_LIVEPATCH
            assert self.elf.get_section(section["sh_link"]) == self.symtab
            rows = []
            for row in section.iter_relocations():
                symbol = self.symtab.get_symbol(row["r_info_sym"])
                assert symbol["st_shndx"] == 0xFF20
                rows.append((row["r_offset"], symbol.name, row["r_addend"]))
            found[section.name] = rows
        return found

    def ordinary(self) -> set[str]:
        """Names of the undefined symbols that ordinary relocations use."""
        return {
            self.symtab.get_symbol(row["r_info_sym"]).name
            for section in self.elf.iter_sections()
            if section["sh_type"] == "SHT_RELA" and not section["sh_flags"] & SHF_RELA_LIVEPATCH
            for row in section.iter_relocations()
            if self.symtab.get_symbol(row["r_info_sym"])["st_shndx"] == "SHN_UNDEF"
        } - {""}


def test_a_unique_symbol_is_resolved_without_annotation(kernel: Kernel, tmp_path: Path) -> None:
    conversion = kernel.convert(
        """extern char *saved_command_line; extern int printk(const char *, ...);
        int show(void) { return printk(saved_command_line); }"""
    )
    read = Readelf(conversion, tmp_path)
    (relocations,) = read.livepatch().values()
    assert list(read.livepatch()) == [".klp.rela.vmlinux.text"]
    assert [name for _, name, _ in relocations] == [".klp.sym.vmlinux.saved_command_line,0"]
    assert read.ordinary() == {"printk"}
    fates = {d.reference.name: d.fate for d in conversion.decisions}
    assert fates == {"saved_command_line": Fate.LIVEPATCH, "printk": Fate.EXPORTED}


def test_every_other_symbol_and_section_keeps_its_place(kernel: Kernel, tmp_path: Path) -> None:
    conversion = kernel.convert(
        """extern char *saved_command_line; extern int printk(const char *, ...);
        int show(void) { return printk(saved_command_line); }
        char **pointer = &saved_command_line;""",
        "-ffunction-sections", "-fdata-sections", "-fpatchable-function-entry=2",
    )  # fmt: skip
    before, after = kernel.linked, ElfFile(conversion.data, "out")
    for old, new in zip(before.sections, after.sections, strict=False):
        assert (old.name, old.sh_type, old.sh_flags, old.sh_info, old.sh_link) == (
            new.name, new.sh_type, new.sh_flags, new.sh_info, new.sh_link,
        )  # fmt: skip
    assert len(before.symbols) == len(after.symbols)
    for a, b in zip(before.symbol_list, after.symbol_list, strict=True):
        if a.name == "saved_command_line":
            assert (b.name, b.st_shndx) == (".klp.sym.vmlinux.saved_command_line,0", 0xFF20)
            assert (a.st_info, a.st_value, a.st_size) == (b.st_info, b.st_value, b.st_size)
        else:
            assert a == b
    assert set(Readelf(conversion, tmp_path).livepatch()) == {
        ".klp.rela.vmlinux.text.show", ".klp.rela.vmlinux.data.pointer",
    }  # fmt: skip


def test_a_modules_export_becomes_a_livepatch_relocation(kernel: Kernel, tmp_path: Path) -> None:
    conversion = kernel.convert(
        """extern int btrfs_exported(void), btrfs_ktype(void); int saved_command_line(void);
        int f(void) { return btrfs_exported() + btrfs_ktype() + saved_command_line() + 1; }""",
        patched="btrfs",
    )
    read = Readelf(conversion, tmp_path)
    names = {s: [n for _, n, _ in rows] for s, rows in read.livepatch().items()}
    assert names == {
        ".klp.rela.btrfs.text": [
            ".klp.sym.btrfs.btrfs_exported,0",
            ".klp.sym.btrfs.btrfs_ktype,0",
        ],
        ".klp.rela.vmlinux.text": [".klp.sym.vmlinux.saved_command_line,0"],
    }
    assert read.ordinary() == set()


def test_an_ambiguous_symbol_lists_candidates_and_lines_to_paste(kernel: Kernel) -> None:
    text = kernel.error("extern int twin(void); int f(void) { return twin() + 1; }")
    assert text == (
        "livepatch.o:.text+0x5: symbol 'twin' is ambiguous: there are 2\n"
        "  Only the author knows which one is meant.  Paste one of these lines:\n"
        "  vmlinux position 1, file unknown, address unknown:  "
        "struct KLP_MODULE_RELOC(vmlinux) relocations_vmlinux[] = { KLP_SYMPOS(twin, 1) };\n"
        "  vmlinux position 2, file unknown, address unknown:  "
        "struct KLP_MODULE_RELOC(vmlinux) relocations_vmlinux[] = { KLP_SYMPOS(twin, 2) };"
    )


def test_the_pasted_line_resolves_it(kernel: Kernel, tmp_path: Path) -> None:
    source = "extern int twin(void); int f(void) { return twin() + 1; }"
    (line,) = re.findall(r"struct KLP_MODULE_RELOC.*sympos.*|struct KLP.*twin, 2.*",
                         kernel.error(source))  # fmt: skip
    conversion = kernel.convert(source.replace("int f", line + " int f"))
    read = Readelf(conversion, tmp_path)
    assert [n for rows in read.livepatch().values() for _, n, _ in rows] == [
        ".klp.sym.vmlinux.twin,2"
    ]
    assert read.ordinary() == set()


def test_clang_writes_quotation_marks_itself(tmp_path: Path) -> None:
    (tmp_path / "x.c").write_text(
        "extern int x(void) KLP_RELOC_SYMBOL(vmlinux, vmlinux, twin, 2);\n"
    )
    command = ["gcc", "-E", "-P", "-D__clang__", "-include", HEADER, tmp_path / "x.c"]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert text.endswith(
        '__asm__( ".klp.sym.rela." "vmlinux" "." "vmlinux" "." "twin" "," "2" );\n'
    )


@pytest.mark.parametrize(
    ("declaration", "patched", "section", "name"),
    [
        ("extern int x(void) KLP_RELOC_SYMBOL(vmlinux, vmlinux, twin, 2);", "",
         ".klp.rela.vmlinux.text", ".klp.sym.vmlinux.twin,2"),
        ("extern int x(void) KLP_RELOC_SYMBOL(btrfs, btrfs, twin);", "btrfs",
         ".klp.rela.btrfs.text", ".klp.sym.btrfs.twin,0"),
        ("extern int x(void) KLP_RELOC_SYMBOL(btrfs, ext4, ext4_ktype);", "btrfs",
         ".klp.rela.btrfs.text", ".klp.sym.ext4.ext4_ktype,0"),
        ("extern int x(void) KLP_RELOC_SYMBOL(vmlinux, vmlinux, clash.isra.0);", "",
         ".klp.rela.vmlinux.text", ".klp.sym.vmlinux.clash.isra.0,0"),
        ("extern int x(void) KLP_RELOC_SYMBOL(vmlinux, vmlinux, counter.0, 0);", "",
         ".klp.rela.vmlinux.text", ".klp.sym.vmlinux.counter.0,0"),
    ],
)  # fmt: skip
def test_gate_and_owner_are_written_apart(
    kernel: Kernel, tmp_path: Path, declaration: str, patched: str, section: str, name: str
) -> None:
    conversion = kernel.convert(declaration + " int f(void) { return x() + 1; }", patched=patched)
    found = Readelf(conversion, tmp_path).livepatch()
    assert {s: [n for _, n, _ in rows] for s, rows in found.items()} == {section: [name]}


def test_the_dotted_position_of_other_headers_is_understood(kernel: Kernel) -> None:
    conversion = kernel.convert(
        r"""extern int x(void) __asm__("\".klp.sym.rela.vmlinux.vmlinux.counter.0.0\"");
        int f(void) { return x() + 1; }"""
    )
    assert conversion.decisions[0].target is not None
    assert conversion.decisions[0].target.format() == ".klp.sym.vmlinux.counter.0,0"


@pytest.mark.parametrize(
    ("source", "patched", "text"),
    [
        ("extern int twin(void); struct KLP_MODULE_RELOC(vmlinux) a[] = { KLP_SYMPOS(twin, 0) };"
         "int f(void) { return twin() + 1; }", "",
         "livepatch.o:.klp.module_relocs.vmlinux:KLP_SYMPOS(twin, 0): "
         "position 0 of vmlinux:twin means that it is unique, and there are 2\n"
         "  Take one of:\n"
         "    vmlinux position 1, file unknown, address unknown\n"
         "    vmlinux position 2, file unknown, address unknown"),
        ("extern int twin(void); struct KLP_MODULE_RELOC(vmlinux) a[] = { KLP_SYMPOS(twin, 3) };"
         "int f(void) { return twin() + 1; }", "",
         "livepatch.o:.klp.module_relocs.vmlinux:KLP_SYMPOS(twin, 3): "
         "position 3 of vmlinux:twin does not exist: there are 2\n"
         "  Positions begin at 1:\n"
         "    vmlinux position 1, file unknown, address unknown\n"
         "    vmlinux position 2, file unknown, address unknown"),
        ("extern int twin(void); struct KLP_MODULE_RELOC(btrf) a[] = { KLP_SYMPOS(twin, 1) };"
         "int f(void) { return twin() + 1; }", "",
         "livepatch.o:.klp.module_relocs.btrf:KLP_SYMPOS(twin, 1): "
         "object 'btrf' of symbol 'twin' is not in this kernel\n"
         "  Did you mean btrfs?"),
        ("extern int both(void); struct KLP_MODULE_RELOC(btrfs) a[] = { KLP_SYMPOS(both, 0) };"
         "int f(void) { return both() + 1; }", "btrfs",
         "livepatch.o:.klp.module_relocs.btrfs:KLP_SYMPOS(both, 0): "
         "annotated symbol btrfs:both does not exist\n"
         "  It is defined elsewhere:\n"
         "    vmlinux position 1, file unknown, address unknown\n"
         "    ext4 position 1, file unknown, address unknown"),
        ("extern int twin(void); struct KLP_MODULE_RELOC(vmlinux) a[] = { KLP_SYMPOS(twin, 1) };"
         "int f(void) { return 1; }", "",
         "livepatch.o:.klp.module_relocs.vmlinux:KLP_SYMPOS(twin, 1): "
         "annotated symbol 'twin' is not used\n"
         "  Take the annotation away, or use the symbol."),
        ("extern int x(void) KLP_RELOC_SYMBOL(btrfs, vmlinux, both);"
         "int f(void) { return x() + 1; }", "btrfs",
         "livepatch.o:KLP_RELOC_SYMBOL(btrfs, vmlinux, both): "
         "vmlinux symbol 'both' cannot be applied when btrfs loads\n"
         "  Kernels since 5.8 refuse vmlinux symbols in a module's livepatch relocations.\n"
         "  Write KLP_RELOC_SYMBOL(vmlinux, vmlinux, both)."),
        ("extern int x(void) KLP_RELOC_SYMBOL(ext4, ext4, ext4_ktype);"
         "int f(void) { return x() + 1; }", "btrfs",
         "livepatch.o:KLP_RELOC_SYMBOL(ext4, ext4, ext4_ktype): "
         "gate ext4 of symbol 'ext4_ktype' is not an object of this livepatch\n"
         "  The kernel applies livepatch relocations only for objects "
         "that the livepatch patches.\n"
         "  Use one of them: btrfs."),
        ("extern int ext4_ktype; int f(void) { return ext4_ktype; }", "btrfs",
         "livepatch.o:.text+0x2: symbol 'ext4_ktype' is defined only by modules "
         "that this livepatch does not patch: ext4\n"
         "  To use it, write KLP_RELOC_SYMBOL(btrfs, ext4, ext4_ktype)."),
        ("extern int clash(void); int f(void) { return clash() + 1; }", "",
         "livepatch.o:.text+0x5: symbol 'clash' is not defined by vmlinux or any module\n"
         "  GCC drops functions that it inlines and renames clones (.isra.0, .constprop.0).\n"
         "  In symbols.klp there is clash.isra.0?"),
        ("extern int nowhere; int f(void) { return nowhere; }", "driver",
         "livepatch.o:.text+0x2: symbol 'nowhere' is not defined by vmlinux or any module\n"
         "  GCC drops functions that it inlines and renames clones (.isra.0, .constprop.0).\n"
         "  If driver has it, name that module's file by modules=, or write "
         "KLP_RELOC_SYMBOL(driver, driver, nowhere)."),
        ("extern int x KLP_RELOC_SYMBOL(driver, driver, x); int f(void) { return x; }", "btrfs",
         "livepatch.o:KLP_RELOC_SYMBOL(driver, driver, x): "
         "object 'driver' of symbol 'x' is not in this kernel\n"
         "  Did you mean vmlinux, btrfs, ext4?"),
    ],
)  # fmt: skip
def test_what_cannot_be_resolved_is_told(
    kernel: Kernel, source: str, patched: str, text: str
) -> None:
    assert kernel.error(source, patched=patched) == text


def test_all_problems_come_together(kernel: Kernel) -> None:
    text = kernel.error("int nowhere(void), twin(void); int f(void) { return nowhere() + twin(); }")
    assert "'nowhere' is not defined" in text
    assert "'twin' is ambiguous" in text


def test_contradicting_annotations_are_refused(kernel: Kernel) -> None:
    text = kernel.error(
        """extern int twin(void);
        struct KLP_MODULE_RELOC(vmlinux) a[] = { KLP_SYMPOS(twin, 1), KLP_SYMPOS(twin, 2) };
        int f(void) { return twin() + 1; }"""
    )
    assert text == (
        "livepatch.o:.klp.module_relocs.vmlinux:KLP_SYMPOS(twin, 2): symbol 'twin' is annotated "
        "as vmlinux position 1 and as vmlinux position 2\n"
        "  Both mean the same symbol of the object file.\n"
        "  Leave one of them out, or tell two symbols apart with "
        "KLP_RELOC_SYMBOL(gate, owner, symbol, position)."
    )


def test_both_kinds_of_annotation_must_agree(kernel: Kernel) -> None:
    source = """extern int x(void) KLP_RELOC_SYMBOL(vmlinux, vmlinux, twin, 1);
        struct KLP_MODULE_RELOC(vmlinux) a[] = { KLP_SYMPOS(x, %d) };
        int f(void) { return x() + 1; }"""
    assert kernel.error(source % 2) == (
        "livepatch.o:.klp.module_relocs.vmlinux:KLP_SYMPOS(twin, 2): symbol 'twin' is annotated "
        "as vmlinux position 1 and as vmlinux position 2\n"
        "  Both mean the same symbol of the object file.\n"
        "  Leave one of them out, or tell two symbols apart with "
        "KLP_RELOC_SYMBOL(gate, owner, symbol, position)."
    )
    (decision,) = kernel.convert(source % 1).decisions
    assert decision.target is not None
    assert decision.target.format() == ".klp.sym.vmlinux.twin,1"


def test_addends_keep_all_their_bits(kernel: Kernel, tmp_path: Path) -> None:
    conversion = kernel.convert(
        "extern char saved_command_line[]; char *far = saved_command_line + 0x123456789aL;"
    )
    (rows,) = Readelf(conversion, tmp_path).livepatch().values()
    assert [addend for _, _, addend in rows] == [0x123456789A]


def test_converted_input_comes_out_as_it_is(kernel: Kernel, tmp_path: Path) -> None:
    source = """extern int twin(void); extern char *saved_command_line;
        struct KLP_MODULE_RELOC(vmlinux) a[] = { KLP_SYMPOS(twin, 2) };
        int f(void) { return twin() + *saved_command_line; }"""
    first = kernel.convert(source)
    second = convert(
        ElfFile(first.data, "again"), Resolver(kernel.database, kernel.exports, frozenset())
    )
    assert second.data == first.data
    assert kernel.convert(source).data == first.data


def test_sections_of_the_same_name_keep_their_own_relocations(
    kernel: Kernel, tmp_path: Path
) -> None:
    conversion = kernel.convert(
        """__asm__(".section .text.same,\\"ax\\",@progbits,unique,1\\n"
                   ".quad saved_command_line\\n"
                   ".section .text.same,\\"ax\\",@progbits,unique,2\\n"
                   ".byte 0,0,0,0,0,0,0,0\\n .quad both\\n .text");"""
    )
    elf = Readelf(conversion, tmp_path).elf
    placed = {
        section["sh_info"]: [row["r_offset"] for row in section.iter_relocations()]
        for section in elf.iter_sections()
        if section.name == ".klp.rela.vmlinux.text.same"
    }
    assert sorted(placed.values()) == [[0], [8]]
    assert {elf.get_section(i).name for i in placed} == {".text.same"}


def test_debug_information_does_not_name_livepatch_symbols(kernel: Kernel, tmp_path: Path) -> None:
    conversion = kernel.convert(
        "extern char *saved_command_line; char *f(void) { return saved_command_line; }"
        '__asm__(".section .debug_test\\n .quad saved_command_line\\n .text");'
    )
    read = Readelf(conversion, tmp_path)
    assert list(read.livepatch()) == [".klp.rela.vmlinux.text"]
    (row,) = read.elf.get_section_by_name(".rela.debug_test").iter_relocations()
    assert (row["r_info_type"], row["r_info_sym"]) == (0, 0)


@pytest.mark.parametrize(
    "section",
    [
        "__jump_table",
        ".static_call_sites",
        ".altinstructions",
        "__ex_table",
        "__param",
        ".init.text",
    ],
)
def test_a_modules_symbol_in_a_section_read_at_load_is_refused(
    kernel: Kernel, section: str
) -> None:
    text = kernel.error(
        f'__asm__(".section {section},\\"aw\\"\\n .quad btrfs_ktype\\n .text");', patched="btrfs"
    )
    hint = "Do it in a function that runs when btrfs is there."
    if section in ("__jump_table", ".static_call_sites"):
        hint = (
            "Use static_key_enabled() for a static key, "
            "a plain call through a function pointer for a static call."
        )
    assert text == (
        f"livepatch.o:{section}+0x0: symbol 'btrfs_ktype' of module btrfs is used in {section}\n"
        "  The kernel reads this section when the livepatch loads, before btrfs is there.\n"
        f"  {hint}"
    )


@pytest.mark.parametrize(
    "section", [".data_mine", ".ref.text", ".text.mine", ".rodata.mine", "mine"]
)
def test_a_section_of_the_authors_own_can_wait(
    kernel: Kernel, tmp_path: Path, section: str
) -> None:
    conversion = kernel.convert(
        f'__asm__(".section {section},\\"aw\\"\\n .quad btrfs_ktype\\n .text");', patched="btrfs"
    )
    name = section.removeprefix(".")
    assert list(Readelf(conversion, tmp_path).livepatch()) == [f".klp.rela.btrfs.{name}"]


def test_a_vmlinux_symbol_may_stand_there(kernel: Kernel, tmp_path: Path) -> None:
    conversion = kernel.convert(
        '__asm__(".section __jump_table,\\"aw\\"\\n .quad saved_command_line\\n .text");'
    )
    assert list(Readelf(conversion, tmp_path).livepatch()) == [".klp.rela.vmlinux.__jump_table"]


def test_depends_is_emptied_in_place(kernel: Kernel) -> None:
    conversion = kernel.convert(
        """extern int btrfs_exported(void); int f(void) { return btrfs_exported() + 1; }
        __asm__(".section .modinfo,\\"a\\"\\n .asciz \\"license=GPL\\"\\n"
                ".asciz \\"depends=btrfs\\"\\n .asciz \\"name=livepatch_x\\"\\n .text");""",
        patched="btrfs",
    )
    out = ElfFile(conversion.data, "out")
    section = out.section(".modinfo")
    assert section is not None
    assert bytes(out.contents(section)) == (b"license=GPL\0depends=\0\0\0\0\0\0name=livepatch_x\0")


def test_an_undefined_weak_symbol_may_stay(kernel: Kernel, tmp_path: Path) -> None:
    conversion = kernel.convert(
        "extern int maybe(void) __attribute__((weak)); int f(void) { return maybe ? maybe() : 1; }"
    )
    assert [d.fate for d in conversion.decisions] == [Fate.WEAK]
    assert Readelf(conversion, tmp_path).ordinary() == {"maybe"}


def test_another_machines_object_is_refused(tmp_path: Path) -> None:
    data = bytearray(compile_c(tmp_path, "int x;").read_bytes())
    data[18:20] = (40).to_bytes(2, "little")  # EM_ARM
    with pytest.raises(KlpError) as caught:
        convert(ElfFile(bytes(data), "arm.ko"), Resolver(None, None, frozenset()))
    assert str(caught.value) == (
        "arm.ko: is for machine 40, which has no livepatch\n"
        "  Known: x86_64, aarch64, powerpc64le, s390x, loongarch64, riscv64."
    )


def test_a_name_that_is_too_long_is_refused(tmp_path: Path) -> None:
    name = "n" * 512
    kernel = Kernel(tmp_path, {"vmlinux": "printk"}, vmlinux=name)
    text = kernel.error(f"extern int {name}(void); int f(void) {{ return {name}() + 1; }}")
    assert text == (
        f"vmlinux:{name}: symbol name of 512 bytes is too long\n"
        "  This kernel looks up names of at most 511 bytes.\n"
        "  Reach the symbol through another one with a shorter name."
    )
