"""The annotations of klpbuild/livepatch.h, as GCC and the assembler understand them."""

from __future__ import annotations

from pathlib import Path

import pytest

from klpbuild.elf.reader import ElfFile
from tests.objects import compile_c

ENTRY_SIZE = 12
ABSOLUTE_64 = 1


def _entries(elf: ElfFile, owner: str) -> list[tuple[int, str]]:
    """(offset, symbol) of each annotation of an object."""
    section = elf.section(f".rela.klp.module_relocs.{owner}")
    assert section is not None
    rows = elf.relocations(section)
    assert set(rows["r_type"].tolist()) == {ABSOLUTE_64}
    return [
        (offset, elf.symbol_name(symbol))
        for offset, symbol in zip(rows["r_offset"].tolist(), rows["r_sym"].tolist(), strict=True)
    ]


def test_annotation_as_the_kernels_document_writes_it(tmp_path: Path) -> None:
    source = """
extern int symbol;
struct KLP_MODULE_RELOC(object) data_structure_name[] = {
	KLP_SYMPOS(symbol, 3)
};
int use(void) { return symbol; }
"""
    elf = ElfFile.read(compile_c(tmp_path, source))
    section = elf.section(".klp.module_relocs.object")
    assert section is not None
    assert (section.sh_addralign, section.sh_size) == (4, ENTRY_SIZE)
    assert bytes(elf.contents(section)) == bytes(8) + (3).to_bytes(4, "little")
    assert _entries(elf, "object") == [(0, "symbol")]


def test_arrays_follow_each_other_without_holes(tmp_path: Path) -> None:
    # GCC aligns an array of 32 bytes or more to 32 unless told otherwise.
    lines = ["extern int a; extern const int b[3]; extern int f(int); extern char *s;"]
    entries = "{ KLP_SYMPOS(a, 1), KLP_SYMPOS(b, 0), KLP_SYMPOS(f, 2), KLP_SYMPOS(s, 4) }"
    lines += [f"struct KLP_MODULE_RELOC(ext4) r{n}[] = {entries};" for n in range(3)]
    lines += [f"static KLP_MODULE_RELOC(ext4) other[] = {entries};"]
    elf = ElfFile.read(compile_c(tmp_path, "\n".join(lines), "-Wall", "-Werror"))
    section = elf.section(".klp.module_relocs.ext4")
    assert section is not None
    assert section.sh_size == 16 * ENTRY_SIZE
    assert [offset for offset, _ in _entries(elf, "ext4")] == [n * ENTRY_SIZE for n in range(16)]


@pytest.mark.parametrize(
    ("declaration", "name"),
    [
        ("extern int x KLP_RELOC_SYMBOL(ext4, jbd2, value)", "ext4.jbd2.value,0"),
        ("extern int x KLP_RELOC_SYMBOL(ext4, jbd2, value, 7)", "ext4.jbd2.value,7"),
        ("extern int x KLP_RELOC_SYMBOL_POS(ext4, ext4, value, 2)", "ext4.ext4.value,2"),
        (
            "extern int x KLP_RELOC_SYMBOL(vmlinux, vmlinux, counter.0)",
            "vmlinux.vmlinux.counter.0,0",
        ),
        ("extern int x KLP_RELOC_SYMBOL(9p, 9p, v9fs.isra.0, POSITION)", "9p.9p.v9fs.isra.0,5"),
        ("extern int x KLP_RELOC_SYMBOL(vmlinux, vmlinux, MACRO)", "vmlinux.vmlinux.MACRO,0"),
    ],
)
def test_symbol_annotation(tmp_path: Path, declaration: str, name: str) -> None:
    source = f"""
#define POSITION 5
#define MACRO another
{declaration};
int f(int i) {{ int *volatile p = &x + i; return x + *p; }}
int *address = &x + 3;
"""
    elf = ElfFile.read(compile_c(tmp_path, source))
    (undefined,) = (s for s in elf.symbol_list if s.name and not s.st_shndx)
    assert undefined.name == f".klp.sym.rela.{name}"
    data = elf.section(".rela.data")
    assert data is not None
    assert elf.relocations(data)["r_addend"].tolist() == [12]


@pytest.mark.parametrize("flags", [["-O0", "-g"], ["-O2"], ["-O2", "-fcf-protection=branch"]])
def test_annotated_function_is_called_and_addressed(tmp_path: Path, flags: list[str]) -> None:
    source = """
extern int work(int) KLP_RELOC_SYMBOL(ext4, jbd2, work.constprop.0, 2);
int tail(int i) { return work(i); }
int twice(int i) { return work(i) + work(i + 1); }
int (*pointer)(int) = work;
"""
    elf = ElfFile.read(compile_c(tmp_path, source, *flags))
    name = ".klp.sym.rela.ext4.jbd2.work.constprop.0,2"
    uses = sum(
        elf.symbol_name(int(row["r_sym"])) == name
        for section in elf.relocation_sections
        if "debug" not in section.name
        for row in elf.relocations(section)
    )
    assert uses == 4


def test_definitions_before_the_header_win(tmp_path: Path) -> None:
    source = """
struct KLP_MODULE_RELOC(x) mine;
int f(void) { return sizeof(mine); }
"""
    flag = "-DKLP_MODULE_RELOC(object)=own_type { int only; }"
    elf = ElfFile.read(compile_c(tmp_path, source, flag))
    assert elf.section(".klp.module_relocs.x") is None


def test_header_is_harmless_in_assembly(tmp_path: Path) -> None:
    compile_c(tmp_path, "", "-D__ASSEMBLY__")
