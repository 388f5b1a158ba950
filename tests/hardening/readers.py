"""Every reader of klpbuild, with whole inputs to damage and what is done with a damaged one."""

from __future__ import annotations

import lzma
import re
import subprocess
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from klpbuild.check import formats
from klpbuild.check.explain import Explainer
from klpbuild.check.kernelside import KernelSide
from klpbuild.check.module import check_bytes
from klpbuild.check.subject import Subject
from klpbuild.check.transcript import lines
from klpbuild.convert.converter import convert
from klpbuild.elf.btf import Btf
from klpbuild.elf.dwarf import Dwarf
from klpbuild.elf.dwarftypes import DwarfTypes
from klpbuild.elf.notes import build_id
from klpbuild.elf.reader import ElfFile
from klpbuild.errors import broken
from klpbuild.excerpt.btf import head
from klpbuild.extract.sizes import EntrySizes
from klpbuild.files.records import from_json
from klpbuild.graph.tables import read_livepatch as read_tables
from klpbuild.kernel.config import Config
from klpbuild.module.config import read_livepatch
from klpbuild.module.tables import LivepatchApi, generate_tables
from klpbuild.patch.layout import enumerators, layouts
from klpbuild.patch.linetable import line_units
from klpbuild.proof.shipped import ShippedBinary
from klpbuild.report.comparison import read_statement
from klpbuild.report.contents import read_contents
from klpbuild.report.file import read_file
from klpbuild.report.references import read_patch_header
from klpbuild.resolve.fate import Resolver
from klpbuild.running.status import parse_status
from klpbuild.symbols.database import SymbolDatabase, parse
from klpbuild.symbols.entries import EntryPoints
from klpbuild.symbols.exported import ExportedNames
from klpbuild.symbols.index import Index, build
from klpbuild.symbols.sources import read_kallsyms, read_system_map
from klpbuild.symbols.symvers import Exports
from klpbuild.vm.log import by_step, faults
from klpbuild.vm.log import parse as parse_console
from klpbuild.vm.modules import ModuleInfo
from tests.check.kernels import make_kernel, make_livepatch
from tests.elf.inputs import FLAGS, compile_object
from tests.elf.test_damage import use as rewrite
from tests.hardening import mutate, patches
from tests.hardening.mutate import Mutator
from tests.symbols.reading import read_modules, read_vmlinux

V6_1 = (6, 1, 170)
#: Source with what debug information has names for.
TYPED = """
struct list { struct list *next, *prev; }; typedef struct { int a : 3; unsigned b : 5; } bits;
union both { long number; char text[8]; }; enum colour { RED, GREEN = 7, BLUE = -1 };
typedef const volatile struct outer { struct list head; bits flags[4]; union both u; enum colour c;
    int (*call)(struct outer *, const char *); struct { int in; }; } outer_t;
static inline int twice(int value) { return 2 * value; }
int entry(outer_t *o, int value) { return o->in + twice(value) + o->flags[1].a; }
"""
#: A module before the conversion: with annotations, and with names that are looked up.
CONVERTED = """
extern int said(void *) asm("\\".klp.sym.rela.vmlinux.vmlinux.si_swapinfo,0\\"");
extern int si_meminfo(void *), meminfo_proc_show(void *);
extern long module_data asm("\\".klp.sym.rela.button.button.lid_init_state,0\\"");
int livepatch_show(void *m) { return said(m) + si_meminfo(m) + meminfo_proc_show(m) + module_data; }
"""
#: What `EntrySizes` asks of a kernel's headers.
SIZES = "".join(
    f"const unsigned int klpbuild_size_{name} = {size};"
    for name, size in (("pointer", 8), ("alt_instr", 14), ("bug_entry", 12), ("jump_entry", 16))
)


@dataclass(frozen=True)
class Reader:
    """A reader.

    :ivar name: names it in figures.
    :ivar whole: inputs that it accepts.
    :ivar use: reads an input, and everything in it; a `KlpError` is a good answer.
    :ivar mutate: how its inputs are damaged.
    :ivar share: how many inputs of each thousand it gets, about.
    :ivar damage: what else it may raise: of klpbuild's own files the caller makes another.
    """

    name: str
    whole: Sequence[bytes]
    use: Callable[[bytes], object]
    mutate: Mutator
    share: int = 20
    damage: tuple[type[Exception], ...] = ()


class Readers:
    """All of them, with their inputs made in a directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.side = make_kernel(directory / "kernel")
        assert self.side.kernel.vmlinux
        names = ("meminfo", "button", "tables")
        self.modules = [make_livepatch(directory / "livepatches", name) for name in names]
        self.vmlinux = self.side.kernel.vmlinux
        self.symbols = self.vmlinux.with_name("symbols.klp")

    def all(self) -> Iterator[Reader]:
        """Each reader once."""
        yield from self._of_elf()
        yield from self._of_debug_information()
        yield from self._of_symbols()
        yield from self._of_text()

    def _file(self, name: str, use: Callable[[Path], object]) -> Callable[[bytes], object]:
        """For what reads a file: one that is written before."""
        path = self.directory / name
        path.parent.mkdir(parents=True, exist_ok=True)

        def write_and_use(data: bytes) -> object:
            path.write_bytes(data)
            return use(path)

        return write_and_use

    def _of_elf(self) -> Iterator[Reader]:
        objects = [compile_object(self.directory, kind).read_bytes() for kind in FLAGS]
        kernels = [path.read_bytes() for path in self.side.kernel.modules]
        linked = [self.vmlinux.read_bytes()]
        yield Reader("elf: objects", objects, rewrite, mutate.of_elf, 60)
        alone = partial(_check, side=None)
        yield Reader("check: alone", self.modules, alone, mutate.of_elf, 20)
        side = partial(_check, side=self.side)
        yield Reader("check: with kernel", self.modules, side, mutate.of_elf, 15)
        yield Reader("explain", self.modules, partial(_explain, side=self.side), mutate.of_elf, 10)
        yield Reader("info", self.modules, lambda d: read_contents(d, "x.ko"), mutate.of_elf)
        packed = [lzma.compress(self.modules[0]), self.modules[0]]
        file = self._file("x.ko.xz", read_file)
        yield Reader("info: compressed", packed, file, mutate.of_bytes)
        yield Reader("graph", self.modules, _graph, mutate.of_elf)
        linked_source = [_compiled(self.directory, CONVERTED)]
        yield Reader("convert", linked_source, partial(_convert, side=self.side), mutate.of_elf)
        symbols = self._file("module.ko", lambda path: _drain(read_modules([path])))
        yield Reader("symbols: modules", kernels, symbols, mutate.of_elf)
        own = self._file("linked", lambda path: read_vmlinux(path, V6_1))
        yield Reader("symbols: vmlinux", linked, own, mutate.of_elf)
        places = self._file("kernel-module.ko", self._entries_of_module)
        yield Reader("entries: modules", kernels, places, mutate.of_elf)
        places = self._file("entries-vmlinux", lambda path: self._entries(vmlinux=path))
        yield Reader("entries: vmlinux", linked, places, mutate.of_elf)
        shipped = self._file("shipped", _shipped)
        yield Reader("proof: shipped", [*kernels, *linked], shipped, mutate.of_elf)
        guest = lambda data: ModuleInfo.read(data, Path("x.ko"))  # noqa: E731
        yield Reader("guest: modules", kernels, guest, mutate.of_elf)
        ids = lambda data: build_id(ElfFile(data, "x"))  # noqa: E731
        yield Reader("build id", linked, ids, mutate.of_elf, 10)
        probe = lambda data: EntrySizes.from_probe(ElfFile(data, "x"))  # noqa: E731
        sizes = [_compiled(self.directory, SIZES)]
        yield Reader("record: sizes", sizes, probe, mutate.of_elf, 10, (Exception,))

    def _entries_of_module(self, path: Path) -> None:
        module = path.with_name("button.ko")
        path.replace(module)
        self._entries(modules=[module])

    def _entries(self, **given: Any) -> None:
        database = SymbolDatabase.read(self.symbols)
        entries = EntryPoints(database, **given)
        for name in database.objects:
            for symbol in database.symbols(name).name_list:
                entries.has(name, symbol, 1)

    def _of_debug_information(self) -> Iterator[Reader]:
        def compiled(*flags: str) -> list[bytes]:
            return [_compiled(self.directory, TYPED, *flags)]

        debug = compiled("-g", "-gdwarf-5") + compiled("-g", "-gdwarf-4")
        lines_of = lambda data: line_units(ElfFile(data, "x.o"))  # noqa: E731
        mutator = mutate.section_of_elf(".debug_line")
        debug += compiled("-g", "-gdwarf-5", "-gz=zlib")
        yield Reader("line tables", debug[::2], lines_of, mutator, 50)
        mutator = mutate.section_of_elf(".debug_")
        yield Reader("DWARF", debug, _dwarf, mutator, 50)
        btf = compiled("-gbtf", "-fno-eliminate-unused-debug-types")
        mutator = mutate.section_of_elf(".BTF")
        yield Reader("BTF: layouts", btf, _layouts, mutator, 50)
        types = ElfFile(btf[0], "btf")
        section = types.section(".BTF")
        assert section is not None
        heads = [bytes(types.contents(section))]
        yield Reader("BTF: heads", heads, _heads, mutate.of_bytes, 40)

    def _of_symbols(self) -> Iterator[Reader]:
        text = self.symbols.read_bytes()
        klp = self._file("symbols.klp", _symbols_klp)
        yield Reader("symbols.klp", [text], klp, mutate.of_text, 60)
        objects, name_at = parse(text, "symbols.klp")
        index = build(text, objects, name_at)
        yield Reader("index", [index], partial(_index, text), _of_index, 60)
        symvers = self.side.kernel.module_symvers.read_bytes()
        file = self._file("Module.symvers", _symvers)
        yield Reader("Module.symvers", [symvers], file, mutate.of_text, 60)
        kallsyms = b"".join(
            b"%016x %c %s%s\n" % (0xFFFFFFFF81000000 + 16 * n, b"TtDdBR"[n % 6], name, module)
            for n, name in enumerate(re.findall(rb"^[\w.]+$", text, re.MULTILINE)[:40])
            for module in (b"", b"\t[button]")[: 1 + (n % 5 == 0)]
        )
        system_map = b"".join(line + b"\n" for line in kallsyms.splitlines() if b"\t" not in line)
        file = self._file("kallsyms", read_kallsyms)
        yield Reader("kallsyms", [kallsyms], file, mutate.of_text, 40)
        file = self._file("System.map", lambda path: read_system_map(path, V6_1))
        yield Reader("System.map", [system_map], file, mutate.of_text, 40)
        listing = b"si_swapinfo\nsi_meminfo\nmeminfo_proc_show\nreboot_work [button]\n"
        file = self._file("functions", lambda path: self._entries(filter_functions=path))
        yield Reader("available_filter_functions", [listing], file, mutate.of_text, 20)

    def _of_text(self) -> Iterator[Reader]:
        directory = self.directory / "livepatch-x"
        directory.mkdir()
        (directory / "x.c").write_text("int livepatch_x;\n")
        file = self._file("livepatch-x/livepatch.toml", _description)
        yield Reader("livepatch.toml", TOML, file, mutate.of_toml, 60)
        good = [text.encode() for text in patches.GOOD[:5]]
        yield Reader("patches", good, patches.use, patches.of_patch, 100)
        config = self.side.kernel.config.read_bytes()
        file = self._file(".config", _config)
        yield Reader(".config", [config], file, mutate.of_text, 20)
        file = self._file("statement.json", read_statement)
        yield Reader("provenance", [STATEMENT], file, mutate.of_json, 40)
        file = self._file("header.patch", read_patch_header)
        yield Reader("patch headers", [HEADER], file, mutate.of_text, 20)
        status = lambda data: parse_status(data.decode(errors="replace"))  # noqa: E731
        yield Reader("status", [STATUS], status, mutate.of_text, 20)
        yield Reader("console", [CONSOLE], _console, mutate.of_text, 20)
        for name, whole, use in records():
            mutator = mutate.of_text if name == "rule" else mutate.of_json
            yield Reader(f"record: {name}", whole, use, mutator, 8, (Exception,))


def _drain(items: Iterator[object]) -> None:
    for _ in items:
        pass


def _check(data: bytes, side: KernelSide | None) -> None:
    report = check_bytes(data, "livepatch.ko", side)
    formats.as_text([report], verbose=True).encode()
    formats.as_json([report]).encode()
    formats.as_sarif([report]).encode()


def _explain(data: bytes, side: KernelSide) -> None:
    explainer = Explainer(Subject(ElfFile(data, "livepatch.ko"), "livepatch.ko", side))
    for name in explainer.functions:
        list(lines(explainer.explain(name)))


def _graph(data: bytes) -> None:
    read_tables(ElfFile(data, "livepatch.ko"), "livepatch.ko")


def _convert(data: bytes, side: KernelSide) -> None:
    database = side.database
    assert database is not None
    convert(
        ElfFile(data, "x.ko"), Resolver(database, side.exports, frozenset({"vmlinux", "button"}))
    )


def _shipped(path: Path) -> None:
    shipped = ShippedBinary.read(path)
    for name in ("si_meminfo", "param_get_lid_init_state", "twice", "no_such_name"):
        for symbol in shipped.named(name):
            shipped.bytes_at(symbol.place, symbol.size)
            shipped.section_at(symbol.place)
            shipped.target(symbol.place, 2, -4)


def _dwarf(data: bytes) -> None:
    dwarf = Dwarf(ElfFile(data, "x.o"))
    wanted = {tag: frozenset({0x03, 0x49, 0x58, 0x59, 0x10}) for tag in (0x11, 0x1D, 0x2E, 0x34)}
    for address in (0, 8):
        for section in range(3):
            unit = dwarf.unit_at(address, section)
            if unit is not None:
                unit.file_names()
                list(unit.entries(wanted))
                with broken("has broken types", "x.o"):
                    types = DwarfTypes(unit)
                    for declared in types.declared(bool):
                        types.described(declared.name, declared.number)


def _layouts(data: bytes) -> None:
    elf = ElfFile(data, "x.o")
    layouts(elf)
    enumerators(elf)


def _heads(data: bytes) -> None:
    information = Btf(data, where="x")
    for name in ("entry", "twice", "nowhere"):
        head(information, name, "livepatch_x")


def _symbols_klp(path: Path) -> None:
    database = SymbolDatabase.read(path)
    for name in database.objects[:3]:
        for symbol in database.symbols(name).name_list[:3]:
            database.in_object(name, symbol)
    database.candidates("si_meminfo")


def _index(text: bytes, data: bytes) -> None:
    with suppress(ValueError):  # then it is made again
        database = SymbolDatabase(Index(data, text))
        for name in ("si_meminfo", "si_swapinfo", "nowhere"):
            database.candidates(name)
        for name in database.objects:
            database.symbols(name)
            database.in_object(name, "si_meminfo")


def _of_index(random: Random, whole: Sequence[bytes]) -> bytes:
    """Mostly with the checksum of what was changed."""
    data = mutate.of_bytes(random, whole)
    start = data.find(b"\n") + 1
    if random.randrange(4):
        checksum = zlib.crc32(data[start + 4 :]).to_bytes(4, "little")
        return data[:start] + checksum + data[start + 4 :]
    return data


def _symvers(path: Path) -> None:
    names = ExportedNames.read(path)
    assert len(names.owners) == len(names.names)
    exports = Exports.read(path)
    exports.find("si_meminfo")
    exports.of("vmlinux")


def _description(path: Path) -> None:
    """What is said in it gets into C code as text, and into nothing else of it."""
    livepatch = read_livepatch(path.parent)
    code = generate_tables(livepatch, LivepatchApi(True, True, True, "forget.c.j2", True))
    assert all(char.isprintable() or char in "\n\t" for char in code) and code.isascii()
    outside = re.sub(r'"(\\.|[^"\\])*"', "", code)
    assert '"' not in outside and outside.count("{") == outside.count("}")


def _config(path: Path) -> None:
    config = Config.read(path)
    config.value("CC_VERSION_TEXT")
    config.check_livepatch()
    config.architecture()


def _console(data: bytes) -> None:
    parsed = parse_console(data)
    by_step(parsed)
    faults(parsed)


def _compiled(directory: Path, source: str, *flags: str) -> bytes:
    path = directory / "compiled.o"
    command = [
        "gcc",
        *flags,
        "-O2",
        "-fno-pic",
        "-mcmodel=kernel",
        "-x",
        "c",
        "-c",
        "-o",
        str(path),
        "-",
    ]
    subprocess.run(command, input=source.encode(), check=True, capture_output=True)
    return path.read_bytes()


def records() -> Iterator[tuple[str, Sequence[bytes], Callable[[bytes], object]]]:
    """What klpbuild writes for itself; damage means that it is made again."""
    from klpbuild.compiler.driver import read_dependencies
    from klpbuild.distro.parts import Part
    from klpbuild.files.records import to_json
    from klpbuild.kernel.cache import FetchedPackage
    from klpbuild.patch.commands import CompileCommand
    from klpbuild.patch.includes import _parse as parse_includes
    from klpbuild.report.facts import Fate
    from klpbuild.report.inputs import Input, InputKind
    from klpbuild.report.timings import _parse as parse_timings
    from klpbuild.request.matrix import Outcome, Result

    def record(kind: Any, whole: object) -> tuple[list[bytes], Callable[[bytes], object]]:
        return [to_json(whole)], partial(from_json, kind)

    yield (
        "packages",
        *record(
            tuple[FetchedPackage, ...], (FetchedPackage(Part.IMAGE, "linux-image", "6.1", "ab"),)
        ),
    )
    yield (
        "result",
        *record(Result, Result("fixtures", "meminfo", Outcome.LOADS, "", (("error", 0),), True)),
    )
    yield "inputs", *record(tuple[Input, ...], (Input(InputKind.SOURCE, "x.c", "ab"),))
    yield "fates", *record(tuple[Fate, ...], (Fate("x", "livepatch", "", "v", "v", 0, 1),))
    yield "command", *record(CompileCommand, CompileCommand("a.o", "a.c", ("gcc",), ()))
    yield "includes", [b'{"a.c": ["b.h", "c.h"], "b.h": []}'], parse_includes
    timings = b'{"step": "CC", "output": "x.o", "seconds": 0.5}\n'
    yield "timings", [timings * 3], parse_timings
    rule = b"x.o: \\\n  a\\ b.c \\\n  c$$d.h\n"
    yield "rule", [rule], lambda data: read_dependencies(data.decode(), Path())


TOML = [
    b"""description = "show saved_command_line"
license = "GPL"
references = ["CVE-2024-1234"]
replace = true
kernels = ["fixtures", "6.1.*"]
sources = ["x.c"]
accept_layouts = ["struct x"]
version = "1.2"

[[object]]
name = "vmlinux"
functions = [{ old = "cmdline_proc_show", new = "livepatch_show", sympos = 1 }]
callbacks = { post_patch = "livepatch_announce" }

[[object]]
name = "button"
functions = [{ old = "f.isra.0", new = "g" }]
""",
    b'[[object]]\nname = "ext4"\nfunctions = [\n  { old = "a", new = "b" },\n]\n',
]
STATEMENT = b"""{"_type": "https://in-toto.io/Statement/v1", "predicateType":
"urn:x-klpbuild:provenance:1", "subject": [{"name": "x.ko", "digest": {"sha256": "ab"}}],
"predicate": {"klpbuild": "0.1.0", "inputs": {"sha256": "cd", "files": [{"kind": "source",
"name": "x.c", "sha256": "ef"}]}}}
"""
HEADER = b"""From 0123456789abcdef Mon Sep 17 00:00:00 2001
From: Some One <some@one>
Date: Mon, 1 Jan 2024 00:00:00 +0000
Subject: [PATCH 1/2] fs: show
 more, CVE-2024-1234

commit 0123456789abcdef0123456789abcdef01234567 upstream.

Fixes: 0123456789ab ("fs: show")
Signed-off-by: Some One <some@one>
---
 fs/proc/meminfo.c | 2 +-

diff --git a/fs/proc/meminfo.c b/fs/proc/meminfo.c
"""
STATUS = b"""livepatch_meminfo: enabled
  vmlinux: meminfo_proc_show,1
  ext4 (not loaded): a,1 b,2
livepatch_other: being disabled
  task 17 (kworker/0:1)
    schedule+0x10/0x20
"""
CONSOLE = b"""\x1b[2J[    0.000000] Linux version 6.1.0\r
[    1.000000] klpbuild: step 1 begins\r
[    1.200000] livepatch: enabling patch 'livepatch_meminfo'\r
[    1.300000] BUG: kernel NULL pointer dereference, address: 0000000000000000\r
[    1.300001] Call Trace:\r
[    1.300002]  <TASK>\r
[    1.300003]  meminfo_proc_show+0x10/0x20\r
[    1.300004]  </TASK>\r
"""
