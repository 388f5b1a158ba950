"""The listings of the kernel's document on the livepatch ELF format, for s390x and ppc64le.

tests/fixtures/test_document.py has them for x86-64, on a kernel of our own.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from klpbuild.convert.converter import convert
from klpbuild.elf.reader import ElfFile
from klpbuild.graph.tables import read_patches
from klpbuild.resolve.fate import Resolver
from klpbuild.symbols.database import SymbolDatabase
from klpbuild.symbols.symvers import Exports
from tests.convert.test_convert import TABLES
from tests.machines.objects import compile_for
from tests.objects import HEADER, module_symvers, symbols_klp

_SOURCE = """
#define FUNCTION(name) __attribute__((section(".text." #name))) int new_##name
int printk(const char *, ...), snprintf(char *, unsigned long, const char *, ...);
extern int v9fs_sessionlist, v9fs_sessionlist_lock, btrfs_ktype, ext4_root_sbi;
int can_modify_feature(int) __asm__("can_modify_feature.isra.3");
int ext4_count_free_clusters(void), si_swapinfo(int *);
/* Nobody says here that ext4 needs jbd2. */
int jbd2_journal_flush(int) KLP_RELOC_SYMBOL(ext4, jbd2, jbd2_journal_flush);
int hugetlb_report_meminfo(int *), capable(int);
extern char *saved_command_line;
FUNCTION(caches_show)(void) { return v9fs_sessionlist + v9fs_sessionlist_lock; }
FUNCTION(btrfs_feature_attr_show)(int *ktype, char *buffer) {
    printk("show");
    int value = ktype == &btrfs_ktype ? 1 : can_modify_feature(*ktype);
    return snprintf(buffer, 8, "%d", value) + 1;
}
FUNCTION(ext4_attr_store)(int n) { return jbd2_journal_flush(n + ext4_root_sbi) + capable(21); }
FUNCTION(ext4_attr_show)(void) { return ext4_count_free_clusters() + 1; }
FUNCTION(cmdline_proc_show)(void) { return printk(saved_command_line) + 1; }
FUNCTION(meminfo_proc_show)(int *m) { return si_swapinfo(m) + hugetlb_report_meminfo(m); }
__attribute__((section(".modinfo"), used))
static const char info[] = "livepatch=Y\\0license=GPL\\0depends=jbd2";
"""
_PATCHED = ("9p", "btrfs", "ext4")
_EXPORTED = "printk snprintf _mcount"
_SYMBOLS = {
    "vmlinux": f"{_EXPORTED} saved_command_line si_swapinfo hugetlb_report_meminfo capable",
    "9p": "v9fs_sessionlist v9fs_sessionlist_lock",
    "btrfs": "btrfs_ktype can_modify_feature.isra.3",
    "ext4": "ext4_root_sbi ext4_count_free_clusters",
    "jbd2": "jbd2_journal_flush",
}


@pytest.fixture(params=["s390x", "powerpc64le"])
def arch(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


@pytest.fixture
def document(arch: str, tmp_path: Path) -> Path:
    """The document's livepatch, converted."""
    entries = "".join(f'{{ "{name}", klp_funcs }},' for name in _PATCHED)
    text = TABLES.replace("OBJECTS", "{ 0, klp_funcs }," + entries) + _SOURCE
    data = compile_for(arch, tmp_path, text, "-include", str(HEADER))
    elf = ElfFile(data, "document.ko")
    gates = frozenset(function.object for function in read_patches(elf))
    assert gates == {"vmlinux", *_PATCHED}
    database = SymbolDatabase.read(symbols_klp(tmp_path, **_SYMBOLS))
    exports = Exports.read(
        module_symvers(tmp_path, vmlinux=_EXPORTED, fs__jbd2__jbd2="jbd2_journal_flush")
    )
    converted = tmp_path / "document.ko"
    converted.write_bytes(convert(elf, Resolver(database, exports, gates)).data)
    return converted


def readelf(option: str, path: Path) -> str:
    """List a file by binutils, which read every machine's sections and symbols."""
    done = subprocess.run(
        ["readelf", option, "--wide", path], capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    return done.stdout


def relocations(path: Path) -> dict[str, set[tuple[str, str]]]:
    """Livepatch section to type, and symbol without addend, of each relocation."""
    found: dict[str, set[tuple[str, str]]] = {}
    for part in readelf("--relocs", path).split("Relocation section '")[1:]:
        name, _, rest = part.partition("'")
        rows = [row.split() for row in rest.splitlines()[2:] if row.strip()]
        if name.startswith(".klp.rela."):
            found[name] = {(row[2], row[4]) for row in rows}
    return found


def test_sections(document: Path) -> None:
    rows = {
        name: [number, *rest.split()]
        for number, name, rest in re.findall(
            r"^ +\[ *(\d+)\] (\.\S+) +(.*)$", readelf("--sections", document), re.MULTILINE
        )
    }
    found = [name for name in rows if name.startswith(".klp.rela.")]
    assert found
    for name in found:
        _, kind, address, _, _, entry_size, flags, link, info, alignment = rows[name]
        target = "." + name.removeprefix(".klp.rela.").partition(".")[2]
        assert (kind, int(address, 16), entry_size, alignment) == ("RELA", 0, "18", "8")
        assert set(flags) - {"I"} == {"A", "o"}
        assert (link, info) == (rows[".symtab"][0], rows[target][0])


def test_relocations(document: Path, arch: str) -> None:
    """Calls are in the functions' sections; ppc64le has the addresses of data in its TOC."""
    call, data = {
        "s390x": ("R_390_PLT32DBL", "R_390_GOTENT"), "powerpc64le": ("R_PPC64_REL24", ""),
    }[arch]  # fmt: skip

    def named(kind: str, *symbols: str) -> set[tuple[str, str]]:
        return {(kind, f".klp.sym.{symbol},0") for symbol in symbols if kind}

    calls = {
        "btrfs.text.btrfs_feature_attr_show": ("btrfs.can_modify_feature.isra.3",),
        "ext4.text.ext4_attr_store": ("jbd2.jbd2_journal_flush",),
        "ext4.text.ext4_attr_show": ("ext4.ext4_count_free_clusters",),
        "vmlinux.text.ext4_attr_store": ("vmlinux.capable",),
        "vmlinux.text.meminfo_proc_show": (
            "vmlinux.si_swapinfo", "vmlinux.hugetlb_report_meminfo",
        ),
    }  # fmt: skip
    addresses = {
        "9p.text.caches_show": ("9p.v9fs_sessionlist", "9p.v9fs_sessionlist_lock"),
        "btrfs.text.btrfs_feature_attr_show": ("btrfs.btrfs_ktype",),
        "ext4.text.ext4_attr_store": ("ext4.ext4_root_sbi",),
        "vmlinux.text.cmdline_proc_show": ("vmlinux.saved_command_line",),
    }
    wanted: dict[str, set[tuple[str, str]]] = {}
    for section, symbols in calls.items():
        wanted.setdefault(f".klp.rela.{section}", set()).update(named(call, *symbols))
    for section, symbols in addresses.items():
        place = section if data else f"{section.partition('.')[0]}.toc"
        rows = named(data or "R_PPC64_ADDR64", *symbols)
        wanted.setdefault(f".klp.rela.{place}", set()).update(rows)
    assert relocations(document) == wanted


def test_symbols(document: Path) -> None:
    found = re.findall(
        r"^ +\d+: 0{16} +0 NOTYPE +GLOBAL DEFAULT +OS \[0xff20\] (.*)$",
        readelf("--symbols", document),
        re.MULTILINE,
    )
    assert sorted(found) == sorted(
        f".klp.sym.{owner}.{name},0"
        for owner, names in _SYMBOLS.items()
        for name in names.split()
        if name not in _EXPORTED.split()
    )


def test_modinfo(document: Path) -> None:
    text = readelf("--string-dump=.modinfo", document)
    assert re.findall(r"\] +(.*)$", text, re.MULTILINE) == [
        "livepatch=Y",
        "license=GPL",
        "depends=",
    ]
