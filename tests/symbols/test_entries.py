"""Which functions ftrace can enter."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from klpbuild.errors import KlpError
from klpbuild.symbols.database import SymbolDatabase
from klpbuild.symbols.entries import EntryPoints
from klpbuild.symbols.write import SymbolSources, write_symbols
from tests.symbols.inputs import V6_1, compile_object, link_module, link_vmlinux

FTRACE = ("-pg", "-mfentry", "-mrecord-mcount")
ENDBR = (*FTRACE, "-fcf-protection=branch")

TRACED = """
#define notrace __attribute__((no_instrument_function))
#define init __attribute__((section(".init.text")))
static __attribute__((noinline)) int show(int value) { return value + 1; }
int first_show(int value) { return show(value); }
notrace int untraced(int value) { return value; }
int traced(int value) { return value + 2; }
init int early(void) { return 0; }
int data = 3;
asm(".globl alias\\n.set alias, traced");
void __fentry__(void);
"""
#: Its show() has no entry.
UNTRACED = """
static __attribute__((noinline, no_instrument_function)) int show(int value) { return value + 4; }
int second_show(int value) { return show(value); }
int last(int value) { return value + 5; }
"""
FENTRY = 'asm(".globl __fentry__\\n__fentry__: ret");'


class Kernel:
    """A vmlinux and a module made of the same two files."""

    def __init__(self, directory: Path, *flags: str) -> None:
        traced = compile_object(directory, "first.c", TRACED, *flags)
        untraced = compile_object(directory, "second.c", UNTRACED, *flags)
        fentry = compile_object(directory, "fentry.c", FENTRY)
        self.vmlinux = link_vmlinux(directory, traced, untraced, fentry)
        self.module = link_module(directory, "snd-driver.ko", traced, untraced)
        path = directory / "symbols.klp"
        sources = SymbolSources(V6_1, (self.module,), self.vmlinux)
        write_symbols(path, sources, directory / "cache")
        self.database = SymbolDatabase.read(path)
        self.directory = directory

    def listed(self, *names: str) -> Path:
        path = self.directory / "available_filter_functions"
        path.write_text("".join(f"{name}\n" for name in names))
        return path


@pytest.fixture(scope="module", params=[FTRACE, ENDBR], ids=["fentry", "endbr64"])
def kernel(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Kernel:
    return Kernel(tmp_path_factory.mktemp("kernel"), *request.param)


def check(entries: EntryPoints, owner: str) -> None:
    for name in ("first_show", "second_show", "traced", "alias", "last"):
        assert entries.has(owner, name, 0) is True
    for name in ("untraced", "data", "early"):
        assert entries.has(owner, name, 0) is False
    assert entries.has(owner, "show", 1) is True
    assert entries.has(owner, "show", 2) is False
    assert entries.why_unknown(owner, "show", 2) == ""


def test_from_vmlinux(kernel: Kernel) -> None:
    check(EntryPoints(kernel.database, vmlinux=kernel.vmlinux), "vmlinux")


def test_from_a_module(kernel: Kernel) -> None:
    check(EntryPoints(kernel.database, modules=[kernel.module]), "snd_driver")


def test_from_available_filter_functions(kernel: Kernel) -> None:
    """By address: what stands between its neighbours settles which show() is meant."""
    listed = kernel.listed(
        "show", "first_show", "alias", "second_show", "last", "show [snd_driver]"
    )
    check(EntryPoints(kernel.database, filter_functions=listed), "vmlinux")
    listed = kernel.listed("first_show", "alias", "show", "second_show", "last")
    entries = EntryPoints(kernel.database, filter_functions=listed)
    assert entries.has("vmlinux", "show", 1) is False
    assert entries.has("vmlinux", "show", 2) is True


def test_a_list_that_does_not_settle_a_name(kernel: Kernel) -> None:
    entries = EntryPoints(kernel.database, filter_functions=kernel.listed("show"))
    for position in (1, 2):
        assert entries.has("vmlinux", "show", position) is None
        assert entries.why_unknown("vmlinux", "show", position) == (
            "available_filter_functions has the name fewer times than vmlinux"
        )
    assert entries.has("vmlinux", "first_show", 0) is False
    entries = EntryPoints(kernel.database, filter_functions=kernel.listed("show", "show"))
    assert entries.has("vmlinux", "show", 1) is entries.has("vmlinux", "show", 2) is True


def test_a_list_in_another_order_settles_less(kernel: Kernel) -> None:
    listed = kernel.listed("last", "show", "second_show", "alias", "first_show")
    entries = EntryPoints(kernel.database, filter_functions=listed)
    assert entries.has("vmlinux", "last", 0) is True
    assert entries.has("vmlinux", "show", 1) is None


def test_overridden_weak_functions_are_nobodys(kernel: Kernel) -> None:
    """Their entries have lost their names, and follow a function without entry."""
    listed = kernel.listed("__ftrace_invalid_address___4660", "alias")
    assert EntryPoints(kernel.database, filter_functions=listed).has("vmlinux", "alias", 0) is True


def test_an_entry_far_behind_a_start_is_not_the_functions(tmp_path: Path) -> None:
    """As an overridden weak function leaves one behind, without its name."""
    nameless = """
    asm("quiet: ret\\n .skip 15, 0x90\\n.Lweak: call __fentry__\\n ret");
    asm(".section __mcount_loc, \\"a\\"\\n .quad .Lweak\\n .text");
    """
    objects = [
        compile_object(tmp_path, "weak.c", nameless),
        compile_object(tmp_path, "fentry.c", FENTRY),
    ]
    vmlinux = link_vmlinux(tmp_path, *objects)
    path = tmp_path / "symbols.klp"
    write_symbols(path, SymbolSources(V6_1, (), vmlinux), tmp_path / "cache")
    entries = EntryPoints(SymbolDatabase.read(path), vmlinux=vmlinux)
    assert entries.has("vmlinux", "quiet", 0) is False


def test_a_kernel_that_was_moved(kernel: Kernel, tmp_path: Path) -> None:
    """Addresses from /proc/kallsyms, the table from vmlinux."""
    symbols = kernel.database.symbols("vmlinux")
    columns = symbols.rows["address"].tolist(), symbols.rows["kind"], symbols.name_list
    copy = tmp_path / "kallsyms"
    copy.write_text(
        "".join(
            f"{address + 0x5600000 if address >> 63 else address:016x} {kind.decode()} {name}\n"
            for address, kind, name in zip(*columns, strict=True)
        )
    )
    path = tmp_path / "symbols.klp"
    write_symbols(path, SymbolSources(V6_1, kallsyms=copy), tmp_path / "cache")
    check(EntryPoints(SymbolDatabase.read(path), vmlinux=kernel.vmlinux), "vmlinux")


def unknown(entries: EntryPoints, owner: str, symbol: str, position: int = 0) -> str:
    assert entries.has(owner, symbol, position) is None
    return entries.why_unknown(owner, symbol, position)


def test_what_cannot_be_told(kernel: Kernel, tmp_path: Path) -> None:
    nothing = EntryPoints(kernel.database)
    assert unknown(nothing, "vmlinux", "traced") == (
        "neither vmlinux nor a copy of available_filter_functions is at hand"
    )
    assert unknown(nothing, "snd_driver", "traced") == (
        "the file of module snd_driver is not at hand"
    )
    assert unknown(nothing, "vmlinux", "absent") == "vmlinux:absent is not in symbols.klp"
    assert unknown(nothing, "vmlinux", "show") == "vmlinux has 2 symbols show"
    assert unknown(nothing, "vmlinux", "show", 3) == "vmlinux:show is not in symbols.klp"
    path = tmp_path / "symbols.klp"
    path.write_text("klp-convert-symbol-data.0.1\n*vmlinux\ntraced\n")
    entries = EntryPoints(SymbolDatabase.read(path), vmlinux=kernel.vmlinux)
    assert unknown(entries, "vmlinux", "traced") == (
        "symbols.klp has no addresses: make it from vmlinux and the modules"
    )


def test_a_kernel_without_ftrace(tmp_path: Path) -> None:
    source = "int f(void) { return 0; }"
    vmlinux = tmp_path / "vmlinux"
    unlinked = compile_object(tmp_path, "f.c", source)
    command = ["ld", "-e", "0", "-Ttext", "0xffffffff81000000", "-o", vmlinux, unlinked]
    subprocess.run([str(word) for word in command], check=True)
    path = tmp_path / "symbols.klp"
    write_symbols(path, SymbolSources(V6_1, (), vmlinux), tmp_path / "cache")
    entries = EntryPoints(SymbolDatabase.read(path), vmlinux=vmlinux)
    assert unknown(entries, "vmlinux", "f") == "vmlinux has no table of ftrace entries"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", ": lists no function of vmlinux"),
        ("f [ext4]\n", ": lists no function of vmlinux"),
        (
            "traced\nother_kernels\n",
            ":2: lists 'other_kernels', which vmlinux does not have\n"
            "  Copy available_filter_functions of this kernel.",
        ),
    ],
)
def test_lists_that_are_refused(kernel: Kernel, tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "available_filter_functions"
    path.write_text(text.replace("traced", "alias"))
    with pytest.raises(KlpError) as refusal:
        EntryPoints(kernel.database, filter_functions=path).has("vmlinux", "traced", 0)
    assert str(refusal.value) == f"{path}{message}"


def test_a_list_that_is_not_there(kernel: Kernel, tmp_path: Path) -> None:
    path = tmp_path / "absent"
    with pytest.raises(KlpError, match="absent: cannot be read: No such file"):
        EntryPoints(kernel.database, filter_functions=path).has("vmlinux", "traced", 0)
