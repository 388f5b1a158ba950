"""vmlinux' symbols from its ELF file, from System.map and from a copy of /proc/kallsyms."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from klpbuild.errors import KlpError
from klpbuild.symbols.sources import read_kallsyms, read_system_map
from klpbuild.symbols.table import Flag, ObjectSymbols
from tests.symbols.inputs import V6_1, V6_12, compile_object, link_vmlinux, nm
from tests.symbols.reading import read_vmlinux

MEMINFO = """
static __attribute__((noinline)) int show(int value) { return value + 1; }
int meminfo_proc_show(int value) { return show(value); }
static int counter;
int *meminfo_counter = &counter;
__attribute__((section(".init.text"))) int meminfo_init(void) { return 0; }
__attribute__((section(".data..percpu"))) int per_processor = 1;
__attribute__((weak)) int arch_report(void) { return 0; }
extern int nowhere __attribute__((weak));
int *reference = &nowhere;
asm(".set absolute, 0x10\\n.globl absolute_global\\n.set absolute_global, 0x20");
asm(".section .rodata\\n.globl __kstrtab_meminfo\\n__kstrtab_meminfo: .byte 0\\n.text");
asm(".globl alias\\n.set alias, meminfo_proc_show");
"""
CMDLINE = """
static __attribute__((noinline)) int show(int value) { return value + 2; }
int cmdline_proc_show(int value) { return show(value); }
static int counter;
int *cmdline_counter = &counter;
"""


@pytest.fixture(scope="module")
def vmlinux(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("vmlinux")
    return link_vmlinux(
        directory,
        compile_object(directory, "cmdline.c", CMDLINE),
        compile_object(directory, "meminfo.c", MEMINFO),
    )


@pytest.fixture(scope="module")
def system_map(vmlinux: Path) -> Path:
    """As scripts/mksysmap makes it."""
    path = vmlinux.with_name("System.map")
    lines = nm(vmlinux, "-n").splitlines(keepends=True)
    left_out = (" a ", " N ", " U ", " w ", " __kstrtab_")
    path.write_text("".join(line for line in lines if not any(o in line for o in left_out)))
    return path


def kallsyms_of(symbols: ObjectSymbols, offset: int = 0) -> str:
    """What /proc/kallsyms shows of these symbols when the kernel is moved by an offset."""
    rows = zip(symbols.rows["address"].tolist(), symbols.rows["kind"], strict=True)
    return "".join(
        f"{address + offset if address >> 63 else address:016x} {kind.decode()} {name}\n"
        for (address, kind), name in zip(rows, symbols.name_list, strict=True)
    )


def places(symbols: ObjectSymbols, name: str) -> list[int]:
    return [n for n, other in enumerate(symbols.name_list) if other == name]


def file_of(symbols: ObjectSymbols, row: int) -> str | None:
    number = int(symbols.rows["file"][row])
    return symbols.file_names.decode().split("\n")[number - 1] if number else None


def test_what_is_held_and_in_which_order(vmlinux: Path) -> None:
    symbols = read_vmlinux(vmlinux, V6_1)
    names = symbols.name_list
    assert symbols.object == "vmlinux"
    assert {"absolute", "absolute_global", "nowhere", "__kstrtab_meminfo"}.isdisjoint(names)
    assert {"meminfo_proc_show", "alias", "arch_report", "per_processor", "_text"} <= set(names)
    addresses = symbols.rows["address"].tolist()
    assert addresses == sorted(addresses)
    assert names[:2] == ["per_processor", "__per_cpu_start"]


def test_homonyms_are_told_apart(vmlinux: Path) -> None:
    symbols = read_vmlinux(vmlinux, V6_1)
    first, second = places(symbols, "show")
    assert [file_of(symbols, row) for row in (first, second)] == ["cmdline.c", "meminfo.c"]
    assert [file_of(symbols, row) for row in places(symbols, "counter")] == [
        "cmdline.c",
        "meminfo.c",
    ]
    # A global symbol stands after all files.
    assert file_of(symbols, places(symbols, "meminfo_proc_show")[0]) is None


def test_kinds_are_those_of_nm(vmlinux: Path) -> None:
    symbols = read_vmlinux(vmlinux, V6_1)
    ours = sorted(line for line in kallsyms_of(symbols).splitlines())
    theirs = [line for line in nm(vmlinux).splitlines() if line[17:] in {o[17:] for o in ours}]
    assert ours == sorted(theirs)
    assert {line[17] for line in ours} >= set("tTWDb")


def test_init_memory(vmlinux: Path) -> None:
    symbols = read_vmlinux(vmlinux, V6_1)
    numbers = symbols.rows["flags"].tolist()
    flags = {name: Flag(n) for name, n in zip(symbols.name_list, numbers, strict=True)}
    assert flags["meminfo_init"] == Flag.INIT | Flag.LIVE
    assert flags["__init_begin"] == Flag.INIT | Flag.LIVE
    assert flags["__init_end"] == flags["per_processor"] == flags["_text"] == Flag.LIVE


def test_per_cpu_variables_in_init_memory_stay(tmp_path: Path) -> None:
    """As arm64, s390x, and x86-64 since 6.15 are linked."""
    listing = tmp_path / "System.map"
    names = ("__init_begin", "starts", "__per_cpu_start", "each", "__per_cpu_end", "__init_end")
    listing.write_text("".join(f"{n * 16 + 4096:016x} D {name}\n" for n, name in enumerate(names)))
    symbols = read_system_map(listing, V6_12)
    flags = dict(zip(symbols.name_list, symbols.rows["flags"].tolist(), strict=True))
    assert Flag(flags["starts"]) == Flag.INIT | Flag.LIVE
    assert Flag(flags["each"]) == Flag.LIVE


def test_all_sources_agree(vmlinux: Path, system_map: Path, tmp_path: Path) -> None:
    elf = read_vmlinux(vmlinux, V6_1)
    listed = read_system_map(system_map, V6_1)
    assert listed.names == elf.names
    assert listed.rows[["address", "kind", "flags", "hash"]].tolist() == (
        elf.rows[["address", "kind", "flags", "hash"]].tolist()
    )
    for offset in (0, 0x5600000):
        copy = tmp_path / "kallsyms"
        copy.write_text(kallsyms_of(elf, offset))
        assert read_kallsyms(copy).names == elf.names
        assert read_kallsyms(copy).rows["flags"].tolist() == elf.rows["flags"].tolist()


def test_percpu_symbols_are_absolute_in_kallsyms(tmp_path: Path) -> None:
    """CONFIG_KALLSYMS_ABSOLUTE_PERCPU.  In System.map nothing that counts is absolute."""
    text = "0000000000000000 A per_processor\nffffffff81000000 T _text\n"
    path = tmp_path / "kallsyms"
    path.write_text(text)
    assert read_kallsyms(path).name_list == ["per_processor", "_text"]
    assert read_system_map(path, V6_1).name_list == ["_text"]


def test_modules_in_a_copy_of_kallsyms_are_not_vmlinux(tmp_path: Path) -> None:
    path = tmp_path / "kallsyms"
    path.write_text(
        "ffffffff81000000 T _text\n"
        "ffffffff81000010 t show\n"
        "ffffffffc0201000 t show\t[btrfs]\n"
        "ffffffffc0000000 t bpf_prog_1\t[bpf]\n"
        "ffffffffc0100000 t ftrace_trampoline\t[__builtin__ftrace]\n"
    )
    assert read_kallsyms(path).name_list == ["_text", "show"]


def refused(read: object, *arguments: object) -> str:
    with pytest.raises(KlpError) as refusal:
        read(*arguments)  # type: ignore[operator]
    return str(refusal.value)


def test_debians_stub_is_not_a_system_map(tmp_path: Path) -> None:
    path = tmp_path / "System.map-6.1.0-47-amd64"
    where = "the linux-image-<version>-dbg package"
    path.write_text(f"ffffffffffffffff B The real System.map is in {where}\n")
    assert refused(read_system_map, path, V6_1) == (
        f"{path}: is Debian's stub, not a System.map\n"
        "  Debian ships /boot/System.map-* with one line, so that nobody learns addresses.\n"
        "  The real one is in the package linux-image-<release>-dbg.\n"
        "  vmlinux with symbols or a copy of /proc/kallsyms will do as well."
    )


def test_a_copy_without_privileges(tmp_path: Path) -> None:
    path = tmp_path / "kallsyms"
    path.write_text("0000000000000000 T _text\n0000000000000000 t show\n")
    assert refused(read_kallsyms, path) == (
        f"{path}: holds no addresses\n"
        "  The kernel shows zeros to those who may not see addresses "
        "(sysctl kernel.kptr_restrict).\n"
        "  Copy /proc/kallsyms again as root, after: sysctl kernel.kptr_restrict=1"
    )


def test_a_copy_that_was_sorted(tmp_path: Path) -> None:
    path = tmp_path / "kallsyms"
    path.write_text("ffffffff81000020 T a\nffffffffc0000000 t m\t[m]\nffffffff81000000 T b\n")
    assert refused(read_kallsyms, path) == (
        f"{path}:3: is not in the order of /proc/kallsyms\n"
        "  A symbol's position is counted in that order, which goes by address.\n"
        "  Copy /proc/kallsyms as it is, do not sort it."
    )


NOT_A_LISTING = (
    "is not a line of System.map or /proc/kallsyms\n"
    "  Every line is an address of sixteen digits, a letter and a name.\n"
    "  Give the whole file, as it is."
)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", 1),
        ("\n", 1),
        ("ffffffff81000000 T _text\nffffffff81000000 T \n", 2),
        ("ffffffff81000000 T _text\n\n", 2),
        ("ffffffff81000000 T _text\nffffffff8100000g T f\n", 2),
        ("ffffffff81000000 T _text\nffffffff81000000  T f\n", 2),
        ("                 U printk\n", 1),
        ("c0100000 T _text on a machine of 32 bits\n", 1),
        ("\x7fELF\x02\x01\x01" + "\0" * 100, 1),
    ],
)
def test_other_files_are_refused(tmp_path: Path, text: str, line: int) -> None:
    path = tmp_path / "file"
    path.write_text(text)
    assert refused(read_kallsyms, path) == f"{path}:{line}: {NOT_A_LISTING}"
    assert refused(read_system_map, path, V6_1) == f"{path}:{line}: {NOT_A_LISTING}"


def test_a_system_map_without_a_last_line_end(tmp_path: Path) -> None:
    path = tmp_path / "System.map"
    path.write_text("ffffffff81000000 T _text\nffffffff81000010 t show")
    assert read_system_map(path, V6_1).name_list == ["_text", "show"]


def test_a_copy_of_kallsyms_is_not_a_system_map(tmp_path: Path) -> None:
    path = tmp_path / "kallsyms"
    path.write_text("ffffffff81000000 T _text\nffffffffc0201000 t show\t[btrfs]\n")
    assert refused(read_system_map, path, V6_1) == (
        f"{path}:2: is not a System.map: it lists modules\n  Give it as a copy of /proc/kallsyms."
    )


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "file"
    expected = f"{path}: cannot be read: No such file or directory"
    assert refused(read_kallsyms, path) == expected
    assert refused(read_system_map, path, V6_1) == expected
    assert refused(read_vmlinux, path, V6_1) == expected


def test_a_stripped_vmlinux(vmlinux: Path, tmp_path: Path) -> None:
    path = tmp_path / "vmlinux"
    subprocess.run(["strip", "-o", path, vmlinux], check=True)
    assert refused(read_vmlinux, path, V6_1) == (
        f"{path}: has no symbols\n"
        "  Only the symbol table tells what a name in the kernel stands for.\n"
        "  Use the file before it was stripped: the build tree's or the debug package's."
    )


def test_a_vmlinux_that_is_not_linked(tmp_path: Path) -> None:
    path = compile_object(tmp_path, "vmlinux.c", CMDLINE)
    assert refused(read_vmlinux, path, V6_1) == (
        f"{path}: is not linked\n"
        "  Positions in vmlinux are counted by address, which the link decides.\n"
        "  Give vmlinux itself, not vmlinux.o."
    )
