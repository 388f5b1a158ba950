"""Modules' symbols from their .ko files."""

from __future__ import annotations

from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile

from klpbuild.elf.constants import EM, SHF, SHN_ABS, SHT, STB, STT
from klpbuild.elf.writer import ElfObject, WritableSection
from klpbuild.errors import KlpError
from klpbuild.symbols.table import Flag, ObjectSymbols
from tests.elf.inputs import FLAGS
from tests.elf.inputs import compile_object as compile_kind
from tests.symbols.inputs import compile_object, link_module
from tests.symbols.reading import read_modules

SUPER = """
static __attribute__((noinline)) int helper(int value) { return value + 1; }
int btrfs_show(int value) { return helper(value); }
extern int elsewhere(int);
int (*hook)(int) = elsewhere;
static const char license[] __attribute__((section(".modinfo"), used)) = "license=GPL";
static int loads __attribute__((section(".data..percpu"), used)) = 1;
"""
INODE = """
static __attribute__((noinline)) int helper(int value) { return value + 2; }
int btrfs_open(int value) { return helper(value); }
__attribute__((section(".init.text"))) int init_module(void) { return 0; }
__attribute__((section(".exit.text"))) void cleanup_module(void) { }
"""


@pytest.fixture(scope="module")
def module(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("module")
    return link_module(
        directory,
        "snd-btrfs.ko",
        compile_object(directory, "super.c", SUPER),
        compile_object(directory, "inode.c", INODE),
    )


def one(path: Path) -> ObjectSymbols:
    (symbols,) = read_modules([path])
    return symbols


def named(path: Path) -> list[str]:
    """Defined, named symbols other than STT_FILE in symbol-table order, by pyelftools."""
    with path.open("rb") as file:
        table = ELFFile(file).get_section_by_name(".symtab")
        return [
            symbol.name
            for symbol in table.iter_symbols()
            if symbol.name
            and symbol["st_shndx"] != "SHN_UNDEF"
            and symbol["st_info"]["type"] not in ("STT_FILE", "STT_SECTION")
        ]


def flags(symbols: ObjectSymbols) -> dict[str, Flag]:
    return {
        name: Flag(flag)
        for name, flag in zip(symbols.name_list, symbols.rows["flags"].tolist(), strict=True)
    }


def test_symbol_table_order_without_undefined_symbols(module: Path) -> None:
    symbols = one(module)
    assert symbols.object == "snd_btrfs"
    assert symbols.name_list == named(module)
    assert symbols.name_list.count("helper") == 2
    assert "elsewhere" not in symbols.name_list


@pytest.mark.parametrize("kind", sorted(FLAGS))
def test_every_kind_of_object(tmp_path: Path, kind: str) -> None:
    path = compile_kind(tmp_path, kind)
    assert one(path).name_list == named(path)


def test_what_the_loader_keeps(module: Path) -> None:
    """kernel/module/kallsyms.c, is_core_symbol()."""
    found = flags(one(module))
    assert found["btrfs_show"] == found["loads"] == found["cleanup_module"] == Flag.LIVE
    assert found["init_module"] == Flag.INIT
    assert found["license"] == Flag(0)


def test_sections_and_source_files(module: Path) -> None:
    symbols = one(module)
    sections = symbols.section_names.decode().split("\n")
    files = symbols.file_names.decode().split("\n")
    rows = dict(zip(symbols.name_list, symbols.rows, strict=True))
    assert sections[rows["init_module"]["section"]] == ".init.text"
    helpers = [r for n, r in zip(symbols.name_list, symbols.rows, strict=True) if n == "helper"]
    assert [files[r["file"] - 1] for r in helpers] == ["super.c", "inode.c"]
    assert rows["btrfs_show"]["file"] == 0


def test_names_are_the_kernels(tmp_path: Path) -> None:
    path = compile_object(tmp_path, "a.c", "int f(void) { return 0; }")
    for name in ("snd-pcm.ko", "dm_mod.ko"):
        path.rename(tmp_path / name)
        path = tmp_path / name
        assert one(path).object == name.replace("-", "_").removesuffix(".ko")


def test_many_modules_in_one_pass_are_as_each_alone(module: Path, tmp_path: Path) -> None:
    paths = [module, *(compile_kind(tmp_path, kind) for kind in sorted(FLAGS))]
    for path, together in zip(paths, read_modules(paths), strict=True):
        alone = one(path)
        assert together.to_bytes("key") == alone.to_bytes("key")
        assert together.object == alone.object


def test_a_livepatch_says_so(tmp_path: Path) -> None:
    info = 'static const char {}[] __attribute__((section(".modinfo"), used)) = "{}";'
    for value, expected in (("livepatch=Y", True), ("description=no livepatch=Y", False)):
        source = info.format("a", "license=GPL") + info.format("b", value)
        assert one(compile_object(tmp_path, "m.c", source)).livepatch is expected


@pytest.mark.parametrize("order", ["<", ">"])
def test_both_byte_orders(tmp_path: Path, order: str) -> None:
    elf = ElfObject(EM.S390 if order == ">" else EM.X86_64, order)
    text = elf.add_section(
        WritableSection(".text", SHT.PROGBITS, SHF.ALLOC | SHF.EXECINSTR, data=bytes(64))
    )
    elf.add_symbol("helper", bind=STB.LOCAL, type=STT.FUNC, st_shndx=text, st_value=16)
    elf.add_symbol("constant", bind=STB.GLOBAL, type=STT.NOTYPE, st_shndx=SHN_ABS, st_value=7)
    elf.add_symbol("weak", bind=STB.WEAK, type=STT.OBJECT, st_shndx=text, st_value=32)
    path = tmp_path / "m.ko"
    elf.write(path)
    symbols = one(path)
    assert symbols.name_list == ["helper", "constant", "weak"]
    assert symbols.rows["address"].tolist() == [16, 7, 32]
    assert symbols.rows["kind"].tolist() == [b"t", b"A", b"V"]
    assert symbols.rows["flags"].tolist() == [Flag.LIVE, 0, Flag.LIVE]


def refused(path: Path) -> str:
    with pytest.raises(KlpError) as refusal:
        one(path)
    return str(refusal.value)


def test_an_object_without_symbols(tmp_path: Path) -> None:
    path = tmp_path / "m.ko"
    ElfObject(EM.X86_64).write(path)
    assert refused(path) == (
        f"{path}: has no symbols\n"
        "  Only the symbol table tells what a name in the kernel stands for.\n"
        "  Use the file before it was stripped: the build tree's or the debug package's."
    )


def test_broken_files(module: Path, tmp_path: Path) -> None:
    data = module.read_bytes()
    path = tmp_path / "m.ko"
    path.write_bytes(b"")
    assert refused(path) == f"{path}: is empty"
    path.write_bytes(b"!<arch>\n" + bytes(100))
    assert refused(path).startswith(f"{path}: is not an ELF file")
    path.write_bytes(data[:4] + b"\x01" + data[5:])
    assert refused(path).startswith(f"{path}: is not a 64-bit ELF file")
    for size in range(64, len(data), len(data) // 20):
        path.write_bytes(data[:size])
        assert refused(path).startswith(f"{path}: is truncated")


def test_a_name_outside_its_table(tmp_path: Path) -> None:
    elf = ElfObject(EM.X86_64)
    text = elf.add_section(WritableSection(".text", SHT.PROGBITS, SHF.ALLOC, data=bytes(8)))
    elf.add_symbol("f", bind=STB.GLOBAL, type=STT.FUNC, st_shndx=text)
    data = bytearray(elf.to_bytes())
    elf = ElfObject(EM.X86_64)
    path = tmp_path / "m.ko"
    # The last symbol's st_name, 24 bytes before the table's end, becomes far too large.
    table = data.index((1).to_bytes(4, "little") + bytes([STB.GLOBAL << 4 | STT.FUNC]))
    data[table : table + 4] = (0x7FFFFFFF).to_bytes(4, "little")
    path.write_bytes(data)
    assert refused(path) == (
        f"{path}: is broken: a symbol's name lies outside its string table\n"
        "  Build or fetch the file again."
    )


def test_a_name_that_holds_a_line_end(tmp_path: Path) -> None:
    elf = ElfObject(EM.X86_64)
    elf.add_symbol("f\ng", bind=STB.GLOBAL, type=STT.FUNC, st_shndx=SHN_ABS)
    path = tmp_path / "m.ko"
    elf.write(path)
    assert refused(path) == f"{path}: is broken: a name holds a line end"
