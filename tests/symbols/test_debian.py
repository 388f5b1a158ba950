"""A Debian kernel's symbols: all sources agree with each other, with nm and with the kernel."""

from __future__ import annotations

import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from elftools.elf.elffile import ELFFile

from klpbuild.kernel.tree import Kernel
from klpbuild.names import VMLINUX, object_name
from klpbuild.symbols.database import SymbolDatabase
from klpbuild.symbols.entries import EntryPoints
from klpbuild.symbols.sources import read_kallsyms, read_system_map
from klpbuild.symbols.symvers import Exports
from klpbuild.symbols.table import Flag, ObjectSymbols
from klpbuild.symbols.write import SymbolSources, write_symbols
from klpbuild.vm.guest import Guest
from klpbuild.vm.scenario import FetchFile, Group, Modprobe, WriteFile
from tests.symbols.reading import read_modules, read_vmlinux

#: Modules that Debian's cloud kernels have, with others that they need.
LOADED = ("btrfs", "nfs", "xfs")


def debug_modules(kernel: Kernel) -> list[Path]:
    """The debug package's modules, which keep their STT_FILE symbols."""
    assert kernel.vmlinux is not None
    directory = kernel.vmlinux.parent.parent / "lib" / "modules" / kernel.release
    return sorted(directory.rglob("*.ko"))


@pytest.mark.kernel
def test_vmlinux_and_system_map_agree(debian_debug_kernel: Kernel) -> None:
    kernel = debian_debug_kernel
    assert kernel.vmlinux is not None and kernel.system_map is not None
    elf = read_vmlinux(kernel.vmlinux, kernel.version)
    listed = read_system_map(kernel.system_map, kernel.version)
    assert len(elf) > 80_000
    assert listed.names == elf.names
    assert listed.rows["address"].tolist() == elf.rows["address"].tolist()
    assert listed.rows["kind"].tolist() == elf.rows["kind"].tolist()


@pytest.mark.kernel
def test_shipped_and_debug_modules_agree(debian_debug_kernel: Kernel) -> None:
    """strip --strip-debug keeps the order of what it keeps."""
    debug = {s.object: s for s in read_modules(debug_modules(debian_debug_kernel))}
    shipped = list(read_modules(debian_debug_kernel.modules))
    assert len(shipped) == len(debug) > 1000
    for symbols in shipped:
        assert symbols.names == debug[symbols.object].names
        assert symbols.rows["flags"].tolist() == debug[symbols.object].rows["flags"].tolist()
    assert not any(s.rows["file"].any() for s in shipped)
    assert sum(bool(s.rows["file"].any()) for s in debug.values()) > 1000


def listed_by_nm(paths: list[Path]) -> Iterator[list[tuple[str, str]]]:
    """Letter and name of each defined symbol, in symbol-table order, for each file."""
    command = ["nm", "--no-sort", "--defined-only", *map(str, paths)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    for block in output.split("\n\n"):
        yield [(line[17], line[19:]) for line in block.strip().splitlines()[1:]]


@pytest.mark.kernel
def test_every_module_is_as_nm_lists_it(debian_debug_kernel: Kernel) -> None:
    paths = debug_modules(debian_debug_kernel)
    for symbols, expected in zip(read_modules(paths), listed_by_nm(paths), strict=True):
        kinds = [kind.decode() for kind in symbols.rows["kind"].tolist()]
        assert list(zip(kinds, symbols.name_list, strict=True)) == expected, symbols.object


@pytest.mark.kernel
def test_every_object_is_as_pyelftools_reads_it(debian_debug_kernel: Kernel) -> None:
    kernel = debian_debug_kernel
    assert kernel.vmlinux is not None
    for path, symbols in zip(kernel.modules, read_modules(kernel.modules), strict=True):
        expected = list(read_by_pyelftools(path))
        assert places(symbols) == [place for place, _ in expected], path
        assert symbols.name_list == [name for _, name in expected], path
    vmlinux = read_vmlinux(kernel.vmlinux, kernel.version)
    found = Counter(zip(vmlinux.rows["address"].tolist(), vmlinux.name_list, strict=True))
    theirs = Counter((place[0], name) for place, name in read_by_pyelftools(kernel.vmlinux))
    assert found <= theirs


def places(symbols: ObjectSymbols) -> list[tuple[int, int]]:
    columns = symbols.rows["address"].tolist(), symbols.rows["section"].tolist()
    return list(zip(*columns, strict=True))


SPECIAL = {"SHN_ABS": 0xFFF1, "SHN_UNDEF": 0}


def read_by_pyelftools(path: Path) -> Iterator[tuple[tuple[int, int], str]]:
    with path.open("rb") as file:
        for symbol in ELFFile(file).get_section_by_name(".symtab").iter_symbols():
            section = {"SHN_ABS": 0xFFF1, "SHN_UNDEF": 0}.get(
                symbol["st_shndx"], symbol["st_shndx"]
            )
            if section and symbol.name and symbol["st_info"]["type"] != "STT_FILE":
                yield (symbol["st_value"], section), symbol.name


@pytest.mark.kernel
def test_exports_are_defined_by_their_owners(debian_debug_kernel: Kernel, tmp_path: Path) -> None:
    kernel = debian_debug_kernel
    exports = Exports.read(kernel.module_symvers)
    path = tmp_path / "symbols.klp"
    sources = SymbolSources(kernel.version, kernel.modules, kernel.vmlinux)
    written = write_symbols(path, sources, tmp_path / "cache")
    assert written.objects == written.scanned == 1 + len(kernel.modules)
    database = SymbolDatabase.read(path)
    for module in kernel.modules:
        for export in exports.of(object_name(module.name)):
            assert [
                c.kind.isupper() for c in database.in_object(export.owner, export.symbol)
            ].count(True) == 1
    missing = [e for e in exports.of(VMLINUX) if not database.in_object(VMLINUX, e.symbol)]
    assert len(exports.of(VMLINUX)) > 5000
    # Absolute ones, as kexec's and the physical base's, are not in kallsyms.
    assert len(missing) < 5, missing


# The kernel's own word


@pytest.fixture(scope="module")
def told(debian_debug_kernel: Kernel, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What the running kernel says, with some modules loaded."""
    paths = {
        "kallsyms": "/proc/kallsyms",
        "filter": "/sys/kernel/tracing/available_filter_functions",
    }
    steps = [WriteFile("/proc/sys/kernel/kptr_restrict", "0"), *map(Modprobe, LOADED)]
    fetched = [FetchFile(path) for path in paths.values()]
    group = Group("symbols", (*steps, *fetched))
    (result,) = Guest(debian_debug_kernel).boot([group]).groups
    assert result.passed, result.problem
    directory = tmp_path_factory.mktemp("told")
    for name, step in zip(paths, result.steps[len(steps) :], strict=True):
        (directory / name).write_bytes(step.file)
    return {name: directory / name for name in paths}


def modules_in(kallsyms: Path) -> dict[str, list[tuple[str, str]]]:
    """Letter and name of each module's symbols, in the kernel's order."""
    found: dict[str, list[tuple[str, str]]] = {}
    for line in kallsyms.read_text().splitlines():
        fields, _, module = line.partition("\t")
        if module:
            found.setdefault(module.strip("[]"), []).append((fields[17], fields[19:]))
    return found


@pytest.mark.boot
@pytest.mark.kernel
def test_vmlinux_is_as_the_kernel_lists_it(
    debian_debug_kernel: Kernel, told: dict[str, Path]
) -> None:
    kernel = debian_debug_kernel
    assert kernel.vmlinux is not None
    running = read_kallsyms(told["kallsyms"])
    elf = read_vmlinux(kernel.vmlinux, kernel.version)
    assert running.names == elf.names
    assert running.rows["flags"].tolist() == elf.rows["flags"].tolist()
    assert np.array_equal(running.rows["address"], elf.rows["address"])


@pytest.mark.boot
@pytest.mark.kernel
def test_running_modules_are_as_the_kernel_lists_them(
    debian_debug_kernel: Kernel, told: dict[str, Path]
) -> None:
    running = modules_in(told["kallsyms"])
    assert set(LOADED) <= running.keys()
    paths = [p for p in debian_debug_kernel.modules if object_name(p.name) in running]
    for symbols in read_modules(paths):
        live = (symbols.rows["flags"] & int(Flag.LIVE)).astype(bool).tolist()
        expected = [name for _, name in running[symbols.object]]
        assert [n for n, kept in zip(symbols.name_list, live, strict=True) if kept] == expected
        assert len(expected) < len(symbols)


@pytest.mark.boot
@pytest.mark.kernel
def test_entries_are_as_the_kernel_lists_them(
    debian_debug_kernel: Kernel, told: dict[str, Path], tmp_path: Path
) -> None:
    kernel = debian_debug_kernel
    path = tmp_path / "symbols.klp"
    write_symbols(
        path, SymbolSources(kernel.version, kernel.modules, kernel.vmlinux), tmp_path / "cache"
    )
    database = SymbolDatabase.read(path)
    by_list = EntryPoints(database, filter_functions=told["filter"], modules=kernel.modules)
    by_table = EntryPoints(database, vmlinux=kernel.vmlinux, modules=kernel.modules)

    entries = Counter[bool]()
    for symbol, position in functions(database.symbols(VMLINUX)):
        answer = by_list.has(VMLINUX, symbol, position)
        assert answer is by_table.has(VMLINUX, symbol, position), (symbol, position)
        assert answer is not None
        entries[answer] += 1
    assert entries[True] > 30_000

    lines = [line.split() for line in told["filter"].read_text().splitlines()]
    listed = Counter((fields[1].strip("[]"), fields[0]) for fields in lines if len(fields) == 2)
    for module in LOADED:
        symbols = database.symbols(module)
        names = {
            (candidate.section, candidate.address): symbol
            for symbol, position in functions(symbols)
            for candidate in [database.in_object(module, symbol)[position - 1]]
            if by_table.has(module, symbol, position)
        }
        found = Counter((module, name) for name in names.values())
        assert found == Counter({k: n for k, n in listed.items() if k[0] == module})


def functions(symbols: ObjectSymbols) -> Iterator[tuple[str, int]]:
    """Each function's name and its 1-based place among the symbols of the name."""
    seen = Counter[str]()
    for name, kind in zip(symbols.name_list, symbols.rows["kind"].tolist(), strict=True):
        seen[name] += 1
        if kind in b"tTwW":
            yield name, seen[name]
